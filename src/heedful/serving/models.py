"""What a worker serves, as files and requests say: the model, what was said of its items, slots, keys.

All workers of a server watch the same files each second: the model folder (or the link that leads to it), the state folder,
the slots and the keys. So a change reaches all of them however it was made. What cannot be used is reported once, and the
previous state stays in service.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from heedful.errors import ConfigError, HeedfulError, InputError
from heedful.events.vocabulary import Vocabulary
from heedful.folders import write_atomically
from heedful.serving import telemetry
from heedful.serving.arrivals import Told, with_new_items
from heedful.serving.in_service import InService, keep_from_collector
from heedful.serving.item_changes import ItemChanges
from heedful.serving.loaded import Loaded, book_of
from heedful.serving.options import ServeConfig
from heedful.serving.security import Keys, no_keys
from heedful.serving.selection import SlotBook
from heedful.serving.slots import parse_slots
from heedful.serving.state import Choice, Served, State, look, state_folder
from heedful.serving.store import StoreUnavailable
from heedful.serving.watched import WatchedFile

__all__ = ["ChangedError", "Choice", "Loaded", "Serving"]

_RETRY_SECONDS = 10.0
_COUNT_SECONDS = 60.0
_COMPACT_SECONDS = 60.0


class ChangedError(HeedfulError):
    """What was to be replaced has been changed by somebody else."""


class Serving(InService):
    """What one worker serves, kept up to date by `refresh`.

    Args:
        choice: the model that the server was started with.
        config: options of the server.
        folder: its state; by default where the options say.
        run: what the workers of this server share while it runs; None for a single process.
        clock: unix seconds, for what is popular now.
    """

    def __init__(
        self,
        choice: Choice,
        config: ServeConfig,
        folder: Path | None = None,
        run: Path | None = None,
        *,
        clock: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        super().__init__(config, clock)
        self._run = run
        self._root = Path(choice.path).absolute().parent
        self._choice = choice
        self._state = State(folder if folder is not None else state_folder(config, choice))
        self._changes = ItemChanges(self._state.folder)
        self._seen: dict[str, object] = {}
        self._retry = self._compact_next = 0.0
        self._slots_file = WatchedFile(config.slots, self._in_run("slots.toml"), self._use_slots)
        self._keys_file = WatchedFile(config.keys, self._in_run("keys.toml"), self._use_keys)
        self.keys: Keys | None = None

    @property
    def choice(self) -> Choice:
        """Where the model in service comes from."""
        return self._choice

    @property
    def table(self) -> str | None:
        """Name of the table in service in the state folder; None where it lies inside the model."""
        served = self._state.served()
        return served.table if served is not None else None

    def start(self) -> None:
        """Load everything; a database that cannot be reached is tried again by `refresh`.

        Raises:
            HeedfulError: model, slots or keys cannot be used, and there is no earlier state of them.
        """
        with self._changing:
            if self.config.keys is not None and (error := self._keys_file.start()) is not None:
                self._report("keys", error)
            self._loaded = self._start_model()
            self._count_from(self._loaded)
            if (error := self._slots_file.start()) is not None:
                self._report("slots", error)
            telemetry.model_served(self.loaded.ranker.name, self.loaded.version)
            keep_from_collector()
            self._follow()

    def refresh(self) -> None:
        """Take over what has changed on disk, and try a database that could not be reached."""
        with self._changing:
            self._follow()

    def count_on(self) -> None:
        """Rank by what is popular now from here on; requests under way end with what they began with."""
        live, store = self._live, self._store
        if live is None or store is None or (ranker := live.advance(store)) is None:
            return
        with self._changing:
            if self._live is live:  # the model has not been replaced meanwhile
                ranker.attributes = self.loaded.ranker.attributes  # these may have been
                recommender = self.loaded.recommender.counted_on(ranker)
                loaded = replace(self.loaded, ranker=ranker, recommender=recommender)
                self._swap(loaded, book_of(loaded, self.slots_text))

    def count_when_due(self) -> None:
        """`count_on` each minute, and soon after a model was put into service."""
        if time.monotonic() >= self._count_next and self._store is not None:
            self._count_next = time.monotonic() + _COUNT_SECONDS
            with suppress(StoreUnavailable):
                self.count_on()

    def _start_model(self) -> Loaded:
        with self._state.locked():
            served = self._state.begin(self._choice)
            loaded = self._load(served)
            if served != self._state.served():
                self._state.put(served)
            self._note(served)
        return loaded

    def _load(self, served: Served) -> Loaded:
        """A model with what was said of its items; without that where it cannot be read, which is tried again."""
        loaded = Loaded.from_choice(self._state.copies(served))
        try:
            return self._changes.onto(loaded)
        except HeedfulError as error:
            self._report("items", error)
            return loaded

    def _in_run(self, name: str) -> Path | None:
        return self._run / name if self._run is not None else None

    # Changes on disk

    def _follow(self) -> None:
        if self._store is None:
            self._open_store()
        if self._state.changed() != self._seen["served"]:
            self._attempt("model", self._take_served)
        now, source = time.monotonic(), look(self._choice)
        # Files that are copied one by one are not a model until the last one is there.
        if source != self._seen["source"] or ("model" in self.problems and now > self._retry):
            self._seen["source"], self._retry = source, now + _RETRY_SECONDS
            self._attempt("model", self._take_source)
        self._attempt("items", self._take_changes)
        if now >= self._compact_next:
            self._compact_next = now + _COMPACT_SECONDS
            self._attempt("items", self._compact_changes)
        if self._slots_file.changed():
            self._attempt("slots", self._slots_file.take)
        if self.config.keys is not None and self._keys_file.changed():
            self._attempt("keys", self._keys_file.take)

    def _attempt(self, what: str, take: Callable[[], None]) -> None:
        before = self.problems.pop(what, None)
        try:
            take()
        except HeedfulError as error:
            self._report(what, error, again=error.problem == before)

    def _take_served(self) -> None:
        """Serve what another worker has put into service."""
        self._seen["served"] = self._state.changed()
        if (served := self._state.served()) is not None:
            loaded = self._load(served)
            self._put(loaded, book_of(loaded, self.slots_text))
            self._note(served)

    def _take_source(self) -> None:
        """Serve the model that was put in the place of the one in service."""
        with self._state.locked():
            self._serve(self._state.keep(self._choice))

    def _take_changes(self) -> None:
        """Know what was said of items in other workers."""
        if not self._changes.beyond(self.loaded.position):
            return
        loaded = self._changes.onto(self.loaded)
        if loaded.ranker is not self.loaded.ranker:
            self._swap(loaded, book_of(loaded, self.slots_text))
        self._loaded = loaded

    def _compact_changes(self) -> None:
        if self._changes.is_large:
            with self._state.locked():
                self._take_changes()
                if self._changes.is_large:  # no other worker has been quicker
                    self._loaded = replace(self.loaded, position=self._changes.compact())

    def _use_slots(self, text: str) -> None:
        book, kept = book_of(self.loaded, text), self._slots_file.kept
        before = kept if kept is not None else self.slots_text
        # An editor may empty a file before it writes it again: to remove all slots takes PUT /slots?empty=true.
        if not len(book.slots) and before != text and len(parse_slots(before)):
            raise InputError("the file of slots declares none", expected="one at least", fix="or PUT /slots?empty=true")
        self._put(self.loaded, book)
        self.slots_text = text

    def _use_keys(self, text: str) -> None:
        """No key at all leaves the server closed."""
        found = Keys.parse(text, str(self.config.keys))
        if not len(found):
            if self.keys is None and self._keys_file.kept is None:
                raise no_keys(self.config.keys)
            self.problems["keys"] = no_keys(self.config.keys).problem
        self.keys = found

    # Changes by request

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One change at a time over all workers, each upon the ones before."""
        with self._changing, self._state.locked():
            if self._state.changed() != self._seen["served"]:
                self._take_served()
            yield

    def swap(self, path: str, embeddings: str | None = None) -> Loaded:
        """Serve another model, in all workers and after a restart.

        Args:
            path: its folder, from the folder that holds the first model.
            embeddings: the table to use, such as an extension, from that folder too; None: the one the model refers to, with
                the items that were added to it.

        Raises:
            InputError: a path leads out of the folder that holds the first model.
            FolderError: the model cannot be used; the old one goes on.
            HeedfulError: the slots do not fit it; the old one goes on.
        """
        choice = Choice(self._inside(path), self._inside(embeddings) if embeddings is not None else None)
        with self._alone():
            self._serve(self._state.keep(choice))
            return self.loaded

    def add_items(self, told: Told) -> int:
        """Know what is said of items, and rank new ones, from now on, in all workers and after a restart.

        Args:
            told: what is said of new and of known items; none at all: the new items of before are fitted again.

        Returns:
            How many of the items were known.

        Raises:
            InputError: an item is repeated, or there is nothing to do.
            ConfigError: the model cannot take up new items.
            StoreUnavailable: the database or the state folder cannot be used.
            ChangedError: a model with other columns has been put into service.
        """
        Vocabulary(told.ids)  # refuses what is repeated
        with self._alone():
            ranker = self.loaded.ranker
            if not told.values.schema.equals(ranker.attributes.schema):
                raise ChangedError("a model with other columns was put into service meanwhile", fix="send it again")
            known = ranker.items.rows(told.ids) >= 0
            loaded = self._changes.onto(self.loaded, told)
            if known.all() and len(known):
                book = book_of(loaded, self.slots_text)
                self._swap(replace(loaded, position=self._changes.append(told)), book)
            else:
                self._onboard(loaded, told, known)
        return int(np.count_nonzero(known))

    def _onboard(self, loaded: Loaded, told: Told, known: np.ndarray) -> None:
        """Put into service an extension of the table by the items that are not known; what is said of all is kept."""
        ranker = loaded.ranker
        if ranker.embeddings is None:
            raise ConfigError(f"{ranker.name} has no item vectors", fix="serve a model that has, such as attention")
        extension = with_new_items(ranker, loaded.n_trained, told.where(~known), self.engine.store)
        self._changes.append(told)
        self._serve(self._state.keep(Choice(self._choice.path), extension=extension.table))

    def _inside(self, path: str) -> str:
        place = Path(os.path.normpath(self._root / path))
        if not place.is_relative_to(self._root):
            raise InputError("that folder is out of reach", expected="a folder beside the first model")
        return str(place)

    def _serve(self, served: Served) -> None:
        """Put a model into service, in all workers."""
        loaded = self._load(served)
        book = book_of(loaded, self.slots_text)
        self._state.put(served)
        self._put(loaded, book)
        self._note(served)
        self.problems.pop("model", None)

    def _note(self, served: Served) -> None:
        self._choice = served.choice
        self._seen |= {"served": self._state.changed(), "source": served.looks}

    def put_slots(self, text: str, *, empty: bool = False, unchanged: str | None = None, preview: bool = False) -> SlotBook:
        """Declare the slots again, in all workers, and in the file.

        Args:
            text: TOML, as in docs/slots.md.
            empty: whether it may declare no slot at all.
            unchanged: the tag of the declarations that it takes the place of; others may not be overwritten.
            preview: only say what it would do.

        Raises:
            InputError: the text cannot be used, or the server has no file of slots.
            ChangedError: the declarations are not those of that tag.
            FolderError: the file cannot be written; nothing has changed.
        """
        if self.config.slots is None:
            raise InputError("this server has no file to keep slots in", fix="start it with --slots FILE")
        with self._alone():
            if self._slots_file.changed():
                self._attempt("slots", self._slots_file.take)
            if unchanged is not None and unchanged != self.slots_tag:
                raise ChangedError("the slots were changed meanwhile", fix="GET /slots.toml, and change those")
            book = book_of(self.loaded, text)
            if not len(book.slots) and not empty:
                raise InputError("this declares no slot, and would remove all", fix="add ?empty=true if that is meant")
            if not preview:
                self._slots_file.keep(text)  # first, so that other workers know the file for what it is
                with write_atomically(self.config.slots) as partial:
                    partial.write_text(text)
                self._put(self.loaded, book)
                self.slots_text = text
                self.problems.pop("slots", None)
        return book

    @property
    def slots_tag(self) -> str:
        """Names the declarations in service: an entity tag of HTTP."""
        return '"' + hashlib.sha256(self.slots_text.encode()).hexdigest()[:16] + '"'
