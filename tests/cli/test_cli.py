"""The `heedful` command: every stage end to end on a tiny log, and how it ends when something is wrong."""

from __future__ import annotations

import importlib
import json
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from heedful import cli
from heedful.cli import evaluate, main
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import InputError
from heedful.events.log import EventLog
from heedful.folders import open_folder
from heedful.progress import show_progress
from heedful.rankers.registry import ALL_MODELS, MODELS, load_ranker
from ranking_worlds import DAY, START, heedful, python, quiet_environment, unprivileged

N_ITEMS = 40
QUICK = {
    "mixed": [
        *("--steps", "8", "--depth", "2", "--hidden", "8", "--negatives", "8", "--device", "cpu"),
        *("--stage-windows", "1", "--stage-users", "40"),
    ],
    "attention": ["--steps", "20", "--depth", "2", "--hidden", "8", "--negatives", "8", "--device", "cpu"],
    "averaging": ["--steps", "20", "--hidden", "8", "--negatives", "8", "--device", "cpu"],
    "weighted-sum": ["--evaluations", "20"],
    "last-item": [],
    "recent-popularity": [],
    "popularity": [],
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs the command in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--quiet", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    yield run
    show_progress(False)


def done(outcome: tuple[int, str, str]) -> str:
    """Standard output of a run that must have gone well."""
    code, out, err = outcome
    assert (code, err) == (0, "")
    return out


def failed(outcome: tuple[int, str, str], *words: str) -> None:
    """A run that must have ended with a message and no traceback."""
    code, out, err = outcome
    assert code == 1 and out == "" and err.startswith("heedful: ") and err.count("\n") == 1, outcome
    assert all(word in err for word in words), err


def names_in(path: Path) -> list[str]:
    return sorted(child.name for child in path.iterdir())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw files, and with every stage finished."""
    path = tmp_path_factory.mktemp("world")
    randoms = np.random.default_rng(0)
    n = 1500
    items = randoms.choice(N_ITEMS, n, p=(w := np.arange(1, N_ITEMS + 1) ** -0.5) / w.sum())
    table = pa.table(
        {
            "user_id": [f"u{u}" for u in randoms.integers(0, 60, n)],
            "item_id": [f"i{i}" for i in items],
            "timestamp": START + randoms.integers(0, 100 * DAY, n),
            "event": np.where(randoms.random(n) < 0.7, "view", "purchase"),
        }
    )
    pq.write_table(table, path / "events.parquet")
    pacsv.write_csv(table, path / "events.csv")
    (path / "items.csv").write_text("item_id,title\n" + "".join(f"i{i},the title of {i}\n" for i in range(N_ITEMS)))
    requests = {
        "request_id": [1, 2, 3],
        "history": [["i1", "i2"], ["i3", "stranger"], []],
        "candidates": [["i4", "i5"], ["i6", "nobody"], ["i7"]],
    }
    pq.write_table(pa.table(requests), path / "requests.parquet")
    np.save(path / "vectors.npy", randoms.normal(size=(N_ITEMS, 6)))
    (path / "ids.txt").write_text("".join(f"i{i}\n" for i in range(N_ITEMS)))
    for arguments in (
        ["prepare", path / "events.parquet", "--items", path / "items.csv", "--out", path / "sequences"],
        ["embed", path / "sequences", "--out", path / "embeddings", "--width", 8, "--epochs", 2, "--threads", 1],
        ["import", path / "vectors.npy", "--ids", path / "ids.txt", "--out", path / "imported"],
        *(train_arguments(path, name, path / name) for name in MODELS),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["--quiet", *map(str, arguments)])
        assert ended.value.code == 0, arguments
    return path


def train_arguments(world: Path, model: str, out: Path) -> list[object]:
    folders = [world / "sequences", "--embeddings", world / "embeddings", "--out", out]
    return ["train", model, *folders, *QUICK[model]]


# Every command, end to end


def test_prepare(world: Path, tmp_path: Path, run: Run) -> None:
    text = done(run("prepare", world / "events.parquet", "--out", tmp_path / "s", "--kinds", "purchase"))
    log = EventLog.load(tmp_path / "s")
    assert log.kinds == ("purchase",) and 0 < log.n_events < 1500
    assert text.startswith(
        f"{tmp_path}/s: {log.n_events:,} events of {len(log.users):,} users on {len(log.catalog)} items\n"
    )
    assert text.endswith(f"next: heedful embed {tmp_path}/s --out embeddings/\n")


def test_prepare_says_what_was_set_aside(tmp_path: Path, run: Run) -> None:
    rows = "user_id,item_id,timestamp\nu1,i1,1500000000\n,i2,1500000001\nu2,,1500000002\nu2,i1,1500000003\n"
    (tmp_path / "events.csv").write_text(rows)
    text = done(run("prepare", tmp_path / "events.csv", "--out", tmp_path / "s"))
    assert f"2 rows were set aside; see {tmp_path}/s/rejected.parquet\n" in text
    assert pq.read_table(tmp_path / "s" / "rejected.parquet").num_rows == 2


def test_embed(world: Path, tmp_path: Path, run: Run) -> None:
    arguments = ("embed", world / "sequences", "--width", 5, "--epochs", 1, "--seed", 3, "--threads", 1)
    text = done(run(*arguments, "--out", tmp_path / "e"))
    table = ItemEmbeddings.load(tmp_path / "e")
    assert table.width == 5 and f"{tmp_path}/e: {len(table)} items, width 5\nnext: heedful train " in text
    done(run(*arguments, "--out", tmp_path / "again"))
    assert ItemEmbeddings.load(tmp_path / "again").content_hash == table.content_hash


def test_import_and_similar(world: Path, run: Run) -> None:
    table = ItemEmbeddings.load(world / "imported")
    assert len(table) == N_ITEMS and table.width == 6
    lines = done(run("similar", "i3", "--embeddings", world / "embeddings", "-k", 4)).splitlines()
    assert lines[0] == "i3  the title of 3" and len(lines) == 5
    for line, (item, cosine) in zip(lines[1:], ItemEmbeddings.load(world / "embeddings").similar("i3", 4), strict=True):
        assert line.split(maxsplit=2) == [f"{cosine:.3f}", item, f"the title of {item[1:]}"]
    failed(run("similar", "nothing", "--embeddings", world / "embeddings"), "does not have that item", "'nothing'")


@pytest.mark.parametrize("model", list(MODELS))
def test_train_score_and_recommend(world: Path, tmp_path: Path, run: Run, model: str) -> None:
    ranker = load_ranker(world / model)
    assert type(ranker) is MODELS[model]
    text = done(run("score", world / model, world / "requests.parquet", "--out", tmp_path / "s.parquet", "--pool-gamma", 1))
    assert text.splitlines() == [
        f"{tmp_path}/s.parquet: 3 requests, 5 candidates scored",
        "  1 past items are unknown to the model and were left out",
        "  1 candidates are unknown to the model and ranked below all others",
        "  1 requests have no known past item and are ranked by popularity",
    ]
    scores = pq.read_table(tmp_path / "s.parquet")["scores"].to_pylist()
    assert scores[0] == pytest.approx(ranker.score(["i1", "i2"], ["i4", "i5"], pool_gamma=1.0).tolist(), abs=1e-4)
    text = done(run("recommend", world / model, world / "requests.parquet", "--out", tmp_path / "r.parquet", "-k", 4))
    assert f"{tmp_path}/r.parquet: 3 requests, 12 items recommended" in text
    rows = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert [row["request_id"] for row in rows] == [1, 2, 3] and all(len(set(row["items"])) == 4 for row in rows)
    assert not {"i1", "i2"} & set(rows[0]["items"])
    done(run("recommend", world / model, world / "requests.parquet", "--out", tmp_path / "all.parquet", "-k", 999,
             "--no-exclude-history", "--pool-gamma", "none"))  # fmt: skip
    rows = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert all(len(row["items"]) == N_ITEMS for row in rows)
    assert rows[0]["scores"][0] == pytest.approx(ranker.score(["i1", "i2"], rows[0]["items"], pool_gamma=None)[0], abs=1e-4)


def test_train_says_what_it_made_and_leaves_no_checkpoint(world: Path, tmp_path: Path, run: Run) -> None:
    text = done(run(*train_arguments(world, "attention", tmp_path / "m"), "--pack"))
    report = load_ranker(tmp_path / "m")._settings()  # type: ignore[attr-defined]
    assert f"{tmp_path}/m: attention, {report['n_parameters']:,} parameters, 20 steps, validation loss " in text
    assert f"next: heedful recommend {tmp_path}/m requests.parquet" in text
    assert names_in(tmp_path) == ["m"] and (tmp_path / "m" / "embeddings").is_dir()
    shutil.move(tmp_path / "m", tmp_path / "moved")
    done(run("score", tmp_path / "moved", world / "requests.parquet", "--out", tmp_path / "s.parquet"))


def test_embeddings_that_were_moved(world: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(world / "attention", tmp_path / "attention")
    score = ("score", tmp_path / "attention", world / "requests.parquet", "--out", tmp_path / "s.parquet")
    failed(run(*score), "the embeddings of", "are not at", "--embeddings")
    done(run(*score, "--embeddings", world / "embeddings"))
    failed(run(*score, "--embeddings", world / "imported"), "was trained on another embedding table")


def test_evaluate(world: Path, tmp_path: Path, run: Run) -> None:
    common = ("evaluate", world / "sequences", "--out", tmp_path / "report", "--embeddings", world / "embeddings")
    options = ("--cut", START + 80 * DAY, "--days", 20, "--pool", 15, "--resamples", 100)
    arguments = (*common, *options, "--models", "last-item,popularity")
    text = done(run(*arguments))
    assert "last-item" in text and "popularity" in text and f"{tmp_path}/report: report.html" in text
    open_folder(tmp_path / "report", kind="report").verify()
    assert {"last-item", "popularity", "past"} <= set(names_in(tmp_path / "report.stages"))
    failed(run(*arguments), "report exists already", "--overwrite")
    done(run(*arguments, "--overwrite"))
    code, _, err = run(*common, *options, "--models", "oracle", "--overwrite")
    assert code == 1 and "unknown models; got: oracle; expected: mixed, attention, " in err


def test_evaluate_over_several_cuts_and_seeds(world: Path, tmp_path: Path, run: Run) -> None:
    common = ("evaluate", world / "sequences", "--out", tmp_path / "report", "--embeddings", world / "embeddings")
    options = ("--days", 15, "--pool", 15, "--resamples", 100, "--models", "popularity,recent-popularity")
    cuts = f"{START + 60 * DAY}, {START + 80 * DAY}"
    text = done(run(*common, *options, "--cuts", cuts, "--seeds", 2, "--seed", 4))
    assert "SD of cuts" in text and text.endswith(f"{tmp_path}/report: report.html, results.json, per_user.parquet\n")
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["cuts"] == [str(START + 60 * DAY), str(START + 80 * DAY)] and results["seeds"] == [4, 5]
    assert set(names_in(tmp_path / "report.stages")) == set(results["cuts"])
    again = (*common, *options, "--overwrite")
    failed(run(*again, "--cuts", cuts, "--cut", START), "--cut and --cuts are both given")
    failed(run(*again, "--cuts", " , "), "--cuts cannot be used")
    failed(run(*again, "--cuts", cuts, "--scores", "x=y.parquet"), "--scores needs a single cut and seed")
    failed(run(*again, "--seeds", 2, "--depths", "1,2"), "--depths needs a single cut and seed")
    failed(run(*again, "--seeds", 0), "option 'seeds' is out of range; got: 0")


def test_models_of_ones_own_join_by_their_scores(world: Path, tmp_path: Path, run: Run) -> None:
    options = ("--cut", START + 80 * DAY, "--days", 20, "--pool", 15, "--embeddings", world / "embeddings")
    text = done(run("pools", world / "sequences", "--out", tmp_path / "requests.parquet", *options))
    requests = pq.read_table(tmp_path / "requests.parquet")
    assert text.startswith(f"{tmp_path}/requests.parquet: {len(requests)} requests, ") and "next: heedful evaluate" in text
    scores = [[float(item[1:]) for item in candidates] for candidates in requests["candidates"].to_pylist()]
    pq.write_table(pa.table({"request_id": requests["request_id"], "scores": scores}), tmp_path / "scores.parquet")
    common = ("evaluate", world / "sequences", "--out", tmp_path / "report", "--models", "popularity", *options)
    mine = f"by number={tmp_path}/scores.parquet"
    text = done(run(*common, "--resamples", 100, "--scores", mine))
    assert "by number" in text and "by number is a file of scores for the pools" in text
    common = (*common, "--overwrite")
    failed(run(*common, "--seed", 5, "--scores", mine), "does not answer the requests of these pools", "heedful pools")
    failed(run(*common, "--scores", "scores.parquet"), "--scores cannot be used; got: scores.parquet; expected: NAME=FILE")
    failed(run(*common, "--scores", "x=nowhere.parquet"), "the scores of 'x' cannot be read from nowhere.parquet")


def test_models_with_presets_and_depths(world: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command passes the rankers on as asked; training them is tested elsewhere."""
    seen: dict[str, Any] = {}

    def stop(log: Any, rankers: Any, out: Any, **options: Any) -> None:
        seen.update(options, rankers=rankers)
        raise InputError("seen")

    monkeypatch.setattr(evaluate, "run_experiment", stop)
    common = ("evaluate", world / "sequences", "--out", tmp_path / "report")
    failed(run(*common, "--models", "attention,attention:paper,averaging:default,popularity", "--depths", "4,1,2"), "seen")
    assert list(seen["rankers"]) == ["attention", "attention (paper)", "averaging", "popularity"]
    assert [seen["rankers"][name].config.depth for name in ("attention", "attention (paper)")] == [2, 10]
    assert {depth: (ranker.config.depth, ranker.config.null_tokens) for depth, ranker in seen["depths"].items()} == {
        1: (1, 4), 2: (2, 4), 4: (4, 4)}  # fmt: skip
    failed(run(*common, "--models", "attention", "--preset", "paper", "--depths", "1,10"), "seen")
    assert list(seen["rankers"]) == ["attention (paper)"] and seen["depth_model"] == "attention (paper)"
    assert seen["depths"][1].config.null_tokens == 0
    failed(run(*common, "--models", "popularity", "--depth-preset", "paper", "--depths", "1,10"), "seen")
    assert seen["depths"][10].config.terms == ("attention",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", "attention:plain"), "option 'preset' is out of range; got: 'plain'; expected: default, paper"),
        (("--models", "popularity:paper"), "popularity has no presets; got: popularity:paper; expected: popularity"),
        (("--models", "popularity,popularity"), "a model is named twice; got: popularity"),
        (("--models", ""), "there is nothing to compare; got: no models"),
        (("--models", "popularity", "--depths", "0,2"), "these depths cannot be compared; got: 0, 2; expected: two or more"),
        (("--models", "popularity", "--depths", "3"), "these depths cannot be compared; got: 3"),
        (("--models", "popularity", "--depths", "1,-2"), "--depths cannot be used; got: 1,-2; expected: numbers of layers"),
        (("--models", "popularity", "--pool", "400"), "a pool of 400 negatives is larger than the catalogue; got: 40 items"),
        (("--models", "popularity", "--pool-sizes", "9,99"), "a pool of 99 negatives is larger than the catalogue"),
        (("--models", "popularity", "--cut", "1999-01-01"), "no event before the cut"),
        (("--models", "popularity", "--cut", "2099-01-01"), "no event in the 7 days after the cut"),
        (("--models", "popularity", "--cut", "soon"), "that is not a point in time; got: 'soon'"),
    ],
)
def test_evaluate_refuses(world: Path, tmp_path: Path, run: Run, arguments: tuple[str, ...], message: str) -> None:
    failed(run("evaluate", world / "sequences", "--out", tmp_path / "report", *arguments), message)
    assert not (tmp_path / "report").exists()


def test_evaluate_with_nothing_new_to_rank(tmp_path: Path, run: Run) -> None:
    lines = [f"u{u},i{i},{START + day * DAY + i}" for u in range(3) for i in range(3) for day in (0, 30)]
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
    done(run("prepare", tmp_path / "events.csv", "--out", tmp_path / "s"))
    common = ("evaluate", tmp_path / "s", "--out", tmp_path / "report", "--models", "popularity")
    failed(
        run(*common), "nobody can be tested: no user with a past touches a new item after the cut", "3 users after the cut"
    )
    failed(run(*common, "--days", 365), "no event before the cut")


@pytest.mark.parametrize("stage", ["sequences", "embeddings", "attention"])
def test_verify(world: Path, tmp_path: Path, run: Run, stage: str) -> None:
    text = done(run("verify", world / stage))
    manifest = json.loads((world / stage / "manifest.json").read_text())
    assert text == (
        f"{world / stage}: {manifest['kind']}, {len(manifest['files'])} files, content hash {manifest['content_hash']}\n"
    )
    shutil.copytree(world / stage, tmp_path / "copy")
    file = next(iter(manifest["files"]))
    content = bytearray((tmp_path / "copy" / file).read_bytes())
    content[-1] ^= 1
    (tmp_path / "copy" / file).write_bytes(bytes(content))
    failed(run("verify", tmp_path / "copy"), f"{file} has been changed since it was written")
    failed(run("verify", tmp_path), "is not a finished folder", "manifest.json")


# Help, usage, exit codes


def test_help_needs_no_heavy_package() -> None:
    code = "\n".join(
        [
            "import sys",
            "from heedful.cli import main",
            "try:",
            "    main(['--help'])",
            "except SystemExit as ended:",
            "    heavy = {'torch', 'numba', 'duckdb', 'pyarrow', 'matplotlib', 'cma', 'numpy', 'safetensors'}",
            "    print(ended.code, sorted(heavy & set(sys.modules)))",
        ]
    )
    outcome = python(code)
    assert outcome.stdout.splitlines()[-1] == "0 []", outcome.stderr
    assert "prepare" in outcome.stdout and "Event log -> sequences." in outcome.stdout


COMMANDS = [
    "demo",
    "synth",
    "prepare",
    "embed",
    "import",
    "extend",
    "similar",
    "train",
    "refresh",
    "score",
    "recommend",
    "explain",
    "evaluate",
    "pools",
    "tune",
    "update",
    "backtest",
    "rollback",
    "serve",
    "key",
    "prune",
    "items",
    "clicks",
    "verify",
]


def test_help_lists_every_command(run: Run) -> None:
    text = done(run("--help"))
    listed = [
        line.split()[0] for line in text.split("Commands:")[1].splitlines() if line.startswith("  ") and line[2] != " "
    ]
    assert listed == COMMANDS
    assert done(run("--version")).startswith("heedful, version 0.")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run: Run, command: str) -> None:
    text = done(run(command, "--help"))
    assert text.startswith(f"Usage: heedful {command} ")
    explained = importlib.import_module(cli._COMMANDS[command][0]).COMMANDS[command]
    assert explained.name == command and explained.help
    options = [parameter for parameter in explained.params if isinstance(parameter, click.Option)]
    assert all(option.help and (option.hidden or option.opts[0] in text) for option in options)


def commands_below(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """A command, and the sub-commands that it may have."""
    yield name, command
    for sub, below in getattr(command, "commands", {}).items():
        yield from commands_below(below, f"{name} {sub}")


def test_no_command_shows_more_than_30_options() -> None:
    shown = {}
    for command in COMMANDS:
        explained = importlib.import_module(cli._COMMANDS[command][0]).COMMANDS[command]
        for name, one in commands_below(explained, command):
            options = [parameter for parameter in one.params if isinstance(parameter, click.Option)]
            shown[name] = sum(not option.hidden for option in options)
    assert {f"train {model}" for model in ALL_MODELS} <= set(shown)
    assert {name: count for name, count in shown.items() if count > 30} == {}
    assert shown["train attention"] > 15  # they are counted


@contextmanager
def monkeypatched_once(place: str, error: type[BaseException] | BaseException) -> Iterator[None]:
    """Whoever calls what is at this place gets the error."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, fail)
        yield


def test_train_without_the_name_of_a_model_trains_the_mixed_ranker(world: Path, tmp_path: Path, run: Run) -> None:
    done(run(*(word for word in train_arguments(world, "mixed", tmp_path / "m") if word != "mixed")))
    one, other = load_ranker(world / "mixed"), load_ranker(tmp_path / "m")
    assert one.name == other.name == "mixed" and one.config == other.config
    np.testing.assert_array_equal(one.score(["i1", "i2"], ["i4", "i5"]), other.score(["i1", "i2"], ["i4", "i5"]))


def test_train_with_a_preset_trains_the_attention_ranker(world: Path, tmp_path: Path, run: Run) -> None:
    arguments = [word for word in train_arguments(world, "attention", tmp_path / "m") if word != "attention"]
    done(run(*arguments, "--preset", "paper"))
    assert load_ranker(tmp_path / "m").name == "attention"


def test_a_stopped_training_of_the_mixed_ranker_goes_on(world: Path, tmp_path: Path, run: Run) -> None:
    arguments = train_arguments(world, "mixed", tmp_path / "m")
    with monkeypatched_once("heedful.rankers.mixed.Mixture.fit", KeyboardInterrupt):
        assert run(*arguments)[0] == 130
    windows = [path.name for path in (tmp_path / "m.training").iterdir()]
    assert len(windows) == 1 and windows[0].startswith("before-")
    with monkeypatched_once("heedful.rankers.mixed.SkipGram.fit", KeyboardInterrupt):  # other options begin again
        assert run(*arguments, "--hidden", 6, "--resume")[0] == 130
    with monkeypatched_once("heedful.rankers.mixed.SkipGram.fit", AssertionError("it was trained already")):
        done(run(*arguments, "--resume"))
    assert names_in(tmp_path) == ["m"]
    one, other = load_ranker(world / "mixed"), load_ranker(tmp_path / "m")
    np.testing.assert_array_equal(one.score(["i1", "i2"], ["i4", "i5"]), other.score(["i1", "i2"], ["i4", "i5"]))


@pytest.mark.parametrize("model", list(ALL_MODELS))
def test_train_explains_each_model(run: Run, model: str) -> None:
    text = done(run("train", model, "--help"))
    assert text.startswith(f"Usage: heedful train {model} [OPTIONS] SEQUENCES")
    assert ("--preset" in text) == (model in ("attention", "averaging"))
    assert model in done(run("train", "--help"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], "No such command 'fly'"),
        (["prepare"], "Missing argument 'SOURCES...'"),
        (["prepare", "x.parquet"], "Missing option '--out'"),
        (["embed", "s", "--out", "e", "--width", "wide"], "'wide' is not a valid integer"),
        (["train", "oracle", "s", "--embeddings", "e", "--out", "m"], "unexpected extra argument (s)"),
        (["train", "popularity", "s", "--out", "m", "--depth", 3], "No such option '--depth'"),
        (["train", "s", "--out", "m", "--evaluations", 3], "No such option '--evaluations'"),
        (["train", "last-item", "s", "--out", "m", "--resume"], "No such option '--resume'"),
        (["score", "m", "r", "--out", "o", "--pool-gamma", "some"], "'some' is neither a number nor none"),
        (["verify", "a", "b"], "unexpected extra argument (b)"),
        (["embed", "s", "--out", "e", "--wings", "2"], "No such option"),
    ],
)
def test_wrong_usage_ends_with_2(run: Run, arguments: list[str], words: str) -> None:
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and err.startswith("Usage: heedful") and words in err


def test_errors_end_with_1_and_one_line(world: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    sequences, embeddings = world / "sequences", world / "embeddings"
    for arguments, words in (
        (["prepare", tmp_path / "none.parquet", "--out", out], ["none.parquet"]),
        (["embed", tmp_path / "none", "--out", out], ["is not a folder of sequences", "`heedful prepare`"]),
        (["embed", embeddings, "--out", out], ["holds something else; got: embeddings; expected: sequences"]),
        (["embed", sequences, "--out", out, "--width", 0], ["option 'width' is out of range; got: 0"]),
        (["import", tmp_path / "none.npy", "--out", out], ["none.npy"]),
        (["train", sequences, "--embeddings", tmp_path, "--out", out], ["is not a finished folder of embeddings"]),
        (["train", sequences, "--embeddings", embeddings, "--out", out, "--depth", -1], ["option 'depth' is out of range"]),
        (["train", sequences, "--embeddings", embeddings, "--out", out, "--target-kinds", "gift"], ["got: gift"]),
        (["score", embeddings, world / "requests.parquet", "--out", out], ["holds something else", "expected: model"]),
        (["score", world / "attention", tmp_path / "none", "--out", out], ["there is no file"]),
        (["score", world / "attention", world / "requests.parquet", "--out", out, "--pool-gamma", "nan"], ["pool_gamma"]),
        (["recommend", world / "attention", world / "requests.parquet", "--out", out, "-k", 0], ["option 'k'"]),
        (["evaluate", sequences, "--out", out, "--cut", "someday"], ["someday"]),
        (["evaluate", sequences, "--out", out, "--cut", "1999-01-01"], ["no event before the cut 1999-01-01"]),
    ):  # fmt: skip
        failed(run(*arguments), *words)
        assert not out.exists()


def test_as_a_process(world: Path, tmp_path: Path) -> None:
    """The same through the interpreter: exit codes, no traceback, progress on standard error."""
    outcome = heedful("embed", tmp_path / "none", "--out", tmp_path / "e", anew=True)
    assert outcome.returncode == 1 and outcome.stderr.startswith("heedful: ") and "Traceback" not in outcome.stderr
    arguments = ("embed", world / "sequences", "--out", tmp_path / "e", "--epochs", 1, "--width", 4)
    outcome = heedful(*arguments, anew=True)
    assert outcome.returncode == 0 and f"{tmp_path}/e: " in outcome.stdout
    assert "words/s" in outcome.stderr or "/s" in outcome.stderr


# Existing output


def test_existing_output_is_not_replaced_unasked(world: Path, tmp_path: Path, run: Run) -> None:
    stages = {
        "prepare": [world / "events.parquet"],
        "embed": [world / "sequences", "--epochs", 1, "--width", 4],
        "import": [world / "vectors.npy", "--ids", world / "ids.txt"],
        "train": ["popularity", world / "sequences", "--embeddings", world / "embeddings"],
    }
    for command, arguments in stages.items():
        out = tmp_path / command
        done(run(command, *arguments, "--out", out))
        before = (out / "manifest.json").read_bytes()
        failed(run(command, *arguments, "--out", out), f"{command} exists already", "--overwrite")
        assert (out / "manifest.json").read_bytes() == before
        done(run(command, *arguments, "--out", out, "--overwrite"))
        open_folder(out, kind=json.loads(before)["kind"])
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("dear")
    for command, arguments in stages.items():
        failed(run(command, *arguments, "--out", foreign, "--overwrite"), "foreign is in the way", "heedful did not make")
    assert names_in(foreign) == ["letter.txt"]


# Disks that are full or read-only


@contextmanager
def small_disk(most: int) -> Iterator[None]:
    """No file can grow beyond `most` bytes inside."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def writing_commands(world: Path, out: Path) -> dict[str, list[object]]:
    requests = world / "requests.parquet"
    return {
        "prepare": ["prepare", world / "events.parquet", "--out", out],
        "prepare text": ["prepare", world / "events.csv", "--out", out],
        "embed": ["embed", world / "sequences", "--out", out, "--epochs", 1],
        "import": ["import", world / "vectors.npy", "--ids", world / "ids.txt", "--out", out],
        "train": train_arguments(world, "attention", out),
        "train popularity": train_arguments(world, "popularity", out),
        "score": ["score", world / "popularity", requests, "--out", out],
        "recommend": ["recommend", world / "popularity", requests, "--out", out],
        "evaluate": ["evaluate", world / "sequences", "--out", out, "--cut", START + 80 * DAY, "--models", "popularity",
                     "--embeddings", world / "embeddings", "--workspace", world / "workspace", "--resamples", 100],
    }  # fmt: skip


WRITING = ["prepare", "prepare text", "embed", "import", "train", "train popularity", "score", "recommend", "evaluate"]


@pytest.mark.parametrize("command", WRITING)
def test_a_full_disk(world: Path, tmp_path: Path, run: Run, command: str) -> None:
    out = tmp_path / "out"
    arguments = writing_commands(world, out)[command]
    if command == "evaluate":  # its stages are finished, only the report has no room
        done(run(*arguments))
        shutil.rmtree(out)
    # Parquet is read where it lies, and the largest file is that of the times; text is staged in a database first.
    sizes = {"prepare": (100, 3_000, 10_000), "prepare text": (100, 3_000, 40_000)}
    for most in sizes.get(command, (100, 400)):
        with small_disk(most):
            outcome = run(*arguments)
        failed(outcome, "could not be written")
        assert names_in(tmp_path) in ([], ["out.training"])
    done(run(*arguments))


@pytest.mark.parametrize("most", [2_000, 6_000])
def test_a_disk_that_is_full_at_the_end_of_training_keeps_the_checkpoint_or_says_so(
    world: Path, tmp_path: Path, run: Run, most: int
) -> None:
    with small_disk(most):
        failed(run(*train_arguments(world, "attention", tmp_path / "out")), "could not be written")
    assert not (tmp_path / "out").exists()
    assert all(not name.startswith(".") for name in names_in(tmp_path))


@pytest.mark.parametrize("command", WRITING)
def test_a_read_only_folder(world: Path, run: Run, command: str) -> None:
    read_only = Path(tempfile.mkdtemp(prefix="heedful-read-only-"))
    try:
        read_only.chmod(0o555)
        shutil.copytree(world, read_only.with_name(f"{read_only.name}-world"))
        readable = read_only.with_name(f"{read_only.name}-world")
        for path in (readable, *readable.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        arguments = writing_commands(readable, read_only / "out")[command]
        with unprivileged():
            outcome = run(*arguments)
        failed(outcome)
        assert any(words in outcome[2] for words in ("could not be written", "is not writable", "cannot be created"))
        assert names_in(read_only) == []
    finally:
        read_only.chmod(0o755)
        shutil.rmtree(read_only)
        shutil.rmtree(read_only.with_name(f"{read_only.name}-world"), ignore_errors=True)


# Ctrl-C


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("prepare", "heedful.events.preparing.write_items"),
        ("embed", "heedful.embeddings.skipgram.epochs_for"),
        ("import", "heedful.cli.embed.read_embeddings"),
        ("train popularity", "heedful.events.mapped.pq.write_table"),
        ("score", "heedful.recommending.requests._histories"),
        ("recommend", "heedful.recommending.requests._histories"),
        ("evaluate", "heedful.experiment.compare"),
    ],
)
def test_ctrl_c_anywhere_leaves_nothing_half_written(
    world: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, command: str, place: str
) -> None:
    arguments = writing_commands(world, tmp_path / "out")[command]
    arguments = [0 if before == "--epochs" else value for before, value in zip([None, *arguments], arguments, strict=False)]

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, interrupt)
        code, _, err = run(*arguments)
    assert code == 130 and "heedful: interrupted" in err and "Traceback" not in err
    assert [name for name in names_in(tmp_path) if name != "out.stages"] == []


_OFTEN = "import heedful.progress as p; p._PLAIN_SECONDS = 0.1; from heedful.cli import main; main()"


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, which shows its progress ten times a second."""
    process = subprocess.Popen(
        [sys.executable, "-c", _OFTEN, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=quiet_environment(),
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Lines of standard error up to the first with these words."""
    assert process.stderr is not None
    read = ""
    for line in process.stderr:
        read += line
        if words in line:
            return read
    raise AssertionError(f"it ended without saying {words!r}: {read}")


def interrupted(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert err.endswith("heedful: interrupted; no unfinished folder was left behind\n") and "Traceback" not in err
    assert time.monotonic() - started < 30


def test_ctrl_c_while_embedding(world: Path, tmp_path: Path) -> None:
    with running("embed", world / "sequences", "--out", tmp_path / "e", "--epochs", 10_000_000) as process:
        read_until(process, "words/s")
        interrupted(process)
    assert names_in(tmp_path) == []


def test_ctrl_c_while_training_keeps_the_checkpoint(world: Path, tmp_path: Path) -> None:
    arguments = [*train_arguments(world, "attention", tmp_path / "m"), "--steps", 10_000_000, "--validate-every", 20]
    with running(*arguments) as process:
        read_until(process, "validation")
        interrupted(process)
    assert names_in(tmp_path) == ["m.training"]
    assert names_in(tmp_path / "m.training") == ["checkpoint.safetensors"]
    with running(*arguments, "--resume") as process:
        read_until(process, "resumed at step ")
        read_until(process, "validation")
        interrupted(process)
    assert names_in(tmp_path) == ["m.training"]


def test_what_a_killed_run_left_is_removed_by_the_next(world: Path, tmp_path: Path, run: Run) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    for name in (f".out.partial-{process.pid}-0123abcd", f".out.partial-{process.pid}-work-x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text('{"kind": "sequences"')
    failed(run("embed", tmp_path / f".out.partial-{process.pid}-0123abcd", "--out", tmp_path / "e"), "cannot be read")
    done(run("prepare", world / "events.parquet", "--out", tmp_path / "out"))
    assert names_in(tmp_path) == ["out"]


def test_a_reader_that_goes_away_is_no_traceback(world: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "heedful", "similar", "i3", "--embeddings", world / "embeddings"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=quiet_environment(),
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.wait(timeout=120)
    process.stderr.close()
    assert "Traceback" not in err and process.returncode in (0, 1, 120), err
