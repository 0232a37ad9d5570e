"""Each kernel of `heedful.kernels` beside what it replaces: the gains of docs/kernels.md.

python benchmarks/kernels.py --rounds 9 --compare-threads

Both sides by turns; the processor time of one thread, so that other programs matter less. The threads are compared by wall
time. `ranker_training.py` measures whole training steps, `skipgram_vs_gensim.py` whole epochs of embeddings,
`sampling_and_metrics.py` draws from alias tables.
"""

from __future__ import annotations

import ctypes
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
from side_by_side import in_turn, parser, ratio, report, seconds

from heedful.kernels import (
    attention_cpu,
    attention_folding,
    attention_layers,
    attention_scoring,
    interactions_scoring,
    openmp,
)
from heedful.kernels.matmul import LANES, integers_at, multiply, softmax, transpose
from heedful.kernels.reference import PlainAttention
from heedful.kernels.skipgram import update
from heedful.kernels.skipgram_simd import NEGATIVES
from heedful.model.attention import Attention
from heedful.model.inputs import Inputs
from heedful.model.terms import ItemInteractions

WIDTH, HIDDEN = 64, 128
Work = Callable[[], Any]
# Layers, null tokens and candidates of the two presets.
PRESETS = {"default": (2, 4, 74), "paper": (10, 0, 110)}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--kernels", default="", help="only those whose name begins so")
    options.add_argument("--compare-threads", action="store_true", help="that as well")
    chosen = options.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    pairs = {**attention_pairs(), **scoring_pairs(), **folding_pairs(), **matmul_pairs(), **skipgram_pairs()}
    result: dict[str, Any] = {"microseconds": {}, "time_ratios": {}}
    for name, pair in pairs.items():
        if not name.startswith(chosen.kernels):
            continue
        rates = in_turn({side: lambda work=work: 1 / processor_seconds(work) for side, work in pair.items()}, chosen.rounds)
        result["microseconds"][name] = {side: 1e6 / statistics.median(values) for side, values in rates.items()}
        ratios = {f"{side} / kernel": ratio(rates, "kernel", side) for side in pair if side != "kernel"}
        result["time_ratios"][name] = ratios
        print(name, ratios, file=sys.stderr, flush=True)
    if chosen.compare_threads:
        torch.set_num_threads(chosen.threads)
        result["threads_time_ratios"] = {name: compared_threads(name, chosen.threads, chosen.rounds) for name in PRESETS}
    report(chosen, result)


def processor_seconds(work: Work, least: float = 0.02) -> float:
    """Processor time of a call, over as many calls as take `least`."""
    calls, started = 0, time.process_time()
    while (took := time.process_time() - started) < least:
        work()
        calls += 1
    return took / calls


def batch(candidates: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """64 users with 4 to 12 past items, as sorting by length puts them together: half of a log's users have 8 or fewer."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 13, (64,), generator=draw)
    x_BLD, xq_BCD = (torch.randn(64, n, WIDTH, generator=draw) / 4 for n in (12, candidates))
    return x_BLD, torch.arange(12) < lengths[:, None], xq_BCD


def attention_pairs() -> dict[str, dict[str, Work]]:
    """A forward and a backward pass: kernels, section 4.1 as written, and the model's form over the items."""
    pairs = {}
    for preset, (depth, null_tokens, candidates) in PRESETS.items():
        model = Attention(width=WIDTH, hidden=HIDDEN, depth=depth, null_tokens=null_tokens, scale=2.0)
        plain, inputs = PlainAttention.of(model), batch(candidates)
        pairs[f"attention_cpu, {preset} preset"] = {
            "kernel": lambda model=model, inputs=inputs: attention_cpu.logits(model, *inputs).sum().backward(),
            "plain": lambda plain=plain, inputs=inputs: plain(*inputs).sum().backward(),
            "over items": lambda model=model, inputs=inputs: over_items(model, *inputs).sum().backward(),
        }
    return pairs


def over_items(model: Attention, x_BLD: torch.Tensor, used_BL: torch.Tensor, xq_BCD: torch.Tensor) -> torch.Tensor:
    with replaced(attention_cpu, "is_faster", lambda *_: False):
        return model(Inputs(x_BLD, used_BL.float(), used_BL.float(), xq_BCD))


def scoring_pairs() -> dict[str, dict[str, Work]]:
    """1,024 items of a catalogue for 16 users, without gradients: kernels and the model's form over the items."""
    pairs: dict[str, dict[str, Work]] = {}
    draw = torch.Generator().manual_seed(0)
    interactions = ItemInteractions(width=WIDTH, scale=2.0)
    for past in (8, 30, 200):
        x_BLD, xq_BCD = torch.randn(16, past, WIDTH, generator=draw) / 4, torch.randn(1, 1024, WIDTH, generator=draw) / 4
        used_BL = torch.ones(16, past)
        inputs = Inputs(x_BLD, used_BL, used_BL, xq_BCD)
        terms: dict[str, Callable[[Inputs], torch.Tensor]] = {f"interactions_scoring, {past} past items": interactions}
        for preset, (depth, null_tokens, _) in PRESETS.items():
            model = Attention(width=WIDTH, hidden=HIDDEN, depth=depth, null_tokens=null_tokens, scale=2.0)
            terms[f"attention_scoring, {preset} preset, {past} past items"] = model
        for name, term in terms.items():
            pairs[name] = {
                "kernel": lambda term=term, inputs=inputs: without_gradients(term, inputs),
                "over items": lambda term=term, inputs=inputs: scored_over_items(term, inputs),
            }
    return pairs


def without_gradients(term: Callable[[Inputs], torch.Tensor], inputs: Inputs) -> torch.Tensor:
    with torch.inference_mode():
        return term(inputs)


def scored_over_items(term: Callable[[Inputs], torch.Tensor], inputs: Inputs) -> torch.Tensor:
    """In parts of 512 candidates and three users, whose intermediate results are not returned to the system."""
    never, found = (lambda *_: False), []
    with replaced(attention_scoring, "is_faster", never), replaced(interactions_scoring, "is_possible", never):
        for low in range(0, inputs.xq_BCD.shape[1], 512):
            some = inputs.xq_BCD[:, low : low + 512]
            found += [
                without_gradients(term, Inputs(x, used, used, some))
                for x, used in zip(inputs.x_BLD.split(3), inputs.used_BL.split(3), strict=True)
            ]
    return torch.cat(found)


def folding_pairs() -> dict[str, dict[str, Work]]:
    """The folded matrices, forward and backward, beside one library product for each layer."""
    pairs = {}
    for preset, (depth, _, _) in PRESETS.items():
        shapes = (depth, HIDDEN, WIDTH), (HIDDEN, (depth + 1) * WIDTH), (depth, WIDTH), (depth, WIDTH)
        parts = [torch.randn(shape).requires_grad_() for shape in shapes]
        sides = {"kernel": attention_folding.FoldedMatrices.apply, "library": folded_by_library}
        ones = torch.ones_like(sides["kernel"](*parts))
        assert torch.allclose(*(side(*parts)[:, : ones.shape[1] // LANES * LANES] for side in sides.values()), atol=1e-3)
        pairs[f"attention_folding, {preset} preset"] = {
            name: lambda side=side, parts=parts, ones=ones: side(*parts).backward(ones) for name, side in sides.items()
        }
    return pairs


def folded_by_library(
    f_KHD: torch.Tensor, hg_HX: torch.Tensor, start_KD: torch.Tensor, worth_KD: torch.Tensor
) -> torch.Tensor:
    depth, _, width = f_KHD.shape
    columns = [f_KHD[k].T @ hg_HX[:, : (1 + k) * width] for k in range(depth)]
    padding = f_KHD.new_zeros(width, -2 * depth % LANES)
    return torch.cat([*columns, start_KD.T, worth_KD.T, padding], dim=1)


@numba.njit(nogil=True)
def _repeat(which: Any, calls: Any, a: Any, b: Any, c: Any) -> None:
    for _ in range(calls):
        if which == 0:
            multiply(
                a.ctypes.data, a.shape[1], 1, b.ctypes.data, b.shape[1], c.ctypes.data, c.shape[1], c.shape[0], a.shape[1],
                c.shape[1], 0,
            )  # fmt: skip
        elif which == 1:
            np.dot(a, b, c)
        elif which == 2:
            transpose(b.ctypes.data, b.shape[1], c.ctypes.data, c.shape[1], b.shape[0], b.shape[1])
        elif which == 3:
            for i in range(b.shape[0]):
                for j in range(b.shape[1]):
                    c[j, i] = b[i, j]
        elif which == 4:
            softmax(c.ctypes.data, c.shape[1], c.shape[0], c.shape[1])
        else:
            _softmax_by_loops(c)


@numba.njit(nogil=True, fastmath=True)
def _softmax_by_loops(p: Any) -> None:
    for j in range(p.shape[1]):
        largest, total = p[0, j], np.float32(0)
        for i in range(p.shape[0]):
            largest = max(largest, p[i, j])
        for i in range(p.shape[0]):
            p[i, j] = math.exp(p[i, j] - largest)
            total += p[i, j]
        for i in range(p.shape[0]):
            p[i, j] /= total


def matmul_pairs() -> dict[str, dict[str, Work]]:
    """One user's matrices: 8 past items or 1, 64 columns, 112 candidates."""
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 64), (64, 112), (8, 112)))
    turned = np.zeros((112, 64), np.float32)

    def work(which: int, last: np.ndarray, first: np.ndarray = a) -> Work:
        return lambda: _repeat(which, 100, first, b, last)

    blas = "BLAS from compiled code"
    return {
        "matmul.multiply, 8 rows (100 calls)": {"kernel": work(0, c), blas: work(1, c)},
        "matmul.multiply, 1 row (100 calls)": {"kernel": work(0, c[:1], a[:1]), blas: work(1, c[:1], a[:1])},
        "matmul.transpose (100 calls)": {"kernel": work(2, turned), "loops": work(3, turned)},
        "matmul.softmax (100 calls)": {"kernel": work(4, c.copy()), "loops": work(5, c.copy())},
    }


@numba.njit(nogil=True)
def _updates(vectors: Any, pairs: Any, negatives: Any, step: Any, by_loops: Any) -> None:
    x, y = vectors
    inputs, trues = pairs
    for first in range(0, len(inputs) - 1, 2):
        both = slice(first, first + 2)
        if by_loops:
            _update_by_loops(x, y, inputs[both], trues[both], negatives)
        else:
            update(x, y, inputs[both], trues[both], 2, negatives, NEGATIVES, np.float32(0.01), step, False)


@numba.njit(nogil=True, fastmath=True)
def _update_by_loops(x: Any, y: Any, inputs: Any, trues: Any, negatives: Any) -> None:
    """As `skipgram.update`, pair by pair, as numba writes it."""
    for n in range(len(inputs)):
        own = x[inputs[n]]
        change = np.zeros_like(own)
        for t in range(1 + len(negatives)):
            target = y[trues[n]] if t == 0 else y[negatives[t - 1]]
            logit = np.float32(0)
            for d in range(len(own)):
                logit += own[d] * target[d]
            rate = np.float32(0.01) * ((t == 0) - np.float32(1) / (np.float32(1) + math.exp(-logit)))
            for d in range(len(own)):
                change[d] += rate * target[d]
                target[d] += rate * own[d]
        for d in range(len(own)):
            own[d] += change[d]


def skipgram_pairs() -> dict[str, dict[str, Work]]:
    """A thousand updates of two pairs that share five negatives."""
    rng = np.random.default_rng(0)
    vectors = tuple((rng.standard_normal((1000, WIDTH)) / 8).astype(np.float32) for _ in range(2))
    pairs = tuple(rng.integers(0, 1000, 2000).astype(np.int32) for _ in range(2))
    negatives, step = np.arange(NEGATIVES, dtype=np.int32), np.zeros((2, LANES), np.float32)
    sides = {"kernel": False, "loops": True}
    return {
        "skipgram_simd (1000 updates)": {
            name: lambda loops=loops: _updates(vectors, pairs, negatives, step, loops) for name, loops in sides.items()
        }
    }


def compared_threads(preset: str, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Wall time of ten steps on threads of other kinds, over that on PyTorch's own."""
    depth, null_tokens, candidates = PRESETS[preset]
    model, inputs = Attention(width=WIDTH, hidden=HIDDEN, depth=depth, null_tokens=null_tokens, scale=2.0), batch(candidates)
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, foreach=True)

    def steps() -> None:
        for _ in range(10):
            adam.zero_grad()
            attention_cpu.logits(model, *inputs).square().mean().backward()
            adam.step()

    def on(run: Callable[..., None]) -> float:
        with replaced(attention_layers, "run_on_threads", run), replaced(attention_folding, "run_on_threads", run):
            return 1 / seconds(steps)

    with ThreadPoolExecutor(max(threads - 1, 1)) as pool:
        sides = {
            "PyTorch's": openmp.run_on_threads,
            "Python's": on_pool(pool, threads - 1),
            "numba's": on_numba(threads),
            "the calling thread": on_pool(pool, 0),
        }
        rates = in_turn({name: lambda run=run: on(run) for name, run in sides.items()}, rounds)
    return {name: ratio(rates, "PyTorch's", name) for name in sides if name != "PyTorch's"}


def on_pool(pool: ThreadPoolExecutor, others: int) -> Callable[..., None]:
    def run(work: Callable[[Any], None], *facts: Any) -> None:
        numbers = openmp._numbers(facts)
        call, argument = openmp._compiled(work).ctypes, numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_int64))
        waited_for = [pool.submit(call, argument) for _ in range(others)]
        call(argument)
        for other in waited_for:
            other.result()

    return run


def on_numba(threads: int) -> Callable[..., None]:
    launchers: dict[Callable[[Any], None], Any] = {}

    def run(work: Callable[[Any], None], *facts: Any) -> None:
        if work not in launchers:
            launchers[work] = parallel(work)
        numbers = openmp._numbers(facts)
        launchers[work](numbers.ctypes.data, threads)

    return run


def parallel(work: Callable[[Any], None]) -> Any:
    compiled = numba.njit(nogil=True)(work)

    @numba.njit(parallel=True, nogil=True)
    def launch(address: Any, threads: Any) -> None:
        for _ in numba.prange(threads):
            compiled(integers_at(address))

    return launch


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


if __name__ == "__main__":
    main()
