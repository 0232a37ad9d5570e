"""Content slots: their declarations, and what they show to a visitor."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic_core import from_json
from starlette.responses import Response

from heedful.errors import ConfigError
from heedful.serving.answers import Answer, RefusedError
from heedful.serving.engine import Engine, Past
from heedful.serving.engine import Filled as FilledSlot
from heedful.serving.models import Serving
from heedful.serving.replies import Filled, SlotList, SlotsPreviewed, SlotsSaved, SlotVersions
from heedful.serving.requests import KEY, CurrentEngine, CurrentServing, JsonRoute, past_of, takes
from heedful.serving.selection import SlotBook
from heedful.serving.slots import RULES, Slot, Slots, parse_slots, to_toml
from heedful.serving.store import StoreUnavailable
from heedful.serving.wire import Name, UserText, Visit

__all__ = ["admin", "router"]

router = APIRouter(route_class=JsonRoute)
admin = APIRouter(route_class=JsonRoute)
_TOML = "application/toml"
_PREVIEWED = 20
_EXAMPLE = '[[slot]]\nname = "produce"\nwhere = "department = \'PRODUCE\'"\ntreatments = { model = 0.5, popularity = 0.5 }\n'
_ITEM_IDS = {"type": "array", "maxItems": 10_000, "items": {"type": ["string", "integer"]}}
_SLOT = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
        "title": {"type": "string"},
        "where": {"type": "string", "format": "sql-condition"},
        "rule": {"enum": list(RULES)},
        "column": {"type": "string"},
        "max_candidates": {"type": "integer", "minimum": 1, "maximum": 20_000},
        "shown": {"type": "integer", "minimum": 1, "maximum": 500},
        "at_most": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1, "maximum": 500}},
        "pinned": _ITEM_IDS,
        "blocked": _ITEM_IDS,
        "editorial": _ITEM_IDS,
        "exclude_history": {"type": "boolean"},
        "pool_gamma": {"type": "number", "minimum": -10, "maximum": 10},
        "treatments": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}},
        "salt": {"type": "string"},
    },
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "description": "None declares no slots.",
        "content": {
            _TOML: {"schema": {"type": "string"}, "examples": {"one slot": {"value": _EXAMPLE}}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["slot"],
                    "additionalProperties": False,
                    "properties": {"slot": {"type": "array", "maxItems": 200, "items": _SLOT}},
                }
            },
        },
    }
}


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


@router.get("/slots.toml/versions", response_model=SlotVersions)
def versions(engine: CurrentEngine) -> Answer:
    """The latest hundred versions of the declarations, the newest first."""
    found = engine.store.slot_versions()
    return Answer(
        {"versions": [{"version": one.version, "time": one.time, "author": one.author, "text": one.text} for one in found]}
    )


async def _text(request: Request) -> str:
    """The declarations in a request, as TOML."""
    body = await request.body()
    try:
        if "json" not in request.headers.get("content-type", ""):
            return body.decode()
        tables = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RefusedError(400, "invalid_text", "the body is neither TOML nor JSON in UTF-8", got=error) from error
    if not isinstance(tables, dict) or set(tables) != {"slot"} or not isinstance(tables["slot"], list):
        raise ConfigError("the slots hold something else", got=type(tables).__name__, expected='{"slot": [...]}')
    if not all(isinstance(table, dict) for table in tables["slot"]):
        raise ConfigError("a slot is not an object", expected='such as {"name": "books"}')
    return to_toml(Slots.from_tables(tables["slot"]))


@admin.post("/slots.toml/preview", response_model=SlotsPreviewed, openapi_extra=_BODY)
@takes("work")
def preview(
    text: Annotated[str, Depends(_text)],
    serving: CurrentServing,
    user: Annotated[UserText | None, Query(description="Whose history; nobody's by default.")] = None,
) -> Answer:
    """What declarations would show in each treatment, to a user or to somebody new. Nothing is saved or recorded."""
    slots = parse_slots(text)
    loaded, engine = serving.loaded, serving.engine
    book = SlotBook(slots, loaded.ranker, loaded.eligibility)
    past = engine.past(user) if user is not None else engine.past_of([])
    shown = []
    for slot in list(slots)[:_PREVIEWED]:
        for treatment, share in slot.treatments.items():
            rows = book.select(slot.name, past.histories, treatment, seen=past.seen).rows
            items = [
                {"item_id": item, "title": title} for item, title in zip(engine.ids(rows), engine.titles(rows), strict=True)
            ]
            shown.append({"slot": slot.name, "treatment": treatment, "share": share, "items": items})
    return Answer({"slots": [_declared(slot) for slot in slots], "notes": list(map(str, book.notes)), "shown": shown})


@admin.put("/slots", response_model=SlotsSaved, openapi_extra=_BODY)
@takes("work")
def put_slots(
    request: Request,
    text: Annotated[str, Depends(_text)],
    serving: CurrentServing,
    empty: Annotated[bool, Query(description="Whether to accept a document without slots, which removes all.")] = False,
    preview: Annotated[bool, Query(description="Check the document and change nothing.")] = False,
    if_match: Annotated[str | None, Header(description="ETag of the declarations to replace.")] = None,
) -> Answer:
    """Declare the slots again: TOML as in docs/slots.md, or JSON of the same form, checked against the model first."""
    unchanged, before = None if if_match == "*" else if_match, serving.slots_text
    # Whoever names the declarations by their tag knows what is removed.
    book = serving.put_slots(text, empty=empty or unchanged is not None, unchanged=unchanged, preview=preview)
    notes = list(map(str, book.notes))
    answer = {"slots": [_declared(slot) for slot in book.slots], "notes": notes}
    if preview:
        return Answer(answer)
    if not _keep_versions(serving, before, request.scope[KEY].name):
        notes.append("this version is not kept in the history: the database cannot be reached")
    return Answer(answer, headers={"etag": serving.slots_tag})


def _keep_versions(serving: Serving, before: str, author: str) -> bool:
    """Keep the declarations in the history, and those before where the file was edited by hand."""
    store, now = serving.engine.store, int(time.time())
    try:
        store.add_slot_version(before, "", now)
        store.add_slot_version(serving.slots_text, author, now)
    except StoreUnavailable:
        return False
    return True


@router.get("/slots/{name}", response_model=Filled)
def fill_for_user(
    name: Name,
    engine: CurrentEngine,
    user: Annotated[UserText, Query(description="Whose slot it is.")],
    preview: Annotated[bool, Query(description="Only look: nothing is recorded.", strict=False)] = False,
    treatment: Annotated[Name | None, Query(description="Look at this treatment; implies `preview`.")] = None,
) -> Answer:
    """What a slot shows to a user. Report the impression as shown once it is in view: only then does it count."""
    return _filled(engine, name, engine.past(user), None, preview=preview, treatment=treatment)


@router.post("/slots/{name}", response_model=Filled)
@takes("database")
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
            "note": filled.note,
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
