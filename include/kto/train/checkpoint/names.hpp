// SPDX-License-Identifier: Apache-2.0
// What checkpoints and their parts are called.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kto {

inline constexpr const char* checkpoint_manifest = "kto_checkpoint.json";
inline constexpr const char* checkpoint_format = "kto checkpoint 1";

namespace detail {

inline constexpr std::string_view checkpoint_prefix = "checkpoint-";
inline constexpr std::string_view unfinished_prefix = ".unfinished-checkpoint-";  ///< being written
inline constexpr std::string_view replaced_suffix = "-old";                       ///< is about to be replaced
inline constexpr std::string_view removed_suffix = "-removed";                    ///< is being removed
inline constexpr std::string_view pushed_suffix = "-pushed";                      ///< links to what is uploaded

/// N of `prefix`N, in the form that this program writes.
inline std::optional<std::int64_t> step_after(std::string_view prefix, const std::string& name) {
  if (!name.starts_with(prefix)) return std::nullopt;
  const std::string digits = name.substr(prefix.size());
  if (digits.empty() || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos ||
      (digits.size() > 1 && digits.front() == '0'))
    return std::nullopt;
  return std::stoll(digits);
}

/// N of "checkpoint-N".
inline std::optional<std::int64_t> checkpoint_step(const std::string& name) {
  return step_after(checkpoint_prefix, name);
}

/// N of ".unfinished-checkpoint-N", with or without a suffix.
inline std::optional<std::int64_t> unfinished_step(std::string name) {
  for (const std::string_view suffix : {replaced_suffix, removed_suffix, pushed_suffix})
    if (name.ends_with(suffix)) {
      name.resize(name.size() - suffix.size());
      break;
    }
  return step_after(unfinished_prefix, name);
}

}  // namespace detail

}  // namespace kto
