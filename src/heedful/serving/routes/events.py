"""New behaviour: actions of users."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import Discriminator, Tag

from heedful.serving import telemetry
from heedful.serving.answers import Answer
from heedful.serving.replies import Appended, Removed
from heedful.serving.requests import CurrentEngine, CurrentServing, JsonRoute, at_most
from heedful.serving.store import Event as StoredEvent
from heedful.serving.wire import Event, Events, UserText

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute)


def _one_or_many(body: Any) -> str:
    return "one" if isinstance(body, dict) and "events" not in body else "many"


OneOrMany = Annotated[
    Annotated[Event, Tag("one")] | Annotated[Events, Tag("many")],
    Discriminator(_one_or_many),
    Body(description="One event, or a list of them."),
]


@router.post("/events", response_model=Appended)
def append(body: OneOrMany, engine: CurrentEngine, serving: CurrentServing) -> Answer:
    """Add actions of users; the next ranking uses them. When this is answered, they are on disk.

    An event id that was sent before counts as a duplicate, so that a client may send again what it had no answer for.
    """
    events = body.events if isinstance(body, Events) else [body]
    at_most(serving.config.max_events, "events", len(events))
    now, usual = int(time.time()), engine.ranker.kinds[0]
    done = engine.append([StoredEvent(e.event_id, e.user_id, str(e.item_id), e.time(now), e.event or usual) for e in events])
    for outcome, number in (
        ("accepted", done.accepted),
        ("duplicate", done.duplicates),
        ("unknown_item", done.unknown_items),
        ("rejected", len(done.rejected)),
    ):
        telemetry.figures.events.labels(outcome).inc(number)
    return Answer(
        {
            "accepted": done.accepted,
            "duplicates": done.duplicates,
            "unknown_items": done.unknown_items,
            "rejected": [{"index": place, "reason": reason} for place, reason in done.rejected],
        }
    )


@router.delete("/events/{event_id:path}", response_model=Removed)
def take_back(event_id: UserText, engine: CurrentEngine) -> Answer:
    """Take back one action, as the page does after a test."""
    return Answer({"removed": engine.store.remove_event(event_id)})
