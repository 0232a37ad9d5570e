"""Where scores come from: a ranker, any function, or a file that another system wrote. To the evaluation all are one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heedful.errors import ConfigError, InputError
from heedful.evaluation.pools import Pools
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.events.vocabulary import Vocabulary

__all__ = ["FileSource", "Model", "RankerSource", "Scorer", "ScoringFunction", "Source", "source_of"]

ScoringFunction = Callable[[Histories, Candidates], np.ndarray]
"""From the pasts and candidates of B users, in rows of the pools' items, to one score for each candidate."""


@runtime_checkable
class Scorer(Protocol):
    """What the evaluation needs of a ranker; every heedful ranker has it. Rows are the scorer's own."""

    @property
    def items(self) -> Vocabulary:
        """The items that it can rank."""

    @property
    def uses_prior(self) -> bool:
        """Whether `prior` is ever other than zero."""

    def prior(self, pool_gamma: float | None) -> np.ndarray | np.float32:
        """What `pool_gamma` adds to the score of each item, float32 [I] (or one number)."""

    def score_rows(self, histories: Histories, candidates: Candidates, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        """Scores float [N] of candidates laid end to end; a row of -1 is an unknown item."""

    def score_catalogue(self, histories: Histories, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        """Scores of all items for B users, float [B, I]."""


Model = Scorer | ScoringFunction | str | os.PathLike[str]


@dataclass(frozen=True)
class Scores:
    """Scores as the model gives them, and with the sampling prior for the pool at hand where the model has one."""

    plain: np.ndarray
    corrected: np.ndarray | None


class Source(Protocol):
    """Scores of one model for the users of some pools."""

    @property
    def ranks_catalogue(self) -> bool:
        """Whether `catalogue` may be called."""

    def pool(self, gamma: float, users: slice) -> Scores:
        """Scores of `Pools.candidates(gamma, users)`, float [N]."""

    def catalogue(self, users: np.ndarray) -> Scores:
        """Scores of all items of the pools for test users (positions), float [B, I]."""


def source_of(name: str, model: Model, pools: Pools, past: EventLog) -> Source:
    """Wrap whatever the user gave as a model.

    Raises:
        ConfigError: it is neither a ranker nor a function nor a path.
    """
    if isinstance(model, str | os.PathLike):
        return FileSource(name, model, pools)
    if isinstance(model, Scorer):
        return RankerSource(name, model, pools, past)
    if callable(model):
        return RankerSource(name, _FunctionScorer(model, pools.items), pools, past)
    raise ConfigError(
        f"{name!r} is no model",
        got=type(model).__name__,
        expected="a ranker, a function of (histories, candidates), or the path of a Parquet file of scores",
    )


class RankerSource:
    """Scores of a ranker, which sees what the users did before the cut, and nothing else."""

    ranks_catalogue = True

    def __init__(self, name: str, scorer: Scorer, pools: Pools, past: EventLog) -> None:
        self._name, self._scorer, self._pools, self._past = name, scorer, pools, past
        self._from_past = scorer.items.rows(past.catalog.items.ids)
        self._from_pools = scorer.items.rows(pools.items.ids)

    def pool(self, gamma: float, users: slice) -> Scores:
        """See `Source`. The prior is added here, so that both results cost one scoring."""
        candidates = self._pools.candidates(gamma, users).with_rows(self._from_pools)
        histories = self._pools.histories(self._past, users).with_rows(self._from_past)
        plain = _checked(
            self._name, self._scorer.score_rows(histories, candidates, pool_gamma=None), (len(candidates.rows),)
        )
        return Scores(plain, plain + self._prior(gamma)[candidates.rows] if self._scorer.uses_prior else None)

    def catalogue(self, users: np.ndarray) -> Scores:
        """See `Source`. Items that the ranker does not know get minus infinity, below all others."""
        histories = self._past.histories.take(self._pools.past_rows[users]).with_rows(self._from_past)
        plain = self._scorer.score_catalogue(histories, pool_gamma=None)
        plain = _checked(self._name, plain, (len(users), len(self._scorer.items)))
        prior = self._prior(0.0)[:-1]
        return Scores(self._in_pool_rows(plain), self._in_pool_rows(plain + prior) if self._scorer.uses_prior else None)

    def _prior(self, gamma: float) -> np.ndarray:
        """The prior of each item, and 0 in a last place, where the row -1 of an unknown item leads."""
        prior = np.zeros(len(self._scorer.items) + 1, np.float32)
        prior[:-1] = self._scorer.prior(gamma)
        return prior

    def _in_pool_rows(self, scores: np.ndarray) -> np.ndarray:
        taken: np.ndarray = scores[:, self._from_pools]
        taken[:, self._from_pools < 0] = -np.inf
        return taken


class FileSource:
    """Scores that another system gave to the requests of `Pools.save_requests`."""

    ranks_catalogue = False

    def __init__(self, name: str, path: str | os.PathLike[str], pools: Pools) -> None:
        self._name, self._pools = name, pools
        try:
            table = pq.read_table(path, columns=["request_id", "scores"]).sort_by("request_id")
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise InputError(
                f"the scores of {name!r} cannot be read from {path}", got=error, expected="Parquet with request_id, scores"
            ) from error
        expected = len(pools) * len(pools.gammas)
        if not np.array_equal(table["request_id"].to_numpy(), np.arange(expected)):
            raise InputError(
                f"{path} does not answer the requests of these pools",
                got=f"{len(table)} rows",
                expected=f"one for each request_id from 0 to {expected - 1}",
                fix="write the requests of these pools with Pools.save_requests, and score them",
            )
        self._scores = table["scores"]

    def pool(self, gamma: float, users: slice) -> Scores:
        """See `Source`."""
        start, stop, _ = users.indices(len(self._pools))
        first = self._pools.gammas.index(gamma) * len(self._pools)
        lists = self._scores.slice(first + start, stop - start).combine_chunks()
        wanted = self._pools.candidates(gamma, users)
        lengths = lists.value_lengths().fill_null(0).to_numpy()
        wrong = np.flatnonzero(lengths != wanted.lengths)
        if len(wrong):
            raise InputError(
                f"{self._name!r} answers request {first + start + wrong[0]} with another number of scores",
                got=int(lengths[wrong[0]]),
                expected=int(wanted.lengths[wrong[0]]),
            )
        flat = lists.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)
        return Scores(_checked(self._name, flat, (len(wanted.rows),)), None)

    def catalogue(self, users: np.ndarray) -> Scores:
        """A file holds scores of the pools alone."""
        raise ConfigError(f"{self._name!r} is a file of scores for the pools and cannot rank the whole catalogue")


class _FunctionScorer:
    """A user's function as a `Scorer` over the items of the pools."""

    uses_prior = False

    def __init__(self, function: ScoringFunction, items: Vocabulary) -> None:
        self._function, self.items = function, items

    def prior(self, pool_gamma: float | None) -> np.float32:
        """None: the function's scores are taken as they are."""
        return np.float32(0)

    def score_rows(self, histories: Histories, candidates: Candidates, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        """The function itself."""
        return self._function(histories, candidates)

    def score_catalogue(self, histories: Histories, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        """The function with every item as a candidate."""
        everything = Candidates.same_for_all(len(histories), np.arange(len(self.items)))
        scores = _checked("the function", self._function(histories, everything), (len(everything.rows),))
        return scores.reshape(len(histories), -1)


def _checked(name: str, scores: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    scores = np.asarray(scores)
    if scores.shape != shape or not np.issubdtype(scores.dtype, np.number):
        raise InputError(
            f"{name!r} gave scores of another shape", got=f"{scores.dtype} {scores.shape}", expected=f"numbers {shape}"
        )
    if not np.isfinite(scores).all():
        raise InputError(f"{name!r} gave scores that are not finite", got="NaN or infinity", expected="finite numbers")
    return scores
