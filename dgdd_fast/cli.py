"""The `dgdd` command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
from rich.markup import escape

from .config import DistillConfig, EvaluateConfig, SurgeryConfig, from_dict, to_dict
from .run_config import (
    DEFAULT_METHOD,
    NO_TARGET,
    RunConfig,
    method_name,
    override,
    read_run_config,
    with_method,
    write_run_config,
)
from .terminal import Meter, accuracy_table, console, error_console, table

if TYPE_CHECKING:
    from .data import DomainDataset
    from .distilled_set import DistilledSet

CONFIG_NAME = "config.yaml"
SET_NAME = "distilled.safetensors"
SHEET_NAME = "contact_sheet.png"
USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130
DISTILL, EVALUATE = DistillConfig(), EvaluateConfig()


class Commands(typer.core.TyperGroup):
    """Ends every foreseeable error in one message and an exit code instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, BrokenPipeError):
            raise
        except Exception as error:
            code = _exit_code(error)
            if code is None or ctx.params["debug"]:
                raise
            message = str(error)
        except KeyboardInterrupt as interrupt:
            code, message = INTERRUPTED, str(interrupt) or "interrupted"
        error_console.print(f"[bold red]error:[/] {escape(message)}")
        raise typer.Exit(code)


def _exit_code(error: Exception) -> int | None:
    """2 for what the user can put right (settings, data, files), 1 for a run that failed, None for a bug."""
    if isinstance(error, (ValueError, OSError)):
        return USAGE_ERROR
    from .distill import DistillationDivergedError
    from .evaluate import TrainingDivergedError

    return FAILURE if isinstance(error, (DistillationDivergedError, TrainingDivergedError)) else None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

SOURCE_HELP = "embedded-digits, or a folder: domain/class/*.png, or one DOMAIN.npz a domain."
SET_HELP = "A distilled set, or the folder of the run that made it."
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ... Default: cpu.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: as torch chooses.")]
Width = Annotated[int | None, typer.Option(min=1, help="Channels of the ConvNet.")]
Depth = Annotated[int | None, typer.Option(min=1, help="Blocks of the ConvNet. Default: by resolution.")]


@app.callback()
def dgdd(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Distil labelled images of several domains into a few that hold up on a domain nobody showed them.

    \b
    dgdd demo
    dgdd data pictures/
    dgdd distill --data pictures/ --target sketch
    dgdd evaluate runs/NAME
    dgdd export runs/NAME
    dgdd doctor
    """


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the results go.")] = Path("demo"),
    threads: Threads = None,
) -> None:
    """Distil the embedded digits with Random, DM and DM+SGS, test on a domain held out. Minutes; no download.

    Prints accuracy, mean and standard deviation over the seeds.
    Writes the sets, their contact sheets and how SGS takes a few gradients apart.
    """
    from .demo import run_demo

    _set_threads(threads)
    run_demo(out)


@app.command()
def distill(
    data: Annotated[
        str | None, typer.Option(metavar="SOURCE", help=f"{SOURCE_HELP} Default: {RunConfig.data}.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="DOMAIN", help=f"The domain to hold out, or {NO_TARGET} to distil all of them."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"Objective and modifiers: dm, dm+sgs, or random (real images). Default: {DEFAULT_METHOD}."
        ),
    ] = None,
    ipc: Annotated[int | None, typer.Option(min=1, help=f"Images per class. Default: {DISTILL.ipc}.")] = None,
    iterations: Annotated[int | None, typer.Option(min=0, help=f"Default: {DISTILL.iterations}.")] = None,
    seed: Annotated[int | None, typer.Option(help=f"Default: {DISTILL.seed}.")] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help=f"SGS: strength of the class signal. Default: {SurgeryConfig.alpha:g}."),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(help=f"SGS: strength of the domain signal. Default: {SurgeryConfig.beta:g}."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="uniform: real images, evenly from the domains; random: real images; noise. "
            f"Default: {DISTILL.init}."
        ),
    ] = None,
    batch_real: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Real images per class and domain in an iteration. Default: {DISTILL.batch_real}."
        ),
    ] = None,
    image_lr: Annotated[
        float | None, typer.Option(help=f"Learning rate of the images. Default: {DISTILL.image_lr:g}.")
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(min=1, help="Resize the images to this side in pixels. Default: as they are."),
    ] = None,
    width: Width = None,
    depth: Depth = None,
    device: Device = None,
    threads: Threads = None,
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

    Writes to the run folder: config.yaml with all settings,
    checkpoint.safetensors, distilled.safetensors and contact_sheet.png.

    Stop with Ctrl-C at any time: --resume goes on, to the same images bit for bit.

    \b
    dgdd distill --target street --iterations 500
    dgdd distill --data pacs/ --resolution 64 --target sketch --out runs/sketch
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
    surgery = settings.surgery
    if surgery is not None:
        surgery = override(surgery, alpha=alpha, beta=beta)
    elif alpha is not None or beta is not None:
        raise ValueError(f"--alpha and --beta belong to SGS, but the method is {method_name(settings)}")
    settings = override(
        settings,
        ipc=ipc,
        iterations=iterations,
        seed=seed,
        init=init,
        batch_real=batch_real,
        image_lr=image_lr,
        surgery=surgery,
        network=override(settings.network, width=width, depth=depth),
    )
    run = override(
        run, data=data, target=target, resolution=resolution, device=device, threads=threads, distill=settings
    )
    run = from_dict(RunConfig, to_dict(run))
    _distill(run, out or _default_folder(run), resume)


def _default_folder(run: RunConfig) -> Path:
    settings = run.distill
    parts = (
        Path(run.data).name,
        run.target,
        method_name(settings),
        f"ipc{settings.ipc}",
        f"seed{settings.seed}",
    )
    return Path("runs") / "-".join(map(str, parts))


def _distill(run: RunConfig, out: Path, resume: bool) -> None:
    from .checkpoint import CheckpointError
    from .data import load_dataset
    from .distill import CHECKPOINT_NAME, DistillationInterrupted
    from .distill import distill as run_distillation
    from .files import write_atomically

    config_file = out / CONFIG_NAME
    earlier = config_file.read_bytes() if config_file.exists() else None
    if (out / CHECKPOINT_NAME).exists() and not resume:
        raise ValueError(
            f"{out} holds a run already: go on with it (--resume --out {out}) or choose another --out"
        )
    _set_threads(run.threads)
    dataset = load_dataset(run.data, run.resolution, run.domains)
    _show_warnings(dataset)
    sources, held_out = _sources(dataset, run.target)
    settings, (height, width) = run.distill, dataset.resolution
    console.print(
        f"{method_name(settings)}: {sources.num_classes} classes x {settings.ipc} images "
        f"of {height} x {width} px from {len(sources)} images of {', '.join(sources.domain_names)}"
        + (f"; held out: {held_out}" if held_out else "")
    )
    write_run_config(config_file, run)
    try:
        with Meter("distilling", settings.iterations) as meter:
            distilled = run_distillation(
                sources,
                settings,
                run_folder=out,
                resume=resume,
                device=run.device,
                target=held_out,
                progress=lambda state: meter.update(
                    state.iteration, f"loss {state.loss:.4g}  {state.seconds_per_iteration:.3g} s/iteration"
                ),
            )
    except CheckpointError:
        if earlier is not None:
            write_atomically(config_file, earlier)  # these settings did not become the run's
        raise
    except DistillationInterrupted:
        console.print(f"to go on: dgdd distill --resume --out {out}")
        raise
    distilled.save(out / SET_NAME)
    distilled.contact_sheet(out / SHEET_NAME)
    console.print(f"written: {out / SET_NAME}, {out / SHEET_NAME}")
    console.print(f"next:    dgdd evaluate {out}")


def _sources(dataset: DomainDataset, target: str | None) -> tuple[DomainDataset, str | None]:
    """The images to learn from, and the domain held out or None."""
    domains = ", ".join(dataset.domain_names)
    if target is None:
        raise ValueError(f"choose the domain to hold out with --target: {domains}; or --target {NO_TARGET}")
    if target == NO_TARGET:
        return dataset.train(), None
    return dataset.leave_out(target).sources_train, target


@app.command()
def evaluate(
    distilled_set: Annotated[Path, typer.Argument(metavar="SET", help=SET_HELP)],
    data: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help=f"{SOURCE_HELP} Default: as in the run's {CONFIG_NAME}."),
    ] = None,
    on: Annotated[
        str, typer.Option(help="target: the held-out domain; sources: the sources' test parts; both.")
    ] = "both",
    runs: Annotated[
        int, typer.Option(min=1, help="Networks trained, each from another seed.")
    ] = EVALUATE.runs,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of training.")] = EVALUATE.epochs,
    seed: Annotated[int, typer.Option(help="Of the first run.")] = EVALUATE.seed,
    width: Width = None,
    depth: Depth = None,
    no_random: Annotated[
        bool, typer.Option("--no-random", help="Leave out the real images at the same budget.")
    ] = False,
    device: Device = None,
    threads: Threads = None,
    out: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Default: evaluation.json beside the set.")
    ] = None,
) -> None:
    """Train networks from scratch on a distilled set and test them, each once after its last epoch.

    Beside it, the same with as many real images, drawn evenly from the source
    domains (Random). The network is that of the distillation, unless --width or
    --depth say otherwise.

    \b
    dgdd evaluate runs/sketch
    dgdd evaluate set.safetensors --data pacs/ --on target --epochs 300
    """
    from .distill import distill as distill_set
    from .distilled_set import DistilledSet
    from .evaluate import evaluate as run_evaluation
    from .files import write_atomically

    if on not in ("target", "sources", "both"):
        raise ValueError(f"--on must be target, sources or both, got {on!r}")
    _set_threads(threads)
    path = _set_file(distilled_set)
    distilled = DistilledSet.load(path)
    sources, tests = _test_sets(distilled, _data_of(path, data), on)
    trained_on = from_dict(DistillConfig, distilled.config)
    config = override(
        EVALUATE,
        runs=runs,
        epochs=epochs,
        seed=seed,
        network=override(trained_on.network, width=width, depth=depth),
    )
    method = method_name(trained_on)
    sets = {method: distilled}
    if not no_random and trained_on.objective != "random":
        real = dataclasses.replace(trained_on, objective="random", surgery=None, init="uniform")
        sets["random"] = distill_set(sources, real)
    results = {}
    for name, images in sets.items():
        with Meter(f"training on {name}", runs * epochs) as meter:
            results[name] = run_evaluation(
                images, tests, config, device=device or "cpu", progress=meter.update
            )
    console.print(accuracy_table(results))
    console.print(f"{distilled.ipc} images per class; {results[method].protocol}")
    report = {
        "set": str(path),
        "ipc": distilled.ipc,
        "provenance": distilled.provenance,
        "results": {name: result.to_dict() for name, result in results.items()},
    }
    out = out or path.with_name("evaluation.json")
    write_atomically(out, (json.dumps(report, indent=2) + "\n").encode())
    console.print(f"written: {out}")


def _set_file(path: Path) -> Path:
    return path / SET_NAME if path.is_dir() else path


def _data_of(path: Path, given: str | None) -> str:
    """The data that the set at `path` is to be tested on: those named, or else those of its run folder."""
    if given is not None:
        return given
    config_file = path.with_name(CONFIG_NAME)
    if not config_file.exists():
        raise ValueError(
            f"there is no {CONFIG_NAME} beside {path} to say what to test on; name the data: --data SOURCE"
        )
    return read_run_config(config_file).data


def _test_sets(
    distilled: DistilledSet, source: str, on: str
) -> tuple[DomainDataset, dict[str, DomainDataset]]:
    """The training part of the set's source domains, and what to test on by name."""
    from .data import load_dataset

    height, width = distilled.resolution
    dataset = load_dataset(source, height if height == width else None)
    target = distilled.provenance.get("target")
    if on == "target" and target is None:
        raise ValueError("no domain was held out when this set was distilled; test it --on sources")
    sources = dataset.only_domains(distilled.domain_names)
    tests = {}
    if target is not None and on != "sources":
        tests[f"{target} (held out)"] = dataset.only_domains([target])
    if on != "target":
        tests["source domains"] = sources.test()
    return sources.train(), tests


@app.command()
def export(
    distilled_set: Annotated[Path, typer.Argument(metavar="SET", help=SET_HELP)],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A new folder. Default: export/ beside the set.")
    ] = None,
) -> None:
    """Write the images of a distilled set, de-normalised: images/domain/class/NNN.png, contact_sheet.png.

    \b
    dgdd export runs/sketch --out pictures/
    """
    from .distilled_set import DistilledSet

    path = _set_file(distilled_set)
    distilled = DistilledSet.load(path)
    out = out or path.with_name("export")
    distilled.export_folder(out / "images")
    distilled.contact_sheet(out / SHEET_NAME)
    console.print(f"written: {len(distilled)} images below {out / 'images'}, {out / SHEET_NAME}")


@app.command()
def data(
    source: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    resolution: Annotated[
        int | None, typer.Option(min=1, help="Resize the images to this side in pixels.")
    ] = None,
) -> None:
    """Count what is in a data set: images per class and domain, and everything odd about them.

    \b
    dgdd data embedded-digits
    dgdd data pacs/ --resolution 64
    """
    from .data import load_dataset, summary

    dataset = load_dataset(source, resolution)
    found = summary(dataset)
    rows = table("class", *found.domain_names, title=f"{found.name}: images for training + for testing")
    for name, train, test in zip(found.class_names, found.train_counts, found.test_counts, strict=True):
        rows.add_row(escape(name), *(f"{kept} + {held}" for kept, held in zip(train, test, strict=True)))
    rows.add_section()
    totals = (map(sum, zip(*counts, strict=True)) for counts in (found.train_counts, found.test_counts))
    rows.add_row("all", *(f"{kept} + {held}" for kept, held in zip(*totals, strict=True)))
    console.print(rows)
    height, width = found.resolution
    console.print(
        f"{found.images} images of {height} x {width} px, {len(found.class_names)} classes, "
        f"{len(found.domain_names)} domains"
    )
    if not found.flip_safe:
        console.print("digits or letters: augmentation does not mirror them")
    _show_warnings(dataset)


@app.command()
def doctor() -> None:
    """Show versions, devices and what is compiled, check the operators, and advise where something is odd."""
    from .doctor import examine

    if not examine():
        raise typer.Exit(FAILURE)


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _show_warnings(dataset: DomainDataset) -> None:
    for warning in dataset.warnings:
        console.print(f"[yellow]note:[/] {escape(warning)}")


def main() -> None:
    """The entry point of the `dgdd` command."""
    app()
