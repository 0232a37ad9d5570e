"""New items: what is minimised, that it is the minimum, what attributes say, and that nothing else moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from embedding_worlds import communities, log_of

from heedful.embeddings.grouping import group_means
from heedful.embeddings.onboarding import OnboardingConfig, _minimise, _pairs, _trained_with, extend_table, newcomers
from heedful.embeddings.skipgram import SkipGram
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError, InputError
from heedful.events.log import EventLog
from heedful.events.vocabulary import Vocabulary

DAY = 86_400


def without(log: EventLog, rows: list[int]) -> EventLog:
    """The log as it was before these items existed."""
    return log._only(~np.isin(log.histories.items, rows)).compact()


def small_table(n: int = 4, **options: object) -> ItemEmbeddings:
    randoms = np.random.default_rng(0)
    vectors, contexts = randoms.normal(size=(2, n, 3))
    config = {"trainer": "SkipGram", "config": {"width": 3, "window": 2, "negatives": 2, **options}}
    return ItemEmbeddings.from_arrays([f"item{row}" for row in range(n)], vectors, contexts, provenance=config)


def pairs_of(table: ItemEmbeddings, log: EventLog) -> dict[tuple[int, int], float]:
    new, context, weight = _pairs(table, log, Vocabulary(["item4", "item5"]), _trained_with(table))
    return {(int(n), int(c)): float(w) for n, c, w in zip(new, context, weight, strict=True)}


def test_pairs_are_the_expected_ones_of_a_pass_of_training() -> None:
    log = log_of([[0, 4, 1, 2, 5], [3, 3, 0], [4, 0]])
    assert pairs_of(small_table(), log) == {(0, 0): 2.0, (0, 1): 1.0, (0, 2): 0.5, (1, 2): 1.0, (1, 1): 0.5}
    fixed = pairs_of(small_table(dynamic_window=False), log)
    assert fixed == {(0, 0): 2.0, (0, 1): 1.0, (0, 2): 1.0, (1, 2): 1.0, (1, 1): 1.0}


def test_pairs_inside_baskets_stand_in_any_order() -> None:
    log = log_of([[0, 1, 2, 3, 4]], times=[[5] * 5])
    found = pairs_of(small_table(window=1), log)
    assert sum(found.values()) == pytest.approx(8 / 5, abs=0.4)  # two neighbours, one at either end
    assert len(found) >= 3  # over several orders, not one


def test_gaps_kinds_and_items_without_context_make_no_pairs() -> None:
    log = log_of([[0, 4, 1]], times=[[0, 10, 10 + 2 * DAY]])
    assert pairs_of(small_table(max_gap_days=1.0), log) == {(0, 0): 1.0}
    log = log_of([[0, 4, 1]], kinds=[[0, 0, 1]], kind_names=("buy", "view"))
    assert pairs_of(small_table(kinds=["buy"]), log) == {(0, 0): 1.0}
    table = small_table()
    blank = ItemEmbeddings.from_arrays(
        table.items, table.vectors, np.where(np.arange(4)[:, None] == 0, 0, table.contexts), provenance=table.provenance
    )
    assert pairs_of(blank, log) == {(0, 1): 1.0}


def test_the_minimum_against_a_slow_reference() -> None:
    randoms = np.random.default_rng(3)
    prior, contexts = randoms.normal(size=4), randoms.normal(size=(30, 4)) * 2
    weights, signs = randoms.random(30) * 5, np.where(randoms.random(30) < 0.3, 1.0, -1.0)
    found = _minimise(prior, contexts, weights, signs, 0.7)
    x = prior.copy()
    for _ in range(20_000):
        p = 1 / (1 + np.exp(signs * (contexts @ x)))
        x -= 0.003 * (0.7 * (x - prior) - contexts.T @ (weights * signs * p))
    np.testing.assert_allclose(found, x, atol=1e-6)


def test_it_converges_from_far_away() -> None:
    contexts = np.array([[30.0, 0.0], [0.0, -50.0]])
    found = _minimise(np.array([-40.0, 60.0]), contexts, np.array([1000.0, 1.0]), np.array([1.0, 1.0]), 1e-3)
    wrong = 1 / (1 + np.exp(contexts @ found))
    np.testing.assert_allclose(1e-3 * (found - [-40, 60]), contexts.T @ (np.array([1000.0, 1.0]) * wrong), atol=1e-4)


@pytest.fixture(scope="module")
def world() -> tuple[EventLog, EventLog, ItemEmbeddings]:
    """A log of six communities, what it was before items 3 and 10 came, and the table of that."""
    log = communities(users=200)
    titles = pa.table({"community": [f"c{row % 6}" for row in range(120)], "price": list(range(120))})
    log = replace(log, catalog=replace(log.catalog, attributes=titles))
    before = without(log, [3, 10])
    return log, before, SkipGram(width=16, epochs=5, threads=1).fit(before)


def community_of(table: ItemEmbeddings, item: str) -> float:
    """Share of the ten nearest items that are of the item's community."""
    own = int(item.removeprefix("item")) % 6
    return float(np.mean([int(str(near).removeprefix("item")) % 6 == own for near, _ in table.similar(item, 10)]))


def test_a_new_item_comes_to_lie_among_its_kind(world: tuple[EventLog, EventLog, ItemEmbeddings]) -> None:
    log, _, table = world
    extension = extend_table(table, replace(log, catalog=replace(log.catalog, attributes=pa.table({}))))
    assert len(extension.users) == 2 and (extension.users > 10).all() and (extension.pairs > 100).all()
    assert community_of(extension.table, "item3") == community_of(extension.table, "item10") == 1.0


def test_one_action_is_enough_to_lean_the_right_way(world: tuple[EventLog, EventLog, ItemEmbeddings]) -> None:
    log, _, table = world
    items = log.histories.items
    first = {row: int(np.flatnonzero(items == row)[0]) for row in (3, 10)}
    keep = np.array([item not in first or position == first[item] for position, item in enumerate(items)])
    bare = replace(log._only(keep), catalog=replace(log._only(keep).catalog, attributes=pa.table({})))
    extension = extend_table(table, bare)
    assert extension.users.tolist() == [1, 1]
    assert community_of(extension.table, "item3") > 0.8 and community_of(extension.table, "item10") > 0.8


def test_attributes_alone(world: tuple[EventLog, EventLog, ItemEmbeddings]) -> None:
    _, before, table = world
    new = pa.table({"item_id": ["item3", "item10", "blank"], "community": ["c3", "c4", None]})
    extension = extend_table(table, attributes=new, counts=before.catalog.users)
    assert extension.pairs.tolist() == [0, 0, 0] and extension.described.tolist() == [True, True, False]
    assert community_of(extension.table, "item3") == community_of(extension.table, "item10") == 1.0
    weights = np.sqrt(before.catalog.users)
    np.testing.assert_allclose(extension.table.vectors[-1], weights @ table.vectors / weights.sum(), atol=1e-5)
    assert extension.table.attributes["community"].to_pylist()[-3:] == ["c3", "c4", None]
    assert extension.table.attributes["price"].to_pylist()[-3:] == [None] * 3


def test_what_was_there_does_not_move(world: tuple[EventLog, EventLog, ItemEmbeddings], tmp_path: object) -> None:
    log, _, table = world
    once = extend_table(table, log).table
    twice = extend_table(once, attributes=pa.table({"item_id": ["later"], "community": ["c1"]})).table
    for longer in (once, twice):
        np.testing.assert_array_equal(longer.vectors[: len(table)], table.vectors)
        assert longer.extends(table.content_hash, len(table)) and longer.content_hash != table.content_hash
        assert longer.contexts is not None and (longer.contexts[len(table) :] == 0).all()
    assert twice.extends(once.content_hash, len(once)) and not once.extends(twice.content_hash, len(twice))
    assert [record["extends"] for record in twice.provenance["extensions"]] == [table.content_hash, once.content_hash]
    twice.save(f"{tmp_path}/twice")
    loaded = ItemEmbeddings.load(f"{tmp_path}/twice")
    assert loaded.extends(table.content_hash, len(table))
    users, days = newcomers(loaded, len(table))
    assert users.tolist() == [*extend_table(table, log).users, 0] and days[-1] == 0 and (days[:2] >= 0).all()


def test_a_changed_row_is_found_out(world: tuple[EventLog, EventLog, ItemEmbeddings]) -> None:
    log, _, table = world
    longer = extend_table(table, log).table
    vectors = np.array(longer.vectors)
    vectors[5, 0] += 1e-6
    changed = ItemEmbeddings.from_arrays(longer.items, vectors, provenance=longer.provenance)
    assert not changed.extends(table.content_hash, len(table))


def test_the_same_bits_each_time(world: tuple[EventLog, EventLog, ItemEmbeddings]) -> None:
    log, _, table = world
    assert extend_table(table, log).table.content_hash == extend_table(table, log).table.content_hash


def test_precision_holds_to_the_attributes(world: tuple[EventLog, EventLog, ItemEmbeddings]) -> None:
    log, before, table = world
    alone = extend_table(
        table, attributes=pa.table({"item_id": ["item3"], "community": ["c3"]}), counts=before.catalog.events
    )
    expected = alone.table.vector("item3")
    distance = [
        np.linalg.norm(extend_table(table, log, config=OnboardingConfig(precision=p)).table.vector("item3") - expected)
        for p in (1e7, 100.0, 1.0)
    ]
    assert distance[0] < 1e-3 < distance[0] * 100 < distance[1] < distance[2]


def test_a_table_without_contexts_uses_attributes(world: tuple[EventLog, EventLog, ItemEmbeddings]) -> None:
    log, _, table = world
    imported = ItemEmbeddings.from_arrays(table.items, table.vectors, attributes=table.attributes)
    extension = extend_table(imported, log)
    assert extension.pairs.tolist() == [0, 0] and extension.users.min() > 10 and extension.table.contexts is None
    assert community_of(extension.table, "item3") == 1.0


def test_group_means_are_ridge_regression() -> None:
    randoms = np.random.default_rng(1)
    vectors = randoms.normal(size=(50, 2)).astype(np.float32)
    weights = randoms.random(50) + 0.1
    columns = {"a": [f"a{n % 4}" for n in range(50)], "b": [bool(n % 3) if n % 7 else None for n in range(50)]}
    new = {"a": ["a1", None, "new"], "b": [True, False, None]}
    found = group_means(vectors, weights, pa.table(columns), pa.table(new), 3, shrinkage=2.0)
    scaled = weights / weights.mean()
    mean = scaled @ vectors / 50
    names = [("a", f"a{n}") for n in range(4)] + [("b", True), ("b", False)]
    design = np.array([[columns[column][n] == value for column, value in names] for n in range(50)], float)
    effects = np.linalg.solve(
        design.T @ (design * scaled[:, None]) + 2 * np.eye(6), design.T @ ((vectors - mean) * scaled[:, None])
    )
    asked = np.array([[new[column][n] == value for column, value in names] for n in range(3)], float)
    np.testing.assert_allclose(found, mean + asked @ effects, atol=0.02 * vectors.std())


def test_numbers_are_no_categories_and_no_columns_give_the_mean() -> None:
    vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
    for known, new in (
        (pa.table({}), pa.table({})),
        (pa.table({}), pa.table({"n": [1]})),
        (pa.table({"n": [1, 2, 3, 4]}), pa.table({"n": [1]})),
    ):
        np.testing.assert_allclose(group_means(vectors, np.ones(4), known, new, 1, shrinkage=1.0), [[3, 4]])


def test_ids_of_either_type_and_attributes_of_the_log() -> None:
    vectors = np.ones((2, 3), np.float32)
    table = ItemEmbeddings.from_arrays([10, 20], vectors)
    extension = extend_table(table, attributes=pa.table({"item_id": ["30", "20"], "title": ["new", "old"]}))
    assert extension.table.items.ids.to_pylist() == [10, 20, 30]
    assert extension.table.attributes["title"].to_pylist() == [None, None, "new"]
    with pytest.raises(InputError, match="the new items have ids of another type"):
        extend_table(table, attributes=pa.table({"item_id": ["sku"]}))


def test_what_cannot_be_extended(world: tuple[EventLog, EventLog, ItemEmbeddings]) -> None:
    log, before, table = world
    with pytest.raises(InputError, match="there are no new items; got: only items that the table has"):
        extend_table(table, before)
    with pytest.raises(InputError, match="the new items have no ids; got: name; expected: a column item_id"):
        extend_table(table, attributes=pa.table({"name": ["x"]}))
    with pytest.raises(InputError, match="ids are repeated"):
        extend_table(table, attributes=pa.table({"item_id": ["x", "x"]}))
    with pytest.raises(InputError, match="counts do not fit the table; got: 3 numbers"):
        extend_table(table, log, counts=np.ones(3))
    with pytest.raises(InputError, match="column 'price' does not fit the table's"):
        extend_table(table, attributes=pa.table({"item_id": ["x"], "price": ["cheap"]}))
    with pytest.raises(ConfigError, match="option 'precision' is out of range; got: 0"):
        OnboardingConfig(precision=0)
