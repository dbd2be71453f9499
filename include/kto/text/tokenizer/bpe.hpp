// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding (arXiv:1508.07909): a word starts as single characters, and the pair with the lowest rank is
// merged until no pair is left. Ids equal those of Hugging Face's tokenizers, also for ties and unknown characters.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/json.hpp"
#include "kto/text/regex/code_points.hpp"
#include "kto/text/tokenizer/merge_table.hpp"
#include "kto/text/tokenizer/vocabulary.hpp"

namespace kto::tok {

using MergeList = std::vector<std::pair<std::string, std::string>>;

class Bpe {
 public:
  Bpe() = default;

  /// `spec` is the value of "model" without its vocabulary and merges. Throws Error naming `where`.
  Bpe(const Json& spec, Vocabulary vocabulary, const MergeList& merges, std::string_view where)
      : vocabulary_(std::move(vocabulary)), merges_(merges.size()), where_(where) {
    check(json_value(spec, "dropout", 0.0, where) == 0.0, where,
          ": BPE with dropout is not supported: ids would be random");
    prefix_ = json_value<std::string>(spec, "continuing_subword_prefix", "", where);
    suffix_ = json_value<std::string>(spec, "end_of_word_suffix", "", where);
    unknown_ = json_value<std::string>(spec, "unk_token", "", where);
    has_unknown_ = spec.contains("unk_token") && spec["unk_token"].is_string();
    fuse_unknown_ = json_value(spec, "fuse_unk", false, where);
    ignore_merges_ = json_value(spec, "ignore_merges", false, where);
    unknown_id_ = vocabulary_.id(unknown_);
    for (std::size_t rank = 0; rank < merges.size(); ++rank) add_merge(merges[rank], rank);
    for (std::size_t c = 0; c < character_ids_.size(); ++c) {
      std::string text;
      append_utf8(text, static_cast<char32_t>(c));
      character_ids_[c] = vocabulary_.id(text);
    }
    byte_ids_ = vocabulary_.byte_ids(json_value(spec, "byte_fallback", false, where));
    is_whole_ = std::make_unique<std::atomic<Whole>[]>(vocabulary_.id_end());
  }

  const Vocabulary& vocabulary() const { return vocabulary_; }

  /// Appends the ids of one piece of text.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const {
    if (word.empty()) return;
    check(word.size() <= INT32_MAX, where_, ": a word of the text has more than 2^31 bytes");
    const std::int32_t whole = vocabulary_.id(word);
    if (whole < 0) return encode_by_merges(word, ids);
    std::atomic<Whole>& known = is_whole_[static_cast<std::size_t>(whole)];
    if (known.load(std::memory_order_relaxed) == Whole::unknown) {
      std::vector<std::int32_t> merged;
      if (!ignore_merges_) encode_by_merges(word, merged);
      const bool is_whole = ignore_merges_ || merged == std::vector<std::int32_t>{whole};
      known.store(is_whole ? Whole::yes : Whole::no, std::memory_order_relaxed);
    }
    if (known.load(std::memory_order_relaxed) == Whole::yes)
      ids.push_back(whole);
    else
      encode_by_merges(word, ids);
  }

 private:
  /// Whether the merges produce one token for a word that is in the vocabulary; determined on first use.
  enum class Whole : unsigned char { unknown, yes, no };

  static constexpr std::int32_t gone = -1;
  struct Symbol {
    std::int32_t id, previous, next;  ///< next is -1 at the end
  };

  struct Candidate {
    std::uint32_t rank, position;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };

  void add_merge(const std::pair<std::string, std::string>& merge, std::size_t rank) {
    const auto id = [&](const std::string& piece) {
      const std::int32_t found = vocabulary_.id(piece);
      check(found >= 0, where_, ": merge ", rank + 1, " (\"", merge.first, "\" with \"", merge.second,
            "\") needs the token \"", piece, "\", which is not in the vocabulary");
      return found;
    };
    const std::int32_t left = id(merge.first), right = id(merge.second);
    check(merge.second.size() >= prefix_.size(), where_, ": merge ", rank + 1, ": \"", merge.second,
          "\" is shorter than continuing_subword_prefix");
    results_.push_back(id(merge.first + merge.second.substr(prefix_.size())));
    merges_.add(left, right, {static_cast<std::uint32_t>(rank), results_.back()});
  }

  void encode_by_merges(std::string_view word, std::vector<std::int32_t>& ids) const {
    thread_local std::vector<Symbol> symbols;  // room only: nothing is kept from word to word
    symbols.clear();
    characters(word, symbols);
    merge_all(symbols);
    for (const Symbol& symbol : symbols)
      if (symbol.id != gone) ids.push_back(symbol.id);
    give_back(symbols);
  }

  /// Frees the buffers of a very long word.
  template <class T>
  static void give_back(std::vector<T>& room) {
    if (room.capacity() > (1U << 16U)) std::vector<T>().swap(room);
  }

  /// The ids of the characters. Characters outside the vocabulary become bytes, the unknown token, or nothing.
  void characters(std::string_view word, std::vector<Symbol>& symbols) const {
    bool pending_unknown = false;
    const auto push = [&](std::int32_t id) {
      const auto at = static_cast<std::int32_t>(symbols.size());
      symbols.push_back({id, at - 1, at + 1});
    };
    std::string joined;
    for (std::size_t at = 0, next = 0; at < word.size(); at = next) {
      next = at + utf8_length(word[at]);
      std::string_view text = word.substr(at, next - at);
      const bool has_prefix = at > 0 && !prefix_.empty(), has_suffix = next == word.size() && !suffix_.empty();
      std::int32_t id = -1;
      if (has_prefix || has_suffix) {
        joined.assign(has_prefix ? prefix_ : "").append(text).append(has_suffix ? suffix_ : "");
        text = joined;
        id = vocabulary_.id(text);
      } else {
        const char32_t c = code_point_at(text, 0);
        id = c < character_ids_.size() ? character_ids_[c] : vocabulary_.id(text);
      }
      if (id >= 0) {
        if (std::exchange(pending_unknown, false)) push(unknown_id_);
        push(id);
        continue;
      }
      const auto byte_id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
      if (std::ranges::all_of(text, [&](char byte) { return byte_id(byte) >= 0; })) {
        for (const char byte : text) push(byte_id(byte));
        continue;
      }
      if (!has_unknown_) continue;
      check(unknown_id_ >= 0, where_, ": the text has the unknown character \"", text, "\", and the unk_token \"",
            unknown_, "\" is not in the vocabulary");
      if (pending_unknown && !fuse_unknown_) push(unknown_id_);
      pending_unknown = true;
    }
    if (pending_unknown) push(unknown_id_);
    if (!symbols.empty()) symbols.back().next = -1;
  }

  void merge_all(std::vector<Symbol>& symbols) const {
    thread_local std::vector<Candidate> heap;  // likewise
    heap.clear();
    const auto merge_of = [&](std::int32_t left, std::int32_t right) {
      return merges_.find(symbols[static_cast<std::size_t>(left)].id, symbols[static_cast<std::size_t>(right)].id);
    };
    const auto push = [&](std::int32_t left, std::int32_t right) {
      if (const Merge merge = merge_of(left, right); merge.result >= 0) {
        heap.push_back({merge.rank, static_cast<std::uint32_t>(left)});
        std::ranges::push_heap(heap, std::greater<>());
      }
    };
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i)
      if (const Merge merge = merge_of(static_cast<std::int32_t>(i), static_cast<std::int32_t>(i + 1));
          merge.result >= 0)
        heap.push_back({merge.rank, static_cast<std::uint32_t>(i)});
    std::ranges::make_heap(heap, std::greater<>());
    while (!heap.empty()) {
      std::ranges::pop_heap(heap, std::greater<>());
      const Candidate top = heap.back();
      heap.pop_back();
      Symbol& left = symbols[top.position];
      if (left.id == gone || left.next < 0) continue;
      const auto at = static_cast<std::int32_t>(top.position);
      Symbol& right = symbols[static_cast<std::size_t>(left.next)];
      const Merge merge = merge_of(at, left.next);
      if (merge.result != results_[top.rank]) continue;  // the neighbours have changed since
      left.id = merge.result;
      left.next = right.next;
      right.id = gone;
      if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = at;
      if (left.previous >= 0) push(left.previous, at);
      if (left.next >= 0) push(at, left.next);
    }
    give_back(heap);
  }

  Vocabulary vocabulary_;
  MergeTable merges_;
  std::vector<std::int32_t> results_;  ///< of the merges, by rank
  std::string where_, prefix_, suffix_, unknown_;
  std::int32_t unknown_id_ = -1;
  bool has_unknown_ = false, fuse_unknown_ = false, ignore_merges_ = false;
  std::array<std::int32_t, 0x800> character_ids_{};  ///< of the characters below U+0800
  std::array<std::int32_t, 256> byte_ids_{};         ///< of <0x00> to <0xFF>, with byte_fallback
  std::unique_ptr<std::atomic<Whole>[]> is_whole_;
};

}  // namespace kto::tok
