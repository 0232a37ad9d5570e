"""Who is tested, on what, against what: made once from a seed, the same for every model (paper, sections 5.1 and 5.3)."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heedful.errors import ConfigError, InputError, MismatchError
from heedful.evaluation.sampling import draw_negatives, hide_positives, reveal_positives, stream_keys, weights
from heedful.evaluation.touched import distinct_items, events_of_targets, not_again, pair_keys, rankable, seen_items, union
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories, ragged_positions
from heedful.events.log import EventLog
from heedful.events.targets import TargetConfig, Targets
from heedful.events.vocabulary import Vocabulary
from heedful.folders import write_atomically

__all__ = ["Pools", "Users", "drawable_items", "make_pools"]

Users: TypeAlias = slice | np.ndarray
"""Test users by position: consecutive ones, or any."""

# Purposes of random streams; those of the negatives are the gammas themselves, which are not negative.
_CHOOSE_USERS, _HIDE = -1.0, -2.0


@dataclass(frozen=True)
class Pools:
    """The test users, their positives, and negatives for each gamma; made by `make_pools`.

    Attributes:
        items: every item that can be ranked, [I]; rows below are rows of this vocabulary.
        counts: distinct users of each item in the past, int64 [I]: the sum in equation 5 of the paper.
        users: ids of the test users, [B].
        user_rows: their rows in the future log, int64 [B].
        past_rows: their rows in the past log, int64 [B].
        positives: items that are targets after the cut, in row order: by default those that the user touches for the first
            time.
        negatives: by gamma, distinct items drawn from P_gamma that the user touched neither before nor after the cut, in
            the order in which they were drawn, so that the first n are a fair pool of n; int32 rows. Where seen items can be
            targets, see `make_pools`.
        seen: the distinct items that count as seen before the cut, in row order.
        seed: the seed that, with the two logs, determines everything.
        size: negatives that were asked for every user.
        largest: negatives that were asked for some users, see `wide`; `size` if there are none.
        targets: which items are targets, and which count as seen.
        notes: what a reader of the results should know of how the users were chosen.
    """

    items: Vocabulary
    counts: np.ndarray
    users: pa.Array
    user_rows: np.ndarray
    past_rows: np.ndarray
    positives: Candidates
    negatives: dict[float, Candidates]
    seen: Candidates
    seed: int
    size: int
    largest: int
    targets: TargetConfig = field(default_factory=TargetConfig)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.users)

    @property
    def gammas(self) -> tuple[float, ...]:
        """The smoothing powers for which there are negatives."""
        return tuple(self.negatives)

    @property
    def wide(self) -> np.ndarray:
        """The test users who have pools of more than `size` negatives, bool [B]."""
        return np.asarray(np.max([drawn.lengths for drawn in self.negatives.values()], axis=0) > self.size)

    @cached_property
    def repeats(self) -> np.ndarray:
        """Which positives are items that their user had seen, bool, in the order of `positives`."""
        return np.isin(pair_keys(self.positives, len(self.items)), pair_keys(self.seen, len(self.items)))

    @property
    def lengths(self) -> np.ndarray:
        """Candidates of each user in the pools of all gammas together, int64 [B]."""
        negatives = np.sum([drawn.lengths for drawn in self.negatives.values()], axis=0)
        return np.asarray(negatives + len(self.negatives) * self.positives.lengths)

    def drawn(self, gamma: float, users: Users) -> Candidates:
        """A pool as it was made: each user's positives, then its negatives as drawn; int64 rows."""
        positives, negatives = _of(self.positives, users), _of(self.negatives[gamma], users)
        pool = Candidates.from_lengths(positives.lengths + negatives.lengths, np.empty(0, np.int64))
        rows = np.empty(pool.offsets[-1], np.int64)
        first = np.zeros(len(rows), bool)
        first[ragged_positions(pool.offsets[:-1], positives.lengths)] = True
        rows[first], rows[~first] = positives.rows, negatives.rows
        return Candidates(pool.offsets, rows)

    def candidates(self, gamma: float, users: Users) -> Candidates:
        """What a model is asked to rank: positives and negatives of some users, in an order that tells nothing."""
        pool = self.drawn(gamma, users)
        return hide_positives(pool, self.positives.lengths[users], self._hiding(gamma, users))

    def reveal(self, scores: np.ndarray, gamma: float, users: Users) -> np.ndarray:
        """Put scores of `candidates` in the order of `drawn`."""
        positives, negatives = _of(self.positives, users), _of(self.negatives[gamma], users)
        offsets = positives.offsets + negatives.offsets
        return reveal_positives(scores, offsets, positives.lengths, self._hiding(gamma, users))

    def _hiding(self, gamma: float, users: Users) -> np.ndarray:
        return stream_keys(self.seed, _HIDE - gamma, self.user_rows[users])

    def narrowed(self, size: int) -> Pools:
        """The same users with no more than the first `size` negatives each."""
        if self.largest <= size:
            return self
        negatives = {}
        for gamma, drawn in self.negatives.items():
            lengths = np.minimum(drawn.lengths, size)
            negatives[gamma] = Candidates.from_lengths(lengths, drawn.rows[ragged_positions(drawn.offsets[:-1], lengths)])
        return replace(self, negatives=negatives, size=min(size, self.size), largest=size)

    @cached_property
    def hash(self) -> str:
        """Hash of the items, the users, the positives and all negatives in their order."""
        digest = hashlib.sha256()
        for ids in (self.items.ids, self.users):
            digest.update("\x00".join(map(str, ids.to_pylist())).encode() + b"\x01")
        parts = [self.positives, *(self.negatives[gamma] for gamma in sorted(self.negatives))]
        digest.update(json.dumps(sorted(self.negatives)).encode())
        for part in parts:
            digest.update(part.offsets.astype("<i8").tobytes())
            digest.update(part.rows.astype("<i4").tobytes())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file: for each gamma and user the ids of the positives, and of the negatives as drawn."""
        facts = {"gammas": self.gammas, "seed": self.seed, "hash": self.hash, "notes": list(self.notes)}
        facts |= {"size": self.size, "largest": self.largest, "targets": self.targets.to_dict()}
        listed = pa.list_(self.items.ids.type)
        columns = {"gamma": pa.float64(), "user_id": self.users.type, "positives": listed, "negatives": listed}
        schema = pa.schema(columns, metadata={"heedful.pools": json.dumps(facts)})
        with write_atomically(path) as partial, pq.ParquetWriter(partial, schema) as writer:
            for gamma in self.gammas:
                for start in range(0, len(self), _USERS_AT_ONCE):
                    writer.write_table(self._saved_part(gamma, slice(start, start + _USERS_AT_ONCE), schema))

    def _saved_part(self, gamma: float, users: slice, schema: pa.Schema) -> pa.Table:
        lists = [_as_lists(part.part(users), self.items) for part in (self.positives, self.negatives[gamma])]
        ids = self.users[users]
        return pa.table([pa.array(np.full(len(ids), gamma)), ids, *lists], schema=schema)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], past: EventLog, future: EventLog, *, items: Vocabulary | None = None
    ) -> Pools:
        """Read pools that were saved, for the same two logs and items; nothing is drawn again.

        Raises:
            InputError: no file of pools.
            MismatchError: they were made for other logs or items, or changed since.
        """
        try:
            table = pq.read_table(path)
            facts = json.loads(table.schema.metadata[b"heedful.pools"])
        except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is not a file of pools", got=error, expected="a file that `Pools.save` wrote"
            ) from error
        universe, counts = rankable(past, items)
        gammas, targets = facts["gammas"], TargetConfig.from_dict(facts.get("targets", {}))
        by_gamma = [table.filter(np.asarray(table["gamma"]) == gamma) for gamma in gammas]
        users = by_gamma[0]["user_id"].combine_chunks()
        pools = cls(
            universe,
            counts,
            users,
            future.users.rows(users),
            past.users.rows(users),
            _from_lists(by_gamma[0]["positives"], universe),
            {float(g): _from_lists(part["negatives"], universe) for g, part in zip(gammas, by_gamma, strict=True)},
            seen_items(past, past.users.rows(users), universe, targets),
            facts["seed"],
            facts["size"],
            facts["largest"],
            targets,
            tuple(facts["notes"]),
        )
        if pools.hash != facts["hash"] or min(pools.user_rows.min(), pools.past_rows.min()) < 0:
            raise MismatchError(
                f"{path} does not belong to these logs", got=pools.hash, expected=facts["hash"], fix="make the pools again"
            )
        return pools

    @property
    def first_request(self) -> int:
        """Number of the first request of `save_requests`; other pools have another, so that answers are not mixed up."""
        return int(self.hash[:8], 16) % 1_000_000 * _REQUESTS_AT_MOST

    def save_requests(self, path: str | os.PathLike[str], past: EventLog) -> None:
        """Write every pool as batch-scoring requests, so that another system can answer them with a file of scores.

        Parquet with request_id (integer, from `first_request` on), gamma, user_id, history, history_times and candidates.
        The answer has request_id and scores, a list of numbers in candidate order; pass its path to `compare` as a model.
        """
        listed = pa.list_(self.items.ids.type)
        past_ids = pa.list_(past.catalog.items.ids.type)
        columns = {"request_id": pa.int64(), "gamma": pa.float64(), "user_id": self.users.type}
        columns |= {"history": past_ids, "history_times": pa.list_(pa.int64()), "candidates": listed}
        with write_atomically(path) as partial, pq.ParquetWriter(partial, pa.schema(columns)) as writer:
            for number, gamma in enumerate(self.gammas):
                for start in range(0, len(self), _USERS_AT_ONCE):
                    users = slice(start, min(start + _USERS_AT_ONCE, len(self)))
                    histories = self.histories(past, users)
                    requests = [
                        pa.array(self.first_request + number * len(self) + np.arange(users.start, users.stop)),
                        pa.array(np.full(len(histories), gamma)),
                        self.users[users],
                        _as_lists(Candidates(histories.offsets, histories.items), past.catalog.items),
                        pa.LargeListArray.from_arrays(histories.offsets, histories.times).cast(pa.list_(pa.int64())),
                        _as_lists(self.candidates(gamma, users), self.items),
                    ]
                    writer.write_table(pa.table(requests, schema=pa.schema(columns)))

    def sample(self, n: int) -> np.ndarray:
        """Positions of `n` random test users, rising, int64; 0, or more than there are, for all."""
        return _lottery(self.user_rows, self.seed, n or len(self))

    def histories(self, past: EventLog, users: Users) -> Histories:
        """What the test users did before the cut, in rows of the past log."""
        return past.histories.take(self.past_rows[users])


# Users whose pools are turned into ids at once: ten million ids at the paper's largest pools.
_USERS_AT_ONCE = 1000
_NAMES = {"new": ("a new item", "nothing new"), "repeat": ("a seen item", "nothing again"), "all": ("an item", "nothing")}
# So that every request_id is exact as a double, too.
_REQUESTS_AT_MOST = 1_000_000_000


def make_pools(
    past: EventLog,
    future: EventLog,
    *,
    gammas: tuple[float, ...],
    size: int,
    largest: int = 0,
    largest_users: int = 0,
    max_users: int = 0,
    targets: TargetConfig | None = None,
    items: Vocabulary | None = None,
    seed: int = 0,
) -> Pools:
    """Choose the test users and draw their pools.

    A test user has a past and, in the future, at least one target: an item touched for the first time, unless `targets` says
    otherwise. What is touched after the cut is never a negative. Where targets are new, seen items are none either;
    where they are repeats, the negatives are all seen items that are not touched again, in random order; where they are
    both, negatives are drawn from all items.

    Args:
        past: the events before the cut.
        future: the events after it.
        gammas: powers of popularity from which the negatives are drawn; 0 is uniform.
        size: negatives in each pool; a user for whom fewer items are left is ranked against all of these.
        largest: negatives in the pools of `largest_users`, of which the first `size` are what anybody else would have.
        largest_users: a sample of so many test users has the largest pools; 0 for all.
        max_users: a sample of so many test users; 0 for all.
        targets: which items are targets, and which count as seen; None for new items, with events of all kinds.
        items: the items that can be ranked, such as those of an embedding table; None for those of the past. Items that
            the past lacks can be positives, and negatives for gamma 0.
        seed: makes the same pools again.

    Raises:
        ConfigError: a pool larger than the catalogue.
        InputError: no test user.
    """
    universe, counts = rankable(past, items)
    largest = max(size, largest)
    _check_size(largest, gammas, counts)
    to_universe = universe.rows(future.catalog.items.ids)
    targets = targets or TargetConfig()
    past_rows = past.users.rows(future.users.ids)
    everybody = np.arange(len(future.users))
    before = seen_items(past, past_rows, universe, targets)
    after = distinct_items(future, everybody, to_universe)
    wanted = distinct_items(events_of_targets(future, targets), everybody, to_universe)
    counted = Targets(targets.target).counts(pair_keys(wanted, len(universe)), pair_keys(before, len(universe)))
    positives = wanted.where(counted)
    chosen, notes = _choose(positives, past_rows, max_users, targets, seed, future)
    seen, after = before.take(chosen), after.take(chosen)
    sizes = np.full(len(chosen), size)
    sizes[_lottery(chosen, seed, largest_users or len(chosen))] = largest
    negatives = {}
    for gamma in gammas:
        keys = stream_keys(seed, gamma, chosen)
        if targets.target == "repeat":
            negatives[gamma] = not_again(seen, after, keys, sizes, len(universe))
        else:
            banned = union(seen, after, len(universe)) if targets.target == "new" else after
            negatives[gamma] = draw_negatives(keys, weights(counts, gamma), banned, sizes)
    whole = bool((sizes == largest).all())
    return Pools(
        universe,
        counts,
        future.users.take(chosen),
        chosen,
        past_rows[chosen],
        positives.take(chosen),
        negatives,
        seen,
        seed,
        largest if whole else size,
        largest,
        targets.plain(),
        (*notes, *_note_sizes(negatives, size, sizes, targets)),
    )


def drawable_items(past: EventLog, items: Vocabulary | None, gammas: tuple[float, ...]) -> int:
    """How many items can be drawn as negatives for each of the gammas."""
    _, counts = rankable(past, items)
    return min(int((weights(counts, gamma) > 0).sum()) for gamma in gammas)


def _check_size(size: int, gammas: tuple[float, ...], counts: np.ndarray) -> None:
    for gamma in gammas:
        possible = int((weights(counts, gamma) > 0).sum())
        if size >= possible:
            raise ConfigError(
                f"a pool of {size} negatives is larger than the catalogue",
                got=f"{possible} items that gamma {gamma:g} can draw",
                expected=f"fewer than {possible} negatives",
                fix="choose a smaller pool; the metrics over the whole catalogue need none",
            )


def _choose(
    positives: Candidates, past_rows: np.ndarray, max_users: int, targets: TargetConfig, seed: int, future: EventLog
) -> tuple[np.ndarray, list[str]]:
    """Rows in the future log of the test users, rising, and what to say of those left out."""
    fit = (positives.lengths > 0) & (past_rows >= 0)
    active = future.histories.lengths > 0
    chosen = np.flatnonzero(fit)
    if not len(chosen):
        raise InputError(
            f"nobody can be tested: no user with a past touches {_NAMES[targets.target][0]} after the cut",
            got=f"{int(active.sum())} users after the cut, {int((active & (past_rows >= 0)).sum())} of them with a past",
            fix="choose an earlier cut or more days; ids must mean the same before and after the cut",
        )
    notes = [
        f"{len(chosen)} of {int(active.sum())} users of the test period can be tested: "
        f"{int((active & (past_rows < 0)).sum())} have no past, the others touch {_NAMES[targets.target][1]}."
    ]
    if 0 < max_users < len(chosen):
        chosen = chosen[_lottery(chosen, seed, max_users)]
        notes.append(f"A random sample of {max_users} of them is tested.")
    return chosen, notes


def _lottery(users: np.ndarray, seed: int, n: int) -> np.ndarray:
    """Places of `n` random users, rising; a smaller sample is part of a larger one."""
    return np.sort(np.argsort(stream_keys(seed, _CHOOSE_USERS, users), kind="stable")[:n])


def _note_sizes(negatives: dict[float, Candidates], size: int, sizes: np.ndarray, targets: TargetConfig) -> list[str]:
    if targets.target == "repeat":
        return [f"The negatives of a user are the items that they had seen and did not touch again, {size:,} at most."]
    notes = []
    sampled = int((sizes > size).sum())
    if sampled < len(sizes) and sampled:
        notes.append(f"Pools of more than {size:,} negatives are drawn for a random sample of {sampled} test users.")
    short = max(int((drawn.lengths < size).sum()) for drawn in negatives.values())
    if short:
        notes.append(
            f"{short} users have touched so many items that fewer than {size} negatives are left; they meet all of them."
        )
    return notes


def _of(candidates: Candidates, users: Users) -> Candidates:
    return candidates.part(users) if isinstance(users, slice) else candidates.take(users)


def _as_lists(candidates: Candidates, items: Vocabulary) -> pa.Array:
    ids = items.ids.take(pa.array(candidates.rows))
    return pa.LargeListArray.from_arrays(pa.array(candidates.offsets), ids).cast(pa.list_(items.ids.type))


def _from_lists(lists: pa.ChunkedArray, items: Vocabulary) -> Candidates:
    array = lists.combine_chunks()
    rows = items.rows(array.flatten())
    return Candidates.from_lengths(np.diff(array.offsets.to_numpy()), rows.astype(np.int32))
