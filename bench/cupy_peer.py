"""The spectral operators as one would write them in CuPy: cuFFT and two kernels, on torch's current stream.

The benchmark's peer for float32 on CUDA, without a base gradient and with every domain valid. Tensors cross
over without a copy (DLPack). Importing this module needs CuPy.
"""

from __future__ import annotations

import cupy
import torch
from torch import Tensor

from dgdd_fast.ops import EPS

cupy.get_default_memory_pool().set_limit(fraction=0.25)  # torch needs the rest

# One frequency bin; `first` is the first domain's spectrum, there for its shape.
REDUCE = cupy.ElementwiseKernel(
    "complex64 first, raw complex64 spectra, int32 domains, int64 bins, float32 eps",
    "complex64 consensus, float32 resultant_length",
    """
    thrust::complex<float> sum = 0;
    float magnitudes = eps;
    for (int domain = 0; domain < domains; ++domain) {
      const thrust::complex<float> bin = spectra[i + domain * bins];
      sum += bin;
      magnitudes += abs(bin);
    }
    resultant_length = magnitudes == 0 ? 0.0f : abs(sum) / magnitudes;
    consensus = sum * (resultant_length / domains);
    """,
    "spectral_reduce",
)

FINISH_INPUTS = (
    "float32 class_signal, raw float32 grads, raw int64 domain_index, int32 domains, int64 pixels, "
    "int64 image_pixels, float32 alpha, float32 beta"
)
FINISH = """
    float mean = 0;
    for (int domain = 0; domain < domains; ++domain) mean += grads[i + domain * pixels];
    mean /= domains;
    const float own = grads[i + domain_index[i / image_pixels] * pixels];
    const float result = mean + alpha * class_signal + beta * (own - class_signal);
"""
UPDATE = cupy.ElementwiseKernel(
    FINISH_INPUTS, "float32 update", FINISH + "update = result;", "surgery_update"
)
STEP = cupy.ElementwiseKernel(
    FINISH_INPUTS + ", float32 lr, float32 momentum",
    "float32 images, float32 buffer",
    FINISH + "buffer = momentum * buffer + result;\n    images -= lr * buffer;",
    "surgery_step",
)


def consensus(grads: cupy.ndarray, eps: float) -> tuple[cupy.ndarray, cupy.ndarray]:
    spectra = cupy.fft.rfft2(grads)
    spectrum, resultant_length = REDUCE(spectra[0], spectra, len(spectra), spectra[0].size, eps)
    return cupy.fft.irfft2(spectrum, s=grads.shape[-2:]), resultant_length


def finish_arguments(
    grads: cupy.ndarray, domain_index: Tensor, alpha: float, beta: float
) -> tuple[object, ...]:
    class_signal, _ = consensus(grads, EPS)
    pixels = class_signal.size
    index = cupy.from_dlpack(domain_index)
    return class_signal, grads, index, len(grads), pixels, pixels // len(index), alpha, beta


def torch_stream() -> cupy.cuda.Stream:
    """A context in which CuPy works on torch's current stream."""
    return cupy.cuda.Stream.from_external(torch.cuda.current_stream())


def spectral_consensus(domain_grads: Tensor) -> tuple[Tensor, Tensor]:
    with torch_stream():
        signal, resultant_length = consensus(cupy.from_dlpack(domain_grads), EPS)
        return torch.from_dlpack(signal), torch.from_dlpack(resultant_length)


def spectral_surgery(
    domain_grads: Tensor, base_grad: None, domain_index: Tensor, alpha: float, beta: float
) -> Tensor:
    with torch_stream():
        arguments = finish_arguments(cupy.from_dlpack(domain_grads), domain_index, alpha, beta)
        return torch.from_dlpack(UPDATE(*arguments))


def spectral_surgery_step_(
    images: Tensor,
    momentum_buffer: Tensor,
    domain_grads: Tensor,
    base_grad: None,
    domain_index: Tensor,
    alpha: float,
    beta: float,
    lr: float,
    momentum: float,
) -> None:
    with torch_stream():
        arguments = finish_arguments(cupy.from_dlpack(domain_grads), domain_index, alpha, beta)
        STEP(*arguments, lr, momentum, cupy.from_dlpack(images), cupy.from_dlpack(momentum_buffer))
