// SPDX-License-Identifier: Apache-2.0
// Which rows of a folder are read, compared with Hugging Face's load_dataset on the same folders
// (tests/golden/data/make_layout_cases.py). The one difference, on the safe side, is that a file belongs to only one
// split (see test_files.cpp); and a split that load_dataset does not find, or refuses the folder for, may be found
// here, but never in what is another split's.
#include <map>
#include <set>

#include "catch.hpp"
#include "kto/data/rows.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_layouts {

using kto::Json;
using kto_test::error_of;
using kto_test::TemporaryFolder;

namespace {

using Names = std::vector<std::string>;
constexpr std::size_t num_rows = 3;

bool is_text(const std::string& name) {
  return name.ends_with(".jsonl") || name.ends_with(".json") || name.ends_with(".csv") || name.ends_with(".tsv") ||
         name.ends_with(".ndjson");
}

std::string content_of(const std::string& name) {
  const bool is_csv = name.ends_with(".csv"), is_tsv = name.ends_with(".tsv"), is_array = name.ends_with(".json");
  std::string out = is_csv ? "prompt,completion,label\n" : is_tsv ? "prompt\tcompletion\tlabel\n" : is_array ? "[" : "";
  for (std::size_t i = 0; i < num_rows; ++i) {
    const std::string prompt = kto::concat(name, '#', i), sep = is_tsv ? "\t" : ",";
    if (is_csv || is_tsv)
      out += prompt + sep + "c" + sep + "true\n";
    else
      out +=
          (is_array && i > 0 ? "," : "") + Json{{"prompt", prompt}, {"completion", "c"}, {"label", true}}.dump() + "\n";
  }
  return is_array ? out + "]" : out;
}

/// A name of a whole file as its rows.
Names unfolded(const Json& given) {
  Names out;
  for (const Json& item : given) {
    const auto name = item.get<std::string>();
    if (name.find('#') != std::string::npos)
      out.push_back(name);
    else
      for (std::size_t i = 0; i < num_rows; ++i) out.push_back(kto::concat(name, '#', i));
  }
  return out;
}

kto::DataSource source_of(const TemporaryFolder& folder, const Json& asked) {
  kto::DataSource source{.path = folder.path()};
  source.config = asked.value("config", "");
  source.data_dir = asked.value("data_dir", "");
  if (asked.contains("data_files")) source.data_files = kto::parse_data_files(asked["data_files"], "asked");
  return source;
}

/// The rows that kto reads: "NAME#i"; of files that this program cannot read, all of each. Throws Error.
Names rows_of(const kto::DataSource& source) {
  Names out;
  for (const kto::RowFiles& part : kto::row_files(source)) {
    Names names;
    bool is_read = true;
    for (const auto& file : part.files) {
      const std::string name = file.lexically_normal().lexically_relative(source.path.lexically_normal());
      is_read = is_read && is_text(name);
      for (std::size_t i = 0; i < num_rows; ++i) names.push_back(kto::concat(name, '#', i));
    }
    if (is_read) {
      const auto set = kto::read_rows({part}, "part");
      names.clear();
      for (const kto::Row& row : set.rows) names.push_back(row.prompt);
    }
    out.insert(out.end(), names.begin(), names.end());
  }
  return out;
}

}  // namespace

TEST_CASE("layouts: the rows that load_dataset reads of the same folders", "[data]") {
  const Json cases = kto::read_json(std::string(KTO_SOURCE_DIR) + "/tests/golden/data/layout_cases.json");
  CHECK(cases.size() > 300);
  for (const Json& layout : cases) {
    const TemporaryFolder folder;
    for (const Json& name : layout["files"])
      folder.write(name, is_text(name.get<std::string>()) ? content_of(name.get<std::string>()) : "");
    for (const auto& [name, text] : layout["texts"].items()) folder.write(name, text.get<std::string>());
    for (const Json& asked : layout["asked"]) {
      INFO(layout["files"].dump() << " " << layout["texts"].dump() << "\n" << asked.dump());
      kto::DataSource source = source_of(folder, asked);
      const Json& given = asked["given"];
      std::map<std::string, std::set<std::string>> splits_of;  // of each row
      if (given.is_object())
        for (const auto& [split, rows] : given.items())
          for (const std::string& row : unfolded(rows)) splits_of[row].insert(split);
      Names splits{"train", "test", "validation"};
      if (asked.contains("split")) splits = {asked["split"]};
      if (given.is_object())
        for (const auto& [split, rows] : given.items())
          if (std::ranges::find(splits, split) == splits.end()) splits.push_back(split);
      for (const std::string& split : splits) {
        INFO(split);
        source.split = split;
        Names got;
        const std::string error = error_of([&] { got = rows_of(source); });
        INFO(error);
        if (given.is_object() && given.contains(split) && !given[split].empty()) {
          Names want = unfolded(given[split]);
          CHECK(got == want);
        } else {
          for (const std::string& row : got) CHECK(splits_of[row].empty());
        }
      }
    }
  }
}

}  // namespace test_layouts
