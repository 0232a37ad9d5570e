"""Training a table further: the same space, rows that stay, and new items among what they occur with."""

import numpy as np
import pytest
from embedding_worlds import communities, log_of

from heedful.embeddings.continuing import continue_embeddings
from heedful.embeddings.skipgram import SkipGram
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError

OPTIONS = {"width": 16, "epochs": 10, "threads": 1}


def cosines(first, second):
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(axis=1) / norms


def test_rows_and_space_stay():
    log = communities()
    table = SkipGram(**OPTIONS).fit(log)
    later = continue_embeddings(table, log)
    assert later.items == table.items
    assert cosines(later.vectors, table.vectors).min() > 0.9
    # A table of another seed lies in another space.
    assert cosines(SkipGram(**OPTIONS, seed=2).fit(log).vectors, table.vectors).max() < 0.9
    assert later.content_hash != table.content_hash


def test_a_new_item_comes_last_and_among_its_neighbours():
    rows = [[*range(0, 6)] * 3, [*range(6, 12)] * 3]
    table = SkipGram(**OPTIONS | {"epochs": 40}).fit(log_of(rows * 100))
    grown = log_of([*rows * 100, *[[0, 1, 12, 2, 12, 3]] * 20])
    later = continue_embeddings(table, grown)
    assert later.items.ids.slice(0, len(table)).equals(table.items.ids)
    assert later.items.ids[len(table)].as_py() == "item12"
    assert {name for name, _ in later.similar("item12", 3)} <= {f"item{n}" for n in range(6)}


def test_options_are_those_of_the_table_and_do_not_shrink_night_by_night():
    log = communities(users=100)
    table = SkipGram(**OPTIONS).fit(log)
    once = continue_embeddings(table, log)
    twice = continue_embeddings(once, log)
    assert once.provenance["config"] == twice.provenance["config"]
    assert once.provenance["continued"]["epochs"] == twice.provenance["continued"]["epochs"] == 2
    assert twice.provenance["continued"]["from"] == once.content_hash


def test_one_thread_gives_the_same_bits_each_time():
    log = communities(users=100)
    table = SkipGram(**OPTIONS).fit(log)
    assert continue_embeddings(table, log).content_hash == continue_embeddings(table, log).content_hash


def test_items_that_the_log_lost_keep_their_vectors():
    table = SkipGram(**OPTIONS).fit(log_of([[0, 1, 2, 3]] * 50))
    later = continue_embeddings(table, log_of([[0, 1, 2]] * 50))
    row = table.items.rows(["item3"])[0]
    np.testing.assert_array_equal(later.vectors[row], table.vectors[row])


def test_an_imported_table_cannot_be_trained_further():
    table = ItemEmbeddings.from_arrays(["item0", "item1"], np.eye(2))
    with pytest.raises(ConfigError, match="no context vectors"):
        continue_embeddings(table, log_of([[0, 1]] * 9))


def test_another_width_is_refused():
    log = communities(users=50)
    table = SkipGram(**OPTIONS).fit(log)
    with pytest.raises(ConfigError, match="keeps its width"):
        continue_embeddings(table, log, width=8)
