"""A two-stage pipeline as industry builds it: candidates from several sources, boosted trees over counts and neighbours.

Shapes: B users, I items, C candidates laid end to end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from heedful.config import Config, option, require
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.targets import TargetConfig
from heedful.folders import Folder
from heedful.rankers.external.base import PublicRanker
from heedful.rankers.mixing.mixture import Mixture
from heedful.rankers.mixing.stage import Counts, Stage, training_rows
from heedful.rankers.mixing.windows import window_length

__all__ = ["TwoStage", "TwoStageConfig"]

_CHUNK_USERS = 16


@dataclass(frozen=True, kw_only=True)
class TwoStageConfig(TargetConfig):
    """What is learnt from."""

    seed: int = option(1, "seed of users, negatives and trees")
    windows: int = option(3, "last windows of the log whose new items are learnt")
    users: int = option(3000, "users who are learnt from, of all windows together")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        require(self.windows >= 1, "windows", got=self.windows, expected="1 or more")
        require(self.users >= self.windows, "users", got=self.users, expected="one for each window or more")


class TwoStage(PublicRanker):
    """LightGBM (Ke et al. 2017) over an item's users in windows of several lengths, ages, EASE and cosine neighbours.

    Labels are the new items of users in the last windows of the log, and all columns are as of the start of a window.
    Scores estimate log P(item | user), so that they have a sampling prior with gamma 0.

    Attributes:
        stage: the trees and what they need to know of the log.
    """

    name: ClassVar[str] = "two-stage"
    config_class: ClassVar[type[Config]] = TwoStageConfig
    config: TwoStageConfig
    gamma = 0.0
    stage: Stage

    def _learn(self, histories: Histories) -> None:
        config, n_items = self.config, len(self.items)
        rows = training_rows(
            histories, n_items, lambda time: Counts(), windows=config.windows, users=config.users, seed=config.seed,
            targets=self.targets,
        )  # fmt: skip
        mixture = Mixture.fit(rows.columns, rows.labels, rows.expected, rows.names, linear=False, seed=config.seed)
        end, length = self.last_time + 1, window_length(histories.times)
        self.stage = Stage.of(mixture, histories, n_items, end, length, Counts(), self.targets)

    def _logits(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        return self.stage.scores(histories, candidates)

    def _catalogue_logits(self, histories: Histories) -> np.ndarray:
        scores_BI = np.empty((len(histories), len(self.items)), np.float32)
        for users, part in histories.chunks(_CHUNK_USERS):
            everything = Candidates.same_for_all(len(part), np.arange(len(self.items)))
            scores_BI[users] = self.stage.scores(part, everything).reshape(len(part), -1)
        return scores_BI

    def _write(self, folder: Path) -> None:
        self.stage.save(folder)

    def _read(self, folder: Folder, settings: dict[str, Any]) -> None:
        self.stage = Stage.load(folder.path, Counts(), self.targets, linear=False)
