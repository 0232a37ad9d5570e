"""Training of the attention ranker, both presets, beside plain PyTorch modules of the same equations.

    python benchmarks/ranker_training.py --rounds 5

One log with skewed history lengths (mean about 30, the longest some hundreds), 64 users a batch, fp32. Two comparisons:

- For each preset, training steps of heedful itself with the attention in three forms: as it is, without the kernels of
  `heedful.kernels` (over the items), and the plain form, which projects every past item in every layer, as the equations of
  section 4.1 are written. Everything else is the same: batches by length, the other terms of the score, the optimiser.
- For the paper's preset, training of heedful beside a plain module as one would write it: the same instances in batches made
  beforehand, padded to the longest history of the batch or, as many recommenders do, of the log.

First it is checked that the gradients of the plain module agree. Prints users per second, their ratios, and the share of
time that the step waits for batches.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from made_up import random_table, skewed_log
from side_by_side import in_turn, parser, ratio, report
from torch import nn

from heedful.events.log import EventLog
from heedful.kernels import attention_cpu
from heedful.kernels.reference import PlainAttention
from heedful.model.encode import HistoryBatch
from heedful.model.inputs import Inputs
from heedful.model.popularity import PopularityIndex
from heedful.model.score import ScoreModel, Term
from heedful.rankers.attention import AttentionRanker
from heedful.training.batch import Batch
from heedful.training.forward import TrainingForward
from heedful.training.loop import TrainingLoop
from heedful.training.losses import LOSSES
from heedful.training.sampler import Position


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--users", type=int, default=4000)
    options.add_argument("--items", type=int, default=20_000)
    options.add_argument("--steps", type=int, default=40, help="updates of a round")
    options.add_argument("--presets", nargs="+", choices=("default", "paper"), default=["default", "paper"])
    options.add_argument("--own-loop", action="store_true", help="only the first comparison")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)
    log = skewed_log(chosen.users, chosen.items)
    result: dict[str, Any] = {
        "history_mean": float(log.histories.lengths.mean()),
        "history_longest": int(log.histories.lengths.max()),
    }
    for preset in chosen.presets:
        result[f"forms of the attention, {preset} preset"] = forms(Training(log, preset), chosen)
    if not chosen.own_loop:
        result["plain training, paper preset"] = plain_training(Training(log, "paper"), chosen)
    report(chosen, result)


class Training:
    """A ranker before its first step, and how it is trained."""

    def __init__(self, log: EventLog, preset: str, **options: Any) -> None:
        self.ranker = AttentionRanker(preset=preset, steps=1, validate_every=1, validation_users=1, **options)
        histories, users = self.ranker.begin(log, random_table(log)), len(log.users)
        with_popularity = "popularity_over_time" in self.ranker.model.terms
        popularity = PopularityIndex(histories, len(self.ranker.items)) if with_popularity else None
        self.sampler = self.ranker.sampler(log, histories, popularity)
        self.batches_of_epoch = max(users // self.ranker.config.batch_users, 1)

    @property
    def attention(self) -> Any:
        return self.ranker.model.terms["attention"]

    def loop(self, model: ScoreModel | None = None) -> TrainingLoop:
        """The training of a model in the place of the ranker's."""
        model = model or self.ranker.model
        return TrainingLoop(model, TrainingForward(model, self.ranker.inputs), self.sampler, self.ranker.config)

    def epoch(self) -> list[Batch]:
        return [batch for batch, _ in itertools.islice(self.sampler.batches(Position()), self.batches_of_epoch)]

    def inputs_of(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `PlainAttention` takes them."""
        inputs, rows = self.ranker.inputs, torch.from_numpy(batch.history.counts > 0).to(self.ranker.inputs.device)
        return inputs(batch.history.rows), rows, inputs(batch.candidates)


class PlainTerm(Term):
    """The plain form as a term of the score."""

    def __init__(self, plain: PlainAttention) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, inputs: Inputs) -> torch.Tensor:
        return self.plain(inputs.x_BLD, inputs.used_BL > 0, inputs.xq_BCD)


def forms(training: Training, options: argparse.Namespace) -> dict[str, Any]:
    """heedful's own steps with the attention in each form; every side takes the same batches in turn."""
    model, kernel_is_faster = training.ranker.model, attention_cpu.is_faster
    plain_terms = {**copy.deepcopy(model.named_terms()), "attention": PlainTerm(PlainAttention.of(training.attention))}
    batches = training.epoch()

    def rounds_of(model: ScoreModel, is_faster: Callable[..., bool]) -> Callable[[], float]:
        loop, coming = training.loop(model), itertools.cycle(batches)

        def measure() -> float:
            attention_cpu.is_faster = is_faster
            users, started = 0, time.perf_counter()
            for batch in itertools.islice(coming, options.steps):
                loop.update(batch)
                users += len(batch.now)
            attention_cpu.is_faster = kernel_is_faster
            return users / (time.perf_counter() - started)

        return measure

    sides = {
        "kernels": rounds_of(model, kernel_is_faster),
        "over the items": rounds_of(copy.deepcopy(model), lambda *_: False),
        "plain": rounds_of(ScoreModel(plain_terms), lambda *_: False),
    }
    rates = in_turn(sides, options.rounds)
    on_kernels = [kernel_is_faster(training.attention, *training.inputs_of(batch)) for batch in batches]
    return {
        "users_per_second": rates,
        "ratios": {f"kernels / {name}": ratio(rates, "kernels", name) for name in sides if name != "kernels"},
        "share_of_batches_on_kernels": float(np.mean(on_kernels)),
    }


def plain_training(training: Training, options: argparse.Namespace) -> dict[str, Any]:
    """heedful's training beside a plain module with batches of users as they come: made beforehand, not timed."""
    plain = PlainAttention.of(training.attention)
    difference = agreement(training, plain)
    adam = torch.optim.Adam(plain.parameters(), lr=0.002)
    loop, waits = training.loop(), [0.0, 0.0]
    batches, epoch = loop.batches(), training.epoch()

    def own() -> float:
        users, waited, took = updates(loop, batches, options.steps)
        waits[:] = waits[0] + waited, waits[1] + took
        return users / took

    sides: dict[str, Callable[[], float]] = {"heedful": own}
    for name, whole, steps in (("batch", False, options.steps), ("log", True, max(options.steps // 4, 1))):
        made = itertools.cycle(mixed(epoch, whole))
        sides[f"plain, padded to the {name}"] = lambda made=made, steps=steps: plain_updates(
            training, plain, adam, made, steps
        )
    rates = in_turn(sides, options.rounds)
    return {
        "users_per_second": rates,
        "ratios": {f"heedful / {name}": ratio(rates, "heedful", name) for name in sides if name != "heedful"},
        "largest_difference": difference,
        "share_of_time_waiting_for_batches": waits[0] / waits[1],
    }


def agreement(training: Training, plain: PlainAttention) -> dict[str, float]:
    """Largest difference of gradients between the two on one batch, relative to the largest gradient."""
    batch, _ = next(training.sampler.batches(Position()))
    model = training.attention
    model.zero_grad()
    loss_of(TrainingForward(training.ranker.model, training.ranker.inputs)(batch), batch).backward()
    loss_of(plain(*training.inputs_of(batch)), batch).backward()
    pairs = [(model.phi.grad, plain.phi.weight.grad)]
    pairs += [(f.grad, layer.weight.grad) for f, layer in zip(model.f, plain.f, strict=True)]
    pairs += [(a.weight.grad, b.weight.grad) for a, b in zip((model.h, *model.g), (plain.h, *plain.g), strict=True)]
    largest = max(float(b.abs().max()) for _, b in pairs)
    return {"gradient": max(float((a - b).abs().max()) for a, b in pairs) / largest}


def loss_of(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    positive, weights = (torch.from_numpy(array).to(logits.device) for array in (batch.positive, batch.weights))
    return LOSSES["logistic"](logits, positive, weights)


def updates(loop: TrainingLoop, batches: Iterator[tuple[Batch, Position]], steps: int) -> tuple[int, float, float]:
    """Some updates of heedful's own training: (users, seconds that they waited for batches, seconds in all)."""
    users, waited, started = 0, 0.0, time.perf_counter()
    for _ in range(steps):
        before = time.perf_counter()
        batch, _ = next(batches)
        waited += time.perf_counter() - before
        loop.update(batch)
        users += len(batch.now)
    return users, waited, time.perf_counter() - started


def plain_updates(
    training: Training, module: PlainAttention, adam: torch.optim.Adam, batches: Iterator[Batch], steps: int
) -> float:
    """Some updates of the plain module: users per second."""
    users, started = 0, time.perf_counter()
    for _ in range(steps):
        batch = next(batches)
        adam.zero_grad()
        loss = loss_of(module(*training.inputs_of(batch)), batch)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 10.0)
        adam.step()
        loss.item()  # who trains looks at the loss; a GPU is waited for then, as on heedful's side
        users += len(batch.now)
    return users / (time.perf_counter() - started)


def mixed(batches: list[Batch], whole: bool, size: int = 64) -> list[Batch]:
    """The instances of an epoch in random batches, padded to the longest history of each or of the whole log."""
    longest = max(batch.history.rows.shape[1] for batch in batches)

    def joined(column: str) -> np.ndarray:
        arrays = [getattr(batch.history, column) for batch in batches]
        return np.concatenate([np.pad(a, ((0, 0), (0, longest - a.shape[1]))) for a in arrays])

    history = {name: joined(name) for name in ("rows", "ages", "counts", "kinds")}
    lengths = np.concatenate([batch.history.lengths for batch in batches])
    flat = {
        name: np.concatenate([getattr(b, name) for b in batches]) for name in ("candidates", "positive", "weights", "now")
    }
    order = np.random.default_rng(0).permutation(len(lengths))
    made = []
    for low in range(0, len(order) - size + 1, size):
        users = order[low : low + size]
        used = longest if whole else int(lengths[users].max())
        part = HistoryBatch(lengths[users], *(history[name][users, :used] for name in ("rows", "ages", "counts", "kinds")))
        made.append(Batch(part, *(flat[name][users] for name in ("candidates", "positive", "weights", "now")), seed=0))
    return made


if __name__ == "__main__":
    main()
