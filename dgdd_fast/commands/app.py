"""The application: how commands are found and how errors end."""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from ..extras import MissingExtraError
from ..interruption import KILLED, Interrupted, TrainingDivergedError, end_at_signals, raise_at_signals
from ..memory import readable
from ..messages import shortened
from ..plugins import load_plugins, loaded_plugins
from ..ranks import RankLostError, joined, launched, leads, may_speak
from .output import lasting_output, lost_output, silenced
from .terminal import console, error_console, labelled, steps_shown, warnings_as_notes

USAGE_ERROR, FAILURE = 2, 1
SHARED = ("distill", "evaluate", "pretrain")  # commands whose work torchrun's processes share
LONGEST_LINE = 2000  # of a message: the names of a few hundred classes, and no value of any length


def load_package() -> None:
    """Execute `dgdd_fast` itself, which loads torch and the operators, unless that has been done: the entry
    point leaves it to what needs them."""
    package = sys.modules["dgdd_fast"]
    if not hasattr(package, "__version__") and package.__spec__ is not None and package.__spec__.loader:
        with end_at_signals():  # nothing is begun yet
            package.__spec__.loader.exec_module(package)


def _refuse_empty(command: Any, ctx: Any, args: list[str]) -> None:
    """Raises BadParameter for what is given and empty: ``--method "$METHOD"`` where METHOD is not set."""
    given, _, _ = command.make_parser(ctx).parse_args(args=list(args))
    for parameter in command.get_params(ctx):
        values = given.get(parameter.name)
        for value in values if isinstance(values, (list, tuple)) else (values,):
            if isinstance(value, str) and not value.strip():
                raise typer.BadParameter("it is empty: give it a value, or leave it out", ctx, parameter)


class Command(typer.core.TyperCommand):
    """A subcommand."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _refuse_empty(self, ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        if launched() and ctx.info_name not in SHARED:
            raise ValueError(f"dgdd {ctx.info_name} is for one process: torchrun is for {', '.join(SHARED)}")
        load_package()
        with joined():
            return super().invoke(ctx)


class Commands(typer.core.TyperGroup):
    """Ends every foreseeable error in one message and an exit code instead of a traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _refuse_empty(self, ctx, args)
        return super().parse_args(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        warnings.filterwarnings("ignore", "Image size", RuntimeWarning)  # Pillow's, of what is refused anyway
        with lasting_output(), raise_at_signals(), warnings_as_notes():
            if leads():
                return super().main(*args, **kwargs)
            error_console.file = sys.stderr  # who may speak does
            with silenced():
                return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            _end_interrupted(interrupt)

    def invoke(self, ctx: Any) -> Any:
        try:
            with steps_shown():
                result = super().invoke(ctx)
            if lost := lost_output():
                raise OSError(f"not all of the output could be written ({lost.strerror}); the work is done")
            return result
        except typer.Exit:
            raise
        except Exception as error:
            code = _exit_code(error)
            if code is None or ctx.params["debug"]:
                raise
            _end(code, "\n".join(shortened(line, LONGEST_LINE) for line in _message(error).split("\n")))
        except KeyboardInterrupt as interrupt:
            _end_interrupted(interrupt)


def _end(code: int, message: str) -> NoReturn:
    if may_speak():
        error_console.print(labelled("error", "bold red", message))
    raise typer.Exit(code)


def _end_interrupted(interrupt: KeyboardInterrupt) -> NoReturn:
    number = interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
    _end(KILLED + number, str(interrupt) or "interrupted")


def _exit_code(error: Exception) -> int | None:
    """2 for what the user can put right (settings, data, files), 1 for a run that failed, None for a bug."""
    if isinstance(error, (ValueError, OSError, MissingExtraError)):
        return USAGE_ERROR
    if not hasattr(sys.modules["dgdd_fast"], "__version__"):
        return FAILURE if isinstance(error, ImportError) else None  # it says what torch or the core lacks
    from ..distillation import DistillationDivergedError

    failed = (
        DistillationDivergedError,
        TrainingDivergedError,
        RankLostError,
        MemoryError,
        RecursionError,
        OverflowError,
    )
    return FAILURE if isinstance(error, failed) or _is_out_of_memory(error) else None


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation of torch's failed; on the CPU it has no type of its own."""
    if not isinstance(error, RuntimeError):
        return False
    import torch

    # The last is what becomes of it inside an operator of this package, through torch's stable interface.
    said = r"can't allocate memory|bad_alloc|\"aten::(new_)?empty[^\"]*\".*API call failed"
    return isinstance(error, torch.OutOfMemoryError) or bool(re.search(said, str(error), re.DOTALL))


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, (RecursionError, OverflowError)):
        return f"a value is too large or too deep ({error}); dgdd --debug shows where"
    if not isinstance(error, MemoryError) and not _is_out_of_memory(error):
        return str(error)
    asked = re.search(r"tried to allocate (\d+) bytes|Tried to allocate ([\d.]+ \w+)", str(error))
    size = "" if asked is None else f" for {asked[2] or readable(int(asked[1]))} more"
    return f"there is not enough memory{size}: use smaller images, fewer of them, or a smaller network"


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        console.print(f"dgdd-fast {version('dgdd-fast')}")
        raise typer.Exit


@app.callback()
def dgdd(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    is_version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version, and exit."),
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE", help="A Python file that registers methods, networks or data; may be repeated."
        ),
    ] = None,
) -> None:
    """Distil labelled images of several domains into a few that generalise to an unseen domain.

    \b
    dgdd demo
    dgdd data pictures/
    dgdd pack pictures/ --out packed/
    dgdd pretrain --data pictures/ --target sketch
    dgdd distill --data pictures/ --target sketch
    dgdd evaluate runs/NAME
    dgdd export runs/NAME
    dgdd import FILE --out runs/NAME
    dgdd tune study.yaml
    dgdd grid study.yaml
    dgdd table grids/NAME
    dgdd doctor
    """
    if files := [*loaded_plugins(), *(plugin or ())]:
        load_package()
        load_plugins(files)
