// SPDX-License-Identifier: Apache-2.0
// A user's program on kto::light and kto::arrow: writes rows with Arrow, and reads them as kto does. Exits with 0 where
// they are the same.
#include <arrow/api.h>
#include <arrow/io/file.h>
#include <parquet/arrow/writer.h>

#include <iostream>
#include <kto/data/parquet.hpp>
#include <kto/data/rows.hpp>

namespace {

arrow::Status write_rows(const std::string& path) {
  arrow::StringBuilder prompts, completions;
  arrow::BooleanBuilder labels;
  ARROW_RETURN_NOT_OK(prompts.AppendValues({"a", "b"}));
  ARROW_RETURN_NOT_OK(completions.AppendValues({"yes", "no"}));
  ARROW_RETURN_NOT_OK(labels.AppendValues(std::vector<bool>{true, false}));
  ARROW_ASSIGN_OR_RAISE(const auto prompt, prompts.Finish());
  ARROW_ASSIGN_OR_RAISE(const auto completion, completions.Finish());
  ARROW_ASSIGN_OR_RAISE(const auto label, labels.Finish());
  const auto schema = arrow::schema({arrow::field("prompt", arrow::utf8()), arrow::field("completion", arrow::utf8()),
                                     arrow::field("label", arrow::boolean())});
  ARROW_ASSIGN_OR_RAISE(const auto file, arrow::io::FileOutputStream::Open(path));
  return parquet::arrow::WriteTable(*arrow::Table::Make(schema, {prompt, completion, label}),
                                    arrow::default_memory_pool(), file);
}

}  // namespace

int main() try {
  const auto written = write_rows("rows.parquet");
  kto::check(written.ok(), written.ToString());
  kto::enable_parquet();
  const auto rows = kto::read_rows("rows.parquet").rows;
  return rows.size() == 2 && rows[1].prompt == "b" && rows[1].completion == "no" && !rows[1].label ? 0 : 1;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
