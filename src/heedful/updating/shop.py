"""A folder of versions, one of which is served: publishing, going back, removing what is too old."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from heedful.errors import ConfigError, FolderError, RefusedError
from heedful.folders import write_atomically

__all__ = ["FACTS", "Shop", "Version"]

FACTS = "version.json"
_CURRENT, _VERSIONS, _NEXT, _PUBLISHING = "current", "versions", ".next", ".publishing"


@dataclass(frozen=True)
class Version:
    """A finished version.

    Attributes:
        number: 1, 2, 3, ...
        path: its folder.
    """

    number: int
    path: Path

    @property
    def sequences(self) -> Path:
        """All events up to its making."""
        return self.path / "sequences"

    @property
    def embeddings(self) -> Path:
        """The vectors of its items."""
        return self.path / "embeddings"

    @property
    def model(self) -> Path:
        """The model."""
        return self.path / "model"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What it was made from, and how the models compared.

        Raises:
            FolderError: `version.json` cannot be read.
        """
        try:
            found: dict[str, Any] = json.loads((self.path / FACTS).read_text())
        except (OSError, ValueError) as error:
            raise FolderError(f"{self.path / FACTS} cannot be read", got=error, fix="go back to another version") from error
        return found


class Shop:
    """The versions of one shop.

    Args:
        folder: made when needed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    @property
    def link(self) -> Path:
        """Where a server finds the version in service."""
        return self.folder / _CURRENT

    @property
    def work(self) -> Path:
        """The version in the making."""
        return self.folder / _NEXT

    def versions(self) -> list[Version]:
        """All finished versions, the oldest first."""
        found = [place for place in (self.folder / _VERSIONS).glob("[0-9]*") if place.name.isdigit()]
        return sorted((Version(int(place.name), place) for place in found), key=lambda version: version.number)

    def current(self) -> Version | None:
        """The version in service; None before the first.

        Raises:
            FolderError: the link leads nowhere.
        """
        if not self.link.is_symlink():
            return None
        number = self.link.readlink().name
        found = next((version for version in self.versions() if version.path.name == number), None)
        if found is None:
            raise FolderError(
                f"{self.link} leads nowhere", got=number, expected="a folder of versions/",
                fix=f"heedful rollback {self.folder} VERSION",
            )  # fmt: skip
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One update at a time.

        Raises:
            ConfigError: another one is running, or the folder cannot be written.
        """
        with self._lock("update.lock", wait=False):
            with self._lock("switch.lock"):
                self._finish_publishing()
            yield

    def publish(self, number: int, base: Version | None) -> Version:
        """Make the version in the making the one in service, if `base` still is.

        Raises:
            RefusedError: another version was put into service meanwhile.
        """
        with self._lock("switch.lock"):
            if (now := self.current()) != base:
                raise RefusedError(
                    "another version was put into service during the update",
                    got=f"version {now.number}" if now else "none", expected=f"version {base.number if base else 'none'}",
                    fix="run the update again",
                )  # fmt: skip
            (self.folder / _VERSIONS).mkdir(exist_ok=True)
            with write_atomically(self.folder / _PUBLISHING) as partial:
                partial.write_text(str(number))
            self.work.rename(self._place(number))
            self._finish_publishing()
        return Version(number, self._place(number))

    def roll_back(self, number: int | None = None) -> Version:
        """Put an earlier version into service.

        Args:
            number: which; None: the one before the current one.

        Raises:
            ConfigError: there is no such version.
        """
        with self._lock("switch.lock"):
            self._finish_publishing()
            versions, now = self.versions(), self._current_number()
            earlier = [version for version in versions if now is None or version.number < now]
            wanted = [version for version in versions if version.number == number] if number is not None else earlier[-1:]
            if not wanted:
                raise ConfigError(
                    f"{self.folder} has no such version", got="the one before the current one" if number is None else number,
                    expected=", ".join(str(version.number) for version in versions) or "a shop with versions",
                    fix=f"heedful rollback {self.folder} --list",
                )  # fmt: skip
            self._point_to(wanted[0].number)
        return wanted[0]

    def remove_old(self, keep: int) -> None:
        """Remove all but the newest versions; the one in service stays."""
        now = self._current_number()
        for version in self.versions()[:-keep]:
            if version.number != now:
                # First out of sight, so that half of a version is never taken for one.
                gone = self.folder / f".removed-{version.path.name}"
                version.path.rename(gone)
        for gone in self.folder.glob(".removed-*"):
            shutil.rmtree(gone, ignore_errors=True)

    def note(self, facts: dict[str, Any]) -> None:
        """Write down what the last run did."""
        with write_atomically(self.folder / "last_update.json") as partial:
            partial.write_text(json.dumps(facts, indent=1, default=str) + "\n")

    def _finish_publishing(self) -> None:
        """Let the link lead to a version that was to be published; a killed run may have left that undone."""
        marker = self.folder / _PUBLISHING
        if marker.exists():
            number = int(marker.read_text() or 0)
            if self._place(number).is_dir():
                self._point_to(number)
            marker.unlink()

    def _point_to(self, number: int) -> None:
        partial = self.folder / f".{_CURRENT}.{os.getpid()}"
        partial.unlink(missing_ok=True)
        partial.symlink_to(Path(_VERSIONS) / self._place(number).name)
        partial.replace(self.link)

    def _current_number(self) -> int | None:
        name = self.link.readlink().name if self.link.is_symlink() else ""
        return int(name) if name.isdigit() else None

    def _place(self, number: int) -> Path:
        return self.folder / _VERSIONS / f"{number:04d}"

    @contextlib.contextmanager
    def _lock(self, name: str, *, wait: bool = True) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / name).open("w")
        except OSError as error:
            raise ConfigError(f"{self.folder} cannot be written", got=error, fix="check its permissions") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise ConfigError(f"another update of {self.folder} is running", fix="wait for its end") from error
            yield
