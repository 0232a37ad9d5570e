"""Sequences for transformers: windows of a log to learn from, the last items of users held out, sessions to encode.

Shapes: B users, W windows, S sessions, L places of a session (padded on the left), I items. Tokens are item rows plus 1; 0
is padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heedful.events.histories import Histories, ragged_positions

__all__ = ["Sessions", "ValidationSplit", "sessions", "shuffled_ties", "split_validation", "windows"]


@dataclass(frozen=True)
class Sessions:
    """Parts of histories, padded on the left to the same length.

    Attributes:
        tokens: int64 [S, L].
        times: unix seconds, int64 [S, L]; padding has the time of the session's first action, 0 in an empty session.
    """

    tokens: np.ndarray
    times: np.ndarray

    def shortened(self, length: int) -> Sessions:
        """The last `length` places."""
        return Sessions(self.tokens[:, -length:], self.times[:, -length:])


@dataclass(frozen=True)
class ValidationSplit:
    """Users of the log whose last items are kept from training, to find out how long to train.

    Attributes:
        training: all histories of the log without the actions that are held out.
        past: what the held-out users did before, [B] histories.
        targets: the items that they touched afterwards, [B] histories.
    """

    training: Histories
    past: Histories
    targets: Histories


def split_validation(histories: Histories, *, users: int, targets: int, randoms: np.random.Generator) -> ValidationSplit:
    """Keep back the end of some users' histories.

    Args:
        histories: the log, each item once in a history.
        users: users to hold out, at most half of those with two items.
        targets: last items of a user, at most half of all.
        randoms: which users.
    """
    able = np.flatnonzero(histories.lengths >= 2)
    chosen = np.sort(randoms.choice(able, min(users, (len(able) + 1) // 2), replace=False))
    held = np.minimum(targets, histories.lengths[chosen] // 2)
    keep = np.ones(len(histories.items), bool)
    keep[ragged_positions(histories.offsets[1:][chosen] - held, held)] = False
    training = histories.where(keep)
    return ValidationSplit(training, training.take(chosen), histories.where(~keep).take(chosen))


def shuffled_ties(histories: Histories, randoms: np.random.Generator) -> Histories:
    """The same histories with actions of the same time (the items of a basket) in random order."""
    owner = np.repeat(np.arange(len(histories)), histories.lengths)
    order = np.lexsort((randoms.random(len(owner)), histories.times, owner))
    return Histories(histories.offsets, histories.items[order], histories.times[order], histories.kinds[order])


def windows(histories: Histories, length: int) -> Sessions:
    """Histories cut, from the end, into windows of `length` + 1 actions, each beginning with the last of the one before.

    So every action but a user's first is a target once. [W, length + 1].
    """
    counts = -(-np.maximum(histories.lengths - 1, 0) // length)
    owner = np.repeat(np.arange(len(histories)), counts)
    back = ragged_positions(np.zeros(len(counts), np.int64), counts)
    ends = histories.offsets[1:][owner] - back * length
    starts = np.maximum(histories.offsets[:-1][owner], ends - length - 1)
    return _padded(histories, starts, ends, length + 1)


def sessions(histories: Histories, length: int) -> Sessions:
    """The last `length` actions of each user, [B, length]."""
    ends = histories.offsets[1:]
    return _padded(histories, np.maximum(histories.offsets[:-1], ends - length), ends, length)


def _padded(histories: Histories, starts: np.ndarray, ends: np.ndarray, width: int) -> Sessions:
    """The actions `start:end` of the log, at the right of rows of this width."""
    if not len(histories.items):
        return Sessions(*np.zeros((2, len(ends), width), np.int64))
    places = np.arange(width) - width + ends[:, None]
    used = places >= starts[:, None]
    nearest = np.minimum(np.maximum(places, starts[:, None]), len(histories.items) - 1)
    tokens = np.where(used, np.asarray(histories.items, np.int64)[nearest] + 1, 0)
    times = np.where((ends > starts)[:, None], np.asarray(histories.times, np.int64)[nearest], 0)
    return Sessions(tokens, times)
