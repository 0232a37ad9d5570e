"""What a server keeps on disk: the model that it was told to serve, with copies of its files, and the items that were added.

    STATE/<database>.state/<key of MODEL>/
        served.json      the model in service, where it came from, the one before it
        models/<hash>/   copies of model folders
        tables/<hash>/   copies of embedding tables, and extended ones
        run-*/           what the workers of one running server share; removed when that server ends

Workers load these copies, never the files that a user may damage, so that a worker can start whenever it has to.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from heedful.embeddings.table import KIND as TABLE
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError, FolderError
from heedful.folders import MANIFEST, Folder, open_folder, write_atomically
from heedful.rankers.saving import KIND as MODEL
from heedful.serving.options import ServeConfig

__all__ = ["Choice", "Served", "State", "look", "run_folder", "state_folder"]

_SERVED, _LOCK, _RUN, _MODELS, _TABLES = "served.json", "lock", "run-", "models", "tables"
_MOST_EXTENSIONS = 4  # tables whose added items are kept while models of other tables are served


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
class Served:
    """The model in service, as `served.json` records it.

    Attributes:
        choice: where it came from.
        looks: what those folders looked like, to notice that others were put in their place.
        started: content of the model that the server was started with; another content is a new instruction.
        model, table: names of the copies; a table of None is the one inside the model folder.
        extensions: names of the tables with added items, by the hash of the table that they extend.
        before: names of the copies in use before, which another worker may still be loading.
    """

    choice: Choice
    looks: list[list[int] | None]
    started: str
    model: str
    table: str | None
    extensions: dict[str, str]
    before: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names of the copies that it needs."""
        return [self.model, *([self.table] if self.table is not None else [])]


class State:
    """The state of the servers of one model.

    Args:
        folder: made when it is missing.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            for part in (_MODELS, _TABLES):
                (folder / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError("the state folder cannot be made", got=error, fix="choose another with --state") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One change at a time, over all workers and servers of this state."""
        with (self.folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def served(self) -> Served | None:
        """The model in service; None before the first, or when another version of heedful wrote it."""
        try:
            found = json.loads((self.folder / _SERVED).read_text())
            return Served(**{**found, "choice": Choice(**found["choice"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def changed(self) -> object:
        """What tells whether another model was put into service."""
        return _look(self.folder / _SERVED)

    def copies(self, served: Served) -> Choice:
        """The folders to load."""
        table = str(self.folder / _TABLES / served.table) if served.table is not None else None
        return Choice(str(self.folder / _MODELS / served.model), table)

    def begin(self, choice: Choice) -> Served:
        """What a server that is started with a model serves: what it served last, or that model if it is another by now.

        Raises:
            FolderError: the model cannot be used, and was not served before.
        """
        before = self.served()
        try:
            started = _content(choice)
        except FolderError:
            if before is None or before.choice != choice:
                raise
            return before
        if before is not None and before.started == started:
            return before
        return self.keep(choice, started=started)

    def keep(self, choice: Choice, *, extension: ItemEmbeddings | None = None, started: str | None = None) -> Served:
        """Copy a model and its table, and say how to serve them; they are in service after `put`.

        Args:
            choice: the model. Items that were added to its table are served with it, unless it names a table.
            extension: that table with more items.
            started: content of the model that the server starts with; by default as recorded.

        Raises:
            FolderError: the folders cannot be used, or not copied.
        """
        looks, model, before = look(choice), _open(choice.path, MODEL), self.served()
        trained = str((model.manifest.get("embeddings") or {}).get("content_hash"))
        extensions = dict(before.extensions) if before is not None else {}
        if extension is not None:
            extensions.pop(trained, None)
            extensions[trained] = self._save(extension)
            extensions = dict(list(extensions.items())[-_MOST_EXTENSIONS:])
        added = self.folder / _TABLES / extensions.get(trained, "none")
        table = open_folder(added, kind=TABLE) if choice.embeddings is None and added.exists() else _table_of(model, choice)
        return Served(
            choice, looks, started or (before.started if before else model.content_hash), self._copy(model, _MODELS),
            self._copy(table, _TABLES) if table is not None else None, extensions,
        )  # fmt: skip

    def put(self, served: Served) -> None:
        """Put a model into service for all workers, and remove copies that nobody needs any more."""
        before = self.served()
        served = replace(served, before=before.names if before is not None else [])
        with write_atomically(self.folder / _SERVED) as partial:
            partial.write_text(json.dumps(asdict(served)))
        needed = {*served.names, *served.before, *served.extensions.values()}
        for part in (_MODELS, _TABLES):
            for copy in (self.folder / part).iterdir():
                if copy.name not in needed:
                    shutil.rmtree(copy, ignore_errors=True)

    def _save(self, table: ItemEmbeddings) -> str:
        # The hash is that of the vectors alone, and the same vectors may come with other attributes.
        name = f"embeddings-{table.content_hash[:12]}-{uuid.uuid4().hex[:8]}"
        table.save(self.folder / _TABLES / name)
        return name

    def _copy(self, source: Folder, part: str) -> str:
        if source.path.parent == self.folder / part:
            return source.path.name
        name = source.content_hash[:32]
        place = self.folder / part / name
        with contextlib.suppress(FolderError):
            open_folder(place, kind=source.manifest["kind"])
            return name
        partial = place.with_name(f".{name}.partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            for file in (*source.manifest["files"], MANIFEST):
                (partial / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source.path / file, partial / file)
            open_folder(partial, kind=source.manifest["kind"]).verify()
            shutil.rmtree(place, ignore_errors=True)
            partial.rename(place)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            fix = "free some space, or choose another --state"
            raise FolderError("the model cannot be copied into the state folder", got=error.strerror, fix=fix) from error
        return name


def _table_of(model: Folder, choice: Choice) -> Folder | None:
    """The table that a model needs and does not hold itself."""
    if choice.embeddings is not None:
        return _open(choice.embeddings, TABLE)
    reference = model.manifest.get("embeddings")
    if reference is None or model.has(f"{reference['path']}/{MANIFEST}"):
        return None
    place = model.path / reference["path"]
    if not place.is_dir():
        fix = "name their folder with --embeddings, or make a folder to ship with `heedful train --pack`"
        raise FolderError(f"the embeddings of {model.path} are not at {place}", fix=fix)
    return open_folder(place, kind=TABLE)


def _open(path: str, kind: str) -> Folder:
    try:
        return open_folder(path, kind=kind)
    except OSError as error:  # such as a name that no system takes
        raise FolderError(f"{path[:100]} cannot be read", got=error.strerror, fix="check the path") from error


def _content(choice: Choice) -> str:
    table = _open(choice.embeddings, TABLE).content_hash if choice.embeddings is not None else ""
    return _open(choice.path, MODEL).content_hash + table


def look(choice: Choice) -> list[list[int] | None]:
    """What tells whether other folders were put in the place of these."""
    places = [choice.path, *([choice.embeddings] if choice.embeddings else [])]
    return [_look(Path(place) / MANIFEST) for place in places]


def _look(path: Path) -> list[int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_mtime_ns, found.st_ino, found.st_size]


def state_folder(config: ServeConfig, choice: Choice) -> Path:
    """Where the servers of a model keep their state: in `--state`, or beside the database.

    Raises:
        ConfigError: the folder of the database does not exist.
    """
    database = config.database.removeprefix("sqlite:///")
    if config.state is not None:
        root = Path(config.state)
    else:
        root = Path("heedful.state") if "://" in database else Path(f"{database}.state")
        if not root.absolute().parent.is_dir():
            raise ConfigError(
                "the folder of the database does not exist", got=root.absolute().parent, fix="make it, or change --database"
            )
    key = hashlib.sha256(json.dumps(asdict(choice)).encode()).hexdigest()[:16]
    return root.absolute() / key


@contextlib.contextmanager
def run_folder(state: Path) -> Iterator[Path]:
    """A folder for as long as a server runs; those of servers that were killed are removed.

    Raises:
        ConfigError: it cannot be made.
    """
    for left in state.glob(f"{_RUN}*"):
        with contextlib.suppress(OSError), (left / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    try:
        run = Path(tempfile.mkdtemp(prefix=_RUN, dir=state))
        lock = (run / _LOCK).open("w")
    except OSError as error:
        raise ConfigError("the state folder cannot be written", got=error, fix="choose another with --state") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield run
        finally:
            shutil.rmtree(run, ignore_errors=True)
