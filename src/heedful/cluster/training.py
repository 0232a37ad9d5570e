"""Training on a cluster: DistributedDataParallel, each worker with its own users of every batch.

The batches, their negatives and their noise are those of one machine, so the loss curve is too, but for the order in which
gradients are added up. The embedding table and the sequences are memory-mapped, once on each node.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from heedful.cluster.connection import check_paths
from heedful.cluster.storage import Place, check_free, delivered, here
from heedful.cluster.team import checkpoint_in, finish, run_team, team_errors
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError
from heedful.events.log import EventLog
from heedful.model.popularity import PopularityIndex
from heedful.rankers.base import Ranker
from heedful.rankers.neural import NeuralRanker
from heedful.rankers.registry import MODELS
from heedful.training.batch import Batch
from heedful.training.forward import Forward

__all__ = ["DataParallel", "train"]


def train(
    ranker: Ranker,
    sequences: str | os.PathLike[str],
    embeddings: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    pack: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train a ranker on the cluster that is connected, and save it.

    Args:
        ranker: not yet fitted; a trained one ("attention" or "averaging").
        sequences: folder of the log, which all nodes reach, as they do the others; each a path or a URL.
        embeddings: folder of the table.
        out: the model folder, with a copy of the table in it where either is at a URL. Checkpoints lie in `OUT.training`
            until it is finished.
        resume: go on from the checkpoint of a run that was stopped as a whole.
        pack: put a copy of the table into the model folder.
        overwrite: replace a finished model folder.

    Returns:
        n_parameters, workers, and the fields of `TrainingReport`.

    Raises:
        ConfigError: a model that is not trained step by step.
        FolderError: a node does not see a path, or cannot write.
        TrainingError: as `NeuralRanker.fit`.
    """
    if not isinstance(ranker, NeuralRanker):
        raise ConfigError(
            f"{ranker.name} is not trained on a cluster", expected="attention or averaging", fix="leave --cluster out"
        )
    log, table, target = (Place.of(place) for place in (sequences, embeddings, out))
    work = target.beside(".training")
    check_free(target, kind="model", overwrite=overwrite)
    if not resume:
        work.remove()
    work.make()
    check_paths([log, table], work)
    arguments = {
        "model": ranker.name,
        "config": ranker.config.to_dict(),
        "sequences": log,
        "embeddings": table,
        "out": target,
        "pack": pack or any(place.path is None for place in (table, target)),
    }
    facts = run_team(_train, arguments, work)
    work.remove()
    return facts


def _train(arguments: dict[str, Any]) -> None:
    """One worker, from the last checkpoint on."""
    torch.set_num_threads(1)
    workers = DataParallel()
    with team_errors(arguments["work"]) as wanted, tempfile.TemporaryDirectory(prefix="heedful-") as folder:
        if not wanted:
            return
        ranker = MODELS[arguments["model"]](**arguments["config"])
        assert isinstance(ranker, NeuralRanker)
        with checkpoint_in() as last:
            if last is not None:
                shutil.copytree(last, folder, dirs_exist_ok=True)
        log, items = EventLog.load(here(arguments["sequences"])), ItemEmbeddings.load(here(arguments["embeddings"]))
        ranker.fit(log, items, checkpoints=Path(folder), resume=last is not None, workers=workers)
        if workers.rank == 0:
            with delivered(arguments["out"]) as made:
                ranker.save(made, overwrite=True, pack=arguments["pack"])
            assert ranker.report is not None
            facts = {"n_parameters": ranker.n_parameters, "workers": workers.size, **asdict(ranker.report)}
            finish(arguments["work"], facts)


class DataParallel:
    """A `heedful.training.loop.Workers` over the process group that is already there."""

    def __init__(self) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def once(self, build: Callable[[], PopularityIndex]) -> PopularityIndex:
        """See `Workers`."""
        import ray.train

        own = tempfile.mkdtemp(prefix="heedful-") if ray.train.get_context().get_local_rank() == 0 else ""
        names: list[tuple[str, str]] = [("", "")] * self.size
        machine = ray.get_runtime_context().get_node_id()
        distributed.all_gather_object(names, (machine, own))
        folder = Path(next(place for node, place in names if node == machine and place))
        if own:
            build().save(folder)
        distributed.barrier()
        index = PopularityIndex.load(folder)
        distributed.barrier()
        if own:
            shutil.rmtree(folder)  # the maps keep what they show
        return index

    def share(self, module: nn.Module, forward: Forward) -> Forward:
        """See `Workers`."""
        return nn.parallel.DistributedDataParallel(_Pass(module, forward), broadcast_buffers=False)

    def total(self, values: list[float]) -> list[float]:
        """See `Workers`."""
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums)
        return sums.tolist()

    def saved(self, folder: Path, report: dict[str, float]) -> None:
        """See `Workers`: Ray Train keeps the checkpoint in the shared folder."""
        import ray.train

        ray.train.report(report, checkpoint=ray.train.Checkpoint.from_directory(folder) if self.rank == 0 else None)


class _Pass(nn.Module):
    """The forward pass as a module that owns the parameters, which is what DistributedDataParallel wraps."""

    def __init__(self, module: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.module, self._forward = module, forward

    def forward(self, batch: Batch) -> torch.Tensor:
        if self.module.training and batch.share is not None:
            longest = torch.tensor(batch.history.rows.shape[1])
            distributed.all_reduce(longest, op=distributed.ReduceOp.MAX)
            batch = replace(batch, share=replace(batch.share, longest=int(longest)))
        return self._forward(batch)
