// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "catch.hpp"
#include "kto/io/json.hpp"

TEST_CASE("an integer is taken only where one is written and fits", "[json]") {
  const auto as_int = [](const char* text) { return kto::json_as<std::int64_t>(kto::parse_json(text, "file")); };
  CHECK(as_int("7") == 7);
  CHECK(as_int("-9223372036854775808") == std::numeric_limits<std::int64_t>::min());
  for (const char* other : {"9223372036854775808", "7.0", "6.66667e+40", "true", "null", "\"7\"", "[7]"}) {
    CAPTURE(other);
    CHECK_FALSE(as_int(other));
  }
  CHECK(kto::json_as<std::int32_t>(kto::Json(2147483647)) == 2147483647);
  CHECK_FALSE(kto::json_as<std::int32_t>(kto::Json(2147483648)));
  CHECK_FALSE(kto::json_as<std::size_t>(kto::Json(-1)));
  CHECK(kto::json_as<double>(kto::Json(7)) == 7.0);
  CHECK_FALSE(kto::json_as<bool>(kto::Json(1)));
}

TEST_CASE("a list of integers is taken whole or not at all", "[json]") {
  const auto as_list = [](const char* text) {
    return kto::json_as<std::vector<std::int64_t>>(kto::parse_json(text, "file"));
  };
  CHECK(as_list("[1, 2]") == std::vector<std::int64_t>{1, 2});
  CHECK(as_list("[]") == std::vector<std::int64_t>{});
  for (const char* other : {"[1, 1e40]", "[1, 2.5]", "{\"a\": 1}", "1", "[[1]]"}) {
    CAPTURE(other);
    CHECK_FALSE(as_list(other));
  }
}
