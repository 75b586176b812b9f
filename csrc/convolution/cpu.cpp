#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "convolution/cpu_kernels.h"
#include "convolution/glue.h"
#include "cpu_capability.h"
#include "huge_pages.h"
#include "normalization/cpu_kernels.h"

namespace dgdd::convolution {
namespace {

CpuKernels cpu_kernels() {
#if defined(DGDD_X86_64)
  switch (cpu_capability()) {
    case CpuCapability::avx512:
      return avx512::cpu_kernels();
    case CpuCapability::avx2:
      return avx2::cpu_kernels();
    case CpuCapability::baseline:
      break;
  }
#endif
  return baseline::cpu_kernels();
}

// Memory for so many numbers, which are not set.
class Numbers {
 public:
  explicit Numbers(int64_t count) : lines_(new Line[(count + 15) / 16]) {}
  float* get() { return lines_[0].numbers; }

 private:
  struct alignas(64) Line {
    float numbers[16];
  };
  std::unique_ptr<Line[]> lines_;
};

int64_t parts_of(int64_t count, int64_t most) { return (count + most - 1) / most; }

Numbers arranged_weights(const CpuKernels& kernels, const ConvolutionParams& params) {
  Numbers arranged(kernels.weight_numbers(params));
  torch::stable::parallel_for(0, kernels.panels(params), 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) kernels.arrange_weights(params, panel, arranged.get());
  });
  return arranged;
}

// How many images are one piece of work: enough pixels to be worth reading the weights again.
int64_t images_at_once(const ConvolutionParams& params) {
  constexpr int64_t kPixels = 256;
  return std::max<int64_t>(1, kPixels / (params.height * params.width));
}

// Calls `work(begin, end)` for piece after piece of `at_once` samples, in threads that call `make_work()`
// each.
template <class MakeWork>
void for_pieces(int64_t samples, int64_t at_once, MakeWork make_work) {
  torch::stable::parallel_for(0, parts_of(samples, at_once), 1, [&](int64_t first, int64_t last) {
    auto work = make_work();
    for (int64_t piece = first; piece < last; ++piece)
      work(piece * at_once, std::min((piece + 1) * at_once, samples));
  });
}

}  // namespace

void run_cpu(const ConvolutionParams& params) {
  const CpuKernels kernels = cpu_kernels();
  const int64_t image = params.height * params.width * params.out_channels;
  ask_for_huge_pages(params.result, params.samples * image * sizeof(float));
  Numbers arranged = arranged_weights(kernels, params);
  for_pieces(params.samples, images_at_once(params), [&] {
    return [&, scratch = Numbers(kernels.scratch_numbers(params))](int64_t begin, int64_t end) mutable {
      kernels.convolve(params, arranged.get(), begin, end, params.result + begin * image, scratch.get());
    };
  });
}

void run_cpu(const ConvolutionParams& params, const NormPool& norm_pool) {
  const CpuKernels kernels = cpu_kernels();
  const normalization::CpuKernel normalise = normalization::cpu_kernel(Storage::float32);
  const int64_t channels = params.out_channels;
  const int64_t image = params.height * params.width * channels;
  const int64_t pooled = (params.height / norm_pool.pool) * (params.width / norm_pool.pool) * channels;
  const int64_t at_once = images_at_once(params);
  ask_for_huge_pages(norm_pool.pooled, params.samples * pooled * sizeof(float));
  Numbers arranged = arranged_weights(kernels, params);

  normalization::NormPoolParams norm{};
  norm.channels = channels;
  norm.height = params.height;
  norm.width = params.width;
  norm.pool = norm_pool.pool;
  norm.eps = norm_pool.eps;
  norm.storage = Storage::float32;
  norm.sample_stride = image;
  norm.channel_stride = 1;
  norm.position_stride = channels;
  norm.channels_last = true;
  norm.weight = norm_pool.weight;
  norm.bias = norm_pool.bias;
  for_pieces(params.samples, at_once, [&] {
    return [&, norm, maps = Numbers(at_once * image), scratch = Numbers(kernels.scratch_numbers(params))](
               int64_t begin, int64_t end) mutable {
      kernels.convolve(params, arranged.get(), begin, end, maps.get(), scratch.get());
      norm.samples = end - begin;
      norm.x = maps.get();
      norm.pooled = norm_pool.pooled + begin * pooled;
      normalise(norm, 0, norm.samples * normalization::cpu_tiles(norm), nullptr);
    };
  });
}

void run_cpu(const WeightGradParams& params) {
  // Images whose sums are taken by themselves: by the size of an image alone, for the bits not to follow the
  // threads.
  constexpr int64_t kPixels = 2048;
  constexpr int64_t kNumbersAtOnce = 1 << 14;
  const CpuKernels kernels = cpu_kernels();
  const int64_t at_once = std::max<int64_t>(1, kPixels / (params.height * params.width));
  const int64_t weights = params.out_channels * params.in_channels * 9;
  const int64_t numbers = weights + params.out_channels;
  const int64_t pieces = parts_of(params.samples, at_once);
  // As many pieces are computed beside each other as there are threads, which bounds what their sums take;
  // these are added up in the order of the images, which no bit of the result can tell from the threads.
  const int64_t together = std::min<int64_t>(pieces, torch::stable::get_num_threads());
  Numbers parts(together * numbers);
  std::vector<Numbers> scratch;
  for (int64_t slot = 0; slot < together; ++slot) scratch.emplace_back(kernels.grad_scratch_numbers(params));
  std::vector<double> sums(numbers);
  for (int64_t first = 0; first < pieces; first += together) {
    const int64_t count = std::min(together, pieces - first);
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot) {
        const int64_t image = (first + slot) * at_once;
        float* part = parts.get() + slot * numbers;
        kernels.weight_grad(params, image, std::min(image + at_once, params.samples), part, part + weights,
                            scratch[slot].get());
      }
    });
    torch::stable::parallel_for(0, numbers, kNumbersAtOnce, [&](int64_t begin, int64_t end) {
      for (int64_t slot = 0; slot < count; ++slot) {
        const float* part = parts.get() + slot * numbers;
        for (int64_t number = begin; number < end; ++number) sums[number] += part[number];
      }
    });
  }
  for (int64_t number = 0; number < weights; ++number)
    params.weight_grad[number] = static_cast<float>(sums[number]);
  for (int64_t j = 0; j < params.out_channels; ++j)
    params.bias_grad[j] = static_cast<float>(sums[weights + j]);
}

}  // namespace dgdd::convolution
