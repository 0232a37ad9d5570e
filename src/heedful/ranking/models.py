"""All rankers by the name under which the command line and model folders know them."""

from __future__ import annotations

import os
from typing import cast

import numpy as np

from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import FolderError, HeedfulError
from heedful.ranking.extending import extended
from heedful.ranking.heuristics import LastItem, Popularity, WeightedSum
from heedful.ranking.public.ease import EASE
from heedful.ranking.public.factors import ALS, BPR
from heedful.ranking.public.neighbours import BM25Neighbours, CosineNeighbours
from heedful.ranking.public.sasrec import GSASRec, SASRec
from heedful.ranking.ranker import Ranker, open_model_folder
from heedful.ranking.rankers import AttentionRanker, AveragingRanker

__all__ = ["ALL_MODELS", "MODELS", "load_ranker"]

MODELS: dict[str, type[Ranker]] = {
    model.name: model for model in (AttentionRanker, AveragingRanker, WeightedSum, LastItem, Popularity)
}
"""From the paper's best to its simplest."""

ALL_MODELS: dict[str, type[Ranker]] = MODELS | {
    model.name: model for model in (EASE, ALS, BPR, CosineNeighbours, BM25Neighbours, SASRec, GSASRec)
}
"""Those, and recommenders of public libraries to compare with."""


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
