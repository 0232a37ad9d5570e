"""What the trained rankers share: fitting, scoring and saving of a `ScoreModel`.

Shapes: B users, L items of a history (padded), C candidates, D embedding width, I items.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import safetensors
import safetensors.torch
import torch

from heedful.config import option, require
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import FolderError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories, span_of
from heedful.events.log import EventLog
from heedful.folders import Folder
from heedful.model.encode import HistoryBatch, encode
from heedful.model.inputs import InputLayer, Inputs, ItemVectors, mean_vector
from heedful.model.popularity import PopularityIndex, features_at
from heedful.model.score import ScoreModel, Term
from heedful.model.side_features import FeatureCodes, FeatureVectors
from heedful.model.touches import Touches
from heedful.rankers.base import Ranker
from heedful.rankers.continuing import longer_values, resolved, shorter, take_weights
from heedful.rankers.log_size import recent_since
from heedful.rankers.scoring import SharedCandidates, catalogue_logits, inputs_of, list_logits, shared_logits
from heedful.training.checkpoint import write_tensors
from heedful.training.forward import TrainingForward
from heedful.training.loop import TrainingLoop, TrainingReport, Workers, as_device
from heedful.training.recipe import DEFAULT, TrainingConfig
from heedful.training.sampler import InstanceSampler, SamplingConfig

__all__ = ["NeuralConfig", "NeuralRanker"]

_DAY = 86400
# The target period is this part of the log's period, a day at least.
_HORIZONS = 50
_CHUNK_ITEMS = 2048


@dataclass(frozen=True, kw_only=True)
class NeuralConfig(TrainingConfig):
    """What the trained rankers share beside their training."""

    known_terms: ClassVar[tuple[str, ...]] = ()
    """Terms to choose from, in the order in which they are added."""

    terms: tuple[str, ...] = option((), "terms that add up to the score")
    scale: float = option(DEFAULT["scale"], "embeddings are centred and scaled to this length", research=True)
    noise: float = option(
        DEFAULT["noise"],
        "Gaussian noise on item embeddings in training, of size noise x the embedding's length / sqrt(users of the item)",
        research=True,
    )
    features: tuple[str, ...] = option(
        (),
        "item attributes used as categories: a learnt vector of each value is added to the embedding; item_id: one an item",
    )
    history_kinds: tuple[str, ...] = option((), "event kinds that make up the history; none: all")

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        require(self.scale > 0, "scale", got=self.scale, expected="more than 0")
        require(self.noise >= 0, "noise", got=self.noise, expected="0 or more")
        for name in ("features", "terms"):
            values = getattr(self, name)
            require(len(set(values)) == len(values), name, got=values, expected="each name once")
        known = set(self.terms) <= set(self.known_terms) and len(self.terms) > 0
        require(known, "terms", got=self.terms, expected=f"some of {', '.join(self.known_terms)}")


class NeuralRanker(Ranker):
    """A ranker whose score is a sum of trained terms.

    Attributes:
        model: the terms.
        inputs: from item rows to what the terms see.
        at_time: values of the terms that do not depend on the user, as of the end of the training log, the
            first with what makes the sum a logit against negatives from P_gamma (`values_at`); float32 [I] each.
        report: what training did; None for a loaded model.
    """

    presets: ClassVar[dict[str, dict[str, Any]]]
    """Options that a preset sets: "paper" is section 4.3, "default" is made for the log's size and a CPU."""

    is_rival: ClassVar[bool] = False
    config: NeuralConfig
    gamma: float
    model: ScoreModel
    inputs: InputLayer
    at_time: Mapping[str, np.ndarray]
    report: TrainingReport | None = None
    _mean: np.ndarray  # float32 [D]

    def __init__(self, *, preset: str = "default", **options: Any) -> None:
        require(preset in self.presets, "preset", got=preset, expected=", ".join(self.presets))
        super().__init__(**{**self.presets[preset], **options})

    @abstractmethod
    def _new_terms(self, width: int) -> dict[str, Term]:
        """New, untrained terms by name, in the order in which they are added."""

    @property
    def n_parameters(self) -> int:
        """Numbers that are learnt."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def item_bias(self) -> np.ndarray:
        """What each item adds to every user's logit, float32 [I]."""
        return sum(self.at_time.values(), np.zeros(len(self.items), np.float32))

    @property
    def popularity_now(self) -> np.ndarray:
        """Log of each item's share of all users as the model sees it at the end of the log, float32 [I]."""
        return self.cold_start_scores()

    def cold_start_scores(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """`popularity_now` of some items; see `Ranker.cold_start_scores`."""
        known, bias = self.log_shares[rows], sum(values[rows] for values in self.at_time.values())
        return np.asarray(bias + self.gamma * known, np.float32) if self.at_time else known

    def input_vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors x of items as the terms see them, float32 [..., D]."""
        with torch.inference_mode():
            return self.inputs(rows).cpu().numpy()

    # Fitting

    def fit(
        self,
        log: EventLog,
        items: ItemEmbeddings,
        *,
        checkpoints: Path | None = None,
        resume: bool = False,
        workers: Workers | None = None,
        start: Self | None = None,
    ) -> Self:
        """Train on a log.

        Args:
            log: the training log.
            items: embeddings; items of the log that the table lacks are left out.
            checkpoints: folder for the checkpoint of each validation.
            resume: go on from that checkpoint, with the very same result as an uninterrupted run.
            workers: the processes of which this is one (see `heedful.cluster`); None: alone.
            start: go on from the weights of this ranker, in fewer steps; see `heedful.rankers.continuing`.

        Raises:
            TrainingError: nothing to learn from, or a loss that is not finite.
            InputError: the table has none of the log's items.
            ConfigError: `start` has weights of other shapes.
        """
        histories = self.begin(log, items, start)
        popularity = None
        if _needs_popularity(self.model):
            build = partial(PopularityIndex, self.targets.speaking_for(histories), len(self.items))
            popularity = workers.once(build) if workers else build()
        known = [start.trained_on, start.n_parameters] if start is not None else []
        data = json.dumps([items.content_hash, log.facts(), *known], default=str) if checkpoints is not None else ""
        run = TrainingLoop(
            self.model, TrainingForward(self.model, self.inputs), self.sampler(log, histories, popularity, workers),
            self.config if start is None else shorter(self.config), data=data, folder=checkpoints, workers=workers,
        )  # fmt: skip
        self.report = run.run(f"training {self.name}", resume=resume)
        self.model.eval()
        self.at_time = self._at_end(popularity) if popularity is not None else {}
        if workers is None:
            self._remember(histories)
        return self

    def _remember(self, histories: Histories) -> None:
        """Keep what popularity over time is counted from; popularity of some kinds alone is not counted on."""
        counts_on = self.at_time and not self.config.history_kinds
        self.touches = Touches.of(histories, len(self.items)) if counts_on else None

    def _count_at(self, now: int) -> None:
        assert self.touches is not None
        features, shares = features_at(self.touches, now, self.inputs.span)
        new = slice(self.newcomers_from, None) if self.newcomers_from is not None else slice(0)
        unseen = np.zeros(len(self.items), bool)
        unseen[new] = self.touches.users[new] == 0
        shares = np.where(unseen, self.log_shares[:], shares)
        values = self.values_at(features, shares, self.log_shares[:])
        # An item that came later and that nobody has touched stays as it was taken up.
        self.at_time = {name: np.where(unseen, self.at_time[name], value) for name, value in values.items()}

    def begin(self, log: EventLog, items: ItemEmbeddings, start: Self | None = None) -> Histories:
        """Everything before the first step: catalogue, resolved config, the weights to begin with; the log's histories."""
        histories = self._learn_catalogue(log, items)
        self.config = resolved(self.config, histories)
        self.gamma, self.at_time = self.config.gamma, {}
        self._mean = mean_vector(items.vectors) if start is None else start._mean
        names = self.config.features
        codes = FeatureCodes.learn(self.items.ids, self.attributes, names) if names else None
        if codes is not None and start is not None and start.inputs.codes is not None:
            codes = FeatureCodes.of(self.items.ids, self.attributes, longer_values(start.inputs.codes, codes))
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            self.model = self._new_model(items.width, codes)
        if start is not None:
            take_weights(self.model, start.model)
        device = as_device(self.config.device)
        self.model.to(device)
        self._see(items, span_of(histories.times), codes, device)
        return histories

    def _recount(self, histories: Histories) -> None:
        """Popularity over time as of the end of the log, in windows as long as those of training."""
        assert self.embeddings is not None
        if self.at_time:
            popularity = PopularityIndex(self.targets.speaking_for(histories), len(self.items), span=self.inputs.span)
            self.at_time = self._at_end(popularity)
            self._remember(histories)
        self._see(self.embeddings, self.inputs.span, self.inputs.codes, self.inputs.device)

    def sampler(
        self, log: EventLog, histories: Histories, popularity: PopularityIndex | None, workers: Workers | None = None
    ) -> InstanceSampler:
        """Batches of a log whose histories `begin` returned."""
        config, times = self.config, histories.times
        sampling = SamplingConfig(
            batch_users=config.batch_users, split=config.split, positives=config.positives, negatives=config.negatives,
            gamma=config.gamma, avoid_history=config.split == "random_time", max_history=config.max_history,
            validation_users=config.validation_users, seed=config.seed,
            horizon=max(_DAY, self.inputs.span / _HORIZONS), since=recent_since(times),
        )  # fmt: skip
        worker = (workers.rank, workers.size) if workers else None
        return InstanceSampler(histories, self.targets, self.users_of_item, sampling, popularity=popularity, worker=worker)

    def _new_model(self, width: int, codes: FeatureCodes | None) -> ScoreModel:
        counts = [len(values) for values in codes.values.values()] if codes else []
        features = FeatureVectors(counts=counts, width=width) if counts else None
        return ScoreModel(self._new_terms(width), features)

    def _see(self, table: ItemEmbeddings, span: float, codes: FeatureCodes | None, device: torch.device) -> None:
        """Read vectors from this table, whose first items are those that the mean was taken of."""
        vectors = ItemVectors(table.vectors, self._mean, self.config.scale, device)
        self.inputs = InputLayer(
            vectors, self.users_of_item, span=span, noise=self.config.noise, codes=codes,
            learnt=self.model.side_features, n_kinds=self._n_kinds() if "kinds" in self.model.terms else 0,
        )  # fmt: skip

    def _n_kinds(self) -> int:
        """Kinds of actions that the ranker tells apart; 0 where it reads one kind alone."""
        n_kinds = self.targets.n_kinds
        return n_kinds if n_kinds > 1 else 0

    def _at_end(self, popularity: PopularityIndex) -> dict[str, np.ndarray]:
        """`at_time` from the end of the log on, so that scoring needs no log."""
        chunks: list[dict[str, np.ndarray]] = []
        for start in range(0, len(self.items), _CHUNK_ITEMS):
            rows = np.arange(start, min(start + _CHUNK_ITEMS, len(self.items)))
            features, log_shares = popularity.features(rows, np.full(len(rows), popularity.end))
            chunks.append(self.values_at(features, log_shares, self.log_shares[rows]))
        values = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
        # In training an item without past actions is always one that somebody is about to use.
        unwanted = (self.users_of_item == 0) & bool(self.targets.negative)
        return {name: np.where(unwanted, of.min(), of).astype(np.float32) for name, of in values.items()}

    def values_at(self, popularity: np.ndarray, shares_then: np.ndarray, shares: np.ndarray) -> dict[str, np.ndarray]:
        """Values of the terms that do not depend on the user, float32 [N] each.

        Training estimates log P(q | u) as the sum of all terms and the log share at the time. With gamma log P taken off,
        the sum is a logit against negatives from P_gamma, to which `Ranker.prior` applies. The first value has both.

        Args:
            popularity: features of N items at the time, [N, F].
            shares_then: log of their shares at the time, [N].
            shares: `log_shares` of theirs, [N].
        """
        given = torch.from_numpy(popularity).to(self.inputs.device)
        with torch.no_grad():
            values = {name: term.at_time(given) for name, term in self.model.named_terms().items()}
        found = {name: value.cpu().numpy() for name, value in values.items() if value is not None}
        first = next(iter(found))
        found[first] = (found[first] + shares_then - self.gamma * shares).astype(np.float32)
        return found

    # Scoring

    def contributions(
        self, history: Histories, rows: np.ndarray, *, pool_gamma: float | None = 0.0
    ) -> dict[str, np.ndarray]:
        """The terms and the prior; see `Ranker.contributions`."""
        if history.lengths[0] == 0:
            return super().contributions(history, rows, pool_gamma=pool_gamma)
        with torch.inference_mode():
            terms = self.model.contributions(self._inputs(history, rows))
        named = {name: term.float().cpu().numpy().reshape(-1) for name, term in terms.items()}
        return {**named, **self._prior_part(rows, pool_gamma)}

    def score_for_everyone(self, rows: np.ndarray, *, pool_gamma: float | None = 0.0) -> np.ndarray:
        """The terms that do not depend on the user, and the prior; see `Ranker.score_for_everyone`."""
        values = (values[rows] for values in self.at_time.values())
        return sum(values, super().score_for_everyone(rows, pool_gamma=pool_gamma))

    def by_history_item(self, history: Histories, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What each term owes to each distinct item of a history, newest first, float32 [C, L] each, where it divides."""
        with torch.inference_mode():
            parts = self.model.by_history_item(self._inputs(history, rows))
        return {name: part[0].float().cpu().numpy() for name, part in parts.items()}

    def attention_weights(self, history: Histories, rows: np.ndarray) -> np.ndarray | None:
        """The weights p^k of section 4.1 for one user with a history, float32 [C, K, L + M].

        Columns are the latest L distinct items of the history, the newest first, then the null tokens.
        None without attention.
        """
        with torch.inference_mode():
            weights_KBCN = self.model.attention(self._inputs(history, rows))
        return None if weights_KBCN is None else weights_KBCN[:, 0].transpose(0, 1).float().cpu().numpy()

    def _inputs(self, history: Histories, rows: np.ndarray) -> Inputs:
        return inputs_of(self.inputs, self._encoded(history), rows[None], self.at_time)

    def _logits(self, histories: Histories, candidates: Candidates) -> np.ndarray:
        return list_logits(self.model, self.inputs, self._encoded(histories), candidates, self.at_time)

    def shared(self, rows: np.ndarray) -> SharedCandidates:
        """Candidates that many users are asked for, int64 [C]: what depends on them alone is computed once."""
        return SharedCandidates.of(self.inputs, rows, self.at_time)

    def shared_logits(self, histories: Histories, candidates: SharedCandidates) -> np.ndarray:
        """Logits of the same candidates for each of B users, without a prior, float32 [B, C]."""
        return shared_logits(self.model, self.inputs, self._encoded(self.read(histories)), candidates)

    def _catalogue_logits(self, histories: Histories) -> np.ndarray:
        history = self._encoded(histories)
        return catalogue_logits(self.model, self.inputs, history, len(self.items), self.at_time)

    def _encoded(self, histories: Histories) -> HistoryBatch:
        ends = histories.offsets[1:]
        last = histories.times[np.maximum(ends - 1, 0)] if len(histories.times) else np.zeros(len(histories), np.int64)
        return encode(histories, np.maximum(last, self.last_time + 1), max_items=self.config.max_history)

    # New items and folders

    def with_items(self, table: ItemEmbeddings, at_time: Mapping[str, np.ndarray]) -> None:
        """Take a longer table, and the values at a time of all of its items."""
        codes = self.inputs.codes
        if codes is not None:
            codes = FeatureCodes.of(self.items.ids, self.attributes, codes.values)
        self.at_time = at_time
        self._see(table, self.inputs.span, codes, self.inputs.device)

    def _settings(self) -> dict[str, Any]:
        codes, report = self.inputs.codes, self.report
        return {
            "width": len(self._mean),
            "mean": self._mean.tolist(),
            "span": self.inputs.span,
            "n_parameters": self.n_parameters,
            "features": {name: list(values) for name, values in codes.values.items()} if codes else {},
            "at_time": list(self.at_time),
            "report": asdict(report) if report is not None else None,
        }

    def _write(self, folder: Path) -> None:
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        write_tensors(tensors, folder / "weights.safetensors")
        for name, values in self.at_time.items():
            np.save(folder / f"{name}.npy", values)

    def _read(self, folder: Folder, settings: dict[str, Any]) -> None:
        assert self.embeddings is not None
        device = as_device("auto")
        self._mean = np.array(settings["mean"], np.float32)
        values = settings.get("features")
        codes = FeatureCodes.of(self.items.ids, self.attributes, values) if values else None
        # Shapes would do, but random numbers on the device "meta" import all of torch's compiler, which takes seconds.
        with torch.random.fork_rng(devices=[]):
            self.model = self._new_model(settings["width"], codes)
        try:
            weights = safetensors.torch.load_file(folder.file("weights.safetensors"), device=str(device))
            # Copies are aligned in memory; of tensors that are not, some matrix libraries add up in another order.
            self.model.load_state_dict({name: weight.clone() for name, weight in weights.items()}, assign=True)
        except (safetensors.SafetensorError, RuntimeError) as error:
            raise FolderError(f"{folder.path}/weights.safetensors does not fit its config", got=error) from error
        self.model.eval()
        self._see(self.embeddings, float(settings["span"]), codes, device)
        self.at_time = {name: np.load(folder.file(f"{name}.npy"), mmap_mode="r") for name in settings["at_time"]}


def _needs_popularity(model: ScoreModel) -> bool:
    return any(type(term).at_time is not Term.at_time for term in model.named_terms().values())
