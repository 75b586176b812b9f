"""The `dgdd` command: see `commands/`, a module a subcommand."""

from __future__ import annotations

from .app import Command, app
from .channels import channels
from .data import data
from .demo import demo
from .distill import distill
from .doctor import doctor
from .evaluate import evaluate
from .export import export
from .grid import grid
from .pretrain import pretrain
from .report import report
from .studies import studies
from .table import table
from .tune import tune

COMMANDS = (
    demo,
    pretrain,
    distill,
    evaluate,
    export,
    studies,
    tune,
    grid,
    table,
    channels,
    report,
    data,
    doctor,
)  # in the order of the help
for command in COMMANDS:
    app.command(cls=Command)(command)


def main() -> None:
    """The entry point of the `dgdd` command."""
    app()
