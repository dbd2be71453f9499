// SPDX-License-Identifier: Apache-2.0
// Work of one rank between collective calls. A rank that fails still joins the calls that the others make until all ask
// together() how it went; an exception that flew at once would leave them waiting.
#pragma once

#include <exception>

namespace kto {

class Attempt {
 public:
  /// Runs `work`, unless something has failed before. Keeps what it throws.
  template <class Work>
  void operator()(const Work& work) {
    if (failure_) return;
    try {
      work();
    } catch (...) {
      failure_ = std::current_exception();
    }
  }
  bool has_failed() const { return failure_ != nullptr; }
  /// Throws what was kept, if anything.
  void check() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  std::exception_ptr failure_;
};

}  // namespace kto
