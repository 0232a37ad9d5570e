"""Where scores come from: a ranker, any function, or a file that another system wrote. To the evaluation all are one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heedful.errors import ConfigError, InputError
from heedful.evaluation.pools import Pools
from heedful.evaluation.unions import union
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.events.vocabulary import Vocabulary

__all__ = ["FileSource", "FunctionSource", "Model", "RankerSource", "Scorer", "ScoringFunction", "Source", "source_of"]

# Share of the catalogue from which on scoring all of it is cheaper than scoring what is asked.
_MOST_OF_IT = 0.7

ScoringFunction = Callable[[Histories, Candidates], np.ndarray]
"""From the pasts and candidates of B users, in rows of the pools' items, to one score for each candidate."""


@runtime_checkable
class Scorer(Protocol):
    """What the evaluation needs of a ranker; every heedful ranker has it. Rows are the scorer's own.

    The score of an item must not depend on the other candidates; a model for which it does is given as a function.
    """

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


class Source(Protocol):
    """Scores of one model for the users of some pools, in the pools' rows, without any prior."""

    @property
    def ranks_catalogue(self) -> bool:
        """Whether `catalogue` may be called."""

    @property
    def pointwise(self) -> bool:
        """Whether the score of an item is the same whatever else is asked, so that `catalogue` answers for pools too."""

    def prior(self, gamma: float) -> np.ndarray | None:
        """What the sampling prior adds to the score of each item in pools of `gamma`, float32 [I]; None without one."""

    def pools(self, users: np.ndarray) -> dict[float, np.ndarray]:
        """By gamma the scores of `Pools.drawn(gamma, users)`, float [N] each."""

    def catalogue(self, users: np.ndarray) -> np.ndarray:
        """Scores of all items of the pools for test users (positions), float [B, I]; -inf for what it does not know."""


def source_of(name: str, model: Model, pools: Pools, past: EventLog) -> Source:
    """Wrap whatever the user gave as a model.

    Raises:
        ConfigError: it is neither a ranker nor a function nor a path.
        InputError: a file of scores cannot be read, or answers other requests.
    """
    if isinstance(model, str | os.PathLike):
        return FileSource(name, model, pools)
    if isinstance(model, Scorer):
        return RankerSource(name, model, pools, past)
    if callable(model):
        return FunctionSource(name, model, pools, past)
    raise ConfigError(
        f"{name!r} is not a model",
        got=type(model).__name__,
        expected="a ranker, a function of (histories, candidates), or the path of a Parquet file of scores",
    )


class RankerSource:
    """Scores of a ranker, which sees what the users did before the cut, and nothing else.

    The pools of all gammas are scored together, each item once; where they are most of the catalogue anyway, the whole
    catalogue is scored instead, which is cheaper by item.
    """

    ranks_catalogue = True
    pointwise = True

    def __init__(self, name: str, scorer: Scorer, pools: Pools, past: EventLog) -> None:
        self._name, self._scorer, self._pools, self._past = name, scorer, pools, past
        self._from_past = scorer.items.rows(past.catalog.items.ids)
        self._from_pools = scorer.items.rows(pools.items.ids)

    def prior(self, gamma: float) -> np.ndarray | None:
        """See `Source`; 0 for an item that the ranker does not know."""
        if not self._scorer.uses_prior:
            return None
        own = np.zeros(len(self._scorer.items) + 1, np.float32)  # the last place is that of the row -1
        own[:-1] = self._scorer.prior(gamma)
        return np.asarray(own[self._from_pools])

    def pools(self, users: np.ndarray) -> dict[float, np.ndarray]:
        """See `Source`."""
        gammas, n_items = self._pools.gammas, len(self._pools.items)
        asked = union([self._pools.drawn(gamma, users) for gamma in gammas], n_items)
        if len(asked.candidates.rows) > _MOST_OF_IT * len(users) * n_items:
            flat = self.catalogue(users)[asked.candidates.owners, asked.candidates.rows]
        else:
            candidates = asked.candidates.with_rows(self._from_pools)
            flat = self._scorer.score_rows(self._histories(users), candidates, pool_gamma=None)
            flat = _checked(self._name, flat, (len(candidates.rows),))
        return {gamma: flat[places] for gamma, places in zip(gammas, asked.places, strict=True)}

    def catalogue(self, users: np.ndarray) -> np.ndarray:
        """See `Source`."""
        scores = self._scorer.score_catalogue(self._histories(users), pool_gamma=None)
        scores = _checked(self._name, scores, (len(users), len(self._scorer.items)))
        taken: np.ndarray = scores[:, self._from_pools]
        taken[:, self._from_pools < 0] = -np.inf
        return taken

    def _histories(self, users: np.ndarray) -> Histories:
        return self._pools.histories(self._past, users).with_rows(self._from_past)


class FunctionSource:
    """Scores of a user's function over the items of the pools; each pool is asked by itself, its positives hidden."""

    ranks_catalogue = True
    pointwise = False

    def __init__(self, name: str, function: ScoringFunction, pools: Pools, past: EventLog) -> None:
        self._name, self._function, self._pools, self._past = name, function, pools, past
        self._from_past = pools.items.rows(past.catalog.items.ids)

    def prior(self, gamma: float) -> None:
        """None: the function's scores are taken as they are."""

    def pools(self, users: np.ndarray) -> dict[float, np.ndarray]:
        """See `Source`."""
        scores = {}
        for gamma in self._pools.gammas:
            flat = self._call(users, self._pools.candidates(gamma, users))
            scores[gamma] = self._pools.reveal(flat, gamma, users)
        return scores

    def catalogue(self, users: np.ndarray) -> np.ndarray:
        """See `Source`: the function with every item as a candidate."""
        everything = Candidates.same_for_all(len(users), np.arange(len(self._pools.items)))
        return self._call(users, everything).reshape(len(users), -1)

    def _call(self, users: np.ndarray, candidates: Candidates) -> np.ndarray:
        histories = self._pools.histories(self._past, users).with_rows(self._from_past)
        return _checked(self._name, self._function(histories, candidates), (len(candidates.rows),))


class FileSource:
    """Scores that another system gave to the requests of `Pools.save_requests`."""

    ranks_catalogue = False
    pointwise = False

    def __init__(self, name: str, path: str | os.PathLike[str], pools: Pools) -> None:
        self._name, self._pools = name, pools
        try:
            table = pq.read_table(path, columns=["request_id", "scores"]).sort_by("request_id")
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise InputError(
                f"the scores of {name!r} cannot be read from {path}", got=error, expected="Parquet with request_id, scores"
            ) from error
        first, n = pools.first_request, len(pools) * len(pools.gammas)
        found = table["request_id"].to_numpy()
        if not np.array_equal(found, first + np.arange(n)):
            raise InputError(
                f"{path} does not answer the requests of these pools",
                got=f"{len(table)} rows" + (f", request_id {found[0]} to {found[-1]}" if len(found) else ""),
                expected=f"one row for each request_id from {first} to {first + n - 1}",
                fix="write the requests with the same log and options (`heedful pools`, or Pools.save_requests), "
                "and score them again",
            )
        self._scores = table["scores"]

    def prior(self, gamma: float) -> None:
        """None: the scores are taken as they are."""

    def pools(self, users: np.ndarray) -> dict[float, np.ndarray]:
        """See `Source`."""
        scores = {}
        for number, gamma in enumerate(self._pools.gammas):
            requests = number * len(self._pools) + users
            flat = self._flat(requests, self._pools.drawn(gamma, users).lengths)
            scores[gamma] = self._pools.reveal(flat, gamma, users)
        return scores

    def _flat(self, requests: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        lists = self._scores.take(requests).combine_chunks()
        lengths = lists.value_lengths().fill_null(0).to_numpy()
        wrong = np.flatnonzero(lengths != wanted)
        if len(wrong):
            raise InputError(
                f"{self._name!r} answers request {self._pools.first_request + requests[wrong[0]]} with another number of "
                "scores",
                got=int(lengths[wrong[0]]),
                expected=int(wanted[wrong[0]]),
            )
        flat = lists.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)
        return _checked(self._name, flat, (int(wanted.sum()),))

    def catalogue(self, users: np.ndarray) -> np.ndarray:
        """A file holds scores of the pools alone."""
        raise ConfigError(f"{self._name!r} is a file of scores for the pools and cannot rank the whole catalogue")


def _checked(name: str, scores: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    scores = np.asarray(scores)
    if scores.shape != shape or not np.issubdtype(scores.dtype, np.number):
        raise InputError(
            f"{name!r} gave scores of another shape", got=f"{scores.dtype} {scores.shape}", expected=f"numbers {shape}"
        )
    if not np.isfinite(scores).all():
        raise InputError(f"{name!r} gave scores that are not finite", got="NaN or infinity", expected="finite numbers")
    return scores
