"""What is done once before a server starts: everything is tried, so that what is wrong is said at once and plainly."""

from __future__ import annotations

from pathlib import Path

from heedful.errors import HeedfulError
from heedful.events.log import EventLog
from heedful.progress import say
from heedful.serving.item_changes import ItemChanges
from heedful.serving.loaded import Loaded
from heedful.serving.options import ServeConfig
from heedful.serving.security import Keys, no_keys
from heedful.serving.selection import SlotBook
from heedful.serving.slots import parse_slots, read_slots
from heedful.serving.state import Choice, State
from heedful.serving.store import Store

__all__ = ["prepare"]


def prepare(choice: Choice, config: ServeConfig, folder: Path, *, histories: str | None = None) -> None:
    """Check the model, slots, keys and database, load histories, and copy the model into the state folder.

    Args:
        choice: the model that the server is started with.
        config: options of the server.
        folder: its state.
        histories: sequences whose histories are loaded into the database.

    Raises:
        HeedfulError: something cannot be used.
    """
    if config.keys is not None and not len(Keys.read(config.keys)):
        raise no_keys(config.keys)
    state, changes = State(folder), ItemChanges(folder)
    with state.locked():
        served = state.begin(choice)
        try:
            changes.compact()
        except HeedfulError as error:  # such as a full disk, which the server starts on nevertheless
            say(f"the changes of items are as they were: {error.problem}")
        loaded = changes.onto(Loaded.from_choice(state.copies(served)))
        if served != state.served():
            state.put(served)
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
