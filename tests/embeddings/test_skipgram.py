import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from embedding_worlds import communities, log_of, noise

from heedful.embeddings import skipgram
from heedful.embeddings.skipgram import SkipGram, SkipGramConfig, keep_probability
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError, TrainingError
from heedful.events.histories import Histories
from heedful.events.log import EventLog

QUICK = {"width": 16, "epochs": 2, "threads": 1, "window": 5}


def share_of_own_block(table, blocks=6, k=5):
    found = table.similar(table.items.ids.to_pylist(), k=k)
    block = {name: int(name.removeprefix("item")) % blocks for name in table.items.ids.to_pylist()}
    return np.mean([block[a] == block[b] for a, near in zip(block, found, strict=True) for b, _ in near])


@pytest.mark.parametrize("shared_negatives", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_planted_communities_are_found(shared_negatives, threads):
    table = SkipGram(width=16, epochs=10, threads=threads, shared_negatives=shared_negatives).fit(communities())
    assert share_of_own_block(table) > 0.9


def test_no_structure_is_found_in_noise():
    table = SkipGram(width=16, epochs=10, threads=1).fit(noise())
    assert share_of_own_block(table) == pytest.approx(1 / 6, abs=0.06)


def test_loss_falls_and_is_recorded():
    training = SkipGram(width=16, epochs=10, threads=1).fit(communities()).provenance["training"]
    assert training["loss_per_pair"][0] > training["loss_per_pair"][-1] > 0
    assert training["words"] == 10 * 600 * 30


def test_one_thread_gives_the_same_bits_each_time():
    log = communities(users=100)
    options = QUICK | {"subsample": 1e-2}
    first, second = SkipGram(**options).fit(log), SkipGram(**options).fit(log)
    np.testing.assert_array_equal(first.vectors, second.vectors)
    np.testing.assert_array_equal(first.contexts, second.contexts)
    assert first.content_hash == second.content_hash != SkipGram(**options, seed=2).fit(log).content_hash


def test_a_memory_mapped_log_gives_the_same_bits(tmp_path):
    log = communities(users=50)
    log.save(tmp_path / "log")
    a, b = SkipGram(**QUICK).fit(log), SkipGram(**QUICK).fit(EventLog.load(tmp_path / "log"))
    assert a.content_hash == b.content_hash
    assert b.provenance["log"]["content_hash"]


def test_the_log_is_not_changed():
    log = communities(users=50)
    before = [array.copy() for array in dataclasses.astuple(log.histories)]
    SkipGram(**QUICK).fit(log)
    for array, copy in zip(dataclasses.astuple(log.histories), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_baskets_are_learnt_without_their_order():
    # Four items in one basket, window 1: in canonical order, items 0 and 3 never meet.
    log = log_of([[0, 1, 2, 3]] * 300, times=[np.zeros(4)] * 300)
    options = {"width": 4, "epochs": 30, "threads": 1, "window": 1}

    def meeting(shuffle):
        table = SkipGram(**options, shuffle_baskets=shuffle).fit(log)
        return float(table.vector("item0") @ table.contexts[table.items.rows(["item3"])[0]])

    assert meeting(shuffle=True) > meeting(shuffle=False) + 1


def test_max_gap_keeps_distant_sessions_apart():
    day = 86_400
    log = log_of([[0, 1, 2, 3]] * 300, times=[np.array([0, 60, 40 * day, 40 * day + 60])] * 300)

    def meeting(gap):
        table = SkipGram(width=4, epochs=30, threads=1, max_gap_days=gap).fit(log)
        return float(table.vector("item1") @ table.contexts[table.items.rows(["item2"])[0]])

    assert meeting(gap=0) > meeting(gap=30) + 1


def test_long_histories_are_not_cut():
    # The last two items appear only at the end of one history of 50,000 actions.
    log = log_of([[*np.random.default_rng(0).integers(50, size=50_000), *[50, 51] * 50]])
    table = SkipGram(width=8, epochs=20, threads=1, window=1).fit(log)
    assert table.provenance["training"]["words"] == 20 * 50_100
    one, other = table.items.rows(["item50", "item51"])
    assert (table.contexts @ table.vectors[one]).argmax() == other


def test_rows_are_the_items_with_enough_events_most_frequent_first():
    log = log_of(
        [[0, 0, 0, 1, 1, 2], [2, 2, 3]],
        kinds=[[0, 0, 1, 1, 1, 1], [1, 1, 0]],
        kind_names=("buy", "view"),
        titles=["zero", "one", "two", "three"],
    )
    table = SkipGram(**QUICK, kinds=["view"], min_count=2).fit(log)
    assert table.items.ids.to_pylist() == ["item2", "item1"]
    assert table.attributes["title"].to_pylist() == ["two", "one"]
    assert SkipGram(**QUICK).fit(log).items.ids.to_pylist() == ["item0", "item2", "item1", "item3"]
    with pytest.raises(ConfigError, match="no events of that kind; got: stream; expected: buy, view"):
        SkipGram(**QUICK, kinds=("stream",)).fit(log)
    with pytest.raises(
        TrainingError, match="nothing to learn from; got: no item with 9 actions, out of 9 actions on 4 items"
    ):
        SkipGram(**QUICK, min_count=9).fit(log)


def test_kinds_of_little_weight_count_little():
    """Purchases are of items of one half, views of items of both halves at random."""
    randoms = np.random.default_rng(0)
    sequences, kinds = [], []
    for user in range(600):
        bought, viewed = randoms.integers(0, 15, 6) + 15 * (user % 2), randoms.integers(0, 30, 18)
        order = randoms.permutation(24)
        sequences.append(np.concatenate([bought, viewed])[order])
        kinds.append((np.arange(24) >= 6)[order])
    log = log_of(sequences, kinds=kinds, kind_names=("purchase", "view"))

    def lead_of_own_half(*weights: str) -> float:
        table = SkipGram(width=8, threads=1, epochs=10, kind_weights=weights).fit(log)
        x = table.vectors[table.items.rows([f"item{row}" for row in range(30)])]
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        half, cosines = np.arange(30) // 15, x @ x.T
        same = half[:, None] == half
        return float(cosines[same & ~np.eye(30, dtype=bool)].mean() - cosines[~same].mean())

    alone, some, all_alike = lead_of_own_half("view=0"), lead_of_own_half("view=0.1"), lead_of_own_half()
    assert alone > some > all_alike + 0.2


def test_weights_of_kinds_that_cannot_be_used():
    for given in ("view", "view=2", "view=-1", "=1", "view=nan"):
        with pytest.raises(ConfigError, match=r"'kind_weights' is out of range.*such as view=0.2"):
            SkipGramConfig(kind_weights=(given,))
    with pytest.raises(ConfigError, match="each kind once"):
        SkipGramConfig(kind_weights=("view=0.1", "view=0.2"))
    with pytest.raises(ConfigError, match="no events of that kind; got: gift"):
        SkipGram(**QUICK, kind_weights=("gift=0.5",)).fit(log_of([[0, 1]]))


def test_log_without_events_or_neighbours():
    lonely = SkipGram(**QUICK).fit(log_of([[0], [1]]))
    assert lonely.provenance["training"]["loss_per_pair"] == [None, None]
    log = log_of([[0], [1]])
    empty = Histories(np.zeros(3, np.int64), *(array[:0] for array in dataclasses.astuple(log.histories)[1:]))
    with pytest.raises(TrainingError, match="nothing to learn from"):
        SkipGram(**QUICK).fit(dataclasses.replace(log, histories=empty))


@pytest.mark.parametrize(("exponent", "favoured"), [(2.0, 0), (0.0, None), (-2.0, 2)])
def test_negative_exponent_decides_who_is_drawn(exponent, favoured):
    tables = skipgram._tables(np.array([100, 10, 1]), SkipGramConfig(negative_exponent=exponent))
    shares = tables.probability.astype(float) + np.bincount(tables.alias, weights=1 - tables.probability, minlength=3)
    assert (np.argmax(shares) == favoured) if favoured is not None else np.allclose(shares, 1)


def test_keep_probability_is_that_of_word2vec():
    counts = np.array([900, 90, 10])
    share, t = counts / 1000, 0.01
    np.testing.assert_allclose(keep_probability(counts, t), np.minimum((np.sqrt(share / t) + 1) * t / share, 1), rtol=1e-6)
    assert keep_probability(counts, 0.0).tolist() == [1, 1, 1]


def test_small_logs_get_more_epochs():
    assert [skipgram.epochs_for(n) for n in (1, 10**6, 3 * 10**6, 10**9)] == [40, 30, 10, 5]


def test_divergence_is_an_error():
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            TrainingError, match=r"loss is not finite any more in epoch .*; got: learning_rate 1e.*lower learning_rate"
        ),
    ):
        SkipGram(**QUICK, learning_rate=1e30).fit(communities(users=50))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("width", 0),
        ("window", -1),
        ("negatives", 0),
        ("negative_exponent", float("nan")),
        ("subsample", -1e-3),
        ("epochs", -1),
        ("learning_rate", 0.0),
        ("min_learning_rate", 0.5),
        ("max_gap_days", -1.0),
        ("min_count", 0),
        ("threads", -1),
    ],
)
def test_options_out_of_range(option, value):
    with pytest.raises(ConfigError, match=f"option '{option}' is out of range"):
        SkipGram(**{option: value})


def test_unknown_option():
    with pytest.raises(ConfigError, match="unknown option for SkipGramConfig; got: windows"):
        SkipGram(windows=3)


def test_config_survives_a_round_trip():
    config = SkipGramConfig(kinds=("view",), width=8)
    assert SkipGramConfig.from_dict(config.to_dict()) == config


ENDLESS = """
import sys
sys.path.insert(0, {tests!r})
from embedding_worlds import log_of
import numpy as np
from heedful.embeddings.skipgram import SkipGram
from heedful.progress import show_progress
log = log_of([np.random.default_rng(u).integers(5000, size=200_000) for u in range(2)])
SkipGram(width=8, epochs=1, threads=2).fit(log_of([[0, 1]]))
print("started", flush=True)
SkipGram(width=64, epochs=10_000, window=50, threads=2).fit(log).save({out!r})
"""


def test_interrupt_stops_promptly_and_leaves_nothing(tmp_path):
    script = ENDLESS.format(tests=str(Path(__file__).parent), out=str(tmp_path / "out"))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"started\n"
        time.sleep(1)
        os.kill(process.pid, signal.SIGINT)
        interrupted = time.monotonic()
        _, errors = process.communicate(timeout=30)
    assert time.monotonic() - interrupted < 5
    assert process.returncode != 0 and b"KeyboardInterrupt" in errors
    assert list(tmp_path.iterdir()) == []


def test_result_can_be_saved_and_loaded(tmp_path):
    table = SkipGram(**QUICK).fit(communities(users=50))
    table.save(tmp_path / "t")
    loaded = ItemEmbeddings.load(tmp_path / "t")
    assert loaded.content_hash == table.content_hash
    assert SkipGramConfig.from_dict(loaded.provenance["config"]) == SkipGram(**QUICK).config
