"""The output while a model trains: the chosen settings, then a bar on a terminal and a line for each epoch."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from corerec.engines.bert4rec.plan import TrainPlan
from corerec.engines.bert4rec.training import EpochResult, StepResult
from corerec.threads import threads_in_use

READ_LOSS_EVERY = 10  # steps: reading a loss waits for the device


def with_progress(
    results: Iterator[TrainPlan | StepResult | EpochResult], name: str
) -> Iterator[TrainPlan | StepResult | EpochResult]:
    """Yield training results, and draw them on stderr."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        bar = bars.add_task(name, total=None, loss="")
        num_epochs, best = 0, None
        for result in results:
            if isinstance(result, TrainPlan):
                num_epochs = result.epochs
                console.print(f"{name}  {result}; {threads_in_use()}", highlight=False, soft_wrap=True)
            elif isinstance(result, EpochResult):
                best = result if result.is_best else best
                console.print(
                    f"{name}  epoch {result.epoch}/{num_epochs}  loss {result.loss:.4f}  {result.seconds:.1f} s  "
                    f"{result.num_steps:,} steps  {result.num_events / result.seconds:,.0f} events/s"
                    + _validation(result),
                    highlight=False,
                    soft_wrap=True,
                )
            elif result.step % READ_LOSS_EVERY == 0 or result.step == result.num_steps:
                text = f"epoch {result.epoch}/{num_epochs}  loss {float(result.loss):.4f}"
                bars.update(bar, completed=result.step, total=result.num_steps, loss=text)
            yield result
        if best is not None:
            console.print(f"{name}  kept epoch {best.epoch}, validation NDCG@10 {best.ndcg:.4f}", highlight=False)


def _validation(result: EpochResult) -> str:
    if result.ndcg is None:
        return ""
    return f"  validation NDCG@10 {result.ndcg:.4f}{' (best so far)' if result.is_best else ''}"
