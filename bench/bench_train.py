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
from typing import Any, Literal

import torch
import torch.nn.functional as F
from table import Table
from timing import Time, environment, matmul_rate
from torch import Tensor, nn

from dgdd_fast.config import EvaluateConfig, NetworkConfig, PretrainConfig
from dgdd_fast.data import DomainDataset
from dgdd_fast.experts.pool import reverse_gradient
from dgdd_fast.experts.pretrain import pretrain
from dgdd_fast.seeds import generator
from dgdd_fast.training import resolve_training, train_network

CEILING = "matmul_gigaflops_per_second"
PEERS = ("plain", "compiled")
CLASSES, DOMAINS = 10, 3
Note = Callable[[], None]  # called after every epoch


@dataclass(frozen=True)
class Case:
    task: Literal["evaluation", "pretraining"]
    architecture: Literal["convnet", "resnet18"]
    resolution: int
    width: int
    images: int  # of an epoch

    @property
    def depth(self) -> int:
        """Of a ConvNet."""
        return int(math.log2(self.resolution)) - 2

    @property
    def network(self) -> NetworkConfig:
        return NetworkConfig(architecture=self.architecture, width=self.width)

    def labels(self) -> Tensor:
        return torch.arange(self.images) % CLASSES

    def domains(self) -> Tensor:
        return torch.arange(self.images) // CLASSES % DOMAINS


# -------- plain PyTorch


def augmented(images: Tensor, operation: str) -> Tensor:
    """One operation of the siamese augmentation, with parameters of its own for each of the images
    [N, 3, H, W]."""
    count, _, height, width = images.shape
    row = torch.arange(count)[:, None, None]

    def uniform(least: float, most: float) -> Tensor:
        return (least + (most - least) * torch.rand(count))[:, None, None, None]

    if operation == "color":
        images = images + uniform(-0.5, 0.5)
        grey = images.mean(1, keepdim=True)
        images = (images - grey) * uniform(0, 2) + grey
        middle = images.mean((1, 2, 3), keepdim=True)
        return (images - middle) * uniform(0.5, 1.5) + middle
    if operation == "crop":
        reach = int(height * 0.125 + 0.5)
        padded = F.pad(images, [reach] * 4).permute(0, 2, 3, 1).contiguous()
        down, across = (torch.randint(2 * reach + 1, (count, 1, 1)) for _ in range(2))
        rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
        return padded[row, rows + down, columns + across].permute(0, 3, 1, 2).contiguous()
    if operation == "cutout":
        side = height // 2
        mask = torch.ones(count, height, width)
        offset = torch.arange(side)
        down, across = (torch.randint(height + 1, (count, 1, 1)) - side // 2 for _ in range(2))
        rows = (offset[None, :, None] + down).clamp(0, height - 1)
        mask[row, rows, (offset[None, None, :] + across).clamp(0, width - 1)] = 0
        return images * mask[:, None]
    if operation == "scale":
        zoom = uniform(1 / 1.2, 1.2).squeeze()
        other = uniform(1 / 1.2, 1.2).squeeze()
        zero = torch.zeros(count)
        turned = torch.stack([zoom, zero, zero, zero, other, zero], 1)
    else:
        angle = uniform(-math.pi / 12, math.pi / 12).squeeze()
        cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros(count)
        turned = torch.stack([cosine, -sine, zero, sine, cosine, zero], 1)
    grid = F.affine_grid(turned.view(count, 2, 3), list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, align_corners=True)


OPERATIONS = ("color", "crop", "cutout", "scale", "rotate")


def plain_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.GroupNorm(outputs, outputs),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2, 2),
    )


class PlainResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()

        def convolution(channels: int, size: int, step: int) -> list[nn.Module]:
            layer = nn.Conv2d(channels, outputs, size, step, padding=size // 2, bias=False)
            return [layer, nn.GroupNorm(outputs, outputs)]

        self.branch = nn.Sequential(
            *convolution(inputs, 3, stride), nn.ReLU(inplace=True), *convolution(outputs, 3, 1)
        )
        self.shortcut = nn.Sequential(*(convolution(inputs, 1, stride) if inputs != outputs else []))

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.branch(maps) + self.shortcut(maps))


class PlainNetwork(nn.Module):
    """A ConvNet, or a ResNet-18 for small images; an expert has domain discriminators after its stages."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.is_expert = case.task == "pretraining"
        width = case.width
        if case.architecture == "convnet":
            channels = [3] + [width] * case.depth
            self.stem: nn.Module = nn.Identity()
            self.stages = nn.ModuleList(map(plain_block, channels[:-1], channels[1:]))
            features = width * (case.resolution >> case.depth) ** 2
        else:
            channels = [width] + [width * 2**stage for stage in range(4)]
            self.stem = nn.Sequential(
                nn.Conv2d(3, width, 3, padding=1, bias=False),
                nn.GroupNorm(width, width),
                nn.ReLU(inplace=True),
            )
            self.stages = nn.ModuleList(
                nn.Sequential(
                    PlainResidual(inputs, outputs, 1 if inputs == outputs else 2),
                    PlainResidual(outputs, outputs, 1),
                )
                for inputs, outputs in itertools.pairwise(channels)
            )
            self.stages.append(nn.AdaptiveAvgPool2d(1))
            features = channels[-1]
        self.classifier = nn.Linear(features, CLASSES)
        stages = channels[1:] if self.is_expert else []
        self.discriminators = nn.ModuleList(nn.Linear(count, DOMAINS) for count in stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits of the classes, and of the domains for an expert."""
        maps, domains = self.stem(images), []
        for index, stage in enumerate(self.stages):
            maps = stage(maps)
            if index < len(self.discriminators):
                pooled = reverse_gradient(maps.mean((2, 3)), PretrainConfig.reversal_weight)
                domains.append(self.discriminators[index](pooled))
        return [self.classifier(maps.flatten(1)), *domains]


def plain_training(case: Case, images: Tensor, network: nn.Module, epochs: int, note: Note) -> None:
    """`images` are float32 and normalised for evaluation, uint8 for pretraining."""
    config = EvaluateConfig() if case.task == "evaluation" else PretrainConfig()
    labels, domains = case.labels(), case.domains()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(images)).split(config.batch_size):
            inputs = images[batch]
            if case.task == "evaluation":
                inputs = augmented(inputs, OPERATIONS[int(torch.randint(len(OPERATIONS), ()))])
            else:
                inputs = augmented(augmented((inputs / 255 - 0.5) / 0.25, "color"), "crop")
            logits, *of_domains = network(inputs)
            loss = F.cross_entropy(logits, labels[batch])
            if of_domains:
                loss = loss + sum(F.cross_entropy(each, domains[batch]) for each in of_domains) / len(
                    of_domains
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
            (logits.argmax(1) == labels[batch]).sum().item()
        if not math.isfinite(total):
            raise ArithmeticError("the plain training diverged")
        note()


# -------- ours


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


# -------- the table


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
