// SPDX-License-Identifier: Apache-2.0
// Finds the texts of a set in a longer text, from left to right and the longest at each position, in linear time and
// memory. An Aho-Corasick automaton reads the text backwards, so at each position it knows the longest text that begins
// there.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
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
        nodes_.push_back({.byte = c, .depth = at(node).depth + 1, .parent = node});
        if (node == 0)
          first_[static_cast<unsigned char>(c)] = next;
        else
          keep_edge(next);
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
    std::vector<std::int32_t> by_depth(nodes_.size());
    std::iota(by_depth.begin(), by_depth.end(), 0);
    std::ranges::sort(by_depth, {}, [&](std::int32_t node) { return at(node).depth; });
    for (const std::int32_t index : by_depth | std::views::drop(1)) {
      Node& node = nodes_[static_cast<std::size_t>(index)];
      if (node.parent != 0) node.shorter = follow(at(node.parent).shorter, node.byte);
      node.found = node.value >= 0 ? index : at(node.shorter).found;
    }
  }

  /// A text of the set that begins at some place; the others that begin there are shorter ones.
  struct Match {
    std::int32_t node = 0;
    explicit operator bool() const { return node != 0; }
  };
  std::size_t size(Match match) const { return static_cast<std::size_t>(at(match.node).depth); }
  std::int32_t value(Match match) const { return at(match.node).value; }
  Match shorter(Match match) const { return {at(at(match.node).shorter).found}; }

  /// The longest text of the set that begins at each byte of `text`.
  void longest_matches(std::string_view text, std::vector<Match>& matches) const {
    matches.assign(text.size(), {});
    std::int32_t node = 0;
    for (std::size_t begin = text.size(); begin-- > 0;) {
      node = follow(node, text[begin]);
      matches[begin] = {at(node).found};
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
    std::int32_t depth = 0;  ///< bytes read
    std::int32_t parent = 0;
    std::int32_t shorter = 0;  ///< the failure link: the longest other node that ends with the same bytes
    std::int32_t found = 0;    ///< the longest text read: this node, or one along the failure links; 0: none
  };

  const Node& at(std::int32_t node) const { return nodes_[static_cast<std::size_t>(node)]; }

  std::int32_t child(std::int32_t node, char c) const {
    if (node == 0) return first_[static_cast<unsigned char>(c)];
    return edges_.empty() ? 0 : edges_[find_edge(node, c)];
  }

  /// Where the edge from `node` by `c` is in the table, or would be.
  std::size_t find_edge(std::int32_t node, char c) const {
    const std::size_t mask = edges_.size() - 1;
    std::uint64_t hash =
        (static_cast<std::uint64_t>(static_cast<std::uint32_t>(node)) << 8U | static_cast<unsigned char>(c)) *
        0x9E3779B97F4A7C15U;
    hash ^= hash >> 32U;
    for (std::size_t slot = hash & mask;; slot = (slot + 1) & mask)
      if (const std::int32_t next = edges_[slot]; next == 0 || (at(next).parent == node && at(next).byte == c))
        return slot;
  }

  void keep_edge(std::int32_t node) {
    if (2 * nodes_.size() > edges_.size()) {
      edges_.assign(std::max<std::size_t>(64, 2 * edges_.size()), 0);
      for (std::int32_t other = 1; other < node; ++other)
        if (at(other).parent != 0) edges_[find_edge(at(other).parent, at(other).byte)] = other;
    }
    edges_[find_edge(at(node).parent, at(node).byte)] = node;
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
  std::vector<std::int32_t> edges_;        ///< a hash table of the nodes by parent and byte; 0: free
};

}  // namespace kto::tok
