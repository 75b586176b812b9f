#include <algorithm>

#include "spectral/glue.h"

namespace dgdd::spectral {
namespace {

ScalarType scalar_type(Storage storage) {
  switch (storage) {
    case Storage::float64:
      return ScalarType::Double;
    case Storage::bfloat16:
      return ScalarType::BFloat16;
    case Storage::float16:
      return ScalarType::Half;
    default:
      return ScalarType::Float;
  }
}

}  // namespace

ScalarType real_type(const SpectralParams& params) {
  return params.storage == Storage::float64 ? ScalarType::Double : ScalarType::Float;
}

ScalarType complex_type(const SpectralParams& params) {
  return params.storage == Storage::float64 ? ScalarType::ComplexDouble : ScalarType::ComplexFloat;
}

Tensor chunk_spectra(const SpectralParams& params, const Device& device, int64_t first_plane,
                     int64_t planes) {
  const int64_t pixels = params.height * params.width;
  const int64_t sizes[] = {params.domains, planes, params.height, params.width};
  const int64_t strides[] = {params.planes() * pixels, pixels, params.width, 1};
  const char* first =
      static_cast<const char*>(params.domain_grads) + first_plane * pixels * bytes_of(params.storage);
  // A plain tensor over the memory: no autograd state, whichever thread runs this.
  Tensor gradients =
      torch::stable::from_blob(const_cast<char*>(first), sizes, strides, device, scalar_type(params.storage));
  if (params.storage == Storage::bfloat16 || params.storage == Storage::float16)
    gradients = torch::stable::to(gradients, ScalarType::Float);
  const int64_t axes[] = {-2, -1};
  return torch::stable::contiguous(call_aten("aten::fft_rfft2", "", gradients, std::nullopt,
                                             torch::headeronly::IntHeaderOnlyArrayRef(axes), std::nullopt));
}

Tensor inverse_transform(const SpectralParams& params, const Tensor& consensus_spectrum) {
  const int64_t sizes[] = {params.height, params.width};
  const int64_t axes[] = {-2, -1};
  using torch::headeronly::IntHeaderOnlyArrayRef;
  return torch::stable::contiguous(call_aten("aten::fft_irfft2", "", consensus_spectrum,
                                             std::make_optional(IntHeaderOnlyArrayRef(sizes)),
                                             IntHeaderOnlyArrayRef(axes), std::nullopt));
}

int64_t planes_per_chunk(const SpectralParams& params, int64_t bytes, int64_t at_least) {
  const int64_t bytes_per_bin = params.storage == Storage::float64 ? 16 : 8;
  const int64_t bytes_per_plane = params.domains * params.height * params.half_width() * bytes_per_bin;
  return std::min(params.planes(), std::max(at_least, bytes / bytes_per_plane));
}

}  // namespace dgdd::spectral
