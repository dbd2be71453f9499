// SPDX-License-Identifier: Apache-2.0
// Parquet: columns of Arrow's types as the rows that JSON Lines would give, and columns that no row uses.
// Arrow 21 and later make arrays of text so.
#if __has_include(<arrow/json/from_string.h>)
#include <arrow/extension/json.h>
#include <arrow/ipc/writer.h>
#include <arrow/json/from_string.h>
#include <parquet/arrow/writer.h>

#include "catch.hpp"
#include "kto/data/parquet.hpp"
#include "kto/data/rows.hpp"
#include "tests/data/temporary_folder.hpp"

using kto::Json;
using kto_test::error_of;
using kto_test::TemporaryFolder;

namespace {

struct Column {
  std::string name;
  std::shared_ptr<arrow::DataType> type;
  std::string values;  ///< a JSON array, in Arrow's way of writing it
};

/// `type` with text instead of JSON.
std::shared_ptr<arrow::DataType> stored(const std::shared_ptr<arrow::DataType>& type) {
  if (type->id() == arrow::Type::EXTENSION) return static_cast<const arrow::ExtensionType&>(*type).storage_type();
  if (type->id() == arrow::Type::LIST) return arrow::list(stored(type->field(0)->type()));
  if (type->id() != arrow::Type::STRUCT) return type;
  arrow::FieldVector fields;
  for (const auto& field : type->fields()) fields.push_back(field->WithType(stored(field->type())));
  return arrow::struct_(fields);
}
/// The same array as one of `type`, whose stored() it is of.
std::shared_ptr<arrow::ArrayData> retyped(const arrow::ArrayData& array, const std::shared_ptr<arrow::DataType>& type) {
  auto out = array.Copy();
  out->type = type;
  for (std::size_t i = 0; i < out->child_data.size(); ++i)
    out->child_data[i] = retyped(*out->child_data[i], type->field(static_cast<int>(i))->type());
  return out;
}

/// A Parquet file with these columns. With `keep_types` it has Arrow's types beside Parquet's.
kto::fs::path write(const TemporaryFolder& folder, const std::vector<Column>& columns, bool keep_types = true) {
  arrow::FieldVector fields;
  arrow::ArrayVector arrays;
  for (const Column& column : columns) {
    fields.push_back(arrow::field(column.name, column.type));
    const auto array = arrow::json::ArrayFromJSONString(stored(column.type), column.values);
    INFO(array.status().ToString());
    REQUIRE(array.ok());
    arrays.push_back(arrow::MakeArray(retyped(*(*array)->data(), column.type)));
  }
  const auto path = folder.path() / "rows.parquet";
  const auto file = *arrow::io::FileOutputStream::Open(path.string());
  parquet::ArrowWriterProperties::Builder properties;
  if (keep_types) properties.store_schema();
  const auto written =
      parquet::arrow::WriteTable(*arrow::Table::Make(arrow::schema(fields), arrays), arrow::default_memory_pool(), file,
                                 1024, parquet::default_writer_properties(), properties.build());
  INFO(written.ToString());
  REQUIRE(written.ok());
  REQUIRE(file->Close().ok());
  return path;
}

kto::RowSet read_rows(const auto&... arguments) {
  kto::enable_parquet();
  return kto::read_rows(arguments...);
}

const Column prompts{"prompt", arrow::utf8(), R"(["a", "b"])"};
const Column completions{"completion", arrow::utf8(), R"(["c", "d"])"};
const Column labels{"label", arrow::boolean(), "[true, false]"};

}  // namespace

TEST_CASE("parquet: a program that includes the header reads none before it says so", "[data]") {  // so the first here
  const TemporaryFolder folder;
  const auto file = write(folder, {prompts, completions, labels});
  CHECK_THAT(error_of([&] { kto::read_rows(file); }), KTO_CONTAINS("calls kto::enable_parquet()"));
  CHECK(read_rows(file).rows.size() == 2);
}

TEST_CASE("parquet: messages, tools and variables of the type JSON, as datasets writes them", "[data]") {
  const TemporaryFolder folder;
  const auto json = arrow::extension::json();
  const auto message = arrow::struct_({arrow::field("role", arrow::utf8()), arrow::field("content", arrow::utf8())});
  const std::vector<Column> columns{
      {"prompt", arrow::list(message), R"([[["user", "w?"]], [["user", "v?"]]])"},
      {"completion", arrow::list(json),
       R"([["{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}}}]}"],)"
       R"(["{\"role\":\"assistant\",\"content\":\"\u00e9\"}"]])"},
      labels,
      {"tools", arrow::list(arrow::struct_({arrow::field("name", arrow::utf8()), arrow::field("parameters", json)})),
       R"([[["f", "{\"type\":\"object\"}"]], null])"},
      {"chat_template_kwargs", json, R"([null, "{\"enable_thinking\":true}"])"}};
  for (const bool keep_types : {true, false}) {
    const auto rows = read_rows(write(folder, columns, keep_types)).rows;
    REQUIRE(rows.size() == 2);
    CHECK(rows[0].prompt == Json::parse(R"([{"role": "user", "content": "w?"}])"));
    CHECK(rows[0].completion ==
          Json::parse(R"([{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":{"a":1}}}]}])"));
    CHECK(rows[0].tools == Json::parse(R"([{"name": "f", "parameters": {"type": "object"}}])"));
    CHECK(rows[0].chat_template_kwargs == Json::object());
    CHECK(rows[1].completion[0]["content"] == "\xC3\xA9");
    CHECK(rows[1].tools.is_null());
    CHECK(rows[1].chat_template_kwargs == Json::parse(R"({"enable_thinking": true})"));
  }

  auto broken = columns;
  for (const std::string& value : {std::string("{"), std::string("1e999"), std::string(1000, '[')}) {
    broken.back().values = R"([null, ")" + value + R"("])";
    const auto file = write(folder, broken);
    CHECK(error_of([&] { read_rows(file); }).find(file.string() + ": line 2: the column chat_template_kwargs ") == 0);
  }
}

TEST_CASE("parquet: views of text, lists of fixed size, and numbers of 16 bits", "[data]") {
  const TemporaryFolder folder;
  const auto views = read_rows(write(
      folder, {{"prompt", arrow::utf8_view(), R"(["a", "a text that is longer than a view"])"}, completions, labels}));
  CHECK(views.rows.at(0).prompt == "a");
  CHECK(views.rows.at(1).prompt == "a text that is longer than a view");
  const auto ids = read_rows(
      write(folder, {{"completion_input_ids", arrow::fixed_size_list(arrow::int32(), 2), "[[5, 6], [7, 8]]"},
                     {"completion_labels", arrow::fixed_size_list(arrow::int64(), 2), "[[-100, 6], [-100, 8]]"},
                     labels}));
  CHECK(ids.rows.at(1).prompt == Json::array({7}));
  CHECK(ids.rows.at(1).completion == Json::array({8}));
  const auto message = arrow::struct_({arrow::field("role", arrow::utf8()), arrow::field("content", arrow::utf8()),
                                       arrow::field("weight", arrow::float16())});
  const auto halves = read_rows(write(folder, {{"prompt", arrow::list(message), R"([[["user", "a", 0.5]]])"},
                                               {"completion", arrow::list(message), R"([[["assistant", "b", 2]]])"},
                                               {"label", arrow::boolean(), "[true]"}}));
  CHECK(halves.rows.at(0).prompt[0]["weight"] == 0.5);
}

TEST_CASE("parquet: unused columns may have any type", "[data]") {
  const TemporaryFolder folder;
  const std::vector<Column> others{{"created_at", arrow::timestamp(arrow::TimeUnit::MICRO), "[1, null]"},
                                   {"day", arrow::date32(), "[1, 2]"},
                                   {"blob", arrow::binary(), R"(["\u0001", "x"])"},
                                   {"price", arrow::decimal128(5, 2), R"(["1.50", "2.50"])"},
                                   {"map", arrow::map(arrow::utf8(), arrow::int64()), R"([[["a", 1]], [["b", 2]]])"},
                                   {"images", arrow::list(arrow::binary()), "[[], null]"},
                                   {"empty", arrow::utf8(), "[null, null]"}};
  std::vector<Column> columns{prompts, completions, labels};
  columns.insert(columns.end(), others.begin(), others.end());
  const auto set = read_rows(write(folder, columns));
  CHECK(set.rows.at(1).completion == "d");
  CHECK(set.notes == std::vector<std::string>{"unused columns: blob, created_at, day, images, map, price"});
  CHECK(kto::detail::count_rows(folder.path() / "rows.parquet") == 2);
  columns[8].values = R"([[], ["x"]])";
  CHECK_THAT(error_of([&] { read_rows(write(folder, columns)); }),
             KTO_CONTAINS("rows.parquet: line 2: \"images\" holds media"));
  columns = {prompts, completions, labels};
  for (int i = 0; i < 30; ++i) columns.insert(columns.begin(), {kto::concat("c", i), arrow::int64(), "[1, 2]"});
  CHECK(read_rows(write(folder, columns)).rows.at(1).prompt == "b");

  const auto file = write(folder, {prompts, completions, labels, {"tools", arrow::date32(), "[null, 3]"}});
  CHECK(error_of([&] {
          read_rows(file);
        }).find(file.string() + ": line 2: the column tools is of Arrow's type date32[day], which is not read") == 0);
  CHECK(kto::read_rows({{.files = {file}, .columns = {"prompt", "completion", "label"}}}, "taken").rows.size() == 2);
}

TEST_CASE("arrow: what save_to_disk writes, in the form of a stream or with a footer", "[data]") {
  const TemporaryFolder folder;
  const auto chat =
      arrow::list(arrow::struct_({arrow::field("role", arrow::utf8()), arrow::field("content", arrow::utf8())}));
  const auto column = [](const std::shared_ptr<arrow::DataType>& type, const std::string& values) {
    return *arrow::json::ArrayFromJSONString(type, values);
  };
  const auto schema = arrow::schema({arrow::field("prompt", chat), arrow::field("completion", chat),
                                     arrow::field("label", arrow::boolean()), arrow::field("label", arrow::utf8())});
  const auto batch = [&](const std::string& prompt) {
    return arrow::RecordBatch::Make(
        schema, 1,
        {column(chat, "[[[\"user\", \"" + prompt + "\"]]]"), column(chat, R"([[["assistant", "b"]]])"),
         column(arrow::boolean(), "[true]"), column(arrow::utf8(), R"(["x"])")});
  };
  const auto save = [&](const std::string& name, bool as_stream, const std::vector<std::string>& prompts) {
    folder.write(name, "");
    const auto file = *arrow::io::FileOutputStream::Open((folder.path() / name).string());
    const auto writer =
        as_stream ? *arrow::ipc::MakeStreamWriter(file, schema) : *arrow::ipc::MakeFileWriter(file, schema);
    for (const std::string& prompt : prompts) REQUIRE(writer->WriteRecordBatch(*batch(prompt)).ok());
    REQUIRE(writer->Close().ok());
    REQUIRE(file->Close().ok());
  };
  save("set/data-0.arrow", true, {"a", "b"});
  save("set/data-1.arrow", true, {"c"});
  folder.write("set/dataset_info.json", "{}");
  folder.write("set/state.json",
               R"({"_data_files": [{"filename": "data-1.arrow"}, {"filename": "data-0.arrow"}], "_split": "train"})");
  const auto prompts = [&](const std::string& path, const std::string& split = "train") {
    std::string out;
    for (const auto& row : read_rows(folder.path() / path, split).rows)
      out += row.prompt[0]["content"].get<std::string>();
    return out;
  };
  CHECK(prompts("set") == "cab");
  CHECK(prompts("set", "train[1:]") == "ab");
  CHECK(prompts("set", "train[-1:]") == "b");
  save("file.arrow", false, {"a", "b", "c"});
  CHECK(prompts("file.arrow") == "abc");
  CHECK(kto::detail::count_rows(folder.path() / "file.arrow") == 3);
  const std::string whole = kto::read_file(folder.path() / "set/data-0.arrow");
  for (const std::size_t size : {std::size_t{0}, std::size_t{40}, whole.size() / 2}) {
    const auto cut = folder.write("cut.arrow", whole.substr(0, size));
    CHECK_THAT(error_of([&] { read_rows(cut); }), KTO_CONTAINS("cut.arrow: is not an Arrow file that can be read"));
  }
}
#endif
