"""`tune`: search the settings of embeddings and ranker, confirm the best, write what was found."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from heedful.errors import InputError, TrainingError
from heedful.evaluation.significance import PairedTest, paired_tests
from heedful.events.log import EventLog
from heedful.folders import check_writable, write_atomically
from heedful.progress import Meter, say
from heedful.tuning.options import TuneConfig
from heedful.tuning.results import KIND, Tuning, fixed_options, write_tuning
from heedful.tuning.space import SPACE, default_values, searched_options, to_settings
from heedful.tuning.study import JOURNAL, Study, Trial, require_optuna
from heedful.tuning.validation import Validation, before

__all__ = ["study_folder", "tune"]

# What settings can do to a training run: a loss that is not finite, scores that are not, too little memory.
_FAILURES = (TrainingError, InputError, RuntimeError, MemoryError)
_RESAMPLES = 10_000
# The defaults and the best are trained once more in the end.
_REPEATS = 2
# How many of the last trials tell how long the next will take.
_LATELY = 5


def tune(
    log: EventLog,
    out: str | os.PathLike[str],
    *,
    cut: str | int | date | datetime | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Tuning:
    """Search the settings of a model for a log: by default of the attention ranker, together with its embeddings.

    Trials and embeddings are kept in the folder `OUT.study`; the same call goes on from there after an interrupt, or with
    more trials. `SkipGram(**found.embed)` and `AttentionRanker(**found.train)` have the recommended settings.

    Args:
        log: the training log. Settings are validated on its own last days; a test period must not be in it.
        out: folder of what was found: `tuned.toml`, `trials.parquet`, `trials.json`.
        cut: leave out the events from this time on, for a log that has a test period.
        overwrite: forget the trials so far, replace the folder.
        options: the fields of `TuneConfig`.

    Raises:
        MissingExtraError: Optuna is not installed.
        ConfigError: an option out of range, or trials of another log or of other options in `OUT.study`.
        InputError: the log is too short, or has too few validation users.
        TrainingError: the defaults cannot be trained on this log.
        FolderError: a folder cannot be written.
    """
    require_optuna()
    config = TuneConfig.from_dict(options)
    folder = study_folder(out)
    goes_on = (folder / JOURNAL).exists() and not overwrite
    check_writable(out, kind=KIND, overwrite=overwrite or goes_on)
    validation = Validation.of(before(log, cut), config)
    searched = searched_options(config.search, sampled=validation.sampled, sections=config.sections)
    if not goes_on:
        shutil.rmtree(folder, ignore_errors=True)
    identity = {
        "log": validation.data,
        "ranges": {option: repr(SPACE[option]) for option in searched},
        "defaults": default_values(searched),
        **config.identity(),
    }
    search = _Search(validation, Study(folder, searched, identity, config.seed), folder)
    trials = search.run()
    best = _best(trials)
    found = Tuning(
        config,
        tuple(trials),
        best,
        search.gain(trials[0], best),
        len(validation.selection),
        validation.period,
        validation.sampled,
    )
    write_tuning(found, out, identity, overwrite=True)
    return found


def study_folder(out: str | os.PathLike[str]) -> Path:
    """Where the trials and embeddings of a search are kept."""
    return Path(f"{Path(out)}.study")


class _Search:
    """Runs trials one after the other until they are enough or the time is up."""

    def __init__(self, validation: Validation, study: Study, folder: Path) -> None:
        self.validation, self.study, self.config = validation, study, validation.config
        self._embeddings, self._repeated = folder / "embeddings", folder / "repeated"
        self._fixed = fixed_options(self.config)
        self._started = time.monotonic()

    def run(self) -> list[Trial]:
        """All trials that ended, those of earlier runs among them."""
        trials = self.study.ended()
        meter = Meter("tuning", self.config.trials, "trials")
        meter.resume_at(len(trials))
        if trials:
            say(f"going on after {len(trials)} trials")
        while len(trials) < self.config.trials and not self._time_is_up(trials):
            trials.append(self._trial(first=not trials))
            self._tidy(trials)
            say(_news(trials))
            meter.advance()
        meter.finish()
        return trials

    def gain(self, default: Trial, best: Trial) -> PairedTest | None:
        """The best against the default, trained again, on the other validation users; None if the best is the default."""
        if best.number == default.number:
            return None
        say(f"repeating the defaults and trial {best.number} with another seed, validated on other users")
        repeated = [self._repeat(trial) for trial in (default, best)]
        if repeated[0] is None or repeated[1] is None:
            return None
        difference = (repeated[1] - repeated[0])[:, None]
        confidence = 1 - self.config.alpha
        return paired_tests(difference, confidence=confidence, resamples=_RESAMPLES, seed=self.config.seed)[0]

    def _trial(self, *, first: bool) -> Trial:
        asked, started = self.study.ask(), time.monotonic()
        pools, seed = self.validation.selection, self.config.seed
        try:
            by_user = self.validation.ndcg(self._settings(asked.values), pools, seed=seed, folder=self._embeddings)
        except _FAILURES as error:
            if first:  # without the defaults there is nothing to compare with
                raise
            return self.study.tell_problem(asked, f"{type(error).__name__}: {error}", time.monotonic() - started)
        return self.study.tell(asked, by_user, pools.gammas, time.monotonic() - started)

    def _repeat(self, trial: Trial) -> np.ndarray | None:
        """NDCG of the other validation users, mean over gammas, float64 [B]; None if training fails."""
        place = self._repeated / f"{trial.number}.npy"
        if place.exists():
            return np.asarray(np.load(place, allow_pickle=False))
        pools, seed = self.validation.confirmation, self.config.seed + 1
        try:
            by_user = self.validation.ndcg(self._settings(trial.values), pools, seed=seed, folder=self._embeddings)
        except _FAILURES as error:
            say(f"trial {trial.number} failed when it was repeated: {error}")
            return None
        means: np.ndarray = by_user.mean(1)
        with write_atomically(place) as partial, partial.open("wb") as stream:
            np.save(stream, means, allow_pickle=False)
        return means

    def _settings(self, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return to_settings(values, fixed=self._fixed)

    def _tidy(self, trials: Sequence[Trial]) -> None:
        """Keep the embeddings of the defaults, of the best and of the last trial only."""
        kept = (trials[0], _best(trials), trials[-1])
        seed = self.config.seed
        names = {self.validation.name(self._settings(trial.values)["embed"], seed) for trial in kept}
        self.validation.forget(self._embeddings, names)

    def _time_is_up(self, trials: Sequence[Trial]) -> bool:
        """Whether another trial and the repetition of the best would end after the time allowed; never before two."""
        if not self.config.minutes or len(trials) < 2:
            return False
        usual = statistics.median(trial.seconds for trial in trials[-_LATELY:])
        elapsed = time.monotonic() - self._started
        if elapsed + (1 + _REPEATS) * usual <= 60 * self.config.minutes:
            return False
        say(f"no time for another trial, which lately took {usual / 60:.1f} minutes, and as long twice to repeat the best")
        return True


def _best(trials: Sequence[Trial]) -> Trial:
    """The highest NDCG; the earlier trial where two are the same."""
    return max((trial for trial in trials if trial.ndcg is not None), key=lambda trial: trial.ndcg or 0.0)


def _news(trials: Sequence[Trial]) -> str:
    last, best = trials[-1], _best(trials)
    outcome = f"failed: {last.problem}" if last.ndcg is None else f"NDCG {last.ndcg:.4f}"
    return f"trial {last.number}: {outcome}; best {best.ndcg:.4f} (trial {best.number}), defaults {trials[0].ndcg:.4f}"
