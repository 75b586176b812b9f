"""`dgdd evaluate`."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import (
    ARCHITECTURES,
    RANDOM,
    RECIPES,
    DistillConfig,
    EvaluateConfig,
    EvaluateSettings,
    NetworkConfig,
    from_dict,
    method_name,
    override,
    with_assignments,
    with_method,
)
from ..config.run import CONFIG_NAME, read_run_config
from ..ranks import leads
from .options import (
    SET_HELP,
    SOURCE_HELP,
    Device,
    Overwrite,
    Precision,
    Settings,
    Threads,
    assignments,
    note_strays,
    set_file,
    show_repeated,
    show_warnings,
    start_computing,
)
from .reading import read_data
from .results import ResultsFile
from .terminal import accuracy_table, console, note, progress, scores_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..analysis.scores import Scores
    from ..data import DomainDataset
    from ..evaluation import Evaluation
    from ..synthetic.distilled_set import DistilledSet

IMPORTED = "imported"  # the row of a set of another tool
_PLAIN = "no augmentation"
EVALUATE = RECIPES["dm"]


def evaluate(
    distilled_set: Annotated[Path, typer.Argument(metavar="SET", help=SET_HELP)],
    data: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help=f"{SOURCE_HELP} Default: as in the run's {CONFIG_NAME}."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="The domain held out, for an imported set that does not say it."),
    ] = None,
    on: Annotated[
        str,
        typer.Option(
            help="target: the held-out domain, or all that the set was not distilled from; sources: the "
            "sources' test parts; both."
        ),
    ] = "both",
    runs: Annotated[
        int | None,
        typer.Option(min=1, help=f"Networks trained, each from another seed. Default: {EVALUATE.runs}."),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="dm: SGD, one augmentation at a time; ncfm: AdamW, augmentations in sequence and CutMix."
        ),
    ] = "dm",
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Epochs of training. Default: {EVALUATE.epochs}, ncfm {RECIPES['ncfm'].epochs}.",
        ),
    ] = None,
    architecture: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(ARCHITECTURES)}, one of yours, timm:NAME or torchvision:NAME; may be given "
            "several times. "
            "Default: that of the distillation."
        ),
    ] = None,
    generalize: Annotated[
        str | None,
        typer.Option(help="Train with a method of domain generalisation: mixstyle, fact or advfreq."),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Also train on all real images of the sources, the upper bound.")
    ] = False,
    no_random: Annotated[
        bool, typer.Option("--no-random", help="Leave out the real images at the same budget.")
    ] = False,
    scores: Annotated[
        bool,
        typer.Option(
            "--scores",
            help="DD-Ranking's label-robust and augmentation-robust scores. Trains on all real images, "
            "and on the set and Random without augmentation, too.",
        ),
    ] = False,
    precision: Precision = None,
    settings_given: Settings = None,
    device: Device = None,
    threads: Threads = None,
    out: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Default: evaluation.json beside the set.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Train networks from scratch on a distilled set and test them, each once after its last epoch.

    Beside it, the same with as many real images, drawn evenly from the source
    domains (Random), and for a set of mosaics also in mosaics of real images
    (Random+mosaics). The network is that of the distillation, unless --architecture
    or --set evaluate.network... say otherwise. Of the data, the classes of the set are
    used, and no image that it was distilled from.

    Results are written as they come: the same command again goes on after Ctrl-C, and
    only trains what is missing.

    \b
    dgdd evaluate runs/sketch
    dgdd evaluate runs/sketch --scores
    dgdd evaluate set.safetensors --data pacs/ --on target --epochs 300
    dgdd evaluate runs/sketch --architecture resnet18 --architecture vgg11
    dgdd evaluate runs/sketch --set evaluate.network.width=64 --set evaluate.seed=10
    """
    from ..evaluation import SOFT_LABELS
    from ..evaluation import evaluate as run_evaluation
    from ..ranks import here
    from ..synthetic.distilled_set import DistilledSet

    if recipe not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    if on not in ("target", "sources", "both"):
        raise ValueError(f"--on must be target, sources or both, got {on!r}")
    if scores and no_random:
        raise ValueError("--scores compares with Random: leave --no-random out")
    device = start_computing(device, threads)
    path = set_file(distilled_set)
    distilled = DistilledSet.load(path)
    note_strays(distilled)
    trained_on = from_dict(DistillConfig, distilled.config, f"{path}: config")
    options = {"runs": runs, "epochs": epochs, "generalize": generalize, "precision": precision}
    config = override(RECIPES[recipe], **options)
    changes = assignments(settings_given, {f"evaluate.{name}": value for name, value in options.items()})
    resolved = [
        _resolved(dataclasses.replace(config, network=network), changes, distilled, device)
        for network in _networks(trained_on.network, architecture)
    ]
    distilled = _with_target(distilled, target)
    sources, tests = _test_sets(distilled, _data_of(path, distilled, data), on)
    if resolved[0].hard_labels:
        distilled = dataclasses.replace(distilled, soft_labels=None)
    trained_on = dataclasses.replace(trained_on, soft_labels=distilled.soft_labels is not None)
    method = method_name(trained_on) if distilled.imported is None else IMPORTED
    if scores and distilled.soft_labels is not None:
        raise ValueError(
            f"{path} has soft labels, and --scores compares sets by what hard labels give: add "
            "--set evaluate.hard_labels=true"
        )
    if scores and method == RANDOM:
        raise ValueError(f"{path} is the random set that --scores compares with: it has no score of its own")
    sets: dict[str, DistilledSet | DomainDataset] = {method: distilled}
    if not no_random and method != RANDOM:
        sets |= _baselines(trained_on, distilled.factor, sources)
    if whole or scores:
        sets["whole"] = sources
    file = ResultsFile(out or path.with_name("evaluation.json"), path, distilled, tests, sources, overwrite)
    rounds = []
    for settings in resolved:
        # Those that are trained, in the order of the table, by title: the set's name and how.
        jobs = {name: (sets[name], settings) for name in sets}
        if scores:
            unaugmented = _without_augmentation(settings, distilled)
            jobs |= {f"{name}, {_PLAIN}": (sets[name], unaugmented) for name in (method, RANDOM)}
        of_network = f", {settings.network.architecture}" if len(resolved) > 1 else ""
        rounds.append((of_network, jobs))
        for name, (_, wanted) in jobs.items():
            file.done(f"{name}{of_network}", wanted)  # refuses before anything is trained
    for of_network, jobs in rounds:
        results = {}
        for name, (training, wanted) in jobs.items():
            title = f"{name}{of_network}"
            found = here().gathered(file.done(title, wanted))[0]  # as the first rank reads it
            if found is None or found.runs < wanted.runs:
                with progress(f"training on {title}", wanted.runs * wanted.epochs) as show:
                    found = run_evaluation(
                        training,
                        tests,
                        wanted,
                        device=device,
                        progress=show,
                        done=found,
                        keep=functools.partial(file.keep, title),
                    )
            else:
                note(f"{title} stands in {file.path} already, {found.runs} networks: not trained again")
            results[name] = found
        console.print(accuracy_table(results))
        if scores:
            found_scores = _scores(results, method)
            if leads():
                file.keep_scores(f"{method}{of_network}", found_scores)
            console.print(scores_table(found_scores))
        console.print(f"{distilled.ipc} images per class; {results[method].description}")
        if results[method].soft_labels:
            console.print(SOFT_LABELS)
    file.check()
    console.print(f"written: {file.path}")


def _without_augmentation(settings: EvaluateSettings, distilled: DistilledSet) -> EvaluateSettings:
    from ..training import resolve_training

    plain = dataclasses.replace(settings.augment, strategy="none")
    config = dataclasses.replace(settings, augment=plain, cutmix_probability=0.0)
    return resolve_training(config, distilled.resolution, distilled.flip_safe)


def _scores(results: Mapping[str, Evaluation], method: str) -> dict[str, Scores]:
    """DD-Ranking's scores by test set. All trainings are with hard labels."""
    from ..analysis.scores import scores_of

    names = (method, RANDOM, "whole", f"{method}, {_PLAIN}", f"{RANDOM}, {_PLAIN}")
    # An evaluation that went on may have more networks than another.
    count = min(results[name].runs for name in names)
    return {
        test: scores_of(*(results[name].accuracies[test][:count] for name in names))
        for test in results[method].accuracies
    }


def _networks(trained_on: NetworkConfig, architectures: list[str] | None) -> list[NetworkConfig]:
    """The network of the distillation, or other architectures, each at its own width."""
    known = {trained_on.architecture: trained_on}
    return [
        known.get(name) or from_dict(NetworkConfig, {"architecture": name, "norm": trained_on.norm})
        for name in dict.fromkeys(architectures or known)
    ]


def _resolved(
    config: EvaluateConfig, changes: dict[str, Any], distilled: DistilledSet, device: str
) -> EvaluateSettings:
    """The settings of a training on the set, refused here where they cannot work."""
    from ..training import check_training, resolve_training

    config = with_assignments(config, changes, "evaluate")
    settings = resolve_training(config, distilled.resolution, distilled.flip_safe)
    check_training(settings, len(distilled.class_names), distilled.resolution, device)
    return settings


def _baselines(trained_on: DistillConfig, factor: int, sources: DomainDataset) -> dict[str, DistilledSet]:
    """As many real images as the set has, and where it is of mosaics also in mosaics."""
    from ..distillation import distill

    real = dataclasses.replace(with_method(trained_on, RANDOM), factor=1, init="uniform", pseudo_domains=None)
    sets = {RANDOM: distill(sources, real)}
    show_repeated(sets[RANDOM])
    if factor > 1:
        sets["random+mosaics"] = distill(sources, dataclasses.replace(real, factor=factor))
    return sets


def _with_target(distilled: DistilledSet, target: str | None) -> DistilledSet:
    """The set with the domain that was held out, where it does not say one."""
    known = distilled.provenance.get("target")
    if target is None or target == known:
        return distilled
    if distilled.imported is None or known is not None:
        said = "no domain" if known is None else known
        raise ValueError(f"this set says that {said} was held out, not {target}; leave --target out")
    sources = [name for name in distilled.provenance.get("sources", ()) if name != target]
    provenance = {**distilled.provenance, "target": target, **({"sources": sources} if sources else {})}
    return dataclasses.replace(distilled, provenance=provenance)


def _data_of(path: Path, distilled: DistilledSet, given: str | None) -> str:
    """The data that the set at `path` is to be tested on: those named, or else those of its run folder, or
    those that it was imported with."""
    if given is not None:
        return given
    if distilled.imported is not None and isinstance(distilled.imported.get("data"), str):
        return str(distilled.imported["data"])
    config_file = path.with_name(CONFIG_NAME)
    if not config_file.exists():
        raise ValueError(
            f"there is no {CONFIG_NAME} beside {path} to say what to test on; name the data: --data SOURCE"
        )
    return read_run_config(config_file).data


def _test_sets(
    distilled: DistilledSet, source: str, on: str
) -> tuple[DomainDataset, dict[str, DomainDataset]]:
    """The training part of the set's source domains, and what to test on by name: no image that the set was
    distilled from, whatever has become of the data since."""
    from ..synthetic.source_data import record_of, source_data

    height, width = distilled.resolution
    dataset = read_data(source, height if height == width else None, classes=distilled.class_names)
    show_warnings(dataset)
    target = distilled.provenance.get("target")
    # The set's own domains may be pseudo-domains; those of an imported set have no names.
    own = (
        distilled.domain_names
        if distilled.imported is None
        else [name for name in dataset.domain_names if name != target]
    )
    seen = distilled.provenance.get("sources", own)
    unseen = [name for name in dataset.domain_names if name not in seen] if target is None else [target]
    if on == "target" and not unseen:
        raise ValueError("no domain was held out when this set was distilled; test it --on sources")
    sources = source_data(distilled, dataset.only_domains(seen))
    if sources.note is not None:
        note(sources.note)
    tests: dict[str, DomainDataset] = {}
    if on != "sources":
        tests |= {f"{name} (held out)": dataset.only_domains([name]) for name in unseen}
    if on != "target" and (sources.known or on == "sources" or not tests):
        tests["source domains"] = sources.data.test()
    record = record_of(distilled)
    if record is not None:
        for name, test in tests.items():
            tests[name], count = record.without(test)
            if count:
                note(f"{count} of {len(test)} images of {name} are left out: the set was distilled from them")
    empty = [name for name, test in tests.items() if len(test) == 0]
    if len(empty) == len(tests):
        raise ValueError(
            f"{source} has no image to test on of {', '.join(empty)}: give the data a test part, or name "
            "other data (--data)"
        )
    for name in empty:
        note(f"there is no image to test on of {name}")
        del tests[name]
    return sources.data.train(), tests
