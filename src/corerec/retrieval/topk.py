"""Top-k selection, the exclusion of seen items, and the order of ties. Only this file defines the rules for them.

B rows (users), V item numbers 1..V. Scores are float (B, V + 1). Column 0 is padding, which is never ranked.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from corerec.data.sequences import SequenceStore

EXCLUDED = -torch.inf
BLOCK = 256  # targets compared with the catalogue at once


def places(items: SequenceStore, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return the row and the column of each item of B rows in a (B, V + 1) matrix, int64 (events,) each.

    >>> places(SequenceStore.from_lists([[5, 6], [], [7]]))
    (tensor([0, 0, 2]), tensor([5, 6, 7]))
    """
    rows = torch.from_numpy(np.repeat(np.arange(len(items)), items.lengths))
    columns = torch.from_numpy(items.items.astype(np.int64))
    return rows.to(device), columns.to(device)


def exclude_(scores: Tensor, items: SequenceStore) -> Tensor:
    """Exclude items in place: in row r of `scores`, exclude the items of row r of `items`, and the padding column.

    Args:
        scores: (B, V + 1).
        items: B rows of item numbers.
    """
    scores[places(items, scores.device)] = EXCLUDED
    scores[:, 0] = EXCLUDED
    return scores


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best columns of each row, best first. Of equal scores, the lower item number comes first.

    Args:
        scores: (B, V + 1); -inf (EXCLUDED) where an item may not be recommended.
    Returns:
        item numbers, int64 (B, min(k, V + 1)): 0 from the place on where a row has no item left.
        their scores, same shape.
    """
    k = min(k, scores.shape[1])
    more, at = torch.topk(scores, min(k + 1, scores.shape[1]), dim=1)
    best, at = more[:, :k], at[:, :k]
    if (more[:, 1:] == more[:, :-1]).any():
        best, at = _ties_by_number(scores, more, best, at)
    return at.masked_fill(best == EXCLUDED, 0), best


def _ties_by_number(scores: Tensor, more: Tensor, best: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Sort ties in `best` and `at` by item number, because torch.topk leaves their order open. `more` has one more
    column."""
    k = best.shape[1]
    unsure = (more[:, k:] == more[:, k - 1 : k]).any(1) & (best[:, -1] > EXCLUDED)  # a tie crosses the k-th place
    if unsure.any():
        best, at = best.clone(), at.clone()
        best[unsure], at[unsure] = (part[:, :k] for part in scores[unsure].sort(dim=1, descending=True, stable=True))
    by_number = at.argsort(dim=1)
    by_score = best.gather(1, by_number).argsort(dim=1, descending=True, stable=True)
    order = by_number.gather(1, by_score)
    return best.gather(1, order), at.gather(1, order)


def rank_of(scores: Tensor, targets: SequenceStore, target_scores: Tensor | None = None) -> Tensor:
    """Return the 1-based ranks of known answers: 1 + the number of other items whose score is as high or higher.

    Ties count against the answer. So if a model gives all items the same score, or NaN, the answer ranks last, not
    first.

    Args:
        scores: (B, V + 1); -inf (EXCLUDED) where an item does not compete.
        targets: B rows of item numbers.
        target_scores: (targets,), the answers' scores before exclusion. With these scores, all answers of a row
            compete, even answers that its history excludes.
    Returns:
        int64 (targets,), in the order of `targets.items`.
    """
    rows, columns = places(targets, scores.device)
    own = scores[rows, columns]
    if target_scores is not None and not torch.equal(own, target_scores):
        scores, own = scores.index_put((rows, columns), target_scores), target_scores
    lower = [
        (scores[block] < bar[:, None]).sum(1) for block, bar in zip(rows.split(BLOCK), own.split(BLOCK), strict=True)
    ]
    return scores.shape[1] - torch.cat(lower)
