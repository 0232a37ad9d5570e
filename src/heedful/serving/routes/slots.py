"""Content slots: their declarations, and what they show to a visitor."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from heedful.serving.answers import Answer, RefusedError
from heedful.serving.engine import Engine, Past
from heedful.serving.engine import Filled as FilledSlot
from heedful.serving.replies import Filled, SlotList, SlotsSaved
from heedful.serving.requests import CurrentEngine, CurrentServing, JsonRoute, past_of
from heedful.serving.slots import Slot, Slots
from heedful.serving.wire import Name, Visit

__all__ = ["admin", "router"]

router = APIRouter(route_class=JsonRoute)
admin = APIRouter(route_class=JsonRoute)
_TOML = "application/toml"
_EXAMPLE = '[[slot]]\nname = "produce"\nwhere = "department = \'PRODUCE\'"\ntreatments = { model = 0.5, popularity = 0.5 }\n'


@router.get("/slots", response_model=SlotList)
def list_slots(engine: CurrentEngine) -> Answer:
    """The slots that are declared."""
    return Answer({"slots": [_declared(slot) for slot in _slots(engine)]})


@router.get("/slots.toml", responses={200: {"content": {_TOML: {"schema": {"type": "string"}}}}}, response_class=Response)
def slots_file(serving: CurrentServing) -> Response:
    """The declarations as they were written."""
    return Response(serving.slots_text, media_type=_TOML)


@admin.put(
    "/slots",
    response_model=SlotsSaved,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {_TOML: {"schema": {"type": "string"}, "examples": {"one slot": {"value": _EXAMPLE}}}},
        }
    },
)
async def put_slots(request: Request, serving: CurrentServing) -> Answer:
    """Declare the slots anew: TOML as in docs/slots.md, checked against the model before it takes the place of the old."""
    try:
        text = (await request.body()).decode()
    except UnicodeDecodeError as error:
        raise RefusedError(400, "invalid_text", "the body is not text in UTF-8", fix="send the slots as TOML") from error
    notes = await run_in_threadpool(serving.put_slots, text)
    return Answer({"slots": [_declared(slot) for slot in _slots(serving.engine)], "notes": notes})


@router.get("/slots/{name}", response_model=Filled)
def fill_for_user(
    name: Name,
    engine: CurrentEngine,
    user: Annotated[Name, Query(description="Whose slot it is.")],
    preview: Annotated[bool, Query(description="Only look: nothing is recorded.", strict=False)] = False,
    treatment: Annotated[Name | None, Query(description="Look at this treatment; implies `preview`.")] = None,
) -> Answer:
    """What a slot shows to a user. Report the impression as shown once it is in view: only then does it count."""
    return _filled(engine, name, engine.past(user), None, preview=preview, treatment=treatment)


@router.post("/slots/{name}", response_model=Filled)
def fill_for_history(name: Name, body: Visit, engine: CurrentEngine, serving: CurrentServing) -> Answer:
    """What a slot shows to a visitor whose history comes with the request."""
    past = past_of(engine, serving, body)
    return _filled(engine, name, past, body.visitor, preview=body.preview, treatment=body.treatment)


def _filled(engine: Engine, name: str, past: Past, visitor: str | None, *, preview: bool, treatment: str | None) -> Answer:
    looking = preview or treatment is not None
    filled = engine.fill(name, past, visitor=visitor, preview=looking, treatment=treatment)
    return Answer(
        {
            "slot": name,
            "title": _slots(engine)[name].title,
            "treatment": filled.treatment,
            "impression_id": filled.impression_id,
            "items": _items(engine, filled),
            "unknown": past.unknown,
            "history_length": len(past),
            "model": engine.version,
        }
    )


def _items(engine: Engine, filled: FilledSlot) -> list[dict[str, Any]]:
    rows, scores = filled.ranking.rows, filled.ranking.scores.tolist()
    columns = engine.ids(rows), engine.titles(rows), scores, engine.attributes(rows), filled.reasons
    return [
        {
            "item_id": item,
            "title": title,
            "score": score,
            "position": place,
            "attributes": attributes,
            "reason": reason,
        }
        for place, (item, title, score, attributes, reason) in enumerate(zip(*columns, strict=True), 1)
    ]


def _slots(engine: Engine) -> Slots:
    return engine.slots.slots if engine.slots is not None else Slots(())


def _declared(slot: Slot) -> dict[str, Any]:
    return slot.to_dict()
