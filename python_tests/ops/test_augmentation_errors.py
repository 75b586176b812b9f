"""Every message of the augmentation operator: the op, the argument, what was expected, what came."""

import math
import re

import pytest
import torch
from augmentation_cases import Augmentation

from dgdd_fast import ops

FLOATS = torch.zeros(3, 3, 5, 6)
BYTES = FLOATS.to(torch.uint8)
ROWS = torch.tensor([0, 2])
OPERATION = torch.tensor([2, 5])
PARAMETERS = torch.tensor([[1.0, -2.0, 0.0], [1.1, 0.9, 0.0]])
COLOUR = torch.full((3,), 0.5)


def changed_parameters(row: int, column: int, value: float) -> torch.Tensor:
    parameters = PARAMETERS.clone()
    parameters[row, column] = value
    return parameters


ERRORS = [
    ({"images": FLOATS.long()}, "images must be uint8, float32, float64, bfloat16 or float16, got int64"),
    ({"images": FLOATS[0]}, "images must be [M, C, H, W], got [3, 5, 6]"),
    ({"images": FLOATS[:, :0]}, "images must be [M, C, H, W] with C, H and W at least 1, got [3, 0, 5, 6]"),
    (
        {"images": torch.zeros(1).expand(3, 3, 1, 16385)},
        "images must be images of sides up to 16384, got [3, 3, 1, 16385]",
    ),
    ({"rows": ROWS.int()}, "rows must be int64, got int32"),
    ({"rows": ROWS[None]}, "rows must be [B], got [1, 2]"),
    ({"rows": torch.tensor([0, 3])}, "rows must be in [0, 3), got 3 at position 1"),
    ({"rows": torch.tensor([-1, 0])}, "rows must be in [0, 3), got -1 at position 0"),
    ({"operation": OPERATION.int()}, "operation must be int64, got int32"),
    ({"operation": OPERATION[:1]}, "operation must be [B] = [2], got [1]"),
    ({"rows": None}, "operation must be [B] = [3], got [2]"),
    ({"operation": torch.tensor([1, 7])}, "operation must be in [0, 7), got 7 at position 1"),
    ({"parameters": PARAMETERS.half()}, "parameters must be float32 or float64, got float16"),
    ({"parameters": PARAMETERS[:, :2]}, "parameters must be [B, 3] = [2, 3], got [2, 2]"),
    (
        {"parameters": changed_parameters(0, 1, 5.0)},
        "parameters must be finite, and for a crop at most crop = [4, 4], got 1, 5, 0 at position 0",
    ),
    (
        {"parameters": changed_parameters(1, 1, math.nan)},
        "parameters must be finite, got 1.1, nan, 0 at position 1",
    ),
    ({"crop": -1}, "crop must be a number of rows and one of columns, at least 0, got [-1, -1]"),
    ({"cutout": (2, -1)}, "cutout must be a number of rows and one of columns, at least 0, got [2, -1]"),
    (
        {"images": BYTES, "mean": None},
        "mean and std must be tensors for uint8 images, which are normalised with them, got None",
    ),
    (
        {"images": BYTES, "mean": COLOUR.long()},
        "mean must be float32, float64, bfloat16 or float16, got int64",
    ),
    ({"images": BYTES, "std": COLOUR.double()}, "std must be float32 like mean, got float64"),
    ({"images": BYTES, "mean": COLOUR[:2]}, "mean must be [C] = [3], got [2]"),
    ({"images": BYTES, "std": COLOUR[0]}, "std must be [C] = [3], got []"),
]


@pytest.mark.parametrize(("changed", "message"), ERRORS, ids=lambda value: str(value)[:60])
def test_messages(changed: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "images": FLOATS,
        "rows": ROWS,
        "operation": OPERATION,
        "parameters": PARAMETERS,
        "mean": COLOUR,
        "std": COLOUR,
        "crop": 4,
        "cutout": 2,
        **changed,
    }
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::sample_augment: {message}")):
        ops.sample_augment(**arguments)


def test_parameters_that_an_operation_does_not_have_are_not_read() -> None:
    parameters = torch.full((2, 3), math.nan)
    parameters[0, :2] = PARAMETERS[0, :2]
    parameters[1, :2] = PARAMETERS[1, :2]
    arguments = (FLOATS + 1, ROWS, OPERATION, parameters, None, None, 4, 2)
    assert ops.sample_augment(*arguments).isfinite().all()


def test_fractions_of_a_crop_are_cut_off() -> None:
    case = Augmentation.drawn(operations=("crop",))
    expected = ops.sample_augment(*case.arguments())
    case.parameters = case.parameters + 0.9 * case.parameters.sign()
    assert torch.equal(ops.sample_augment(*case.arguments()), expected)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({0: FLOATS[:2].long()}, "gradient must be float32, float64, bfloat16 or float16, got int64"),
        ({0: FLOATS}, "gradient must be [B, C, H, W] = [2, 3, 5, 6], got [3, 3, 5, 6]"),
        ({4: -1, 1: None}, "images must be at least 0, got -1"),
    ],
    ids=str,
)
def test_messages_of_the_backward(changed: dict[int, object], message: str) -> None:
    arguments = [FLOATS[:2], ROWS, OPERATION, PARAMETERS, 3, [4, 4], [2, 2]]
    for position, value in changed.items():
        arguments[position] = value
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::sample_augment_backward: {message}")):
        torch.ops.dgdd.sample_augment_backward.default(*arguments)


@pytest.mark.needs_gpu
def test_tensors_on_two_devices(cuda: torch.device) -> None:
    with pytest.raises(RuntimeError, match="operation must be on cuda:0 like images, got cpu"):
        ops.sample_augment(FLOATS.to(cuda), ROWS.to(cuda), OPERATION, PARAMETERS, None, None, 4, 2)
