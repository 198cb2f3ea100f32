// Decoding of a tile of out features, for matrix products with many tokens.
#pragma once

#include "entries.h"

namespace {

template <int W>
void decode_tile(const Linear& linear, int k, const float* __restrict entries, int64_t tile,
                 bool scaled, float* __restrict weight) {
  typedef typename Lanes<W>::V V;
  const int d = linear.d;
  const int64_t tiles = (linear.out_features + kTile - 1) / kTile;
  const int64_t stride = int64_t(linear.books[0].groups) * d;
  const Codebook& book = linear.books[k];
  for (int start = 0; start < book.groups; start += kBlock) {
    const int block = std::min(kBlock, book.groups - start);
    const uint8_t* codes = book.codes + (start * tiles + tile * block) * book.bits;
    for (int j = 0; j < kTile; ++j) {
      const int64_t o = std::min<int64_t>(tile * kTile + j, linear.out_features - 1);
      const float scale = scaled ? from_half(linear.scales[o]) : 1.0f;
      float* row = weight + j * stride + int64_t(start) * d;
      for (int g = 0; g < block; ++g, row += d) {
        const float* entry = entries + size_t(code_at(codes + g * book.bits, j, book.bits)) * d;
        // Written as vectors: compilers do not find them in short loops over d.
        for (int i = 0; i < d; i += W) {
          const V value = *reinterpret_cast<const V*>(entry + i) * scale;
          V* place = reinterpret_cast<V*>(row + i);
          *place = k == 0 ? value : *place + value;
        }
      }
    }
  }
}

}  // namespace
