"""Configurations, and the command-line options that are made of them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

from heedful.cli.options import chosen, config_options
from heedful.config import Config, option, require
from heedful.embeddings.skipgram import SkipGramConfig
from heedful.errors import ConfigError
from heedful.evaluation.options import EvaluationConfig
from heedful.events.preparing import PrepareConfig
from heedful.rankers.attention import AttentionConfig
from heedful.rankers.averaging import AveragingConfig
from heedful.rankers.heuristics import LastItemConfig, WeightedSumConfig
from heedful.rankers.popularity import PopularityConfig
from heedful.tuning.options import TuneConfig

CONFIGS: list[type[Config]] = [
    AttentionConfig, AveragingConfig, EvaluationConfig, LastItemConfig, PopularityConfig, PrepareConfig, SkipGramConfig,
    TuneConfig, WeightedSumConfig,
]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Oven(Config):
    """An oven."""

    degrees: int = option(180, "how hot")
    fan: bool = option(True, "whether the fan runs")
    mode: Literal["bake", "grill"] = option("bake", "what it does")
    minutes: tuple[float, ...] = option((), "when to turn")
    dish: str | None = option(None, "what is in it")

    def __post_init__(self) -> None:
        require(self.degrees > 0, "degrees", got=self.degrees, expected="more than 0")


@pytest.mark.parametrize("config", CONFIGS)
def test_every_configuration_can_be_saved_and_read_back(config: type[Config]) -> None:
    values = json.loads(json.dumps(config().to_dict()))
    as_read = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    assert config.from_dict(as_read) == config()


@pytest.mark.parametrize("config", CONFIGS)
def test_every_option_has_help_and_nothing_can_be_changed(config: type[Config]) -> None:
    for field in dataclasses.fields(config):
        assert len(field.metadata["help"]) > 5, field.name
        assert field.kw_only
        with pytest.raises(dataclasses.FrozenInstanceError, match=field.name):
            setattr(config(), field.name, field.default)


def test_an_unknown_name() -> None:
    with pytest.raises(
        ConfigError, match="unknown option for Oven; got: colour, smell; expected: one of degrees, fan, mode"
    ):
        Oven.from_dict({"smell": 1, "colour": 2})


def test_out_of_range() -> None:
    with pytest.raises(ConfigError, match="option 'degrees' is out of range; got: -5; expected: more than 0"):
        Oven(degrees=-5)


def parse(*arguments: str) -> tuple[int, Any]:
    """Exit code, and the options that were chosen, or the output."""
    found: dict[str, Any] = {}

    @click.command()
    @config_options(Oven, leave_out=["dish"])
    @click.option("--plain", is_flag=True)
    def command(**options: Any) -> None:
        found.update(chosen(options))

    result = CliRunner().invoke(command, arguments)
    return result.exit_code, found if result.exit_code == 0 and arguments != ("--help",) else result.output


def test_only_what_was_given_is_chosen() -> None:
    assert parse() == (0, {})
    assert parse("--degrees", "200", "--no-fan", "--mode", "grill") == (0, {"degrees": 200, "fan": False, "mode": "grill"})
    assert parse("--minutes", "1, 2.5,3") == (0, {"minutes": (1.0, 2.5, 3.0)})


def test_wrong_values_are_wrong_usage() -> None:
    for arguments in (("--degrees", "hot"), ("--mode", "steam"), ("--minutes", "1,x"), ("--dish", "pie")):
        assert parse(*arguments)[0] == 2


def test_help_says_the_default() -> None:
    _, text = parse("--help")
    for words in ("--degrees INTEGER", "how hot  [180]", "--fan / --no-fan", "[on]", "[bake|grill]", "when to turn  [none]"):
        assert words in text
