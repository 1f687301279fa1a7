"""Which items the answers of a step compete with when the catalogue is too large for all of it.

V items, T distinct answers of a step, C items drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROUND_TO = 512  # matrix libraries keep prepared code for every size they meet: have few


@dataclass(frozen=True)
class Negatives:
    """A step's share of the catalogue.

    Attributes:
        items: int64 (C,), distinct item numbers, every answer of the step among them.
        log_chances: float32 (C,), the logarithm of each item's chance of being drawn: taken off its logit, it makes
            the sum over C an unbiased estimate of the sum over the catalogue (Horvitz & Thompson 1952).
    """

    items: Tensor
    log_chances: Tensor

    def to(self, device: torch.device) -> Negatives:
        return Negatives(self.items.to(device), self.log_chances.to(device))


def draw_negatives(targets: Tensor, shares: Tensor, count: int, generator: torch.Generator) -> Negatives:
    """The answers of a step, which come as often as items are popular, and at least `count` other items, uniformly.

    Args:
        targets: int64 (any shape), item numbers; below 1 where a place asks nothing.
        shares: float32 (V + 1,), each item number's share of the training events.
        count: other items wanted; C is rounded up, and never above V.
        generator: a CPU generator.
    """
    num_items = len(shares) - 1
    answers = targets[targets > 0]
    is_answer = torch.zeros(num_items + 1, dtype=torch.bool)
    is_answer[answers] = True
    distinct = is_answer.nonzero()[:, 0]
    size = min(num_items, -(-(len(distinct) + count) // ROUND_TO) * ROUND_TO)
    others = torch.randperm(num_items, generator=generator) + 1
    others = others[~is_answer[others]][: size - len(distinct)]
    items = torch.cat([distinct, others])
    # Missed by every answer, and by the uniform draw.
    missed_by_answers = len(answers) * torch.log1p(-shares[items].clamp(max=1 - 1e-6))
    drawn = min(1 - 1e-6, len(others) / max(1, num_items - len(distinct)))
    chances = -torch.expm1(missed_by_answers + torch.log1p(torch.tensor(-drawn)))
    return Negatives(items, chances.log() if size < num_items else torch.zeros(size))
