"""A small shop, and a worker that dies once: what the tests of the cluster share and its workers import."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Shop:
    """Folders of a small log, and what one machine makes of it."""

    log: Path
    sequences: Path
    embeddings: Path
    model: Path
    requests: Path


class Counter:
    """A worker that leaves a line for each part it did."""

    def __init__(self, log: str) -> None:
        self._log = Path(log)

    def run(self, part: int, path: Path) -> dict[str, Any]:
        (self._log / f"{part}-{os.getpid()}-{path.name}").touch()
        if part == 3 and not (self._log / "killed").exists():
            (self._log / "killed").touch()
            os._exit(1)
        return {"part": part}
