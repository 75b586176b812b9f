"""The calls for compute-sanitizer: what an operator reads was copied to the device or written by another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sanitize
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Writers(TorchDispatchMode):
    """Watches a device that computes nothing ("meta") as initcheck does, which sees copies from the host and
    the kernels of the operators: `unseen` are the other operations whose results an operator read."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []  # kept, so that no storage takes the place of another
        self.writers: dict[int, str] = {}
        self.unseen: set[str] = set()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        results = func(*args, **(kwargs or {}))
        if func.namespace == "dgdd":
            self.calls += 1
            self.unseen |= {self.writers[_storage(tensor)] for tensor in inputs} - {"operator", "copy"}
            writer = "operator"
        elif func is torch.ops.aten._to_copy.default and args[0].is_cpu:
            # With other strides or another dtype a kernel on the device would finish the copy.
            same = results.stride() == args[0].stride() and results.dtype == args[0].dtype
            writer = "copy" if same else f"copy of {args[0].dtype} {args[0].stride()}"
        else:
            writer = str(func)
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self.tensors.append(tensor)
                self.writers.setdefault(_storage(tensor), writer)
        return results


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def watched(results: Iterator[Tensor]) -> Writers:
    with Writers() as writers:
        for _ in results:
            pass
    return writers


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_operator_reads_what_a_kernel_out_of_sight_has_written(whole: bool, dtype: torch.dtype) -> None:
    spectral = watched(sanitize.spectral_results((32, 32), dtype, whole, "meta"))
    assert (spectral.calls, spectral.unseen) == (3, set())
    for shape, calls in (((5, 24, 7, 6), 4), ((4, 2048), 3)):
        masking = watched(sanitize.masking_results(shape, dtype, whole, "meta"))
        assert (masking.calls, masking.unseen) == (calls, set())
    augmentation = watched(sanitize.augmentation_results((5, 3, 9, 10), dtype, whole, "meta"))
    assert (augmentation.calls, augmentation.unseen) == (3, set())
    normalization = watched(sanitize.normalization_results((2, 5, 9, 10), dtype, whole, "meta"))
    assert (normalization.calls, normalization.unseen) == (4, set())


def test_a_kernel_out_of_sight_is_named() -> None:
    def made_on_the_device() -> Iterator[Tensor]:
        scores, uniforms = torch.rand(2, 3).to("meta"), torch.rand(2, 3).to("meta")
        yield sanitize.ops.weighted_channel_mask(scores * 2, uniforms, 1)

    assert watched(made_on_the_device()).unseen == {"aten.mul.Tensor"}
