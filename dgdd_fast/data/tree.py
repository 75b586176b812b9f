"""Everything below a data folder: what is data, what was left behind there, and where links lead."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..steps import tell
from .errors import DataError
from .images import IMAGE_ENDINGS
from .names import plain_name

# What file servers, operating systems and the programs that unpack archives leave behind.
_LEFT_BEHIND = frozenset(
    (
        "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "desktop db", "desktop df",
        "network trash folder", "temporary items", "$recycle.bin", "recycler", "system volume information",
        "found.000", "lost+found", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle",
        "#snapshot", "__pycache__",
    )
)  # fmt: skip
# Files that hold data, but not as images in folders.
_PACKED = frozenset(
    (
        ".npz", ".npy", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".mat", ".h5", ".hdf5",
        ".parquet", ".arrow", ".tfrecord", ".pkl", ".pickle", ".lmdb",
    )
)  # fmt: skip

Place = tuple[str, ...]  # a path below the folder, by its pieces


@dataclass
class Tree:
    """What is below a folder.

    Attributes:
        images, texts, others: files by their ending; texts are those that may be lists.
        empty: folders with nothing in them.
        without_images: folders that hold files, but neither images nor folders.
        packed: files among `others` that hold data in another form.
        warnings: what is left out, and what counts more than once.
    """

    images: list[Place] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    others: list[Place] = field(default_factory=list)
    empty: list[Place] = field(default_factory=list)
    without_images: list[Place] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def packed(self) -> list[Place]:
        return [place for place in self.others if PurePosixPath(place[-1]).suffix.casefold() in _PACKED]


def is_left_behind(name: str) -> bool:
    """Whether a file or folder is hidden, a backup, or what an operating system leaves behind."""
    return name.startswith((".", "~$")) or name.endswith("~") or name.casefold() in _LEFT_BEHIND


def is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.casefold() in IMAGE_ENDINGS


def walk(path: Path) -> Tree:
    """Looks through the folder `path`, links included; several links to one folder count each.

    Raises DataError for a folder that cannot be read, and for links that lead nowhere, naming them.
    """
    tree = Tree()
    left_behind: list[str] = []
    circles: list[str] = []
    broken: list[str] = []
    linked: dict[tuple[int, int], list[str]] = {}
    # Outer folders first: the inner ones are the many, and how many they are is then known before them.
    waiting: deque[tuple[Place, frozenset[tuple[int, int]]]] = deque([((), frozenset())])
    done = 0
    while waiting:
        tell("listing folders", done, done + len(waiting))
        done += 1
        below, above = waiting.popleft()
        folder = path.joinpath(*below)
        identity = _identity(folder)
        if identity in above:  # a link to a folder around it, which would be followed for ever
            circles.append(shown(below))
            continue
        files, folders = [], []
        for name, is_folder, is_file in _entries(folder):
            if is_left_behind(name):
                if not name.startswith("._") and _holds_images(folder / name):
                    left_behind.append(shown((*below, name)))
            elif is_folder:
                folders.append(name)
            elif is_file:
                files.append(name)
            else:
                broken.append(plain_name(str(folder / name)))
        for name in files:
            if is_image(name):
                tree.images.append((*below, name))
            elif name.casefold().endswith(".txt"):
                tree.texts.append(folder / name)
            else:
                tree.others.append((*below, name))
        has_images = any(map(is_image, files))
        if has_images:
            linked.setdefault(identity, []).append(shown(below))
        elif not folders:
            (tree.without_images if files else tree.empty).append(below)
        waiting.extend(((*below, name), above | {identity}) for name in folders)
    tell("listing folders", done, done)
    if broken:
        raise DataError(
            f"{_some(broken)}: a link that leads nowhere, or no plain file; mend it (is what it points to "
            "moved, or not mounted?) or remove it",
            broken,
        )
    if left_behind:
        tree.warnings.append(
            f"hidden files, backups and leftovers of operating systems that look like images are left out: "
            f"{_some(left_behind)}"
        )
    if circles:
        tree.warnings.append(f"a link back to a folder around it is not followed: {_some(circles)}")
    for places in linked.values():
        if len(places) > 1:
            tree.warnings.append(f"{_some(places)} are one folder by links; its images count in each place")
    return tree


def shown(place: Place) -> str:
    return plain_name("/".join(place))


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _entries(folder: Path) -> list[tuple[str, bool, bool]]:
    """Name, whether it is a folder, whether it is a file (neither: a broken link, a device); sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry.name, os.path.isdir(entry.path), os.path.isfile(entry.path))
                if entry.is_symlink()
                else (entry.name, entry.is_dir(), entry.is_file())
                for entry in entries
            )
    except OSError as error:
        raise DataError(
            f"{plain_name(str(folder))} cannot be read: {error.strerror}; check its permissions"
        ) from error


def _holds_images(path: Path) -> bool:
    """Whether `path`, which is no data, looks like an image or a folder with some."""

    def names() -> Iterator[str]:
        for _, _, files in os.walk(path):  # what cannot be read is passed over
            yield from files

    return any(is_image(name) and not name.startswith("._") for name in names()) or (
        path.is_file() and is_image(path.name)
    )


def _some(names: list[str]) -> str:
    first = ", ".join(names[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
