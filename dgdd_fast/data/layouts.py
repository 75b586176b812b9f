"""Understanding a folder of image files: which folders are domains, parts and classes.

* ``domain/class/image``: Office-Home, PACS, DomainNet, and data of one's own.
* ``domain/part/class/image``, part one of train, crossval, val, test, full: VLCS and Digits-DG.
* CORe50's ``s1/o1/image`` is the first form.

Folders around these (``kfold``, ``images``) are looked through. Hidden files and what operating systems leave
behind are ignored.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from .checks import check_spelling, natural_key
from .errors import DataError
from .images import IMAGE_ENDINGS

_PARTS = frozenset(("train", "crossval", "val", "test", "full"))
_WRAPPER = re.compile(r"kfold|(raw )?images|officehomedataset.*|core50.*", re.IGNORECASE)
_LEFT_BEHIND = frozenset(("__macosx", "thumbs.db", "desktop.ini"))
_EXPECTED = "expected domain/class/image, for example photo/dog/1.jpg"


class ImageItem(NamedTuple):
    """An image file and what its folders say; `part` is None where no folder names one."""

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


@dataclass
class _Tree:
    """Everything below a folder, by its path relative to it."""

    images: list[tuple[str, ...]] = field(default_factory=list)
    others: list[tuple[str, ...]] = field(default_factory=list)
    leaf_folders: list[tuple[str, ...]] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)


def read_layout(path: Path) -> Layout:
    """Finds the images below `path`. Raises DataError where none lies in a domain and a class."""
    tree = _walk(path)
    outer = _outer_folders(tree)
    inside = [image[len(outer) :] for image in tree.images if image[: len(outer)] == outer]
    items: list[ImageItem] = []
    misplaced: list[str] = []
    for below in inside:
        file, name = path.joinpath(*outer, *below), "/".join(below)
        if len(below) == 3:
            items.append(ImageItem(file, name, below[0], None, below[1]))
        elif len(below) == 4 and below[1].casefold() in _PARTS:
            items.append(ImageItem(file, name, below[0], below[1].casefold(), below[2]))
        else:
            misplaced.append(name)
    misplaced += ["/".join(image) for image in tree.images if image[: len(outer)] != outer]
    if not items:
        raise DataError(_nothing_found(path, tree))
    domains = sorted({item.domain for item in items}, key=natural_key)
    if all(domain.casefold() in _PARTS for domain in domains):
        raise DataError(
            f"{path} holds {', '.join(domains)}, which are parts of one domain rather than domains; put "
            "them into a folder with the domain's name, and name the folder above that"
        )

    warnings = []
    if outer and not all(_WRAPPER.fullmatch(folder) for folder in outer):
        warnings.append(f"the domains are the folders in {'/'.join(outer)}, the only folder with images")
    if misplaced:
        warnings.append(
            f"images outside domain/class folders are left out: {len(misplaced)}, for example {misplaced[0]}"
        )
    odd = [other for other in tree.others if other[: len(outer)] == outer and len(other) - len(outer) >= 3]
    if odd:
        warnings.append(
            f"files that are no images by their ending are left out: {len(odd)}, for example "
            f"{'/'.join(odd[0])}"
        )
    classes = {item.class_folder for item in items}
    for folder in tree.leaf_folders:
        below = folder[len(outer) :] if folder[: len(outer)] == outer else ()
        if len(below) == 1:
            warnings.append(f"the folder {'/'.join(folder)} is empty and not counted as a domain")
        elif len(below) == 2 + any(item.part is not None for item in items) and below[0] in domains:
            classes.add(below[-1])
    check_spelling("domain", domains, str(path))
    check_spelling("class", classes, str(path))
    items.sort(key=lambda item: (natural_key(item.domain), natural_key(item.name)))
    return Layout(
        tuple(items),
        tuple(domains),
        tuple(sorted(classes, key=natural_key)),
        tuple(dict.fromkeys(tree.texts)),
        tuple(warnings),
    )


def _walk(path: Path) -> _Tree:
    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}; check its permissions"
        ) from error

    tree = _Tree()
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(path, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above would be followed for ever
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if _is_data(name))
        below = Path(folder).relative_to(path).parts
        files = sorted(name for name in files if _is_data(name))
        for name in files:
            ending = PurePosixPath(name).suffix.casefold()
            if ending in IMAGE_ENDINGS:
                tree.images.append((*below, name))
            elif ending == ".txt":
                tree.texts.append(Path(folder, name))
            else:
                tree.others.append((*below, name))
        if not files and not subfolders:
            tree.leaf_folders.append(below)
    if _WRAPPER.fullmatch(path.name):  # the lists lie beside kfold/ and images/
        tree.texts += sorted([*path.parent.glob("*.txt"), *path.parent.glob("*/*.txt")])
    return tree


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name.casefold() not in _LEFT_BEHIND


def _outer_folders(tree: _Tree) -> tuple[str, ...]:
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


def _nothing_found(path: Path, tree: _Tree) -> str:
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
