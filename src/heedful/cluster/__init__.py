"""The same stages on a Ray cluster (extra `cluster`): same functions inside, same folders, more machines.

    with heedful.cluster.connect("auto"):
        heedful.cluster.score_requests("model/", "requests.parquet", "scores.parquet")

Every path or URL must be on storage that all nodes reach (see docs/scaling.md).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "connect": "heedful.cluster.connection",
    "delivered": "heedful.cluster.storage",
    "embed": "heedful.cluster.embedding",
    "here": "heedful.cluster.storage",
    "measuring": "heedful.cluster.evaluating",
    "prepare": "heedful.cluster.preparing",
    "score_requests": "heedful.cluster.ranking",
    "recommend_requests": "heedful.cluster.ranking",
    "train": "heedful.cluster.training",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'heedful.cluster' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


if TYPE_CHECKING:
    from heedful.cluster.connection import connect as connect
    from heedful.cluster.embedding import embed as embed
    from heedful.cluster.evaluating import measuring as measuring
    from heedful.cluster.preparing import prepare as prepare
    from heedful.cluster.ranking import recommend_requests as recommend_requests
    from heedful.cluster.ranking import score_requests as score_requests
    from heedful.cluster.storage import delivered as delivered
    from heedful.cluster.storage import here as here
    from heedful.cluster.training import train as train
