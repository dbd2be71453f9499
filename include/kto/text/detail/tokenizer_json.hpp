// SPDX-License-Identifier: Apache-2.0
// Reads tokenizer.json. The vocabulary and the merges, which are most of it, go straight into their tables.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "kto/core/error.hpp"
#include "kto/io/file.hpp"
#include "kto/io/json.hpp"
#include "kto/text/detail/bpe.hpp"
#include "kto/text/detail/vocabulary.hpp"

namespace kto::detail::tok {

struct TokenizerJson {
  Json spec;  ///< all but model.vocab and model.merges
  Vocabulary vocabulary;
  MergeList merges;
  bool mentions_byte_level = false;  ///< "ByteLevel" occurs anywhere in the file
};

/// Takes the values of model.vocab and model.merges out of the stream of a parser; the rest becomes the document.
class TokenizerJsonFilter {
 public:
  TokenizerJsonFilter(TokenizerJson& into, std::string_view where) : into_(into), where_(where) {}

  /// Called by nlohmann's parser for each key and value. Returns whether the document keeps it.
  bool operator()(int depth, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::key) {
      if (depth == 1) in_model_ = value == "model";
      is_type_ = depth == 2 && value == "type";
      if (depth == 2)
        field_ = !in_model_          ? Field::other
                 : value == "vocab"  ? Field::vocabulary
                 : value == "merges" ? Field::merges
                                     : Field::other;
      if (depth != 3 || field_ != Field::vocabulary) return true;
      piece_ = value.get<std::string>();
      return false;
    }
    if (event == Json::parse_event_t::object_end && depth <= 1) in_model_ = false, field_ = Field::other;
    if (in_model_ && depth == 2 && is_type_ && event == Json::parse_event_t::value && value != "BPE")
      fail(where_, ": model: the type ", value.dump(), " is not supported; only BPE is");
    if (!in_model_ || depth < 3) return true;
    if (field_ == Field::vocabulary) return add_piece(depth, event, value), true;
    if (field_ == Field::merges) return add_merge(depth, event, value);
    return true;
  }

 private:
  enum class Field { other, vocabulary, merges };

  static std::string shown(const Json& value) { return value.is_discarded() ? "a list or an object" : value.dump(); }

  void add_piece(int depth, Json::parse_event_t event, const Json& value) {
    const bool is_value = event == Json::parse_event_t::value && depth == 3;
    const std::int64_t id = is_value ? json_as<std::int64_t>(value).value_or(-1) : -1;
    check(id >= 0 && id <= max_token_id, where_, ": the id of the token \"", piece_, "\" must be a number from 0 to ",
          max_token_id, ", not ", shown(value));
    into_.vocabulary.add(piece_, static_cast<std::int32_t>(id));
  }

  /// A merge is "left right" or ["left", "right"].
  bool add_merge(int depth, Json::parse_event_t event, const Json& value) {
    const auto refuse = [&] {
      fail(where_, ": merge ", into_.merges.size() + 1, " must be \"left right\" or [\"left\", \"right\"], not ",
           shown(value));
    };
    if (event == Json::parse_event_t::array_start && depth == 3) {
      pair_size_ = 0;
      return true;
    }
    if (event == Json::parse_event_t::array_end && depth == 3) {
      if (pair_size_ != 2) refuse();
      return false;
    }
    if (event != Json::parse_event_t::value || !value.is_string() || depth > 4) refuse();
    const std::string& text = value.get_ref<const std::string&>();
    if (depth == 4) {
      if (pair_size_++ == 0)
        into_.merges.emplace_back(text, "");
      else
        into_.merges.back().second = text;
      return false;
    }
    if (text.starts_with("#version")) return false;
    const std::size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) refuse();
    into_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    return false;
  }

  TokenizerJson& into_;
  std::string_view where_;
  bool in_model_ = false, is_type_ = false;
  Field field_ = Field::other;
  std::string piece_;
  int pair_size_ = 0;
};

/// Reads a file. Throws Error naming the path, and what is malformed or not supported.
inline TokenizerJson read_tokenizer_json(const fs::path& path) {
  const std::string where = path.string(), text = read_file(path);
  if (const std::size_t deep = kto::detail::find_too_deep(text); deep != std::string::npos)
    fail(where, ": byte ", deep + 1, " of the file: lists and objects are nested more than ",
         kto::detail::max_json_depth, " deep");
  TokenizerJson out;
  out.mentions_byte_level = text.find("\"ByteLevel\"") != std::string::npos;
  try {
    out.spec = Json::parse(text.begin(), text.end(), Json::parser_callback_t(TokenizerJsonFilter(out, where)));
  } catch (const Json::parse_error& error) {
    const auto end = text.begin() + static_cast<std::ptrdiff_t>(std::min(error.byte, text.size()));
    fail(where, ": line ", 1 + std::count(text.begin(), end, '\n'), ", byte ", error.byte,
         " of the file: not valid JSON; is the file complete?");
  } catch (const Json::out_of_range&) {  // a number such as 1e999
    parse_json(text, where);             // throws with the place
    throw;
  }
  check(out.spec.is_object() && out.spec.contains("model") && out.spec["model"].is_object(), where,
        ": is not a tokenizer.json: it has no object \"model\"");
  const Json& version = out.spec.contains("version") ? out.spec["version"] : Json("1.0");
  check(version == "1.0", where, ": tokenizer.json of version ", version.dump(), " is not supported; only \"1.0\" is");
  return out;
}

}  // namespace kto::detail::tok
