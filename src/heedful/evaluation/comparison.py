"""Many models, the same users, the same pools: who ranks better, by how much, and how sure that is (paper, section 5)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from heedful.errors import ConfigError, InputError
from heedful.evaluation.measures import CATALOGUE, ModelResult, Values, Wanted, measure
from heedful.evaluation.options import RECALL_CURVE, EvaluationConfig
from heedful.evaluation.pools import Pools, drawable_items, make_pools
from heedful.evaluation.results import Comparison, Estimate, table_measures
from heedful.evaluation.sources import Model, source_of
from heedful.evaluation.verdicts import Verdict, find_verdicts
from heedful.events.log import EventLog
from heedful.events.vocabulary import Vocabulary

__all__ = [
    "Comparison",
    "Estimate",
    "EvaluationConfig",
    "Measuring",
    "Verdict",
    "compare",
    "draw_pools",
    "measure_here",
    "measure_models",
]

Measuring = Callable[[ModelResult, Model, EventLog, Pools, Wanted], None]
"""Adds the results of a model to what has its name: from the model, the past, the pools and what is wanted."""


def measure_here(result: ModelResult, model: Model, past: EventLog, pools: Pools, wanted: Wanted) -> None:
    """Measure a model in this process."""
    measure(result, source_of(result.name, model, pools, past), pools, wanted)


def compare(
    models: Mapping[str, Model],
    future: EventLog,
    *,
    past: EventLog | None = None,
    items: Vocabulary | None = None,
    pools: Pools | None = None,
    config: EvaluationConfig | None = None,
    measuring: Measuring = measure_here,
) -> Comparison:
    """Rank what the test users newly touched in `future` by each model, and compare the models over users.

    A model sees a user's events in `past` and a list of candidates. The candidates of a pool are the same for all models
    and are in an order that tells nothing.

    Args:
        models: by name: a ranker; a function from (histories, candidates), in rows of the pools' items, to scores; or the
            path of a Parquet file with the scores of `Pools.save_requests`.
        future: the events after the cut, from `EventLog.split`.
        past: the events before it; None for those that `EventLog.split` cut off from `future`.
        items: the items that can be ranked, such as those of the embedding table; None for those of the past.
        pools: pools made or loaded before; None to make them from the configuration.
        config: sizes, seeds and levels; `cut` and `days` were for the split.
        measuring: how each model is measured; `heedful.cluster` has another way.

    Raises:
        ConfigError: no models, no past, a pool larger than the catalogue.
        InputError: nobody to test, the past reaches into the future, a model was trained on events of the future, or a
            model gave scores of another shape or not finite.
    """
    if not models:
        raise ConfigError("there is nothing to compare", got="no models", expected="one or more")
    past = past if past is not None else future.past
    if past is None:
        raise ConfigError(
            "it is not clear what the test users did before",
            got="a future that was not made by EventLog.split",
            fix="pass past=, or make the future with EventLog.split",
        )
    _refuse_leaks(models, past, future)
    started = time.perf_counter()
    if pools is None:
        config, pools = draw_pools(past, future, items=items, config=config or EvaluationConfig())
    else:
        config = _fitted(config or EvaluationConfig(), pools)
    seconds = time.perf_counter() - started
    found = measure_models(models, past, pools, config, catalogue=True, measuring=measuring)
    found.seconds["pools"] = seconds
    return found


def draw_pools(
    past: EventLog, future: EventLog, *, items: Vocabulary | None, config: EvaluationConfig
) -> tuple[EvaluationConfig, Pools]:
    """The pools that `compare` would make, and the configuration with pool sizes filled in.

    Raises:
        ConfigError: a pool larger than the catalogue.
        InputError: nobody to test.
    """
    if config.target == "repeat":  # its negatives are not drawn by popularity
        config = replace(config, gammas=(0.0,))
    config = config.fitted(drawable_items(past, items, config.gammas))
    assert config.pool is not None
    pools = make_pools(
        past,
        future,
        gammas=config.gammas,
        size=config.pool,
        largest=max(config.pool_sizes),
        largest_users=config.catalogue_users,
        max_users=config.max_users,
        targets=config,
        items=items,
        seed=config.seed,
    )
    return config, pools


def measure_models(
    models: Mapping[str, Model],
    past: EventLog,
    pools: Pools,
    config: EvaluationConfig,
    *,
    catalogue: bool,
    measuring: Measuring = measure_here,
) -> Comparison:
    """Measure and test models in given pools; what `compare` does once everything is checked.

    Args:
        models: as for `compare`.
        past: the events before the cut.
        pools: whom and what to rank.
        config: with pool sizes filled in.
        catalogue: rank the whole catalogue, too.
        measuring: as for `compare`.
    """
    results = {name: _measure(name, model, pools, past, config, catalogue, measuring) for name, model in models.items()}
    started = time.perf_counter()
    values = {name: {m: v[None] for m, v in result.best.by_user.items()} for name, result in results.items()}
    verdicts = find_verdicts(values, table_measures(config), config)
    seconds = {"tests": time.perf_counter() - started}
    lengths = past.histories.lengths[pools.past_rows]
    notes = (*pools.notes, *_notes(results, pools))
    return Comparison(config, pools, results, verdicts, notes, lengths, seconds)


def _refuse_leaks(models: Mapping[str, Model], past: EventLog, future: EventLog) -> None:
    if not past.n_events or not future.n_events:
        raise InputError(f"the {'future' if past.n_events else 'past'} has no events", fix="choose another cut")
    cut = int(future.histories.times.min())
    if int(past.histories.times.max()) >= cut:
        raise InputError("the past reaches into the future", fix="make both with EventLog.split")
    for name, model in models.items():
        last = getattr(model, "last_time", None)
        if last is not None and last >= cut:
            raise InputError(
                f"{name!r} was trained on events of the test period",
                got=f"training events up to {last} (unix seconds)",
                expected=f"none at or after {cut}",
                fix="fit it on the past alone",
            )


def _fitted(config: EvaluationConfig, pools: Pools) -> EvaluationConfig:
    """The configuration with what given pools prescribe."""
    pool = config.fitted(pools.size + 1).pool
    config = replace(config, pool=pool, gammas=pools.gammas, seed=pools.seed).fitted(pools.largest + 1)
    assert config.pool is not None
    for got, wanted in ((pools.size, config.pool), (pools.largest, max(config.pool_sizes))):
        if wanted > got:
            raise ConfigError(
                "the pools that were given are too small",
                got=f"{got} negatives",
                expected=f"at least {wanted}",
                fix="make larger pools, or ask for smaller sizes",
            )
    return config


def _measure(
    name: str,
    model: Model,
    pools: Pools,
    past: EventLog,
    config: EvaluationConfig,
    catalogue: bool,
    measuring: Measuring,
) -> ModelResult:
    assert config.pool is not None
    corrected = Values() if getattr(model, "uses_prior", False) else None
    result = ModelResult(name, corrected=corrected, is_rival=getattr(model, "is_rival", True))
    wanted = Wanted(
        config.pool,
        config.pool_sizes,
        tuple(sorted({*config.ks, *RECALL_CURVE})),
        config.ks,
        pools.sample(config.catalogue_users) if catalogue else np.empty(0, np.int64),
    )
    measuring(result, model, past, pools, wanted)
    return result


def _notes(results: dict[str, ModelResult], pools: Pools) -> list[str]:
    notes = [
        "Metrics among sampled negatives can order models otherwise than metrics over the whole catalogue (Krichene and "
        "Rendle, 2020, On sampled metrics for item recommendation); where the two disagree, trust the catalogue."
    ]
    for name, result in results.items():
        if not any(measure.pool == CATALOGUE for measure in result.best.by_user):
            notes.append(f"{name} is a file of scores for the pools, so it is not measured over the catalogue.")
    if len(pools) < 100:
        notes.append(f"Only {len(pools)} test users: differences have to be large to be seen at all.")
    return notes
