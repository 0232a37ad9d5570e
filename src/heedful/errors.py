"""The errors that heedful raises. Each message says what is wrong, what was got, what was expected and how to fix it.

HeedfulError
├── InputError            an event log, item file, request file or imported table that cannot be used
├── ConfigError           an option outside its range, or two options that exclude each other
├── FolderError           a stage folder that is missing, unfinished, damaged, or of another kind or version
│   └── MismatchError     two sound folders that do not belong together (a model and a foreign table)
├── TrainingError         training cannot go on (a loss that is not finite, nothing to learn from)
├── RefusedError          an update that is not published: an unusual feed, or models that are worse than the one in service
├── ClusterError          a cluster that does not answer, or has a node that cannot do the work
└── MissingExtraError     an optional package is not installed
"""

from __future__ import annotations

__all__ = [
    "ClusterError",
    "ConfigError",
    "FolderError",
    "HeedfulError",
    "InputError",
    "MismatchError",
    "MissingExtraError",
    "RefusedError",
    "TrainingError",
]


class HeedfulError(Exception):
    """Base of every error that heedful raises on purpose.

    Args:
        what: what is wrong, one clause.
        got: what was found.
        expected: what would have been right.
        fix: what to do about it.

    Attributes:
        problem: the message without what to do about it.
        fix: what to do about it, if anything is known.
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, fix: str | None = None) -> None:
        parts = [what]
        if got is not None:
            parts.append(f"got: {got}")
        if expected is not None:
            parts.append(f"expected: {expected}")
        self.problem, self.fix = "; ".join(parts), fix
        if fix is not None:
            parts.append(f"to fix: {fix}")
        super().__init__("; ".join(parts))


class InputError(HeedfulError):
    """The user's data cannot be used as it is."""


class ConfigError(HeedfulError, ValueError):
    """An option is outside its range or contradicts another."""


class FolderError(HeedfulError):
    """A stage folder is missing, unfinished, damaged, or not of the kind asked for."""


class MismatchError(FolderError):
    """Two sound folders do not belong together."""


class TrainingError(HeedfulError):
    """Training cannot start or cannot go on."""


class RefusedError(HeedfulError):
    """An update is not published; the version in service stays there."""


class ClusterError(HeedfulError):
    """A cluster does not answer, or one of its nodes cannot do the work."""


class MissingExtraError(HeedfulError, ImportError):
    """An optional package is missing.

    Args:
        package: the package that could not be imported.
        extra: the extra of heedful that brings it.
        beside: what to install after that, where the extra cannot bring it: arguments of pip install.
    """

    def __init__(self, package: str, extra: str, *, beside: str | None = None) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed",
            fix=f"pip install 'heedful[{extra}]'" + (f", then pip install {beside}" if beside else ""),
        )
