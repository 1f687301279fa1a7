"""Encode histories as hidden states, and score the whole catalogue from them, in batches.

B histories, D hidden_dim, V items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from corerec.basic.transitions import TransitionModel
from corerec.data.sequences import SequenceStore, last_items
from corerec.engines.bert4rec.batches import pad, rounded_lengths
from corerec.engines.bert4rec.config import MASK
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.state_cache import StateCache
from corerec.engines.bert4rec.time_encoding import asked_buckets, history_gaps
from corerec.retrieval.score_edits import Boosts, Shifts

PLACES_AT_ONCE = 2**13  # positions in one forward pass: this bounds memory, and nearly fits into a CPU's cache
KEPT_BYTES = 2**25 - 2**16  # slightly below the largest value that glibc allows for its threshold


@torch.no_grad()
def next_states(network: Bert4RecNetwork, histories: SequenceStore) -> Tensor:
    """Return the hidden state of a blank after each history, multiplied by its inverse temperature.

    Args:
        histories: B rows, each possibly empty. The newest max_seq_len - 1 events of each are read. A network that reads
            time also reads their times and `asked_at`.
    Returns:
        float32 (B, D) on the network's device, in the order of the rows. A history gets the same state in any batch.
    """
    if network.training:  # eval() visits every module: a fifth of a short history's time
        network.eval()
    device = network.device
    recent = histories.last(network.config.max_seq_len - 1)
    states = torch.empty(len(recent), network.config.hidden_dim, device=device)
    if recent.num_events > PLACES_AT_ONCE:
        _keep_freed_memory()
    by_length = np.argsort(recent.lengths, kind="stable")
    widths = rounded_lengths(network.config.max_seq_len)[recent.lengths[by_length] + 1]
    first = 0
    while first < len(by_length):
        # Take as many of the next rows, in order of length, as fit into PLACES_AT_ONCE when padded to the longest.
        area = widths[first:] * np.arange(1, len(widths) - first + 1)
        count = max(1, int(np.searchsorted(area, PLACES_AT_ONCE, side="right")))
        rows = by_length[first : first + count]
        width = widths[first + count - 1] - 1
        items = pad(recent.items, recent.offsets[rows], recent.offsets[rows + 1], width)
        blank = torch.full((len(rows), 1), MASK)
        inputs = torch.cat([items, blank], dim=1).to(device)
        positions = torch.full((len(rows), 1), inputs.shape[1] - 1, device=device)
        gaps = None if network.time_encoder is None else history_gaps(recent, rows, int(width))
        gaps = None if gaps is None else gaps.to(device)
        states[torch.from_numpy(rows).to(device)] = network(inputs, positions, gaps=gaps)[:, 0].float()
        first += count
    lengths = torch.from_numpy(recent.lengths).to(device)
    return states.mul_(network.inverse_temperatures(lengths)[:, None])


def _keep_freed_memory() -> None:
    """Keep freed memory for the next pass, which glibc might otherwise give back to the system.

    glibc returns free memory at the end of the heap to the system if it exceeds twice the largest block freed so far.
    Getting this memory back from the system in each pass took half as long as the arithmetic. So one large block is
    allocated and freed here, which takes almost no time.
    """
    torch.empty(KEPT_BYTES, dtype=torch.uint8)


def encode(
    network: Bert4RecNetwork, cache: StateCache, users: np.ndarray, histories: SequenceStore
) -> tuple[np.ndarray, np.ndarray]:
    """Return the states of users' histories. Cached states are reused, and the others are computed together.

    `keep_states` caches the new states.

    Args:
        users: int64 (B,), the users of the histories; 0 for none.
    Returns:
        states, float32 (B, D); and log normalizers, float32 (B,), NaN where not known.
    """
    moments = asked_buckets(histories, network.gap_scale)
    found, kept_states, kept_totals = cache.get_many(users, histories.lengths, moments)
    states = np.empty((len(users), network.config.hidden_dim), np.float32)
    totals = np.full(len(users), np.nan, np.float32)
    missing = np.ones(len(users), bool)
    missing[found] = False
    states[found], totals[found] = kept_states, kept_totals
    if missing.any():
        todo = histories.select(np.flatnonzero(missing)) if len(found) else histories
        states[missing] = next_states(network, todo).cpu().numpy()
    return states, totals


def keep_states(
    network: Bert4RecNetwork,
    cache: StateCache,
    users: np.ndarray,
    histories: SequenceStore,
    states: np.ndarray,
    log_normalizers: np.ndarray,
    new: np.ndarray,
) -> None:
    """Cache the states that `encode` returned, with their log normalizers. Only the rows `new`, int64 (rows,), are
    cached."""
    if not len(new):
        return
    moments = asked_buckets(histories, network.gap_scale)
    cache.keep(users[new], histories.lengths[new], states[new], log_normalizers[new], moments[new])


@torch.no_grad()
def blank_states(network: Bert4RecNetwork, items: np.ndarray, positions: Sequence[int] | np.ndarray) -> Tensor:
    """Return the hidden states at some positions of one sequence, float32 (positions, D).

    Args:
        items: int64 (L,), L at most max_seq_len, MASK at each blank.
        positions: the positions, 0..L - 1.
    """
    if network.training:  # eval() visits every module: a fifth of a short history's time
        network.eval()
    device = network.device
    return network(torch.from_numpy(items)[None].to(device), torch.tensor(positions)[None].to(device))[0].float()


@torch.no_grad()
def score_states(network: Bert4RecNetwork, states: Tensor) -> Tensor:
    """Return the log-probability of each item, up to a constant: float32 (B, D) -> (B, V + 1). Column 0 is padding.

    The `repeat_bias` of items of the history is not added.
    """
    return torch.addmm(network.item_biases(), states, network.item_vectors().T)


class NetworkScorer:
    """Scores items by a network alone, or by a network with transitions blended in. It implements the protocol
    `VectorScorer` of `corerec.evaluation`."""

    def __init__(
        self, network: Bert4RecNetwork, name: str = "BERT4Rec", transitions: TransitionModel | None = None
    ) -> None:
        self.name = name
        self.network = network
        self.transitions = transitions
        self.num_items = network.config.num_items

    @property
    def vectors(self) -> Tensor:
        """The items' vectors, float32 (V + 1, D)."""
        return self.network.item_vectors()

    @property
    def biases(self) -> Tensor:
        """The items' biases, float32 (V + 1,)."""
        return self.network.item_biases()

    def states(self, histories: SequenceStore) -> Tensor:
        """Return the state of each history, float32 (B, D)."""
        return next_states(self.network, histories)

    def shifts(self, histories: SequenceStore) -> Shifts:
        """Return the shifts of the scores of each history's items by `repeat_bias`. They include items that are too old
        for the network to read."""
        return Shifts.of(histories, float(self.network.repeat_bias))

    def boosts(self, histories: SequenceStore) -> Boosts | None:
        """Return what the transitions add, as shares of the network's part. None without transitions."""
        if self.transitions is None:
            return None
        return self.transitions.boosts(histories.lengths, last_items(histories))

    def score(self, histories: SequenceStore) -> Tensor:
        scores = score_states(self.network, self.states(histories))
        self.shifts(histories).add_(scores)
        return scores if self.transitions is None else self.transitions.blend_(scores, histories)

    def probabilities(self, histories: SequenceStore) -> Tensor:
        """Return the probability of each item to come next, float32 (B, V + 1); 0 for padding."""
        scores = self.score(histories)
        scores[:, 0] = -torch.inf
        return scores.softmax(1)
