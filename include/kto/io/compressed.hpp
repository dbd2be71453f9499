// SPDX-License-Identifier: Apache-2.0
// Reads files compressed with gzip, zstd, bzip2 or xz piece by piece, without holding them in memory. Each format needs
// its library when kto is configured; without it such a file is an Error that says so.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <variant>

#include "kto/io/detail/unpack.hpp"
#include "kto/io/file.hpp"

namespace kto {

/// File name endings of the supported formats.
inline constexpr std::array<std::string_view, 4> compressed_endings{".gz", ".zst", ".bz2", ".xz"};

inline bool is_compressed(const fs::path& path) {
  return std::ranges::find(compressed_endings, path.extension().string()) != compressed_endings.end();
}

/// The unpacked content of a compressed file, read from begin to end.
class CompressedFile {
 public:
  /// Throws Error if kto was built without the library.
  explicit CompressedFile(const fs::path& path) : file_(path) {
    const std::string where = path.string(), ending = path.extension().string();
    [[maybe_unused]] const auto missing = [&](auto library, auto package, auto tool) {
      fail(where, ": this program was built without ", library, "; install ", package, " (Debian) and build again, or ",
           tool, " the file");
    };
    if (ending == ".gz") {
#if defined(KTO_HAS_ZLIB)
      stream_.emplace<detail::GzipStream>(detail::PackedBytes{file_, where});
#else
      missing("zlib", "zlib1g-dev", "gunzip");
#endif
    } else if (ending == ".zst") {
#if defined(KTO_HAS_ZSTD)
      stream_.emplace<detail::ZstdStream>(detail::PackedBytes{file_, where});
#else
      missing("zstd", "libzstd-dev", "unzstd");
#endif
    } else if (ending == ".bz2") {
#if defined(KTO_HAS_BZIP2)
      stream_.emplace<detail::Bzip2Stream>(detail::PackedBytes{file_, where});
#else
      missing("bzip2", "libbz2-dev", "bunzip2");
#endif
    } else {
#if defined(KTO_HAS_LZMA)
      stream_.emplace<detail::XzStream>(detail::PackedBytes{file_, where});
#else
      missing("xz", "liblzma-dev", "unxz");
#endif
    }
  }
  CompressedFile(const CompressedFile&) = delete;
  CompressedFile& operator=(const CompressedFile&) = delete;

  /// Appends up to `most` bytes to `out`; returns false at the end. Throws Error if the file is damaged.
  bool read(std::string& out, std::size_t most) {
    const std::size_t before = out.size();
    out.resize(before + most);
    std::size_t got = 0;
    std::visit(
        [&](auto& stream) {
          if constexpr (requires { stream.read(out.data(), most); }) got = stream.read(out.data() + before, most);
        },
        stream_);
    out.resize(before + got);
    return got > 0;
  }

  /// The share of the file read so far, from 0 to 1.
  double share() const { return file_.share(); }

 private:
  FileReader file_;
  std::variant<std::monostate
#if defined(KTO_HAS_ZLIB)
               ,
               detail::GzipStream
#endif
#if defined(KTO_HAS_ZSTD)
               ,
               detail::ZstdStream
#endif
#if defined(KTO_HAS_BZIP2)
               ,
               detail::Bzip2Stream
#endif
#if defined(KTO_HAS_LZMA)
               ,
               detail::XzStream
#endif
               >
      stream_;
};

}  // namespace kto
