// SPDX-License-Identifier: Apache-2.0
// Streams that unpack gzip (zlib), zstd, bzip2 and xz from memory, each where kto was configured with its library. All
// are alike: read() fills [to, to + size) and returns how much it wrote, 0 at the end, or throws Error; num_left() is
// how many packed bytes it has not taken yet.
#pragma once

#if defined(KTO_HAS_BZIP2)
#include <bzlib.h>
#endif
#if defined(KTO_HAS_LZMA)
#include <lzma.h>
#endif
#if defined(KTO_HAS_ZLIB)
#include <zlib.h>
#endif
#if defined(KTO_HAS_ZSTD)
#include <zstd.h>
#endif

#include <cstdint>
#include <string>
#include <string_view>

#include "kto/core/error.hpp"

namespace kto::detail {

#if defined(KTO_HAS_ZLIB)
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

#if defined(KTO_HAS_BZIP2)
class Bzip2Stream {
 public:
  Bzip2Stream(std::string_view bytes, const std::string& where) : rest_(bytes), where_(where) { begin(); }
  Bzip2Stream(const Bzip2Stream&) = delete;
  Bzip2Stream& operator=(const Bzip2Stream&) = delete;
  ~Bzip2Stream() { BZ2_bzDecompressEnd(&stream_); }

  std::size_t num_left() const { return rest_.size() + stream_.avail_in; }
  std::size_t read(char* to, std::size_t size) {
    stream_.next_out = to;
    stream_.avail_out = static_cast<unsigned>(size);
    while (stream_.avail_out > 0 && !(status_ == BZ_STREAM_END && num_left() == 0)) {
      if (status_ == BZ_STREAM_END) {  // several streams one after another are one file, as pbzip2 writes it
        bz_stream done = stream_;
        BZ2_bzDecompressEnd(&stream_);
        begin();
        stream_.next_in = done.next_in, stream_.avail_in = done.avail_in;
        stream_.next_out = done.next_out, stream_.avail_out = done.avail_out;
      }
      if (stream_.avail_in == 0) {
        const std::string_view part = rest_.substr(0, 1U << 30U);  // bzip2 counts in 32 bits
        stream_.next_in = const_cast<char*>(part.data());
        stream_.avail_in = static_cast<unsigned>(part.size());
        rest_.remove_prefix(part.size());
      }
      const std::size_t before = num_left() + stream_.avail_out;
      status_ = BZ2_bzDecompress(&stream_);
      const bool moves = num_left() + stream_.avail_out < before;
      check(status_ == BZ_STREAM_END || (status_ == BZ_OK && moves), where_,
            ": is not a whole bzip2 file (damaged, or cut off?)");
    }
    return size - stream_.avail_out;
  }

 private:
  void begin() {
    stream_ = {};
    check(BZ2_bzDecompressInit(&stream_, 0, 0) == BZ_OK, where_, ": bzip2 cannot start");
  }

  std::string_view rest_;
  std::string where_;
  bz_stream stream_{};
  int status_ = BZ_OK;
};
#endif

#if defined(KTO_HAS_LZMA)
class XzStream {
 public:
  XzStream(std::string_view bytes, const std::string& where) : where_(where) {
    constexpr std::uint64_t most_memory = std::uint64_t{1} << 31U;  // xz -9 needs 65 MiB
    check(lzma_stream_decoder(&stream_, most_memory, LZMA_CONCATENATED) == LZMA_OK, where_, ": xz cannot start");
    stream_.next_in = reinterpret_cast<const std::uint8_t*>(bytes.data());
    stream_.avail_in = bytes.size();
  }
  XzStream(const XzStream&) = delete;
  XzStream& operator=(const XzStream&) = delete;
  ~XzStream() { lzma_end(&stream_); }

  std::size_t num_left() const { return stream_.avail_in; }
  std::size_t read(char* to, std::size_t size) {
    stream_.next_out = reinterpret_cast<std::uint8_t*>(to);
    stream_.avail_out = size;
    while (stream_.avail_out > 0 && status_ != LZMA_STREAM_END) {
      status_ = lzma_code(&stream_, LZMA_FINISH);  // all of the file is there
      check(status_ == LZMA_OK || status_ == LZMA_STREAM_END, where_,
            ": is not a whole xz file (damaged, or cut off?)");
    }
    return size - stream_.avail_out;
  }

 private:
  std::string where_;
  lzma_stream stream_ = LZMA_STREAM_INIT;
  lzma_ret status_ = LZMA_OK;
};
#endif

}  // namespace kto::detail
