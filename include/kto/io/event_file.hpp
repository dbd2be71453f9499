// SPDX-License-Identifier: Apache-2.0
// TensorBoard's event files: TFRecords of the protobuf messages Event and Summary, with just the parts that scalars and
// text need. An event is in the file when the call returns, so a running TensorBoard shows it.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "kto/io/detail/wire.hpp"
#include "kto/io/folder.hpp"

namespace kto {

class EventFile {
 public:
  /// Creates a new event file in `folder`, and the folder if it is missing.
  explicit EventFile(const fs::path& folder) : path_(new_path(folder)), file_(path_, O_WRONLY | O_CREAT | O_APPEND) {
    write(detail::ProtoMessage().number(1, now()).text(3, "brain.Event:2"));
  }

  void add_scalar(std::string_view tag, double value, std::int64_t step) {
    add_value(detail::ProtoMessage().text(1, tag).number(2, static_cast<float>(value)), step);
  }

  /// For TensorBoard's text tab, in Markdown.
  void add_text(std::string_view tag, std::string_view text, std::int64_t step) {
    constexpr std::int64_t string_type = 7;  // DT_STRING
    const auto plugin = detail::ProtoMessage().text(1, "text");
    const auto shape = detail::ProtoMessage().text(2, detail::ProtoMessage().integer(1, 1).bytes());
    const auto tensor = detail::ProtoMessage().integer(1, string_type).text(2, shape.bytes()).text(8, text);
    add_value(detail::ProtoMessage()
                  .text(1, std::string(tag) + "/text_summary")
                  .text(8, tensor.bytes())
                  .text(9, detail::ProtoMessage().text(1, plugin.bytes()).bytes()),
              step);
  }

  const fs::path& path() const { return path_; }

 private:
  static double now() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  }
  static fs::path new_path(const fs::path& folder) {
    make_folder(folder);
    char host[256] = "localhost";
    ::gethostname(host, sizeof host - 1);
    const std::string start =
        concat("events.out.tfevents.", static_cast<std::int64_t>(now()), '.', host, '.', ::getpid());
    int count = 0;
    while (fs::exists(folder / concat(start, '.', count))) ++count;
    return folder / concat(start, '.', count);
  }
  void add_value(const detail::ProtoMessage& value, std::int64_t step) {
    const auto summary = detail::ProtoMessage().text(1, value.bytes());
    write(detail::ProtoMessage().number(1, now()).integer(2, step).text(5, summary.bytes()));
  }
  void write(const detail::ProtoMessage& event) {
    const std::string& data = event.bytes();
    const std::string length = detail::little_endian(static_cast<std::uint64_t>(data.size()));
    append(file_, path_,
           length + detail::little_endian(detail::masked_crc(length)) + data +
               detail::little_endian(detail::masked_crc(data)));
  }

  fs::path path_;
  FileHandle file_;
};

}  // namespace kto
