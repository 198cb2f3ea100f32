// A product of a packed linear layer with up to eight tokens.
//
// Every kernel adds into float32 sums of its out features: threads share the out features, so no two
// of them add into one element, and each sum has the same order of terms for any number of threads.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include <memory>

#include "dots.h"
#include "entries.h"
#include "lookup.h"

namespace {

// Tables of a step stay in the L1 cache (32 KiB on the smallest CPUs) next to codes and sums.
constexpr int64_t kStepBytes = 24 << 10;
// Tables that threads build for each other before a barrier stay in their L2 caches.
constexpr int64_t kSharedBytes = 256 << 10;

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
      needs_wide_ |= !looked_up;
      entries_.push_back(recent_entries(linear.books[k], d_, looked_up ? d_ : width_,
                                        looked_up && T == 1));
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
    if (!needs_wide_) return;
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
      const float* entries = entries_[piece.book]->data();
      for (int g = piece.first; g < piece.last; ++g) {
        const float* x = &narrow_[int64_t(piece.block_start + g) * d_];
        float* table = tables + piece.table + (g - piece.first) * count * T;
        if constexpr (T == 1)
          d_ == 8   ? build_table<8>(entries, count, d_, x, table)
          : d_ == 4 ? build_table<4>(entries, count, d_, x, table)
                    : build_table<0>(entries, count, d_, x, table);
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
    dots(bits, entries_[piece.book]->data(), segments[0], to - from,
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
  std::vector<Entries> entries_;
  bool needs_wide_ = false;
  std::vector<float> narrow_, wide_;
  std::unique_ptr<float[]> sums_;
};

template <int T>
void multiply(const Linear& linear, const float* x, int64_t tokens, float* y, int threads) {
  Product<T>(linear, x, tokens, y).run(threads);
}

}  // namespace
