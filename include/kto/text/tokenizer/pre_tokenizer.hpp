// SPDX-License-Identifier: Apache-2.0
// The pre_tokenizer of tokenizer.json: splits normalized text into the pieces that the model encodes one by one.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/io/json.hpp"
#include "kto/text/tokenizer/byte_alphabet.hpp"
#include "kto/text/tokenizer/normalizer.hpp"
#include "kto/text/tokenizer/pieces.hpp"
#include "kto/text/tokenizer/script_table.hpp"
#include "kto/text/tokenizer/step_spec.hpp"

namespace kto::tok {

/// GPT-2's pattern, by which the step "ByteLevel" splits with use_regex.
inline constexpr std::string_view gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Punctuation for the steps "Punctuation" and "BertPreTokenizer": ASCII's, and Unicode 8's.
inline Regex punctuation_regex() {
  return Regex(
      R"([!-/:-@\[-`{-~\x{166D}\x{111C9}]|(?![\x{61D}\x{9FD}\x{A76}\x{C77}\x{C84}\x{1B4E}\x{1B4F}\x{1B7D}-\x{1B7F})"
      R"(\x{2E43}-\x{2E4F}\x{2E52}-\x{2E5D}\x{10D6E}\x{10EAD}\x{10F55}-\x{10F59}\x{10F86}-\x{10F89}\x{113D4}-\x{113D8})"
      R"(\x{1144B}-\x{1144F}\x{1145A}-\x{1145D}\x{11660}-\x{1166C}\x{116B9}\x{1183B}\x{11944}-\x{11946}\x{119E2})"
      R"(\x{11A3F}-\x{11A46}\x{11A9A}-\x{11A9C}\x{11A9E}-\x{11AA2}\x{11B00}-\x{11B09}\x{11BE1}\x{11C41}-\x{11C45})"
      R"(\x{11C70}\x{11C71}\x{11EF7}\x{11EF8}\x{11F43}-\x{11F4F}\x{11FFF}\x{12FF1}\x{12FF2}\x{16D6D}-\x{16D6F})"
      R"(\x{16E97}-\x{16E9A}\x{16FE2}\x{1E5FF}\x{1E95E}\x{1E95F}])\p{P})",
      "punctuation");
}

/// Rewrites each piece: append(out, text, begin) writes the new text of the piece that begins there, or of a part at
/// its start.
template <class Append>
void rewrite(Pieces& pieces, Append append) {
  std::string text;
  text.reserve(pieces.text.size() + pieces.text.size() / 4 + pieces.spans.size());
  std::size_t head = 0;
  for (Span& span : pieces.spans) {
    const Span old = span;
    span.begin = text.size();
    append(text, pieces[old], old.begin);
    span.end = text.size();
    if (old.begin >= pieces.head) continue;
    std::string part;
    append(part, pieces[{old.begin, std::min(old.end, pieces.head)}], old.begin);
    head = span.begin + part.size();
  }
  pieces.text = std::move(text);
  pieces.head = head;
}

/// Replaces spaces by a mark, such as U+2581, adds one in front if the scheme says so, and splits before the marks.
class Metaspace {
 public:
  Metaspace(const Json& spec, std::string_view where)
      : mark_(json_text(spec, "replacement", where)),
        scheme_(json_value<std::string>(spec, "prepend_scheme", "always", where)) {
    check(!mark_.empty() && mark_.size() == utf8_length(mark_[0]), where, ": Metaspace's replacement is ",
          Json(mark_).dump(), "; expected one character");
    const bool prefix = json_value(spec, "add_prefix_space", true, where);
    if (!prefix && scheme_ != "never" && spec.contains("prepend_scheme"))
      fail(where, ": Metaspace has add_prefix_space false and prepend_scheme \"", scheme_, "\"");
    if (!prefix) scheme_ = "never";
    if (scheme_ != "always" && scheme_ != "first" && scheme_ != "never")
      fail(where, ": prepend_scheme \"", scheme_, "\" is not one of always, first, never");
    if (json_value(spec, "split", true, where))
      splitter_ = std::make_shared<Splitter>(literal_regex(mark_, where), SplitBehavior::merged_with_next);
  }

  void operator()(Pieces& pieces) const {
    rewrite(pieces, [&](std::string& out, std::string_view piece, std::size_t begin) {
      const bool prefix = scheme_ == "always" || (scheme_ == "first" && begin < pieces.head);
      if (prefix && !piece.empty() && !piece.starts_with(' ') && !piece.starts_with(mark_)) out += mark_;
      for (const char c : piece)
        if (c == ' ')
          out += mark_;
        else
          out += c;
    });
    if (splitter_) (*splitter_)(pieces);
  }

 private:
  std::string mark_, scheme_;
  std::shared_ptr<Splitter> splitter_;
};

/// Splits where the script changes. A space, and a character without a script, belongs to the script before it; what
/// precedes the first script is dropped.
inline void split_scripts(Pieces& pieces) {
  std::vector<Span> spans;
  for (const Span span : pieces.spans) {
    int last = -1;  // -1: no character yet, 0: none with a script
    std::size_t begin = span.end;
    for (std::size_t at = span.begin; at < span.end; at += utf8_length(pieces.text[at])) {
      const char32_t c = code_point_at(pieces.text, at);
      const int script = script_of(c);
      if (script == 0) continue;
      if (last != script) {
        if (begin < at) spans.push_back({begin, at});
        begin = at;
      }
      last = script;
    }
    if (begin < span.end) spans.push_back({begin, span.end});
  }
  pieces.spans = std::move(spans);
}

class PreTokenizer {
 public:
  PreTokenizer() = default;

  /// `spec` is the value of "pre_tokenizer". Throws Error naming `where` for an unsupported type.
  PreTokenizer(const Json& spec, std::string_view where) { add(spec, where); }

  void operator()(Pieces& pieces) const {
    const std::size_t most = longest_rewritten(pieces.text.size());
    for (const auto& step : steps_) {
      step(pieces);
      check_rewritten(pieces.text.size(), most);
    }
  }

 private:
  void add(const Json& spec, std::string_view where) {
    if (spec.is_null()) return;
    const std::string type = json_value<std::string>(spec, "type", "", where);
    const auto behavior = [&](const char* otherwise) {
      return split_behavior(json_value<std::string>(spec, "behavior", otherwise, where), where);
    };
    if (type == "Sequence") {
      for (const Json& step : json_member(spec, "pretokenizers", where)) add(step, where);
      check(steps_.size() <= max_tokenizer_steps, where, ": more than ", max_tokenizer_steps, " pre-tokenizers");
    } else if (type == "ByteLevel") {
      if (json_value(spec, "add_prefix_space", true, where))
        steps_.push_back([](Pieces& pieces) {
          rewrite(pieces, [](std::string& out, std::string_view piece, std::size_t) {
            if (!piece.empty() && !piece.starts_with(' ')) out += ' ';
            out += piece;
          });
        });
      if (json_value(spec, "use_regex", true, where)) split(onig_regex(gpt2_pattern, where), SplitBehavior::isolated);
      steps_.push_back([](Pieces& pieces) {
        rewrite(pieces,
                [](std::string& out, std::string_view piece, std::size_t) { append_byte_alphabet(out, piece); });
      });
    } else if (type == "Split") {
      Regex pattern = json_pattern(spec, where);
      split(std::move(pattern), behavior(""), json_value(spec, "invert", false, where));
    } else if (type == "Digits") {
      split(onig_regex(R"([\p{N}\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}])", where),
            json_value(spec, "individual_digits", false, where) ? SplitBehavior::isolated : SplitBehavior::contiguous);
    } else if (type == "Metaspace") {
      steps_.push_back(Metaspace(spec, where));
    } else if (type == "Whitespace") {
      split(onig_regex(R"([\w\x{200C}\x{200D}]+|[^\w\x{200C}\x{200D}\s]+)", where), SplitBehavior::removed, true);
    } else if (type == "WhitespaceSplit") {
      split(onig_regex(R"(\s)", where), SplitBehavior::removed);
    } else if (type == "Punctuation") {
      split(punctuation_regex(), behavior("Isolated"));
    } else if (type == "BertPreTokenizer") {
      split(onig_regex(R"(\s)", where), SplitBehavior::removed);
      split(punctuation_regex(), SplitBehavior::isolated);
    } else if (type == "CharDelimiterSplit") {
      split(literal_regex(json_text(spec, "delimiter", where), where), SplitBehavior::removed);
    } else if (type == "UnicodeScripts") {
      steps_.push_back(split_scripts);
    } else if (type == "FixedLength") {
      const int length = json_value(spec, "length", 5, where);
      check(length > 0 && length <= 65535, where, ": FixedLength with length ", length, " is not supported");
      split(Regex("(?s:.){1," + std::to_string(length) + "}", where), SplitBehavior::isolated);
    } else {
      fail(where, ": the pre-tokenizer \"", type, "\" is not supported; supported are Sequence, ByteLevel, Split, ",
           "Digits, Metaspace, Whitespace, WhitespaceSplit, Punctuation, BertPreTokenizer, CharDelimiterSplit, ",
           "FixedLength, UnicodeScripts");
    }
  }

  void split(Regex pattern, SplitBehavior behavior, bool invert = false) {
    steps_.push_back([splitter = std::make_shared<Splitter>(std::move(pattern), behavior, invert)](Pieces& pieces) {
      (*splitter)(pieces);
    });
  }

  std::vector<std::function<void(Pieces&)>> steps_;
};

}  // namespace kto::tok
