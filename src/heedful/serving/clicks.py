"""What is clicked: click-through rate by slot and treatment, lifts, and how much longer to wait.

Only impressions that were shown count. An impression counts as clicked once, however many of its items were clicked and
however often; users who behave as no person does are set aside, by rules that know nothing of the treatment, and counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heedful.config import Config, option, require
from heedful.errors import InputError
from heedful.serving.rates import MIN_CLICKERS, Lift, Rate, impressions_needed, lift, rate

__all__ = ["SIMULATED", "ClickConfig", "Compared", "Report", "SlotReport", "Treated", "report"]

SIMULATED = "simulated:"
"""What the model of an impression begins with when nobody saw it."""

_DAY = 86_400
_COLUMNS = ("slot", "treatment", "user_id", "time", "clicks")
_USUAL_REFERENCES = ("popularity", "editorial", "last_item")
_WANTED_LIFTS = (0.05, 0.1, 0.2)


@dataclass(frozen=True, kw_only=True)
class ClickConfig(Config):
    """How clicks are counted and compared."""

    confidence: float = option(0.95, "confidence of intervals, and of all lifts of a slot together")
    reference: str = option("", "treatment that lifts are against; empty: popularity, or the editors' list, or last_item")
    typical_lift: float = option(0.5, "lift that the comparison is most sensitive to; set before looking")
    power: float = option(0.8, "chance of deciding that the sample sizes are for")
    bot_daily_impressions: int = option(200, "more impressions than this of one slot in a day (UTC): not a person")
    bot_impressions: int = option(50, "impressions from which on the share of clicks is looked at")
    bot_click_share: float = option(0.9, "a higher share of clicked impressions than this: not a person")

    def __post_init__(self) -> None:
        """Check every option."""
        require(0.5 <= self.confidence < 1, "confidence", got=self.confidence, expected="0.5 up to, not including, 1")
        require(0 < self.typical_lift <= 10, "typical_lift", got=self.typical_lift, expected="above 0, at most 10")
        require(0 < self.power < 1, "power", got=self.power, expected="between 0 and 1")
        require(
            self.bot_daily_impressions >= 1, "bot_daily_impressions", got=self.bot_daily_impressions, expected="1 or more"
        )
        require(self.bot_impressions >= 1, "bot_impressions", got=self.bot_impressions, expected="1 or more")
        require(0 < self.bot_click_share <= 1, "bot_click_share", got=self.bot_click_share, expected="above 0, at most 1")


@dataclass(frozen=True)
class Treated:
    """One treatment in one slot.

    Attributes:
        treatment: its name.
        rate: impressions, clicks, click-through rate and its interval.
        relative: the rate as a share of the highest of the report (Figure 5 of the paper); None while nothing was clicked.
    """

    treatment: str
    rate: Rate
    relative: float | None


@dataclass(frozen=True)
class Compared:
    """A treatment's lift against the slot's reference."""

    treatment: str
    against: str
    lift: Lift


@dataclass(frozen=True)
class SlotReport:
    """One slot: its treatments by name, their lifts, and how many impressions certainty takes, in words."""

    slot: str
    treatments: tuple[Treated, ...]
    lifts: tuple[Compared, ...]
    guidance: str


@dataclass(frozen=True)
class Report:
    """Click-through of every slot.

    Attributes:
        slots: by name.
        set_aside: what does not count, by reason: impressions of the other kind (simulated or real), bots, their impressions
            and clicks, clicks on further items of an impression, repeated clicks on one item.
        simulated: whether these are impressions of the simulator, which are never counted together with real ones.
        confidence: of the intervals.
    """

    slots: tuple[SlotReport, ...]
    set_aside: dict[str, int]
    simulated: bool
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON; an infinite end of a lift is None."""
        return {
            "slots": [
                {
                    "slot": slot.slot,
                    "treatments": [_treated_dict(one) for one in slot.treatments],
                    "lifts": [_compared_dict(one) for one in slot.lifts],
                    "guidance": slot.guidance,
                }
                for slot in self.slots
            ],
            "set_aside": self.set_aside,
            "simulated": self.simulated,
            "confidence": self.confidence,
        }

    def __str__(self) -> str:
        if not self.slots:
            return "Nothing simulated was shown yet." if self.simulated else "Nothing was shown yet."
        lines = ["Simulated: nobody saw these slots."] if self.simulated else []
        for slot in self.slots:
            lines += ["", slot.slot, *(_treated_line(one) for one in slot.treatments)]
            lines += [*(_compared_line(one) for one in slot.lifts), f"  {slot.guidance}"]
        aside = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in self.set_aside.items() if count)
        return "\n".join([*lines, "", f"Set aside: {aside or 'nothing'}."]).lstrip("\n")


def report(outcomes: pa.Table, config: ClickConfig = ClickConfig(), *, simulated: bool | None = None) -> Report:
    """Count and compare.

    Args:
        outcomes: one row for each impression that was shown, as `Store.outcomes` gives: slot, treatment, user_id, time (unix
            seconds), clicks (distinct items clicked), and maybe repeated_clicks, and model to mark simulated impressions.
        config: how.
        simulated: count the impressions of the simulator, or the real ones; None: the real ones as soon as there are any.

    Raises:
        InputError: a column is missing.
    """
    known = outcomes.column_names
    if not set(_COLUMNS) <= set(known):
        raise InputError("the outcomes lack a column", got=", ".join(known), expected=", ".join(_COLUMNS))
    outcomes, simulated, others = _of_one_kind(outcomes, simulated)
    users, _ = _codes(outcomes["user_id"])
    slots, slot_names = _codes(outcomes["slot"])
    treatments, treatment_names = _codes(outcomes["treatment"])
    clicks = outcomes["clicks"].to_numpy()
    human = ~_of_bots(users, slots, outcomes["time"].to_numpy(), clicks > 0, config)
    rates: dict[str, dict[str, Rate]] = {}
    for s in np.argsort(slot_names):
        inside = slots == s
        rates[slot_names[s]] = {
            treatment_names[t]: _rate(users[chosen], clicks[chosen] > 0, config)
            for t in np.argsort(treatment_names)
            if (chosen := inside & (treatments == t) & human).any()
        }
    best = max((one.ctr for of in rates.values() for one in of.values()), default=0.0)
    return Report(
        tuple(_slot_report(slot, of, best, config) for slot, of in rates.items() if of),
        {
            "real_impressions" if simulated else "simulated_impressions": others,
            "bots": len(np.unique(users[~human])),
            "impressions_of_bots": int(np.count_nonzero(~human)),
            "clicks_of_bots": int(clicks[~human].sum()),
            "further_clicks": int(np.maximum(clicks[human] - 1, 0).sum()),
            "repeated_clicks": int(pc.sum(outcomes["repeated_clicks"]).as_py() or 0) if "repeated_clicks" in known else 0,
        },
        simulated,
        config.confidence,
    )


def _of_one_kind(outcomes: pa.Table, simulated: bool | None) -> tuple[pa.Table, bool, int]:
    """The outcomes that count, whether they are simulated, and how many are of the other kind."""
    if "model" not in outcomes.column_names:
        return outcomes, False, 0
    marked = pc.fill_null(pc.starts_with(outcomes["model"], SIMULATED), False)
    n_simulated = int(pc.sum(marked).as_py() or 0)
    if simulated is None:
        simulated = 0 < n_simulated == len(outcomes)
    kept = outcomes.filter(marked if simulated else pc.invert(marked))
    return kept, simulated, len(outcomes) - len(kept)


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    coded = column.combine_chunks().dictionary_encode()
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist()


def _of_bots(
    users: np.ndarray, slots: np.ndarray, times: np.ndarray, clicked: np.ndarray, config: ClickConfig
) -> np.ndarray:
    """Which impressions are of users who behave as no person does, bool [N].

    The rules are far outside what people do, because setting users aside by their clicks would bend the rates otherwise.
    """
    if not len(users):
        return np.zeros(0, bool)
    shown = np.bincount(users)
    eager = (shown >= config.bot_impressions) & (np.bincount(users, clicked) > config.bot_click_share * shown)
    days = times // _DAY
    days -= days.min()
    visits = (users * (slots.max() + 1) + slots) * (days.max() + 1) + days
    _, first, counts = np.unique(visits, return_index=True, return_counts=True)
    tireless = np.isin(users, users[first[counts > config.bot_daily_impressions]])
    return np.asarray(eager[users] | tireless)


def _rate(users: np.ndarray, clicked: np.ndarray, config: ClickConfig) -> Rate:
    _, position, shown = np.unique(users, return_inverse=True, return_counts=True)
    return rate(shown, np.bincount(position, clicked).astype(np.int64), confidence=config.confidence)


def _slot_report(slot: str, rates: dict[str, Rate], best: float, config: ClickConfig) -> SlotReport:
    treated = tuple(Treated(name, of, of.ctr / best if best else None) for name, of in rates.items())
    against = _reference(list(rates), config.reference)
    others = [name for name in rates if name != against]
    # The lifts of a slot share the error, so that all hold together.
    alpha = (1 - config.confidence) / max(len(others), 1)
    lifts = [lift(rates[name], rates[against], alpha=alpha, typical=config.typical_lift) for name in others]
    corrected = [Lift(one.lift, one.low, one.high, min(1.0, one.p * len(others)), one.decided) for one in lifts]
    return SlotReport(
        slot,
        treated,
        tuple(Compared(name, against, one) for name, one in zip(others, corrected, strict=True)),
        _guidance(against, rates[against], alpha, config),
    )


def _reference(treatments: Sequence[str], wanted: str) -> str:
    for name in (wanted, *_USUAL_REFERENCES):
        if name in treatments:
            return name
    return treatments[0]


def _guidance(against: str, rate: Rate, alpha: float, config: ClickConfig) -> str:
    """How many impressions it takes to tell lifts from none, if users see as many as so far."""
    if rate.clickers < MIN_CLICKERS:
        return f"too early for advice: users who clicked in {against}: {rate.clickers}, needed: {MIN_CLICKERS}"
    parts = []
    for wanted in _WANTED_LIFTS:
        needed = impressions_needed(
            rate.ctr, wanted, design_effect=rate.design_effect, alpha=alpha, power=config.power, typical=config.typical_lift
        )
        if needed is not None:
            parts.append(f"{_rounded(needed):,} for a lift of {wanted:.0%}")
    if not parts:
        return f"{against} is clicked too often for a higher rate to be told from it"
    return (
        f"impressions that each treatment needs to be told from {against} with probability {config.power:.0%}: "
        + ", ".join(parts)
        + f"; one has seen {rate.impressions:,}"
    )


def _rounded(number: int) -> int:
    """Two significant digits, upwards."""
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return math.ceil(number / unit) * unit


def _treated_dict(one: Treated) -> dict[str, Any]:
    found = one.rate
    facts = {"treatment": one.treatment, "impressions": found.impressions, "clicks": found.clicks, "users": found.users}
    return {**facts, "ctr": found.ctr, "low": found.low, "high": found.high, "relative": one.relative}


def _compared_dict(one: Compared) -> dict[str, Any]:
    found = one.lift
    high = found.high if math.isfinite(found.high) else None
    facts = {"treatment": one.treatment, "against": one.against, "lift": found.lift, "low": found.low, "high": high}
    return {**facts, "p": found.p, "decided": found.decided}


def _treated_line(one: Treated) -> str:
    found = one.rate
    relative = f"{one.relative:6.1%}" if one.relative is not None else "     -"
    return (
        f"  {one.treatment:12s} {found.clicks:7,d} of {found.impressions:8,d} impressions, {found.users:6,d} users:"
        f" {found.ctr:6.2%} ({found.low:.2%} to {found.high:.2%}), relative {relative}"
    )


def _compared_line(one: Compared) -> str:
    found = one.lift
    if found.lift is None or not math.isfinite(found.high):
        return f"  {one.treatment} against {one.against}: too few clicks to compare"
    verdict = "decided" if found.decided else "not decided yet"
    return (
        f"  {one.treatment} against {one.against}: {found.lift:+.1%} ({found.low:+.1%} to {found.high:+.1%}), "
        f"p = {found.p:.2g}, {verdict}"
    )
