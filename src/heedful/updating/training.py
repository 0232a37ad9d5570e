"""The two trainings of an update: from nothing, or from the vectors and weights of the version in service."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heedful.embeddings.continuing import continue_embeddings
from heedful.embeddings.skipgram import SkipGram, SkipGramConfig
from heedful.embeddings.table import KIND as EMBEDDINGS
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError, FolderError
from heedful.events.log import EventLog
from heedful.folders import open_folder
from heedful.rankers.base import Ranker
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.neural import NeuralRanker
from heedful.rankers.periods import copy_periods, periods_beside
from heedful.rankers.registry import ALL_MODELS, load_ranker, new_ranker
from heedful.rankers.saving import KIND as MODEL
from heedful.tuning.settings import read_section, section_of

__all__ = ["Recipe", "is_finished"]


@dataclass(frozen=True)
class Recipe:
    """How vectors and weights are trained.

    Attributes:
        model: name of the first model; later ones are of the kind of the one before.
        settings: TOML file of options; None: those of the version before, or the defaults.
        from_scratch: train from nothing although there is a version before.
        asked: more options of the model, where it has them; the settings overrule them.
    """

    model: str
    settings: str | None
    from_scratch: bool
    asked: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model not in ALL_MODELS:
            raise ConfigError("there is no such model", got=self.model, expected=", ".join(ALL_MODELS))

    def facts(self) -> dict[str, Any]:
        """All that decides about a training, plain values."""
        text = Path(self.settings).read_text(encoding="utf-8") if self.settings is not None else None
        facts = {"model": self.model, "settings": text, "from_scratch": self.from_scratch}
        return {**facts, "asked": dict(self.asked)} if self.asked else facts

    def embed(self, log: EventLog, before: Path | None, out: Path) -> ItemEmbeddings:
        """Write the table of a log, which goes on from the one before; a finished one is used again."""
        if not is_finished(out, EMBEDDINGS):
            options = read_section(self.settings, "embed", (SkipGramConfig,)) if self.settings is not None else {}
            old = ItemEmbeddings.load(before) if before is not None else None
            if old is not None and not self.from_scratch:
                table = continue_embeddings(old, log, **options)
            else:
                known = old.provenance.get("config", {}) if old is not None else {}
                table = SkipGram(**{**known, **options}).fit(log)
            table.save(out, overwrite=True)
        return ItemEmbeddings.load(out)

    def train(self, log: EventLog, table: ItemEmbeddings, before: Path | None, out: Path, *, periods: Path) -> Ranker:
        """Write the model of a log, which goes on from the one before; a finished one is used again.

        Args:
            log: all events.
            table: its vectors.
            before: folder of the model before.
            out: folder of the model.
            periods: the model whose kept rankers of periods are used.
        """
        if not is_finished(out, MODEL):
            old = load_ranker(before) if before is not None else None
            ranker = self._new(old)
            more = self._going_on(ranker, old, out, periods)
            ranker.fit(log, table, **more)
            ranker.save(out, overwrite=True)
            shutil.rmtree(Path(f"{out}.training"), ignore_errors=True)
        return load_ranker(out)

    def _new(self, old: Ranker | None) -> Ranker:
        name = old.name if old is not None else self.model
        config = ALL_MODELS[name].config_class
        options: dict[str, Any] = {}
        if self.settings is not None:
            options = read_section(self.settings, section_of(self.settings, name), (config,))
        known = (old.config if old is not None else config()).to_dict()
        asked = {option: value for option, value in self.asked.items() if option in known}
        return new_ranker(name, options={**(known if old is not None else {}), **asked, **options})

    def _going_on(self, ranker: Ranker, old: Ranker | None, out: Path, periods: Path) -> dict[str, Any]:
        """The arguments of `fit` beside log and table."""
        if not isinstance(ranker, NeuralRanker | MixedRanker):
            return {}
        start = None if self.from_scratch else old
        more: dict[str, Any] = {"checkpoints": Path(f"{out}.training"), "resume": True, "start": start}
        if isinstance(ranker, MixedRanker):
            if start is not None:
                copy_periods(periods, out)
            more["periods"] = periods_beside(out)
        return more


def is_finished(folder: Path, kind: str) -> bool:
    """Whether a stage folder is there and sound."""
    try:
        open_folder(folder, kind=kind)
    except FolderError:
        return False
    return True
