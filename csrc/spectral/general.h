// The general tier, for every size and for float64: the library's FFT around a fused reduction over the
// domains. A call is cut into chunks of whole planes, so that the spectra stay in cache and are never larger
// than the input. No torch header is included here.
#pragma once

#include "spectral/params.h"

namespace dgdd::spectral {

// Planes [first_plane, first_plane + planes) of a call and what the FFTs make of them. Data here is float32,
// or float64 for a float64 call.
struct Chunk {
  int64_t first_plane;
  int64_t planes;
  const void* spectra;       // complex [D, planes, H, W/2 + 1]
  void* consensus_spectrum;  // complex [planes, H, W/2 + 1] = R * mean over the valid domains
  const void* class_signal;  // [planes, H, W], the inverse transform of it
};

// The kernels of one machine: the first fills consensus_spectrum (and params.resultant_length where it is
// asked for), the second turns class_signal into the call's outputs.
struct GeneralKernels {
  void (*reduce)(const SpectralParams&, const Chunk&);
  void (*finish)(const SpectralParams&, const Chunk&);
};

namespace baseline {
extern const GeneralKernels general_kernels;
}
namespace avx2 {
extern const GeneralKernels general_kernels;
}
namespace avx512 {
extern const GeneralKernels general_kernels;
}

// The same two on the current CUDA device. They return the launch's cudaError_t, 0 for success.
int launch_reduce_cuda(const SpectralParams& params, const Chunk& chunk, void* stream);
int launch_finish_cuda(const SpectralParams& params, const Chunk& chunk, void* stream);
const char* cuda_error_text(int error);

}  // namespace dgdd::spectral
