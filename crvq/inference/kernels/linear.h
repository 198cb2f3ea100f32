// A packed linear layer as Python hands it over, and reading its codes and 16-bit numbers.
//
// Codes lie as [block of 16 groups][tile of 8 out features][group][8 codes of `bits` bits], so a
// tile's codes of one group are exactly `bits` bytes, and a block of groups is one stream of memory
// (crvq/inference/packed_codes.py).
#pragma once

#include <cstdint>
#include <cstring>

namespace {

constexpr int kTile = 8;
constexpr int kBlock = 16;

enum Kind : int32_t { kFloat32 = 0, kFloat16 = 1, kInt8 = 2 };

}  // namespace

extern "C" {

struct Codebook {
  const uint8_t* codes;
  const void* entries;    // (count, d)
  const uint16_t* steps;  // float16 (d,), of int8 entries only
  int32_t kind, count, bits, groups;
};

struct Linear {
  const Codebook* books;
  const void* order;  // coded position p reads in feature order[p]; null if they agree
  const uint16_t* scales;  // float16 (out,)
  const float* bias;       // (out,) or null
  int32_t order_bytes, codebooks, out_features, in_features, d;
};
}

namespace {

// Exact for finite values: the exponent is re-biased by a product, subnormals included.
inline float from_half(uint16_t h) {
  uint32_t bits = uint32_t(h & 0x7fff) << 13, sign = uint32_t(h & 0x8000) << 16;
  float magnitude;
  std::memcpy(&magnitude, &bits, 4);
  magnitude *= 0x1p112f;
  std::memcpy(&bits, &magnitude, 4);
  bits |= sign;
  std::memcpy(&magnitude, &bits, 4);
  return magnitude;
}

inline uint64_t load64(const uint8_t* p) {
  uint64_t word;
  std::memcpy(&word, p, 8);  // packed codes end with 16 bytes of padding, so this never overruns
  return word;
}

inline uint32_t code_at(const uint8_t* row, int j, int bits) {
  int at = j * bits;
  return uint32_t(load64(row + (at >> 3)) >> (at & 7)) & ((1u << bits) - 1);
}

template <int T>
struct Lanes {
  typedef float V __attribute__((vector_size(4 * T), aligned(4)));
};
template <>
struct Lanes<1> {
  typedef float V;
};

}  // namespace
