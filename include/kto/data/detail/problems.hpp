// SPDX-License-Identifier: Apache-2.0
// Collects the problems of the rows of a data set, so that one Error reports them all.
#pragma once

#include <cstddef>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "kto/core/error.hpp"

namespace kto::detail {

/// How many bytes a message spends on one row: it never quotes a whole long row.
inline constexpr std::size_t max_row_message = 500;

/// Problems by position. The first ten by position are kept in full and the others counted, in whatever order they are
/// added.
class Problems {
 public:
  static constexpr std::size_t num_kept = 10;

  void add(std::size_t position, std::string message) {
    ++count_;
    first_.emplace(position, std::move(message));
    if (first_.size() > num_kept) first_.erase(std::prev(first_.end()));
  }
  bool empty() const { return count_ == 0; }

  /// Throws Error if there are any: the problem itself, or a list under "`count` `headline`".
  void raise(std::string_view headline) const {
    if (count_ == 0) return;
    if (count_ == 1) fail(first_.begin()->second);
    std::string list =
        concat(count_, " ", headline, count_ > num_kept ? concat(" (the first ", num_kept, ")") : "", ":");
    for (const auto& [position, message] : first_) list += "\n  " + message;
    if (count_ > num_kept) list += concat("\n  and ", count_ - num_kept, " more");
    throw Error(list);
  }

 private:
  std::multimap<std::size_t, std::string> first_;
  std::size_t count_ = 0;
};

}  // namespace kto::detail
