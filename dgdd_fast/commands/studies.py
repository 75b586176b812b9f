"""`dgdd studies`."""

from __future__ import annotations

from .terminal import console


def studies() -> None:
    """List the studies of the package: those behind the tables and figures of the two papers.

    \b
    dgdd grid sgs-table-1-pacs --data pacs/
    dgdd grid sgs-table-1-pacs --scale small
    """
    from ..experiments.ready import ready_names, ready_study

    width = max(map(len, ready_names()))
    for name in ready_names():
        console.print(f"{name.ljust(width)}  {ready_study(name).title}")
