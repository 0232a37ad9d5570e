"""Model folders: what all rankers write, and how they find the embedding table that they were trained on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import FolderError, MismatchError
from heedful.folders import Folder, open_folder

__all__ = ["KIND", "MODEL_FORMAT", "open_model_folder", "reference_to", "referenced_table"]

KIND = "model"
MODEL_FORMAT = 2
"""Version of the model folder's own files; 1 had another module and other option names."""


def open_model_folder(path: str | os.PathLike[str]) -> tuple[Folder, dict[str, Any]]:
    """Open a model folder and read its `config.json`.

    Raises:
        FolderError: the folder is missing, unfinished, damaged or of an older version.
    """
    folder = open_folder(path, kind=KIND)
    try:
        settings = json.loads(folder.file("config.json").read_text())
    except ValueError as error:
        raise FolderError(f"{folder.path}/config.json cannot be read", got=error, fix="train the model again") from error
    version = settings.get("model_format", 1)
    if version != MODEL_FORMAT:
        raise FolderError(
            f"{folder.path} was written by another version of heedful",
            got=f"model format {version}",
            expected=f"model format {MODEL_FORMAT}",
            fix="train the model again",
        )
    return folder, settings


def reference_to(embeddings: ItemEmbeddings, partial: Path, target: Path, *, pack: bool) -> dict[str, str]:
    """Where a model folder finds its embeddings: a copy inside it, or the table's own folder by relative path.

    Args:
        embeddings: the table.
        partial: the model folder while it is being written.
        target: where it will be, absolute.
        pack: copy the table into it. A table that was never saved is always copied.
    """
    if pack or embeddings.folder is None:
        embeddings.save(partial / "embeddings")
        where = "embeddings"
    else:
        where = os.path.relpath(embeddings.folder.path.absolute(), target)
    return {"path": where, "content_hash": embeddings.content_hash}


def referenced_table(folder: Folder, given: ItemEmbeddings | None) -> ItemEmbeddings:
    """The embedding table that the model was trained on, and no other.

    Raises:
        FolderError: the table is not where the model folder says.
        MismatchError: it is another table.
    """
    reference = folder.manifest["embeddings"]
    place = folder.path / reference["path"]
    if given is None and not place.is_dir():
        raise FolderError(
            f"the embeddings of {folder.path} are not at {place}",
            fix="name their folder with --embeddings, or make a folder to ship with `heedful train --pack`",
        )
    table = given if given is not None else ItemEmbeddings.load(place)
    if table.content_hash != reference["content_hash"]:
        raise MismatchError(
            f"{folder.path} was trained on another embedding table",
            got=f"a table with hash {table.content_hash[:12]}",
            expected=f"hash {reference['content_hash'][:12]}",
            fix="give the table that it was trained on, or train again on this one",
        )
    return table
