"""`continue_embeddings`: yesterday's vectors trained on with today's log, in the same space.

Items keep their rows and start from their vectors and context vectors. New items come after them and start where
`heedful.embeddings.onboarding` puts them: fitted to what they occur with and to their attributes. Few passes at a low
rate follow, so that what was learnt moves little. Shape suffixes: I items of the table, C rows of the log's catalogue.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from heedful.embeddings.onboarding import extend_table
from heedful.embeddings.skipgram import (
    SkipGramConfig,
    TrainingRun,
    count_actions,
    epochs_for,
    keep_probability,
    kind_weights_of,
    padded_tables,
    plan_of,
    source_of,
    threads_of,
    versions,
)
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError, TrainingError
from heedful.events.log import EventLog

__all__ = ["continue_embeddings"]

# Of the passes and of the learning rate of a training from nothing. At its whole rate the vectors move further than the
# few passes can settle again.
_EPOCHS, _RATE = 0.2, 0.4


def continue_embeddings(table: ItemEmbeddings, log: EventLog, **options: Any) -> ItemEmbeddings:
    """Train a table further with a log that has grown.

    Passes and learning rate are a fifth and two fifths of those of a training from nothing, which is what the options
    describe. Every item of the log that the table lacks gets a row, however few actions it has.

    Args:
        table: a table with context vectors.
        log: all events, those that the table was trained on too.
        options: fields of `SkipGramConfig`; the others are those that the table was trained with.

    Raises:
        ConfigError: a table without context vectors, another width, or a kind that the log does not have.
        TrainingError: the log has no action on an item, or the loss is not finite any more.
    """
    config = _config(table, options)
    known = table.items.rows(log.catalog.items.ids)
    longer = extend_table(table, log).table if (known < 0).any() else table
    rows_C = longer.items.rows(log.catalog.items.ids)
    kind_weights = kind_weights_of(log, config)
    counts_I = np.bincount(rows_C, count_actions(log, kind_weights > 0), len(longer)).astype(np.int64)
    if not counts_I.any():
        raise TrainingError("there is nothing to learn from", got="no action of these kinds", fix="name other kinds")
    epochs = max(math.ceil(_EPOCHS * (config.epochs or epochs_for(int(counts_I.sum())))), 1)
    assert longer.contexts is not None
    lower = replace(config, learning_rate=_RATE * config.learning_rate, min_learning_rate=_RATE * config.min_learning_rate)
    tables = padded_tables(longer.vectors, longer.contexts, counts_I, lower)
    keep_I = keep_probability(counts_I, config.subsample)
    source = source_of(log, kind_weights, rows_C.astype(np.int32), keep_I)
    run = TrainingRun(source, tables, plan_of(lower, epochs, log.n_events), epochs)
    run.train(threads_of(config.threads))
    return ItemEmbeddings.from_arrays(
        longer.items,
        np.ascontiguousarray(tables.x[:, : config.width]),
        np.ascontiguousarray(tables.y[:, : config.width]),
        attributes=longer.attributes,
        provenance={
            "trainer": "SkipGram",
            "config": config.to_dict(),
            "log": log.provenance(),
            "continued": {"from": table.content_hash, "n_items": len(table), "epochs": epochs},
            "training": run.facts(),
            "versions": versions(),
        },
    )


def _config(table: ItemEmbeddings, options: dict[str, Any]) -> SkipGramConfig:
    if table.contexts is None:
        raise ConfigError(
            "the table cannot be trained further", got="no context vectors, as in an imported table",
            expected="a table of `heedful embed`", fix="train a new one without --from",
        )  # fmt: skip
    trained = table.provenance["config"] if table.provenance.get("trainer") == "SkipGram" else {}
    config = SkipGramConfig.from_dict({**trained, "width": table.width, **options})
    if config.width != table.width:
        raise ConfigError(
            "a table that is trained further keeps its width", got=config.width, expected=table.width,
            fix="leave --width out, or train a new table without --from",
        )  # fmt: skip
    return config
