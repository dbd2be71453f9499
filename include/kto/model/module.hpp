// SPDX-License-Identifier: Apache-2.0
// Models of the user's own: any torch::nn::Module, or a function of parameters, that maps ids [B, T] and a mask [B, T]
// to logits [B, T, V]. Rows are padded on the right; the mask is true on real tokens. This header includes no
// torch/nn: whoever has a module has it included already.
#pragma once

#include <memory>
#include <utility>

#include "kto/model/concept.hpp"

namespace kto {

// Shapes: B rows of T tokens (N = B T), V vocabulary.

namespace detail {

struct PaddedInput {
  Tensor ids_BT;   ///< int64
  Tensor mask_BT;  ///< bool, true on real tokens
};

inline PaddedInput padded_input(const Sequences& sequences) {
  const auto B = static_cast<std::int64_t>(sequences.segments.size());
  const std::int64_t T = sequences.segments.front().length;
  for (const Segment& segment : sequences.segments)
    check(segment.length == T && segment.prefix_length == 0, "a module needs padded rows: use kto::PaddedCollator");
  const Tensor length_B1 =
      at::tensor(at::ArrayRef<std::int64_t>(sequences.lengths), at::kLong).to(sequences.ids_N.device()).unsqueeze(1);
  return {sequences.ids_N.view({B, T}), at::arange(T, length_B1.options()) < length_B1};
}

inline Tensor flat_logits(const Tensor& logits_BTV, const Tensor& ids_BT) {
  check(logits_BTV.dim() == 3 && logits_BTV.size(0) == ids_BT.size(0) && logits_BTV.size(1) == ids_BT.size(1) &&
            logits_BTV.is_floating_point(),
        "the module returned ", logits_BTV.dtype().name(), " of shape ", shape_text(logits_BTV.sizes()),
        ", expected floating-point logits [", ids_BT.size(0), ", ", ids_BT.size(1), ", vocabulary]");
  return logits_BTV.flatten(0, 1);
}

}  // namespace detail

/// A torch::nn::Module with `Tensor forward(Tensor ids_BT, Tensor mask_BT)`. It is shared, not copied; a live_reference
/// of it is made with clone(), so derive it from torch::nn::Cloneable (TORCH_MODULE does).
template <class Module>
struct ModuleModel {
  static constexpr BatchParts needs{.padded_rows = true};
  std::shared_ptr<Module> module;

  NamedTensors named_parameters() const {
    NamedTensors out;
    for (const auto& item : module->named_parameters()) out.emplace_back(item.key(), item.value());
    return out;
  }

  /// [N, V]. Throws Error naming the shape when the module returns another.
  Tensor logits(const Sequences& sequences) const {
    const auto in = detail::padded_input(sequences);
    return detail::flat_logits(module->forward(in.ids_BT, in.mask_BT), in.ids_BT);
  }

  friend ModuleModel frozen_copy(const ModuleModel& model) {
    auto copy = std::dynamic_pointer_cast<Module>(model.module->clone());
    check(copy != nullptr, "the module's clone() is not of the module's type");
    for (const auto& item : copy->named_parameters()) item.value().set_requires_grad(false);
    return {std::move(copy)};
  }
};

/// A function of parameters: `function(parameters, ids_BT, mask_BT)` gives logits [B, T, V], where `parameters` are the
/// tensors of the field, in its order.
template <class Function>
struct FunctionModel {
  static constexpr BatchParts needs{.padded_rows = true};
  NamedTensors parameters;  ///< with requires_grad where they are to be trained
  Function function;

  NamedTensors named_parameters() const { return parameters; }

  /// [N, V]. Throws Error naming the shape when the function returns another.
  Tensor logits(const Sequences& sequences) const {
    const auto in = detail::padded_input(sequences);
    return detail::flat_logits(function(parameters, in.ids_BT, in.mask_BT), in.ids_BT);
  }

  friend FunctionModel frozen_copy(const FunctionModel& model) {
    FunctionModel copy = model;
    for (auto& [name, tensor] : copy.parameters) tensor = tensor.detach().clone();
    return copy;
  }
};
template <class Function>
FunctionModel(NamedTensors, Function) -> FunctionModel<Function>;

}  // namespace kto
