"""The catalogue: search, one item, similar items."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Query

from heedful.errors import InputError
from heedful.serving.answers import Answer
from heedful.serving.engine import Engine
from heedful.serving.replies import Item, ItemList, ItemsAdded, Similar
from heedful.serving.requests import CurrentEngine, CurrentServing, JsonRoute, at_most, takes
from heedful.serving.routes.rankings import ranked_items
from heedful.serving.wire import Condition, Name, NewItem, NewItems

__all__ = ["admin", "router"]

router = APIRouter(route_class=JsonRoute)
admin = APIRouter(route_class=JsonRoute)


@router.get("/items", response_model=ItemList)
@takes("memory")
def find_items(
    engine: CurrentEngine,
    serving: CurrentServing,
    search: Annotated[str, Query(max_length=256, description="Part of the title, or an id.")] = "",
    ids: Annotated[str | None, Query(description="Instead: ids, with commas between them.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> Answer:
    """Items whose title contains a text, the most popular first; without one, the most popular of all."""
    if ids is not None:
        names = ids.split(",")
        at_most(serving.config.max_items, "items", len(names))
        rows = engine.rows(names)
        return Answer({"items": _items(engine, rows[rows >= 0])})
    return Answer({"items": _items(engine, engine.search(search, limit))})


@router.get("/items/{item_id:path}/similar", response_model=Similar)
@takes("memory")
def similar(
    item_id: Name,
    engine: CurrentEngine,
    k: Annotated[int, Query(ge=1, le=1000)] = 10,
    where: Annotated[Condition | None, Query()] = None,
) -> Answer:
    """The items whose vectors are closest, by cosine."""
    return Answer({"items": ranked_items(engine, engine.similar(item_id, k=k, where=where)), "model": engine.version})


@router.get("/items/{item_id:path}", response_model=Item)
@takes("memory")
def item(item_id: Name, engine: CurrentEngine) -> Answer:
    """One item, with what is known of it."""
    return Answer(_items(engine, np.array([engine.row(item_id)]))[0])


@admin.post("/items", response_model=ItemsAdded)
@takes("work")
def add_items(body: NewItems, engine: CurrentEngine, serving: CurrentServing) -> Answer:
    """Rank new items at once, in an extension of the table that is kept.

    An item gets its vector from what its attributes say and, as soon as visitors have acted on it (`POST /events` takes
    items that the model does not know yet), from what else they had. Items that were added before are fitted again to the
    actions that have come since; with no items at all, that is what is done.
    """
    table, extension = serving.add_items(_table(engine, body.items))
    return Answer(
        {
            "added": len(body.items),
            "new_items": len(extension.pairs),
            "fitted": int((extension.pairs > 0).sum()),
            "embeddings": table,
            "model": serving.engine.version,
        }
    )


def _table(engine: Engine, items: list[NewItem]) -> pa.Table:
    """New items with the columns of the served ones.

    Raises:
        InputError: a column that those lack, or a value of another type.
    """
    known = engine.ranker.attributes.schema
    unknown = sorted({name for item in items for name in item.attributes} - set(known.names))
    if unknown:
        raise InputError("unknown attributes", got=", ".join(unknown), expected=", ".join(known.names) or "none")
    try:
        columns = {field.name: pa.array([i.attributes.get(field.name) for i in items], field.type) for field in known}
        ids = pa.array(engine.names([item.item_id for item in items]), engine.ranker.items.ids.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise InputError("an id or attribute does not fit the catalogue", got=str(error).splitlines()[0]) from error
    return pa.table({"item_id": ids, **columns})


def _items(engine: Engine, rows: np.ndarray) -> list[dict[str, Any]]:
    columns = engine.ids(rows), engine.titles(rows), engine.attributes(rows)
    return [{"item_id": name, "title": title, "attributes": known} for name, title, known in zip(*columns, strict=True)]
