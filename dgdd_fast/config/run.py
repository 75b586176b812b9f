"""A whole distillation run as one YAML file: the data, the held-out domain and the settings."""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from ..files import write_atomically
from .schema import (
    EXPERT_OBJECTIVES,
    ConfigT,
    DistillConfig,
    DomainMaskConfig,
    SurgeryConfig,
    from_dict,
    to_dict,
)

# What the folder of a run, or of a cell of a grid, holds.
CONFIG_NAME = "config.yaml"
SET_NAME = "distilled.safetensors"
SHEET_NAME = "contact_sheet.png"

NO_TARGET = "none"
DEFAULT_METHOD = "dm+sgs"
MODIFIERS = ("dam", "fact", "sgs")
LABELS = {
    "random": "Random",
    "mosaics": "mosaics",
    "herding": "Herding",
    "whole": "Whole data",
    "hdd": "HDD-DM",
    "datadam": "DataDAM",
    "datadam-bn": "DataDAM-BN",
}


@dataclass(frozen=True)
class RunConfig:
    """What `dgdd distill` needs to know; the YAML file has the same names.

    Attributes:
        data: "embedded-digits", or a folder of images or of .npz files.
        target: the domain to hold out, or "none" to distil all domains.
        domains: the domains of the data to use; None takes all.
        classes: the classes of the data to use; None takes all.
        resolution: side in pixels that the images are resized to; None keeps theirs.
        device: "cpu", "cuda", "cuda:1".
        threads: CPU threads; None leaves the choice to torch.
        distill: the settings of the distillation.
    """

    data: str = "embedded-digits"
    target: str | None = None
    domains: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    resolution: int | None = None
    device: str = "cpu"
    threads: int | None = None
    distill: DistillConfig = field(default_factory=DistillConfig)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-3 for a text, for want of a point; here it is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, empty for an empty one. Raises ValueError where it is no mapping."""
    try:
        values = yaml.load(path.read_text("utf-8"), _Loader)  # a SafeLoader: nothing is executed
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if values is not None and not isinstance(values, dict):
        raise ValueError(f"the configuration must be a mapping of settings, got {values!r}")
    return values or {}


def dump_yaml(values: dict[str, Any]) -> bytes:
    """The YAML text of `values`, in their order, as `load_yaml` reads it."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()


def read_run_config(path: Path) -> RunConfig:
    """The run that a YAML file describes. Raises ValueError naming the file and the setting that is wrong."""
    try:
        return from_dict(RunConfig, load_yaml(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_run_config(path: Path, run: RunConfig) -> None:
    """Write the YAML file that `read_run_config` reads back to an equal `run`."""
    write_atomically(path, dump_yaml(to_dict(run)))


def method_name(config: DistillConfig) -> str:
    """The method as the command line writes it: the objective, then its modifiers: "dm", "dm+sgs"."""
    modifiers = {
        "dam": config.domain_masks is not None,
        "fact": config.fact,
        "sgs": config.surgery is not None,
    }
    return "+".join([config.objective, *(name for name, present in modifiers.items() if present)])


def method_label(method: str) -> str:
    """The method as a table writes it: "dm+sgs" is DM+SGS."""
    return "+".join(LABELS.get(part, part.upper()) for part in method.split("+"))


def with_method(config: DistillConfig, method: str) -> DistillConfig:
    """`config` with the objective and modifiers of `method` and without the settings of others.

    Raises ValueError for an unknown method.
    """
    objective, *modifiers = method.split("+")
    objectives = typing.get_args(typing.get_type_hints(DistillConfig)["objective"])
    if objective not in objectives or set(modifiers) - set(MODIFIERS) or len(set(modifiers)) < len(modifiers):
        raise ValueError(
            f"unknown method {method!r}: expected an objective ({', '.join(objectives)}), "
            f"then +{', +'.join(MODIFIERS)} if wanted, such as dm+sgs"
        )
    return dataclasses.replace(
        config,
        objective=cast(Any, objective),
        surgery=(config.surgery or SurgeryConfig()) if "sgs" in modifiers else None,
        domain_masks=(config.domain_masks or DomainMaskConfig()) if "dam" in modifiers else None,
        fact="fact" in modifiers,
        experts=config.experts if objective in EXPERT_OBJECTIVES else None,
        masks=config.masks if objective == "cadm" else None,
    )


def override(config: ConfigT, **values: Any) -> ConfigT:
    """The dataclass `config` with those of `values` that are not None in place of its own."""
    given = {name: value for name, value in values.items() if value is not None}
    return cast(ConfigT, dataclasses.replace(cast(Any, config), **given))
