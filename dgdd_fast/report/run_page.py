"""The page about one run: what was distilled, from what, how it went, and the accuracy that it gives."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config import DistillConfig, method_label, method_name, method_spec, to_dict, with_method
from ..config.run import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    LOSSES_NAME,
    NO_TARGET,
    SET_NAME,
    RunConfig,
    read_run_config,
)
from ..config.yaml_text import dump_yaml
from ..data import DomainDataset
from ..evaluation import SOFT_LABELS, Evaluation
from ..files import read_file
from ..json_text import MOST_BYTES, parse_json
from ..synthetic.distilled_set import DistilledSet
from ..synthetic.losses_file import read_losses
from ..synthetic.source_data import source_data
from .curves import losses_figure, mean_over, png_of
from .html import Section, write_page
from .page import decomposition, drawn, sheet_of

EVALUATION_NAME = "evaluation.json"
_LONG = 200  # characters of a value that are shown


def write_run_report(path: Path, folder: Path, dataset: DomainDataset | None) -> list[Section]:
    """Write the page about the run in a folder, finished or not, and return its sections.

    Args:
        path: the HTML file.
        dataset: its data, for the gradients; None leaves those out.

    Raises ValueError or OSError for a folder whose settings or set cannot be read.
    """
    run = read_run_config(folder / CONFIG_NAME)
    images = DistilledSet.load(folder / SET_NAME) if (folder / SET_NAME).exists() else None
    held_out = "" if run.target in (None, NO_TARGET) else f", {run.target} held out"
    title = f"{method_label(method_name(run.distill))} on {Path(run.data).name}{held_out}"
    sections = list(_sections(folder, run, images, dataset))
    write_page(path, title, sections, lead=_lead(run, images))
    return sections


def _lead(run: RunConfig, images: DistilledSet | None) -> str:
    if images is None:
        return f"{run.distill.ipc} images per class; the distillation has not come to its end."
    height, width = images.resolution
    return (
        f"{len(images.class_names)} classes of {images.ipc} images of {height} x {width} px, distilled in "
        f"{images.provenance.get('iterations', '?')} iterations from {', '.join(images.domain_names)}."
    )


def _sections(
    folder: Path, run: RunConfig, images: DistilledSet | None, dataset: DomainDataset | None
) -> Iterator[Section]:
    if images is None:
        there = (folder / CHECKPOINT_NAME).exists()
        again = f"; dgdd distill --resume --out {folder} goes on" if there else ""
        yield Section("Images", missing=f"There is no {SET_NAME} yet{again}.")
    else:
        caption = "Each row a class, each group of columns the domain that the images were assigned to."
        if images.strays:
            caption += f" {images.strays} images have values beyond 10 standard deviations."
        yield Section("Images", [(caption, sheet_of(folder, images))])
    yield _accuracy(folder / EVALUATION_NAME, folder, images is not None)
    yield drawn("Losses", lambda: _losses(folder / LOSSES_NAME))
    if images is not None:
        yield drawn("Gradients", lambda: _gradients(run.distill, images, dataset))
    yield _settings(run, images)
    if images is not None:
        yield _provenance(images)


def _accuracy(path: Path, folder: Path, is_distilled: bool) -> Section:
    """Of every network that was trained on the set, and on Random beside it."""
    title = "Accuracy"
    if not path.exists():
        return Section(title, missing=f"Not evaluated yet: dgdd evaluate {folder} does it.")
    try:
        report = parse_json(read_file(path, MOST_BYTES))
        results = {name: Evaluation.from_dict(values) for name, values in report["results"].items()}
        tested = report["set_sha256"]
    except (AttributeError, KeyError, TypeError, ValueError):
        return Section(
            title, missing=f"{path.name} is damaged: repeat it with dgdd evaluate --overwrite {folder}."
        )
    if is_distilled and hashlib.sha256(read_file(folder / SET_NAME)).hexdigest() != tested:
        return Section(
            title,
            missing=f"{path.name} is of other images than these, which were distilled since or before: "
            f"dgdd evaluate --overwrite {folder} tests these.",
        )
    if not results:
        return Section(title, missing=f"No network is trained yet: dgdd evaluate {folder} goes on.")
    tests = list(dict.fromkeys(test for result in results.values() for test in result.accuracies))
    rows = [["%", *tests]]
    for name, result in results.items():
        method, comma, how = name.partition(",")
        rows.append([f"{method_label(method)}{comma}{how}", *(_mean_and_std(result, test) for test in tests)])
    first = next(iter(results.values()))
    soft = f" {SOFT_LABELS}" if any(result.soft_labels for result in results.values()) else ""
    return Section(title, rows=rows, note=f"{first.description}.{soft}")


def _mean_and_std(result: Evaluation, test: str) -> str:
    if test not in result.accuracies:
        return ""
    deviation = f" ± {result.std(test):.1f}" if result.runs > 1 else ""
    return f"{result.mean(test):.1f}{deviation}"


def _losses(path: Path) -> list[tuple[str, bytes]]:
    if not path.exists():
        raise ValueError(f"the run has no {path.name}, as those of versions before")
    columns = read_losses(path)
    iterations = columns.pop("iteration")
    if not iterations:
        raise ValueError("there is no iteration, as the images stay what they were to begin with")
    caption = "The loss against all source domains, summed over the classes"
    caption += "; bold: the running mean." if mean_over(len(iterations)) > 1 else "."
    return [(caption, png_of(losses_figure(iterations, columns)))]


def _gradients(
    config: DistillConfig, images: DistilledSet, dataset: DomainDataset | None
) -> list[tuple[str, bytes]]:
    if method_spec(config).family == "coreset":
        raise ValueError("real images were chosen, and no gradient moved them")
    if dataset is None:
        raise ValueError("the data are not at hand; name them with --data")
    sources = images.provenance.get("sources", images.domain_names)
    caption, png = decomposition(images, source_data(images, dataset.only_domains(sources)))
    of_surgery = "" if config.surgery is not None else " The run itself had no surgery."
    return [(f"What spectral surgery makes of {caption}.{of_surgery}", png)]


def _settings(run: RunConfig, images: DistilledSet | None) -> Section:
    """Those that differ from the defaults of the method, and all of them folded away."""
    usual = RunConfig(distill=with_method(DistillConfig(), method_name(run.distill)))
    ours, theirs = _flat(to_dict(run)), _flat(to_dict(usual))
    rows = [["setting", "here", "default"]]
    rows += [
        [name, _shown(value), _shown(theirs.get(name))]
        for name, value in ours.items()
        if value != theirs.get(name)
    ]
    resolved = to_dict(run) if images is None else {**to_dict(run), "distill": images.config}
    return Section(
        "Settings",
        rows=rows,
        facts=True,
        note=f"Other than the defaults; dgdd distill --config {CONFIG_NAME} --out FOLDER repeats it.",
        folded="every setting, with what the data decided",
        text=dump_yaml(resolved).decode(),
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _provenance(images: DistilledSet) -> Section:
    rows = [["", ""]]
    rows += [
        [name.replace("_", " "), _shown(value)]
        for name, value in images.provenance.items()
        if name != "learnt_from"  # of every image a line
    ]
    return Section("Provenance", rows=rows, facts=True)


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple)):
        text = ", ".join(map(str, value))
    else:
        text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]} ..."
