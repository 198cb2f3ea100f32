// CPU kernels of the quantized linear, compiled on first use (crvq/inference/native.py).
//
// Codes lie as [block of 16 groups][tile of 8 out features][group][8 codes of `bits` bits], so a
// tile's codes of one group are exactly `bits` bytes, and a block of groups is one stream of memory
// (crvq/inference/packed_codes.py). Every kernel adds into float32 sums of its out features:
// threads share the out features, so no two of them add into one element, and each sum has the same
// order of terms for any number of threads.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

constexpr int kTile = 8;
constexpr int kBlock = 16;
// Tables of a step stay in the L1 cache (32 KiB on the smallest CPUs) next to codes and sums.
constexpr int64_t kStepBytes = 24 << 10;
// Tables that threads build for each other before a barrier stay in their L2 caches.
constexpr int64_t kSharedBytes = 256 << 10;

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

// Entries as float32, each padded with zeros to `width` coordinates; codes that no entry has
// (a damaged file) then read zeros instead of foreign memory.
std::vector<float> float_entries(const Codebook& book, int d, int width) {
  const size_t values = size_t(book.count) * d, room = size_t(1) << book.bits;
  std::vector<float> flat(room * d, 0.0f);
  if (book.kind == kFloat32) std::memcpy(flat.data(), book.entries, values * sizeof(float));
  if (book.kind == kFloat16) {
    const uint16_t* halves = static_cast<const uint16_t*>(book.entries);
    for (size_t i = 0; i < values; ++i) flat[i] = from_half(halves[i]);
  }
  if (book.kind == kInt8) {
    const int8_t* levels = static_cast<const int8_t*>(book.entries);
    for (int j = 0; j < d; ++j) {
      const float step = from_half(book.steps[j]);
      for (size_t at = j; at < values; at += d) flat[at] = levels[at] * step;
    }
  }
  if (width == d) return flat;
  std::vector<float> padded(room * width, 0.0f);
  for (size_t e = 0; e < size_t(book.count); ++e)
    std::copy_n(&flat[e * d], d, &padded[e * width]);
  return padded;
}

// The same as (d, 2^bits), for tables.
std::vector<float> transposed_entries(const Codebook& book, int d) {
  const std::vector<float> entries = float_entries(book, d, d);
  const size_t count = size_t(1) << book.bits;
  std::vector<float> turned(entries.size());
  for (size_t e = 0; e < count; ++e)
    for (int j = 0; j < d; ++j) turned[j * count + e] = entries[e * d + j];
  return turned;
}

template <int T>
struct Lanes {
  typedef float V __attribute__((vector_size(4 * T), aligned(4)));
};
template <>
struct Lanes<1> {
  typedef float V;
};

// ---- look-up tables: T tokens' products of a group's inputs with every entry ----

// table[e] = sum_j entries[j][e] x[j] for one token: entries are transposed, so that the products
// of neighbouring entries are one vector.
void build_table(const float* __restrict transposed, int64_t count, int d, const float* x,
                 float* __restrict table) {
  std::fill_n(table, count, 0.0f);
  for (int j = 0; j < d; ++j)
    for (int64_t e = 0; e < count; ++e) table[e] += transposed[j * count + e] * x[j];
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

// ---- dot products: for codebooks too large for tables to pay ----

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

// ---- a product with up to eight tokens ----

struct Piece {  // what becomes a Segment once a thread knows its tiles
  int book, block_start, block, first, last;
  int64_t table;  // where its tables start, in floats
};

struct Step {  // pieces that are added while a tile's sums stay in registers
  std::vector<Piece> pieces;
  bool looked_up;
  int64_t floats;  // of all tables
};

int padded_width(int d) {
  int width = 4;
  while (width < d) width *= 2;
  return width;
}

// Tables cost 2^bits products of d per group, whatever the out features; dot products cost one per
// out feature, about twice a look-up.
bool pays_to_tabulate(const Codebook& book, int out_features) {
  return book.bits <= 12 && (int64_t(2) << book.bits) <= out_features;
}

// Pieces of codebooks with codes of one width share a step as long as their tables fit the L1
// cache: so the few groups of extended codebooks load and store no more sums than they must.
std::vector<Step> plan(const Linear& linear, int lanes) {
  std::vector<Step> steps;
  for (int k = 0; k < linear.codebooks; ++k) {
    const Codebook& book = linear.books[k];
    const bool looked_up = pays_to_tabulate(book, linear.out_features);
    const int64_t floats = looked_up ? (int64_t(1) << book.bits) * lanes : 0;
    const int fit = looked_up ? int(std::max<int64_t>(1, kStepBytes / 4 / floats)) : kBlock;
    for (int start = 0; start < book.groups; start += kBlock) {
      const int block = std::min(kBlock, book.groups - start);
      for (int first = 0; first < block; first += fit) {
        const int last = std::min(block, first + fit);
        const int64_t more = floats * (last - first);
        const bool joins = looked_up && !steps.empty() && steps.back().looked_up &&
                           linear.books[steps.back().pieces[0].book].bits == book.bits &&
                           (steps.back().floats + more) * 4 <= kStepBytes;
        if (!joins) steps.push_back({{}, looked_up, 0});
        steps.back().pieces.push_back({k, start, block, first, last, steps.back().floats});
        steps.back().floats += more;
      }
    }
  }
  return steps;
}

// One product with T tokens, of which `tokens` are there.
template <int T>
class Product {
 public:
  Product(const Linear& linear, const float* x, int64_t tokens, float* y)
      : linear_(linear), tokens_(tokens), y_(y), d_(linear.d), width_(padded_width(linear.d)),
        tiles_((linear.out_features + kTile - 1) / kTile), steps_(plan(linear, T)),
        sums_(new float[tiles_ * kTile * T]) {
    for (int k = 0; k < linear.codebooks; ++k) {
      const bool looked_up = pays_to_tabulate(linear.books[k], linear.out_features);
      entries_.push_back(looked_up && T == 1
                             ? transposed_entries(linear.books[k], d_)
                             : float_entries(linear.books[k], d_, looked_up ? d_ : width_));
    }
    reorder(x);
  }

  void run(int threads) {
    // Each thread builds all tables for itself, without waiting for others and in its L1 cache,
    // unless it has so few out features that building would take most of the time.
    const bool shared =
        threads > 1 && linear_.out_features / threads < (int64_t(2) << linear_.books[0].bits);
    place_tables((shared ? kSharedBytes : kStepBytes) / 4);
    std::unique_ptr<float[]> common(new float[shared ? table_floats_ : 1]);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      int thread = 0, count = 1;
#ifdef _OPENMP
      thread = omp_get_thread_num(), count = omp_get_num_threads();
#endif
      const int64_t from = tiles_ * thread / count, to = tiles_ * (thread + 1) / count;
      std::unique_ptr<float[]> own(new float[shared ? 1 : table_floats_]);
      float* tables = shared ? common.get() : own.get();
      std::fill(&sums_[from * kTile * T], &sums_[to * kTile * T], 0.0f);
      for (size_t round = 0; round + 1 < rounds_.size(); ++round) {
        const int64_t begin = rounds_[round], end = rounds_[round + 1];
        if (shared) {
#pragma omp for schedule(static)
          for (int64_t s = begin; s < end; ++s) build(steps_[s], tables);
        } else {
          for (int64_t s = begin; s < end; ++s) build(steps_[s], tables);
        }
        for (int64_t s = begin; s < end; ++s) add(steps_[s], tables, from, to);
        if (shared) {
#pragma omp barrier
        }
      }
      finish(from, to);
    }
  }

 private:
  // Inputs in coded order, one row per token: at stride d for tables, padded for dot products.
  void reorder(const float* x) {
    const int groups = linear_.books[0].groups;
    narrow_stride_ = int64_t(groups) * d_, wide_stride_ = int64_t(groups) * width_;
    narrow_.assign(narrow_stride_ * T, 0.0f);
    for (int64_t t = 0; t < tokens_; ++t)
      for (int64_t p = 0; p < narrow_stride_; ++p) {
        int64_t channel = p;
        if (linear_.order_bytes == 2) channel = static_cast<const int16_t*>(linear_.order)[p];
        if (linear_.order_bytes == 4) channel = static_cast<const int32_t*>(linear_.order)[p];
        if (channel >= 0 && channel < linear_.in_features)
          narrow_[t * narrow_stride_ + p] = x[t * linear_.in_features + channel];
      }
    wide_.assign(wide_stride_ * T, 0.0f);
    for (int t = 0; t < T; ++t)
      for (int g = 0; g < groups; ++g)
        std::copy_n(&narrow_[t * narrow_stride_ + g * d_], d_,
                    &wide_[t * wide_stride_ + g * width_]);
  }

  // Steps whose tables exist at the same time make a round.
  void place_tables(int64_t room) {
    int64_t used = 0;
    rounds_ = {0};
    for (size_t s = 0; s < steps_.size(); ++s) {
      if (used && used + steps_[s].floats > room) rounds_.push_back(s), used = 0;
      for (Piece& piece : steps_[s].pieces) piece.table += used;
      used += steps_[s].floats;
      table_floats_ = std::max(table_floats_, used);
    }
    rounds_.push_back(steps_.size());
  }

  void build(const Step& step, float* tables) const {
    if (!step.looked_up) return;
    for (const Piece& piece : step.pieces) {
      const int64_t count = int64_t(1) << linear_.books[piece.book].bits;
      const float* entries = entries_[piece.book].data();
      for (int g = piece.first; g < piece.last; ++g) {
        const float* x = &narrow_[int64_t(piece.block_start + g) * d_];
        float* table = tables + piece.table + (g - piece.first) * count * T;
        if constexpr (T == 1)
          build_table(entries, count, d_, x, table);
        else if (d_ == 8)
          build_table<T, 8>(entries, count, d_, x, narrow_stride_, table);
        else
          build_table<T, 0>(entries, count, d_, x, narrow_stride_, table);
      }
    }
  }

  void add(const Step& step, const float* tables, int64_t from, int64_t to) const {
    float* sums = &sums_[from * kTile * T];
    std::vector<Segment> segments;
    for (const Piece& piece : step.pieces) {
      const Codebook& book = linear_.books[piece.book];
      const int64_t tile_bytes = int64_t(piece.block) * book.bits;
      segments.push_back({book.codes + piece.block_start * tiles_ * book.bits +
                              from * tile_bytes + piece.first * book.bits,
                          tile_bytes, tables + piece.table, piece.last - piece.first});
    }
    const Piece& piece = step.pieces[0];
    const int bits = linear_.books[piece.book].bits;
    if (step.looked_up) {
      add_looked_up_for<T>(bits)(segments.data(), int(segments.size()), to - from, sums);
      return;
    }
    auto dots = width_ == 4    ? add_dot_products<4>
                : width_ == 8  ? add_dot_products<8>
                : width_ == 16 ? add_dot_products<16>
                               : add_dot_products<32>;
    dots(bits, entries_[piece.book].data(), segments[0], to - from,
         &wide_[int64_t(piece.block_start) * width_], T, wide_stride_, sums);
  }

  void finish(int64_t from, int64_t to) const {
    const int64_t out = linear_.out_features;
    for (int64_t o = from * kTile; o < std::min(to * kTile, out); ++o) {
      const float scale = from_half(linear_.scales[o]);
      const float bias = linear_.bias ? linear_.bias[o] : 0.0f;
      for (int64_t t = 0; t < tokens_; ++t) y_[t * out + o] = sums_[o * T + t] * scale + bias;
    }
  }

  const Linear& linear_;
  const int64_t tokens_;
  float* const y_;
  const int d_, width_;
  const int64_t tiles_;
  std::vector<Step> steps_;
  std::vector<size_t> rounds_;  // first step of each, and the number of steps
  int64_t table_floats_ = 0, narrow_stride_, wide_stride_;
  std::vector<std::vector<float>> entries_;
  std::vector<float> narrow_, wide_;
  std::unique_ptr<float[]> sums_;
};

template <int T>
void multiply(const Linear& linear, const float* x, int64_t tokens, float* y, int threads) {
  Product<T>(linear, x, tokens, y).run(threads);
}

// ---- decoding, for matrix products ----

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

extern "C" {

// y (tokens, out) = x (tokens, in) Ŵᵀ + bias for 1 to 8 tokens; 1 if it cannot.
int crvq_multiply(const Linear* linear, const float* x, int64_t tokens, float* y, int threads) {
  if (tokens < 1 || tokens > 8 || linear->d > 32) return 1;
  auto run = tokens == 1 ? multiply<1> : tokens == 2 ? multiply<2> : tokens <= 4 ? multiply<4>
                                                                                 : multiply<8>;
  run(*linear, x, tokens, y, threads);
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
}
