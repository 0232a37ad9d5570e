"""How a shop is updated, and how that is tried on days that have passed."""

from __future__ import annotations

from dataclasses import dataclass

from heedful.config import Config, option, require
from heedful.events.targets import TargetConfig

__all__ = ["FROZEN", "MODES", "REFRESHED", "SCRATCH", "UPDATED", "BacktestConfig", "UpdateConfig"]

FROZEN, REFRESHED, UPDATED, SCRATCH = "frozen", "refreshed", "updated", "scratch"
MODES = (FROZEN, REFRESHED, UPDATED, SCRATCH)
"""Models of a backtest: as trained before the cut, with renewed counts, trained on each night, from nothing each night."""

# Models that `train --from` goes on from.
_CONTINUED = ("mixed", "attention", "averaging")


@dataclass(frozen=True, kw_only=True)
class UpdateConfig(Config):
    """How a shop is updated."""

    model: str = option("mixed", "model of the first version; later ones go on from it")
    keep: int = option(7, "versions that are kept; older ones are removed")
    harm: float = option(
        2.0, "percent of NDCG by which a model may be shown worse than the best other and still be published"
    )
    alpha: float = option(0.05, "level at which a version counts as shown worse")
    test_hours: float = option(24.0, "longest period of the newest events on which the models are compared")
    test_users: int = option(2000, "users of the comparison, a random sample")
    fewest_test_users: int = option(50, "with fewer users than this nothing is compared, and only counts are renewed")
    number_column: str | None = option(
        None,
        "column of a database table with a whole number that grows with each row, so that only new rows are read; by "
        "default `id` for the table of `heedful serve`, and other tables are read whole",
    )
    normal_days: int = option(28, "days before the new events whose volume is the normal one")

    def __post_init__(self) -> None:
        """Check every option."""
        require(self.keep >= 2, "keep", got=self.keep, expected="2 or more, so that there is one to go back to")
        for name in ("harm", "test_hours", "normal_days"):
            require(getattr(self, name) > 0, name, got=getattr(self, name), expected="more than 0")
        for name in ("test_users", "fewest_test_users"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="1 or more")
        require(0 < self.alpha < 1, "alpha", got=self.alpha, expected="between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class BacktestConfig(TargetConfig):
    """How models that are kept up to date are compared with one that is not, day by day."""

    cut: str | None = option(
        None, "train the frozen model before this ISO date or time (UTC), test from it on; none: the last `days` of the log"
    )
    days: int = option(7, "days of 24 hours from the cut on")
    model: str = option("mixed", ", ".join(_CONTINUED))
    models: tuple[str, ...] = option(
        (FROZEN, REFRESHED, UPDATED),
        "what is compared: frozen: as trained before the cut; refreshed: that with renewed counts; updated: trained on each "
        "night; scratch: trained from nothing each night",
    )
    users: int = option(500, "test users of each day, a random sample; 0: all")
    pool: int | None = option(None, "negatives in the pools; none: 1,000, or the catalogue where it is smaller")
    alpha: float = option(0.05, "1 less the confidence of the intervals")
    seed: int = option(0, "seed of users, pools and intervals")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        require(self.days >= 2, "days", got=self.days, expected="2 or more: on the first day all models are the same")
        require(self.model in _CONTINUED, "model", got=self.model, expected=" or ".join(_CONTINUED))
        fit = len(set(self.models)) == len(self.models) >= 2 and set(self.models) <= set(MODES)
        expected = f"{FROZEN}, and some of {', '.join(MODES[1:])}"
        require(fit and FROZEN in self.models, "models", got=self.models, expected=expected)
        require(self.users >= 0, "users", got=self.users, expected="0 or more")
        require(self.pool is None or self.pool > 0, "pool", got=self.pool, expected="1 or more")
        require(0 < self.alpha < 1, "alpha", got=self.alpha, expected="between 0 and 1")

    @property
    def modes(self) -> tuple[str, ...]:
        """What is compared, in the order of `MODES`."""
        return tuple(mode for mode in MODES if mode in self.models)
