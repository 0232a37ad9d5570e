"""The trials of a search, kept by Optuna in a journal file, so that a search that was stopped goes on as if it was not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heedful.errors import ConfigError, FolderError, MissingExtraError
from heedful.tuning.space import default_values, paper_values, suggest

if TYPE_CHECKING:
    import optuna

__all__ = ["Study", "Trial", "require_optuna"]

JOURNAL = "journal.log"
_NAME = "heedful"
_IDENTITY = "identity"


@dataclass(frozen=True)
class Trial:
    """One trial that ended.

    Attributes:
        number: place among those that ended, from 0, which is the default.
        values: the searched options.
        ndcg: mean over validation users and gammas; None if the trial failed.
        standard_error: of that mean, over validation users.
        by_gamma: mean over validation users for each gamma.
        seconds: what it took.
        problem: why it failed; None if it did not.
    """

    number: int
    values: dict[str, Any]
    ndcg: float | None
    standard_error: float | None
    by_gamma: dict[str, float]
    seconds: float
    problem: str | None = None


@dataclass
class Asked:
    """A trial that was begun."""

    handle: optuna.Trial
    values: dict[str, Any] = field(default_factory=dict)


def require_optuna() -> None:
    """Find out before any work whether Optuna is there.

    Raises:
        MissingExtraError: it is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("optuna", "tune") from error


class Study:
    """The trials in a folder. What is asked next depends on the seed and on the trials that ended, on nothing else.

    Args:
        folder: where the journal lies; made when needed.
        options: what is searched.
        identity: what a search must have in common with its beginning, fit for JSON.
        seed: of the search.

    Raises:
        ConfigError: the folder has the trials of another search.
        FolderError: the journal cannot be read or written.
    """

    def __init__(self, folder: Path, options: Sequence[str], identity: Mapping[str, Any], seed: int) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.options, self._seed = tuple(options), seed
        try:
            folder.mkdir(parents=True, exist_ok=True)
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
            self._study = optuna.create_study(
                storage=storage, study_name=_NAME, direction="maximize", load_if_exists=True, sampler=self._sampler(0)
            )
        except (OSError, ValueError, KeyError, AssertionError) as error:
            raise FolderError(
                f"the trials in {folder} cannot be read", got=error, fix="--overwrite to start again, or another --out"
            ) from error
        self._check_identity(folder, json.loads(json.dumps(identity)))
        self._drop_unfinished()

    def ended(self) -> list[Trial]:
        """The trials that ended, oldest first; those that were interrupted are not among them."""
        frozen = [trial for trial in self._study.get_trials(deepcopy=False) if "values" in trial.user_attrs]
        return [Trial(number=number, **trial.user_attrs) for number, trial in enumerate(frozen)]

    def ask(self) -> Asked:
        """Begin the next trial: first the defaults, then the paper's settings, then what the sampler proposes.

        Every second one keeps the embeddings of the best trial so far, which are at hand.
        """
        ended = self.ended()
        self._study.sampler = self._sampler(len(ended))
        given = self._given(ended)
        if given:
            self._study.enqueue_trial(given)
        handle = self._study.ask()
        return Asked(handle, suggest(handle, self.options))

    def tell(self, asked: Asked, by_user: np.ndarray, gammas: Sequence[float], seconds: float) -> Trial:
        """End a trial with the NDCG of each validation user for each gamma, float64 [B, G]."""
        means = by_user.mean(1)
        ndcg = float(means.mean())
        error = float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else None
        by_gamma = {f"{gamma:g}": float(mean) for gamma, mean in zip(gammas, by_user.mean(0), strict=True)}
        return self._end(asked, seconds, ndcg=ndcg, standard_error=error, by_gamma=by_gamma)

    def tell_problem(self, asked: Asked, problem: str, seconds: float) -> Trial:
        """End a trial that failed."""
        return self._end(asked, seconds, ndcg=None, standard_error=None, by_gamma={}, problem=problem)

    def _end(self, asked: Asked, seconds: float, **facts: Any) -> Trial:
        import optuna

        facts = {**facts, "seconds": round(seconds, 3), "values": asked.values}
        for name, value in facts.items():  # the values last: they mark a trial that ended
            asked.handle.set_user_attr(name, value)
        failed = optuna.trial.TrialState.FAIL if facts["ndcg"] is None else None
        self._study.tell(asked.handle, facts["ndcg"], state=failed)
        return self.ended()[-1]

    def _given(self, ended: Sequence[Trial]) -> dict[str, Any]:
        """Values that the next trial does not leave to the sampler."""
        defaults, paper = default_values(self.options), paper_values(self.options)
        if not ended:
            return defaults
        if len(ended) == 1 and paper != defaults:
            return paper
        sections = {option.partition(".")[0] for option in self.options}
        if len(ended) % 2 == 0 or len(sections) == 1:
            return {}
        best = max(ended, key=lambda trial: -math.inf if trial.ndcg is None else trial.ndcg)
        return {option: value for option, value in best.values.items() if option.startswith("embed.")}

    def _sampler(self, ended: int) -> optuna.samplers.BaseSampler:
        """A sampler whose random numbers depend on the seed and the number of trials that ended alone."""
        import optuna

        state = np.random.SeedSequence([self._seed, ended]).generate_state(1)
        return optuna.samplers.TPESampler(seed=int(state[0]))

    def _check_identity(self, folder: Path, identity: dict[str, Any]) -> None:
        known = self._study.user_attrs.get(_IDENTITY)
        if known is None:
            self._study.set_user_attr(_IDENTITY, identity)
            return
        different = [name for name in identity.keys() | known.keys() if identity.get(name) != known.get(name)]
        if different:
            raise ConfigError(
                f"{folder} has the trials of a search on another log or with other options",
                got=f"different: {', '.join(sorted(different))}",
                expected="the same log and options, but for trials, minutes and threads",
                fix="give the same ones to go on, --overwrite to start again, or another --out",
            )

    def _drop_unfinished(self) -> None:
        """Close what an interrupted run left open, so that the sampler does not take it into account."""
        from optuna.trial import TrialState

        for _ in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.ask()
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.FAIL)
