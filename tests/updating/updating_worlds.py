"""A small shop day by day, and the options that update it in a second or two."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heedful.updating import nightly
from heedful.updating.options import UpdateConfig

DAY = 86_400
START = 1_600_041_600
_RANKER = """hidden = 8
steps = 20
validate_every = 10
batch_users = 16
positives = 3
negatives = 8
depth = 1
null_tokens = 2
device = "cpu"
"""
SETTINGS = f"""
[embed]
width = 8
epochs = 5
threads = 1

[train]
{_RANKER}
[mixed]
{_RANKER}stage_users = 40
stage_windows = 1
"""
QUICK: dict[str, Any] = {"model": "attention", "fewest_test_users": 5, "harm": 90}


def day_of(number: int, *, users: int = 60, items: int = 40, events: int = 200) -> pa.Table:
    """The events of one day: two groups of users with halves of the items each; an item is new each day."""
    randoms = np.random.default_rng([7, number])
    who = randoms.integers(users, size=events)
    what = (randoms.integers(items // 2, size=events) + (who % 2) * (items // 2)).astype(object)
    what[randoms.random(events) < 0.05] = f"new of day {number}"
    times = START + number * DAY + np.sort(randoms.integers(DAY, size=events))
    return pa.table(
        {
            "user_id": [f"u{user}" for user in who],
            "item_id": [str(item) for item in what],
            "timestamp": times,
            "event": ["view"] * events,
        }
    )


def days(first: int, last: int, **options: int) -> pa.Table:
    """The events of several days."""
    return pa.concat_tables([day_of(number, **options) for number in range(first, last)])


def feed_folder(folder: Path, last: int) -> Path:
    """A folder with a file for each day before `last`."""
    folder.mkdir(exist_ok=True)
    for number in range(last):
        path = folder / f"day-{number:03d}.parquet"
        if not path.exists():
            pq.write_table(day_of(number), path)
    return folder


def settings_file(folder: Path) -> str:
    """The settings in a file."""
    path = folder / "settings.toml"
    path.write_text(SETTINGS)
    return str(path)


def config(**options: Any) -> UpdateConfig:
    """Bounds for a small shop."""
    return UpdateConfig(**{**QUICK, **options})


def update_until(folder: str, fatal: str) -> None:
    """The night of what is in `new.parquet`, which ends this process after a step."""

    def kill(step: str) -> None:
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    nightly.finished = kill
    new = pq.read_table(f"{folder}/new.parquet")
    nightly.update(f"{folder}/shop", new, config=config(), settings=f"{folder}/settings.toml")
