"""Experts: networks with a domain discriminator after each stage, and the pool of them that a run draws
from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config import NetworkConfig, PretrainSettings, from_dict, to_dict
from ..config.bounds import Finite, Positive, Size
from ..data import DomainDataset
from ..data.record import ImageRecord
from ..files import read_file
from ..json_text import read_json, write_json
from ..messages import shown
from ..networks import build_staged_network
from ..tensor_file import TensorFile, TensorFileError, check_tensors, content_of, header_of, loaded

POOL_NAME = "pool.json"
FORMAT = "dgdd-fast experts 3"
_BEFORE = "dgdd-fast experts 2"  # did not record the images
_OLD_FORMAT = "dgdd-fast experts 1"  # its ResNets pooled 2x2 pixels after the stem from 65 to 128 px
_FORMATS = (FORMAT, _BEFORE, _OLD_FORMAT)
_FILE = TensorFile("dgdd_fast_expert", "an expert", version=1)


class ExpertPoolError(ValueError):
    """A pool of experts that is damaged, not finished, or made for other data or settings."""


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What pool.json says, as in `ExpertPool`."""

    config: PretrainSettings
    data: str
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    resolution: tuple[Size, ...]
    mean: tuple[Finite, ...]
    std: tuple[Positive, ...]
    fingerprint: str
    log: tuple[tuple[dict[str, Any], ...], ...]
    learnt_from: dict[str, Any] | None = None


def reverse_gradient(features: Tensor, weight: float) -> Tensor:
    """`features` as they are; their gradient comes back times -`weight` (Ganin and Lempitsky, ICML 2015)."""
    result: Tensor = _ReverseGradient.apply(features, weight)  # type: ignore[no-untyped-call]
    return result


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * -ctx.weight, None


class Expert(nn.Module):
    """A network with a domain discriminator after each of its S stages (CADM, Eq. 4: a ResNet, S = 4).

    Attributes:
        network: a network with stages; its classifier predicts the class.
        discriminators: ``nn.Linear(network.channels[stage - 1], num_domains)`` for the maps after each
            stage, averaged over their pixels.
        reversal_weight: what the domain loss's gradient is multiplied with, and reversed, on its way into the
            network.
    """

    def __init__(
        self,
        num_classes: int,
        num_domains: int,
        resolution: tuple[int, int],
        config: NetworkConfig,
        reversal_weight: float,
    ) -> None:
        super().__init__()
        self.network = network = build_staged_network(num_classes, resolution, config)
        self.discriminators = nn.ModuleList(nn.Linear(count, num_domains) for count in network.channels)
        self.reversal_weight = reversal_weight

    def discriminator(self, stage: int) -> nn.Linear:
        """That of the maps after `stage`, 1 .. S."""
        return cast(nn.Linear, self.discriminators[stage - 1])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, H, W] -> class logits [N, K] and the stages' domain logits [S, N, D]."""
        maps = self.network.forward_to(images, 0)
        domain_logits = []
        for blocks, discriminator in zip(self.network.stages, self.discriminators, strict=True):
            maps = blocks(maps)
            pooled = maps.mean((2, 3))
            domain_logits.append(discriminator(reverse_gradient(pooled, self.reversal_weight)))
        return self.network.classifier(self.network.head(maps)), torch.stack(domain_logits)


@dataclass
class ExpertPool:
    """The experts in a folder: pool.json, and expert_00.safetensors, ... with each one's weights before and
    after training.

    Attributes:
        folder: where the files are.
        config: the settings that the experts were trained with.
        data: the name of the data.
        class_names, domain_names, resolution, fingerprint: of the images that they were trained on.
        learnt_from: `ImageRecord.to_json` of these; None in a pool of an earlier version.
        mean, std: what those were normalised with, per channel, for pixels in [0, 1].
        log: for every expert and epoch "class_loss", "domain_loss", "accuracy" (in percent, in training, over
            the batches without CutMix; None if there were none) and "domain_accuracy", one a stage; for the
            last epoch also "refitted_domain_accuracy", where the discriminators were refitted, on all images.
    """

    folder: Path
    config: PretrainSettings
    data: str
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    resolution: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    log: list[list[dict[str, Any]]] = field(default_factory=list)
    learnt_from: dict[str, Any] | None = None
    _weights: dict[tuple[int, torch.device], list[tuple[Tensor, Tensor]]] = field(
        default_factory=dict, repr=False
    )

    @classmethod
    def load(cls, folder: str | Path) -> ExpertPool:
        """The finished pool in `folder`; an expert's weights are read when it is first asked for.

        Raises ExpertPoolError where the pool is damaged or not finished, OSError where there is none.
        """
        pool = cls.read(Path(folder))
        if len(pool) < pool.config.experts:
            raise ExpertPoolError(
                f"{folder} holds {len(pool)} of {pool.config.experts} experts: finish it first "
                "(resume=True, dgdd pretrain --resume)"
            )
        pool.check_files()
        return pool

    @classmethod
    def read(cls, folder: Path) -> ExpertPool:
        """What is in `folder`, finished or not."""
        path = folder / POOL_NAME
        try:
            content = read_json(path)
            if not isinstance(content, dict) or content.get("format") not in _FORMATS:
                found = content.get("format") if isinstance(content, dict) else content
                raise ExpertPoolError(f"{path} calls itself {shown(found)}, not {FORMAT!r}")
            facts = from_dict(_Facts, {name: content[name] for name in content if name != "format"})
            for name, length in (("resolution", 2), ("mean", 3), ("std", 3)):
                if len(getattr(facts, name)) != length:
                    raise ValueError(f"{name} must be {length} numbers, got {shown(getattr(facts, name))}")
            if content["format"] == _OLD_FORMAT and 64 < min(facts.resolution) <= 128:
                raise ExpertPoolError(
                    f"the experts in {folder} are of an earlier ResNet, which for images of 65 to 128 px had "
                    "another pooling after its stem; train them anew"
                )
            log = [list(epochs) for epochs in facts.log]
            named = {item.name: getattr(facts, item.name) for item in fields(_Facts)}
            return cls(**{**named, "folder": folder, "log": log})
        except ExpertPoolError:
            raise
        except (TypeError, ValueError) as error:
            raise ExpertPoolError(
                f"{path} is damaged ({error}); copy it again, or train experts in a new folder"
            ) from error

    def write(self) -> None:
        """Write pool.json."""
        facts = {item.name: getattr(self, item.name) for item in fields(_Facts)}
        write_json(self.folder / POOL_NAME, {"format": FORMAT, **facts, "config": to_dict(self.config)})

    def write_expert(self, index: int, initial: dict[str, Tensor], trained: dict[str, Tensor]) -> None:
        """Write an expert's parameters by name before and after training; `log` is to follow."""
        tensors = {f"initial.{name}": value for name, value in initial.items()}
        tensors |= {f"trained.{name}": value for name, value in trained.items()}
        _FILE.write(self.expert_file(index), tensors, {"expert": index})

    def identity(self) -> str:
        """SHA-256 over pool.json: the settings, the data and how every training went."""
        return hashlib.sha256(read_file(self.folder / POOL_NAME)).hexdigest()

    def expert_file(self, index: int) -> Path:
        return self.folder / f"expert_{index:02d}.safetensors"

    def __len__(self) -> int:
        """The number of experts that are finished."""
        return len(self.log)

    def new_expert(self, device: str | torch.device = "cpu") -> Expert:
        """An expert to `fill_`, of the pool's architecture, on `device`; it is frozen."""
        expert = Expert(
            len(self.class_names),
            len(self.domain_names),
            self.resolution,
            self.config.network,
            self.config.reversal_weight,
        )
        return expert.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def fill_(self, expert: Expert, index: int, trained_share: float) -> None:
        """Give `expert` the parameters ``(1 - trained_share) * initial + trained_share * trained`` of expert
        `index`, in place, those of the discriminators too.

        The weights of every expert used so far stay in float32 on the device of `expert`: 90 MB for a
        ResNet-18 of width 64.

        Raises IndexError for an expert that is not in the pool, ExpertPoolError for a damaged file.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"the pool has experts 0 to {len(self) - 1}, got {index}")
        device = expert.network.classifier.weight.device
        weights = self._weights.get((index, device))
        if weights is None:
            weights = self._weights[index, device] = self._read_weights(expert, index, device)
        initial, trained = zip(*weights, strict=True)
        parameters: list[Tensor] = list(expert.parameters())
        torch._foreach_copy_(parameters, initial)
        torch._foreach_lerp_(parameters, trained, trained_share)

    def check_files(self) -> None:
        """Raises ExpertPoolError where the file of a finished expert is not there."""
        for index in range(len(self)):
            if not (path := self.expert_file(index)).exists():
                raise ExpertPoolError(f"{path} is missing; copy the folder again, or train it anew")

    def check(self, sources: DomainDataset) -> None:
        """Raises ExpertPoolError unless the experts were trained on exactly these images."""
        self.check_names(sources)
        if self.fingerprint != sources.fingerprint():
            record = ImageRecord.from_json(self.learnt_from)
            found = "which ones, pools of earlier versions do not tell"
            if record is not None:
                found = f"of {sources.name}, {record.difference(sources)}"
            raise ExpertPoolError(
                f"the experts in {self.folder} were trained on other images of the same classes and domains, "
                f"or another split of them: {found}; train experts for these data (dgdd pretrain)"
            )

    def check_names(self, data: DomainDataset) -> None:
        """Raises ExpertPoolError unless `data` have the experts' domains, classes and resolution."""
        for name, found, wanted in (
            ("domains", self.domain_names, data.domain_names),
            ("classes", self.class_names, data.class_names),
            ("resolution", self.resolution, data.resolution),
        ):
            if found != wanted:
                raise ExpertPoolError(
                    f"the experts in {self.folder} were trained with {name} {_listed(found)}, the data have "
                    f"{_listed(wanted)}; train experts for these data (dgdd pretrain)"
                )

    def _read_weights(self, expert: Expert, index: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        path = self.expert_file(index)
        wanted = {
            f"{end}.{name}": parameter
            for name, parameter in expert.named_parameters()
            for end in ("initial", "trained")
        }
        try:
            data = content_of(path)
            # An expert of the format before has no description and no checksum.
            tensors = _FILE.unpack(data)[0] if header_of(data) else loaded(data)
        except TensorFileError as error:
            raise ExpertPoolError(f"{path} is damaged ({error}); copy it again, or train it anew") from error
        try:
            check_tensors(tensors, wanted)
        except TensorFileError as error:
            raise ExpertPoolError(
                f"{path} holds another network than {POOL_NAME} tells ({error}); train it anew"
            ) from error
        return [
            (tensors[f"initial.{name}"].to(device), tensors[f"trained.{name}"].to(device))
            for name, _ in expert.named_parameters()
        ]


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values))
