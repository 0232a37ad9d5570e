"""The catalogue: search, one item, similar items."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Query
from pydantic import JsonValue

from heedful.errors import InputError
from heedful.events.ids import plain_ids, split_ids
from heedful.events.values import column_from_json, from_json, named_column
from heedful.serving.answers import Answer
from heedful.serving.arrivals import Told
from heedful.serving.engine import Engine
from heedful.serving.replies import Item, ItemList, ItemsAdded, Similar
from heedful.serving.requests import CurrentEngine, CurrentServing, JsonRoute, at_most, takes
from heedful.serving.routes.rankings import ranked_items
from heedful.serving.wire import Condition, ItemPatch, ItemText, NewItem, NewItems

__all__ = ["admin", "router"]

router = APIRouter(route_class=JsonRoute)
admin = APIRouter(route_class=JsonRoute)


@router.get("/items", response_model=ItemList)
@takes("memory")
def find_items(
    engine: CurrentEngine,
    serving: CurrentServing,
    search: Annotated[str, Query(max_length=256, description="Part of the title, or an id.")] = "",
    ids: Annotated[
        str | None, Query(description="Instead: ids with commas between them; one with a comma in double quotes.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> Answer:
    """Items whose title contains a text, the most popular first; without one, the most popular of all."""
    if ids is not None:
        names = split_ids(ids)
        at_most(serving.config.max_items, "items", len(names))
        rows = engine.rows(names)
        return Answer({"items": _items(engine, rows[rows >= 0])})
    return Answer({"items": _items(engine, engine.search(search, limit))})


@router.get("/items/{item_id:path}/similar", response_model=Similar)
@takes("memory")
def similar(
    item_id: ItemText,
    engine: CurrentEngine,
    k: Annotated[int, Query(ge=1, le=1000)] = 10,
    where: Annotated[Condition | None, Query()] = None,
) -> Answer:
    """The items whose vectors are closest, by cosine."""
    return Answer({"items": ranked_items(engine, engine.similar(item_id, k=k, where=where)), "model": engine.version})


@router.get("/items/{item_id:path}", response_model=Item)
@takes("memory")
def item(item_id: ItemText, engine: CurrentEngine) -> Answer:
    """One item, with what is known of it."""
    return Answer(_items(engine, np.array([engine.row(item_id)]))[0])


@admin.post("/items", response_model=ItemsAdded)
@takes("work")
def add_items(body: NewItems, engine: CurrentEngine, serving: CurrentServing) -> Answer:
    """Rank new items at once, in an extension of the table that is kept, and correct what is known of others.

    An item gets its vector from what its attributes say and, as soon as visitors have acted on it (`POST /events` takes
    items that the model does not know yet), from what else they had. Items that were added before are fitted again to the
    actions that have come since; with no items at all, that is what is done. Of an item that the model knows the attributes
    that are named take the place of those before; its scores stay.
    """
    corrected = serving.add_items(_told(engine, body.items))
    loaded = serving.loaded
    return Answer(
        {
            "added": len(body.items) - corrected,
            "corrected": corrected,
            "new_items": len(loaded.ranker.items) - loaded.n_trained,
            "fitted": loaded.n_fitted,
            "embeddings": serving.table,
            "model": loaded.version,
        }
    )


@admin.patch("/items/{item_id:path}", response_model=Item)
@takes("work")
def patch_item(item_id: ItemText, body: ItemPatch, engine: CurrentEngine, serving: CurrentServing) -> Answer:
    """Change what is known of one item, trained or added: conditions, slots and answers follow at once.

    The body is a merge patch (RFC 7396): attributes that are named take the place of those before, null removes one, the
    others stay. What GET answers can be sent back. When this is answered, it is on disk.
    """
    row = engine.row(item_id)
    (known,) = engine.ids(np.array([row]))
    if body.item_id is not None and str(body.item_id) != str(known):
        raise InputError("the body is of another item", got=repr(body.item_id), expected=repr(known))
    if body.attributes:
        serving.add_items(_told(engine, [NewItem(item_id=known, attributes=body.attributes)]))
    return Answer(_items(serving.engine, serving.engine.rows([known]))[0])


def _told(engine: Engine, items: list[NewItem]) -> Told:
    """What a request says of items, in the columns of the served ones.

    Raises:
        InputError: an id that the catalogue cannot have, a column that it lacks, or a value that does not fit.
    """
    schema, kind = engine.ranker.attributes.schema, engine.ranker.items.ids.type
    ids = pa.array(plain_ids([item.item_id for item in items], kind), kind)
    if ids.null_count:
        wrong = items[int(np.argmin(ids.is_valid().to_numpy(zero_copy_only=False)))].item_id
        raise InputError("the catalogue cannot have such an id", got=repr(wrong), expected=f"ids of type {kind}")
    said = [_named(item, schema.names) for item in items]
    values = [_column(items, [one.get(field.name) for one in said], field) for field in schema]
    given = {name: np.array([name in one for one in said], bool) for name in schema.names}
    return Told(ids, pa.table(values, schema), given)


def _named(item: NewItem, names: list[str]) -> dict[str, JsonValue]:
    """The attributes of an item by the names of the catalogue."""
    said: dict[str, JsonValue] = {}
    for name, value in item.attributes.items():
        known = named_column(names, name)
        if known is None or known in said:
            what = "unknown attributes" if known is None else "an attribute is there twice"
            raise InputError(what, got=name, expected=", ".join(names) or "none")
        said[known] = value
    return said


def _column(items: list[NewItem], values: list[JsonValue], field: pa.Field) -> pa.Array:
    try:
        return column_from_json(values, field.type)
    except InputError:
        for item, value in zip(items, values, strict=True):
            _check(item, value, field)
        raise


def _check(item: NewItem, value: JsonValue, field: pa.Field) -> None:
    try:
        from_json(value, field.type)
    except InputError as error:
        raise InputError(
            f"attribute {field.name!r} of item {item.item_id!r:.60} does not fit the catalogue",
            got=f"{value!r:.60}",
            expected=f"a value of type {field.type}",
        ) from error


def _items(engine: Engine, rows: np.ndarray) -> list[dict[str, Any]]:
    columns = engine.ids(rows), engine.titles(rows), engine.attributes(rows)
    return [{"item_id": name, "title": title, "attributes": known} for name, title, known in zip(*columns, strict=True)]
