"""The rankers that the last stage of the mixed ranker is fitted over, kept from one night to the next.

Each was trained on the events before a time alone, so that it may be used for any period that begins then or later.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from heedful.rankers.attention import AttentionRanker
from heedful.rankers.saving import open_model_folder

__all__ = ["Kept", "Periods", "copy_periods", "periods_beside"]

_PREFIX = "before-"


@dataclass(frozen=True)
class Kept:
    """A ranker that knows nothing of what happened at its time or later.

    Attributes:
        time: unix seconds.
        ranker: the ranker.
    """

    time: int
    ranker: AttentionRanker


class Periods:
    """A folder of rankers by the time before which they were trained.

    Attributes:
        used: times of those that the fit in progress used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.used: set[int] = set()

    def latest(self, time: int) -> Kept | None:
        """The ranker of the latest time that is not after this one; None where there is none."""
        times = [found for found in self._times() if found <= time]
        if not times:
            return None
        folder = self.folder / f"{_PREFIX}{max(times)}"
        return Kept(max(times), AttentionRanker.load_folder(*open_model_folder(folder), None))

    def put(self, time: int, ranker: AttentionRanker) -> None:
        """Keep a ranker that was trained on the events before a time."""
        ranker.save(self.folder / f"{_PREFIX}{time}", overwrite=True, pack=True)
        self.used.add(time)

    def remove_unused(self) -> None:
        """Remove what the fit did not use: no later one will."""
        for time in self._times():
            if time not in self.used:
                shutil.rmtree(self.folder / f"{_PREFIX}{time}")

    def _times(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        names = [place.name.removeprefix(_PREFIX) for place in self.folder.glob(f"{_PREFIX}*")]
        return [int(name) for name in names if name.isdigit()]


def periods_beside(model: Path) -> Path:
    """Where the rankers of the periods of a model are kept."""
    return Path(f"{model}.periods")


def copy_periods(model: Path, target: Path) -> None:
    """Put the kept rankers of a model beside another one; files are never changed, so that they are linked, not copied."""
    source, place = periods_beside(model), periods_beside(target)
    if source.is_dir() and not place.exists():
        partial = place.with_name(f".{place.name}.partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial, copy_function=_link)
        partial.rename(place)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
