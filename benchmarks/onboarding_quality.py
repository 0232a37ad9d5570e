"""How good the vectors of new items are: items are hidden from training and brought back by their latest actions alone.

    heedful demo
    python benchmarks/onboarding_quality.py --demo demo --json onboarding.json

Some items with a good number of actions are taken out of the demo's training log altogether; skip-gram and the attention
ranker learn from what is left. Then each of the items is brought back as if it had arrived just before the cut: by its
attributes alone, or by its last 1, 2, 5, 20 or all of its actions. The yardstick is the demo's own table and ranker, which
knew them all along. Asked is which of them each household newly buys in the eight days after the cut:

- vectors: rank among the hidden items, by cosine with the mean of the household's latest 50 items (all vectors centred);
- ranker: rank among the hidden items, and in the whole catalogue, by the attention ranker;
- share: how much of a household's top 100 the hidden items take, by the ranker and by cosine with the last item, beside
  their share of all new purchases.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from heedful.demo import CUT
from heedful.embeddings.onboarding import OnboardingConfig, extend_table
from heedful.embeddings.skipgram import SkipGram
from heedful.embeddings.table import ItemEmbeddings
from heedful.events.log import EventLog
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.base import Ranker
from heedful.rankers.cold_items import extended
from heedful.rankers.heuristics import LastItem
from heedful.rankers.registry import load_ranker

RECENT = 50
TOP, FIRST = 100, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder that `heedful demo` made")
    parser.add_argument("--work", type=Path, default=None, help="folder to keep the trained table and model in")
    parser.add_argument("--hidden", type=int, default=500, help="items to hide")
    parser.add_argument("--least", type=int, default=40, help="actions that a hidden item has at least")
    parser.add_argument(
        "--actions", default="0,1,2,5,20,all", help="actions to bring an item back with; 0: attributes alone"
    )
    parser.add_argument("--users", type=int, default=400, help="households to rank for, at most")
    parser.add_argument("--precision", type=float, default=OnboardingConfig().precision)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()

    past, future = EventLog.load(options.demo / "sequences").split(CUT, days=8)
    hidden = choose(past, future, options)
    before = past._only(~np.isin(past.histories.items, hidden)).compact()
    table, ranker = trained(before, options.work)
    question = Question(past, future, hidden, options)
    print(question)
    print(
        "| actions | pairs | vectors: hit@10, mean rank | ranker: hit@10, mean rank | catalogue: hit@100, median rank |",
        end="",
    )
    print(" share of top 100: ranker, last item | seconds |", flush=True)
    rows = []
    for actions in ["trained", *options.actions.split(",")]:
        started, pairs = time.process_time(), 0.0
        if actions == "trained":
            vectors, model = ItemEmbeddings.load(options.demo / "embeddings"), load_ranker(options.demo / "attention")
            last = LastItem().fit(past, vectors)
        else:
            extension = brought_back(table, past, before, hidden, actions, options.precision)
            pairs = float(extension.pairs.mean())
            vectors, model = extension.table, extended(ranker, extension.table)
            last = extended(LastItem().fit(before, table), extension.table)
        seconds = time.process_time() - started
        row = {
            "actions": actions,
            "pairs": pairs,
            "seconds": seconds,
            **question.of_vectors(vectors),
            **question.of_ranker(model),
            "share_of_last_item": question.of_ranker(last)["share_of_top"],
        }
        rows.append(row)
        print(line(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"question": str(question), "rows": rows}, indent=1) + "\n")


def choose(past: EventLog, future: EventLog, options: argparse.Namespace) -> np.ndarray:
    """Rows of the past's items to hide: some of those with enough actions that are bought in the days after."""
    bought = past.catalog.items.rows(future.catalog.items.take(np.unique(future.histories.items)))
    able = np.intersect1d(np.flatnonzero(past.catalog.events >= options.least), bought)
    return np.sort(np.random.default_rng(options.seed).choice(able, min(options.hidden, len(able)), replace=False))


def trained(before: EventLog, work: Path | None) -> tuple[ItemEmbeddings, Ranker]:
    """Table and ranker of the log without the hidden items."""
    if work is not None and (work / "attention").exists():
        return ItemEmbeddings.load(work / "embeddings"), load_ranker(work / "attention")
    table = SkipGram().fit(before)
    ranker = AttentionRanker().fit(before, table)
    if work is not None:
        table.save(work / "embeddings")
        ranker.embeddings = ItemEmbeddings.load(work / "embeddings")
        ranker.save(work / "attention")
    return table, ranker


def brought_back(table, past, before, hidden, actions, precision):
    """The table with the hidden items, known by their latest actions before the cut or by their attributes alone."""
    attributes = past.catalog.attributes.take(pa.array(hidden)).append_column("item_id", past.catalog.items.take(hidden))
    config = OnboardingConfig(precision=precision)
    if actions == "0":
        rows = before.catalog.items.rows(table.items.ids)
        return extend_table(table, attributes=attributes, counts=before.catalog.events[rows], config=config)
    keep = np.ones(past.n_events, bool)
    if actions != "all":
        places = np.flatnonzero(np.isin(past.histories.items, hidden))
        places = places[np.lexsort((-past.histories.times[places], past.histories.items[places]))]
        items = past.histories.items[places]
        nth = np.arange(len(places)) - np.searchsorted(items, items)
        keep[places[nth >= int(actions)]] = False
    return extend_table(table, past._only(keep), attributes=attributes, config=config)


class Question:
    """Which of the hidden items does each household buy for the first time in the eight days after the cut?"""

    def __init__(self, past: EventLog, future: EventLog, hidden: np.ndarray, options: argparse.Namespace) -> None:
        self.past, self.hidden_ids = past, past.catalog.items.take(hidden)
        users = past.users.rows(future.users.ids)
        owner = np.repeat(users, future.histories.lengths)
        rows = past.catalog.items.rows(future.catalog.items.ids)[future.histories.items]
        known = (owner >= 0) & (rows >= 0)
        pairs = np.unique(np.stack([owner[known], rows[known]], 1), axis=0)
        had = np.repeat(np.arange(len(past.histories)), past.histories.lengths) * len(past.catalog) + past.histories.items
        pairs = pairs[~np.isin(pairs[:, 0] * len(past.catalog) + pairs[:, 1], had)]
        self.share = float(np.isin(pairs[:, 1], hidden).mean())
        pairs = pairs[np.isin(pairs[:, 1], hidden)]
        self.users = np.unique(pairs[:, 0])
        if len(self.users) > options.users:
            self.users = np.sort(np.random.default_rng(options.seed).choice(self.users, options.users, replace=False))
        pairs = pairs[np.isin(pairs[:, 0], self.users)]
        self.asker, self.target = np.searchsorted(self.users, pairs[:, 0]), np.searchsorted(hidden, pairs[:, 1])
        histories = past.histories.take(self.users)
        self.histories = histories.where(~np.isin(histories.items, hidden))

    def __str__(self) -> str:
        return (
            f"{len(self.hidden_ids)} items hidden; {len(self.target)} new purchases of them by {len(self.users)} "
            f"households; they are {self.share:.2%} of all new purchases"
        )

    def of_vectors(self, table: ItemEmbeddings) -> dict[str, float]:
        vectors = np.asarray(table.vectors, np.float32)
        units = vectors - vectors.mean(axis=0)
        units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-9)
        row_of = table.items.rows(self.past.catalog.items.ids)
        users = np.stack([units[row_of[self._latest(user)]].mean(axis=0) for user in range(len(self.users))])
        ranks = self._ranks_among_hidden(users @ units[table.items.rows(self.hidden_ids)].T)
        return {"vectors_hit10": float(np.mean(ranks < FIRST)), "vectors_rank": float(ranks.mean())}

    def of_ranker(self, ranker: Ranker) -> dict[str, float]:
        histories = self.histories.with_rows(ranker.items.rows(self.past.catalog.items.ids))
        hidden = ranker.items.rows(self.hidden_ids)
        among, ranks, share = np.empty((len(self.users), len(hidden)), np.float32), [], []
        for users, part in histories.chunks(32):
            scores = ranker.score_catalogue(part)
            among[users] = scores[:, hidden]
            scores[np.repeat(np.arange(len(part)), part.lengths), part.items] = -np.inf
            top = np.argpartition(-scores, TOP, axis=1)[:, :TOP]
            share.append(np.isin(top, hidden).mean(axis=1))
            for place, user in enumerate(range(users.start, users.stop)):
                targets = scores[place, hidden[self.target[self.asker == user]]]
                ranks.append((scores[place][None, :] > targets[:, None]).sum(axis=1))
        own = self._ranks_among_hidden(among)
        whole = np.concatenate(ranks)
        return {
            "ranker_hit10": float(np.mean(own < FIRST)), "ranker_rank": float(own.mean()),
            "catalogue_hit100": float(np.mean(whole < TOP)), "catalogue_median_rank": float(np.median(whole)),
            "share_of_top": float(np.concatenate(share).mean()),
        }  # fmt: skip

    def _latest(self, user: int) -> np.ndarray:
        items = self.histories.items[self.histories.offsets[user] : self.histories.offsets[user + 1]][::-1]
        return items[np.sort(np.unique(items, return_index=True)[1])][:RECENT]

    def _ranks_among_hidden(self, scores: np.ndarray) -> np.ndarray:
        asked = scores[self.asker]
        return (asked > asked[np.arange(len(self.target)), self.target][:, None]).sum(axis=1)


def line(row: dict[str, object]) -> str:
    return (
        f"| {row['actions']:>7} | {row['pairs']:6.0f} | {row['vectors_hit10']:.3f} | {row['vectors_rank']:5.0f} | "
        f"{row['ranker_hit10']:.3f} | {row['ranker_rank']:5.0f} | {row['catalogue_hit100']:.3f} | "
        f"{row['catalogue_median_rank']:6.0f} | {row['share_of_top']:.2%} | "
        f"{row['share_of_last_item']:.2%} | {row['seconds']:5.1f} |"
    )


if __name__ == "__main__":
    main()
