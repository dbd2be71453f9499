// SPDX-License-Identifier: Apache-2.0
// Dynamic loss scaling for float16 products (arXiv:1710.03740), whose small gradients would underflow to zero: the loss
// is multiplied by a scale before the backward pass, and the gradients are divided by it before they are used. A step
// whose gradients overflow is skipped and the scale halved; after many good steps it is doubled. Like torch's
// GradScaler.
#pragma once

#include <cmath>
#include <cstdint>

#include "kto/core/torch.hpp"

namespace kto {

class LossScale {
 public:
  static constexpr double first = 65536, growth = 2, backoff = 0.5;
  static constexpr std::int64_t growth_interval = 2000;  ///< good steps in a row before the scale grows
  static constexpr double least = 1.0 / 1024;            ///< an overflow below this is not due to the scale

  explicit LossScale(bool on = false) : is_on_(on), scale_(on ? first : 1) {}

  bool is_on() const { return is_on_; }
  double value() const { return scale_; }
  /// The number of skipped steps. The learning rate counts them, as in transformers with its fused AdamW.
  std::int64_t num_skipped() const { return num_skipped_; }

  Tensor scaled(const Tensor& loss) const { return is_on_ ? loss * scale_ : loss; }

  /// Updates the scale after step `step`, by whether its gradients were finite. Throws Error if no scale helps.
  void follow(bool finite, std::int64_t step) {
    if (!is_on_) return;
    if (!finite) {
      scale_ *= backoff;
      num_good_ = 0;
      ++num_skipped_;
      check(scale_ >= least, "step ", step, ": the gradient is not finite in float16, not even at a loss scale of ",
            scale_ / backoff, "; use bf16, or float32");
    } else if (++num_good_ == growth_interval) {
      num_good_ = 0;
      if (std::isfinite(static_cast<float>(scale_ * growth))) scale_ *= growth;
    }
  }

  template <class Archive>
  void visit_state(Archive& archive) {
    archive("scale", scale_);
    archive("num_good", num_good_);
    archive("num_skipped", num_skipped_);
  }

 private:
  bool is_on_;
  double scale_;
  std::int64_t num_good_ = 0, num_skipped_ = 0;
};

}  // namespace kto
