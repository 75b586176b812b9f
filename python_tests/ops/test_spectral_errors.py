"""Every message of the spectral operators: the op, the argument, what was expected, what came."""

import math
import re

import pytest
import torch
from spectral_cases import Surgery

from dgdd_fast import ops

GRADS = torch.zeros(3, 4, 2, 6, 7)
IMAGES = torch.zeros(4, 2, 6, 7)
INDEX = torch.zeros(4, dtype=torch.int64)

SURGERY_ERRORS = [
    (
        {"domain_grads": GRADS.long()},
        "domain_grads must be float32, float64, bfloat16 or float16, got int64",
    ),
    ({"domain_grads": GRADS[0]}, "domain_grads must be [D, N, C, H, W], got [4, 2, 6, 7]"),
    (
        {"domain_grads": GRADS[:0]},
        "domain_grads must be [D, N, C, H, W] with at least one domain, got [0, 4, 2, 6, 7]",
    ),
    (
        {"domain_grads": GRADS[..., :0]},
        "domain_grads must be [D, N, C, H, W] with H >= 1 and W >= 1, got [3, 4, 2, 6, 0]",
    ),
    ({"base_grad": IMAGES.double()}, "base_grad must be float32 like domain_grads, got float64"),
    ({"base_grad": IMAGES[:3]}, "base_grad must be [N, C, H, W] = [4, 2, 6, 7], got [3, 2, 6, 7]"),
    ({"domain_index": INDEX.int()}, "domain_index must be int64, got int32"),
    ({"domain_index": INDEX[:3]}, "domain_index must be [N] = [4], got [3]"),
    ({"domain_index": torch.tensor([0, 1, 3, 2])}, "domain_index must be in [0, 3), got 3 at position 2"),
    ({"domain_index": torch.tensor([0, -1, 1, 2])}, "domain_index must be in [0, 3), got -1 at position 1"),
    ({"domain_valid": torch.ones(3, 4)}, "domain_valid must be bool, got float32"),
    (
        {"domain_valid": torch.ones(4, 3, dtype=torch.bool)},
        "domain_valid must be [D, N] = [3, 4], got [4, 3]",
    ),
    ({"alpha": math.nan}, "alpha must be finite, got nan"),
    ({"beta": math.inf}, "beta must be finite, got inf"),
    ({"eps": -1e-3}, "eps must be finite and at least 0, got -0.001"),
    ({"eps": math.nan}, "eps must be finite and at least 0, got nan"),
]

STEP_ERRORS = [
    ({"images": IMAGES.double()}, "images must be float32 like domain_grads, got float64"),
    ({"images": IMAGES[:, :1]}, "images must be [N, C, H, W] = [4, 2, 6, 7], got [4, 1, 6, 7]"),
    ({"momentum_buffer": IMAGES.half()}, "momentum_buffer must be float32 like domain_grads, got float16"),
    ({"momentum_buffer": IMAGES[0]}, "momentum_buffer must be [N, C, H, W] = [4, 2, 6, 7], got [2, 6, 7]"),
    (
        {"images": IMAGES[:1].expand(4, -1, -1, -1)},
        "images must be written in place, so each element needs its own memory, got an expanded axis 0",
    ),
    ({"momentum_buffer": IMAGES}, "momentum_buffer must be a tensor of its own, got the memory of images"),
    ({"lr": math.inf}, "lr must be finite, got inf"),
    ({"momentum": math.nan}, "momentum must be finite, got nan"),
]


@pytest.mark.parametrize(("changed", "message"), SURGERY_ERRORS, ids=lambda value: str(value)[:60])
def test_surgery(changed: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "domain_grads": GRADS,
        "base_grad": None,
        "domain_index": INDEX,
        "alpha": 1.0,
        "beta": 0.3,
        **changed,
    }
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::spectral_surgery: {message}")):
        ops.spectral_surgery(**arguments)
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::spectral_surgery_step_: {message}")):
        ops.spectral_surgery_step_(IMAGES, torch.zeros_like(IMAGES), **arguments, lr=0.1, momentum=0.9)


@pytest.mark.parametrize(("changed", "message"), STEP_ERRORS, ids=lambda value: str(value)[:60])
def test_step(changed: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "images": IMAGES,
        "momentum_buffer": torch.zeros_like(IMAGES),
        "domain_grads": GRADS,
        "base_grad": None,
        "domain_index": INDEX,
        "alpha": 1.0,
        "beta": 0.3,
        "lr": 0.1,
        "momentum": 0.9,
        **changed,
    }
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::spectral_surgery_step_: {message}")):
        ops.spectral_surgery_step_(**arguments)


@pytest.mark.parametrize(
    ("grads", "eps", "message"),
    [
        (GRADS.int(), 0.0, "domain_grads must be float32, float64, bfloat16 or float16, got int32"),
        (GRADS[0, 0, 0], 0.0, "domain_grads must be [D, *, H, W], got [6, 7]"),
        (GRADS[:0], 0.0, "domain_grads must be [D, *, H, W] with at least one domain, got [0, 4, 2, 6, 7]"),
        (
            GRADS[..., :0, :],
            0.0,
            "domain_grads must be [D, *, H, W] with H >= 1 and W >= 1, got [3, 4, 2, 0, 7]",
        ),
        (GRADS, -1.0, "eps must be finite and at least 0, got -1"),
    ],
    ids=str,
)
def test_consensus(grads: torch.Tensor, eps: float, message: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::spectral_consensus: {message}")):
        ops.spectral_consensus(grads, eps)


def test_a_refused_step_leaves_the_images_alone() -> None:
    images, buffer = torch.ones_like(IMAGES), torch.ones_like(IMAGES)
    bad_index = torch.tensor([0, 1, 2, 3])
    with pytest.raises(RuntimeError):
        ops.spectral_surgery_step_(images, buffer, GRADS + 1, None, bad_index, 1.0, 0.3, 0.1, 0.9)
    assert images.eq(1).all()
    assert buffer.eq(1).all()


@pytest.mark.needs_gpu
def test_tensors_on_two_devices(cuda: torch.device) -> None:
    with pytest.raises(RuntimeError, match="domain_index must be on cuda:0 like domain_grads, got cpu"):
        ops.spectral_surgery(GRADS.to(cuda), None, INDEX, 1.0, 0.3)


def test_no_message_carries_a_path_of_the_build() -> None:
    with pytest.raises(RuntimeError) as caught:
        ops.spectral_consensus(GRADS, -1.0)
    assert "/" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda grads: ops.spectral_consensus(grads)[0],
        lambda grads: ops.spectral_consensus(grads)[1],
        lambda grads: ops.spectral_surgery(grads, None, INDEX, 1.0, 0.3),
        lambda grads: ops.spectral_surgery(GRADS, grads[0], INDEX, 1.0, 0.3),
    ],
)
def test_backward_says_that_there_is_none(call) -> None:
    result = call(GRADS.clone().requires_grad_())
    assert result.requires_grad
    with pytest.raises(RuntimeError, match="is not differentiable: it takes gradients as data"):
        result.sum().backward()


@pytest.mark.parametrize("argument", range(3))
def test_a_step_that_autograd_follows_is_refused(argument: int) -> None:
    tensors = [IMAGES.clone(), torch.zeros_like(IMAGES), GRADS.clone()]
    tensors[argument].requires_grad_()
    arguments = (*tensors, None, INDEX, 1.0, 0.3, 0.1, 0.9)
    with pytest.raises(RuntimeError, match=r"requires a gradient\. Call it under torch\.no_grad\(\)"):
        ops.spectral_surgery_step_(*arguments)
    with torch.no_grad():
        ops.spectral_surgery_step_(*arguments)


def test_a_step_is_seen_by_graphs_that_saved_the_images() -> None:
    case = Surgery.drawn(dtype=torch.float32)
    images = torch.randn(4, 3, 6, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = images.square().sum()
    with torch.no_grad():
        ops.spectral_surgery_step_(*case.step_arguments(images, torch.zeros_like(images)))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
