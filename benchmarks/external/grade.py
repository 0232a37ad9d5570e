"""The external evaluation, step 3: metrics of several answers to one case, without heedful.

    python benchmarks/external/grade.py CASE two-stage=ANSWERS/two-stage mixed=ANSWERS/mixed
    ... --record "Complete Journey"     writes the figures into docs/figures.json, from which the README's table is made
    python benchmarks/external/grade.py --table     prints that table

NDCG is over a whole pool, with binary gain and log2 discount; equal scores share their mean rank, so that a constant
scorer gets what chance gives. Over the catalogue NDCG@10 and Recall@50. From the second answer on, the mean difference
to the first with its paired 99 % bootstrap interval over users.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

FIGURES = Path(__file__).parents[2] / "docs" / "figures.json"
GAMMAS = ("1.0", "0.75", "0.0")
LEVEL, SAMPLES = 0.99, 5000
COLUMNS = ("gamma 1.0", "gamma 0.75", "gamma 0.0", "NDCG@10", "Recall@50")


def main() -> None:
    options = parse()
    if options.table:
        print(table(json.loads(FIGURES.read_text())))
        return
    truth = json.loads((options.case / "truth.json").read_text())
    answers = dict(one.split("=", 1) for one in options.answers)
    values = {name: graded(options.case, truth["requests"], Path(folder)) for name, folder in answers.items()}
    means = {name: {column: round(float(users.mean()), 4) for column, users in one.items()} for name, one in values.items()}
    first = next(iter(values))
    differences = {
        name: {c: interval(one[c] - values[first][c]) for c in one} for name, one in values.items() if name != first
    }
    facts = {name: truth[name] for name in ("cut", "days", "seed", "items", "users")}
    git = ["git", "-C", str(FIGURES.parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    facts |= {"date": datetime.date.today().isoformat(), "commit": commit}
    found = {**facts, "means": means, f"less {first}": differences}
    print(json.dumps(found, indent=1))
    if options.record:
        figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
        FIGURES.write_text(json.dumps({**figures, options.record: found}, indent=1) + "\n")


def graded(case: Path, requests: list[dict[str, list[str]]], folder: Path) -> dict[str, np.ndarray]:
    """Each metric of each user."""
    found = {}
    for gamma in GAMMAS:
        lists = column(case / f"requests-{gamma}.parquet", "candidates", len(requests))
        scores = column(folder / f"scores-{gamma}.parquet", "scores", len(requests))
        pools = zip(requests, lists, scores, strict=True)
        found[f"gamma {gamma}"] = np.array([ndcg(one["new"], items, values) for one, items, values in pools])
    best = column(folder / "recommendations.parquet", "items", len(requests))
    top = np.array([catalogue(one, items) for one, items in zip(requests, best, strict=True)])
    return {**found, "NDCG@10": top[:, 0], "Recall@50": top[:, 1]}


def column(file: Path, name: str, requests: int) -> list[list[Any]]:
    answers = pq.read_table(file).sort_by("request_id")
    if answers["request_id"].to_pylist() != list(range(requests)):
        raise SystemExit(f"{file}: expected one row for each of the {requests} requests")
    lists: list[list[Any]] = answers[name].to_pylist()
    return lists


def ndcg(new: list[str], candidates: list[Any], given: list[float]) -> float:
    scores = np.asarray(given, float)
    if len(scores) != len(candidates) or not np.isfinite(scores).all():
        raise SystemExit("expected a finite score for each candidate")
    positive = np.isin(np.array([str(item) for item in candidates]), new)
    ordered = np.sort(scores)
    below, above = (np.searchsorted(ordered, scores[positive], side) for side in ("left", "right"))
    ranks = np.sort(len(scores) - (below + above + 1) / 2)
    return float(gains(ranks).sum() / gains(np.arange(len(ranks))).sum())


def catalogue(request: dict[str, list[str]], answer: list[Any]) -> tuple[float, float]:
    items = [str(item) for item in answer[:50]]
    if len(set(items)) != len(items) or set(items) & set(request["seen"]):
        raise SystemExit("an answer repeats an item or has one of the history")
    hits = np.isin(items, request["new"])
    best = gains(np.arange(min(10, len(request["new"])))).sum()
    return float((hits[:10] * gains(np.arange(len(hits[:10])))).sum() / best), float(hits.sum() / len(request["new"]))


def gains(ranks: np.ndarray) -> np.ndarray:
    """Of ranks from 0."""
    return np.asarray(1 / np.log2(ranks + 2))


def interval(difference: np.ndarray) -> list[float]:
    randoms = np.random.default_rng(0)
    means = [difference[randoms.integers(len(difference), size=len(difference))].mean() for _ in range(SAMPLES)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [round(float(low), 4), round(float(high), 4)]


def table(figures: dict[str, Any]) -> str:
    """The README's table: the first answer of each log beside the last one."""
    lines = ["| | {0} | {1} | | {0}, catalogue | {1} | |".format(*_names(figures)), "|---|---|---|---|---|---|---|"]
    for log, found in figures.items():
        (rival, theirs), (name, ours) = next(iter(found["means"].items())), list(found["means"].items())[-1]
        cells = [log]
        for metric in ("gamma 1.0", "NDCG@10"):
            a, b, (low, high) = theirs[metric], ours[metric], found[f"less {rival}"][name][metric]
            shown = "shown at 99 %" if low > 0 or high < 0 else "not shown"
            left, right = (f"**{value:.4f}**" if value == max(a, b) else f"{value:.4f}" for value in (a, b))
            cells += [left, right, f"{100 * (b / a - 1):+.0f} %, {shown}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _names(figures: dict[str, Any]) -> tuple[str, str]:
    names = list(next(iter(figures.values()))["means"])
    return names[0], names[-1]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Path, nargs="?")
    parser.add_argument("answers", nargs="*", help="NAME=FOLDER; the others are compared with the first")
    parser.add_argument("--record", metavar="LOG", help="name of the log in docs/figures.json")
    parser.add_argument("--table", action="store_true", help="print the README's table from docs/figures.json")
    options = parser.parse_args()
    if not options.table and (options.case is None or not options.answers):
        parser.error("expected a CASE and at least one NAME=FOLDER")
    return options


if __name__ == "__main__":
    main()
