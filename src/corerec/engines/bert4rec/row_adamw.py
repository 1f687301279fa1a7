"""Row-wise lazy AdamW: a step updates only the rows of the item table that have a gradient, and the result is AdamW's.

AdamW moves a row without a gradient, too: weight decay shrinks it, and its momentum fades over some fifty steps. Both
follow formulas, so a row may be left alone for k steps and catch up when it is read next. With its last moments m, v:

    p <- decay * p - drift * m / (sqrt(v) + eps)          m <- beta1^k m          v <- beta2^k v

    decay = product of (1 - rate_j weight_decay)
    drift = sum of rate_j (beta1 / sqrt(beta2))^j sqrt(1 - beta2^t_j) / (1 - beta1^t_j), each with the later decays

over the steps j = 1..k that the row missed, where t_j is the number of step j in the training. `decay` and `drift`
depend only on the step at which the row was last updated, so one table of them serves all rows. The moving average of
the weights follows in the same way. The one approximation: eps is taken not to grow beside sqrt(v) while v fades.

V + 1 rows, D columns; R rows of a step; n steps and updates of the average since all rows were last up to date.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # the state that AdamW keeps for each weight
FADED = 512  # steps k after which (beta1 / sqrt(beta2))^k is negligible beside 1
ROWS_AT_ONCE = 2**15  # rows that are brought up to date at once, if the whole table is
STEPS, DECAY, DRIFT, MEAN_KEPT, MEAN_DECAY, MEAN_DRIFT = range(6)


class MissedUpdates:
    """The updates that each row has missed since its last update. Time counts the steps and the updates of the average,
    from 0 to n.

    Attributes:
        last: int32 (V + 1,), the time of each row's last update.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self.last = torch.zeros(num_rows, dtype=torch.int32, device=device)
        self.restart()

    @property
    def coefficients(self) -> Tensor:
        """For each time, float64 (6, n + 1): the number of steps done until then, and the coefficients of all later
        updates."""
        return self._table[:, : self.now + 1]

    def load(self, last: Tensor, coefficients: Tensor) -> None:
        """Load the times and coefficients that were saved."""
        self.last.copy_(last)
        self.now, self._table = coefficients.shape[1] - 1, coefficients.clone()

    def restart(self) -> None:
        """Set the time to 0. All rows must be up to date."""
        self.last.zero_()
        self.now = -1
        self._table = torch.empty(6, FADED, dtype=torch.float64)
        self._add_time(0)

    def add_step(self, decay: float, rate: float, fading: float) -> None:
        """Count a step.

        Args:
            rate: the factor of m / sqrt(v) in the step.
            fading: the factor of m / sqrt(v) from one step to the next.
        """
        known, steps = self.coefficients, float(self.coefficients[STEPS, -1]) + 1
        known[DECAY] *= decay
        known[DRIFT] *= decay
        recent = known[:, -FADED:]
        recent[DRIFT] += rate * fading ** (steps - recent[STEPS])
        self._add_time(steps)

    def add_average(self, weight: float) -> None:
        """Count an update of the average, to which the current weights contribute `weight`."""
        known = self.coefficients
        known[MEAN_KEPT] *= 1 - weight
        known[MEAN_DECAY].lerp_(known[DECAY], weight)
        known[MEAN_DRIFT].lerp_(known[DRIFT], weight)
        self._add_time(float(known[STEPS, -1]))

    def _add_time(self, steps: float) -> None:
        self.now += 1
        if self.now == self._table.shape[1]:
            self._table = torch.cat([self._table, torch.empty_like(self._table)], dim=1)
        self._table[:, self.now] = torch.tensor([steps, 1.0, 0.0, 1.0, 0.0, 0.0])


class RowAdamW(torch.optim.AdamW):
    """AdamW with lazy rows in the parameters whose gradients are sparse. Others are updated as in `torch.optim.AdamW`.

    `refresh` brings rows up to date before a step reads them. Read a whole table, its moments or its average only after
    `refresh_all`.
    """

    def __init__(self, groups: list[dict[str, Any]], tables: Iterable[nn.Parameter], **settings: Any) -> None:
        """Prepare the updates of some parameters.

        Args:
            groups, settings: the arguments of `torch.optim.AdamW`.
            tables: the parameters, (V + 1, D) or (V + 1,), whose gradients are sparse in their rows.
        """
        super().__init__(groups, **settings)
        self.tables = list(tables)
        self.averages: dict[nn.Parameter, Tensor] = {}
        """The moving averages of the tables; empty if there are none."""
        self._missed = {table: MissedUpdates(len(table), table.device) for table in self.tables}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all parameters that have gradients. The gradients of the tables are sparse and coalesced."""
        gradients = {table: table.grad for table in self.tables if table.grad is not None}
        for table in gradients:
            table.grad = None  # AdamW refuses sparse gradients
        super().step()
        for group in self.param_groups:
            for table in group["params"]:
                if table in gradients:
                    self._step_rows(table, gradients[table], group)
                    table.grad = gradients[table]

    def add_average(self, weight: float) -> None:
        """Add the current weights of the tables to their averages, with this weight."""
        for table in self.averages:
            self._missed[table].add_average(weight)

    @torch.no_grad()
    def refresh(self, table: nn.Parameter, rows: Tensor) -> None:
        """Bring some rows of a table up to date, with their moments and their average.

        Args:
            rows: int64 (R,), distinct.
        """
        missed = self._missed[table]
        times = missed.last[rows]
        is_behind = times < missed.now
        rows, times = rows[is_behind], times[is_behind].to("cpu", torch.int64)
        if not len(rows):
            return
        known, like = missed.coefficients[:, times], (-1, *[1] * (table.ndim - 1))
        ages = missed.coefficients[STEPS, -1] - known[STEPS]
        beta1, beta2 = self.defaults["betas"]
        faded = torch.stack([beta1**ages, beta2**ages])
        decay, drift, kept, mean_decay, mean_drift, faded1, faded2 = (
            factor.view(like) for factor in torch.cat([known[DECAY:], faded]).to(table.device, table.dtype)
        )
        state, weights = self.state[table], table.detach()
        before = weights[rows]
        direction = torch.zeros_like(before)
        if state:
            mean, square = state["exp_avg"][rows], state["exp_avg_sq"][rows]
            direction = mean / square.sqrt().add_(self.defaults["eps"])
            state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean.mul_(faded1), square.mul_(faded2)
        if table in self.averages:
            average = self.averages[table]
            average[rows] = average[rows].mul_(kept).addcmul_(before, mean_decay).sub_(direction * mean_drift)
        weights[rows] = before.mul_(decay).sub_(direction.mul_(drift))
        missed.last[rows] = missed.now

    def refresh_all(self) -> None:
        """Bring all rows of all tables up to date, some rows at a time."""
        for table, missed in self._missed.items():
            if missed.now:
                for rows in torch.arange(len(table), device=table.device).split(ROWS_AT_ONCE):
                    self.refresh(table, rows)
                missed.restart()

    def state_dict(self) -> dict[str, Any]:
        """Return AdamW's state, and the missed updates of each row."""
        whole = super().state_dict()
        state = dict(whole["state"])
        for index, table in self._numbered_tables():
            missed = self._missed[table]
            if missed.now:
                state[index] = state.get(index, {}) | {"last": missed.last, "coefficients": missed.coefficients}
        return whole | {"state": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""
        state = dict(state_dict["state"])
        for index, table in self._numbered_tables():
            parts = state.get(index, {})
            self._missed[table].restart()
            if "last" in parts:  # AdamW would convert them to float32
                self._missed[table].load(parts["last"], parts["coefficients"])
                state[index] = {part: parts[part] for part in MOMENTS}
        super().load_state_dict(state_dict | {"state": state})

    def _numbered_tables(self) -> list[tuple[int, nn.Parameter]]:
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        return [(index, parameter) for index, parameter in enumerate(parameters) if parameter in self._missed]

    def _step_rows(self, table: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update the rows that have a gradient, as AdamW does."""
        state, missed = self.state[table], self._missed[table]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        rows, values = gradient.indices()[0], gradient.values()
        self.refresh(table, rows)
        state["step"] += 1
        step, (beta1, beta2) = float(state["step"]), group["betas"]
        scale = math.sqrt(1 - beta2**step)
        rate = float(group["lr"]) * scale / (1 - beta1**step)
        decay = 1 - float(group["lr"]) * group["weight_decay"]
        mean = state["exp_avg"][rows].lerp_(values, 1 - beta1)
        square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(values, values, value=1 - beta2)
        weights = table.detach()
        weights[rows] = weights[rows].mul_(decay).addcdiv_(mean, square.sqrt().add_(group["eps"] * scale), value=-rate)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        missed.add_step(decay, rate, beta1 / math.sqrt(beta2))
        missed.last[rows] = missed.now
