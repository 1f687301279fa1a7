"""The two training objectives: cloze (masked items) and next items. Both are pure functions, which take the random
generator as an argument.

B batch, L sequence length.
"""

from __future__ import annotations

import torch
from torch import Tensor

IGNORE = -100  # the target of a place without one


def cloze_mask(
    items: Tensor,
    *,
    mask_number: int,
    mask_prob: float,
    generator: torch.Generator,
    num_items: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Hide random items for the model to recover (BERT4Rec, arXiv:1904.06690, section 3.6).

    In a row of n items, round(mask_prob * n) are hidden, and at least one, as in the authors' own code. So every row
    contributes a similar number of targets.

        items   [[0, 5, 6, 7, 8]]  ->  inputs [[0, 5, M, 7, 8]], targets [[-, -, 6, -, -]]

    Args:
        items: int64 (B, L), item numbers padded with 0, at least one item in each row.
        mask_number: the number that replaces a hidden item.
        mask_prob: share, in (0, 1], of a row's items that is hidden. Padding never is.
        generator: a CPU generator.
        num_items: V, for BERT's replacement: 80% of the hidden places show the mask, 10% a random item of 1..V, and 10%
            their own item. None shows the mask at all of them.
        inputs: int64 (B, L), `items` with the hidden places replaced.
        targets: int64 (B, L), the hidden items; IGNORE elsewhere.
    Raises:
        ValueError: `mask_prob` is outside (0, 1].
    """
    if not 0 < mask_prob <= 1:
        raise ValueError(f"mask_prob must be in (0, 1], not {mask_prob}")
    is_item = items != 0
    keys = torch.rand(items.shape, generator=generator).masked_fill_(~is_item, 2.0)
    num_hidden = (is_item.sum(1, keepdim=True) * mask_prob).round_().clamp_(min=1).long()
    # A place is hidden if its random key is among the row's num_hidden smallest.
    bar = keys.sort(dim=1).values.gather(1, num_hidden - 1)
    hidden = (keys <= bar) & is_item
    targets = items.masked_fill(~hidden, IGNORE)
    if num_items is None:
        return items.masked_fill(hidden, mask_number), targets
    fate = torch.rand(items.shape, generator=generator)
    random_items = torch.randint(1, num_items + 1, items.shape, generator=generator)
    inputs = torch.where(hidden & (fate < 0.9), random_items, items)
    return inputs.masked_fill(hidden & (fate < 0.8), mask_number), targets


def next_item_targets(items: Tensor) -> tuple[Tensor, Tensor]:
    """Set the target of every place but the last to the next item. The network needs causal attention.

        items   [[0, 5, 6, 7]]  ->  inputs [[0, 5, 6, 7]], targets [[-, 6, 7, -]]

    Args:
        items: int64 (B, L), item numbers left-padded with 0.
    Returns:
        inputs: `items`, unchanged.
        targets: int64 (B, L); IGNORE under padding and at the last place.
    """
    targets = torch.full_like(items, IGNORE)
    targets[:, :-1] = items[:, 1:].masked_fill(items[:, :-1] == 0, IGNORE)
    return items, targets
