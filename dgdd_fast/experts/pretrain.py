"""Pretraining: experts on the real images, for the objectives that match in trained networks (CADM, MMD)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..config import PretrainConfig, PretrainSettings, checked, settled, to_dict
from ..data import DomainDataset
from ..data.augment import resolve_strategy
from ..data.checks import check_filled
from ..data.real_images import RealImages
from ..data.record import ImageRecord
from ..devices import resolved_device
from ..interruption import Interrupted, Stop, TrainingDivergedError, stop_at_whole_steps
from ..memory import check_fits
from ..messages import shown
from ..networks import has_stages, network_bytes, resolve_network, staged_architectures
from ..parallel import side_by_side
from ..precision import arithmetic, resolved_precision
from ..ranks import Ranks, here
from .expert_training import ExpertTraining, clear_checkpoints
from .pool import POOL_NAME, ExpertPool, ExpertPoolError


class PretrainProgress(NamedTuple):
    """The state of a pretraining after an epoch; `measures` are those of ExpertPool.log."""

    expert: int
    experts: int
    epoch: int
    epochs: int
    measures: dict[str, Any]


class PretrainingInterrupted(Interrupted):
    """A signal (see `dgdd_fast.interruption`); the pretraining was left at a whole step."""


def pretrain(
    sources: DomainDataset,
    config: PretrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    device: str | torch.device = "cpu",
    progress: Callable[[PretrainProgress], None] | None = None,
) -> ExpertPool:
    """Trains `config.experts` networks on the images of the source domains.

    The loss is L_cls + `domain_weight` * L_dom (CADM, Eq. 10): cross entropy on the class, and the mean over
    the stages of the cross entropy on the domain, whose gradient is reversed on its way into the
    network. SGD; the learning rate falls to a fifth after two thirds and again after five sixths of the
    epochs. Each batch is augmented with parameters of its own for each image; with `cutmix_probability` it is
    then mixed, and both the class and the domain targets are split between an image and its partner like the
    pixels: a box from another domain shows that domain.

    With `discriminators` "refitted" those that took part in this give way, at the end, to a logistic
    regression on the features of the finished network: see `logistic_regression`.

    With `generalize` "irm" the penalty of `invariance_penalty` is added, and the whole divided by the
    penalty's weight where that is above 1, so that the gradient keeps its size; when the weight changes, the
    momentum starts from zero again. With "fact" each image of a batch first takes over a share of another's
    amplitudes.

    Where `torch.distributed` is initialised, its ranks train an expert each at a time: the files are those of
    one process. All return the pool; the first alone calls `progress`.

    Args:
        sources: the training images of the source domains, the same that are distilled.
        config: the settings.
        folder: where the pool goes: see ExpertPool. Beside it a checkpoint of each expert in training, every
            `config.checkpoint_every` epochs and when interrupted.
        resume: goes on with what is in `folder`, if anything; the finished experts are kept. On the CPU,
            the result is bit for bit that of an uninterrupted run, with any number of ranks. `experts`
            may be raised to enlarge a pool.
        device: where to train ("auto": on a GPU where there is one), in `config.precision`.
        progress: called after every epoch.

    Raises:
        ValueError: settings that cannot work, a pool in the way, or one of other settings or data.
        TrainingDivergedError: the loss became NaN or infinite.
        PretrainingInterrupted: Ctrl-C, SIGTERM or SIGHUP, after a checkpoint has been written.
        RankLostError: another of the processes that share the experts has ended.
    """
    device, ranks = resolved_device(device), here()
    settings = resolve_pretraining(config, sources)
    check_filled(sources)
    # Parameters, where they began, gradients and momentum.
    needed = 4 * network_bytes(sources.num_classes, sources.resolution, settings.network)
    check_fits(f"training an expert of width {settings.network.width}", needed, device)
    if ranks.count > 1:
        ranks.agree(
            {
                "a device of the kind": device.type,
                "the settings": to_dict(settings),
                "the data": sources.fingerprint(),
            }
        )
    pool = ranks.from_first(lambda: _open_pool(Path(folder), settings, sources, resume))
    real = RealImages(sources, pool.mean, pool.std, device)
    told = progress if ranks.rank == 0 else None
    with (
        arithmetic(settings.precision, real.device),
        side_by_side(real.device),
        stop_at_whole_steps() as stop,
    ):
        while len(pool) < settings.experts:
            _train_next(pool, real, ranks, stop, told)
    return pool


class _Report(NamedTuple):
    """What a rank tells the others after a step, or where it has none to take: how its epoch went, if one
    ended, or why its training did; and the signal it heard."""

    busy: bool = False
    ended: PretrainProgress | None = None
    epoch: int | None = None
    error: TrainingDivergedError | None = None
    signal: int | None = None


def _train_next(
    pool: ExpertPool,
    real: RealImages,
    ranks: Ranks,
    stop: Stop,
    progress: Callable[[PretrainProgress], None] | None,
) -> None:
    """Trains the next experts of the pool, one in each rank while there are enough, and adds them to it.

    All take their steps together, so that they end together; an expert that is done waits for the others.
    """
    settings, first = pool.config, len(pool)
    last = min(first + ranks.count, settings.experts)
    training = None
    if first + ranks.rank < last:
        training = ExpertTraining(real, settings, first + ranks.rank)
        training.resume(pool.folder)
    while True:
        own = _step(training, stop, settings)
        reports = ranks.gathered(own)
        for report in reports:
            if report.error is not None:
                raise report.error
            if report.ended is not None and progress is not None:
                progress(report.ended)
        stopped = stop.follow(next((report.signal for report in reports if report.signal), None))
        if training is not None and (stopped or (own.ended and _is_kept(training))):
            training.save(pool.folder)
        if stopped:
            least = min(report.epoch for report in reports if report.epoch is not None)
            which = f"expert {last}" if last == first + 1 else f"experts {first + 1} to {last}"
            raise stop.error(
                PretrainingInterrupted,
                f"stopped after {least} of {settings.epochs} epochs of {which} of {settings.experts}; "
                f"go on from {pool.folder} with resume=True (--resume)",
            )
        if not any(report.busy for report in reports):
            break
    log = []
    if training is not None:
        if settings.discriminators == "refitted":
            training.refit_discriminators()
        pool.write_expert(training.index, training.initial, dict(training.expert.named_parameters()))
        log = training.log
    pool.log += ranks.gathered(log)[: last - first]
    if ranks.rank == 0:
        pool.write()
        clear_checkpoints(pool.folder, len(pool))


def _step(training: ExpertTraining | None, stop: Stop, settings: PretrainSettings) -> _Report:
    """The next step of a rank's expert, if it has one that is not done."""
    if training is None:
        return _Report(signal=stop.number)
    if training.is_done:
        return _Report(epoch=training.epoch, signal=stop.number)
    try:
        epoch_ended = training.step()
    except TrainingDivergedError as error:
        return _Report(error=error)
    place = (training.index, settings.experts, training.epoch, training.epochs)
    ended = PretrainProgress(*place, training.log[-1]) if epoch_ended else None
    return _Report(True, ended, training.epoch, signal=stop.number)


def _is_kept(training: ExpertTraining) -> bool:
    """Whether a checkpoint is due after this epoch; the last is, as what follows may take long."""
    return training.is_done or training.epoch % training.config.checkpoint_every == 0


def resolve_pretraining(config: PretrainConfig, sources: DomainDataset) -> PretrainSettings:
    """The settings with what follows from the data written out; raises ValueError for what cannot work."""
    checked(config, "pretrain")
    if not has_stages(config.network.architecture):
        raise ValueError(
            f"experts have domain discriminators behind the stages of their network, and "
            f"{config.network.architecture} has none; take one of {', '.join(staged_architectures())}"
        )
    if config.network.norm == "batch":
        raise ValueError(
            "an expert must normalise each sample by itself (norm 'instance' or 'none'): with batch "
            "statistics the classes and domains of a batch would change each other's features"
        )
    if len(sources) == 0:
        raise ValueError(f"{sources.name} has no images to train experts on")
    return settled(
        PretrainSettings,
        config,
        network=resolve_network(config.network, sources.resolution),
        precision=resolved_precision(config.precision),
        augment=resolve_strategy(config.augment, sources.flip_safe, config.cutmix_probability > 0),
    )


def _open_pool(folder: Path, config: PretrainSettings, sources: DomainDataset, resume: bool) -> ExpertPool:
    """The pool to go on with, or an empty one."""
    path = folder / POOL_NAME
    if not path.exists():
        if any(folder.glob("expert_*.safetensors")):
            raise ExpertPoolError(f"{folder} holds experts, but no {POOL_NAME}: choose another folder")
        mean, std = sources.channel_statistics()
        pool = ExpertPool(
            folder=folder,
            config=config,
            data=sources.name,
            class_names=sources.class_names,
            domain_names=sources.domain_names,
            resolution=sources.resolution,
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            fingerprint=sources.fingerprint(),
            learnt_from=ImageRecord.of(sources).to_json(),
        )
        pool.write()
        return pool
    if not resume:
        raise ValueError(f"{path} exists: go on with it (resume=True, --resume) or choose another folder")
    pool = ExpertPool.read(folder)
    pool.check(sources)
    # Neither changes what an expert becomes.
    kept = dataclasses.replace(pool.config, experts=config.experts, checkpoint_every=config.checkpoint_every)
    found, wanted = to_dict(kept), to_dict(config)
    different = [name for name in wanted if found[name] != wanted[name]]
    if different:
        name = different[0]
        raise ExpertPoolError(
            f"{path} belongs to experts with {name} = {shown(found[name])}, now {shown(wanted[name])}; give "
            "the same settings or choose another folder"
        )
    pool.check_files()
    if len(pool) > config.experts:
        raise ExpertPoolError(f"{folder} already holds {len(pool)} experts, more than {config.experts}")
    if pool.config != config:
        pool.config = config
        pool.write()
    return pool
