"""CUDA graphs of training steps: one call replays all the operations of a step, which otherwise take a thousand calls.

A step of this small network takes a GPU about a millisecond. Python takes ten times as long to launch the operations of
a step one by one. Batches come in few shapes (`batches.rounded_length`). The first step of a shape runs as in
`StepRunner`, the second is captured, and all later ones are replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from corerec.engines.bert4rec.config import TrainConfig
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.training_step import StepInputs, StepRunner

MOST_GRAPHS = 256  # the most shapes with a graph; steps of other shapes run operation by operation
MOST_DROPOUTS = 64  # the most calls of dropout in a step


@dataclass(frozen=True)
class CapturedStep:
    """The graph of one shape. It reads `inputs`, and writes the loss and the gradients of the `graded` parameters."""

    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    loss: Tensor
    graded: tuple[int, ...]
    dropouts: list[tuple[int, int]]


class CapturedSteps(StepRunner):
    """A `StepRunner` with CUDA graphs. The random numbers are the same, and so are the weights, up to rounding."""

    def __init__(
        self, network: Bert4RecNetwork, optimizer: torch.optim.Optimizer, config: TrainConfig, padded_events: int
    ) -> None:
        """Prepare the graphs.

        Args:
            padded_events: the number of padded events of the largest step. Steps of up to twice this size are captured.
        """
        super().__init__(network, optimizer, config)
        device = network.device
        self._parameters = list(network.parameters())
        self._gradients: dict[int, Tensor] = {}
        self._steps: dict[tuple[Any, ...], CapturedStep] = {}
        self._seen: set[tuple[Any, ...]] = set()
        self._updates: dict[tuple[int, ...], torch.cuda.CUDAGraph] = {}
        self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
        self._dropout_starts = torch.zeros(MOST_DROPOUTS, dtype=torch.int64, device=device)
        self._loss = torch.zeros((), device=device)
        self._rate = torch.zeros((), device=device)
        for group in optimizer.param_groups:
            group["lr"], group["capturable"] = self._rate, True
        self._most_events = 0
        self._reserve(2 * padded_events)

    def gradients(self, step: StepInputs) -> Tensor:
        num_events = step.num_rows * step.tensors["items"].shape[1]
        if num_events > self._most_events:
            self._reserve(2 * num_events)
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in step.tensors.items())
        key = (*shapes, step.num_rows, step.causal, step.knows_next)
        known = self._steps.get(key)
        if known is None:
            if key not in self._seen or len(self._steps) >= MOST_GRAPHS:
                self._seen.add(key)
                return super().gradients(step)
            known = self._steps[key] = self._capture(step.to(self.network.device))
        for name, tensor in step.tensors.items():
            known.inputs[name].copy_(tensor.pin_memory(), non_blocking=True)
        starts = torch.tensor(self.network.dropout.draw_starts(known.dropouts), dtype=torch.int64)
        self._dropout_starts[: len(starts)].copy_(starts.pin_memory(), non_blocking=True)
        known.graph.replay()
        self._attach(known.graded)
        return known.loss.clone()

    def update(self, rate: float, loss: Tensor) -> None:
        self._rate.fill_(rate)
        self._loss.copy_(loss)
        graded = tuple(index for index, parameter in enumerate(self._parameters) if parameter.grad is not None)
        is_ours = all(self._parameters[index].grad is self._gradients.get(index) for index in graded)
        if is_ours and graded in self._updates:
            self._updates[graded].replay()
            return
        self._clip(self._loss)
        self.optimizer.step()  # operation by operation: this makes the moments that the graph needs
        if is_ours:
            self._updates[graded] = self._recorded(self._clip_and_step)

    def _reserve(self, most_events: int) -> None:
        """Draw noise for steps of up to `most_events` padded events, and drop all graphs, as the noise may move."""
        torch.cuda.synchronize(self.network.device)
        self._steps.clear()
        self._seen.clear()
        self._most_events = most_events
        values = most_events * self.network.config.hidden_dim
        self.network.dropout.reserve(values, self.network.device, [torch.float32, torch.bfloat16])

    def _clip_and_step(self) -> None:
        self._clip(self._loss)
        self.optimizer.step()

    def _attach(self, graded: tuple[int, ...]) -> None:
        for parameter in self._parameters:
            parameter.grad = None
        for index in graded:
            self._parameters[index].grad = self._gradients[index]

    def _capture(self, step: StepInputs) -> CapturedStep:
        current, dropout = torch.cuda.current_stream(), self.network.dropout
        self._dropout_starts.zero_()  # those of another shape may lie too far behind for this one
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            with dropout.recorded(self._dropout_starts) as dropouts:
                self._backward(step)  # libraries prepare what they cannot prepare in a capture
            graded = tuple(index for index, parameter in enumerate(self._parameters) if parameter.grad is not None)
            for index in graded:
                self._gradients.setdefault(index, torch.zeros_like(self._parameters[index]))
            loss = torch.zeros((), device=self.network.device)
        current.wait_stream(self._stream)
        self._attach(graded)

        def run() -> None:
            with dropout.recorded(self._dropout_starts):
                loss.copy_(self._backward(step, in_place=True))

        return CapturedStep(self._recorded(run), step.tensors, loss, graded, dropouts)

    def _recorded(self, run: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Record a function's GPU operations as a graph, without running them."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            # Other threads of this process may go on using the GPU.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                run()
            finally:
                graph.capture_end()
        current.wait_stream(self._stream)
        return graph
