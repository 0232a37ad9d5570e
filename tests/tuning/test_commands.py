"""`heedful tune`, and the settings file in the commands that read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heedful.cli import main
from heedful.embeddings import skipgram
from heedful.embeddings.table import ItemEmbeddings
from heedful.folders import open_folder
from heedful.progress import show_progress
from heedful.rankers import continuing
from heedful.tuning.validation import Validation
from ranking_worlds import random_log

QUICK = ["--steps", 20, "--hidden", 8, "--negatives", 8, "--device", "cpu"]


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world") / "sequences"
    random_log(users=100, items=40).save(path)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object, quiet: bool = True) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*(["--quiet"] if quiet else []), *map(str, arguments)])
    show_progress(False)
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_tune(sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuing, "_FEWEST_STEPS", 3)
    monkeypatch.setattr(skipgram, "_AUTO_EPOCHS", (1, 1))
    common = ("tune", sequences, "--out", tmp_path / "t", "--threads", 1, "--pool", 15, "--search", "null_tokens,window")
    code, out, err = run(capsys, *common, "--trials", 2, quiet=False)
    assert code == 0 and "trial 0: NDCG 0." in err and "trial 1: NDCG 0." in err and "100 % of 2 trials" in err
    assert out.startswith("2 trials, 0 of them failed; NDCG over ") and "recommendation: " in out
    assert f"{tmp_path}/t: tuned.toml, trials.parquet, trials.json\nnext: heedful embed {sequences} --config " in out
    open_folder(tmp_path / "t", kind="tuning").verify()
    code, _, err = run(capsys, *common, "--trials", 2, "--seed", 5)
    assert code == 1 and err.count("\n") == 1 and "heedful: " in err and "different: log, seed" in err
    code, out, _ = run(capsys, *common, "--trials", 3)
    assert code == 0 and out.startswith("3 trials, ")


def test_an_interrupt_says_how_to_go_on(
    sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Validation, "ndcg", interrupted)
    code, out, err = run(capsys, "tune", sequences, "--out", tmp_path / "t", "--pool", 15)
    assert (code, out) == (130, "") and f"kept in {tmp_path}/t.study; the same command continues" in err
    assert [child.name for child in tmp_path.iterdir()] == ["t.study"]


def test_embed_and_train_read_the_file(sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tuned.toml"
    file.write_text("[embed]\nwidth = 8\nwindow = 3\nepochs = 1\n\n[train]\ndepth = 1\nscale = 2\nterms = ['attention']\n")
    embed = ("embed", sequences, "--config", file, "--out")
    assert run(capsys, *embed, tmp_path / "e", "--window", 4)[0] == 0
    recorded = ItemEmbeddings.load(tmp_path / "e").provenance["config"]
    assert (recorded["width"], recorded["window"], recorded["epochs"]) == (8, 4, 1)  # the command line overrules
    train = ("train", sequences, "--embeddings", tmp_path / "e", "--config", file, *QUICK, "--out")
    assert run(capsys, *train, tmp_path / "m", "--scale", 4)[0] == 0
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config = config.get("config", config)
    assert (config["depth"], config["scale"], config["terms"], config["null_tokens"]) == (1, 4.0, ["attention"], 4)
    code, _, err = run(capsys, "train", "averaging", *train[1:], tmp_path / "n")
    assert code == 1 and "unknown options in [train]" in err and "got: depth" in err


def test_evaluate_reads_the_file(sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tuned.toml"
    train = "steps = 3\nhidden = 8\nnegatives = 8\ndevice = 'cpu'\nnull_tokens = 1\n"
    file.write_text(f"[embed]\nwidth = 8\nwindow = 3\nepochs = 1\n\n[train]\n{train}\n[averaging]\nsteps = 2\n")
    models = "attention,averaging,popularity"
    options = ("--days", 20, "--pool", 15, "--resamples", 100, "--models", models, "--config", file)
    code, _, err = run(capsys, "evaluate", sequences, "--out", tmp_path / "r", "--workspace", tmp_path / "w", *options)
    assert (code, err) == (0, "")
    assert ItemEmbeddings.load(tmp_path / "w" / "embeddings").provenance["config"]["window"] == 3
    (model,) = (tmp_path / "w").glob("attention*/config.json")
    config = json.loads(model.read_text())
    config = config.get("config", config)
    assert (config["steps"], config["null_tokens"], config["depth"]) == (3, 1, 2)
    (averaging,) = (tmp_path / "w").glob("averaging*/config.json")
    assert json.loads(averaging.read_text())["config"]["steps"] == 2
    shown = json.loads((tmp_path / "r" / "results.json").read_text())["models"]
    assert list(shown) == ["attention (tuned)", "averaging (tuned)", "popularity"]


def test_files_that_are_refused(sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tuned.toml"
    embed = ("embed", sequences, "--out", tmp_path / "e", "--config", file)
    for text, words in (
        (None, "tuned.toml cannot be read"),
        ("[embed]\nwindows = 3\n", "unknown options in [embed] of"),
        ("[tune]\nwindow = 3\n", "unknown sections of"),
        ("[embed]\nwindow = 0\n", "option 'window' is out of range; got: 0"),
    ):
        if text is not None:
            file.write_text(text)
        code, out, err = run(capsys, *embed)
        assert (code, out) == (1, "") and err.startswith("heedful: ") and words in err and err.count("\n") == 1
    assert not (tmp_path / "e").exists()


def test_the_section_of_a_rival(sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`train` and `evaluate` read the section of the model's name; `train` reads [train] where there is none."""
    settings = tmp_path / "tuned.toml"
    settings.write_text("[train]\ndepth = 3\n[cosine]\nneighbours = 7\nhalf_life = 30.0\n")
    code, _, err = run(capsys, "train", "cosine", sequences, "--config", settings, "--out", tmp_path / "model")
    assert code == 0, err
    config = json.loads((tmp_path / "model" / "config.json").read_text())["config"]
    assert (config["neighbours"], config["half_life"]) == (7, 30.0)
    common = ("evaluate", sequences, "--config", settings, "--days", 15, "--pool", 10, "--resamples", 100)
    code, out, err = run(capsys, *common, "--models", "cosine,popularity", "--out", tmp_path / "report")
    assert code == 0 and "cosine (tuned)" in out, err
    settings.write_text("[train]\nneighbours = 9\n")
    code, _, err = run(capsys, "train", "cosine", sequences, "--config", settings, "--out", tmp_path / "other")
    assert code == 0, err
    assert json.loads((tmp_path / "other" / "config.json").read_text())["config"]["neighbours"] == 9
    settings.write_text("[cosine]\ndepth = 9\n")
    code, _, err = run(capsys, "train", "cosine", sequences, "--config", settings, "--out", tmp_path / "third")
    assert code == 1 and "unknown options in [cosine]" in err


def test_tune_another_model(sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("tune", sequences, "--out", tmp_path / "t", "--pool", 15, "--trials", 3)
    code, out, err = run(capsys, *common, "--model", "recent-popularity")
    assert code == 0 and f"next: heedful train recent-popularity {sequences} --config" in out, err
    code, _, err = run(capsys, *common, "--model", "ease")
    assert code == 1 and "different: defaults, model, ranges" in err
    code, _, err = run(capsys, *common, "--model", "popularity")
    assert code == 1 and "option 'model' is out of range; got: 'popularity'; expected: attention, mixed, averaging" in err
