// SPDX-License-Identifier: Apache-2.0
// A decoder whose weights are shared out over ranks (kto/dist/weight_units.hpp): before a layer's forward, and before
// its backward, its weights are gathered, and those of the next one begin to come.
#pragma once

#include <algorithm>
#include <vector>

#include "kto/dist/shared_out.hpp"
#include "kto/model/mixing.hpp"
#include "kto/nn/kept.hpp"

namespace kto::detail {

/// The units that one layer needs, its own first. Null for no unit is never among them.
using Units = std::vector<WeightUnit*>;

inline void add_unit(Units& units, const Tensor& tensor) {
  WeightUnit* const unit = unit_of(tensor);
  if (unit != nullptr && std::ranges::find(units, unit) == units.end()) units.push_back(unit);
}

inline Units units_of_layer(const ModelSpec& spec, std::size_t i, const std::vector<DecoderLayer>& layers) {
  Units out;
  const LayerSpec& of = spec.layers[i];
  visit_layer_modules(
      spec, of, layers[i], "", [&](const std::string& path, const auto& module, const ModuleShape& shape) {
        visit_module_parameters(path, module, shape,
                                [&](const std::string&, const Tensor& tensor, const auto&) { add_unit(out, tensor); });
      });
  if (of.relative_bias) add_unit(out, layers[of.relative_bias->is_first_layers ? 0 : i].relative_bias.weight_PD);
  if (of.attention.kv.of_layer)
    for (WeightUnit* unit : units_of_layer(spec, *of.attention.kv.of_layer, layers))
      if (std::ranges::find(out, unit) == out.end()) out.push_back(unit);
  return out;
}

/// Of each layer; none at all if the first has none.
inline std::vector<Units> units_of_layers(const ModelSpec& spec, const std::vector<DecoderLayer>& layers) {
  std::vector<Units> out;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    out.push_back(units_of_layer(spec, i, layers));
    if (out.front().empty()) return {};
  }
  return out;
}

/// Gathers `units`; `next` is needed after them, if any.
inline void fetch(const Units& units, const Units* next) {
  if (!units.empty()) units.front()->all.fetch(units, next == nullptr || next->empty() ? nullptr : next->front());
}

struct FetchInBackward : torch::autograd::Function<FetchInBackward> {
  struct Wanted {
    Units units, next;
  };
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& output, const Wanted& wanted) {
    keep(ctx, "wanted", wanted);
    return output.view_as(output);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto* wanted = kept<Wanted>(ctx, "wanted");
    fetch(wanted->units, &wanted->next);
    return {grads[0], Tensor()};
  }
};

/// A layer's output, whose gradient finds the layer's `units` here; after them those of the layer before are needed.
inline Tensor with_units_in_backward(const Tensor& output, const Units& units, const Units* before) {
  if (!at::GradMode::is_enabled() || !output.requires_grad()) return output;
  return FetchInBackward::apply(output, FetchInBackward::Wanted{units, before == nullptr ? Units() : *before});
}

}  // namespace kto::detail
