"""The `dgdd` command: see `commands/`, a module a subcommand."""

from __future__ import annotations

from .commands.app import app
from .commands.channels import channels
from .commands.data import data
from .commands.demo import demo
from .commands.distill import distill
from .commands.doctor import doctor
from .commands.evaluate import evaluate
from .commands.export import export
from .commands.grid import grid
from .commands.pretrain import pretrain
from .commands.report import report
from .commands.studies import studies
from .commands.table import table
from .commands.tune import tune

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
    app.command()(command)


def main() -> None:
    """The entry point of the `dgdd` command."""
    app()
