"""`heedful demo`."""

from __future__ import annotations

from pathlib import Path

import click
import pyarrow.parquet as pq

from heedful.demo import household_card, replay_slots, requests_of, run_demo, run_week
from heedful.errors import MissingExtraError
from heedful.folders import write_atomically

__all__ = ["COMMANDS"]

_REQUESTS = 100


@click.command("demo")
@click.option("--out", default="demo", show_default=True, type=click.Path(), help="Folder for everything that it makes.")
@click.option(
    "--week",
    is_flag=True,
    help="Then also the test week day by day, with counts renewed and the attention ranker trained on each night.",
)
def demo_command(out: str, week: bool) -> None:
    """The whole pipeline on real retail data, ending in a report and recommendations.

    A year of purchases of 2,469 households (Complete Journey, dunnhumby): prepare, embed, train seven models on the time
    before 2017-12-24, compare them on the week after. A second run uses the finished stages again.
    """
    experiment = run_demo(out)
    with write_atomically(Path(out) / "requests.parquet") as path:
        pq.write_table(requests_of(experiment.past, _REQUESTS), path)
    click.echo(str(experiment.comparison))
    click.echo(f"\n{household_card(experiment)}\n")
    try:
        click.echo(f"Four content slots on the days after the cut:\n\n{replay_slots(experiment, out)}\n")
    except MissingExtraError as error:
        click.echo(f"Content slots are left out: {error}\n")
    if week:
        click.echo(f"The test week day by day:\n\n{run_week(out)}\n\n{out}/week/week.png has it as a picture.\n")
    click.echo(
        f"""Where everything lies:
  {out}/report/report.html    the comparison with figures; open it in a browser
  {out}/sequences/            the whole log; {out}/past/ is the time before the cut
  {out}/embeddings/           item embeddings
  {out}/attention/            the attention ranker; beside it the other models
  {out}/slots.toml            the content slots; {out}/figure5.svg shows their click-through, {out}/shop.sqlite keeps it
  {out}/requests.parquet      the histories of {_REQUESTS} households, as requests

What to try next:
  heedful demo --out {out} --week
  heedful serve {out}/attention --slots {out}/slots.toml --database {out}/shop.sqlite --histories {out}/past
  heedful similar 1029743 --embeddings {out}/embeddings
  heedful recommend {out}/attention {out}/requests.parquet --out {out}/recommendations.parquet -k 10
  heedful prepare YOUR_EVENTS.parquet --out sequences/"""
    )


COMMANDS = {"demo": demo_command}
