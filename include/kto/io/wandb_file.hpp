// SPDX-License-Identifier: Apache-2.0
// The .wandb file of an offline run, which `wandb sync` uploads: protobuf records (wandb_internal.proto) in blocks of
// 32 KiB, as LevelDB's log has them, with zlib's CRC-32. A record is in the file when the call returns.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/version.hpp"
#include "kto/io/detail/wire.hpp"
#include "kto/io/folder.hpp"
#include "kto/io/json.hpp"

namespace kto {

struct WandbRun {
  std::string id;       ///< letters and digits
  std::string project;  ///< this and the next six: empty if there is none
  std::string name;
  std::string entity = {}, group = {}, job_type = {}, notes = {};
  std::vector<std::string> tags = {};
  Json config = Json::object();
  std::int64_t start = 0;  ///< seconds since 1970
};

namespace detail {

inline constexpr std::string_view wandb_magic("\x3aW&B\xe1\xbe\x00", 7);
inline constexpr std::size_t wandb_block = 32768, wandb_record_head = 7;

/// Calls visit(record, offset of its end) for the whole records of a .wandb file, until that returns false.
inline void visit_wandb_records(std::string_view file,
                                const std::function<bool(std::string_view, std::size_t)>& visit) {
  enum : unsigned char { full = 1, first, middle, last };
  if (!file.starts_with(wandb_magic)) return;
  std::string record;
  for (std::size_t at = wandb_magic.size();;) {
    if (const std::size_t room = wandb_block - at % wandb_block; room < wandb_record_head) at += room;
    if (at + wandb_record_head > file.size()) return;
    const auto sum = from_little_endian<std::uint32_t>(file.substr(at));
    const auto length = from_little_endian<std::uint16_t>(file.substr(at + 4));
    const auto kind = static_cast<unsigned char>(file[at + 6]);
    if (at + wandb_record_head + length > file.size()) return;
    if (sum != crc32(file.substr(at + 6, 1U + length))) return;
    if (kind == full || kind == first) record.clear();
    record += file.substr(at + wandb_record_head, length);
    at += wandb_record_head + length;
    if ((kind == full || kind == last) && !visit(record, at)) return;
  }
}

/// JSON as Python writes it, which has words for numbers that are not finite.
inline std::string python_json(const Json& value) {
  if (value.is_number_float()) {
    const auto number = value.get<double>();
    if (std::isnan(number)) return "NaN";
    if (std::isinf(number)) return number > 0 ? "Infinity" : "-Infinity";
  }
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace detail

class WandbFile {
 public:
  /// Begins the file of `run`, or goes on with one that is there: its records before history record `num_kept` stay, and
  /// later ones are cut.
  WandbFile(const fs::path& path, const WandbRun& run, std::int64_t num_kept)
      : path_(path), file_(path, O_RDWR | O_CREAT) {
    cut(num_kept);
    if (size_ > 0) return;
    put(detail::wandb_magic);
    const auto version = detail::ProtoMessage().text(1, concat("kto ", library_version)).text(2, "0.40.0");
    write(header, detail::ProtoMessage().message(1, version));
    write(run_record, run_message(run));
    write(metric, detail::ProtoMessage().text(1, "train/global_step").message(6, option(defined)));
    write(metric, detail::ProtoMessage()
                      .text(2, "*")
                      .text(4, "train/global_step")
                      .message(6, option(defined).integer(step_sync, 1)));
  }

  std::int64_t num_history() const { return num_history_; }

  /// Adds the values that are logged together, by name; objects are taken apart.
  void add_history(const Json& values) {
    detail::ProtoMessage out;
    visit_leaves(values, {}, [&](const auto& path, const Json& value) { out.message(1, item(path, value)); });
    write(history, out.message(2, detail::ProtoMessage().integer(1, num_history_)));
    ++num_history_;
  }
  /// Sets values of the run's summary.
  void add_summary(const Json& values) {
    detail::ProtoMessage out;
    visit_leaves(values, {}, [&](const auto& path, const Json& value) { out.message(1, item(path, value)); });
    write(summary, out);
  }
  /// Names a file in the run's folder `files`, to be uploaded.
  void add_file(const std::string& path) {
    write(files, detail::ProtoMessage().message(1, detail::ProtoMessage().text(1, path)));
  }
  void finish(std::int64_t exit_code, std::int64_t seconds) {
    write(exit, detail::ProtoMessage().integer(1, exit_code).integer(2, seconds));
  }

 private:
  /// Fields of a Record, and of MetricOptions.
  enum : unsigned { history = 2, summary = 3, files = 6, metric = 12, run_record = 17, exit = 18, header = 21 };
  enum : unsigned { step_sync = 1, defined = 3 };

  static detail::ProtoMessage option(unsigned field) { return detail::ProtoMessage().integer(field, 1); }
  static detail::ProtoMessage item(const std::vector<std::string>& path, const Json& value) {
    detail::ProtoMessage out;
    for (const std::string& name : path) out.text(2, name);
    return out.text(16, detail::python_json(value));
  }
  template <class Visit>
  static void visit_leaves(const Json& value, std::vector<std::string> path, const Visit& visit) {
    if (!value.is_object() || (value.empty() && !path.empty())) return visit(path, value);
    path.emplace_back();
    for (const auto& [key, inner] : value.items()) {
      path.back() = key;
      visit_leaves(inner, path, visit);
    }
  }
  static detail::ProtoMessage run_message(const WandbRun& run) {
    detail::ProtoMessage config, out;
    const auto add = [&](const std::string& key, const Json& value) {
      config.message(1, detail::ProtoMessage().text(1, key).text(16, detail::python_json(value)));
    };
    add("_wandb", Json::object());
    for (const auto& [key, value] : run.config.items()) add(key, value);
    out.text(1, run.id).text(2, run.entity).text(3, run.project).message(4, config);
    out.text(6, run.group).text(7, run.job_type).text(8, run.name).text(9, run.notes);
    for (const std::string& tag : run.tags) out.text(10, tag);
    return out.message(17, detail::ProtoMessage().integer(1, run.start));
  }

  /// Finds where to go on, and how many history records are before that.
  void cut(std::int64_t num_kept) {
    std::int64_t num_seen = 0;
    if (num_kept > 0)
      detail::visit_wandb_records(read_file(path_), [&](std::string_view record, std::size_t end) {
        if (detail::proto_field(record, exit)) return false;
        ++num_seen;
        if (const auto values = detail::proto_field(record, history)) {
          const auto step = detail::proto_field(values->bytes, 2);
          const auto index = step ? detail::proto_field(step->bytes, 1) : std::nullopt;
          if (!index || index->number != static_cast<std::uint64_t>(num_history_) || num_history_ == num_kept)
            return false;
          ++num_history_;
        } else if (num_history_ > 0) {
          return true;  // what belongs to the next history record stays only with it
        }
        num_records_ = num_seen;
        size_ = end;
        return true;
      });
    if (::ftruncate(file_.get(), static_cast<off_t>(size_)) != 0 ||
        ::lseek(file_.get(), 0, SEEK_END) != static_cast<off_t>(size_))
      fail(path_.string(), ": cannot be written: ", std::strerror(errno));
  }

  void put(std::string_view bytes) {
    append(file_, path_, bytes);
    size_ += bytes.size();
  }
  void write(unsigned field, const detail::ProtoMessage& content) {
    const auto record = detail::ProtoMessage().integer(1, ++num_records_).message(field, content);
    std::string_view left = record.bytes();
    std::string out;
    for (bool is_first = true; is_first || !left.empty(); is_first = false) {
      std::size_t room = detail::wandb_block - (size_ + out.size()) % detail::wandb_block;
      if (room < detail::wandb_record_head) {
        out.append(room, '\0');
        room = detail::wandb_block;
      }
      const std::string_view piece = left.substr(0, room - detail::wandb_record_head);
      left.remove_prefix(piece.size());
      const bool is_last = left.empty();
      const std::string kind(1, is_first ? (is_last ? '\1' : '\2') : (is_last ? '\4' : '\3'));
      out += detail::little_endian(detail::crc32(piece, detail::crc32(kind)));
      out += detail::little_endian(static_cast<std::uint16_t>(piece.size())) + kind;
      out += piece;
    }
    put(out);
  }

  fs::path path_;
  FileHandle file_;
  std::size_t size_ = 0;
  std::int64_t num_records_ = 0, num_history_ = 0;
};

}  // namespace kto
