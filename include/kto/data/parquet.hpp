// SPDX-License-Identifier: Apache-2.0
// Rows from Parquet and Arrow files, through Apache Arrow: a program that links kto::arrow and calls enable_parquet()
// reads them wherever it reads rows. Apart from rows.hpp, for Arrow's headers are large.
#pragma once

#include "kto/data/detail/row_reader.hpp"

#if defined(KTO_HAS_ARROW)
#include <arrow/api.h>
#include <arrow/extension_type.h>
#include <arrow/io/file.h>
#include <arrow/ipc/reader.h>
#include <arrow/util/float16.h>
#include <parquet/arrow/reader.h>

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kto::detail {

template <class T>
T take_arrow(arrow::Result<T> result, const std::string& bad) {
  check(result.ok(), bad, result.status().message());
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

/// The batches of a file, null at the end, and how much of it is read after so many rows.
struct ArrowBatches {
  std::function<std::shared_ptr<arrow::RecordBatch>()> next;
  std::function<double(std::int64_t num_rows)> share;
};

inline ArrowBatches open_parquet(const std::shared_ptr<arrow::io::ReadableFile>& file, const std::string& where) {
  const std::string bad = where + ": is not a Parquet file that can be read: ";
  parquet::arrow::FileReaderBuilder builder;
  const arrow::Status opened = builder.Open(file);
  check(opened.ok(), bad, opened.message());
#if ARROW_VERSION_MAJOR >= 21
  auto properties = parquet::default_arrow_reader_properties();
  properties.set_arrow_extensions_enabled(true);  // JSON columns by Parquet's own mark, as pyarrow takes them
  builder.properties(properties);
#endif
  std::unique_ptr<parquet::arrow::FileReader> built;
  const arrow::Status status = builder.Build(&built);
  check(status.ok(), where, ": cannot be read: ", status.message());
  built->set_batch_size(1024);
  const std::shared_ptr<parquet::arrow::FileReader> reader = std::move(built);
  const std::shared_ptr<arrow::RecordBatchReader> batches = take_arrow(reader->GetRecordBatchReader(), bad);
  const auto total = static_cast<double>(reader->parquet_reader()->metadata()->num_rows());
  return {[reader, batches, bad] { return take_arrow(batches->Next(), bad); },
          [total](std::int64_t num_rows) { return static_cast<double>(num_rows) / total; }};
}

/// A stream of batches, as save_to_disk writes it, or the format with a footer.
inline ArrowBatches open_arrow(const std::shared_ptr<arrow::io::ReadableFile>& file, const std::string& where) {
  const std::string bad = where + ": is not an Arrow file that can be read: ";
  const auto checked = [bad](std::shared_ptr<arrow::RecordBatch> batch) {
    const arrow::Status status = batch ? batch->ValidateFull() : arrow::Status::OK();
    check(status.ok(), bad, status.message());
    return batch;
  };
  if (auto opened = arrow::ipc::RecordBatchStreamReader::Open(file); opened.ok()) {
    const auto size = static_cast<double>(take_arrow(file->GetSize(), bad));
    const auto stream = std::move(opened).ValueUnsafe();
    return {[stream, bad, checked] { return checked(take_arrow(stream->Next(), bad)); },
            [file, bad, size](std::int64_t) { return static_cast<double>(take_arrow(file->Tell(), bad)) / size; }};
  }
  const auto reader = take_arrow(arrow::ipc::RecordBatchFileReader::Open(file), bad);
  const auto at = std::make_shared<int>(0);
  return {[reader, bad, at, checked]() -> std::shared_ptr<arrow::RecordBatch> {
            if (*at == reader->num_record_batches()) return nullptr;
            return checked(take_arrow(reader->ReadRecordBatch((*at)++), bad));
          },
          [reader, at](std::int64_t) { return static_cast<double>(*at) / reader->num_record_batches(); }};
}

/// See TableReader. A batch of rows is in memory at a time.
inline void read_table_by_arrow(const fs::path& path, DataFormat format,
                                const std::function<bool(const std::string&)>& is_used,
                                const std::function<bool(Json, double)>& visit) {
  const std::string where = path.string();
  (void)open_to_read(path);  // refuses what is no file
  const auto file = take_arrow(arrow::io::ReadableFile::Open(where), where + ": cannot be opened: ");
  const ArrowBatches batches = format == DataFormat::parquet ? open_parquet(file, where) : open_arrow(file, where);
  std::int64_t done = 0;
  while (const auto batch = batches.next()) {
    std::set<std::string_view> names;
    std::vector<bool> used, counts;  // of columns with one name the first counts
    for (int c = 0; c < batch->num_columns(); ++c) {
      const std::string& name = batch->schema()->field(c)->name();
      used.push_back(is_used(name));
      counts.push_back(names.insert(name).second);
    }
    for (std::int64_t i = 0; i < batch->num_rows(); ++i) {
      Json row = Json::object();
      auto& columns = row.get_ref<Json::object_t&>();
      ++done;
      try {
        for (int c = 0; c < batch->num_columns(); ++c) {
          const auto at = static_cast<std::size_t>(c);
          const std::string& name = batch->schema()->field(c)->name();
          if (!counts[at]) continue;
          columns.emplace(name, used[at] ? arrow_json(*batch->column(c), i, name) : unused_json(*batch->column(c), i));
        }
      } catch (const Error& error) {
        fail(where, ": line ", done, ": ", error.what());
      }
      if (!visit(std::move(row), batches.share(done))) return;
    }
  }
}

}  // namespace kto::detail
#endif

namespace kto {

/// From now on this process reads rows of Parquet and Arrow files, too. Call it once, in main. Does nothing in a program
/// that does not link kto::arrow: such a file is then an Error that says how to read it.
inline void enable_parquet() {
#if defined(KTO_HAS_ARROW)
  detail::table_reader = &detail::read_table_by_arrow;
#endif
}

}  // namespace kto
