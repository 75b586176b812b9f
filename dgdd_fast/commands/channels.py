"""`dgdd channels`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import MaskConfig, override
from ..config.run import SET_NAME
from .options import SOURCE_HELP, Overwrite, Threads, free_file, set_file, show_warnings, start_computing
from .reading import read_data
from .terminal import console, note, table


def channels(
    experts: Annotated[Path, typer.Argument(metavar="EXPERTS", help="What `dgdd pretrain` wrote.")],
    distilled: Annotated[
        list[Path] | None, typer.Argument(metavar="SET", help="Distilled sets, or folders of runs.")
    ] = None,
    data: Annotated[
        str, typer.Option(metavar="SOURCE", help=f"What the experts were trained on: {SOURCE_HELP}")
    ] = "embedded-digits",
    share: Annotated[
        float | None, typer.Option(help=f"Of the channels to mask. Default: {MaskConfig.share:g}.")
    ] = None,
    threads: Threads = None,
    out: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Default: channels.json beside the experts.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show which channels are domain-sensitive: in experts, under CADM's masks, and in distilled sets.

    Real images are the test parts of the experts' source domains. Their domain is
    predicted, at each stage, by the expert's discriminator and by a fresh linear probe: from all
    channels, under CADM's masks, and under masks of any channels (uniform). A channel is
    unstable where its activation score differs between the domains by more than
    the mean plus a standard deviation of what the stage's channels do on real images.

    \b
    dgdd channels experts/sketch runs/mmd runs/cadm --data pacs/
    """
    from ..analysis.channels import REAL, compare_channels
    from ..experts import ExpertPool
    from ..files import write_atomically
    from ..synthetic.distilled_set import DistilledSet
    from ..synthetic.source_data import fingerprint_of, record_of

    start_computing("cpu", threads)
    pool = ExpertPool.load(experts)
    out = free_file(experts / "channels.json" if out is None else out, overwrite or out is None)
    height, width = pool.resolution
    dataset = read_data(data, height if height == width else None, classes=pool.class_names)
    show_warnings(dataset)
    images = dataset.only_domains(pool.domain_names)
    pool.check(images.train())  # else its test part may hold what the experts were trained on
    files = _named(map(set_file, distilled or []), taken=REAL)
    sets = {name: DistilledSet.load(file) for name, file in files.items()}
    for name, each in sets.items():
        if fingerprint_of(each) != pool.fingerprint:
            record = record_of(each)
            how = "" if record is None else f": of these, {record.difference(images.train())}"
            note(f"{name} was distilled from other images than the experts were trained on{how}")
    report = compare_channels(pool, images.test(), sets, override(MaskConfig(), share=share))
    write_atomically(out, (json.dumps(report, indent=1) + "\n").encode())
    _print_experts(report["experts"])
    _print_stages(report["stages"])
    console.print(f"written: {out}")


def _named(files: Iterable[Path], taken: str) -> dict[str, Path]:
    """Sets by the name of their run or file; by their path where that is `taken`, or of several."""
    named: dict[str, list[Path]] = {}
    for file in dict.fromkeys(files):
        run = file.resolve().parent if file.name == SET_NAME else file.with_suffix("")
        named.setdefault(run.name, []).append(file)
    return {
        name if len(same) == 1 and name != taken else str(file): file
        for name, same in named.items()
        for file in same
    }


def _print_experts(diagnostics: list[dict[str, Any]]) -> None:
    for classifier, title in (
        ("domain", "domain told by the discriminators of the stages, held-in images, in %"),
        ("probe", "domain told by a linear probe of the stages, in %"),
    ):
        rows = table("expert", "class", "all channels", "masked", "masked uniformly", title=title)
        for index, expert in enumerate(diagnostics):
            shares = (
                " ".join(f"{x:.0f}" for x in expert[f"{mask}{classifier}_accuracy"])
                for mask in ("", "masked_", "uniform_")
            )
            rows.add_row(str(index + 1), f"{expert['accuracy']:.0f}", *shares)
        console.print(rows)


def _print_stages(stages: list[dict[str, Any]]) -> None:
    rows = table("stage", "channels", *stages[0]["unstable"], title="unstable channels, mean of the experts")
    for number, stage in enumerate(stages, start=1):
        counts = (f"{statistics.fmean(counts):.1f}" for counts in stage["unstable"].values())
        rows.add_row(str(number), str(stage["channels"]), *counts)
    console.print(rows)
