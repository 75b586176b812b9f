"""An image folder and a finished run, which the tests of the commands share."""

import pytest
from command_line import dgdd
from PIL import Image
from run_commands import TINY
from toy_data import toy_domains


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """An image folder of three domains, 3 classes, 16 px."""
    folder = tmp_path_factory.mktemp("pictures")
    data = toy_domains(per_cell=8)
    for row in range(len(data)):
        cell = folder / data.domain_names[data.domains[row]] / data.class_names[data.labels[row]]
        cell.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.images[row].permute(1, 2, 0).numpy()).save(cell / f"{row}.png")
    return folder


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    """The folder of a finished run on the pictures."""
    out = tmp_path_factory.mktemp("runs") / "run"
    dgdd("distill", "--data", pictures, "--target", "domain2", *TINY, "--out", out)
    return out
