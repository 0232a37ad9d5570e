"""Which items may be shown: an SQL condition over the items' attributes, as a mask over the catalogue.

A condition comes from outside, so it is treated as hostile: it has to be one expression made of columns, constants,
comparisons and a fixed list of harmless functions, which is checked on DuckDB's own syntax tree before anything runs. The
very text that was checked is then run in a database in memory that can reach neither files nor the network, with bounds on
time and memory.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heedful.errors import InputError
from heedful.events.values import nan_unknown
from heedful.rankers.base import Ranker

__all__ = ["HIDDEN", "Eligibility", "hides_items"]

HIDDEN = "hidden"
"""A boolean attribute: items for which it is true are never recommended."""

_MAX_LENGTH = 2_000
_MAX_BRACKETS = 100
_SECONDS = 2.0
_AGAIN_SECONDS = 0.02
_CACHED = 256
_SANDBOX: dict[str, Any] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "memory_limit": "512MB",
    "threads": "1",
}
# Parts of a syntax tree that look at the row alone. Whatever is not listed (subqueries, windows, stars, lambdas,
# parameters, ...) is refused.
_CLASSES = frozenset((
    "COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "OPERATOR", "BETWEEN", "CASE", "CAST", "FUNCTION", "TYPE",
    "COLLATE",
))  # fmt: skip
# Scalar functions whose result is about as small as their arguments and depends on nothing else.
_FUNCTIONS = frozenset((
    "~~", "!~~", "~~*", "!~~*", "~~~", "like_escape", "not_like_escape", "ilike_escape", "not_ilike_escape",
    "regexp_matches", "regexp_full_match", "lower", "upper", "trim", "ltrim", "rtrim", "length", "len", "strlen",
    "substring", "substr", "left", "right", "contains", "starts_with", "ends_with", "prefix", "suffix", "strpos", "instr",
    "position", "concat", "||", "+", "-", "*", "/", "//", "%", "abs", "ceil", "ceiling", "floor", "round", "trunc",
    "sign", "sqrt", "ln", "log", "log2", "log10", "exp", "pow", "power", "greatest", "least", "ifnull", "nullif", "isnan",
    "isinf", "isfinite", "year", "month", "day", "hour", "week", "quarter", "dayofweek", "dayofyear", "date_part",
    "datepart", "date_diff", "datediff", "date_trunc", "epoch", "to_days", "to_weeks", "to_months", "to_years",
    "to_hours", "list_value", "list_contains", "array_contains", "list_has", "array_has", "row",
))  # fmt: skip
_TYPES = frozenset((
    "BOOLEAN", "BOOL", "TINYINT", "SMALLINT", "INTEGER", "INT", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER",
    "UBIGINT", "FLOAT", "REAL", "DOUBLE", "DECIMAL", "NUMERIC", "VARCHAR", "TEXT", "STRING", "DATE", "TIME", "TIMESTAMP",
    "TIMESTAMPTZ", "INTERVAL", "TIMESTAMP WITH TIME ZONE",
))  # fmt: skip
_KEYWORDS = {"SUBQUERY": "a subquery", "STAR": "*", "WINDOW": "a window function", "PARAMETER": "a parameter"}


def hides_items(attributes: pa.Table) -> bool:
    """Whether the attributes say of items that they are hidden."""
    return HIDDEN in attributes.column_names and pa.types.is_boolean(attributes[HIDDEN].type)


@contextmanager
def _at_most(seconds: float, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Interrupt what the connection does inside after some seconds.

    Again and again, because one that comes between two statements is lost; and never after the end, where it would hit
    the next condition.
    """
    ended = threading.Event()

    def watch() -> None:
        wait = seconds
        while not ended.wait(wait):
            connection.interrupt()
            wait = _AGAIN_SECONDS

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


class Eligibility:
    """Answers conditions over one table of items; safe to share between threads.

    Args:
        items: one row for each item of the catalogue, in row order; its columns are what conditions may name.
        beside: another one, whose sandbox is used too: to open one takes longer than most conditions do.
    """

    def __init__(self, items: pa.Table, beside: Eligibility | None = None) -> None:
        self.columns = tuple(items.column_names)
        self._known = {name.lower() for name in self.columns}
        self._length = items.num_rows
        items = nan_unknown(items)
        hidden = items[HIDDEN] if hides_items(items) else pa.nulls(self._length, pa.bool_())
        self._shown = ~np.array(pc.fill_null(hidden, False).to_numpy(zero_copy_only=False), bool)
        self._lock = threading.Lock()
        self._masks: OrderedDict[str, np.ndarray] = OrderedDict()
        # Each connection to a sandbox has a table of its own.
        self._connection: duckdb.DuckDBPyConnection = _sandbox() if beside is None else beside._connection.cursor()
        if self.columns:
            self._connection.register("items", items)

    @classmethod
    def of(cls, ranker: Ranker, beside: Eligibility | None = None) -> Self:
        """Conditions over the attributes of a ranker's items, their `item_id` and `users` (distinct users in training)."""
        table = ranker.attributes
        own = {"item_id": ranker.items.ids, "users": pa.array(ranker.users_of_item)}
        for name, values in own.items():
            if name not in {known.lower() for known in table.column_names}:
                table = table.append_column(name, values) if table.num_columns else pa.table({name: values})
        return cls(table, beside)

    def mask(self, condition: str) -> np.ndarray:
        """The items for which the condition is true, bool [I], not to be written to; an empty condition admits all.

        Items that are `hidden` are never admitted.

        As in SQL's WHERE, a condition that is NULL for an item (an attribute that is not known) does not admit it.

        Raises:
            InputError: the condition is not a single boolean expression over the columns, or takes too long.
        """
        condition = condition.strip()
        with self._lock:
            if condition in self._masks:
                self._masks.move_to_end(condition)
                return self._masks[condition]
            found = self._evaluate(condition) & self._shown if condition else self._shown.copy()
            found.setflags(write=False)
            self._masks[condition] = found
            if len(self._masks) > _CACHED:
                self._masks.popitem(last=False)
            return found

    def _evaluate(self, condition: str) -> np.ndarray:
        _check_text(condition)
        query = f"SELECT (\n{condition}\n) FROM items"
        try:
            with _at_most(_SECONDS, self._connection):
                self._check_tree(self._parse(query))
                relation = self._connection.sql(query)
                kind = str(relation.types[0])
                if kind != "BOOLEAN":
                    raise _refused("is neither true nor false", got=f"a value of type {kind}", expected="such as price < 10")
                answer = relation.to_arrow_table().column(0)
        except duckdb.InterruptException as error:
            raise _refused(f"takes longer than {_SECONDS:g} seconds", fix="write a simpler condition") from error
        except (duckdb.Error, RuntimeError) as error:
            raise _refused("cannot be used", got=_first_line(error), fix=self._hint()) from error
        return np.array(pc.fill_null(answer, False).to_numpy(zero_copy_only=False), bool)

    def _parse(self, query: str) -> Any:
        """DuckDB's syntax tree of the condition inside `query`, which has to be nothing but the SELECT put around it."""
        text = self._connection.execute("SELECT json_serialize_sql($1)", [query]).fetchall()[0][0]
        try:
            parsed = json.loads(text)
        except RecursionError as error:
            raise _refused("is nested too deeply", fix="write a simpler condition") from error
        if parsed["error"]:
            raise _refused(
                "is not valid SQL", got=parsed["error_message"], expected="such as category = 'SOUP' AND price < 10"
            )
        nodes = [statement["node"] for statement in parsed["statements"]]
        node = nodes[0]
        plain = len(nodes) == 1 and node["type"] == "SELECT_NODE" and len(node["select_list"]) == 1
        source = node.get("from_table") or {}
        plain = plain and source.get("type") == "BASE_TABLE" and source.get("table_name") == "items"
        rest = ("where_clause", "group_expressions", "having", "sample", "qualify", "modifiers")
        if not plain or any(node.get(part) for part in rest) or source.get("alias") or source.get("sample"):
            raise _refused("is more than one expression", expected="one condition, such as department = 'PRODUCE'")
        return node["select_list"][0]

    def _check_tree(self, tree: Any) -> None:
        for node in _nodes(tree):
            kind = node["class"]
            if kind not in _CLASSES:
                what = _KEYWORDS.get(kind, kind.lower().replace("_", " "))
                raise _refused(f"uses {what}", expected="columns, constants, comparisons and simple functions")
            if kind == "COLUMN_REF":
                self._check_column(node["column_names"])
            elif kind == "FUNCTION" and (node["function_name"].lower() not in _FUNCTIONS or node["schema"]):
                raise _refused("uses a function that is not allowed", got=node["function_name"], expected=_named_functions())
            elif kind == "TYPE" and (node["type_name"].upper() not in _TYPES or node["schema"]):
                raise _refused("uses a type that is not allowed", got=node["type_name"], expected="such as INTEGER or DATE")

    def _check_column(self, names: list[str]) -> None:
        if len(names) != 1 or names[0].lower() not in self._known:
            raise _refused("names an unknown column", got=repr(".".join(names)), expected=", ".join(self.columns) or "none")

    def _hint(self) -> str:
        return f"the columns are {', '.join(self.columns)}; text is in single quotes, dates as in DATE '2017-12-24'"


def _sandbox() -> duckdb.DuckDBPyConnection:
    """A database in memory whose configuration can no longer be changed, for all of its connections."""
    connection = duckdb.connect(config=_SANDBOX)
    connection.execute(
        "SET enable_progress_bar = false; SET GLOBAL TimeZone = 'UTC'; SET GLOBAL error_on_division_by_zero = false"
    )
    connection.execute("SET lock_configuration = true")
    return connection


def _check_text(condition: str) -> None:
    if len(condition) > _MAX_LENGTH:
        raise InputError(
            "the condition is too long", got=f"{len(condition):,} characters", expected=f"at most {_MAX_LENGTH:,}"
        )
    if sum(condition.count(bracket) for bracket in "([{") > _MAX_BRACKETS:
        raise _refused("has too many brackets", expected=f"at most {_MAX_BRACKETS}")
    if any((ord(letter) < 32 and letter not in "\t\n\r") or 0xD800 <= ord(letter) < 0xE000 for letter in condition):
        raise _refused("has characters that are not text", expected="printable characters")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every node of a syntax tree that has a class; those that would hide in an unknown place too."""
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "class" in value:
                yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _refused(what: str, *, got: object = None, expected: object = None, fix: str | None = None) -> InputError:
    return InputError(f"the condition {what}", got=got, expected=expected, fix=fix)


def _named_functions() -> str:
    return ", ".join(sorted(name for name in _FUNCTIONS if name[0].isalpha() and not name.endswith("_escape")))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200]
