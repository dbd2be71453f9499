// SPDX-License-Identifier: Apache-2.0
// Streams that unpack gzip (zlib), zstd, bzip2 and xz, each if kto was configured with its library. All have the same
// interface: read() fills [to, to + size) and returns how much it wrote, 0 at the end, or throws Error.
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

#include "kto/io/file.hpp"

namespace kto::detail {

/// The packed bytes of a file, one block in memory at a time.
struct PackedBytes {
  FileReader& file;
  std::string where;
  std::string block = {};

  /// The next block, which replaces the last one; empty at the end.
  std::string& next() {
    block.clear();
    file.read(block, 1 << 20);
    return block;
  }
};

#if defined(KTO_HAS_ZLIB)
class GzipStream {
 public:
  explicit GzipStream(PackedBytes packed) : packed_(std::move(packed)) {
    check(inflateInit2(&stream_, 15 + 16) == Z_OK, packed_.where, ": zlib cannot start");
  }
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;
  ~GzipStream() { inflateEnd(&stream_); }

  std::size_t read(char* to, std::size_t size) {
    stream_.next_out = reinterpret_cast<Bytef*>(to);
    stream_.avail_out = static_cast<uInt>(size);
    while (stream_.avail_out > 0) {
      take_more();
      if (status_ == Z_STREAM_END) skip_padding();
      if (status_ == Z_STREAM_END && stream_.avail_in == 0) break;
      if (status_ == Z_STREAM_END) inflateReset(&stream_);  // a file may have several members
      status_ = inflate(&stream_, Z_NO_FLUSH);
      check(status_ == Z_OK || status_ == Z_STREAM_END, packed_.where,
            ": is not a whole gzip file (damaged, or cut off?)");
    }
    return size - stream_.avail_out;
  }

 private:
  /// Like gzip, takes zeros after a member as padding (of a tape or a block device).
  void skip_padding() {
    while (stream_.avail_in > 0 && *stream_.next_in == 0) {
      ++stream_.next_in;
      --stream_.avail_in;
      if (stream_.avail_in == 0) take_more();
    }
  }
  void take_more() {
    if (stream_.avail_in > 0) return;
    std::string& block = packed_.next();
    stream_.next_in = reinterpret_cast<Bytef*>(block.data());
    stream_.avail_in = static_cast<uInt>(block.size());
  }

  PackedBytes packed_;
  z_stream stream_{};
  int status_ = Z_OK;
};
#endif

#if defined(KTO_HAS_ZSTD)
class ZstdStream {
 public:
  explicit ZstdStream(PackedBytes packed) : packed_(std::move(packed)), stream_(ZSTD_createDStream()) {
    check(stream_ != nullptr, packed_.where, ": zstd cannot start");
  }
  ZstdStream(const ZstdStream&) = delete;
  ZstdStream& operator=(const ZstdStream&) = delete;
  ~ZstdStream() { ZSTD_freeDStream(stream_); }

  std::size_t read(char* to, std::size_t size) {
    ZSTD_outBuffer out{to, size, 0};
    while (out.pos < out.size) {
      if (in_.pos == in_.size) {
        const std::string& block = packed_.next();
        in_ = {block.data(), block.size(), 0};
        if (left_ == 0 && block.empty()) break;
      }
      const std::size_t before = in_.pos + out.pos;
      left_ = ZSTD_decompressStream(stream_, &out, &in_);
      check(!ZSTD_isError(left_) && in_.pos + out.pos > before, packed_.where,
            ": is not a whole zstd file (damaged, or cut off?)");
    }
    return out.pos;
  }

 private:
  PackedBytes packed_;
  ZSTD_inBuffer in_{};
  ZSTD_DStream* stream_;
  std::size_t left_ = 1;  ///< 0 at the end of a frame; a file may have several
};
#endif

#if defined(KTO_HAS_BZIP2)
class Bzip2Stream {
 public:
  explicit Bzip2Stream(PackedBytes packed) : packed_(std::move(packed)) { begin(); }
  Bzip2Stream(const Bzip2Stream&) = delete;
  Bzip2Stream& operator=(const Bzip2Stream&) = delete;
  ~Bzip2Stream() { BZ2_bzDecompressEnd(&stream_); }

  std::size_t read(char* to, std::size_t size) {
    stream_.next_out = to;
    stream_.avail_out = static_cast<unsigned>(size);
    while (stream_.avail_out > 0) {
      if (stream_.avail_in == 0) {
        std::string& block = packed_.next();
        stream_.next_in = block.data();
        stream_.avail_in = static_cast<unsigned>(block.size());
      }
      if (status_ == BZ_STREAM_END && stream_.avail_in == 0) break;
      if (status_ == BZ_STREAM_END) {  // a file may have several streams; pbzip2 writes such files
        bz_stream done = stream_;
        BZ2_bzDecompressEnd(&stream_);
        begin();
        stream_.next_in = done.next_in;
        stream_.avail_in = done.avail_in;
        stream_.next_out = done.next_out;
        stream_.avail_out = done.avail_out;
      }
      const std::size_t before = std::size_t{stream_.avail_in} + stream_.avail_out;
      status_ = BZ2_bzDecompress(&stream_);
      const bool moves = std::size_t{stream_.avail_in} + stream_.avail_out < before;
      check(status_ == BZ_STREAM_END || (status_ == BZ_OK && moves), packed_.where,
            ": is not a whole bzip2 file (damaged, or cut off?)");
    }
    return size - stream_.avail_out;
  }

 private:
  void begin() {
    stream_ = {};
    check(BZ2_bzDecompressInit(&stream_, 0, 0) == BZ_OK, packed_.where, ": bzip2 cannot start");
  }

  PackedBytes packed_;
  bz_stream stream_{};
  int status_ = BZ_OK;
};
#endif

#if defined(KTO_HAS_LZMA)
class XzStream {
 public:
  explicit XzStream(PackedBytes packed) : packed_(std::move(packed)) {
    constexpr std::uint64_t most_memory = std::uint64_t{1} << 31U;  // xz -9 needs 65 MiB
    check(lzma_stream_decoder(&stream_, most_memory, LZMA_CONCATENATED) == LZMA_OK, packed_.where, ": xz cannot start");
  }
  XzStream(const XzStream&) = delete;
  XzStream& operator=(const XzStream&) = delete;
  ~XzStream() { lzma_end(&stream_); }

  std::size_t read(char* to, std::size_t size) {
    stream_.next_out = reinterpret_cast<std::uint8_t*>(to);
    stream_.avail_out = size;
    while (stream_.avail_out > 0 && status_ != LZMA_STREAM_END) {
      if (stream_.avail_in == 0) {
        const std::string& block = packed_.next();
        stream_.next_in = reinterpret_cast<const std::uint8_t*>(block.data());
        stream_.avail_in = block.size();
      }
      status_ = lzma_code(&stream_, packed_.file.ends() ? LZMA_FINISH : LZMA_RUN);
      check(status_ == LZMA_OK || status_ == LZMA_STREAM_END, packed_.where,
            ": is not a whole xz file (damaged, or cut off?)");
    }
    return size - stream_.avail_out;
  }

 private:
  PackedBytes packed_;
  lzma_stream stream_ = LZMA_STREAM_INIT;
  lzma_ret status_ = LZMA_OK;
};
#endif

}  // namespace kto::detail
