"""The result of a distillation: a few images per class, with all it takes to train on and repeat them."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..files import check_new_folder, naming, write_atomically
from ..messages import shown
from ..tensor_file import ForeignFileError, NewerFileError, TensorFile, TensorFileError, content_of
from .contact_sheet import draw_contact_sheet
from .mosaics import check_factor, decode, tiles
from .soft_labels import check_soft_labels

FAR = 10.0  # pixels are within 3 or so
_TENSORS = ("images", "labels", "domains")
_SOFT = "soft_labels"
_DESCRIPTION = ("mean", "std", "class_names", "domain_names", "flip_safe", "config", "provenance", "factor")
_GIVE = "give the .safetensors file that `dgdd distill` or DistilledSet.save wrote"
_FILE = TensorFile(
    "dgdd_fast_distilled_set", "a distilled set", version=3, order=(*_TENSORS, _SOFT), optional=_SOFT
)
_AGAIN = "copy the file again, or repeat the distillation"
_UNSAFE_IN_FOLDER_NAMES = set('/\\:*?"<>|%')


class DistilledSetError(ValueError):
    """A distilled set, or the file that should hold one, is not valid. The message says what to do."""


class NewerFormatError(DistilledSetError):
    """The file is of a later version of dgdd-fast, which can read it."""


class TrainingImages(NamedTuple):
    """What to train on: images float32 [M, 3, H, W], normalised; labels and domains int64 [M]."""

    images: Tensor
    labels: Tensor
    domains: Tensor


@dataclass(frozen=True, eq=False)
class DistilledSet(torch.utils.data.Dataset[tuple[Tensor, int, int]]):
    """K * IPC synthetic images, the same number for each class, sorted by class.

    With `factor` f > 1 each of them is a mosaic of f x f tiles, and what to train on are the tiles, enlarged:
    M = K * IPC * f**2 images of the full size. As a PyTorch data set it gives those.

    Raises DistilledSetError where the parts do not fit together.

    Attributes:
        images: float32 [N, 3, H, W], normalised: pixel = image * std + mean, not clamped to [0, 1].
        labels: int64 [N], 0 .. 0 1 .. 1 up to K - 1.
        domains: int64 [M], the source domain that each image, or tile in the order of `mosaics`, was
            assigned to.
        mean, std: of the pixels in [0, 1], per channel: what other images must be normalised with.
        class_names: K distinct names.
        domain_names: the source domains; the held-out target is not among them.
        flip_safe: False where a mirrored image changes its class or has none (digits, letters).
        config: the settings of the run, whole.
        provenance: where the set comes from: data, target, iterations done, versions.
        factor: tiles along each side of an image.
        soft_labels: float32 [M, K], what to train each image or tile on in place of its class alone, the
            classes in the order of `class_names`; None: the set has hard labels.
    """

    images: Tensor
    labels: Tensor
    domains: Tensor
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    flip_safe: bool
    config: dict[str, Any]
    provenance: dict[str, Any]
    factor: int = 1
    soft_labels: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("class_names", "domain_names"):
            names = getattr(self, name)
            _require(
                isinstance(names, tuple) and names and all(isinstance(item, str) and item for item in names),
                f"{name} must be a tuple of one or more non-empty strings, got {shown(names)}",
            )
            _require(len(set(names)) == len(names), f"{name} must not repeat a name, got {shown(names)}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            _require(
                isinstance(values, tuple)
                and len(values) == 3
                and all(isinstance(value, float) and math.isfinite(value) for value in values),
                f"{name} must be a tuple of 3 finite numbers, one per colour channel, got {shown(values)}",
            )
        _require(all(value > 0 for value in self.std), f"std must be positive, got {shown(self.std)}")
        _require(
            isinstance(self.flip_safe, bool), f"flip_safe must be true or false, got {shown(self.flip_safe)}"
        )
        for name in ("config", "provenance"):
            _require(isinstance(getattr(self, name), dict), f"{name} must be a mapping")
        self._check_provenance()
        self._check_tensors()

    def _check_provenance(self) -> None:
        """What others read of it, where it is there: the rest is for the record."""
        sources, target = self.provenance.get("sources", []), self.provenance.get("target")
        _require(
            isinstance(sources, (list, tuple)) and all(isinstance(name, str) for name in sources),
            f"provenance: sources must be a list of names, got {shown(sources)}",
        )
        _require(
            target is None or isinstance(target, str),
            f"provenance: target must be a name or none, got {shown(target)}",
        )
        iterations = self.provenance.get("iterations", 0)
        _require(
            type(iterations) is int and iterations >= 0,
            f"provenance: iterations must be a whole number, got {shown(iterations)}",
        )

        _require(
            isinstance(self.provenance.get("imported", {}), dict), "provenance: imported must be a mapping"
        )

    def _check_tensors(self) -> None:
        images = self.images
        for name in _TENSORS:
            _require(isinstance(getattr(self, name), Tensor), f"{name} must be a tensor")
        _require(
            images.dtype == torch.float32
            and images.ndim == 4
            and images.shape[1] == 3
            and images.numel() > 0,
            f"images must be float32 [N, 3, H, W] with N, H, W > 0, got {images.dtype} {list(images.shape)}",
        )
        _require(type(self.factor) is int, f"factor must be a whole number, got {shown(self.factor)}")
        try:
            check_factor(self.factor, self.resolution)
        except ValueError as error:
            raise DistilledSetError(str(error)) from error
        count, classes, domains = len(images), len(self.class_names), len(self.domain_names)
        for name, length in (("labels", count), ("domains", count * self.factor**2)):
            tensor = getattr(self, name)
            _require(
                tensor.dtype == torch.int64 and tensor.shape == (length,) and tensor.device == images.device,
                f"{name} must be int64 [{length}] on {images.device}, "
                f"got {tensor.dtype} {list(tensor.shape)} on {tensor.device}",
            )
        _require(count % classes == 0, f"{count} images do not divide evenly among {classes} classes")
        per_class = count // classes
        _require(
            torch.equal(
                self.labels, torch.arange(classes, device=images.device).repeat_interleave(per_class)
            ),
            f"labels must be sorted by class, {per_class} for each of 0 .. {classes - 1}",
        )
        lowest, highest = int(self.domains.min()), int(self.domains.max())
        _require(
            lowest >= 0 and highest < domains,
            f"domains must lie in 0 .. {domains - 1}, got {lowest} .. {highest}",
        )
        broken = ~torch.isfinite(images).flatten(1).all(1)
        _require(not broken.any(), f"image {int(broken.int().argmax())} has a value that is NaN or infinite")
        if self.soft_labels is not None:
            _require(isinstance(self.soft_labels, Tensor), "soft_labels must be a tensor or None")
            try:
                check_soft_labels(self.soft_labels, self.labels.repeat_interleave(self.factor**2), classes)
            except ValueError as error:
                raise DistilledSetError(str(error)) from error

    @cached_property
    def training_images(self) -> TrainingImages:
        """The images to train on, decoded from the mosaics, with their labels and domains."""
        images = decode(tiles(self.images, self.factor), self.factor)
        return TrainingImages(images, self.labels.repeat_interleave(self.factor**2), self.domains)

    @property
    def training_pixels(self) -> TrainingImages:
        """The same on the CPU, not normalised: pixels in units of [0, 1], not clamped to it."""
        images, labels, domains = self.training_images
        return TrainingImages(self._in_pixels(images), labels.cpu(), domains.cpu())

    def __len__(self) -> int:
        """M, the number of images to train on."""
        return len(self.domains)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """A normalised image to train on, float32 [3, H, W], its label and its assigned domain."""
        images, labels, domains = self.training_images
        return images[index], int(labels[index]), int(domains[index])

    @property
    def ipc(self) -> int:
        """Images per class."""
        return len(self.images) // len(self.class_names)

    @property
    def imported(self) -> dict[str, Any] | None:
        """From which file of another tool the set comes; None for one that was distilled here."""
        return self.provenance.get("imported")

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[2], self.images.shape[3]

    @property
    def strays(self) -> int:
        """Images with a value more than `FAR` standard deviations from the mean of the real ones."""
        return int((self.images.abs() > FAR).flatten(1).any(1).sum())

    def pixels(self) -> Tensor:
        """The images to look at, not to train on: uint8 [N, 3, H, W] on the CPU, de-normalised, clamped."""
        return in_bytes(self._in_pixels(self.images))

    def _in_pixels(self, images: Tensor) -> Tensor:
        mean, std = torch.tensor(self.mean).view(3, 1, 1), torch.tensor(self.std).view(3, 1, 1)
        return images.cpu() * std + mean

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically. The same set gives the same bytes.

        Raises DistilledSetError where `config` or `provenance` hold what JSON cannot.
        """
        names = _TENSORS if self.soft_labels is None else (*_TENSORS, _SOFT)
        tensors = {name: getattr(self, name) for name in names}
        try:
            content = _FILE.pack(tensors, self.description())
        except (TypeError, ValueError) as error:
            raise DistilledSetError(
                f"{path}: config and provenance must hold JSON values only: {error}"
            ) from error
        write_atomically(Path(path), content)

    @classmethod
    def load(cls, path: str | Path) -> DistilledSet:
        """Read a file that `save` wrote, onto the CPU, and check all of it.

        Raises DistilledSetError for a damaged or foreign file, NewerFormatError for one of a newer format,
        OSError for one that cannot be opened.
        """
        try:
            return cls.from_content(_unpack(Path(path)))
        except DistilledSetError as error:
            raise type(error)(f"{path}: {error}") from error.__cause__

    def description(self) -> dict[str, Any]:
        """All of the set but its tensors, for JSON; `from_content` takes it back."""
        return {name: getattr(self, name) for name in _DESCRIPTION}

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> DistilledSet:
        """The set of these tensors and what `description` gave, read from JSON.

        Raises DistilledSetError where something is missing or does not fit.
        """
        missing = [name for name in (*_TENSORS, *_DESCRIPTION) if name not in content]
        _require(not missing, f"damaged: no {', '.join(missing)}; {_AGAIN}")
        lists = ("mean", "std", "class_names", "domain_names")
        fields: dict[str, Any] = {
            name: tuple(content[name]) if name in lists and isinstance(content[name], list) else content[name]
            for name in (*_TENSORS, *_DESCRIPTION)
        }
        return cls(**fields, soft_labels=content.get(_SOFT))

    def export_folder(self, path: str | Path) -> None:
        """Write ``domain/class/NNN.png`` below `path`, NNN being the row: a folder to load as data again.

        These are the M images to train on, mosaics decoded: 8 bits, clamped. Raises FileExistsError where
        `path` has content already.
        """
        check_new_folder(Path(path))
        _, labels, domains = self.training_images
        self.write_images(
            Path(path)
            / _folder_name(self.domain_names[int(domain)])
            / _folder_name(self.class_names[int(label)])
            for label, domain in zip(labels, domains, strict=True)
        )

    def write_images(self, folders: Iterable[Path]) -> list[Path]:
        """Write the M images to train on, 8 bits, clamped, as NNN.png into a folder each, NNN being the row;
        the files."""
        digits = max(3, len(str(len(self) - 1)))
        images = in_bytes(self.training_pixels.images).permute(0, 2, 3, 1).numpy()
        files = []
        for row, (image, folder) in enumerate(zip(images, folders, strict=True)):
            folder.mkdir(parents=True, exist_ok=True)
            files.append(folder / f"{row:0{digits}d}.png")
            with naming(files[-1]):
                try:
                    Image.fromarray(image).save(files[-1])
                except OSError:
                    files[-1].unlink(missing_ok=True)  # half of it, or nothing
                    raise
        return files

    def contact_sheet(self, path: str | Path, before: DistilledSet | None = None) -> None:
        """Write the PNG of `contact_sheet_png`, atomically."""
        write_atomically(Path(path), self.contact_sheet_png(before))

    def contact_sheet_png(self, before: DistilledSet | None = None) -> bytes:
        """One PNG of all images as they are stored: classes in rows, grouped by assigned domain.

        `before`: the images that the distillation began with, to be shown above the others, unless they are
        the same. Mosaics whose tiles are of several domains form a group of their own.
        """
        if before is not None and before.images.shape != self.images.shape:
            raise ValueError(
                f"before and after differ in shape: {list(before.images.shape)}, {list(self.images.shape)}"
            )
        differ = before is not None and not torch.equal(before.images, self.images)
        of_tiles = self.domains.reshape(len(self.images), -1)
        uniform = (of_tiles == of_tiles[:, :1]).all(1)
        domains = torch.where(uniform, of_tiles[:, 0], len(self.domain_names))
        mosaics = f" of {self.factor} x {self.factor} tiles" if self.factor > 1 else ""
        soft = ", soft labels" if self.soft_labels is not None else ""
        sheet = draw_contact_sheet(
            _rows_of_pixels(self),
            self.labels.tolist(),
            domains.tolist(),
            self.class_names,
            (*self.domain_names, *(() if uniform.all() else ("several domains",))),
            title=f"{len(self.images)} images{mosaics}, {self.ipc} per class, "
            f"{self.resolution[0]} x {self.resolution[1]} px{soft}",
            before=_rows_of_pixels(before) if before is not None and differ else None,
        )
        png = io.BytesIO()
        sheet.save(png, format="PNG")
        return png.getvalue()


def _rows_of_pixels(images: DistilledSet) -> NDArray[np.uint8]:
    """[N, H, W, 3]"""
    return images.pixels().permute(0, 2, 3, 1).contiguous().numpy()


def in_bytes(pixels: Tensor) -> Tensor:
    """Pixels in units of [0, 1] as uint8, clamped and rounded."""
    return pixels.clamp(0, 1).mul(255).round().to(torch.uint8)


def _require(holds: object, message: str) -> None:
    if not holds:
        raise DistilledSetError(message)


def _unpack(path: Path) -> dict[str, Any]:
    """The fields in a file, known to be those of a distilled set as it was saved."""
    try:
        tensors, description = _FILE.unpack(content_of(path))
    except NewerFileError as error:
        raise NewerFormatError(str(error)) from error
    except ForeignFileError as error:
        kind = str(error)
        what = kind if "not a distilled set" in kind else f"{kind}, not a distilled set"
        raise DistilledSetError(f"{what}; {_GIVE}") from error
    except TensorFileError as error:
        raise DistilledSetError(f"{error}; {_AGAIN}") from error
    return {**tensors, "factor": 1, **description}  # a file of version 1 knows no mosaics


def _folder_name(name: str) -> str:
    """`name` as one folder: characters that some file system refuses, and a leading dot, as %XX."""
    return "".join(
        f"%{ord(character):02X}"
        if not character.isprintable()
        or character in _UNSAFE_IN_FOLDER_NAMES
        or (character == "." and place == 0)
        else character
        for place, character in enumerate(name)
    )
