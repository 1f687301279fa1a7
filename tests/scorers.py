"""Scorers of a few lines and questions to them, whose figures can be worked out by hand."""

import numpy as np
import torch

from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout


class Fixed:
    """Scores item i the same for everyone."""

    name = "Fixed"

    def __init__(self, *scores: float) -> None:
        self.num_items, self.scores = len(scores), torch.tensor([99.0, *scores])  # column 0 must not matter

    def score(self, histories: SequenceStore) -> torch.Tensor:
        return self.scores.repeat(len(histories), 1)


class Next:
    """Says that item i + 1 follows item i."""

    name = "Next"

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def score(self, histories: SequenceStore) -> torch.Tensor:
        scores = torch.zeros(len(histories), self.num_items + 1)
        scores[range(len(histories)), histories.last(1).items.astype(int) + 1] = 1.0
        return scores


class Hashed:
    """Scores that look random, and depend on the whole history."""

    name = "Hashed"

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def score(self, histories: SequenceStore) -> torch.Tensor:
        totals = [7 * histories.row(row).sum() + len(histories.row(row)) for row in range(len(histories))]
        numbers = np.arange(self.num_items + 1)
        rows = [(int(total) * 31 + numbers * 17) % 11 for total in totals]
        return torch.from_numpy(np.array(rows, np.float32).reshape(len(rows), len(numbers)))


def asked(*questions: tuple[list[int], list[int]]) -> Holdout:
    """(history, targets) each."""
    histories, targets = zip(*questions, strict=True)
    store = SequenceStore.from_lists
    return Holdout(store(histories), store(targets), np.arange(1, len(questions) + 1))


# Items score 4 3 2 1. Ranks 1, 3, 1 without the seen items; 2, 4, 1 with them.
FIXED = Fixed(4, 3, 2, 1)
THREE = asked(([1], [2]), ([2], [4]), ([], [1]))
