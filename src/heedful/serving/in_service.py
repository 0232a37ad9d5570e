"""What a worker serves: an engine over a model, its slots and the database, replaced as a whole while requests go on."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from contextlib import suppress

from heedful.errors import HeedfulError
from heedful.serving import telemetry
from heedful.serving.engine import Engine
from heedful.serving.live import LivePopularity
from heedful.serving.loaded import Loaded
from heedful.serving.options import ServeConfig
from heedful.serving.selection import SlotBook
from heedful.serving.store import Store, StoreUnavailable

__all__ = ["InService", "keep_from_collector"]

# A request that waits for a lock in the database is refused soon, so that it can be sent again.
_LOCK_SECONDS = 1.5


class InService:
    """The engine of one worker, and how it is replaced; `heedful.serving.models.Serving` says when, and by what.

    Args:
        config: options of the server.
        clock: unix seconds, for what is popular now.

    Attributes:
        problems: what could not be used at the last attempt, by what it is: model, items, slots, keys, database.
        slots_text: the declarations in service, as they were written.
    """

    def __init__(self, config: ServeConfig, clock: Callable[[], int]) -> None:
        self.config = config
        self._changing = threading.Lock()
        self.problems: dict[str, str] = {}
        self.slots_text = ""
        self._store: Store | None = None
        self._loaded: Loaded | None = None
        self._book: SlotBook | None = None
        self._engine: Engine | None = None
        self._clock = clock
        self._live: LivePopularity | None = None
        self._count_next = 0.0

    @property
    def engine(self) -> Engine:
        """The engine in service; a request takes it once and keeps it until its end."""
        assert self._engine is not None, "start() comes first"
        return self._engine

    @property
    def loaded(self) -> Loaded:
        """The model in service."""
        assert self._loaded is not None, "start() comes first"
        return self._loaded

    def close(self) -> None:
        """Let go of the database, and of what was kept."""
        if self._store is not None:
            self._store.close()
        gc.unfreeze()

    def probe(self) -> None:
        """Find out now and then whether the database can be written; the store keeps what it finds, and logs it."""
        if self._store is not None:
            with suppress(StoreUnavailable):
                self._store.probe()

    def _count_from(self, loaded: Loaded) -> None:
        """Begin with the counts of a model that was loaded."""
        counts_on = self.config.live_popularity and loaded.ranker.touches is not None
        self._live = LivePopularity(loaded.ranker, self._clock) if counts_on else None
        self._count_next = 0.0

    def _report(self, what: str, error: HeedfulError, *, again: bool = False) -> None:
        if not again and self.problems.get(what) != error.problem:
            telemetry.LOG.error(f"{what}: the previous state stays in service", extra={"facts": {"problem": error.problem}})
        self.problems[what] = error.problem

    def _put(self, loaded: Loaded, book: SlotBook) -> None:
        """Put a model with these slots into service."""
        before = self.loaded
        self._swap(loaded, book)
        if before is not loaded:
            self._count_from(loaded)
            keep_from_collector()
            old = (before.ranker.name, before.version)
            telemetry.model_served(loaded.ranker.name, loaded.version, instead_of=old)
            telemetry.LOG.info("model in service", extra={"facts": {"model": loaded.ranker.name, "version": loaded.version}})

    def _swap(self, loaded: Loaded, book: SlotBook) -> None:
        """Give new requests an engine over these."""
        engine = self._make_engine(loaded, book)
        self._loaded, self._book, self._engine = loaded, book, engine

    def _make_engine(self, loaded: Loaded, book: SlotBook | None) -> Engine:
        return Engine(
            loaded.ranker, self._store, book, version=loaded.version, recommender=loaded.recommender,
            max_history=self.config.max_history,
            at_once=self.config.threads or max((os.cpu_count() or 1) // self.config.workers, 1),
        )  # fmt: skip

    def _open_store(self) -> None:
        try:
            self._store = Store.open(self.config.database, lock_seconds=_LOCK_SECONDS)
        except HeedfulError as error:
            # What it says names the address, which is for the log alone.
            if "database" not in self.problems:
                telemetry.LOG.error("the database cannot be used", extra={"facts": {"problem": error.problem}})
            self.problems["database"] = "the database cannot be used; the log says why"
            return
        self.problems.pop("database", None)
        self._engine = self._make_engine(self.loaded, self._book)


def keep_from_collector() -> None:
    """Take all that is loaded out of the garbage collector's sight, which has a look at millions of objects otherwise.

    Each of its rounds, every twenty seconds under load, held up all requests for a quarter of a second. What an earlier
    model left is collected now.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
