"""`dgdd pretrain`."""

from __future__ import annotations

import statistics
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import PretrainConfig, from_dict, override, to_dict, with_assignments
from ..config.run import NO_TARGET, check_free
from ..config.yaml_text import load_yaml
from ..files import locked
from ..interruption import Interrupted
from ..ranks import leads
from .options import (
    SOURCE_HELP,
    Classes,
    Device,
    Domains,
    Log,
    Precision,
    Settings,
    Threads,
    assignments,
    logs_to_tensorboard,
    names_in,
    show_warnings,
    source_images,
    start_computing,
)
from .reading import read_data
from .terminal import console, progress

if TYPE_CHECKING:
    from ..experts.pretrain import PretrainProgress

PRETRAIN = PretrainConfig()


def pretrain(
    data: Annotated[str, typer.Option(metavar="SOURCE", help=SOURCE_HELP)],
    target: Annotated[
        str | None,
        typer.Option(metavar="DOMAIN", help=f"The domain to hold out, or {NO_TARGET} to hold out none."),
    ] = None,
    domain: Domains = None,
    classes: Classes = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the experts go. Default: experts/, named by the data."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="YAML",
            help="Settings from a file, or those of other experts: their pool.json; the options given "
            "override it.",
        ),
    ] = None,
    experts: Annotated[
        int | None, typer.Option(min=1, help=f"How many. Default: {PRETRAIN.experts}.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help=f"Of training, each. Default: {PRETRAIN.epochs}.")
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            help=f"A network with stages, resnet50 or one of yours. Default: {PRETRAIN.network.architecture}."
        ),
    ] = None,
    precision: Precision = None,
    settings_given: Settings = None,
    resolution: Annotated[
        int | None,
        typer.Option(min=1, help="Resize the images to this side in pixels. Default: as they are."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help=f"Default: {PRETRAIN.seed}.")] = None,
    device: Device = None,
    threads: Threads = None,
    log: Log = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the experts in the folder, with the same options.")
    ] = False,
) -> None:
    """Train experts on the real images: the networks that CADM and MMD match in.

    Writes to the folder: pool.json with all settings and how each epoch went, and
    expert_00.safetensors, ... with each expert before and after training.

    Stop with Ctrl-C at any time: the same command with --resume goes on, on
    the CPU to the same experts bit for bit; more --experts then enlarge a pool.

    \b
    dgdd pretrain --data pacs/ --resolution 64 --target sketch --out experts/sketch
    dgdd pretrain --data embedded-digits --target street --experts 2 --epochs 5
    dgdd pretrain --data pacs/ --target photo --config experts/sketch/pool.json --seed 1
    dgdd pretrain --data pacs/ --target photo --set pretrain.generalize=irm --set pretrain.reversal_weight=0
    """
    from ..experiments.tensorboard import TensorBoardLog
    from ..experts import POOL_NAME
    from ..experts.pretrain import pretrain as train_experts

    settings = PRETRAIN if config is None else _read_settings(config)
    options = {"experts": experts, "epochs": epochs, "precision": precision, "seed": seed}
    settings = override(settings, **options, network=override(settings.network, architecture=architecture))
    named = options | {"network.architecture": architecture}
    given = assignments(settings_given, {f"pretrain.{name}": value for name, value in named.items()})
    settings = with_assignments(settings, given, "pretrain")
    out = out or Path("experts") / "-".join(
        map(str, (Path(data).name, target, *(domain or ()), f"seed{settings.seed}"))
    )
    logs = logs_to_tensorboard(log, f"{POOL_NAME} has how each epoch went")
    board = TensorBoardLog(out) if logs else None
    device = start_computing(device, threads)
    dataset = read_data(data, resolution, domain or None, names_in(classes))
    show_warnings(dataset)
    sources, held_out = source_images(dataset, target)
    if leads() and not resume:  # the first rank looks after the folder
        check_free(out, f"go on with it (--resume --out {out}), or ")
    height, width_in_pixels = dataset.resolution
    console.print(
        f"{settings.experts} experts on {len(sources)} images of {height} x {width_in_pixels} px, "
        f"{sources.num_classes} classes, domains {', '.join(sources.domain_names)}"
        + (f"; held out: {held_out}" if held_out else "")
        + f"; {settings.precision}"
    )
    try:
        with (
            locked(out) if leads() else nullcontext(),
            progress("training experts", settings.experts * settings.epochs) as show,
            board or nullcontext(),
        ):
            reached: dict[int, int] = {}  # epochs of the experts that were trained here; ranks train several

            def tell(state: PretrainProgress) -> None:
                reached[state.expert] = state.epoch
                show(min(reached) * state.epochs + sum(reached.values()), _detail(state))
                if board is not None:
                    board.add_epoch(state)

            pool = train_experts(sources, settings, out, resume=resume, device=device, progress=tell)
    except Interrupted:
        console.print(f"to go on: the same command with --resume --out {out}")
        raise
    refitted = [log[-1].get("refitted_domain_accuracy") for log in pool.log]
    if any(refitted):
        stages = (f"{statistics.fmean(told):.0f}" for told in zip(*filter(None, refitted), strict=True))
        console.print(f"domains told by the refitted discriminators of the stages: {' '.join(stages)} %")
    console.print(f"written: {out}, {settings.experts} experts")


def _read_settings(path: Path) -> PretrainConfig:
    """The settings in a YAML file, or of the experts that a pool.json is of."""
    from ..config import merged
    from ..experts import POOL_NAME, ExpertPool

    if path.name == POOL_NAME:
        return ExpertPool.read(path.parent).config
    try:
        return from_dict(PretrainConfig, merged(to_dict(PRETRAIN), load_yaml(path)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _detail(state: PretrainProgress) -> str:
    """Expert 3: loss 0.412, 88 % right; domains 61 58 44 37 %."""
    measures = state.measures
    text = f"expert {state.expert + 1}: loss {measures['class_loss']:.3g}"
    if measures["accuracy"] is None:
        return text
    domains = " ".join(f"{value:.0f}" for value in measures["domain_accuracy"])
    return f"{text}, {measures['accuracy']:.0f} % right; domains {domains} %"
