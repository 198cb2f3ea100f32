// Look-up tables: T tokens' products of a group's inputs with every entry of a codebook.
#pragma once

#include "linear.h"

namespace {

// table[e] = sum_j entries[j][e] x[j] for one token: entries are transposed, so that the products
// of neighbouring entries are one vector. Sixteen sums stay in registers until all inputs are in.
template <int D>
void build_table(const float* __restrict transposed, int64_t count, int known_d, const float* x,
                 float* __restrict table) {
  typedef typename Lanes<16>::V V;
  const int d = D ? D : known_d;
  int64_t e = 0;
  for (; e + 16 <= count; e += 16) {
    V sum = *reinterpret_cast<const V*>(transposed + e) * x[0];
    for (int j = 1; j < d; ++j)
      sum += *reinterpret_cast<const V*>(transposed + j * count + e) * x[j];
    *reinterpret_cast<V*>(table + e) = sum;
  }
  for (; e < count; ++e) {
    float sum = transposed[e] * x[0];
    for (int j = 1; j < d; ++j) sum += transposed[j * count + e] * x[j];
    table[e] = sum;
  }
}

// table[e][t] = sum_j entries[e][j] x[t][j] for several tokens, which are the vector. With d known
// to the compiler the inputs stay in registers.
template <int T, int D>
void build_table(const float* entries, int64_t count, int known_d, const float* x,
                 int64_t x_stride, float* table) {
  typedef typename Lanes<T>::V V;
  const int d = D ? D : known_d;
  V inputs[D ? D : 32];
  for (int j = 0; j < d; ++j)
    for (int t = 0; t < T; ++t) reinterpret_cast<float*>(&inputs[j])[t] = x[t * x_stride + j];
  V* out = reinterpret_cast<V*>(table);
  for (int64_t e = 0; e < count; ++e, entries += d) {
    V sum = entries[0] * inputs[0];
    for (int j = 1; j < d; ++j) sum += entries[j] * inputs[j];
    out[e] = sum;
  }
}

struct Segment {  // some neighbouring groups of one block of one codebook
  const uint8_t* codes;  // of the first tile and the first group
  int64_t tile_bytes;    // from one tile's codes to the next tile's
  const float* tables;   // one per group
  int groups;
};

template <int E, int T>
void add_looked_up(const Segment* segments, int count, int64_t tiles, float* sums) {
  typedef typename Lanes<T>::V V;
  constexpr uint64_t mask = (1u << E) - 1;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    V* own = reinterpret_cast<V*>(sums) + tile * kTile;
    V s0 = own[0], s1 = own[1], s2 = own[2], s3 = own[3];
    V s4 = own[4], s5 = own[5], s6 = own[6], s7 = own[7];
    for (const Segment* segment = segments; segment != segments + count; ++segment) {
      const uint8_t* row = segment->codes + tile * segment->tile_bytes;
      const uint8_t* end = row + segment->groups * E;
      const V* table = reinterpret_cast<const V*>(segment->tables);
      // A block's codes are one stream: ask for those of a few tiles later.
      for (int at = 0; at < segment->groups * E; at += 64) __builtin_prefetch(row + 1024 + at);
      for (; row != end; row += E, table += int64_t(1) << E) {
        uint64_t low = load64(row);
        uint64_t high = low >> (E <= 8 ? 4 * E : 0);
        if (E > 8) high = load64(row + E / 2) >> (4 * E & 7);
        // Opaque to compilers, which else make the eight loads a gather: half the speed.
        asm("" : "+r"(low), "+r"(high));
        s0 += table[low & mask];
        s1 += table[low >> E & mask];
        s2 += table[low >> 2 * E & mask];
        s3 += table[low >> 3 * E & mask];
        s4 += table[high & mask];
        s5 += table[high >> E & mask];
        s6 += table[high >> 2 * E & mask];
        s7 += table[high >> 3 * E & mask];
      }
    }
    own[0] = s0, own[1] = s1, own[2] = s2, own[3] = s3;
    own[4] = s4, own[5] = s5, own[6] = s6, own[7] = s7;
  }
}

using AddLookedUp = void (*)(const Segment*, int, int64_t, float*);

template <int T>
AddLookedUp add_looked_up_for(int bits) {
  static const AddLookedUp known[] = {
      nullptr,              add_looked_up<1, T>,  add_looked_up<2, T>,  add_looked_up<3, T>,
      add_looked_up<4, T>,  add_looked_up<5, T>,  add_looked_up<6, T>,  add_looked_up<7, T>,
      add_looked_up<8, T>,  add_looked_up<9, T>,  add_looked_up<10, T>, add_looked_up<11, T>,
      add_looked_up<12, T>,
  };
  return known[bits];
}

}  // namespace
