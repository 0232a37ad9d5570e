"""Skip-gram with negative sampling (section 3 of the paper), compiled.

Replaces gensim's word2vec. Reference: `reference.skipgram_loss` and `skipgram_gradient`. Gain:
docs/kernels.md. Delete it when a library trains on logs, with shared negatives, as fast.

Threads call `train_users` on different users and write to the same tables without locks (Hogwild):
the updates are so sparse that a lost one does not matter. All random numbers of a user come from a
stream of its own, named by seed, epoch and user, and the negatives of a chunk of users from
another, so that one thread gives the same bits each time.

As in word2vec, the neighbours in the window of an action are inputs, whose item vectors are
updated, and the action itself is their true target, whose context vector is updated beside those of
the negatives.

Pairs may share negatives, so that a vector that was fetched is worth several updates. How they do
so decides what it costs in quality: steps are long beside the curvature of the loss, so that steps
taken at once for similar pairs overshoot. So the pairs of several users are collected; a few that
lie far apart are updated at once (`sharing`), and the same negatives serve a few such updates in
turn (`turns`). The measurements are in docs/log.md.

Shape suffixes: I items, D width padded to a multiple of `LANES`, C catalogue rows of the log, E
events, U users, P collected pairs, N pairs of one update, T targets (the true one, then the
negatives), L length of the longest history in a chunk.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from heedful.kernels.alias import draw
from heedful.kernels.rng import first_state, next_place, next_random
from heedful.kernels.skipgram_simd import LANES, NEGATIVES, add_products, dot_products, logistic_steps, prefetch

__all__ = [
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

_UNIT = 2.0**-53
# Pairs collected before they are learnt, and how far ahead vectors are asked for, so that they are there in time.
_COLLECTED = 1 << 18
_AHEAD = 4
_LINE_FLOATS = 16


class Source(NamedTuple):
    """The events to learn from, and which of them; the arrays of the log may be memory-mapped.

    Attributes:
        offsets: user u has the events offsets[u]:offsets[u + 1], int64 [U + 1].
        items: rows of the log's catalogue, int32 [E].
        times: unix seconds, int64 [E].
        kinds: codes of the event kinds, uint8 [E].
        rows: row in the table of each catalogue row, -1 for none, int32 [C].
        kind_weights: probability that an event of a kind is kept, float32 [256]; 0 for kinds that are not used.
        keep: probability that an event of the item is kept, float32 [I].

    """

    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray
    kinds: np.ndarray
    rows: np.ndarray
    kind_weights: np.ndarray
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
        sharing: pairs of one update.
        turns: updates with the same negatives.
        shuffle_baskets: permute events of equal time.
        max_gap: seconds; a larger gap ends a sequence; 0 for off.
        first_rate: learning rate at the first event of the first epoch.
        last_rate: learning rate after the last event of the last epoch.
        n_events: events of all epochs together, over which the rate falls.
        loss_every: the loss is measured at every so manyth update.

    """

    seed: int
    window: int
    dynamic_window: bool
    negatives: int
    sharing: int
    turns: int
    shuffle_baskets: bool
    max_gap: int
    first_rate: float
    last_rate: float
    n_events: int
    loss_every: int


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
    random, of frequent items (`source.keep`) and of kinds of little weight. A gap of more than `max_gap` seconds (0: any)
    between events starts the next sequence; an event that was left out at random still bridges a gap.

    Returns:
        (number of events read, state of the user's random numbers).

    """
    n, sequence, previous = 0, 0, np.int64(0)
    begun = False
    for e in range(source.offsets[user], source.offsets[user + 1]):
        row, time = source.rows[source.items[e]], source.times[e]
        weight = source.kind_weights[source.kinds[e]]
        if row < 0 or weight == 0.0:
            continue
        if begun and max_gap > 0 and time - previous > max_gap:
            sequence += 1
        begun, previous = True, time
        keep = source.keep[row] * weight
        if keep < 1.0:
            state, random = next_random(state)
            if _unit(random) >= keep:
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


@njit(cache=True, nogil=True)
def update(
    x_ID: np.ndarray,
    y_ID: np.ndarray,
    input_N: np.ndarray,
    true_N: np.ndarray,
    n: int,
    negative_T: np.ndarray,
    n_negatives: int,
    rate: np.float32,
    step_NS: np.ndarray,
    measured: bool,
) -> float:
    """A gradient step on - sum_i (log s(x_i.y_true(i)) + sum_t log s(-x_i.y_t)), t the negatives, in place.

    More negatives than `NEGATIVES` are taken as the terms of further steps.

    Args:
        x_ID: all item vectors; the rows of the inputs change.
        y_ID: all context vectors; the rows of the targets change.
        input_N: rows of the inputs.
        true_N: rows of their true targets.
        n: how many pairs.
        negative_T: rows of the negatives, and room up to a multiple of `NEGATIVES`, filled with any row.
        n_negatives: how many of them count.
        rate: learning rate.
        step_NS: scratch, float32.
        measured: whether to compute the loss.

    Returns:
        The loss before the step, if measured, else 0.

    """
    x, y, step, width = x_ID.ctypes.data, y_ID.ctypes.data, step_NS.ctypes.data, x_ID.shape[1]
    inputs, trues = input_N.ctypes.data, true_N.ctypes.data
    total = 0.0
    for done in range(0, n_negatives, NEGATIVES):
        negatives, count = negative_T.ctypes.data + done * negative_T.itemsize, min(n_negatives - done, NEGATIVES)
        dot_products(x, y, width, inputs, trues, n, negatives, step)
        if measured:
            total += loss(step_NS, n, count, done == 0)
        logistic_steps(step, n, count, np.int64(done == 0), rate)
        add_products(x, y, width, inputs, trues, n, negatives, step)
    return total


@njit(cache=True, nogil=True)
def loss(logit_NS: np.ndarray, n: int, n_negatives: int, has_true: bool) -> float:
    """The loss of which `update` takes a gradient step, from its logits, in double precision.

    Args:
        logit_NS: logits of true targets, then of negatives.
        n: pairs that count.
        n_negatives: negatives that count.
        has_true: whether the true targets count.

    """
    total = 0.0
    for i in range(n):
        for t in range(0 if has_true else 1, 1 + n_negatives):
            logit = np.float64(logit_NS[i, t])
            sign = -1.0 if t == 0 else 1.0
            total += max(sign * logit, 0.0) + math.log1p(math.exp(-abs(logit)))
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
    most = min(2 * plan.window, longest)
    input_P, true_P, collected = np.empty(_COLLECTED + most, np.int32), np.empty(_COLLECTED + most, np.int32), 0
    negatives = first_state(plan.seed, epoch, len(source.offsets) + low)
    begun = epoch * source.offsets[-1] + source.offsets[low]
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
            found = contexts_of(row_L, sequence_L, n, centre, radius, input_P[collected:])
            true_P[collected : collected + found] = row_L[centre]
            collected += found
            if collected >= _COLLECTED:
                negatives = _learn(tables, plan, input_P, true_P, collected, begun, first_event + centre, negatives, totals)
                collected, begun = 0, first_event + centre
        totals[0] += n
    ended = epoch * source.offsets[-1] + source.offsets[high]
    _learn(tables, plan, input_P, true_P, collected, begun, ended, negatives, totals)


@njit(cache=True, nogil=True)
def _learn(
    tables: Tables,
    plan: Plan,
    input_P: np.ndarray,
    true_P: np.ndarray,
    collected: int,
    begun: int,
    ended: int,
    state: np.uint64,
    totals: np.ndarray,
) -> np.uint64:
    """Update on the pairs collected from the events `begun:ended`; returns the state of the negatives' stream."""
    fall = (plan.first_rate - plan.last_rate) / plan.n_events
    sharing = plan.sharing
    input_N, true_N = np.empty(sharing, np.int32), np.empty(sharing, np.int32)
    step_NS = np.zeros((sharing, LANES), np.float32)
    # Negatives are drawn ahead, and so that each item is met at regular intervals: steps of the golden ratio (Weyl).
    room = (plan.negatives + NEGATIVES - 1) // NEGATIVES * NEGATIVES
    negative_AT = np.zeros((_AHEAD, room), np.int32)
    for ahead in range(_AHEAD):
        state = _draw_negatives(tables, negative_AT[ahead], plan.negatives, state)
    rounds = (collected + sharing - 1) // sharing
    for k in range(rounds):
        n = 0
        for place in range(k, collected, rounds):
            input_N[n], true_N[n] = input_P[place], true_P[place]
            n += 1
            if place + _AHEAD < collected:
                _prefetch_row(tables.x, input_P[place + _AHEAD])
                _prefetch_row(tables.y, true_P[place + _AHEAD])
        rate = np.float32(plan.first_rate - fall * (begun + (ended - begun) * k / rounds))
        measured = k % plan.loss_every == 0
        negative_T = negative_AT[k // plan.turns % _AHEAD]
        totals[2] += update(tables.x, tables.y, input_N, true_N, n, negative_T, plan.negatives, rate, step_NS, measured)
        if measured:
            totals[1] += n
        if (k + 1) % plan.turns == 0:
            state = _draw_negatives(tables, negative_T, plan.negatives, state)
    return state


@njit(inline="always")
def _prefetch_row(table_ID: np.ndarray, row: int) -> None:
    address = table_ID.ctypes.data + np.int64(row) * table_ID.shape[1] * table_ID.itemsize
    for line in range(0, table_ID.shape[1], _LINE_FLOATS):
        prefetch(address + line * table_ID.itemsize)


@njit(inline="always")
def _draw_negatives(tables: Tables, negative_T: np.ndarray, n: int, state: Any) -> Any:
    """Draw the negatives of an update to come; returns the state of their stream."""
    for t in range(n):
        state, place = next_place(state)
        row: Any = draw(tables.probability, tables.alias, place)
        negative_T[t] = row
        _prefetch_row(tables.y, row)
    return state


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
