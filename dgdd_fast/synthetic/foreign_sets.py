"""Distilled sets that other tools wrote, read without running anything from their files.

Which tool writes what, and what its file leaves open, is in docs/interoperability.md.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..json_text import parse_json
from ..memory import check_fits
from ..messages import shortened, shown
from .distilled_set import DistilledSet, DistilledSetError
from .mosaics import check_factor
from .plain_files import PlainFile, read_plain_file

OWN_KEY = "dgdd_fast"  # where `export` puts what a layout has no place for
ARRAYS = ("images", "labels", "domains", "description")  # of an .npz file that `export` wrote
_PIXELS = (-1.0, 2.0)  # of pixels in [0, 1], after a last step that was not clamped


class ForeignSet(NamedTuple):
    """What a file of another tool holds.

    Attributes:
        layout: a key of `LAYOUTS`.
        digest: SHA-256 of the file, or of the files one after the other.
        images: float32 [N, C, H, W], C 1 or 3, finite.
        labels: int64 [N].
        sets: how many sets are in the file; `experiment` is the one that was taken, counted from 0.
        learning_rate: that the set is to be trained with, where the tool learns it.
        own: the whole set, where `dgdd export` wrote the file.
    """

    layout: str
    digest: str
    images: Tensor
    labels: Tensor
    sets: int = 1
    experiment: int = 0
    learning_rate: float | None = None
    own: DistilledSet | None = None


def read_foreign_set(path: Path, layout: str = "auto", experiment: int = -1) -> ForeignSet:
    """The set in the file at `path`, or for "mtt" in the folder.

    Args:
        layout: a key of `LAYOUTS`; "auto" tells by the content.
        experiment: which of several sets in a file, counted from 0; -1 is the last.

    Raises DistilledSetError, naming the file, for one that is damaged, holds code, or is of no such layout;
    OSError for one that is not there.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise DistilledSetError(f"the format must be auto, {', '.join(LAYOUTS)}, got {shown(layout)}")
    if path.is_dir():
        path = _images_in(path)
    try:
        content = read_plain_file(path)
        family = _family(content)
        if layout == "auto":
            layout = family
        if LAYOUTS[layout] is not LAYOUTS[family]:
            raise DistilledSetError(f"this is in the format of {family}, not of {layout}")
        found = LAYOUTS[layout](content, layout, experiment)
        if experiment >= found.sets:
            raise DistilledSetError(
                f"there is one set in it, and no number {experiment}: leave --experiment out"
            )
        return found
    except ValueError as error:
        raise DistilledSetError(f"{path}: {error}") from error


def imported_set(
    foreign: ForeignSet,
    *,
    class_names: Sequence[str],
    class_order: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    pixels: bool,
    factor: int,
    flip_safe: bool,
    provenance: dict[str, Any],
) -> DistilledSet:
    """A foreign set as one of ours.

    Args:
        class_names: of label 0, 1 ... in the file.
        class_order: the same names, in the order that the data have them in.
        mean, std: of the pixels in [0, 1]: what the images are normalised with, or what they are to be.
        pixels: the images are pixels in [0, 1], and are normalised here.
        factor: tiles along each side of an image.
        provenance: where it comes from.

    Raises DistilledSetError where labels, classes, range or size do not fit.
    """
    images, labels = foreign.images, foreign.labels
    count, classes = len(images), len(class_names)
    outside = int(((labels < 0) | (labels >= classes)).sum())
    if outside:
        raise DistilledSetError(
            f"{outside} of {count} labels are outside 0 .. {classes - 1}: the set has labels "
            f"{int(labels.min())} .. {int(labels.max())}, and {classes} classes are named"
        )
    counts = torch.bincount(labels, minlength=classes)
    if (counts != counts[0]).any():
        least, most = int(counts.argmin()), int(counts.argmax())
        raise DistilledSetError(
            f"every class must have the same number of images; {class_names[least]!r} has "
            f"{int(counts[least])}, {class_names[most]!r} has {int(counts[most])}"
        )
    low, high = float(images.min()), float(images.max())
    if pixels and not (_PIXELS[0] <= low and high <= _PIXELS[1]):
        raise DistilledSetError(
            f"the values are {low:.3g} .. {high:.3g}, no pixels in [0, 1]; if they are normalised, say so: "
            "--scale normalised"
        )
    if not pixels and low >= 0 and high <= 1:
        raise DistilledSetError(
            f"the values are {low:.3g} .. {high:.3g}: these are pixels in [0, 1], not normalised images; if "
            "so, say it: --scale pixels"
        )
    try:
        check_factor(factor, (images.shape[2], images.shape[3]))
    except ValueError as error:
        raise DistilledSetError(str(error)) from error
    labels = torch.tensor([class_order.index(name) for name in class_names])[labels]
    images = images[torch.argsort(labels, stable=True)].expand(-1, 3, -1, -1)
    if pixels:
        images = (images - _per_channel(mean)) / _per_channel(std)
    ipc = count // classes
    return DistilledSet(
        images=images.contiguous(),
        labels=torch.arange(classes).repeat_interleave(ipc),
        domains=torch.zeros(count * factor**2, dtype=torch.int64),
        mean=tuple(map(float, mean)),  # type: ignore[arg-type]
        std=tuple(map(float, std)),  # type: ignore[arg-type]
        class_names=tuple(class_order),
        domain_names=("imported",),
        flip_safe=flip_safe,
        config={"ipc": ipc, "factor": factor},
        provenance=provenance,
        factor=factor,
    )


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)


def _family(content: PlainFile) -> str:
    """The layout of a file by its content; of layouts that are the same, the first."""
    value = content.value
    if value is None:
        return "numpy"
    if isinstance(value, dict) and "data" in value:
        return "dm"
    if isinstance(value, Tensor):
        return "mtt"
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return "idc"
    held = (
        f"a mapping with {shortened(', '.join(map(str, value)))}"
        if isinstance(value, dict)
        else f"a {type(value).__name__}"
    )
    raise DistilledSetError(
        f"it holds {held}; expected a mapping with 'data' (DC, DSA, DM, DataDAM), a tensor of images with "
        "labels_*.pt beside it (MTT), [images, labels] (IDC, NCFM) or the arrays of dgdd export"
    )


def _list_of_sets(content: PlainFile, layout: str, experiment: int) -> ForeignSet:
    """``{"data": [[images, labels], ...]}``: DC, DSA, DM and DataDAM."""
    sets = content.value["data"]
    if not isinstance(sets, (list, tuple)) or not sets:
        raise DistilledSetError("its 'data' must be a list of [images, labels], one or more")
    if not -1 <= experiment < len(sets):
        raise DistilledSetError(
            f"there are {len(sets)} sets in it: choose --experiment 0 .. {len(sets) - 1}, or leave it out "
            "for the last"
        )
    chosen = len(sets) - 1 if experiment == -1 else experiment
    own = content.value.get(OWN_KEY)
    images, labels = _pair(sets[chosen], soft=own is not None)
    return ForeignSet(
        layout,
        _digest(content.data),
        images,
        labels,
        len(sets),
        chosen,
        own=None if own is None else _own_of_mapping(own, images, labels),
    )


def _single_pair(content: PlainFile, layout: str, experiment: int) -> ForeignSet:
    """``[images, labels]``: IDC and NCFM."""
    images, labels = _pair(content.value)
    return ForeignSet(layout, _digest(content.data), images, labels)


def _two_files(content: PlainFile, layout: str, experiment: int) -> ForeignSet:
    """``images_X.pt``, ``labels_X.pt`` and of successors ``lr_X.pt``: MTT."""
    found = re.fullmatch(r"images_(?:zca_)?(.+)\.pt", content.path.name)
    labels_path = None if found is None else content.path.with_name(f"labels_{found[1]}.pt")
    if labels_path is None or not labels_path.is_file():
        expected = (
            "labels_X.pt beside images_X.pt" if labels_path is None else f"{labels_path.name} beside it"
        )
        raise DistilledSetError(f"it holds images alone; their labels are expected in {expected}")
    beside = read_plain_file(labels_path)
    images, labels = _pair((content.value, beside.value), labels_path.name)
    rate = content.path.with_name(labels_path.name.replace("labels_", "lr_", 1))
    learning_rate = None
    if rate.is_file():
        value = read_plain_file(rate).value
        if not isinstance(value, Tensor) or value.numel() != 1 or not torch.isfinite(value).all():
            raise DistilledSetError(f"{rate.name} beside it must hold one number")
        learning_rate = float(value)
    return ForeignSet(
        layout, _digest(content.data + beside.data), images, labels, learning_rate=learning_rate
    )


def _arrays(content: PlainFile, layout: str, experiment: int) -> ForeignSet:
    """The .npz file of `dgdd export --format numpy`."""
    try:
        with np.load(io.BytesIO(content.data), allow_pickle=False) as file:
            missing = [name for name in ARRAYS if name not in file]
            if missing:
                raise DistilledSetError(
                    f"it has no array {missing[0]}; expected {', '.join(ARRAYS)}, as dgdd export writes them"
                )
            images, labels, domains = (torch.from_numpy(np.array(file[name])) for name in ARRAYS[:3])
            text = str(file["description"])
    except DistilledSetError:
        raise
    except Exception as error:  # NumPy and zlib each have their own ways to fail on a damaged file
        raise DistilledSetError(f"damaged, or no file of plain arrays ({shortened(str(error))})") from error
    own = _own(images, labels, domains, text)
    return ForeignSet(layout, _digest(content.data), own.images, own.labels, own=own)


LAYOUTS: dict[str, Callable[[PlainFile, str, int], ForeignSet]] = {
    "dm": _list_of_sets,
    "dc": _list_of_sets,
    "dsa": _list_of_sets,
    "datadam": _list_of_sets,
    "mtt": _two_files,
    "idc": _single_pair,
    "ncfm": _single_pair,
    "numpy": _arrays,
}
IN_PIXELS = ("idc", "ncfm")  # whose images are pixels in [0, 1], and mosaics of a factor that is not told


def _images_in(folder: Path) -> Path:
    """The images of MTT in a folder: the best ones, or the only ones."""
    found = sorted(folder.glob("images_*.pt"))
    best = folder / "images_best.pt"
    if best in found:
        return best
    if len(found) != 1:
        what = f"{len(found)} files images_*.pt" if found else "no file images_*.pt"
        raise DistilledSetError(f"{folder} holds {what}; name the file to import")
    return found[0]


def _pair(value: Any, labels_from: str | None = None, soft: bool = False) -> tuple[Tensor, Tensor]:
    """Images and labels, known to be those of a set with hard labels, or where `soft`, of a set of ours that
    may have soft ones."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise DistilledSetError(f"a set must be [images, labels], got a {type(value).__name__}")
    images, labels = value
    where = "the labels" if labels_from is None else labels_from
    for what, tensor in (("the images", images), (where, labels)):
        if not _is_plain(tensor):
            raise DistilledSetError(f"{what} must be a plain tensor, got a {type(tensor).__name__}")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise DistilledSetError(
                f"{what} claim {list(tensor.shape)} values, and the file holds a fraction of them"
            )
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise DistilledSetError(
            f"the images must be [N, 3, H, W], or [N, 1, H, W] in grey, got {list(images.shape)}"
        )
    if not images.is_floating_point():
        raise DistilledSetError(f"the images must be floating-point numbers, got {images.dtype}")
    are_soft = labels.ndim == 2 and labels.is_floating_point()
    if are_soft and not soft:
        raise DistilledSetError(
            f"{where} are soft, {list(labels.shape)}: tools differ in what such numbers are (probabilities, "
            "logits) and how they are trained on, and the most probable classes alone would be another set "
            "than the one that was published; import one with hard labels"
        )
    whole = labels.shape == (len(images),) and not labels.is_floating_point() and not labels.is_complex()
    if not are_soft and not whole:
        raise DistilledSetError(
            f"{where} must be {len(images)} whole numbers, one for each image, got {labels.dtype} "
            f"{list(labels.shape)}"
        )
    check_fits(f"{len(images)} images", 3 * 4 * images.numel())
    images = images.detach().to(torch.float32)
    broken = ~torch.isfinite(images).flatten(1).all(1)
    if broken.any():
        raise DistilledSetError(f"image {int(broken.int().argmax())} has a value that is NaN or infinite")
    return images, labels.detach() if are_soft else labels.detach().to(torch.int64)


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor with all of its values in memory, one after the other."""
    return (
        type(value) in (Tensor, torch.nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_nested
    )


def _own_of_mapping(own: Any, images: Tensor, labels: Tensor) -> DistilledSet:
    """A whole set from what `dgdd export --format dm` puts beside the images to train on."""
    if not isinstance(own, dict) or not isinstance(own.get("description"), str):
        raise DistilledSetError(f"its {OWN_KEY!r} is not what dgdd export wrote")
    mosaics = own.get("mosaics")
    if mosaics is None:
        return _own(images, labels, own.get("domains"), own["description"])
    stored = labels if labels.ndim == 2 else own.get("labels")
    found = _own(mosaics, stored, own.get("domains"), own["description"])
    if not torch.equal(found.training_images.images, images):
        raise DistilledSetError(
            "its images are not those of the mosaics beside them: one of both was changed after the export"
        )
    return found


def _own(images: Any, labels: Any, domains: Any, description: str) -> DistilledSet:
    try:
        content = parse_json(description)
    except ValueError as error:
        raise DistilledSetError(f"its description cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise DistilledSetError("its description is no mapping")
    if isinstance(labels, Tensor) and isinstance(images, Tensor) and labels.ndim == 2:  # soft
        content["soft_labels"], classes = labels, max(1, labels.shape[1])
        labels = torch.arange(classes).repeat_interleave(len(images) // classes)
    return DistilledSet.from_content({"images": images, "labels": labels, "domains": domains, **content})


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
