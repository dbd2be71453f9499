// SPDX-License-Identifier: Apache-2.0
// Vocabularies without a tokenizer.json: vocab.json with merges.txt, and vocab.txt. The steps are those of the
// tokenizer's class.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "kto/core/error.hpp"
#include "kto/io/file.hpp"
#include "kto/io/json.hpp"
#include "kto/text/tokenizer/tokenizer_json.hpp"
#include "kto/text/tokenizer/vocabulary.hpp"

namespace kto::tok {

/// Calls visit(line, number) for each line of a file, without its end.
template <class Visit>
void for_each_line(const fs::path& path, Visit visit) {
  const std::string text = read_file(path);
  std::size_t number = 0;
  for (std::size_t at = 0, end = 0; at < text.size(); at = end + 1) {
    end = std::min(text.find('\n', at), text.size());
    std::string_view line = std::string_view(text).substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    visit(line, ++number);
  }
}

/// GPT-2's files: vocab.json, an object of tokens and ids, and merges.txt, a merge a line. Throws Error naming the file
/// and what is malformed.
inline TokenizerJson read_vocab_and_merges(const fs::path& folder) {
  TokenizerJson out;
  out.spec["model"] = {{"type", "BPE"}};
  const std::string where = (folder / "vocab.json").string();
  const Json vocabulary = read_json(folder / "vocab.json");
  check(vocabulary.is_object(), where, ": must hold an object of tokens and ids");
  for (const auto& [token, value] : vocabulary.items()) {
    const std::int64_t id = json_as<std::int64_t>(value).value_or(-1);
    check(id >= 0 && id <= max_token_id, where, ": the id of the token \"", token, "\" must be a number from 0 to ",
          max_token_id, ", not ", value.dump());
    out.vocabulary.add(token, static_cast<std::int32_t>(id));
  }
  out.has_merges = true;
  for_each_line(folder / "merges.txt", [&](std::string_view line, std::size_t number) {
    if (line.empty() || line.starts_with("#version")) return;
    const std::size_t space = line.find(' ');
    check(space != std::string_view::npos && line.find(' ', space + 1) == std::string_view::npos,
          (folder / "merges.txt").string(), ": line ", number, " must be \"left right\"");
    out.merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  });
  return out;
}

/// BERT's file: a piece a line; ids count the lines. Throws Error if it holds no piece, or bytes that are not UTF-8.
inline TokenizerJson read_vocab_txt(const fs::path& path) {
  TokenizerJson out;
  out.spec["model"] = {{"type", "WordPiece"}};
  for_each_line(path, [&](std::string_view line, std::size_t number) {
    check(find_invalid_utf8(line) == std::string_view::npos, path.string(), ": line ", number, " is not UTF-8");
    check(number <= static_cast<std::size_t>(max_token_id), path.string(), ": more than ", max_token_id, " lines");
    line.remove_suffix(trailing_space(line));
    out.vocabulary.add(line, static_cast<std::int32_t>(number - 1));
  });
  check(out.vocabulary.size() > 0, path.string(), ": is empty");
  return out;
}

}  // namespace kto::tok
