"""One explicit training loop that yields what happens; the caller draws bars, validates and decides to stop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corerec.engines.bert4rec.batches import batch_size_for, epoch_batches, rounded_length, window_counts
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.masking import IGNORE, cloze_mask, next_items
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.negatives import draw_negatives
from corerec.errors import ConfigError
from corerec.interactions import SequenceStore

BETAS = (0.9, 0.98)  # a shorter memory of squared gradients than AdamW's default: the loss leaves its plateau sooner
FINAL_RATE = 0.03  # of the peak learning rate, reached with the last step


@dataclass(frozen=True)
class StepResult:
    """One step done. `loss` is a detached scalar still on the device: reading it waits for the device.

    `num_events` counts the real (not padding) events read so far in the epoch.
    """

    epoch: int
    step: int
    num_steps: int
    loss: Tensor
    num_events: int


@dataclass(frozen=True)
class EpochResult:
    """One epoch done: its mean loss (nats), its seconds, its steps, and the real (not padding) events it read."""

    epoch: int
    num_steps: int
    loss: float
    seconds: float
    num_events: int


def build_network(config: ModelConfig, seed: int) -> Bert4RecNetwork:
    """A network with the initial weights of this seed, on the CPU."""
    with torch.random.fork_rng(devices=[]):  # torch's layers draw from the global generator before we set them anew
        return Bert4RecNetwork(config, _torch_generator(seed, "weights and dropout"))


def train_epochs(
    network: Bert4RecNetwork, store: SequenceStore, config: TrainConfig
) -> Iterator[StepResult | EpochResult]:
    """Train in place: yields a StepResult after each step and an EpochResult after each epoch.

    Stopping early is leaving the loop. The network is in training mode while this runs; the caller may switch it to
    evaluate between epochs.

    Args:
        network: on the device to train on.
        store: training sequences; rows of a single event count too.
    """
    device = network.item_embedding.weight.device
    order = _numpy_generator(config.seed, "order")
    masks = _torch_generator(config.seed, "masks")
    max_seq_len = network.config.max_seq_len
    total = int(window_counts(store.lengths, max_seq_len, config.whole_history).sum())
    batch_size = batch_size_for(total, store.num_events, config.batch_size)
    num_steps = config.epochs * -(-total // batch_size)
    until = config.next_item_until_of(store.num_events / max(1, np.count_nonzero(store.lengths)))
    shares = None
    if config.negatives_of(network.config.num_items) is not None:
        counts = torch.from_numpy(store.item_counts(network.config.num_items))
        shares = (counts / counts.sum()).float()
    optimizer = _optimizer(network, config)
    step = 0
    for epoch in range(1, config.epochs + 1):
        started, losses, num_events = time.perf_counter(), [], 0
        network.dropout.renew()
        for items in epoch_batches(store, max_seq_len, batch_size, config.whole_history, order):
            network.train()
            rate = config.learning_rate * learning_rate_factor(step, num_steps, config.warmup_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            share = config.next_item_share * fading(step / num_steps, until)
            causal = items.shape[1] > 1 and bool(torch.rand((), generator=masks) < share)
            with mixed_precision(device):
                loss = batch_loss(network, items, config, causal, masks, shares)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
            optimizer.step()
            step += 1
            losses.append(loss.detach())
            num_events += int(torch.count_nonzero(items))
            yield StepResult(epoch, step, num_steps, losses[-1], num_events)
        mean = float(torch.stack(losses).mean())
        yield EpochResult(epoch, len(losses), mean, time.perf_counter() - started, num_events)


def batch_loss(
    network: Bert4RecNetwork,
    items: Tensor,
    config: TrainConfig,
    causal: bool,
    generator: torch.Generator,
    shares: Tensor | None = None,
) -> Tensor:
    """The mean loss of one batch, int64 (B, L) on the CPU: every next item if `causal`, a cloze otherwise.

    `shares`, float32 (V + 1,), is each item's share of the events: only needed where the loss takes negatives.
    """
    if causal:
        inputs, targets = next_items(items)
        asked = None
    else:
        inputs, targets = cloze_mask(
            items,
            mask_number=network.config.mask_number,
            mask_prob=config.mask_prob,
            generator=generator,
            bert_replacement=config.bert_replacement,
        )
        # The last block works at the hidden places only: gather them to the left of each row.
        hidden = targets != IGNORE
        most = rounded_length(int(hidden.sum(1).max()), items.shape[1])
        asked = (~hidden).byte().argsort(dim=1, stable=True)[:, :most]
        targets = targets.gather(1, asked)
    device = network.item_embedding.weight.device
    states = network(inputs.to(device), None if asked is None else asked.to(device), causal=causal)
    count = config.negatives_of(network.config.num_items)
    if count is None:
        return network.loss(states, targets.to(device))
    assert shares is not None
    return network.loss(states, targets.to(device), draw_negatives(targets, shares, count, generator).to(device))


def learning_rate_factor(step: int, num_steps: int, warmup_steps: int | None) -> float:
    """Linear warm-up, then a half cosine from 1 down to FINAL_RATE at the last step."""
    if warmup_steps is None:
        warmup_steps = min(1000, num_steps // 20)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def fading(done: float, until: float) -> float:
    """What is left, from 1 falling linearly to 0, of the next-item steps after this part (0..1) of the training.

    The cloze loss alone sits on a plateau for its first hundreds of steps; next-item steps, which learn from every
    place, leave it sooner.
    """
    return max(0.0, 1 - done / until) if until else 0.0


def mixed_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bfloat16 matrix products where the hardware multiplies in it; float32 elsewhere."""
    if device.type == "cpu":
        fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16) if fast else contextlib.nullcontext()


def choose_device(device: str | torch.device) -> torch.device:
    """ "auto" takes a CUDA GPU, else Apple's, else the CPU; anything else is taken at its word.

    Raises:
        ConfigError: the device does not exist on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f'device {str(device)!r} cannot be used here ({error}); "auto" takes what there is') from None
    return chosen


def _optimizer(network: Bert4RecNetwork, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS, fused=fused)


def _seed_of(seed: int, purpose: str) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, *purpose.encode()])


def _numpy_generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(_seed_of(seed, purpose))


def _torch_generator(seed: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(int(_seed_of(seed, purpose).generate_state(1, np.uint64)[0]) % 2**63)
