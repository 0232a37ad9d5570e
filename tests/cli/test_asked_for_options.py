"""--target, --target-kinds, --seen-kinds and --negative-kinds on the command line."""

from __future__ import annotations

import json
from pathlib import Path

from ranking_worlds import heedful, random_log


def test_what_is_asked_for_is_said_once_in_training_and_reported_apart(tmp_path: Path) -> None:
    random_log(users=150, items=60, kind_names=("view", "purchase", "return")).save(tmp_path / "seq")
    options = ["--target", "all", "--target-kinds", "purchase", "--seen-kinds", "purchase", "--negative-kinds", "return"]
    done = heedful("train", "two-stage", tmp_path / "seq", "--out", tmp_path / "model", *options)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "model/config.json").read_text())["config"]
    assert config["target"] == "all" and config["seen_kinds"] == ["purchase"] and config["negative_kinds"] == ["return"]
    report = ["--out", tmp_path / "report", "--models", "two-stage,own-frequent", "--days", "20", "--resamples", "100"]
    done = heedful("evaluate", tmp_path / "seq", *report, *options)
    assert done.returncode == 0, done.stderr
    for said in ("NDCG@10 of new items", "Recall@10 of repeats", "whole catalogue: 60 items, "):
        assert said in done.stdout
    trained = json.loads((tmp_path / "report.stages/two-stage/config.json").read_text())["config"]
    assert trained["target"] == "all" and trained["target_kinds"] == ["purchase"]


def test_a_target_that_there_is_not_is_refused(tmp_path: Path) -> None:
    random_log(users=20, items=10).save(tmp_path / "seq")
    done = heedful("train", "up-cf", tmp_path / "seq", "--out", tmp_path / "model", "--target", "old")
    assert done.returncode != 0 and "'old' is not one of 'new', 'repeat', 'all'" in done.stderr
