"""The training loop: what section 4.3 says of it, and runs that are killed, resumed, or go wrong."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from heedful.errors import ConfigError, FolderError, TrainingError
from heedful.events.log import EventLog
from heedful.model.encode import HistoryBatch
from heedful.rankers.attention import AttentionConfig, AttentionRanker
from heedful.rankers.averaging import AveragingRanker
from heedful.rankers.neural import NeuralRanker
from heedful.training import recipe
from heedful.training.batch import Batch
from heedful.training.forward import TrainingForward
from heedful.training.loop import TrainingLoop, TrainingReport, as_device
from heedful.training.recipe import TrainingConfig
from heedful.training.sampler import Position, Recipe
from ranking_worlds import QUICK, SMALL, log_of, python, random_log, table_of


def new(**options: Any) -> AttentionRanker:
    return AttentionRanker(**{**QUICK["attention"], **options})


def weights_of(ranker: NeuralRanker) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in ranker.model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(kind_names=("view", "purchase"))


# The loop by itself, with scripted losses


class Scripted:
    """A module of one parameter whose validation logits follow a script, and a sampler of one-candidate batches."""

    def __init__(self, validation_logits: Iterator[float], training_logit: float = 1.0) -> None:
        self.module = nn.Linear(1, 1, bias=False)
        self._script, self._training_logit = validation_logits, training_logit
        self._validated, self._trained = self._batch(), self._batch()
        self.training_modes: list[bool] = []
        self.validated_weights: list[float] = []

    def _batch(self) -> Batch:
        one = np.ones((1, 1))
        history = HistoryBatch(np.zeros(1, np.int64), *(np.zeros((1, 0)) for _ in range(4)))
        return Batch(history, one.astype(np.int64), one.astype(bool), one.astype(np.float32), np.zeros(1, np.int64), 0)

    def validation(self) -> list[Batch]:
        return [self._validated]

    def recipes(self, start: Position) -> Iterator[Recipe]:
        for number in itertools.count(start.batch):
            yield lambda: self._trained, Position(0, 0, number + 1)

    def __call__(self, batch: Batch) -> torch.Tensor:
        self.training_modes.append(self.module.training)
        if batch is self._validated:
            assert not self.module.training and not torch.is_grad_enabled()
            self.validated_weights.append(self.module.weight.item())
            return torch.tensor([[next(self._script)]])
        assert self.module.training
        return self._training_logit * (1 + self.module.weight)

    def train(self, *, checkpoints: Path | None = None, resume: bool = False, **options: Any) -> TrainingReport:
        config = TrainingConfig(**{"schedule": "plateau", "objective": "logistic", "validate_every": 1, **options})
        loop = TrainingLoop(self.module, self, self, config, folder=checkpoints)  # type: ignore[arg-type]
        return loop.run("script", resume=resume)


@pytest.fixture
def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, tuple[float, float]]]:
    """(learning rate, norm of the gradient, betas) of each step of Adam."""
    taken = []

    class Spy(torch.optim.Adam):
        def step(self, closure: Any = None) -> Any:
            group = self.param_groups[0]
            norm = torch.cat([p.grad.flatten() for p in group["params"]]).norm().item()
            taken.append((group["lr"], norm, group["betas"]))
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Spy)
    return taken


def test_plateau_cuts_the_rate_after_5_validations_and_ends_after_20_cuts(steps_taken: list[Any]) -> None:
    report = Scripted(itertools.repeat(1.0)).train(learning_rate=0.002)
    # The first validation improves on nothing; then 20 times 5 without improvement.
    assert report.steps == 1 + 20 * 5 and report.best_step == 1
    rates = [rate for rate, _, _ in steps_taken]
    assert rates == pytest.approx([0.002 * 0.8 ** max((step - 1) // 5, 0) for step in range(101)])
    assert {betas for _, _, betas in steps_taken} == {(0.9, 0.999)}


def test_an_improvement_starts_the_count_anew(steps_taken: list[Any]) -> None:
    # A higher logit of a positive is a lower loss: four validations without improvement, then one.
    script = [0.0] * 5 + [1.0] * 5 + [2.0] + [0.0] * 200
    report = Scripted(iter(script)).train(learning_rate=1.0, steps=17)
    assert [rate for rate, _, _ in steps_taken] == pytest.approx([1.0] * 16 + [0.8])
    assert report.best_step == 11 and report.steps == 17
    assert report.best_loss == pytest.approx(math.log(1 + math.exp(-2)))
    assert [step for step, _, _ in report.losses] == list(range(1, 18))


def test_the_weights_of_the_best_validation_are_kept() -> None:
    script = Scripted(iter([0.0, 5.0, 1.0, 1.0, 1.0, 1.0]))
    report = script.train(steps=6)
    seen = script.validated_weights
    assert report.best_step == 2
    assert script.module.weight.item() == seen[1] and len(set(seen)) == 6


def test_gradients_are_scaled_down_to_the_norm(steps_taken: list[Any]) -> None:
    for logit in (-100.0, -9.0):
        script = Scripted(itertools.repeat(0.0), training_logit=logit)
        nn.init.constant_(script.module.weight, 0.5)
        script.train(steps=1)
    assert [norm for _, norm, _ in steps_taken] == pytest.approx([10.0, 9.0], rel=1e-4)


def test_the_linear_schedule_rises_and_falls(steps_taken: list[Any]) -> None:
    report = Scripted(itertools.repeat(0.0)).train(schedule="linear", steps=200, validate_every=90, learning_rate=1.0)
    rates = [rate for rate, _, _ in steps_taken]
    assert len(rates) == report.steps == 200
    assert rates[0] == pytest.approx(1 / 50) and max(rates) == rates[49]
    assert rates[100] == pytest.approx(0.5) and rates[-1] == pytest.approx(0.005)
    assert [step for step, _, _ in report.losses] == [90, 180, 200]


# Presets and options


def test_the_paper_preset_is_section_4_3() -> None:
    config = AttentionRanker(preset="paper").config
    expected = {
        "learning_rate": 0.002, "batch_users": 64, "schedule": "plateau", "noise": 0.0, "steps": 0, "gamma": 0.75,
        "positives": 10, "negatives": 100, "max_history": 1000, "depth": 10, "hidden": 128, "split": "last_items",
        "objective": "logistic", "null_tokens": 0, "terms": ("attention",),
    }  # fmt: skip
    assert {name: getattr(config, name) for name in expected} == expected
    assert recipe.BETAS == (0.9, 0.999) and recipe.GRADIENT_NORM == 10.0
    assert recipe.Plateau(patience=5, factor=0.8, reductions=20) == recipe.PLATEAU
    shared = AveragingRanker(preset="paper").config
    names = {field.name for field in dataclasses.fields(shared)} - {"form", "terms"}
    assert {n: getattr(shared, n) for n in names} == {n: getattr(config, n) for n in names}
    assert shared.form == "inner" and shared.hidden == 128 and shared.terms == ("averaging",)


def test_the_paper_model_is_attention_alone(log: EventLog) -> None:
    """Negatives are drawn from P_gamma, of all items but the positives; a value of each item is learnt nowhere."""
    ranker = AttentionRanker(preset="paper", steps=1, validate_every=1, device="cpu")
    ranker.fit(log, table_of(log.catalog.items.ids))
    assert list(ranker.model.named_terms()) == ["attention"] and ranker.at_time == {} and not ranker.item_bias.any()
    assert all(name.startswith("terms.attention.") for name, _ in ranker.model.named_parameters())


@pytest.mark.parametrize("name", list(recipe.DEFAULT))
def test_an_option_is_by_default_what_the_default_preset_says(name: str) -> None:
    assert getattr(AttentionConfig(), name) == recipe.DEFAULT[name]
    assert name in recipe.PAPER


def test_options_overrule_the_preset() -> None:
    assert AttentionRanker(preset="paper", depth=3).config.depth == 3
    with pytest.raises(ConfigError, match="option 'preset' is out of range; got: 'best'; expected: default, paper"):
        AttentionRanker(preset="best")


def test_the_paper_model_has_the_paper_s_parameters(log: EventLog) -> None:
    ranker = AttentionRanker(preset="paper", steps=1, validate_every=1, device="cpu")
    ranker.fit(log, table_of(log.catalog.items.ids, width=64))
    assert ranker.n_parameters == 173_568 == 174_848 - 10 * 128


BAD = [
    ("batch_users", 0), ("positives", 0), ("negatives", 0), ("max_history", 0), ("steps", -1), ("validate_every", -1),
    ("validation_users", -1), ("seed", -1), ("learning_rate", 0.0), ("learning_rate", math.nan),
    ("gamma", math.inf), ("schedule", "cosine"), ("objective", "hinge"), ("split", "random"), ("scale", 0.0),
    ("scale", -1.0), ("depth", -1), ("hidden", 0), ("null_tokens", -1), ("terms", ()), ("terms", ("trend",)),
    ("terms", ("attention", "attention")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_options_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"option '{name}' is out of range; got: {re.escape(repr(value))}; expected: "):
        AttentionConfig(**{name: value})


def test_no_such_device() -> None:
    for name in ("cuda:99", "gpu"):
        with pytest.raises(ConfigError, match=f"no such device; got: {name}; expected: auto, cpu, cuda or cuda:N"):
            as_device(name)
    assert as_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_what_is_not_set_is_chosen_by_the_log(log: EventLog) -> None:
    ranker = new(steps=30, validate_every=0).fit(log, table_of(log.catalog.items.ids))
    eligible = int((log.histories.lengths >= 2).sum())
    assert ranker.config.validate_every == 3 and ranker.config.validation_users == eligible // 20
    assert ranker.report is not None and [step for step, *_ in ranker.report.losses] == list(range(3, 31, 3))


def test_kinds_of_targets_and_histories(log: EventLog) -> None:
    table = table_of(log.catalog.items.ids)
    plain = weights_of(new().fit(log, table))
    for options in ({"target_kinds": ("purchase",)}, {"history_kinds": ("purchase",)}):
        assert not equal(weights_of(new(**options).fit(log, table)), plain)
    for name in ("target_kinds", "history_kinds"):
        with pytest.raises(ConfigError, match="no events of that kind; got: stream; expected: view, purchase"):
            new(**{name: ("stream",)}).fit(log, table)


def test_it_learns_and_leaves_the_world_alone(log: EventLog) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    ranker = new(steps=180, validate_every=60).fit(log, table_of(log.catalog.items.ids))
    assert ranker.report is not None
    assert ranker.report.best_loss == min(loss for *_, loss in ranker.report.losses)
    assert ranker.report.best_loss < math.log(1 + SMALL["negatives"]) + 0.5
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert not any(module.training for module in ranker.model.modules())
    tiny = torch.tensor([1e-40])
    assert (tiny * 1.0).item() > 0  # subnormal numbers are zero during training only


# Killed, resumed, gone wrong

_KILLED = """
import os, signal, sys
from pathlib import Path
from ranking_worlds import QUICK, random_log, table_of
from heedful.training import loop
from heedful.rankers.registry import MODELS
name, schedule, folder = sys.argv[1:]
options = {**QUICK[name], "schedule": schedule, "steps": 47, "validate_every": 8, "learning_rate": 0.05}
save, count = loop.save_checkpoint, [0]
def save_and_die(*given):
    save(*given)
    count[0] += 1
    if count[0] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
loop.save_checkpoint = save_and_die
log = random_log()
MODELS[name](**options).fit(log, table_of(log.catalog.items.ids), checkpoints=Path(folder))
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("name", "schedule"), [("attention", "linear"), ("averaging", "plateau")])
def test_killed_and_resumed_ends_with_the_very_same_weights(name: str, schedule: str, tmp_path: Path) -> None:
    killed = python(_KILLED, name, schedule, tmp_path / "training")
    assert killed.returncode == -9, killed.stderr
    with safetensors.safe_open(tmp_path / "training" / "checkpoint.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["state"])["step"] == 16
    log = random_log()
    table = table_of(log.catalog.items.ids)
    options = {**QUICK[name], "schedule": schedule, "steps": 47, "validate_every": 8, "learning_rate": 0.05}
    models = {"attention": AttentionRanker, "averaging": AveragingRanker}
    resumed = models[name](**options).fit(log, table, checkpoints=tmp_path / "training", resume=True)
    whole = models[name](**options).fit(log, table)
    assert whole.report is not None and len(whole.report.losses) == 6
    assert resumed.report == whole.report
    assert equal(weights_of(resumed), weights_of(whole))
    assert whole.item_bias.any() and np.array_equal(resumed.item_bias, whole.item_bias)


@pytest.fixture
def checkpointed(log: EventLog, tmp_path: Path) -> Path:
    """The folder of a run that ended at step 20."""
    new().fit(log, table_of(log.catalog.items.ids), checkpoints=tmp_path / "training")
    return tmp_path / "training"


def test_a_finished_run_resumed_is_the_same(log: EventLog, checkpointed: Path) -> None:
    table = table_of(log.catalog.items.ids)
    resumed = new().fit(log, table, checkpoints=checkpointed, resume=True)
    whole = new().fit(log, table)
    assert equal(weights_of(resumed), weights_of(whole)) and resumed.report == whole.report


def test_resuming_with_other_options_is_refused(log: EventLog, checkpointed: Path) -> None:
    table = table_of(log.catalog.items.ids)
    for options in ({"learning_rate": 0.1}, {"steps": 40}, {"seed": 9}, {"depth": 3}, {"terms": ("attention",)}):
        with pytest.raises(FolderError, match=r"checkpoint.safetensors belongs to a run with other options; to fix: resume"):
            new(**options).fit(log, table, checkpoints=checkpointed, resume=True)


def test_resuming_on_other_data_is_refused(log: EventLog, checkpointed: Path) -> None:
    ids = log.catalog.items.ids
    for other in ((log, table_of(ids, width=9)), (log, table_of(ids, seed=2)), (random_log(1), table_of(ids))):
        with pytest.raises(FolderError, match=r"checkpoint.safetensors belongs to a run on another log or table; to fix: "):
            new().fit(*other, checkpoints=checkpointed, resume=True)


def test_resuming_another_module_is_refused(tmp_path: Path) -> None:
    Scripted(itertools.repeat(0.0)).train(steps=2, checkpoints=tmp_path)
    other = Scripted(itertools.repeat(0.0))
    other.module = nn.Sequential(other.module)  # type: ignore[assignment]
    with pytest.raises(FolderError, match=r"checkpoint.safetensors belongs to another model; got: .*; to fix: remove it"):
        other.train(steps=2, checkpoints=tmp_path, resume=True)


def test_without_resume_a_checkpoint_is_written_over(log: EventLog, checkpointed: Path) -> None:
    table = table_of(log.catalog.items.ids)
    before = (checkpointed / "checkpoint.safetensors").read_bytes()
    again = new(seed=5).fit(log, table, checkpoints=checkpointed)
    assert (checkpointed / "checkpoint.safetensors").read_bytes() != before
    resumed = new(seed=5).fit(log, table, checkpoints=checkpointed, resume=True)
    assert equal(weights_of(resumed), weights_of(again))


def test_resuming_without_a_checkpoint_starts_at_the_beginning(log: EventLog, tmp_path: Path) -> None:
    table = table_of(log.catalog.items.ids)
    resumed = new().fit(log, table, checkpoints=tmp_path / "none yet", resume=True)
    assert equal(weights_of(resumed), weights_of(new().fit(log, table)))


def test_a_damaged_checkpoint_gives_a_clear_error(log: EventLog, checkpointed: Path) -> None:
    file = checkpointed / "checkpoint.safetensors"
    whole = file.read_bytes()
    safetensors.torch.save_file({"x": torch.zeros(2)}, checkpointed / "foreign")
    foreign = (checkpointed / "foreign").read_bytes()
    for damaged, match in (
        (whole[: len(whole) // 2], "cannot be read"),
        (b"", "cannot be read"),
        (b"no checkpoint at all", "cannot be read"),
        (foreign, "is not a training checkpoint"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(FolderError, match=rf"checkpoint.safetensors {match}.*to fix: remove it to start again"):
            new().fit(log, table_of(log.catalog.items.ids), checkpoints=checkpointed, resume=True)


@pytest.mark.parametrize("when", ["training", "validation"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, value: float
) -> None:
    """Training stops with the weights of the last good validation, whose checkpoint can be resumed."""
    table = table_of(log.catalog.items.ids)
    calls = {"training": 0, "validation": 0}
    good = TrainingForward.__call__

    def poisoned(self: Any, batch: Batch) -> torch.Tensor:
        now = "training" if torch.is_grad_enabled() else "validation"
        calls[now] += 1
        out = good(self, batch)
        limit = 17 if when == "training" else 1
        return out * value if now == when and calls[now] > limit else out

    ranker = new(steps=40)
    kept: dict[str, torch.Tensor] = {}
    with monkeypatch.context() as patch:
        patch.setattr(TrainingForward, "__call__", poisoned)
        at = f"the {when} loss became (nan|inf)" + (" at step 18" if when == "training" else "")
        with pytest.raises(TrainingError, match=rf"{at}.*expected: a finite number.*checkpoint.safetensors has step 10"):
            ranker.fit(log, table, checkpoints=tmp_path)
        kept = weights_of(ranker)
    with safetensors.safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        assert all(torch.equal(kept[name], file.get_tensor(f"best/{name}")) for name in kept)
    resumed = new(steps=40).fit(log, table, checkpoints=tmp_path, resume=True)
    assert equal(weights_of(resumed), weights_of(new(steps=40).fit(log, table)))


def test_a_loss_that_is_not_finite_before_the_first_validation(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        TrainingForward, "__call__", lambda self, batch: torch.full(batch.positive.shape, math.nan, requires_grad=True)
    )
    with pytest.raises(TrainingError, match=r"loss became nan at step 1; .*no checkpoint was asked for"):
        new().fit(log, table_of(log.catalog.items.ids))


def test_a_log_too_small_for_split_validation_users() -> None:
    log = log_of([[0, 1, 2], [2, 1]])
    ranker = new(steps=20, validation_users=5).fit(log, table_of(log.catalog.items.ids))
    assert ranker.report is not None and ranker.report.best_loss < math.inf


def test_a_checkpoint_that_cannot_be_written(log: EventLog, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FolderError, match=r"checkpoint.safetensors could not be written; .*to fix: check free space"):
        new().fit(log, table_of(log.catalog.items.ids), checkpoints=tmp_path / "file")
