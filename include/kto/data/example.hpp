// SPDX-License-Identifier: Apache-2.0
// A tokenized row, which the data room passes to the collators. Users with ready-made token ids fill it themselves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kto {

struct Example {
  std::vector<std::int32_t> prompt_ids;      ///< with all special tokens
  std::vector<std::int32_t> completion_ids;  ///< not truncated yet: in a KL pair it follows another prompt
  bool label = true;                         ///< desirable (chosen) or not
  std::size_t row = 0;                       ///< number of the row in its file, for messages
};

}  // namespace kto
