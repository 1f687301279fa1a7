"""An int8 copy of an item table, and upper bounds on the scores of groups of items."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from corerec.kernels import matmul_int8
from corerec.retrieval import blocks
from corerec.retrieval.score_edits import Exclusions

LOWEST = -(2**31)  # EXCLUDED among whole numbers
TINY = 1e-30  # instead of a scale of 0
SMALLEST_STATE = 2**-4  # int8 is no finer for states whose greatest value is below this


@dataclass(frozen=True)
class QuantizedTable:
    """An int8 copy of an item table, with a scale for each of G groups. The table's weights are about `weights` times
    the scale of the item's group.

    Attributes:
        weights: int8 (G GROUP, D); zeros beyond the table.
        biases: float32 (G GROUP,), in units of their group's scale.
        scales: float32 (G,).
        longest, lost, rounded: float32 (G,), terms of the formula in `bounds`. `longest` is a group's greatest |e'|,
            the factor of |h - h'|. `lost` is its greatest |e - e'| with float32's rounding of products, the factor of
            |h|. `rounded` is the rounding of biases.
    """

    weights: Tensor
    biases: Tensor
    scales: Tensor
    longest: Tensor
    lost: Tensor
    rounded: Tensor

    @classmethod
    def of(cls, weights: Tensor, biases: Tensor) -> QuantizedTable:
        groups = -(-len(weights) // blocks.GROUP)
        table = cls(
            torch.zeros(groups * blocks.GROUP, weights.shape[1], dtype=torch.int8),
            torch.zeros(groups * blocks.GROUP),
            *torch.empty(4, groups),
        )
        # A sum of D products, in any order, is off by at most D 2**-24 of the sum of their sizes (Higham 2002, 3.1).
        # Twice as much is enough for the bias and for the arithmetic of the bounds, too.
        rounding = (weights.shape[1] + 8) * 2**-23
        for first in range(0, groups, blocks.NARROWEST // blocks.GROUP):
            here = slice(first, first + blocks.NARROWEST // blocks.GROUP)
            items = slice(here.start * blocks.GROUP, here.stop * blocks.GROUP)
            part, bias = weights[items], biases[items]
            missing = -len(part) % blocks.GROUP
            part = F.pad(part, (0, 0, 0, missing)).unflatten(0, (-1, blocks.GROUP))  # (groups, blocks.GROUP, D)
            bias = F.pad(bias, (0, missing)).unflatten(0, (-1, blocks.GROUP))
            # Not so fine that biases, in units of this scale and a state's, would pass 2**30.
            largest_bias = bias.abs().amax(1)
            greatest = torch.maximum(part.abs().amax((1, 2)), largest_bias * 2**-12)
            scale = table.scales[here] = greatest.clamp_(min=TINY) / 127
            whole = (part / scale[:, None, None]).round_()
            table.weights[items] = whole.flatten(0, 1)
            table.biases[items] = (bias / scale[:, None]).flatten()
            rough = whole.mul_(scale[:, None, None])
            longest = table.longest[here] = torch.linalg.vector_norm(rough, dim=2).amax(1)
            lost = torch.linalg.vector_norm(part - rough, dim=2).amax(1)
            table.lost[here] = lost + rounding * (longest + lost)
            table.rounded[here] = rounding * largest_bias
        return table

    def bounds(self, states: Tensor, exclusions: Exclusions) -> Tensor:
        """Return an upper bound on the scores of each group's items, without excluded items, float32 (B, G).

        With h a state, e an item's weights, b its bias, h' and e' their int8 versions, and |.| Euclidean length,

            h e + b  =  h' e' + b + (h - h') e' + h (e - e')  <=  h' e' + b + |h - h'| |e'| + |h| |e - e'|

        by the Cauchy-Schwarz inequality. h' e' is exact: it is a whole number of units, where a unit is the product of
        both scales. b is rounded to units.
        """
        scale = max(float(states.abs().max()), SMALLEST_STATE) / 127
        whole = (states / scale).round_()
        lost = torch.linalg.vector_norm(states - whole * scale, dim=1)
        whole = whole.to(torch.int8)
        excluded = exclusions.by_column()
        width = blocks.block_width(len(states), len(self.weights), states.device)
        buffer = torch.empty(len(states) * width, dtype=torch.int32)
        best = torch.empty(len(states), len(self.scales), dtype=torch.int32)
        for first in range(0, len(self.weights), width):
            end = min(first + width, len(self.weights))
            block = buffer[: len(states) * (end - first)].view(len(states), end - first)
            matmul_int8(whole, self.weights[first:end].T, out=block)
            block += (self.biases[first:end] / scale).round_().to(torch.int32)
            excluded.between_columns(first, end).apply_(block, LOWEST)
            torch.amax(
                block.unflatten(1, (-1, blocks.GROUP)), 2, out=best[:, first // blocks.GROUP : end // blocks.GROUP]
            )
        bounds = best.to(torch.float32).add_(0.5).mul_(self.scales * scale)
        lengths = torch.linalg.vector_norm(states, dim=1)
        # No matrix product: torch.set_float32_matmul_precision may make those coarser than float32.
        bounds.addcmul_(lost[:, None], self.longest).addcmul_(lengths[:, None], self.lost)
        return bounds.add_(self.rounded)
