"""The command `dgdd`, also as ``python -m dgdd_fast``."""

from __future__ import annotations

import sys

from .extras import MissingExtraError, extra


def main() -> None:
    """Run the command, or say what to install for it."""
    try:
        with extra("cli", "the command dgdd"):
            from .commands.cli import main as command
    except MissingExtraError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    command()


if __name__ == "__main__":
    import dgdd_command  # which says what to say when it is interrupted here

    dgdd_command.main()
