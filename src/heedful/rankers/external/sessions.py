"""Sequences for transformers: windows of a log to learn from, the last items of users held out, sessions to encode.

Shapes: B users, W windows, L places of a session (padded on the left), I items. Tokens are item rows plus 1; 0 is padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heedful.events.histories import Histories, ragged_positions

__all__ = ["ValidationSplit", "sessions", "shuffled_ties", "split_validation", "windows"]


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


def windows(histories: Histories, length: int) -> np.ndarray:
    """Histories cut, from the end, into windows of `length` + 1 actions, each beginning with the last of the one before.

    So every action but a user's first is a target once. Tokens int64 [W, length + 1].
    """
    counts = -(-np.maximum(histories.lengths - 1, 0) // length)
    owner = np.repeat(np.arange(len(histories)), counts)
    back = ragged_positions(np.zeros(len(counts), np.int64), counts)
    ends = histories.offsets[1:][owner] - back * length
    starts = np.maximum(histories.offsets[:-1][owner], ends - length - 1)
    return _padded(histories.items, starts, ends, length + 1)


def sessions(histories: Histories, length: int) -> np.ndarray:
    """The last `length` actions of each user, tokens int64 [B, L]; L is that of the longest session, and at least 1."""
    ends = histories.offsets[1:]
    starts = np.maximum(histories.offsets[:-1], ends - length)
    return _padded(histories.items, starts, ends, max(int((ends - starts).max(initial=0)), 1))


def _padded(items: np.ndarray, starts: np.ndarray, ends: np.ndarray, width: int) -> np.ndarray:
    """Tokens of `items[start:end]`, at the right of rows of zeros, int64 [len(starts), width]."""
    places = np.arange(width) - width + ends[:, None]
    used = places >= starts[:, None]
    return np.where(used, np.asarray(items, np.int64)[np.where(used, places, 0)] + 1 if len(items) else 0, 0)
