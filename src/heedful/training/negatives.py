"""Candidates of an instance: positives S_u, negatives N_u from P_gamma (equation 5), weights of section 4.2.

Ours: negatives drawn as items were known at the time of ranking, where the model knows popularity over
time; half by popularity up to then, half evenly from the items known then.

Shapes: B users in a batch, C = P + N candidates (P places for positives, N negatives), I items, N draws.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from heedful.kernels.alias import draw, smoothed_weights
from heedful.kernels.rng import next_random
from heedful.model.popularity import PopularityIndex, before
from heedful.training.batch import CandidatePopularity
from heedful.training.own_items import OWN_SHARE
from heedful.training.splits import NEW, Events, Marks, Plan, is_wanted, seeded

__all__ = ["DrawRule", "candidate_popularity", "draw_as_of", "fill_candidates", "smoothed_popularity", "weigh"]

# Draws after which a user who has nearly everything is given any item that is not a positive.
_DRAWS = 100
# Share of the negatives of a time that are drawn by popularity, the rest evenly: hard ones, and all of the catalogue.
_POPULAR_SHARE = 0.5


class DrawRule(NamedTuple):
    """How candidates are drawn.

    Attributes:
        positives: P, most positives of an instance.
        avoid_history: negatives are never items of T_u either (they are never items of S_u).
        seed: of all draws.
        epoch: each epoch draws others.
        target: which items are positives, as in `SplitRule`.
    """

    positives: int
    avoid_history: bool
    seed: int
    epoch: int
    target: int = NEW


def smoothed_popularity(users: np.ndarray, gamma: float) -> np.ndarray:
    """P_gamma of equation 5: (distinct users of each item) ** gamma, normalised; items without users get 0. float64 [I]."""
    weights = smoothed_weights(users, gamma)
    return np.asarray(weights / weights.sum())


def draw_as_of(index: PopularityIndex, times: np.ndarray, randoms: np.ndarray) -> np.ndarray:
    """Draw items as they were known at each time.

    Args:
        index: popularity over time.
        times: unix seconds, int64 [N].
        randoms: 64 random bits for each draw, uint64 [N].

    Returns:
        Item rows, int64 [N]; -1 where no item was known yet.
    """
    drawn = np.empty(len(times), np.int64)
    _draw_as_of(times, randoms, index.first.all_times, index.first.all_items, index.births, index.born, drawn)
    return drawn


def log_probability(index: PopularityIndex, log_share: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Logarithm of the probability with which `draw_as_of` draws items of a given log share; float32 [N]."""
    known = np.maximum(np.searchsorted(index.births, times), 1)
    return np.asarray(np.log(_POPULAR_SHARE * np.exp(log_share) + (1 - _POPULAR_SHARE) / known), np.float32)


def candidate_popularity(
    index: PopularityIndex, candidates: np.ndarray, now: np.ndarray, own: np.ndarray | None = None
) -> CandidatePopularity:
    """Popularity of the candidates of a batch at the times of ranking.

    Args:
        index: popularity over time.
        candidates: item rows, int64 [B, C].
        now: unix seconds, int64 [B].
        own: probability of each candidate where `OWN_SHARE` of the negatives are drawn from the user's own items,
            float64 [B, C]; None where none are.
    """
    times = np.repeat(now, candidates.shape[1])
    features, log_share = index.features(candidates.ravel(), times)
    log_drawn = log_probability(index, log_share, times)
    if own is not None:
        log_drawn = np.log((1 - OWN_SHARE) * np.exp(log_drawn) + OWN_SHARE * own.ravel()).astype(np.float32)
    offset = log_share - log_drawn
    return CandidatePopularity(features.reshape(*candidates.shape, -1), offset.reshape(candidates.shape))


def fill_candidates(
    events: Events, plan: Plan, rule: DrawRule, n_negatives: int, drawn: np.ndarray,
    alias: tuple[np.ndarray, np.ndarray], marks: Marks,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Positives: targets after the cut, an even sample if there are too many. Negatives: never a positive.

    Args:
        events: the log.
        plan: the instances.
        rule: how to draw.
        n_negatives: N.
        drawn: items to take negatives from, in order, int64 [B, ...]; of width 0 to draw from `alias`.
        alias: alias table of P_gamma.
        marks: 2 B fresh marks.

    Returns:
        (candidates int64 [B, C], -1 in unused places; number of positives int64 [B]).
    """
    candidates = np.full((len(plan.users), rule.positives + n_negatives), -1, np.int64)
    n_positives = np.zeros(len(plan.users), np.int64)
    _fill(events, plan, rule, drawn, alias, marks, candidates, n_positives)
    return candidates, n_positives


def weigh(candidates: np.ndarray, n_positives: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates without gaps, which of them are positive, and the weights of section 4.2; [B, C] each."""
    place = np.arange(candidates.shape[1])[None, :]
    positive = place < n_positives[:, None]
    negative = (place >= places) & (candidates >= 0)
    n_negatives = np.maximum(negative.sum(axis=1), 1)
    weights = positive / (2.0 * n_positives[:, None]) + negative / (2.0 * n_negatives[:, None])
    return np.maximum(candidates, 0), positive, weights.astype(np.float32)


@numba.njit(nogil=True, cache=True)
def _draw_as_of(times: Any, randoms: Any, all_times: Any, all_items: Any, births: Any, born: Any, drawn: Any) -> None:
    total, known, time = 0, 0, np.int64(-1)
    for n in range(len(times)):
        if n == 0 or times[n] != time:
            time = times[n]
            total = before(all_times, 0, len(all_times), time)
            known = before(births, 0, len(births), time)
        bits = randoms[n]
        place = (bits >> np.uint64(1)) & np.uint64(0x7FFFFFFFFFFF)
        if known == 0:
            drawn[n] = -1
        elif bits >> np.uint64(63):
            drawn[n] = all_items[np.int64(place % np.uint64(total))]
        else:
            drawn[n] = born[np.int64(place % np.uint64(known))]


@numba.njit(nogil=True, cache=True)
def _fill(events: Any, plan: Any, rule: Any, drawn: Any, alias: Any, marks: Any, candidates: Any, n_positives: Any) -> None:
    for b in range(len(plan.users)):
        state = seeded(rule.seed, 2, rule.epoch, plan.users[b])
        old, new = marks.first + 2 * b, marks.first + 2 * b + 1
        for n in range(plan.starts[b], plan.cuts[b]):
            if events.seen[n]:
                marks.array[events.items[n]] = old
        found = 0
        for n in range(plan.cuts[b], plan.stops[b]):
            item = events.items[n]
            if not events.targets[n] or marks.array[item] == new:
                continue
            if not is_wanted(rule.target, marks.array[item] == old):
                continue
            marks.array[item] = new
            if found < rule.positives:
                candidates[b, found] = item
            else:
                state, bits = next_random(state)
                replaced = numba.int64(bits % numba.uint64(found + 1))
                if replaced < rule.positives:
                    candidates[b, replaced] = item
            found += 1
        n_positives[b] = min(found, rule.positives)
        if drawn.shape[1]:
            _take_negatives(drawn[b], rule, marks.array, old, new, candidates[b])
        else:
            _draw_negatives(state, rule, alias, marks.array, old, new, candidates[b])


@numba.njit(inline="always")
def _allowed(mark: Any, rule: Any, old: Any, new: Any) -> Any:
    return mark != new and not (rule.avoid_history and mark == old)


@numba.njit(inline="always")
def _take_negatives(drawn: Any, rule: Any, marks: Any, old: Any, new: Any, candidates: Any) -> None:
    """The drawn items that are allowed, in order; places beyond them stay unused."""
    used = 0
    for place in range(rule.positives, len(candidates)):
        while used < len(drawn):
            item = drawn[used]
            used += 1
            if item >= 0 and _allowed(marks[item], rule, old, new):
                candidates[place] = item
                break


@numba.njit(inline="always")
def _draw_negatives(state: Any, rule: Any, alias: Any, marks: Any, old: Any, new: Any, candidates: Any) -> None:
    for place in range(rule.positives, len(candidates)):
        item, allowed = numba.int64(-1), False
        for _ in range(_DRAWS):
            state, bits = next_random(state)
            item = draw(alias[0], alias[1], bits)
            allowed = _allowed(marks[item], rule, old, new)
            if allowed:
                break
        candidates[place] = item if allowed or marks[item] != new else _any_but(marks, new, item)


@numba.njit(inline="always")
def _any_but(marks: Any, taken: Any, item: Any) -> Any:
    """The next item after `item` that is not a new one of the user's, -1 if all are."""
    for step in range(1, len(marks)):
        other = (item + step) % len(marks)
        if marks[other] != taken:
            return numba.int64(other)
    return numba.int64(-1)
