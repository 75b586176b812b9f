"""Every setting of a run, as frozen dataclasses that are written whole into each artefact.

Each field says its type and range; `from_dict` and `checked` hold it to them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from .bounds import (
    AtLeastOne,
    Bound,
    Count,
    CountOrNone,
    Finite,
    Momentum,
    NotNegative,
    Positive,
    Repeats,
    Seed,
    Share,
    Size,
)
from .convert import Names
from .methods import METHODS
from .older import renewed_distillation, renewed_pretraining

DSA_STRATEGY = "color_crop_cutout_flip_scale_rotate"
Term = Literal["off", "plain", "masked"]  # of the loss of objectives that match in experts
Precision = Literal["float32", "tf32", "bfloat16"]  # see `dgdd_fast.precision`
PrecisionOrAuto = Literal["auto", "float32", "tf32", "bfloat16"]
# How the networks are called in settings and in texts; `dgdd_fast.networks.register_network` adds to them.
ARCHITECTURES = {
    "convnet": "ConvNet",
    "alexnet": "AlexNet",
    "vgg11": "VGG-11",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
}
# Whose networks may be named too, to test sets with: "timm:resnet18".
LIBRARIES = ("timm", "torchvision")

Architecture = Annotated[
    str, Names(lambda: ARCHITECTURES, prefixes=tuple(f"{library}:" for library in LIBRARIES))
]
Objective = Annotated[str, Names(lambda: METHODS)]


@dataclass(frozen=True)
class NetworkConfig:
    """A network that compares features or that is trained on a distilled set.

    `width` is the number of channels of the first stage, the others scale with it; None is the architecture's
    own (128 for ConvNet and AlexNet, 64 for VGG-11 and the ResNets). `depth` is for a ConvNet only; None
    follows the resolution: 3, 4, 5 blocks for 32, 64, 128 px (features of 4 x 4).
    """

    architecture: Architecture = "convnet"
    width: Size | None = None
    depth: Size | None = None
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
    brightness: NotNegative = 1.0
    saturation: NotNegative = 2.0
    contrast: NotNegative = 0.5
    crop: Share = 0.125
    cutout: Share = 0.5
    flip_probability: Share = 0.5
    scale: AtLeastOne = 1.2
    rotate_degrees: NotNegative = 15.0


@dataclass(frozen=True)
class SurgeryConfig:
    """Spectral Gradient Surgery: the two strengths of SGS Eq. 11, the constant of Eq. 9 and the deviation of
    Eq. 10. `union` False leaves the first term of Eq. 11 out, for the ablation (SGS, Table 4).

    `length`: "free": the update of Eq. 11 as it is, at first nearly twice as long as the gradient g;
    "gradient": scaled, class by class, to the length of g, so that a comparison with the objective alone is
    one of directions.
    """

    alpha: Finite = 1.0
    beta: Finite = 0.3
    eps: NotNegative = 1e-12
    consensus: Literal["weighted", "mean"] = "weighted"
    union: bool = True
    length: Literal["free", "gradient"] = "free"


@dataclass(frozen=True)
class ExpertConfig:
    """Matching in pretrained networks: the objectives "mmd" and "cadm", and which terms their loss has.

    None is the objective's own: "cadm" has all terms and masks in them, "mmd" the two plain ones.

    Attributes:
        pool: the folder that `dgdd pretrain` wrote.
        interpolate: compare features in a network drawn evenly from the line between an expert's initial and
            its trained parameters, another one each iteration; False: in the trained expert. None: unless the
            matching is masked, as what the discriminators tell belongs to the trained features.
        matching: the distance of the mean features: "off", "plain" (CADM, Eq. 2), or "masked": channels of
            the real images are (Eq. 7).
        regularisation: the cross entropy of the synthetic images in the trained expert: "off", "plain" (Eq.
            3) or "masked" (Eq. 8).
        consistency: have the divergence between two masked predictions for the synthetic images (Eq. 9).
    """

    pool: str | None = None
    interpolate: bool | None = None
    matching: Term | None = None
    regularisation: Term | None = None
    consistency: bool | None = None


@dataclass(frozen=True)
class MaskConfig:
    """How "cadm" masks domain-sensitive channels; in which terms of the loss, `ExpertConfig` says.

    Attributes:
        share: of a stage's channels that is masked (P_mask).
        activation_probability: of masking at all, drawn each iteration for the matching and for the
            regularisation (P_active).
        score: "gap": CADM Eq. 5; "pixel": scaled to [0, 1] over the channels at each pixel before the
            average; "uniform": the same for all channels, the control: a uniform random mask.
        rescale: multiply the channels kept by C / (C - M), so that masking keeps the level of the features.
        stages: those one of which is masked, of a ResNet's 1 to 4; None: all.
        draws: masks of each real image that its features in the matching are averaged over where the last
            stage is masked: there one mask is noise, and another costs next to nothing. None: more where the
            real batch is small (`masks_an_image`).
        consistency_weight: of the divergence (lambda, Eq. 12).
    """

    share: Share = 0.33
    activation_probability: Share = 0.8
    score: Literal["gap", "pixel", "uniform"] = "gap"
    rescale: bool = True
    stages: tuple[Size, ...] | None = None
    draws: Size | None = None
    consistency_weight: Annotated[float, Bound("be 0 or more", 0, float("inf"), open_high=True)] = 100.0


@dataclass(frozen=True)
class DomainMaskConfig:
    """The domain-aware module (DAM): learnable masks that take every synthetic image apart into a view for
    each domain; the views are matched with the domains' images.

    Attributes:
        weight: of the domain loss (lambda).
        temperature: of the softmax over the domains that makes masks of what is learnt (tau).
        learning_rate: of the masks; None is that of the images.
    """

    weight: NotNegative = 1.0
    temperature: Positive = 0.1
    learning_rate: Positive | None = None


@dataclass(frozen=True)
class DistillConfig:
    """A distillation run. `surgery` None is the objective alone. "random" keeps the initial images, "herding"
    chooses real images, "rded" crops of them: the coreset baselines.

    None stands for the objective's own value: see `MethodSpec`.

    Attributes:
        experts, masks: for "mmd" and "cadm", and for "cadm".
        domain_masks: for "dm" and "mmd": the domain-aware module; None is without.
        fact: mix the amplitude spectra of real and synthetic images with those of real images of any domain
            before they are compared.
        factor: an image is a mosaic of factor x factor tiles, each a training image once enlarged.
        optimizer: "sgd" with `momentum`, or "adam" (betas 0.9 and 0.999).
        image_lr: of "sgd" in the units of the normalised images, of "adam" in those of the pixel range
            [0, 1]. None is for "sgd" the objective's own times `factor`, so that a step moves the enlarged
            tiles about as far as it does images.
        image_weight_decay: of "adam", decoupled from the gradient (AdamW): what share of themselves, times
            the learning rate, the pixels lose at a step.
        stepping: "joint": one step an iteration; "class": one for each class and each term of the loss, in
            which the images of other classes go on by what the optimiser remembers (NCFM).
        plateau: halve the learning rate where the loss has not fallen for more than this many iterations
            (NCFM: 500); None: never.
        clamp: keep the pixels within [0, 1] after every iteration.
        union: what the real images of all domains together are. "balanced": the same number from each domain;
            "literal": images of the class whatever their domain, as DM draws them, so that a domain counts by
            its size. The gradient against a domain is always that of those of them that are the domain's.
        batch_real: the most real images of a class in an iteration: of each domain, if the union is balanced.
        init: "uniform": real images, evenly from the domains; "random": whatever their domain; "noise". For
            "herding" and "rded" the first two say what they choose from.
        pseudo_domains: look for this many styles in the images and take them for domains, whatever domains
            the data have; None: the domains of the data.
        herding_epochs: of the training of the network in whose features "herding", and by whose certainty
            "rded" chooses.
        crops: of each real image that "rded" chooses from.
        soft_labels: keep what the network that "rded" chooses by predicts for each tile, to be trained on.
        attention_power: the exponent of "datadam"'s attention maps; 1 as released, 4 in its paper.
        kernel_bandwidth: of "m3d"'s kernels against a domain: "union", that of the class's images of all
            domains, or the domain's own.
        augment: its strategy and composition, too, may be the objective's own.
        precision: of the arithmetic, see `dgdd_fast.precision`. In "bfloat16" the real images of an iteration
            go through the networks in bfloat16; what a synthetic image's gradient flows through stays
            float32.
        memory_budget_mib: about what the maps of the images take that go through a network at once, on
            the CPU in each thread.
    """

    objective: Objective = "dm"
    surgery: SurgeryConfig | None = None
    experts: ExpertConfig | None = None
    masks: MaskConfig | None = None
    domain_masks: DomainMaskConfig | None = None
    fact: bool = False
    ipc: Size = 10
    factor: Size | None = None
    iterations: CountOrNone = 20_000
    optimizer: Literal["sgd", "adam"] | None = None
    image_lr: Positive | None = None
    momentum: Momentum = 0.5
    image_weight_decay: NotNegative = 0.0
    stepping: Literal["joint", "class"] = "joint"
    plateau: Size | None = None
    clamp: bool | None = None
    union: Literal["balanced", "literal"] = "balanced"
    batch_real: Size | None = None
    init: Literal["uniform", "random", "noise"] = "uniform"
    pseudo_domains: Size | None = None
    network: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    herding_epochs: Count = 30
    crops: Size = 5
    soft_labels: bool = False
    attention_power: Positive = 1.0
    kernel_bandwidth: Literal["union", "domain"] = "union"
    precision: PrecisionOrAuto = "float32"
    memory_budget_mib: Size = 2048
    checkpoint_every: Count = 200
    seed: Seed = 0

    renewed = staticmethod(renewed_distillation)


@dataclass(frozen=True)
class PretrainConfig:
    """Experts: networks trained on the real images, with domain discriminators (CADM, Eq. 4 and 10).

    CADM gives the architecture, the epochs (60; 120 for Office-Home and DomainNet), L_cls + L_dom and the
    reversal's weight; all else is inherited from NCFM. With `reversal_weight` 0 the discriminators do not
    act on the network, which is the plain expert of the MMD baseline (Eq. 1).

    Trained together with the network, behind the gradient reversal, discriminators classify the domains
    hardly better than chance, though the features allow much more. With `discriminators` "refitted" a
    logistic regression on the features of the finished network takes their place, so that masks are of
    channels that are domain-sensitive there; "joint" keeps them, as the paper states. The network is the
    same.

    `generalize` adds what CADM compares with: "irm", invariant risk minimisation with `irm_weight` after
    `irm_warmup` steps and weight 1 before; "fact", amplitudes mixed between the images of a batch.

    In the `precision` "bfloat16" all passes are in bfloat16; parameters, losses and steps stay float32.
    """

    experts: Repeats = 20
    epochs: Count = 60
    learning_rate: Positive = 0.01
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch_size: Size = 128
    reversal_weight: NotNegative = 0.25
    domain_weight: NotNegative = 1.0
    discriminators: Literal["refitted", "joint"] = "refitted"
    cutmix_probability: Share = 0.5
    generalize: Literal["none", "irm", "fact"] = "none"
    irm_weight: NotNegative = 100.0
    irm_warmup: CountOrNone = 500
    network: NetworkConfig = field(default_factory=lambda: NetworkConfig(architecture="resnet18"))
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(strategy="color_crop", composition="sequence")
    )
    precision: PrecisionOrAuto = "float32"
    checkpoint_every: Count = 10
    seed: Seed = 0

    renewed = staticmethod(renewed_pretraining)


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
        hard_labels: train on the class of each image alone, also where the set has soft labels.
        precision: of the arithmetic in training and test, see `dgdd_fast.precision`. In "bfloat16" all passes
            are in bfloat16; parameters, losses and steps stay float32.
    """

    runs: Repeats = 5
    epochs: Count = 1000
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive | None = None
    momentum: Momentum = 0.9
    weight_decay: NotNegative | None = None
    batch_size: Size = 256
    network: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    cutmix_probability: Share = 0.0
    generalize: Literal["none", "mixstyle", "fact", "advfreq"] = "none"
    hard_labels: bool = False
    precision: PrecisionOrAuto = "float32"
    seed: Seed = 0


# How sets are tested where DM and SGS come from, and NCFM's way, which CADM inherits; NCFM itself reports the
# best of several checks on the test set, which is not done here.
RECIPES = {
    "dm": EvaluateConfig(),
    "ncfm": EvaluateConfig(
        epochs=2000,
        optimizer="adamw",
        batch_size=128,
        augment=AugmentConfig(composition="sequence"),
        cutmix_probability=0.5,
    ),
}
