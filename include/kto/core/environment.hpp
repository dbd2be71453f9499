// SPDX-License-Identifier: Apache-2.0
// Environment variables. One that is empty counts as not set.
#pragma once

#include <cstdlib>
#include <optional>
#include <string>

namespace kto {

/// The text of the first of these environment variables that is set and not empty.
template <class... Names>
std::optional<std::string> environment(const Names*... names) {
  for (const char* name : {names...})
    if (const char* value = std::getenv(name); value != nullptr && *value != '\0') return value;
  return std::nullopt;
}

}  // namespace kto
