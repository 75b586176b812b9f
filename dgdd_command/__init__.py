"""The entry point of the `dgdd` command.

It is apart from `dgdd_fast` because importing that takes seconds, as torch comes with the operators: help and
completion do without them, and Ctrl-C is answered from the start.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command with a `dgdd_fast` that is found, and executed where a subcommand has work to do
    (`load_package` in `dgdd_fast/commands/app.py`)."""
    try:
        import importlib.util

        if "dgdd_fast" not in sys.modules and (spec := importlib.util.find_spec("dgdd_fast")) is not None:
            sys.modules["dgdd_fast"] = importlib.util.module_from_spec(spec)
        from dgdd_fast.__main__ import main as command

        command()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
