// SPDX-License-Identifier: Apache-2.0
#include <limits>
#include <random>

#include "catch.hpp"
#include "kto/io/json.hpp"

namespace test_json {

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

TEST_CASE("objects keep their order, whatever is done to them, and any number of keys", "[json]") {
  std::mt19937 random(3);
  for (const std::size_t num_keys : {5, 40, 700}) {
    kto::Json json = kto::Json::object();
    nlohmann::ordered_json other = nlohmann::ordered_json::object();  // looks at one key after another
    for (int step = 0; step < 3000; ++step) {
      const std::string key = "key " + std::to_string(random() % num_keys);
      switch (random() % 6) {
        case 0:
          CHECK(json.erase(key) == other.erase(key));
          break;
        case 1:
          CHECK(json.contains(key) == other.contains(key));
          break;
        case 2:
          CHECK(json.value(key, 0) == other.value(key, 0));
          break;
        default:
          json[key] = step;
          other[key] = step;
      }
    }
    CHECK(json.dump() == other.dump());
    const kto::Json copy = json;
    kto::Json moved = std::move(json);
    CHECK(copy == moved);
    CHECK(copy == kto::parse_json(other.dump(), "file"));
    moved.update(kto::Json{{"key 1", true}, {"new", 1}});
    CHECK(moved["key 1"] == true);
    CHECK(std::prev(moved.end()).key() == "new");
    moved.erase(moved.begin());
    CHECK((num_keys == 5 || moved.at(std::next(copy.begin()).key()) == std::next(copy.begin()).value()));
    moved.clear();
    for (std::size_t i = 0; i < num_keys; ++i) moved["again " + std::to_string(i)] = i;
    CHECK(moved.size() == num_keys);
  }
}

}  // namespace test_json
