"""Requests as they come over the wire, with their limits and examples for the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema

from heedful.errors import InputError
from heedful.events.ids import SAFE_INTEGER, text_of
from heedful.events.times import LIMITS, second_of

__all__ = [
    "Click",
    "Condition",
    "Event",
    "Events",
    "Explain",
    "Id",
    "ItemId",
    "ItemPatch",
    "ItemText",
    "Name",
    "NewItem",
    "NewItems",
    "NewModel",
    "Prefix",
    "Rank",
    "Recommend",
    "Seconds",
    "Shown",
    "Time",
    "UserText",
    "Visit",
    "Visitor",
]


def _of_few_digits(number: int) -> int:
    if number.bit_length() > 1024:
        raise ValueError("an id has at most 256 characters")
    return number


def _whole(number: float) -> int:
    """The integer of which a float is another way to write it: 475.0 is an integer in JSON, too."""
    digits = text_of(number)
    if digits is None:
        raise ValueError("an id is text or an integer")
    return int(digits)


def _digits(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(_of_few_digits(value))
    return text_of(value) or value if isinstance(value, float) else value


def _whole_number(value: Any) -> Any:
    """A float without fraction as the integer that it is in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= SAFE_INTEGER else value


def _second(value: Any) -> int | None:
    try:
        return second_of(value)
    except InputError as error:
        raise ValueError(error.problem) from error


def _iso(text: str) -> str:
    """A text that can be read as a time, if perhaps an absurd one."""
    try:
        second_of(text)
    except InputError:
        datetime.fromisoformat(text)
    return text


_NO_NUL = r"^[^\u0000]+$"
Flag = Annotated[bool, Field(strict=True)]
"""True or false."""
Gamma = Annotated[float, Field(strict=True, ge=-10, le=10)]
"""A popularity prior."""
Count = Annotated[int, Field(strict=True, ge=1), BeforeValidator(_whole_number)]
"""An integer from 1 on."""
Offset = Annotated[int, Field(strict=True, ge=0, le=100_000), BeforeValidator(_whole_number)]
# No control characters: databases do not take NUL, and a line break in an address fits no route.
Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\u0000-\u001f\u007f]+$")]
"""The name of a slot, kind, impression or column."""
_Integer = Annotated[int, Field(strict=True), AfterValidator(_of_few_digits)]
_WholeFloat = Annotated[float, Field(strict=True), AfterValidator(_whole)]
ItemText = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=_NO_NUL)]
"""An item id as text. The catalogue may have longer ones than the store."""
ItemId = Annotated[
    _Integer | ItemText | _WholeFloat,
    WithJsonSchema(
        {"anyOf": [{"type": "integer"}, {"type": "string", "minLength": 1, "maxLength": 4096, "pattern": _NO_NUL}]}
    ),
]
"""An item id as the catalogue has it; an integer may come as text."""
UserText = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_NO_NUL)]
"""A user id as text."""
Id = Annotated[UserText, BeforeValidator(_digits, json_schema_input_type=_Integer | UserText)]
"""The id of a user, event or click; an integer is the text of its digits."""
Prefix = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\u0000]*$")]
"""The beginning of an id."""
Condition = Annotated[str, StringConstraints(max_length=2000), Field(json_schema_extra={"format": "sql-condition"})]
"""An SQL condition over item attributes."""
Seconds = Annotated[int, Field(strict=True, ge=0, le=2**40)]
_BLANK = {"type": "string", "pattern": r"^\s*$", "description": "Missing."}
_DATE_TIME = {"type": "string", "format": "date-time"}
_SINCE_1970 = {"pattern": r"^(19[7-9][0-9]|20[0-9][0-9])-"}
_UNIX = {"description": "Unix time in s, ms, us or ns, told from its size."}
_AnyTime = Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)] | str
Time = Annotated[
    _AnyTime,
    AfterValidator(_second),
    WithJsonSchema(
        {
            "anyOf": [
                *({"type": "number", "minimum": first, "maximum": last, **_UNIX} for first, last in LIMITS.values()),
                {**_DATE_TIME, **_SINCE_1970},
                _BLANK,
            ]
        }
    ),
]
"""A time in 1970 to 2100, as unix seconds; a blank one is None."""
LooseTime = Annotated[
    Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)] | Annotated[str, AfterValidator(_iso)],
    WithJsonSchema({"anyOf": [{"type": "number", **_UNIX}, _DATE_TIME, {"type": "string", "format": "date"}, _BLANK]}),
]
"""A time that may be absurd."""
_ITEMS: list[JsonValue] = ["1029743", "995242"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Event(_Body):
    """One action of a user."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "event_id": "order-17-1",
                    "user_id": "900",
                    "item_id": "1029743",
                    "timestamp": 1514764800,
                    "event": "purchase",
                }
            ]
        },
    )

    event_id: Id = Field(description="Names the event: sent again, it is counted once.")
    user_id: Id
    item_id: ItemId
    timestamp: LooseTime | None = Field(
        None,
        description="Unix time (s, ms, us or ns, told from its size), or ISO 8601 (UTC where it names no zone); by default "
        "the time of arrival.",
    )
    event: Name | None = Field(None, description="Kind of event; by default the training log's most frequent.")

    def time(self, now: int) -> int:
        """The event's time, unix seconds; -1 for one that is absurd."""
        try:
            second = second_of(self.timestamp)
        except InputError:
            return -1
        return now if second is None else second


class Events(_Body):
    """Actions, in any order."""

    events: list[Event] = Field(min_length=1)


# A history or a user whose history is stored, for the OpenAPI document.
_ONE_PAST: list[JsonValue] = [
    {"required": ["history"], "properties": {"history": {"type": "array"}, "user_id": {"type": "null"}}},
    {"properties": {name: {"type": "null"} for name in ("history", "history_times", "history_kinds")}},
]


class Visitor(_Body):
    """Whose ranking it is: a user whose history is stored, or a history in the request; neither is a visitor of whom
    nothing is known.
    """

    user_id: Id | None = Field(None, description="The user's stored history is used.")
    history: list[ItemId] | None = Field(None, description="Past items, oldest first, instead of a stored history.")
    history_times: list[Time | None] | None = Field(
        None, description="Time of each past item; one that is missing is the end of the training log."
    )
    history_kinds: list[Name | None] | None = Field(None, description="Event kind of each past item.")

    @model_validator(mode="after")
    def _one_past(self) -> Visitor:
        if self.user_id is not None and self.history is not None:
            raise ValueError("give user_id or history, not both")
        if self.history is None and (self.history_times is not None or self.history_kinds is not None):
            raise ValueError("history_times and history_kinds need a history")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The document says what `_one_past` checks."""
        named = handler(core_schema)
        handler.resolve_ref_schema(named)["anyOf"] = _ONE_PAST
        return named


class Rank(Visitor):
    """Candidates to put in order."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": "900", "candidates": ["840361", "1082185", "981760"], "k": 2}]}
    )

    candidates: list[ItemId] = Field(min_length=1)
    k: Count | None = Field(None, description="Answer the best k; by default all.")
    pool_gamma: Gamma | None = Field(
        0.0,
        description="How the candidates were chosen: in proportion to popularity ** this. 0: hand-picked or the whole "
        "catalogue; null: the plain logit.",
    )
    where: Condition | None = Field(None, description="SQL condition over attributes that candidates have to meet.")


class Recommend(Visitor):
    """A page of the best of the catalogue."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"history": _ITEMS, "k": 10, "where": "department = 'PRODUCE'"}]}
    )

    k: Count = 10
    offset: Offset = 0
    where: Condition | None = None
    at_most: dict[Name, Count] = Field({}, max_length=10, description="Most items of one value, by attribute.")
    exclude_history: Flag | None = Field(
        None, description="Leave out the items that the user has seen; by default as the model was trained (`--target`)."
    )


class Explain(Visitor):
    """Items whose scores are to be explained."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": "900", "items": ["840361"]}]})

    items: list[ItemId] = Field(min_length=1, max_length=100)
    pool_gamma: Gamma | None = 0.0


class Visit(Visitor):
    """A visit to a slot."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": _ITEMS, "visitor": "session-17"}]})

    visitor: Id | None = Field(
        None, description="Whoever stays the same between visits, for the treatment; by default the user, or nobody."
    )
    preview: Flag = Field(False, description="Only look: nothing is recorded.")
    treatment: Name | None = Field(None, description="Look at this treatment; implies `preview`.")


class Shown(_Body):
    """The items of an impression came into view."""

    impression_id: Name


class Click(_Body):
    """An item of an impression was clicked."""

    impression_id: Name
    item_id: Id
    click_id: Id | None = Field(None, description="Names the click: sent again, it is counted once.")


class NewModel(_Body):
    """A model to serve instead."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"path": "model-2018-01-02"}]})

    path: Name = Field(description="Model folder, from the folder that holds the first one.")
    embeddings: Name | None = Field(None, description="Embeddings to use, such as an extension, from the same folder.")


class NewItem(_Body):
    """An item that the model does not know yet, or what has changed of one that it knows."""

    item_id: ItemId
    attributes: dict[Name, JsonValue] = Field(
        {}, description="Columns as the catalogue has them, values as GET /items answers them; those not named stay."
    )


class ItemPatch(_Body):
    """What has changed of an item: a merge patch (RFC 7396) of what GET /items/ID answers."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"attributes": {"price": 1.99, "brand": None}}]}
    )

    item_id: ItemId | None = Field(None, description="The same as in the address.")
    title: str | None = Field(None, description="Made from the attributes, and not read.")
    attributes: dict[Name, JsonValue] = Field(
        {},
        description="Values as GET answers them; null removes one, those not named stay.",
        json_schema_extra={"additionalProperties": False},  # beside the pattern of the names
    )


class NewItems(_Body):
    """Items to be ranked from now on."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [{"item_id": "20000001", "attributes": {"title": "Oat milk", "department": "GROCERY"}}]}]
        }
    )

    items: list[NewItem] = Field(max_length=10_000, description="None: those added before are fitted again.")
