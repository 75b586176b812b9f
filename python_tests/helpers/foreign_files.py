"""Small distilled sets in the layouts of other tools, written as those tools write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch


def foreign_images(classes: int = 3, ipc: int = 2, side: int = 8, seed: int = 0, channels: int = 3):
    """Normalised images and their labels, sorted by class."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(classes * ipc, channels, side, side, generator=random)
    return images, torch.arange(classes).repeat_interleave(ipc)


def write_list_of_sets(path: Path, sets, accuracy=0.5) -> Path:
    """DC, DSA, DM, DataDAM: a mapping with the sets of all experiments, and NumPy scalars beside them."""
    content = {
        "data": [list(pair) for pair in sets],
        "accs_all_exps": {"ConvNet": [np.float64(accuracy), np.float64(accuracy)]},
    }
    torch.save(content, path)
    return path


def write_pair(path: Path, images, labels) -> Path:
    """IDC, NCFM: a list of pixels in [0, 1] and labels."""
    torch.save([images, labels], path)
    return path


def write_two_files(folder: Path, images, labels, name: str = "best", rate: float | None = None) -> Path:
    """MTT: images and labels in files of their own, and of some successors the learning rate."""
    folder.mkdir(exist_ok=True)
    torch.save(images, folder / f"images_{name}.pt")
    torch.save(labels, folder / f"labels_{name}.pt")
    if rate is not None:
        torch.save(torch.tensor(rate), folder / f"lr_{name}.pt")
    return folder / f"images_{name}.pt"
