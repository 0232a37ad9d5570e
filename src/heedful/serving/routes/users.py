"""Users and their histories."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from heedful.serving.answers import Answer
from heedful.serving.engine import NotFoundError
from heedful.serving.replies import Deleted, HistoryList, UserList
from heedful.serving.requests import CurrentEngine, CurrentServing, JsonRoute, at_most, takes
from heedful.serving.wire import Prefix, UserText

__all__ = ["admin", "router"]

router = APIRouter(route_class=JsonRoute)
admin = APIRouter(route_class=JsonRoute)
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get("/users", response_model=UserList)
def find_users(engine: CurrentEngine, prefix: Annotated[Prefix, Query()] = "", limit: Limit = 20) -> Answer:
    """Users whose id begins with a text."""
    found = engine.store.users(prefix, limit)
    return Answer({"users": [{"user_id": user, "actions": actions} for user, actions in found]})


@router.get("/users/{user_id:path}/history", response_model=HistoryList)
def history(user_id: UserText, engine: CurrentEngine, serving: CurrentServing, limit: Limit = 100) -> Answer:
    """A user's latest actions, the newest first; none for a user that is not known."""
    at_most(serving.config.max_history, "past items", limit)
    known = engine.store.history(user_id, limit)
    rows = engine.rows(known.item_ids)
    titles = dict(zip(rows[rows >= 0].tolist(), engine.titles(rows[rows >= 0]), strict=True))
    actions = [
        {"item_id": item, "title": titles.get(int(row), item), "timestamp": int(time), "event": kind}
        for item, row, time, kind in zip(known.item_ids, rows, known.times, known.kinds, strict=True)
    ]
    return Answer({"user_id": user_id, "history": actions[::-1]})


@admin.delete("/users/{user_id:path}", response_model=Deleted)
@takes("work")
def delete_user(user_id: UserText, engine: CurrentEngine) -> Answer:
    """Remove everything of a user: events, impressions and clicks."""
    removed = engine.store.delete_user(user_id)
    if not any(removed.values()):
        raise NotFoundError("nothing is stored of this user", fix="GET /users finds users by the beginning of their id")
    return Answer({"deleted": removed})
