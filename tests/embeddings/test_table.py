import json

import numpy as np
import pyarrow as pa
import pytest

from heedful.embeddings import table as module
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError, FolderError, InputError


def random_table(n=50, width=8, contexts=False, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, width)).astype(np.float32)
    return ItemEmbeddings.from_arrays(
        [f"item{i}" for i in range(n)],
        vectors,
        rng.normal(size=(n, width)) if contexts else None,
        attributes=pa.table({"title": [f"title {i}" for i in range(n)]}),
        provenance={"trainer": "test"},
    )


@pytest.mark.parametrize("contexts", [True, False])
def test_saved_table_loads_as_it_was(tmp_path, contexts):
    table = random_table(contexts=contexts)
    table.save(tmp_path / "t")
    loaded = ItemEmbeddings.load(tmp_path / "t")
    assert loaded.items == table.items and loaded.provenance == {"trainer": "test"}
    assert loaded.attributes["title"][7].as_py() == "title 7"
    assert isinstance(loaded.vectors, np.memmap)
    np.testing.assert_array_equal(loaded.vectors, table.vectors)
    assert (loaded.contexts is None) == (not contexts)
    if contexts:
        np.testing.assert_array_equal(loaded.contexts, table.contexts)
    assert loaded.content_hash == table.content_hash == loaded.folder.manifest["table_hash"]
    assert repr(loaded) == f"ItemEmbeddings(50 items, width 8, {'with' if contexts else 'no'} contexts)"


def test_hash_names_ids_and_vectors_only(monkeypatch):
    table = random_table()
    assert random_table(contexts=True).attributes.num_columns == 1
    same = ItemEmbeddings.from_arrays(table.items, table.vectors.copy(), np.zeros((50, 8)))
    assert same.content_hash == table.content_hash
    changed = table.vectors.copy()
    changed[49, 7] += 1e-3
    others = [
        ItemEmbeddings.from_arrays(table.items, changed),
        ItemEmbeddings.from_arrays([f"item{i}" for i in range(49)] + ["other"], table.vectors),
        ItemEmbeddings.from_arrays(["ab", "c"], np.ones((2, 1))),
        ItemEmbeddings.from_arrays(["a", "bc"], np.ones((2, 1))),
        ItemEmbeddings.from_arrays(["a", "bc"], np.ones((2, 2))),
    ]
    assert len({t.content_hash for t in [table, *others]}) == 6


def test_overwrite_must_be_asked_for(tmp_path):
    random_table().save(tmp_path / "t")
    with pytest.raises(FolderError, match="exists already"):
        random_table().save(tmp_path / "t")
    random_table(n=3).save(tmp_path / "t", overwrite=True)
    assert len(ItemEmbeddings.load(tmp_path / "t")) == 3


def test_a_manifest_that_contradicts_the_arrays_is_refused(tmp_path):
    random_table().save(tmp_path / "t")
    manifest = json.loads((tmp_path / "t" / "manifest.json").read_text())
    (tmp_path / "t" / "manifest.json").write_text(json.dumps(manifest | {"width": 9}))
    with pytest.raises(FolderError, match=r"vectors.npy does not belong to this folder.*\(50, 9\)"):
        ItemEmbeddings.load(tmp_path / "t")


@pytest.mark.parametrize("block_rows", [7, 65_536])
def test_similar_is_the_full_sort_by_cosine(monkeypatch, block_rows):
    monkeypatch.setattr(module, "_BLOCK_ROWS", block_rows)
    table = random_table()
    units = table.vectors.astype(float) / np.linalg.norm(table.vectors.astype(float), axis=1, keepdims=True)
    asked = ["item3", "item31", "item5", "item48"]
    for name, found in zip(asked, table.similar(asked, k=6), strict=True):
        row = int(name.removeprefix("item"))
        cosines = units @ units[row]
        cosines[row] = -2
        expected = np.argsort(-cosines)[:6]
        assert [item for item, _ in found] == [f"item{i}" for i in expected]
        np.testing.assert_allclose([c for _, c in found], cosines[expected], atol=1e-5)
        assert [item for item, _ in table.similar(name, k=6)] == [item for item, _ in found]


def test_similar_answers_with_the_whole_table_when_it_is_small():
    found = random_table(n=4).similar("item2", k=100)
    assert sorted(item for item, _ in found) == ["item0", "item1", "item3"]


def test_a_zero_vector_has_cosine_zero_with_everything():
    table = ItemEmbeddings.from_arrays([1, 2, 3], np.array([[0, 0], [1, 1], [-1, 0]]))
    assert table.zero_rows == 1
    assert table.similar(1) == [(2, 0.0), (3, 0.0)]
    assert dict(table.similar(2))[1] == 0.0


def test_huge_and_tiny_vectors_have_exact_cosines():
    table = ItemEmbeddings.from_arrays(["a", "b", "c"], np.array([[3e38, 3e38], [1e-30, 0], [1, 1]]))
    assert dict(table.similar("b")) == pytest.approx({"a": 0.5**0.5, "c": 0.5**0.5})


def test_unknown_item_names_those_of_similar_spelling():
    with pytest.raises(
        InputError, match="does not have that item; got: 'itm12'; expected: one of its 50 ids, such as item12"
    ):
        random_table().similar("itm12")
    with pytest.raises(InputError, match=r"'zzzzzz'; expected: one of its 50 ids$"):
        random_table().vector("zzzzzz")
    with pytest.raises(ConfigError, match="'k' is out of range"):
        random_table().similar("item1", k=0)


def test_vector_is_a_copy():
    table = random_table()
    table.vector("item4")[:] = 0
    assert table.vectors[4].any()


def test_integer_ids_are_found_as_numbers_and_as_text():
    table = ItemEmbeddings.from_arrays(np.array([10, 20]), np.eye(2))
    assert table.vector(20).tolist() == table.vector("20").tolist() == [0, 1]
    assert table.similar(np.int64(10)) == [(20, 0.0)]


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (
            ["a", "b"],
            [[1.0, np.nan], [np.inf, 0]],
            "vectors are not finite; got: NaN or infinity in 2 of 2 rows, .* item 'a'",
        ),
        (["a", "b"], [[1.0, 0], [1e60, 0]], "infinity in 1 of 2 rows, the first that of item 'b'"),
        (["a", "b"], [[1.0, 2]], r"vectors do not match the ids; got: shape \(1, 2\)"),
        (["a", "b"], [1.0, 2], r"got: shape \(2,\)"),
        (["a", "a"], [[1.0], [2]], "ids are repeated"),
        ([], np.empty((0, 3)), "the table is empty"),
        (["a"], np.empty((1, 0)), "the table is empty"),
        (["a"], [["x"]], "not real numbers"),
        (["a"], [[1j]], "not real numbers"),
    ],
)
def test_hostile_arrays(ids, vectors, message):
    with pytest.raises(InputError, match=message):
        ItemEmbeddings.from_arrays(ids, np.array(vectors))


def test_contexts_and_attributes_must_match():
    with pytest.raises(InputError, match="different widths"):
        ItemEmbeddings.from_arrays(["a"], np.ones((1, 2)), np.ones((1, 3)))
    with pytest.raises(InputError, match="attributes do not match"):
        ItemEmbeddings.from_arrays(["a"], np.ones((1, 2)), attributes=pa.table({"title": ["x", "y"]}))
