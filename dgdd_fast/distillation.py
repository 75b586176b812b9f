"""The distillation loop: domain cells in, a DistilledSet out."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .config import DistillConfig, DistillSettings, method_spec, to_dict
from .config.run import CHECKPOINT_NAME as CHECKPOINT_NAME
from .config.run import LOSSES_NAME
from .data import DomainDataset
from .data.checks import check_filled
from .data.pseudo_domains import apply_pseudo_domains
from .data.real_images import RealImages
from .data.record import ImageRecord
from .devices import resolved_device
from .experts import ExpertPool
from .interruption import Interrupted, stop_at_whole_steps
from .matching.descent import Descent, Found
from .matching.real_means import RealMeans
from .matching.registry import OBJECTIVES, build_objective
from .matching.resolve import resolve_distillation
from .memory import check_fits
from .networks import network_bytes
from .parallel import side_by_side, thread_count
from .precision import arithmetic, resolved_precision
from .ranks import Ranks, here
from .synthetic.checkpoint import Checkpoint
from .synthetic.distilled_set import DistilledSet
from .synthetic.initial import assign_domains, repeated_cells
from .synthetic.losses_file import LossesFile
from .synthetic.mosaics import mosaic
from .synthetic.optimizer import ImageOptimizer


class Progress(NamedTuple):
    """The state of a run after an iteration. `loss` is that against all source domains, summed over the
    classes (SGS, Eq. 3); `terms` are what it is the sum of, by name. `images_so_far` gives the set as it is
    now: a GPU, which works ahead, may be a few iterations further, and the set says how far."""

    iteration: int
    iterations: int
    loss: float
    terms: dict[str, float]
    seconds_per_iteration: float
    images_so_far: Callable[[], DistilledSet]


class DistillationDivergedError(RuntimeError):
    """A NaN or Inf in an image gradient. The images are untouched by it."""


class DistillationInterrupted(Interrupted):
    """A signal (see `dgdd_fast.interruption`); the run was left at a whole iteration."""


def distill(
    sources: DomainDataset,
    config: DistillConfig,
    *,
    run_folder: Path | None = None,
    resume: bool = False,
    device: str | torch.device = "cpu",
    target: str | None = None,
    real_means: Path | None = None,
    started: Callable[[DistilledSet], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> DistilledSet:
    """Distils the images of several source domains into `config.ipc` synthetic images per class.

    Where `torch.distributed` is initialised, its processes share the classes: all call this alike, the first
    of them writes what there is to be written and is the only one whose `started` and `progress` are called,
    and all get the set, the same bits as of one process.

    Args:
        sources: the training images of the source domains; the target domain must not be among them. The
            domains of the result are these, or the pseudo-domains that `config` asks for.
        config: the settings. Whatever follows from the data (depth, augmentation) is resolved and recorded in
            the result.
        run_folder: where checkpoints are written every `config.checkpoint_every` iterations, and losses.csv
            after each. None: neither is written.
        resume: goes on from the checkpoint in `run_folder` if there is one. On the CPU, with the
            same settings and data, the result is bit for bit that of an uninterrupted run.
            `iterations` may be raised to prolong a run.
        device: where to compute ("auto": on a GPU where there is one), in `config.precision`; the caller's
            torch flags are kept.
        target: the name of the held-out domain, for the record.
        real_means: a folder in which runs that differ in nothing but their synthetic images and the steps of
            these share what is the same in all (see `matching.real_means`). It changes no bit of any result.
        started: called once with the initial images, as a set, when all has been checked and nothing has
            been written.
        progress: called after every iteration.

    Raises:
        ValueError: settings or data that cannot work, a checkpoint in the way, or one of another run.
        DistillationDivergedError: a NaN or Inf in a gradient, with the class, the iteration and the last good
            checkpoint.
        DistillationInterrupted: Ctrl-C, SIGTERM or SIGHUP, after a checkpoint has been written.
        RankLostError: another of the processes that share the classes has ended.
    """
    if target is not None and target in sources.domain_names:
        raise ValueError(f"the target domain {target!r} is among the sources: leave it out before distilling")
    device = resolved_device(device)
    with arithmetic(resolved_precision(config.precision), device), side_by_side(device):
        return _distill(sources, config, run_folder, resume, device, target, real_means, started, progress)


def _distill(
    sources: DomainDataset,
    config: DistillConfig,
    run_folder: Path | None,
    resume: bool,
    device: torch.device,
    target: str | None,
    real_means: Path | None,
    started: Callable[[DistilledSet], None] | None,
    progress: Callable[[Progress], None] | None,
) -> DistilledSet:
    check_filled(sources)
    ranks = here()
    real_domains, record = list(sources.domain_names), ImageRecord.of(sources)
    sources = apply_pseudo_domains(sources, config, device)
    settings = resolve_distillation(config, sources)
    fingerprint = _fingerprint(sources, settings)
    path = None if run_folder is None else Path(run_folder) / CHECKPOINT_NAME
    resumed = _checkpoint_to_resume(path, resume, settings, fingerprint, sources)

    _check_ranks(ranks, settings, fingerprint, resumed, device, real_means)
    _check_memory(sources, settings, device)
    mean, std = sources.channel_statistics()
    assigned = assign_domains(sources.counts(), settings.ipc, settings.factor)
    start = OBJECTIVES[settings.objective].begin(sources, assigned, settings, mean, std, device)
    domain_index = start.assigned.flatten()
    # As the tiles they stay what a run began with, also where a network trained again would differ.
    soft = {} if start.soft_labels is None else {"soft_labels": start.soft_labels}
    repeated: list[str] = []  # cells with fewer real images than there are images to begin with
    if settings.init != "noise":
        repeated = repeated_cells(sources, assigned, by_domain=settings.init == "uniform")
    objective = build_objective(RealImages(sources, mean, std, device), settings, domain_index)
    if real_means is not None:
        objective.share_real_means(RealMeans(real_means, settings, fingerprint, device))
    iterations = 0 if method_spec(settings).family == "coreset" else settings.iterations

    if iterations == 0:
        ranks = Ranks(ranks.rank)  # there is nothing to share
    # Surgery transforms images two by two, and what it pairs is never apart.
    own = ranks.share(sources.num_classes, together=1 + settings.ipc * settings.factor**2 % 2)
    if ranks.count > 1:
        objective.take(own)

    # What is optimised are the tiles of the images; without mosaics, a tile is an image.
    tiles = start.tiles.to(device, copy=True)
    optimizer = ImageOptimizer(settings, mean, std, domain_index, tiles, sources.num_classes, own)
    losses: list[list[float]] = []
    first = 0
    if resumed is not None and path is not None:
        resumed.check_fits(path, tiles, {**optimizer.state, **objective.state, **soft})
        tiles.copy_(resumed.images)
        optimizer.restore(resumed.optimizer)
        objective.restore(resumed.optimizer)
        soft = {name: resumed.optimizer[name] for name in soft}
        losses, first = resumed.losses.tolist(), resumed.iteration

    def as_set(tiles: Tensor, iteration: int) -> DistilledSet:
        return DistilledSet(
            images=mosaic(tiles.to("cpu", copy=True), settings.factor),
            labels=torch.arange(sources.num_classes).repeat_interleave(settings.ipc),
            domains=domain_index,
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            class_names=sources.class_names,
            domain_names=sources.domain_names,
            flip_safe=sources.flip_safe,
            config=to_dict(settings),
            provenance={
                "dataset": sources.name,
                "fingerprint": fingerprint,
                "learnt_from": record.to_json(),
                "sources": real_domains,
                "target": target,
                "iterations": iteration,
                **({"repeated": repeated} if repeated else {}),
                "length_ratio": optimizer.length_ratio,
                "device": device.type,
                "threads": thread_count(),
                "dgdd_fast": version("dgdd-fast"),
                "torch": torch.__version__,
            },
            factor=settings.factor,
            soft_labels=soft.get("soft_labels"),
        )

    def complete() -> None:
        """Fetches what other ranks have moved."""
        for moved in (tiles, *(optimizer.state[name] for name in optimizer.moments)):
            ranks.complete_(moved, optimizer.tiles)

    def checkpoint(done: int) -> None:
        complete()
        if path is not None and ranks.rank == 0:
            learnt = {**optimizer.state, **objective.state, **soft}
            kept = (tiles, learnt, torch.tensor(losses), to_dict(settings), fingerprint, thread_count())
            Checkpoint(done, *kept, learnt_from=record.to_json()).save(path)

    if started is not None and ranks.rank == 0:
        started(as_set(start.tiles, 0))
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_at_whole_steps())
        if first == 0:
            checkpoint(0)
        losses_file = None
        if path is not None and ranks.rank == 0:
            losses_file = stack.enter_context(
                LossesFile(path.with_name(LOSSES_NAME), objective.terms, losses)
            )
        signal_of_all: int | None = None

        def agree(found: Found) -> Callable[[], Found]:
            told = _of_all(found, stop.number, ranks, own)

            def agreed() -> Found:
                nonlocal signal_of_all
                of_all, signal_of_all = told()
                return of_all

            return agreed

        descent = Descent(
            objective, optimizer, tiles, settings.surgery is not None, agree if ranks.count > 1 else None
        )
        for done in descent.iterations(range(first, iterations)):
            # Whoever heard it: all stop here.
            stopping = stop.follow(signal_of_all) if ranks.count > 1 else stop.is_set()
            keeping = stopping or done % settings.checkpoint_every == 0 or done == iterations
            if not (keeping or descent.due):
                continue
            outcome = descent.look(to_the_end=keeping)
            so_far = functools.partial(as_set, tiles, len(losses) + len(outcome.losses))
            for found in outcome.losses:
                losses.append(found)
                if losses_file is not None:
                    losses_file.add(len(losses), found)
                if progress is not None and ranks.rank == 0:
                    terms = dict(zip(objective.terms, found, strict=True))
                    loss = sum(found)
                    progress(Progress(len(losses), iterations, loss, terms, outcome.seconds, so_far))
            if outcome.broken:
                names = ", ".join(sources.class_names[label] for label in outcome.broken)
                raise _divergence(names, len(losses), settings, path)
            if ranks.count == 1 and stop.is_set():  # also where `progress` asked for it
                stopping = keeping = True
            if keeping:
                checkpoint(done)
            if stopping:
                kept = f"resume from {path} with resume=True (--resume)" if path else "nothing is kept"
                message = f"stopped after iteration {done} of {iterations}; {kept}"
                raise stop.error(DistillationInterrupted, message)
    return as_set(tiles, max(first, iterations))


def _of_all(
    found: Found, signal: int | None, ranks: Ranks, own: slice
) -> Callable[[], tuple[Found, int | None]]:
    """Tells the other ranks what this one has found of its `own` classes, and the signal that it is to end
    at. The result waits for what all have found, and for the signal that any is to end at.

    Both raise RankLostError.
    """
    terms, classes = found.losses.shape
    table = torch.zeros(classes, terms + 3, dtype=torch.float64)
    table[:, :terms] = found.losses.T
    table[own, terms] = math.nan if found.ratios is None else found.ratios.double().cpu()
    table[found.broken, terms + 1] = 1
    table[own, terms + 2] = signal or 0
    complete = ranks.completing(table, own)

    def of_all() -> tuple[Found, int | None]:
        complete()
        ratios, broken, signals = table[:, terms:].unbind(1)
        all_found = Found(
            table[:, :terms].T.float(),
            None if found.ratios is None else ratios.to(found.ratios),
            broken.nonzero().flatten().tolist(),
        )
        return all_found, int(signals.max()) or None

    return of_all


def _check_ranks(
    ranks: Ranks,
    settings: DistillSettings,
    fingerprint: str,
    resumed: Checkpoint | None,
    device: torch.device,
    real_means: Path | None,
) -> None:
    """Raises ValueError where ranks cannot share this run, or differ in anything that its images depend on.

    No rank writes anything before all have read what there is.
    """
    ranks.agree(
        {
            "a device of the kind": device.type,
            "the settings": to_dict(settings),
            "the data and experts": fingerprint,
            "a checkpoint of iteration": None if resumed is None else resumed.iteration,
        }
    )
    if ranks.count > 1 and real_means is not None:
        raise ValueError("real_means is for runs of one process: ranks compute their own")


def _check_memory(sources: DomainDataset, settings: DistillSettings, device: torch.device) -> None:
    """Raises ValueError for images or a network that cannot fit, whatever else does."""
    height, width = sources.resolution
    image = 4 * 3 * height * width
    # The images, where they began, the optimiser's memory and the gradient; for surgery that of each domain.
    copies = 4 + (0 if settings.surgery is None else sources.num_domains)
    what = f"{settings.ipc} images per class of {height} x {width} px for {sources.num_classes} classes"
    check_fits(what, copies * settings.ipc * sources.num_classes * image, device)
    parameters = network_bytes(sources.num_classes, sources.resolution, settings.network)
    check_fits(f"a network of width {settings.network.width}", parameters, device)


def _checkpoint_to_resume(
    path: Path | None, resume: bool, settings: DistillSettings, fingerprint: str, sources: DomainDataset
) -> Checkpoint | None:
    """The state to go on from, if there is one."""
    if path is None or not path.exists():
        return None
    if not resume:
        raise ValueError(f"{path} exists: resume that run (resume=True, --resume) or choose another folder")
    return Checkpoint.load_to_resume(path, settings, fingerprint, sources)


def _divergence(
    names: str, iteration: int, settings: DistillSettings, path: Path | None
) -> DistillationDivergedError:
    kept = "no run folder was given, so no checkpoint was kept"
    if path is not None:
        kept = f"the last good checkpoint is {path}"
    return DistillationDivergedError(
        f"NaN or Inf in the image gradient of class {names} at iteration {iteration}; {kept}. "
        f"Lower the image learning rate (now {settings.image_lr:g}) or the surgery's strengths."
    )


def _fingerprint(sources: DomainDataset, settings: DistillSettings) -> str:
    """The fingerprint of what the run learns from: the images, and the experts if there are any."""
    if settings.experts is None or settings.experts.pool is None:
        return sources.fingerprint()
    return f"{sources.fingerprint()} {ExpertPool.load(settings.experts.pool).identity()}"
