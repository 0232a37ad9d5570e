"""What a search found, as a value, in words and as a folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from heedful.evaluation.significance import PairedTest
from heedful.events.targets import TargetConfig
from heedful.folders import new_folder
from heedful.rankers.registry import ALL_MODELS
from heedful.tuning.options import TuneConfig
from heedful.tuning.settings import Settings, to_toml
from heedful.tuning.space import to_settings
from heedful.tuning.study import Trial

__all__ = ["KIND", "TUNED", "Tuning", "write_tuning"]

KIND = "tuning"
TUNED = "tuned.toml"
_FEW_USERS = 100


@dataclass(frozen=True)
class Tuning:
    """What `tune` found.

    Attributes:
        config: how it searched.
        trials: all trials that ended; the first is the default.
        best: the one with the highest NDCG among those that did not fail.
        gain: NDCG of the best less that of the default, both trained again with another seed and validated on users
            who took no part in the choice; None where the best is the default, or failed when it was repeated.
        validation_users: how many users chose.
        period: first and last second of the days of the validation events.
        sampled: whether only a part of the log's users was trained on.
    """

    config: TuneConfig
    trials: tuple[Trial, ...]
    best: Trial
    gain: PairedTest | None
    validation_users: int
    period: tuple[int, int]
    sampled: bool

    @property
    def default(self) -> Trial:
        """The trial of the defaults."""
        return self.trials[0]

    @property
    def confirmed(self) -> bool:
        """Whether the best beats the default beyond noise: its interval lies above 0."""
        return self.gain is not None and self.gain.low > 0

    @property
    def embed(self) -> dict[str, Any]:
        """Recommended options of `SkipGram` that differ from the defaults; none unless the gain is confirmed."""
        return self.recommended["embed"]

    @property
    def train(self) -> dict[str, Any]:
        """Recommended options of `AttentionRanker` that differ from the defaults; none unless the gain is confirmed."""
        return self.recommended["train"]

    @property
    def recommended(self) -> dict[str, dict[str, Any]]:
        """Section -> option -> value: what was found if the gain is confirmed, or else what is not searched."""
        return to_settings(self.best.values if self.confirmed else {}, fixed=fixed_options(self.config))

    @property
    def proposed(self) -> Settings:
        """What was found but is not confirmed."""
        return {} if self.confirmed else to_settings(self.best.values)

    def table(self) -> pa.Table:
        """A row for each trial: number, ndcg, standard_error, seconds, problem, NDCG by gamma, every searched option."""
        rows = [
            {
                **{name: value for name, value in asdict(trial).items() if name not in ("values", "by_gamma")},
                **{f"ndcg, gamma {gamma:g}": trial.by_gamma.get(f"{gamma:g}") for gamma in self.config.gammas},
                **trial.values,
            }
            for trial in self.trials
        ]
        return pa.Table.from_pylist(rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything, fit for JSON."""
        return {
            "config": self.config.to_dict(),
            "validation_users": self.validation_users,
            "period": list(self.period),
            "sampled": self.sampled,
            "best": self.best.number,
            "confirmed": self.confirmed,
            "gain": asdict(self.gain) if self.gain is not None else None,
            "recommended": self.recommended,
            "trials": [asdict(trial) for trial in self.trials],
        }

    def __str__(self) -> str:
        """What was found, how sure that is, and what to do."""
        failed = sum(trial.problem is not None for trial in self.trials)
        gammas = ", ".join(f"{gamma:g}" for gamma in self.config.gammas)
        lines = [
            f"{len(self.trials)} trials, {failed} of them failed; "
            f"NDCG over {self.validation_users:,} validation users, mean over gammas {gammas}:",
            f"  defaults {self.default.ndcg:.4f}, best {self.best.ndcg:.4f} (trial {self.best.number})",
            *self._verdict(),
        ]
        users = self.gain.users if self.gain is not None else self.validation_users
        if users < _FEW_USERS:
            lines.append(f"Only {users} validation users: only large differences can be seen. Take more days or users.")
        if self.sampled:
            lines.append("Trained on a sample of the users: options that depend on the size of the log may differ.")
        return "\n".join(lines)

    def _verdict(self) -> list[str]:
        stay = "recommendation: stay with the defaults."
        if self.best.number == self.default.number:
            return ["No trial was better than the defaults.", stay]
        if self.gain is None:
            return [f"Trial {self.best.number} failed when it was repeated with another seed.", stay]
        gain, percent = self.gain, 100 * (1 - self.config.alpha)
        repeated = (
            f"repeated with another seed on {gain.users:,} other users: {gain.difference:+.4f} against the defaults, "
            f"{percent:g} % interval [{gain.low:+.4f}, {gain.high:+.4f}]"
        )
        if self.confirmed:
            return [f"  {repeated}", "recommendation: the settings found."]
        return [f"  {repeated}", "Nothing beat the defaults beyond noise.", stay]


def fixed_options(config: TuneConfig) -> dict[str, Any]:
    """Options that every trial has, the default too."""
    usual, known = TargetConfig().to_dict(), ALL_MODELS[config.model].config_class().to_dict()
    given = {name: value for name, value in config.plain().to_dict().items() if value != usual[name] and name in known}
    return {f"{config.sections[-1]}.{name}": value for name, value in given.items()}


def write_tuning(tuning: Tuning, out: str | os.PathLike[str], identity: dict[str, Any], *, overwrite: bool) -> None:
    """Write the folder: `tuned.toml`, `trials.parquet`, `trials.json` and the manifest.

    Raises:
        FolderError: the folder cannot be written.
    """
    comment = f"Made by `heedful tune`; use it with --config of `heedful embed`, `train` and `evaluate`.\n{tuning}"
    if any(tuning.proposed.values()):
        comment += "\nThe best settings found are below, as comments."
    with new_folder(out, kind=KIND, overwrite=overwrite) as folder:
        text = to_toml(tuning.recommended, comment=comment, proposed=tuning.proposed)
        (folder.path / TUNED).write_text(text, encoding="utf-8")
        (folder.path / "trials.json").write_text(json.dumps(tuning.to_dict(), indent=1) + "\n", encoding="utf-8")
        pq.write_table(tuning.table(), folder.path / "trials.parquet")
        folder.manifest["search"] = identity
        folder.manifest["trials"] = len(tuning.trials)
        folder.manifest["confirmed"] = tuning.confirmed
