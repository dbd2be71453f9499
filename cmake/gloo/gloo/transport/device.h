// SPDX-License-Identifier: Apache-2.0
// For LibTorch without gloo's own headers, as its wheels are: ProcessGroupGloo.hpp includes this file.
#pragma once

namespace gloo::transport {

class Device;

class UnboundBuffer {
 public:
  virtual ~UnboundBuffer();
};

}  // namespace gloo::transport
