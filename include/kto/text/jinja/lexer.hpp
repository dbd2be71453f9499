// SPDX-License-Identifier: Apache-2.0
// Template source to tokens, with Jinja's rules for white space under trim_blocks and lstrip_blocks: the line break
// after a block tag is removed, and so is the white space before a block tag that begins its line; "-" strips, "+"
// keeps.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kto/text/jinja/number_format.hpp"

namespace kto::jinja {

struct Token {
  enum Type { data, variable_begin, variable_end, block_begin, block_end, name, string, number, symbol, end };
  Type type;
  std::string_view text;  // data, name, symbol
  Value value;            // string, number
  int line;
};

class Lexer {
 public:
  /// `source` must use \n as line end and outlive the tokens. Values are allocated in `run`.
  Lexer(Run& run, std::string_view source, int& line) : run_(run), source_(source), line_(line) {}

  std::vector<Token> tokens() {
    line_ = 1;
    bool line_start = true;  // the root state begins after a line break
    while (at_ < source_.size()) root(line_start);
    push(Token::end, {});
    return std::move(tokens_);
  }

 private:
  bool has(std::string_view text, std::size_t at) const {
    return source_.substr(std::min(at, source_.size())).starts_with(text);
  }

  std::size_t skip_space(std::size_t at) const {
    return at + (source_.size() - at) - strip(source_.substr(at), is_space, true, false).size();
  }

  void push(Token::Type type, std::string_view text, Value value = {}) {
    tokens_.push_back({type, text, value, line_});
  }

  void move_to(std::size_t at) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(at), '\n'));
    at_ = at;
  }

  /// Where "-%}", "+%}" or "%}" at `at` ends, including the white space or line break it removes; 0 if there is none.
  std::size_t tag_end(std::size_t at, std::string_view mark, bool trim_line_break) const {
    const char sign = at < source_.size() ? source_[at] : '\0';
    if (sign == '-' && has(mark, at + 1)) return skip_space(at + 1 + mark.size());
    if (trim_line_break && sign == '+' && has(mark, at + 1)) return at + 1 + mark.size();
    if (!has(mark, at)) return 0;
    const std::size_t end = at + mark.size();
    return end + (trim_line_break && has("\n", end) ? 1 : 0);
  }

  /// Emits data up to `at`, stripped as the tag there requires.
  void push_data(std::size_t at, char sign, bool is_variable, bool line_start) {
    std::string_view text = source_.substr(at_, at - at_);
    if (sign == '-') {
      text = strip(text, is_space, false, true);
    } else if (sign != '+' && !is_variable) {
      const std::size_t line_begin = text.rfind('\n') + 1;  // npos + 1 == 0
      if ((line_begin > 0 || line_start) && strip(text.substr(line_begin), is_space, true, false).empty())
        text = text.substr(0, line_begin);
    }
    if (!text.empty()) push(Token::data, text);
    move_to(at);
  }

  void root(bool& line_start) {
    std::size_t tag = at_;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == source_.npos || has("{{", tag) || has("{%", tag) || has("{#", tag)) break;
    }
    if (tag == source_.npos) {
      push(Token::data, source_.substr(at_));
      return move_to(source_.size());
    }
    const char kind = source_[tag + 1];
    const char after = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    const char sign = after == '-' || after == '+' ? after : '\0';
    push_data(tag, sign, kind == '{', line_start);
    const std::size_t inside = tag + (sign == 0 ? 2 : 3);
    if (kind == '#') {
      move_to(inside);
      comment();
    } else if (const std::size_t raw_begin = kind == '%' ? raw_tag(inside, "raw", false) : 0; raw_begin != 0) {
      move_to(raw_begin);
      raw();
    } else {
      push(kind == '{' ? Token::variable_begin : Token::block_begin, source_.substr(tag, 2));
      move_to(inside);
      tag_body(kind == '{' ? "}}" : "%}", kind == '%');
    }
    line_start = at_ > 0 && source_[at_ - 1] == '\n';
  }

  /// The end of the tag {% word %} whose inside begins at `at`; 0 if it is another tag.
  std::size_t raw_tag(std::size_t at, std::string_view word, bool trim_line_break) const {
    at = skip_space(at);
    return has(word, at) ? tag_end(skip_space(at + word.size()), "%}", trim_line_break) : 0;
  }

  void comment() {
    const std::size_t mark = source_.find("#}", at_);
    check(mark != source_.npos, "a comment has no end '#}'");
    const char sign = mark > at_ ? source_[mark - 1] : '\0';
    move_to(tag_end(sign == '-' || sign == '+' ? mark - 1 : mark, "#}", true));
  }

  void raw() {
    for (std::size_t tag = source_.find("{%", at_); tag != source_.npos; tag = source_.find("{%", tag + 1)) {
      const char after = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      const char sign = after == '-' || after == '+' ? after : '\0';
      const std::size_t end = raw_tag(tag + (sign == 0 ? 2 : 3), "endraw", true);
      if (end == 0) continue;
      push_data(tag, sign, false, false);
      return move_to(end);
    }
    fail("a raw block has no end '{% endraw %}'");
  }

  void tag_body(std::string_view end_mark, bool is_block) {
    std::string open;  // the open brackets, innermost last
    while (at_ < source_.size()) {
      if (open.empty()) {
        if (const std::size_t end = tag_end(at_, end_mark, is_block); end != 0) {
          push(is_block ? Token::block_end : Token::variable_end, end_mark);
          return move_to(end);
        }
      }
      const std::size_t after_space = skip_space(at_);
      if (after_space > at_) {
        move_to(after_space);
      } else if (!number() && !name() && !string()) {
        symbol(open);
      }
    }
  }

  std::size_t digits(std::size_t at) const {  // digits with single underscores between; the end, or `at` for none
    const auto digit = [&](std::size_t i) { return i < source_.size() && source_[i] >= '0' && source_[i] <= '9'; };
    while (digit(at)) {
      ++at;
      if (has("_", at) && digit(at + 1)) ++at;
    }
    return at;
  }

  bool number() {
    const std::size_t whole = digits(at_);
    if (whole == at_) return false;
    std::size_t end = whole;
    if (at_ == 0 || source_[at_ - 1] != '.') {
      if (has(".", end) && digits(end + 1) > end + 1) end = digits(end + 1);
      if (has("e", end) || has("E", end)) {
        const std::size_t power = end + (has("+", end + 1) || has("-", end + 1) ? 2 : 1);
        if (digits(power) > power) end = digits(power);
      }
    }
    if (end > whole) {
      push(Token::number, {}, make_real(read_real(source_.substr(at_, end - at_)).value_or(0)));
      move_to(end);
      return true;
    }
    const char letter =
        source_[at_] == '0' && at_ + 1 < source_.size() ? static_cast<char>(source_[at_ + 1] | 0x20) : '\0';
    const std::string_view allowed = letter == 'x'   ? "0123456789abcdefABCDEF_"
                                     : letter == 'o' ? "01234567_"
                                     : letter == 'b' ? "01_"
                                                     : "";
    end = whole;
    if (!allowed.empty()) end = std::min(source_.find_first_not_of(allowed, at_ + 2), source_.size());
    const std::optional<Value> value = read_int(run_, source_.substr(at_, end - at_), 0);
    check(value.has_value(), "'", source_.substr(at_, end - at_), "' is not a number");
    push(Token::number, {}, *value);
    move_to(end);
    return true;
  }

  bool name() {
    std::size_t end = at_;
    for (std::size_t at = at_; at < source_.size(); end = at)
      if (!is_identifier(decode(source_, at), end == at_)) break;
    if (end == at_) return false;
    push(Token::name, source_.substr(at_, end - at_));
    move_to(end);
    return true;
  }

  bool string() {
    const char quote = source_[at_];
    if (quote != '\'' && quote != '"') return false;
    std::size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    check(end < source_.size(), "a string has no closing ", quote);
    const std::string_view body = source_.substr(at_ + 1, end - at_ - 1);
    push(Token::string, {}, body.find('\\') == body.npos ? make_text(body) : keep_text(run_, unescaped(body)));
    move_to(end + 1);
    return true;
  }

  static std::string unescaped(std::string_view body) {
    std::string out;
    for (std::size_t i = 0; i < body.size(); ++i) {
      if (body[i] != '\\' || i + 1 == body.size()) {
        out += body[i];
        continue;
      }
      const char c = body[++i];
      constexpr std::string_view letters = "abfnrtv\\'\"\n";
      constexpr std::string_view meanings = "\a\b\f\n\r\t\v\\'\"";
      const std::size_t hex_digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
      if (const std::size_t known = letters.find(c); known != letters.npos) {
        if (c != '\n') out += meanings[known];
      } else if (hex_digits > 0) {
        const std::string_view hex = body.substr(i + 1, hex_digits);
        char32_t point = 0xFFFFFFFF;
        std::uint32_t parsed = 0;
        if (std::from_chars(hex.data(), hex.data() + hex.size(), parsed, 16).ptr == hex.data() + hex_digits)
          point = parsed;
        check(point <= 0x10FFFF && (point < 0xD800 || point > 0xDFFF), "'\\", c, hex,
              "' in a string is not a character");
        encode(out, point);
        i += hex_digits;
      } else if (c >= '0' && c <= '7') {
        char32_t point = 0;
        std::size_t end = i;
        for (; end < i + 3 && end < body.size() && body[end] >= '0' && body[end] <= '7'; ++end)
          point = point * 8 + static_cast<char32_t>(body[end] - '0');
        encode(out, point);
        i = end - 1;
      } else {
        check(c != 'N', "a character by its name, '\\N{...}', is not supported");
        if (static_cast<unsigned char>(c) < 0x80) {
          (out += '\\') += c;
        } else {  // as in Python: it becomes an escape sequence, whose backslash the one before escapes
          append_escape(out, decode(body, i));
          --i;
        }
      }
    }
    return out;
  }

  void symbol(std::string& open) {
    for (const std::string_view two : {"//", "**", "==", "!=", ">=", "<="}) {
      if (!has(two, at_)) continue;
      push(Token::symbol, source_.substr(at_, 2));
      return move_to(at_ + 2);
    }
    const char c = source_[at_];
    std::size_t end = at_;
    decode(source_, end);
    check(std::string_view("+-/*%~[](){}><=.:|,;").find(c) != std::string_view::npos, "the character '",
          source_.substr(at_, end - at_), "' has no meaning here");
    if (c == '(' || c == '[' || c == '{') open.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    if (c == ')' || c == ']' || c == '}') {
      check(!open.empty() && open.back() == c, "'", c, "' has no matching opening bracket");
      open.pop_back();
    }
    push(Token::symbol, source_.substr(at_, 1));
    move_to(at_ + 1);
  }

  Run& run_;
  std::string_view source_;
  int& line_;
  std::size_t at_ = 0;
  std::vector<Token> tokens_;
};

}  // namespace kto::jinja
