"""What the tests of image folders share: split lists, and a check of every pixel."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dgdd_fast.data import DomainDataset


def check_contents(data: DomainDataset, root: Path) -> None:
    """Every row has the pixels, the class and the domain of the file that its name gives."""
    for row, name in enumerate(data.item_names):
        parts = name.split("/")
        assert data.domain_names[int(data.domains[row])] == parts[0]
        assert data.class_names[int(data.labels[row])] == parts[-2]
        expected = torch.tensor(np.asarray(Image.open(root / name).convert("RGB").getpixel((0, 0))))
        assert torch.equal(data.images[row, :, 0, 0], expected.to(torch.uint8)), name


def write_lists(
    folder: Path, domains: dict[str, list[str]], endings: tuple[str, str], first: int = 0
) -> None:
    """Lists for trees of five images a cell: image 4 is for testing. `domains` maps a domain to its classes
    in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for domain, classes in domains.items():
        for ending, numbers in zip(endings, (range(4), [4]), strict=True):
            lines = [
                f"{domain}/{name}/{number}.png {first + label}\n"
                for label, name in enumerate(classes)
                for number in numbers
            ]
            (folder / f"{domain}{ending}.txt").write_text("".join(lines))
