// SPDX-License-Identifier: Apache-2.0
// Decodes tokens to text as they arrive. Only whole characters are returned, and text that the next token may still
// change (a joined space) is held back.
#pragma once

#include <string>
#include <vector>

#include "kto/text/tokenizer.hpp"

namespace kto {

class TextStream {
 public:
  /// Refers to `tokenizer`.
  explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  /// The text that `id` adds; may be empty for now.
  std::string add(std::int32_t id) {
    ids_.push_back(id);
    std::string out = pending();
    if (out.ends_with("\xef\xbf\xbd")) return "";  // an incomplete character
    context_ = given_;
    given_ = ids_.size();
    return out;
  }

  /// The text that was held back.
  std::string finish() {
    std::string out = pending();
    ids_.clear();
    context_ = given_ = 0;
    return out;
  }

 private:
  /// The text of the pending ids, decoded after some earlier ones, because a first token may lose its space.
  std::string pending() const {
    const auto decode = [&](std::size_t end) {
      const auto at = [&](std::size_t i) { return ids_.begin() + static_cast<std::ptrdiff_t>(i); };
      return tokenizer_.decode({at(context_), at(end)}, /*skip_special_tokens=*/true);
    };
    const std::string before = decode(given_), all = decode(ids_.size());
    return all.size() > before.size() ? all.substr(before.size()) : "";
  }

  const Tokenizer& tokenizer_;
  std::vector<std::int32_t> ids_;
  std::size_t context_ = 0, given_ = 0;  ///< ids before given_ are done; ids from context_ on are decoded again
};

}  // namespace kto
