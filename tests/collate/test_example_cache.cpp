// SPDX-License-Identifier: Apache-2.0
// Tokenized rows kept on disk: they come back whole, under a key that any change of what they depend on changes.
#include <set>

#include "catch.hpp"
#include "kto/collate/example_cache.hpp"
#include "tests/data/temporary_folder.hpp"

using kto_test::error_of;
using kto_test::TemporaryFolder;
namespace fs = std::filesystem;

TEST_CASE("cached rows come back as they were; a damaged or foreign file says so") {
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
  const fs::path file = kto::cache_path(folder.path() / "new", "key");
  fs::copy(file, kto::cache_path(folder.path() / "new", "other"));
  CHECK_THAT(error_of([&] { kto::read_example_cache(folder.path() / "new", "other"); }),
             KTO_CONTAINS("its key is key"));
  std::string bytes = kto::read_file(file);
  bytes[bytes.size() - 3] = static_cast<char>(bytes[bytes.size() - 3] ^ 1);
  kto::write_file(file, bytes);
  CHECK_THAT(error_of([&] { kto::read_example_cache(folder.path() / "new", "key"); }), KTO_CONTAINS("damaged"));
  kto::write_file(file, bytes.substr(0, bytes.size() / 2));
  CHECK_FALSE(error_of([&] { kto::read_example_cache(folder.path() / "new", "key"); }).empty());
  kto::write_cache(folder.path(), "key", {"another format", {}}, {});
  CHECK_THAT(error_of([&] { kto::read_example_cache(folder.path(), "key"); }), KTO_CONTAINS("another format"));
}

TEST_CASE("the key of cached rows is of files, tokenizer, template and what is taken") {
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
