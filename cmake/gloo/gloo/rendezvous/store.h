// SPDX-License-Identifier: Apache-2.0
// For LibTorch without gloo's own headers, as its wheels are: ProcessGroupGloo.hpp includes this file. Only LibTorch makes
// objects of these classes: the functions are declared in its order and defined in its libraries.
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace gloo::rendezvous {

class Store {
 public:
  virtual ~Store();
  virtual void set(const std::string&, const std::vector<char>&) = 0;
  virtual std::vector<char> get(const std::string&) = 0;
  virtual void wait(const std::vector<std::string>&) = 0;
  virtual void wait(const std::vector<std::string>&, const std::chrono::milliseconds&) = 0;
};

}  // namespace gloo::rendezvous
