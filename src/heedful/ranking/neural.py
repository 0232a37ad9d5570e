"""What the trained rankers share: conditioning of the inputs, the trend of items, fitting, scoring, folders.

Shapes: B users, L past items (padded), C candidates, D embedding width, I items, F trend features.
"""

from __future__ import annotations

import json
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from heedful.config import option, require
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import FolderError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.folders import Folder
from heedful.ranking.features import FeatureCodes, FeatureVectors
from heedful.ranking.instances import Batch, InstanceSampler
from heedful.ranking.memory import FEW_ACTIONS, Memory, build_memory, memory_of_few
from heedful.ranking.ranker import Ranker
from heedful.ranking.training import Team, TrainingConfig, TrainingReport, as_device, train_module, write_tensors
from heedful.ranking.trend import N_TREND_FEATURES, TrendIndex
from heedful.ranking.vectors import ItemVectors, mean_vector

__all__ = ["NeuralConfig", "NeuralRanker"]

_PRECISIONS = ("float32", "bfloat16")
_TREND_UNITS = 32
_DAY = 86400
# The horizon of a moment is this part of the log's period, a day at least.
_HORIZONS = 50
# Updates when none are asked for: some passes over the users, within limits. More updates on a small log overfit.
_PASSES, _FEWEST_STEPS, _MOST_STEPS = 2, 700, 5000
# A log in whose last part there would be fewer actions needs all of its moments.
_FEWEST_RECENT = 1000
# Actions whose times are looked at to find the last part of them.
_SAMPLED_TIMES = 1_000_000
# The plateau schedule of section 4.3 looks at the hold-out loss every 5,000 updates, a 125th of an epoch of 40 million
# users. A smaller log is assessed after each epoch, but not so often that the noise of the loss decides.
_PLATEAU_UPDATES = (100, 5000)
# An item of age t weighs (1 + 256 t / period) ** -0.8 in a mean by recency.
_AGE_UNITS, _AGE_POWER = 256, 0.8
# Elements of the largest intermediate array in scoring: users x candidates x (past items + hidden width). Larger ones leave
# the cache and go back to the operating system each time, which took a third of all time. A GPU wants more work at once.
_SCORING_ELEMENTS = 2**19
_SCORING_ELEMENTS_GPU = 2**27
_SCORED_ITEMS = 512
_CATALOGUE_CHUNK_ITEMS = 2048


Noise = Callable[[torch.Size], torch.Tensor]
"""Standard normal numbers of a shape."""


@dataclass(frozen=True, kw_only=True)
class NeuralConfig(TrainingConfig):
    """What the trained rankers share beside their training."""

    scale: float = option(3.0, "embeddings are centred and scaled to this length; 0: taken as they are")
    noise: float = option(
        4.0, "in training, noise of this many times an embedding's length over the root of the item's users is added to it"
    )
    trend: bool = option(
        True, "learn how popularity moves: an item's rise and age at the moment of ranking add to its logit"
    )
    recent: float = option(0.5, "part of the log's actions, the last ones, in whose time moments are drawn (cuts: moments)")
    features: tuple[str, ...] = option(
        (),
        "item attributes, as a category: a learnt vector of each value is added to the embedding; item_id: one of each item",
    )
    precision: str = option(
        "float32", "of matrix products in training: float32, or bfloat16 (faster where the processor has units for it)"
    )
    target_kinds: tuple[str, ...] = option((), "event kinds that count as future items; none: all")
    history_kinds: tuple[str, ...] = option((), "event kinds that make up the history; none: all")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        require(self.scale >= 0, "scale", got=self.scale, expected="0 or more")
        require(self.noise >= 0, "noise", got=self.noise, expected="0 or more")
        require(self.precision in _PRECISIONS, "precision", got=self.precision, expected=" or ".join(_PRECISIONS))
        require(0 < self.recent <= 1, "recent", got=self.recent, expected="more than 0, 1 at most")
        distinct = len(set(self.features)) == len(self.features)
        require(distinct, "features", got=self.features, expected="each attribute once")


@dataclass(frozen=True)
class Past:
    """The past of B users as a module sees it.

    Attributes:
        x_BLD: conditioned embeddings of the past items, newest first.
        used_BL: 1 for a past item, 0 in the padding.
        recency_BL: weight of each past item by its age, 0 in the padding.
    """

    x_BLD: torch.Tensor
    used_BL: torch.Tensor
    recency_BL: torch.Tensor


class _Net(nn.Module):
    """A model of section 4 or 5.2, beside it what the trend of an item adds to its logit, and before it side features."""

    def __init__(self, model: nn.Module, trend: bool, features: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.features = features
        self.trend: nn.Module | None = None
        self.line: nn.Module | None = None
        if trend:
            line, last = nn.Linear(N_TREND_FEATURES, 1), nn.Linear(_TREND_UNITS, 1)
            for layer in (line, last):  # at first the trend says nothing
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
            self.line = line
            self.trend = nn.Sequential(nn.Linear(N_TREND_FEATURES, _TREND_UNITS), nn.ReLU(), last)

    def item_term(self, features: torch.Tensor) -> torch.Tensor:
        """What the trend adds, from features [..., F]; [...]."""
        assert self.line is not None and self.trend is not None
        return (self.line(features) + self.trend(features)).squeeze(-1)  # type: ignore[no-any-return]


class NeuralRanker(Ranker):
    """A ranker whose module is trained by `train_module`.

    Attributes:
        report: what training did; None for a loaded model.
    """

    presets: ClassVar[dict[str, dict[str, Any]]]
    """Options that a preset sets: "paper" is section 4.3, "default" is made for the log's size and a CPU."""

    config: NeuralConfig
    gamma: float
    report: TrainingReport | None = None
    _net: _Net
    _mean: np.ndarray  # float32 [D]
    _vectors: ItemVectors
    _item_term: np.ndarray | None  # float32 [I]
    _features: FeatureCodes | None
    _span: float  # the log's period, seconds
    _scratch: threading.local  # of each thread: int64 [I] of -1
    _device: torch.device

    def __init__(self, *, preset: str = "default", **options: Any) -> None:
        require(preset in self.presets, "preset", got=preset, expected=", ".join(self.presets))
        super().__init__(**{**self.presets[preset], **options})

    @property
    def n_parameters(self) -> int:
        """Numbers that are learnt."""
        return sum(parameter.numel() for parameter in self._net.parameters())

    @property
    def item_term(self) -> np.ndarray:
        """What each item adds to every user's logit, float32 [I]; zeros without the trend."""
        return self._item_term if self._item_term is not None else np.zeros(len(self.items), np.float32)

    def input_vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors x of items as the module sees them, float32 [..., D]."""
        with torch.inference_mode():
            return self._inputs(rows).cpu().numpy()

    def fit(
        self,
        log: EventLog,
        items: ItemEmbeddings,
        *,
        checkpoints: Path | None = None,
        resume: bool = False,
        team: Team | None = None,
    ) -> Self:
        """Train on a log.

        Args:
            log: the training log.
            items: embeddings; items of the log that the table lacks are left out.
            checkpoints: folder for the checkpoint of each assessment.
            resume: go on from that checkpoint, with the very same result as an uninterrupted run.
            team: the workers of whom this is one (see `heedful.cluster`); None: alone.

        Raises:
            TrainingError: nothing to learn from, or a loss that is not finite.
            InputError: the table has none of the log's items.
        """
        histories = self._learn_catalogue(log, items)
        if self.config.history_kinds:
            wanted = log.kind_codes((*self.config.history_kinds, *self.config.target_kinds))
            histories = histories.where(np.isin(histories.kinds, wanted))
        self.config = _resolve(self.config, histories)
        times = histories.times
        self._span = float(max(int(times.max()) + 1 - int(times.min()), 1)) if len(times) else 1.0
        self.gamma = self.config.gamma
        self._prepare(items)
        self._features = (
            FeatureCodes.learn(self.items.ids, self.attributes, self.config.features) if self.config.features else None
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            self._net = self._new_net(items.width)
        self._net.to(self._device)
        trend = None
        if self.config.trend:
            build = partial(TrendIndex, histories, len(self.items))
            trend = team.once(build) if team else build()
        data = json.dumps([items.content_hash, log.facts()]) if checkpoints is not None else ""
        self.report = train_module(
            self._net, _TrainingPass(self), self._sampler(log, histories, trend, team), self.config,
            title=f"training {self.name}", data=data, checkpoints=checkpoints, resume=resume, team=team,
        )  # fmt: skip
        self._net.eval()
        self._item_term = self._final_item_term(trend) if trend is not None else None
        return self

    def _sampler(self, log: EventLog, histories: Histories, trend: TrendIndex | None, team: Team | None) -> InstanceSampler:
        config = self.config
        targets = np.isin(histories.kinds, log.kind_codes(config.target_kinds or log.kinds))
        return InstanceSampler(
            histories, targets, self.users_of_item, batch_users=config.batch_users, cuts=config.cuts,
            positives=config.positives, negatives=config.negatives, gamma=config.gamma, avoid_history=config.avoid_history,
            max_history=config.max_history, holdout_users=config.holdout_users, seed=config.seed,
            horizon=max(_DAY, self._span / _HORIZONS), trend=trend,
            since=_since(histories.times, config.recent), team=(team.rank, team.size) if team else None,
        )  # fmt: skip

    def _prepare(self, items: ItemEmbeddings) -> None:
        self._device = as_device(self.config.device)
        self._mean = mean_vector(items.vectors)
        self._take_table(items)

    def _take_table(self, items: ItemEmbeddings) -> None:
        """Read vectors from this table, whose first items are those that the mean was taken of."""
        self._vectors = ItemVectors(items.vectors, self._mean, self.config.scale, self._device)
        self._scratch = threading.local()

    def _new_net(self, width: int) -> _Net:
        counts = [len(values) for values in self._features.values.values()] if self._features else []
        features = FeatureVectors(counts=counts, width=width) if counts else None
        return _Net(self._model(width), self.config.trend, features)

    @abstractmethod
    def _model(self, width: int) -> nn.Module:
        """A new, untrained module that takes a `Past` and candidates [B, C, D], or [1, C, D] the same for all."""

    def _forward(self, past: Past, xq_BCD: torch.Tensor) -> torch.Tensor:
        """Logits of candidates without the trend, float [B, C]."""
        logits_BC: torch.Tensor = self._net.model(past, xq_BCD)
        return logits_BC

    def _past(self, memory: Memory, noise: Noise | None = None) -> Past:
        used = memory.counts > 0
        recency = used * (1 + _AGE_UNITS * _DAY * memory.ages / self._span) ** -_AGE_POWER
        tensors = (torch.from_numpy(array.astype(np.float32)).to(self._device) for array in (used, recency))
        return Past(self._inputs(memory.rows, noise), *tensors)

    def _inputs(self, rows: np.ndarray, noise: Noise | None = None) -> torch.Tensor:
        """Conditioned embeddings of rows of any shape, float [..., D].

        The table was learnt from the very actions that a training instance has to foretell, and the fewer users an item
        has, the more its vector tells of them. With `noise` each vector is given no more precision than a vector learnt
        from so many users has about anybody else.
        """
        vectors = self._vectors(rows)
        if noise is not None:
            users = np.maximum(self.users_of_item[rows], 1)
            size = torch.from_numpy((self.config.noise / np.sqrt(users * vectors.shape[-1])).astype(np.float32))
            size = size.to(self._device)[..., None] * vectors.norm(dim=-1, keepdim=True)
            vectors = vectors + size * noise(vectors.shape)
        if self._features is None or self._net.features is None:
            return vectors
        learnt: torch.Tensor = self._net.features(torch.from_numpy(self._features.codes[:, rows]).to(self._device))
        return vectors + learnt

    def _final_item_term(self, trend: TrendIndex) -> np.ndarray:
        """What an item adds to every logit from the end of the log on, float32 [I], so that scoring needs no log.

        Training estimates log P(q | u) as model + trend + log share; with gamma log P taken off it is a logit against
        negatives from P_gamma like any other, to which `Ranker.prior` applies.
        """
        terms = []
        for start in range(0, len(self.items), _CATALOGUE_CHUNK_ITEMS):
            rows = np.arange(start, min(start + _CATALOGUE_CHUNK_ITEMS, len(self.items)))
            features, log_share = trend.features(rows, np.full(len(rows), trend.end))
            with torch.no_grad():
                learnt = self._net.item_term(torch.from_numpy(features).to(self._device)).cpu().numpy()
            terms.append(learnt + log_share - self.gamma * self.log_popularity[rows])
        return np.concatenate(terms).astype(np.float32)

    def _logits(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        logits = np.empty(len(candidates.rows), np.float32)
        memory = self._memory(histories)
        for users in _alike(memory.lengths, candidates.lengths, self._scoring_elements):
            part = _part(memory, users)
            longest = int(candidates.lengths[users].max())
            places = candidates.offsets[:-1][users][:, None] + np.arange(longest)
            used = np.arange(longest) < candidates.lengths[users][:, None]
            rows = candidates.rows[np.minimum(places, len(candidates.rows) - 1)]
            with torch.inference_mode():
                scores = self._forward(self._past(part), self._inputs(rows)).float().cpu().numpy()
            logits[places[used]] = scores[used]
        return logits if self._item_term is None else np.asarray(logits + self._item_term[candidates.rows])

    def _catalogue_logits(self, histories: Histories) -> np.ndarray:
        logits = np.empty((len(histories), len(self.items)), np.float32)
        memory = self._memory(histories)
        chunk = min(_SCORED_ITEMS, len(self.items))
        parts = _alike(memory.lengths, np.full(len(histories), chunk), self._scoring_elements)
        groups = [(users, self._past(_part(memory, users))) for users in parts]
        for start in range(0, len(self.items), chunk):
            items = slice(start, start + chunk)
            with torch.inference_mode():
                xq_1CD = self._inputs(np.arange(len(self.items))[items])[None]
                for users, past in groups:
                    logits[users, items] = self._forward(past, xq_1CD).float().cpu().numpy()
        return logits if self._item_term is None else logits + self._item_term

    @property
    def _scoring_elements(self) -> int:
        return _SCORING_ELEMENTS if self._device.type == "cpu" else _SCORING_ELEMENTS_GPU

    def _memory(self, histories: Histories) -> Memory:
        ends = histories.offsets[1:]
        last = histories.times[np.maximum(ends - 1, 0)] if len(histories.times) else np.zeros(len(histories), np.int64)
        now = np.maximum(last, self.last_time + 1)
        if len(histories.items) <= FEW_ACTIONS:
            return memory_of_few(histories, now=now, max_items=self.config.max_history)
        slots = getattr(self._scratch, "slots", None)
        if slots is None or len(slots) != len(self.items):
            slots = self._scratch.slots = np.full(len(self.items), -1, np.int64)
        return build_memory(histories, now=now, max_items=self.config.max_history, scratch=slots)

    def _settings(self) -> dict[str, Any]:
        report = asdict(self.report) if self.report is not None else None
        return {
            "width": len(self._mean),
            "mean": self._mean.tolist(),
            "span": self._span,
            "n_parameters": self.n_parameters,
            "features": {name: list(values) for name, values in self._features.values.items()} if self._features else {},
            "report": report,
        }

    def _write(self, folder: Path) -> None:
        tensors = {name: value.detach().cpu().contiguous() for name, value in self._net.state_dict().items()}
        write_tensors(tensors, folder / "weights.safetensors")
        if self._item_term is not None:
            np.save(folder / "item_term.npy", self._item_term)

    def _read(self, folder: Folder, settings: dict[str, Any]) -> None:
        assert self.embeddings is not None
        self._device = as_device("auto")
        self._mean, self._span = np.array(settings["mean"], np.float32), float(settings["span"])
        self._take_table(self.embeddings)
        values = settings.get("features")
        self._features = FeatureCodes.of(self.items.ids, self.attributes, values) if values else None
        with torch.device("meta"):  # shapes alone: the weights that a new module starts with are not needed
            self._net = self._new_net(settings["width"])
        try:
            weights = safetensors.torch.load_file(folder.file("weights.safetensors"), device=str(self._device))
            # Copies are aligned in memory; of tensors that are not, some matrix libraries add up in another order.
            self._net.load_state_dict({name: weight.clone() for name, weight in weights.items()}, assign=True)
        except (safetensors.SafetensorError, RuntimeError) as error:
            raise FolderError(f"{folder.path}/weights.safetensors does not fit its config", got=error) from error
        self._net.eval()
        self._item_term = np.load(folder.file("item_term.npy"), mmap_mode="r") if folder.has("item_term.npy") else None


class _TrainingPass:
    """The forward pass of a training batch: the model, plus what was known of each item at the moment of ranking."""

    def __init__(self, ranker: NeuralRanker) -> None:
        self._ranker = ranker

    def __call__(self, batch: Batch) -> torch.Tensor:
        ranker = self._ranker
        learning = ranker._net.training and ranker.config.noise > 0
        noise = _noise(batch, ranker._device) if learning else None
        past, xq_BCD = ranker._past(batch.memory, noise), ranker._inputs(batch.candidates, noise)
        with torch.autocast(xq_BCD.device.type, torch.bfloat16, enabled=ranker.config.precision == "bfloat16"):
            logits_BC = ranker._forward(past, xq_BCD).float()
        if batch.known is None:
            return logits_BC
        features, offset = (torch.from_numpy(array).to(logits_BC.device) for array in batch.known)
        return logits_BC + ranker._net.item_term(features) + offset


def _noise(batch: Batch, device: torch.device) -> Noise:
    """The numbers of a batch; for a part of one, those that its users have in the whole batch."""
    generator, part = torch.Generator(device).manual_seed(batch.seed), batch.part
    if part is None:
        return lambda shape: torch.randn(shape, generator=generator, device=device)
    places, longest = torch.from_numpy(part.places).to(device), batch.memory.rows.shape[1]

    def drawn(shape: torch.Size) -> torch.Tensor:
        whole = part.longest if shape[1] == longest else shape[1]
        size = (part.users, whole, *shape[2:])
        return torch.randn(size, generator=generator, device=device)[places, : shape[1]]

    return drawn


def _since(times: np.ndarray, recent: float) -> int | None:
    """The time after which this part of the actions lies (of a sample of them, should there be very many)."""
    if recent == 1 or recent * len(times) < _FEWEST_RECENT:
        return None
    sample = np.asarray(times[:: max(len(times) // _SAMPLED_TIMES, 1)])
    return int(np.quantile(sample, 1 - recent, method="lower"))


def _resolve(config: NeuralConfig, histories: Histories) -> NeuralConfig:
    """Fill in the options that depend on the size of the log."""
    users = int(np.count_nonzero(histories.lengths >= 2))
    holdout = config.holdout_users or min(2000, users // 20)
    steps = config.steps
    if not steps and config.schedule == "linear":
        steps = min(max(_PASSES * users // config.batch_users, _FEWEST_STEPS), _MOST_STEPS)
    in_epoch = int(np.clip(users // config.batch_users, *_PLATEAU_UPDATES))
    assess_every = config.assess_every or (max(steps // 10, 1) if steps else in_epoch)
    return replace(config, steps=steps, assess_every=assess_every, holdout_users=min(holdout, users // 2))


def _alike(lengths: np.ndarray, candidates: np.ndarray, elements: int) -> Iterator[np.ndarray]:
    """Users in groups of like length of at most so many elements together, so that little is spent on padding."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        most = candidates[order[start]]
        while stop < len(order):
            most = max(most, candidates[order[stop]])
            size = lengths[order[stop]]
            if (stop + 1 - start) * most * (size + 128) > elements or size > 1.25 * lengths[order[start]] + 8:
                break
            stop += 1
        yield order[start:stop]
        start = stop


def _part(memory: Memory, users: np.ndarray) -> Memory:
    longest = int(memory.lengths[users].max(initial=0))
    columns = (memory.rows, memory.ages, memory.counts, memory.kinds)
    return Memory(memory.lengths[users], *(column[users, :longest] for column in columns))
