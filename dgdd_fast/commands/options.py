"""What several commands share: options, the files of a run folder, the data to learn from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config.run import NO_TARGET, SET_NAME
from ..config.yaml_text import parse_yaml
from ..files import check_writable
from ..messages import shown
from .terminal import console, note

if TYPE_CHECKING:
    from ..data import DomainDataset
    from ..synthetic.distilled_set import DistilledSet


SOURCE_HELP = "embedded-digits, or a folder: domain/class/*.png, one DOMAIN.npz a domain, or a packed one."
SET_HELP = "A distilled set, or the folder of the run that made it."
Classes = Annotated[
    str | None, typer.Option(metavar="NAME,...", help="Use these classes of the data only. Default: all.")
]
Domains = Annotated[
    list[str] | None,
    typer.Option("--domain", metavar="DOMAIN", help="Use this domain of the data only; may be repeated."),
]
Device = Annotated[
    str | None, typer.Option(help="auto (a GPU where there is one), cpu, cuda, cuda:1 ... Default: auto.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: one for each core.")]
PRECISION_HELP = "float32, tf32, bfloat16, or auto: bfloat16 on a CPU with AMX, else float32."
Precision = Annotated[str | None, typer.Option(help=f"{PRECISION_HELP} Default: float32.")]
Log = Annotated[
    str | None,
    typer.Option(help="tensorboard: how it goes, in the folder that is written, for TensorBoard to show."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting by its name, such as distill.masks.share=0.5; may be repeated.",
    ),
]
GridFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a grid, finished or not.")]
Against = Annotated[
    str | None,
    typer.Option(
        metavar="ROW",
        help="Add the difference to this row at the same seed, with its 95 % interval over the seeds.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what --out names, if it is there.")]


def source_images(dataset: DomainDataset, target: str | None) -> tuple[DomainDataset, str | None]:
    """The images to learn from, and the domain held out or None."""
    domains = ", ".join(dataset.domain_names)
    if target is None:
        raise ValueError(f"choose the domain to hold out with --target: {domains}; or --target {NO_TARGET}")
    if target == NO_TARGET:
        if NO_TARGET in dataset.domain_names:
            raise ValueError(
                f"a domain of the data is called {NO_TARGET}, which as --target stands for holding none out: "
                "rename it, or choose the others with --domain"
            )
        return dataset.train(), None
    return dataset.leave_out(target).sources_train, target


def names_in(given: str | None) -> tuple[str, ...] | None:
    """The names in an option that lists them with commas; None where it is not given."""
    return None if given is None else tuple(name.strip() for name in given.split(","))


def assignments(given: list[str] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in the options --set NAME=VALUE, values as in YAML. `options` are those settings that have
    an option of their own, None where it is not given.

    Raises ValueError where a setting is given two values.
    """
    values: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"--set takes NAME=VALUE, such as distill.masks.share=0.5, got {shown(text)}")
        if not value.strip():
            raise ValueError(f"--set {name.strip()} has no value: give one, or write null for none")
        name, found = name.strip(), parse_yaml(value)
        other = values.get(name, options.get(name))
        if other is not None and other != found:
            raise ValueError(f"{name} is given twice, as {shown(other)} and as {shown(found)}: choose one")
        values[name] = found
    return values


def logs_to_tensorboard(log: str | None, instead: str) -> bool:
    """Whether --log asks for TensorBoard. Raises ValueError for what is not known, MissingExtraError where it
    is not installed; `instead`: what there is without it."""
    from ..experiments.tensorboard import summary_writer

    if log is not None and log != "tensorboard":
        raise ValueError(f"--log must be tensorboard, got {log!r}; {instead}")
    if log is not None:
        summary_writer()
    return log is not None


def set_file(path: Path) -> Path:
    """The file of a set: `path`, or that in the run folder `path`."""
    return path / SET_NAME if path.is_dir() else path


def free_file(path: Path, overwrite: bool) -> Path:
    """`path`, where a file may be written. Raises ValueError where there is one that may not be replaced."""
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: choose another --out, or give --overwrite to replace it")
    check_writable(path)
    return path


def check_count(kind: str, count: int) -> None:
    """Raises ValueError for far more threads or processes than there are cores to run them."""
    most = max(256, 4 * (os.cpu_count() or 1))
    if count > most:
        raise ValueError(f"{kind} must be at most {most} here, got {count}")


def start_computing(device: str | None, threads: int | None) -> str:
    """Chooses the device and the CPU threads to compute with, and says both in a line; the device.

    device: as in `usable_device`; None: auto.
    threads: None: what OMP_NUM_THREADS says, else as many as torch wants and this process has cores for.
    """
    from ..devices import AUTO, automatic_devices, usable_device
    from ..ranks import launched, local_rank

    chosen = usable_device(device or AUTO)
    if launched() and device in (None, AUTO, "cuda"):  # each rank of a machine has a GPU of its own
        there = automatic_devices()
        chosen = there[local_rank() % len(there)]
    set_threads(threads)
    say_where([chosen])
    return chosen


def say_where(devices: Sequence[str]) -> None:
    """The line about where a command computes."""
    import torch

    gpu = torch.cuda.is_available()  # not where those of a cluster are named
    chips = (f" ({torch.cuda.get_device_name(name)})" if gpu and name != "cpu" else "" for name in devices)
    named = ", ".join(f"{name}{chip}" for name, chip in zip(devices, chips, strict=True))
    count = torch.get_num_threads()
    console.print(f"computing on {named}, {count} CPU thread{'' if count == 1 else 's'}")


def set_threads(threads: int | None) -> None:
    """Sets the number of CPU threads to compute with; None as in `start_computing`."""
    import torch

    from ..parallel import available_cores

    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = min(torch.get_num_threads(), available_cores())
    if threads is not None:
        check_count("--threads", threads)
        torch.set_num_threads(threads)


def show_repeated(distilled: DistilledSet) -> None:
    """Say of which cells there are fewer real images than a set was to begin with."""
    if cells := distilled.provenance.get("repeated"):
        more = f" and {len(cells) - 5} more" if len(cells) > 5 else ""
        note(f"more images per class than there are real ones, which repeat: {', '.join(cells[:5])}{more}")


def note_strays(distilled: DistilledSet) -> None:
    """Say where a set has left the range of images."""
    from ..synthetic.distilled_set import FAR

    if distilled.strays:
        note(
            f"{distilled.strays} of {len(distilled.images)} images have values beyond {FAR:g} standard "
            "deviations: a learning rate or a strength was too high for them to stay images"
        )


def show_warnings(dataset: DomainDataset) -> None:
    """Say what is odd about the data."""
    for warning in dataset.warnings:
        note(warning)
