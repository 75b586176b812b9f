"""Fixtures for all tests: the devices to run on, and the folder with real data where there is one."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dgdd_fast.precision import arithmetic

os.environ["DGDD_CACHE"] = "off"  # tests keep nothing in the cache of whoever runs them
# What a shell runs in the background does not hear Ctrl-C, and what nohup runs no hang-up.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Each device in turn, in float32 without TF32, as the tests compare them. Without a GPU the CUDA half is
    skipped, or fails if DGDD_REQUIRE_CUDA=1."""
    if request.param == "cuda" and not torch.cuda.is_available():
        if os.environ.get("DGDD_REQUIRE_CUDA") == "1":
            pytest.fail("DGDD_REQUIRE_CUDA=1, but torch finds no CUDA device")
        pytest.skip("torch finds no CUDA device")
    with arithmetic("float32", request.param):
        yield torch.device(request.param)


@pytest.fixture
def real_data() -> Path:
    """The folder that the environment variable DGDD_TEST_DATA names."""
    folder = os.environ.get("DGDD_TEST_DATA")
    if folder is None:
        pytest.skip("DGDD_TEST_DATA is not set: no folder with real data")
    if not Path(folder).is_dir():
        pytest.skip(f"DGDD_TEST_DATA={folder} is not a folder")
    return Path(folder)
