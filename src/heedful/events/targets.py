"""What a ranker is asked for: which events make an item a target, which make it a seen one, and new items, repeats or both.

Training examples, pools and exclusion all come here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np

from heedful.config import Config, option, require

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

    def __post_init__(self) -> None:
        """Check every option."""
        known = get_args(Target)
        require(self.target in known, "target", got=self.target, expected=" or ".join(known))

    def plain(self) -> TargetConfig:
        """These options alone, without those of a configuration that has more."""
        return TargetConfig(target=self.target, target_kinds=self.target_kinds, seen_kinds=self.seen_kinds)


@dataclass(frozen=True)
class Targets:
    """A `TargetConfig` in the kind codes of a log.

    Attributes:
        target: which items count as targets.
        wanted: codes of the kinds that make an item a target; None: all.
        seen: codes of the kinds that make an item a seen one; None: all.
    """

    target: Target = "new"
    wanted: tuple[int, ...] | None = None
    seen: tuple[int, ...] | None = None

    @classmethod
    def of(cls, config: Config, kinds: Sequence[str]) -> Self:
        """The targets of a configuration, in the codes of these kinds; what it does not have is as by default."""
        target, wanted, seen = (getattr(config, name, default) for name, default in TargetConfig().to_dict().items())
        # What is left out of a history cannot have been seen.
        read = getattr(config, "history_kinds", ())
        return cls(target, _codes(wanted, kinds), _codes(seen or (read and (*read, *wanted)), kinds))

    def is_target(self, kinds: np.ndarray) -> np.ndarray:
        """Whether an event of each kind code makes its item a target, bool, in the shape of `kinds`."""
        return _among(kinds, self.wanted)

    def is_seen(self, kinds: np.ndarray) -> np.ndarray:
        """Whether an event of each kind code makes its item a seen one, bool, in the shape of `kinds`."""
        return _among(kinds, self.seen)

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


def _codes(named: Sequence[str], kinds: Sequence[str]) -> tuple[int, ...] | None:
    return tuple(code for code, kind in enumerate(kinds) if kind in named) if named else None


def _among(kinds: np.ndarray, codes: tuple[int, ...] | None) -> np.ndarray:
    return np.ones(len(kinds), bool) if codes is None else np.isin(kinds, np.array(codes, np.uint8))
