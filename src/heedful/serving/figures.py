"""Figure 5 of the paper: click-through of each piece of content, relative to the highest."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from heedful.errors import ConfigError
from heedful.evaluation.figures import GRID, INK, to_png, to_svg
from heedful.folders import write_atomically
from heedful.serving.click_report import Report, Treated

__all__ = ["colour_of", "draw_figure5", "figure5"]

_ROW_INCHES = 0.3
_COLOURS = {"popularity": "#a06a12", "last_item": "#37679b", "editorial": "#87507f"}
_MODEL_COLOUR = "#0b6b59"


def colour_of(treatment: str) -> str:
    """The colour of a treatment, the same in every figure and on the page (web/style.css)."""
    return _COLOURS.get(treatment, _MODEL_COLOUR)


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
    """Bars of relative click-through by slot and treatment, with intervals, the rate and the number of impressions.

    Raises:
        ConfigError: nothing was clicked yet.
    """
    slots = [(slot.slot, sorted(slot.treatments, key=lambda one: -one.rate.ctr)) for slot in report.slots]
    rates = [one.rate for _, treatments in slots for one in treatments if one.relative is not None]
    best = max((rate.ctr for rate in rates), default=0.0)
    if not best:
        raise ConfigError("there is nothing to draw", got="no click yet", fix="wait for clicks, or run the simulator")
    # An interval that reaches far beyond the bars says only that little is known; the axis need not follow it.
    end = min(2.0, 1.05 * max(rate.high for rate in rates) / best)
    rows = len(rates) + len(slots)
    with mpl.rc_context({"font.family": "sans-serif", "text.color": INK, "axes.edgecolor": INK, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.2, 1.4 + _ROW_INCHES * rows), layout="constrained")
        axes = figure.subplots()
        place, names = 0, []
        for slot, treatments in slots:
            axes.text(0, place, slot, va="center", fontsize=10, fontweight="bold")
            names.append("")
            for one in treatments:
                place += 1
                names.append(one.treatment.replace("_", " "))
                _bar(axes, place, one, best, end)
            place += 1
        axes.set_yticks(range(rows), names)
        axes.set_ylim(rows - 0.4, -0.6)
        _frame(axes, end)
        title = f"100 % = {best:.2%} click-through; lines: {report.confidence:.0%} intervals"
        axes.set_title(f"Simulated clicks: nobody saw this content\n{title}" if report.simulated else title, fontsize=10)
    return figure


def _bar(axes: Axes, place: int, one: Treated, best: float, end: float) -> None:
    rate = one.rate
    axes.barh(place, rate.ctr / best, height=0.66, color=colour_of(one.treatment))
    ends = [[(rate.ctr - rate.low) / best], [(rate.high - rate.ctr) / best]]
    axes.errorbar(rate.ctr / best, place, xerr=ends, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
    axes.text(1.02 * end, place, f"{rate.ctr:.2%} of {rate.impressions:,}", va="center", fontsize=9)


def _frame(axes: Axes, end: float) -> None:
    axes.set_xlim(0, end)
    axes.set_xlabel("click-through rate, relative to the highest; on the right the rate and the impressions")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.axvline(1, color=INK, linewidth=0.8, linestyle="--", alpha=0.5)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
