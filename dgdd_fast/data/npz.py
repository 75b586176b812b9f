"""One ``.npz`` file per domain.

Each file holds ``x_train`` uint8 [N, H, W, 3] and ``y_train`` integers [N], ``x_test`` and ``y_test``
likewise, ``classes`` [K] (the name of each label) and, if wanted, ``names_train`` [N] and ``names_test`` [M]
(where each item comes from). The file's name is the domain's. Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..files import file_size
from ..messages import shortened
from ..steps import counted
from .checks import check_resolution, check_size, checked_dataset
from .dataset import DomainDataset
from .errors import DataError
from .findings import Findings
from .images import Pixels, resize_all
from .labels import STORE, counts_from_one
from .names import check_spelling, chosen_names, natural_key, plain_name
from .tree import is_left_behind, shown, walk

_PARTS = ("train", "test")
# Arrays that unpack to more bytes than this, and to this many times what they take, are meant to fill memory.
_LARGE, _MOST_COMPRESSED = 2**28, 200
_FORMAT = "expected the arrays x_train, y_train, x_test, y_test, classes"


class _DomainFile(NamedTuple):
    path: Path
    images: Pixels  # [N + M, R, R, 3], train rows first
    labels: npt.NDArray[np.int64]  # as in the file
    train_rows: int
    classes: tuple[str, ...]
    names: tuple[str, ...]


def load_npz(
    folder: str | Path,
    resolution: int | None = None,
    domains: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> DomainDataset:
    """The domains ``<folder>/<domain>.npz`` as one dataset, in natural order of their names; `folder` may be
    one file as well.

    Args:
        resolution: side in pixels to resize to; None keeps the files' own, which must then agree.
        domains: the domains to load, by file name without the ending; None loads all.
        classes: the classes to load; None loads all.

    Labels that count from 1 are brought to 0..K-1, with a warning, where that is the only reading: all of
    1..K occur in every file, or the items' names (domain/class/file) say so. Files that list the same
    classes in another order are brought to the first file's order. Raises DataError naming the file where
    the labels allow no sure reading, or where the file does not hold what it should.
    """
    folder = Path(folder)
    check_resolution(resolution)
    warnings: list[str] = []
    paths = [folder] if folder.is_file() else _files_in(folder, warnings)
    names = [plain_name(path.stem) for path in paths]
    check_spelling("domain", names, str(folder))
    wanted = chosen_names("domain", names, domains, str(folder))
    files = [
        _read(path, resolution, warnings)
        for path in counted(
            "reading files", [path for path, name in zip(paths, names, strict=True) if name in wanted]
        )
    ]

    class_names = tuple(dict.fromkeys(name for file in files for name in file.classes))
    check_spelling("class", class_names, str(folder))
    sizes = {file.images.shape[1:3]: file.path.name for file in files}
    if len(sizes) > 1:
        described = ", ".join(f"{name} {height} x {width}" for (height, width), name in sizes.items())
        raise DataError(f"{folder}: the image sizes differ ({described}); choose a resolution to resize to")

    labels = []
    for file, base in zip(files, _label_bases(files, warnings), strict=True):
        if set(file.classes) == set(class_names) and file.classes != class_names:
            warnings.append(f"{file.path.name}: its classes are in another order; matched by name")
        number = np.array([class_names.index(name) for name in file.classes])
        labels.append(number[file.labels - base])
    dataset = DomainDataset(
        name=plain_name(folder.stem if folder.is_file() else folder.resolve().name),
        images=torch.cat([torch.from_numpy(file.images).permute(0, 3, 1, 2) for file in files]).contiguous(),
        labels=torch.from_numpy(np.concatenate(labels)),
        domains=torch.cat([torch.full((len(file.labels),), number) for number, file in enumerate(files)]),
        is_test=torch.cat([torch.arange(len(file.labels)) >= file.train_rows for file in files]),
        class_names=class_names,
        domain_names=tuple(plain_name(file.path.stem) for file in files),
        item_names=tuple(name for file in files for name in file.names),
    )
    if classes is not None:
        dataset = dataset.only_classes(classes)
    return checked_dataset(dataset, warnings, str(folder))


def is_npz(path: Path) -> bool:
    """Whether `path` is a file of arrays by its name, and no leftover of an operating system."""
    return path.suffix.casefold() == ".npz" and not is_left_behind(path.name) and not path.is_dir()


def holds_images(path: Path) -> bool:
    """Whether a file of arrays is a domain, or cannot be read to tell that it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "x_train.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return True


def _files_in(folder: Path, warnings: list[str]) -> list[Path]:
    """The .npz files in `folder`. Appends to `warnings` what lies there beside them."""
    paths = sorted(filter(is_npz, folder.iterdir()), key=lambda path: natural_key(path.stem))
    if not paths:
        raise DataError(f"{folder} holds no .npz file; {_FORMAT} in one file per domain")
    tree = walk(folder)
    in_classes = [image for image in tree.images if len(image) > 2]
    if in_classes:
        raise DataError(
            f"{folder} holds .npz files ({paths[0].name}) and folders with images ({shown(in_classes[0])}), "
            "so it is not clear what the data are; put them into two folders and name one"
        )
    beside = [shown(place) for place in (*tree.images, *tree.packed) if folder.joinpath(*place) not in paths]
    if beside:
        warnings.append(
            f"the data are the .npz files in {folder.name}; left out beside them: {', '.join(beside[:3])}"
            + (f" and {len(beside) - 3} more" if len(beside) > 3 else "")
        )
    return paths


def _read(path: Path, resolution: int | None, warnings: list[str]) -> _DomainFile:
    arrays = _arrays(path)
    missing = [key for key in ("x_train", "y_train", "x_test", "y_test", "classes") if key not in arrays]
    if missing:
        raise DataError(f"{path} has no array {missing[0]}; {_FORMAT}")
    classes = _texts(path, "classes", np.atleast_1d(arrays["classes"]))
    if "" in classes:
        raise DataError(f"{path}: `classes` has an empty name, for label {classes.index('')}")
    if len(set(classes)) != len(classes):
        raise DataError(f"{path}: `classes` names one class twice: {', '.join(classes)}")
    findings = Findings()
    images = _images(path, arrays["x_train"], arrays["x_test"], findings)
    if resolution is not None:
        check_size(len(images), resolution, resolution)
    warnings += findings.notes()
    train_rows = len(arrays["x_train"])
    names: list[str] = []
    labels = []
    for part, rows in zip(_PARTS, (train_rows, len(images) - train_rows), strict=True):
        values = arrays[f"y_{part}"]
        if values.shape != (rows,) or not np.issubdtype(values.dtype, np.integer):
            advice = " (of one-hot labels take y.argmax(1))" if values.ndim > 1 else ""
            raise DataError(
                f"{path}: y_{part} must be {rows} integers, one for each image of x_{part}, got "
                f"{values.dtype} with shape {values.shape}{advice}"
            )
        items = arrays.get(f"names_{part}")
        if items is None:
            items = np.array([f"{plain_name(path.stem)}/{part}/{row}" for row in range(rows)], dtype=str)
        if items.shape != (rows,):
            raise DataError(f"{path}: names_{part} must be {rows} names, one an image, got {items.shape}")
        labels.append(values.astype(np.int64))
        names += _texts(path, f"names_{part}", items)
    return _DomainFile(
        path, resize_all(images, resolution), np.concatenate(labels), train_rows, tuple(classes), tuple(names)
    )


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays in the file, which must be plain: nothing is unpickled."""
    arrays = {}
    key = ""
    try:
        file_size(path)  # refuses pipes and devices
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                key = member.filename.removesuffix(".npy")
                if key in arrays:
                    raise ValueError(f"it has {shortened(key)} twice")
                if member.file_size > max(_LARGE, _MOST_COMPRESSED * member.compress_size):
                    raise ValueError(f"{shortened(key)} unpacks to {member.file_size} bytes, far too many")
                with archive.open(member) as file:
                    arrays[key] = np.lib.format.read_array(file, allow_pickle=False)
                    if file.read(1):  # the end is where the archive checks the bytes
                        raise ValueError(f"{shortened(key)} has more bytes than its size says")
    except Exception as error:  # zipfile, zlib and NumPy each have their own ways to fail on a damaged file
        if "allow_pickle" in str(error) and key:
            text = key == "classes" or key.startswith("names_")
            kind = "str" if text else "numpy.int64" if key.startswith("y_") else "numpy.uint8"
            raise DataError(
                f"{path}: {key} is an array of Python objects, which can run any program when they are read; "
                f"save it as a plain array, {key}.astype({kind})"
            ) from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(
            f"{path} cannot be read as an .npz file of plain arrays ({shortened(reason)}); fetch it again, "
            "or save it anew with numpy.savez_compressed"
        ) from error
    return arrays


def _texts(path: Path, key: str, values: npt.NDArray[Any]) -> list[str]:
    """An array of names as plain names: text, UTF-8 in bytes, or whole numbers."""
    if values.ndim != 1 or values.dtype.kind not in "USiu":
        raise DataError(
            f"{path}: {key} must be a list of names, got {values.dtype} with shape {values.shape}; save it "
            "as text, numpy.array([...], dtype=str)"
        )
    try:
        decoded = [name.decode() if isinstance(name, bytes) else str(name) for name in values.tolist()]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: {key} has the name {error.object!r}, bytes that are not UTF-8; save it as text, "
            f"numpy.array([name.decode('latin-1') for name in {key}]) or whatever encoding it is in"
        ) from error
    return [plain_name(name) for name in decoded]


def _images(path: Path, train: npt.NDArray[Any], test: npt.NDArray[Any], findings: Findings) -> Pixels:
    """Both parts, one after the other, as uint8 [N + M, H, W, 3]."""
    for part, images in zip(_PARTS, (train, test), strict=True):
        if images.ndim != 3 and (images.ndim != 4 or images.shape[3] not in (1, 3)):
            raise DataError(
                f"{path}: x_{part} has the shape {images.shape}; expected [N, H, W, 3], channels last, or "
                "grey [N, H, W]"
            )
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise DataError(
            f"{path}: x_train ({train.dtype} {train.shape[1:]}) and x_test ({test.dtype} {test.shape[1:]}) "
            "must hold images of one type and size"
        )
    if len(train) + len(test) == 0 or 0 in train.shape[1:]:
        raise DataError(f"{path} holds no images; remove it or fill it")
    if np.issubdtype(train.dtype, np.floating):
        whites = [
            findings.add_floats(image, f"{path} x_{part}[{row}]")
            for part, images in zip(_PARTS, (train, test), strict=True)
            for row, image in enumerate(images)
        ]
        white = max(whites)  # all the same, but for black images: see `Findings.notes`
        train, test = (np.rint(part * (255 // white)).astype(np.uint8) for part in (train, test))
    if train.dtype != np.uint8:
        raise DataError(
            f"{path}: x_train has the type {train.dtype}; expected uint8 in 0..255, or floats "
            "(if they are in 0..255, store x.astype(numpy.uint8))"
        )
    images = np.concatenate([train, test])
    if images.ndim == 3:
        images = images[..., None]
    return images if images.shape[3] == 3 else np.repeat(images, 3, axis=3)


def _label_bases(files: Sequence[_DomainFile], warnings: list[str]) -> list[int]:
    """0 or 1 for each file: the number of its first class. Appends to `warnings` what is repaired."""
    read = [_label_base(file) for file in files]
    decided = {base for base, _ in read if base is not None}
    from_zero = [file for file, (base, _) in zip(files, read, strict=True) if base == 0]
    for file, (base, is_named) in zip(files, read, strict=True):
        run = f"{file.path}: its labels are {file.labels.min()}..{file.labels.max()}"
        if base is None and decided != {0}:
            raise DataError(
                f"{run} for {len(file.classes)} classes, so they may count from 0 with a class missing or "
                "from 1; store them as 0..K-1, or add names_train and names_test of the form "
                "domain/class/file"
            )
        if base == 1 and not is_named and from_zero:
            raise DataError(
                f"{run}, those of {from_zero[0].path.name} count from 0, so they may count from 1, or "
                f"{file.labels.max()} may stand for 0; {STORE}, or add names_train and names_test of the "
                "form domain/class/file"
            )
        if base is None:
            warnings.append(
                f"{file.path.name}: its labels are {file.labels.min()}..{file.labels.max()} for "
                f"{len(file.classes)} classes; taken to count from 0, as those of {from_zero[0].path.name}"
            )
        if base == 1:
            warnings.append(
                f"{file.path.name}: its labels count from 1; brought to 0..{len(file.classes) - 1}"
            )
    return [base or 0 for base, _ in read]


def _label_base(file: _DomainFile) -> tuple[int | None, bool]:
    """The number of the file's first class, None where 0 and 1 are both possible, and whether the items'
    names say so. Raises DataError for neither.
    """
    low, high, count = int(file.labels.min()), int(file.labels.max()), len(file.classes)
    possible = [base for base in (0, 1) if base <= low and high < count + base]
    said = [PurePosixPath(name).parent.name for name in file.names]
    if possible and all(name in file.classes for name in said):
        by_name = np.array([file.classes.index(name) for name in said])
        for base in possible:
            if np.array_equal(by_name, file.labels - base):
                return base, True
        row = int(np.flatnonzero(by_name != file.labels - possible[0])[0])
        raise DataError(
            f"{file.path}: label {file.labels[row]} of {file.names[row]} means "
            f"{file.classes[int(file.labels[row]) - possible[0]]!r}, but its name says {said[row]!r}; "
            "correct the labels or the names"
        )
    if 0 in possible:
        return (0 if low == 0 else None), False
    if possible and counts_from_one(np.unique(file.labels).tolist(), file.classes, str(file.path)):
        return 1, False
    row = int(np.flatnonzero((file.labels < 0) | (file.labels >= count))[0])
    raise DataError(
        f"{file.path}: label {file.labels[row]} of {file.names[row]} is outside 0..{count - 1}, the range "
        f"for its {count} classes"
    )
