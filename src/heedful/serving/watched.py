"""A file that its owner may change at any time, of which the last text that could be used is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from heedful.errors import HeedfulError, InputError
from heedful.folders import write_atomically

__all__ = ["WatchedFile"]


class WatchedFile:
    """A small text file, such as that of the slots or of the keys.

    Args:
        path: the file; None: there is none.
        copy: where its last usable text is kept for workers that start later; None: nowhere.
        use: takes a text into service, or raises `HeedfulError`.
    """

    def __init__(self, path: str | None, copy: Path | None, use: Callable[[str], None]) -> None:
        self.path, self._copy, self._use = path, copy, use
        self._seen: bytes | None = None

    @property
    def kept(self) -> str | None:
        """The text that was used last."""
        return self._copy.read_text() if self._copy is not None and self._copy.exists() else None

    def keep(self, text: str) -> None:
        """Note that a text is in service."""
        if self._copy is not None and self.kept != text:
            with write_atomically(self._copy) as partial:
                partial.write_text(text)

    def changed(self) -> bool:
        """Whether the file has changed since this was asked last. What it holds counts, so that a rename is seen too."""
        before, self._seen = self._seen, self._content()
        return self._seen != before

    def take(self) -> None:
        """Use the text that the file has now; a missing file is an empty one.

        Raises:
            HeedfulError: it cannot be used.
        """
        try:
            text = (self._seen or b"").decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path} cannot be read", got=error, expected="a TOML file in UTF-8") from error
        self._use(text)
        self.keep(text)

    def start(self) -> HeedfulError | None:
        """Use the text of the file or, where it cannot be used, the one that is kept; returns what was wrong.

        Raises:
            HeedfulError: it cannot be used, and nothing is kept.
        """
        self.changed()
        try:
            self.take()
        except HeedfulError as error:
            if (kept := self.kept) is None:
                raise
            self._use(kept)
            return error
        return None

    def _content(self) -> bytes | None:
        try:
            return Path(self.path).read_bytes() if self.path is not None else None
        except OSError:
            return None
