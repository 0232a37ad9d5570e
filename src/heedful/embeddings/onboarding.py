"""New items: vectors for what arrived after training, in the space of a finished table, whose own rows do not change.

What the attributes of a new item say is a ridge regression of the table's vectors on its categories, in which an item counts
as the root of its actions: vectors of rare items are mostly noise, and lie apart. What its first actions say is the loss of
section 3 of the paper with the context vectors frozen, which is convex in the item's own vector:

    sum_j w_j softplus(-x.y_j) + k W E_neg[softplus(x.y)] + precision |x - m|^2 / 2,    W = sum_j w_j

with m from the attributes. w_j is the expected number of times that a pass of training would have paired the item with
context j, k the negatives of a pair, E_neg the expectation over their distribution. So an item without actions gets m, and
one with many what training would have found. Newton's method solves it exactly, and nothing is drawn at random but the order
inside baskets, with a fixed seed.

Shapes: I items of the table, N new items, C items of the log, D width, E events, P pairs of a new item and a context,
T terms of one item's loss.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heedful.config import Config, option, require
from heedful.embeddings.grouping import group_means
from heedful.embeddings.skipgram import SkipGramConfig
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import InputError
from heedful.events.log import EventLog, count_items
from heedful.events.vocabulary import Vocabulary
from heedful.kernels.alias import smoothed_weights
from heedful.progress import progress

__all__ = ["Extension", "OnboardingConfig", "extend_table", "newcomers"]

_DAY = 86400
# Orders of the actions inside baskets over which the pairs are averaged, and their seed.
_ORDERS, _SEED = 8, 1
# Quantiles that represent the distribution of negatives in a table of more items; what that changes is far less than what
# one more action does.
_NEGATIVES = 8192
# Newton's method has arrived when the next step cannot lower the loss by more than this.
_CONVERGED, _MOST_STEPS = 1e-9, 50


@dataclass(frozen=True, kw_only=True)
class OnboardingConfig(Config):
    """How new items get their vectors; window, negatives and kinds are those that the table was trained with."""

    precision: float = option(20.0, "how firmly a new vector is held to what its attributes say, in pairs of neighbours")
    shrinkage: float = option(
        20.0, "items of mean frequency that a category needs to move the estimate by half of what it says"
    )

    def __post_init__(self) -> None:
        """Check every option."""
        require(self.precision > 0, "precision", got=self.precision, expected="more than 0")
        require(self.shrinkage > 0, "shrinkage", got=self.shrinkage, expected="more than 0")


@dataclass(frozen=True)
class Extension:
    """An extended table and how its new items came by their vectors.

    Attributes:
        table: the first I rows are those of the table that it extends, then come the N new items.
        users: distinct users of each new item in the log, int64 [N].
        pairs: weight of the pairs that each new vector was fitted to, float64 [N]; 0: by attributes alone.
        described: whether anything is known of the attributes of each new item, bool [N].
    """

    table: ItemEmbeddings
    users: np.ndarray
    pairs: np.ndarray
    described: np.ndarray


def extend_table(
    table: ItemEmbeddings,
    log: EventLog | None = None,
    *,
    attributes: pa.Table | None = None,
    counts: np.ndarray | None = None,
    config: OnboardingConfig | None = None,
) -> Extension:
    """Add the items that a table lacks.

    Args:
        table: a finished table. Without context vectors (an imported one) attributes alone are used.
        log: actions on the new items, with those of the same users on known items around them; its other items that the
            table lacks are new items too.
        attributes: new items, `item_id` and columns such as the table's; what the log's catalogue knows comes second.
        counts: actions on each item of the table, [I]; those of the log unless given. A log of a few days, or none, says
            little about them: a ranker's `users_of_item` will do.
        config: options.

    Raises:
        InputError: there are no new items, or ids, attributes or counts do not fit the table.
    """
    config = config or OnboardingConfig()
    items = _new_items(table, log, attributes)
    described = _described(table, items, log, attributes)
    counts_I = _counts(table, log, counts)
    weights_I = np.sqrt(counts_I) if counts_I.any() else np.ones(len(table))
    vectors_ND = group_means(table.vectors, weights_I, table.attributes, described, len(items), shrinkage=config.shrinkage)
    users_N, days_N, pairs_N = np.zeros(len(items), np.int64), np.zeros(len(items)), np.zeros(len(items))
    if log is not None:
        users_N, days_N = _first_users(log, items)
        if table.contexts is not None and counts_I.any():
            pairs_N = _fit_all(table, log, items, counts_I, vectors_ND, config.precision)
    record = {"extends": table.content_hash, "n_items": len(table), "users": users_N.tolist(), "days": days_N.tolist()}
    record |= {"config": config.to_dict(), "log": None if log is None else log.facts()}
    record["fitted"] = int(np.count_nonzero(pairs_N))
    extended = ItemEmbeddings.from_arrays(
        pa.concat_arrays([table.items.ids, items.ids]),
        np.concatenate([table.vectors, vectors_ND.astype(np.float32)]),
        # A new item is not a context yet: zeros leave the loss of others as it is.
        None if table.contexts is None else np.concatenate([table.contexts, np.zeros(vectors_ND.shape, np.float32)]),
        attributes=_below(table, described),
        provenance={**table.provenance, "extensions": [*table.provenance.get("extensions", []), record]},
    )
    known_N = np.zeros(len(items), bool)
    for column in described.columns:
        known_N |= column.is_valid().to_numpy()
    return Extension(extended, users_N, pairs_N, known_N)


def newcomers(table: ItemEmbeddings, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """What the extensions of a table recorded of its rows from `n_items` on.

    Returns:
        (distinct users, int64 [N]; days from the first action to the end of the log, float64 [N]); zeros where nothing is.
    """
    users, days = np.zeros(len(table), np.int64), np.zeros(len(table))
    for record in table.provenance.get("extensions", []):
        rows = slice(record["n_items"], record["n_items"] + len(record["users"]))
        users[rows], days[rows] = record["users"], record["days"]
    return users[n_items:], days[n_items:]


def _new_items(table: ItemEmbeddings, log: EventLog | None, attributes: pa.Table | None) -> Vocabulary:
    """Ids that the table lacks, those of the log first."""
    if attributes is not None and "item_id" not in attributes.column_names:
        raise InputError("the new items have no ids", got=", ".join(attributes.column_names), expected="a column item_id")
    kind = table.items.ids.type
    found = pa.array([], kind)
    for given in (None if log is None else log.catalog.items.ids, None if attributes is None else attributes["item_id"]):
        if given is not None:
            ids = Vocabulary(given).ids
            ids = ids.filter(pa.array((table.items.rows(ids) < 0) & (Vocabulary(found).rows(ids) < 0)))
            try:
                found = pa.concat_arrays([found, ids.cast(kind)])
            except pa.ArrowInvalid as error:
                raise InputError("the new items have ids of another type", got=error, expected=f"{kind}") from error
    if not len(found):
        raise InputError("there are no new items", got="only items that the table has", fix="nothing needs to be done")
    return Vocabulary(found)


def _described(table: ItemEmbeddings, items: Vocabulary, log: EventLog | None, attributes: pa.Table | None) -> pa.Table:
    """What is known of the new items, [N], in the columns of the table, or those given if it has none."""
    sources = []
    if attributes is not None:
        sources.append((Vocabulary(attributes["item_id"]), attributes.drop_columns(["item_id"])))
    if log is not None:
        sources.append((log.catalog.items, log.catalog.attributes))
    schema = table.attributes.schema
    if not len(schema):
        fields = {field.name: field for _, known in reversed(sources) for field in known.schema}
        schema = pa.schema(list(fields.values()))
    columns = []
    for field in schema:
        column = pa.chunked_array([pa.nulls(len(items), field.type)])
        for ids, known in sources:
            if field.name in known.column_names:
                rows = ids.rows(items.ids)
                try:
                    found = known[field.name].take(pa.array(rows, mask=rows < 0)).cast(field.type)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise InputError(
                        f"column {field.name!r} does not fit the table's", got=error, expected=field.type
                    ) from error
                column = pc.coalesce(column, found)
        columns.append(column)
    return pa.table(columns, schema=schema) if columns else pa.table({})


def _below(table: ItemEmbeddings, described: pa.Table) -> pa.Table | None:
    """The table's attributes with those of the new items below."""
    if not described.num_columns:
        return None
    above = table.attributes
    if not above.num_columns:
        above = pa.table([pa.nulls(len(table), field.type) for field in described.schema], schema=described.schema)
    return pa.concat_tables([above, described])


def _counts(table: ItemEmbeddings, log: EventLog | None, counts: np.ndarray | None) -> np.ndarray:
    """Actions on each item of the table, [I]; zeros where nobody says."""
    if counts is not None:
        if len(counts) != len(table):
            raise InputError(
                "counts do not fit the table", got=f"{len(counts)} numbers", expected=f"{len(table)}, one an item"
            )
        return np.asarray(counts)
    if log is None:
        return np.zeros(len(table), np.int64)
    rows = log.catalog.items.rows(table.items.ids)
    return np.where(rows >= 0, log.catalog.events[rows], 0) if len(log.catalog) else np.zeros(len(table), np.int64)


def _first_users(log: EventLog, items: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """(distinct users of each new item [N], days from its first action to the end of the log [N]); zeros without actions."""
    rows_N = log.catalog.items.rows(items.ids)
    _, users_C = count_items(log.histories, len(log.catalog))
    end = int(log.histories.times.max()) if log.n_events else 0
    first_C = np.full(len(log.catalog), end, np.int64)
    np.minimum.at(first_C, log.histories.items, log.histories.times)
    if not len(log.catalog):
        return np.zeros(len(items), np.int64), np.zeros(len(items))
    return np.where(rows_N >= 0, users_C[rows_N], 0), np.where(rows_N >= 0, (end - first_C[rows_N]) / _DAY, 0)


def _fit_all(
    table: ItemEmbeddings, log: EventLog, items: Vocabulary, counts_I: np.ndarray, vectors_ND: np.ndarray, precision: float
) -> np.ndarray:
    """Fit the vectors of the new items that have pairs, in place; returns the weight of their pairs, [N]."""
    assert table.contexts is not None
    trained = _trained_with(table)
    new_P, context_P, weight_P = _pairs(table, log, items, trained)
    bounds = np.searchsorted(new_P, np.arange(len(items) + 1))
    negative_S, share_S = _quantiles(smoothed_weights(counts_I, trained.negative_exponent))
    against_SD = np.asarray(table.contexts[negative_S], np.float64)
    pairs_N = np.bincount(new_P, weight_P, len(items))
    with progress("fitting new items", len(items), "items") as meter:
        for n in np.flatnonzero(pairs_N):
            own = slice(bounds[n], bounds[n + 1])
            contexts_TD = np.concatenate([table.contexts[context_P[own]], against_SD])
            weights_T = np.concatenate([weight_P[own], trained.negatives * pairs_N[n] * share_S])
            signs_T = np.concatenate([np.ones(own.stop - own.start), -np.ones(len(negative_S))])
            vectors_ND[n] = _minimise(vectors_ND[n], contexts_TD, weights_T, signs_T, precision)
            meter.advance(1)
    return pairs_N


def _trained_with(table: ItemEmbeddings) -> SkipGramConfig:
    """The options of the table's training, as far as they are known."""
    known = {field.name for field in dataclasses.fields(SkipGramConfig)}
    recorded = table.provenance.get("config", {}) if table.provenance.get("trainer") == "SkipGram" else {}
    return SkipGramConfig.from_dict({name: value for name, value in recorded.items() if name in known})


def _pairs(
    table: ItemEmbeddings, log: EventLog, items: Vocabulary, trained: SkipGramConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often one pass of training would pair each new item with each context of the table, in expectation.

    Returns:
        (new item int64 [P], ascending; row of the context int64 [P]; weight float64 [P]).
    """
    assert table.contexts is not None
    new_C, row_C = items.rows(log.catalog.items.ids), table.items.rows(log.catalog.items.ids)
    item_E, time_E, sequence_E = _sequences(log, new_C, row_C, trained)
    is_context = np.count_nonzero(table.contexts, axis=1) > 0  # new items of an earlier extension are none yet
    context_C = np.where((row_C >= 0) & is_context[row_C], row_C, -1)
    baskets = trained.shuffle_baskets and bool(np.any((np.diff(time_E) == 0) & (np.diff(sequence_E) == 0)))
    randoms = np.random.default_rng(_SEED)
    keys: np.ndarray = np.empty(0, np.int64)
    weights: np.ndarray = np.empty(0)
    for _ in range(_ORDERS if baskets else 1):
        order_E = np.lexsort((randoms.random(len(item_E)), time_E, sequence_E)) if baskets else np.arange(len(item_E))
        found, weight = _neighbours(item_E[order_E], sequence_E, new_C, context_C, trained)
        keys, place = np.unique(np.concatenate([keys, found]), return_inverse=True)
        weights = np.bincount(place, np.concatenate([weights, weight / (_ORDERS if baskets else 1)]), len(keys))
    # A key is item x C + catalogue row of the context.
    new, context = keys // max(len(context_C), 1), context_C[keys % max(len(context_C), 1)]
    return new, context, weights


def _neighbours(
    item_E: np.ndarray, sequence_E: np.ndarray, new_C: np.ndarray, context_C: np.ndarray, trained: SkipGramConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Each pair of a new item and a context within the window, as new item x C + context's row in C, and its probability."""
    centres = np.flatnonzero(new_C[item_E] >= 0)
    keys, weights = [np.empty(0, np.int64)], [np.empty(0)]
    for distance in range(1, trained.window + 1):
        probability = (trained.window - distance + 1) / trained.window if trained.dynamic_window else 1.0
        for other in (centres - distance, centres + distance):
            inside = (other >= 0) & (other < len(item_E))
            centre, near = centres[inside], other[inside]
            paired = (sequence_E[near] == sequence_E[centre]) & (context_C[item_E[near]] >= 0)
            keys.append(new_C[item_E[centre[paired]]] * len(new_C) + item_E[near[paired]])
            weights.append(np.full(len(keys[-1]), probability))
    return np.concatenate(keys), np.concatenate(weights)


def _sequences(
    log: EventLog, new_C: np.ndarray, row_C: np.ndarray, trained: SkipGramConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(items, times, sequences) of the events that training would read, of users with a new item, in order of both."""
    histories = log.histories
    touched = np.zeros(len(histories), bool)
    owner_E = np.repeat(np.arange(len(histories)), histories.lengths)
    touched[owner_E[new_C[histories.items] >= 0]] = True
    kinds = [kind for kind in trained.kinds if kind in log.kinds]
    used = np.isin(histories.kinds, log.kind_codes(kinds)) if kinds else np.ones(len(owner_E), bool)
    used &= touched[owner_E] & ((new_C[histories.items] >= 0) | (row_C[histories.items] >= 0))
    item_E, time_E, owner_E = histories.items[used], np.asarray(histories.times[used]), owner_E[used]
    begins = np.diff(owner_E, prepend=-1) != 0
    if trained.max_gap_days:
        begins |= np.diff(time_E, prepend=0) > trained.max_gap_days * _DAY
    return np.asarray(item_E, np.int64), time_E, np.cumsum(begins)


def _quantiles(weights_I: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A distribution by its evenly spaced quantiles, or whole if it is small: (rows, their shares)."""
    if len(weights_I) <= _NEGATIVES:
        return np.arange(len(weights_I)), weights_I / weights_I.sum()
    cumulated = np.cumsum(weights_I)
    points = (np.arange(_NEGATIVES) + 0.5) / _NEGATIVES * cumulated[-1]
    rows, times = np.unique(np.searchsorted(cumulated, points), return_counts=True)
    return rows, times / _NEGATIVES


def _minimise(
    prior_D: np.ndarray, contexts_TD: np.ndarray, weights_T: np.ndarray, signs_T: np.ndarray, precision: float
) -> np.ndarray:
    """The x with the least sum_t w_t softplus(-s_t x.y_t) + precision |x - prior|^2 / 2, by Newton's method; float64 [D]."""

    def loss(x_D: np.ndarray) -> float:
        misfit = weights_T @ np.logaddexp(0, -signs_T * (contexts_TD @ x_D))
        return float(misfit + precision / 2 * np.sum((x_D - prior_D) ** 2))

    x_D = prior_D
    for _ in range(_MOST_STEPS):
        wrong_T = 0.5 - 0.5 * np.tanh(signs_T * (contexts_TD @ x_D) / 2)
        gradient_D = precision * (x_D - prior_D) - contexts_TD.T @ (weights_T * signs_T * wrong_T)
        curvature_T = weights_T * wrong_T * (1 - wrong_T)
        hessian_DD = (contexts_TD * curvature_T[:, None]).T @ contexts_TD + precision * np.eye(len(x_D))
        step_D = np.linalg.solve(hessian_DD, gradient_D)
        fall, size, here = float(gradient_D @ step_D), 1.0, loss(x_D)
        if fall < _CONVERGED:
            break
        while loss(x_D - size * step_D) > here - 1e-4 * size * fall and size > 1e-9:
            size /= 2
        x_D = x_D - size * step_D
    return x_D
