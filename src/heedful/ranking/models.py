"""All rankers by the name under which the command line and model folders know them."""

from __future__ import annotations

import os

from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import FolderError, HeedfulError
from heedful.ranking.heuristics import LastItem, Popularity, WeightedSum
from heedful.ranking.ranker import Ranker, open_model_folder
from heedful.ranking.rankers import AttentionRanker, AveragingRanker

__all__ = ["MODELS", "load_ranker"]

MODELS: dict[str, type[Ranker]] = {
    model.name: model for model in (AttentionRanker, AveragingRanker, WeightedSum, LastItem, Popularity)
}
"""From the paper's best to its simplest."""


def load_ranker(path: str | os.PathLike[str], *, embeddings: ItemEmbeddings | None = None) -> Ranker:
    """Load a model folder, whichever ranker it holds.

    Args:
        path: the folder that `Ranker.save` or `heedful train` made.
        embeddings: the table to use; by default the one that the folder refers to.

    Raises:
        FolderError: the folder is missing, unfinished or damaged, or its embeddings are not where they were.
        MismatchError: the embeddings are not those that the model was trained on.
    """
    folder, settings = open_model_folder(path)
    model = MODELS.get(str(settings.get("model")))
    if model is None:
        raise FolderError(f"{folder.path} holds an unknown model", got=settings.get("model"), expected=", ".join(MODELS))
    try:
        return model.load_folder(folder, settings, embeddings)
    except HeedfulError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise FolderError(
            f"config.json or manifest.json of {folder.path} is incomplete", got=repr(error), fix="train the model again"
        ) from error
