import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gensim.models import KeyedVectors, Word2Vec

from heedful.embeddings.importing import read_embeddings
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import FolderError, InputError

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)
IDS = ["a", "käse", "c\u2028d", "e"]


def assert_read(table, ids=IDS):
    assert table.items.ids.to_pylist() == list(ids)
    np.testing.assert_array_equal(table.vectors, VECTORS)


def test_folder(tmp_path):
    ItemEmbeddings.from_arrays(IDS, VECTORS).save(tmp_path / "t")
    assert_read(read_embeddings(str(tmp_path / "t")))
    with pytest.raises(InputError, match="the source has its own"):
        read_embeddings(tmp_path / "t", ids=IDS)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.int32])
def test_npy_with_ids_in_a_sequence(tmp_path, kind):
    np.save(tmp_path / "v.npy", VECTORS.astype(kind))
    assert_read(read_embeddings(tmp_path / "v.npy", ids=IDS))


def test_npy_with_ids_in_a_file(tmp_path):
    np.save(tmp_path / "v.npy", VECTORS)
    (tmp_path / "i.txt").write_bytes("a\r\nkäse\nc\u2028d\ne".encode())
    np.save(tmp_path / "i.npy", np.array(IDS))
    np.save(tmp_path / "numbers.npy", np.arange(4, dtype=np.int32))
    pq.write_table(pa.table({"item_id": IDS, "title": IDS}), tmp_path / "i.parquet")
    for name in ("i.txt", "i.npy", "i.parquet"):
        assert_read(read_embeddings(tmp_path / "v.npy", ids=tmp_path / name))
    assert_read(read_embeddings(tmp_path / "v.npy", ids=tmp_path / "numbers.npy"), range(4))


@pytest.mark.parametrize(
    "column",
    [
        pa.array(VECTORS.tolist(), pa.list_(pa.float32())),
        pa.array(VECTORS.tolist(), pa.large_list(pa.float64())),
        pa.array(VECTORS.tolist(), pa.list_(pa.float32(), 3)),
        pa.array(VECTORS.astype(int).tolist(), pa.list_(pa.int64())),
    ],
)
def test_parquet_with_a_column_of_lists(tmp_path, column):
    table = pa.table({"title": IDS, "price": [1, 2, 3, 4], "vector": column, "item_id": IDS})
    pq.write_table(table, tmp_path / "v.parquet", row_group_size=3)
    assert_read(read_embeddings(tmp_path / "v.parquet"))


def test_parquet_with_many_columns(tmp_path):
    columns = {f"d{d}": VECTORS[:, d] for d in range(3)}
    pq.write_table(pa.table({"item_id": IDS, "title": IDS, **columns}), tmp_path / "v.parquet", row_group_size=2)
    assert_read(read_embeddings(tmp_path / "v.parquet"))


@pytest.mark.parametrize("name", ["v.txt", "v.vec", "v.bin"])
def test_word2vec_by_suffix(tmp_path, name):
    vectors = KeyedVectors(3)
    vectors.add_vectors(IDS, VECTORS)
    vectors.save_word2vec_format(tmp_path / name, binary=name.endswith(".bin"))
    assert_read(read_embeddings(tmp_path / name))
    assert_read(read_embeddings(vectors))


def test_trained_gensim_model_brings_its_contexts():
    model = Word2Vec([["a", "b", "c"]] * 10, sg=1, vector_size=4, min_count=1, workers=1)
    table = read_embeddings(model)
    assert table.items.ids.to_pylist() == model.wv.index_to_key
    np.testing.assert_array_equal(table.vectors, model.wv.vectors)
    np.testing.assert_array_equal(table.contexts, model.syn1neg)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def write_hostile(folder):
    np.save(folder / "object.npy", np.array([Bomb()], object), allow_pickle=True)
    np.save(folder / "good.npy", VECTORS)
    whole = (folder / "good.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-5])
    (folder / "empty.npy").write_bytes(b"")
    (folder / "vectors.kv").write_bytes(pickle.dumps(Bomb()))
    (folder / "vectors.csv").write_text("a,1\n")
    (folder / "broken.parquet").write_bytes(b"PAR1 no PAR1")
    (folder / "latin.txt").write_bytes(b"\xe4\n")
    tables = {
        "no_ids": {"x": [1.0]},
        "no_vectors": {"item_id": ["a"], "title": ["b"]},
        "two_lists": {"item_id": ["a"], "x": [[1.0]], "y": [[1.0]]},
        "ragged": {"item_id": ["a", "b"], "x": [[1.0, 2], [1.0]]},
        "null_list": {"item_id": ["a", "b"], "x": [[1.0, 2], None]},
        "null_inside": {"item_id": ["a"], "x": [[1.0, None]]},
        "text_lists": {"item_id": ["a"], "x": [["1"]]},
        "null_number": {"item_id": ["a", "b"], "x": [1.0, None]},
        "null_id": {"item_id": ["a", None], "x": [1.0, 2]},
        "repeated": {"item_id": ["a", "a"], "x": [1.0, 2]},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    pq.write_table(
        pa.table({"item_id": pa.array([], pa.string()), "x": pa.array([], pa.float32())}), folder / "empty.parquet"
    )


@pytest.mark.parametrize(
    ("source", "ids", "message"),
    [
        ("missing.bin", None, "does not exist"),
        ("good.npy", None, "numbers without ids"),
        ("good.npy", ["a"], r"do not match the ids; got: shape \(4, 3\)"),
        ("good.npy", ["a", "a", "b", "c"], "ids are repeated"),
        ("good.npy", "missing.txt", "missing.txt does not exist"),
        ("object.npy", ["a"], "cannot be read as an array"),
        ("cut.npy", IDS, "cannot be read as an array"),
        ("empty.npy", IDS, "cannot be read as an array"),
        ("good.npy", "object.npy", "cannot be read as an array"),
        ("good.npy", "latin.txt", "not UTF-8 text"),
        ("good.npy", "no_ids.parquet", "has no column of ids"),
        ("vectors.kv", None, "is a pickle.*save_word2vec_format"),
        ("vectors.csv", None, "suffix that names no known format; got: .csv"),
        ("broken.parquet", None, "cannot be read as Parquet"),
        ("no_ids.parquet", None, "has no column of ids; got: x; expected: item_id"),
        ("no_vectors.parquet", None, "does not say which column"),
        ("two_lists.parquet", None, "does not say which column"),
        ("ragged.parquet", None, "another width or none at all; got: item 'b' in column x"),
        ("null_list.parquet", None, "item 'b' in column x"),
        ("null_inside.parquet", None, "1 nulls"),
        ("text_lists.parquet", None, "vectors that are not numbers"),
        ("null_number.parquet", None, "null in column x"),
        ("null_id.parquet", None, "an id is missing"),
        ("repeated.parquet", None, "ids are repeated"),
        ("empty.parquet", None, "the table is empty"),
        ("no_vectors.parquet", IDS, "the source has its own"),
    ],
)
def test_hostile_sources(tmp_path, source, ids, message):
    write_hostile(tmp_path)
    with pytest.raises(InputError, match=message):
        read_embeddings(tmp_path / source, ids=tmp_path / ids if isinstance(ids, str) else ids)


def test_what_is_no_source(tmp_path):
    with pytest.raises(InputError, match=r"invalid source of item vectors; got: ndarray.*from_arrays"):
        read_embeddings(VECTORS)
    (tmp_path / "other").mkdir()
    with pytest.raises(FolderError, match="not a finished folder of embeddings"):
        read_embeddings(tmp_path / "other")
