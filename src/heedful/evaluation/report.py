"""The report: one HTML file that opens anywhere, the figures as PNG and SVG, and the numbers as JSON and Parquet."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
from collections.abc import Mapping
from importlib import metadata

import pyarrow.parquet as pq
from matplotlib.figure import Figure

from heedful.evaluation.depths import DepthStudy
from heedful.evaluation.figures import (
    COLOURS,
    GRID,
    INK,
    Panel,
    depth_panels,
    draw,
    ndcg_panels,
    recall_panels,
    to_png,
    to_svg,
)
from heedful.evaluation.measures import TOP, Measure, pool_name
from heedful.evaluation.page import definitions, join, leads_section, page, section
from heedful.evaluation.results import Comparison
from heedful.folders import new_folder

__all__ = ["KIND", "write_report"]

KIND = "report"
_PACKAGES = ("heedful", "numpy", "numba", "torch", "pyarrow", "duckdb", "matplotlib")
_INTRODUCTION = (
    "What each test user touched for the first time after the cut is ranked among items that the user never touched. "
    "Negatives are drawn without replacement in proportion to popularity to the power γ: γ = 1 is the hardest pool, γ = 0 "
    "draws all items alike. Tied scores share their mean rank. A model trained on negatives from one γ is corrected "
    "for the γ of the pool at hand; the same model without that correction is beside it as “no prior”. All models meet "
    "the same pools."
)


def write_report(
    comparison: Comparison,
    out: str | os.PathLike[str],
    *,
    depths: DepthStudy | None = None,
    facts: Mapping[str, str] | None = None,
    title: str = "Recommenders compared",
    overwrite: bool = False,
) -> None:
    """Write a report folder: report.html, figure-*.png and .svg, results.json, per_user.parquet and pools.parquet.

    With a study of depths also figure 4 and depths.parquet, which is per_user.parquet for the depths.

    Args:
        comparison: what `compare` found.
        out: the folder to be made.
        depths: what `study_depths` found in the same pools.
        facts: lines for the head of the report, such as where the log lies and where it was cut.
        title: of the page.
        overwrite: replace a finished report.

    Raises:
        FolderError: the place is taken or cannot be written.
    """
    figures = {
        "figure-2": ("NDCG against the number of negatives", ndcg_panels(comparison)),
        "figure-3": ("Recall@K against K", recall_panels(comparison)),
    }
    if depths is not None:
        figures["figure-4"] = (f"Depth of {depths.model}", depth_panels(depths))
    with new_folder(out, kind=KIND, overwrite=overwrite) as folder:
        for name, (_, panels) in figures.items():
            figure = draw(panels)
            (folder.path / f"{name}.png").write_bytes(to_png(figure))
            (folder.path / f"{name}.svg").write_text(to_svg(figure, name=name), encoding="utf-8")
        results = comparison.to_dict() | {"facts": dict(facts or {})}
        if depths is not None:
            results["depths"] = depths.to_dict()
            pq.write_table(depths.per_user(), folder.path / "depths.parquet")
        (folder.path / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        pq.write_table(comparison.per_user(), folder.path / "per_user.parquet")
        comparison.pools.save(folder.path / "pools.parquet")
        (folder.path / "report.html").write_text(_page(comparison, depths, figures, facts or {}, title), encoding="utf-8")
        folder.manifest["pools"] = comparison.pools.hash
        folder.manifest["profile"] = {f"{name}_seconds": round(value, 3) for name, value in comparison.seconds.items()} | {
            name: {"scoring_seconds": round(result.scoring_seconds, 3), "ranking_seconds": round(result.ranking_seconds, 3)}
            for name, result in comparison.results.items()
        }


def _page(
    comparison: Comparison,
    depths: DepthStudy | None,
    figures: Mapping[str, tuple[str, list[Panel]]],
    facts: Mapping[str, str],
    title: str,
) -> str:
    headline = comparison.verdict_table(metrics=("NDCG", f"NDCG@{TOP}"))
    beyond = comparison.beyond_table()
    sections = [
        f"<header><h1>{html.escape(title)}</h1><p>{_INTRODUCTION}</p>{_facts(comparison, facts)}</header>",
        leads_section(comparison.leads(), comparison.config.alpha),
        section("Who ranks best", _winners(comparison)),
        section(
            "Accuracy", "<p>Means over users ± standard error.</p>" + join(comparison.accuracy_tables()), _notes(comparison)
        ),
        *(
            section(heading, _depth_words(depths) if name == "figure-4" else "", _figure(name, panels, comparison))
            for name, (heading, panels) in figures.items()
        ),
    ]
    if comparison.verdicts:
        every = f"<details><summary>All comparisons</summary>{comparison.verdict_table().html()}</details>"
        sections.append(section("Verdicts", headline.html(), every))
    if beyond is not None:
        sections.append(section("Beyond accuracy", beyond.html()))
    sections.append(section("For whom, and for what", join(comparison.class_tables())))
    sections.append(section("How to get these numbers again", _origin(comparison)))
    return page(title, sections)


def _facts(comparison: Comparison, facts: Mapping[str, str]) -> str:
    pools = comparison.pools
    lines = {
        **facts,
        "Test users": f"{len(pools):,}, with {pools.positives.lengths.mean():.2f} new items each on average",
        "Items": f"{len(pools.items):,}",
        "Pools": f"{comparison.size:,} negatives in the tables; hash {pools.hash[:16]}; seed {pools.seed}",
    }
    return definitions(lines)


def _winners(comparison: Comparison) -> str:
    """For each pool the model with the highest NDCG, and which of the others it is shown to beat."""
    lines = []
    for measure, means in comparison.means().items():
        if means:
            best = max(means, key=lambda name: means[name])
            where, name = html.escape(str(measure)), html.escape(best)
            lines.append(f"<li>{where}: <strong>{name}</strong> ({means[best]:.4f}){_beats(comparison, measure, best)}</li>")
    return f"<ul>{''.join(lines)}</ul>"


def _beats(comparison: Comparison, measure: Measure, best: str) -> str:
    about = [v for v in comparison.verdicts if v.measure == measure and best in (v.first, v.second)]
    even = [v.second if v.first == best else v.first for v in about if v.better is None]
    if not about:
        return ""
    if not even:
        return f", better than each of the others at level {comparison.config.alpha:g}"
    return html.escape(f"; no difference to {', '.join(even)} is shown at level {comparison.config.alpha:g}")


def _notes(comparison: Comparison) -> str:
    return '<ul class="notes">' + "".join(f"<li>{html.escape(note)}</li>" for note in comparison.notes) + "</ul>"


def _depth_words(depths: DepthStudy | None) -> str:
    """What the tests between depths say, for each gamma, and the numbers behind it."""
    assert depths is not None
    config = depths.comparison.config
    lines = [
        f"<h3>{html.escape(pool_name(gamma))}</h3><ul>"
        + "".join(f"<li>{html.escape(sentence)}</li>" for sentence in depths.sentences(gamma))
        + "</ul>"
        for gamma in config.gammas
    ]
    every = f"<details><summary>All comparisons of depths</summary>{depths.comparison.verdict_table().html()}</details>"
    count = len(depths.comparison.verdicts)
    tests = (
        f"<p>Paired tests over users between all depths, at level {config.alpha:g} after Holm's correction for these "
        f"{count} tests. “Not shown” does not prove that there is none.</p>"
    )
    return f"{''.join(lines)}{tests}{join(depths.tables())}{every}"


def _figure(name: str, panels: list[Panel], comparison: Comparison) -> str:
    drawn = "".join(f'<div class="panel">{_inline(draw([panel]), f"{name}-{n}")}</div>' for n, panel in enumerate(panels))
    number = name.removeprefix("figure-")
    caption = f"As figure {number} of the paper. Bands: 95 % over users."
    if any(line.dashed for panel in panels for line in panel.lines):
        caption += " Dashed: the same model without its prior."
    users = comparison.figure_users
    if name == "figure-2" and users is not None:
        caption += f" All points are means over the same {int(users.sum()):,} users, those who have the largest pools."
    return f'<figure><div class="panels">{drawn}</div><figcaption>{caption}</figcaption></figure>'


def _inline(figure: Figure, name: str) -> str:
    """SVG for the page: without the XML head and ids that figures share, scaling with its place, in the page's colours."""
    svg = to_svg(figure, name=name)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :])
    for colour, variable in ((INK, "ink"), (GRID, "grid"), *((c, f"c{n}") for n, c in enumerate(COLOURS))):
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.replace("<svg ", '<svg role="img" ', 1)


def _origin(comparison: Comparison) -> str:
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    options = {name: json.dumps(value) for name, value in comparison.config.to_dict().items()}
    pools = {"Seed": str(comparison.pools.seed), "Hash of the pools": comparison.pools.hash}
    software = {"Versions": ", ".join(f"{name} {version}" for name, version in versions.items())}
    return definitions(pools | software) + f"<details><summary>All options</summary>{definitions(options)}</details>"
