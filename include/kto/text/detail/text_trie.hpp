// SPDX-License-Identifier: Apache-2.0
// Finds the texts of a set in a longer text: from left to right, the longest at each place.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace kto::detail::tok {

class TextTrie {
 public:
  /// False when the text is there already with another value.
  bool add(std::string_view text, std::int32_t value) {
    std::int32_t node = 0;
    for (const char c : text) {
      std::int32_t next = child(node, c);
      if (next < 0) {
        next = static_cast<std::int32_t>(nodes_.size());
        nodes_[static_cast<std::size_t>(node)].children.emplace_back(c, next);
        nodes_.emplace_back();
        if (node == 0) first_[static_cast<unsigned char>(c)] = next;
      }
      node = next;
    }
    std::int32_t& stored = nodes_[static_cast<std::size_t>(node)].value;
    if (stored >= 0 && stored != value) return false;
    stored = value;
    return true;
  }

  /// Calls visit(begin, end, value) for each match. Matches do not overlap.
  template <class Visit>
  void for_each_match(std::string_view text, Visit visit) const {
    if (nodes_.size() == 1) return;
    for (std::size_t begin = 0; begin < text.size();) {
      std::size_t end = begin;
      std::int32_t value = -1, node = first_[static_cast<unsigned char>(text[begin])];
      for (std::size_t at = begin + 1; node > 0; node = at < text.size() ? child(node, text[at++]) : -1) {
        if (nodes_[static_cast<std::size_t>(node)].value < 0) continue;
        value = nodes_[static_cast<std::size_t>(node)].value;
        end = at;
      }
      if (value >= 0) {
        visit(begin, end, value);
        begin = end;
      } else {
        ++begin;
      }
    }
  }

 private:
  struct Node {
    std::int32_t value = -1;
    std::vector<std::pair<char, std::int32_t>> children;
  };

  std::int32_t child(std::int32_t node, char c) const {
    if (node == 0) return first_[static_cast<unsigned char>(c)] > 0 ? first_[static_cast<unsigned char>(c)] : -1;
    for (const auto& [byte, next] : nodes_[static_cast<std::size_t>(node)].children)
      if (byte == c) return next;
    return -1;
  }

  std::vector<Node> nodes_{1};
  std::array<std::int32_t, 256> first_{};  ///< children of the root; 0 where there is none
};

}  // namespace kto::detail::tok
