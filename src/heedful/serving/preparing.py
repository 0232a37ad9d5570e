"""What is done once before a server starts: everything is tried, so that what is wrong is said at once and plainly."""

from __future__ import annotations

from pathlib import Path

from heedful.events.log import EventLog
from heedful.progress import say
from heedful.serving.models import Choice, Loaded
from heedful.serving.options import ServeConfig
from heedful.serving.security import Keys
from heedful.serving.selection import SlotBook
from heedful.serving.slots import parse_slots, read_slots
from heedful.serving.store import Store

__all__ = ["prepare"]


def prepare(model: str, config: ServeConfig, *, embeddings: str | None = None, histories: str | None = None) -> Choice:
    """Check the model, slots, keys and database, and load histories.

    Raises:
        HeedfulError: something cannot be used.
    """
    choice = Choice(str(Path(model).absolute()), str(Path(embeddings).absolute()) if embeddings else None)
    loaded = Loaded.from_choice(choice)
    if config.keys is not None:
        Keys.read(config.keys)
    declared = config.slots is not None and Path(config.slots).exists()
    slots = read_slots(config.slots) if config.slots is not None and declared else parse_slots("")
    for note in SlotBook(slots, loaded.ranker, loaded.eligibility).notes:
        say(f"slots: {note}")
    store = Store.open(config.database)
    try:
        if histories is not None:
            added = store.load_log(EventLog.load(histories))
            say(f"{histories}: {added:,} events added to {config.database}")
    finally:
        store.close()
    return choice
