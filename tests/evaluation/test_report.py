"""The report folder: complete, self-contained, and the same each time."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from evaluation_worlds import CUT, ShiftedRanker, noise, taste, taste_log

from heedful.errors import FolderError
from heedful.evaluation.comparison import Comparison, EvaluationConfig, compare
from heedful.evaluation.depths import DepthStudy, study_depths
from heedful.evaluation.figures import Line, Panel, depth_panels, draw, ndcg_panels, recall_panels, to_svg
from heedful.evaluation.report import write_report
from heedful.evaluation.tables import Table
from heedful.folders import open_folder

CONFIG = EvaluationConfig(pool=50, resamples=200, catalogue_users=40, max_users=80)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    past, future = taste_log(events=8000).split(CUT)
    models = {"a <ranker> & more": ShiftedRanker(past, taste(past)), "noise": noise(0)}
    return compare(models, future, past=past, config=CONFIG)


@pytest.fixture(scope="module")
def study(comparison: Comparison) -> DepthStudy:
    past, _ = taste_log(events=8000).split(CUT)
    depths = {4: taste(past), 1: noise(0), 2: taste(past, weight=0.5)}
    return study_depths(depths, comparison, past, model="the <tower>")


@pytest.fixture(scope="module")
def report(comparison: Comparison, study: DepthStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reports") / "report"
    write_report(comparison, out, depths=study)
    return out


class Tags(HTMLParser):
    """Collects attributes and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_folder_holds_everything(report: Path) -> None:
    folder = open_folder(report, kind="report")
    figures = {f"figure-{n}.{suffix}" for n in (2, 3, 4) for suffix in ("png", "svg")}
    assert set(folder.manifest["files"]) == figures | {"report.html", "results.json", "per_user.parquet", "pools.parquet",
                                              "depths.parquet"}  # fmt: skip
    results = json.loads((report / "results.json").read_text())
    assert results["pools"]["hash"] == folder.manifest["pools"]
    assert (report / "figure-2.png").read_bytes().startswith(b"\x89PNG")
    assert pq.read_table(report / "pools.parquet").num_rows == 3 * 80
    assert results["depths"]["depths"] == [1, 2, 4] and len(results["depths"]["verdicts"]) == 3 * 9
    assert set(folder.manifest["profile"]) >= {"pools_seconds", "tests_seconds", "noise"}


def test_the_page_is_whole_and_needs_nothing_else(report: Path, comparison: Comparison) -> None:
    page = (report / "report.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    outside = [v for k, v in tags.attributes if k in ("src", "href", "xlink:href") and v and not v.startswith("#")]
    assert outside == [] and "<script" not in page and "@import" not in page
    ids = [v for k, v in tags.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    for part in (
        "Krichene",
        comparison.pools.hash,
        "a &lt;ranker&gt; &amp; more",
        "viewport",
        "the &lt;tower&gt;",
        "prefers-color-scheme:dark",
    ):
        assert part in page
    assert "<ranker>" not in page
    assert not re.search(r"#(0072b2|1c1d21)\b(?![^{}]*})", page.split("</style>")[1])


def test_a_report_in_the_way_is_kept(report: Path, comparison: Comparison) -> None:
    with pytest.raises(FolderError, match="exists already"):
        write_report(comparison, report)


def test_figures_show_every_model_and_are_reproducible(comparison: Comparison, study: DepthStudy) -> None:
    two, three = ndcg_panels(comparison), recall_panels(comparison)
    assert [len(panel.lines) for panel in two] == [3, 3, 3] and len(three) == 2
    assert two[0].lines[0].x == [10, 30, 50, 100, 300, 399] and three[0].lines[0].x[-1] == 50
    assert [line.dashed for line in two[0].lines] == [False, True, False]
    assert to_svg(draw(two), name="x") == to_svg(draw(two), name="x")
    assert all(len(set(line.mean)) > 1 for line in two[0].lines)
    four = depth_panels(study)
    assert [panel.y_label for panel in four] == ["NDCG"] * 3 + ["Recall@K"] * 3 and four[0].lines[0].x == [1, 2, 4]
    assert [line.label for line in four[3].lines] == ["Recall@10", "Recall@50"]
    assert len(draw(four).axes) == 6 and draw(four[:1]).get_size_inches()[0] < 5


def test_ten_models_look_different() -> None:
    labels = [f"a model with a rather long name {n}, no prior" for n in range(12)]
    lines = [Line(label, style, x=[10, 100], mean=[0.1, 0.2], error=[0.0, 0.0]) for style, label in enumerate(labels)]
    figure = draw([Panel("t", "x", "y", lines)])
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(looks) == 12
    figure.canvas.draw()
    box, (legend,) = figure.bbox, figure.legends
    assert legend.get_window_extent().x0 >= box.x0 and legend.get_window_extent().x1 <= box.x1


def test_tables() -> None:
    table = Table("t", ("model", "x"), (("a", "0.1 ± 0.2"), ("long name", "–")), frozenset({1}))
    assert table.text().splitlines() == ["t", "model              x", "a          0.1 ± 0.2", "long name          –"]
    assert '<span class="error"> ± 0.2</span>' in table.html() and table.html().count('class="marked"') == 1
