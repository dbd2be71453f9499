// SPDX-License-Identifier: Apache-2.0
// The name of a repository on the hub: a model or a data set, at a revision.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "kto/core/error.hpp"

namespace kto::hub {

/// What a repository holds.
enum class Kind { model, dataset };

struct Repository {
  Kind kind = Kind::model;        ///< what it holds
  std::string id;                 ///< "owner/name", or "name" alone in old caches
  std::string revision = "main";  ///< a branch, a tag or a commit
};

/// Whether `text` has the form of a repository's id, by the hub's rules: owner/name, or a name alone, of letters,
/// digits, and - _ . inside.
inline bool is_id(std::string_view text) {
  const auto is_word = [](std::string_view word) {
    const auto is_end = [](char c) { return c != '-' && c != '.'; };
    const auto is_known = [](char c) {
      return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' || c == '_' ||
             c == '.';
    };
    return !word.empty() && word.size() <= 96 && std::ranges::all_of(word, is_known) && is_end(word.front()) &&
           is_end(word.back());
  };
  if (text.find("--") != text.npos || text.find("..") != text.npos || text.ends_with(".git")) return false;
  const std::size_t slash = text.find('/');
  return is_word(text.substr(0, slash)) && (slash == text.npos || is_word(text.substr(slash + 1)));
}

/// Whether `text` is an id with an owner, as all repositories have that can be downloaded.
inline bool is_full_id(std::string_view text) { return text.find('/') != text.npos && is_id(text); }

/// Whether `text` is the hash of a git commit, all of it.
inline bool is_commit(std::string_view text) {
  return text.size() == 40 && text.find_first_not_of("0123456789abcdef") == text.npos;
}

/// Whether `text` is a relative path of plain parts, which lead nowhere else: no "..", no empty part, no backslash.
inline bool is_plain_path(std::string_view text) {
  const auto is_plain = [](char c) { return static_cast<unsigned char>(c) >= ' ' && c != '\x7f' && c != '\\'; };
  if (!std::ranges::all_of(text, is_plain)) return false;
  for (;;) {
    const std::size_t slash = text.find('/');
    const std::string_view part = text.substr(0, slash);
    if (part.empty() || part == "." || part == "..") return false;
    if (slash == text.npos) return true;
    text.remove_prefix(slash + 1);
  }
}

/// Its folder in the cache: models--owner--name.
inline std::string cache_name(const Repository& repository) {
  std::string out = repository.kind == Kind::model ? "models" : "datasets";
  for (std::size_t at = 0; at != std::string::npos;) {
    const std::size_t slash = repository.id.find('/', at);
    out += "--" + repository.id.substr(at, slash - at);
    at = slash == std::string::npos ? slash : slash + 1;
  }
  return out;
}

/// Its path on the hub's pages: owner/name, datasets/owner/name.
inline std::string page_of(const Repository& repository) {
  return (repository.kind == Kind::model ? "" : "datasets/") + repository.id;
}

/// What it is called in messages: "owner/name", and the revision where that is not main.
inline std::string describe(const Repository& repository) {
  return repository.revision == "main" ? repository.id : concat(repository.id, " (revision ", repository.revision, ")");
}

}  // namespace kto::hub
