"""Stage folders: written whole or not at all, with a manifest that says what they are and a hash of what they hold.

A folder is made beside its final place under a hidden temporary name, its files are synced, `manifest.json` is written
last, and one rename puts it in place. A run that is killed leaves only the temporary folder, which nothing reads.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from heedful.errors import FolderError

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "Folder",
    "FolderWriter",
    "check_writable",
    "new_folder",
    "open_folder",
    "write_atomically",
]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
# Files up to this size are hashed each time a folder is opened; larger ones are checked by size, and by hash in `verify`.
HASHED_ON_OPEN_BYTES = 64 * 2**20
# Of the system call renameat2 of Linux.
_HERE, _EXCHANGE = -100, 2
_RECORDED_PACKAGES = ("heedful", "numpy", "duckdb", "pyarrow", "numba", "torch", "safetensors", "cma", "optuna")


@dataclass(frozen=True)
class Folder:
    """A finished stage folder, checked when it was opened."""

    path: Path
    manifest: dict[str, Any]

    @property
    def content_hash(self) -> str:
        """Hash of the names and contents of all files; the identity of the folder wherever it lies."""
        return str(self.manifest["content_hash"])

    def file(self, name: str) -> Path:
        """Path of a file that the manifest lists."""
        if name not in self.manifest["files"]:
            raise FolderError(
                f"{self.path} has no file {name!r}", got=", ".join(sorted(self.manifest["files"])), expected=name
            )
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether the manifest lists the file."""
        return name in self.manifest["files"]

    def verify(self) -> None:
        """Hash every file, however large; a difference is a `FolderError`."""
        for name in self.manifest["files"]:
            _check_file(self.path, name, self.manifest["files"][name], hash_up_to=None)


@dataclass
class FolderWriter:
    """A folder in the making: put files into `path` and facts into `manifest`."""

    path: Path
    manifest: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def new_folder(out: str | os.PathLike[str], *, kind: str, overwrite: bool = False) -> Iterator[FolderWriter]:
    """Write a stage folder atomically.

    Args:
        out: the finished folder; its parent folders are created.
        kind: what it holds: "sequences", "embeddings", "model", "report", "tuning", "backtest" or "synthetic".
        overwrite: replace a finished folder of the same kind. Anything else that is in the way is an error.

    Raises:
        FolderError: the place is taken, or cannot be written.
    """
    target = Path(out).absolute()
    check_writable(target, kind=kind, overwrite=overwrite)
    _remove_stale(target)
    partial = target.parent / f".{target.name}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir()
        writer = FolderWriter(partial)
        yield writer
        _seal(writer, kind)
        _put_in_place(partial, target)
    except OSError as error:
        raise FolderError(
            f"{target} could not be written", got=error, fix="check free space and permissions; nothing was changed"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_writable(out: str | os.PathLike[str], *, kind: str, overwrite: bool = False) -> None:
    """Find out before the work, not after it, whether a folder can be written at `out`."""
    _refuse_url(out)
    target = Path(out).absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{target.parent} cannot be created", got=error, fix="choose another --out") from error
    if not os.access(target.parent, os.W_OK):
        raise FolderError(f"{target.parent} is not writable", fix="choose another --out or change its permissions")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    found = _peek_kind(target)
    if found != kind:
        raise FolderError(
            f"{target} is in the way",
            got="a file or folder that heedful did not make" if found is None else f"a folder of {found}",
            expected="a free place",
            fix="choose another --out or move it away",
        )
    if not overwrite:
        raise FolderError(f"{target} exists already", fix="pass --overwrite to replace it, or choose another --out")


def open_folder(path: str | os.PathLike[str], *, kind: str) -> Folder:
    """Open a finished stage folder and check it against its manifest.

    Raises:
        FolderError: no such folder, no manifest (unfinished), another kind or format version, a file that is missing,
            cut short or changed.
    """
    where = Path(path)
    if not where.is_dir():
        raise FolderError(f"{where} is not a folder of {kind}", got="no such folder", fix=_how_to_make(kind))
    manifest = _read_manifest(where, kind)
    if manifest.get("kind") != kind:
        raise FolderError(f"{where} holds something else", got=manifest.get("kind"), expected=kind, fix=_how_to_make(kind))
    if manifest.get("format_version") != FORMAT_VERSION:
        raise FolderError(
            f"{where} has a format that this version does not read",
            got=manifest.get("format_version"),
            expected=FORMAT_VERSION,
            fix="make it again with this version, or install the version that made it: "
            + str(manifest.get("versions", {}).get("heedful")),
        )
    for name, facts in manifest["files"].items():
        _check_file(where, name, facts, hash_up_to=HASHED_ON_OPEN_BYTES)
    if manifest.get("content_hash") != _content_hash(manifest["files"]):
        raise FolderError(f"{where} has been changed since it was written", got="another content hash", fix="make it again")
    return Folder(where, manifest)


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write one file under a temporary name beside `path`; it takes its place only when it is complete."""
    _refuse_url(path)
    target = Path(path).absolute()
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        yield partial
        _sync(partial)
        partial.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise FolderError(
            f"{target} could not be written", got=error, fix="check free space and permissions; nothing was changed"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _refuse_url(out: str | os.PathLike[str]) -> None:
    if isinstance(out, str) and "://" in out:
        raise FolderError(
            "one machine alone writes to its own disks",
            got=out,
            fix="name a path, or pass --cluster local (see docs/scaling.md)",
        )


def _seal(writer: FolderWriter, kind: str) -> None:
    names = sorted(p.relative_to(writer.path).as_posix() for p in writer.path.rglob("*") if p.is_file())
    files = {name: {"bytes": (writer.path / name).stat().st_size, "sha256": _sha256(writer.path / name)} for name in names}
    manifest = {
        "kind": kind,
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "content_hash": _content_hash(files),
        **writer.manifest,
        "files": files,
    }
    (writer.path / MANIFEST).write_text(json.dumps(manifest, indent=1, default=str) + "\n")
    for name in [*names, MANIFEST]:
        _sync(writer.path / name)
    _sync(writer.path)


def _put_in_place(partial: Path, target: Path) -> None:
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if not target.exists():
        partial.rename(target)
    else:
        aside = target.parent / f".{target.name}.partial-{os.getpid()}-replaced"
        if _exchange(partial, target):
            partial.rename(aside)
        else:
            target.rename(aside)
            partial.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    _sync(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step, so that readers find one of them at any time; False: it cannot be done."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(_HERE, bytes(one), _HERE, bytes(other), _EXCHANGE) == 0


def _remove_stale(target: Path) -> None:
    """Remove what killed runs left beside `target`; the temporary name carries the process that owns it."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        owner = left.name.rsplit(".partial-", 1)[1].split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists() and Path("/proc").exists():
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _peek_kind(path: Path) -> str | None:
    try:
        return str(json.loads((path / MANIFEST).read_text())["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_manifest(where: Path, kind: str) -> dict[str, Any]:
    try:
        manifest = json.loads((where / MANIFEST).read_text())
    except FileNotFoundError as error:
        raise FolderError(
            f"{where} is not a finished folder of {kind}", got=f"no {MANIFEST}", fix=_how_to_make(kind)
        ) from error
    except (OSError, ValueError) as error:
        raise FolderError(f"{where / MANIFEST} cannot be read", got=error, fix="make the folder again") from error
    found: dict[str, Any] = manifest if isinstance(manifest, dict) else {}
    files = found.get("files")
    facts = list(files.values()) if isinstance(files, dict) else [None]
    if not all(isinstance(fact, dict) and {"bytes", "sha256"} <= fact.keys() for fact in facts):
        raise FolderError(f"{where / MANIFEST} is not a manifest", fix="make the folder again")
    return found


def _check_file(where: Path, name: str, facts: dict[str, Any], *, hash_up_to: int | None) -> None:
    path = where / name
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise FolderError(f"{where / MANIFEST} names a file outside its folder", got=name)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise FolderError(f"{path} is missing", fix="make the folder again or restore the file") from error
    if size != facts["bytes"]:
        raise FolderError(
            f"{path} is damaged", got=f"{size} bytes", expected=f"{facts['bytes']} bytes", fix="make the folder again"
        )
    if (hash_up_to is None or size <= hash_up_to) and _sha256(path) != facts["sha256"]:
        raise FolderError(f"{path} has been changed since it was written", got="another hash", fix="make the folder again")


def _how_to_make(kind: str) -> str:
    verbs = {"sequences": "prepare", "embeddings": "embed", "model": "train", "report": "evaluate", "tuning": "tune"}
    verbs |= {"synthetic": "synth", "backtest": "backtest"}
    return f"check the path, or make it with `heedful {verbs.get(kind, '...')}`"


def _content_hash(files: dict[str, dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps([[n, files[n]["sha256"]] for n in sorted(files)]).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _versions() -> dict[str, str]:
    found = {}
    for package in _RECORDED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
