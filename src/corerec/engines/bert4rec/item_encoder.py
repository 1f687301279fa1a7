"""Item content: vectors from items' features, added to the vectors of their ids, so that new items can be ranked.

Shapes: B batch, L sequence length, D hidden_dim, V items, K codes per item, C codes in all, T values of dense features.

    vector of an item = n / (n + h) * id vector + content vector,     n its events, h learned

In training, the id vectors of random items are dropped, so that content learns to predict alone (DropoutNet, Volkovs et
al. 2017). An item without events has n = 0, so its vector is its content vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corerec.data.cut_store import CutStore
from corerec.data.item_features import FeatureTable, ItemFeatures
from corerec.data.sequences import EVENTS_AT_ONCE, SequenceStore
from corerec.data.splitting import Holdout
from corerec.data.vocabulary import Vocabulary

DROP_IDS = 0.1  # share of the items whose id vector a training step drops, if all items differ in content
OUT_OF_THE_RACE = -1e4  # a logit whose exponential is 0
TIE_BREAK = 1e-3  # the most by which a log-probability is changed to break ties
MOST_NEW = 0.5  # new items get at most this share of the first ranks
NEWEST = 0.1  # the newest share of the log, in which the rate of new items is counted
MOST_TIMES = 2**24  # the most times that are read to find where the newest part begins


class ItemEncoder(nn.Module):
    """Computes the content's part of items' vectors and biases. `attach` sets the items' features."""

    codes: Tensor
    weights: Tensor
    dense: Tensor
    counts: Tensor

    def __init__(self, dim: int, num_codes: int, dense_dim: int) -> None:
        super().__init__()
        self.code_embedding = nn.Parameter(torch.empty(num_codes + 1, dim))
        self.dense_embedding = nn.Parameter(torch.empty(dense_dim, dim))
        self.code_bias = nn.Parameter(torch.empty(num_codes + 1))
        self.dense_bias = nn.Parameter(torch.empty(dense_dim))
        self.log_half_trust = nn.Parameter(torch.empty(()))
        self.dropped: Tensor | None = None
        self.drop_share = 0.0

    def attach(self, features: ItemFeatures, counts: np.ndarray) -> None:
        """Set the items 1..V: their features, V rows, and their numbers of events, int64 (V + 1,)."""
        device = self.code_embedding.device
        for name, rows in (("codes", features.codes), ("weights", features.weights), ("dense", features.dense)):
            with_padding = np.concatenate([np.zeros_like(rows, shape=(1, rows.shape[1])), rows])
            self.register_buffer(name, torch.from_numpy(with_padding).to(device), persistent=False)
        self.drop_share = DROP_IDS * distinctness(features)
        self.register_buffer("counts", torch.from_numpy(counts).float().to(device), persistent=False)

    def digest(self) -> str:
        """Return a hexadecimal hash, which is equal for equal features of the same items."""
        digest = hashlib.blake2b(digest_size=16)
        for rows in (self.codes, self.weights, self.dense):
            digest.update(rows.cpu().numpy().tobytes())
        return digest.hexdigest()

    def draw_dropped(self, generator: torch.Generator) -> Tensor:
        """Draw the items whose id vectors a training step drops, bool (V + 1,), on the CPU, for `dropped`."""
        return torch.rand(len(self.counts), generator=generator) < self.drop_share

    def trust(self, items: Tensor | None) -> Tensor:
        """Return the weight of the items' id vectors, float (...), for int64 (...) numbers, or None for all."""
        trust = self.counts / (self.counts + self.log_half_trust.exp())
        if self.training and self.dropped is not None:
            trust = trust * ~self.dropped
        return trust if items is None else trust[items]

    def vectors(self, items: Tensor | None) -> Tensor:
        """Return the content vectors of some items, int64 (...), or of all: float (..., D)."""
        codes, weights, dense = self._features(items)
        vectors = F.embedding_bag(
            codes.flatten(0, -2),
            self.code_embedding,
            mode="sum",
            per_sample_weights=weights.flatten(0, -2),
            padding_idx=0,
        ).unflatten(0, codes.shape[:-1])
        return vectors + dense @ self.dense_embedding if dense.shape[-1] else vectors

    def biases(self, items: Tensor | None) -> Tensor:
        """Return the content's part of the biases, float (...).

        In training, items without events do not compete, so that content does not learn that they never come next.
        """
        codes, weights, dense = self._features(items)
        biases = (self.code_bias[codes] * weights).sum(-1)
        biases = biases + dense @ self.dense_bias if dense.shape[-1] else biases
        if not self.training:
            return biases
        counts = self.counts if items is None else self.counts[items]
        return biases.masked_fill(counts == 0, OUT_OF_THE_RACE)

    def _features(self, items: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if items is None:
            return self.codes.long(), self.weights, self.dense
        return self.codes[items].long(), self.weights[items], self.dense[items]


@dataclass(frozen=True)
class ItemContent:
    """The model of items without fitted events: how a table of features is read, and the trained encoder of its
    columns.

    Attributes:
        table: how a table of items is read.
        encoder: the trained weights, on the CPU.
        bias: a number added to the bias of each item without fitted events, so that such items are recommended as often
            as new items occurred in the log.
    """

    table: FeatureTable
    encoder: ItemEncoder
    bias: float = 0.0

    @torch.no_grad()
    def rows(self, item_ids: Sequence[Any], features: ItemFeatures) -> tuple[Tensor, Tensor]:
        """Return vectors, float32 (n, D), and biases, float32 (n,), of new items.

        Each item's values depend only on its features and id.
        """
        encoder = ItemEncoder(self.encoder.code_embedding.shape[1], self.table.num_codes, self.table.dense_dim)
        encoder.load_state_dict(self.encoder.state_dict(), assign=True)
        encoder.attach(features, np.zeros(len(features) + 1, np.int64))
        encoder.eval()
        biases = encoder.biases(None)[1:] + self.bias
        # Items of equal content would have equal scores, and would always be ranked in the same order.
        return encoder.vectors(None)[1:].contiguous(), biases + TIE_BREAK * _spread(item_ids)

    @torch.no_grad()
    def shift(self, biases: Tensor, items: Vocabulary) -> None:
        """Calibrate, in place, the biases, float32 (V + 1,), of the fitted items without events."""
        rows = torch.nonzero(self.encoder.counts == 0)[1:, 0]  # without padding
        shifts = self.bias + TIE_BREAK * _spread(items.decode(rows.numpy()))
        biases[rows.to(biases.device)] += shifts.to(biases.device)

    def calibrated(self, best: Tensor, scores: Tensor, share: float) -> ItemContent:
        """Return a copy whose bias, added to the scores of new items, gives these a share of the first places.

        Args:
            best: float32 (B, k), falling: the scores of the k best fitted items after each of some histories.
            scores: float32 (B, n): the scores of new items with a bias of 0.
            share: the new items' share of the first k places.
        """
        count = min(best.shape[1], scores.shape[1])
        theirs = scores.topk(count, dim=1).values
        # The j-th best new item is among the first k if its score is above that of the fitted item at rank k + 1 - j.
        lacking = (best.flip(1)[:, :count] - theirs).flatten()
        lacking = lacking[lacking.isfinite()].double()
        share = min(MOST_NEW, share) * best.shape[1] / count
        return replace(self, bias=float(torch.quantile(lacking, min(1.0, share))) if len(lacking) else 0.0)


def _spread(item_ids: Sequence[Any]) -> Tensor:
    """Return a fixed number from -1 to 1 for each id, float32 (n,)."""
    words = [hashlib.blake2b(str(item_id).encode(), digest_size=8).digest() for item_id in item_ids]
    return torch.from_numpy(np.frombuffer(b"".join(words), np.int64).astype(np.float32) / 2.0**63)


def distinctness(features: ItemFeatures) -> float:
    """Return the chance that two items differ in content. If nearly all items are equal, content cannot replace ids."""
    rows = np.concatenate([features.codes, features.weights, features.dense], axis=1).astype(np.float32)
    _, counts = np.unique(rows, axis=0, return_counts=True)
    return float(1 - ((counts / max(1, len(rows))) ** 2).sum())


def validated_rate(
    train: SequenceStore | CutStore, valid: Holdout | None, num_items: int, num_others: int
) -> float | None:
    """Return the mean share of validation targets that one new item gets. None if the data is too small.

    Args:
        train: the sequences that were trained on.
        num_items, num_others: items of the log, with and without events, and items that are not in the log.
    """
    if valid is None or not len(valid):
        return None
    is_new = train.item_counts(num_items) == 0
    is_new[0] = False
    count = int(is_new.sum()) + num_others
    return max(1, int(is_new[valid.targets.items].sum())) / valid.targets.num_events / count if count >= 10 else None


def new_item_rate(store: SequenceStore, num_items: int) -> float:
    """Return the mean share of events that a new item gets: an item that is first met in the newest tenth of the log.

    Without times, or with too few new items, the rarer half of the items is used instead.
    """
    counts = store.item_counts(num_items)[1:]
    rarer = np.sort(counts[counts > 0])[: max(1, np.count_nonzero(counts) // 2)]
    fallback = float(rarer.mean() / max(1, store.num_events))
    if store.times is None or not store.num_events:
        return fallback
    start = np.quantile(store.times[:: 1 + store.num_events // MOST_TIMES], 1 - NEWEST)
    newest = np.zeros(num_items + 1, np.int64)
    for first in range(0, store.num_events, EVENTS_AT_ONCE):
        events = slice(first, first + EVENTS_AT_ONCE)
        newest += np.bincount(store.items[events][store.times[events] >= start], minlength=num_items + 1)
    new = newest[1:][(counts == newest[1:]) & (newest[1:] > 0)]
    return float(new.sum() / newest.sum() / len(new)) if len(new) >= 10 else fallback
