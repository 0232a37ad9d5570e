"""The report of a backtest: Markdown, one picture, the numbers as JSON and Parquet."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heedful.evaluation.figures import Line, Panel, draw, to_png, to_svg
from heedful.events.times import iso
from heedful.folders import new_folder
from heedful.updating.days import NDCG, POOLED, Backtest
from heedful.updating.options import MODES

__all__ = ["KIND", "write_backtest"]

KIND = "backtest"


def write_backtest(found: Backtest, out: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a folder with report.md, week.png, week.svg, results.json and per_user.parquet.

    Args:
        found: the days.
        out: the folder to be made.
        overwrite: replace a finished report.

    Raises:
        FolderError: the place is taken or cannot be written.
    """
    with new_folder(out, kind=KIND, overwrite=overwrite) as folder:
        figure = draw([_panel(found, measure) for measure in (NDCG, POOLED)])
        (folder.path / "week.png").write_bytes(to_png(figure))
        (folder.path / "week.svg").write_text(to_svg(figure, name="week"), encoding="utf-8")
        results = json.dumps(found.to_dict(), indent=1, allow_nan=False)
        (folder.path / "results.json").write_text(results + "\n", encoding="utf-8")
        (folder.path / "report.md").write_text(_page(found), encoding="utf-8")
        pq.write_table(_per_user(found), folder.path / "per_user.parquet")


def _panel(found: Backtest, measure: str) -> Panel:
    """A measure of each model by day, with its standard error over users."""
    lines = []
    for model in found.models:
        line = Line(model, MODES.index(model))
        for day in found.days:
            if day.users:
                values = day.of_model(model, measure)
                line.x.append(day.number)
                line.mean.append(float(values.mean()))
                line.error.append(float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0)
        lines.append(line)
    x_label = f"day from {iso(found.cut)[:10]} on"
    return Panel(found.title_of(measure), x_label, "NDCG@10" if measure == NDCG else "NDCG", lines, log_x=False)


def _page(found: Backtest) -> str:
    tables = [f"## {table.title}\n\n{table.markdown()}" for table in found.tables() if table.rows]
    options = ", ".join(f"{name} {json.dumps(value)}" for name, value in found.config.to_dict().items())
    notes = "\n".join(f"- {note}" for note in found.notes())
    parts = ["# How often to train", notes, "![NDCG by day](week.png)", *tables, f"Options: {options}"]
    return "\n\n".join(parts) + "\n"


def _per_user(found: Backtest) -> pa.Table:
    tables = [
        day.values.add_column(0, "day", pa.array(np.full(day.users, day.number))).replace_schema_metadata()
        for day in found.days
        if day.users
    ]
    return pa.concat_tables(tables)
