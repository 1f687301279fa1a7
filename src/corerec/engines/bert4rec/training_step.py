"""One training step. Its random draws are made on the CPU for a whole batch; its loss and update run on the device.

B batch, L sequence length, M positions to predict, V items, C items sampled.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from corerec.engines.bert4rec.batches import Batch, rounded_length
from corerec.engines.bert4rec.config import MASK, TrainConfig
from corerec.engines.bert4rec.distributed import ALONE, Ranks
from corerec.engines.bert4rec.loss import SampledItems, sample_items
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.objectives import IGNORE, cloze_mask, next_item_targets
from corerec.engines.bert4rec.row_adamw import RowAdamW
from corerec.engines.bert4rec.time_encoding import training_gaps
from corerec.kernels import bfloat16_is_fast


@dataclass(frozen=True)
class StepInputs:
    """The inputs of the loss of one step.

    Attributes:
        tensors: the tensors that the step needs, by name. `items` is int64 (B, L), `targets` int64 (B, L) or (B, M),
            and `weight`, float32 (), multiplies the loss. A cloze has `positions`, int64 (B, M). `gaps` is float32
            (B, L). `sampled`, int64 (C,), and `log_q`, float32 (C,), are those of `SampledItems`. `dropped` is bool
            (V + 1,), the items whose id vectors are dropped.
        num_rows: B of the whole batch, which several ranks share.
        causal: whether it is a next-item step, not a cloze.
        knows_next: the argument of `TimeEncoder.forward`.
    """

    tensors: dict[str, Tensor]
    num_rows: int
    causal: bool
    knows_next: bool

    def to(self, device: torch.device) -> StepInputs:
        """Copy the inputs to a device. A copy to a CUDA GPU is asynchronous, from pinned memory."""
        if device.type == "cuda":
            moved = {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in self.tensors.items()}
        else:
            moved = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return replace(self, tensors=moved)


def draw_step(
    network: Bert4RecNetwork,
    batch: Batch,
    config: TrainConfig,
    causal: bool,
    generator: torch.Generator,
    num_negatives: int | None = None,
    shares: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> StepInputs:
    """Draw the masks, the sampled items and the dropped times of one batch, all on the CPU.

    All ranks draw for the whole batch, and then each takes its rows. `shares`, float32 (V + 1,), is each item's share
    of the events, which the loss needs if it samples negatives.
    """
    items, hidden, positions = batch.items, None, None
    if causal:
        inputs, targets = next_item_targets(items)
    else:
        inputs, targets = cloze_mask(
            items,
            mask_number=MASK,
            mask_prob=config.mask_prob,
            generator=generator,
            num_items=network.config.num_items if config.bert_replacement else None,
        )
        # The last block computes only the hidden positions, so their numbers are gathered at the left of each row.
        hidden = targets != IGNORE
        most = rounded_length(int(hidden.sum(1).max()), items.shape[1])
        positions = (~hidden).byte().argsort(dim=1, stable=True)[:, :most]
        targets = targets.gather(1, positions)
    whole, gaps, knows_next = {}, None, True
    if network.item_encoder is not None:
        whole["dropped"] = network.item_encoder.draw_dropped(generator)
    if network.time_encoder is not None and batch.times is not None:
        gaps, knows_next = training_gaps(batch.times, items != 0, hidden, generator)
    if num_negatives is not None:
        assert shares is not None
        sampled = sample_items(targets, shares, num_negatives, generator)
        whole |= {"sampled": sampled.items, "log_q": sampled.log_q}
    rows, is_target = ranks.rows(len(items)), targets > 0
    whole["weight"] = torch.tensor(int(is_target[rows].sum()) / max(1, int(is_target.sum())))
    if rows.start == rows.stop:
        # A rank without rows computes the first row with weight 0, so that the same weights get gradients on all ranks.
        rows = slice(0, 1)
    network.dropout.take_rows(rows.start, len(items))
    by_row = {"items": inputs, "targets": targets, "positions": positions, "gaps": gaps}
    own = {name: tensor[rows] for name, tensor in by_row.items() if tensor is not None}
    return StepInputs(own | whole, len(items), causal, knows_next)


def step_loss(network: Bert4RecNetwork, step: StepInputs) -> Tensor:
    """Compute the mean loss of a step on the network's device. If ranks share the step, compute this rank's part of the
    mean."""
    given = step.tensors
    if network.item_encoder is not None:
        network.item_encoder.dropped = given["dropped"]
    states = network(
        given["items"],
        given.get("positions"),
        causal=step.causal,
        gaps=given.get("gaps"),
        knows_next=step.knows_next,
    )
    sampled = SampledItems(given["sampled"], given["log_q"]) if "sampled" in given else None
    return network.loss(states, given["targets"], sampled) * given["weight"]


def mixed_precision(device: torch.device, bfloat16: bool) -> contextlib.AbstractContextManager[object]:
    """Return a context of bfloat16 matrix products, if wanted and fast on the hardware, else an empty context."""
    fast = bfloat16 and bfloat16_is_fast(device)
    return torch.autocast(device.type, torch.bfloat16) if fast else contextlib.nullcontext()


class StepRunner:
    """Runs the steps of a training on its device, one operation after another."""

    def __init__(self, network: Bert4RecNetwork, optimizer: torch.optim.Optimizer, config: TrainConfig) -> None:
        self.network, self.optimizer, self.config = network, optimizer, config
        self.all_finite = torch.ones((), dtype=torch.bool, device=network.device)
        """Whether every loss and every norm of the gradients was finite; reading it waits for the device."""

    def gradients(self, step: StepInputs) -> Tensor:
        """Compute a step's gradients in the parameters. Return its loss, float32 (), on the device."""
        return self._backward(step.to(self.network.device))

    def update(self, rate: float, loss: Tensor) -> None:
        """Clip the gradients and take AdamW's step at this learning rate. A CPU skips gradients that are not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._clip(loss)
        if self.network.device.type != "cpu" or self.all_finite:
            self.optimizer.step()

    def _backward(self, step: StepInputs, in_place: bool = False) -> Tensor:
        with mixed_precision(self.network.device, self.config.bfloat16):
            loss = step_loss(self.network, step)
        self.optimizer.zero_grad(set_to_none=not in_place)
        loss.backward()
        return loss.detach()

    def _clip(self, loss: Tensor) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        self.all_finite &= torch.isfinite(norm.detach() + loss)


class RowStepRunner(StepRunner):
    """A `StepRunner` whose steps read and update only some rows of the item table (`row_adamw.py`)."""

    def __init__(self, network: Bert4RecNetwork, optimizer: RowAdamW, config: TrainConfig) -> None:
        super().__init__(network, optimizer, config)
        self._rows = optimizer

    def _backward(self, step: StepInputs, in_place: bool = False) -> Tensor:
        items, sampled = step.tensors["items"], step.tensors["sampled"]
        read = {
            self.network.item_embedding: torch.cat([items.flatten().clamp(min=0), sampled]).unique(),
            self.network.item_bias: sampled,
        }
        for table in self._rows.tables:
            self._rows.refresh(table, read[table])
        self.network.sparse_gradients = True
        try:
            loss = super()._backward(step)
        finally:
            self.network.sparse_gradients = False
        for table in self._rows.tables:
            assert table.grad is not None
            table.grad = table.grad.coalesce()
        return loss

    def _clip(self, loss: Tensor) -> None:
        values = []
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                values.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
        norm = torch.nn.utils.get_total_norm(values)
        self.all_finite &= torch.isfinite(norm + loss)
        for value in values:
            value.mul_((self.config.gradient_clip / (norm + 1e-6)).clamp(max=1.0))
