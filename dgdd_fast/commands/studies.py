"""`dgdd studies`."""

from __future__ import annotations

from .terminal import console


def studies() -> None:
    """List the studies of the package: those behind the tables and figures of the two papers.

    \b
    dgdd grid sgs-table-1-pacs --data pacs/
    dgdd grid sgs-table-1-pacs --scale small
    """
    from ..experiments.builtin_studies import builtin_names, builtin_study

    width = max(map(len, builtin_names()))
    for name in builtin_names():
        console.print(f"{name.ljust(width)}  {builtin_study(name).title}")
