// SPDX-License-Identifier: Apache-2.0
// Reads tokenizer.json. The vocabulary and the merges, the bulk of the file, go straight into their tables.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/file.hpp"
#include "kto/io/json.hpp"
#include "kto/text/tokenizer/bpe.hpp"
#include "kto/text/tokenizer/vocabulary.hpp"

namespace kto::tok {

struct TokenizerJson {
  Json spec;  ///< all but model.vocab and model.merges
  Vocabulary vocabulary;
  MergeList merges;
  bool has_merges = false;           ///< "merges" is there, even if empty
  std::vector<double> scores;        ///< of the vocabulary by id, if it is a list: of a Unigram model
  bool mentions_byte_level = false;  ///< "ByteLevel" occurs anywhere in the file
};

/// Handles the events of nlohmann's parser: the values of model.vocab and model.merges go into their tables, the rest
/// becomes the document. (The parser's callback mode would walk a whole list at the end of each object in it.)
class TokenizerJsonReader {
 public:
  TokenizerJsonReader(TokenizerJson& into, std::string_view text, std::string_view where)
      : into_(into), text_(text), where_(where) {}

  bool null() { return value(nullptr); }
  bool boolean(bool it) { return value(it); }
  bool number_integer(Json::number_integer_t it) { return value(it); }
  bool number_unsigned(Json::number_unsigned_t it) { return value(it); }
  bool number_float(Json::number_float_t it, const std::string&) { return value(it); }
  bool string(std::string& it) { return value(std::move(it)); }
  bool binary(Json::binary_t&) { return false; }  // only in binary formats
  bool start_object(std::size_t) { return start(Json::object()); }
  bool start_array(std::size_t) { return start(Json::array()); }
  bool end_object() { return end(); }
  bool end_array() { return end(); }

  bool key(std::string& it) {
    if (depth_ == 1) in_model_ = it == "model";
    if (depth_ == 2)
      field_ = !in_model_       ? Field::other
               : it == "vocab"  ? Field::vocabulary
               : it == "merges" ? Field::merges
               : it == "type"   ? Field::type
                                : Field::other;
    if (depth_ == 2 && field_ == Field::merges) into_.has_merges = true;
    key_ = std::move(it);
    return true;
  }

  bool parse_error(std::size_t byte, const std::string&, const nlohmann::detail::exception& error) {
    if (dynamic_cast<const Json::parse_error*>(&error) == nullptr)  // such as the number 1e999
      parse_json(text_, std::string(where_));                       // throws with the position
    const std::string_view before = text_.substr(0, byte);
    fail(where_, ": line ", 1 + std::ranges::count(before, '\n'), ", byte ", byte,
         " of the file: not valid JSON; is the file complete?");
  }

 private:
  enum class Field { other, type, vocabulary, merges };

  bool is_in(Field field) const { return depth_ >= 3 && in_model_ && field_ == field; }

  bool value(Json it) {
    if (is_in(Field::vocabulary))
      is_list_ ? add_scored(it) : add_piece(it);
    else if (is_in(Field::merges))
      add_merge(it);
    else
      put(std::move(it));
    return true;
  }

  /// Begins a list or an object.
  bool start(Json it) {
    if (is_in(Field::vocabulary)) {
      if (!is_list_) refuse_piece("a list or an object");
      if (!it.is_array() || depth_ > 3) refuse_scored();
      pair_size_ = 0;
    } else if (is_in(Field::merges)) {
      if (!it.is_array() || depth_ > 3) refuse_merge("a list or an object");
      pair_size_ = 0;
    } else {
      if (depth_ == 2 && in_model_ && field_ == Field::vocabulary) is_list_ = it.is_array();
      open_.push_back(&put(std::move(it)));
    }
    ++depth_;
    return true;
  }

  bool end() {
    if (--depth_ >= 3 && is_in(Field::vocabulary)) {
      if (pair_size_ != 2) refuse_scored();
      return true;
    }
    if (is_in(Field::merges)) {
      if (pair_size_ != 2) refuse_merge("a list of another length");
      return true;
    }
    open_.pop_back();
    if (depth_ <= 1) in_model_ = false;
    return true;
  }

  /// Adds a value to the document. While it is open, no sibling is added, so the pointer stays valid.
  Json& put(Json it) {
    if (depth_ == 2 && in_model_ && field_ == Field::type && !it.is_structured() && it != "BPE" && it != "Unigram" &&
        it != "WordPiece" && it != "WordLevel")
      fail(where_, ": model: the type ", it.dump(), " is not supported; supported are BPE, Unigram, WordPiece, ",
           "WordLevel");
    if (open_.empty()) return into_.spec = std::move(it);
    Json& parent = *open_.back();
    if (parent.is_object()) return parent[key_] = std::move(it);
    parent.push_back(std::move(it));
    return parent.back();
  }

  void add_piece(const Json& it) {
    const std::int64_t id = json_as<std::int64_t>(it).value_or(-1);
    if (id < 0 || id > max_token_id) refuse_piece(it.dump());
    into_.vocabulary.add(key_, static_cast<std::int32_t>(id));
  }
  [[noreturn]] void refuse_piece(const std::string& shown) const {
    fail(where_, ": the id of the token \"", key_, "\" must be a number from 0 to ", max_token_id, ", not ", shown);
  }

  /// A part of ["piece", score].
  void add_scored(const Json& it) {
    if (depth_ != 4) refuse_scored();
    if (pair_size_++ == 0) {
      if (!it.is_string()) refuse_scored();
      if (into_.scores.size() > static_cast<std::size_t>(max_token_id))
        fail(where_, ": more than ", max_token_id, " pieces");
      into_.vocabulary.append(it.get_ref<const std::string&>());
      into_.scores.push_back(0);
    } else {
      if (!it.is_number()) refuse_scored();
      into_.scores.back() = it.get<double>();
    }
  }
  [[noreturn]] void refuse_scored() const {
    fail(where_, ": piece ", into_.scores.size(), " of the vocabulary must be [\"piece\", score]");
  }

  /// A merge is "left right" or ["left", "right"].
  void add_merge(const Json& it) {
    if (!it.is_string()) refuse_merge(it.dump());
    const auto& text = it.get_ref<const std::string&>();
    if (depth_ == 4) {
      if (pair_size_++ == 0)
        into_.merges.emplace_back(text, "");
      else
        into_.merges.back().second = text;
      return;
    }
    if (text.starts_with("#version")) return;
    const std::size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) refuse_merge(it.dump());
    into_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  [[noreturn]] void refuse_merge(const std::string& shown) const {
    fail(where_, ": merge ", into_.merges.size() + 1, " must be \"left right\" or [\"left\", \"right\"], not ", shown);
  }

  TokenizerJson& into_;
  std::string_view text_, where_;
  std::vector<Json*> open_;  ///< the lists and objects around the next value
  int depth_ = 0;            ///< of all lists and objects
  bool in_model_ = false;
  Field field_ = Field::other;  ///< of the model
  std::string key_;
  int pair_size_ = 0;
  bool is_list_ = false;  ///< the vocabulary
};

/// Reads a file. Throws Error naming the path and what is malformed or unsupported.
inline TokenizerJson read_tokenizer_json(const fs::path& path) {
  const std::string where = path.string(), text = read_file(path);
  if (const std::size_t deep = kto::detail::find_too_deep(text); deep != std::string::npos)
    fail(where, ": byte ", deep + 1, " of the file: lists and objects are nested more than ",
         kto::detail::max_json_depth, " deep");
  TokenizerJson out;
  out.mentions_byte_level = text.find("\"ByteLevel\"") != std::string::npos;
  TokenizerJsonReader reader(out, text, where);
  Json::sax_parse(text, &reader);
  check(out.spec.is_object() && out.spec.contains("model") && out.spec["model"].is_object(), where,
        ": is not a tokenizer.json: it has no object \"model\"");
  const Json& version = out.spec.contains("version") ? out.spec["version"] : Json("1.0");
  check(version == "1.0", where, ": tokenizer.json of version ", version.dump(), " is not supported; only \"1.0\" is");
  return out;
}

}  // namespace kto::tok
