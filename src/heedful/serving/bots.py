"""Users who behave as no person does, by rules that know nothing of the treatment.

The rules are far outside what people do, because to leave users out by their clicks bends the rates otherwise. Bots below
these bounds are kept from deciding an experiment in another way: see `heedful.serving.clicks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["DAY", "DEFAULT_BOT_RULES", "BotRules"]

DAY = 86_400


@dataclass(frozen=True)
class BotRules:
    """From when on a user is a bot, in all slots.

    Attributes:
        daily_impressions: more impressions than this of one slot in a day (UTC).
        impressions: impressions from which on the share of clicks is looked at.
        click_share: a higher share of clicked impressions than this.
    """

    daily_impressions: int = 200
    impressions: int = 20
    click_share: float = 0.9

    def is_eager(self, shown: Any, clicked: Any) -> Any:
        """Whether a user with so many impressions, of all slots, clicked too many of them; of one user or an array."""
        return (shown >= self.impressions) & (clicked > self.click_share * shown)

    def find(self, users: np.ndarray, slots: np.ndarray, times: np.ndarray, clicked: np.ndarray) -> np.ndarray:
        """Which impressions are of bots, bool [N].

        Args:
            users: a number for each user, int64 [N].
            slots: a number for each slot, int64 [N].
            times: when they were shown, unix seconds, int64 [N].
            clicked: whether they were clicked, bool [N].
        """
        if not len(users):
            return np.zeros(0, bool)
        eager = self.is_eager(np.bincount(users), np.bincount(users, clicked))
        days = times // DAY
        days -= days.min()
        visits = (users * (slots.max() + 1) + slots) * (days.max() + 1) + days
        _, first, counts = np.unique(visits, return_index=True, return_counts=True)
        tireless = np.isin(users, users[first[counts > self.daily_impressions]])
        return np.asarray(eager[users] | tireless)


DEFAULT_BOT_RULES = BotRules()
"""The rules by which the store keeps its running sums; a report by other rules reads all impressions."""
