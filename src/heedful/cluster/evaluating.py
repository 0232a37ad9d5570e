"""Evaluation on a cluster: the test users in the very blocks of one machine, each block measured by some worker."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from heedful.cluster.connection import check_paths
from heedful.cluster.parts import open_work, run_parts
from heedful.cluster.storage import Place, here
from heedful.evaluation.comparison import Measuring, measure_here
from heedful.evaluation.measures import Measure, ModelResult, Values, Wanted, blocks_of, measure
from heedful.evaluation.pools import Pools
from heedful.evaluation.sources import Model, source_of
from heedful.events.log import EventLog
from heedful.folders import write_atomically
from heedful.rankers.base import Ranker
from heedful.rankers.registry import load_ranker

__all__ = ["measuring"]


def measuring(out: str | os.PathLike[str]) -> Measuring:
    """How `heedful.compare` measures rankers on the cluster that is connected; other models are measured here.

    Args:
        out: folder of the report, which all nodes reach; parts lie in `OUT.parts` and are removed in the end.
    """

    def measure_there(result: ModelResult, model: Model, past: EventLog, pools: Pools, wanted: Wanted) -> None:
        if not isinstance(model, Ranker):
            measure_here(result, model, past, pools, wanted)
            return
        place = Place.of(out).beside(".parts")
        open_work(place, {"model": result.name, "pools": pools.hash, "trained": model.trained_on, "config": model.config})
        places = _shared(place, model, past)
        check_paths(list(places.values()), place)
        blocks = blocks_of(source_of(result.name, model, pools, past), pools, wanted)
        arguments = {"name": result.name, **places, "pools": pools, "wanted": wanted}
        facts = run_parts(place, "measure", list(range(len(blocks))), _Measurer, arguments)
        names = [f"measure-{number:05d}.npz" for number in range(len(blocks))]
        with place.gathered(names) as folder:
            for name, one in zip(names, facts, strict=True):
                _add(result, folder / name, one)
        place.remove()

    return measure_there


def _shared(place: Place, model: Ranker, past: EventLog) -> dict[str, Place]:
    """The model and the past where all nodes reach them."""
    with place.workshop() as folder:
        # A folder at a URL cannot tell where the table is.
        model.save(folder / "model", overwrite=True, pack=place.path is None)
        if past.folder is None or place.path is None:
            past.save(folder / "past", overwrite=True)
        elif past.folder is not None:
            return {"model": place / "model", "past": Place.of(past.folder.path)}
    return {"model": place / "model", "past": place / "past"}


class _Measurer:
    """One ranker, the past and the pools."""

    def __init__(self, name: str, model: Place, past: Place, pools: Pools, wanted: Wanted) -> None:
        self._name, self._ranker, self._pools, self._wanted = name, load_ranker(here(model)), pools, wanted
        self._source = source_of(name, self._ranker, pools, EventLog.load(here(past)))
        self._blocks = blocks_of(self._source, pools, wanted)

    def run(self, part: int, path: Path) -> dict[str, Any]:
        result = ModelResult(self._name, corrected=Values() if self._ranker.uses_prior else None)
        block = self._blocks[part]
        measure(result, self._source, self._pools, self._wanted, blocks=[block])
        arrays, facts = {"users": block.users}, {}
        for name, way in _ways(result):
            facts[name] = [list(measure) for measure in way.by_user]
            arrays[name] = np.stack([values[block.users] for values in way.by_user.values()])
            if way.shown is not None:
                arrays[f"{name}_shown"] = way.shown
        with write_atomically(f"{path}.npz") as partial, partial.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        seconds = {"scoring": result.scoring_seconds, "ranking": result.ranking_seconds}
        return {"measures": facts, "seconds": seconds, "n_users": len(self._pools)}


def _add(result: ModelResult, path: Path, facts: dict[str, Any]) -> None:
    """Add what a worker measured."""
    with np.load(path) as arrays:
        for name, way in _ways(result):
            by_user = {}
            for measure, found in zip(facts["measures"][name], arrays[name], strict=True):
                by_user[Measure(*measure)] = np.full(facts["n_users"], np.nan)
                by_user[Measure(*measure)][arrays["users"]] = found
            way.add(Values(by_user, arrays.get(f"{name}_shown", None)))
    result.scoring_seconds += facts["seconds"]["scoring"]
    result.ranking_seconds += facts["seconds"]["ranking"]


def _ways(result: ModelResult) -> Iterable[tuple[str, Values]]:
    yield "plain", result.plain
    if result.corrected is not None:
        yield "corrected", result.corrected
