// The fused CUDA tier: one launch from the domains' gradients to the output, for the sizes it knows and where
// the device has the shared memory that these need. float64 is never given to it. Neither CUDA nor torch
// headers are included here.
#pragma once

#include "cuda_device.h"
#include "spectral/params.h"

namespace dgdd::spectral {

// Square tiles of 32 and 64 pixels a side (fused_tile_kernels.cuh).
bool fused_tile_available(int64_t height, int64_t width, const DeviceFacts& device);
// On the current device, with at least one plane. Returns the launch's cudaError_t, 0 for success.
int launch_fused_tile(const SpectralParams& params, const DeviceFacts& device, void* stream);

// Planes of 128 x 128, 64 x 128 and 128 x 64 pixels (fused_half_spectrum_kernels.cuh); likewise.
bool fused_half_spectrum_available(int64_t height, int64_t width, const DeviceFacts& device);
int launch_fused_half_spectrum(const SpectralParams& params, void* stream);

// The same computation with the next domain in flight while one is transformed
// (fused_tile_pipelined_kernels.cuh, fused_half_spectrum_pipelined_kernels.cuh), for few planes of 128 pixels
// by clusters of blocks (fused_half_spectrum_cluster_kernels.cuh). For data at multiples of 16 bytes.
bool fused_tile_pipelined_available(const SpectralParams& params, const DeviceFacts& device);
int launch_fused_tile_pipelined(const SpectralParams& params, const DeviceFacts& device, void* stream);
bool fused_half_spectrum_pipelined_available(const SpectralParams& params, const DeviceFacts& device);
int launch_fused_half_spectrum_pipelined(const SpectralParams& params, const DeviceFacts& device,
                                         void* stream);

}  // namespace dgdd::spectral
