// A product of one token with a dense weight of 16-bit numbers, which is read once: the head.
#pragma once

#include "linear.h"

// Vectors wider than the processor's are passed in memory: nothing outside this file sees them.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace {

enum Half : int32_t { kBrain = 0, kIeee = 1 };

typedef uint16_t Halves __attribute__((vector_size(32), aligned(2)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(64), aligned(4)));

template <int Kind>
inline Floats widen(const uint16_t* p) {
  const Words word = __builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words);
  if (Kind == kBrain) return reinterpret_cast<Floats>(word << 16);
  // As `from_half`, sixteen at a time; infinities do not occur in weights.
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
  Floats first = {}, second = {};  // two sums, so that additions do not wait for each other
  int64_t i = 0;
  for (; i + 32 <= in; i += 32) {
    first += widen<Kind>(row + i) * *reinterpret_cast<const Floats*>(x + i);
    second += widen<Kind>(row + i + 16) * *reinterpret_cast<const Floats*>(x + i + 16);
  }
  first += second;
  float sum = 0;
  for (int lane = 0; lane < 16; ++lane) sum += first[lane];
  for (; i < in; ++i) sum += narrow(row[i], Kind) * x[i];
  return sum;
}

}  // namespace
