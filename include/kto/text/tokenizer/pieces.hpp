// SPDX-License-Identifier: Apache-2.0
// A text split into pieces, which the pre-tokenizer passes to the model, and the splitting itself.
#pragma once

#include <cstddef>
#include <ranges>
#include <string>
#include <string_view>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/text/regex/regex.hpp"

namespace kto::tok {

struct Span {
  std::size_t begin, end;
};

/// Pieces of one text, in order. Text between them is dropped.
struct Pieces {
  std::string text;
  std::vector<Span> spans;
  std::size_t head = 0;  ///< bytes at the start of the text that come from the first character of the whole input

  std::string_view operator[](Span span) const {
    return std::string_view(text).substr(span.begin, span.end - span.begin);
  }
};

/// What happens to the matches of the splitting pattern.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

inline SplitBehavior split_behavior(std::string_view name, std::string_view where) {
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  fail(where, ": the behavior \"", name, "\" is not one of Removed, Isolated, MergedWithPrevious, MergedWithNext, ",
       "Contiguous");
}

/// Splits pieces at the matches of a pattern, or between them with `invert`.
class Splitter {
 public:
  Splitter(Regex pattern, SplitBehavior behavior, bool invert = false)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void operator()(Pieces& pieces) const {
    std::vector<Span> spans;
    spans.reserve(pieces.spans.size() + pieces.text.size() / 4);
    std::vector<Part> parts;
    for (const Span span : pieces.spans) {
      if (span.begin == span.end) continue;
      parts.clear();
      const auto add = [&](std::size_t begin, std::size_t end, bool is_match) {
        parts.push_back({span.begin + begin, span.begin + end, is_match != invert_});
      };
      std::size_t last = 0;
      pattern_.for_each_match(pieces[span], [&](std::size_t begin, std::size_t end) {
        if (last != begin) add(last, begin, false);
        add(begin, end, true);
        last = end;
      });
      if (last != span.end - span.begin) add(last, span.end - span.begin, false);
      keep(parts, spans);
    }
    pieces.spans = std::move(spans);
  }

 private:
  struct Part {
    std::size_t begin, end;
    bool is_match;
  };

  void keep(const std::vector<Part>& parts, std::vector<Span>& spans) const {
    const std::size_t first = spans.size();
    const auto emit = [&](const Part& part) { spans.push_back({part.begin, part.end}); };
    bool previous = false;
    switch (behavior_) {
      case SplitBehavior::isolated:
        for (const Part& part : parts) emit(part);
        break;
      case SplitBehavior::removed:
        for (const Part& part : parts)
          if (!part.is_match) emit(part);
        break;
      case SplitBehavior::contiguous:
      case SplitBehavior::merged_with_previous:
        for (const Part& part : parts) {
          const bool joins =
              behavior_ == SplitBehavior::contiguous ? part.is_match == previous : part.is_match && !previous;
          if (joins && spans.size() > first)
            spans.back().end = part.end;
          else
            emit(part);
          previous = part.is_match;
        }
        break;
      case SplitBehavior::merged_with_next:
        for (const Part& part : std::views::reverse(parts)) {
          if (part.is_match && !previous && spans.size() > first)
            spans.back().begin = part.begin;
          else
            emit(part);
          previous = part.is_match;
        }
        std::reverse(spans.begin() + static_cast<std::ptrdiff_t>(first), spans.end());
        break;
    }
    const auto is_empty = [](const Span& span) { return span.begin == span.end; };
    spans.erase(std::remove_if(spans.begin() + static_cast<std::ptrdiff_t>(first), spans.end(), is_empty), spans.end());
  }

  Regex pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

}  // namespace kto::tok
