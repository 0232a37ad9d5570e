"""Figure 5 of the paper: click-through of each piece of content, relative to the highest."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from heedful.errors import ConfigError
from heedful.evaluation.figures import COLOURS, GRID, INK, to_png, to_svg
from heedful.folders import write_atomically
from heedful.serving.clicks import Report

__all__ = ["draw_figure5", "figure5"]

_BAR_INCHES = 0.42


def figure5(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the figure as PNG or SVG, by the suffix of the path.

    Raises:
        ConfigError: another suffix, or nothing was clicked yet.
        FolderError: the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".svg"):
        raise ConfigError("a figure is written as PNG or SVG", got=str(path), expected="a name that ends in .png or .svg")
    figure = draw_figure5(report)
    with write_atomically(path) as partial:
        partial.write_bytes(to_png(figure) if suffix == ".png" else to_svg(figure, name="figure-5").encode())


def draw_figure5(report: Report) -> Figure:
    """Bars of relative click-through, highest first, one for each slot and treatment, with intervals.

    Raises:
        ConfigError: nothing was clicked yet.
    """
    bars = [(slot.slot, one) for slot in report.slots for one in slot.treatments if one.relative is not None]
    if not bars:
        raise ConfigError("there is nothing to draw", got="no click yet", fix="wait for clicks, or run the simulator")
    bars.sort(key=lambda bar: -bar[1].rate.ctr)
    best = bars[0][1].rate.ctr
    treatments = sorted({one.treatment for _, one in bars})
    with mpl.rc_context({"font.family": "sans-serif", "text.color": INK, "axes.edgecolor": INK, "svg.fonttype": "none"}):
        figure = Figure(figsize=(max(5.0, 1.6 + _BAR_INCHES * len(bars)), 4.4), layout="constrained")
        axes = figure.subplots()
        for number, treatment in enumerate(treatments):
            places = [place for place, (_, one) in enumerate(bars) if one.treatment == treatment]
            rates = [bars[place][1].rate for place in places]
            heights = [rate.ctr / best for rate in rates]
            ends = [[(rate.ctr - rate.low) / best for rate in rates], [(rate.high - rate.ctr) / best for rate in rates]]
            colour = COLOURS[number % len(COLOURS)]
            axes.bar(places, heights, width=0.72, color=colour, label=treatment.replace("_", " "))
            axes.errorbar(places, heights, yerr=ends, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
        axes.set_xticks(range(len(bars)), [slot for slot, _ in bars], rotation=45, ha="right")
        axes.set_xlabel("content: slot and treatment")
        axes.set_ylabel("click-through rate, relative to the highest")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        # An interval that reaches far beyond the bars says only that little is known; the axis need not follow it.
        axes.set_ylim(0, min(2.0, 1.05 * max(one.rate.high for _, one in bars) / best))
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
        title = f"100 % = {best:.2%} click-through; lines: {report.confidence:.0%} intervals"
        axes.set_title(f"Simulated clicks: nobody saw this content\n{title}" if report.simulated else title, fontsize=10)
    return figure
