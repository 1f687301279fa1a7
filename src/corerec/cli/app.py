"""The command line: corerec demo | prepare | fit | tune | update | evaluate | recommend | similar | embed | serve | ...

Results are written to stdout, and all other output to stderr. Commands import torch only when they run, so `--help`
takes a fifth of the time.
"""

from __future__ import annotations

import os
import warnings
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from corerec.cli.card import card
from corerec.cli.console import out, say
from corerec.cli.demo import demo
from corerec.cli.embed import embed
from corerec.cli.evaluate import evaluate
from corerec.cli.events import events
from corerec.cli.export import export
from corerec.cli.fit import fit
from corerec.cli.info import info
from corerec.cli.plot import plot
from corerec.cli.prepare import prepare
from corerec.cli.recommend import recommend
from corerec.cli.serve import serve
from corerec.cli.similar import similar
from corerec.cli.tune import tune
from corerec.cli.update import update
from corerec.errors import CorerecError, DataWarning, TrainingInterrupted

WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # variables of libgomp and LLVM's libomp


class Commands(TyperGroup):
    """A group of commands that reports wrong input in one line on stderr, with exit code 2 and no traceback."""

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("always", DataWarning)
            rank = os.environ.get("RANK", "0") if "WORLD_SIZE" in os.environ else "0"  # of the processes of a training
            if rank == "0":
                warnings.showwarning = lambda message, *_: say(f"warning: {message}", style="yellow")
            else:
                warnings.showwarning = lambda *_: None
            try:
                return super().invoke(ctx)
            except TrainingInterrupted as error:
                if rank == "0":
                    say(str(error).replace("the same call", "the same command"), style="yellow")
                raise typer.Exit(128 + error.signal_number) from None
            except KeyboardInterrupt:
                if rank == "0":
                    say("interrupted")
                raise typer.Exit(130) from None
            except BrokenPipeError:  # the reader of our output has closed the pipe, as `head` does
                raise
            except (CorerecError, OSError) as error:
                say(f"error{'' if rank == '0' else f' in rank {rank}'}: {error}", style="red")
                raise typer.Exit(2) from None


app = typer.Typer(
    cls=Commands,
    help="Sequential recommendations with BERT4Rec: from a log of (user, item, time) rows to what comes next.\n\n"
    "\b\nExamples:\n  corerec demo\n  corerec fit ratings.csv -o movies.model",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, prepare, fit, tune, update, evaluate, recommend, similar, embed, serve, info, plot, export, card):
    app.command()(command)
app.add_typer(events, name="events")


def main() -> None:
    """Run the command line: the entry point of `corerec` and of `python -m corerec`."""
    _let_waiting_threads_sleep_soon()
    app(prog_name="corerec")


def _let_waiting_threads_sleep_soon() -> None:
    """Set OpenMP so that waiting threads spin only briefly before they sleep, unless the environment says otherwise.

    By default libgomp's threads spin for milliseconds, which keeps cores from other processes. On 2 cores, next to a
    busy process, a training step took 2.0 times as long as with one thread on an idle machine. With this setting, it
    took 1.1 times as long. On an idle machine, a step took 142 ms instead of 141 ms, and 159 ms with
    OMP_WAIT_POLICY=passive (`benchmarks/LAB.md`). PyTorch reads the variable when it is imported.
    """
    if not any(name in os.environ for name in WAITS):
        os.environ["GOMP_SPINCOUNT"] = "1000"


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"corerec-bert4rec {metadata.version('corerec-bert4rec')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass
