// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"
#include "kto/core/terminal.hpp"

namespace test_terminal {

TEST_CASE("Text from outside cannot steer a terminal", "[core]") {
  using kto::printable;
  struct {
    std::string text, shown;
  } const cases[] = {
      {"plain text, \xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80\n\ttabs stay",
       "plain text, \xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80\n\ttabs stay"},
      {"\x1b]0;title\x07", "\\x1B]0;title\\x07"},
      {std::string("a\0b\r\x7f", 5), "a\\x00b\\x0D\\x7F"},
      {"\xC2\x9B"
       "31m",
       "\\u009B31m"},  // CSI of C1
      {"\xE2\x80\xAE"
       "cba\xE2\x80\xAC \xE2\x81\xA7",
       "\\u202Ecba\\u202C \\u2067"},                                      // override, pop, isolate
      {"\xD8\x9C \xE2\x80\x8F \xE2\x80\xA8", "\\u061C \\u200F \\u2028"},  // marks, a separator of lines
      {"\x9b"
       "31m \xE2\x80",
       "\\x9B31m \\xE2\\x80"},  // no UTF-8: a stray byte, one cut off
      {"\xED\xA0\x80 \xF4\x90\x80\x80 \xC0\xAF", "\\xED\\xA0\\x80 \\xF4\\x90\\x80\\x80 \\xC0\\xAF"},
      {"a \xE2\x80\x8D joiner stays", "a \xE2\x80\x8D joiner stays"},  // emoji are made with it
  };
  for (const auto& [text, shown] : cases) CHECK(printable(text) == shown);
  CHECK(printable("say \"hi\"\n\\o/\t\x1b", /*one_line=*/true) == "say \\\"hi\\\"\\n\\\\o/\\t\\x1B");
}

TEST_CASE("Programs show an error without LibTorch's backtrace", "[core]") {
  const std::runtime_error plain("two\nlines"),
      torch("what failed\nmore\nException raised from f at g.cpp:1 (most ...):\nframe #0");
  CHECK(kto::error_text(plain) == "two\nlines");
  CHECK(kto::error_text(torch) == "what failed");

  std::ostringstream out;
  std::streambuf* const terminal = std::cerr.rdbuf(out.rdbuf());
  const int one = kto::report_error("name", kto::Error("a\x1b[31m")),
            two = kto::report_error("name", kto::UsageError("b"));
  std::cerr.rdbuf(terminal);
  CHECK(one == 1);
  CHECK(two == 2);
  CHECK(out.str() == "name: error: a\\x1B[31m\nname: error: b\n");
}

}  // namespace test_terminal
