"""`dgdd doctor`."""

from __future__ import annotations

import typer

from .app import FAILURE


def doctor() -> None:
    """Show versions, devices and what is compiled, check the operators, and advise where something is odd."""
    from .examination import examine

    if not examine():
        raise typer.Exit(FAILURE)
