"""Health, figures, and the model: what it is, and another in its place."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from heedful.serving import telemetry
from heedful.serving.answers import Answer
from heedful.serving.models import Serving
from heedful.serving.replies import Health, Model
from heedful.serving.requests import CurrentServing, JsonRoute, takes
from heedful.serving.wire import NewModel

__all__ = ["admin", "health", "router"]

router = APIRouter(route_class=JsonRoute)
admin = APIRouter(route_class=JsonRoute)
health = APIRouter(route_class=JsonRoute)


@health.get("/health/live", response_model=Health)
async def live() -> Answer:
    """The process answers."""
    return Answer({"status": "alive"})


@health.get("/health/ready", response_model=Health)
@takes("health")
def ready(serving: CurrentServing) -> Answer:
    """The model is in memory, and the database answers and can be written; 503 otherwise."""
    serving.engine.store.ping()
    return Answer({"status": "ready"})


@router.get(
    "/metrics", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}, response_class=Response
)
@takes("memory")
def metrics() -> Response:
    """Figures of all workers for Prometheus."""
    return Response(telemetry.metrics(), media_type=CONTENT_TYPE_LATEST)


@router.get("/model", response_model=Model)
def model(serving: CurrentServing) -> Answer:
    """What is served: the model, its training, what the store holds, and what could not be used of late."""
    return Answer(_model(serving))


@admin.post("/model", response_model=Model)
@takes("work")
def swap(body: NewModel, serving: CurrentServing) -> Answer:
    """Serve another model; requests under way end with the old one. What cannot be used is refused, and the old one stays.

    The other workers follow within a few seconds.
    """
    serving.swap(body.path, body.embeddings)
    return Answer(_model(serving))


def _model(serving: Serving) -> dict[str, Any]:
    loaded = serving.loaded
    ranker = loaded.ranker
    return {
        "name": ranker.name,
        "version": loaded.version,
        "items": len(ranker.items),
        "kinds": list(ranker.kinds),
        "columns": list(loaded.eligibility.columns),
        "explains": ranker.embeddings is not None,
        "trained": loaded.trained,
        "last_time": ranker.last_time,
        "training": {name: value for name, value in ranker.trained_on.items() if name != "content_hash"},
        "problems": dict(serving.problems),
        "store": serving.engine.store.stats(max_age=60),
    }
