"""Histories -> states -> scores of the whole catalogue, many at once, for whoever asks.

B histories, D hidden_dim, V items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from corerec.engines.bert4rec.batches import padded, rounded_lengths
from corerec.engines.bert4rec.followers import Followers, last_items
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.questions import Asked
from corerec.engines.bert4rec.retrieval import ItemTable
from corerec.engines.bert4rec.state_cache import StateCache
from corerec.interactions import SequenceStore

PLACES_AT_ONCE = 2**13  # sequence places in one forward pass: bounds memory, and stays near a CPU's cache
KEPT_BYTES = 2**25 - 2**16  # below the most that glibc lets its threshold rise to


@torch.no_grad()
def next_states(network: Bert4RecNetwork, histories: SequenceStore) -> Tensor:
    """The hidden state of a blank after each history: what the model expects next.

    Args:
        histories: B rows; of each the newest max_seq_len - 1 events are read; a row may be empty.
    Returns:
        float32 (B, D) on the network's device, in the order of the rows; the same for a history asked alone.
    """
    if network.training:  # eval() visits every module: a fifth of a short history's time
        network.eval()
    device = network.item_embedding.weight.device
    recent = histories.last(network.config.max_seq_len - 1)
    states = torch.empty(len(recent), network.config.hidden_dim, device=device)
    if recent.num_events > PLACES_AT_ONCE:
        _keep_freed_memory()
    by_length = np.argsort(recent.lengths, kind="stable")
    widths = rounded_lengths(network.config.max_seq_len)[recent.lengths[by_length] + 1]
    first = 0
    while first < len(by_length):
        # As many of the next longer rows as fit PLACES_AT_ONCE when padded to their longest.
        area = widths[first:] * np.arange(1, len(widths) - first + 1)
        count = max(1, int(np.searchsorted(area, PLACES_AT_ONCE, side="right")))
        rows = by_length[first : first + count]
        items = padded(recent.items, recent.offsets[rows], recent.offsets[rows + 1], widths[first + count - 1] - 1)
        blank = torch.full((len(rows), 1), network.config.mask_number)
        inputs = torch.cat([items, blank], dim=1).to(device)
        asked = torch.full((len(rows), 1), inputs.shape[1] - 1, device=device)
        states[torch.from_numpy(rows).to(device)] = network(inputs, asked)[:, 0].float()
        first += count
    return states


def _keep_freed_memory() -> None:
    """Let the next pass use the memory of the one before, which glibc may give back to the system in between.

    It does so with what is free at the heap's end beyond twice the largest block freed so far. To have the pages
    brought back, pass after pass, took half as long as the arithmetic. A block that is freed untouched costs nothing.
    """
    torch.empty(KEPT_BYTES, dtype=torch.uint8)


def encoded(
    network: Bert4RecNetwork, cache: StateCache, users: np.ndarray, histories: SequenceStore
) -> tuple[np.ndarray, np.ndarray]:
    """The states of users' histories: those kept, and the others computed together.

    Args:
        users: int64 (B,), whose histories they are; 0 for nobody's.
    Returns:
        states, float32 (B, D); log totals, float32 (B,), NaN where not known. `cache.keep` takes the new ones in.
    """
    found, kept_states, kept_totals = cache.get_many(users, histories.lengths)
    states = np.empty((len(users), network.config.hidden_dim), np.float32)
    totals = np.full(len(users), np.nan, np.float32)
    missing = np.ones(len(users), bool)
    missing[found] = False
    states[found], totals[found] = kept_states, kept_totals
    if missing.any():
        asked = histories.select(np.flatnonzero(missing)) if len(found) else histories
        states[missing] = next_states(network, asked).cpu().numpy()
    return states, totals


@torch.no_grad()
def blank_states(network: Bert4RecNetwork, items: np.ndarray, asked: Sequence[int] | np.ndarray) -> Tensor:
    """The hidden states at some places of one sequence, float32 (places, D).

    Args:
        items: int64 (L,), L at most max_seq_len, the mask number at each blank.
        asked: the places, 0..L - 1.
    """
    if network.training:  # eval() visits every module: a fifth of a short history's time
        network.eval()
    device = network.item_embedding.weight.device
    return network(torch.from_numpy(items)[None].to(device), torch.tensor(asked)[None].to(device))[0].float()


@torch.no_grad()
def score_states(network: Bert4RecNetwork, states: Tensor) -> Tensor:
    """float32 (B, D) -> (B, V + 1): log-probability of each item number up to a constant; column 0 is padding."""
    return torch.addmm(network.item_bias[:-1], states, network.item_embedding.weight[:-1].T)


class Best(NamedTuple):
    """The best items of B questions; k is the most that one of them asks for.

    `numbers` int64 (B, k), best first, 0 from the place on where a row has ended; `scores` float32 (B, k), which are
    log-probabilities once `log_totals`, float32 (B,), are taken off; NaN among these where they were not needed. The
    totals are the network's own, also where followers are blended in: these scores are shifted to suit.
    """

    numbers: np.ndarray
    scores: np.ndarray
    log_totals: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """float32 (B, k), over the whole catalogue."""
        return np.exp(self.scores - self.log_totals[:, None])


def best_items(
    table: ItemTable,
    states: Tensor,
    asked: Asked,
    log_totals: np.ndarray,
    *,
    with_totals: bool = True,
    followers: Followers | None = None,
) -> Best:
    """The best items for each question; those with the same candidates, or none, are ranked together.

    Args:
        states: float32 (B, D), on the table's device.
        log_totals: float32 (B,), NaN where not known.
        with_totals: compute those that are not known.
        followers: blend these in; needs the totals of the questions whose last item has any. None asks the network
            alone.
    """
    last = last_items(asked.histories)
    weights = np.zeros(len(asked)) if followers is None else followers.weights(asked.histories.lengths, last)
    lacking = np.isnan(log_totals) & (with_totals | (weights > 0))
    log_totals = log_totals.copy()
    # Candidates are a part of the catalogue, totals are of the whole: computed for all lists of candidates at once.
    apart = asked.limited[lacking[asked.limited]]
    if len(apart):
        log_totals[apart] = table.log_totals(states[apart]).cpu().numpy()
        lacking[apart] = False
    width = min(int(asked.top_k.max(initial=1)), table.num_items)
    numbers, scores = np.zeros((len(asked), width), np.int64), np.zeros((len(asked), width), np.float32)
    for rows, allowed in _alike(asked, lacking):
        unknown = bool(lacking[rows].any())
        best = table.best_items(
            states[rows],
            int(asked.top_k[rows].max()),
            asked.left_out if isinstance(rows, slice) else asked.left_out.select(rows),
            allowed,
            with_totals=unknown,
            log_totals=None if unknown else torch.from_numpy(log_totals[rows]).to(states.device),
            gains=None if followers is None else followers.gains(last[rows], weights[rows]),
        )
        filled = slice(min(width, best.numbers.shape[1]))
        numbers[rows, filled] = best.numbers.cpu().numpy()[:, filled]  # NumPy slices in a tenth of torch's time
        scores[rows, filled] = best.scores.cpu().numpy()[:, filled]
        if unknown:
            assert best.log_totals is not None
            log_totals[rows] = best.log_totals.cpu().numpy()
    if followers is not None:
        scores += np.log1p(-weights)[:, None]  # the network's part of the mixture
    numbers[np.arange(width) >= asked.top_k[:, None]] = 0
    return Best(numbers, scores, log_totals)


def _alike(asked: Asked, lacking: np.ndarray) -> list[tuple[np.ndarray | slice, np.ndarray | None]]:
    """Which questions have the same candidates, and which these are; None for all items.

    Those of all items are two groups where only some are `lacking` a total: in a large catalogue it costs much.
    """
    if not len(asked.limited) and lacking.all() == lacking.any():
        return [(slice(None), None)] if len(asked) else []
    free = np.setdiff1d(np.arange(len(asked)), asked.limited)
    parts = free[lacking[free]], free[~lacking[free]]
    groups: list[tuple[np.ndarray | slice, np.ndarray | None]] = [(part, None) for part in parts if len(part)]
    same: dict[bytes, list[int]] = {}
    for at in range(len(asked.limited)):
        same.setdefault(asked.candidates.row(at).tobytes(), []).append(at)
    return groups + [(asked.limited[alike], asked.candidates.row(alike[0])) for alike in same.values()]


class NetworkScorer:
    """A network behind the Scorer protocol of `corerec.evaluation`: alone, or with followers blended in."""

    def __init__(self, network: Bert4RecNetwork, name: str = "BERT4Rec", followers: Followers | None = None) -> None:
        self.name = name
        self.network = network
        self.followers = followers
        self.num_items = network.config.num_items

    def score(self, histories: SequenceStore) -> Tensor:
        scores = score_states(self.network, next_states(self.network, histories))
        return scores if self.followers is None else self.followers.blend_(scores, histories)
