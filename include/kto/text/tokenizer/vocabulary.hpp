// SPDX-License-Identifier: Apache-2.0
// The model's vocabulary: maps pieces of text to ids and back.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "kto/core/error.hpp"

namespace kto::tok {

/// A hash for short texts, eight bytes at a time.
inline std::uint64_t text_hash(std::string_view text) {
  std::uint64_t hash = 0x9E3779B97F4A7C15U * (text.size() + 1);
  const auto mix = [&](std::uint64_t word) {
    hash = (hash ^ word) * 0xD6E8FEB86659FD93U;
    hash ^= hash >> 32;
  };
  while (text.size() >= 8) {
    std::uint64_t word;
    std::memcpy(&word, text.data(), 8);
    mix(word);
    text.remove_prefix(8);
  }
  std::uint64_t word = 0;
  if (!text.empty()) std::memcpy(&word, text.data(), text.size());
  mix(word);
  return hash;
}

/// The limit on ids: tables indexed by id must fit into memory.
inline constexpr std::int64_t max_token_id = (std::int64_t{1} << 25) - 1;

class Vocabulary {
 public:
  /// Adds a piece; an existing piece gets the new id.
  void add(std::string_view piece, std::int32_t id) {
    if (2 * (entries_.size() + 1) > slots_.size()) grow();
    std::uint32_t& slot = find_slot(piece);
    if (slot == 0) {
      entries_.push_back({static_cast<std::uint32_t>(text_.size()), static_cast<std::uint32_t>(piece.size()), id});
      check(text_.size() + piece.size() < UINT32_MAX, "the vocabulary is larger than 4 GB");
      text_ += piece;
      slot = static_cast<std::uint32_t>(entries_.size());
    }
    entries_[slot - 1].id = id;
    if (static_cast<std::size_t>(id) >= by_id_.size()) by_id_.resize(static_cast<std::size_t>(id) + 1);
    by_id_[static_cast<std::size_t>(id)] = slot;
  }

  /// Adds a piece of a list: its id is its place. A repeated piece keeps its place, and its last id.
  void append(std::string_view piece) {
    const std::size_t before = entries_.size();
    add(piece, static_cast<std::int32_t>(by_id_.size()));
    if (entries_.size() == before) ++num_repeated_;
  }

  /// The id of a piece, or -1.
  std::int32_t id(std::string_view piece) const {
    if (slots_.empty()) return -1;
    const std::uint32_t slot = const_cast<Vocabulary*>(this)->find_slot(piece);
    return slot == 0 ? -1 : entries_[slot - 1].id;
  }

  bool has(std::int32_t id) const {
    return id >= 0 && static_cast<std::size_t>(id) < by_id_.size() && by_id_[static_cast<std::size_t>(id)] != 0;
  }

  /// The piece of an existing id.
  std::string_view piece(std::int32_t id) const { return text_of(entries_[by_id_[static_cast<std::size_t>(id)] - 1]); }

  /// The ids of the tokens <0x00> to <0xFF>. -1 stands for a missing token, and for all of them unless `are_used`.
  std::array<std::int32_t, 256> byte_ids(bool are_used) const {
    std::array<std::int32_t, 256> ids;
    ids.fill(-1);
    constexpr const char* digits = "0123456789ABCDEF";
    for (std::size_t byte = 0; are_used && byte < 256; ++byte)
      ids[byte] = id(std::string("<0x") + digits[byte / 16] + digits[byte % 16] + ">");
    return ids;
  }

  std::size_t size() const { return entries_.size() + num_repeated_; }
  /// One past the largest id.
  std::size_t id_end() const { return by_id_.size(); }

 private:
  struct Entry {
    std::uint32_t begin, size;
    std::int32_t id;
  };

  std::string_view text_of(const Entry& entry) const { return std::string_view(text_).substr(entry.begin, entry.size); }

  std::uint32_t& find_slot(std::string_view piece) {
    const std::size_t mask = slots_.size() - 1;
    for (std::size_t at = text_hash(piece) & mask;; at = (at + 1) & mask)
      if (slots_[at] == 0 || text_of(entries_[slots_[at] - 1]) == piece) return slots_[at];
  }

  void grow() {
    slots_.assign(slots_.empty() ? 1024 : 2 * slots_.size(), 0);
    for (std::size_t i = 0; i < entries_.size(); ++i)
      find_slot(text_of(entries_[i])) = static_cast<std::uint32_t>(i + 1);
  }

  std::string text_;
  std::vector<Entry> entries_;
  std::vector<std::uint32_t> slots_;  ///< number of the entry plus one; 0 is free
  std::vector<std::uint32_t> by_id_;  ///< likewise
  std::size_t num_repeated_ = 0;
};

}  // namespace kto::tok
