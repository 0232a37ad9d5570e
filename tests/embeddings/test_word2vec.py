import numpy as np
import pytest
from gensim.models import KeyedVectors

from heedful.embeddings.table import ItemEmbeddings
from heedful.embeddings.word2vec import read_binary, read_text, write_word2vec
from heedful.errors import InputError

ODD_IDS = ["plain", "käse", "日本", "a\u2028b", "x\x85y", "🦉", '"quoted"', "1,5", "#", "\u00a0"]


def keyed(ids=ODD_IDS, width=5):
    vectors = KeyedVectors(width)
    vectors.add_vectors(ids, np.random.default_rng(0).normal(size=(len(ids), width)).astype(np.float32))
    return vectors


@pytest.mark.parametrize(("binary", "read"), [(False, read_text), (True, read_binary)])
def test_files_of_gensim_are_read_as_they_were(tmp_path, binary, read):
    source = keyed()
    source.save_word2vec_format(tmp_path / "v", binary=binary)
    ids, vectors = read(tmp_path / "v")
    assert ids == ODD_IDS
    np.testing.assert_array_equal(vectors, source.vectors)


def test_text_is_read_by_gensim_as_it_was(tmp_path):
    ids = [name for name in ODD_IDS if name != "\u00a0"]
    table = ItemEmbeddings.from_arrays(ids, np.random.default_rng(1).normal(size=(len(ids), 4)))
    write_word2vec(table, tmp_path / "v.txt")
    found = KeyedVectors.load_word2vec_format(tmp_path / "v.txt")
    assert found.index_to_key == ids
    np.testing.assert_array_equal(found.vectors, table.vectors)
    np.testing.assert_array_equal(read_text(tmp_path / "v.txt")[1], table.vectors)


def test_an_id_with_a_space_survives_text_reading_but_is_not_written(tmp_path):
    (tmp_path / "v.txt").write_text("2 2\nred shoes 1 2\r\nblue 3 4 \n")
    ids, vectors = read_text(tmp_path / "v.txt")
    assert ids == ["red shoes", "blue"] and vectors.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(InputError, match="item id 'red shoes' cannot be written"):
        write_word2vec(ItemEmbeddings.from_arrays(ids, vectors), tmp_path / "out.txt")
    assert not (tmp_path / "out.txt").exists() and len(list(tmp_path.iterdir())) == 1


def test_binary_items_may_end_with_a_line_feed(tmp_path):
    rows = np.array([[1, 2], [3, 4]], "<f4")
    (tmp_path / "v.bin").write_bytes(b"2 2\na " + rows[0].tobytes() + b"\nb " + rows[1].tobytes() + b"\n")
    ids, vectors = read_binary(tmp_path / "v.bin")
    assert ids == ["a", "b"] and vectors.tolist() == rows.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"a 1 2\nb 3 4\n", "a first line with the number of items"),
        (b"0 5\n", "0 items of width 5"),
        (b"-1 5\na 1\n", "a first line with the number"),
        (b"99999999999 300\na 1 2\n", "18 bytes|bytes; expected: 99999999999 items"),
        (b"2 2\na 1 2\nbbbbbb 3\n", "line 3: b'bbbbbb 3"),
        (b"3 2\na 1.000000 2.0000000\nb 3 4\n", "2 items; expected: 3 items"),
        (b"1 2\na 1 2\nb 3 4\n", "more after the last item"),
        (b"1 2\na 1 x\n", "line 2"),
        (b"1 1\n\xff\xfe 1\n", "line 2"),
        (b"\x80\x04\x95\x00 pickle", "a first line"),
    ],
)
def test_hostile_text(tmp_path, content, message):
    (tmp_path / "v.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_text(tmp_path / "v.txt")


def test_hostile_binary(tmp_path):
    source = keyed(["a", "b", "c"])
    source.save_word2vec_format(tmp_path / "v.bin", binary=True)
    whole = (tmp_path / "v.bin").read_bytes()
    for cut in range(len(whole)):
        (tmp_path / "cut.bin").write_bytes(whole[:cut])
        with pytest.raises(InputError, match="not a sound word2vec file"):
            read_binary(tmp_path / "cut.bin")
    (tmp_path / "long.bin").write_bytes(whole + b"more")
    with pytest.raises(InputError, match="more after the last item"):
        read_binary(tmp_path / "long.bin")


def test_binary_with_a_space_in_an_id_is_noticed(tmp_path):
    keyed(["a b", "c", "d"]).save_word2vec_format(tmp_path / "v.bin", binary=True)
    with pytest.raises(InputError, match=r"ids in \.bin may not hold spaces"):
        read_binary(tmp_path / "v.bin")
