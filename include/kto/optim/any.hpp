// SPDX-License-Identifier: Apache-2.0
// An optimizer chosen at run time, for programs: one trainer to compile instead of seven.
#pragma once

#include <variant>

#include "kto/optim/adafactor.hpp"
#include "kto/optim/adagrad.hpp"
#include "kto/optim/adamw.hpp"
#include "kto/optim/adamw_8bit.hpp"
#include "kto/optim/adamw_bf16.hpp"
#include "kto/optim/rmsprop.hpp"
#include "kto/optim/sgd.hpp"

namespace kto {

/// An optimizer that is chosen at run time: one trainer to compile for all of them.
struct AnyOptimizer {
  /// The optimizer, with its state.
  std::variant<AdamW, AdamW8Bit, AdamWBf16, Sgd, RmsProp, Adagrad, Adafactor> chosen = {};

  /// Whether the chosen one takes a part of a parameter (kto/optim/concept.hpp).
  bool is_elementwise() const {
    return std::visit([](const auto& optimizer) { return detail::is_elementwise(optimizer); }, chosen);
  }
  template <class Archive>
  void visit_state(Archive& archive) {
    std::visit([&](auto& optimizer) { optimizer.visit_state(archive); }, chosen);
  }
  void prepare(const FlatParameters& parameters) {
    std::visit([&](auto& optimizer) { optimizer.prepare(parameters); }, chosen);
  }
  void step(FlatParameters& parameters, const Update& update) {
    std::visit([&](auto& optimizer) { optimizer.step(parameters, update); }, chosen);
  }
};

}  // namespace kto
