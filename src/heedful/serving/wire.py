"""Requests as they come over the wire, with their limits and examples for the OpenAPI document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

__all__ = [
    "Action",
    "Appended",
    "Click",
    "ClickReport",
    "Condition",
    "Counted",
    "Declared",
    "Deleted",
    "Event",
    "Events",
    "Explain",
    "Explained",
    "Explanations",
    "Failure",
    "Filled",
    "Health",
    "HistoryList",
    "Item",
    "ItemId",
    "ItemList",
    "ItemsAdded",
    "Model",
    "Name",
    "NewItem",
    "NewItems",
    "NewModel",
    "Outcome",
    "Prefix",
    "Problem",
    "Rank",
    "Ranked",
    "RankedItem",
    "Reason",
    "Recommend",
    "Rejected",
    "Seconds",
    "Shown",
    "ShownItem",
    "Similar",
    "SlotList",
    "SlotsSaved",
    "User",
    "UserList",
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

    items: list[NewItem] = Field(min_length=1, max_length=10_000)


# Answers, for the OpenAPI document. Handlers write them without this detour, the tests hold them against it.


class _Answer(BaseModel):
    pass


Given = int | str


class RankedItem(_Answer):
    """An item with its score."""

    item_id: Given
    score: float
    title: str


class Ranked(_Answer):
    """Items, best first."""

    items: list[RankedItem]
    unknown: list[Given] = Field(description="Ids that the model does not know.")
    history_length: int = Field(description="Past actions that were looked at.")
    model: str


class Similar(_Answer):
    """Items by cosine, the closest first."""

    items: list[RankedItem]
    model: str


class Reason(_Answer):
    """What one past item did for a score."""

    item_id: Given
    title: str
    fall: float = Field(description="How much the score falls when the item is left out of the history.")
    attention: list[float] | None = Field(description="Its weight in each layer.")


class Explained(_Answer):
    """Why an item has its score."""

    item_id: Given
    title: str
    score: float
    text: str
    parts: dict[str, float] = Field(description="Terms that add up to the score.")
    because: list[Reason]
    null_attention: list[float] | None = Field(description="Each layer's weight on no past item at all.")


class Explanations(_Answer):
    """Why items have their scores."""

    explanations: list[Explained]
    model: str


class Declared(_Answer):
    """A slot as declared."""

    name: str
    title: str
    shown: int
    where: str
    rule: str
    treatments: dict[str, float]


class SlotList(_Answer):
    """Slots."""

    slots: list[Declared]


class SlotsSaved(SlotList):
    """Slots after a change."""

    notes: list[str] = Field(description="What was set aside.")


class ShownItem(RankedItem):
    """An item of a slot."""

    position: int
    attributes: dict[str, Any]


class Filled(_Answer):
    """A slot, filled for a visitor."""

    slot: str
    title: str
    treatment: str
    impression_id: str
    items: list[ShownItem]
    unknown: list[Given]
    history_length: int
    model: str


class Rejected(_Answer):
    """An event that was refused."""

    index: int
    reason: str


class Appended(_Answer):
    """What became of events."""

    accepted: int
    duplicates: int
    unknown_items: int
    rejected: list[Rejected]


class Counted(_Answer):
    """Whether the impression counts; not when it is unknown or was counted before."""

    counted: bool


class Outcome(_Answer):
    """What became of a click."""

    outcome: str


class ClickReport(_Answer):
    """Click-through by slot and treatment."""

    model_config = ConfigDict(extra="allow")

    slots: list[dict[str, Any]]


class User(_Answer):
    """A user."""

    user_id: str
    actions: int


class UserList(_Answer):
    """Users."""

    users: list[User]


class Action(_Answer):
    """A past action."""

    item_id: Given
    title: str
    timestamp: int
    event: str


class HistoryList(_Answer):
    """A user's latest actions, the newest first."""

    user_id: str
    history: list[Action]


class Deleted(_Answer):
    """Rows removed, by what they were."""

    deleted: dict[str, int]


class Item(_Answer):
    """An item."""

    item_id: Given
    title: str
    attributes: dict[str, Any]


class ItemList(_Answer):
    """Items."""

    items: list[Item]


class ItemsAdded(_Answer):
    """New items that are ranked from now on."""

    added: int
    embeddings: str = Field(description="Folder of the extended table, for --embeddings at the next start.")
    model: str


class Health(_Answer):
    """How the server is."""

    status: str


class Model(_Answer):
    """What is served."""

    name: str
    version: str
    items: int
    kinds: list[str]
    columns: list[str]
    explains: bool
    trained: str
    last_time: int
    training: dict[str, Any]
    store: dict[str, Any]
    problems: dict[str, str]


class Problem(_Answer):
    """What is wrong."""

    code: str
    message: str
    fix: str | None


class Failure(_Answer):
    """An error."""

    error: Problem
