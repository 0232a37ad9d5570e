"""heedful: personalised rankings from an event log.

    event log ──► sequences ──► item embeddings ──► ranker ──► rankings
    (events)      (prepare)     (embed)             (train)    (score, recommend)
                                                        └────► evaluation (evaluate)

    import heedful

    log = heedful.read_events("events.parquet")
    past, future = log.split("2017-12-24", days=7)
    items = heedful.SkipGram(width=64).fit(past)
    ranker = heedful.AttentionRanker().fit(past, items)
    print(heedful.compare({"attention": ranker, "popularity": heedful.Popularity().fit(past)}, future))
    top = heedful.Recommender(ranker).recommend(["1029743", "995242"], k=10)

A stage takes a finished value and returns a new one. Every public name is resolved when it is first used, so that
`import heedful` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "heedful.embeddings.importing": ["read_embeddings"],
    "heedful.embeddings.onboarding": ["extend_table"],
    "heedful.embeddings.skipgram": ["SkipGram", "SkipGramConfig"],
    "heedful.embeddings.table": ["ItemEmbeddings"],
    "heedful.errors": [
        "ConfigError",
        "FolderError",
        "HeedfulError",
        "InputError",
        "MismatchError",
        "MissingExtraError",
        "TrainingError",
    ],
    "heedful.evaluation.comparison": ["Comparison", "compare"],
    "heedful.evaluation.options": ["EvaluationConfig"],
    "heedful.evaluation.report": ["write_report"],
    "heedful.events.candidates": ["Candidates"],
    "heedful.events.catalog": ["Catalog"],
    "heedful.events.histories": ["Histories"],
    "heedful.events.log": ["EventLog"],
    "heedful.events.preparing": ["PrepareConfig", "prepare", "read_events"],
    "heedful.events.vocabulary": ["Vocabulary"],
    "heedful.progress": ["show_progress"],
    "heedful.rankers.attention": ["AttentionConfig", "AttentionRanker"],
    "heedful.rankers.averaging": ["AveragingConfig", "AveragingRanker"],
    "heedful.rankers.base": ["Ranker"],
    "heedful.rankers.heuristics": ["LastItem", "WeightedSum", "WeightedSumConfig"],
    "heedful.rankers.mixed": ["MixedConfig", "MixedRanker"],
    "heedful.rankers.popularity": ["Popularity"],
    "heedful.rankers.registry": ["load_ranker"],
    "heedful.recommending.explanation": ["Explanation", "Reason"],
    "heedful.recommending.recommend": ["Query", "Recommendations", "Recommender"],
    "heedful.recommending.requests": ["recommend_requests", "score_requests"],
    "heedful.tuning.options": ["TuneConfig"],
    "heedful.tuning.results": ["Tuning"],
    "heedful.tuning.search": ["tune"],
    "heedful.updating.backtest": ["backtest"],
    "heedful.updating.days": ["Backtest"],
    "heedful.updating.options": ["BacktestConfig"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'heedful' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


if TYPE_CHECKING:
    from heedful.embeddings.importing import read_embeddings as read_embeddings
    from heedful.embeddings.onboarding import extend_table as extend_table
    from heedful.embeddings.skipgram import SkipGram as SkipGram
    from heedful.embeddings.skipgram import SkipGramConfig as SkipGramConfig
    from heedful.embeddings.table import ItemEmbeddings as ItemEmbeddings
    from heedful.errors import ConfigError as ConfigError
    from heedful.errors import FolderError as FolderError
    from heedful.errors import HeedfulError as HeedfulError
    from heedful.errors import InputError as InputError
    from heedful.errors import MismatchError as MismatchError
    from heedful.errors import MissingExtraError as MissingExtraError
    from heedful.errors import TrainingError as TrainingError
    from heedful.evaluation.comparison import Comparison as Comparison
    from heedful.evaluation.comparison import compare as compare
    from heedful.evaluation.options import EvaluationConfig as EvaluationConfig
    from heedful.evaluation.report import write_report as write_report
    from heedful.events.candidates import Candidates as Candidates
    from heedful.events.catalog import Catalog as Catalog
    from heedful.events.histories import Histories as Histories
    from heedful.events.log import EventLog as EventLog
    from heedful.events.preparing import PrepareConfig as PrepareConfig
    from heedful.events.preparing import prepare as prepare
    from heedful.events.preparing import read_events as read_events
    from heedful.events.vocabulary import Vocabulary as Vocabulary
    from heedful.progress import show_progress as show_progress
    from heedful.rankers.attention import AttentionConfig as AttentionConfig
    from heedful.rankers.attention import AttentionRanker as AttentionRanker
    from heedful.rankers.averaging import AveragingConfig as AveragingConfig
    from heedful.rankers.averaging import AveragingRanker as AveragingRanker
    from heedful.rankers.base import Ranker as Ranker
    from heedful.rankers.heuristics import LastItem as LastItem
    from heedful.rankers.heuristics import WeightedSum as WeightedSum
    from heedful.rankers.heuristics import WeightedSumConfig as WeightedSumConfig
    from heedful.rankers.mixed import MixedConfig as MixedConfig
    from heedful.rankers.mixed import MixedRanker as MixedRanker
    from heedful.rankers.popularity import Popularity as Popularity
    from heedful.rankers.registry import load_ranker as load_ranker
    from heedful.recommending.explanation import Explanation as Explanation
    from heedful.recommending.explanation import Reason as Reason
    from heedful.recommending.recommend import Query as Query
    from heedful.recommending.recommend import Recommendations as Recommendations
    from heedful.recommending.recommend import Recommender as Recommender
    from heedful.recommending.requests import recommend_requests as recommend_requests
    from heedful.recommending.requests import score_requests as score_requests
    from heedful.tuning.options import TuneConfig as TuneConfig
    from heedful.tuning.results import Tuning as Tuning
    from heedful.tuning.search import tune as tune
    from heedful.updating.backtest import backtest as backtest
    from heedful.updating.days import Backtest as Backtest
    from heedful.updating.options import BacktestConfig as BacktestConfig
