// SPDX-License-Identifier: Apache-2.0
// Tokenized rows kept on disk: they come back whole, under a key that any change of what they depend on changes.
#include <set>

#include "catch.hpp"
#include "kto/collate/example_cache.hpp"
#include "kto/reference/cache.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_example_cache {

using kto_test::error_of;
using kto_test::TemporaryFolder;
namespace fs = std::filesystem;

TEST_CASE("cached rows come back as they were") {
  const TemporaryFolder folder;
  kto::Encoded rows;
  rows.examples = {{{1, 2, 3}, {4}, true, 7}, {{}, {5, 6}, false, 8}, {{9}, {10, 11, 12}, true, 8}};
  rows.notes = {"a note", "another, with \"quotes\""};
  CHECK_FALSE(kto::read_example_cache(folder.path(), "key"));
  kto::write_example_cache(folder.path() / "new", "key", rows);
  const auto back = kto::read_example_cache(folder.path() / "new", "key");
  REQUIRE(back);
  CHECK(back->notes == rows.notes);
  REQUIRE(back->examples.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(back->examples[i].prompt_ids == rows.examples[i].prompt_ids);
    CHECK(back->examples[i].completion_ids == rows.examples[i].completion_ids);
    CHECK(back->examples[i].label == rows.examples[i].label);
    CHECK(back->examples[i].row == rows.examples[i].row);
  }
}

TEST_CASE("a cache entry that is damaged, of another key, of another format or misshapen is an Error") {
  const TemporaryFolder folder;
  kto::Encoded rows;
  rows.examples = {{{1, 2, 3}, {4}, true, 7}, {{}, {5, 6}, false, 8}};
  struct Kind {
    kto::CacheFormat format;
    std::function<void()> write;
    std::function<bool(const std::string& key)> read;
  };
  const std::vector<kto::RowLogps> logps{{-1.5, -2.5}, {-3, 1e-300}};
  const std::vector<Kind> kinds{
      {kto::detail::example_cache_format(), [&] { kto::write_example_cache(folder.path(), "key", rows); },
       [&](const std::string& key) { return kto::read_example_cache(folder.path(), key).has_value(); }},
      {kto::detail::reference_cache_format(), [&] { kto::write_reference_cache(folder.path(), "key", logps); },
       [&](const std::string& key) { return kto::read_reference_cache(folder.path(), key, 2).has_value(); }}};
  const fs::path file = kto::cache_path(folder.path(), "key"), moved = kto::cache_path(folder.path(), "yek");
  for (const Kind& kind : kinds) {
    fs::remove(file);
    CHECK_FALSE(kind.read("key"));
    kind.write();
    CHECK(kind.read("key"));
    const std::string whole = kto::read_file(file);
    const auto refusal = [&](const std::string& content) {
      kto::write_file(file, content);
      return error_of([&] { kind.read("key"); });
    };
    for (std::size_t at = 0; at < whole.size(); ++at) {
      INFO("byte " << at << " of " << whole.size());
      std::string flipped = whole;
      flipped[at] = static_cast<char>(flipped[at] ^ 1);
      CHECK(refusal(flipped) != "");
      CHECK(refusal(whole.substr(0, at)) != "");
    }
    CHECK_THAT(refusal(whole + "x"), KTO_CONTAINS("unused bytes"));

    kto::write_file(moved, whole);
    CHECK_THAT(error_of([&] { kind.read("yek"); }), KTO_CONTAINS("its key is key"));
    std::string renamed = whole;
    renamed.replace(renamed.find("\"key\":\"key\"") + 7, 3, "yek");
    kto::write_file(moved, renamed);
    CHECK_THAT(error_of([&] { kind.read("yek"); }), KTO_CONTAINS("its content is damaged"));

    const kto::SafetensorsFile stored = (kto::write_file(file, whole), kto::SafetensorsFile(file));
    std::vector<std::pair<std::string, kto::Tensor>> tensors;
    for (const std::string& name : kind.format.tensors) tensors.emplace_back(name, stored.tensor(name).clone());
    const auto stored_as = [&](auto format, const auto& content) {
      kto::write_cache(folder.path(), "key", format, content, {{"notes", "[]"}});
      return error_of([&] { kind.read("key"); });
    };
    CHECK(stored_as(kind.format, tensors) == "");
    auto older = kind.format;
    older.format.back() = '1';
    CHECK_THAT(stored_as(older, tensors), KTO_CONTAINS("its format is " + older.format));
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      INFO(tensors[i].first);
      auto others = tensors;
      others[i].second = tensors[i].second.to(at::kFloat);
      CHECK_THAT(stored_as(kind.format, others), KTO_CONTAINS("does not match its name"));
      others[i].second = at::cat({tensors[i].second, tensors[i].second});
      CHECK_THAT(stored_as(kind.format, others), KTO_CONTAINS("does not match its name"));
      others.erase(others.begin() + static_cast<std::ptrdiff_t>(i));
      CHECK_THAT(stored_as(kind.format, others), KTO_CONTAINS("it has no " + tensors[i].first));
    }

    fs::remove(file);
    fs::create_directory(file);
    CHECK_THAT(error_of([&] { kind.read("key"); }), KTO_CONTAINS("a folder"));
    CHECK_THAT(error_of([&] { kto::check_cache_place(folder.path(), "key"); }), KTO_CONTAINS("expected a cache file"));
    fs::remove(file);
  }
  const fs::path plain = folder.write("plain", "");
  CHECK_THAT(error_of([&] { kto::check_cache_place(plain, "key"); }), KTO_CONTAINS("is a file, not a folder"));
  CHECK(error_of([&] { kto::check_cache_place(folder.path() / "new" / "one", "key"); }) == "");
}

TEST_CASE("the key of cached rows covers files, tokenizer, template and the selected rows") {
  const TemporaryFolder folder;
  const auto rows = folder.write("rows.jsonl", "{}\n"), more = folder.write("more.jsonl", "{}\n");
  folder.write("model/tokenizer.json", "{}");
  const fs::path model = folder.path() / "model";
  std::set<std::string> keys;
  const auto is_new = [&](const std::vector<kto::RowFiles>& parts) {
    return keys.insert(kto::example_cache_key(parts, model)).second;
  };
  CHECK(is_new({{.files = {rows}}}));
  CHECK_FALSE(is_new({{.files = {rows}}}));
  CHECK(is_new({{.files = {rows, more}}}));
  CHECK(is_new({{.files = {rows}}, {.files = {more}}}));
  CHECK(is_new({{.files = {rows}, .max_rows = 3}}));
  CHECK(is_new({{.files = {rows}, .first_row = 1, .max_rows = 3}}));
  CHECK(is_new({{.files = {rows}, .format = kto::DataFormat::csv}}));
  CHECK(is_new({{.files = {rows}, .notes = {"another file is left out"}}}));  // kept with the rows
  CHECK(is_new({{.files = {rows}, .columns = {"prompt"}}}));
  for (const auto& [name, content] : {std::pair("rows.jsonl", "{ }\n"), std::pair("model/tokenizer.json", "{ }"),
                                      std::pair("model/chat_template.jinja", "{{ messages }}"),
                                      std::pair("model/chat_template.jinja", "{{ strftime_now('%d') }}"),
                                      std::pair("model/additional_chat_templates/tool_use.jinja", "x")}) {
    INFO(name);
    folder.write(name, content);
    CHECK(is_new({{.files = {rows}}}));
  }
}

}  // namespace test_example_cache
