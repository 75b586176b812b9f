"""The distillation loop: domain cells in, a DistilledSet out."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .augment import resolve_strategy
from .checkpoint import Checkpoint, CheckpointError
from .config import DistillConfig, to_dict
from .data import DomainDataset
from .distilled_set import DistilledSet
from .matching import ImageGradients, Matching
from .networks import resolve_network
from .sampling import assign_domains, initial_images
from .stopping import stop_at_whole_steps
from .surgery import surgery_step_

CHECKPOINT_NAME = "checkpoint.safetensors"


class Progress(NamedTuple):
    """The state of a run after an iteration; `loss` is the union loss summed over the classes (SGS, Eq.
    3)."""

    iteration: int
    iterations: int
    loss: float
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
        sources: the training images of the source domains; the target domain must not be among them.
        config: the settings. Whatever follows from the data (depth, augmentation) is resolved and recorded in
            the result.
        run_folder: where checkpoints are written every `config.checkpoint_every` iterations. None: none are
            written.
        resume: goes on from the checkpoint in `run_folder` if there is one. With the same settings, data,
            device and number of threads the result is bit for bit that of an uninterrupted run. `iterations`
            may be raised to prolong a run.
        device: where to compute.
        target: the name of the held-out domain, for the record.
        progress: called after every iteration.

    Raises:
        ValueError: settings or data that cannot work, a checkpoint in the way, or one of another run.
        DistillationDivergedError: a NaN or Inf in a gradient, with the class, the iteration and the last good
            checkpoint.
        DistillationInterrupted: Ctrl-C or SIGTERM, after a checkpoint has been written.
    """
    config = resolve(config, sources)
    if target is not None and target in sources.domain_names:
        raise ValueError(f"the target domain {target!r} is among the sources: leave it out before distilling")
    device = torch.device(device)
    mean, std = sources.channel_statistics()
    assigned = assign_domains(sources.counts(), config.ipc)
    domain_index = assigned.flatten().to(device)
    iterations = 0 if config.objective == "random" else config.iterations

    path = None if run_folder is None else Path(run_folder) / CHECKPOINT_NAME
    data_fingerprint = sources.fingerprint()
    start = _read_checkpoint(path, config, data_fingerprint) if resume and path and path.exists() else None
    if path and path.exists() and start is None:
        raise ValueError(f"{path} exists: resume that run (resume=True, --resume) or choose another folder")
    if start is None:
        images = initial_images(sources, assigned, config, mean, std)
        start = Checkpoint(
            0, images, torch.zeros_like(images), torch.empty(0), to_dict(config), data_fingerprint, _threads()
        )
    images = start.images.to(device, copy=True)
    momentum_buffer = start.momentum_buffer.to(device, copy=True)
    losses = start.losses.tolist()

    def checkpoint(iteration: int) -> None:
        if path is not None:
            state = (images, momentum_buffer, torch.tensor(losses))
            Checkpoint(iteration, *state, to_dict(config), data_fingerprint, _threads()).save(path)

    matching = Matching(sources, config, mean, std, device)
    iteration = start.iteration
    if iteration == 0:
        checkpoint(0)
    with stop_at_whole_steps() as stop:
        while iteration < iterations:
            began = time.perf_counter()
            gradients = matching.gradients(images, iteration, by_domain=config.surgery is not None)
            _check_finite(gradients, matching.labels, sources.class_names, iteration, path, config)
            _step_(images, momentum_buffer, gradients, domain_index, config)
            losses.append(float(gradients.losses.sum()))
            iteration += 1
            if progress is not None:
                progress(Progress(iteration, iterations, losses[-1], time.perf_counter() - began))
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
        images=images.cpu(),
        labels=matching.labels.cpu(),
        domains=assigned.flatten(),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        class_names=sources.class_names,
        domain_names=sources.domain_names,
        flip_safe=sources.flip_safe,
        config=to_dict(config),
        provenance={
            "dataset": sources.name,
            "fingerprint": data_fingerprint,
            "target": target,
            "iterations": iteration,
            "device": device.type,
            "threads": _threads(),
            "dgdd_fast": version("dgdd-fast"),
            "torch": torch.__version__,
        },
    )


def resolve(config: DistillConfig, sources: DomainDataset) -> DistillConfig:
    """The settings with everything that follows from the data made explicit; raises ValueError for what
    cannot work."""
    for name in ("ipc", "batch_real", "checkpoint_every", "memory_budget_mib"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.iterations < 0:
        raise ValueError(f"iterations must not be negative, got {config.iterations}")
    if config.network.norm == "batch":
        raise ValueError(
            "the matching network must normalise each sample by itself (norm 'instance' or 'none'): with "
            "batch statistics the classes and domains of a batch would change each other's features"
        )
    if config.surgery is not None and config.objective == "random":
        raise ValueError("surgery acts on gradients, and the objective 'random' has none")
    return dataclasses.replace(
        config,
        network=resolve_network(config.network, sources.resolution),
        augment=resolve_strategy(config.augment, sources.flip_safe),
    )


def _step_(
    images: Tensor,
    momentum_buffer: Tensor,
    gradients: ImageGradients,
    domain_index: Tensor,
    config: DistillConfig,
) -> None:
    if config.surgery is not None and gradients.by_domain is not None:
        surgery_step_(
            images,
            momentum_buffer,
            gradients.by_domain,
            gradients.union,
            domain_index,
            gradients.valid,
            config.surgery,
            config.image_lr,
            config.momentum,
        )
    elif gradients.union is not None:
        momentum_buffer.mul_(config.momentum).add_(gradients.union)
        images.add_(momentum_buffer, alpha=-config.image_lr)


def _check_finite(
    gradients: ImageGradients,
    labels: Tensor,
    class_names: tuple[str, ...],
    iteration: int,
    path: Path | None,
    config: DistillConfig,
) -> None:
    found = gradients.union if gradients.by_domain is None else gradients.by_domain
    assert found is not None
    # One reduction decides nearly always: a NaN or Inf anywhere makes the sum one.
    if bool(torch.isfinite(found.sum())):
        return
    bad = ~torch.isfinite(found.reshape(-1, *found.shape[-4:])).all(0).flatten(1).all(1)
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
        raise CheckpointError(f"{path} belongs to a run on other data; choose another folder")
    wanted = to_dict(config)
    # Neither changes what an iteration computes.
    for name in ("iterations", "checkpoint_every"):
        checkpoint.config[name] = wanted[name]
    different = [name for name in wanted if checkpoint.config.get(name) != wanted[name]]
    if different:
        name = different[0]
        raise CheckpointError(
            f"{path} belongs to a run with {name} = {checkpoint.config.get(name)!r}, now {wanted[name]!r}; "
            "give the same settings or choose another folder"
        )
    if config.objective != "random" and checkpoint.iteration > config.iterations:
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
