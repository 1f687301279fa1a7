"""The whole network, from top to bottom: embeddings, blocks, head, and the loss.

B batch, L sequence length, M positions to predict, D hidden_dim, H heads, V items. Item numbers run 0..V, where 0 is
padding; MASK (-1) stands for a hidden item. Sequences are left-padded, and positions count back from the end, so the
newest event always has the same position.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from corerec.engines.bert4rec.config import MASK, ModelConfig
from corerec.engines.bert4rec.item_encoder import ItemEncoder
from corerec.engines.bert4rec.loss import ChunkedCrossEntropy, SampledItems
from corerec.engines.bert4rec.time_encoding import GapScale, TimeEncoder
from corerec.kernels import linear

# cuDNN's attention is left out: it spends milliseconds on each shape that it meets first.
CUDA_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Bert4RecNetwork(nn.Module):
    """Item and position embeddings, bidirectional pre-norm blocks, and a head tied to the item embeddings.

    Source: Sun et al. 2019, arXiv:1904.06690, with the norm before each branch (Xiong et al. 2020), which trains at
    higher learning rates. The mask has a vector of its own outside the item table, so the table can grow.
    """

    inverse_temperature: Tensor
    half_length: Tensor
    repeat_bias: Tensor
    time_encoder: TimeEncoder | None
    item_encoder: ItemEncoder | None

    def __init__(self, config: ModelConfig) -> None:
        """Allocate the weights; `initialise` or `load_state_dict` fills them."""
        super().__init__()
        self.config = config
        self.sparse_gradients = False
        """Whether the item table gets sparse gradients: those of the rows that were read."""
        dim = config.hidden_dim
        self.item_embedding = nn.Parameter(torch.empty(config.num_items + 1, dim))
        self.item_bias = nn.Parameter(torch.empty(config.num_items + 1))
        self.mask_embedding = nn.Parameter(torch.empty(1, dim))
        if config.positions == "learned":
            self.position_embedding = nn.Parameter(torch.empty(config.max_seq_len, dim))
        self.dropout = Dropout()  # training sets how much
        self.embedding_norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, config.feedforward_dim or 4 * dim, self.dropout)
            for _ in range(config.num_layers)
        )
        self.head = Linear(dim, dim)
        self.head_norm = nn.LayerNorm(dim)
        self.time_encoder = None  # made last, so that the other initial weights are the same with and without it
        if config.gap_unit is not None:
            self.time_encoder = TimeEncoder(dim, GapScale(config.gap_unit, config.gap_buckets))
        self.item_encoder = None
        if config.content_codes or config.content_dim:
            self.item_encoder = ItemEncoder(dim, config.content_codes, config.content_dim)
        # `inverse_temperatures` computes a factor from these two buffers. Queries multiply states by this factor, and
        # training does not.
        self.register_buffer("inverse_temperature", torch.empty(()))
        self.register_buffer("half_length", torch.empty(()))
        # The number that next-item queries add to the scores of the history's items.
        self.register_buffer("repeat_bias", torch.empty(()))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> Bert4RecNetwork:
        """Draw the initial weights from a CPU generator, and return the network itself."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # Embeddings start small, as BERT's; matrices so that a branch keeps the scale of its input.
                std = 0.02 if "embedding" in name else math.sqrt(2 / sum(parameter.shape))
                nn.init.trunc_normal_(parameter, std=std, a=-3 * std, b=3 * std, generator=generator)
            else:
                nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
        self.item_embedding[0] = 0
        if self.time_encoder is not None:
            self.time_encoder.since_embedding[0] = self.time_encoder.until_embedding[0] = 0
        self.inverse_temperature.fill_(1)
        self.half_length.fill_(0)
        self.repeat_bias.fill_(0)
        return self

    @property
    def device(self) -> torch.device:
        return self.item_embedding.device

    def forward(
        self,
        items: Tensor,
        positions: Tensor | None = None,
        *,
        causal: bool = False,
        gaps: Tensor | None = None,
        knows_next: bool = True,
    ) -> Tensor:
        """Return hidden states at the positions to predict.

        Args:
            items: int64 (B, L), L at most max_seq_len, left-padded with 0; MASK hides an item.
            positions: int64 (B, M), the positions to predict, 0..L - 1; the last block computes only these. None: all.
            causal: whether a position sees only itself and earlier ones, as in next-item steps, which hide no item and
                predict at all positions. In a cloze, positions see both sides.
            gaps, knows_next: the inputs of `TimeEncoder.forward`. None, or a network without one, reads no time.
        Returns:
            float (B, M, D), ready for `logits`; meaningless at padding.
        """
        assert positions is None or not causal
        mask = attention_mask(items != 0, causal)
        x = self.embed(items, may_hide=not causal)  # (B, L, D)
        x = x + self.position_vectors(items.shape[1])
        if gaps is not None and self.time_encoder is not None:
            x = x + self.time_encoder(gaps, knows_next=knows_next)
        x = self.dropout(self.embedding_norm(x))
        for block in self.blocks[:-1]:
            x = block(x, mask)
        x = self.blocks[-1](x, mask, positions)  # (B, M, D)
        return self.head_norm(x + self.head(x, gelu=True))

    def inverse_temperatures(self, lengths: Tensor) -> Tensor:
        """Return the inverse temperature b n / (n + k) after n visible events; none count as one (`calibration.py`).

        Args:
            lengths: int64 (...), n. b is `inverse_temperature`, and k is `half_length`: b is halved after k events.
        Returns:
            float32 (...).
        """
        return self.inverse_temperature / (1 + self.half_length / lengths.clamp(min=1))

    @torch.no_grad()
    def with_more_items(self, vectors: Tensor, biases: Tensor) -> Bert4RecNetwork:
        """Return a network with more items after its own, which shares all other weights.

        Args:
            vectors, biases: float32 (n, D) and (n,), of the new items.
        """
        with torch.device("meta"):
            network = Bert4RecNetwork(replace(self.config, num_items=self.config.num_items + len(vectors)))
        weights = dict(self.state_dict())
        for name, rows in (("item_embedding", vectors), ("item_bias", biases)):
            weights[name] = torch.cat([weights[name], rows.to(self.device)])
        network.load_state_dict(weights, assign=True)
        return network.eval()

    @property
    def gap_scale(self) -> GapScale | None:
        """The buckets of time gaps; None if the network reads no time."""
        return None if self.time_encoder is None else self.time_encoder.scale

    def forget_time(self) -> None:
        """Remove the time encoder. The network then treats every gap as unknown, which it has learned to do."""
        self.time_encoder = None
        self.config = replace(self.config, gap_unit=None, gap_buckets=0)

    def embed(self, items: Tensor, may_hide: bool = True) -> Tensor:
        """Return the vectors of item numbers (or MASK, or 0): int64 (...) -> float (..., D); padding is zeros."""
        if not may_hide:
            return self.item_vectors(items)
        return self.item_vectors(items.clamp(min=0)) + (items == MASK)[..., None] * self.mask_embedding

    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        """Return the vectors of all items, float (V + 1, D), or of some numbers 0..V, int64 (...) -> (..., D).

        No other code computes an item's vector.
        """
        vectors = self.item_embedding
        if items is not None:
            vectors = F.embedding(items, self.item_embedding, padding_idx=0, sparse=self.sparse_gradients)
        if self.item_encoder is None:
            return vectors
        return vectors * self.item_encoder.trust(items)[..., None] + self.item_encoder.vectors(items)

    def item_biases(self, items: Tensor | None = None) -> Tensor:
        """Return the biases of all items, float (V + 1,), or of some numbers, int64 (...) -> (...)."""
        biases = self.item_bias
        if items is not None and self.sparse_gradients:
            biases = biases.gather(0, items.flatten(), sparse_grad=True).view_as(items)
        elif items is not None:
            biases = biases[items]
        if self.item_encoder is None:
            return biases
        return biases * self.item_encoder.trust(items) + self.item_encoder.biases(items)

    @torch.no_grad()
    def absorb_content(self) -> ItemEncoder | None:
        """Write the items' complete vectors into the table, and remove the encoder. The answers stay the same."""
        encoder = self.item_encoder
        if encoder is not None:
            encoder.eval()
            vectors, biases = self.item_vectors(), self.item_biases()
            self.item_embedding.copy_(vectors)
            self.item_bias.copy_(biases)
            self.item_encoder = None
            self.config = replace(self.config, content_codes=0, content_dim=0)
        return encoder

    def position_vectors(self, length: int) -> Tensor:
        """Return the vectors of the newest `length` positions, float (L, D), oldest first."""
        if self.config.positions == "learned":
            return self.position_embedding[-length:]
        return sinusoids(self.config.max_seq_len, self.config.hidden_dim, self.device)[-length:]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return an unnormalised log-probability for each item number: float (..., D) -> (..., V + 1)."""
        return F.linear(hidden, self.item_vectors(), self.item_biases())

    def loss(self, hidden: Tensor, targets: Tensor, sampled: SampledItems | None = None) -> Tensor:
        """Compute the mean cross-entropy over the catalogue 1..V, with logits in chunks that are never all in memory.

        Args:
            hidden: float (B, M, D), from `forward`.
            targets: int64 (B, M), item numbers; IGNORE where a position does not count.
            sampled: the only items that compete, which include every target. None means all.
        """
        wanted = targets.flatten()
        if sampled is None:
            weight, bias = self.item_vectors()[1:], self.item_biases()[1:]
            wanted = wanted - 1  # IGNORE, too, stays below 0
            own_log_q = None
        else:
            weight = self.item_vectors(sampled.items)
            bias = self.item_biases(sampled.items) - sampled.log_q
            wanted = torch.where(wanted > 0, sampled.places(wanted), -1)
            own_log_q = sampled.log_q[wanted.clamp(min=0)]
        return ChunkedCrossEntropy.apply(hidden.flatten(0, 1), weight, bias, wanted, own_log_q)  # pyright: ignore[reportReturnType]


def attention_mask(is_item: Tensor, causal: bool) -> Tensor | None:
    """Return bool (B, 1, 1 or L, L), true where a query may attend to a key. None lets every query see every key."""
    length = is_item.shape[1]
    # A graph that is exported cannot look at its data, and a look at a GPU's waits for it: they always get a mask.
    pad = is_item.device.type != "cpu" or torch.compiler.is_exporting() or not bool(is_item.all())
    mask = is_item[:, None, None, :] if pad else None
    if causal:
        lower = torch.ones(length, length, dtype=torch.bool, device=is_item.device).tril()
        # A padding position attends to itself, since a softmax over no position would be NaN.
        mask = lower if mask is None else mask & lower | torch.eye(length, dtype=torch.bool, device=is_item.device)
    return mask


class Block(nn.Module):
    """Attention and feed-forward, each as a branch of the residual stream: x + branch(norm(x))."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: nn.Module) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = Linear(dim, 3 * dim)
        self.attention_out = Linear(dim, dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward_in = Linear(dim, feedforward_dim)
        self.feedforward_out = Linear(feedforward_dim, dim)
        self.dropout = dropout

    def forward(self, x: Tensor, mask: Tensor | None, positions: Tensor | None = None) -> Tensor:
        """Compute float (B, L, D) -> (B, L, D), or (B, M, D) for the places `positions`, int64 (B, M), only."""
        normed = self.attention_norm(x)
        if positions is None:
            query, key, value = self.query_key_value(normed).chunk(3, dim=-1)  # each (B, L, D)
            mixed = self._attend(query, key, value, mask)
        else:
            dim = x.shape[-1]
            weight, bias = self.query_key_value.weight, self.query_key_value.bias
            at = positions[..., None].expand(-1, -1, dim)
            x = x.gather(1, at)
            query = linear(normed.gather(1, at), weight[:dim], bias[:dim])  # (B, M, D)
            if positions.shape[1] == 1 and not torch.is_grad_enabled():
                mixed = self._attend_once(query[:, 0], normed, mask)[:, None]
            else:
                key, value = linear(normed, weight[dim:], bias[dim:]).chunk(2, dim=-1)
                mixed = self._attend(query, key, value, mask)
        x = x + self.dropout(self.attention_out(mixed))
        return x + self.dropout(self.feedforward_out(self.feedforward_in(self.feedforward_norm(x), gelu=True)))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Apply `attend` in each head: queries (B, M, D), keys and values (B, L, D) -> float (B, M, D)."""
        mixed = attend(self._heads(query), self._heads(key), self._heads(value), mask)  # (B, H, M, D / H)
        return mixed.transpose(1, 2).flatten(2)

    def _attend_once(self, query: Tensor, normed: Tensor, mask: Tensor | None) -> Tensor:
        """Compute `_attend` for one query a sequence, float (B, D), without keys and values of all places (B, L, D).

        As q . (W n) = (W^T q) . n, the query is multiplied by the transposed key matrix. The value matrix is applied
        only once, to the weighted mean of `normed` over the places. DeepSeek-V2 (arXiv:2405.04434, 2.1) absorbs
        projections in this way. The keys' bias adds the same number to all scores, so it is left out. The values' bias
        is added whole, as the weights sum to 1.
        """
        _, to_keys, to_values = self.query_key_value.weight.unflatten(0, (3, self.num_heads, -1))  # (H, D / H, D)
        by_head = query.unflatten(1, (self.num_heads, -1)).transpose(0, 1)  # (H, B, D / H)
        # `attend` sees one head of width D that H places ask, and divides by sqrt(D) where sqrt(D / H) is due.
        asking = (by_head @ to_keys).transpose(0, 1) * math.sqrt(self.num_heads)  # (B, H, D)
        mixed = attend(asking[:, None], normed[:, None], normed[:, None], mask)[:, 0]  # (B, H, D)
        values = mixed.transpose(0, 1) @ to_values.transpose(1, 2)  # (H, B, D / H)
        return values.transpose(0, 1).flatten(1) + self.query_key_value.bias[-query.shape[1] :]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Linear(nn.Linear):
    """nn.Linear that computes with `kernels.linear`."""

    def forward(self, input: Tensor, gelu: bool = False) -> Tensor:
        return linear(input, self.weight, self.bias, gelu)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Compute softmax(Q K^T / sqrt(D / H)) V, float (B, H, M, D / H)."""
    if query.device.type == "cuda":
        with sdpa_kernel(CUDA_ATTENTION):
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    if query.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    # On a CPU the fused kernel's backward pass takes 2-3 times as long in bfloat16 as these matrix products.
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2)  # (B, H, M, L)
    if mask is not None:
        scores.masked_fill_(~mask, -torch.inf)
    return scores.softmax(-1) @ value


@cache
def sinusoids(length: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Return sin(p / 10000^(2i / dim)) and cos of the same in turns, float (length, dim) (arXiv:1706.03762, 3.5)."""
    angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, dim, 2) / dim)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(device)


class Dropout(nn.Module):
    """Dropout that multiplies by a random part of noise that was drawn in advance.

    A Bernoulli draw for each value takes a CPU as long as a block's matrix products. So the noise is drawn once an
    epoch, in blocks, and each call reads it from a random start. `seed_epoch` and `seed_step` set the noise and the
    starts, so a training that resumes at a step drops the same values.
    """

    BLOCK = 2**22  # values of noise

    def __init__(self) -> None:
        super().__init__()
        self.p = 0.0
        self._noise_seed = 0
        self._blocks: list[Tensor] = []  # bool, what is kept
        self._noise: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._starts = np.random.default_rng(0)
        self._first_row, self._num_rows = 0, None
        self._device_starts: Tensor | None = None
        self._calls: list[tuple[int, int]] = []

    def seed_epoch(self, seed: np.random.SeedSequence) -> None:
        """Replace the noise by that of a new seed. If there is no noise yet, the next call draws it."""
        self._noise_seed = int(seed.generate_state(1, np.uint64)[0]) % 2**62
        self._blocks.clear()
        for noise in self._noise.values():
            noise.copy_(self._drawn(len(noise))).div_(1 - self.p)

    def seed_step(self, seed: np.random.SeedSequence) -> None:
        """Seed the random starts of the calls of one step."""
        self._starts = np.random.default_rng(seed)
        self._first_row, self._num_rows = 0, None

    def take_rows(self, first: int, num_rows: int) -> None:
        """Drop, until the next step, the values that a batch of `num_rows` rows would lose in its rows from `first`."""
        self._first_row, self._num_rows = first, num_rows

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        row = x.shape[1:].numel()
        whole = row * (self._num_rows or len(x))
        room = max(self.BLOCK, 2 * whole)
        noise = self._noise_of(room, x.device, x.dtype)
        if self._device_starts is None:
            (start,) = self.draw_starts([(room - whole + 1, row)])
            return x * noise[start : start + x.numel()].view_as(x)
        start = self._device_starts[len(self._calls)]
        self._calls.append((room - whole + 1, row))
        return x * noise[torch.arange(x.numel(), device=x.device) + start].view_as(x)

    def draw_starts(self, calls: list[tuple[int, int]]) -> list[int]:
        """Draw the starts of the next calls of this step, from each call's number of places and values a row."""
        return [int(self._starts.integers(places)) + row * self._first_row for places, row in calls]

    @contextmanager
    def recorded(self, starts: Tensor) -> Iterator[list[tuple[int, int]]]:
        """Start the n-th call in the block at `starts[n]`, int64 on the device. Yield the calls for `draw_starts`."""
        self._device_starts, self._calls = starts, []
        try:
            yield self._calls
        finally:
            self._device_starts = None

    def reserve(self, most_values: int, device: torch.device, dtypes: list[torch.dtype]) -> None:
        """Allocate noise for tensors of up to `most_values` values, which then keeps its place in memory."""
        for dtype in dtypes:
            self._noise_of(max(self.BLOCK, 2 * most_values), device, dtype)

    def _noise_of(self, room: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        noise = self._noise.get((device, dtype))
        if noise is None or len(noise) < room:
            noise = self._noise[device, dtype] = self._drawn(room).to(device, dtype) / (1 - self.p)
        return noise

    def _drawn(self, length: int) -> Tensor:
        """Draw bool (length or more,).

        Each block of noise has its own seed, so that a longer draw begins with the same values.
        """
        while len(self._blocks) * self.BLOCK < length:
            generator = torch.Generator().manual_seed(self._noise_seed + len(self._blocks))
            self._blocks.append(torch.rand(self.BLOCK, generator=generator) >= self.p)
        return torch.cat(self._blocks)[: -(-length // self.BLOCK) * self.BLOCK]
