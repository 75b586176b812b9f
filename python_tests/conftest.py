"""Fixtures for all tests: the devices to run on, and the folder with real data where there is one."""

import os
from collections.abc import Iterator
from pathlib import Path

import emulated_cuda
import pytest
import torch

from dgdd_fast.precision import arithmetic


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Each device in turn, in float32 without TF32, as the tests compare them. Without a GPU the CUDA half runs
    in the emulated build, on host tensors, or fails if DGDD_REQUIRE_CUDA=1; tests marked `needs_gpu` are about a
    real device and are skipped."""
    if request.param == "cpu" or torch.cuda.is_available():
        with arithmetic("float32", request.param):
            yield torch.device(request.param)
        return
    if os.environ.get("DGDD_REQUIRE_CUDA") == "1":
        pytest.fail("DGDD_REQUIRE_CUDA=1, but torch finds no CUDA device")
    if request.node.get_closest_marker("needs_gpu"):
        pytest.skip("torch finds no CUDA device, and this test is about a real one")
    if emulated_cuda.module() is None:
        pytest.skip("torch finds no CUDA device, and none is emulated: make test builds what it takes")
    with emulated_cuda.EmulatedCuda():
        yield torch.device("cpu")


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The CUDA half of `device`."""
    if not emulated_cuda.stands_for_cuda(device):
        pytest.skip("about CUDA only")
    return device


@pytest.fixture
def real_data() -> Path:
    """The folder that the environment variable DGDD_TEST_DATA names."""
    folder = os.environ.get("DGDD_TEST_DATA")
    if folder is None:
        pytest.skip("DGDD_TEST_DATA is not set: no folder with real data")
    if not Path(folder).is_dir():
        pytest.skip(f"DGDD_TEST_DATA={folder} is not a folder")
    return Path(folder)
