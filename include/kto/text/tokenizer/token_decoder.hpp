// SPDX-License-Identifier: Apache-2.0
// The decoder of tokenizer.json: from tokens back to text.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/io/json.hpp"
#include "kto/text/regex/code_points.hpp"
#include "kto/text/tokenizer/byte_alphabet.hpp"
#include "kto/text/tokenizer/normalizer.hpp"
#include "kto/text/tokenizer/step_spec.hpp"

namespace kto::tok {

using Tokens = std::vector<std::string>;

inline std::string join(const Tokens& tokens, std::string_view separator = "") {
  std::string text;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) text += separator;
    text += tokens[i];
  }
  return text;
}

inline std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t found = from.empty() ? std::string_view::npos : text.find(from, at);
    out += text.substr(at, found == std::string_view::npos ? found : found - at);
    if (found == std::string_view::npos) break;
    out += to;
    at = found + from.size();
  }
  return out;
}

/// The byte of a token such as "<0x4F>", or -1.
inline int fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const char lower = static_cast<char>(c | 0x20);
    if (c >= '0' && c <= '9')
      value = value * 16 + (c - '0');
    else if (lower >= 'a' && lower <= 'f')
      value = value * 16 + (lower - 'a' + 10);
    else
      return -1;
  }
  return value;
}

/// Joins runs of <0xNN> to text; a run that is not UTF-8 becomes one replacement character per byte.
inline void decode_fallback_bytes(Tokens& tokens) {
  Tokens out;
  std::string run;
  const auto flush = [&] {
    if (run.empty()) return;
    if (find_invalid_utf8(run) == std::string_view::npos)
      out.push_back(run);
    else
      out.insert(out.end(), run.size(), "\xEF\xBF\xBD");
    run.clear();
  };
  for (std::string& token : tokens) {
    if (const int byte = fallback_byte(token); byte >= 0) {
      run.push_back(static_cast<char>(byte));
    } else {
      flush();
      out.push_back(std::move(token));
    }
  }
  flush();
  tokens = std::move(out);
}

/// Strips `content` up to `start` times from the beginning and `stop` times from the end of a token.
inline std::string strip_content(std::string_view token, std::string_view content, int start, int stop) {
  for (int i = 0; i < start && !content.empty() && token.starts_with(content); ++i) token.remove_prefix(content.size());
  for (int i = 0; i < stop && !content.empty() && token.ends_with(content); ++i) token.remove_suffix(content.size());
  return std::string(token);
}

/// Removes the spaces that splitting at punctuation leaves in English text, as tokenizers does in its decoders, or as
/// transformers does for a decoded text.
inline std::string clean_up_spaces(std::string text, bool is_decoder = true) {
  static constexpr std::pair<std::string_view, std::string_view> rules[] = {
      {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
      {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : rules)
    if (is_decoder || from != " do not") text = replace_all(text, from, to);
  return text;
}

class TokenDecoder {
 public:
  TokenDecoder() = default;

  /// `spec` is the value of "decoder". Throws Error naming `where` for an unsupported type.
  TokenDecoder(const Json& spec, std::string_view where) : joins_with_spaces_(spec.is_null()) { add(spec, where); }

  std::string operator()(Tokens tokens) const {
    if (joins_with_spaces_) return join(tokens, " ");
    for (const auto& step : steps_) step(tokens);
    return join(tokens);
  }

  /// The bytes of one token of the model within a text.
  std::string bytes_of(std::string token) const {
    for (const auto& step : byte_steps_) token = step(token);
    return token;
  }

 private:
  template <class Change>
  void add_for_each(Change change) {
    steps_.push_back([change](Tokens& tokens) {
      for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = change(tokens[i], i, tokens.size());
    });
  }

  /// Repeated tokens are one, and padding between them is dropped (connectionist temporal classification).
  void add_ctc(const std::string& padding, const std::string& delimiter, bool cleans) {
    const auto change = [=](const std::string& token) {
      std::string text = replace_all(token, padding, "");
      return cleans ? replace_all(clean_up_spaces(std::move(text)), delimiter, " ") : text;
    };
    byte_steps_.push_back(change);
    steps_.push_back([=](Tokens& tokens) {
      tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
      for (std::string& token : tokens) token = change(token);
      std::erase_if(tokens, [](const std::string& token) { return token.empty(); });
    });
  }

  void add(const Json& spec, std::string_view where) {
    if (spec.is_null()) return;
    const std::string type = json_value<std::string>(spec, "type", "", where);
    if (type == "Sequence") {
      for (const Json& step : json_member(spec, "decoders", where)) add(step, where);
      check(steps_.size() <= max_tokenizer_steps, where, ": more than ", max_tokenizer_steps, " decoders");
    } else if (type == "ByteLevel") {
      byte_steps_.push_back([](const std::string& token) { return from_byte_alphabet(token); });
      steps_.push_back([](Tokens& tokens) {
        std::string bytes;
        for (const std::string& token : tokens) bytes += from_byte_alphabet(token);
        tokens = {replace_invalid_utf8(bytes)};
      });
    } else if (type == "Replace") {
      const auto pattern = std::make_shared<Regex>(json_pattern(spec, where));
      const std::string content = json_text(spec, "content", where);
      const auto change = [=](const std::string& token) {
        NormalText text{token};
        replace_matches(*pattern, text, content, longest_rewritten(token.size()));
        return text.text;
      };
      byte_steps_.push_back(change);
      add_for_each([=](const std::string& token, std::size_t, std::size_t) { return change(token); });
    } else if (type == "ByteFallback") {
      byte_steps_.push_back([](const std::string& token) {
        const int byte = fallback_byte(token);
        return byte < 0 ? token : std::string(1, static_cast<char>(byte));
      });
      steps_.push_back(decode_fallback_bytes);
    } else if (type == "Fuse") {
      steps_.push_back([](Tokens& tokens) { tokens = {join(tokens)}; });
    } else if (type == "Strip") {
      const std::string content = json_text(spec, "content", where);
      const int start = json_value(spec, "start", 0, where), stop = json_value(spec, "stop", 0, where);
      add_for_each([=](const std::string& token, std::size_t, std::size_t) {
        return strip_content(token, content, start, stop);
      });
    } else if (type == "Metaspace") {
      const std::string mark = json_text(spec, "replacement", where);
      const bool drops_first = json_value(spec, "add_prefix_space", true, where) &&
                               json_value<std::string>(spec, "prepend_scheme", "always", where) != "never";
      byte_steps_.push_back([=](const std::string& token) { return replace_all(token, mark, " "); });
      add_for_each([=](const std::string& token, std::size_t i, std::size_t) {
        return replace_all(token, mark, i == 0 && drops_first ? "" : " ");
      });
    } else if (type == "BPEDecoder") {
      const std::string suffix = json_text(spec, "suffix", where);
      byte_steps_.push_back([=](const std::string& token) { return replace_all(token, suffix, " "); });
      add_for_each([=](const std::string& token, std::size_t i, std::size_t size) {
        return replace_all(token, suffix, i + 1 == size ? "" : " ");
      });
    } else if (type == "WordPiece") {
      const std::string prefix = json_value<std::string>(spec, "prefix", "##", where);
      const bool cleans = json_value(spec, "cleanup", true, where);
      byte_steps_.push_back([=](const std::string& token) {
        return token.starts_with(prefix) ? token.substr(prefix.size()) : " " + token;
      });
      add_for_each([=](const std::string& token, std::size_t i, std::size_t) {
        std::string text = i == 0 ? token : token.starts_with(prefix) ? token.substr(prefix.size()) : " " + token;
        return cleans ? clean_up_spaces(std::move(text)) : text;
      });
    } else if (type == "CTC") {
      add_ctc(json_value<std::string>(spec, "pad_token", "<pad>", where),
              json_value<std::string>(spec, "word_delimiter_token", "|", where),
              json_value(spec, "cleanup", true, where));
    } else {
      fail(where, ": the decoder \"", type, "\" is not supported; supported are Sequence, ByteLevel, Replace, ",
           "ByteFallback, Fuse, Strip, Metaspace, BPEDecoder, WordPiece, CTC");
    }
  }

  std::vector<std::function<void(Tokens&)>> steps_;
  std::vector<std::function<std::string(const std::string&)>> byte_steps_;
  bool joins_with_spaces_ = true;
};

}  // namespace kto::tok
