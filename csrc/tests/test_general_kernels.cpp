// The general tier's CUDA kernels between transforms by their definition, against the truth in float64: odd
// and even sizes, planes of one block and of several, chunks of any number of planes, data at any address.
#include <algorithm>

#include "spectral/general_kernels.cuh"
#include "tests/check.h"
#include "tests/spectral_reference.h"

namespace dgdd::tests {
namespace {

namespace general = spectral::general;
using spectral::Chunk;

template <class Stored>
using Arithmetic = std::conditional_t<std::is_same_v<Stored, double>, double, float>;

// The half spectra of a chunk's planes, [D, planes, H, W / 2 + 1].
template <class Stored>
std::vector<general::Bin<Arithmetic<Stored>>> half_spectra(const SpectralParams& params, const Chunk& chunk) {
  const int height = static_cast<int>(params.height), width = static_cast<int>(params.width);
  const Stored* gradients = static_cast<const Stored*>(params.domain_grads);
  std::vector<general::Bin<Arithmetic<Stored>>> result;
  for (int64_t domain = 0; domain < params.domains; ++domain)
    for (int64_t plane = 0; plane < chunk.planes; ++plane) {
      Spectrum values;
      for (int64_t i = 0; i < height * width; ++i)
        values.push_back(static_cast<double>(
            load(gradients[(domain * params.planes() + chunk.first_plane + plane) * height * width + i])));
      const Spectrum spectrum = transformed(values, height, width, -1);
      for (int y = 0; y < height; ++y)
        for (int x = 0; x <= width / 2; ++x) {
          const auto bin = spectrum[static_cast<size_t>(y * width + x)];
          result.push_back(
              {static_cast<Arithmetic<Stored>>(bin.real()), static_cast<Arithmetic<Stored>>(bin.imag())});
        }
    }
  return result;
}

// The real planes of half spectra [planes, H, W / 2 + 1].
template <class Real>
std::vector<Real> signals(const std::vector<general::Bin<Real>>& half_spectra, int height, int width) {
  const size_t half_width = static_cast<size_t>(width / 2 + 1), rows = static_cast<size_t>(height);
  std::vector<Real> result;
  for (size_t begin = 0; begin < half_spectra.size(); begin += rows * half_width) {
    Spectrum spectrum;
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x) {
        const bool mirrored = x > width / 2;
        const int from_y = mirrored ? (height - y) % height : y, from_x = mirrored ? width - x : x;
        const auto bin =
            half_spectra[begin + static_cast<size_t>(from_y) * half_width + static_cast<size_t>(from_x)];
        spectrum.push_back({bin.re, mirrored ? -bin.im : bin.im});
      }
    for (const auto& value : transformed(spectrum, height, width, 1))
      result.push_back(static_cast<Real>(value.real() / (height * width)));
  }
  return result;
}

template <class Stored>
void run(const SpectralParams& params, int64_t chunk_planes) {
  using Real = Arithmetic<Stored>;
  for (int64_t first_plane = 0; first_plane < params.planes(); first_plane += chunk_planes) {
    Chunk chunk{};
    chunk.first_plane = first_plane;
    chunk.planes = std::min(chunk_planes, params.planes() - first_plane);
    const auto launch = [&](auto kernel, general::Blocks blocks) {
      const emulator::Report report =
          emulator::launch(static_cast<unsigned>(chunk.planes) * blocks.of_plane, blocks.threads, 0,
                           [&] { kernel(params, chunk, blocks.of_plane); });
      CHECK(report.sound(), report.text());
    };
    auto spectra = half_spectra<Stored>(params, chunk);
    std::vector<general::Bin<Real>> consensus(spectra.size() / static_cast<size_t>(params.domains));
    chunk.spectra = spectra.data();
    chunk.consensus_spectrum = consensus.data();
    general::with_reduce_kernel<Real, Stored>(params, launch);
    std::vector<Real> class_signal =
        signals(consensus, static_cast<int>(params.height), static_cast<int>(params.width));
    chunk.class_signal = class_signal.data();
    general::with_finish_kernel<Real, Stored>(params, launch);
  }
}

template <class Stored>
void check_results(Call<Stored>& call, const Truth& expected, int64_t chunk_planes) {
  const double first = relative_error(first_result(call), expected.first);
  const double second = relative_error(second_result(call), expected.second);
  CHECK(first < tolerance<Stored>() && second < tolerance<Stored>(), first, second, call.height, call.width,
        call.planes(), chunk_planes, static_cast<int>(call.op), call.base, call.weighted_deviation,
        sizeof(Stored));
}

// Every operator, with whatever else there is to choose.
template <class Stored>
void test_size(int height, int width, int samples) {
  unsigned seed = static_cast<unsigned>(height * width);
  for (const Operator op : {Operator::consensus, Operator::surgery, Operator::step}) {
    Call<Stored> call;
    call.op = op;
    call.height = height;
    call.width = width;
    call.samples = samples;
    call.channels = 1 + static_cast<int>(seed % 2);
    call.domains = 1 + static_cast<int>(seed % 6);
    call.base = seed % 3 == 0;
    call.weighted_deviation = seed % 4 < 2;
    call.draw(++seed);
    const Truth expected = truth(call);
    const int64_t chunk_planes = 1 + static_cast<int64_t>(seed) % call.planes();
    run<Stored>(call.params(), chunk_planes);
    check_results(call, expected, chunk_planes);
  }
}

template <class Stored>
void test_every_mode() {
  for (const bool base : {false, true})
    for (const bool weighted_deviation : {false, true})
      for (const int width : {6, 5}) {
        Call<Stored> call;
        call.op = Operator::step;
        call.height = 7;
        call.width = width;
        call.samples = 4;
        call.channels = 2;
        call.domains = 5;
        call.base = base;
        call.weighted_deviation = weighted_deviation;
        call.domain_index = {0, 4, 1, 2};
        call.domain_valid = {1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 1, 1, 0, 0};
        call.draw(5);
        const Truth expected = truth(call);
        call.spoil_invalid_domains();
        run<Stored>(call.params(), 3);
        check_results(call, expected, 3);
      }
}

// Nothing may depend on where the data lies.
template <class Stored>
void test_any_address() {
  Call<Stored> call;
  call.op = Operator::step;
  call.height = 6;
  call.width = 8;
  call.samples = 2;
  call.base = true;
  call.draw(6);
  const Truth expected = truth(call);
  std::vector<Stored> first, second;
  for (const int shifted : {0, 1, 2, 3, 4}) {  // which of the pointers, from 1 on
    Call<Stored> copy = call;
    SpectralParams params = copy.params();
    std::vector<Stored>* data[] = {&copy.domain_grads, &copy.base_grad, &copy.images, &copy.momentum_buffer};
    std::vector<Stored> moved;
    if (shifted > 0) {
      moved = *data[shifted - 1];
      moved.insert(moved.begin(), Stored{});
    }
    if (shifted == 1) params.domain_grads = moved.data() + 1;
    if (shifted == 2) params.base_grad = moved.data() + 1;
    if (shifted == 3) params.images = moved.data() + 1;
    if (shifted == 4) params.momentum_buffer = moved.data() + 1;
    run<Stored>(params, 1);
    if (shifted == 3) copy.images.assign(moved.begin() + 1, moved.end());
    if (shifted == 4) copy.momentum_buffer.assign(moved.begin() + 1, moved.end());
    check_results(copy, expected, 1);
    if (shifted == 0) {
      first = copy.images;
      second = copy.momentum_buffer;
    }
    const auto count = static_cast<int64_t>(first.size());
    CHECK(same_bits(copy.images.data(), first.data(), count) &&
              same_bits(copy.momentum_buffer.data(), second.data(), count),
          shifted);
  }
}

void test_a_domain_index_out_of_range() {
  for (const int64_t index : {int64_t{-1}, int64_t{3}, std::numeric_limits<int64_t>::max()}) {
    Call<float> call;
    call.height = 5;
    call.width = 4;
    call.samples = 2;
    call.domain_index = {1, index};
    call.draw(7);
    const Truth expected = truth(call);
    run<float>(call.params(), 2);
    CHECK(relative_error(call.update, expected.first, 0, 2) < 3e-7);
    for (size_t i = 20; i < 40; ++i) CHECK(std::isnan(call.update[i]), i);
  }
}

void test_zero_gradients_without_eps() {
  Call<float> call;
  call.op = Operator::consensus;
  call.eps = 0;
  call.scale = 0;
  call.height = call.width = 6;
  call.draw(8);
  run<float>(call.params(), 1);
  const auto is_zero = [](float value) { return value == 0; };
  CHECK(std::all_of(call.class_signal.begin(), call.class_signal.end(), is_zero));
  CHECK(std::all_of(call.resultant_length.begin(), call.resultant_length.end(), is_zero));
}

template <class Stored>
void test_storage() {
  // One element; less than a warp; odd numbers of bins and of pixels; several blocks, with and without a
  // rest.
  for (const auto& [height, width] : {std::pair{1, 1},
                                      {1, 7},
                                      {5, 1},
                                      {2, 2},
                                      {3, 5},
                                      {7, 6},
                                      {33, 31},
                                      {37, 53},
                                      {32, 34},
                                      {44, 47},
                                      {64, 32}})
    test_size<Stored>(height, width, height * width < 300 ? 5 : 2);
  test_every_mode<Stored>();
  test_any_address<Stored>();
}

}  // namespace
}  // namespace dgdd::tests

int main() {
  using namespace dgdd::tests;
  test_storage<float>();
  test_storage<double>();
  test_storage<dgdd::BFloat16>();
  test_storage<dgdd::Float16>();
  test_a_domain_index_out_of_range();
  test_zero_gradients_without_eps();
  return result();
}
