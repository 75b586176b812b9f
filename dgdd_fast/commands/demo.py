"""`dgdd demo`: recipes at the same storage on embedded digits, tested on a held-out domain."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import DistillConfig, EvaluateConfig, NetworkConfig, SurgeryConfig, method_spec, to_dict
from ..config.run import check_free
from ..files import check_writable, write_atomically
from .options import Threads, start_computing
from .terminal import accuracy_table, console, duration, progress, shown_method

if TYPE_CHECKING:
    from ..data import DomainDataset
    from ..evaluation import Evaluation
    from ..synthetic.distilled_set import DistilledSet

_NETWORK = NetworkConfig(width=32)


def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the results go.")] = Path("demo"),
    threads: Threads = None,
) -> None:
    """Distil the embedded digits in several ways, test on a domain held out. Minutes; no download.

    Random, DM and DM+SGS, then Random and DM in mosaics, at the same storage. Prints accuracy, mean and
    standard deviation over the seeds, and differences with their 95 % intervals.
    Writes the sets, their contact sheets and how SGS takes a few gradients apart.
    """
    start_computing("cpu", threads)
    run_demo(out)


@dataclass(frozen=True)
class DemoConfig:
    """The demonstration's settings, chosen so that two CPU cores need a few minutes.

    Each seed is a distillation of its own and a training of its own. `distill` is DM, with `surgery` DM+SGS;
    Random keeps the images that they start from. In mosaics, `factor` tiles along each side of an image, each
    a training image once enlarged, take the same room.
    """

    target: str = "street"
    seeds: tuple[int, ...] = (0, 1, 2)
    distill: DistillConfig = field(
        default_factory=lambda: DistillConfig(ipc=6, iterations=200, batch_real=32, network=_NETWORK)
    )
    surgery: SurgeryConfig = field(default_factory=SurgeryConfig)
    factor: int = 2
    evaluate: EvaluateConfig = field(
        default_factory=lambda: EvaluateConfig(runs=1, epochs=300, network=_NETWORK)
    )

    def methods(self) -> dict[str, DistillConfig]:
        """The settings of every method by its name; seed 0."""
        random = dataclasses.replace(self.distill, objective="random")
        return {
            "random": random,
            "dm": self.distill,
            "dm+sgs": dataclasses.replace(self.distill, surgery=self.surgery),
            "random, mosaics": dataclasses.replace(random, factor=self.factor),
            "dm, mosaics": dataclasses.replace(self.distill, factor=self.factor),
        }


# What is asked of the results: the difference of two methods.
QUESTIONS = (
    ("dm", "random"),
    ("dm+sgs", "dm"),
    ("random, mosaics", "random"),
    ("dm, mosaics", "dm"),
    ("dm, mosaics", "random, mosaics"),
)


def run_demo(out: Path, config: DemoConfig | None = None) -> dict[str, Evaluation]:
    """Run the comparison, print it, and write the sets, the pictures and results.json to `out`.

    Returns the accuracies by method, one for each seed.
    """
    import torch

    from ..data import embedded_digits
    from ..evaluation import evaluate

    config = config or DemoConfig()
    check_free(out)
    check_writable(out / "results.json")
    began = time.perf_counter()
    dataset = embedded_digits()
    sources, sources_test, target = dataset.leave_out(config.target)
    tests = {f"{config.target} (held out)": target, "source domains": sources_test}
    for line in _setup(config, tests, sources):
        console.print(line)

    first: dict[str, DistilledSet] = {}
    results: dict[str, Evaluation] = {}
    with tempfile.TemporaryDirectory() as shared:  # means of real images that runs at a seed have in common
        for method, settings in config.methods().items():
            per_seed = []
            for seed in config.seeds:
                run = dataclasses.replace(settings, seed=seed)
                distilled = _distill(sources, method, run, config.target, Path(shared))
                per_seed.append(evaluate(distilled, tests, dataclasses.replace(config.evaluate, seed=seed)))
                results[method] = _joined(per_seed)
                _write_results(out / "results.json", config, results)  # so far
                if method not in first:
                    first[method] = distilled
                    file = method.replace(", ", "-")
                    distilled.save(out / f"{file}.safetensors")
                    distilled.contact_sheet(out / f"{file}.png")

    console.print(accuracy_table(results))
    console.print(results["dm"].description)
    console.print(f"On {config.target} (held out), by seed, with the 95 % interval:")
    for line in _differences(results, f"{config.target} (held out)"):
        console.print(f"  {line}")
    _draw_decomposition(out / "decomposition.png", first["random"], sources)
    console.print(f"written to {out}: sets and contact sheets of seed {config.seeds[0]}, results.json, and")
    console.print("decomposition.png: what SGS makes of the first gradients of four images")
    console.print(f"took {duration(time.perf_counter() - began)} with {torch.get_num_threads()} threads")
    return results


def _write_results(path: Path, config: DemoConfig, results: dict[str, Evaluation]) -> None:
    report = {
        "config": to_dict(config),
        "results": {name: result.to_dict() for name, result in results.items()},
    }
    write_atomically(path, (json.dumps(report, indent=2) + "\n").encode())


def _distill(
    sources: DomainDataset, method: str, config: DistillConfig, target: str, shared: Path
) -> DistilledSet:
    from ..distillation import distill

    steps = 0 if method_spec(config).family == "coreset" else config.iterations
    with progress(f"{method}, seed {config.seed}", steps) as show:
        return distill(
            sources,
            config,
            target=target,
            real_means=shared,
            progress=lambda state: show(state.iteration, f"loss {state.loss:.4g}"),
        )


def _joined(runs: list[Evaluation]) -> Evaluation:
    """One evaluation with the runs of several."""
    accuracies = {name: [run.accuracies[name][0] for run in runs] for name in runs[0].accuracies}
    return dataclasses.replace(runs[0], accuracies=accuracies)


def _differences(results: dict[str, Evaluation], test: str) -> Iterator[str]:
    """What each method gained, seed by seed: all that are compared start from the same real images."""
    from ..analysis.paired import paired_difference

    by_seed = {method: dict(enumerate(found.accuracies[test])) for method, found in results.items()}
    for method, other in QUESTIONS:
        found = paired_difference(by_seed[method], by_seed[other])
        if found is None:
            continue
        text = f"{shown_method(method)} minus {shown_method(other)}: {found.mean:+.1f}"
        if found.pairs > 1:
            text += f" ({found.low:+.1f} to {found.high:+.1f})"
            if found.low <= 0 <= found.high:
                text += ", not told apart"
        yield text


def _draw_decomposition(path: Path, distilled: DistilledSet, sources: DomainDataset) -> None:
    """Four images, of other classes and of the domains in turn."""
    from ..analysis.decomposition import decompose_images
    from ..report.figures import draw_decomposition

    wanted = [
        (index * len(distilled.class_names) // 4, index % len(distilled.domain_names)) for index in range(4)
    ]
    cells = list(zip(distilled.labels.tolist(), distilled.domains.tolist(), strict=True))
    rows = [cells.index(cell) for cell in wanted]
    names = [f"{distilled.class_names[label]}, {distilled.domain_names[domain]}" for label, domain in wanted]
    draw_decomposition(path, distilled.pixels()[rows], decompose_images(distilled, sources, rows), names)


def _setup(config: DemoConfig, tests: dict[str, DomainDataset], sources: DomainDataset) -> list[str]:
    """What is done, and what is smaller than the papers' settings so that it takes minutes."""
    from ..matching.resolve import resolve_distillation
    from ..networks import ConvNet

    settings, usual = (resolve_distillation(run, sources) for run in (config.distill, DistillConfig()))
    training, usual_training = config.evaluate, EvaluateConfig()
    tested = " and ".join(f"{name}, {len(test)} images" for name, test in tests.items())
    return [
        f"{len(sources)} images of {', '.join(sources.domain_names)} -> {settings.ipc} images for each of "
        f"{sources.num_classes} classes",
        f"tested on {tested}, after the last epoch",
        f"the same for all: storage, {settings.iterations} iterations, image learning rate "
        f"{settings.image_lr:g}, in mosaics times {config.factor}; SGS: alpha {config.surgery.alpha:g}, "
        f"beta {config.surgery.beta:g}",
        f"mosaics: an image is {config.factor} x {config.factor} tiles, each enlarged to a training image",
        f"{len(config.seeds)} seeds, each with its own distillation and training",
        "reduced, to take minutes (in brackets the default): "
        f"{settings.iterations} iterations ({usual.iterations}), "
        f"{settings.batch_real} real images per class and domain ({usual.batch_real}), "
        f"ConvNet of width {settings.network.width} ({ConvNet.own_width}), "
        f"{training.epochs} epochs of training ({usual_training.epochs})",
    ]
