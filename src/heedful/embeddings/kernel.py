"""Skip-gram with negative sampling (section 3 of the paper), compiled.

Threads call `train_users` on different users and write to the same tables without locks (Hogwild): the updates are so
sparse that a lost one does not matter. All random numbers of a user come from a stream of its own, named by seed, epoch
and user, so that one thread gives the same bits however the users are cut into chunks.

Shape suffixes: I items, D width, C catalogue rows of the log, E events, U users, T targets of one update (contexts and
negatives), L length of the longest history in a chunk.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from heedful.embeddings.alias import draw
from heedful.embeddings.streams import first_state, next_random

__all__ = [
    "BLOCK",
    "Plan",
    "Source",
    "Tables",
    "contexts_of",
    "draw_radius",
    "loss",
    "read_user",
    "shuffle_baskets",
    "train_users",
    "update",
]

# Reassociation and fused multiply-add let the loops vectorise; NaN keeps its meaning, so that divergence is seen.
_FAST = {"reassoc", "contract", "nsz", "arcp"}
_UNIT = 2.0**-53
# Pairs of one centre that share their negatives and one update: with 5 negatives, 7 products of vectors instead of 12.
# With 4 or more, the weight on each negative costs hit-rate and, at high learning rates, stability.
BLOCK = 2


class Source(NamedTuple):
    """The events to learn from, and which of them; the arrays of the log may be memory-mapped.

    Attributes:
        offsets: user u has the events offsets[u]:offsets[u + 1], int64 [U + 1].
        items: rows of the log's catalogue, int32 [E].
        times: unix seconds, int64 [E].
        kinds: codes of the event kinds, uint8 [E].
        rows: row in the table of each catalogue row, -1 for none, int32 [C].
        used_kinds: whether events of a kind are used, bool [256].
        keep: probability that an event of the item is kept, float32 [I].

    """

    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray
    kinds: np.ndarray
    rows: np.ndarray
    used_kinds: np.ndarray
    keep: np.ndarray


class Tables(NamedTuple):
    """What is learnt, and the distribution of negatives.

    Attributes:
        x: item vectors, float32 [I, D].
        y: context vectors, float32 [I, D].
        probability: of the alias table of negatives, float32 [I].
        alias: of the same, int32 [I].

    """

    x: np.ndarray
    y: np.ndarray
    probability: np.ndarray
    alias: np.ndarray


class Plan(NamedTuple):
    """The options of training that the kernel needs.

    Attributes:
        seed: names all random numbers.
        window: largest distance between centre and context.
        dynamic_window: draw the radius uniformly from 1..window for each centre.
        negatives: negatives for each pair.
        shared_negatives: let up to `BLOCK` pairs of a centre share their negatives.
        shuffle_baskets: permute events of equal time.
        max_gap: seconds; a larger gap ends a sequence; 0 for off.
        first_rate: learning rate at the first event of the first epoch.
        last_rate: learning rate after the last event of the last epoch.
        n_events: events of all epochs together, over which the rate falls.
        loss_every: the loss is measured at every so manyth event.

    """

    seed: int
    window: int
    dynamic_window: bool
    negatives: int
    shared_negatives: bool
    shuffle_baskets: bool
    max_gap: int
    first_rate: float
    last_rate: float
    n_events: int
    loss_every: int


class Scratch(NamedTuple):
    """Memory of one thread: rows of the contexts and of the targets, step sizes [T], summed step [D]."""

    context: np.ndarray
    target: np.ndarray
    step: np.ndarray
    sum: np.ndarray


@njit(inline="always")
def _unit(random: np.uint64) -> float:
    """64 random bits as a number in [0, 1)."""
    return np.float64(random >> np.uint64(11)) * _UNIT


@njit(cache=True, nogil=True)
def read_user(
    source: Source,
    user: int,
    max_gap: int,
    state: np.uint64,
    row_L: np.ndarray,
    time_L: np.ndarray,
    sequence_L: np.ndarray,
) -> tuple[int, np.uint64]:
    """Read the events of one user into `row_L`, `time_L` and `sequence_L`.

    Left out are events of kinds that are not used, of items that are not in the table (`source.rows` is negative) and, at
    random, of frequent items (`source.keep`). A gap of more than `max_gap` seconds (0: any) between events starts the next
    sequence; an event that was left out at random still bridges a gap.

    Returns:
        (number of events read, state of the user's random numbers).

    """
    n, sequence, previous = 0, 0, np.int64(0)
    begun = False
    for e in range(source.offsets[user], source.offsets[user + 1]):
        row, time = source.rows[source.items[e]], source.times[e]
        if row < 0 or not source.used_kinds[source.kinds[e]]:
            continue
        if begun and max_gap > 0 and time - previous > max_gap:
            sequence += 1
        begun, previous = True, time
        if source.keep[row] < 1.0:
            state, random = next_random(state)
            if _unit(random) >= source.keep[row]:
                continue
        row_L[n], time_L[n], sequence_L[n] = row, time, sequence
        n += 1
    return n, state


@njit(cache=True, nogil=True)
def shuffle_baskets(row_L: np.ndarray, time_L: np.ndarray, n: int, state: np.uint64) -> np.uint64:
    """Permute the first `n` rows at random inside runs of equal time; returns the state of the random numbers."""
    low = 0
    while low < n:
        high = low + 1
        while high < n and time_L[high] == time_L[low]:
            high += 1
        for last in range(high - 1, low, -1):
            state, random = next_random(state)
            other = low + np.int64(_unit(random) * (last - low + 1))
            row_L[last], row_L[other] = row_L[other], row_L[last]
        low = high
    return state


@njit(fastmath=_FAST, inline="always")
def _sigmoid(logit: np.float32) -> np.float32:
    """Logistic function as 1/2 + tanh(logit / 2) / 2 with a rational tanh: 1e-6 from exact, no branch, vectorises."""
    z = np.float32(0.5) * min(max(logit, np.float32(-15.8)), np.float32(15.8))
    s = z * z
    p = np.float32(2.00018790482477e-13) + s * np.float32(-2.76076847742355e-16)
    p = np.float32(-8.60467152213735e-11) + s * p
    p = np.float32(5.12229709037114e-08) + s * p
    p = np.float32(1.48572235717979e-05) + s * p
    p = np.float32(6.37261928875436e-04) + s * p
    p = np.float32(4.89352455891786e-03) + s * p
    q = np.float32(1.18534705686654e-04) + s * np.float32(1.19825839466702e-06)
    q = np.float32(2.26843463243900e-03) + s * q
    q = np.float32(4.89352518554385e-03) + s * q
    return np.float32(0.5) + np.float32(0.5) * z * p / q


@njit(fastmath=_FAST, cache=True, nogil=True)
def update(
    x_D: np.ndarray,
    y_ID: np.ndarray,
    target_T: np.ndarray,
    n_contexts: int,
    n_targets: int,
    weight: np.float32,
    rate: np.float32,
    step_T: np.ndarray,
    sum_D: np.ndarray,
) -> None:
    """One gradient step on - sum_j log s(x.y_j) - weight * sum_j' log s(-x.y_j'), j the contexts, j' the negatives.

    Args:
        x_D: vector of the centre item, changed in place.
        y_ID: all context vectors; the rows of the targets are changed in place.
        target_T: rows of the contexts, then of the negatives.
        n_contexts: number of contexts.
        n_targets: number of contexts and negatives.
        weight: how many negatives each of the drawn ones stands for.
        rate: learning rate.
        step_T: scratch; holds the logits, then the step sizes.
        sum_D: scratch for the step of `x_D`.

    """
    width = len(x_D)
    for t in range(n_targets):
        y_D = y_ID[target_T[t]]
        logit = np.float32(0.0)
        for d in range(width):
            logit += x_D[d] * y_D[d]
        step_T[t] = logit
    for t in range(n_targets):
        s = _sigmoid(step_T[t])
        step_T[t] = rate * (np.float32(1.0) - s) if t < n_contexts else -rate * weight * s
    sum_D[:] = np.float32(0.0)
    for t in range(n_targets):
        y_D, step = y_ID[target_T[t]], step_T[t]
        for d in range(width):
            sum_D[d] += step * y_D[d]
            y_D[d] += step * x_D[d]
    for d in range(width):
        x_D[d] += sum_D[d]


@njit(cache=True, nogil=True)
def loss(x_D: np.ndarray, y_ID: np.ndarray, target_T: np.ndarray, n_contexts: int, n_targets: int, weight: float) -> float:
    """The loss of which `update` takes a gradient step, in double precision."""
    total = 0.0
    for t in range(n_targets):
        logit = 0.0
        for d in range(len(x_D)):
            logit += np.float64(x_D[d]) * np.float64(y_ID[target_T[t], d])
        sign, importance = (-1.0, 1.0) if t < n_contexts else (1.0, weight)
        total += importance * (max(sign * logit, 0.0) + math.log1p(math.exp(-abs(logit))))
    return total


@njit(cache=True, nogil=True)
def train_users(
    source: Source, tables: Tables, plan: Plan, epoch: int, low: int, high: int, stop: np.ndarray, totals: np.ndarray
) -> None:
    """Train on the users `low:high` once.

    Args:
        source: the events.
        tables: the tables, changed in place.
        plan: the options.
        epoch: number of the epoch, from 0.
        low: first user.
        high: the user after the last one.
        stop: bool [1]; soon after another thread sets it, the function returns.
        totals: float64 [3], added to: centres trained, pairs at which the loss was measured, their summed loss.

    """
    longest = 1
    for user in range(low, high):
        longest = max(longest, source.offsets[user + 1] - source.offsets[user])
    row_L, time_L, sequence_L = np.empty(longest, np.int32), np.empty(longest, np.int64), np.empty(longest, np.int32)
    scratch = _scratch(min(2 * plan.window, longest), BLOCK + plan.negatives, tables.x.shape[1])
    fall = (plan.first_rate - plan.last_rate) / plan.n_events
    for user in range(low, high):
        state = first_state(plan.seed, epoch, user)
        n, state = read_user(source, user, plan.max_gap, state, row_L, time_L, sequence_L)
        if plan.shuffle_baskets:
            state = shuffle_baskets(row_L, time_L, n, state)
        first_event = epoch * source.offsets[-1] + source.offsets[user]
        for centre in range(n):
            if stop[0]:
                return
            state, radius = draw_radius(state, plan.window, plan.dynamic_window)
            n_contexts = contexts_of(row_L, sequence_L, n, centre, radius, scratch.context)
            rate = np.float32(plan.first_rate - fall * (first_event + centre))
            measured = (first_event + centre) % plan.loss_every == 0
            state = _train_centre(tables, plan, row_L[centre], n_contexts, rate, measured, state, scratch, totals)
        totals[0] += n


@njit(cache=True, nogil=True)
def _scratch(contexts: int, targets: int, width: int) -> Scratch:
    target_T, step_T = np.empty(targets, np.int32), np.empty(targets, np.float32)
    return Scratch(np.empty(contexts, np.int32), target_T, step_T, np.empty(width, np.float32))


@njit(inline="always")
def draw_radius(state: np.uint64, window: int, dynamic: bool) -> tuple[np.uint64, int]:
    """(next state, radius of one centre): `window`, or uniform in 1..window if `dynamic`, as in word2vec."""
    if not dynamic:
        return state, int(window)
    state, random = next_random(state)
    return state, 1 + int(_unit(random) * window)


@njit(inline="always")
def contexts_of(row_L: np.ndarray, sequence_L: np.ndarray, n: int, centre: int, radius: int, context_T: np.ndarray) -> int:
    """Write the rows within `radius` of position `centre` in the same sequence to `context_T`; returns their number."""
    found = 0
    for position in range(max(centre - radius, 0), min(centre + radius + 1, n)):
        if position != centre and sequence_L[position] == sequence_L[centre]:
            context_T[found] = row_L[position]
            found += 1
    return found


@njit(cache=True, nogil=True)
def _train_centre(
    tables: Tables,
    plan: Plan,
    row: int,
    n_contexts: int,
    rate: np.float32,
    measured: bool,
    state: np.uint64,
    scratch: Scratch,
    totals: np.ndarray,
) -> np.uint64:
    """Update on the contexts of one centre, a few at a time; returns the state of the random numbers."""
    x_D, target_T = tables.x[row], scratch.target
    block = BLOCK if plan.shared_negatives else 1
    for first in range(0, n_contexts, block):
        n = min(block, n_contexts - first)
        for t in range(n):
            target_T[t] = scratch.context[first + t]
        for t in range(n, n + plan.negatives):
            state, random = next_random(state)
            target_T[t] = draw(tables.probability, tables.alias, random)
        # Each negative stands for one of each pair, so that the expected gradient is that of section 3.
        weight = np.float32(n)
        if measured:
            totals[1] += n
            totals[2] += loss(x_D, tables.y, target_T, n, n + plan.negatives, float(weight))
        update(x_D, tables.y, target_T, n, n + plan.negatives, weight, rate, scratch.step, scratch.sum)
    return state
