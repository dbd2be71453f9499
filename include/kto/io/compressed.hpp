// SPDX-License-Identifier: Apache-2.0
// Files compressed with gzip (zlib) or zstd, read whole. Each needs its library when kto is configured; without it such
// a file is an Error that says so.
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

#include "kto/io/file.hpp"

namespace kto {

inline bool is_compressed(const fs::path& path) { return path.extension() == ".gz" || path.extension() == ".zst"; }

namespace detail {

#if defined(KTO_HAS_ZLIB)
inline std::string inflate_gzip(std::string_view bytes, const std::string& where) {
  z_stream stream{};
  check(inflateInit2(&stream, 15 + 16) == Z_OK, where, ": zlib cannot start");
  std::string out;
  char buffer[1 << 16];
  int status = Z_OK;
  while (status != Z_DATA_ERROR && (stream.avail_in > 0 || !bytes.empty())) {
    if (stream.avail_in == 0) {  // zlib counts in 32 bits
      const std::size_t part = std::min<std::size_t>(bytes.size(), 1U << 30U);
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
      stream.avail_in = static_cast<uInt>(part);
      bytes.remove_prefix(part);
    }
    if (status == Z_STREAM_END) inflateReset(&stream);  // several members one after another are one file
    do {
      stream.next_out = reinterpret_cast<Bytef*>(buffer);
      stream.avail_out = sizeof buffer;
      status = inflate(&stream, Z_NO_FLUSH);
      out.append(buffer, sizeof buffer - stream.avail_out);
    } while (status == Z_OK && (stream.avail_in > 0 || stream.avail_out == 0));
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) status = Z_DATA_ERROR;
  }
  inflateEnd(&stream);
  check(status == Z_STREAM_END, where, ": is not a whole gzip file (damaged, or cut off?)");
  return out;
}
#endif

#if defined(KTO_HAS_ZSTD)
inline std::string inflate_zstd(std::string_view bytes, const std::string& where) {
  ZSTD_DStream* stream = ZSTD_createDStream();
  check(stream != nullptr, where, ": zstd cannot start");
  std::string out;
  char buffer[1 << 16];
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  std::size_t left = 1;  // 0 at the end of a frame
  bool more = true;
  while (!ZSTD_isError(left) && (in.pos < in.size || more)) {
    ZSTD_outBuffer piece{buffer, sizeof buffer, 0};
    left = ZSTD_decompressStream(stream, &piece, &in);
    out.append(buffer, piece.pos);
    more = piece.pos == piece.size;
  }
  ZSTD_freeDStream(stream);
  check(left == 0, where, ": is not a whole zstd file (damaged, or cut off?)");
  return out;
}
#endif

}  // namespace detail

/// The content of a .gz or .zst file. Throws Error when it is damaged, or when kto was built without its library.
inline std::string read_compressed(const fs::path& path) {
  const MappedFile file(path);
  const std::string where = path.string();
  if (path.extension() == ".gz") {
#if defined(KTO_HAS_ZLIB)
    return detail::inflate_gzip(file.bytes(), where);
#else
    fail(where,
         ": this program was built without zlib; install zlib1g-dev (Debian) and build again, or gunzip the file");
#endif
  }
#if defined(KTO_HAS_ZSTD)
  return detail::inflate_zstd(file.bytes(), where);
#else
  fail(where,
       ": this program was built without zstd; install libzstd-dev (Debian) and build again, or unzstd the file");
#endif
}

}  // namespace kto
