"""Rows of (image, label, domain) from anywhere: a list, a generator, a split of a Hugging Face dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..messages import shortened
from .checks import check_resolution, checked_dataset
from .dataset import DomainDataset
from .errors import DataError
from .findings import Findings
from .folder import DEFAULT_TEST_SHARE
from .images import Pixels, array_to_pixels, image_to_pixels, read_image
from .labels import counts_from_one, whole_number
from .names import check_spelling, listed, natural_key, near, plain_name
from .splits import stratified_split

_SPAN = 100_000  # numbers of classes among which those that no row has are looked for


def from_iterable(
    rows: Iterable[Any],
    test_rows: Iterable[Any] | None = None,
    *,
    name: str = "iterable",
    class_names: Sequence[str] | None = None,
    domain_names: Sequence[str] | None = None,
    resolution: int | None = None,
    image_key: str = "image",
    label_key: str = "label",
    domain_key: str = "domain",
    seed: int = 0,
) -> DomainDataset:
    """Collects rows into a dataset.

    A row is a tuple (image, label, domain) or a mapping with these under the keys given. An image is a Pillow
    image, an array [H, W, 3] or [H, W], a tensor [3, H, W], a path, or an encoded file as bytes (also as
    Hugging Face's mapping of `bytes` and `path`). Labels and domains are all numbers or all names.

    Args:
        rows: the train part; without `test_rows` all rows, of which 20 % of each (class, domain) cell, drawn
            with `seed`, become the test part.
        test_rows: the test part.
        class_names: the names of the labels. None takes them from the rows' own features (Hugging Face's
            ClassLabel), else the labels that occur, in natural order. Give them where the labels are plain
            numbers of things that may be mirrored: classes named by numbers are taken for digits.
        domain_names: likewise for the domains.
        resolution: side in pixels to resize to; None keeps the images' size, which must then be the same for
            all.

    Raises DataError naming the row that cannot be used.
    """
    check_resolution(resolution)
    keys = (image_key, label_key, domain_key)
    collector = _Collector(keys, resolution)
    for part, source in (("row", rows), ("test row", test_rows if test_rows is not None else ())):
        for number, row in enumerate(source):
            collector.add(row, f"{part} {number}", part == "test row")
    if not collector.images:
        raise DataError(f"{name} holds no rows")

    warnings = collector.findings.notes()
    labels, class_names = _numbered(
        "label", collector.labels, collector.items, class_names or _feature_names(rows, label_key), warnings
    )
    domains, domain_names = _numbered(
        "domain",
        collector.domains,
        collector.items,
        domain_names or _feature_names(rows, domain_key),
        warnings,
    )
    label_rows, domain_rows = torch.tensor(labels), torch.tensor(domains)
    if test_rows is None:
        is_test = stratified_split(
            label_rows, domain_rows, class_names, domain_names, DEFAULT_TEST_SHARE, seed
        )
        warnings.append(
            f"no test rows are given; the test part is {DEFAULT_TEST_SHARE:.0%}, drawn from each class and "
            "domain with a seed"
        )
    else:
        is_test = torch.tensor(collector.is_test)
    dataset = DomainDataset(
        name=name,
        images=torch.from_numpy(np.stack(collector.images)).permute(0, 3, 1, 2).contiguous(),
        labels=label_rows,
        domains=domain_rows,
        is_test=is_test,
        class_names=tuple(class_names),
        domain_names=tuple(domain_names),
        item_names=tuple(collector.items),
    )
    return checked_dataset(dataset, warnings, name)


class _Collector:
    """The rows so far."""

    def __init__(self, keys: tuple[str, str, str], resolution: int | None) -> None:
        self.keys = keys
        self.resolution = resolution
        self.images: list[Pixels] = []
        self.labels: list[Any] = []
        self.domains: list[Any] = []
        self.items: list[str] = []
        self.is_test: list[bool] = []
        self.findings = Findings()

    def add(self, row: Any, item: str, is_test: bool) -> None:
        if isinstance(row, Mapping):
            missing = [key for key in self.keys if key not in row]
            if missing:
                raise DataError(
                    f"{item} has no {missing[0]!r}, it has {', '.join(map(str, row))}; name the keys with "
                    "image_key, label_key and domain_key"
                )
            image, label, domain = (row[key] for key in self.keys)
        elif isinstance(row, (tuple, list)) and len(row) == 3:
            image, label, domain = row
        else:
            raise DataError(f"{item} must be (image, label, domain) or a mapping, got {type(row).__name__}")
        pixels = self._pixels(image, item)
        if self.images and pixels.shape != self.images[0].shape:
            raise DataError(
                f"{item} is {pixels.shape[1]} x {pixels.shape[0]} pixels, the rows before it are "
                f"{self.images[0].shape[1]} x {self.images[0].shape[0]}; choose a resolution to resize to"
            )
        self.images.append(pixels)
        self.labels.append(label)
        self.domains.append(domain)
        self.items.append(item)
        self.is_test.append(is_test)

    def _pixels(self, image: Any, item: str) -> Pixels:
        if isinstance(image, Mapping) and ("bytes" in image or "path" in image):
            image = image.get("bytes") or image.get("path")
        if isinstance(image, Image.Image):
            return image_to_pixels(image, item, self.resolution, self.findings)
        if isinstance(image, (str, Path)):
            return read_image(Path(image), plain_name(str(image)), self.resolution, self.findings)
        if isinstance(image, bytes):
            return read_image(image, item, self.resolution, self.findings)
        if isinstance(image, torch.Tensor):
            if image.dim() not in (2, 3) or (image.dim() == 3 and image.shape[0] not in (1, 3, 4)):
                raise DataError(
                    f"{item} has the shape {tuple(image.shape)}; a tensor is [3, H, W] or [H, W], an array "
                    "[H, W, 3]"
                )
            image = image.detach().cpu()
            image = image.float() if image.dtype == torch.bfloat16 else image
            image = (image.permute(1, 2, 0) if image.dim() == 3 else image).numpy()
        if not isinstance(image, np.ndarray):
            raise DataError(
                f"{item}: an image must be a Pillow image, an array, a tensor, a path or bytes, got "
                f"{type(image).__name__}"
            )
        return array_to_pixels(image, item, self.resolution, self.findings)


def _feature_names(rows: Any, key: str) -> list[str] | None:
    """The names that a Hugging Face split declares for the column `key`."""
    features = getattr(rows, "features", None)
    names = (
        getattr(features[key], "names", None) if isinstance(features, Mapping) and key in features else None
    )
    return [str(entry) for entry in names] if names else None


def _numbered(
    kind: str, values: Sequence[Any], items: Sequence[str], names: Sequence[str] | None, warnings: list[str]
) -> tuple[list[int], list[str]]:
    """The values as numbers in [0, len(names)), and the names."""
    of_what = "class" if kind == "label" else kind
    if names is not None:
        if not all(isinstance(name, str) for name in names):
            raise DataError(f"{of_what}_names must be names, got {shortened(repr(list(names)))}")
        names = [plain_name(name) for name in names]
        check_spelling(of_what, names, "the data")
    if all(isinstance(value, str) for value in values):
        called = [plain_name(value) for value in values]
        known = sorted(set(called), key=natural_key) if names is None else names
        check_spelling(of_what, known, "the data")
        number = {name: place for place, name in enumerate(known)}
        for name, item in zip(called, items, strict=True):
            if name not in number:
                raise DataError(
                    f"{item} has the {kind} {name!r}, which is none of {listed(known)}{near(name, known)}"
                )
        return [number[name] for name in called], known
    whole = [whole_number(value, kind, item) for value, item in zip(values, items, strict=True)]
    if names is None:
        if min(whole) < 0 and set(whole) != {-1, 1}:
            raise DataError(
                f"{items[whole.index(min(whole))]} has the {kind} {min(whole)}, which often stands for none; "
                f"leave such rows out, or give the {kind}s as names"
            )
        span = range(min(whole), max(whole) + 1)
        if len(span) < _SPAN and (absent := sorted(set(span) - set(whole))):
            warnings.append(f"no row has the {kind} {listed([str(value) for value in absent])}")
        place = {value: place for place, value in enumerate(sorted(set(whole)))}
        return [place[value] for value in whole], [str(value) for value in place]
    low, high, count = min(whole), max(whole), len(names)
    if low == 0 and high < count:
        return whole, list(names)
    if low == 1 and counts_from_one(set(whole), names, f"the {kind}s of the rows"):
        warnings.append(f"the {kind}s count from 1; brought to 0..{count - 1}")
        return [value - 1 for value in whole], list(names)
    item = items[whole.index(high if high >= count else low)]
    raise DataError(
        f"{item}: the {kind}s are {low}..{high} for {count} names; expected 0..{count - 1}, with 0 among them"
    )
