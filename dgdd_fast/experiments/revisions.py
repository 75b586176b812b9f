"""What the folder and file names of a grid hash: the settings, so that earlier results are found again as
long as they mean the same, and no longer."""

from __future__ import annotations

from typing import Any

from ..config import DistillConfig, EvaluateSettings, NetworkConfig, PretrainSettings, method_spec, to_dict

# Settings that came later. At these values a run is what it was without them.
LATER: dict[str, Any] = {
    "union": "balanced",
    "image_weight_decay": 0.0,
    "stepping": "joint",
    "plateau": None,
    "crops": 5,
    "soft_labels": False,
}
LATER_EVALUATION: dict[str, Any] = {"hard_labels": False}


def hashed_distillation(config: DistillConfig, resolution: tuple[int, int]) -> dict[str, Any]:
    """What decides the images of a distillation."""
    content = _without(to_dict(config), LATER)
    content["checkpoint_every"] = None  # how often a checkpoint is written decides nothing
    changes, spec = _of_network(config.network, resolution), method_spec(config)
    if spec.revision is not None:
        changes.append(spec.revision)
    if (config.factor or spec.factor) > 1 and config.init != "noise":
        changes.append("the first tiles are of every factor-th pixel")
    return _with(content, changes)


def hashed_pretraining(config: PretrainSettings, resolution: tuple[int, int]) -> dict[str, Any]:
    """What decides the experts of a pool."""
    content = {**to_dict(config), "checkpoint_every": None}
    return _with(content, _of_network(config.network, resolution))


def hashed_evaluation(config: EvaluateSettings, resolution: tuple[int, int]) -> dict[str, Any]:
    """What decides the accuracies of an evaluation, beside the images."""
    changes = _of_network(config.network, resolution)
    if config.generalize == "advfreq":
        changes.append("the window is asymmetric")
    return _with(_without(to_dict(config), LATER_EVALUATION), changes)


def _without(settings: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """`settings` without what came later and changes nothing."""
    return {name: value for name, value in settings.items() if later.get(name, ...) != value}


def _of_network(config: NetworkConfig, resolution: tuple[int, int]) -> list[str]:
    middle = config.architecture in ("resnet18", "resnet50") and 64 < min(resolution) <= 128
    return ["the stem pools 3x3 pixels"] if middle else []


def _with(content: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """`content`, and what has changed under the same settings since files were first named by them."""
    return content | ({"changes": changes} if changes else {})
