"""Answers as the OpenAPI document describes them. Handlers write JSON without this detour; the tests compare the two."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Action",
    "Appended",
    "ClickReport",
    "Counted",
    "Declared",
    "Deleted",
    "Explained",
    "Explanations",
    "Failure",
    "Filled",
    "Health",
    "HistoryList",
    "Item",
    "ItemList",
    "ItemsAdded",
    "Model",
    "Outcome",
    "Problem",
    "Ranked",
    "RankedItem",
    "Reason",
    "Rejected",
    "Removed",
    "ShownItem",
    "Similar",
    "SlotList",
    "SlotVersions",
    "SlotsPreviewed",
    "SlotsSaved",
    "User",
    "UserList",
]


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
    by_term: dict[str, float] = Field(description="How much of each term is due to it, of those that divide.")
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
    where: str
    rule: str
    column: str
    max_candidates: int
    shown: int
    at_most: dict[str, int]
    pinned: list[Given]
    blocked: list[Given]
    editorial: list[Given]
    exclude_history: bool
    pool_gamma: float
    treatments: dict[str, float]
    salt: str


class SlotList(_Answer):
    """Slots."""

    slots: list[Declared]


class SlotsSaved(SlotList):
    """Slots after a change."""

    notes: list[str] = Field(description="What was set aside.")


class SlotVersion(_Answer):
    """The declarations as they were saved."""

    version: int
    time: int = Field(description="Unix seconds.")
    author: str = Field(description="Name of the API key; empty: without keys, or found in the file.")
    text: str


class SlotVersions(_Answer):
    """Versions of the declarations."""

    versions: list[SlotVersion]


class SlotsPreviewed(SlotsSaved):
    """What declarations would show."""

    shown: list[dict[str, Any]] = Field(description="Items of each slot and treatment, of the first 20 slots.")


class ShownItem(RankedItem):
    """An item of a slot."""

    position: int
    attributes: dict[str, Any]
    reason: str | None = Field(description="Why it is there; null where the model put it there, see POST /explain.")


class Filled(_Answer):
    """A slot, filled for a visitor."""

    slot: str
    title: str
    treatment: str
    impression_id: str | None = Field(description="What a click names; null where nothing was recorded.")
    note: str | None = Field(description="Why an impression that should have been recorded was not.")
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
    """Whether the impression counts; false when it is unknown."""

    counted: bool


class Outcome(_Answer):
    """What became of a click."""

    outcome: str


class Removed(_Answer):
    """Whether there was something to take back."""

    removed: bool


class ClickReport(_Answer):
    """Click-through by slot and treatment."""

    model_config = ConfigDict(extra="allow")

    slots: list[dict[str, Any]] = Field(description="The latest experiment of each slot.")
    earlier: list[dict[str, Any]] = Field(description="Experiments before these: another salt, or other shares.")


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
    """New items that are ranked from now on, and known ones that were corrected."""

    added: int
    corrected: int = Field(description="Items that were known: what was said of them is answered from now on.")
    new_items: int = Field(description="Items that came after training, these and those added before.")
    fitted: int = Field(
        description="Those of them fitted to what their first visitors had besides; others go by attributes."
    )
    embeddings: str | None = Field(
        description="Folder of the table in service, for --embeddings at the next start; null where it lies in the model."
    )
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
