// SPDX-License-Identifier: Apache-2.0
// Files compressed with gzip (zlib) or zstd, unpacked a piece after another, so that no more of them need be in memory
// than is asked for. Each needs its library when kto is configured; without it such a file is an Error that says so.
#pragma once

#if defined(KTO_HAS_ZLIB)
#include <zlib.h>
#endif
#if defined(KTO_HAS_ZSTD)
#include <zstd.h>
#endif

#include <algorithm>
#include <string>
#include <string_view>
#include <variant>

#include "kto/io/file.hpp"

namespace kto {

inline bool is_compressed(const fs::path& path) { return path.extension() == ".gz" || path.extension() == ".zst"; }

namespace detail {

#if defined(KTO_HAS_ZLIB)
/// Both streams: read() fills [to, to + size) and returns how much it wrote, 0 at the end, or throws Error.
class GzipStream {
 public:
  GzipStream(std::string_view bytes, const std::string& where) : rest_(bytes), where_(where) {
    check(inflateInit2(&stream_, 15 + 16) == Z_OK, where_, ": zlib cannot start");
  }
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;
  ~GzipStream() { inflateEnd(&stream_); }

  std::size_t num_left() const { return rest_.size() + stream_.avail_in; }
  std::size_t read(char* to, std::size_t size) {
    stream_.next_out = reinterpret_cast<Bytef*>(to);
    stream_.avail_out = static_cast<uInt>(size);
    while (stream_.avail_out > 0) {
      take_more();
      if (status_ == Z_STREAM_END) skip_padding();
      if (status_ == Z_STREAM_END && stream_.avail_in == 0) break;
      if (status_ == Z_STREAM_END) inflateReset(&stream_);  // several members one after another are one file
      status_ = inflate(&stream_, Z_NO_FLUSH);
      check(status_ == Z_OK || status_ == Z_STREAM_END, where_, ": is not a whole gzip file (damaged, or cut off?)");
    }
    return size - stream_.avail_out;
  }

 private:
  /// Zeros after a member are padding, of a tape or a block device, as gzip has it.
  void skip_padding() {
    while (stream_.avail_in > 0 && *stream_.next_in == 0) {
      ++stream_.next_in;
      --stream_.avail_in;
      if (stream_.avail_in == 0) take_more();
    }
  }
  void take_more() {
    if (stream_.avail_in > 0 || rest_.empty()) return;
    const std::string_view part = rest_.substr(0, 1U << 30U);  // zlib counts in 32 bits
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(part.data()));
    stream_.avail_in = static_cast<uInt>(part.size());
    rest_.remove_prefix(part.size());
  }

  std::string_view rest_;
  std::string where_;
  z_stream stream_{};
  int status_ = Z_OK;
};
#endif

#if defined(KTO_HAS_ZSTD)
class ZstdStream {
 public:
  ZstdStream(std::string_view bytes, const std::string& where)
      : where_(where), in_{bytes.data(), bytes.size(), 0}, stream_(ZSTD_createDStream()) {
    check(stream_ != nullptr, where_, ": zstd cannot start");
  }
  ZstdStream(const ZstdStream&) = delete;
  ZstdStream& operator=(const ZstdStream&) = delete;
  ~ZstdStream() { ZSTD_freeDStream(stream_); }

  std::size_t num_left() const { return in_.size - in_.pos; }
  std::size_t read(char* to, std::size_t size) {
    ZSTD_outBuffer out{to, size, 0};
    while (out.pos < out.size && !(left_ == 0 && in_.pos == in_.size)) {
      const std::size_t before = in_.pos + out.pos;
      left_ = ZSTD_decompressStream(stream_, &out, &in_);
      check(!ZSTD_isError(left_) && in_.pos + out.pos > before, where_,
            ": is not a whole zstd file (damaged, or cut off?)");
    }
    return out.pos;
  }

 private:
  std::string where_;
  ZSTD_inBuffer in_;
  ZSTD_DStream* stream_;
  std::size_t left_ = 1;  ///< 0 at the end of a frame, of which a file may have several
};
#endif

}  // namespace detail

/// The content of a .gz or .zst file, from its begin to its end.
class CompressedFile {
 public:
  /// Throws Error when kto was built without the library.
  explicit CompressedFile(const fs::path& path) : file_(path) {
    const std::string where = path.string();
    if (path.extension() == ".gz") {
#if defined(KTO_HAS_ZLIB)
      stream_.emplace<detail::GzipStream>(file_.bytes(), where);
#else
      fail(where,
           ": this program was built without zlib; install zlib1g-dev (Debian) and build again, or gunzip the file");
#endif
    } else {
#if defined(KTO_HAS_ZSTD)
      stream_.emplace<detail::ZstdStream>(file_.bytes(), where);
#else
      fail(where,
           ": this program was built without zstd; install libzstd-dev (Debian) and build again, or unzstd the file");
#endif
    }
  }

  /// Appends the next bytes, at most `most`, to `out`; false when there are none left. Throws Error when the file is
  /// damaged.
  bool read(std::string& out, std::size_t most) {
    const std::size_t before = out.size();
    out.resize(before + most);
    std::size_t got = 0, left = 0;
    std::visit(
        [&](auto& stream) {
          if constexpr (requires { stream.num_left(); })
            got = stream.read(out.data() + before, most), left = stream.num_left();
        },
        stream_);
    out.resize(before + got);
    num_read_ = file_.bytes().size() - left;
    file_.release(0, num_read_);
    return got > 0;
  }

  /// How much of the file is read, from 0 to 1.
  double share() const { return static_cast<double>(num_read_) / static_cast<double>(file_.bytes().size()); }

 private:
  MappedFile file_;
  std::size_t num_read_ = 0;
  std::variant<std::monostate
#if defined(KTO_HAS_ZLIB)
               ,
               detail::GzipStream
#endif
#if defined(KTO_HAS_ZSTD)
               ,
               detail::ZstdStream
#endif
               >
      stream_;
};

}  // namespace kto
