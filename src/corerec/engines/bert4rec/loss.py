"""Sampled softmax with logQ correction, for catalogues above 20,000 items, and cross-entropy in chunks of logits.

V items, T distinct targets of a step, C items sampled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LOGITS_AT_ONCE = 2**20  # logits in one chunk of the loss: small enough to stay in a CPU's cache
LOGITS_AT_ONCE_GPU = 2**27  # larger chunks, as each chunk costs kernel launches: 256 MB in bfloat16
LARGE_CATALOGUE = 100_000  # number of items from which negatives are drawn one by one
TINY = torch.finfo(torch.float32).tiny
ROUND_TO = 512  # sizes are rounded, as matrix libraries keep prepared code in memory for each size


@dataclass(frozen=True)
class SampledItems:
    """The items that compete in the loss of one step.

    Attributes:
        items: int64 (C,), distinct item numbers, which include every target of the step.
        log_q: float32 (C,), the logarithm of each item's chance of being drawn. Subtracted from the logits, it makes
            the sum over C an unbiased estimate of the sum over the catalogue (Horvitz & Thompson 1952).
    """

    items: Tensor
    log_q: Tensor

    def places(self, wanted: Tensor) -> Tensor:
        """Return the places of items among `items`, int64 (n,), for int64 (n,) numbers; any place for another item."""
        rising, order = self.items.sort()
        return order[torch.searchsorted(rising, wanted).clamp(max=len(order) - 1)]


def sample_items(targets: Tensor, shares: Tensor, count: int, generator: torch.Generator) -> SampledItems:
    """Sample items for the loss: all targets of a step, and `count` or more other items, drawn uniformly.

    Popular items are among the targets more often, which `log_q` takes into account.

    Args:
        targets: int64 (any shape), item numbers; below 1 where there is no target.
        shares: float32 (V + 1,), each item number's share of the training events.
        count: the number of other items. C is rounded up, and never above V.
        generator: a CPU generator.
    """
    num_items = len(shares) - 1
    answers = targets[targets > 0]
    distinct = answers.unique()
    size = min(num_items, -(-(len(distinct) + count) // ROUND_TO) * ROUND_TO)
    others = draw_others(distinct, num_items, size - len(distinct), generator)
    items = torch.cat([distinct, others])
    # An item does not compete only if it is none of the step's targets, and if the uniform draw does not draw it.
    missed_by_answers = len(answers) * torch.log1p(-shares[items].clamp(max=1 - 1e-6))
    drawn = min(1 - 1e-6, len(others) / max(1, num_items - len(distinct)))
    chances = -torch.expm1(missed_by_answers + torch.log1p(torch.tensor(-drawn)))
    return SampledItems(items, chances.log() if size < num_items else torch.zeros(size))


def draw_others(items: Tensor, num_items: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` distinct numbers from 1..num_items that are not among `items`, int64 (count,), in random order.

    In a large catalogue, numbers are drawn one by one, and repetitions are dropped. In a small catalogue, all numbers
    are put in random order, which takes time in proportion to the number of items.
    """
    if num_items < LARGE_CATALOGUE or 4 * (len(items) + count) > num_items:
        is_other = torch.ones(num_items + 1, dtype=torch.bool)
        is_other[items] = False
        others = torch.randperm(num_items, generator=generator) + 1
        return others[is_other[others]][:count]
    known, found = items.numpy(), np.zeros(0, np.int64)
    while len(found) < count:
        drawn = torch.randint(1, num_items + 1, (count + count // 4,), generator=generator).numpy()
        found = np.concatenate([found, drawn[~np.isin(drawn, known)]])
        found = found[np.sort(np.unique(found, return_index=True)[1])]  # in the order of their draw
    return torch.from_numpy(found[:count])


def rows_at_once(num_items: int, device: torch.device) -> int:
    """Return the number of places in one chunk of the loss: a power of two, and 64 to 256 on a CPU.

    Most batches then split evenly. Smaller chunks make slow matrix products. Chunks of different sizes cost memory, for
    the reason that `batches.rounded_length` gives.
    """
    if device.type != "cpu":
        return 2 ** max(6, (LOGITS_AT_ONCE_GPU // num_items).bit_length() - 1)
    return 2 ** min(8, max(6, (LOGITS_AT_ONCE // num_items).bit_length() - 1))


class ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the mean cross-entropy of linear(hidden, weight, bias) in chunks of logits that fit into the cache.

    Each chunk's gradients are computed right after its logits, so the (places, V) matrix never exists. This is the idea
    of Cut Cross-Entropy (Wijmans et al. 2024), in plain torch operations.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, own_log_q: Tensor | None) -> Tensor:
        ctx.dtypes = hidden.dtype, weight.dtype
        device = hidden.device.type
        fast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        counts = (targets >= 0)[:, None]
        wanted = targets.clamp(min=0)[:, None]
        with torch.autocast(device, enabled=False):
            hidden, weight = hidden.to(fast), weight.to(fast)
            # A column of ones beside the hidden states turns the bias's gradient into one more of the weight's.
            inputs = torch.cat([hidden, torch.ones_like(hidden[:, :1])], dim=1) * counts
            grad_hidden = torch.empty_like(hidden)
            grad_weight = torch.zeros(len(weight), inputs.shape[1], device=weight.device)
            total = torch.zeros((), device=hidden.device)
            rows = rows_at_once(len(weight), hidden.device)
            for at in range(0, len(hidden), rows):
                chunk = slice(at, at + rows)
                logits = torch.addmm(bias.to(fast), hidden[chunk], weight.T)  # (rows, V)
                if own_log_q is not None:  # a place's own target always competes, so its logQ correction is undone
                    logits.scatter_add_(1, wanted[chunk], own_log_q[chunk, None].to(fast))
                probs = logits.softmax(1)
                own = probs.gather(1, wanted[chunk])
                total -= (own.float().clamp(min=TINY).log() * counts[chunk]).sum()
                error = probs.scatter_(1, wanted[chunk], own - 1)
                torch.mm(error, weight, out=grad_hidden[chunk])
                grad_weight += error.T @ inputs[chunk]
            grad_hidden *= counts
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.count = counts.sum().clamp(min=1)
        return total / ctx.count

    @staticmethod
    def backward(ctx, grad_output: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_hidden, grad_weight = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        scale = grad_output / ctx.count
        grad_weight = (grad_weight * scale).to(weight_dtype)
        return (grad_hidden * scale).to(hidden_dtype), grad_weight[:, :-1], grad_weight[:, -1], None, None
