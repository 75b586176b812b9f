"""The application: how commands are found and how errors end."""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any

import typer
import typer.core

from ..plugins import load_plugins, loaded_plugins
from .terminal import error_console, labelled

USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130


class Commands(typer.core.TyperGroup):
    """Ends every foreseeable error in one message and an exit code instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, BrokenPipeError):
            raise
        except Exception as error:
            code = _exit_code(error)
            if code is None or ctx.params["debug"]:
                raise
            message = str(error)
        except KeyboardInterrupt as interrupt:
            code, message = INTERRUPTED, str(interrupt) or "interrupted"
        error_console.print(labelled("error", "bold red", message))
        raise typer.Exit(code)


def _exit_code(error: Exception) -> int | None:
    """2 for what the user can put right (settings, data, files), 1 for a run that failed, None for a bug."""
    if isinstance(error, (ValueError, OSError)):
        return USAGE_ERROR
    from ..distillation import DistillationDivergedError
    from ..interruption import TrainingDivergedError

    return FAILURE if isinstance(error, (DistillationDivergedError, TrainingDivergedError)) else None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def dgdd(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE", help="A Python file that registers methods, networks or data; may be repeated."
        ),
    ] = None,
) -> None:
    """Distil labelled images of several domains into a few that hold up on a domain nobody showed them.

    \b
    dgdd demo
    dgdd data pictures/
    dgdd pretrain --data pictures/ --target sketch
    dgdd distill --data pictures/ --target sketch
    dgdd evaluate runs/NAME
    dgdd export runs/NAME
    dgdd tune study.yaml
    dgdd grid study.yaml
    dgdd table grids/NAME
    dgdd doctor
    """
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is shown as \\xe9
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    load_plugins([*loaded_plugins(), *(plugin or ())])
