"""Items of a folder: the same from the mapped files as from Parquet, and refused where they are damaged."""

import numpy as np
import pyarrow as pa
import pytest

from heedful.errors import FolderError
from heedful.events.mapped import load_items, save_items
from heedful.events.vocabulary import Vocabulary
from heedful.folders import Folder, new_folder, open_folder

NAMES = {
    "text": pa.array(["b", "a", "ü", "0017"]),
    "integers": pa.array([7, -3, 2**62, 0]),
    "unsigned": pa.array([2**64 - 1, 5, 6, 7], pa.uint64()),
}
ATTRIBUTES = pa.table(
    {"title": ["one", None, "three", ""], "price": [1.5, None, 0.0, 2.0], "tags": [["x"], [], None, ["y", "z"]]}
)


def saved(path, ids, attributes=ATTRIBUTES) -> Folder:
    with new_folder(path, kind="embeddings") as folder:
        save_items(folder.path, Vocabulary(ids), attributes)
    return open_folder(path, kind="embeddings")


def as_an_older_version_wrote_it(folder: Folder) -> Folder:
    """Without what is mapped."""
    for name in set(folder.manifest["files"]) - {"items.parquet"}:
        (folder.path / name).unlink()
    files = {"items.parquet": folder.manifest["files"]["items.parquet"]}
    return Folder(folder.path, folder.manifest | {"files": files})


@pytest.mark.parametrize("older", [False, True], ids=["mapped", "older"])
@pytest.mark.parametrize("attributes", [ATTRIBUTES, pa.table({})], ids=["attributes", "none"])
@pytest.mark.parametrize("ids", NAMES.values(), ids=NAMES)
def test_items_are_what_was_saved(tmp_path, ids, attributes, older):
    folder = saved(tmp_path / "t", ids, attributes)
    items, known = load_items(as_an_older_version_wrote_it(folder) if older else folder)
    assert items.ids.equals(ids)
    assert known.num_columns == attributes.num_columns
    assert all(known[name].equals(attributes[name]) for name in attributes.column_names)
    assert items.rows(ids).tolist() == items.rows(ids.to_pylist()).tolist() == [0, 1, 2, 3]
    assert items.rows(pa.array([None, ids[2].as_py()], ids.type)).tolist() == [-1, 2]


def test_no_items(tmp_path):
    items, _ = load_items(saved(tmp_path / "t", pa.array([], pa.string()), pa.table({})))
    assert len(items) == 0
    assert items.rows(["a"]).tolist() == [-1]


def test_saving_what_is_mapped_gives_the_same_files(tmp_path):
    first = saved(tmp_path / "t", NAMES["text"])
    again = saved(tmp_path / "u", load_items(first)[0].ids)
    assert again.content_hash == first.content_hash


def test_texts_that_reach_outside_the_file_are_refused(tmp_path):
    folder = saved(tmp_path / "t", NAMES["text"], pa.table({}))
    path = folder.path / "items.arrow"
    content = path.read_bytes()
    offsets = np.array([0, 1, 2, 4, 8], np.int32).tobytes()
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, np.array([0, 1, 2, 4, 8_000_000], np.int32).tobytes()))
    with pytest.raises(FolderError, match="changed since it was written"):  # small files are hashed
        open_folder(folder.path, kind="embeddings")
    with pytest.raises(FolderError, match=r"items\.arrow is damaged"):
        load_items(folder)


@pytest.mark.parametrize("name", ["keys", "rows"])
@pytest.mark.parametrize("wrong", [np.zeros(3, np.uint64), np.zeros(4, np.float64), np.zeros((4, 1), np.int32)])
def test_the_index_of_other_items_is_refused(tmp_path, name, wrong):
    folder = saved(tmp_path / "t", NAMES["text"])
    np.save(folder.path / f"item_{name}.npy", wrong)
    with pytest.raises(FolderError, match="does not belong to them"):
        load_items(folder)
