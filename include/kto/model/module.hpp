// SPDX-License-Identifier: Apache-2.0
// The user's own models: any torch::nn::Module, or a function of parameters, that maps ids [B, T] and a mask [B, T] to
// logits [B, T, V]. Rows are padded on the right; the mask is true on real tokens. This header does not include
// torch/nn: code that has a module includes it, before or after.
#pragma once

#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>

#include "kto/model/concept.hpp"

namespace torch::nn {
class Module;
template <class Derived>
class Cloneable;
}  // namespace torch::nn

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
  const Tensor length_B1 = to_device(sequences.lengths, sequences.ids_N.device()).unsqueeze(1);
  return {sequences.ids_N.view({B, T}), at::arange(T, length_B1.options()) < length_B1};
}

inline Tensor flat_logits(const Tensor& logits_BTV, const Tensor& ids_BT) {
  check(logits_BTV.dim() == 3 && logits_BTV.size(0) == ids_BT.size(0) && logits_BTV.size(1) == ids_BT.size(1) &&
            logits_BTV.is_floating_point(),
        "the module returned ", logits_BTV.dtype().name(), " of shape ", shape_text(logits_BTV.sizes()),
        ", expected floating-point logits [", ids_BT.size(0), ", ", ids_BT.size(1), ", vocabulary]");
  return logits_BTV.flatten(0, 1);
}

/// The class that declares a member.
template <class Pointer>
struct DeclaredIn;
template <class Class, class Member>
struct DeclaredIn<Member Class::*> : std::type_identity<Class> {};

template <class>
inline constexpr bool is_cloneable_base = false;
template <class Derived>
inline constexpr bool is_cloneable_base<torch::nn::Cloneable<Derived>> = true;

/// Whether clone() returns a `Module`: torch::nn::Module's own throws, and the Cloneable of a base class returns that
/// base.
template <class Module>
constexpr bool makes_clones() {
  if constexpr (std::is_base_of_v<torch::nn::Cloneable<Module>, Module>) {
    return true;
  } else if constexpr (requires { &Module::clone; }) {
    using Class = typename DeclaredIn<decltype(&Module::clone)>::type;
    return !std::same_as<Class, torch::nn::Module> && !is_cloneable_base<Class>;
  } else {
    return true;  // it has its own overloads
  }
}

template <class Module>
concept MapsIdsToLogits = requires(Module& module, const Tensor& tensor) {
  { module.forward(tensor, tensor) } -> std::convertible_to<Tensor>;
};

}  // namespace detail

/// A torch::nn::Module with `Tensor forward(Tensor ids_BT, Tensor mask_BT)`; for a holder made by TORCH_MODULE, pass
/// ptr(). The module is shared, not copied. If it has dropout, call its eval(), as TRL does. live_reference uses
/// clone(): derive the module from torch::nn::Cloneable<YourModule> and register its members in reset(), which clone()
/// calls.
template <class Module>
struct ModuleModel {
  static constexpr BatchParts needs{.padded_rows = true};
  std::shared_ptr<Module> module;  ///< shared with the caller

  NamedTensors named_parameters() const {
    NamedTensors out;
    for (const auto& item : module->named_parameters()) out.emplace_back(item.key(), item.value());
    return out;
  }

  /// Logits [N, V]. Throws Error if the module returns another shape.
  Tensor logits(const Sequences& sequences) const {
    const auto in = detail::padded_input(sequences);
    if constexpr (detail::MapsIdsToLogits<Module>)
      return detail::flat_logits(module->forward(in.ids_BT, in.mask_BT), in.ids_BT);
    else
      static_assert(detail::MapsIdsToLogits<Module>,
                    "kto: write `at::Tensor forward(at::Tensor ids_BT, at::Tensor mask_BT)`, which returns logits "
                    "[B, T, vocabulary], in your module; see kto/model/module.hpp");
  }

  friend ModuleModel frozen_copy(const ModuleModel& model) {
    static_assert(
        detail::makes_clones<Module>(),
        "kto: a live reference is a clone of your module: derive it from torch::nn::Cloneable<YourModule> and "
        "register its members in reset(); see kto/model/module.hpp");
    auto copy = std::dynamic_pointer_cast<Module>(model.module->clone());
    check(copy != nullptr, "the module's clone() has another type than the module");
    for (const auto& item : copy->named_parameters()) item.value().set_requires_grad(false);
    copy->eval();
    return {std::move(copy)};
  }
};

/// A function of parameters: `function(parameters, ids_BT, mask_BT)` returns logits [B, T, V]. It receives the tensors
/// of the field `parameters`, in order.
template <class Function>
struct FunctionModel {
  static constexpr BatchParts needs{.padded_rows = true};
  NamedTensors parameters;  ///< with requires_grad on those to be trained
  Function function;        ///< (parameters, ids_BT, mask_BT) -> logits [B, T, V]

  NamedTensors named_parameters() const { return parameters; }

  /// Logits [N, V]. Throws Error if the function returns another shape.
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
/// Deduces the function's type.
template <class Function>
FunctionModel(NamedTensors, Function) -> FunctionModel<Function>;

}  // namespace kto
