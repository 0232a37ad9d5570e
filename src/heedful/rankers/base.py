"""What all rankers share: one interface over ids and rows, the sampling prior, unknown items, empty histories, folders.

Shapes: B users, C candidates laid end to end, I items of the ranker.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from heedful.config import Config
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError, FolderError
from heedful.events.candidates import Candidates, parts_of
from heedful.events.catalog import describe
from heedful.events.histories import Histories
from heedful.events.ids import listed
from heedful.events.log import EventLog, count_items
from heedful.events.mapped import load_items, save_items
from heedful.events.targets import Targets
from heedful.events.times import seconds_of
from heedful.events.vocabulary import Vocabulary
from heedful.folders import Folder, new_folder
from heedful.model.touches import Touches
from heedful.rankers.given import attributes_of, check_one_each, in_table_rows
from heedful.rankers.prior import LogShares, sampling_prior
from heedful.rankers.saving import KIND, MODEL_FORMAT, reference_to, referenced_table

__all__ = ["UNKNOWN_SCORE", "Ranker"]

UNKNOWN_SCORE = -1e9
"""Score of an item that the ranker does not know: finite, and below that of every item that it does."""

# Candidates that are scored together, so that memory does not grow with the number of requests.
_PART_CANDIDATES = 2**19


class Ranker(ABC):
    """A fitted ranker scores candidates for users given by their past actions alone; a new user needs no retraining.

    Attributes:
        config: the options it was made with.
        items: ids of the items that it knows, [I].
        log_shares: each item's share of all users of items in the training log.
        attributes: what is known of the items (title, ...), [I] rows.
        kinds: names of the event kinds of the training log.
        last_time: time of the last event of the training log, unix seconds.
        trained_on: sizes, kinds, period and content hash of the training log.
        embeddings: the item embeddings, None for a ranker that needs none.
        newcomers_from: the row from which on items came after training, with an extension; None where none did.
        content_hash: of the folder that it was loaded from; None for one that was not loaded.
        touches: what popularity is counted from, where it can go on after training; None: it cannot.
        refreshed_from: the model and the log that its counts were made from, see `refreshed`; None: as trained.
    """

    name: ClassVar[str]
    """The name under which `heedful train --model` and a model folder know it."""
    config_class: ClassVar[type[Config]]
    needs_embeddings: ClassVar[bool] = True
    is_rival: ClassVar[bool] = True
    """Whether a report compares heedful's trained models with it, rather than it with others."""
    gamma: float | None = None
    """Exponent of the popularity that training negatives were drawn from; None where the score has no such prior."""

    config: Config
    items: Vocabulary
    log_shares: LogShares
    attributes: pa.Table
    kinds: tuple[str, ...]
    last_time: int
    trained_on: dict[str, Any]
    embeddings: ItemEmbeddings | None = None
    newcomers_from: int | None = None
    content_hash: str | None = None
    refreshed_from: dict[str, Any] | None = None
    touches: Touches | None = None

    def __init__(self, **options: Any) -> None:
        self.config = self.config_class.from_dict(options)

    @abstractmethod
    def fit(self, log: EventLog, items: ItemEmbeddings) -> Self:
        """Learn from a log and the embeddings of its items."""

    @property
    def users_of_item(self) -> np.ndarray:
        """Distinct users of each item in the training log, int64 [I]; 0 for an item that only the table has."""
        return self.log_shares.users

    @property
    def targets(self) -> Targets:
        """What the ranker was trained for: which items count as targets, and which as seen."""
        return Targets.of(self.config, self.kinds)

    def seen(self, histories: Histories) -> Candidates:
        """The items of B histories that count as seen, in rows of this ranker; a row may be there several times."""
        return Candidates(histories.offsets, histories.items).where(self.targets.is_seen(histories.kinds))

    def read(self, histories: Histories) -> Histories:
        """The histories with only the actions of kinds that the ranker was trained on (`history_kinds`)."""
        named = getattr(self.config, "history_kinds", ())
        if not named:
            return histories
        wanted = {*named, *getattr(self.config, "target_kinds", ())}  # targets are a part of the history afterwards
        return histories.where(np.isin(histories.kinds, [code for code, kind in enumerate(self.kinds) if kind in wanted]))

    @property
    def uses_prior(self) -> bool:
        """Whether `pool_gamma` changes the scores."""
        return self.gamma is not None

    def score(
        self,
        history: Sequence[Any],
        candidates: Sequence[Any],
        *,
        history_times: Sequence[Any] | None = None,
        history_kinds: Sequence[str] | None = None,
        pool_gamma: float | None = 0.0,
    ) -> np.ndarray:
        """Score candidates for one user.

        Args:
            history: ids of the user's past items, oldest first; unknown ids are left out.
            candidates: ids to score; an unknown id gets `UNKNOWN_SCORE`.
            history_times: time of each past action, as `heedful.events.times` reads it.
            history_kinds: event kind of each past action.
            pool_gamma: how the candidates were chosen: in proportion to popularity ** pool_gamma. 0 for a whole
                catalogue or a hand-picked list. None leaves the logit of the paper as it is. See `prior`.

        Returns:
            float32 [C] in candidate order, higher is better. An empty history is ranked by popularity.

        Raises:
            InputError: times or kinds are not one for each past action, a time is absurd, or a text is given for a list.
        """
        histories = self.histories_of([history], [history_times], [history_kinds])
        return self.score_rows(histories, Candidates.of([self.items.rows(candidates)]), pool_gamma=pool_gamma)

    def describe(self, row: int) -> str:
        """The item of a row in words."""
        return describe(self.items, self.attributes, row)

    def describe_item(self, item: Any) -> str:
        """An item in words, by its id."""
        row = int(self.items.rows([item])[0])
        return self.describe(row) if row >= 0 else str(item)

    def histories_of(
        self,
        items: Sequence[Sequence[Any]],
        times: Sequence[Sequence[Any] | None] | None = None,
        kinds: Sequence[Sequence[str] | None] | None = None,
    ) -> Histories:
        """Past actions given by id as `Histories` in rows; ids that the ranker does not know are left out.

        Missing times are taken as the end of the training log, missing or unknown kinds as its most frequent kind.

        Raises:
            InputError: times or kinds of a user are not as many as the items, a time is absurd, or a list is a text.
        """
        items = [listed(history, "a history") for history in items]
        offsets = np.concatenate([[0], np.cumsum([len(history) for history in items])]).astype(np.int64)
        flat_times = np.full(offsets[-1], self.last_time, np.int64)
        flat_kinds = np.full(offsets[-1], None, object)
        for what, lists, flat in (("history_times", times, flat_times), ("history_kinds", kinds, flat_kinds)):
            for b, given in enumerate(lists or []):
                if given is not None:
                    values = listed(given, what)
                    check_one_each(what, b, len(values), len(items[b]))
                    if flat is flat_times:
                        values = seconds_of(values, missing=self.last_time)
                    flat[offsets[b] : offsets[b + 1]] = values
        known = np.concatenate([np.empty(0, np.int64), *(self.items.rows(history) for history in items)])
        return self.encode_histories(offsets, known, flat_times, self.kind_codes(flat_kinds.tolist()))

    def encode_histories(self, offsets: np.ndarray, rows: np.ndarray, times: np.ndarray, kinds: np.ndarray) -> Histories:
        """Histories from flat arrays as in `Histories`, with rows of -1 left out and actions put in order of time."""
        owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        if len(times) > 1 and np.any((np.diff(times) < 0) & (np.diff(owner) == 0)):
            order = np.lexsort((times, owner))
            rows, times, kinds = rows[order], times[order], kinds[order]
        histories = Histories(offsets, np.maximum(rows, 0).astype(np.int32), times, kinds)
        return self.read(histories.where(rows >= 0))

    def kind_codes(self, names: Sequence[str | None]) -> np.ndarray:
        """Codes of event kinds, uint8.

        One that the training log lacks, or None, counts as its most frequent kind that does not speak against an item.
        """
        code_of = {kind: code for code, kind in enumerate(self.kinds)}
        usual = next((code for code in range(len(self.kinds)) if code not in self.targets.negative), 0)
        return np.array([code_of.get(name, usual) if name is not None else usual for name in names], np.uint8)

    def score_rows(self, histories: Histories, candidates: Candidates, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        """Score candidates for B users, all in item rows of this ranker (-1: unknown); float32 [C]."""
        histories = self.read(histories)
        known = candidates.rows >= 0
        rows = Candidates(candidates.offsets, np.where(known, candidates.rows, 0))
        scores = np.empty(len(known), np.float32)
        for users in parts_of(candidates.offsets, _PART_CANDIDATES):
            part = slice(candidates.offsets[users.start], candidates.offsets[users.stop])
            scores[part] = self._logits(histories.part(users), rows.part(users))
        scores += self.prior(pool_gamma, rows.rows)
        without = np.repeat(histories.lengths == 0, candidates.lengths)
        if without.any():
            scores = np.where(without, self.cold_start_scores(rows.rows), scores)
        return np.where(known, scores, np.float32(UNKNOWN_SCORE)).astype(np.float32)

    def score_catalogue(self, histories: Histories, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        """Score every item for each of B users, float32 [B, I]."""
        histories = self.read(histories)
        scores = self._catalogue_logits(histories).astype(np.float32) + self.prior(pool_gamma)
        return np.where(histories.lengths[:, None] == 0, self.cold_start_scores(), scores)

    def cold_start_scores(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Scores of items for a visitor without a history, float32 [N], or [I] of all: popularity."""
        return self.log_shares[rows]

    def prior(self, pool_gamma: float | None, rows: np.ndarray | slice = slice(None)) -> np.ndarray | np.float32:
        """What the candidates' origin adds to the logit, float32 [I], or of some rows (or 0); see `sampling_prior`."""
        return sampling_prior(self.log_shares, self.gamma, pool_gamma, rows)

    def contributions(
        self, history: Histories, rows: np.ndarray, *, pool_gamma: float | None = 0.0
    ) -> dict[str, np.ndarray]:
        """What adds up to the score of each candidate for one user, by name, float32 [C] each.

        popularity: the score for an empty history; then there is nothing else. prior: what the candidates'
        origin adds. match: the rest; a ranker that is a sum of terms names each of them instead.

        Args:
            history: the past actions of one user.
            rows: candidates, int64 [C].
            pool_gamma: as in `score`.
        """
        score = self.score_rows(history, Candidates.of([rows]), pool_gamma=pool_gamma)
        if history.lengths[0] == 0:
            return {"popularity": score}
        parts = self._prior_part(rows, pool_gamma)
        return {**parts, "match": np.asarray(score - sum(parts.values()), np.float32)}

    def by_history_item(self, history: Histories, rows: np.ndarray) -> dict[str, np.ndarray]:
        """How much of each term is due to each distinct item of one user's history, float32 [C, L] each.

        Terms that do not divide among the items are left out. Items are the newest first.
        """
        return {}

    def attention_weights(self, history: Histories, rows: np.ndarray) -> np.ndarray | None:
        """The attention of each candidate, float32 [C, K, L + M]; None for a ranker without attention."""
        return None

    def score_for_everyone(self, rows: np.ndarray, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        """What does not depend on the user in the scores of some items, float32 [C]."""
        return np.broadcast_to(np.asarray(self.prior(pool_gamma, rows), np.float32), rows.shape)

    @property
    def popularity_now(self) -> np.ndarray:
        """Log of each item's share of all users, as the ranker sees it when it ranks, float32 [I]."""
        return self.log_shares[:]

    def _prior_part(self, rows: np.ndarray, pool_gamma: float | None) -> dict[str, np.ndarray]:
        if not self.uses_prior:
            return {}
        return {"prior": np.broadcast_to(self.prior(pool_gamma, rows), rows.shape)}

    @abstractmethod
    def _logits(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        """Scores without the prior for known candidates, float [C]; what an empty history gets is not used."""

    def _catalogue_logits(self, histories: Histories) -> np.ndarray:
        """Scores without the prior of every item, float [B, I]."""
        everything = np.arange(len(self.items))
        lists = Candidates.of([everything] * len(histories))
        return self._logits(histories, lists).reshape(len(histories), len(everything))

    # What fitting and folders need

    def _recount(self, histories: Histories) -> None:
        """Renew what was counted, not learnt, beside `log_shares` and `last_time`, which are those of a newer log.

        Args:
            histories: that log in rows and kinds of this ranker, with the actions that it reads.

        Raises:
            ConfigError: all that it knows is learnt from one log.
        """
        raise ConfigError(
            f"{self.name} cannot be refreshed", got="a ranker that learns all it knows from one log",
            expected="mixed, attention, averaging, recent-popularity, popularity, last-item or weighted-sum",
            fix="train it again on the newer log",
        )  # fmt: skip

    def _learn_catalogue(self, log: EventLog, embeddings: ItemEmbeddings | None) -> Histories:
        """Take over the catalogue and return the log's histories in this ranker's rows.

        Raises:
            InputError: the table has none of the log's items.
        """
        for name in ("target_kinds", "seen_kinds", "negative_kinds", "history_kinds"):
            log.kind_codes(getattr(self.config, name, ()))  # refuses a kind that the log does not have
        self.kinds, self.embeddings = log.kinds, embeddings
        self.last_time = int(log.histories.times.max()) if log.n_events else 0
        self.trained_on = log.provenance()
        if embeddings is None:
            self.items, self.attributes = log.catalog.items, log.catalog.attributes
            histories = log.histories
        else:
            self.items, self.attributes = embeddings.items, attributes_of(log, embeddings)
            histories = in_table_rows(log, embeddings)
        # The catalogue knows the counts of its own log; counting a large one takes a good deal of memory.
        counted = self.targets.speaking_for(histories)
        same = counted is log.histories
        users = np.asarray(log.catalog.users) if same else count_items(counted, len(self.items))[1]
        self.log_shares = LogShares(users)
        return self.read(histories)

    def _settings(self) -> dict[str, Any]:
        """More plain values to be saved beside the config."""
        return {}

    def _write(self, folder: Path) -> None:  # noqa: B027, some have nothing to write
        """Write what was learnt into the model folder."""

    def _read(self, folder: Folder, settings: dict[str, Any]) -> None:  # noqa: B027
        """Read back what `_write` and `_settings` saved."""

    def _count_at(self, now: int) -> None:
        """Have what `touches` tell as of a time, unix seconds, beside `log_shares` and `last_time`, which do already."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False, pack: bool = False) -> None:
        """Write a model folder: `config.json`, weights, the catalogue's counts and the hash of the embedding table.

        Args:
            path: the folder to be made.
            overwrite: replace a finished model folder.
            pack: put a copy of the embedding table into the folder, so that it can be shipped alone. A table that was
                never saved is always packed.

        Raises:
            FolderError: the place is taken or cannot be written.
        """
        with new_folder(path, kind=KIND, overwrite=overwrite) as folder:
            settings = {
                "model": self.name,
                "model_format": MODEL_FORMAT,
                "config": self.config.to_dict(),
                "kinds": list(self.kinds),
                "last_time": self.last_time,
                "gamma": self.gamma,
                "trained_on": self.trained_on,
                "refreshed_from": self.refreshed_from,
                **self._settings(),
            }
            (folder.path / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
            np.save(folder.path / "users_of_item.npy", self.users_of_item)
            if self.touches is not None:
                self.touches.save(folder.path / "touches")
            self._write(folder.path)
            folder.manifest |= {"model": self.name, "config": self.config.to_dict()}
            if self.refreshed_from is not None:
                folder.manifest["refreshed_from"] = self.refreshed_from
            if self.embeddings is not None:
                target = Path(path).absolute()
                folder.manifest["embeddings"] = reference_to(self.embeddings, folder.path, target, pack=pack)
            if self.embeddings is None or self.attributes is not self.embeddings.attributes:
                save_items(folder.path, self.items, self.attributes)

    @classmethod
    def load_folder(cls, folder: Folder, settings: dict[str, Any], embeddings: ItemEmbeddings | None) -> Self:
        ranker = cls.__new__(cls)
        ranker.config = cls.config_class.from_dict(settings["config"])
        ranker.kinds, ranker.last_time, ranker.gamma = tuple(settings["kinds"]), settings["last_time"], settings["gamma"]
        ranker.log_shares = LogShares(np.load(folder.file("users_of_item.npy"), mmap_mode="r"))
        ranker.trained_on, ranker.refreshed_from = settings["trained_on"], settings.get("refreshed_from")
        ranker.content_hash = folder.content_hash
        if cls.needs_embeddings:
            ranker.embeddings = referenced_table(folder, embeddings)
            ranker.items, ranker.attributes = ranker.embeddings.items, ranker.embeddings.attributes
        if not cls.needs_embeddings or folder.has("items.parquet"):
            ranker.items, ranker.attributes = load_items(folder)
        if len(ranker.users_of_item) != len(ranker.items):
            raise FolderError(f"{folder.path} is damaged", got="counts for another number of items", fix="train it again")
        if folder.has("touches/start_and_pace.npy"):
            ranker.touches = Touches.load(folder.path / "touches")
        ranker._read(folder, settings)
        return ranker
