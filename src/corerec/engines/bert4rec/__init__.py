"""BERT4Rec: sequential recommendation with a bidirectional transformer (Sun et al. 2019, arXiv:1904.06690)."""

from corerec.engines.bert4rec.explain import Reason
from corerec.engines.bert4rec.recommender import Bert4Rec
from corerec.queries import Query

__all__ = ["Bert4Rec", "Query", "Reason"]
