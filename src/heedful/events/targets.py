"""What a ranker is asked for: which events make an item a target, which make it a seen one, and new items, repeats or both.

Training examples, pools and exclusion all come here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np

from heedful.config import Config, option, require
from heedful.events.histories import Histories

__all__ = ["Target", "TargetConfig", "Targets"]

Target = Literal["new", "repeat", "all"]


@dataclass(frozen=True, kw_only=True)
class TargetConfig(Config):
    """What is asked for."""

    target: Literal["new", "repeat", "all"] = option(
        "new", "items that count as targets: new: those that the user has not seen; repeat: seen ones; all: both"
    )
    target_kinds: tuple[str, ...] = option((), "event kinds that make an item a target; none: all")
    seen_kinds: tuple[str, ...] = option((), "event kinds that make an item a seen one; none: all")
    negative_kinds: tuple[str, ...] = option((), "event kinds that speak against an item, such as return or dislike")

    def __post_init__(self) -> None:
        """Check every option."""
        known = get_args(Target)
        require(self.target in known, "target", got=self.target, expected=" or ".join(known))
        both = set(self.negative_kinds) & set(self.target_kinds)
        require(not both, "negative_kinds", got=self.negative_kinds, expected="none of target_kinds")

    def changed(self) -> dict[str, Any]:
        """These options alone, and of them those that are not the default."""
        usual = TargetConfig().to_dict()
        return {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}

    def plain(self) -> TargetConfig:
        """These options alone, without those of a configuration that has more."""
        return TargetConfig(**{name: getattr(self, name) for name in TargetConfig().to_dict()})


@dataclass(frozen=True)
class Targets:
    """A `TargetConfig` in the kind codes of a log.

    Attributes:
        target: which items count as targets.
        wanted: codes of the kinds that make an item a target; None: all.
        seen: codes of the kinds that make an item a seen one; None: all.
        negative: codes of the kinds that speak against an item: they make no target, and do not count as popularity.
        n_kinds: kinds of the log; 1 where the history has one alone.
    """

    target: Target = "new"
    wanted: tuple[int, ...] | None = None
    seen: tuple[int, ...] | None = None
    negative: tuple[int, ...] = ()
    n_kinds: int = 1

    @classmethod
    def of(cls, config: Config, kinds: Sequence[str]) -> Self:
        """The targets of a configuration, in the codes of these kinds; what it does not have is as by default."""
        names = TargetConfig().to_dict()
        target, wanted, seen, negative = (getattr(config, name, default) for name, default in names.items())
        # What is left out of a history cannot have been seen.
        read = getattr(config, "history_kinds", ())
        read = {*read, *wanted} if read else ()
        n_kinds = len(kinds) if len(read or kinds) > 1 else 1
        return cls(target, _codes(wanted, kinds), _codes(seen or read, kinds), _codes(negative, kinds) or (), n_kinds)

    def is_target(self, kinds: np.ndarray) -> np.ndarray:
        """Whether an event of each kind code makes its item a target, bool, in the shape of `kinds`."""
        return np.asarray(_among(kinds, self.wanted) & self.speaks_for(kinds))

    def is_seen(self, kinds: np.ndarray) -> np.ndarray:
        """Whether an event of each kind code makes its item a seen one, bool, in the shape of `kinds`."""
        return _among(kinds, self.seen)

    def speaks_for(self, kinds: np.ndarray) -> np.ndarray:
        """Whether an event of each kind code does not speak against its item, bool, in the shape of `kinds`."""
        return np.ones(len(kinds), bool) if not self.negative else ~_among(kinds, self.negative)

    def speaking_for(self, histories: Histories) -> Histories:
        """The histories without actions that speak against an item."""
        return histories.where(self.speaks_for(histories.kinds)) if self.negative else histories

    def counts(self, touched: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Which of the touched (user, item) pairs are targets.

        Args:
            touched: pairs after a time, as numbers, int64 [N].
            seen: pairs that were seen before it, int64.

        Returns:
            bool [N].
        """
        if self.target == "all":
            return np.ones(len(touched), bool)
        return np.isin(touched, seen, invert=self.target == "new")


def _codes(named: Collection[str], kinds: Sequence[str]) -> tuple[int, ...] | None:
    return tuple(code for code, kind in enumerate(kinds) if kind in named) if named else None


def _among(kinds: np.ndarray, codes: tuple[int, ...] | None) -> np.ndarray:
    return np.ones(len(kinds), bool) if codes is None else np.isin(kinds, np.array(codes, np.uint8))
