"""Fitting the last stage of a ranking on days that its columns do not know.

Shapes: B users, C candidates laid end to end, T columns of a ranker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from heedful.errors import TrainingError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.targets import Targets
from heedful.progress import say
from heedful.rankers.mixing.examples import draw_examples
from heedful.rankers.mixing.item_features import SEASON, is_seasonal
from heedful.rankers.mixing.known import Known
from heedful.rankers.mixing.mixture import Mixture
from heedful.rankers.mixing.snapshot import Snapshot
from heedful.rankers.mixing.windows import Windowed, last_windows, window_length, windowed

__all__ = ["Counts", "Rows", "Stage", "Terms", "columns_of", "training_rows"]


class Terms(Protocol):
    """What a ranker that knows the log up to a time says of candidates."""

    names: tuple[str, ...]
    """Names of the columns, "ranker.column"."""

    def columns(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        """float32 [C, T], on a scale that is the same for rankers of any time."""
        ...


class Counts:
    """No ranker: counts and co-occurrence alone."""

    names: tuple[str, ...] = ()

    def columns(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        """No columns."""
        return np.empty((len(candidates.rows), 0), np.float32)


@dataclass(frozen=True)
class Rows:
    """What a mixture is fitted to.

    Attributes:
        columns: float32 [C, F].
        labels: float32 [C].
        expected: float64 [C], see `Examples`.
        names: of the columns.
    """

    columns: np.ndarray
    labels: np.ndarray
    expected: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """The columns of candidates, and the mixture of them.

    Attributes:
        mixture: what makes one score of the columns.
        known: counts and co-occurrence up to the end of the log.
        terms: the ranker that knows the log up to its end.
    """

    mixture: Mixture
    known: Known
    terms: Terms

    @property
    def snapshot(self) -> Snapshot:
        """Counts and co-occurrence up to the end of the log."""
        return self.known.snapshot

    def extended(self, n_items: int, terms: Terms) -> Stage:
        """With further items, of which the terms know more."""
        return Stage(self.mixture, self.known.extended(n_items), terms)

    def save(self, folder: Path) -> None:
        """Write everything but the terms into an existing folder."""
        self.mixture.save(folder)
        self.known.save(folder)

    @classmethod
    def load(cls, folder: Path, terms: Terms, targets: Targets, *, linear: bool = True) -> Self:
        """Read what `save` wrote.

        Raises:
            FolderError: a file is missing or damaged.
        """
        return cls(Mixture.load(folder, linear=linear), Known.load(folder, targets), terms)

    @classmethod
    def of(
        cls, mixture: Mixture, histories: Histories, n_items: int, now: int, window: int, terms: Terms, targets: Targets
    ) -> Self:
        """A mixture over what a log tells up to a time, in the columns that it was fitted to; see `Known.of`."""
        seasonal = f"popularity_over_time.{SEASON}" in mixture.names
        return cls(mixture, Known.of(histories, n_items, now, window, targets, seasonal=seasonal), terms)

    def scores(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        """Estimates of log P(item | user) up to a constant of the user, float32 [C]."""
        return self.mixture.scores(self._columns(histories, candidates))

    def contributions(self, histories: Histories, candidates: Candidates) -> tuple[dict[str, np.ndarray], float]:
        """What each column adds to the scores, float64 [C] each, and what is the same for all; they add up."""
        return self.mixture.contributions(self._columns(histories, candidates))

    def _columns(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        return columns_of(self.known, self.terms, histories, candidates)


def columns_of(known: Known, terms: Terms, histories: Histories, candidates: Candidates) -> np.ndarray:
    """All columns of some candidates, float32 [C, F]."""
    return np.concatenate([known.columns(histories, candidates), terms.columns(histories, candidates)], axis=1)


def training_rows(
    histories: Histories,
    n_items: int,
    terms_before: Callable[[int], Terms],
    *,
    windows: int,
    users: int,
    seed: int,
    targets: Targets,
) -> Rows:
    """Examples from the last windows of a log, with all columns as of the start of their window.

    Args:
        histories: the log, in rows of `n_items` items.
        n_items: I.
        terms_before: gives the terms of a ranker that was trained on the events before a time, in these rows.
        windows: how many of the log's last windows are learnt from.
        users: at most so many users are drawn from all windows together.
        seed: of the drawing of users and negatives.
        targets: which items are positives.

    Raises:
        TrainingError: nobody with a history took a known item that is a target in these windows.
    """
    randoms = np.random.default_rng(seed)
    length = window_length(histories.times)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    names: tuple[str, ...] = ()
    periods = last_windows(histories.times, length, windows)
    # All periods have the same columns, those of the earliest.
    seasonal = bool(periods) and is_seasonal(histories.times, periods[-1].start)
    for number, window in enumerate(periods, 1):
        split = _some_users(windowed(histories, n_items, window, targets), max(users // windows, 1), randoms)
        if len(split.users):
            say(f"window {number} of {windows}: {len(split.users):,} users in {length / 86_400:.3g} days")
            known = Known.of(histories, n_items, window.start, length, targets, seasonal=seasonal)
            terms = terms_before(window.start)
            names = (*known.names, *terms.names)
            parts.append(_rows(split, known, terms, randoms, targets))
    if not parts:
        raise TrainingError(
            "there is nothing to fit the mixture to",
            got=f"no targets of known users in the last {windows} windows of {length} seconds",
            expected=f"a log in which users come back and take items: {targets.target}",
        )
    columns, labels, expected = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Rows(columns, labels, expected, names)


def _some_users(split: Windowed, most: int, randoms: np.random.Generator) -> Windowed:
    if len(split.users) <= most:
        return split
    some = np.sort(randoms.choice(len(split.users), most, replace=False))
    return split.take(some)


def _rows(
    split: Windowed, known: Known, terms: Terms, randoms: np.random.Generator, targets: Targets
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    drawn = draw_examples(split.seen, split.positives, known.snapshot.items.users, randoms, targets.target)
    return columns_of(known, terms, split.histories, drawn.candidates), drawn.labels, drawn.expected
