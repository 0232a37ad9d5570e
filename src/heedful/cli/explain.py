"""`heedful explain`."""

from __future__ import annotations

import click

from heedful.cli.rank import embeddings_option, load, plain_gamma, pool_gamma_option
from heedful.config import require
from heedful.errors import InputError
from heedful.events.ids import split_ids
from heedful.recommending.explanation import Explanation, explain_items
from heedful.recommending.recommend import Query, Recommender

__all__ = ["COMMANDS"]


@click.command("explain")
@click.argument("model", type=click.Path())
@click.option("--history", required=True, help='Ids of past items, oldest first, as in a,b,"c, d".')
@click.option(
    "--item", "items", multiple=True, help="Id of an item to explain; may be given again.  [the best for the history]"
)
@click.option("-k", default=3, show_default=True, help="Items to explain, where none is named.")
@click.option("--past", "n_past", default=10, show_default=True, help="Past items to list for each.")
@pool_gamma_option
@embeddings_option
def explain_command(
    model: str, history: str, items: tuple[str, ...], k: int, n_past: int, pool_gamma: float | str, embeddings: str | None
) -> None:
    """Why items have their scores: the past items by what they did for each, and the attention of each layer.

    FALL is how much the score falls without the past item, exactly; below 0 it held the score down. The LAYERS say how much
    of their attention each past item got; what is left went to other past items and to the null tokens, that is to nothing.
    """
    require(k >= 1, "k", got=k, expected="1 or more")
    ranker, gamma = load(model, embeddings), plain_gamma(pool_gamma)
    past = list(filter(None, split_ids(history)))
    unknown = [item for item, row in zip(past, ranker.items.rows(past), strict=True) if row < 0]
    if unknown:
        click.echo(f"{len(unknown):,} past items are unknown to the model and were left out: {', '.join(unknown[:5])}")
    histories = ranker.histories_of([past])
    if items:
        rows = ranker.items.rows(list(items))
        if (rows < 0).any():
            raise InputError(
                "the model does not know that item", got=items[int((rows < 0).argmax())], expected="one of its ids"
            )
    else:
        query = Query(k=k, pool_gamma=gamma)
        rows = Recommender(ranker).top_rows(histories, query)[0][0]
        rows = rows[rows >= 0]
    for explanation in explain_items(ranker, histories, rows, pool_gamma=gamma):
        click.echo("\n".join(_lines(explanation, n_past)))


def _lines(explanation: Explanation, n_past: int) -> list[str]:
    parts = " ".join(f"{value:+.3f} {name}" for name, value in explanation.parts.items())
    lines = [
        "",
        f"{explanation.item}  {explanation.title}: {explanation.text}",
        f"  score {explanation.score:.4f} = {parts}",
    ]
    if not explanation.reasons:
        return lines
    null = explanation.null_attention
    layers = "  layers" if null is not None and len(null) else ""
    lines.append(f"    fall{layers}")
    for reason in explanation.reasons[:n_past]:
        weights = "".join(f" {weight:6.1%}" for weight in reason.attention or ())
        lines.append(f"  {reason.fall:+.3f}{weights}  {reason.item}  {reason.title}")
    if layers and null is not None:
        lines.append(f"        {''.join(f' {weight:6.1%}' for weight in null)}  no past item")
    return lines


COMMANDS = {"explain": explain_command}
