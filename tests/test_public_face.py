"""`import heedful`: its names, where they come from, and that they are explained."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import heedful
from ranking_worlds import python

PUBLIC = [
    "AttentionConfig", "AttentionRanker", "AveragingConfig", "AveragingRanker", "Backtest", "BacktestConfig",
    "Candidates", "Catalog",
    "Comparison", "ConfigError", "EvaluationConfig", "EventLog", "Explanation", "FolderError", "HeedfulError",
    "Histories", "InputError", "ItemEmbeddings", "LastItem", "MismatchError", "MissingExtraError", "MixedConfig",
    "MixedRanker", "Popularity", "PrepareConfig", "Query", "Ranker", "Reason", "Recommendations", "Recommender",
    "SkipGram", "SkipGramConfig", "TrainingError", "TuneConfig", "Tuning", "Vocabulary", "WeightedSum",
    "WeightedSumConfig", "backtest", "compare", "extend_table", "load_ranker", "prepare", "read_embeddings", "read_events",
    "recommend_requests", "score_requests", "show_progress", "tune", "write_report",
]  # fmt: skip


def test_the_names_are_these() -> None:
    assert heedful.__all__ == PUBLIC
    assert dir(heedful) == sorted([*PUBLIC, "__version__"])


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_resolves_and_is_explained(name: str) -> None:
    found: Any = getattr(heedful, name)
    assert found.__name__ == name and found.__module__.startswith("heedful.")
    assert inspect.getdoc(found) and len(found.__doc__ or "") > 20
    if inspect.isclass(found):
        for method, value in vars(found).items():
            if inspect.isfunction(value) and not method.startswith("_"):
                inherited = any(getattr(base, method, None).__doc__ for base in found.__mro__ if hasattr(base, method))
                assert inherited, f"{name}.{method}"


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'heedful' has no attribute 'nonsense'"):
        heedful.nonsense  # noqa: B018


def test_the_names_that_type_checkers_see_are_the_same() -> None:
    """What stands under TYPE_CHECKING cannot be imported at run time, so it is read."""
    source = inspect.getsource(heedful)
    seen = sorted(
        line.split(" as ")[1].strip()
        for line in source.splitlines()
        if line.strip().startswith("from heedful.") and " as " in line
    )
    assert seen == PUBLIC


def test_importing_it_is_light() -> None:
    outcome = python(
        "import sys, heedful; print(sorted({'torch', 'numpy', 'pyarrow', 'duckdb', 'numba'} & set(sys.modules)))"
    )
    assert outcome.stdout == "[]\n", outcome.stderr


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib import metadata

    assert heedful.__version__ == metadata.version("heedful")
