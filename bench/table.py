"""The table of a benchmark, kept in a file row by row, so that a run that is cut short can go on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dgdd_fast.files import write_atomically

SAME = ("device", "commit", "torch", "spectral_kernels")  # what two runs must have in common to be one table


def key(case: Any, threads: int | None) -> str:
    """What tells the rows of a case from all others; `case` is a dataclass, or what JSON makes of one."""
    return json.dumps([case if isinstance(case, Mapping) else asdict(case), threads], sort_keys=True)


class Table:
    """The rows of one run, where it comes from, and its ceilings by number of threads ("cuda" for the GPU).

    Rows are dataclasses with a `case` and `threads`. One case may have several, as warm and flushed; they are
    added together.
    """

    def __init__(
        self, path: Path | None, facts: Mapping[str, Any], resume: bool, ceilings: Iterable[str] = ()
    ) -> None:
        """`path` None keeps nothing. `resume` goes on with what `path` holds, if it is there; SystemExit
        where that is from another machine, commit or torch."""
        self.path = path
        self.content: dict[str, Any] = {**facts, **{name: {} for name in ceilings}, "rows": []}
        if resume and path is not None and path.exists():
            kept = json.loads(path.read_text())
            for name in SAME:
                if kept.get(name) != facts.get(name):
                    raise SystemExit(
                        f"--resume: {path} has another {name} ({kept.get(name)}, now {facts.get(name)}): "
                        "name another file, or leave out --resume to replace it"
                    )
            self.content |= {name: kept[name] for name in (*ceilings, "rows")}

    def has(self, case: Any, threads: int | None, provider: str | None = None) -> bool:
        """Whether there is a row of this case, and in it a time of `provider` or why there is none."""
        wanted = key(case, threads)
        return any(
            key(row["case"], row["threads"]) == wanted
            and (provider is None or provider in row["times"] or provider in row["missing"])
            for row in self.content["rows"]
        )

    def add(self, rows: Iterable[Any]) -> None:
        """Adds all rows of one case, in the place of those that it had."""
        added = [asdict(row) for row in rows]
        wanted = key(added[0]["case"], added[0]["threads"])
        is_old = [key(row["case"], row["threads"]) == wanted for row in self.content["rows"]]
        kept = [row for row, old in zip(self.content["rows"], is_old, strict=True) if not old]
        place = is_old.index(True) if any(is_old) else len(kept)
        self.content["rows"] = kept[:place] + added + kept[place:]
        if self.path is not None:
            write_atomically(self.path, (json.dumps(self.content, indent=1) + "\n").encode())
