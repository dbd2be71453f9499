// SPDX-License-Identifier: Apache-2.0
// The hashes that name files on the hub: SHA-256 of those in large-file storage, git's SHA-1 of the others. From
// OpenSSL, which uses the processor's instructions for them. In programs that link kto::hub.
#pragma once

#if defined(KTO_HAS_HUB)
#include <openssl/evp.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "kto/core/error.hpp"

namespace kto::hub {

class Digest {
 public:
  /// Of the bytes alone.
  static Digest sha256() { return Digest(EVP_sha256()); }
  /// Of a git blob of `size` bytes, whose header it begins with.
  static Digest git_blob(std::uint64_t size) {
    Digest out(EVP_sha1());
    out.add(concat("blob ", size));
    out.add(std::string_view("", 1));
    return out;
  }

  /// Adds the next bytes.
  void add(std::string_view bytes) {
    check(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1, "OpenSSL could not compute a hash");
  }
  /// The hash of all bytes, in hexadecimal digits. Ends this digest.
  std::string hex() {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned int count = 0;
    check(EVP_DigestFinal_ex(context_.get(), bytes, &count) == 1, "OpenSSL could not compute a hash");
    std::string out;
    for (unsigned int i = 0; i < count; ++i) {
      out += "0123456789abcdef"[bytes[i] >> 4];
      out += "0123456789abcdef"[bytes[i] & 15];
    }
    return out;
  }

 private:
  explicit Digest(const EVP_MD* kind) : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    check(context_ && EVP_DigestInit_ex(context_.get(), kind, nullptr) == 1, "OpenSSL has no such hash");
  }

  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace kto::hub
#endif
