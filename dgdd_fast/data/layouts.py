"""Understanding a folder of image files: which folders are domains, parts and classes.

* ``domain/class/image``: Office-Home, PACS, DomainNet, and data of one's own.
* ``domain/part/class/image``, part one of train, crossval, val, test, full: VLCS and Digits-DG.
* CORe50's ``s1/o1/image`` is the first form.

Folders around these (``kfold``, ``images``) are looked through. Hidden files and what operating systems leave
behind are left out (see `tree`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .errors import DataError
from .names import check_spelling, listed, natural_key, plain_name
from .npz import holds_images
from .packed import PACKED_FILES
from .tree import Place, Tree, shown, walk

_PARTS = frozenset(("train", "crossval", "val", "test", "full"))
_WRAPPER = re.compile(r"kfold|(raw )?images|officehomedataset.*|core50.*", re.IGNORECASE)
_EXPECTED = "expected domain/class/image, for example photo/dog/1.jpg"


class ImageItem(NamedTuple):
    """An image file and what its folders say, as plain names; `part` is None where no folder names one."""

    file: Path
    name: str
    domain: str
    part: str | None
    class_folder: str


@dataclass(frozen=True)
class Layout:
    """An understood folder, names in natural order. `class_folders` include empty ones."""

    items: tuple[ImageItem, ...]
    domains: tuple[str, ...]
    class_folders: tuple[str, ...]
    texts: tuple[Path, ...]
    warnings: tuple[str, ...]


def read_layout(path: Path) -> Layout:
    """Finds the images below `path`. Raises DataError where none lies in a domain and a class."""
    tree = walk(path)
    outer = _outer_folders(tree)
    inside = [image[len(outer) :] for image in tree.images if image[: len(outer)] == outer]
    items: list[ImageItem] = []
    misplaced: list[str] = []
    for below in inside:
        file, name = path.joinpath(*outer, *below), shown(below)
        domain, class_folder = plain_name(below[0]), plain_name(below[-2]) if len(below) > 1 else ""
        if len(below) == 3:
            items.append(ImageItem(file, name, domain, None, class_folder))
        elif len(below) == 4 and below[1].casefold() in _PARTS:
            items.append(ImageItem(file, name, domain, below[1].casefold(), class_folder))
        else:
            misplaced.append(name)
    misplaced += [shown(image) for image in tree.images if image[: len(outer)] != outer]
    if outer or not items:
        _check_one_data_set(path, tree)
    if not items:
        raise DataError(_nothing_found(path, tree))
    if len(misplaced) > len(items):
        raise DataError(
            f"{path} holds {len(items)} images in domain/class folders ({items[0].name}) and "
            f"{len(misplaced)} elsewhere ({misplaced[0]}), so it is not clear which the data are; {_EXPECTED}"
        )
    domains = sorted({item.domain for item in items}, key=natural_key)
    if all(domain.casefold() in _PARTS for domain in domains):
        raise DataError(
            f"{path} holds {', '.join(domains)}, which are parts of one domain rather than domains; put "
            "them into a folder with the domain's name, and name the folder above that"
        )

    warnings = list(tree.warnings)
    if outer and not all(_WRAPPER.fullmatch(folder) for folder in outer):
        warnings.append(f"the domains are the folders in {shown(outer)}, the only folder with images")
    warnings += _spelt_otherwise(items, len(path.joinpath(*outer).parts))
    if misplaced:
        warnings.append(
            f"images outside domain/class folders are left out: {len(misplaced)}, for example {misplaced[0]}"
        )
    odd = [other for other in tree.others if other[: len(outer)] == outer and len(other) - len(outer) >= 3]
    if odd:
        warnings.append(
            f"files that are no images by their ending are left out: {len(odd)}, for example {shown(odd[0])}"
        )
    if packed := [other for other in tree.packed if other not in odd]:
        warnings.append(
            f"data that are no image files are left out: {', '.join(map(shown, packed[:3]))}"
            + (f" and {len(packed) - 3} more" if len(packed) > 3 else "")
        )
    classes = {item.class_folder for item in items}
    class_level = 2 + any(item.part is not None for item in items)
    for folder in (*tree.empty, *tree.without_images):
        below, is_empty = folder[len(outer) :] if folder[: len(outer)] == outer else (), folder in tree.empty
        if len(below) == 1 and is_empty:
            warnings.append(f"the folder {shown(folder)} is empty and not counted as a domain")
        elif len(below) == class_level and plain_name(below[0]) in domains:
            if is_empty:
                classes.add(plain_name(below[-1]))
            else:
                warnings.append(f"the folder {shown(folder)} holds no images and is not counted as a class")
    check_spelling("domain", domains, str(path))
    check_spelling("class", sorted(classes), str(path))
    items.sort(key=lambda item: (natural_key(item.domain), natural_key(item.name)))
    return Layout(
        tuple(items),
        tuple(domains),
        tuple(sorted(classes, key=natural_key)),
        tuple(dict.fromkeys(_with_lists_beside(path, tree.texts))),
        tuple(warnings),
    )


def _spelt_otherwise(items: Sequence[ImageItem], depth: int) -> list[str]:
    """Notes about domains and classes whose folders are not named by their plain name.

    `depth` pieces of a file's path lead to the domains. Raises DataError where two folders beside each other
    have one plain name.
    """
    spelt: dict[tuple[Path, str], Path] = {}
    other: dict[str, str] = {}
    for folder in dict.fromkeys(item.file.parent for item in items):
        for place in (Path(*folder.parts[: depth + 1]), folder):
            name = plain_name(place.name)
            first = spelt.setdefault((place.parent, name), place)
            if first != place:
                raise DataError(
                    f"{plain_name(str(place.parent))} holds {name!r} twice, in two Unicode forms "
                    f"({first.name!a} and {place.name!a}); make one folder of them"
                )
            if name != place.name:
                other.setdefault(name, plain_name("/".join(place.parts[depth:])))
    return [
        f"the folder {example} is not named in UTF-8, or not in composed Unicode; it counts as {name}"
        for name, example in other.items()
    ]


def _with_lists_beside(path: Path, texts: list[Path]) -> list[Path]:
    if not _WRAPPER.fullmatch(path.name):  # the lists lie beside kfold/ and images/
        return texts
    return texts + sorted([*path.parent.glob("*.txt"), *path.parent.glob("*/*.txt")])


def _outer_folders(tree: Tree) -> tuple[str, ...]:
    """The folders around the domains: single folders, while domain/class/image or more is left inside."""
    outer: tuple[str, ...] = ()
    inside = [image for image in tree.images if len(image) >= 3]
    while inside and len({image[0] for image in inside}) == 1:
        has_parts = all(len(image) == 4 and image[1].casefold() in _PARTS for image in inside)
        if has_parts or any(len(image) == 3 for image in inside):
            break
        outer += inside[0][:1]
        inside = [image[1:] for image in inside]
    return outer


def _check_one_data_set(path: Path, tree: Tree) -> None:
    """Raises DataError where several folders below `path` are data sets: of images, of arrays or packed."""
    found: dict[Place, None] = {}
    for image in tree.images:
        if len(image) >= 3:
            has_part = len(image) >= 4 and image[-3].casefold() in _PARTS
            found.setdefault(image[: -4 if has_part else -3])
    seen: set[Place] = set()
    for *above, name in tree.others:
        place = tuple(above)
        if place not in seen and name.casefold().endswith(".npz"):  # one tells what the others are
            seen.add(place)
            if holds_images(path.joinpath(*place, name)):
                found.setdefault(place)
        elif name in PACKED_FILES:
            found.setdefault(place)
    outermost = [place for place in found if not any(place[:end] in found for end in range(len(place)))]
    if len(outermost) > 1:
        names = sorted(map(shown, outermost), key=natural_key)
        raise DataError(
            f"{path} holds {len(names)} folders that could each be the data, {listed(names)}: name one, "
            f"such as {path / names[0]}"
        )


def _nothing_found(path: Path, tree: Tree) -> str:
    arrays = [other for other in tree.others if other[-1].casefold().endswith(".npz")]
    if any(len(image) == 2 for image in tree.images):
        return (
            f"{path} holds class/image folders without a domain around them; {_EXPECTED} (one domain is "
            "enough: put the class folders into a folder with its name)"
        )
    if tree.images:
        return f"{path} holds images but no domain and class folders around them; {_EXPECTED}"
    if arrays:
        return f"{path} holds no images; for the .npz files name {path.joinpath(*arrays[0][:-1])}"
    return f"{path} holds no images; {_EXPECTED}"
