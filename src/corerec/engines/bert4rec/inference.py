"""Histories -> states -> scores of the whole catalogue, many at once, for whoever asks.

B histories, D hidden_dim, V items.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corerec.engines.bert4rec.batches import padded
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.interactions import SequenceStore

PLACES_AT_ONCE = 2**12  # sequence places in one forward pass: bounds memory, and stays near a CPU's cache

SCORES_AT_ONCE = 2**21  # scores held at once: 8 MB


@torch.no_grad()
def next_states(network: Bert4RecNetwork, histories: SequenceStore) -> Tensor:
    """The hidden state of a blank after each history: what the model expects next.

    Args:
        histories: B rows; of each the newest max_seq_len - 1 events are read; a row may be empty.
    Returns:
        float32 (B, D) on the network's device, in the order of the rows; the same for a history asked alone.
    """
    network.eval()
    device = network.item_embedding.weight.device
    recent = histories.last(network.config.max_seq_len - 1)
    states = torch.empty(len(recent), network.config.hidden_dim, device=device)
    by_length = np.argsort(recent.lengths, kind="stable")
    lengths = recent.lengths[by_length]
    first = 0
    while first < len(by_length):
        # As many of the next longer rows as fit PLACES_AT_ONCE when padded to their longest.
        area = (lengths[first:] + 1) * np.arange(1, len(lengths) - first + 1)
        count = max(1, int(np.searchsorted(area, PLACES_AT_ONCE, side="right")))
        rows = by_length[first : first + count]
        items = padded(recent.items, recent.offsets[rows], recent.offsets[rows + 1])
        blank = torch.full((len(rows), 1), network.config.mask_number)
        inputs = torch.cat([items, blank], dim=1).to(device) if lengths[first + count - 1] else blank.to(device)
        asked = torch.full((len(rows), 1), inputs.shape[1] - 1, device=device)
        states[torch.from_numpy(rows).to(device)] = network(inputs, asked)[:, 0].float()
        first += count
    return states


@torch.no_grad()
def blank_states(network: Bert4RecNetwork, items: np.ndarray, asked: Sequence[int] | np.ndarray) -> Tensor:
    """The hidden states at some places of one sequence, float32 (places, D).

    Args:
        items: int64 (L,), L at most max_seq_len, the mask number at each blank.
        asked: the places, 0..L - 1.
    """
    network.eval()
    device = network.item_embedding.weight.device
    return network(torch.from_numpy(items)[None].to(device), torch.tensor(asked)[None].to(device))[0].float()


@torch.no_grad()
def score_states(network: Bert4RecNetwork, states: Tensor) -> Tensor:
    """float32 (B, D) -> (B, V + 1): log-probability of each item number up to a constant; column 0 is padding."""
    return torch.addmm(network.item_bias[:-1], states, network.item_embedding.weight[:-1].T)


@torch.no_grad()
def log_totals(network: Bert4RecNetwork, states: Tensor) -> Tensor:
    """float32 (B, D) -> (B,): what turns `score_states` into log-probabilities when taken off."""
    blocks = states.split(max(1, SCORES_AT_ONCE // network.config.num_items))
    return torch.cat([score_states(network, block)[:, 1:].logsumexp(1) for block in blocks])


class NetworkScorer:
    """A network behind the Scorer protocol of `corerec.evaluation`."""

    def __init__(self, network: Bert4RecNetwork, name: str = "BERT4Rec") -> None:
        self.name = name
        self.network = network
        self.num_items = network.config.num_items

    def score(self, histories: SequenceStore) -> Tensor:
        return score_states(self.network, next_states(self.network, histories))


@dataclass(frozen=True)
class UserState:
    """What one history leads the model to expect: enough to score any item in a microsecond.

    `state` float32 (D,); `log_total` the logarithm of the sum over the catalogue of the exponentiated scores.
    """

    state: np.ndarray
    log_total: float


class StateCache:
    """The states of the users asked about lately, at most `capacity`; the longest unused goes first. Thread-safe."""

    def __init__(self, capacity: int = 100_000) -> None:
        self.capacity = capacity
        self._states: OrderedDict[int, UserState] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, user: int) -> UserState | None:
        with self._lock:
            state = self._states.get(user)
            if state is not None:
                self._states.move_to_end(user)
            return state

    def put(self, user: int, state: UserState) -> None:
        with self._lock:
            self._states[user] = state
            if len(self._states) > self.capacity:
                self._states.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._states.clear()
