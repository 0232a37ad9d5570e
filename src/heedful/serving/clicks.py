"""What is clicked: click-through rate by slot and treatment, lifts, and how much longer to wait.

Only impressions that were shown count. An impression counts as clicked once, however many of its items were clicked and
however often; users who behave as no person does are set aside, and counted. Another salt or other shares are another
experiment, and never added to this one.

A lift is decided when its interval leaves out zero, and only where the split of the users is that which was declared. The
interval also holds the lift without the users who clicked most, 2 % of all or a tenth of those who clicked, so that a few
users, bots below every bound among them, decide nothing (after Broderick, Giordano and Meager 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from heedful.config import Config, option, require
from heedful.serving.bots import DEFAULT_BOT_RULES, BotRules
from heedful.serving.click_counts import SIMULATED, ClickCounts, Experiment, count_outcomes
from heedful.serving.click_report import Compared, Report, SlotReport, Split, Treated, guidance, summary
from heedful.serving.rates import Lift, Rate, lift, rate, split_p

__all__ = ["SIMULATED", "ClickConfig", "Compared", "Report", "SlotReport", "Split", "Treated", "report", "report_counts"]

_USUAL_REFERENCES = ("popularity", "editorial", "last_item")
_FEW_USERS, _FEW_CLICKERS = 0.02, 0.1  # a verdict has to hold without so many of all users, or of those who clicked


@dataclass(frozen=True, kw_only=True)
class ClickConfig(Config):
    """How clicks are counted and compared."""

    confidence: float = option(0.95, "confidence of intervals, and of all lifts of a slot together")
    reference: str = option("", "treatment that lifts are against; empty: popularity, or the editors' list, or last_item")
    typical_lift: float = option(0.5, "lift that the comparison is most sensitive to; set before looking")
    power: float = option(0.8, "chance of deciding that the sample sizes are for")
    split_level: float = option(0.01, "chance of ever calling a split wrong that is right")
    bot_daily_impressions: int = option(
        DEFAULT_BOT_RULES.daily_impressions, "more impressions than this of one slot in a day (UTC): not a person"
    )
    bot_impressions: int = option(
        DEFAULT_BOT_RULES.impressions, "impressions from which on the share of clicks is looked at"
    )
    bot_click_share: float = option(
        DEFAULT_BOT_RULES.click_share, "a higher share of clicked impressions than this: not a person"
    )

    def __post_init__(self) -> None:
        """Check every option."""
        require(0.5 <= self.confidence < 1, "confidence", got=self.confidence, expected="0.5 up to, not including, 1")
        require(0 < self.typical_lift <= 10, "typical_lift", got=self.typical_lift, expected="above 0, at most 10")
        for name in ("power", "split_level"):
            require(0 < getattr(self, name) < 1, name, got=getattr(self, name), expected="between 0 and 1")
        for name in ("bot_daily_impressions", "bot_impressions"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="1 or more")
        require(0 < self.bot_click_share <= 1, "bot_click_share", got=self.bot_click_share, expected="above 0, at most 1")

    @property
    def bot_rules(self) -> BotRules:
        """Who is a bot."""
        return BotRules(self.bot_daily_impressions, self.bot_impressions, self.bot_click_share)


def report(outcomes: pa.Table, config: ClickConfig = ClickConfig(), *, simulated: bool | None = None) -> Report:
    """Count impressions, and compare.

    Args:
        outcomes: one row for each impression that was shown, as `Store.outcomes` gives: slot, treatment, user_id, time (unix
            seconds), clicks (distinct items clicked), and maybe repeated_clicks, model to mark simulated impressions, salt
            and shares to tell experiments apart.
        config: how.
        simulated: count the impressions of the simulator, or the real ones; None: the real ones as soon as there are any.

    Raises:
        InputError: a column is missing.
    """
    return report_counts(count_outcomes(outcomes, config.bot_rules, simulated=simulated), config)


def report_counts(counts: ClickCounts, config: ClickConfig = ClickConfig()) -> Report:
    """Compare what was counted, as `Store.click_counts` gives; those were counted by the default rules for bots."""
    latest = {one.slot: one for one in counts.experiments}
    earlier = [one for one in reversed(counts.experiments) if one is not latest[one.slot]]
    rates = {id(one): _rates(one, config) for one in counts.experiments}
    best = max((of.ctr for one in latest.values() for of in rates[id(one)].values()), default=0.0)
    return Report(
        tuple(_slot_report(latest[slot], rates[id(latest[slot])], best, config) for slot in sorted(latest)),
        tuple(_slot_report(one, rates[id(one)], best, config) for one in earlier),
        counts.set_aside,
        counts.simulated,
        config.confidence,
    )


def _rates(experiment: Experiment, config: ClickConfig) -> dict[str, Rate]:
    treatments = sorted(experiment.treatments.items())
    return {name: rate(of.shown, of.clicked, of.users, confidence=config.confidence) for name, of in treatments}


def _slot_report(experiment: Experiment, rates: dict[str, Rate], best: float, config: ClickConfig) -> SlotReport:
    against = _reference(list(rates), config.reference)
    others = [name for name in rates if name != against]
    # The lifts of a slot share the error, so that all hold together.
    alpha = (1 - config.confidence) / max(len(others), 1)
    split = _split(experiment, rates, config)
    trusted = split is None or not split.mismatch
    both = (rates, _rates_of_most(experiment))
    lifts = tuple(_compared(name, against, both, len(others), config, trusted=trusted) for name in others)
    return SlotReport(
        experiment.slot,
        experiment.salt,
        experiment.shares,
        experiment.begun,
        experiment.latest,
        tuple(Treated(name, of, of.ctr / best if best else None) for name, of in rates.items()),
        lifts,
        split,
        summary(against, rates, lifts, split),
        guidance(against, rates[against], alpha=alpha, power=config.power, typical=config.typical_lift),
    )


def _reference(treatments: Sequence[str], wanted: str) -> str:
    for name in (wanted, *_USUAL_REFERENCES):
        if name in treatments:
            return name
    return treatments[0]


def _split(experiment: Experiment, rates: Mapping[str, Rate], config: ClickConfig) -> Split | None:
    shares = experiment.shares
    if not shares:
        return None
    users = {name: rates[name].users if name in rates else 0 for name in {**shares, **rates}}
    total = sum(users.values())
    p = split_p(list(users.values()), [shares.get(name, 0.0) for name in users])
    return Split(users, {name: total * shares.get(name, 0.0) for name in users}, p, p < config.split_level)


def _rates_of_most(experiment: Experiment) -> dict[str, Rate]:
    """The rates without the few users who clicked most beyond the common rate, picked in all treatments alike."""
    names = sorted(experiment.treatments)
    groups = [experiment.treatments[name] for name in names]
    shown, clicked, users = (np.concatenate([getattr(of, what) for of in groups]) for what in ("shown", "clicked", "users"))
    arm = np.repeat(np.arange(len(names)), [len(of.users) for of in groups])
    few = math.ceil(min(_FEW_USERS * users.sum(), _FEW_CLICKERS * users[clicked > 0].sum()))
    excess = clicked - shown * (users @ clicked) / (users @ shown)
    # Of users alike in several treatments each treatment loses its part.
    levels, level = np.unique(-excess, return_inverse=True)
    alike = np.bincount(level, users, len(levels))
    out = np.clip(few - (np.cumsum(alike) - alike), 0, alike) / alike
    kept = users - np.round(out[level] * users).astype(np.int64)
    return {
        name: rate(*(of[(arm == number) & (kept > 0)] for of in (shown, clicked, kept))) for number, name in enumerate(names)
    }


def _compared(
    name: str,
    against: str,
    rates: tuple[dict[str, Rate], dict[str, Rate]],
    lifts: int,
    config: ClickConfig,
    *,
    trusted: bool,
) -> Compared:
    alpha = (1 - config.confidence) / lifts
    plain, of_most = (lift(of[name], of[against], alpha=alpha, typical=config.typical_lift) for of in rates)
    found = Lift(
        plain.lift,
        min(plain.low, of_most.low),
        max(plain.high, of_most.high),
        min(1.0, max(plain.p, of_most.p) * lifts),
        decided=False,
    )
    if not trusted:
        return Compared(name, against, found, "withheld")
    if not math.isfinite(found.high):
        return Compared(name, against, found, "too early")
    if found.low <= 0 <= found.high:
        return Compared(name, against, found, "not decided yet")
    return Compared(name, against, replace(found, decided=True), "ahead" if found.low > 0 else "behind")
