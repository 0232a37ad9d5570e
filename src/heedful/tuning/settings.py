"""Settings as a TOML file with a section for each command: what `tune` writes, and `embed` and `train` read."""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heedful.config import Config
from heedful.errors import ConfigError, InputError

__all__ = ["MODEL_SECTIONS", "SECTIONS", "Settings", "read_section", "section_of", "to_toml"]

MODEL_SECTIONS = (
    "mixed",
    "averaging",
    "recent-popularity",
    "two-stage",
    "ease",
    "als",
    "bpr",
    "cosine",
    "bm25",
    "sasrec",
    "gsasrec",
    "esasrec",
    "hstu",
    "tifu-knn",
    "up-cf",
)
"""Models that have a section of their own; that of the attention ranker is "train"."""
SECTIONS = ("embed", "train", *MODEL_SECTIONS)
Settings = Mapping[str, Mapping[str, Any]]
"""Section -> option -> value."""


def read_section(path: str | os.PathLike[str], section: str, configs: Sequence[type[Config]]) -> dict[str, Any]:
    """The options of one section of a settings file, ready for a configuration; none where the section is missing.

    Args:
        path: a TOML file.
        section: one of `SECTIONS`.
        configs: the configurations whose fields may be given there.

    Raises:
        InputError: the file cannot be read or is not TOML.
        ConfigError: an unknown section or option, or a value of another type than the option's.
    """
    table = _table(path)
    _refuse_unknown(path, "sections", [name for name in table if name not in SECTIONS], SECTIONS)
    options = table.get(section, {})
    if not isinstance(options, dict):
        raise ConfigError(
            f"{section!r} in {path} is not a section", got=repr(options), expected=f"[{section}] and its options"
        )
    hints: dict[str, Any] = {}
    for config in configs:
        every = typing.get_type_hints(config)
        hints |= {field.name: every[field.name] for field in dataclasses.fields(config) if field.name not in hints}
    _refuse_unknown(path, f"options in [{section}]", [name for name in options if name not in hints], sorted(hints))
    return {name: _converted(f"{path}, [{section}] {name}", value, hints[name]) for name, value in options.items()}


def section_of(path: str | os.PathLike[str] | None, model: str) -> str:
    """The section of a settings file for a model: the one of its name if the file has that, or else "train".

    Raises:
        InputError: the file cannot be read or is not TOML.
    """
    own = path is not None and model in SECTIONS and model in _table(path)
    return model if own else "train"


def to_toml(settings: Settings, *, comment: str, proposed: Settings | None = None) -> str:
    """The text of a settings file.

    Args:
        settings: numbers, texts, truth values and sequences of them.
        comment: what comes first, one comment line for each line.
        proposed: options written as comments, which change nothing until somebody removes the marks.
    """
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    for section in (name for name in SECTIONS if name in settings or name in (proposed or {})):
        lines += ["", f"[{section}]"]
        lines += [f"{name} = {_literal(value)}" for name, value in settings.get(section, {}).items()]
        lines += [f"# {name} = {_literal(value)}" for name, value in (proposed or {}).get(section, {}).items()]
    return "\n".join(lines) + "\n"


def _table(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read", got=error, expected="a TOML file such as `heedful tune` writes"
        ) from error


def _refuse_unknown(path: str | os.PathLike[str], what: str, unknown: Sequence[str], known: Sequence[str]) -> None:
    if unknown:
        raise ConfigError(f"unknown {what} of {path}", got=", ".join(unknown), expected=f"some of {', '.join(known)}")


def _converted(where: str, value: Any, hint: Any) -> Any:
    """The value as the option's type has it: lists as tuples, whole numbers as floats where these are meant."""
    if not _fits(value, hint):
        raise ConfigError(f"{where} has a value of the wrong type", got=repr(value), expected=_words(hint))
    if isinstance(value, list):
        (element, *_) = typing.get_args(hint)
        return tuple(_converted(where, part, element) for part in value)
    return float(value) if hint is float else value


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, list) and all(_fits(part, arguments[0]) for part in value)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, argument) for argument in arguments)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(repr(choice) for choice in arguments)
    if origin is tuple:
        return f"a list of {arguments[0].__name__}"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _literal(value: Any) -> str:
    """A value in TOML; JSON has the same texts, whole numbers and truth values."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_literal(part) for part in value)}]"
    return repr(value) if isinstance(value, float) else json.dumps(value)
