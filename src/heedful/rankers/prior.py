"""The sampling prior: what the origin of the candidates adds to a logit.

Shapes: I items, N of them.
"""

from __future__ import annotations

import numpy as np

from heedful.errors import ConfigError
from heedful.model.shares import log_share

__all__ = ["LogShares", "sampling_prior"]

_ALL = slice(None)


class LogShares:
    """Logarithm of each item's share of all users of items.

    Args:
        users: distinct users of each item in the training log, int64 [I].
        total: users of all items; None: their sum. A ranker that is given new items keeps that of its
            training log, so that the shares of its other items do not move.
    """

    def __init__(self, users: np.ndarray, total: int | None = None) -> None:
        self.users, self._total = users, total
        self._all: np.ndarray | None = None

    @property
    def total(self) -> int:
        """Users of all items, 1 or more."""
        if self._total is None:
            self._total = max(int(self.users.sum()), 1)
        return self._total

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """float32 [N] of some items, or [I] of all: those of a large catalogue are not made for the sake of a few."""
        if self._all is None and isinstance(rows, slice):
            self._all = self._of(self.users)
        return self._all[rows] if self._all is not None else self._of(self.users[rows])

    def _of(self, users: np.ndarray) -> np.ndarray:
        return np.asarray(log_share(users, self.total), np.float32)


def sampling_prior(
    log_shares: LogShares, gamma: float | None, pool_gamma: float | None, rows: np.ndarray | slice = _ALL
) -> np.ndarray | np.float32:
    """What the candidates' origin adds to the logit, float32 [I], or of some rows (or 0).

    Trained with negatives from P_gamma, the logit estimates log P(q | u) - log P_gamma(q) + c. Among
    candidates from P_gamma', ranking by P(q | u) / P_gamma'(q) is right, hence
    (gamma - gamma') log P(q) is added.

    Raises:
        ConfigError: `pool_gamma` is not a finite number.
    """
    if pool_gamma is None or gamma is None:
        return np.float32(0)
    if not np.isfinite(pool_gamma):
        raise ConfigError("invalid pool_gamma", got=pool_gamma, expected="a finite number, mostly 0 to 1")
    return ((gamma - pool_gamma) * log_shares[rows]).astype(np.float32)
