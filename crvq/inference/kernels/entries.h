// Codebook entries in float32, in the layouts that products and decoding read.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <vector>

#include "linear.h"

namespace {

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

using Entries = std::shared_ptr<const std::vector<float>>;

// One codebook that was converted, and what tells whether a later one is the same.
struct Converted {
  std::vector<uint8_t> stored;  // entries and steps, as they were
  int kind, count, bits, d, width;
  bool transposed;
  Entries entries;
};

std::vector<uint8_t> stored_bytes(const Codebook& book, int d) {
  const size_t size = book.kind == kFloat32 ? 4 : book.kind == kFloat16 ? 2 : 1;
  const uint8_t* entries = static_cast<const uint8_t*>(book.entries);
  std::vector<uint8_t> bytes(entries, entries + size_t(book.count) * d * size);
  const uint8_t* steps = reinterpret_cast<const uint8_t*>(book.steps);
  if (book.kind == kInt8) bytes.insert(bytes.end(), steps, steps + 2 * d);
  return bytes;
}

// Converting takes as long as the product of a small layer, and the layers of a block may share
// their codebooks: the last few are kept. They are compared by content, so that memory which is
// used again for other numbers is never mistaken.
Entries recent_entries(const Codebook& book, int d, int width, bool transposed) {
  static std::mutex mutex;
  static std::array<Converted, 16> kept;
  static size_t next = 0;
  if ((int64_t(1) << book.bits) * width > (1 << 16))  // large ones would crowd out all others
    return std::make_shared<const std::vector<float>>(
        transposed ? transposed_entries(book, d) : float_entries(book, d, width));
  std::vector<uint8_t> stored = stored_bytes(book, d);
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Converted& one : kept)
    if (one.entries && one.kind == book.kind && one.count == book.count && one.bits == book.bits &&
        one.d == d && one.width == width && one.transposed == transposed && one.stored == stored)
      return one.entries;
  Converted& oldest = kept[next++ % kept.size()];
  oldest = {std::move(stored), book.kind, book.count, book.bits, d, width, transposed,
            std::make_shared<const std::vector<float>>(
                transposed ? transposed_entries(book, d) : float_entries(book, d, width))};
  return oldest.entries;
}

}  // namespace
