// SPDX-License-Identifier: Apache-2.0
// For LibTorch without gloo's own headers, as its wheels are: ProcessGroupGloo.hpp includes this file.
#pragma once

#include <chrono>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds);
};

}  // namespace gloo
