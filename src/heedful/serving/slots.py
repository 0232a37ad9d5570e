"""Content slots (section 6 of the paper): what may be in one, how its candidates are pre-selected, what is compared.

Declared in TOML, one `[[slot]]` each; docs/slots.md explains every key. `heedful.serving.selection` fills them.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from heedful.config import Config, option
from heedful.errors import ConfigError
from heedful.events.ids import SAFE_INTEGER
from heedful.folders import write_atomically
from heedful.serving.treatments import check_shares

__all__ = ["MODEL", "RULES", "Slot", "Slots", "parse_slots", "read_slots", "to_toml", "write_slots"]

MODEL = "model"
"""The treatment that shows what the served ranker puts first, whichever ranker it is."""
RULES = ("popular", "newest", "best_rated", "editorial", "again")
_WITH_COLUMN = ("newest", "best_rated")
_MAX_TEXT, _MAX_SLOTS, _MAX_CANDIDATES, _MAX_SHOWN, _MAX_IDS = 1_000_000, 200, 20_000, 500, 10_000


@dataclass(frozen=True, kw_only=True)
class Slot(Config):
    """One content slot. Ids are as in the catalogue; an item that is pinned, edited in or pre-selected must be eligible."""

    name: str = field(metadata={"help": "name in addresses: letters, digits, - and _"})
    title: str = option("", "heading above the slot; empty: its name")
    where: str = option("", "SQL condition over the items' attributes, item_id and users; empty: every item")
    rule: str = option(
        "popular",
        "how candidates are pre-selected: popular, newest, best_rated, editorial (that list alone) or again (what the user "
        "has seen)",
    )
    column: str = option("", "attribute that newest (listing date) and best_rated (average rating) sort by")
    max_candidates: int = option(500, "candidates that the rule leaves for the treatments to choose from")
    shown: int = option(10, "items shown")
    at_most: Mapping[str, int] = field(default_factory=dict, metadata={"help": "most items of one value of an attribute"})
    pinned: tuple[Any, ...] = option((), "items that always come first, in this order")
    blocked: tuple[Any, ...] = option((), "items that are never shown")
    editorial: tuple[Any, ...] = option((), "the editors' list, in order")
    exclude_history: bool = option(True, "leave out what the user has seen, unless the rule is again; pinned items stay")
    pool_gamma: float = option(0.0, "popularity prior of the candidates in the score of the model, see docs/model.md")
    treatments: Mapping[str, float] = field(
        default_factory=lambda: {MODEL: 1.0}, metadata={"help": "what is compared, with the share of users that each gets"}
    )
    salt: str = option("", "names the experiment: another salt deals the users again; empty: the slot's name")

    def __post_init__(self) -> None:
        """Check every key."""
        if not isinstance(self.name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.name):
            raise ConfigError("a slot has no proper name", got=repr(self.name), expected="1 to 64 letters, digits, - and _")
        object.__setattr__(self, "title", self._text("title") or self.name)
        object.__setattr__(self, "salt", self._text("salt") or self.name)
        for name in ("where", "column", "rule"):
            self._text(name)
        if self.rule not in RULES:
            raise self._wrong("rule", expected=" or ".join(RULES))
        if (self.rule in _WITH_COLUMN) != bool(self.column):
            raise self._wrong("column", expected=f"an attribute for rule {' or '.join(_WITH_COLUMN)}, nothing otherwise")
        for name, most in (("shown", _MAX_SHOWN), ("max_candidates", _MAX_CANDIDATES)):
            object.__setattr__(self, name, self._whole(name, getattr(self, name), most))
        if self.max_candidates < self.shown:
            raise self._wrong("max_candidates", expected=f"at least shown = {self.shown}")
        for name in ("pinned", "blocked", "editorial"):
            self._ids(name)
        if not isinstance(self.exclude_history, bool):
            raise self._wrong("exclude_history", expected="true or false")
        if (
            isinstance(self.pool_gamma, bool)
            or not isinstance(self.pool_gamma, int | float)
            or not abs(self.pool_gamma) <= 10
        ):
            raise self._wrong("pool_gamma", expected="a number, mostly 0 to 1")
        self._tables()

    def _tables(self) -> None:
        for name in ("at_most", "treatments"):
            if not isinstance(getattr(self, name), Mapping):
                raise self._wrong(name, expected="a table, such as { brand = 2 }")
        most = {column: self._whole(f"at_most.{column}", one, _MAX_SHOWN) for column, one in self.at_most.items()}
        object.__setattr__(self, "at_most", most)
        check_shares(self.treatments, owner=f"slot {self.name!r}")
        if "editorial" in {self.rule, *self.treatments} and not self.editorial:
            raise self._wrong("editorial", expected="a list of item ids, since the slot uses one")

    def _text(self, name: str) -> str:
        value = getattr(self, name)
        if not isinstance(value, str):
            raise self._wrong(name, expected="text")
        return value

    def _whole(self, name: str, value: object, most: int) -> int:
        value = _integer(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ConfigError(f"slot {self.name!r}: {name} is out of range", got=_shown(value), expected=f"1 to {most:,}")
        return value

    def _ids(self, name: str) -> None:
        given = getattr(self, name)
        ids = tuple(map(_integer, given)) if isinstance(given, list | tuple) else None
        if ids is None or len(ids) > _MAX_IDS or not all(type(one) in (str, int) for one in ids):
            raise self._wrong(name, expected=f"a list of at most {_MAX_IDS:,} item ids")
        object.__setattr__(self, name, ids)

    def _wrong(self, name: str, *, expected: str) -> ConfigError:
        return ConfigError(f"slot {self.name!r}: {name} is wrong", got=_shown(getattr(self, name)), expected=expected)


@dataclass(frozen=True)
class Slots:
    """The slots of a shop, in order."""

    slots: tuple[Slot, ...] = ()

    def __post_init__(self) -> None:
        """Names are distinct."""
        names = [slot.name for slot in self.slots]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError("two slots have the same name", got=", ".join(twice), fix="give one of them another name")

    def __len__(self) -> int:
        return len(self.slots)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots)

    def __getitem__(self, name: str) -> Slot:
        """The slot of that name, or a `ConfigError` that says which there are."""
        for slot in self.slots:
            if slot.name == name:
                return slot
        known = ", ".join(slot.name for slot in self.slots)
        raise ConfigError("there is no such slot", got=_shown(name), expected=known or "none is declared")

    @classmethod
    def from_tables(cls, tables: list[dict[str, Any]]) -> Self:
        """Slots from the tables of a TOML document."""
        return cls(tuple(_slot(number, table) for number, table in enumerate(tables, 1)))


def parse_slots(text: str) -> Slots:
    """Slots from the text of a TOML file.

    Raises:
        ConfigError: not TOML, an unknown or missing key, a value out of range, or names that are repeated.
    """
    if len(text) > _MAX_TEXT:
        raise ConfigError("the slots are too long", got=f"{len(text):,} characters", expected=f"at most {_MAX_TEXT:,}")
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(
            "the slots are not TOML", got=error, expected='[[slot]] and lines such as name = "books"'
        ) from error
    tables = found.pop("slot", [])
    if found or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        got = ", ".join(map(_shown, found)) or _shown(tables)
        raise ConfigError("the slots hold something else", got=got, expected="[[slot]] tables alone")
    if len(tables) > _MAX_SLOTS:
        raise ConfigError("there are too many slots", got=len(tables), expected=f"at most {_MAX_SLOTS}")
    return Slots.from_tables(tables)


def read_slots(path: str | os.PathLike[str]) -> Slots:
    """Slots from a TOML file; errors as in `parse_slots`, or `ConfigError` when it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the slots at {path} cannot be read", got=error, fix="check the path") from error
    return parse_slots(text)


def write_slots(slots: Slots, path: str | os.PathLike[str]) -> None:
    """Write a TOML file that `read_slots` reads back as the same slots."""
    with write_atomically(path) as partial:
        partial.write_text(to_toml(slots), encoding="utf-8")


def to_toml(slots: Slots) -> str:
    """Slots as TOML, without the keys that have their default."""
    return "\n".join("[[slot]]\n" + "".join(_lines(slot)) for slot in slots)


def _slot(number: int, table: dict[str, Any]) -> Slot:
    if "name" not in table:
        raise ConfigError(f"slot number {number} has no name", expected='such as name = "books"')
    return Slot.from_dict(table)


def _lines(slot: Slot) -> Iterator[str]:
    plain = Slot(name=slot.name).to_dict()
    for key in fields(slot):
        value = getattr(slot, key.name)
        if key.name == "name" or value != plain[key.name]:
            yield f"{key.name} = {_toml(value)}\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(name)} = {_toml(one)}" for name, one in value.items()) + " }"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for one character that TOML wants escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _integer(value: Any) -> Any:
    """A float without fraction as the integer that it is in JSON; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= SAFE_INTEGER else value


def _shown(value: object) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 100 else text[:100] + "..."
