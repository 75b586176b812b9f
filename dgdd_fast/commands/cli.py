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
from .import_set import import_set
from .pack import pack
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
    import_set,
    studies,
    tune,
    grid,
    table,
    channels,
    report,
    data,
    pack,
    doctor,
)  # in the order of the help
for command in COMMANDS:
    # import is a word of Python's
    app.command("import" if command is import_set else None, cls=Command)(command)


def main() -> None:
    """The entry point of the `dgdd` command."""
    app(prog_name="dgdd")  # also as python -m dgdd_fast
