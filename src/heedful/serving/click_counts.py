"""What a report of clicks is made of: how many users saw n impressions and clicked c of them, in each treatment.

Shapes: N impressions, G groups of users who saw and clicked as much.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heedful.errors import InputError
from heedful.serving.bots import BotRules

__all__ = ["SIMULATED", "ClickCounts", "Experiment", "UserGroups", "count_outcomes"]

SIMULATED = "simulated:"
"""What the model of an impression begins with when nobody saw it."""

_COLUMNS = ("slot", "treatment", "user_id", "time", "clicks")


@dataclass(frozen=True)
class UserGroups:
    """Users of one treatment by what they saw and clicked.

    Attributes:
        shown: impressions of each user of a group, int64 [G].
        clicked: how many of these they clicked, int64 [G].
        users: how many users are in the group, int64 [G].
    """

    shown: np.ndarray
    clicked: np.ndarray
    users: np.ndarray

    @classmethod
    def of(cls, shown: np.ndarray, clicked: np.ndarray) -> UserGroups:
        """Groups of users with these impressions and clicked impressions, int64 [U]."""
        pairs, users = np.unique(np.stack([shown, clicked]), axis=1, return_counts=True)
        return cls(pairs[0], pairs[1], users)


@dataclass(frozen=True)
class Experiment:
    """What is compared: the treatments of a slot under one salt and one set of shares.

    Attributes:
        slot: the slot.
        salt: by which users were dealt.
        shares: declared share of each treatment; empty where it was not recorded.
        begun: when it began, unix seconds.
        latest: when something was shown for the last time, unix seconds.
        treatments: the users of each treatment, without bots.
    """

    slot: str
    salt: str
    shares: Mapping[str, float]
    begun: int
    latest: int
    treatments: Mapping[str, UserGroups]


@dataclass(frozen=True)
class ClickCounts:
    """All that a report needs.

    Attributes:
        experiments: in the order in which something was shown for the last time.
        simulated: whether these are impressions of the simulator.
        set_aside: what does not count, by reason.
    """

    experiments: tuple[Experiment, ...]
    simulated: bool
    set_aside: dict[str, int]


def count_outcomes(outcomes: pa.Table, rules: BotRules, *, simulated: bool | None = None) -> ClickCounts:
    """Count a table of impressions, as `Store.outcomes` gives.

    Args:
        outcomes: slot, treatment, user_id, time (unix seconds), clicks (distinct items clicked), and maybe repeated_clicks,
            model to mark simulated impressions, salt and shares to tell experiments apart.
        rules: who is a bot.
        simulated: count the impressions of the simulator, or the real ones; None: the real ones as soon as there are any.

    Raises:
        InputError: a column is missing.
    """
    known = outcomes.column_names
    if not set(_COLUMNS) <= set(known):
        raise InputError("the outcomes lack a column", got=", ".join(known), expected=", ".join(_COLUMNS))
    outcomes, simulated, others = _of_one_kind(outcomes, simulated)
    users, _ = _codes(outcomes["user_id"])
    slots, _ = _codes(outcomes["slot"])
    times, clicks = outcomes["time"].to_numpy(), outcomes["clicks"].to_numpy()
    bots = rules.find(users, slots, times, clicks > 0)
    repeated = int(pc.sum(outcomes["repeated_clicks"]).as_py() or 0) if "repeated_clicks" in known else 0
    return ClickCounts(
        _experiments(outcomes, users, clicks > 0, ~bots),
        simulated,
        {
            "real_impressions" if simulated else "simulated_impressions": others,
            "bots": len(np.unique(users[bots])),
            "impressions_of_bots": int(np.count_nonzero(bots)),
            "clicks_of_bots": int(clicks[bots].sum()),
            "further_clicks": int(np.maximum(clicks[~bots] - 1, 0).sum()),
            "repeated_clicks": repeated,
        },
    )


def _of_one_kind(outcomes: pa.Table, simulated: bool | None) -> tuple[pa.Table, bool, int]:
    """The outcomes that count, whether they are simulated, and how many are of the other kind."""
    if "model" not in outcomes.column_names:
        return outcomes, bool(simulated), 0
    marked = pc.fill_null(pc.starts_with(outcomes["model"], SIMULATED), False)
    n_simulated = int(pc.sum(marked).as_py() or 0)
    if simulated is None:
        simulated = 0 < n_simulated == len(outcomes)
    kept = outcomes.filter(marked if simulated else pc.invert(marked))
    return kept, simulated, len(outcomes) - len(kept)


def _experiments(outcomes: pa.Table, users: np.ndarray, clicked: np.ndarray, human: np.ndarray) -> tuple[Experiment, ...]:
    key = [_codes(outcomes[name]) for name in ("slot", "salt", "shares") if name in outcomes.column_names]
    _, first, experiment = np.unique(np.stack([codes for codes, _ in key]), axis=1, return_index=True, return_inverse=True)
    treatment, treatment_names = _codes(outcomes["treatment"])
    times = outcomes["time"].to_numpy()
    found = []
    for number, row in enumerate(first):
        inside = experiment.ravel() == number
        slot, *rest = [names[codes[row]] for codes, names in key]
        salt, shares = (*rest, "", "")[:2]
        groups = {
            treatment_names[t]: _groups(users[chosen], clicked[chosen])
            for t in np.unique(treatment[inside])
            if (chosen := inside & (treatment == t) & human).any()
        }
        declared = json.loads(shares) if shares else {}
        seen = times[inside & human]
        if groups:
            found.append((row, Experiment(slot, salt, declared, int(seen.min()), int(seen.max()), groups)))
    return tuple(one for _, one in sorted(found, key=lambda pair: (pair[1].latest, pair[0])))


def _groups(users: np.ndarray, clicked: np.ndarray) -> UserGroups:
    _, position, shown = np.unique(users, return_inverse=True, return_counts=True)
    return UserGroups.of(shown, np.bincount(position, clicked).astype(np.int64))


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    coded = column.combine_chunks().dictionary_encode()
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist()
