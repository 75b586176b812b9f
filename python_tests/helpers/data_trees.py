"""Small data folders in the layouts of the benchmarks, for the tests of the loaders."""

import itertools
from pathlib import Path

import numpy as np
from PIL import Image

from dgdd_fast.data.benchmarks import OFFICE_HOME, PACS

# Every folder of the benchmarks as they are distributed, in pieces of the path. DomainNet has 345 classes; a
# few more than the 100 of DomainNet-Sub do here.
DISTRIBUTED: dict[str, list[list[str]]] = {
    "Digits-DG": [
        ["mnist", "mnist_m", "svhn", "syn"],
        ["train", "val"],
        [str(digit) for digit in range(10)],
    ],
    "PACS": [["kfold"], ["art_painting", "cartoon", "photo", "sketch"], list(PACS.classes)],
    "CORe50-Hard": [
        ["core50_128x128"],
        [f"s{session}" for session in range(1, 12)],
        [f"o{thing}" for thing in range(1, 51)],
    ],
    "VLCS": [
        ["CALTECH", "LABELME", "PASCAL", "SUN"],
        ["train", "crossval", "test", "full"],
        [str(label) for label in range(5)],
    ],
    "Office-Home": [
        ["OfficeHomeDataset_10072016"],
        ["Art", "Clipart", "Product", "Real World"],
        list(OFFICE_HOME.classes),
    ],
    "DomainNet-Sub": [
        ["clipart", "infograph", "painting", "quickdraw", "real", "sketch"],
        [f"class_{label}" for label in range(103)],
    ],
}


def colour_of(path: str) -> tuple[int, int, int]:
    """A colour that is a function of the path, so that a test can tell the images apart."""
    number = sum(place * ord(letter) for place, letter in enumerate(path, start=1))
    return number % 251, number // 7 % 251, number // 31 % 251


def write_image(root: Path, path: str, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    """An image at root/path, of one colour but for its last pixel."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, colour_of(path))
    image.putpixel((size[0] - 1, size[1] - 1), (255, 254, 253))
    image.convert(mode).save(file)
    return file


def write_tree(root: Path, folders: list[str], images: int = 5, ending: str = "png", side: int = 8) -> Path:
    """`images` images in each of `folders` (such as "photo/dog")."""
    for folder in folders:
        for number in range(images):
            write_image(root, f"{folder}/{number}.{ending}", (side, side))
    return root


def write_distributed(root: Path, benchmark: str) -> Path:
    """The tree of a benchmark as it is distributed, with two images in each folder, all alike."""
    image = write_image(root, "image.png", size=(2, 2))
    content = image.read_bytes()
    image.unlink()
    for pieces in itertools.product(*DISTRIBUTED[benchmark]):
        folder = root.joinpath(*pieces)
        folder.mkdir(parents=True)
        for number in range(2):
            (folder / f"{number}.png").write_bytes(content)
    return root


def write_npz(folder: Path, domain: str, class_names: list[str], **changes: object) -> Path:
    """An .npz file with four train and two test images of 8 x 8 per class; `changes` replace its arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(domain))
    labels = {
        part: np.repeat(np.arange(len(class_names)), count) for part, count in (("train", 4), ("test", 2))
    }
    arrays: dict[str, object] = {"classes": np.array(class_names)}
    for part, values in labels.items():
        arrays[f"x_{part}"] = random.integers(0, 256, (len(values), 8, 8, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = values
        arrays[f"names_{part}"] = np.array([f"{part}/{row}" for row in range(len(values))])
    arrays |= changes
    path = folder / f"{domain}.npz"
    np.savez_compressed(path, **{key: value for key, value in arrays.items() if value is not None})
    return path
