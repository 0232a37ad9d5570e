"""The attention ranker under a last stage that was fitted on days which the ranker did not know.

Shapes: B users, C candidates laid end to end, I items of the ranker, L items of a history.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from heedful.config import Config, option, require
from heedful.embeddings.continuing import continue_embeddings
from heedful.embeddings.skipgram import SkipGram
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import InputError, TrainingError
from heedful.events.candidates import Candidates, parts_of
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.folders import Folder
from heedful.progress import say
from heedful.rankers.attention import AttentionConfig, AttentionRanker
from heedful.rankers.base import UNKNOWN_SCORE, Ranker
from heedful.rankers.mixing.mixture import RANKER_SCORE, Mixture
from heedful.rankers.mixing.stage import Stage, training_rows
from heedful.rankers.mixing.windows import window_length
from heedful.rankers.periods import Periods
from heedful.rankers.saving import open_model_folder
from heedful.training.loop import TrainingReport

__all__ = ["MixedConfig", "MixedRanker", "RankerTerms"]

# Items, drawn by popularity, against whose mean a score is measured: rankers of different days have no common zero.
_REFERENCE_ITEMS = 300
# Rows whose columns are made at a time.
_ROWS = 2**17
# So many days are in the future of every log.
_ALL_DAYS = 1e6
# A logit further from that of the reference than this tells no more.
_MOST = 40.0
_DECIMALS = 4


@dataclass(frozen=True, kw_only=True)
class MixedConfig(AttentionConfig):
    """The options of the attention ranker, and those of the last stage."""

    stage_windows: int = option(3, "last periods of the log on which the last stage is fitted")
    stage_users: int = option(3000, "users whom the last stage is fitted to, of all these periods together")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        for name in ("stage_windows", "stage_users"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="1 or more")


class MixedRanker(Ranker):
    """The attention ranker, mixed with what is popular lately and bought together.

    The score is the mean of three estimates of log P(item | user): the attention ranker's own, a linear one and boosted
    trees, both over that estimate, an item's users in periods of several lengths, its age, and co-occurrence with the
    history. They are fitted on the last periods of the log, with rankers that were trained on what came before each.

    Attributes:
        ranker: the attention ranker, trained on the whole log.
        stage: the last stage; None where the log has no periods to fit it on, and the ranker ranks alone.
    """

    name: ClassVar[str] = "mixed"
    config_class: ClassVar[type[Config]] = MixedConfig
    is_rival: ClassVar[bool] = False
    config: MixedConfig
    gamma: float | None = 0.0
    ranker: AttentionRanker
    stage: Stage | None

    def fit(
        self,
        log: EventLog,
        items: ItemEmbeddings,
        *,
        checkpoints: Path | None = None,
        resume: bool = False,
        start: Self | None = None,
        periods: Path | None = None,
    ) -> Self:
        """Train a ranker before each period, fit the last stage on the periods, and train a ranker on the whole log.

        Args:
            log: the training log.
            items: embeddings of its items; the periods' rankers get tables of their own, trained in the same way.
            checkpoints: folder for the finished rankers of periods and the checkpoint of the one in training.
            resume: go on from there.
            start: go on from the weights of this ranker; the last stage is fitted again.
            periods: folder of the periods' rankers. One that is there is used for a later period, with the counts up to
                that, and goes on training when it is a whole period old. Those that were used are there afterwards.

        Raises:
            TrainingError: nothing to learn from, or a loss that is not finite.
            InputError: the table has none of the log's items.
            ConfigError: `start` has weights of other shapes.
        """
        histories = self._learn_catalogue(log, items)
        kept = Periods(periods) if periods is not None else None
        mixture = self._mixture(log, histories, checkpoints, resume, kept)
        whole = _inside(checkpoints, "whole")
        begin = start.ranker if start is not None else None
        self.ranker = self._new_ranker().fit(log, items, checkpoints=whole, resume=resume, start=begin)
        self.stage, self.touches = None, self.ranker.touches
        if mixture is not None:
            self.stage = self._stage_over(mixture, histories, window_length(histories.times))
        if kept is not None:
            kept.remove_unused()
        return self

    def _stage_over(self, mixture: Mixture, histories: Histories, window: int) -> Stage:
        return Stage.of(mixture, histories, len(self.items), self.last_time + 1, window, self._own_terms(), self.targets)

    def _recount(self, histories: Histories) -> None:
        """The counts of the ranker under the last stage, and counts and co-occurrence of the last stage."""
        self.ranker = copy.copy(self.ranker)
        self._share_with(self.ranker)
        self.ranker._recount(histories)
        self.touches = self.ranker.touches
        if self.stage is not None:
            self.stage = self._stage_over(self.stage.mixture, histories, self.stage.snapshot.window)

    def _count_at(self, now: int) -> None:
        self.ranker = copy.copy(self.ranker)
        self._share_with(self.ranker)
        self.ranker._count_at(now)
        if self.stage is not None:
            assert self.touches is not None
            snapshot = self.stage.snapshot.counted(self.touches, now, self.newcomers_from)
            known = replace(self.stage.known, snapshot=snapshot)
            self.stage = Stage(self.stage.mixture, known, self._own_terms())

    def _share_with(self, ranker: AttentionRanker) -> None:
        """Have the ranker under the last stage know the same catalogue and counts."""
        for name in ("items", "attributes", "embeddings", "kinds", "last_time", "log_shares", "trained_on", "touches"):
            setattr(ranker, name, getattr(self, name))

    @property
    def report(self) -> TrainingReport | None:
        """What the training of the ranker on the whole log did; None for a loaded model."""
        return self.ranker.report

    @property
    def n_parameters(self) -> int:
        """Numbers of the ranker under the last stage that are learnt."""
        return self.ranker.n_parameters

    def _mixture(
        self, log: EventLog, histories: Histories, checkpoints: Path | None, resume: bool, kept: Periods | None
    ) -> Mixture | None:
        """What the last stage learns; None for a log of which it can learn nothing."""
        assert self.embeddings is not None
        # A run with another log, table or options finds nothing of this one.
        inputs = [log.facts(), self.embeddings.content_hash, self.config.to_dict()]
        run = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:12]

        def terms_before(time: int) -> RankerTerms:
            before = log.split(time, days=_ALL_DAYS)[0]
            folder = _inside(checkpoints, f"before-{time}-{run}")
            ranker = self._ranker_before(time, before, folder, resume, kept)
            return RankerTerms(ranker, ranker.items.rows(self.items.ids), self._reference())

        config = self.config
        try:
            rows = training_rows(
                histories, len(self.items), terms_before,
                windows=config.stage_windows, users=config.stage_users, seed=config.seed, targets=self.targets,
            )  # fmt: skip
            return Mixture.fit(rows.columns, rows.labels, rows.expected, rows.names, seed=config.seed)
        except (TrainingError, InputError) as error:
            say(f"without a last stage: {error}")
            return None

    def _new_ranker(self) -> AttentionRanker:
        options = self.config.to_dict()
        return AttentionRanker(**{name: value for name, value in options.items() if not name.startswith("stage_")})

    def _ranker_before(
        self, time: int, before: EventLog, folder: Path | None, resume: bool, kept: Periods | None
    ) -> AttentionRanker:
        """A ranker that knows the events before a time alone: a kept one as long as it is not a whole period old."""
        earlier = kept.latest(time) if kept is not None else None
        if earlier is None or kept is None:
            ranker = self._trained_before(before, folder, resume, None)
        elif time - earlier.time < window_length(before.histories.times):
            kept.used.add(earlier.time)
            return _caught_up(earlier.ranker, before)
        else:
            ranker = self._trained_before(before, folder, resume, earlier.ranker)
        if kept is not None:
            kept.put(time, ranker)
        return ranker

    def _trained_before(
        self, before: EventLog, folder: Path | None, resume: bool, earlier: AttentionRanker | None
    ) -> AttentionRanker:
        """A ranker that was trained on these events alone, with a table of its own, or that goes on from an earlier one."""
        ranker = _finished(folder) if resume else None
        if ranker is not None:
            return ranker
        assert self.embeddings is not None
        # One thread: the same bits each time.
        if earlier is not None and earlier.embeddings is not None:
            table = continue_embeddings(earlier.embeddings, before, threads=1)
        else:
            table = SkipGram(**_embedding_options(self.embeddings), threads=1).fit(before)
        steps = _inside(folder, "steps")
        ranker = self._new_ranker().fit(before, table, checkpoints=steps, resume=resume, start=earlier)
        if folder is not None:
            ranker.save(folder / "ranker", overwrite=True, pack=True)
        return ranker

    def _own_terms(self) -> RankerTerms:
        return RankerTerms(self.ranker, np.arange(len(self.items)), self._reference())

    def _reference(self) -> np.ndarray:
        """Items of the training log, drawn by popularity, int64; the same whatever items came later."""
        shares = np.cumsum(self.users_of_item)
        draws = np.random.default_rng(0).random(_REFERENCE_ITEMS) * self.log_shares.total
        return np.asarray(np.minimum(np.searchsorted(shares, draws, side="right"), len(shares) - 1))

    # Scoring

    def _logits(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        if self.stage is None:
            return self.ranker.score_rows(histories, candidates, pool_gamma=0.0)
        scores = np.empty(len(candidates.rows), np.float32)
        for users in parts_of(candidates.offsets, _ROWS):
            part = slice(candidates.offsets[users.start], candidates.offsets[users.stop])
            scores[part] = self.stage.scores(histories.part(users), candidates.part(users))
        return scores

    def contributions(
        self, history: Histories, rows: np.ndarray, *, pool_gamma: float | None = 0.0
    ) -> dict[str, np.ndarray]:
        """What adds up to the scores: the ranker's terms, what it and counts say of the item alone, co-occurrence.

        Shapley values of the trees are counted to the group of their columns; see `Ranker.contributions`.
        """
        if history.lengths[0] == 0 or self.stage is None:
            return super().contributions(history, rows, pool_gamma=pool_gamma)
        columns, constant = self.stage.contributions(history, Candidates.of([rows]))
        groups: dict[str, np.ndarray] = {}
        for name, values in columns.items():
            group = name.partition(".")[0]
            groups[group] = groups.get(group, 0.0) + values
        groups["user"] = groups["user"] + constant
        named = {name: values.astype(np.float32) for name, values in groups.items()}
        return {**named, **self._prior_part(rows, pool_gamma)}

    def cold_start_scores(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Users of the last period, all users deciding between equals; see `Ranker.cold_start_scores`."""
        if self.stage is None:
            return self.ranker.cold_start_scores(rows)
        return self.stage.snapshot.popularity[rows]

    def score_for_everyone(self, rows: np.ndarray, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        """What the ranker under the last stage says of items alone, and the prior."""
        under = self.ranker.score_for_everyone(rows, pool_gamma=0.0)
        return np.asarray(under + super().score_for_everyone(rows, pool_gamma=pool_gamma), np.float32)

    def by_history_item(self, history: Histories, rows: np.ndarray) -> dict[str, np.ndarray]:
        """How the ranker's terms divide among the items of the history; see `Ranker.by_history_item`."""
        return self.ranker.by_history_item(history, rows)

    def attention_weights(self, history: Histories, rows: np.ndarray) -> np.ndarray | None:
        """The attention of the ranker under the last stage, float32 [C, K, L + M]."""
        return self.ranker.attention_weights(history, rows)

    @property
    def popularity_now(self) -> np.ndarray:
        """Log of each item's share of all users as the ranker under the last stage sees it, float32 [I]."""
        return self.ranker.popularity_now

    # Folders

    def _settings(self) -> dict[str, Any]:
        ranker = {"config": self.ranker.config.to_dict(), "gamma": self.ranker.gamma, **self.ranker._settings()}
        return {"has_stage": self.stage is not None, "ranker": ranker}

    def _write(self, folder: Path) -> None:
        self.ranker._write(folder)
        if self.stage is not None:
            self.stage.save(folder)

    def _read(self, folder: Folder, settings: dict[str, Any]) -> None:
        known = settings["ranker"]
        self.ranker = ranker = AttentionRanker(**known["config"])
        self._share_with(ranker)
        ranker.gamma = known["gamma"]
        ranker._read(folder, known)
        self.stage = None
        if settings["has_stage"]:
            self.stage = Stage.load(folder.path, self._own_terms(), self.targets)

    def with_ranker(self, ranker: AttentionRanker) -> Self:
        """The same last stage over a ranker with more items, which it knows nothing else of."""
        longer = copy.copy(self)
        longer.items, longer.attributes, longer.embeddings = ranker.items, ranker.attributes, ranker.embeddings
        longer.log_shares, longer.newcomers_from, longer.ranker = ranker.log_shares, ranker.newcomers_from, ranker
        if self.stage is not None:
            longer.stage = self.stage.extended(len(ranker.items), longer._own_terms())
        return longer


class RankerTerms:
    """What a trained ranker says of candidates, as columns of the last stage.

    Args:
        ranker: the ranker.
        rows: its row of each item of the catalogue that candidates are numbered by, -1 where it has none, int64 [I].
        reference: items of the catalogue against which scores are measured.
    """

    names: tuple[str, ...] = (RANKER_SCORE, "ranker.personal", "ranker.for_everyone")

    def __init__(self, ranker: AttentionRanker, rows: np.ndarray, reference: np.ndarray) -> None:
        self.ranker, self.rows = ranker, rows
        self._reference = rows[reference][rows[reference] >= 0]

    def columns(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        """The score less that of the reference, what of it is due to the user, and the rest; float32 [C, 3]."""
        own, asked = histories.with_rows(self.rows), candidates.with_rows(self.rows)
        known = asked.rows >= 0
        score, zero = self._scores(own, asked)
        everyone = self.ranker.score_for_everyone(np.maximum(asked.rows, 0), pool_gamma=0.0)
        zero = zero[asked.owners]
        least = np.float32(UNKNOWN_SCORE / 2)
        columns = np.stack([score - zero, score - everyone, everyone - zero], axis=1)
        columns[~known | (score <= least)] = (-_MOST / 4, 0.0, -_MOST / 4)
        # The last digits of matrix products depend on the batch, and at a threshold trees would enlarge them.
        return np.asarray(columns.clip(-_MOST, _MOST).round(_DECIMALS), np.float32)

    def _scores(self, histories: Histories, candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the candidates, float32 [C], and log of the mean exponential score of the reference, float32 [B]."""
        # One pass over the histories for both.
        lists = np.split(candidates.rows, candidates.offsets[1:-1])
        both = Candidates.of([np.concatenate([rows, self._reference]) for rows in lists])
        scores = self.ranker.score_rows(histories, both, pool_gamma=0.0)
        is_asked = np.arange(len(scores)) < np.repeat(both.offsets[1:] - len(self._reference), both.lengths)
        if not len(self._reference):
            return scores, np.zeros(len(histories), np.float32)
        of_reference = scores[~is_asked].reshape(len(histories), -1)
        most = of_reference.max(axis=1, keepdims=True)
        zero = most[:, 0] + np.log(np.exp(of_reference - most).mean(axis=1))
        return scores[is_asked], np.asarray(zero, np.float32)


def _inside(folder: Path | None, name: str) -> Path | None:
    return folder / name if folder is not None else None


def _caught_up(ranker: AttentionRanker, log: EventLog) -> AttentionRanker:
    from heedful.rankers.catching_up import caught_up  # which knows this module's ranker, too

    return caught_up(ranker, log)


def _finished(folder: Path | None) -> AttentionRanker | None:
    """The ranker of a period that an earlier run finished; None where there is none."""
    if folder is None or not (folder / "ranker" / "manifest.json").is_file():
        return None
    return AttentionRanker.load_folder(*open_model_folder(folder / "ranker"), None)


def _embedding_options(table: ItemEmbeddings) -> dict[str, Any]:
    """The options that a table was trained with, as far as it is known to be one of `SkipGram`."""
    if table.provenance.get("trainer") != "SkipGram":
        return {"width": table.width}
    return {name: value for name, value in table.provenance["config"].items() if name != "threads"}
