// SPDX-License-Identifier: Apache-2.0
// Rows from Parquet files, through Apache Arrow. A program that includes this header and links kto::arrow reads them
// wherever it reads rows; without Arrow such a file is an Error that says how to get it. Apart from rows.hpp, for
// Arrow's headers are large.
#pragma once

#include "kto/data/detail/row_reader.hpp"

#if defined(KTO_HAS_ARROW)
#include <arrow/api.h>
#include <arrow/extension_type.h>
#include <arrow/io/file.h>
#include <arrow/util/float16.h>
#include <parquet/arrow/reader.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace kto::detail {

template <class T>
T take_arrow(arrow::Result<T> result, const std::string& where) {
  check(result.ok(), where, ": is not a Parquet file that can be read: ", result.status().message());
  return std::move(result).ValueUnsafe();
}

/// What the text of a column of Arrow's type arrow.json says; datasets writes messages so.
inline Json json_of_text(const Json& stored, const std::string& name) {
  const auto& text = stored.get_ref<const std::string&>();
  check(find_too_deep(text) == std::string_view::npos, "the column ", name, " nests lists and objects more than ",
        max_json_depth, " deep");
  Json value = Json::parse(text, nullptr, false);
  check(!value.is_discarded(), "the column ", name, " is of the type JSON and holds ", describe_value(stored),
        ", which is not JSON");
  return value;
}

/// Element `i` of an Arrow array as the JSON that a line of JSON Lines would have. Throws Error for types that JSON has
/// no word for.
inline Json arrow_json(const arrow::Array& array, std::int64_t i, const std::string& name) {
  if (array.IsNull(i)) return nullptr;
  const auto text = [&](std::string_view bytes) {
    check(find_invalid_utf8(bytes) == std::string_view::npos, "the column ", name, " holds text that is not UTF-8");
    return Json(std::string(bytes));
  };
  const auto list = [&](const auto& lists) {
    Json out = Json::array();
    const std::int64_t begin = lists.value_offset(i), end = begin + lists.value_length(i);
    for (std::int64_t at = begin; at < end; ++at) out.push_back(arrow_json(*lists.values(), at, name));
    return out;
  };
  switch (array.type_id()) {
    case arrow::Type::NA:
      return nullptr;
    case arrow::Type::BOOL:
      return static_cast<const arrow::BooleanArray&>(array).Value(i);
    case arrow::Type::INT8:
      return static_cast<const arrow::Int8Array&>(array).Value(i);
    case arrow::Type::INT16:
      return static_cast<const arrow::Int16Array&>(array).Value(i);
    case arrow::Type::INT32:
      return static_cast<const arrow::Int32Array&>(array).Value(i);
    case arrow::Type::INT64:
      return static_cast<const arrow::Int64Array&>(array).Value(i);
    case arrow::Type::UINT8:
      return static_cast<const arrow::UInt8Array&>(array).Value(i);
    case arrow::Type::UINT16:
      return static_cast<const arrow::UInt16Array&>(array).Value(i);
    case arrow::Type::UINT32:
      return static_cast<const arrow::UInt32Array&>(array).Value(i);
    case arrow::Type::UINT64:
      return static_cast<const arrow::UInt64Array&>(array).Value(i);
    case arrow::Type::HALF_FLOAT:
      return arrow::util::Float16::FromBits(static_cast<const arrow::HalfFloatArray&>(array).Value(i)).ToFloat();
    case arrow::Type::FLOAT:
      return static_cast<const arrow::FloatArray&>(array).Value(i);
    case arrow::Type::DOUBLE:
      return static_cast<const arrow::DoubleArray&>(array).Value(i);
    case arrow::Type::STRING:
      return text(static_cast<const arrow::StringArray&>(array).GetView(i));
    case arrow::Type::LARGE_STRING:
      return text(static_cast<const arrow::LargeStringArray&>(array).GetView(i));
    case arrow::Type::STRING_VIEW:
      return text(static_cast<const arrow::StringViewArray&>(array).GetView(i));
    case arrow::Type::LIST:
      return list(static_cast<const arrow::ListArray&>(array));
    case arrow::Type::LARGE_LIST:
      return list(static_cast<const arrow::LargeListArray&>(array));
    case arrow::Type::FIXED_SIZE_LIST:
      return list(static_cast<const arrow::FixedSizeListArray&>(array));
    case arrow::Type::EXTENSION: {
      const auto& extended = static_cast<const arrow::ExtensionArray&>(array);
      const auto& type = static_cast<const arrow::ExtensionType&>(*array.type());
      Json stored = arrow_json(*extended.storage(), i, name);
      return type.extension_name() == "arrow.json" && stored.is_string() ? json_of_text(stored, name) : stored;
    }
    case arrow::Type::DICTIONARY: {
      const auto& coded = static_cast<const arrow::DictionaryArray&>(array);
      return arrow_json(*coded.dictionary(), coded.GetValueIndex(i), name);
    }
    case arrow::Type::STRUCT: {
      const auto& fields = static_cast<const arrow::StructArray&>(array);
      Json out = Json::object();
      for (int f = 0; f < fields.num_fields(); ++f) {
        const std::string& key = fields.struct_type()->field(f)->name();
        out[key] = arrow_json(*fields.field(f), i, name + "." + key);
      }
      return out;
    }
    default:
      fail("the column ", name, " is of Arrow's type ", array.type()->ToString(),
           ", which is not read; expected text, numbers, booleans, JSON, and lists and structs of them");
  }
}

/// Stands for element `i` of a column that rows do not use, of whatever type: null, an empty list, or true.
inline Json unused_json(const arrow::Array& array, std::int64_t i) {
  if (array.IsNull(i)) return nullptr;
  const bool is_list = array.type_id() == arrow::Type::LIST;
  return is_list && static_cast<const arrow::ListArray&>(array).value_length(i) == 0 ? Json::array() : Json(true);
}

/// See ParquetReader. A batch of rows is in memory at a time.
inline void read_parquet_by_arrow(const fs::path& path, const std::function<bool(const std::string&)>& is_used,
                                  const std::function<bool(Json, double)>& visit) {
  const std::string where = path.string();
  parquet::arrow::FileReaderBuilder builder;
  const auto file = take_arrow(arrow::io::ReadableFile::Open(where), where);
  const arrow::Status opened = builder.Open(file);
  check(opened.ok(), where, ": is not a Parquet file that can be read: ", opened.message());
#if ARROW_VERSION_MAJOR >= 21
  auto properties = parquet::default_arrow_reader_properties();
  properties.set_arrow_extensions_enabled(true);  // JSON columns by Parquet's own mark, as pyarrow takes them
  builder.properties(properties);
#endif
  std::unique_ptr<parquet::arrow::FileReader> reader;
  const arrow::Status built = builder.Build(&reader);
  check(built.ok(), where, ": cannot be read: ", built.message());
  reader->set_batch_size(1024);
  const auto num_rows = static_cast<double>(reader->parquet_reader()->metadata()->num_rows());
  const std::shared_ptr<arrow::RecordBatchReader> batches = take_arrow(reader->GetRecordBatchReader(), where);
  double done = 0;
  for (;;) {
    const auto batch = take_arrow(batches->Next(), where);
    if (batch == nullptr) return;
    std::vector<bool> used;
    for (int c = 0; c < batch->num_columns(); ++c) used.push_back(is_used(batch->column_name(c)));
    for (std::int64_t i = 0; i < batch->num_rows(); ++i) {
      Json row = Json::object();
      ++done;
      try {
        for (int c = 0; c < batch->num_columns(); ++c) {
          const std::string& name = batch->column_name(c);
          row[name] = used[static_cast<std::size_t>(c)] ? arrow_json(*batch->column(c), i, name)
                                                        : unused_json(*batch->column(c), i);
        }
      } catch (const Error& error) {
        fail(where, ": line ", static_cast<std::int64_t>(done), ": ", error.what());
      }
      if (!visit(std::move(row), done / num_rows)) return;
    }
  }
}

inline const bool reads_parquet = (parquet_reader = &read_parquet_by_arrow, true);

}  // namespace kto::detail
#endif
