"""The items of a table or model on disk: Parquet for other tools, and what is opened without reading it: mapped into memory.

    items.parquet     item_id and attributes
    items.arrow       the same as one uncompressed Arrow batch
    item_keys.npy     keys of the ids, ascending (see `heedful.events.lookup`)
    item_rows.npy     the row of each key

A folder of an older version has only the first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heedful.errors import FolderError
from heedful.events.lookup import IdIndex
from heedful.events.vocabulary import Vocabulary
from heedful.folders import Folder

__all__ = ["load_items", "save_items"]


def save_items(folder: Path, items: Vocabulary, attributes: pa.Table) -> None:
    """Write the files of items, their attributes in row order (maybe without columns)."""
    table = pa.table({"item_id": items.ids})
    for name in attributes.column_names:
        table = table.append_column(name, attributes[name])
    pq.write_table(table, folder / "items.parquet")
    table = table.combine_chunks()
    with pa.ipc.new_file(folder / "items.arrow", table.schema) as writer:
        writer.write_table(table)
    np.save(folder / "item_keys.npy", items.index.keys)
    np.save(folder / "item_rows.npy", items.index.rows)


def load_items(folder: Folder) -> tuple[Vocabulary, pa.Table]:
    """The ids and attributes of the items of a folder.

    Raises:
        FolderError: the files are damaged or do not belong together.

    """
    if not folder.has("items.arrow"):
        table = pq.read_table(folder.file("items.parquet"))
        return Vocabulary.known(table["item_id"]), table.drop_columns(["item_id"])
    try:
        table = pa.ipc.open_file(pa.memory_map(str(folder.file("items.arrow")))).read_all()
        # Wrong offsets of texts would have the program read outside the file.
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise FolderError(f"{folder.path}/items.arrow is damaged", got=error, fix="make the folder again") from error
    keys, rows = (np.load(folder.file(f"item_{name}.npy"), mmap_mode="r", allow_pickle=False) for name in ("keys", "rows"))
    if keys.shape != (len(table),) or rows.shape != keys.shape or keys.dtype != np.uint64 or rows.dtype.kind != "i":
        raise FolderError(
            f"the index of the items of {folder.path} does not belong to them",
            got=f"{len(keys)} keys and {len(rows)} rows for {len(table)} items",
            fix="make the folder again",
        )
    return Vocabulary.known(table["item_id"], IdIndex(keys, rows)), table.drop_columns(["item_id"])
