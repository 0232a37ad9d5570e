"""All rankers by the name under which the command line and model folders know them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import FolderError, HeedfulError
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.averaging import AveragingRanker
from heedful.rankers.base import Ranker
from heedful.rankers.cold_items import extended
from heedful.rankers.external.ease import EASE
from heedful.rankers.external.factors import ALS, BPR
from heedful.rankers.external.neighbours import BM25Neighbours, CosineNeighbours
from heedful.rankers.external.next_basket import OwnFrequent, TifuKnn, UpCf
from heedful.rankers.external.sasrec import HSTU, ESASRec, GSASRec, SASRec
from heedful.rankers.external.two_stage import TwoStage
from heedful.rankers.heuristics import LastItem, WeightedSum
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.neural import NeuralRanker
from heedful.rankers.popularity import Popularity
from heedful.rankers.recent_popularity import RecentPopularity
from heedful.rankers.saving import open_model_folder

__all__ = ["ALL_MODELS", "MODELS", "load_ranker", "new_ranker"]

MODELS: dict[str, type[Ranker]] = {
    model.name: model
    for model in (
        MixedRanker,
        AttentionRanker,
        AveragingRanker,
        WeightedSum,
        LastItem,
        RecentPopularity,
        Popularity,
    )
}
"""From the best to the simplest."""

ALL_MODELS: dict[str, type[Ranker]] = MODELS | {
    model.name: model
    for model in (
        TwoStage,
        EASE,
        ALS,
        BPR,
        CosineNeighbours,
        BM25Neighbours,
        SASRec,
        GSASRec,
        ESASRec,
        HSTU,
        TifuKnn,
        UpCf,
        OwnFrequent,
    )
}
"""Those, and recommenders of public libraries to compare with."""


def new_ranker(name: str, *, preset: str = "default", options: Mapping[str, Any]) -> Ranker:
    """A ranker that is not yet fitted.

    Args:
        name: one of `ALL_MODELS`.
        preset: of a trained ranker; others have none.
        options: fields of its configuration.

    Raises:
        ConfigError: an option that this model does not have, or a value out of range.
    """
    model = ALL_MODELS[name]
    return model(preset=preset, **options) if issubclass(model, NeuralRanker) else model(**options)


def load_ranker(path: str | os.PathLike[str], *, embeddings: ItemEmbeddings | None = None) -> Ranker:
    """Load a model folder, whichever ranker it holds.

    Args:
        path: the folder that `Ranker.save` or `heedful train` made.
        embeddings: the table to use, that of training or an extension of it, whose new items the ranker then knows; by
            default the one that the folder refers to.

    Raises:
        FolderError: the folder is missing, unfinished or damaged, or its embeddings are not where they were.
        MismatchError: the embeddings are not those that the model was trained on.
    """
    folder, settings = open_model_folder(path)
    model = ALL_MODELS.get(str(settings.get("model")))
    if model is None:
        raise FolderError(f"{folder.path} holds an unknown model", got=settings.get("model"), expected=", ".join(ALL_MODELS))
    try:
        known = len(np.load(folder.file("users_of_item.npy"), mmap_mode="r"))
        base = embeddings
        if embeddings is not None and model.needs_embeddings and len(embeddings) > known:
            base = embeddings.head(known)
        ranker = model.load_folder(folder, settings, base)
        return ranker if base is embeddings else extended(ranker, cast(ItemEmbeddings, embeddings))
    except HeedfulError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise FolderError(
            f"config.json or manifest.json of {folder.path} is incomplete", got=repr(error), fix="train the model again"
        ) from error
