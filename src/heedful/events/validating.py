"""Rows checked one by one, then users and items by how often they occur: what is kept, and why the rest is not.

Everything is a table or view of the session, named here and read by `heedful.events.encoding`:

    staged      the rows as read: user_id, item_id, event (as read), time_read, and the time in parts (see `times`);
                a view of the source where that can be read again at little cost, otherwise a table
    checked     staged with the instant in nanoseconds, the kind, and the reason to refuse the row or NULL
    events      the good rows of checked; without exact duplicates where these are dropped
    kept        events without bots and rare items
    counted     item_id, kind, events: what is in events but of bots
    items       item_id, events, row: the items of kept, most frequent first
    rejected    user_id, item_id, timestamp, event as text, reason
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heedful.errors import ConfigError, InputError
from heedful.events.columns import EVENT, ITEM, TIME, USER, Rows, find_column, find_time, kind_as_sql, need_column
from heedful.events.ids import id_as_sql
from heedful.events.session import Session, literal
from heedful.events.session import identifier as quoted
from heedful.events.times import check_zone, choose_unit, count_magnitudes, instant_as_sql, is_text, time_as_sql

if TYPE_CHECKING:
    from heedful.events.preparing import PrepareConfig

__all__ = [
    "Staged",
    "Verdict",
    "check_rows",
    "collect",
    "count_events",
    "rank_items",
    "refuse_nothing",
    "stage",
    "unknown_kinds",
    "validate",
]  # fmt: skip


@dataclass(frozen=True)
class Staged:
    """The rows as read.

    Attributes:
        columns: the column of the source behind each outside name.
        types: SQL types of the ids, by outside name.
        time_type: SQL type of the time.
        rows: number of rows.

    """

    columns: dict[str, str]
    types: dict[str, str]
    time_type: str
    rows: int


@dataclass(frozen=True)
class Verdict:
    """What came of the rows; the names and counts that the manifest repeats."""

    time_unit: str
    rejected: dict[str, int]
    kinds_left_out: dict[str, int]
    duplicates_dropped: int
    users_set_aside: int
    items_set_aside: int


def stage(rows: Rows, session: Session, config: PrepareConfig) -> Staged:
    """Make `staged` of the source.

    Raises:
        InputError: a column is missing or of a type that cannot be used.
        duckdb.Error: the rows cannot be read (see `heedful.events.reading.read_errors`).

    """
    check_zone(session, config.time_zone)
    user = need_column(rows.names, USER, config.user_column, rows.folder_names)
    item = need_column(rows.names, ITEM, config.item_column, rows.folder_names)
    time = find_time(rows, session, config.time_column)
    event = find_column(rows.names, EVENT, config.event_column, rows.folder_names)
    columns = {"user_id": user, "item_id": item, "timestamp": time} | ({"event": event} if event is not None else {})
    relation = rows.relation(list(dict.fromkeys(columns.values())))
    found = session.types(relation)
    user_sql, user_type = id_as_sql(user, found[user], USER)
    item_sql, item_type = id_as_sql(item, found[item], ITEM)
    session.run(
        f"CREATE {'VIEW' if rows.read_again and not is_text(found[time]) else 'TABLE'} staged AS "
        f"SELECT {user_sql} AS user_id, {item_sql} AS item_id, "
        f"{kind_as_sql(event, found[event] if event else '')} AS event, {quoted(time)} AS time_read, "
        f"{time_as_sql(time, found[time], config.time_zone)} FROM {relation}"
    )
    n_rows = session.value("SELECT count(*) FROM staged")
    return Staged(columns, {"user_id": user_type, "item_id": item_type}, found[time], n_rows)


def validate(staged: Staged, session: Session, config: PrepareConfig) -> Verdict:
    """Check the staged rows and make the other tables.

    Raises:
        InputError: there is no row, or none is left.
        ConfigError: a kind to keep that the log does not have.

    """
    unit = config.time_unit if config.time_unit != "auto" else choose_unit(count_magnitudes(session, "staged"))
    kinds, bots = check_rows(staged, session, config, unit)
    count_events(session)
    left_out = unknown_kinds(kinds, config.kinds)
    rare = rank_items(session, config.min_item_events)
    n_events = session.value("SELECT coalesce(sum(events), 0)::BIGINT FROM items")
    rejected = collect(session, config, any_rejected=n_events < staged.rows)
    refuse_nothing(staged, n_events, rejected)
    dropped = staged.rows - n_events - sum(rejected.values()) - sum(left_out.values())
    return Verdict(unit, rejected, left_out, dropped, bots, rare)


def check_rows(staged: Staged, session: Session, config: PrepareConfig, unit: str) -> tuple[dict[str, int], int]:
    """What can be checked user by user: make `events` and `human`.

    Returns:
        (number of rows of each kind where only some kinds are wanted, number of bots).

    """
    default = "unknown" if "event" in staged.columns else "event"
    instant = instant_as_sql(unit, given=config.time_unit != "auto")
    session.run(
        "CREATE VIEW named AS SELECT user_id, item_id, event, time_read, "
        f"CASE WHEN event != '' THEN event ELSE {literal(default)} END AS kind, {instant} AS instant FROM staged"
    )
    kinds = dict(session.run("SELECT kind, count(*) FROM named GROUP BY kind")) if config.kinds else {}
    wanted = f"WHERE kind IN ({', '.join(map(literal, config.kinds))})" if config.kinds else ""
    session.run(f"CREATE VIEW checked AS SELECT *, {_reason_as_sql(staged)} AS reason FROM named {wanted}")
    _choose_events(staged, session, config)
    bots = _find_bots(session, config.max_user_events)
    return kinds, bots


def count_events(session: Session) -> None:
    """Make `counted`, the events of each item and kind."""
    session.run("CREATE TABLE counted AS SELECT item_id, kind, count(*) AS events FROM human GROUP BY ALL")


def unknown_kinds(counts: dict[str, int], wanted: Sequence[str]) -> dict[str, int]:
    """Rows of the kinds that are not wanted, most frequent first.

    Raises:
        ConfigError: one is wanted that the log does not have.

    """
    ordered = dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))
    unknown = [kind for kind in wanted if kind not in ordered]
    if unknown:
        raise ConfigError(
            "the log has no events of that kind", got=", ".join(unknown), expected=f"some of {', '.join(list(ordered)[:20])}"
        )
    return {kind: n for kind, n in ordered.items() if kind not in wanted}


def rank_items(session: Session, least: int) -> int:
    """Make `items` from `counted`; the number of items that are too rare."""
    totals = "(SELECT item_id, sum(events)::BIGINT AS events FROM counted GROUP BY item_id)"
    session.run(
        "CREATE TABLE items AS SELECT item_id, events, "
        "(row_number() OVER (ORDER BY events DESC, item_id) - 1)::INTEGER AS row "
        f"FROM {totals} WHERE events >= {least}"
    )
    return int(session.value(f"SELECT count(*) FROM {totals} WHERE events < {least}"))


def collect(session: Session, config: PrepareConfig, *, any_rejected: bool = True) -> dict[str, int]:
    """Make the view `kept` and the table `rejected`, by means of `items`; rejected rows by reason.

    Without `any_rejected` the rows are not searched for any.
    """
    frequent = "SEMI JOIN items USING (item_id)" if config.min_item_events > 1 else ""
    session.run(f"CREATE VIEW kept AS SELECT * FROM human {frequent}")
    return _collect_rejected(session, config, any_rejected)


def refuse_nothing(staged: Staged, n_events: int, rejected: dict[str, int]) -> None:
    """An `InputError` where there is no row, or none is left."""
    if not staged.rows:
        raise InputError(
            "the source has no rows", got=f"columns {', '.join(staged.columns.values())}", fix="check what was exported"
        )
    if not n_events:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in rejected.items())
        raise InputError(
            "no row is left",
            got=f"{staged.rows} rows, rejected for {reasons}",
            fix="check that the columns are the right ones",
        )


def _reason_as_sql(staged: Staged) -> str:
    cases = []
    for name, kind in staged.types.items():
        cases.append(f"WHEN {name} IS NULL THEN 'missing {name}'")
        if kind == "VARCHAR":
            cases.append(f"WHEN {name} = '' THEN 'empty {name}'")
    cases.append(
        "WHEN instant IS NULL AND (time_read IS NULL OR trim(time_read::VARCHAR) IN ('', 'nan')) THEN 'missing time'"
    )
    cases.append("WHEN instant IS NULL THEN 'unreadable time'")
    cases.append("WHEN instant < 0 THEN 'absurd time'")
    return f"CASE {' '.join(cases)} END"


def _good_as_sql(staged: Staged) -> str:
    """The same as having no reason, in a form that can be looked up in the statistics of files and is quick to check."""
    ids = [
        f"{name} IS NOT NULL" + (f" AND {name} != ''" if kind == "VARCHAR" else "") for name, kind in staged.types.items()
    ]
    return " AND ".join([*ids, "instant >= 0"])


def _choose_events(staged: Staged, session: Session, config: PrepareConfig) -> None:
    good = f"FROM checked WHERE {_good_as_sql(staged)}"
    if config.duplicates == "keep":
        session.run(f"CREATE VIEW events AS SELECT user_id, item_id, instant, kind, time_read, event {good}")
        return
    # The smallest text is kept for all, so that the result does not depend on their order.
    session.run(
        "CREATE TABLE events AS SELECT user_id, item_id, instant, kind, min(time_read) AS time_read, min(event) AS event "
        f"{good} GROUP BY user_id, item_id, instant, kind"
    )


def _find_bots(session: Session, limit: int) -> int:
    """Make `bots` and the view `human`; the number of bots."""
    if not limit:
        session.run("CREATE VIEW human AS FROM events")
        return 0
    session.run(f"CREATE TABLE bots AS SELECT user_id FROM events GROUP BY user_id HAVING count(*) > {limit}")
    session.run("CREATE VIEW human AS SELECT * FROM events ANTI JOIN bots USING (user_id)")
    return int(session.value("SELECT count(*) FROM bots"))


def _collect_rejected(session: Session, config: PrepareConfig, any_rejected: bool) -> dict[str, int]:
    columns = (
        f"user_id::VARCHAR AS {USER.name}, item_id::VARCHAR AS {ITEM.name}, time_read::VARCHAR AS {quoted(TIME.name)}, "
        f"event AS {EVENT.name}"
    )
    parts = [f"SELECT {columns}, reason FROM checked WHERE reason IS NOT NULL"]
    if limit := config.max_user_events:
        reason = literal(f"user with more than {limit} events")
        parts.append(f"SELECT {columns}, {reason} FROM events SEMI JOIN bots USING (user_id)")
    if (least := config.min_item_events) > 1:
        reason = literal(f"item with fewer than {least} events")
        parts.append(f"SELECT {columns}, {reason} FROM human ANTI JOIN items USING (item_id)")
    session.run(f"CREATE TABLE rejected AS SELECT * FROM ({' UNION ALL '.join(parts)}) WHERE {str(any_rejected).lower()}")
    return dict(session.run("SELECT reason, count(*) FROM rejected GROUP BY reason ORDER BY count(*) DESC, reason"))
