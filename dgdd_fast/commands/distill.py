"""`dgdd distill`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import (
    DEFAULT_METHOD,
    METHODS,
    MODIFIERS,
    DistillConfig,
    ExpertConfig,
    method_name,
    method_spec,
    names_where,
    override,
    with_assignments,
    with_method,
)
from ..config.run import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    NO_TARGET,
    SET_NAME,
    SHEET_NAME,
    RunConfig,
    check_free,
    read_run_config,
    write_run_config,
)
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
    note_strays,
    show_repeated,
    show_warnings,
    source_images,
    start_computing,
)
from .reading import read_data
from .terminal import console, progress

if TYPE_CHECKING:
    from ..synthetic.distilled_set import DistilledSet

DISTILL = DistillConfig()


def distill(
    data: Annotated[
        str | None, typer.Option(metavar="SOURCE", help=f"{SOURCE_HELP} Default: {RunConfig.data}.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="DOMAIN", help=f"The domain to hold out, or {NO_TARGET} to distil all of them."),
    ] = None,
    domain: Domains = None,
    classes: Classes = None,
    pseudo_domains: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="K", help="Look for K styles in the images and take them for the domains."
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"Objective: {', '.join(METHODS)}; then +{', +'.join(MODIFIERS)} if wanted. "
            f"Default: {DEFAULT_METHOD}."
        ),
    ] = None,
    experts: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="For mmd and cadm: what `dgdd pretrain` wrote."),
    ] = None,
    ipc: Annotated[int | None, typer.Option(min=1, help=f"Images per class. Default: {DISTILL.ipc}.")] = None,
    iterations: Annotated[int | None, typer.Option(min=0, help=f"Default: {DISTILL.iterations}.")] = None,
    seed: Annotated[int | None, typer.Option(help=f"Default: {DISTILL.seed}.")] = None,
    resolution: Annotated[
        int | None,
        typer.Option(min=1, help="Resize the images to this side in pixels. Default: as they are."),
    ] = None,
    precision: Precision = None,
    settings_given: Settings = None,
    device: Device = None,
    threads: Threads = None,
    log: Log = None,
    config: Annotated[
        Path | None, typer.Option(metavar="YAML", help="Settings from a file; the options given override it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the run goes. Default: runs/, named after the settings."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, with its settings.")
    ] = False,
) -> None:
    """Distil a data set into a few images per class.

    Writes to the run folder: config.yaml with all settings, losses.csv,
    checkpoint.safetensors, distilled.safetensors and contact_sheet.png.

    Stop with Ctrl-C at any time: --resume goes on, on the CPU to the same images bit for bit.

    \b
    dgdd distill --target street --iterations 500
    dgdd distill --data pacs/ --resolution 64 --target sketch --out runs/sketch
    dgdd distill --data pacs/ --resolution 64 --target sketch --method cadm --experts experts/sketch
    dgdd distill --data digits/ --domain mnist --target none --pseudo-domains 4 --method hdd+sgs
    dgdd distill --target street --set distill.image_lr=5 --set distill.surgery.alpha=0.5
    dgdd distill --target street --set distill.network.width=32 --set distill.batch_real=64
    dgdd distill --target street --set distill.memory_budget_mib=512
    dgdd distill --resume --out runs/sketch
    dgdd distill --config runs/sketch/config.yaml --seed 1 --out runs/1
    """
    if resume and out is None:
        raise ValueError("--resume needs the folder of the run to go on with: --out FOLDER")
    if resume and config is None and out is not None:
        config = out / CONFIG_NAME
    run = RunConfig() if config is None else read_run_config(config)
    settings = run.distill
    if method is not None or config is None:
        settings = with_method(settings, method or DEFAULT_METHOD)
    if method_spec(settings).family == "experts":
        settings = override(settings, experts=override(settings.experts or ExpertConfig(), pool=experts))
    elif experts is not None:
        owners = names_where("experts")
        raise ValueError(f"--experts belongs to {owners}, but the method is {method_name(settings)}")
    options = {
        "ipc": ipc,
        "iterations": iterations,
        "seed": seed,
        "pseudo_domains": pseudo_domains,
        "precision": precision,
    }
    settings = override(settings, **options)
    where = {"data": data, "target": target, "resolution": resolution, "device": device, "threads": threads}
    run = override(
        run, **where, domains=tuple(domain or ()) or None, classes=names_in(classes), distill=settings
    )
    named = options | {"experts.pool": experts}
    given = where | {f"distill.{name}": value for name, value in named.items()}
    run = with_assignments(run, assignments(settings_given, given))
    if (changed := method_name(run.distill)) != method_name(settings):
        raise ValueError(
            f"--set makes the method {changed}, and it is {method_name(settings)}: for {changed} give "
            f"--method {changed}, or leave the settings out that belong to it"
        )
    _distill(run, out or _default_folder(run), resume, log)


def _default_folder(run: RunConfig) -> Path:
    settings = run.distill
    parts = (
        Path(run.data).name,
        run.target,
        *(run.domains or ()),
        method_name(settings),
        f"ipc{settings.ipc}",
        f"seed{settings.seed}",
    )
    return Path("runs") / "-".join(map(str, parts))


def _distill(run: RunConfig, out: Path, resume: bool, log: str | None) -> None:
    from ..distillation import Progress
    from ..distillation import distill as run_distillation
    from ..experiments.tensorboard import TensorBoardLog

    board = TensorBoardLog(out) if logs_to_tensorboard(log, "losses.csv is always written") else None

    if not leads():
        pass  # the first rank looks after the folder
    elif not resume:
        check_free(out, f"go on with it (--resume --out {out}), or ")
    elif (out / SET_NAME).exists() and not (out / CHECKPOINT_NAME).exists():
        raise ValueError(
            f"{out} holds {SET_NAME} and no {CHECKPOINT_NAME} to go on from: keep what is there, and distil "
            "anew in another --out"
        )
    device = start_computing(run.device, run.threads)
    dataset = read_data(run.data, run.resolution, run.domains, run.classes)
    show_warnings(dataset)
    sources, held_out = source_images(dataset, run.target)
    settings, (height, width) = run.distill, dataset.resolution
    console.print(
        f"{method_name(settings)}: {sources.num_classes} classes x {settings.ipc} images "
        f"of {height} x {width} px from {len(sources)} images of {', '.join(sources.domain_names)}"
        + (f"; held out: {held_out}" if held_out else "")
        + f"; {settings.precision}"
    )
    before: list[DistilledSet] = []

    def started(initial: DistilledSet) -> None:
        write_run_config(out / CONFIG_NAME, run)  # not before: refused settings do not become the run's
        before.append(initial)

    try:
        with locked(out) if leads() else nullcontext():
            with progress("distilling", settings.iterations) as show, board or nullcontext():

                def tell(state: Progress) -> None:
                    show(
                        state.iteration,
                        f"loss {state.loss:.4g}  {state.seconds_per_iteration:.3g} s/iteration",
                    )
                    if board is not None:
                        board.add(state)

                distilled = run_distillation(
                    sources,
                    settings,
                    run_folder=out,
                    resume=resume,
                    device=device,
                    target=held_out,
                    started=started,
                    progress=tell,
                )
            if leads():
                distilled.save(out / SET_NAME)
                distilled.contact_sheet(out / SHEET_NAME, *before)
    except Interrupted:
        if (out / CHECKPOINT_NAME).exists():
            console.print(f"to go on: dgdd distill --resume --out {out}")
        raise
    console.print(f"written: {out / SET_NAME}, {out / SHEET_NAME}")
    if (ratio := distilled.provenance["length_ratio"]) is not None:
        console.print(f"SGS's updates were {ratio:.3g} times as long as the gradient, on average")
    show_repeated(distilled)
    note_strays(distilled)
    console.print(f"next:    dgdd evaluate {out}, dgdd report {out}")
