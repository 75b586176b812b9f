"""The devices of the operators' tests: where there is no GPU, the CUDA half runs in the emulated build."""

import os
import zlib
from collections.abc import Iterator

import emulated_cuda
import pytest
import torch

from dgdd_fast.precision import arithmetic


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where CUDA is emulated, tests marked `long_emulated` are slow ones, but for a fixed share of them."""
    if torch.cuda.is_available():
        return
    for item in items:
        on_cuda = getattr(item, "callspec", None) is not None and item.callspec.params.get("device") == "cuda"
        is_of_the_share = zlib.crc32(item.name.encode()) % 8 == 0
        if on_cuda and item.get_closest_marker("long_emulated") and not is_of_the_share:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Each device in turn, in float32 without TF32, as the tests compare them. Without a GPU the CUDA half
    runs in the emulated build, on host tensors, or fails if DGDD_REQUIRE_CUDA=1."""
    if request.param == "cpu" or torch.cuda.is_available():
        with arithmetic("float32", request.param):
            yield torch.device(request.param)
        return
    if os.environ.get("DGDD_REQUIRE_CUDA") == "1":
        pytest.fail("DGDD_REQUIRE_CUDA=1, but torch finds no CUDA device")
    if request.node.get_closest_marker("needs_gpu"):
        pytest.skip("torch finds no CUDA device, and an emulated one will not do")
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
