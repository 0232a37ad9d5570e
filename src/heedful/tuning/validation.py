"""What a trial is: train embeddings and ranker on the days before the validation period, and rank the targets of
validation users in that period.

Shapes: B validation users, G gammas.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from heedful.embeddings.skipgram import SkipGram
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import FolderError, InputError, TrainingError
from heedful.evaluation.options import EvaluationConfig
from heedful.evaluation.pools import Pools, drawable_items, make_pools
from heedful.events.log import EventLog, parse_time
from heedful.events.vocabulary import Vocabulary
from heedful.metrics import ndcg, nested_ranks
from heedful.progress import progress
from heedful.rankers.base import Ranker
from heedful.rankers.registry import ALL_MODELS, new_ranker
from heedful.tuning.options import TuneConfig
from heedful.tuning.settings import Settings

__all__ = ["Validation", "before"]

_CHOOSE_USERS, _SPLIT_USERS = 0, 1
_ALL_DAYS = 1e6
_USERS_AT_ONCE = 256


def before(log: EventLog, cut: str | int | date | datetime | None) -> EventLog:
    """The part of a log before `cut`; all of it for None, or where it ends earlier.

    Raises:
        InputError: nothing lies before the cut.
    """
    if cut is None or not log.n_events or int(log.histories.times.max()) < parse_time(cut):
        return log
    return log.split(cut, days=_ALL_DAYS)[0]


@dataclass(frozen=True)
class Validation:
    """A log split in time, and the validation users; made by `Validation.of`.

    Attributes:
        training: the log that every trial is trained on.
        all_users: the log before the validation period, of which `training` may be a sample of users. Users have no
            parameters, so a user who is not in `training` can be a validation user.
        selection: pools of the users whose NDCG chooses among the trials.
        confirmation: pools of the other validation users, who take no part in the choice.
        period: first and last second of the validation events.
        config: how settings are compared.
    """

    training: EventLog
    all_users: EventLog
    selection: Pools
    confirmation: Pools
    period: tuple[int, int]
    config: TuneConfig

    @classmethod
    def of(cls, log: EventLog, config: TuneConfig) -> Validation:
        """Cut off the last days, sample the users to train on, draw validation users and their pools, all from the seed.

        Raises:
            InputError: the log is too short, or fewer than two users can be validation users.
            ConfigError: a kind that the log does not have.
        """
        all_users, future = EvaluationConfig(days=config.days).split(log)
        training = _sample(all_users, config)
        items = training.catalog.items
        pools = make_pools(
            all_users,
            future,
            gammas=config.gammas,
            size=max(min(config.pool, drawable_items(all_users, items, config.gammas) - 1), 1),
            max_users=2 * config.validation_users,
            targets=config,
            items=items,
            seed=config.seed,
        )
        if len(pools) < 2:
            raise InputError(
                "too few validation users",
                got=f"{len(pools)} with a history who have a target in the last {config.days:g} days",
                expected="at least 2, better some hundreds",
                fix="take more days or more users",
            )
        order = np.random.default_rng([config.seed, _SPLIT_USERS]).permutation(len(pools))
        half = (len(pools) + 1) // 2
        selection, confirmation = (_part(pools, np.sort(part)) for part in (order[:half], order[half:]))
        times = future.histories.times
        return cls(training, all_users, selection, confirmation, (int(times.min()), int(times.max())), config)

    @property
    def sampled(self) -> bool:
        """Whether only a part of the users is trained on."""
        return self.training is not self.all_users

    @cached_property
    def data(self) -> str:
        """Hash of the training log, and of the validation users, their histories and their pools."""
        digest = hashlib.sha256()
        both = (self.selection, self.confirmation)
        validated = (pools.histories(self.all_users, slice(0, len(pools))) for pools in both)
        for histories in (self.training.histories, *validated):
            for column in ("offsets", "items", "times", "kinds"):
                digest.update(np.ascontiguousarray(getattr(histories, column)).tobytes())
        digest.update(f"{self.selection.hash} {self.confirmation.hash}".encode())
        return digest.hexdigest()

    def embeddings(self, options: Mapping[str, Any], *, seed: int, folder: Path) -> ItemEmbeddings:
        """Embeddings of the training log, or those in `folder` if they were learnt with the same options and seed before."""
        place = folder / self.name(options, seed)
        if place.exists():
            with contextlib.suppress(FolderError):
                return ItemEmbeddings.load(place)
        items = SkipGram(**{**options, "threads": self.config.threads, "seed": seed}).fit(self.training)
        items.save(place, overwrite=True)
        return ItemEmbeddings.load(place)

    def name(self, options: Mapping[str, Any], seed: int) -> str:
        """Name of the folder of embeddings with these options."""
        described = json.dumps([self.data, seed, dict(options)], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()[:16]

    def ndcg(self, settings: Settings, pools: Pools, *, seed: int, folder: Path) -> np.ndarray:
        """Train with these settings and rank the pools; NDCG of each validation user for each gamma, float64 [B, G].

        Args:
            settings: options of `SkipGram` and of the model.
            pools: those of `selection` or of `confirmation`.
            seed: of the embeddings and of the ranker.
            folder: where embeddings are kept for other trials.

        Raises:
            HeedfulError: training went wrong.
        """
        model = ALL_MODELS[self.config.model]
        options = dict(settings.get(self.config.sections[-1], {}))
        if "seed" in model.config_class().to_dict():
            options["seed"] = seed
        ranker = new_ranker(model.name, options=options)
        if model.needs_embeddings:
            ranker.fit(self.training, self.embeddings(settings["embed"], seed=seed, folder=folder))
        else:
            ranker.fit(self.training, None)  # type: ignore[arg-type]
        return _ndcg(ranker, pools, self.all_users)

    def forget(self, folder: Path, keep: Collection[str]) -> None:
        """Remove all kept embeddings but those with these names."""
        for place in folder.iterdir() if folder.exists() else ():
            if place.name not in keep:
                shutil.rmtree(place, ignore_errors=True)


def _ndcg(ranker: Ranker, pools: Pools, log: EventLog) -> np.ndarray:
    """NDCG of each user in the whole pool of each gamma, with the sampling prior for that gamma, float64 [B, G]."""
    from_log, from_pools = ranker.items.rows(log.catalog.items.ids), ranker.items.rows(pools.items.ids)
    found = np.empty((len(pools), len(pools.gammas)))
    with progress("validating", found.size, "users") as meter:
        for start in range(0, len(pools), _USERS_AT_ONCE):
            users = slice(start, min(start + _USERS_AT_ONCE, len(pools)))
            histories = pools.histories(log, users).with_rows(from_log)
            n_positive = pools.positives.part(users).lengths
            for column, gamma in enumerate(pools.gammas):
                candidates = pools.candidates(gamma, users).with_rows(from_pools)
                scores = ranker.score_rows(histories, candidates, pool_gamma=gamma)
                in_order = pools.reveal(scores, gamma, users)
                widest = int(candidates.lengths.max())
                (ranks,) = nested_ranks(in_order, candidates.offsets, n_positive, (widest,))
                found[users, column] = ndcg(ranks)
                meter.advance(len(histories))
    if not np.isfinite(found).all():
        raise TrainingError("the scores are not finite", fix="lower the learning rate")
    return found


def _sample(log: EventLog, config: TuneConfig) -> EventLog:
    if not 0 < config.users < len(log.users):
        return log
    randoms = np.random.default_rng([config.seed, _CHOOSE_USERS])
    users = np.sort(randoms.choice(len(log.users), config.users, replace=False))
    part = replace(log, users=Vocabulary(log.users.take(users)), histories=log.histories.take(users), folder=None)
    return part.compact()


def _part(pools: Pools, users: np.ndarray) -> Pools:
    """The pools of some of the users."""
    return replace(
        pools,
        users=pools.users.take(pa.array(users)),
        user_rows=pools.user_rows[users],
        past_rows=pools.past_rows[users],
        positives=pools.positives.take(users),
        seen=pools.seen.take(users),
        negatives={gamma: drawn.take(users) for gamma, drawn in pools.negatives.items()},
    )
