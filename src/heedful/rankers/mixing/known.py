"""All columns of the last stage but those of the ranker: counts, co-occurrence, repeats and kinds up to a time.

Shapes: B users, C candidates laid end to end, F columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.targets import Targets
from heedful.rankers.mixing.kind_features import MOST_KINDS, Kinds
from heedful.rankers.mixing.mixture import REPEAT
from heedful.rankers.mixing.pair_features import REPEAT_FEATURES, Repeats
from heedful.rankers.mixing.snapshot import Snapshot

__all__ = ["Known"]

_REPEATS, _KINDS = "repeats.npz", "kind_shares.npy"


@dataclass(frozen=True)
class Known:
    """What a log tells up to a time.

    Attributes:
        snapshot: counts and co-occurrence.
        repeats: of items that users take again; None where new items alone are asked for.
        kinds: of kinds of actions; None in a log of one kind or of many.
        targets: what is asked for; its `negative` kinds count in `kinds` alone.
    """

    snapshot: Snapshot
    repeats: Repeats | None
    kinds: Kinds | None
    targets: Targets

    @classmethod
    def of(
        cls, histories: Histories, n_items: int, now: int, window: int, targets: Targets, *, seasonal: bool | None = None
    ) -> Self:
        """Count what had happened before `now` in a log, in rows of `n_items` items; see `Snapshot.of`."""
        some = 1 < targets.n_kinds <= MOST_KINDS
        kinds = Kinds.of(histories, n_items, now, targets.n_kinds) if some else None
        histories = targets.speaking_for(histories)
        repeats = None if targets.target == "new" else Repeats.of(histories, n_items, now, window)
        return cls(Snapshot.of(histories, n_items, now, window, seasonal=seasonal), repeats, kinds, targets)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, "group.column", F."""
        repeats = REPEAT_FEATURES if self.repeats is not None else ()
        kinds = self.kinds.names if self.kinds is not None else ()
        return (*self.snapshot.names, *(f"{REPEAT}{name}" for name in repeats), *(f"kind.{name}" for name in kinds))

    def columns(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        """Columns for the candidates of B users, float32 [C, F]; their histories end before the time."""
        counted = self.targets.speaking_for(histories)
        parts = [self.snapshot.features(counted, candidates)]
        if self.repeats is not None:
            parts.append(self.repeats.columns(counted, candidates))
        if self.kinds is not None:
            parts.append(self.kinds.columns(histories, candidates, self.snapshot.partners["cosine"]))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def extended(self, n_items: int) -> Known:
        """With further items, as `Snapshot.extended`."""
        repeats = self.repeats.extended(n_items) if self.repeats is not None else None
        kinds = self.kinds.extended(n_items) if self.kinds is not None else None
        return Known(self.snapshot.extended(n_items), repeats, kinds, self.targets)

    def save(self, folder: Path) -> None:
        """Write everything into an existing folder."""
        self.snapshot.save(folder / "snapshot")
        if self.repeats is not None:
            self.repeats.save(folder / _REPEATS)
        if self.kinds is not None:
            self.kinds.save(folder / _KINDS)

    @classmethod
    def load(cls, folder: Path, targets: Targets) -> Self:
        """Read what `save` wrote."""
        repeats = Repeats.load(folder / _REPEATS) if (folder / _REPEATS).exists() else None
        kinds = Kinds.load(folder / _KINDS) if (folder / _KINDS).exists() else None
        return cls(Snapshot.load(folder / "snapshot"), repeats, kinds, targets)
