"""`dgdd demo`: Random, DM and DM+SGS at one budget on embedded digits, tested on a held-out domain."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import DistillConfig, EvaluateConfig, NetworkConfig, SurgeryConfig, method_spec, to_dict
from ..config.run import check_free
from ..files import check_writable, write_atomically
from .options import Threads, start_computing
from .terminal import accuracy_table, console, duration, progress

if TYPE_CHECKING:
    from ..data import DomainDataset
    from ..evaluation import Evaluation
    from ..synthetic.distilled_set import DistilledSet

_NETWORK = NetworkConfig(width=32)


def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the results go.")] = Path("demo"),
    threads: Threads = None,
) -> None:
    """Distil the embedded digits with Random, DM and DM+SGS, test on a domain held out. Minutes; no download.

    Prints accuracy, mean and standard deviation over the seeds.
    Writes the sets, their contact sheets and how SGS takes a few gradients apart.
    """
    start_computing("cpu", threads)
    run_demo(out)


@dataclass(frozen=True)
class DemoConfig:
    """The demonstration's settings, chosen so that two CPU cores need a few minutes.

    Each seed is a distillation of its own and a training of its own. `distill` is DM, with `surgery` DM+SGS;
    Random keeps the images that both start from.
    """

    target: str = "street"
    seeds: tuple[int, ...] = (0, 1, 2)
    distill: DistillConfig = field(
        default_factory=lambda: DistillConfig(ipc=6, iterations=200, batch_real=32, network=_NETWORK)
    )
    surgery: SurgeryConfig = field(default_factory=SurgeryConfig)
    evaluate: EvaluateConfig = field(
        default_factory=lambda: EvaluateConfig(runs=1, epochs=300, network=_NETWORK)
    )

    def methods(self) -> dict[str, DistillConfig]:
        """The settings of every method by its name; seed 0."""
        return {
            "random": dataclasses.replace(self.distill, objective="random"),
            "dm": self.distill,
            "dm+sgs": dataclasses.replace(self.distill, surgery=self.surgery),
        }


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
    for method, settings in config.methods().items():
        per_seed = []
        for seed in config.seeds:
            distilled = _distill(sources, method, dataclasses.replace(settings, seed=seed), config.target)
            per_seed.append(evaluate(distilled, tests, dataclasses.replace(config.evaluate, seed=seed)))
            results[method] = _joined(per_seed)
            _write_results(out / "results.json", config, results)  # so far
            if method not in first:
                first[method] = distilled
                distilled.save(out / f"{method}.safetensors")
                distilled.contact_sheet(out / f"{method}.png")

    console.print(accuracy_table(results))
    console.print(results["dm+sgs"].description)
    console.print(_difference(results["dm+sgs"], results["dm"], f"{config.target} (held out)"))
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


def _distill(sources: DomainDataset, method: str, config: DistillConfig, target: str) -> DistilledSet:
    from ..distillation import distill

    steps = 0 if method_spec(config).family == "coreset" else config.iterations
    with progress(f"{method}, seed {config.seed}", steps) as show:
        return distill(
            sources,
            config,
            target=target,
            progress=lambda state: show(state.iteration, f"loss {state.loss:.4g}"),
        )


def _joined(runs: list[Evaluation]) -> Evaluation:
    """One evaluation with the runs of several."""
    accuracies = {name: [run.accuracies[name][0] for run in runs] for name in runs[0].accuracies}
    return dataclasses.replace(runs[0], accuracies=accuracies)


def _difference(sgs: Evaluation, plain: Evaluation, name: str) -> str:
    """What SGS gained, seed by seed: both methods start from the same images."""
    gains = [one - other for one, other in zip(sgs.accuracies[name], plain.accuracies[name], strict=True)]
    listed = ", ".join(f"{gain:+.1f}" for gain in gains)
    return f"DM+SGS minus DM on {name}: {statistics.fmean(gains):+.1f} (by seed: {listed})"


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
        f"the same for all: initial images, {settings.iterations} iterations, image learning rate "
        f"{settings.image_lr:g}; SGS: alpha {config.surgery.alpha:g}, beta {config.surgery.beta:g}",
        f"{len(config.seeds)} seeds, each with its own distillation and training",
        "reduced, to take minutes (in brackets the default): "
        f"{settings.iterations} iterations ({usual.iterations}), "
        f"{settings.batch_real} real images per class and domain ({usual.batch_real}), "
        f"ConvNet of width {settings.network.width} ({ConvNet.own_width}), "
        f"{training.epochs} epochs of training ({usual_training.epochs})",
    ]
