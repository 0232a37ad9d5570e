"""Configuration: frozen keyword-only dataclasses whose fields carry their own help.

A configuration is written beside its owner, is checked in `__post_init__`, is the only place where a default is written,
becomes command-line options by itself (`heedful.cli`) and is saved with the result.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Self

from heedful.errors import ConfigError

__all__ = ["Config", "option", "require", "require_gammas"]


def option(default: Any, help: str, *, research: bool = False) -> Any:
    """A dataclass field with its default and the line of help that the command line shows.

    One for `research` is taken on the command line, but `--help` does not show it.
    """
    return dataclasses.field(default=default, metadata={"help": help, "research": research})


def require(condition: bool, name: str, *, got: object, expected: str) -> None:
    """Raise `ConfigError` for option `name` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"option {name!r} is out of range", got=repr(got), expected=expected)


def require_gammas(gammas: Sequence[float]) -> None:
    """Raise `ConfigError` unless these can be the exponents of the pools that models are measured on."""
    fit = len(set(gammas)) == len(gammas) > 0 and all(0 <= gamma < math.inf for gamma in gammas)
    require(fit, "gammas", got=gammas, expected="one or more different numbers, 0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configurations."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`, also after JSON; an unknown name is a `ConfigError`."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(
                f"unknown option for {cls.__name__}", got=", ".join(unknown), expected=f"one of {', '.join(known)}"
            )
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
