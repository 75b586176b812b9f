"""A whole distillation run as one YAML file: the data, the held-out domain and the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..files import write_atomically
from .bounds import Size
from .convert import from_dict, to_dict
from .schema import DistillConfig
from .yaml_text import dump_yaml, load_yaml

# What the folder of a run, or of a job of a grid, holds.
CONFIG_NAME = "config.yaml"
SET_NAME = "distilled.safetensors"
SHEET_NAME = "contact_sheet.png"
LOSSES_NAME = "losses.csv"

CHECKPOINT_NAME = "checkpoint.safetensors"
# Each of them says that a folder is taken: by a run, by experts, by a grid or by the demonstration.
_TAKEN = (
    CONFIG_NAME,
    CHECKPOINT_NAME,
    SET_NAME,
    SHEET_NAME,
    "evaluation.json",
    "results.json",
    LOSSES_NAME,
    "pool.json",
    "grid.json",
)

NO_TARGET = "none"


@dataclass(frozen=True)
class RunConfig:
    """What `dgdd distill` needs to know; the YAML file has the same names.

    Attributes:
        data: "embedded-digits", or a folder of images or of .npz files.
        target: the domain to hold out, or "none" to distil all domains.
        domains: the domains of the data to use; None takes all.
        classes: the classes of the data to use; None takes all.
        resolution: side in pixels that the images are resized to; None keeps theirs.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
        threads: CPU threads; None leaves the choice to torch.
        distill: the settings of the distillation.
    """

    data: str = "embedded-digits"
    target: str | None = None
    domains: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    resolution: Size | None = None
    device: str = "auto"
    threads: Size | None = None
    distill: DistillConfig = field(default_factory=DistillConfig)


def check_free(folder: Path, otherwise: str = "") -> None:
    """Raises ValueError where `folder` holds anything of a run, of experts or of a grid, finished or not;
    `otherwise` is what can be done beside choosing another."""
    there = [name for name in _TAKEN if (folder / name).exists()]
    if there:
        raise ValueError(
            f"{folder} holds a run already ({', '.join(there)}): {otherwise}choose another --out"
        )


def read_run_config(path: Path) -> RunConfig:
    """The run that a YAML file describes. Raises ValueError naming the file and the setting that is wrong."""
    try:
        return from_dict(RunConfig, load_yaml(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_run_config(path: Path, run: RunConfig) -> None:
    """Write the YAML file that `read_run_config` reads back to an equal `run`."""
    write_atomically(path, dump_yaml(to_dict(run)))
