"""The training loop: a generator of results. The caller draws progress, validates and decides when to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corerec.data.cut_store import CutStore
from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec.batches import epoch_batches
from corerec.engines.bert4rec.config import ModelConfig
from corerec.engines.bert4rec.cuda_graphs import CapturedSteps
from corerec.engines.bert4rec.distributed import ALONE, Ranks, local_rank, world_size
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.plan import TrainPlan
from corerec.engines.bert4rec.row_adamw import RowAdamW
from corerec.engines.bert4rec.training_state import EMA_EVERY, TrainingState, seed_for, torch_generator
from corerec.engines.bert4rec.training_step import RowStepRunner, StepRunner, draw_step
from corerec.errors import ConfigError, DivergedError

FINAL_RATE = 0.03  # of the peak learning rate, reached with the last step
CHECK_EVERY = 10  # steps between two checks that all values are finite, on devices where a check waits


@dataclass(frozen=True)
class StepResult:
    """The result of one step. `loss` is a detached scalar on the device, so reading it waits for the device.

    `num_events` counts the real (not padding) events read so far in the epoch.
    """

    epoch: int
    step: int
    num_steps: int
    loss: Tensor
    num_events: int


@dataclass(frozen=True)
class EpochResult:
    """The result of one epoch: its steps, mean loss (nats) and seconds, and the real (not padding) events it read."""

    epoch: int
    num_steps: int
    loss: float
    seconds: float
    num_events: int
    learning_rate: float
    """The learning rate of the epoch's last step."""
    ndcg: float | None = None
    """Validation NDCG@10 of the averaged weights; None without validation."""
    is_best: bool = False
    """Whether `ndcg` is the best so far."""


def build_network(config: ModelConfig, seed: int | None) -> Bert4RecNetwork:
    """Build a network: on the CPU with a seed's initial weights, or, for None, on the meta device without weights."""
    with torch.device("meta"):
        network = Bert4RecNetwork(config)
    if seed is None:
        return network
    return network.to_empty(device="cpu").initialise(torch_generator(seed_for(seed, "weights")))


def copy_of(network: Bert4RecNetwork) -> Bert4RecNetwork:
    """Return a network with the same weights, in its own memory."""
    twin = build_network(network.config, seed=None)
    weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    twin.load_state_dict(weights, assign=True)
    return twin


def train_epochs(
    state: TrainingState, store: SequenceStore | CutStore, ranks: Ranks = ALONE
) -> Iterator[TrainPlan | StepResult | EpochResult]:
    """Train in place. Yield the plan first, a StepResult after each step, and an EpochResult after each epoch.

    At each EpochResult, the network has the averaged weights, so that the caller can validate or copy them. Training
    continues from the plain weights. A caller that stops in the middle of an epoch calls `state.ema.use_average()`. The
    network is in training mode while this runs; between epochs the caller may switch it to evaluation mode.

    Args:
        state: the state to begin with: a fresh `TrainingState.start`, or one that was saved after any step.
        store: the training sequences that the state was started with. They may have a single event.
        ranks: processes that share each batch. All processes make the same updates and yield the same losses.
    Raises:
        DivergedError: the loss or the gradients are not finite.
        DistributedError: another rank was lost. The state is that after the last step.
    """
    network, config, plan, device = state.network, state.config, state.plan, state.network.device
    yield plan
    shares = None
    if plan.num_negatives is not None:
        counts = torch.from_numpy(store.item_counts(network.config.num_items))
        shares = (counts / counts.sum()).float()
    runner = _runner(state)
    while state.epoch <= plan.epochs:
        state.ema.use_plain()
        started = time.perf_counter() - state.seconds
        network.dropout.seed_epoch(seed_for(config.seed, "dropout noise", state.epoch))
        order = np.random.default_rng(seed_for(config.seed, "order", state.epoch))
        batches = epoch_batches(
            store, network.config.max_seq_len, plan.num_batches, config.whole_history, order, first=state.batch
        )
        rate = 0.0
        for batch in batches:
            network.train()
            network.dropout.seed_step(seed_for(config.seed, "dropout", state.step))
            masks = torch_generator(seed_for(config.seed, "masks", state.step))
            rate = plan.learning_rate * learning_rate_factor(state.step, plan.num_steps, plan.warmup_steps)
            share = config.next_item_share * fading(state.step / plan.num_steps, plan.next_item_until)
            causal = batch.items.shape[1] > 1 and bool(torch.rand((), generator=masks) < share)
            step = draw_step(network, batch, config, causal, masks, plan.num_negatives, shares, ranks)
            loss = ranks.sum_gradients(network, runner.gradients(step))
            runner.update(rate, loss)
            if (device.type == "cpu" or state.step % CHECK_EVERY == 0) and not runner.all_finite:
                raise _diverged(state, rate)
            state.step += 1
            state.batch += 1
            if state.step % EMA_EVERY == 0:
                state.ema.update()
            state.loss_sum += loss
            state.num_events += int(torch.count_nonzero(batch.items))
            state.seconds = time.perf_counter() - started
            yield StepResult(state.epoch, state.step, plan.num_steps, loss, state.num_events)
        if not runner.all_finite:
            raise _diverged(state, rate)
        state.ema.update()
        state.ema.use_average()
        seconds = time.perf_counter() - started
        mean = float(state.loss_sum) / max(1, state.batch)
        result = EpochResult(state.epoch, state.batch, mean, seconds, state.num_events, rate)
        state.finish_epoch()
        yield result


def _runner(state: TrainingState) -> StepRunner:
    network = state.network
    if isinstance(state.optimizer, RowAdamW):
        return RowStepRunner(network, state.optimizer, state.config)
    if network.device.type != "cuda":
        return StepRunner(network, state.optimizer, state.config)
    return CapturedSteps(network, state.optimizer, state.config, state.plan.padded_events)


def _diverged(state: TrainingState, rate: float) -> DivergedError:
    return DivergedError(
        f"training diverged in epoch {state.epoch}, step {state.step + 1}, at a learning rate of {rate:g}: the loss or "
        f"its gradients are not finite, and nothing was kept. Try a learning_rate below {state.plan.learning_rate:g}, "
        "more warmup_steps, or bfloat16=False"
    )


def learning_rate_factor(step: int, num_steps: int, warmup_steps: int) -> float:
    """Return the learning rate's factor: linear warm-up, then a half cosine from 1 to FINAL_RATE at the last step."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def fading(done: float, until: float) -> float:
    """Return the share of next-item steps after the part `done` (0..1) of the training. It falls linearly from 1 to 0.

    The cloze loss alone stays on a plateau for hundreds of steps. Next-item steps, which learn from every place, leave
    it sooner.
    """
    return max(0.0, 1 - done / until) if until else 0.0


def choose_device(device: str | torch.device) -> torch.device:
    """Return the torch device of a name. "auto" takes a CUDA GPU, else Apple's, else the CPU.

    If several processes of a machine train together, "auto" gives each another CUDA GPU, or all of them the CPU.

    Raises:
        ConfigError: the device does not exist on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            shared = world_size() > 1
            return torch.device(f"cuda:{local_rank() % torch.cuda.device_count()}" if shared else "cuda")
        if world_size() > 1:
            return torch.device("cpu")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f'device {str(device)!r} cannot be used here ({error}); "auto" takes what there is') from None
    return chosen
