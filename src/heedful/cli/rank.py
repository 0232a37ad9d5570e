"""`heedful score` and `heedful recommend`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from heedful import cluster as on_cluster
from heedful.cli.options import cluster_option
from heedful.embeddings.table import ItemEmbeddings
from heedful.rankers.base import Ranker
from heedful.rankers.registry import load_ranker
from heedful.recommending.recommend import Query, Recommender
from heedful.recommending.requests import RankingReport, recommend_requests, score_requests
from heedful.recommending.retrieval import RETRIEVED, Retriever

__all__ = ["COMMANDS", "embeddings_option", "load", "plain_gamma", "pool_gamma_option"]


class _Gamma(click.ParamType):
    """A number, or "none"."""

    name = "NUMBER|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value == "none":
            return "none"
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor none", param, ctx)


pool_gamma_option = click.option(
    "--pool-gamma",
    default=0.0,
    show_default=True,
    type=_Gamma(),
    help="How the candidates were chosen: in proportion to popularity ** this. 0: a whole catalogue or a hand-picked list. "
    "none: the plain logit, without the sampling prior.",
)
embeddings_option = click.option("--embeddings", default=None, type=click.Path(), help="Embeddings, when they were moved.")


@click.command("score")
@click.argument("model", type=click.Path())
@click.argument("requests", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="Parquet of scores: request_id, scores in candidate order.")
@pool_gamma_option
@embeddings_option
@cluster_option
def score_command(
    model: str, requests: str, out: str, pool_gamma: float | str, embeddings: str | None, cluster: str | None
) -> None:
    """Requests with candidates -> scores.

    REQUESTS is Parquet: request_id, history (list of item ids, oldest first), candidates (list of item ids), and maybe
    history_times (unix seconds) and history_kinds.
    """
    gamma = plain_gamma(pool_gamma)
    if cluster:
        with on_cluster.connect(cluster):
            report = on_cluster.score_requests(model, requests, out, embeddings=embeddings, pool_gamma=gamma)
    else:
        report = score_requests(load(model, embeddings), requests, out, pool_gamma=gamma)
    _print(report, out, "candidates scored")


@click.command("recommend")
@click.argument("model", type=click.Path())
@click.argument("requests", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="Parquet of recommendations: request_id, items, scores.")
@click.option("-k", default=10, show_default=True, help="Items for each request.")
@click.option("--offset", default=0, show_default=True, help="Better items that are skipped.")
@click.option("--where", default="", help="SQL condition over the items' attributes.")
@click.option(
    "--at-most",
    type=(str, int),
    multiple=True,
    metavar="ATTRIBUTE N",
    help="At most N items of one value of an attribute, such as: category 2.",
)
@click.option(
    "--exclude-history/--no-exclude-history",
    default=None,
    help="Leave out the items that the user has seen.  [as the model was trained]",
)
@click.option("--exact", is_flag=True, help="Score every item, instead of retrieved ones.")
@click.option(
    "--retrieve",
    default=None,
    type=click.IntRange(min=1),
    help=f"Items to retrieve and score for each request.  [default: {RETRIEVED}]",
)
@click.option(
    "--index",
    default=None,
    type=click.Path(),
    help="Folder of the index of a large catalogue: read, or made and kept (extra retrieval).",
)
@pool_gamma_option
@embeddings_option
@cluster_option
def recommend_command(
    model: str, requests: str, out: str, embeddings: str | None, cluster: str | None, **options: Any
) -> None:
    """Requests -> the best of the catalogue.

    REQUESTS is Parquet as for `heedful score`, without candidates.
    """
    how = {name: options.pop(name) for name in ("exact", "retrieve", "index")}
    options["at_most"] = dict(options["at_most"])
    options["pool_gamma"] = plain_gamma(options["pool_gamma"])
    query = Query(**options)
    if cluster:
        with on_cluster.connect(cluster):
            report = on_cluster.recommend_requests(model, requests, out, embeddings=embeddings, query=query, **how)
    else:
        recommender = _recommender(load(model, embeddings), **how)
        report = recommend_requests(recommender, requests, out, query=query)
    _print(report, out, "items recommended")


def load(model: str | Path, embeddings: str | Path | None) -> Ranker:
    """The ranker of a model folder, with the table of --embeddings if that was given."""
    return load_ranker(model, embeddings=ItemEmbeddings.load(embeddings) if embeddings else None)


def _recommender(ranker: Ranker, exact: bool, retrieve: int | None, index: str | None) -> Recommender:
    if exact or index is None:
        return Recommender(ranker, exact=exact, retrieve=retrieve)
    candidates = retrieve or RETRIEVED
    if Path(index).exists():
        retriever = Retriever.open(index, ranker, candidates=candidates)
    else:
        retriever = Retriever(ranker, candidates=candidates, index="lists")
        retriever.save(index)
    return Recommender(ranker, retriever=retriever)


def plain_gamma(gamma: float | str) -> float | None:
    """The value of --pool-gamma, None for "none"."""
    return None if isinstance(gamma, str) else gamma


def _print(report: RankingReport, out: str, what: str) -> None:
    click.echo(f"{out}: {report.requests:,} requests, {report.candidates:,} {what}")
    for count, meaning in (
        (report.unknown_history, "past items are unknown to the model and were left out"),
        (report.unknown_candidates, "candidates are unknown to the model and ranked below all others"),
        (report.empty, "requests have no known past item and are ranked by popularity"),
    ):
        if count:
            click.echo(f"  {count:,} {meaning}")


COMMANDS = {"score": score_command, "recommend": recommend_command}
