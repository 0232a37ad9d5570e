"""Storage that all nodes reach, by path or by URL: where the stages read, write, and leave their parts for each other.

A path is used where it lies. A URL (s3://bucket/folder, or what else pyarrow's file systems know; keys and endpoint come
from the environment of each node) cannot be mapped into memory: what is read is copied once to each node, what is written is
made on a node and then sent, the manifest last, so that a folder there is finished or none, as on a disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from heedful.errors import ConfigError, FolderError
from heedful.folders import MANIFEST, check_writable, write_atomically

__all__ = ["Place", "check_free", "delivered", "forget_copies", "here", "used_urls"]

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """A file or folder that all nodes reach.

    Attributes:
        address: an absolute path, or a URL up to its query.
        query: what the URL tells of the storage, such as endpoint_override=HOST:PORT&scheme=http.
    """

    address: str
    query: str = ""

    @classmethod
    def of(cls, given: str | os.PathLike[str] | Place) -> Place:
        """The place of a path or URL.

        Raises:
            ConfigError: the URL has a password in it.
        """
        if isinstance(given, Place):
            return given
        text = os.fspath(given)
        if not _URL.match(text):
            return cls(str(Path(text).absolute()))
        if text.startswith("file://"):
            return cls(text.removeprefix("file://"))
        address, _, query = text.partition("?")
        if "@" in address.split("://")[1].split("/")[0]:
            raise ConfigError(
                "a URL must not hold keys",
                fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of each node",
            )
        return cls(address.rstrip("/"), query)

    def __str__(self) -> str:
        return self.address

    def __fspath__(self) -> str:
        return f"{self.address}?{self.query}" if self.query else self.address

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self.address}/{name}", self.query)

    @property
    def path(self) -> Path | None:
        """The path; None for a URL."""
        return None if _URL.match(self.address) else Path(self.address)

    @property
    def name(self) -> str:
        """The last part."""
        return self.address.rsplit("/", 1)[1]

    def beside(self, ending: str) -> Place:
        """The place of that name with an ending."""
        return Place(self.address + ending, self.query)

    @property
    def system(self) -> tuple[fs.FileSystem, str]:
        """The file system, and the path on it.

        Raises:
            ConfigError: nobody knows how to reach it.
        """
        if self.path is not None:
            return fs.LocalFileSystem(), str(self.path)
        query = self.query
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
        if self.address.startswith("s3://") and endpoint and "endpoint_override" not in query:
            # What Amazon's own tools look at, and pyarrow does not.
            scheme, _, host = endpoint.rstrip("/").rpartition("://")
            query = "&".join(filter(None, [query, f"scheme={scheme or 'https'}&endpoint_override={host}"]))
        return _system(os.fspath(Place(self.address, query)))

    def stamp(self) -> list[Any]:
        """Sizes and times of the file, or of all in the folder: what changes with the contents.

        Raises:
            FolderError: there is nothing.
        """
        system, path = self.system
        with _failing(f"{self} cannot be read"):
            found = system.get_file_info(path)
            if found.type == fs.FileType.Directory:
                all_of_it = system.get_file_info(fs.FileSelector(path, recursive=True))
                return [[info.path, info.size, info.mtime_ns] for info in sorted(all_of_it, key=lambda info: info.path)]
        if found.type == fs.FileType.NotFound:
            raise FolderError(f"{self} is not there", fix="check the path")
        return [[found.path, found.size, found.mtime_ns]]

    def exists(self) -> bool:
        """Whether there is a file or folder."""
        if self.path is not None:
            return self.path.exists()
        system, path = self.system
        with _failing(f"{self} cannot be read"):
            return bool(system.get_file_info(path).type != fs.FileType.NotFound)

    def names(self) -> set[str]:
        """Names in the folder."""
        system, path = self.system
        with _failing(f"{self} cannot be read"):
            return {info.base_name for info in system.get_file_info(fs.FileSelector(path, allow_not_found=True))}

    def files(self, *endings: str) -> list[Place]:
        """All files at or below this place that have one of the endings and are not hidden, in the order of their names."""
        system, path = self.system
        with _failing(f"{self} cannot be read"):
            if system.get_file_info(path).type == fs.FileType.File:
                return [self]
            found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        below = [info.path[len(path) :].strip("/") for info in found if info.type == fs.FileType.File]
        shown = [name for name in below if not any(part.startswith((".", "_")) for part in name.split("/"))]
        return [self / name for name in sorted(shown) if name.lower().endswith(endings)]

    def read_text(self) -> str:
        """The text of the file."""
        system, path = self.system
        with _failing(f"{self} cannot be read"), system.open_input_stream(path) as stream:
            return bytes(stream.read()).decode()

    def write_text(self, text: str) -> None:
        """Write the file, whole or not at all."""
        if self.path is not None:
            with write_atomically(self.path) as partial:
                partial.write_text(text)
            return
        system, path = self.system
        with _failing(f"{self} could not be written"), system.open_output_stream(path) as stream:
            stream.write(text.encode())

    def make(self) -> None:
        """Make the folder, where the storage has such a thing."""
        if self.path is not None:
            self.path.mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Remove the file, or the folder with all that is in it."""
        if self.path is not None:
            if self.path.is_file():
                self.path.unlink()
            shutil.rmtree(self.path, ignore_errors=True)
            return
        system, path = self.system
        with _failing(f"{self} could not be removed"):
            kind = system.get_file_info(path).type
            if kind == fs.FileType.File:
                system.delete_file(path)
            elif kind == fs.FileType.Directory:
                system.delete_dir(path)

    def bring(self, target: Path) -> None:
        """Copy the file or folder to this machine."""
        system, path = self.system
        with _failing(f"{self} cannot be read"):
            is_folder = system.get_file_info(path).type == fs.FileType.Directory
            (target if is_folder else target.parent).mkdir(parents=True, exist_ok=True)
            fs.copy_files(path, str(target), source_filesystem=system, destination_filesystem=fs.LocalFileSystem())

    def send(self, source: Path) -> None:
        """Copy a file or folder of this machine there; a manifest goes last."""
        system, path = self.system
        files = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
        with _failing(f"{self} could not be written"):
            for file in sorted(files, key=lambda file: file.name == MANIFEST):
                target = path if file == source else f"{path}/{file.relative_to(source).as_posix()}"
                if self.path is not None:
                    Path(target).parent.mkdir(parents=True, exist_ok=True)
                fs.copy_files(str(file), target, source_filesystem=fs.LocalFileSystem(), destination_filesystem=system)

    @contextlib.contextmanager
    def gathered(self, names: Iterable[str]) -> Iterator[Path]:
        """A folder of this machine that has these of its files or folders: itself, or one for the length of the block."""
        if self.path is not None:
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="heedful-") as folder:
            for name in names:
                (self / name).bring(Path(folder) / name)
            yield Path(folder)

    @contextlib.contextmanager
    def workshop(self) -> Iterator[Path]:
        """A folder of this machine whose contents are in this place after the block."""
        if self.path is not None:
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="heedful-") as folder:
            yield Path(folder)
            for made in sorted(Path(folder).iterdir()):
                (self / made.name).send(made)


@contextlib.contextmanager
def delivered(out: str | os.PathLike[str] | Place, *, kind: str | None = None, overwrite: bool = False) -> Iterator[Path]:
    """Where this machine makes the file or stage folder for `out`: there, or for the length of the block.

    Args:
        out: a path or URL.
        kind: of a stage folder, to find out first whether the place is free.
        overwrite: replace a finished folder of that kind.

    Raises:
        FolderError: the place is taken, or cannot be written.
    """
    place = Place.of(out)
    if kind is not None:
        check_free(place, kind=kind, overwrite=overwrite)
    if place.path is not None:
        yield place.path
        return
    with tempfile.TemporaryDirectory(prefix="heedful-") as folder:
        made = Path(folder) / place.name
        yield made
        if made.is_dir():
            # Without its manifest the old one is not finished any more, however far the next steps get.
            (place / MANIFEST).remove()
            place.remove()
        place.send(made)


def check_free(place: Place, *, kind: str, overwrite: bool) -> None:
    """`check_writable` for any storage.

    Raises:
        FolderError: the place is taken.
    """
    if place.path is not None:
        check_writable(place.path, kind=kind, overwrite=overwrite)
        return
    if not place.exists():
        return
    try:
        found = json.loads((place / MANIFEST).read_text())["kind"]
    except (FolderError, ValueError, KeyError, TypeError):
        found = None
    if found != kind:
        raise FolderError(
            f"{place} is in the way", got=f"a folder of {found}" if found else "something that heedful did not make",
            expected="a free place", fix="choose another --out or remove it",
        )  # fmt: skip
    if not overwrite:
        raise FolderError(f"{place} exists already", fix="pass --overwrite to replace it, or choose another --out")


def here(given: str | os.PathLike[str] | Place) -> Path:
    """A file or folder on this machine: itself, or a copy that all workers of the node share until `forget_copies`.

    Raises:
        FolderError: it is not there, or cannot be read.
    """
    place = Place.of(given)
    if place.path is not None:
        return place.path
    key = hashlib.sha256(json.dumps([place.address, place.query, place.stamp()]).encode()).hexdigest()[:16]
    copy = _copies() / key / place.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    with (copy.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            partial = copy.with_name(f".{copy.name}")
            shutil.rmtree(partial, ignore_errors=True)
            place.bring(partial)
            partial.rename(copy)
    return copy


def forget_copies() -> None:
    """Remove what `here` has copied to this node for this command."""
    shutil.rmtree(_copies(), ignore_errors=True)


def used_urls() -> bool:
    """Whether this process has met an invalid path."""
    return _system.cache_info().currsize > 0


def _copies() -> Path:
    """The folder of this node and this command's copies."""
    import ray

    context = ray.get_runtime_context()
    return Path(tempfile.gettempdir()) / f"heedful-copies-{os.getuid()}" / f"{context.get_node_id()}-{context.get_job_id()}"


@functools.lru_cache(maxsize=64)
def _system(url: str) -> tuple[fs.FileSystem, str]:
    try:
        system, path = fs.FileSystem.from_uri(url)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(
            "unsupported storage",
            got=f"{url.split('?')[0]}: {error}",
            expected="a path, or a URL such as s3://BUCKET/FOLDER",
        ) from error
    return system, path


@contextlib.contextmanager
def _failing(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise FolderError(what, got=str(error).splitlines()[0], fix="check its name, the network and the keys") from error
