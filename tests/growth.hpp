// SPDX-License-Identifier: Apache-2.0
// The cost of parsing external text: for twice the size at most 2.5 times the time, and a limit on bytes of memory per
// byte.
#pragma once

#include <malloc.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <limits>
#include <string>

#include "catch.hpp"

namespace growth {

/// Bytes that operator new gave out and the most of them at a time, where a test program counts them.
extern std::atomic<std::size_t> allocated, peak;

using Work = std::function<void()>;

struct Parser {
  const char* name;
  double bytes_a_byte;                            ///< at most, at its highest
  std::function<Work(std::size_t size)> of_size;  ///< makes what reads an input of `size` bytes
  std::size_t size = 50'000;                      ///< the least; also twice and four times as much are read
};

constexpr double limit = 2.5;  ///< of the time of twice the size, in times

/// `text` so often that it is `size` bytes long.
inline std::string repeated(const std::string& text, std::size_t size) {
  std::string out;
  while (out.size() < size) out += text;
  return out;
}

/// `count` texts, each made of its number and put behind the one before.
inline std::string listed(std::size_t count, const std::function<std::string(const std::string&)>& one,
                          const char* between = ",") {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += (i > 0 ? between : "") + one(std::to_string(i));
  return out;
}

inline double seconds_of(const Work& work) {
  const std::clock_t start = std::clock();  // of this process: other programs cost it no more than its caches
  work();
  return std::max(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 1e-4);
}

/// What twice the size takes, in times: the less of n to 2n and 2n to 4n, of which a step from one cache into the next
/// spoils one, where a parser that is quadratic takes 4 times in both. Of each size the quickest of several tries.
inline double ratio_of(const std::array<Work, 3>& works) {
  std::array<double, 3> seconds;
  seconds.fill(std::numeric_limits<double>::infinity());
  double ratio = 0;
  for (int i = 0; i < 24 && (i < 3 || ratio > limit); ++i) {
    for (std::size_t k = 0; k < works.size(); ++k) seconds[k] = std::min(seconds[k], seconds_of(works[k]));
    ratio = std::min(seconds[1] / seconds[0], seconds[2] / seconds[1]);
  }
  return ratio;
}

inline std::array<Work, 3> works_of(const Parser& parser) {
  ::mallopt(M_MMAP_MAX, 0);  // what was freed is used again: no time goes into new pages
  ::mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  return {parser.of_size(parser.size), parser.of_size(2 * parser.size), parser.of_size(4 * parser.size)};
}

inline void check_growth(const Parser& parser) {
  const std::array<Work, 3> works = works_of(parser);
  const double ratio = ratio_of(works);
  const std::size_t before = allocated;
  peak = before;
  works[1]();
  const double bytes_a_byte = static_cast<double>(peak - before) / static_cast<double>(2 * parser.size);
  INFO(parser.name << ": time of twice the size " << ratio << ", bytes a byte " << bytes_a_byte);
  if (std::getenv("KTO_SHOW_GROWTH") != nullptr)
    std::printf("%-60s %5.2f times, %6.1f bytes a byte\n", parser.name, ratio, bytes_a_byte);
  CHECK(ratio <= limit);
  CHECK(bytes_a_byte <= parser.bytes_a_byte);
}

}  // namespace growth
