// SPDX-License-Identifier: Apache-2.0
// A hash of rows, weights and files, to tell whether they have changed since an earlier run.
#pragma once

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "kto/dist/shared_out.hpp"
#include "kto/io/file.hpp"

namespace kto {

/// A 128-bit content hash: two multiply-and-rotate streams over 8-byte words. It protects against accidents, not
/// against attacks.
class ContentHash {
 public:
  void add(std::string_view bytes) {
    add_word(bytes.size());
    add_last(add_words(bytes));
  }
  /// Adds the content of a file that was just opened.
  void add(FileReader file) {
    add_word(file.size());
    std::string held;
    while (file.read(held, 1 << 20)) held.erase(0, held.size() - add_words(held).size());
    add_last(held);
  }
  template <class T>
  void add(std::span<const T> values) {
    add(std::string_view(reinterpret_cast<const char*>(values.data()), values.size_bytes()));
  }
  void add(const Tensor& tensor) {
    const Tensor cpu = present(tensor).detach().cpu().contiguous();
    add(concat(cpu.scalar_type(), cpu.sizes()));
    add(std::string_view(static_cast<const char*>(cpu.const_data_ptr()), static_cast<std::size_t>(cpu.nbytes())));
  }
  std::string hex() const {
    char text[33];
    std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(finish(a_)),
                  static_cast<unsigned long long>(finish(b_)));
    return text;
  }

 private:
  /// Adds all whole words; returns the rest.
  std::string_view add_words(std::string_view bytes) {
    for (; bytes.size() >= 8; bytes.remove_prefix(8)) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes.data(), 8);
      add_word(word);
    }
    return bytes;
  }
  void add_last(std::string_view bytes) {
    std::uint64_t last = 0;
    std::memcpy(&last, bytes.data(), bytes.size());
    add_word(last);
  }
  void add_word(std::uint64_t word) {
    a_ = std::rotl((a_ ^ word) * 0x9E3779B97F4A7C15u, 31);
    b_ = std::rotl((b_ + word) * 0xC2B2AE3D27D4EB4Fu, 29) ^ a_;
  }
  static std::uint64_t finish(std::uint64_t x) {
    x = (x ^ (x >> 33)) * 0xFF51AFD7ED558CCDu;
    x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53u;
    return x ^ (x >> 33);
  }
  std::uint64_t a_ = 0x243F6A8885A308D3u, b_ = 0x13198A2E03707344u;
};

}  // namespace kto
