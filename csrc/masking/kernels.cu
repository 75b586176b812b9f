// The launches of the masking kernels.
#include "launch.h"
#include "masking/kernels.cuh"

namespace dgdd::masking {
namespace {

constexpr int64_t kMostBlocks = 1 << 20;  // blocks go on with a stride where there is more work

int64_t blocks_for(int64_t work) { return work < kMostBlocks ? work : kMostBlocks; }

int64_t parts(int64_t total, int64_t part) { return (total + part - 1) / part; }

// Calls `launch` with the storage's type.
template <class Launch>
int with_storage(Storage storage, Launch launch) {
  switch (storage) {
    case Storage::float64:
      return launch(double{});
    case Storage::bfloat16:
      return launch(BFloat16{});
    case Storage::float16:
      return launch(Float16{});
    default:
      return launch(float{});
  }
}

// Calls `launch` with each flag as a type whose value is known to the compiler.
template <class Launch>
int with_flags(Launch launch) {
  return launch();
}
template <class Launch, class... Flags>
int with_flags(Launch launch, bool flag, Flags... others) {
  const auto with = [&](auto known) {
    return with_flags([&](auto... rest) { return launch(known, rest...); }, others...);
  };
  return flag ? with(std::true_type{}) : with(std::false_type{});
}

template <auto kernel>
int start(const CudaCall& call, int64_t blocks, void* stream) {
  return launch<kernel>({static_cast<unsigned>(blocks), kThreads, call.shared_bytes}, stream, call);
}

}  // namespace

int launch_ranges(const CudaCall& call, void* stream) {
  const MaskingParams& params = call.params;
  const int64_t work = params.channels_last
                           ? parts(params.samples * params.positions, kWarps)
                           : params.samples * parts(call.units, call.units < 32 ? call.units : 32);
  return with_storage(params.storage, [&](auto stored) {
    return with_flags(
        [&](auto packed, auto channels_last) {
          return start<ranges_kernel<decltype(stored), packed(), channels_last()>>(call, blocks_for(work),
                                                                                   stream);
        },
        call.packed, params.channels_last);
  });
}

int launch_scores(const CudaCall& call, void* stream) {
  const MaskingParams& params = call.params;
  const int64_t work = params.channels_last ? params.samples * parts(call.units, call.lanes)
                                            : parts(params.samples * params.channels, kThreads / call.lanes);
  return with_storage(params.storage, [&](auto stored) {
    return with_flags(
        [&](auto packed, auto channels_last, auto per_pixel) {
          return start<scores_kernel<decltype(stored), packed(), channels_last(), per_pixel()>>(
              call, blocks_for(work), stream);
        },
        call.packed, params.channels_last, params.per_pixel);
  });
}

int launch_select(const CudaCall& call, void* stream) {
  return with_storage(call.params.storage, [&](auto stored) {
    return start<select_kernel<decltype(stored)>>(call, blocks_for(call.params.samples), stream);
  });
}

int launch_apply(const CudaCall& call, void* stream) {
  const MaskingParams& params = call.params;
  const int rows_at_once = kThreads / call.lanes;
  const int64_t work = params.channels_last ? params.samples * parts(call.units, call.lanes) *
                                                  parts(params.positions, kRowsOfThread * rows_at_once)
                                            : parts(params.samples * params.channels, rows_at_once);
  return with_storage(params.storage, [&](auto stored) {
    return with_flags(
        [&](auto packed, auto channels_last) {
          return start<apply_kernel<decltype(stored), packed(), channels_last()>>(call, blocks_for(work),
                                                                                  stream);
        },
        call.packed, params.channels_last);
  });
}

int launch_fused(const CudaCall& call, void* stream) {
  return with_storage(call.params.storage, [&](auto stored) {
    return with_flags(
        [&](auto channels_last) {
          return start<fused_kernel<decltype(stored), channels_last()>>(call, call.params.samples, stream);
        },
        call.params.channels_last);
  });
}

}  // namespace dgdd::masking
