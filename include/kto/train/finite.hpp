// SPDX-License-Identifier: Apache-2.0
// Detects a loss or gradient that is not finite before it reaches the weights, and reports it with its rows.
#pragma once

#include <cmath>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "kto/train/step.hpp"

namespace kto {

// Shapes: B examples of a micro-batch.

/// Describes what is not finite in a window.
struct NotFinite {
  std::string what;     ///< for a message
  bool is_loss = true;  ///< else only the gradient
};

/// The losses of a micro-batch's rows, or of its pairs.
struct BatchLoss {
  const Batch* batch;
  Tensor loss_B;
};

/// Checks the micro-batches of a window; empty if all is finite. Waits for the device.
inline std::optional<NotFinite> not_finite(std::span<const BatchLoss> window, const Tensor& grad_norm) {
  const at::NoGradGuard no_grad;
  Tensor sum = grad_norm.to(at::kDouble);
  for (const auto& [batch, loss_B] : window) sum = sum + loss_B.sum().to(grad_norm.device(), at::kDouble);
  if (std::isfinite(sum.item<double>())) return std::nullopt;
  std::string rows;
  std::size_t count = 0;
  for (const auto& [batch, loss_B] : window) {
    const Tensor bad_B = at::isfinite(loss_B).logical_not().cpu();
    for (std::int64_t b = 0; b < bad_B.size(0); ++b)
      if (bad_B[b].item<bool>() && ++count <= 10)
        rows += concat(count > 1 ? ", " : "", batch->picks[static_cast<std::size_t>(b)].example->row);
  }
  if (count == 0)
    return NotFinite{concat("the gradient is not finite (its norm is ", grad_norm.item<double>(), ")"), false};
  return NotFinite{concat("the loss is not finite for ", count > 1 ? "the rows " : "row ", rows,
                          count > 10 ? concat(" and ", count - 10, " more") : "")};
}

/// What is not finite on any rank, the same on all: the first rank's loss, or else the gradient.
inline std::optional<NotFinite> agreed(const std::optional<NotFinite>& own, const World& world) {
  if (world.alone() || !world.any(own.has_value())) return own;
  std::optional<NotFinite> out = own && !own->is_loss ? own : std::nullopt;
  for (const std::string& what : world.gather(own && own->is_loss ? own->what : ""))
    if (!what.empty() && (!out || !out->is_loss)) out = NotFinite{what};
  return out;
}

/// Detects weights that an update made non-finite, before they overwrite a good save.
class WeightWatch {
 public:
  /// Records parameters that are not finite at the start, such as unused rows of a vocabulary.
  template <HasParameters Model>
  explicit WeightWatch(const Model& model) {
    for (const auto& [name, tensor] : model.named_parameters())
      if (!is_finite(tensor)) were_not_.insert(name);
  }
  /// Throws Error naming a trained parameter that update `step` made non-finite.
  template <HasParameters Model>
  void check_after(const Model& model, std::int64_t step) const {
    for (const auto& [name, tensor] : model.named_parameters())
      check(!tensor.requires_grad() || were_not_.contains(name) || is_finite(tensor), "step ", step,
            ": the update left ", name,
            " with values that are not finite; they are not saved. Lower learning_rate; "
            "checkpoints of earlier steps are intact");
  }

 private:
  static bool is_finite(const Tensor& tensor) {
    const at::NoGradGuard no_grad;
    return std::isfinite(present(tensor).sum().item<double>());
  }
  std::set<std::string> were_not_;
};

}  // namespace kto
