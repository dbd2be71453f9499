// SPDX-License-Identifier: Apache-2.0
// Finds the texts of a set in a longer text, from left to right and the longest at each position, in linear time and
// memory. An Aho-Corasick automaton reads the text backwards, so at each position it knows the longest text that begins
// there.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <ranges>
#include <string_view>
#include <vector>

namespace kto::tok {

class TextTrie {
 public:
  /// Adds a text. Returns false if it is already there with another value. Call link() after the last one.
  bool add(std::string_view text, std::int32_t value) {
    std::int32_t node = 0;
    for (const char c : text | std::views::reverse) {
      std::int32_t next = child(node, c);
      if (next == 0) {
        next = static_cast<std::int32_t>(nodes_.size());
        const Node added{.byte = c, .depth = at(node).depth + 1, .sibling = at(node).child};
        nodes_.push_back(added);
        nodes_[static_cast<std::size_t>(node)].child = next;
        if (node == 0) first_[static_cast<unsigned char>(c)] = next;
      }
      node = next;
    }
    std::int32_t& stored = nodes_[static_cast<std::size_t>(node)].value;
    if (stored >= 0 && stored != value) return false;
    stored = value;
    return true;
  }

  /// Completes the automaton.
  void link() {
    std::vector<std::int32_t> queue;  // nodes by their depth
    const auto append_children = [&](std::int32_t node) {
      for (std::int32_t next = at(node).child; next != 0; next = at(next).sibling) queue.push_back(next);
    };
    append_children(0);
    for (std::size_t i = 0; i < queue.size(); ++i) {
      Node& node = nodes_[static_cast<std::size_t>(queue[i])];
      node.found = node.value >= 0 ? queue[i] : at(node.shorter).found;
      for (std::int32_t next = node.child; next != 0; next = at(next).sibling)
        nodes_[static_cast<std::size_t>(next)].shorter = follow(node.shorter, at(next).byte);
      append_children(queue[i]);
    }
  }

  /// Calls visit(begin, end, value) for each match. Matches do not overlap.
  template <class Visit>
  void for_each_match(std::string_view text, Visit visit) const {
    if (nodes_.size() == 1) return;
    struct Found {
      std::size_t begin;
      std::int32_t node;
    };
    std::vector<Found> found;
    std::int32_t node = 0;
    for (std::size_t begin = text.size(); begin-- > 0;) {
      const char c = text[begin];
      node = node == 0 ? first_[static_cast<unsigned char>(c)] : follow(node, c);
      if (node != 0 && at(node).found != 0) found.push_back({begin, at(node).found});
    }
    std::size_t done = 0;
    for (const auto& [begin, match] : found | std::views::reverse) {
      if (begin < done) continue;
      done = begin + static_cast<std::size_t>(at(match).depth);
      visit(begin, done, at(match).value);
    }
  }

 private:
  struct Node {
    char byte = 0;
    std::int32_t value = -1;
    std::int32_t depth = 0;               ///< bytes read
    std::int32_t child = 0, sibling = 0;  ///< 0: none
    std::int32_t shorter = 0;             ///< the failure link: the longest other node that ends with the same bytes
    std::int32_t found = 0;               ///< the longest text read: this node, or one along the failure links; 0: none
  };

  const Node& at(std::int32_t node) const { return nodes_[static_cast<std::size_t>(node)]; }

  std::int32_t child(std::int32_t node, char c) const {
    if (node == 0) return first_[static_cast<unsigned char>(c)];
    std::int32_t next = at(node).child;
    while (next != 0 && at(next).byte != c) next = at(next).sibling;
    return next;
  }

  /// The longest node that ends with the bytes of `node` and `c`.
  std::int32_t follow(std::int32_t node, char c) const {
    std::int32_t next = child(node, c);
    while (next == 0 && node != 0) {
      node = at(node).shorter;
      next = child(node, c);
    }
    return next;
  }

  std::vector<Node> nodes_{1};
  std::array<std::int32_t, 256> first_{};  ///< children of the root; 0: none
};

}  // namespace kto::tok
