"""`synthesize`: an event log of any size that looks like a shop's, written in a stream.

What is in it, since rankings should have something to find and something to get wrong:

- items lie in categories of very different size; inside a category popularity falls with the rank (Zipf), and so does the
  activity of users (log-normal);
- a user has three tastes, each a category and a style in it, which are given up for others in time (drift); items of one
  style are found by the same users;
- in each category, items rise to the top and go out of fashion while others follow (turnover);
- users come back to items that they touched before (revisits), and act in sessions, by day more than by night.

Everything that concerns a user is drawn from a hash of the seed and the user, so that the log is the same however it is cut
into parts. Shapes: U users of a chunk, N events of a chunk, C categories.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heedful.config import Config, option, require
from heedful.folders import new_folder
from heedful.progress import progress

__all__ = ["KIND", "SyntheticConfig", "synthesize"]

KIND = "synthetic"
_CHUNK_USERS = 16_384
_CHUNK_ITEMS = 1_000_000
_DAY = 86400
_TASTE_SHARES = np.array([0.6, 0.9, 1.0])  # cumulative, of a user's three tastes
_SESSION_GAP = 120  # seconds between events of a session, on average
_SAME_SESSION = 0.6
# Spread of the logarithm of users' activity.
_SPREAD = 1.0
_KINDS = pa.array(["view", "purchase"])


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(Config):
    """What a synthetic log is like."""

    users: int = option(100_000, "users")
    items: int = option(20_000, "items of the catalogue")
    events_per_user: float = option(20.0, "events of a user on average; most have fewer, a few have many")
    categories: int = option(40, "categories of items, the largest having many times the items of the smallest")
    styles: int = option(8, "styles in a category: items that the same users like")
    loyalty: float = option(0.6, "part of the fresh events that keep to the style of the taste, the others to its category")
    drift_days: float = option(120.0, "days after which a taste gives way to another, on average")
    turnover: float = option(0.2, "part of each category whose time at the top passes within the log")
    revisits: float = option(0.25, "part of the events that repeat an earlier item of the user")
    days: int = option(365, "length of the log in days")
    start: int = option(1_704_067_200, "unix seconds of its beginning (the first of January 2024)")
    part_users: int = option(262_144, "users in one file of events")
    seed: int = option(1, "seed of all random numbers")

    def __post_init__(self) -> None:
        for name in ("users", "items", "categories", "styles", "days", "part_users"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="at least 1")
        for name in ("loyalty", "turnover", "revisits"):
            require(0 <= getattr(self, name) < 1, name, got=getattr(self, name), expected="from 0 to less than 1")
        require(self.events_per_user >= 1, "events_per_user", got=self.events_per_user, expected="at least 1")
        require(self.drift_days > 0, "drift_days", got=self.drift_days, expected="more than 0")
        require(self.start >= 0 and self.seed >= 0, "start or seed", got=(self.start, self.seed), expected="0 or more")
        require(
            self.items >= self.categories * self.styles,
            "items",
            got=self.items,
            expected=f"at least one for each style of each category, {self.categories * self.styles}",
        )


def synthesize(
    out: str | os.PathLike[str], *, config: SyntheticConfig = SyntheticConfig(), overwrite: bool = False
) -> dict[str, Any]:
    """Write a folder with `events/part-00000.parquet`, ... and `items.parquet`; memory does not grow with its size.

    Events have user_id, item_id, timestamp (unix seconds) and event (view or purchase), ordered by time within every
    16,384 users. Items have item_id, title and category.

    Args:
        out: where the folder will be.
        config: sizes and habits.
        overwrite: replace a finished synthetic log.

    Returns:
        Facts for the manifest: events, users, items, bytes for each event.

    Raises:
        FolderError: the place is taken or cannot be written.
    """
    with new_folder(out, kind=KIND, overwrite=overwrite) as folder:
        shop = _Shop(config)
        events = _write_events(folder.path / "events", shop)
        _write_items(folder.path / "items.parquet", shop)
        size = sum(path.stat().st_size for path in (folder.path / "events").iterdir())
        facts = {"n_events": events, "n_users": config.users, "n_items": config.items, "event_bytes": size}
        folder.manifest.update(facts, config=config.to_dict())
    return facts


class _Shop:
    """The catalogue: category c has the places `starts[c]:starts[c + 1]`, in the order of popularity at the beginning."""

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        weights = 1 / np.arange(1, config.categories + 1) ** 0.8
        # Every category has an item of each style; the rest goes by weight.
        spare = config.items - config.categories * config.styles
        ends = np.cumsum(config.styles + spare * weights / weights.sum())
        self.starts = np.concatenate([[0], np.round(ends)]).astype(np.int64)
        self.shares = np.cumsum(weights / weights.sum())
        self._step = _coprime_near(config.items, 0.618)

    def ids(self, places: np.ndarray) -> np.ndarray:
        """Item ids of places, int64: a permutation, so that an id tells nothing of popularity."""
        return (places * self._step + self.config.seed) % self.config.items + 1

    def category_of(self, places: np.ndarray) -> np.ndarray:
        """Category of places, int64."""
        return np.searchsorted(self.starts, places, side="right") - 1

    def events(self, users: np.ndarray) -> dict[str, np.ndarray]:
        """The events of some users, each user's oldest first."""
        config, seed = self.config, self.config.seed
        mean_log = np.log(config.events_per_user) - _SPREAD**2 / 2
        normal_U = np.sqrt(-2 * np.log1p(-_uniform(seed, 1, users))) * np.cos(2 * np.pi * _uniform(seed, 2, users))
        counts_U = np.maximum(np.round(np.exp(mean_log + _SPREAD * normal_U)), 1).astype(np.int64)
        owner_N = np.repeat(users, counts_U)
        nth_N = np.arange(len(owner_N)) - np.repeat(np.cumsum(counts_U) - counts_U, counts_U)
        times_N = self._times(owner_N, nth_N)
        order_N = np.lexsort((times_N, owner_N))
        times_N = times_N[order_N]
        places_N = self._places(owner_N, nth_N, times_N)
        again_N = (nth_N > 0) & (_uniform(seed, 3, owner_N, nth_N) < config.revisits)
        places_N = places_N[_earlier(again_N, nth_N, _uniform(seed, 4, owner_N, nth_N))]
        bought_N = _uniform(seed, 5, owner_N, nth_N) < np.where(again_N, 0.25, 0.08)
        return {"user": owner_N + 1, "item": self.ids(places_N), "time": times_N, "kind": bought_N.astype(np.int8)}

    def _times(self, owner_N: np.ndarray, nth_N: np.ndarray) -> np.ndarray:
        """Times of a user's events: sessions spread over the days since the user came, with events close to each other."""
        config, seed = self.config, self.config.seed
        came_N = 0.8 * config.days * _uniform(seed, 6, owner_N)
        first_N = (nth_N == 0) | (_uniform(seed, 7, owner_N, nth_N) >= _SAME_SESSION)
        session_N = np.maximum.accumulate(np.where(first_N, np.arange(len(nth_N)), 0))
        day_N = came_N + (config.days - came_N) * _uniform(seed, 8, owner_N, nth_N[session_N])
        # The mean of two uniform numbers: few at night, most around noon.
        hour_N = (_uniform(seed, 9, owner_N, nth_N[session_N]) + _uniform(seed, 10, owner_N, nth_N[session_N])) / 2
        within_N = (np.arange(len(nth_N)) - session_N) * _SESSION_GAP * (0.5 + _uniform(seed, 11, owner_N, nth_N))
        seconds_N = np.floor(day_N) * _DAY + hour_N * (_DAY - 1) + within_N
        times_N: np.ndarray = config.start + np.minimum(seconds_N, config.days * _DAY - 1).astype(np.int64)
        return times_N

    def _places(self, owner_N: np.ndarray, nth_N: np.ndarray, times_N: np.ndarray) -> np.ndarray:
        """A fresh item for each event: its taste gives category and style, its rank falls like Zipf's."""
        config, seed = self.config, self.config.seed
        taste_N = np.searchsorted(_TASTE_SHARES, _uniform(seed, 12, owner_N, nth_N), side="right")
        day_N = (times_N - config.start) / _DAY
        phase_N = np.floor(day_N / config.drift_days + _uniform(seed, 13, owner_N, taste_N)).astype(np.int64)
        category_N = np.searchsorted(self.shares, _uniform(seed, 14, owner_N, taste_N, phase_N), side="right")
        category_N = np.minimum(category_N, config.categories - 1)
        style_N = np.floor(config.styles * _uniform(seed, 15, owner_N, taste_N, phase_N)).astype(np.int64)
        sizes_N = np.diff(self.starts)[category_N]
        loyal_N = _uniform(seed, 16, owner_N, nth_N) < config.loyalty
        draw_N = _uniform(seed, 17, owner_N, nth_N)
        of_style_N = (sizes_N - style_N - 1) // config.styles + 1
        # The rank n ** u is distributed like 1 / rank, for a category of any size and without a table.
        in_style_N = np.floor(of_style_N**draw_N).astype(np.int64) - 1
        in_category_N = np.floor(sizes_N**draw_N).astype(np.int64) - 1
        rank_N = np.where(loyal_N, in_style_N * config.styles + style_N, in_category_N)
        # Whole rounds of the styles, so that an item keeps its style as others take the places before it.
        moved_N = np.floor(config.turnover * day_N / config.days * sizes_N / config.styles).astype(np.int64) * config.styles
        places_N: np.ndarray = self.starts[category_N] + (np.minimum(rank_N, sizes_N - 1) + moved_N) % sizes_N
        return places_N


def _earlier(again_N: np.ndarray, nth_N: np.ndarray, draw_N: np.ndarray) -> np.ndarray:
    """Position of the event whose item each event has: its own, or for a revisit an earlier one, mostly recent."""
    here_N = np.arange(len(nth_N))
    back_N = np.where(again_N, np.floor(np.maximum(nth_N, 1) ** draw_N).astype(np.int64), 0)
    source_N: np.ndarray = here_N - back_N
    while not np.array_equal(source_N, source_N[source_N]):
        source_N = source_N[source_N]
    return source_N


def _uniform(seed: int, purpose: int, *keys: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each combination of keys: splitmix64 of seed, purpose and keys."""
    state = np.full(len(keys[0]), (seed * 64 + purpose) % 2**64, np.uint64)
    for key in keys:
        z = state + key.astype(np.uint64) * np.uint64(0xD1342543DE82EF95) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = z ^ (z >> np.uint64(31))
    return np.asarray((state >> np.uint64(11)) * 2.0**-53)


def _coprime_near(n: int, share: float) -> int:
    """A number near `share` of n that has no common factor with it, at most 2**31 so that products fit 64 bits."""
    step = max(min(int(n * share), 2**31), 1)
    while np.gcd(step, n) != 1:
        step += 1
    return step


def _write_events(folder: Path, shop: _Shop) -> int:
    folder.mkdir()
    config, written = shop.config, 0
    schema = pa.schema([
        ("user_id", pa.int64()), ("item_id", pa.int64()), ("timestamp", pa.int64()),
        ("event", pa.dictionary(pa.int8(), pa.string())),
    ])  # fmt: skip
    with progress("making events", config.users, "users") as meter:
        for number, start in enumerate(range(0, config.users, config.part_users)):
            stop = min(start + config.part_users, config.users)
            with pq.ParquetWriter(folder / f"part-{number:05d}.parquet", schema) as writer:
                for users in _chunks(start, stop, _CHUNK_USERS):
                    events = shop.events(users)
                    order = np.argsort(events["time"], kind="stable")
                    kinds = pa.DictionaryArray.from_arrays(events["kind"][order], _KINDS)
                    columns = [pa.array(events[name][order]) for name in ("user", "item", "time")]
                    writer.write_table(pa.Table.from_arrays([*columns, kinds], schema=schema))
                    written += len(order)
                    meter.advance(len(users))
    return written


def _write_items(path: Path, shop: _Shop) -> None:
    schema = pa.schema([("item_id", pa.int64()), ("title", pa.string()), ("category", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for places in _chunks(0, shop.config.items, _CHUNK_ITEMS):
            category = shop.category_of(places)
            style = (places - shop.starts[category]) % shop.config.styles
            titles = [f"item {i} of style {s}" for i, s in zip(shop.ids(places).tolist(), style.tolist(), strict=True)]
            names = pa.array([f"category {c}" for c in category.tolist()])
            writer.write_table(pa.Table.from_arrays([pa.array(shop.ids(places)), pa.array(titles), names], schema=schema))


def _chunks(start: int, stop: int, size: int) -> Iterator[np.ndarray]:
    for low in range(start, stop, size):
        yield np.arange(low, min(low + size, stop))
