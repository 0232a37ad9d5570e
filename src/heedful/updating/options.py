"""How a shop is updated."""

from __future__ import annotations

from dataclasses import dataclass

from heedful.config import Config, option, require

__all__ = ["UpdateConfig"]


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
