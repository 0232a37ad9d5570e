"""The table of what is searched: every option exists, its default and the paper's value lie in its range."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pytest

from heedful.embeddings.skipgram import SkipGramConfig
from heedful.errors import ConfigError
from heedful.rankers.attention import AttentionConfig
from heedful.rankers.registry import ALL_MODELS
from heedful.tuning.options import TuneConfig
from heedful.tuning.settings import MODEL_SECTIONS
from heedful.tuning.space import (
    SIZE_BOUND,
    SPACE,
    Choice,
    Real,
    Whole,
    default_values,
    paper_values,
    searched_options,
    suggest,
    to_settings,
)

ALL = tuple(SPACE)
ATTENTION = tuple(option for option in ALL if option.split(".")[0] in ("embed", "train"))


@pytest.mark.parametrize("option", ALL)
def test_default_and_paper_lie_in_the_range(option: str) -> None:
    assert default_values([option])[option] in SPACE[option]
    assert paper_values([option])[option] in SPACE[option]
    assert all(isinstance(SPACE[option].low, int) for _ in [0] if isinstance(SPACE[option], Whole))  # type: ignore[union-attr]


def test_the_ends_of_every_range_are_allowed_values() -> None:
    for ends in (0, -1):
        values = {}
        for option, domain in SPACE.items():
            pair = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
            values[option] = pair[ends]
        settings = to_settings(values)
        SkipGramConfig(**settings["embed"])
        AttentionConfig(**settings["train"])
        for model in MODEL_SECTIONS:
            ALL_MODELS[model](**settings[model])


def test_every_model_but_those_without_options_can_be_tuned() -> None:
    tuned = {"attention", *MODEL_SECTIONS}
    # The weighted sum tunes itself.
    assert set(ALL_MODELS) - tuned == {"weighted-sum", "last-item", "popularity", "own-frequent"}
    for model in MODEL_SECTIONS:
        options = searched_options([], sampled=True, sections=TuneConfig(model=model).sections)
        assert options and {option.split(".")[0] for option in options} == {model}
    with pytest.raises(ConfigError, match="is not searched; got: depth; expected: some of ease"):
        searched_options(["depth"], sampled=True, sections=("ease",))
    with pytest.raises(ConfigError, match="option 'model' is out of range; got: 'popularity'"):
        TuneConfig(model="popularity")


def test_the_defaults_are_no_settings_at_all() -> None:
    assert to_settings(default_values(ALL)) == {"embed": {}, "train": {}}
    paper = to_settings(paper_values(ALL), fixed={"train.target_kinds": ("buy",)})
    assert paper["embed"] == {} and paper["train"]["depth"] == 10 and paper["train"]["target_kinds"] == ("buy",)
    assert "learning_rate" not in paper["train"]  # the same in both


def test_which_options_are_searched() -> None:
    assert searched_options([], sampled=False) == ATTENTION
    assert set(ATTENTION) - set(searched_options([], sampled=True)) == set(SIZE_BOUND)
    assert searched_options(["depth", "embed.window"], sampled=True) == ("embed.window", "train.depth")
    assert searched_options(["negatives"], sampled=True) == ("embed.negatives", "train.negatives")
    assert searched_options(["train.steps"], sampled=True) == ("train.steps",)
    sections = {option.split(".")[0] for option in searched_options(["train"], sampled=True)}
    assert sections == {"train"} and "train.steps" not in searched_options(["train"], sampled=True)
    with pytest.raises(ConfigError, match=r"is not searched; got: dept; expected: some of embed\.width, "):
        searched_options(["depth", "dept"], sampled=True)


def test_suggestions_are_what_is_used_and_written() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        values = suggest(study.ask(), ALL)
        assert list(values) == list(ALL)
        for option, value in values.items():
            assert value in SPACE[option]
            if isinstance(SPACE[option], Real):
                assert value == float(f"{value:.4g}")


def test_the_documentation_lists_what_is_searched() -> None:
    text = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text()
    rows = re.findall(r"^\| ([a-z0-9, -]+) \| (`.*) \|$", text, re.MULTILINE)
    listed = []
    for models, options in rows:
        for part in options.split("; "):  # "bm25: `saturation`" is what bm25 alone has
            only = re.match(r"([a-z0-9-]+): ", part)
            sections = [only.group(1)] if only else models.split(", ")
            listed += [f"{section}.{name}" for section in sections for name in re.findall(r"`(\w+)`", part)]
    assert sorted(listed) == sorted(SPACE)
    bracketed = [f"{section}.{name}" for section, options in rows for name in re.findall(r"\(`(\w+)`\)", options)]
    assert tuple(bracketed) == SIZE_BOUND
