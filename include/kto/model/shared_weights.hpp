// SPDX-License-Identifier: Apache-2.0
// Shares out a decoder's weights over ranks: a unit for each layer, and one for what stands around the layers, which is
// needed at both ends of a pass and stays.
#pragma once

#include <set>
#include <vector>

#include "kto/model/folds.hpp"

namespace kto {

/// The parameters of `decoder`, the same on all ranks, go into units of `world` (with_units): each rank keeps a part,
/// and passes gather them layer by layer. All ranks call it. Adapters and what is trained beside them stay whole, as do
/// weights in mapped files, which processes share anyway, and those in units already. If not `cuts_inside`, one rank has
/// all of a trained parameter.
inline void share_weights(const Decoder& decoder, const World& world, bool cuts_inside = true) {
  WeightUnits* const units = units_of(world);
  check(units != nullptr, "share_weights: this World has no units; make it with kto::with_units(world)");
  if (decoder.mapped) return;
  bool has_adapter = false;
  visit_loras(decoder, [&](const std::string&, const Tensor&) { has_adapter = true; });
  std::set<const void*> taken;
  std::vector<Tensor> unit;
  const auto take = [&](const std::string&, const Tensor& tensor, const auto&) {
    if (tensor.defined() && tensor.numel() > 0 && unit_of(tensor) == nullptr &&
        !(has_adapter && tensor.requires_grad()) && taken.insert(tensor.unsafeGetTensorImpl()).second)
      unit.push_back(tensor);
  };
  const auto add = [&](bool stays) {
    if (!unit.empty()) units->add(unit, stays, cuts_inside);
    unit.clear();
  };
  const auto add_layers = [&](const Decoder& stack) {
    for (std::size_t i = 0; i < stack.layers.size(); ++i) {
      detail::visit_layer_modules(stack.spec, stack.spec.layers[i], stack.layers[i], "",
                                  [&](const std::string& path, const auto& module, const ModuleShape& shape) {
                                    detail::visit_module_parameters(path, module, shape, take);
                                  });
      add(/*stays=*/false);
    }
  };
  for (const Decoder& stack : decoder.encoder) add_layers(stack);
  add_layers(decoder);
  visit_parameters(decoder, take);
  add(/*stays=*/true);
}

}  // namespace kto
