"""What became of impressions: shown, clicked, and the click-through rates that come of it."""

from __future__ import annotations

import time
import uuid
from typing import Annotated

from fastapi import APIRouter, Query

from heedful.serving.answers import Answer
from heedful.serving.clicks import report, report_counts
from heedful.serving.replies import ClickReport, Counted, Outcome, Removed
from heedful.serving.requests import CurrentEngine, JsonRoute
from heedful.serving.store import Click as StoredClick
from heedful.serving.wire import Click, Name, Seconds, Shown

__all__ = ["figures", "router"]

router = APIRouter(route_class=JsonRoute)
figures = APIRouter(route_class=JsonRoute)


@router.post("/impressions", response_model=Counted)
def shown(body: Shown, engine: CurrentEngine) -> Answer:
    """The items of an impression came into view: from now on it counts."""
    return Answer({"counted": engine.store.mark_shown(body.impression_id, int(time.time()))})


@router.post("/clicks", response_model=Outcome)
def click(body: Click, engine: CurrentEngine) -> Answer:
    """An item of an impression was clicked, so the impression was seen; the outcome says what became of it."""
    click_id = body.click_id or uuid.uuid4().hex
    clicked = StoredClick(click_id, body.impression_id, body.item_id, int(time.time()))
    return Answer({"outcome": engine.store.add_click(clicked)})


@figures.get("/clicks/report", response_model=ClickReport)
def click_report(
    engine: CurrentEngine,
    slot: Annotated[Name | None, Query()] = None,
    since: Annotated[Seconds | None, Query(description="Unix seconds.", strict=False)] = None,
    until: Annotated[Seconds | None, Query(description="Unix seconds.", strict=False)] = None,
    simulated: Annotated[bool | None, Query(description="The simulator's, or the real ones.", strict=False)] = None,
) -> Answer:
    """Click-through rates by slot and treatment, with lifts that stay valid however often one looks.

    Of each slot the latest experiment, and earlier ones apart: another salt or other shares begin another. Simulated and
    real impressions are never counted together: real ones are told as soon as there are any, unless `simulated` says which.
    The whole is read from running sums; `since` and `until` read all impressions of that time.
    """
    if since is None and until is None:
        return Answer(report_counts(engine.store.click_counts(slot, simulated=simulated)).to_dict())
    return Answer(report(engine.store.outcomes(slot=slot, since=since, until=until), simulated=simulated).to_dict())


@router.delete("/impressions/{impression_id:path}", response_model=Removed)
def take_back(impression_id: Name, engine: CurrentEngine) -> Answer:
    """Take back an impression with its clicks, as the page does after a test."""
    return Answer({"removed": engine.store.remove_impression(impression_id)})
