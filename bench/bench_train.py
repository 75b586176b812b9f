"""Time an epoch of training on the CPU, of a network on a distilled set as evaluation trains it and of an
expert on real images, against plain PyTorch.

    python bench/bench_train.py                 # one and two threads (some minutes)
    python bench/bench_train.py --quick         # tiny batches and networks, no torch.compile (seconds)
    python bench/bench_train.py --json FILE     # the same table as data
    python bench/bench_train.py --json FILE --resume   # measure only what FILE does not have yet

"plain" is training as the public code of distribution matching does it: whole batches, planes in memory,
siamese augmentation with parameters of its own for each image, convolution, group norm with a group for each
channel, ReLU and pooling one after another, SGD. "compiled" is the same with the network under torch.compile.
A plain expert is trained by the settings of `PretrainConfig` without CutMix, on the same real images.

In every turn each of them trains a new network for some epochs, of which the first does not count; times are
means of a turn's other epochs, and their median with the 20th and 80th percentile. Beside other programs
compare the least times, and processor times, which a program that waits for a core does not take. GFLOP/s
counts the products and sums of the plain convolutions, three times those of a forward but for the gradient of
the images. The rate of a matrix product in the same run says what the machine does at that moment.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from plain_training import CLASSES, DOMAINS, Case, Note, PlainNetwork, plain_training
from table import Table
from timing import Time, environment, matmul_rate
from torch import Tensor, nn

from dgdd_fast.config import EvaluateConfig, PretrainConfig
from dgdd_fast.data import DomainDataset
from dgdd_fast.experts.pretrain import pretrain
from dgdd_fast.seeds import generator
from dgdd_fast.training import resolve_training, train_network

CEILING = "matmul_gigaflops_per_second"
PEERS = ("plain", "compiled")


def our_evaluation(case: Case, images: Tensor, epochs: int, note: Note) -> None:
    config = EvaluateConfig(epochs=epochs, network=case.network)
    settings = resolve_training(config, (case.resolution, case.resolution), flip_safe=False)
    train_network(images, case.labels(), CLASSES, settings, progress=lambda epoch: note())


def our_pretraining(case: Case, sources: DomainDataset, epochs: int, note: Note) -> None:
    config = PretrainConfig(
        experts=1,
        epochs=epochs,
        network=case.network,
        cutmix_probability=0,
        discriminators="joint",
        checkpoint_every=10**6,
    )
    with TemporaryDirectory() as folder:
        pretrain(sources, config, Path(folder), progress=lambda progress: note())


def providers(case: Case, compiled: bool) -> dict[str, Callable[[int, Note], None]]:
    """What trains a new network for so many epochs."""
    torch.manual_seed(0)
    size = (case.images, 3, case.resolution, case.resolution)
    if case.task == "evaluation":
        images = torch.randn(size, generator=generator(0, "images"))
        ours: Callable[[int, Note], None] = partial(our_evaluation, case, images)
    else:
        images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator(0, "images"))
        sources = DomainDataset(
            name="random",
            images=images,
            labels=case.labels(),
            domains=case.domains(),
            is_test=torch.zeros(case.images, dtype=torch.bool),
            class_names=tuple(f"class {label}" for label in range(CLASSES)),
            domain_names=tuple(f"domain {domain}" for domain in range(DOMAINS)),
            item_names=tuple(map(str, range(case.images))),
        )
        ours = partial(our_pretraining, case, sources)

    def plain(epochs: int, note: Note) -> None:
        plain_training(case, images, PlainNetwork(case), epochs, note)

    result = {"dgdd_fast": ours, "plain": plain}
    if compiled:
        torch.compiler.reset()  # generated code is for one shape
        network = PlainNetwork(case)
        whole = torch.compile(network, dynamic=False)

        def with_compiled(epochs: int, note: Note) -> None:
            for module in network.modules():
                if isinstance(module, nn.Conv2d | nn.GroupNorm | nn.Linear):
                    module.reset_parameters()
            plain_training(case, images, whole, epochs, note)

        result["compiled"] = with_compiled
    return result


@dataclass(frozen=True)
class Row:
    case: Case
    threads: int
    times: dict[str, Time]  # provider -> milliseconds of an epoch by the clock
    least: dict[str, float]  # provider -> its fastest epoch
    processor: dict[str, float]  # provider -> milliseconds of the processor in an epoch, median of the turns
    gigaflops_per_second: float  # of dgdd_fast, by its fastest epoch
    speedup: dict[str, float]  # provider -> its median over dgdd_fast's
    speedup_of_least: dict[str, float]
    speedup_of_processor: dict[str, float]
    missing: dict[str, str] = field(default_factory=dict)  # provider -> why it was not measured


def gigaflops(case: Case) -> float:
    """Of the convolutions of an epoch: forward, and the gradients of weights and maps."""
    network = PlainNetwork(case)
    total = 0.0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        passes = 2 if inputs[0].shape[1] == 3 else 3
        total += passes * 2e-9 * output[0].numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, case.resolution, case.resolution))
    return case.images * total


def measure(case: Case, compiled: bool, turns: int, epochs: int) -> Row:
    """`turns` of one epoch and `epochs` more."""
    clock: dict[str, list[float]] = {}
    least: dict[str, float] = {}
    processor: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    run = providers(case, compiled)
    for turn in range(turns):
        for name, train in run.items():
            if name in missing:
                continue
            moments: list[tuple[float, float]] = []

            def note(moments: list[tuple[float, float]] = moments) -> None:
                moments.append((time.perf_counter(), time.process_time()))

            try:
                if turn == 0 and name == "compiled":
                    train(1, note)
                    moments.clear()
                train(1 + epochs, note)
            except Exception as error:  # whatever it is, the rest of the row is worth measuring
                if name == "dgdd_fast":
                    raise
                missing[name] = f"{type(error).__name__}: {error}".split("\n", 1)[0]
                continue
            steps = [1e3 * (end[0] - begin[0]) for begin, end in itertools.pairwise(moments)]
            clock.setdefault(name, []).append(sum(steps) / len(steps))
            least[name] = min(least.get(name, math.inf), *steps)
            used = 1e3 * (moments[-1][1] - moments[0][1]) / len(steps)
            processor.setdefault(name, []).append(used)
    times = {name: Time.of(each) for name, each in clock.items()}
    used_by = {name: Time.of(each).median for name, each in processor.items()}
    others = [name for name in times if name != "dgdd_fast"]
    return Row(
        case,
        torch.get_num_threads(),
        times,
        least,
        used_by,
        1e3 * gigaflops(case) / least["dgdd_fast"],
        {name: times[name].median / times["dgdd_fast"].median for name in others},
        {name: least[name] / least["dgdd_fast"] for name in others},
        {name: used_by[name] / used_by["dgdd_fast"] for name in others},
        missing,
    )


def cases(quick: bool) -> Iterator[Case]:
    """10 and 50 images a class; experts of a fifth of Digits-DG's real images."""
    if quick:
        yield Case("evaluation", "convnet", 16, 16, 2 * CLASSES)
        yield Case("pretraining", "resnet18", 16, 4, 2 * CLASSES)
        return
    for resolution in (32, 64):
        for ipc in (10, 50):
            yield Case("evaluation", "convnet", resolution, 128, ipc * CLASSES)
    yield Case("pretraining", "resnet18", 32, 16, 512)
    yield Case("pretraining", "convnet", 32, 64, 512)


def line(row: Row) -> str:
    case = row.case
    ratios = "; ".join(
        f"{name} {row.times[name].median:.0f} ms, {row.speedup[name]:.2f} times, least "
        f"{row.speedup_of_least[name]:.2f}, processor {row.speedup_of_processor[name]:.2f}"
        for name in PEERS
        if name in row.times
    )
    return (
        f"{case.task} {case.architecture} {case.resolution} px, width {case.width}, {case.images} images, "
        f"{row.threads} threads: {row.times['dgdd_fast'].median:.0f} ms an epoch "
        f"({row.gigaflops_per_second:.0f} GFLOP/s); {ratios}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="tiny batches and networks, no torch.compile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too, row by row")
    parser.add_argument("--resume", action="store_true", help="keep the rows that FILE has")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="without torch.compile")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--turns", type=int, default=3, help="default: 3")
    parser.add_argument("--epochs", type=int, default=3, help="of a turn (default: 3)")
    options = parser.parse_args()
    device = torch.device("cpu")
    facts: dict[str, Any] = environment(device)
    compiled = options.compile and not options.quick
    table = Table(options.json, facts, options.resume, [CEILING])
    print(*(f"{name}: {value}" for name, value in facts.items() if value), sep="\n")
    for threads in options.threads:
        torch.set_num_threads(threads)
        table.content[CEILING][str(threads)] = matmul_rate(device)
        print(
            f"\n{threads} threads: a matrix product does {table.content[CEILING][str(threads)]:.1f} GFLOP/s"
        )
        for case in cases(options.quick):
            if table.has(case, threads, "compiled" if compiled else None):
                continue
            row = measure(case, compiled, options.turns, options.epochs)
            table.add([row])
            print(line(row), flush=True)
            for name, reason in row.missing.items():
                print(f"  without {name}: {reason}")


if __name__ == "__main__":
    main()
