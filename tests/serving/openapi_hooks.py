"""What a JSON schema cannot say of a request, for requests that schemathesis makes up.

Conditions and slots are languages of their own, two lists have to be equally long, ids are not to be repeated.
Requests that are to be good get such values here; those that are to be refused stay as they are.
"""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import strategies as st

CONDITIONS = ["users >= 0", "item_id <> 'a'", "title LIKE 'a%' OR users IS NULL", "price BETWEEN 1 AND 2 * 3"]
SLOTS = [
    '[[slot]]\nname = "a"\n',
    '[[slot]]\nname = "b"\nwhere = "users > 1"\ntreatments = { model = 0.5, popularity = 0.5 }\nshown = 3\n',
]

schemathesis.openapi.format("sql-condition", st.sampled_from(CONDITIONS))


@schemathesis.serializer("application/toml")
def toml(context: schemathesis.SerializationContext, value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: Any) -> None:
    if case.headers and "if-match" in case.headers:
        case.headers["if-match"] = "*"
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.query and "where" in case.query:
        case.query["where"] = _condition(case.query["where"])
    if isinstance(case.body, dict):
        case.body = _consistent(case.path, dict(case.body))
    elif case.path.startswith("/slots") and case.method in ("PUT", "POST") and case.body not in SLOTS:
        case.body, case.media_type = SLOTS[0], "application/toml"


def _condition(text: str | None) -> str | None:
    return text if text is None or text in CONDITIONS else CONDITIONS[0]


def _consistent(path: str, body: dict[str, Any]) -> dict[str, Any]:
    if "where" in body:
        body["where"] = _condition(body["where"])
    if "at_most" in body:
        body["at_most"] = dict(zip(["department", "category"], body["at_most"].values(), strict=False))
    if body.get("k"):
        body["k"] = min(body["k"], 1000)
    for name in ("history_times", "history_kinds"):
        if body.get(name) is not None:
            body[name] = (body[name] * len(body["history"]))[: len(body["history"])] or None
    if path.startswith("/items/"):
        body = {"attributes": {"title": "Item"}}
    if path == "/items":
        body["items"] = [
            {"item_id": f"added-{n}", "attributes": {"title": f"Item {n}"}} for n, _ in enumerate(body["items"] or [0])
        ]
    if "slot" in body:
        body["slot"] = [_slot(f"s{n}", slot) for n, slot in enumerate(body["slot"])]
    return body


def _slot(name: str, slot: dict[str, Any]) -> dict[str, Any]:
    """A slot whose keys fit each other and the catalogue."""
    kept = ("title", "pinned", "blocked", "editorial", "exclude_history", "pool_gamma", "salt", "shown")
    most = max(slot.get("max_candidates", 500), slot.get("shown", 10))
    return {"name": name, "max_candidates": most, **{key: slot[key] for key in kept if key in slot}}
