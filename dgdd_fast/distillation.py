"""The distillation loop: domain cells in, a DistilledSet out."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .config import (
    CORESETS,
    DATADAM,
    EXPERT_OBJECTIVES,
    DistillConfig,
    EvaluateConfig,
    fill_in,
    objective_defaults,
    to_dict,
)
from .data import DomainDataset, normalise
from .data.augment import resolve_strategy
from .data.pseudo_domains import with_pseudo_domains
from .evaluation import resolve as resolve_training
from .evaluation import train_network
from .experts import ExpertPool
from .interruption import stop_at_whole_steps
from .matching.datadam_bn import BatchMatching
from .matching.domain_masks import DomainMasks
from .matching.expert_matching import ExpertMatching, resolve_experts
from .matching.feature_matching import Matching, Objective
from .matching.gradient_matching import GradientMatching
from .networks import resolve_network
from .precision import arithmetic
from .seeds import derive_seed
from .synthetic.checkpoint import Checkpoint, CheckpointError
from .synthetic.coresets import herded_rows
from .synthetic.distilled_set import DistilledSet
from .synthetic.gradients import ImageGradients
from .synthetic.initial import assign_domains, initial_rows, initial_tiles
from .synthetic.mosaics import check_factor, mosaic, reduce
from .synthetic.optimizer import ImageOptimizer

CHECKPOINT_NAME = "checkpoint.safetensors"


class Progress(NamedTuple):
    """The state of a run after an iteration. `loss` is that against all source domains, summed over the
    classes (SGS, Eq. 3); `terms` are what it is the sum of, by name."""

    iteration: int
    iterations: int
    loss: float
    terms: dict[str, float]
    seconds_per_iteration: float


class DistillationDivergedError(RuntimeError):
    """A NaN or Inf in an image gradient. The images are untouched by it."""


class DistillationInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; the run was left at a whole iteration."""


def distill(
    sources: DomainDataset,
    config: DistillConfig,
    *,
    run_folder: Path | None = None,
    resume: bool = False,
    device: str | torch.device = "cpu",
    target: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> DistilledSet:
    """Distils the images of several source domains into `config.ipc` synthetic images per class.

    Args:
        sources: the training images of the source domains; the target domain must not be among them. The
            domains of the result are these, or the pseudo-domains that `config` asks for.
        config: the settings. Whatever follows from the data (depth, augmentation) is resolved and recorded in
            the result.
        run_folder: where checkpoints are written every `config.checkpoint_every` iterations. None: none are
            written.
        resume: goes on from the checkpoint in `run_folder` if there is one. On the CPU, with the
            same settings, data and number of threads, the result is bit for bit that of an uninterrupted run.
            `iterations` may be raised to prolong a run.
        device: where to compute, in `config.precision`; the caller's torch flags are kept.
        target: the name of the held-out domain, for the record.
        progress: called after every iteration.

    Raises:
        ValueError: settings or data that cannot work, a checkpoint in the way, or one of another run.
        DistillationDivergedError: a NaN or Inf in a gradient, with the class, the iteration and the last good
            checkpoint.
        DistillationInterrupted: Ctrl-C or SIGTERM, after a checkpoint has been written.
    """
    if target is not None and target in sources.domain_names:
        raise ValueError(f"the target domain {target!r} is among the sources: leave it out before distilling")
    device = torch.device(device)
    with arithmetic(config.precision, device):
        return _distill(sources, config, run_folder, resume, device, target, progress)


def _distill(
    sources: DomainDataset,
    config: DistillConfig,
    run_folder: Path | None,
    resume: bool,
    device: torch.device,
    target: str | None,
    progress: Callable[[Progress], None] | None,
) -> DistilledSet:
    source_domains = list(sources.domain_names)
    sources = as_seen(sources, config, device)
    config = resolve(config, sources)
    mean, std = sources.channel_statistics()
    assert config.factor is not None
    assigned = assign_domains(sources.counts(), config.ipc, config.factor)
    objective = build_objective(sources, config, mean, std, assigned.flatten(), device)
    iterations = 0 if config.objective in CORESETS else config.iterations

    path = None if run_folder is None else Path(run_folder) / CHECKPOINT_NAME
    fingerprint = _fingerprint(sources, config)
    start = _read_checkpoint(path, config, fingerprint) if resume and path and path.exists() else None
    if path and path.exists() and start is None:
        raise ValueError(f"{path} exists: resume that run (resume=True, --resume) or choose another folder")
    # What is optimised are the tiles of the images; without mosaics, a tile is an image.
    if config.objective == "herding":
        tiles, assigned = _herded_tiles(sources, assigned, config, mean, std, device)
    elif start is None:
        tiles = initial_tiles(sources, assigned, config, mean, std)
    else:
        tiles = start.images
    if config.objective == "random" and config.init == "random":
        assigned = sources.domains[initial_rows(sources, assigned, config)].reshape(assigned.shape)
    tiles = tiles.to(device, copy=True)
    state = None if start is None else {name: part.to(device) for name, part in start.optimizer.items()}
    optimizer = ImageOptimizer(config, mean, std, assigned.flatten(), tiles, state)
    domain_masks = None
    if config.domain_masks is not None:
        objective = domain_masks = _with_domain_masks(objective, tiles, config)
        if state is not None:
            domain_masks.restore(state)
    losses: list[list[float]] = [] if start is None else start.losses.tolist()

    def checkpoint(iteration: int) -> None:
        if path is not None:
            learnt = optimizer.state | ({} if domain_masks is None else domain_masks.state)
            state = (tiles, learnt, torch.tensor(losses))
            Checkpoint(iteration, *state, to_dict(config), fingerprint, _threads()).save(path)

    iteration = 0 if start is None else start.iteration
    if iteration == 0:
        checkpoint(0)
    with stop_at_whole_steps() as stop:
        while iteration < iterations:
            began = time.perf_counter()
            gradients = objective.gradients(tiles, iteration, by_domain=config.surgery is not None)
            _check_finite(gradients, objective.labels, sources.class_names, iteration, path, config)
            optimizer.step_(tiles, gradients, iteration)
            if domain_masks is not None:
                domain_masks.learn_(iteration)
            losses.append(gradients.losses.tolist())
            iteration += 1
            if progress is not None:
                terms = dict(zip(objective.terms, losses[-1], strict=True))
                seconds = time.perf_counter() - began
                progress(Progress(iteration, iterations, sum(terms.values()), terms, seconds))
            if stop.is_set():
                checkpoint(iteration)
                raise DistillationInterrupted(
                    f"stopped after iteration {iteration} of {iterations}; "
                    + (
                        f"resume from {path} with resume=True (--resume)"
                        if path
                        else "no run folder, nothing kept"
                    )
                )
            if iteration % config.checkpoint_every == 0 or iteration == iterations:
                checkpoint(iteration)
    return DistilledSet(
        images=mosaic(tiles.cpu(), config.factor),
        labels=torch.arange(sources.num_classes).repeat_interleave(config.ipc),
        domains=assigned.flatten(),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        class_names=sources.class_names,
        domain_names=sources.domain_names,
        flip_safe=sources.flip_safe,
        config=to_dict(config),
        provenance={
            "dataset": sources.name,
            "fingerprint": fingerprint,
            "sources": source_domains,
            "target": target,
            "iterations": iteration,
            "device": device.type,
            "threads": _threads(),
            "dgdd_fast": version("dgdd-fast"),
            "torch": torch.__version__,
        },
        factor=config.factor,
    )


def as_seen(sources: DomainDataset, config: DistillConfig, device: torch.device) -> DomainDataset:
    """`sources` with the domains that the run takes them to have."""
    if config.pseudo_domains is None:
        return sources
    return with_pseudo_domains(sources, config.pseudo_domains, config.network, config.seed, device)


def build_objective(
    sources: DomainDataset,
    config: DistillConfig,
    mean: Tensor,
    std: Tensor,
    domain_index: Tensor,
    device: torch.device,
) -> Objective:
    """What the run descends.

    Args:
        sources: the real images.
        config: resolved.
        mean, std: float32 [3], of the normalisation.
        domain_index: int64 [N], the domain assigned to each synthetic image (tile, where they are mosaics).
        device: where to compute.
    """
    if config.objective == "dc":
        return GradientMatching(sources, config, mean, std, device)
    if config.objective == "datadam-bn":
        return BatchMatching(sources, config, mean, std, device)
    if config.objective in EXPERT_OBJECTIVES:
        return ExpertMatching(sources, config, mean, std, domain_index, device)
    return Matching(sources, config, mean, std, device)


def _with_domain_masks(objective: Objective, tiles: Tensor, config: DistillConfig) -> DomainMasks:
    matching = objective.matching if isinstance(objective, ExpertMatching) else objective
    assert isinstance(matching, Matching)
    return DomainMasks(objective, matching, tiles, config)


def resolve(config: DistillConfig, sources: DomainDataset) -> DistillConfig:
    """The settings with everything that follows from the data made explicit; raises ValueError for what
    cannot work."""
    own = objective_defaults(config.objective, sources.num_domains)
    augment = fill_in(config.augment, own.pop("augment"))
    config = fill_in(config, own)
    if config.objective in EXPERT_OBJECTIVES:
        config = resolve_experts(config, sources)
    elif config.experts is not None or config.masks is not None:
        objectives = " and ".join(EXPERT_OBJECTIVES)
        raise ValueError(f"experts and masks are settings of {objectives}, not of {config.objective}")
    for name in ("ipc", "batch_real", "checkpoint_every", "memory_budget_mib"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    assert config.factor is not None
    check_factor(config.factor, sources.resolution)
    if config.iterations < 0:
        raise ValueError(f"iterations must not be negative, got {config.iterations}")
    _check_numbers(config)
    if config.objective == "datadam-bn":
        config = dataclasses.replace(config, network=dataclasses.replace(config.network, norm="batch"))
    elif config.network.norm == "batch":
        raise ValueError(
            "the matching network must normalise each sample by itself (norm 'instance' or 'none'): with "
            "batch statistics the classes and domains of a batch would change each other's features"
        )
    if config.objective in DATADAM and config.network.architecture != "convnet":
        raise ValueError(
            f"{config.objective} takes the attention maps of a convnet, got the network "
            f"{config.network.architecture!r}"
        )
    if config.domain_masks is not None:
        if config.objective not in ("dm", "mmd"):
            raise ValueError(f"domain masks belong to dm and mmd, not to {config.objective}")
        if config.experts is not None and not config.experts.match:
            raise ValueError("domain masks need the matching loss: leave experts.match on")
    if config.fact and config.objective in (*CORESETS, "dc", "datadam-bn"):
        raise ValueError(f"fact mixes images before they are matched, which {config.objective} does not do")
    if config.surgery is not None and config.objective in CORESETS:
        raise ValueError(f"surgery acts on gradients, and the objective {config.objective!r} has none")
    if config.surgery is not None and config.pseudo_domains is None and sources.num_domains == 1:
        raise ValueError(
            f"surgery compares the gradients of domains, and there is only {sources.domain_names[0]}: look "
            "for styles in it with pseudo_domains (--pseudo-domains 3), or leave +sgs out"
        )
    if config.objective == "herding":
        if config.init == "noise":
            raise ValueError("herding chooses real images: init must be 'uniform' or 'random', got 'noise'")
        if config.herding_epochs < 1:
            raise ValueError(f"herding_epochs must be at least 1, got {config.herding_epochs}")
    return dataclasses.replace(
        config,
        network=resolve_network(config.network, sources.resolution),
        augment=resolve_strategy(augment, sources.flip_safe),
    )


def _check_numbers(config: DistillConfig) -> None:
    """Raises ValueError for a setting that no run can make sense of, NaN and infinity among them."""
    positive = {"image_lr": config.image_lr, "attention_power": config.attention_power}
    not_negative: dict[str, float] = {}
    finite: dict[str, float] = {}
    if config.domain_masks is not None:
        positive["domain_masks.temperature"] = config.domain_masks.temperature
        positive["domain_masks.learning_rate"] = config.domain_masks.learning_rate
        not_negative["domain_masks.weight"] = config.domain_masks.weight
    if config.surgery is not None:
        not_negative["surgery.eps"] = config.surgery.eps
        finite |= {"surgery.alpha": config.surgery.alpha, "surgery.beta": config.surgery.beta}
    for name, value in positive.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
    for name, value in not_negative.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {value}")
    for name, value in finite.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
    if not 0 <= config.momentum < 1:
        raise ValueError(f"momentum must be at least 0 and less than 1, got {config.momentum}")


def _herded_tiles(
    sources: DomainDataset,
    assigned: Tensor,
    config: DistillConfig,
    mean: Tensor,
    std: Tensor,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """The tiles that herding chooses in the features of a network trained on the sources, and their domains,
    as `assigned` [K, T] in shape."""
    training = EvaluateConfig(
        epochs=config.herding_epochs,
        network=config.network,
        augment=config.augment,
        precision=config.precision,
        seed=derive_seed(config.seed, "herding"),
    )
    training = resolve_training(training, sources.resolution, sources.flip_safe)
    network = train_network(
        sources.images, sources.labels, sources.num_classes, training, mean=mean, std=std, device=device
    )
    rows = herded_rows(sources, network, assigned, config.init == "uniform", mean, std)
    assert config.factor is not None
    tiles = reduce(normalise(sources.images[rows], mean, std), config.factor)
    return tiles, sources.domains[rows].reshape(assigned.shape)


def _fingerprint(sources: DomainDataset, config: DistillConfig) -> str:
    """Of what the run learns from: the images, and the experts if there are any."""
    if config.experts is None or config.experts.pool is None:
        return sources.fingerprint()
    return f"{sources.fingerprint()} {ExpertPool.load(config.experts.pool).identity()}"


def _check_finite(
    gradients: ImageGradients,
    labels: Tensor,
    class_names: tuple[str, ...],
    iteration: int,
    path: Path | None,
    config: DistillConfig,
) -> None:
    parts = [part for part in (gradients.union, gradients.by_domain) if part is not None]
    # One reduction decides nearly always: a NaN or Inf anywhere makes the sum one.
    if bool(torch.isfinite(torch.stack([part.sum() for part in parts])).all()):
        return
    found = torch.cat([part.reshape(-1, *part.shape[-4:]) for part in parts])
    bad = ~torch.isfinite(found).all(0).flatten(1).all(1)
    if not bool(bad.any()):
        return
    names = ", ".join(class_names[label] for label in sorted(set(labels[bad].tolist())))
    kept = (
        f"the last good checkpoint is {path}"
        if path
        else "no run folder was given, so no checkpoint was kept"
    )
    raise DistillationDivergedError(
        f"NaN or Inf in the image gradient of class {names} at iteration {iteration}; {kept}. "
        f"Lower the image learning rate (now {config.image_lr:g}) or the surgery's strengths."
    )


def _read_checkpoint(path: Path, config: DistillConfig, data_fingerprint: str) -> Checkpoint:
    checkpoint = Checkpoint.load(path)
    if checkpoint.fingerprint != data_fingerprint:
        raise CheckpointError(
            f"{path} belongs to a run on other data or with other experts; choose another folder"
        )
    wanted = to_dict(config)
    # Neither changes what an iteration computes.
    for name in ("iterations", "checkpoint_every"):
        checkpoint.config[name] = wanted[name]
    if wanted["experts"] is not None and checkpoint.config["experts"] is not None:
        checkpoint.config["experts"]["pool"] = wanted["experts"]["pool"]  # the fingerprint tells which
    # A setting that did not exist yet was at what is now its default.
    found = to_dict(DistillConfig()) | checkpoint.config
    different = [name for name in wanted if found[name] != wanted[name]]
    if different:
        name = different[0]
        raise CheckpointError(
            f"{path} belongs to a run with {name} = {found[name]!r}, now {wanted[name]!r}; "
            "give the same settings or choose another folder"
        )
    if config.objective not in CORESETS and checkpoint.iteration > config.iterations:
        raise CheckpointError(
            f"{path} is already at iteration {checkpoint.iteration}, beyond {config.iterations}"
        )
    if checkpoint.threads != _threads():
        warnings.warn(
            f"the run used {checkpoint.threads} CPU threads and goes on with {_threads()}: "
            "results may differ by rounding",
            stacklevel=3,
        )
    return checkpoint


def _threads() -> int:
    return torch.get_num_threads()
