// bfloat16 and float16 as storage: conversions to and from float32, rounded to nearest, ties to even; NaN
// stays NaN. On the CPU by integer arithmetic without branches, which compilers vectorise; on CUDA by its own
// instructions, which round alike. No torch header is included here.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "host_device.h"
#include "storage.h"

namespace dgdd {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

template <class To, class From>
DGDD_HOST_DEVICE To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

DGDD_HOST_DEVICE float load(float value) { return value; }
DGDD_HOST_DEVICE double load(double value) { return value; }

DGDD_HOST_DEVICE float load(BFloat16 value) {
  return bits_as<float>(static_cast<uint32_t>(value.bits) << 16);
}

// The exponent is moved by a multiplication, which also normalises float16's subnormal numbers; a second one,
// against overflow to infinity, is not needed because infinities and NaN are put right from the bits.
DGDD_HOST_DEVICE float load(Float16 value) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  const float scaled = bits_as<float>(magnitude << 13) * 0x1p112f;
  const uint32_t finite = bits_as<uint32_t>(scaled);
  const uint32_t special = (magnitude << 13) | 0x7f800000u;
  return bits_as<float>(sign | (magnitude >= 0x7c00u ? special : finite));
#endif
}

DGDD_HOST_DEVICE BFloat16 round_to_bfloat16(float value) {
#if defined(__CUDA_ARCH__)
  BFloat16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const uint32_t bits = bits_as<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  return {static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded)};
#endif
}

// Numbers that become subnormal are rounded by adding 0.5, whose last place is float16's smallest subnormal;
// the others on the bits.
DGDD_HOST_DEVICE Float16 round_to_float16(float value) {
#if defined(__CUDA_ARCH__)
  Float16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const uint32_t bits = bits_as<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  return {static_cast<uint16_t>(sign | (magnitude >= 0x47800000u ? special : finite))};
#endif
}

template <class Stored, class Real>
DGDD_HOST_DEVICE Stored store(Real value) {
  if constexpr (std::is_same_v<Stored, BFloat16>)
    return round_to_bfloat16(value);
  else if constexpr (std::is_same_v<Stored, Float16>)
    return round_to_float16(value);
  else
    return value;
}

// One number of a small tensor, as the float64 that it is.
DGDD_HOST_DEVICE double load_as_double(const void* data, Storage storage, int64_t index) {
  switch (storage) {
    case Storage::float64:
      return static_cast<const double*>(data)[index];
    case Storage::bfloat16:
      return load(static_cast<const BFloat16*>(data)[index]);
    case Storage::float16:
      return load(static_cast<const Float16*>(data)[index]);
    default:
      return static_cast<const float*>(data)[index];
  }
}

}  // namespace dgdd
