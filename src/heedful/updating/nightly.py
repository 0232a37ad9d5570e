"""`update`: from new events to a version that is served, in steps that a killed run takes up again.

Each step writes a finished folder or file into the version in the making, and is left out by a run that finds it there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from heedful.embeddings.table import KIND as EMBEDDINGS
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError, RefusedError
from heedful.events.appending import append, unknown_events
from heedful.events.log import KIND as SEQUENCES
from heedful.events.log import EventLog
from heedful.events.preparing import PrepareConfig, prepare
from heedful.events.reading import Source
from heedful.events.times import iso
from heedful.folders import open_folder, write_atomically
from heedful.progress import say
from heedful.rankers.base import Ranker
from heedful.rankers.catching_up import caught_up
from heedful.rankers.periods import copy_periods
from heedful.rankers.registry import load_ranker
from heedful.rankers.saving import KIND as MODEL
from heedful.updating.choosing import NEW, REFRESHED, SERVED, Choice, Trial, choose, find_cut
from heedful.updating.feed import Feed, find_feed, mark, rows_since
from heedful.updating.options import UpdateConfig
from heedful.updating.shop import FACTS, Shop, Version
from heedful.updating.training import Recipe, is_finished

__all__ = ["update"]

_PLAN, _FEED, _CHOICE = "plan.json", "feed.json", "comparison.json"
_ADDED, _TRIAL = "added", "trial"
_STAGES = {"sequences": SEQUENCES, "embeddings": EMBEDDINGS, "model": MODEL}


def update(
    shop: str | os.PathLike[str],
    source: Source,
    *,
    items: Source | None = None,
    preparing: PrepareConfig | None = None,
    config: UpdateConfig | None = None,
    settings: str | None = None,
    accept_feed: bool = False,
    from_scratch: bool = False,
) -> Version:
    """Take what is new in a source into a shop, and publish a version that knows it.

    The first call for a folder prepares, embeds and trains from nothing. A run that was killed is taken up by the next one
    with the same options.

    Args:
        shop: the folder of versions; see `heedful.updating`.
        source: the events, as for `prepare`: a table, files, or everything in memory. What was taken before is left out.
        items: attributes of items; those of new items are taken.
        preparing: how rows are read.
        config: bounds, and how much is kept.
        settings: TOML file with options of training, as for `heedful embed` and `heedful train`.
        accept_feed: take the new events however unusual they are.
        from_scratch: train from nothing, in a new space, instead of going on from the version in service.

    Returns:
        The version that is in service now.

    Raises:
        RefusedError: the new events are unusual, or every model is worse than the one in service, which stays.
        ConfigError: another update is running, or an option is out of range.
        InputError: the source cannot be read.
        TrainingError: there is nothing to learn from.
    """
    config, place = config or UpdateConfig(), Shop(shop)
    with place.locked():
        recipe = Recipe(config.model, settings, from_scratch)
        job = _Job(place, place.current(), source, items, preparing or PrepareConfig(), config, recipe, accept_feed)
        try:
            version = job.run()
        except RefusedError as error:
            place.note({"outcome": "refused", "at": _now(), "reason": str(error), **job.figures})
            shutil.rmtree(place.work, ignore_errors=True)
            raise
        place.remove_old(config.keep)
        place.note({"at": _now(), **version.facts})
        return version


@dataclass
class _Job:
    """One run of `update`.

    Attributes:
        base: the version in service; None before the first.
        figures: what is known so far, for the record of a refusal.
    """

    shop: Shop
    base: Version | None
    source: Source
    items: Source | None
    preparing: PrepareConfig
    config: UpdateConfig
    recipe: Recipe
    accept_feed: bool
    figures: dict[str, Any] = field(default_factory=dict)

    def run(self) -> Version:
        """All steps that are not finished yet."""
        plan = self._plan()
        if not (self._work / FACTS).exists():
            facts = self._first(plan) if self.base is None else self._later(plan, self.base)
            made = {name: open_folder(self._work / name, kind=kind).content_hash for name, kind in _STAGES.items()}
            self._write(FACTS, {**plan, "created": _now(), **facts, "made": made})
        self._clear()
        finished("everything")
        return self.shop.publish(int(plan["version"]), self.base)

    @property
    def _work(self) -> Path:
        return self.shop.work

    def _plan(self) -> dict[str, Any]:
        """What this run takes from where: that of a killed run, if it had the same base and options."""
        options = [self.preparing.to_dict(), self.config.to_dict(), self.recipe.facts(), str(self.items)]
        key = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]
        base = self.base.number if self.base is not None else None
        found = self._read(_PLAN)
        if found is not None and (found["base"], found["options"]) == (base, key):
            say(f"going on with version {found['version']}")
            return found
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        number = max((version.number for version in self.shop.versions()), default=0) + 1
        plan: dict[str, Any] = {"version": number, "base": base, "options": key, "started": _now()}
        plan["bookmark"] = mark(self.source, self.config.number_column)
        self._write(_PLAN, plan)
        return plan

    def _first(self, plan: dict[str, Any]) -> dict[str, Any]:
        """The steps of the first version."""
        out = self._work / "sequences"
        if not is_finished(out, SEQUENCES):
            source = rows_since(self.source, {}, plan["bookmark"])
            assert source is not None
            prepare(source, out, items=self.items, config=self.preparing, overwrite=True)
        finished("sequences")
        self._train(None)
        return {"outcome": "first", "reason": "there was none before"}

    def _later(self, plan: dict[str, Any], base: Version) -> dict[str, Any]:
        """The steps of a version that follows another."""
        feed = self._feed(plan, base)
        self._grow()
        choice = self._choice(base)
        self.figures["comparison"] = choice.figures
        if choice.publish is None:
            raise RefusedError(
                "no model is good enough to follow the one in service", got=choice.reason,
                expected=f"no worse than {self.config.harm:g} %", fix="look at the new events, or raise --harm",
            )  # fmt: skip
        say(f"publishing the {choice.publish} model: {choice.reason}")
        if choice.publish == NEW:
            self._train(base)
        else:
            self._refresh(base)
        told = {"outcome": choice.publish, "reason": choice.reason, "comparison": choice.figures}
        return {**told, "feed": feed.to_dict(), "from": base.facts["made"]}

    # The new events

    def _feed(self, plan: dict[str, Any], base: Version) -> Feed:
        """Read the new events, and refuse unusual ones."""
        rows = rows_since(self.source, base.facts["bookmark"], plan["bookmark"])
        found = self._read(_FEED)
        if found is None:
            feed = Feed(0, 0) if rows is None else self._read_feed(rows)
            self._write(_FEED, feed.to_dict())
        else:
            feed = Feed(**found)
        finished("feed")
        self.figures["feed"] = feed.to_dict()
        problems = feed.problems(time.time())
        if problems and (not self.accept_feed or not feed.events):
            raise RefusedError(
                "the new events are unusual", got="; ".join(problems), expected="a day like those before",
                fix=None if not feed.events else "mend the feed, or pass --accept-feed if it is right",
            )  # fmt: skip
        say(f"{feed.events:,} new events, {feed.known:,} that were known; the last of {iso(feed.last)} UTC")
        return feed

    def _read_feed(self, rows: Source) -> Feed:
        known = self._known
        new = prepare(rows, self._work / _ADDED, items=self.items, config=self.preparing, overwrite=True)
        fresh = unknown_events(known, new)
        rejected = len(new.rejected) if new.rejected is not None else 0
        return find_feed(
            known, fresh, known=new.n_events - fresh.n_events, rows=new.n_events + rejected, rejected=rejected,
            normal_days=self.config.normal_days,
        )  # fmt: skip

    def _grow(self) -> None:
        out = self._work / "sequences"
        if not is_finished(out, SEQUENCES):
            append(self._known, EventLog.load(self._work / _ADDED), out, overwrite=True)
        finished("sequences")

    @cached_property
    def _known(self) -> EventLog:
        """The events of the version in service."""
        assert self.base is not None
        return EventLog.load(self.base.sequences)

    @cached_property
    def _grown(self) -> EventLog:
        return EventLog.load(self._work / "sequences")

    # Comparing

    def _choice(self, base: Version) -> Choice:
        """Which model is published: that of a killed run, or what the comparison says."""
        found = self._read(_CHOICE)
        if found is None:
            trial = self._trial()
            choice = self._compare(base, trial) if trial is not None else _too_few(self.config)
            self._write(_CHOICE, vars(choice))
            found = vars(choice)
        finished("comparison")
        return Choice(**found)

    def _trial(self) -> Trial | None:
        cut = find_cut(self._known, EventLog.load(self._work / _ADDED), self.config.test_hours)
        return Trial.of(self._grown, cut, self.config) if cut is not None else None

    def _compare(self, base: Version, trial: Trial) -> Choice:
        """Train on what came before the cut, as the version will be on everything, and compare on what came after."""
        folder, served = self._work / _TRIAL, load_ranker(base.model)
        table = self.recipe.embed(trial.past, base.embeddings, folder / "embeddings")
        finished("trial embeddings")
        new = self.recipe.train(trial.past, table, base.model, folder / "model", periods=base.model)
        finished("trial model")
        models: dict[str, Ranker] = {NEW: new, SERVED: served}
        try:
            models[REFRESHED] = caught_up(served, trial.past)
        except ConfigError as error:
            say(f"no refreshed model: {error.problem}")
        return choose(trial.measure(models), self.config)

    # Making

    def _train(self, base: Version | None) -> None:
        """The vectors and weights of the version."""
        before = (base.embeddings, base.model) if base is not None else (None, None)
        table = self.recipe.embed(self._grown, before[0], self._work / "embeddings")
        finished("embeddings")
        trial = self._work / _TRIAL / "model"
        self.recipe.train(self._grown, table, before[1], self._work / "model", periods=trial)
        finished("model")

    def _refresh(self, base: Version) -> None:
        """The weights of the version before, with the counts and the items of today."""
        ranker, out = caught_up(load_ranker(base.model), self._grown), self._work / "model"
        table = ranker.embeddings or ItemEmbeddings.load(base.embeddings)
        table.save(self._work / "embeddings", overwrite=True)
        if ranker.embeddings is not None:
            # By reference to this version's own copy: the version before will be removed some day.
            ranker.embeddings = ItemEmbeddings.load(self._work / "embeddings")
        ranker.save(out, overwrite=True)
        copy_periods(base.model, out)
        finished("model")

    def _clear(self) -> None:
        """Remove what only the making needed."""
        for left in (_FEED, _CHOICE):
            (self._work / left).unlink(missing_ok=True)
        for left in (_ADDED, _TRIAL):
            shutil.rmtree(self._work / left, ignore_errors=True)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self._work / name).read_text())
        except (OSError, ValueError):
            return None
        return found

    def _write(self, name: str, facts: dict[str, Any]) -> None:
        with write_atomically(self._work / name) as partial:
            partial.write_text(json.dumps(facts, indent=1, default=str) + "\n")


def finished(step: str) -> None:
    """Say that a step is done; whoever is killed here loses nothing."""
    say(f"done: {step}")


def _too_few(config: UpdateConfig) -> Choice:
    reason = f"fewer than {config.fewest_test_users} users took anything new: nothing to compare on"
    return Choice(REFRESHED, reason, {})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
