"""Content slots: their declarations, and what they show to a visitor."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response

from heedful.serving.answers import Answer, RefusedError
from heedful.serving.engine import Engine, Past
from heedful.serving.replies import Filled, SlotList, SlotsSaved
from heedful.serving.requests import CurrentEngine, CurrentServing, JsonRoute, past_of, takes
from heedful.serving.slots import Slot, Slots
from heedful.serving.wire import Name, UserText, Visit

__all__ = ["admin", "router"]

router = APIRouter(route_class=JsonRoute)
admin = APIRouter(route_class=JsonRoute)
_TOML = "application/toml"
_EXAMPLE = '[[slot]]\nname = "produce"\nwhere = "department = \'PRODUCE\'"\ntreatments = { model = 0.5, popularity = 0.5 }\n'


@router.get("/slots", response_model=SlotList)
@takes("memory")
def list_slots(engine: CurrentEngine) -> Answer:
    """The slots that are declared."""
    return Answer({"slots": [_declared(slot) for slot in _slots(engine)]})


@router.get(
    "/slots.toml",
    responses={
        200: {
            "content": {_TOML: {"schema": {"type": "string"}}},
            "headers": {"ETag": {"description": "Names these declarations.", "schema": {"type": "string"}}},
        }
    },
    response_class=Response,
)
@takes("memory")
def slots_file(serving: CurrentServing) -> Response:
    """The declarations as they were written, with a tag for `If-Match` of `PUT /slots`."""
    return Response(serving.slots_text, media_type=_TOML, headers={"etag": serving.slots_tag})


async def _text(request: Request) -> str:
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError as error:
        raise RefusedError(400, "invalid_text", "the body is not text in UTF-8", fix="send the slots as TOML") from error


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
@takes("work")
def put_slots(
    text: Annotated[str, Depends(_text)],
    serving: CurrentServing,
    empty: Annotated[bool, Query(description="Whether to accept a document without slots, which removes all.")] = False,
    preview: Annotated[bool, Query(description="Check the document and change nothing.")] = False,
    if_match: Annotated[str | None, Header(description="ETag of the declarations to replace.")] = None,
) -> Answer:
    """Declare the slots anew: TOML as in docs/slots.md, checked against the model before it takes the place of the old."""
    unchanged = None if if_match == "*" else if_match
    book = serving.put_slots(text, empty=empty, unchanged=unchanged, preview=preview)
    slots = [_declared(slot) for slot in book.slots]
    return Answer({"slots": slots, "notes": book.notes}, headers=None if preview else {"etag": serving.slots_tag})


@router.get("/slots/{name}", response_model=Filled)
def fill_for_user(
    name: Name, engine: CurrentEngine, user: Annotated[UserText, Query(description="Whose slot it is.")]
) -> Answer:
    """What a slot shows to a user. Report the impression as shown once it is in view: only then does it count."""
    return _filled(engine, name, engine.past(user), None)


@router.post("/slots/{name}", response_model=Filled)
@takes("database")
def fill_for_history(name: Name, body: Visit, engine: CurrentEngine, serving: CurrentServing) -> Answer:
    """What a slot shows to a visitor whose history comes with the request."""
    return _filled(engine, name, past_of(engine, serving, body), body.visitor)


def _filled(engine: Engine, name: str, past: Past, visitor: str | None) -> Answer:
    filled = engine.fill(name, past, visitor=visitor)
    rows, scores = filled.ranking.rows, filled.ranking.scores.tolist()
    columns = engine.ids(rows), engine.titles(rows), scores, engine.attributes(rows)
    items = [
        {"item_id": item, "title": title, "score": score, "position": place, "attributes": attributes}
        for place, (item, title, score, attributes) in enumerate(zip(*columns, strict=True), 1)
    ]
    return Answer(
        {
            "slot": name,
            "title": _slots(engine)[name].title,
            "treatment": filled.treatment,
            "impression_id": filled.impression_id,
            "note": filled.note,
            "items": items,
            "unknown": past.unknown,
            "history_length": len(past),
            "model": engine.version,
        }
    )


def _slots(engine: Engine) -> Slots:
    return engine.slots.slots if engine.slots is not None else Slots(())


def _declared(slot: Slot) -> dict[str, Any]:
    return {
        "name": slot.name,
        "title": slot.title,
        "shown": slot.shown,
        "where": slot.where,
        "rule": slot.rule,
        "treatments": dict(slot.treatments),
    }
