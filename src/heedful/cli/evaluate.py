"""`heedful evaluate` and `heedful pools`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from heedful import cluster as on_cluster
from heedful.cli.options import chosen, cluster_option, config_options, overwrite_option, with_file
from heedful.embeddings.skipgram import SkipGram, SkipGramConfig
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError
from heedful.evaluation.comparison import measure_here
from heedful.evaluation.depths import check_depths
from heedful.evaluation.options import EvaluationConfig
from heedful.events.log import EventLog
from heedful.experiment import Workspace, run_experiment, run_series, write_requests
from heedful.folders import check_writable
from heedful.rankers.attention import AttentionConfig
from heedful.rankers.base import Ranker
from heedful.rankers.neural import NeuralRanker
from heedful.rankers.registry import ALL_MODELS, MODELS, new_ranker
from heedful.tuning.settings import MODEL_SECTIONS

__all__ = ["COMMANDS"]

_PRESETS = click.Choice(["default", "paper"])
_embeddings = click.option(
    "--embeddings",
    default=None,
    type=click.Path(),
    help="Embeddings to use; they must not know the test period. By default they are learnt from the past.",
)


@click.command("evaluate")
@click.argument("sequences", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="Folder of the report.")
@click.option(
    "--models",
    default=",".join(MODELS),
    show_default=True,
    help="Models to compare, with commas between them. NAME:PRESET gives a trained model its own preset, so that "
    "attention,attention:paper compares both.",
)
@click.option("--preset", default="default", show_default=True, type=_PRESETS, help="Preset of the other trained models.")
@click.option(
    "--scores",
    multiple=True,
    metavar="NAME=FILE",
    help="A model of your own: Parquet with its scores for the requests that `heedful pools` wrote. As often as you like.",
)
@click.option("--cuts", default=None, metavar="CUT,...", help="Several cuts in one report, instead of --cut.")
@click.option(
    "--seeds", default=1, show_default=True, help="Seeds of users, pools, embeddings and models, from --seed, in one report."
)
@click.option("--depths", default=None, help="Study the depth of attention (figure 4): numbers of layers, such as 1,2,4,8.")
@click.option("--depth-preset", default=None, type=_PRESETS, help="Preset of the rankers of --depths.  [--preset]")
@_embeddings
@click.option(
    "--workspace",
    default=None,
    type=click.Path(),
    help="Where embeddings and models are kept for the next run.  [OUT.stages]",
)
@click.option(
    "--config",
    "settings",
    default=None,
    type=click.Path(),
    help="TOML file such as tuned.toml: [embed] for the embeddings, [train] for the attention ranker, alone and in mixed, "
    "[averaging], [ease], ... for the model of that name, unless it has a preset of its own.",
)
@config_options(EvaluationConfig)
@overwrite_option
@cluster_option
def evaluate_command(
    sequences: str,
    out: str,
    models: str,
    preset: str,
    scores: tuple[str, ...],
    cuts: str | None,
    seeds: int,
    depths: str | None,
    depth_preset: str | None,
    embeddings: str | None,
    workspace: str | None,
    settings: str | None,
    overwrite: bool,
    cluster: str | None,
    **options: Any,
) -> None:
    """Split in time, train the models on the past, compare them on what came after, write a report."""
    config = EvaluationConfig.from_dict(chosen(options))
    tuned = with_file({}, settings, "train", AttentionConfig)
    found = {name: with_file({}, settings, name, ALL_MODELS[name].config_class) for name in MODEL_SECTIONS}
    # What was found for the attention ranker holds under a last stage, too.
    found |= {"attention": tuned, "mixed": {**tuned, **found["mixed"]}}
    targets = config.changed()  # what the models are trained for, where it is not the default
    rankers = _rankers(models, preset, targets, found)
    others = _files(scores)
    of_depths = {} if depth_preset else tuned
    depth_preset = depth_preset or preset
    by_depth = {
        depth: new_ranker("attention", preset=depth_preset, options={**targets, **of_depths, "depth": depth})
        for depth in _depths(depths)
    }
    several = _several(cuts, seeds, config, {"--scores": others, "--depths": by_depth})
    if not rankers and not others:
        raise ConfigError("there is nothing to compare", got="no models", expected=f"some of {', '.join(ALL_MODELS)}")
    if not cluster:
        check_writable(out, kind="report", overwrite=overwrite)
    with (
        on_cluster.connect(cluster) if cluster else nullcontext(),
        on_cluster.delivered(out, kind="report", overwrite=overwrite) as folder,
    ):
        find = on_cluster.here if cluster else Path
        log = EventLog.load(find(sequences))
        how: dict[str, Any] = {
            "workspace": Workspace(workspace or f"{folder}.stages"),
            "config": config,
            "skipgram": SkipGram(**with_file({}, settings, "embed", SkipGramConfig)),
            "items": ItemEmbeddings.load(find(embeddings)) if embeddings else None,
            "overwrite": overwrite,
            "measuring": on_cluster.measuring(out) if cluster else measure_here,
        }
        if several:
            series = run_series(log, rankers, folder, cuts=several, seeds=seeds, **how)
            click.echo(f"{series}\n\n{out}: report.html, results.json, per_user.parquet")
            return
        experiment = run_experiment(
            log, rankers, folder, others=others, depths=by_depth, depth_model=_shown("attention", depth_preset), **how
        )
    click.echo(str(experiment.comparison))
    if experiment.depths is not None:
        click.echo(f"\n{experiment.depths}")
    more = ", depths.parquet" if experiment.depths is not None else ""
    click.echo(f"\n{out}: report.html, figures, results.json, per_user.parquet, pools.parquet{more}")


@click.command("pools")
@click.argument("sequences", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="Parquet file of requests.")
@_embeddings
@config_options(EvaluationConfig, leave_out=("ks", "alpha", "resamples"))
def pools_command(sequences: str, out: str, embeddings: str | None, **options: Any) -> None:
    """The pools of an evaluation, as requests for a model of your own.

    The file has request_id, gamma, user_id, history and history_times (what the user did before the cut), and candidates.
    Answer with Parquet of request_id and scores (a list of numbers in candidate order), and give that to `heedful evaluate
    --scores NAME=FILE` with the same sequences and options. Your model must have been trained on events before the cut.
    """
    config = EvaluationConfig.from_dict(chosen(options))
    items = ItemEmbeddings.load(embeddings) if embeddings else None
    pools = write_requests(EventLog.load(sequences), out, config=config, items=items)
    click.echo(
        f"{out}: {len(pools) * len(pools.gammas):,} requests, {int(pools.lengths.sum()):,} candidates for {len(pools):,} "
        f"users; pools {pools.hash[:16]}"
    )
    click.echo(f"next: heedful evaluate {sequences} --scores NAME=SCORES.parquet --out report/, with the same options")


def _several(cuts: str | None, seeds: int, config: EvaluationConfig, refused: Mapping[str, object]) -> list[str | None]:
    """The cuts of a report with several cuts or seeds; none for a single experiment.

    Args:
        cuts: the option --cuts.
        seeds: the option --seeds.
        config: which has the option --cut.
        refused: options that a single experiment alone can have, with what was given.

    Raises:
        ConfigError: --cuts beside --cut, --cuts without a cut, or one of `refused`.
    """
    if cuts is None and seeds == 1:
        return []
    if cuts is not None and config.cut is not None:
        raise ConfigError("--cut and --cuts are both given", got=f"{config.cut} and {cuts}", expected="one of them")
    for name, given in refused.items():
        if given:
            raise ConfigError(
                f"{name} needs a single cut and seed", got="several", fix=f"leave out {name}, or --cuts and --seeds"
            )
    if cuts is None:
        return [config.cut]
    listed: list[str | None] = list(_parts(cuts))
    if not listed:
        raise ConfigError("--cuts cannot be used", got=repr(cuts), expected="dates or times with commas between them")
    return listed


def _rankers(models: str, preset: str, targets: dict[str, Any], tuned: dict[str, dict[str, Any]]) -> dict[str, Ranker]:
    """The rankers of --models by the name that the report shows, not yet fitted; those in `tuned` with these options.

    Models that can be trained for `targets` are.

    Raises:
        ConfigError: an unknown model or preset, a preset for a model that has none, or one model twice.
    """
    rankers: dict[str, Ranker] = {}
    for part in _parts(models):
        model, _, own = part.partition(":")
        if model not in ALL_MODELS:
            raise ConfigError("unknown models", got=model or "none", expected=", ".join(ALL_MODELS))
        has_presets = issubclass(ALL_MODELS[model], NeuralRanker)
        if own and not has_presets:
            raise ConfigError(f"{model} has no presets", got=part, expected=model)
        options = {} if own else tuned.get(model, {})
        name = _shown(model, "tuned" if options else own or preset if has_presets else "default")
        if name in rankers:
            raise ConfigError("a model is named twice", got=part, expected="each model once")
        known = ALL_MODELS[model].config_class().to_dict()
        asked = {option: value for option, value in targets.items() if option in known}
        rankers[name] = new_ranker(model, preset=own or preset, options={**asked, **options})
    return rankers


def _shown(model: str, preset: str) -> str:
    return model if preset == "default" else f"{model} ({preset})"


def _files(scores: Sequence[str]) -> dict[str, str]:
    """Files of scores by model, from NAME=FILE.

    Raises:
        ConfigError: no name or no file, or a name twice.
    """
    files: dict[str, str] = {}
    for part in scores:
        name, _, path = part.partition("=")
        if not name or not path or name in files:
            raise ConfigError("--scores cannot be used", got=part, expected="NAME=FILE, each name once")
        files[name] = path
    return files


def _depths(depths: str | None) -> list[int]:
    """The numbers of --depths.

    Raises:
        ConfigError: one is not a number of layers, or there are fewer than two.
    """
    if depths is None:
        return []
    parts = _parts(depths)
    if not all(part.isdecimal() for part in parts):
        raise ConfigError("--depths cannot be used", got=depths, expected="numbers of layers such as 1,2,4,8")
    numbers = [int(part) for part in parts]
    check_depths(numbers)
    return sorted(set(numbers))


def _parts(listed: str) -> list[str]:
    return [part.strip() for part in listed.split(",") if part.strip()]


COMMANDS = {"evaluate": evaluate_command, "pools": pools_command}
