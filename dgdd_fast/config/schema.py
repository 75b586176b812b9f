"""Every setting of a run, as frozen dataclasses that are written whole into each artefact."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

DSA_STRATEGY = "color_crop_cutout_flip_scale_rotate"
EXPERT_OBJECTIVES = ("mmd", "cadm")
Precision = Literal["float32", "tf32", "bfloat16"]  # see `dgdd_fast.precision`


@dataclass(frozen=True)
class NetworkConfig:
    """A network that compares features or that is trained on a distilled set.

    `width` is the number of channels of the first stage, the others scale with it; None is the architecture's
    own (128 for ConvNet and AlexNet, 64 for VGG-11 and the ResNets). `depth` is for a ConvNet only; None
    follows the resolution: 3, 4, 5 blocks for 32, 64, 128 px (features of 4 x 4).
    """

    architecture: Literal["convnet", "alexnet", "vgg11", "resnet18", "resnet50"] = "convnet"
    width: int | None = None
    depth: int | None = None
    norm: Literal["instance", "batch", "none"] = "instance"


@dataclass(frozen=True)
class AugmentConfig:
    """Differentiable siamese augmentation (DSA). `strategy` None takes every operation that the data allow:
    the horizontal flip is left out where mirrored images change their meaning (digits).

    The same strategy means different things by `composition`. "single" (DSA, DM, SGS; None stands for it
    unless an objective has its own): one of the operations, drawn anew each time. "sequence" (IDC, NCFM,
    CADM): of those named, the flip, the colours, then one drawn from crop, scale and rotate, then the cutout.
    """

    strategy: str | None = None
    composition: Literal["single", "sequence"] | None = None
    brightness: float = 1.0
    saturation: float = 2.0
    contrast: float = 0.5
    crop: float = 0.125
    cutout: float = 0.5
    flip_probability: float = 0.5
    scale: float = 1.2
    rotate_degrees: float = 15.0


@dataclass(frozen=True)
class SurgeryConfig:
    """Spectral Gradient Surgery: the two strengths of SGS Eq. 11, the constant of Eq. 9 and the deviation of
    Eq. 10. `union` False leaves the first term of Eq. 11 out, for the ablation (SGS, Table 4)."""

    alpha: float = 1.0
    beta: float = 0.3
    eps: float = 1e-12
    consensus: Literal["weighted", "mean"] = "weighted"
    union: bool = True


@dataclass(frozen=True)
class ExpertConfig:
    """Matching in pretrained networks: the objectives "mmd" and "cadm".

    Attributes:
        pool: the folder that `dgdd pretrain` wrote.
        interpolate: compare features in a network drawn evenly from the line between an expert's initial and
            its trained parameters, another one each iteration; False: in the trained expert.
        match: have the matching loss (CADM, Eq. 2; with masks Eq. 7).
        regularise: have the cross entropy of the synthetic images in the trained expert (CADM, Eq. 3; with
            masks Eq. 8).
    """

    pool: str | None = None
    interpolate: bool = True
    match: bool = True
    regularise: bool = True


@dataclass(frozen=True)
class MaskConfig:
    """The masking of domain-sensitive channels that makes "cadm" out of "mmd".

    Attributes:
        share: of a stage's channels that is masked (P_mask).
        activation_probability: of masking at all, drawn each iteration for the matching and for the
            regularisation (P_active).
        score: "gap": CADM Eq. 5; "pixel": scaled to [0, 1] over the channels at each pixel before the
            average; "uniform": the same for all channels, the control that masks without asking the
            discriminators.
        rescale: multiply the channels kept by C / (C - M), so that masking keeps the level of the features.
        matching: mask the real features (Eq. 7).
        regularisation: mask the features that the synthetic images are classified by (Eq. 8).
        consistency: have the divergence between two masked predictions (Eq. 9).
        consistency_weight: its weight (lambda, Eq. 12).
    """

    share: float = 0.33
    activation_probability: float = 0.8
    score: Literal["gap", "pixel", "uniform"] = "gap"
    rescale: bool = True
    matching: bool = True
    regularisation: bool = True
    consistency: bool = True
    consistency_weight: float = 100.0


@dataclass(frozen=True)
class DomainMaskConfig:
    """The domain-aware module (DAM): learnable masks that take every synthetic image apart into a view for
    each domain; the views are matched with the domains' images.

    Attributes:
        weight: of the domain loss (lambda).
        temperature: of the softmax over the domains that makes masks of what is learnt (tau).
        learning_rate: of the masks; None is that of the images.
    """

    weight: float = 1.0
    temperature: float = 0.1
    learning_rate: float | None = None


@dataclass(frozen=True)
class DistillConfig:
    """A distillation run. `surgery` None is the objective alone. "random" keeps the initial images, "herding"
    chooses real images: the coreset baselines.

    None stands for the objective's own value: see `objective_defaults`.

    Attributes:
        experts, masks: for "mmd" and "cadm", and for "cadm".
        domain_masks: for "dm" and "mmd": the domain-aware module; None is without.
        fact: mix the amplitude spectra of real and synthetic images with those of real images of any domain
            before they are compared.
        factor: an image is a mosaic of factor x factor tiles, each a training image once enlarged.
        optimizer: "sgd" with `momentum`, or "adam" (betas 0.9 and 0.999).
        image_lr: of "sgd" in the units of the normalised images, of "adam" in those of the pixel range
            [0, 1].
        clamp: keep the pixels within [0, 1] after every step.
        batch_real: the most real images of a class and domain in an iteration.
        init: "uniform": real images, evenly from the domains; "random": whatever their domain; "noise". For
            "herding" the first two say what it chooses from.
        pseudo_domains: look for so many styles in the images and take them for domains, whatever domains the
            data have; None: the domains of the data.
        herding_epochs: of the training of the network in whose features "herding" chooses.
        attention_power: the exponent of "datadam"'s attention maps; 1 as released, 4 in its paper.
        kernel_bandwidth: of "m3d"'s kernels against a domain: "union", that of the class's images of all
            domains, or the domain's own.
        augment: its strategy and composition, too, may be the objective's own.
        precision: of the arithmetic, see `dgdd_fast.precision`. In "bfloat16" the real images of an iteration
            go through the networks in bfloat16; what a synthetic image's gradient flows through stays
            float32.
    """

    objective: Literal[
        "dm", "hdd", "datadam", "datadam-bn", "m3d", "dc", "mmd", "cadm", "random", "herding"
    ] = "dm"
    surgery: SurgeryConfig | None = None
    experts: ExpertConfig | None = None
    masks: MaskConfig | None = None
    domain_masks: DomainMaskConfig | None = None
    fact: bool = False
    ipc: int = 10
    factor: int | None = None
    iterations: int = 20_000
    optimizer: Literal["sgd", "adam"] | None = None
    image_lr: float | None = None
    momentum: float = 0.5
    clamp: bool | None = None
    batch_real: int | None = None
    init: Literal["uniform", "random", "noise"] = "uniform"
    pseudo_domains: int | None = None
    network: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    herding_epochs: int = 30
    attention_power: float = 1.0
    kernel_bandwidth: Literal["union", "domain"] = "union"
    precision: Precision = "float32"
    memory_budget_mib: int = 2048
    checkpoint_every: int = 200
    seed: int = 0


DATADAM = ("datadam", "datadam-bn")  # with instance and with batch normalisation
CORESETS = ("random", "herding")  # the objectives that choose images and change none


def objective_defaults(objective: str, num_domains: int) -> dict[str, Any]:
    """The settings of `DistillConfig` that an objective has values of its own for.

    For "mmd" and "cadm" they are those of the method that they descend from (Wang et al., *Dataset
    Distillation with Neural Characteristic Function*, CVPR 2025), with its 1024 real images a class split
    evenly among the domains.
    """
    if objective in EXPERT_OBJECTIVES:
        return {
            "factor": 2,
            "optimizer": "adam",
            "image_lr": 1e-3,
            "clamp": True,
            "batch_real": max(1, 1024 // num_domains),
            "augment": {"strategy": "color_crop_cutout", "composition": "sequence"},
        }
    return {
        "factor": 1,
        "optimizer": "sgd",
        "image_lr": {"m3d": 100.0, "dc": 0.1}.get(objective, 1.0),
        "clamp": False,
        "batch_real": 64 if objective in DATADAM else 256,
        "augment": {},
    }


@dataclass(frozen=True)
class PretrainConfig:
    """Experts: networks trained on the real images, with domain discriminators (CADM, Eq. 4 and 10).

    CADM gives the architecture, the epochs (60; 120 for Office-Home and DomainNet), L_cls + L_dom and the
    reversal's weight; all else is inherited from NCFM. With `reversal_weight` 0 the discriminators only look
    on, and the network is the plain expert of the MMD baseline (Eq. 1).

    Behind a reversed gradient the discriminators may end up telling the domains no better than chance, though
    the features would let them. `refit_epochs` more train the discriminators alone, in the finished network;
    neither paper has that.

    `generalize` adds what CADM compares with: "irm", invariant risk minimisation with `irm_weight` after
    `irm_warmup` steps and weight 1 before; "fact", amplitudes mixed between the images of a batch.

    In the `precision` "bfloat16" all passes are in bfloat16; parameters, losses and steps stay float32.
    """

    experts: int = 20
    epochs: int = 60
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    reversal_weight: float = 0.25
    domain_weight: float = 1.0
    refit_epochs: int = 0
    cutmix_probability: float = 0.5
    generalize: Literal["none", "irm", "fact"] = "none"
    irm_weight: float = 100.0
    irm_warmup: int = 500
    network: NetworkConfig = field(default_factory=lambda: NetworkConfig(architecture="resnet18"))
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(strategy="color_crop", composition="sequence")
    )
    precision: Precision = "float32"
    checkpoint_every: int = 10
    seed: int = 0


@dataclass(frozen=True)
class EvaluateConfig:
    """Training from scratch on a distilled set and testing once, after the last epoch.

    Attributes:
        optimizer: "sgd" with `momentum`, the learning rate falling to a tenth after half of the epochs, or
            "adamw", the learning rate halved after each fifth.
        learning_rate, weight_decay: None is the optimizer's own: 0.01 and 5e-4 for SGD, 1e-3 and 0.01 for
            AdamW.
        cutmix_probability: of a batch being mixed by CutMix; beside it the default augmentation has no
            cutout.
        generalize: a method of domain generalisation to train with, see `dgdd_fast.generalization`.
        precision: of the arithmetic in training and test, see `dgdd_fast.precision`. In "bfloat16" all passes
            are in bfloat16; parameters, losses and steps stay float32.
    """

    runs: int = 5
    epochs: int = 1000
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float | None = None
    batch_size: int = 256
    network: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    cutmix_probability: float = 0.0
    generalize: Literal["none", "mixstyle", "fact", "advfreq"] = "none"
    precision: Precision = "float32"
    seed: int = 0


# How sets are tested where DM and SGS come from, and NCFM's way, which CADM inherits; NCFM itself reports the
# best of several checks on the test set, which is not done here.
PROTOCOLS = {
    "dm": EvaluateConfig(),
    "ncfm": EvaluateConfig(
        epochs=2000,
        optimizer="adamw",
        batch_size=128,
        augment=AugmentConfig(composition="sequence"),
        cutmix_probability=0.5,
    ),
}

ConfigT = TypeVar("ConfigT")


def fill_in(config: ConfigT, values: dict[str, Any]) -> ConfigT:
    """`config` with those of `values` in place of its own that are None."""
    missing = {name: value for name, value in values.items() if getattr(config, name) is None}
    return typing.cast(ConfigT, dataclasses.replace(typing.cast(Any, config), **missing))


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as nested dictionaries and lists of JSON values."""
    return typing.cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def from_dict(cls: type[ConfigT], values: dict[str, Any]) -> ConfigT:
    """The configuration of type `cls` that `values` describe; missing keys keep their defaults.

    Raises ValueError for an unknown key, a wrong type or a value outside its choices, naming the key.
    """
    return typing.cast(ConfigT, _convert(cls, values, ""))


def _convert(annotation: Any, value: Any, path: str) -> Any:
    name = path or "the configuration"
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        if isinstance(value, annotation):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"{name} must be a mapping of settings, got {value!r}")
        hints = typing.get_type_hints(annotation)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            where = f" in {path}" if path else ""
            raise ValueError(f"unknown setting {unknown[0]!r}{where}; known settings: {', '.join(hints)}")
        return annotation(
            **{
                key: _convert(hints[key], item, f"{path}.{key}" if path else key)
                for key, item in value.items()
            }
        )
    origin = typing.get_origin(annotation)
    if origin is Literal:
        choices = typing.get_args(annotation)
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (inner,) = [arm for arm in typing.get_args(annotation) if arm is not type(None)]
        return _convert(inner, value, path)
    if annotation is Any:
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{name} must be a list, got {value!r}")
        item_type = typing.get_args(annotation)[0]  # tuple[T, ...]
        return tuple(_convert(item_type, item, f"{name}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{name} must be a mapping, got {value!r}")
        item_type = typing.get_args(annotation)[1]  # dict[str, T]
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{name} must have texts as keys, got {key!r}; put it in quotes")
        return {key: _convert(item_type, item, f"{name}.{key}") for key, item in value.items()}
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, annotation) or (annotation is not bool and isinstance(value, bool)):
        raise ValueError(f"{name} must be {annotation.__name__}, got {value!r}")
    return value
