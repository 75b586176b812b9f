"""The Autograd key: torch.library is asked where autograd follows the call, and nowhere else."""

import sys
from types import FrameType

import pytest
import torch
from bench_overhead import arguments_of
from torch import Tensor

CALLS = arguments_of(2, torch.device("cpu"))
CALLS["conv3x3"] = (torch.ones(2, 4, 3, 3), torch.ones(5, 4, 3, 3), torch.ones(5))
CALLS["conv3x3_weight_grad"] = (torch.ones(2, 5, 3, 3), torch.ones(2, 4, 3, 3))
CALLS["apply_channel_mask"] = (torch.ones(2, 4, 3), torch.ones(2, 4), 1.5)


def call(name: str, arguments: tuple[object, ...]) -> object:
    return getattr(torch.ops.dgdd, name).default(*arguments)


def followed(arguments: tuple[object, ...]) -> tuple[object, ...]:
    """The same with floating tensors that require a gradient."""
    return tuple(
        argument.clone().requires_grad_()
        if isinstance(argument, Tensor) and argument.is_floating_point()
        else argument
        for argument in arguments
    )


def goes_through_torch_library(name: str, arguments: tuple[object, ...]) -> bool:
    files = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        files.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        call(name, arguments)
    finally:
        sys.setprofile(None)
    return any(file.endswith("_library/autograd.py") for file in files)


@pytest.mark.parametrize("name", CALLS)
def test_only_what_autograd_follows_takes_the_long_way(name: str) -> None:
    assert not goes_through_torch_library(name, CALLS[name])
    with torch.no_grad():
        assert not goes_through_torch_library(name, followed(CALLS[name]))
    if name == "spectral_surgery_step_":
        with pytest.raises(RuntimeError, match="requires a gradient"):
            call(name, followed(CALLS[name]))
    else:
        assert goes_through_torch_library(name, followed(CALLS[name]))


def test_a_step_is_a_new_version_of_what_it_writes_only() -> None:
    arguments = CALLS["spectral_surgery_step_"]
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    before = [tensor._version for tensor in tensors]
    call("spectral_surgery_step_", arguments)
    assert [tensor._version for tensor in tensors] == [before[0] + 1, before[1] + 1, *before[2:]]


@pytest.mark.parametrize("name", CALLS)
def test_a_refused_call_leaves_autograd_as_it_was(name: str) -> None:
    first, *others = CALLS[name]
    assert isinstance(first, Tensor)
    refused = (first.long(), *others)  # by the compiled operator, below autograd
    for grad_enabled, arguments in (
        (True, refused),
        (True, (refused[0], *followed(tuple(others)))),
        (False, refused),
    ):
        with torch.set_grad_enabled(grad_enabled), pytest.raises(RuntimeError, match=f"dgdd::{name}"):
            call(name, arguments)
        assert torch.is_grad_enabled()
        assert torch.ones(1, requires_grad=True).mul(2).requires_grad
