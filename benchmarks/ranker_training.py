"""Training of the paper's attention ranker beside a plain padded PyTorch module of its equations, at K = 10.

    python benchmarks/ranker_training.py --rounds 5

Both take the same instances (a past, up to 10 positives, 100 negatives) from one log with skewed history lengths (mean
about 30, the longest some hundreds), 64 users a batch, balanced logistic loss, Adam, fp32. heedful's side is its own
training: sampler, batches by length, the cheaper of its two forms. The plain module projects every past item in every
layer, as the equations of section 4.1 are written; its batches are made beforehand, padded to the longest history of the
batch or, as many recommenders do, of the log. First it is checked that the gradients of the two agree.
Prints users per second, their ratios, and the share of time that the step waits for batches.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from made_up import random_table, skewed_log
from side_by_side import in_turn, parser, ratio, report
from torch import nn

from heedful.events.log import EventLog
from heedful.model.encode import HistoryBatch
from heedful.rankers.attention import AttentionRanker
from heedful.training.batch import Batch
from heedful.training.forward import TrainingForward
from heedful.training.loop import TrainingRun
from heedful.training.losses import LOSSES
from heedful.training.sampler import Position

WIDTH, HIDDEN, DEPTH = 64, 128, 10


class PlainAttention(nn.Module):
    """Section 4.1 as it is written; shapes B users, L past items, C candidates, H hidden width."""

    def __init__(self) -> None:
        super().__init__()
        self.h = nn.Linear(WIDTH, HIDDEN)
        self.f = nn.ModuleList(nn.Linear(WIDTH, HIDDEN) for _ in range(DEPTH))
        self.g = nn.ModuleList(nn.Linear(WIDTH, HIDDEN) for _ in range(DEPTH))
        self.phi = nn.Linear(HIDDEN, 1, bias=False)

    def forward(self, x_BLD: torch.Tensor, used_BL: torch.Tensor, xq_BCD: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros_like(used_BL).masked_fill(used_BL == 0, -torch.inf)[:, None, :]
        z_BCH = self.h(xq_BCD)
        for f, g in zip(self.f, self.g, strict=True):
            p_BCL = (torch.bmm(z_BCH, f(x_BLD).transpose(1, 2)) + mask).softmax(-1)
            z_BCH = z_BCH + torch.bmm(p_BCL, g(x_BLD))
        return self.phi(z_BCH).squeeze(-1)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--users", type=int, default=4000)
    options.add_argument("--items", type=int, default=20_000)
    options.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True, help="measure that too")
    options.add_argument("--steps", type=int, default=40, help="updates of a round")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)
    log = skewed_log(chosen.users, chosen.items)
    ranker = AttentionRanker(preset="paper", steps=1, assess_every=1, holdout_users=1, cuts="fresh").fit(
        log, random_table(log)
    )
    plain = like(ranker)
    difference = agreement(ranker, plain, log)
    sides = Sides(ranker, plain, log, chosen)
    heedful = {"heedful": sides.heedful}
    if chosen.bfloat16:
        heedful["heedful, bfloat16"] = sides.bfloat16
    padded = {
        "plain, padded to the batch": lambda: sides.plain(sides.by_batch, chosen.steps),
        "plain, padded to the log": lambda: sides.plain(sides.by_log, max(chosen.steps // 4, 1)),
    }
    rates = in_turn({**heedful, **padded}, chosen.rounds)
    report(
        chosen,
        {
            "users_per_second": rates,
            "ratios": {f"{a} / {b}": ratio(rates, a, b) for a in heedful for b in padded},
            "largest_difference": difference,
            "share_of_time_waiting_for_batches": sides.waited / sides.worked,
            "history_mean": float(log.histories.lengths.mean()),
            "history_longest": int(log.histories.lengths.max()),
        },
    )


def like(ranker: AttentionRanker) -> PlainAttention:
    """The plain module with the weights of a fitted ranker, f's bias zero."""
    plain, model = PlainAttention(), ranker._net.model.attention
    with torch.no_grad():
        plain.h.load_state_dict(model.h.state_dict())
        plain.phi.weight.copy_(model.phi)
        for k in range(DEPTH):
            plain.f[k].weight.copy_(model.f[k])
            plain.f[k].bias.zero_()
            plain.g[k].load_state_dict(model.g[k].state_dict())
    return plain


def agreement(ranker: AttentionRanker, plain: PlainAttention, log: EventLog) -> dict[str, float]:
    """Largest difference of loss and of gradients between the two on one batch, relative to the largest gradient."""
    batch, _ = next(sampler(ranker, log).batches(Position()))
    ranker._net.zero_grad()
    model = ranker._net.model.attention
    loss_of(ranker._forward(ranker._past(batch.memory), ranker._inputs(batch.candidates)), batch).backward()
    loss = loss_of(plain(*padded_inputs(ranker, batch)), batch)
    loss.backward()
    pairs = [(model.h.weight.grad, plain.h.weight.grad), (model.phi.grad, plain.phi.weight.grad)]
    pairs += [(f.grad, layer.weight.grad) for f, layer in zip(model.f, plain.f, strict=True)]
    pairs += [(a.weight.grad, b.weight.grad) for a, b in zip(model.g, plain.g, strict=True)]
    largest = max(float(b.abs().max()) for _, b in pairs)
    return {"gradient": max(float((a - b).abs().max()) for a, b in pairs) / largest}


def sampler(ranker: AttentionRanker, log: EventLog):
    return ranker._sampler(log, ranker._learn_catalogue(log, ranker.embeddings), None, None)


def loss_of(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    positive, weights = (torch.from_numpy(array).to(logits.device) for array in (batch.positive, batch.weights))
    return LOSSES["logistic"](logits, positive, weights)


def padded_inputs(ranker: AttentionRanker, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    used = torch.from_numpy((batch.memory.counts > 0).astype(np.float32)).to(ranker._device)
    return ranker._inputs(batch.memory.rows), used, ranker._inputs(batch.candidates)


def updates(run: TrainingRun, batches: Iterator[tuple[Batch, Position]], steps: int) -> tuple[int, float, float]:
    """Some updates of heedful's own training: (users, seconds that they waited for batches, seconds in all)."""
    users, waited, started = 0, 0.0, time.perf_counter()
    for _ in range(steps):
        before = time.perf_counter()
        batch, _ = next(batches)
        waited += time.perf_counter() - before
        run._update(batch)
        users += len(batch.now)
    return users, waited, time.perf_counter() - started


def plain_updates(
    ranker: AttentionRanker, module: PlainAttention, adam: torch.optim.Adam, batches: Iterator[Batch], steps: int
) -> float:
    """Some updates of the plain module: users per second."""
    users, started = 0, time.perf_counter()
    for _ in range(steps):
        batch = next(batches)
        adam.zero_grad()
        loss = loss_of(module(*padded_inputs(ranker, batch)), batch)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 10.0)
        adam.step()
        loss.item()  # who trains looks at the loss; a GPU is waited for then, as on heedful's side
        users += len(batch.now)
    return users / (time.perf_counter() - started)


class Sides:
    """The two sides of the measurement; each call makes some updates and returns users per second."""

    def __init__(self, ranker: AttentionRanker, plain: PlainAttention, log: EventLog, options: argparse.Namespace) -> None:
        self.steps, self.waited, self.worked = options.steps, 0.0, 0.0
        run = TrainingRun(ranker._net, TrainingForward(ranker), sampler(ranker, log), ranker.config, "", None)
        self.run, self.batches = run, run.batches()
        self.ranker, self.module = ranker, plain
        self.adam = torch.optim.Adam(plain.parameters(), lr=0.002)
        # The same instances for the plain module, in batches of users as they come: made beforehand, not timed.
        batches = sampler(ranker, log).batches(Position())
        epoch = [next(batches)[0] for _ in range(len(log.users) // 64)]
        self.by_batch, self.by_log = (itertools.cycle(mixed(epoch, whole)) for whole in (False, True))

    def heedful(self) -> float:
        users, waited, took = updates(self.run, self.batches, self.steps)
        self.waited, self.worked = self.waited + waited, self.worked + took
        return users / took

    def bfloat16(self) -> float:
        single, self.ranker.config = self.ranker.config, replace(self.ranker.config, precision="bfloat16")
        rate = self.heedful()
        self.ranker.config = single
        return rate

    def plain(self, batches: Iterator[Batch], steps: int) -> float:
        return plain_updates(self.ranker, self.module, self.adam, batches, steps)


def mixed(batches: list[Batch], whole: bool, size: int = 64) -> list[Batch]:
    """The instances of an epoch in random batches, padded to the longest history of each or of the whole log."""
    longest = max(batch.memory.rows.shape[1] for batch in batches)

    def joined(column: str) -> np.ndarray:
        arrays = [getattr(batch.memory, column) for batch in batches]
        return np.concatenate([np.pad(a, ((0, 0), (0, longest - a.shape[1]))) for a in arrays])

    memory = {name: joined(name) for name in ("rows", "ages", "counts", "kinds")}
    lengths = np.concatenate([batch.memory.lengths for batch in batches])
    flat = {
        name: np.concatenate([getattr(b, name) for b in batches]) for name in ("candidates", "positive", "weights", "now")
    }
    order = np.random.default_rng(0).permutation(len(lengths))
    made = []
    for low in range(0, len(order) - size + 1, size):
        users = order[low : low + size]
        used = longest if whole else int(lengths[users].max())
        part = HistoryBatch(lengths[users], *(memory[name][users, :used] for name in ("rows", "ages", "counts", "kinds")))
        made.append(Batch(part, *(flat[name][users] for name in ("candidates", "positive", "weights", "now")), seed=0))
    return made


if __name__ == "__main__":
    main()
