// SPDX-License-Identifier: Apache-2.0
// Keys and values that all ranks of a job see: how they find each other, and learn what became of each other.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace kto {

/// Each call may throw when the process that holds the values cannot be reached. An object serves one thread.
class Store {
 public:
  virtual ~Store() = default;
  virtual void set(const std::string& key, const std::string& value) = 0;
  /// Nothing while there is no such key.
  virtual std::optional<std::string> get(const std::string& key) = 0;
  /// Adds to the number under a key, 0 at first, and returns the sum.
  virtual std::int64_t add(const std::string& key, std::int64_t number) = 0;
};

}  // namespace kto
