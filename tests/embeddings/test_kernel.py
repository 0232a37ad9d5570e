import numpy as np
import pytest
from numba import njit

from heedful.embeddings import kernel
from heedful.embeddings.kernel import contexts_of, draw_radius, loss, read_user, update
from heedful.embeddings.streams import first_state, next_random


def reference_loss(x, y, contexts, negatives, weight):
    """Section 3 of the paper, in double precision."""

    def log_sigmoid(z):
        return -np.logaddexp(0, -z)

    return -(log_sigmoid(y[contexts] @ x).sum() + weight * log_sigmoid(-y[negatives] @ x).sum())


def reference_gradient(x, y, contexts, negatives, weight):
    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    x_gradient, y_gradient = np.zeros_like(x), np.zeros_like(y)
    for row, factor in [(j, sigmoid(x @ y[j]) - 1) for j in contexts] + [(j, weight * sigmoid(x @ y[j])) for j in negatives]:
        x_gradient += factor * y[row]
        y_gradient[row] += factor * x
    return x_gradient, y_gradient


@pytest.mark.parametrize(("contexts", "negatives", "weight"), [([1], [2, 3, 4, 5, 6], 1.0), ([1, 2, 3, 4], [5, 6, 0], 4.0)])
@pytest.mark.parametrize("width", [1, 7, 64])
def test_update_is_the_gradient_step_of_the_loss(contexts, negatives, weight, width):
    rng = np.random.default_rng(width)
    x, y = rng.normal(size=width) / width**0.5, rng.normal(size=(7, width))
    x_new, y_new = x.astype(np.float32), y.astype(np.float32)
    targets, rate = np.array(contexts + negatives, np.int32), 0.01
    found = loss(x_new, y_new, targets, len(contexts), len(targets), weight)
    assert found == pytest.approx(reference_loss(x, y, contexts, negatives, weight), rel=1e-5)
    step, total = np.empty(len(targets), np.float32), np.empty(width, np.float32)
    update(x_new, y_new, targets, len(contexts), len(targets), np.float32(weight), np.float32(rate), step, total)
    x_gradient, y_gradient = reference_gradient(x, y, contexts, negatives, weight)
    np.testing.assert_allclose((x - x_new) / rate, x_gradient, atol=3e-5)
    np.testing.assert_allclose((y - y_new) / rate, y_gradient, atol=3e-5)


def test_reference_gradient_is_that_of_the_reference_loss():
    rng = np.random.default_rng(0)
    x, y, contexts, negatives = rng.normal(size=5), rng.normal(size=(6, 5)), [1, 2], [3, 4, 5]
    gradient, _ = reference_gradient(x, y, contexts, negatives, 2.0)
    for d in range(5):
        nudge = np.eye(5)[d] * 1e-6
        change = reference_loss(x + nudge, y, contexts, negatives, 2.0) - reference_loss(
            x - nudge, y, contexts, negatives, 2.0
        )
        assert gradient[d] == pytest.approx(change / 2e-6, abs=1e-7)


def test_sigmoid_is_exact_to_a_millionth_and_keeps_nan():
    logits = np.concatenate([np.linspace(-30, 30, 20_001), [np.nan, np.inf, -np.inf]]).astype(np.float32)
    # With one negative of weight 1, the step size is -sigmoid(logit).
    for logit, expected in zip(logits[::50], 1 / (1 + np.exp(-logits[::50].astype(float))), strict=True):
        step = np.empty(1, np.float32)
        x, y = np.ones(1, np.float32), np.array([[logit]], np.float32)
        update(x, y, np.zeros(1, np.int32), 0, 1, np.float32(1), np.float32(1), step, np.empty(1, np.float32))
        assert -step[0] == pytest.approx(expected, abs=1e-6)
    x, y = np.ones(1, np.float32), np.array([[np.nan]], np.float32)
    update(x, y, np.zeros(1, np.int32), 0, 1, np.float32(1), np.float32(1), step, np.empty(1, np.float32))
    assert np.isnan(step[0])


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
    used_kinds = np.zeros(256, bool)
    used_kinds[used if used is not None else slice(None)] = True
    return kernel.Source(
        np.array([0, len(items)]),
        np.array(items, np.int32),
        np.array(times, np.int64),
        np.array(kinds if kinds is not None else [0] * len(items), np.uint8),
        np.array(rows if rows is not None else range(n_items), np.int32),
        used_kinds,
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
        kernel.shuffle_baskets(rows, times, 6, np.uint64(state))
        assert rows[0] == 0 and rows[4:].tolist() == [4, 5]
        orders.add(tuple(rows[1:4].tolist()))
    assert len(orders) == 6
