"""TrainingState: everything that the next training step needs, so that a training can stop after any step and continue.

The state has no random generators. The order of an epoch, and the masks, dropout and sampled items of a step, have
separate seeds. Each seed depends only on the model's seed, the purpose, and the number of the epoch or step
(`seed_for`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from corerec.data.cut_store import CutStore
from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec.config import TrainConfig
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.plan import TrainPlan
from corerec.engines.bert4rec.row_adamw import RowAdamW

ROWS_AT_ONCE = 2**18  # rows of a weight that are swapped with their average at once
BETAS = (0.9, 0.98)  # a shorter memory of squared gradients than AdamW's default: the loss leaves its plateau sooner
EMA_EVERY = 10  # steps between two updates of the averaged weights: each reads and writes all of them


@dataclass(frozen=True)
class BestEpoch:
    """The epoch of the best validation so far, with its averaged weights."""

    epoch: int
    score: float
    weights: dict[str, Tensor]


@dataclass
class TrainingState:
    """A training in progress. `train_epochs` advances it, and trains its network.

    `epoch`, from 1, is the epoch being trained, `batch` the number of its batches done, and `step` the number of all
    steps done. `loss_sum` (on the device), `num_events` and `seconds` count the epoch so far.
    """

    network: Bert4RecNetwork
    config: TrainConfig
    plan: TrainPlan
    log_digest: str
    """`SequenceStore.digest` of the training sequences."""
    items_digest: str | None
    """`ItemEncoder.digest` of the items' features; None without any."""
    optimizer: torch.optim.Optimizer
    ema: EmaWeights
    epoch: int = 1
    batch: int = 0
    step: int = 0
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    num_events: int = 0
    seconds: float = 0.0
    best: BestEpoch | None = None

    @classmethod
    def start(cls, network: Bert4RecNetwork, store: SequenceStore | CutStore, config: TrainConfig) -> TrainingState:
        """Return the state before the first step, on the network's device."""
        plan = TrainPlan.of(config, network.config, store, network.device)
        network.dropout.p = plan.dropout
        optimizer = make_optimizer(network, plan.learning_rate, plan.weight_decay, plan.row_updates)
        ema = EmaWeights(network, config.ema_steps, optimizer if isinstance(optimizer, RowAdamW) else None)
        loss_sum = torch.zeros((), device=network.device)
        items_digest = None if network.item_encoder is None else network.item_encoder.digest()
        return cls(network, config, plan, store.digest(), items_digest, optimizer, ema, loss_sum=loss_sum)

    def finish_epoch(self) -> None:
        """Count the epoch as done, and move to the first batch of the next."""
        self.epoch, self.batch, self.num_events, self.seconds = self.epoch + 1, 0, 0, 0.0
        self.loss_sum = torch.zeros_like(self.loss_sum)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values. Save it before the next step, which changes the tensors."""
        optimizer = self.optimizer.state_dict()
        network, means = dict(self.network.state_dict()), self.ema.means
        if self.ema.is_swapped:  # the weights and the averages are swapped
            network, means = network | means, {name: network[name] for name in means}
        state = {
            "network": network,
            "optimizer": {
                f"{index}.{name}": value for index, part in optimizer["state"].items() for name, value in part.items()
            },
            "ema": means,
            "best": {} if self.best is None else dict(self.best.weights),
            "loss_sum": self.loss_sum,
        }
        values = {name: getattr(self, name) for name in ("epoch", "batch", "step", "num_events", "seconds")}
        values |= {"log_digest": self.log_digest, "items_digest": self.items_digest}
        values |= {"ema_updates": self.ema.num_updates}
        values |= {"config": asdict(self.config), "plan": asdict(self.plan), "model": asdict(self.network.config)}
        if self.best is not None:
            values |= {"best_epoch": self.best.epoch, "best_score": self.best.score}
        return state | {"values": values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict` of a training with the same settings."""
        self.ema.use_plain()
        values = state["values"]
        self.network.load_state_dict(state["network"])
        parts: dict[int, dict[str, Any]] = {}
        for key, value in state["optimizer"].items():
            index, name = key.split(".", 1)
            parts.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": parts})
        self.ema.load(state["ema"], values["ema_updates"])
        self.loss_sum = state["loss_sum"].to(self.network.device)
        self.epoch, self.batch, self.step = values["epoch"], values["batch"], values["step"]
        self.num_events, self.seconds = values["num_events"], values["seconds"]
        self.best = None
        if "best_epoch" in values:
            self.best = BestEpoch(values["best_epoch"], values["best_score"], dict(state["best"]))


class EmaWeights:
    """An exponential moving average of a network's weights (Polyak & Juditsky 1992; Morales-Brotons et al. 2024).

    The average approximates where the weights settle once the learning rate has decayed. In the middle of a training,
    the average ranks as well as plain weights do much later (`benchmarks/LAB.md`). At the end it ranks no worse.
    """

    def __init__(self, network: Bert4RecNetwork, num_steps: int, rows: RowAdamW | None = None) -> None:
        """Start an average of the network's weights.

        Args:
            num_steps: the steps to average over; at most a ninth of those done. 0 keeps no average.
            rows: the optimizer that also keeps the averages of its tables, row by row.
        """
        self._weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
        self._decay = max(0.0, 1 - EMA_EVERY / num_steps) if num_steps else 0.0
        self.means = {name: weight.clone() for name, weight in self._weights.items()} if num_steps else {}
        self._rows, self._lazy = rows, set[str]()
        if rows is not None and num_steps:
            tables = {name: table for name, table in network.named_parameters() if table in set(rows.tables)}
            self._lazy = set(tables)
            rows.averages = {table: self.means[name] for name, table in tables.items()}
        self.num_updates = 0
        self.is_swapped = False
        """Whether the network holds the average, and `means` the plain weights."""

    def update(self) -> None:
        """Add the current weights to the average."""
        assert not self.is_swapped
        if self.means:
            decay = min(self._decay, self.num_updates / (self.num_updates + 9))
            eager = [name for name in self.means if name not in self._lazy]
            means, weights = [self.means[name] for name in eager], [self._weights[name] for name in eager]
            get_ema_multi_avg_fn(decay)(means, weights, self.num_updates)  # pyright: ignore[reportArgumentType]
            if self._rows is not None:
                self._rows.add_average(1 - decay)
            self.num_updates += 1

    def use_average(self) -> None:
        """Put the average into the network. Training continues after `use_plain`."""
        if not self.is_swapped:
            if self._rows is not None:
                self._rows.refresh_all()
            self._swap()

    def use_plain(self) -> None:
        """Put the plain weights back into the network."""
        if self.is_swapped:
            self._swap()

    def load(self, means: dict[str, Tensor], num_updates: int) -> None:
        """Load an average that was saved together with the plain weights."""
        for name, mean in self.means.items():
            mean.copy_(means[name])
        self.num_updates = num_updates

    @torch.no_grad()
    def _swap(self) -> None:
        for name, mean in self.means.items():
            for weight_rows, mean_rows in zip(
                torch.atleast_1d(self._weights[name]).split(ROWS_AT_ONCE),
                torch.atleast_1d(mean).split(ROWS_AT_ONCE),
                strict=True,
            ):
                kept = weight_rows.clone()
                weight_rows.copy_(mean_rows)
                mean_rows.copy_(kept)
        self.is_swapped = not self.is_swapped


def make_optimizer(
    network: Bert4RecNetwork, learning_rate: float, weight_decay: float, row_updates: bool = False
) -> torch.optim.AdamW | RowAdamW:
    """Return an AdamW optimizer that applies weight decay to matrices and embeddings, but not to biases and norms.

    With `row_updates`, the optimizer updates the item table and the items' biases row by row.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = network.device.type in ("cpu", "cuda")
    if row_updates:
        tables = [table for table in (network.item_embedding, network.item_bias) if table.requires_grad]
        return RowAdamW(groups, tables, lr=learning_rate, betas=BETAS, fused=fused)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=fused)


def moments_of(optimizer: torch.optim.Optimizer, network: Bert4RecNetwork) -> dict[str, Tensor]:
    """Return the optimizer's state, not copied, as tensors named "<weight>/<part>", such as "head.weight/exp_avg"."""
    if isinstance(optimizer, RowAdamW):
        optimizer.refresh_all()
    return {
        f"{name}/{part}": value
        for name, parameter in network.named_parameters()
        for part, value in optimizer.state.get(parameter, {}).items()
    }


@torch.no_grad()
def load_moments(
    optimizer: torch.optim.Optimizer, network: Bert4RecNetwork, moments: dict[str, Tensor], rows: Tensor
) -> None:
    """Start an optimizer with the moments of an earlier training.

    Args:
        rows: int64 (W + 1,), the row that each row had in the earlier item table; 0 for new rows.
    """
    for name, parameter in network.named_parameters():
        parts = {key.rpartition("/")[2]: value for key, value in moments.items() if key.rpartition("/")[0] == name}
        if not parts or not parameter.requires_grad:
            continue
        state = {}
        for part, value in parts.items():
            if value.ndim and name in ("item_embedding", "item_bias"):
                value = value[rows.to(value.device)]
                value[rows.to(value.device) == 0] = 0
            # A fused optimizer counts steps on the parameter's device, another one on the CPU.
            device = parameter.device if optimizer.defaults["fused"] or value.ndim else "cpu"
            state[part] = value.to(device).clone()
        optimizer.state[parameter] = state


def seed_for(seed: int, purpose: str, number: int = 0) -> np.random.SeedSequence:
    """Return a seed that depends on the model's seed, a purpose, and the number of an epoch or a step."""
    return np.random.SeedSequence([seed, number, *purpose.encode()])


def torch_generator(seed: np.random.SeedSequence) -> torch.Generator:
    """Return a CPU generator with this seed."""
    return torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0]) % 2**63)
