"""Labelled images of several domains, and the views of them that distillation and evaluation need."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .errors import DataError
from .image_rows import Images, chunks, pool_and_rows, select_rows
from .names import chosen_names

_DIGIT_WORDS = frozenset(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))


@dataclass(frozen=True, eq=False)
class DomainDataset(Dataset[tuple[Tensor, int, int]]):
    """N images with a class and a domain each, as uint8; parts of a set share its images, and copy none.

    Raises DataError (a ValueError) where the parts do not fit together.

    Attributes:
        name: what the data are called in reports.
        images: uint8 [N, 3, H, W], RGB, contiguous: a tensor, which may be a memory-mapped file, or rows of
            one (`ImageRows`). Either gives tensors when indexed; ``images[:]`` is all of them, in memory.
        labels: int64 [N], classes in [0, K).
        domains: int64 [N], domains in [0, D).
        is_test: bool [N], whether a row belongs to the test part of its domain.
        class_names: K distinct names.
        domain_names: D distinct names.
        item_names: N names, where each row comes from.
        warnings: what was repaired or is odd about the data, one sentence each.
    """

    name: str
    images: Images
    labels: Tensor
    domains: Tensor
    is_test: Tensor
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    item_names: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images = self.images
        if images.dtype != torch.uint8 or len(images.shape) != 4 or images.shape[1] != 3:
            raise DataError(
                f"images must be uint8 [N, 3, H, W], got {images.dtype} with shape {tuple(images.shape)}"
            )
        if images.shape[2] == 0 or images.shape[3] == 0:
            raise DataError(f"images must have at least one pixel, got the shape {tuple(images.shape)}")
        if not pool_and_rows(images)[0].is_contiguous():
            raise DataError("images must be contiguous; call .contiguous() on them")
        rows = images.shape[0]
        for part, values, dtype in (
            ("labels", self.labels, torch.int64),
            ("domains", self.domains, torch.int64),
            ("is_test", self.is_test, torch.bool),
        ):
            if values.dtype != dtype or tuple(values.shape) != (rows,):
                raise DataError(
                    f"{part} must be {dtype} with shape ({rows},), one for each image, got {values.dtype} "
                    f"with shape {tuple(values.shape)}"
                )
            if values.device != images.device:
                raise DataError(f"{part} must be on the images' device {images.device}, got {values.device}")
        for part, names in (("class_names", self.class_names), ("domain_names", self.domain_names)):
            if not names or not all(isinstance(name, str) and name for name in names):
                raise DataError(f"{part} must be at least one non-empty name, got {names!r}")
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise DataError(f"{part} must differ from each other, {repeated[0]!r} occurs twice")
        if len(self.item_names) != rows:
            raise DataError(
                f"item_names must be {rows} names, one for each image, got {len(self.item_names)}"
            )
        self._check_range("labels", self.labels, len(self.class_names))
        self._check_range("domains", self.domains, len(self.domain_names))

    def _check_range(self, part: str, values: Tensor, count: int) -> None:
        outside = ((values < 0) | (values >= count)).nonzero()
        if len(outside):
            row = int(outside[0])
            raise DataError(
                f"{part} must be in 0..{count - 1} for {count} names, got {int(values[row])} in row {row} "
                f"({self.item_names[row]})"
            )

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def num_domains(self) -> int:
        """D."""
        return len(self.domain_names)

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[2], self.images.shape[3]

    @property
    def flip_safe(self) -> bool:
        """Whether a mirrored image keeps its class: not where a class is named like a digit, a number or a
        letter.
        """
        return may_be_mirrored(self.class_names)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """Row `index`: the image as float32 [3, H, W] in [0, 1], its label, its domain."""
        return self.images[index].float() / 255, int(self.labels[index]), int(self.domains[index])

    def select(self, rows: Tensor | Sequence[int]) -> DomainDataset:
        """The rows `rows` (indices, or a bool mask of length N) in that order, with the same class and domain
        names. The images are shared, not copied.
        """
        chosen = torch.as_tensor(rows, device=self.images.device)
        if chosen.is_floating_point() and chosen.numel():
            raise DataError(f"rows are chosen by whole numbers or a mask, got {chosen.dtype}")
        if chosen.dtype == torch.bool:
            if chosen.shape != self.labels.shape:
                raise DataError(
                    f"a mask of rows must have length {len(self)}, got shape {tuple(chosen.shape)}"
                )
            chosen = chosen.nonzero().squeeze(1)
        chosen = torch.arange(len(self), device=chosen.device)[chosen.to(torch.int64)]  # none below 0
        return dataclasses.replace(
            self,
            images=select_rows(self.images, chosen),
            labels=self.labels[chosen],
            domains=self.domains[chosen],
            is_test=self.is_test[chosen],
            item_names=tuple(self.item_names[row] for row in chosen.tolist()),
        )

    def only_domains(self, names: Sequence[str]) -> DomainDataset:
        """The rows of the domains `names`; the others are dropped and the domains are renumbered in this
        dataset's order.
        """
        kept, number = self._kept("domain", names, self.domain_names)
        part = self.select(number[self.domains] >= 0)
        return dataclasses.replace(part, domains=number[part.domains], domain_names=kept)

    def only_classes(self, names: Sequence[str]) -> DomainDataset:
        """The rows of the classes `names`; the others are dropped and the classes are renumbered in this
        dataset's order.
        """
        kept, number = self._kept("class", names, self.class_names)
        part = self.select(number[self.labels] >= 0)
        return dataclasses.replace(part, labels=number[part.labels], class_names=kept)

    def _kept(self, kind: str, names: Sequence[str], own: tuple[str, ...]) -> tuple[tuple[str, ...], Tensor]:
        """Those of `own` that are in `names`, and for each of `own` its new number, -1 for the others.

        Raises DataError for a name that is not in `own`, and for no names.
        """
        chosen = chosen_names(kind, own, names, self.name)
        kept = [place for place, name in enumerate(own) if name in chosen]
        number = torch.full((len(own),), -1, device=self.images.device)
        number[kept] = torch.arange(len(kept), device=number.device)
        return tuple(own[place] for place in kept), number

    def train(self) -> DomainDataset:
        """The rows outside the test parts."""
        return self.select(~self.is_test)

    def test(self) -> DomainDataset:
        """The rows of the domains' test parts."""
        return self.select(self.is_test)

    def leave_out(self, target: str) -> LeaveOneOut:
        """The leave-one-domain-out protocol with `target` as the domain that nothing is learnt from."""
        if self.num_domains < 2 and target in self.domain_names:
            raise DataError(
                f"{self.name} has one domain only ({target}), so nothing would be left to learn from; "
                "leave-one-domain-out needs two or more"
            )
        sources = [name for name in self.domain_names if name != target]
        held_out = self.only_domains([target])
        kept = self.only_domains(sources)
        return LeaveOneOut(kept.train(), kept.test(), held_out)

    def cells(self) -> list[list[Tensor]]:
        """``cells()[k][d]``: int64 row indices of class k in domain d, ascending, possibly none."""
        cell = self.labels * self.num_domains + self.domains
        order = torch.argsort(cell, stable=True)
        parts = torch.split(order, self.counts().flatten().tolist())
        return [
            list(parts[k * self.num_domains : (k + 1) * self.num_domains]) for k in range(self.num_classes)
        ]

    def counts(self) -> Tensor:
        """int64 [K, D]: images of each class in each domain."""
        cell = self.labels * self.num_domains + self.domains
        return torch.bincount(cell, minlength=self.num_classes * self.num_domains).reshape(
            self.num_classes, self.num_domains
        )

    def channel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over all pixels of all rows: float32 [3] each, for
        pixels in [0, 1].

        Computed from exact histograms, so they do not depend on the order of the rows. The deviation is at
        least 1/255, so that a constant channel can be divided by it.
        """
        if len(self) == 0:
            raise DataError(f"{self.name} has no images, so it has no channel statistics")
        histogram = torch.zeros(3, 256, dtype=torch.float64, device=self.images.device)
        for rows in chunks(self.images, "measuring colours"):
            for channel in range(3):
                histogram[channel] += torch.bincount(rows[:, channel].flatten(), minlength=256)
        share = histogram / histogram.sum(dim=1, keepdim=True)
        value = torch.arange(256, dtype=torch.float64, device=share.device) / 255
        mean = share @ value
        variance = (share * (value - mean[:, None]) ** 2).sum(dim=1)
        return mean.float(), variance.sqrt().clamp(min=1 / 255).float()

    def fingerprint(self) -> str:
        """SHA-256 over the pixels, labels, domains, split and names: equal for equal data in equal order."""
        digest = hashlib.sha256(repr((self.class_names, self.domain_names, self.resolution)).encode())
        facts = (self.labels, self.domains, self.is_test)
        for part in itertools.chain(facts, chunks(self.images, "identifying the data")):
            digest.update(part.cpu().contiguous().numpy().data)
        return digest.hexdigest()


class LeaveOneOut(NamedTuple):
    """One round of leave-one-domain-out: the sources' two parts, and every row (train and test) of the
    target.
    """

    sources_train: DomainDataset
    sources_test: DomainDataset
    target: DomainDataset


def may_be_mirrored(class_names: Sequence[str]) -> bool:
    """False where a class is named like a digit, a number or a letter, which a mirrored image is not."""
    return not any(
        len(name) == 1 or name.isdigit() or name.casefold() in _DIGIT_WORDS for name in class_names
    )


def normalise(images: Tensor, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]) -> Tensor:
    """uint8 images [..., 3, H, W] as float32, ``(pixel / 255 - mean) / std`` for each channel."""
    if images.dtype != torch.uint8:
        raise ValueError(f"normalise takes uint8 images, got {images.dtype}")
    mean, std = _per_channel(mean, images), _per_channel(std, images)
    return torch.addcmul(-mean / std, images.float(), 1 / (255 * std))


def denormalise(images: Tensor, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]) -> Tensor:
    """The inverse of `normalise` up to rounding: float32 pixels in units of [0, 1], not clamped."""
    return torch.addcmul(_per_channel(mean, images), images.float(), _per_channel(std, images))


def _per_channel(values: Tensor | Sequence[float], images: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32, device=images.device).reshape(3, 1, 1)
