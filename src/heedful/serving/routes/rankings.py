"""Ranking candidates, recommending from the catalogue, and why."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from heedful.events.ids import json_id
from heedful.recommending.explanation import Explanation
from heedful.recommending.recommend import Query
from heedful.serving.answers import Answer
from heedful.serving.engine import Engine, Past, Ranking
from heedful.serving.replies import Explanations, Ranked
from heedful.serving.requests import CurrentEngine, CurrentServing, JsonRoute, at_most, past_of
from heedful.serving.wire import Explain, Rank, Recommend

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute)


@router.post("/rank", response_model=Ranked)
def rank(body: Rank, engine: CurrentEngine, serving: CurrentServing) -> Answer:
    """Put candidates in order for a visitor, with the history that is there now."""
    at_most(serving.config.max_candidates, "candidates", len(body.candidates))
    past = past_of(engine, serving, body)
    ranking = engine.rank(past, body.candidates, k=body.k, pool_gamma=body.pool_gamma, where=body.where)
    return Answer(_ranked(engine, past, ranking))


@router.post("/recommend", response_model=Ranked)
def recommend(body: Recommend, engine: CurrentEngine, serving: CurrentServing) -> Answer:
    """The best of the catalogue for a visitor; `unknown` are the past items that the model does not know."""
    at_most(serving.config.max_items, "items", body.k)
    past = past_of(engine, serving, body)
    query = Query(
        k=body.k,
        offset=body.offset,
        where=body.where or "",
        at_most=body.at_most,
        exclude_history=body.exclude_history,
    )
    ranking = engine.recommend(past, query)
    return Answer({**_ranked(engine, past, ranking), "unknown": past.unknown})


@router.post("/explain", response_model=Explanations)
def explain(body: Explain, engine: CurrentEngine, serving: CurrentServing) -> Answer:
    """Why items have their scores: the exact fall without each past item, and the attention of each layer.

    It costs one ranking of the items for each past item, in one batch: tens of milliseconds.
    """
    past = past_of(engine, serving, body)
    found = engine.explain(past, body.items, pool_gamma=body.pool_gamma)
    return Answer({"explanations": [_explained(one) for one in found], "model": engine.version})


def _ranked(engine: Engine, past: Past, ranking: Ranking) -> dict[str, Any]:
    return {
        "items": ranked_items(engine, ranking),
        "unknown": ranking.unknown,
        "history_length": len(past),
        "model": engine.version,
    }


def ranked_items(engine: Engine, ranking: Ranking) -> list[dict[str, Any]]:
    """Items of a ranking as answers have them."""
    columns = engine.ids(ranking.rows), ranking.scores.tolist(), engine.titles(ranking.rows)
    return [{"item_id": item, "score": score, "title": title} for item, score, title in zip(*columns, strict=True)]


def _explained(one: Explanation) -> dict[str, Any]:
    because = [
        {
            "item_id": json_id(reason.item),
            "title": reason.title,
            "fall": reason.fall,
            "by_term": dict(reason.by_term),
            "attention": list(reason.attention) if reason.attention is not None else None,
        }
        for reason in one.reasons
    ]
    null = one.null_attention
    return {
        "item_id": json_id(one.item),
        "title": one.title,
        "score": one.score,
        "text": one.text,
        "parts": one.parts,
        "because": because,
        "null_attention": null.tolist() if null is not None else None,
    }
