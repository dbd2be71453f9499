// SPDX-License-Identifier: Apache-2.0
// Where the model hub, its cache on this machine and the user's token are: the environment variables of Python's
// huggingface_hub, with their meanings there.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "kto/core/environment.hpp"
#include "kto/io/file.hpp"
#include "kto/io/home.hpp"

namespace kto::hub {

/// The public hub, where HF_ENDPOINT names no other.
inline constexpr std::string_view public_endpoint = "https://huggingface.co";

/// Whether one of these environment variables says 1, on, yes or true.
template <class... Names>
bool environment_flag(const Names*... names) {
  std::string value = environment(names...).value_or("");
  std::ranges::transform(value, value.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

struct Settings {
  fs::path cache;        ///< HF_HUB_CACHE, else hub/ in HF_HOME, else huggingface/hub/ in XDG_CACHE_HOME or ~/.cache
  std::string endpoint;  ///< HF_ENDPOINT, without a slash at the end
  fs::path token_file;   ///< HF_TOKEN_PATH, else token in HF_HOME
  bool offline = false;  ///< HF_HUB_OFFLINE: nothing is downloaded
  bool offline_data = false;  ///< HF_DATASETS_OFFLINE: no data sets are
  long timeout = 10;          ///< HF_HUB_DOWNLOAD_TIMEOUT: seconds in which a byte must come
  bool shows_bar = true;      ///< not with HF_HUB_DISABLE_PROGRESS_BARS
  bool sends_token = true;    ///< not with HF_HUB_DISABLE_IMPLICIT_TOKEN
};

/// The settings that the environment names. Throws Error for a number that is none.
inline Settings settings_of_environment() {
  const auto path = [](const std::string& text) { return fs::path(expand_path(text)); };
  const fs::path home = hugging_face_home();
  const auto cache = environment("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE");
  const auto token_file = environment("HF_TOKEN_PATH");
  Settings out{.cache = cache ? path(*cache) : home / "hub",
               .endpoint = environment("HF_ENDPOINT").value_or(std::string(public_endpoint)),
               .token_file = token_file ? path(*token_file) : home / "token",
               .offline = environment_flag("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
               .offline_data = environment_flag("HF_DATASETS_OFFLINE"),
               .shows_bar = !environment_flag("HF_HUB_DISABLE_PROGRESS_BARS"),
               .sends_token = !environment_flag("HF_HUB_DISABLE_IMPLICIT_TOKEN")};
  while (out.endpoint.ends_with('/')) out.endpoint.pop_back();
  if (const auto timeout = environment("HF_HUB_DOWNLOAD_TIMEOUT")) {
    out.timeout = std::atol(timeout->c_str());
    check(out.timeout > 0, "HF_HUB_DOWNLOAD_TIMEOUT is ", *timeout, "; expected a number of seconds, such as 10");
  }
  return out;
}

/// Whether `text` may be a token: one word of visible characters.
inline bool is_token(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c > ' ' && c < '\x7f'; });
}

/// The user's token: HF_TOKEN, else the content of the token file; empty without one. Throws Error if it cannot be
/// read, or holds what no token does.
inline std::string read_token(const Settings& settings) {
  std::string from = "HF_TOKEN", token;
  std::error_code none;
  if (const auto given = environment("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")) {
    token = *given;
  } else if (fs::exists(settings.token_file, none)) {
    from = settings.token_file.string();
    token = read_file(settings.token_file);
  }
  const auto is_space = [](unsigned char c) { return std::isspace(c) != 0; };
  token.erase(std::find_if_not(token.rbegin(), token.rend(), is_space).base(), token.end());
  token.erase(token.begin(), std::ranges::find_if_not(token, is_space));
  check(is_token(token), from, ": is no token; expected one line such as hf_...");
  return token;
}

}  // namespace kto::hub
