// Dot products with entries: for codebooks too large for tables to pay.
#pragma once

#include "lookup.h"

namespace {

template <int W>
void add_dot_products(int bits, const float* entries, const Segment& segment, int64_t tiles,
                      const float* x, int T, int64_t x_stride, float* sums) {
  typedef typename Lanes<W>::V V;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    for (int t = 0; t < T; ++t) {
      V parts[kTile] = {};
      const uint8_t* row = segment.codes + tile * segment.tile_bytes;
      for (int g = 0; g < segment.groups; ++g, row += bits) {
        V own = *reinterpret_cast<const V*>(x + t * x_stride + g * W);
        for (int j = 0; j < kTile; ++j) {
          const float* entry = entries + int64_t(code_at(row, j, bits)) * W;
          parts[j] += *reinterpret_cast<const V*>(entry) * own;
        }
      }
      for (int j = 0; j < kTile; ++j) {
        float sum = 0;
        for (int i = 0; i < W; ++i) sum += parts[j][i];
        sums[(tile * kTile + j) * T + t] += sum;
      }
    }
  }
}

}  // namespace
