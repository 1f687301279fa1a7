"""Top-k, the filter of seen items, and ties: decided here and nowhere else.

B rows (users), V item numbers 1..V; scores are float (B, V + 1) with column 0 for padding, which never ranks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from corerec.interactions import SequenceStore

EXCLUDED = -torch.inf
BLOCK = 256  # targets compared with the catalogue at once


def exclude_(scores: Tensor, items: SequenceStore) -> Tensor:
    """Take items out of the race, in place: row r loses every item of `items`' row r, and the padding column.

    Args:
        scores: (B, V + 1).
        items: B rows of item numbers.
    """
    rows = torch.from_numpy(np.repeat(np.arange(len(items)), items.lengths)).to(scores.device)
    scores[rows, torch.from_numpy(items.items.astype(np.int64)).to(scores.device)] = EXCLUDED
    scores[:, 0] = EXCLUDED
    return scores


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best columns of each row, best first; equal scores go by the lower item number.

    Args:
        scores: (B, V + 1), EXCLUDED where an item may not be named.
    Returns:
        item numbers, int64 (B, min(k, V + 1)): 0 from the place on where a row has no item left.
        their scores, same shape.
    """
    k = min(k, scores.shape[1])
    best, at = torch.topk(scores, k, dim=1)
    # torch.topk breaks ties as it likes: redo the rows where a tie crosses the k-th place, then order the rest.
    unsure = ((scores >= best[:, -1:]).sum(1) > k) & (best[:, -1] > EXCLUDED)
    if unsure.any():
        best[unsure], at[unsure] = (part[:, :k] for part in scores[unsure].sort(dim=1, descending=True, stable=True))
    by_number = at.argsort(dim=1)
    by_score = best.gather(1, by_number).argsort(dim=1, descending=True, stable=True)
    order = by_number.gather(1, by_score)
    best, at = best.gather(1, order), at.gather(1, order)
    return at.masked_fill(best == EXCLUDED, 0), best


def rank_of(scores: Tensor, targets: SequenceStore, target_scores: Tensor | None = None) -> Tensor:
    """1-based ranks of known answers: 1 + the number of other items that score as high or higher.

    Ties count against us: a model that scores everything alike ranks last, not first; so does one that scores NaN.

    Args:
        scores: (B, V + 1), EXCLUDED where an item does not compete.
        targets: B rows of item numbers.
        target_scores: (targets,) their scores before exclusion: with these all answers of a row compete, also those
            that its history excludes.
    Returns:
        int64 (targets,), in the order of `targets.items`.
    """
    rows = torch.from_numpy(np.repeat(np.arange(len(targets)), targets.lengths)).to(scores.device)
    columns = torch.from_numpy(targets.items.astype(np.int64)).to(scores.device)
    own = scores[rows, columns]
    if target_scores is not None and not torch.equal(own, target_scores):
        scores, own = scores.index_put((rows, columns), target_scores), target_scores
    lower = [
        (scores[block] < bar[:, None]).sum(1) for block, bar in zip(rows.split(BLOCK), own.split(BLOCK), strict=True)
    ]
    return scores.shape[1] - torch.cat(lower)
