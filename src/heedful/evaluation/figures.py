"""Figures 2, 3 and 4 of the paper, for any comparison: lines of means with 95 % bands over users.

Colours are chosen to be told apart by colour-blind readers, and each model has its own marker besides.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from heedful.evaluation.depths import DepthStudy
from heedful.evaluation.measures import Measure, Values, pool_name
from heedful.evaluation.options import RECALL_CURVE
from heedful.evaluation.results import Comparison, estimate

__all__ = [
    "COLOURS", "GRID", "INK", "Line", "Panel", "depth_panels", "draw", "ndcg_panels", "recall_panels", "to_png", "to_svg",
]  # fmt: skip

INK, GRID = "#1c1d21", "#d9dade"
COLOURS = (
    "#0072b2", "#d55e00", "#007a5a", "#a8518a", "#8a6100", "#3a8fc4", "#5b5b60", "#b3263a", "#5a4fb5", "#6f8a00",
)  # fmt: skip
_MARKERS = "osD^vPX*<>"
_PANEL_INCHES, _PANELS_ACROSS = 4.3, 3
_BAND = 1.96  # standard errors on either side of a mean

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Line:
    """One line: x, mean and standard error at each point; `style` numbers colour and marker."""

    label: str
    style: int
    dashed: bool = False
    x: list[float] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log_x: bool = True
    from_zero: bool = True


def ndcg_panels(comparison: Comparison) -> list[Panel]:
    """Figure 2: NDCG against the number of negatives, a panel for each gamma; every point is of the same users."""
    sizes = comparison.config.pool_sizes
    return [
        Panel(
            f"negatives from {_distribution(gamma)}",
            "number of negatives",
            "NDCG",
            _lines(comparison, {n: Measure(pool_name(gamma), n, "NDCG") for n in sizes}, comparison.figure_users),
        )
        for gamma in comparison.config.gammas
    ]


def recall_panels(comparison: Comparison) -> list[Panel]:
    """Figure 3: Recall@K against K, a panel for each gamma above 0 (or for each there is)."""
    gammas = [gamma for gamma in comparison.config.gammas if gamma > 0] or list(comparison.config.gammas)
    ks = [k for k in RECALL_CURVE if k <= comparison.size]
    return [
        Panel(
            f"{comparison.size:,} negatives from {_distribution(gamma)}",
            "K",
            "Recall@K",
            _lines(comparison, {k: Measure(pool_name(gamma), comparison.size, f"Recall@{k}") for k in ks}),
        )
        for gamma in gammas
    ]


def depth_panels(study: DepthStudy) -> list[Panel]:
    """Figure 4: NDCG against the depth of the ranker for each gamma, then Recall@K likewise."""
    config = study.comparison.config
    panels = []
    for y_label, metrics in (("NDCG", ["NDCG"]), ("Recall@K", [f"Recall@{k}" for k in config.ks])):
        for gamma in config.gammas:
            lines = [Line(metric, style + (y_label != "NDCG")) for style, metric in enumerate(metrics)]
            for line in lines:
                for depth, result in study.results.items():
                    _add(line, depth, result.best, Measure(pool_name(gamma), study.comparison.size, line.label))
            where = f"{study.comparison.size:,} negatives from {_distribution(gamma)}"
            panels.append(Panel(where, "depth (layers of attention)", y_label, lines, log_x=False, from_zero=False))
    return panels


def draw(panels: Sequence[Panel]) -> Figure:
    """Draw panels side by side, at most three in a row, with one legend below them."""
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    across = min(len(panels), _PANELS_ACROSS)
    rows = math.ceil(len(panels) / across)
    # A column takes the longest label and its mark.
    columns = max(1, min(len(labels), int(_PANEL_INCHES * across / (0.5 + 0.075 * max(map(len, labels), default=1)))))
    with mpl.rc_context(_STYLE):
        height = 3.1 * rows + 0.24 * math.ceil(len(labels) / columns)
        figure = Figure(figsize=(_PANEL_INCHES * across, height), layout="constrained")
        all_axes = figure.subplots(rows, across, squeeze=False).ravel()
        for axes, panel in zip(all_axes, panels, strict=False):
            _draw_panel(axes, panel)
        for axes in all_axes[len(panels) :]:
            axes.set_axis_off()
        handles = {
            label: handle for axes in all_axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize=9)
    return figure


def to_png(figure: Figure) -> bytes:
    """The figure as PNG, white behind."""
    with mpl.rc_context(_STYLE):
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=160, facecolor="white")
    return stream.getvalue()


def to_svg(figure: Figure, *, name: str) -> str:
    """The figure as SVG, transparent behind; the same figure gives the same text.

    Args:
        figure: what to write.
        name: keeps the ids inside apart where several figures are on one page.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name, "svg.id": name}):
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return stream.getvalue()


def _distribution(gamma: float) -> str:
    names = {1.0: "popularity (γ = 1)", 0.0: "all items alike (γ = 0)"}
    return names.get(gamma, f"popularity^{gamma:g} (γ = {gamma:g})")


def _lines(comparison: Comparison, points: Mapping[int, Measure], users: np.ndarray | None = None) -> list[Line]:
    lines = []
    for style, result in enumerate(comparison.results.values()):
        for number, (label, way) in enumerate(result.ways()):
            line = Line(label, style, dashed=number > 0)
            for x, measure in points.items():
                _add(line, x, way, measure, users)
            lines.append(line)
    return lines


def _add(line: Line, x: float, way: Values, measure: Measure, users: np.ndarray | None = None) -> None:
    found = estimate(way, measure, users)
    if found is not None:
        line.x.append(x)
        line.mean.append(found.mean)
        line.error.append(0.0 if math.isnan(found.error) else found.error)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.log_x:
        axes.set_xscale("log")
    for line in panel.lines:
        colour = COLOURS[line.style % len(COLOURS)]
        turn = line.style // len(COLOURS)  # past the last colour they begin again, with other markers
        marker = "" if line.dashed else _MARKERS[(line.style + turn) % len(_MARKERS)]
        axes.plot(line.x, line.mean, color=colour, marker=marker, linestyle="--" if line.dashed else "-", label=line.label)
        if not line.dashed:
            low = [mean - _BAND * error for mean, error in zip(line.mean, line.error, strict=True)]
            high = [mean + _BAND * error for mean, error in zip(line.mean, line.error, strict=True)]
            axes.fill_between(line.x, low, high, color=colour, alpha=0.18, linewidth=0)
    if panel.from_zero:
        axes.set_ylim(bottom=0)
    _tick(axes, panel)


def _tick(axes: Axes, panel: Panel) -> None:
    points = sorted({x for line in panel.lines for x in line.x})
    if not panel.log_x:
        axes.set_xticks(points)
        return
    shown = [x for x in points if str(int(x)).rstrip("0") in ("1", "3", "5")]
    if points and (not shown or points[-1] > 2 * shown[-1]):
        shown.append(points[-1])
    axes.set_xticks(shown)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x < 10_000 else f"{x / 1000:,.0f}k"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
