"""Sequential recommendation with BERT4Rec.

>>> import corerec
>>> corerec.Bert4Rec
<class 'corerec.engines.bert4rec.recommender.Bert4Rec'>

Each public name is imported when it is first used, so `import corerec` loads neither torch nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import version

    from corerec.basic.popularity import Popularity
    from corerec.basic.transitions import LastItemMarkov
    from corerec.data.histories import Histories
    from corerec.data.interactions import Interactions
    from corerec.data.item_table import read_items
    from corerec.data.prepare import prepare
    from corerec.data.sequences import SequenceStore
    from corerec.data.splitting import Holdout, Split, by_time, hold_out_period, leave_one_out
    from corerec.data.tables import Columns, read_events, read_titles
    from corerec.data.vocabulary import Vocabulary
    from corerec.engines.bert4rec.answering import Embeddings
    from corerec.engines.bert4rec.explain import Reason
    from corerec.engines.bert4rec.export import export_onnx
    from corerec.engines.bert4rec.recommender import Bert4Rec
    from corerec.engines.bert4rec.training import EpochResult, StepResult
    from corerec.evaluation.evaluate import by_history, compare, evaluate
    from corerec.evaluation.report import Comparison, Report
    from corerec.queries import Query, Recommendations

    __version__ = version("corerec-bert4rec")

_HOMES = {
    "Bert4Rec": "engines.bert4rec.recommender",
    "Columns": "data.tables",
    "Comparison": "evaluation.report",
    "Embeddings": "engines.bert4rec.answering",
    "EpochResult": "engines.bert4rec.training",
    "Histories": "data.histories",
    "Holdout": "data.splitting",
    "Interactions": "data.interactions",
    "LastItemMarkov": "basic.transitions",
    "Popularity": "basic.popularity",
    "Query": "queries",
    "Reason": "engines.bert4rec.explain",
    "Recommendations": "queries",
    "Report": "evaluation.report",
    "SequenceStore": "data.sequences",
    "Split": "data.splitting",
    "StepResult": "engines.bert4rec.training",
    "Vocabulary": "data.vocabulary",
    "by_history": "evaluation.evaluate",
    "by_time": "data.splitting",
    "compare": "evaluation.evaluate",
    "evaluate": "evaluation.evaluate",
    "export_onnx": "engines.bert4rec.export",
    "hold_out_period": "data.splitting",
    "leave_one_out": "data.splitting",
    "prepare": "data.prepare",
    "read_events": "data.tables",
    "read_items": "data.item_table",
    "read_titles": "data.tables",
}

__all__ = [  # as _HOMES, which a test holds it to
    "Bert4Rec",
    "Columns",
    "Comparison",
    "Embeddings",
    "EpochResult",
    "Histories",
    "Holdout",
    "Interactions",
    "LastItemMarkov",
    "Popularity",
    "Query",
    "Reason",
    "Recommendations",
    "Report",
    "SequenceStore",
    "Split",
    "StepResult",
    "Vocabulary",
    "__version__",
    "by_history",
    "by_time",
    "compare",
    "evaluate",
    "export_onnx",
    "hold_out_period",
    "leave_one_out",
    "prepare",
    "read_events",
    "read_items",
    "read_titles",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("corerec-bert4rec")
    elif name in _HOMES:
        value = getattr(import_module(f"corerec.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'corerec' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
