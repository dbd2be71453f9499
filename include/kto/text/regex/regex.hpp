// SPDX-License-Identifier: Apache-2.0
// A compiled PCRE2 pattern, and iteration over its matches with the same rules as Oniguruma in Hugging Face's
// tokenizers.
#pragma once

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "kto/core/error.hpp"
#include "kto/text/regex/code_points.hpp"

namespace kto::tok {

struct Pcre2Free {
  void operator()(pcre2_code_8* p) const { pcre2_code_free_8(p); }
  void operator()(pcre2_match_data_8* p) const { pcre2_match_data_free_8(p); }
  void operator()(pcre2_match_context_8* p) const { pcre2_match_context_free_8(p); }
  void operator()(pcre2_compile_context_8* p) const { pcre2_compile_context_free_8(p); }
  void operator()(pcre2_jit_stack_8* p) const { pcre2_jit_stack_free_8(p); }
};
template <class T>
using Pcre2Ptr = std::unique_ptr<T, Pcre2Free>;

inline std::string pcre2_message(int code) {
  char text[256] = {};
  pcre2_get_error_message_8(code, reinterpret_cast<PCRE2_UCHAR8*>(text), sizeof text);
  return text;
}

/// What one thread needs to run any pattern; nothing of a match is left in it for the next.
struct MatchRoom {
  Pcre2Ptr<pcre2_match_data_8> data{pcre2_match_data_create_8(1, nullptr)};
  Pcre2Ptr<pcre2_match_context_8> context{pcre2_match_context_create_8(nullptr)};
  Pcre2Ptr<pcre2_jit_stack_8> stack{pcre2_jit_stack_create_8(std::size_t{1} << 16, std::size_t{1} << 24, nullptr)};

  MatchRoom() {
    check(data && context, "out of memory");
    if (stack) pcre2_jit_stack_assign_8(context.get(), nullptr, stack.get());
  }
  static MatchRoom& of_this_thread() {
    thread_local MatchRoom room;
    return room;
  }
};

/// A pattern in PCRE2's syntax over UTF-8 text: `^` and `$` match at lines, `.` matches all but the line feed.
class Regex {
 public:
  /// Throws Error naming `where` if PCRE2 rejects the pattern.
  Regex(const std::string& pattern, std::string_view where) : where_(where) {
    const Pcre2Ptr<pcre2_compile_context_8> context(pcre2_compile_context_create_8(nullptr));
    check(context != nullptr, "out of memory");
    pcre2_set_newline_8(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE at = 0;
    code_.reset(pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(pattern.data()), pattern.size(),
                                PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &at, context.get()));
    if (code_ == nullptr)
      fail(where, ": the regular expression is not supported: ", pcre2_message(error), " (near \"",
           pattern.substr(std::min(at, pattern.size()), 20), "\")");
    has_jit_ = pcre2_jit_compile_8(code_.get(), PCRE2_JIT_COMPLETE) == 0;
  }

  /// Calls visit(begin, end) for each match in `text`, from left to right. An empty match directly after another match
  /// is skipped.
  template <class Visit>
  void for_each_match(std::string_view text, Visit visit) const {
    std::size_t at = 0, last_end = std::string_view::npos;
    while (at <= text.size()) {
      std::size_t begin = 0, end = 0;
      if (!find(text, at, begin, end)) return;
      if (begin == end && end == last_end) {
        at += at < text.size() ? utf8_length(text[at]) : 1;
        continue;
      }
      at = last_end = end;
      visit(begin, end);
    }
  }

  bool matches_in(std::string_view text) const {
    std::size_t begin = 0, end = 0;
    return find(text, 0, begin, end);
  }

 private:
  bool find(std::string_view text, std::size_t from, std::size_t& begin, std::size_t& end) const {
    const MatchRoom& room = MatchRoom::of_this_thread();
    const auto* subject = reinterpret_cast<PCRE2_SPTR8>(text.data());
    const int found = has_jit_ ? pcre2_jit_match_8(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                                                   room.data.get(), room.context.get())
                               : pcre2_match_8(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                                               room.data.get(), room.context.get());
    if (found == PCRE2_ERROR_NOMATCH) return false;
    if (found < 0) fail(where_, ": the regular expression gave up on the text: ", pcre2_message(found));
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer_8(room.data.get());
    begin = ends[0];
    end = ends[1];
    return true;
  }

  std::string where_;
  Pcre2Ptr<pcre2_code_8> code_;
  bool has_jit_ = false;
};

}  // namespace kto::tok
