"""Without the optional packages: the rest works, and the message says what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from heedful.errors import MissingExtraError
from heedful.rankers.registry import ALL_MODELS, load_ranker
from ranking_worlds import QUICK, log_of, python, random_log

IMPLICIT = ("als", "bpr", "cosine", "bm25")
RECTOOLS = ("sasrec", "gsasrec", "esasrec", "hstu")


def without(patch: pytest.MonkeyPatch, package: str) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            patch.delitem(sys.modules, name)
    patch.setitem(sys.modules, package, None)


@pytest.mark.parametrize("model", IMPLICIT)
def test_implicit_is_missing(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "implicit")
    match = r"package 'implicit', which is not installed; to fix: pip install 'heedful\[bench\]'$"
    with pytest.raises(MissingExtraError, match=match):
        ALL_MODELS[model](**QUICK[model]).fit(random_log(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", RECTOOLS)
def test_rectools_is_missing(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "rectools")
    fix = r"pip install 'heedful\[bench\]', then pip install --no-deps rectools==0.19.0$"
    with pytest.raises(MissingExtraError, match=rf"package 'rectools', which is not installed; to fix: {fix}"):
        ALL_MODELS[model](**QUICK[model]).fit(random_log(), None)  # type: ignore[arg-type]


def test_what_rectools_needs_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "rectools")
    monkeypatch.delitem(sys.modules, "rectools")  # it is imported anew, and then looks for the other
    without(monkeypatch, "pytorch_lightning")
    with pytest.raises(MissingExtraError, match=r"package 'pytorch_lightning', .*pip install 'heedful\[bench\]'$"):
        ALL_MODELS["sasrec"](**QUICK["sasrec"]).fit(random_log(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", IMPLICIT)
def test_what_was_learnt_with_implicit_ranks_without_it(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = ALL_MODELS[model](**QUICK[model]).fit(random_log(), None)  # type: ignore[arg-type]
    fitted.save(tmp_path / "model")
    without(monkeypatch, "implicit")
    loaded = load_ranker(tmp_path / "model")
    assert (loaded.score(["item1"], ["item2", "item3"]) == fitted.score(["item1"], ["item2", "item3"])).all()


def test_nothing_is_imported_before_it_is_needed() -> None:
    packages = ["implicit", "rectools", "pytorch_lightning", "pandas"]
    code = f"import sys, heedful.rankers.registry, heedful.cli.train; print(sorted(set({packages}) & set(sys.modules)))"
    outcome = python(code)
    assert outcome.stdout == "[]\n", outcome.stderr


def test_they_need_no_table() -> None:
    log = log_of([[0, 1, 2], [0, 1], [1, 2], [0, 2, 3]])
    for name in ("ease", *IMPLICIT, *RECTOOLS):
        ranker = ALL_MODELS[name](**QUICK[name]).fit(log, None)  # type: ignore[arg-type]
        assert ranker.embeddings is None and ranker.items == log.catalog.items and not ranker.uses_prior
