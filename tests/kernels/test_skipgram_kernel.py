import numpy as np
import pytest
from numba import njit

from heedful.kernels import skipgram
from heedful.kernels.reference import skipgram_gradient, skipgram_loss
from heedful.kernels.rng import first_state, next_random
from heedful.kernels.skipgram import contexts_of, draw_radius, read_user, update
from heedful.kernels.skipgram_simd import LANES, NEGATIVES


def with_room(negatives):
    return np.array(negatives + [0] * NEGATIVES, np.int32)


def tables(rows, width, rng):
    """Random tables whose columns are padded with zeros, in double precision."""
    padded = -(-width // LANES) * LANES
    x, y = np.zeros((rows, padded)), np.zeros((rows, padded))
    x[:, :width], y[:, :width] = rng.normal(size=(rows, width)) / width**0.5, rng.normal(size=(rows, width))
    return x, y


@pytest.mark.parametrize("inputs", [[3], [3, 1, 2], [3, 1, 0, 6, 2]])
@pytest.mark.parametrize("negatives", [[4], [4, 5, 6], [4, 5, 5, 6, 0], [1, 2, 3, 1, 2]])
@pytest.mark.parametrize("width", [1, 7, 64, 100])
def test_update_is_the_gradient_step_of_the_loss(inputs, negatives, width):
    rng = np.random.default_rng(width)
    x, y = tables(7, width, rng)
    trues = list(range(len(inputs)))
    x_new, y_new, rate = x.astype(np.float32), y.astype(np.float32), 0.01
    step = np.zeros((len(inputs), LANES), np.float32)
    arrays = np.array(inputs, np.int32), np.array(trues, np.int32), len(inputs), with_room(negatives), len(negatives)
    found = update(x_new, y_new, *arrays, np.float32(rate), step, True)
    assert found == pytest.approx(skipgram_loss(x, y, inputs, trues, negatives), rel=1e-5)
    x_gradient, y_gradient = skipgram_gradient(x, y, inputs, trues, negatives)
    np.testing.assert_allclose((x - x_new) / rate, x_gradient, atol=5e-5)
    np.testing.assert_allclose((y - y_new) / rate, y_gradient, atol=5e-5)
    assert not x_new[:, width:].any()
    assert not y_new[:, width:].any()


def test_a_row_that_is_named_twice_takes_both_steps():
    x, y = tables(4, 16, np.random.default_rng(0))
    x_new, y_new, rate = x.astype(np.float32), y.astype(np.float32), 1e-4
    rows = np.array([1, 1], np.int32), np.array([2, 2], np.int32), 2, with_room([3, 3, 2]), 3
    update(x_new, y_new, *rows, np.float32(rate), np.zeros((2, LANES), np.float32), False)
    x_gradient, y_gradient = skipgram_gradient(x, y, [1, 1], [2, 2], [3, 3, 2])
    np.testing.assert_allclose((x - x_new) / rate, x_gradient, atol=5e-3)
    np.testing.assert_allclose((y - y_new) / rate, y_gradient, atol=5e-3)


def test_many_negatives_are_further_steps():
    rng = np.random.default_rng(0)
    x, y = (table.astype(np.float32) for table in tables(20, 16, rng))
    x_other, y_other = x.copy(), y.copy()
    inputs, trues, rate = np.array([1, 2], np.int32), np.array([3, 4], np.int32), np.float32(0.1)
    step, negatives = np.zeros((2, LANES), np.float32), np.arange(5, 17, dtype=np.int32)
    update(x, y, inputs, trues, 2, with_room(negatives.tolist()), 12, rate, step, False)
    # The same with the later negatives as the negatives of pairs without a true target: that of a row of zeros, put back.
    update(x_other, y_other, inputs, trues, 2, with_room([5, 6, 7, 8, 9]), 5, rate, step, False)
    for later in ([10, 11, 12, 13, 14], [15, 16]):
        gradient = skipgram_gradient(x_other.astype(float), y_other.astype(float), [1, 2], [0, 0], later)
        positive = skipgram_gradient(x_other.astype(float), y_other.astype(float), [1, 2], [0, 0], [])
        x_other -= (rate * (gradient[0] - positive[0])).astype(np.float32)
        y_other -= (rate * (gradient[1] - positive[1])).astype(np.float32)
    np.testing.assert_allclose(x, x_other, atol=1e-6)
    np.testing.assert_allclose(y, y_other, atol=1e-6)


def test_reference_gradient_is_that_of_the_reference_loss():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 5)), rng.normal(size=(6, 5))
    rows = [0, 1], [2, 3], [4, 5]
    gradient, _ = skipgram_gradient(x, y, *rows)
    for d in range(5):
        nudge = np.zeros_like(x)
        nudge[0, d] = 1e-6
        change = skipgram_loss(x + nudge, y, *rows) - skipgram_loss(x - nudge, y, *rows)
        assert gradient[0, d] == pytest.approx(change / 2e-6, abs=1e-7)


def test_sigmoid_is_exact_to_a_millionth_and_keeps_nan():
    logits = np.concatenate([np.linspace(-30, 30, 400), [np.nan, np.inf, -np.inf]]).astype(np.float32)
    zero, step = np.zeros(1, np.int32), np.empty((1, LANES), np.float32)
    for logit in logits:
        # The first column is the logit; the true target's step is 1 - s, that of the negative - s.
        x, y = np.zeros((2, 2, LANES), np.float32)
        x[0, 0], y[:, 0] = 1, logit
        update(x, y, zero, zero, 1, with_room([1]), 1, np.float32(1), step, False)
        expected = 1 / (1 + np.exp(-logit.astype(float)))
        assert step[0, :2] == pytest.approx([1 - expected, -expected], abs=1e-6, nan_ok=True)
        assert not step[0, 2:].any()


@njit
def radii(window, dynamic, n, state):
    found = np.zeros(window + 2, np.int64)
    for _ in range(n):
        state, radius = draw_radius(state, window, dynamic)
        found[radius] += 1
    return found


def test_dynamic_window_is_uniform():
    found = radii(5, True, 100_000, np.uint64(3))
    assert found[0] == 0 and found[6] == 0
    assert ((found[1:6] - 20_000) ** 2 / 20_000).sum() < 18.5  # 4 degrees of freedom, p = 0.001


def test_fixed_window_is_fixed():
    assert radii(5, False, 100, np.uint64(3)).tolist() == [0, 0, 0, 0, 0, 100, 0]


@pytest.mark.parametrize(
    ("centre", "radius", "expected"),
    [(0, 2, [11, 12]), (2, 2, [10, 11, 13]), (3, 1, [12]), (4, 9, [15]), (5, 1, [14]), (1, 99, [10, 12, 13])],
)
def test_contexts_stay_inside_radius_and_sequence(centre, radius, expected):
    rows, sequence = np.arange(10, 16, dtype=np.int32), np.array([0, 0, 0, 0, 1, 1], np.int32)
    found = np.empty(6, np.int32)
    n = contexts_of(rows, sequence, 6, centre, radius, found)
    assert found[:n].tolist() == expected


def source_of(items, times, *, rows=None, kinds=None, used=None, keep=None):
    n_items = max(items) + 1
    kind_weights = np.zeros(256, np.float32)
    kind_weights[used if used is not None else slice(None)] = 1
    return skipgram.Source(
        np.array([0, len(items)]),
        np.array(items, np.int32),
        np.array(times, np.int64),
        np.array(kinds if kinds is not None else [0] * len(items), np.uint8),
        np.array(rows if rows is not None else range(n_items), np.int32),
        kind_weights,
        np.array(keep if keep is not None else [1] * n_items, np.float32),
    )


def read(source, max_gap=0, state=0):
    n = len(source.items)
    row, time, sequence = np.empty(n, np.int32), np.empty(n, np.int64), np.empty(n, np.int32)
    found, _ = read_user(source, 0, max_gap, np.uint64(state), row, time, sequence)
    return row[:found].tolist(), sequence[:found].tolist()


def test_a_gap_ends_a_sequence_only_when_it_is_larger():
    source = source_of([0, 1, 2, 3], [0, 100, 201, 300])
    assert read(source) == ([0, 1, 2, 3], [0, 0, 0, 0])
    assert read(source, max_gap=100) == ([0, 1, 2, 3], [0, 0, 1, 1])
    assert read(source, max_gap=101) == ([0, 1, 2, 3], [0, 0, 0, 0])


def test_items_without_row_and_unused_kinds_are_left_out():
    source = source_of([0, 1, 2, 0], [0, 1, 2, 3], rows=[5, -1, 6], kinds=[0, 0, 1, 0], used=[0], keep=[1] * 7)
    assert read(source) == ([5, 5], [0, 0])


def test_a_thinned_out_event_still_bridges_a_gap():
    source = source_of([0, 1, 2], [0, 80, 160], keep=[1, 0, 1])
    assert read(source, max_gap=100) == ([0, 2], [0, 0])


def test_subsampling_keeps_the_share_asked_for():
    source = source_of([0, 1] * 20_000, range(40_000), keep=[0.3, 1])
    rows, _ = read(source, state=9)
    assert rows.count(1) == 20_000
    assert rows.count(0) / 20_000 == pytest.approx(0.3, abs=0.01)


def test_kinds_are_kept_by_their_weight():
    n = 20_000
    source = source_of([0, 1] * n, range(2 * n), kinds=[0, 1] * n, keep=[0.5, 1])
    source = source._replace(kind_weights=np.array([0.6, 0.2] + [1.0] * 254, np.float32))
    rows, _ = read(source, state=9)
    assert rows.count(0) / n == pytest.approx(0.3, abs=0.01)
    assert rows.count(1) / n == pytest.approx(0.2, abs=0.01)


def test_streams_of_users_and_epochs_differ():
    @njit
    def first(seed, epoch, user):
        return next_random(first_state(seed, epoch, user))[1]

    found = {first(s, e, u) for s in range(4) for e in range(10) for u in range(100)}
    assert len(found) == 4 * 10 * 100


def test_baskets_are_permuted_inside_equal_times_only():
    orders = set()
    for state in range(200):
        rows, times = np.arange(6, dtype=np.int32), np.array([0, 1, 1, 1, 2, 3])
        skipgram.shuffle_baskets(rows, times, 6, np.uint64(state))
        assert rows[0] == 0 and rows[4:].tolist() == [4, 5]
        orders.add(tuple(rows[1:4].tolist()))
    assert len(orders) == 6
