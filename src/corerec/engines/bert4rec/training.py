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
from torch.optim.swa_utils import get_ema_multi_avg_fn

from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec.batches import epoch_batches, rounded_length
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.loss import sample_items
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.objectives import IGNORE, cloze_mask, next_item_targets
from corerec.engines.bert4rec.plan import TrainPlan
from corerec.errors import ConfigError
from corerec.kernels import bfloat16_is_fast

BETAS = (0.9, 0.98)  # a shorter memory of squared gradients than AdamW's default: the loss leaves its plateau sooner
FINAL_RATE = 0.03  # of the peak learning rate, reached with the last step
EMA_EVERY = 10  # steps between two updates of the averaged weights: each reads and writes all of them


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
) -> Iterator[TrainPlan | StepResult | EpochResult]:
    """Train in place: yields the TrainPlan it follows, a StepResult after each step, an EpochResult after each epoch.

    With each EpochResult the network holds the averaged weights, to be validated, kept or copied; they are also what
    leaving the loop there, which is how to stop early, leaves in it. Training goes on from the plain ones. The network
    is in training mode while this runs; the caller may switch it to evaluate between epochs.

    Args:
        network: on the device to train on.
        store: training sequences; rows of a single event count too.
    """
    device = network.item_embedding.weight.device
    order = _numpy_generator(config.seed, "order")
    masks = _torch_generator(config.seed, "masks")
    max_seq_len = network.config.max_seq_len
    plan = TrainPlan.of(config, network.config, store)
    yield plan
    shares = None
    if plan.negatives is not None:
        counts = torch.from_numpy(store.item_counts(network.config.num_items))
        shares = (counts / counts.sum()).float()
    network.dropout.p = plan.dropout
    optimizer = _optimizer(network, config)
    average = EmaWeights(network, config.ema_steps)
    step = 0
    for epoch in range(1, plan.epochs + 1):
        started, losses, num_events = time.perf_counter(), [], 0
        network.dropout.renew()
        for items in epoch_batches(store, max_seq_len, plan.batch_size, config.whole_history, order):
            network.train()
            rate = config.learning_rate * learning_rate_factor(step, plan.num_steps, plan.warmup_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            share = config.next_item_share * fading(step / plan.num_steps, plan.next_item_until)
            causal = items.shape[1] > 1 and bool(torch.rand((), generator=masks) < share)
            with mixed_precision(device, config.bfloat16):
                loss = batch_loss(network, items, config, causal, masks, plan.negatives, shares)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
            optimizer.step()
            step += 1
            if step % EMA_EVERY == 0:
                average.update()
            losses.append(loss.detach())
            num_events += int(torch.count_nonzero(items))
            yield StepResult(epoch, step, plan.num_steps, losses[-1], num_events)
        mean = float(torch.stack(losses).mean())
        average.update()
        average.swap()
        yield EpochResult(epoch, len(losses), mean, time.perf_counter() - started, num_events)
        if epoch < plan.epochs:
            average.swap()


class EmaWeights:
    """An exponential moving average of a network's weights (Polyak & Juditsky 1992; Morales-Brotons et al. 2024).

    It stands where the weights, thrown about by each step, are about to settle as the learning rate falls: in the
    middle of a training it is as good as the end (`benchmarks/LAB.md`), and no worse at the end.
    """

    def __init__(self, network: Bert4RecNetwork, num_steps: int) -> None:
        """Args:
        num_steps: over which to average; never more than a ninth of those done. 0 keeps no average.
        """
        self._weights = [parameter.detach() for parameter in network.parameters()]
        self._means = [weight.clone() for weight in self._weights] if num_steps else []
        self._decay = max(0.0, 1 - EMA_EVERY / num_steps) if num_steps else 0.0
        self._num_updates = 0

    def update(self) -> None:
        """Take the weights, as they are now, in."""
        if self._means:
            decay = min(self._decay, self._num_updates / (self._num_updates + 9))
            get_ema_multi_avg_fn(decay)(self._means, self._weights, self._num_updates)  # pyright: ignore[reportArgumentType]
            self._num_updates += 1

    @torch.no_grad()
    def swap(self) -> None:
        """Put the average into the network and keep the weights, or the other way round."""
        for mean, weight in zip(self._means, self._weights, strict=False):
            kept = weight.clone()
            weight.copy_(mean)
            mean.copy_(kept)


def batch_loss(
    network: Bert4RecNetwork,
    items: Tensor,
    config: TrainConfig,
    causal: bool,
    generator: torch.Generator,
    num_negatives: int | None = None,
    shares: Tensor | None = None,
) -> Tensor:
    """The mean loss of one batch, int64 (B, L) on the CPU: every next item if `causal`, a cloze otherwise.

    `shares`, float32 (V + 1,), is each item's share of the events: needed where the loss takes negatives.
    """
    if causal:
        inputs, targets = next_item_targets(items)
        positions = None
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
        positions = (~hidden).byte().argsort(dim=1, stable=True)[:, :most]
        targets = targets.gather(1, positions)
    device = network.item_embedding.weight.device
    states = network(inputs.to(device), None if positions is None else positions.to(device), causal=causal)
    if num_negatives is None:
        return network.loss(states, targets.to(device))
    assert shares is not None
    return network.loss(states, targets.to(device), sample_items(targets, shares, num_negatives, generator).to(device))


def learning_rate_factor(step: int, num_steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then a half cosine from 1 down to FINAL_RATE at the last step."""
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


def mixed_precision(device: torch.device, bfloat16: bool) -> contextlib.AbstractContextManager[object]:
    """Matrix products in bfloat16, if wanted and where the hardware multiplies in it; float32 elsewhere."""
    fast = bfloat16 and bfloat16_is_fast(device)
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
