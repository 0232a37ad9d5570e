"""Requests as they come over the wire, with their limits and examples for the OpenAPI document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

__all__ = [
    "Click",
    "Condition",
    "Event",
    "Events",
    "Explain",
    "ItemId",
    "Name",
    "NewItem",
    "NewItems",
    "NewModel",
    "Prefix",
    "Rank",
    "Recommend",
    "Seconds",
    "Shown",
    "Visit",
    "Visitor",
]

# No control characters: databases do not take NUL, and a line break in an address fits no route.
Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\u0000-\u001f\u007f]+$")]
"""The id of a user, item, event or slot."""
ItemId = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)] | Name
"""An item id as the catalogue has it; an integer may come as text."""
Prefix = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\u0000-\u001f\u007f]*$")]
"""The beginning of an id."""
Condition = Annotated[str, StringConstraints(max_length=2000)]
"""An SQL condition over item attributes."""
Seconds = Annotated[int, Field(strict=True, ge=0, le=2**40)]
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

    event_id: Name = Field(description="Names the event: sent again, it is counted once.")
    user_id: Name
    item_id: ItemId
    timestamp: Seconds | datetime | None = Field(
        None, description="Unix seconds, or ISO 8601 (UTC where it names no zone); by default the time of arrival."
    )
    event: Name | None = Field(None, description="Kind of event; by default the training log's most frequent.")

    def time(self, now: int) -> int:
        """The event's time, unix seconds."""
        if self.timestamp is None:
            return now
        if isinstance(self.timestamp, int):
            return self.timestamp
        zoned = self.timestamp if self.timestamp.tzinfo else self.timestamp.replace(tzinfo=UTC)
        return int(zoned.timestamp())


class Events(_Body):
    """Actions, in any order."""

    events: list[Event] = Field(min_length=1)


class Visitor(_Body):
    """Whose ranking it is: a user whose history is stored, or a history in the request; neither is a visitor of whom
    nothing is known.
    """

    user_id: Name | None = Field(None, description="The user's stored history is used.")
    history: list[ItemId] | None = Field(None, description="Past items, oldest first, instead of a stored history.")
    history_times: list[Seconds] | None = Field(None, description="Unix seconds of each past item.")
    history_kinds: list[Name | None] | None = Field(None, description="Event kind of each past item.")

    @model_validator(mode="after")
    def _one_past(self) -> Visitor:
        if self.user_id is not None and self.history is not None:
            raise ValueError("give user_id or history, not both")
        if self.history is None and (self.history_times is not None or self.history_kinds is not None):
            raise ValueError("history_times and history_kinds need a history")
        return self


class Rank(Visitor):
    """Candidates to put in order."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": "900", "candidates": ["840361", "1082185", "981760"], "k": 2}]}
    )

    candidates: list[ItemId] = Field(min_length=1)
    k: int | None = Field(None, ge=1, description="Answer the best k; by default all.")
    pool_gamma: float | None = Field(
        0.0,
        ge=-10,
        le=10,
        description="How the candidates were chosen: in proportion to popularity ** this. 0: hand-picked or the whole "
        "catalogue; null: the plain logit.",
    )
    where: Condition | None = Field(None, description="SQL condition over attributes that candidates have to meet.")


class Recommend(Visitor):
    """A page of the best of the catalogue."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"history": _ITEMS, "k": 10, "where": "department = 'PRODUCE'"}]}
    )

    k: int = Field(10, ge=1)
    offset: int = Field(0, ge=0, le=100_000)
    where: Condition | None = None
    exclude_history: bool = Field(True, description="Leave out what the user already touched.")


class Explain(Visitor):
    """Items whose scores are to be explained."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": "900", "items": ["840361"]}]})

    items: list[ItemId] = Field(min_length=1, max_length=100)
    pool_gamma: float | None = Field(0.0, ge=-10, le=10)


class Visit(Visitor):
    """A visit to a slot."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": _ITEMS, "visitor": "session-17"}]})

    visitor: Name | None = Field(
        None, description="Whoever stays the same between visits, for the treatment; by default the user, or nobody."
    )
    preview: bool = Field(False, description="Only look: nothing is recorded.")
    treatment: Name | None = Field(None, description="Look at this treatment; implies `preview`.")


class Shown(_Body):
    """The items of an impression came into view."""

    impression_id: Name


class Click(_Body):
    """An item of an impression was clicked."""

    impression_id: Name
    item_id: ItemId
    click_id: Name | None = Field(None, description="Names the click: sent again, it is counted once.")


class NewModel(_Body):
    """A model to serve instead."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"path": "model-2018-01-02"}]})

    path: Name = Field(description="Model folder, from the folder that holds the first one.")
    embeddings: Name | None = Field(None, description="Embeddings to use, such as an extension, from the same folder.")


class NewItem(_Body):
    """An item that the model does not know yet."""

    item_id: ItemId
    attributes: dict[Name, str | bool | int | float | None] = Field({}, description="Columns as the catalogue has them.")


class NewItems(_Body):
    """Items to be ranked from now on."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [{"item_id": "20000001", "attributes": {"title": "Oat milk", "department": "GROCERY"}}]}]
        }
    )

    items: list[NewItem] = Field(max_length=10_000, description="None: those added before are fitted again.")
