"""What a worker serves: the model and its slots, replaced as a whole while requests go on.

All workers of a server watch the same files each second: the model folder (or the link that leads to it), the file that
names another one, the slots and the keys. So a change reaches all of them however it was made, and what cannot be used is
reported, once, while the old goes on.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from heedful.embeddings.onboarding import Extension
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError, FolderError, HeedfulError, InputError
from heedful.folders import open_folder, write_atomically
from heedful.rankers.base import Ranker
from heedful.rankers.registry import load_ranker
from heedful.rankers.saving import KIND
from heedful.recommending.eligibility import Eligibility
from heedful.serving import telemetry
from heedful.serving.arrivals import trained_items, with_new_items
from heedful.serving.engine import Engine
from heedful.serving.options import ServeConfig
from heedful.serving.security import Keys
from heedful.serving.selection import SlotBook
from heedful.serving.slots import parse_slots
from heedful.serving.store import Store, StoreUnavailable

__all__ = ["Choice", "Loaded", "Serving"]

CHOICE = "model.json"
_LOCK = "changes.lock"


@dataclass(frozen=True)
class Choice:
    """Which model to serve.

    Attributes:
        path: its folder, or a link to it.
        embeddings: the table to use, None for the one that the folder refers to.
    """

    path: str
    embeddings: str | None = None


@dataclass(frozen=True)
class Loaded:
    """A model in memory.

    Attributes:
        ranker: the model.
        eligibility: conditions over its items.
        n_trained: items that it was trained on; those after them came later.
        version: short hash of its content and its table; the same model has the same version wherever it lies.
        trained: when it was written, ISO 8601.
    """

    ranker: Ranker
    eligibility: Eligibility
    n_trained: int
    version: str
    trained: str

    @classmethod
    def from_choice(cls, choice: Choice) -> Loaded:
        """Load a model.

        Raises:
            FolderError: the folder cannot be used.
        """
        try:
            folder = open_folder(choice.path, kind=KIND)
            table = ItemEmbeddings.load(choice.embeddings) if choice.embeddings else None
            ranker = load_ranker(choice.path, embeddings=table)
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, HeedfulError):
                raise
            raise FolderError(f"{choice.path} cannot be read", got=type(error).__name__, fix="check the path") from error
        version, n_trained = folder.content_hash[:12], len(ranker.items)
        if ranker.embeddings is not None:
            version += "-" + ranker.embeddings.content_hash[:8]
            n_trained = trained_items(ranker.embeddings, folder.manifest["embeddings"]["content_hash"])
        return cls(ranker, Eligibility.of(ranker), n_trained, version, str(folder.manifest.get("created", "")))


class Serving:
    """What one worker serves, kept up to date by `refresh`.

    Args:
        choice: the model to begin with.
        config: options of the server.
        folder: what the workers of this server share; None for a single worker.

    Attributes:
        problems: what could not be used at the last attempt, by what it is: model, slots, keys.
    """

    def __init__(self, choice: Choice, config: ServeConfig, folder: Path | None = None) -> None:
        self.config, self._folder = config, folder
        self._root = Path(choice.path).absolute().parent
        self._choice = choice
        self._changing = threading.Lock()
        self._seen: dict[str, object] = {}
        self.problems: dict[str, str] = {}
        self.keys: Keys | None = None
        self.slots_text = ""
        self._store: Store | None = None
        self._loaded: Loaded | None = None
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine in service; a request takes it once and keeps it until its end."""
        assert self._engine is not None, "start() comes first"
        return self._engine

    @property
    def loaded(self) -> Loaded:
        """The model in service."""
        assert self._loaded is not None, "start() comes first"
        return self._loaded

    @property
    def choice(self) -> Choice:
        """Where the model in service comes from."""
        return self._choice

    def start(self) -> None:
        """Load everything; a database that cannot be reached is tried again by `refresh`.

        Raises:
            HeedfulError: model, slots or keys cannot be used.
        """
        self._choice = self._wanted()
        self._seen = self._looks()
        if self.config.keys is not None:
            self.keys = Keys.read(self.config.keys)
        self.slots_text = _read(self.config.slots)
        loaded = Loaded.from_choice(self._choice)
        self._put(loaded, _book(loaded, self.slots_text))
        self._open_store()

    def close(self) -> None:
        """Let go of the database, and of what was kept."""
        if self._store is not None:
            self._store.close()
        gc.unfreeze()

    def refresh(self) -> None:
        """Take over what has changed on disk, and try a database that could not be reached."""
        with self._changing:
            self._take_over()

    def _take_over(self) -> None:
        if self._store is None:
            try:
                self._open_store()
            except HeedfulError as error:
                self._report("database", error)
        looks = self._looks()
        changed = [what for what, look in looks.items() if look != self._seen.get(what)]
        self._seen = looks
        for what in changed:
            self._attempt(what)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One change at a time over all workers, each upon the ones before."""
        with self._changing, ExitStack() as held:
            if self._folder is not None:
                lock = held.enter_context((self._folder / _LOCK).open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._take_over()
            yield

    def swap(self, path: str, embeddings: str | None = None) -> Loaded:
        """Serve another model, in all workers.

        Args:
            path: its folder, from the folder that holds the first model.
            embeddings: the table to use, such as an extension, from that folder too; None: the one the model refers to.

        Raises:
            InputError: a path leads out of the folder that holds the first model.
            FolderError: the model cannot be used; the old one goes on.
            HeedfulError: the slots do not fit it; the old one goes on.
        """
        choice = Choice(self._inside(path), self._inside(embeddings) if embeddings is not None else None)
        with self._alone():
            self._choose(choice)
        return self.loaded

    def add_items(self, items: pa.Table) -> tuple[Path, Extension]:
        """Rank new items from now on, in all workers, and fit those that came before again; see `heedful.serving.arrivals`.

        Args:
            items: `item_id` and columns such as those of the served table.

        Returns:
            The folder of the extended table, beside the model, to be given as --embeddings when the server starts again; and
            how the new items came by their vectors.

        Raises:
            InputError: an item was in training, or its attributes do not fit.
            ConfigError: the model cannot take up new items.
            StoreUnavailable: the database cannot be used.
        """
        with self._alone():
            ranker, store = self.loaded.ranker, self.engine.store
            if ranker.embeddings is None:
                raise ConfigError(f"{ranker.name} has no item vectors", fix="serve a model that has, such as attention")
            extension = with_new_items(ranker, self.loaded.n_trained, items, store)
            place = self._root / f"embeddings-{extension.table.content_hash[:12]}"
            if not place.exists():
                extension.table.save(place)
            self._choose(Choice(self._choice.path, str(place)))
        return place, extension

    def _inside(self, path: str) -> str:
        place = Path(os.path.normpath(self._root / path))
        if not place.is_relative_to(self._root):
            raise InputError("that folder is out of reach", expected="a folder beside the first model")
        return str(place)

    def _choose(self, choice: Choice) -> None:
        loaded = Loaded.from_choice(choice)
        book = _book(loaded, self.slots_text)
        if self._folder is not None:
            with write_atomically(self._folder / CHOICE) as partial:
                partial.write_text(json.dumps({"path": choice.path, "embeddings": choice.embeddings}))
        self._put(loaded, book)
        self._choice = choice
        self.problems.pop("model", None)
        self._seen = self._looks()

    def put_slots(self, text: str) -> list[str]:
        """Declare the slots anew, in all workers, and in the file; returns what was set aside.

        Raises:
            InputError: the text cannot be used, or the server has no file of slots.
            FolderError: the file cannot be written; nothing has changed.
        """
        if self.config.slots is None:
            raise InputError("this server has no file to keep slots in", fix="start it with --slots FILE")
        with self._alone():
            book = _book(self.loaded, text)
            with write_atomically(self.config.slots) as partial:
                partial.write_text(text)
            self._put(self.loaded, book)
            self.slots_text = text
            self.problems.pop("slots", None)
            self._seen = self._looks()
        return list(map(str, book.notes))

    def _put(self, loaded: Loaded, book: SlotBook) -> None:
        """Put a model with these slots into service."""
        engine = self._make_engine(loaded, book)
        before = self._loaded
        self._loaded, self._book, self._engine = loaded, book, engine
        if before is not loaded:
            _keep()
            old = (before.ranker.name, before.version) if before is not None else None
            telemetry.model_served(loaded.ranker.name, loaded.version, instead_of=old)
            telemetry.LOG.info("model in service", extra={"facts": {"model": loaded.ranker.name, "version": loaded.version}})

    def _make_engine(self, loaded: Loaded, book: SlotBook) -> Engine:
        return Engine(
            loaded.ranker, self._store, book, version=loaded.version, eligibility=loaded.eligibility,
            max_history=self.config.max_history,
            at_once=self.config.threads or max((os.cpu_count() or 1) // self.config.workers, 1),
        )  # fmt: skip

    def _open_store(self) -> None:
        try:
            self._store = Store.open(self.config.database)
        except StoreUnavailable as error:
            self._report("database", error)
            return
        self.problems.pop("database", None)
        self._engine = self._make_engine(self.loaded, self._book)

    def _attempt(self, what: str) -> None:
        try:
            if what == "model":
                choice = self._wanted()
                loaded = Loaded.from_choice(choice)
                self._put(loaded, _book(loaded, self.slots_text))
                self._choice = choice
            elif what == "slots":
                text = _read(self.config.slots)
                self._put(self.loaded, _book(self.loaded, text))
                self.slots_text = text
            else:
                assert self.config.keys is not None
                self.keys = Keys.read(self.config.keys)
            self.problems.pop(what, None)
        except HeedfulError as error:
            self._report(what, error)

    def _report(self, what: str, error: HeedfulError) -> None:
        if what not in self.problems:
            telemetry.LOG.error(
                f"{what} cannot be used; what was there goes on", extra={"facts": {"problem": error.problem}}
            )
        self.problems[what] = error.problem

    def _wanted(self) -> Choice:
        """The model that the workers were last told to serve."""
        file = self._folder / CHOICE if self._folder is not None else None
        if file is None or not file.exists():
            return self._choice
        return Choice(**json.loads(file.read_text()))

    def _looks(self) -> dict[str, object]:
        choice = self._wanted()
        table = _look(Path(choice.embeddings) / "manifest.json") if choice.embeddings else None
        return {
            "keys": _look(self.config.keys),
            "model": (choice, _look(Path(choice.path) / "manifest.json"), table),
            "slots": _look(self.config.slots),
        }


def _book(loaded: Loaded, slots_text: str) -> SlotBook:
    return SlotBook(parse_slots(slots_text), loaded.ranker, loaded.eligibility)


def _keep() -> None:
    """Take all that is loaded out of the garbage collector's sight, which has a look at millions of objects otherwise.

    Each of its rounds, every twenty seconds under load, held up all requests for a quarter of a second. What an earlier
    model left is collected now.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _look(path: str | os.PathLike[str] | None) -> object:
    """What tells whether a file has changed; None where there is none."""
    if path is None:
        return None
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read(path: str | None) -> str:
    """The text of a file, empty when there is no such file yet."""
    if path is None:
        return ""
    try:
        return Path(path).read_text()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read", got=error, expected="a TOML file of slots") from error


def facts(serving: Serving) -> dict[str, Any]:
    """What is served, fit for JSON."""
    loaded = serving.loaded
    ranker = loaded.ranker
    return {
        "name": ranker.name,
        "version": loaded.version,
        "items": len(ranker.items),
        "kinds": list(ranker.kinds),
        "columns": list(loaded.eligibility.columns),
        "explains": ranker.embeddings is not None,
        "trained": loaded.trained,
        "last_time": ranker.last_time,
        "training": {name: value for name, value in ranker.trained_on.items() if name != "content_hash"},
        "problems": dict(serving.problems),
    }
