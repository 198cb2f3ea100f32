// CPU kernels of the quantized linear, compiled on first use (crvq/inference/native.py).

#include "decode.h"
#include "dense16.h"
#include "product.h"

extern "C" {

// y (tokens, out) = x (tokens, in) Ŵᵀ + bias, eight tokens at a time; 1 if it cannot.
int crvq_multiply(const Linear* linear, const float* x, int64_t tokens, float* y, int threads) {
  if (tokens < 1 || linear->d > 32) return 1;
  const int64_t eights = (tokens + 7) / 8;
  auto some = [&](int64_t part, int own_threads) {
    const int64_t count = std::min<int64_t>(8, tokens - 8 * part);
    auto run = count == 1 ? multiply<1> : count == 2 ? multiply<2> : count <= 4 ? multiply<4>
                                                                                : multiply<8>;
    run(*linear, x + 8 * part * linear->in_features, count, y + 8 * part * linear->out_features,
        own_threads);
  };
  if (threads > 1 && eights >= threads) {
    // With work for all threads, each takes tokens of its own and waits for nobody. (A branch and
    // no `if` clause: teams inside an inactive region are made again each time.)
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t part = 0; part < eights; ++part) some(part, 1);
  } else {
    for (int64_t part = 0; part < eights; ++part) some(part, threads);
  }
  return 0;
}

// Decode the out features of tiles [from, to) in coded column order, scaled if asked:
// (8 (to - from), groups d), rows past the last out feature included.
int crvq_decode(const Linear* linear, int64_t from, int64_t to, int scaled, float* weight,
                int threads) {
  std::vector<std::vector<float>> entries(linear->codebooks);
  for (int k = 0; k < linear->codebooks; ++k)
    entries[k] = float_entries(linear->books[k], linear->d, linear->d);
  const int d = linear->d;
  auto decode = d % 8 == 0 ? decode_tile<8> : d % 4 == 0 ? decode_tile<4> : decode_tile<1>;
  const int64_t stride = int64_t(linear->books[0].groups) * linear->d;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (int64_t tile = from; tile < to; ++tile)
    for (int k = 0; k < linear->codebooks; ++k)
      decode(*linear, k, entries[k].data(), tile, scaled, weight + (tile - from) * kTile * stride);
  return 0;
}

// y (out,) = W (out, in) x (in,), W of bfloat16 (kind 0) or float16 (kind 1) numbers.
void crvq_multiply_dense16(const uint16_t* weight, int kind, int64_t out, int64_t in,
                           const float* x, float* y, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (int64_t o = 0; o < out; ++o)
    y[o] = kind == kBrain ? dot16<kBrain>(weight + o * in, x, in) : dot16<kIeee>(weight + o * in, x, in);
}
}
