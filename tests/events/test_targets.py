"""What is asked for: new items, repeats or both, by kinds of events."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.errors import ConfigError
from heedful.events.targets import TargetConfig, Targets
from heedful.rankers.attention import AttentionConfig

KINDS = ("view", "purchase", "return")


def test_kinds_by_name_become_codes() -> None:
    config = TargetConfig(target="all", target_kinds=("purchase",), seen_kinds=("purchase", "return"))
    targets = Targets.of(config, KINDS)
    assert targets.is_target(np.array([0, 1, 2])).tolist() == [False, True, False]
    assert targets.is_seen(np.array([0, 1, 2])).tolist() == [False, True, True]
    everything = Targets.of(TargetConfig(), KINDS)
    assert everything == Targets(n_kinds=3)
    assert everything.is_target(np.array([0, 7])).all() and everything.is_seen(np.array([2])).all()


def test_new_items_repeats_and_both() -> None:
    touched, seen = np.array([1, 2, 3, 4]), np.array([9, 4, 2])
    found = {target: Targets(target).counts(touched, seen).tolist() for target in ("new", "repeat", "all")}  # type: ignore[arg-type]
    assert found == {"new": [True, False, True, False], "repeat": [False, True, False, True], "all": [True] * 4}


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="'target' is out of range; got: 'old'; expected: new or repeat or all"):
        TargetConfig(target="old")  # type: ignore[arg-type]


def test_kinds_that_speak_against_an_item_make_no_target() -> None:
    targets = Targets.of(TargetConfig(negative_kinds=("return",)), KINDS)
    codes = np.array([0, 1, 2])
    assert targets.is_target(codes).tolist() == targets.speaks_for(codes).tolist() == [True, True, False]
    assert targets.is_seen(np.array([2])).all()


def test_a_history_of_one_kind_tells_no_kinds_apart() -> None:
    assert Targets.of(TargetConfig(), ("view",)).n_kinds == 1
    assert Targets.of(AttentionConfig(history_kinds=("purchase",)), KINDS).n_kinds == 1
    some = Targets.of(AttentionConfig(history_kinds=("view",), target_kinds=("purchase",)), KINDS)
    assert some.n_kinds == 3 and some.seen == (0, 1)
