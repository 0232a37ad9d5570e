"""The report of clicks: what it holds, as plain values for JSON, and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heedful.serving.rates import MIN_CLICKERS, Lift, Rate, impressions_needed

__all__ = ["Compared", "Report", "SlotReport", "Split", "Treated", "guidance", "summary"]

_WANTED_LIFTS = (0.05, 0.1, 0.2)


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
    """A treatment's lift against the slot's reference.

    Attributes:
        treatment: its name.
        against: the reference.
        lift: estimate and interval.
        verdict: "ahead" or "behind" when the interval leaves out zero, "not decided yet", "too early" while too few users
            have clicked for an interval, or "withheld" where the split is not the declared one.
    """

    treatment: str
    against: str
    lift: Lift
    verdict: str


@dataclass(frozen=True)
class Split:
    """How the users of an experiment are split among its treatments, and whether by the declared shares.

    Attributes:
        users: of each treatment.
        expected: what the declared shares make of as many users.
        p: always-valid p-value of "dealt by the declared shares".
        mismatch: whether p is below the level; lifts are not to be trusted then.
    """

    users: Mapping[str, int]
    expected: Mapping[str, float]
    p: float
    mismatch: bool


@dataclass(frozen=True)
class SlotReport:
    """One experiment in one slot.

    Attributes:
        slot: the slot.
        salt: by which users were dealt.
        shares: declared share of each treatment; empty where it was not recorded.
        begun: when it began, unix seconds.
        latest: when something was shown for the last time, unix seconds.
        treatments: by name.
        lifts: against the reference.
        split: None where the shares were not recorded.
        summary: the result, in words.
        guidance: how many impressions certainty takes, in words.
    """

    slot: str
    salt: str
    shares: Mapping[str, float]
    begun: int
    latest: int
    treatments: tuple[Treated, ...]
    lifts: tuple[Compared, ...]
    split: Split | None
    summary: str
    guidance: str


@dataclass(frozen=True)
class Report:
    """Click-through of every slot.

    Attributes:
        slots: the latest experiment of each slot, by name of the slot.
        earlier: experiments of the same slots before these, the newest first.
        set_aside: what does not count, by reason: impressions of the other kind (simulated or real), bots, their impressions
            and clicks, clicks on further items of an impression, repeated clicks on one item.
        simulated: whether these are impressions of the simulator, which are never counted together with real ones.
        confidence: of the intervals.
    """

    slots: tuple[SlotReport, ...]
    earlier: tuple[SlotReport, ...]
    set_aside: dict[str, int]
    simulated: bool
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON; an infinite end of a lift is None."""
        return {
            "slots": [_slot_dict(one) for one in self.slots],
            "earlier": [_slot_dict(one) for one in self.earlier],
            "set_aside": self.set_aside,
            "simulated": self.simulated,
            "confidence": self.confidence,
        }

    def __str__(self) -> str:
        if not self.slots:
            return "Nothing simulated was shown yet." if self.simulated else "Nothing was shown yet."
        lines = ["Simulated: nobody saw these slots."] if self.simulated else []
        for slot in self.slots:
            lines += ["", slot.slot, f"  {slot.summary}", *(_treated_line(one) for one in slot.treatments)]
            lines += [*(_compared_line(one) for one in slot.lifts), *([_split_line(slot.split)] if slot.split else [])]
            lines.append(f"  {slot.guidance}")
            lines += [_earlier_line(one) for one in self.earlier if one.slot == slot.slot]
        aside = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in self.set_aside.items() if count)
        return "\n".join([*lines, "", f"Set aside: {aside or 'nothing'}."]).lstrip("\n")


def summary(against: str, rates: Mapping[str, Rate], lifts: Sequence[Compared], split: Split | None) -> str:
    """The result of one experiment in a sentence or two, for those who do not read tables."""
    if split is not None and split.mismatch:
        seen = ", ".join(f"{name}: {number:,}, expected {split.expected[name]:,.0f}" for name, number in split.users.items())
        return (
            f"Not to be trusted: users are not split by the declared shares ({seen}). "
            "Impressions of one treatment are lost or counted twice on their way"
        )
    if not lifts:
        [(name, of)] = rates.items()
        return f"{_words(name)} alone: {of.ctr:.2%} of {of.impressions:,} impressions were clicked"
    decided = [_in_words(one) for one in lifts if one.lift.decided]
    if decided:
        return "; ".join(decided)
    if all(one.verdict == "too early" for one in lifts):
        few = min(rates[name].clickers for name in (against, *(one.treatment for one in lifts)))
        return f"Too early: {few} of the {MIN_CLICKERS} users that each treatment needs have clicked"
    return "No difference between treatments can be told yet"


def _in_words(one: Compared) -> str:
    more, least = ("more", one.lift.low) if one.lift.low > 0 else ("less", -one.lift.high)
    share = f"by {abs(one.lift.lift or 0):.0%}, by at least {least:.0%}"
    return f"{_words(one.treatment)} is clicked {more} than {_words(one.against)} {share}"


def guidance(against: str, rate: Rate, *, alpha: float, power: float, typical: float) -> str:
    """How many impressions it takes to tell lifts from none, if users see as many as so far."""
    if rate.clickers < MIN_CLICKERS:
        return f"too early for advice: users who clicked in {against}: {rate.clickers}, needed: {MIN_CLICKERS}"
    parts = []
    for wanted in _WANTED_LIFTS:
        needed = impressions_needed(
            rate.ctr, wanted, design_effect=rate.design_effect, alpha=alpha, power=power, typical=typical
        )
        if needed is not None:
            parts.append(f"{_rounded(needed):,} for a lift of {wanted:.0%}")
    if not parts:
        return f"{against} is clicked too often for a higher rate to be told from it"
    return (
        f"impressions that each treatment needs to be told from {against} with probability {power:.0%}: "
        + ", ".join(parts)
        + f"; one has seen {rate.impressions:,}"
    )


def _rounded(number: int) -> int:
    """Two significant digits, upwards."""
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return math.ceil(number / unit) * unit


def _words(name: str) -> str:
    return name.replace("_", " ")


def _slot_dict(one: SlotReport) -> dict[str, Any]:
    return {
        "slot": one.slot,
        "salt": one.salt,
        "shares": dict(one.shares),
        "begun": one.begun,
        "latest": one.latest,
        "summary": one.summary,
        "treatments": [_treated_dict(of) for of in one.treatments],
        "lifts": [_compared_dict(of) for of in one.lifts],
        "split": _split_dict(one.split) if one.split is not None else None,
        "guidance": one.guidance,
    }


def _split_dict(split: Split) -> dict[str, Any]:
    return {"users": dict(split.users), "expected": dict(split.expected), "p": split.p, "mismatch": split.mismatch}


def _treated_dict(one: Treated) -> dict[str, Any]:
    found = one.rate
    facts = {"treatment": one.treatment, "impressions": found.impressions, "clicks": found.clicks}
    facts |= {"users": found.users, "users_who_clicked": found.clickers}
    return {**facts, "ctr": found.ctr, "low": found.low, "high": found.high, "relative": one.relative}


def _compared_dict(one: Compared) -> dict[str, Any]:
    found = one.lift
    high = found.high if math.isfinite(found.high) else None
    facts = {"treatment": one.treatment, "against": one.against, "lift": found.lift, "low": found.low, "high": high}
    return {**facts, "p": found.p, "decided": found.decided, "verdict": one.verdict}


def _treated_line(one: Treated) -> str:
    found = one.rate
    relative = f"{one.relative:6.1%}" if one.relative is not None else "     -"
    return (
        f"  {one.treatment:12s} {found.clicks:7,d} of {found.impressions:8,d} impressions, "
        f"{found.users:6,d} users ({found.clickers:,} clicked):"
        f" {found.ctr:6.2%} ({found.low:.2%} to {found.high:.2%}), relative {relative}"
    )


def _compared_line(one: Compared) -> str:
    found = one.lift
    if one.verdict == "withheld":
        return f"  {one.treatment} against {one.against}: withheld, the split of the users is not the declared one"
    if found.lift is None or one.verdict == "too early":
        return f"  {one.treatment} against {one.against}: too early, too few clicks to compare"
    verdict = f"decided: {one.verdict}" if found.decided else one.verdict
    return (
        f"  {one.treatment} against {one.against}: {found.lift:+.1%} ({found.low:+.1%} to {found.high:+.1%}), "
        f"p = {found.p:.2g}, {verdict}"
    )


def _split_line(split: Split) -> str:
    users = ", ".join(f"{name} {number:,} (expected {split.expected[name]:,.1f})" for name, number in split.users.items())
    return f"  users by treatment: {users}, p = {split.p:.2g}, {'MISMATCH' if split.mismatch else 'as declared'}"


def _earlier_line(one: SlotReport) -> str:
    shown = sum(of.rate.impressions for of in one.treatments)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in one.shares.items()) or "shares not recorded"
    return f"  not counted here: an earlier experiment (salt {one.salt}; {shares}) with {shown:,} impressions"
