// The torch side of the spectral operators on each device: from filled, checked parameters to launches.
#pragma once

#include "spectral/params.h"
#include "stable.h"

namespace dgdd::spectral {

void run_cpu(const SpectralParams& params);
void run_cuda(const SpectralParams& params, const Device& device);

// What the spectra of one pass of the general CUDA tier may take; the inverse transform needs as much again.
// Passes are for memory alone: each costs nine launches, and the library another plan where the last one is
// smaller. Tests lower it.
int64_t& most_spectra_bytes();

ScalarType real_type(const SpectralParams& params);     // of the arithmetic: float32 or float64
ScalarType complex_type(const SpectralParams& params);  // of the spectra

// The general tier's transforms: the spectra of the planes [first_plane, first_plane + planes) of every
// domain, [D, planes, H, W/2 + 1], and back from a consensus spectrum of these planes to [planes, H, W].
Tensor chunk_spectra(const SpectralParams& params, const Device& device, int64_t first_plane, int64_t planes);
Tensor inverse_transform(const SpectralParams& params, const Tensor& consensus_spectrum);

// How many planes a chunk holds if its spectra are to take about `bytes`; at least `at_least`, at most all.
int64_t planes_per_chunk(const SpectralParams& params, int64_t bytes, int64_t at_least);

}  // namespace dgdd::spectral
