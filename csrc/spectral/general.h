// The general tier, for every size and for float64: the library's FFT around a fused reduction over the
// domains. A call is cut into chunks of whole planes, so that the spectra stay in cache and are never larger
// than the input. No torch header is included here.
#pragma once

#include "spectral/params.h"

namespace dgdd::spectral {

// Planes [first_plane, first_plane + planes) of a call and what the FFTs make of them. Data here is float32,
// or float64 for a float64 call; complex numbers are (re, im) pairs.
struct Chunk {
  int64_t first_plane;
  int64_t planes;
  const void* spectra;       // complex [D, planes, H, W/2 + 1]
  void* consensus_spectrum;  // complex [planes, H, W/2 + 1] = R * mean over the valid domains
  void* class_signal;        // [planes, H, W], the inverse transform of it
  bool transposed;           // the spectra and the consensus are [.., W/2 + 1, H] instead
};

// The kernels of one instruction set.
struct GeneralKernels {
  // Fills the chunk's consensus_spectrum, and params.resultant_length where it is asked for.
  void (*reduce)(const SpectralParams&, const Chunk&);
  // Turns the chunk's class_signal into the call's outputs.
  void (*finish)(const SpectralParams&, const Chunk&);

  // Two rows of a plane as the real and the imaginary part of one, for widths whose real transforms are as
  // dear as complex ones. `pairs` are complex [.., (H + 1)/2, W]; an odd last row is paired with zeros. From
  // the gradients of every domain to pairs [D, planes, ..]:
  void (*pair_gradients)(const SpectralParams&, const Chunk&, void* pairs);
  // from transformed pairs [D, planes, ..] to the rows' half spectra, transposed: complex [D, planes, W/2 +
  // 1, H];
  void (*split_spectra)(const SpectralParams&, const Chunk&, const void* pairs, void* spectra);
  // from such half spectra [planes, W/2 + 1, H] back to transformed pairs [planes, ..];
  void (*pair_spectra)(const SpectralParams&, const Chunk&, const void* spectra, void* pairs);
  // and from pairs [planes, ..] to the chunk's class_signal.
  void (*part_signal)(const SpectralParams&, const Chunk&, const void* pairs);
};

namespace baseline {
const GeneralKernels& general_kernels(Storage storage);
}
namespace avx2 {
const GeneralKernels& general_kernels(Storage storage);
}
namespace avx512 {
const GeneralKernels& general_kernels(Storage storage);
}

// The same two on the current CUDA device. They return the launch's cudaError_t, 0 for success.
int launch_reduce_cuda(const SpectralParams& params, const Chunk& chunk, void* stream);
int launch_finish_cuda(const SpectralParams& params, const Chunk& chunk, void* stream);

}  // namespace dgdd::spectral
