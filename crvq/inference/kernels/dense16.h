// A product of one token with a dense weight of 16-bit numbers, which is read once: the head.
#pragma once

#include "linear.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

// Vectors wider than the processor's are passed in memory: nothing outside this file sees them.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace {

enum Half : int32_t { kBrain = 0, kIeee = 1 };

// Eight lanes are one AVX2 register. Sixteen are two, which GCC keeps in memory: 3.5 GB/s, where eight
// read 29 GB/s from a cache and 15 of the 20 GB/s that memory gives (one core with AVX2).
typedef uint16_t Halves __attribute__((vector_size(16), aligned(2)));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef float Floats __attribute__((vector_size(32), aligned(4)));
constexpr int kLanes = 8;
constexpr int kSums = 4;  // sums, so that additions do not wait for each other

template <int Kind>
inline Floats widen(const uint16_t* p) {
#if defined(__F16C__)
  if (Kind == kIeee)
    return (Floats)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#endif
  const Words word = __builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words);
  if (Kind == kBrain) return reinterpret_cast<Floats>(word << 16);
  // As `from_half`, eight at a time; infinities do not occur in weights.
  const Floats magnitude = reinterpret_cast<Floats>((word & 0x7fff) << 13) * 0x1p112f;
  return reinterpret_cast<Floats>(reinterpret_cast<Words>(magnitude) | ((word & 0x8000) << 16));
}

inline float narrow(uint16_t number, int kind) {
  if (kind == kIeee) return from_half(number);
  const uint32_t word = uint32_t(number) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

template <int Kind>
float dot16(const uint16_t* row, const float* x, int64_t in) {
  Floats sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums * kLanes <= in; i += kSums * kLanes)
    for (int s = 0; s < kSums; ++s)
      sums[s] += widen<Kind>(row + i + s * kLanes) *
                 *reinterpret_cast<const Floats*>(x + i + s * kLanes);
  const Floats all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  float sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += all[lane];
  for (; i < in; ++i) sum += narrow(row[i], Kind) * x[i];
  return sum;
}

}  // namespace
