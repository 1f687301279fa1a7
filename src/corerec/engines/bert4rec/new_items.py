"""New items: grow a network's item table. New rows start from the items' content, or from their neighbours' vectors.

V items before the table grows, W items after; D hidden_dim.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.training import build_network
from corerec.engines.bert4rec.training_state import seed_for

NEIGHBOURS = (-2, -1, 1, 2)  # the vector of a new item starts from the items at these places around it
NOISE = 0.1  # noise makes new items differ; its size is a share of the table's standard deviation


@torch.no_grad()
def grown_network(
    old: Bert4RecNetwork, old_number: np.ndarray, is_first: np.ndarray, store: SequenceStore, seed: int
) -> Bert4RecNetwork:
    """Return the network with a row for each item of the grown catalogue.

    A new item starts from its content if the model has it, and else from the items around it in the log.

    Args:
        old_number: int64 (W + 1,), each item's number before; 0 for new items and for padding.
        is_first: bool (W + 1,), the items that have events now, and had none before.
    """
    network = build_network(replace(old.config, num_items=len(old_number) - 1), seed=None)
    weights = {name: tensor.detach().clone() for name, tensor in old.state_dict().items()}
    source = torch.from_numpy(old_number).to(old.device)
    table, bias = weights["item_embedding"][source], weights["item_bias"][source]
    is_new = is_first | (old_number == 0)
    is_new[0] = False
    if is_new.any():
        new = torch.from_numpy(np.flatnonzero(is_new)).to(old.device)
        vectors, bias[new] = _first_rows(table, bias, store, is_new, seed)
        without_content = source[new] == 0
        table[new[without_content]] = vectors[without_content]
    weights["item_embedding"], weights["item_bias"] = table, bias
    network.load_state_dict(weights, assign=True)
    return network


def _first_rows(
    table: Tensor, bias: Tensor, store: SequenceStore, is_new: np.ndarray, seed: int
) -> tuple[Tensor, Tensor]:
    """Return vectors and biases of new items: the mean vector of neighbours, and the bias of equally frequent items."""
    rows = np.repeat(np.arange(len(store)), store.lengths)
    sums, counts = torch.zeros_like(table), torch.zeros(len(table), device=table.device)
    at = np.flatnonzero(is_new[store.items])
    for shift in NEIGHBOURS:
        inside = at[(at + shift >= 0) & (at + shift < store.num_events)]
        inside = inside[rows[inside] == rows[inside + shift]]
        inside = inside[~is_new[store.items[inside + shift]]]
        new = torch.from_numpy(store.items[inside].astype(np.int64)).to(table.device)
        near = torch.from_numpy(store.items[inside + shift].astype(np.int64)).to(table.device)
        sums.index_add_(0, new, table[near])
        counts.index_add_(0, new, torch.ones(len(new), device=table.device))
    known = torch.from_numpy(~is_new).to(table.device)
    known[0] = False
    fallback = table[known].mean(0) if known.any() else table.new_zeros(table.shape[1])
    means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], fallback)
    spread = float(table[known].std()) if known.any() else 0.02
    generator = torch.Generator().manual_seed(int(seed_for(seed, "new items").generate_state(1)[0]))
    noise = torch.randn(table.shape, generator=generator).to(table.device) * spread * NOISE
    frequency = torch.from_numpy(store.item_counts(len(table) - 1)).to(table.device)
    rising = frequency[known].sort()
    so_far = bias[known][rising.indices].cumsum(0) / torch.arange(1, len(rising.values) + 1, device=table.device)
    place = torch.searchsorted(rising.values, frequency, right=True).clamp(min=1, max=max(1, len(so_far))) - 1
    chosen = torch.from_numpy(is_new).to(table.device)
    first_bias = so_far[place[chosen]] if len(so_far) else bias[chosen]
    return (means + noise)[chosen], first_bias
