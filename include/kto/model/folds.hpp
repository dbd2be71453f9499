// SPDX-License-Identifier: Apache-2.0
// Operations on all parameters of a decoder, as folds over its modules: name, create, freeze, cast, share out, describe.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kto/io/content_hash.hpp"
#include "kto/model/decoder.hpp"

namespace kto {

/// Calls visit(name, tensor, shape) for every parameter in the decoder's spec, with its name in transformers and a
/// reference to the member that holds it.
template <class AnyDecoder, class Visit>
void visit_parameters(AnyDecoder& decoder, const Visit& visit) {
  visit_modules(decoder, [&](const std::string& path, auto& module, ModuleShape shape) {
    if constexpr (detail::is_a<decltype(module), OutputHead>) shape.has_weight = !decoder.spec.tie_word_embeddings;
    detail::visit_module_parameters(path, module, shape, visit);
  });
}

/// Calls visit(name, tensor) for every tensor of the decoder's adapters, under PEFT's names.
template <class AnyDecoder, class Visit>
void visit_loras(AnyDecoder& decoder, const Visit& visit) {
  visit_modules(decoder, [&](const std::string& path, auto& module, const ModuleShape&) {
    detail::visit_module_lora("base_model.model." + path, module, visit);
  });
}

/// Calls visit(name, value) for the constants that transformers stores beside the parameters.
template <class Visit>
void visit_stored_constants(const Decoder& decoder, const Visit& visit) {
  visit_modules(decoder, [&](const std::string& path, const auto& module, const ModuleShape&) {
    if constexpr (detail::is_a<decltype(module), Xielu>) {
      visit(path + ".beta", Xielu::beta);
      visit(path + ".eps", Xielu::eps);
    }
  });
}

namespace detail {

inline constexpr const char* correction_name = ".e_score_correction_bias";
inline constexpr const char* scalar_name = ".layer_scalar";

}  // namespace detail

/// Calls visit(name, tensor, shape) for the tensors beside the parameters that the numbers depend on and that are never
/// trained.
template <class AnyDecoder, class Visit>
void visit_buffers(AnyDecoder& decoder, const Visit& visit) {
  visit_modules(decoder, [&](const std::string& path, auto& module, const ModuleShape& shape) {
    if constexpr (detail::is_a<decltype(module), Router>)
      if (shape.has_correction)
        visit(path + detail::correction_name, module.correction_E, std::vector<std::int64_t>{shape.weight[0]});
  });
  const ModuleNames& names = decoder.spec.names;
  for (std::size_t i = 0; i < decoder.layers.size(); ++i)
    if (decoder.spec.layers[i].has_scalar)
      visit(concat(names.layers, i, detail::scalar_name), decoder.layers[i].scalar_1, std::vector<std::int64_t>{1});
  if (const std::string& name = names.logits_constant; !name.empty())
    visit(name, decoder.logits_constant_1V, std::vector<std::int64_t>{1, decoder.spec.vocab_size});
}

/// Builds a decoder whose parameters and buffers are make(name, shape).
template <class Make>
Decoder make_decoder(const ModelSpec& spec, const Make& make) {
  Decoder decoder;
  decoder.spec = spec;
  decoder.layers.resize(spec.layers.size());
  for (const EncoderSpec& encoder : spec.encoder) {
    Decoder& stack = decoder.encoder.emplace_back();
    stack.spec = encoder.stack;
    stack.layers.resize(encoder.stack.layers.size());
  }
  visit_modules(decoder, [](const std::string&, auto& module, const ModuleShape& shape) {
    using Module = decltype(module);
    if constexpr (detail::is_a<Module, Linear> || detail::is_a<Module, Experts>)
      module.is_transposed = shape.is_transposed;
  });
  visit_parameters(decoder, [&](const std::string& name, Tensor& tensor, const std::vector<std::int64_t>& shape) {
    tensor = make(name, shape);
  });
  visit_buffers(decoder, [&](const std::string& name, Tensor& tensor, const std::vector<std::int64_t>& shape) {
    if (const Tensor made = make(name, shape); made.defined()) tensor = made.detach();
  });
  return decoder;
}

inline std::vector<std::pair<std::string, Tensor>> Decoder::named_parameters() const {
  std::vector<std::pair<std::string, Tensor>> out;
  visit_parameters(*this,
                   [&](const std::string& name, const Tensor& tensor, const auto&) { out.emplace_back(name, tensor); });
  visit_loras(*this, [&](const std::string& name, const Tensor& tensor) { out.emplace_back(name, tensor); });
  return out;
}

/// A copy without gradient. Copies trained parameters and shares frozen ones, which do not change.
inline Decoder frozen_copy(const Decoder& decoder) {
  const at::NoGradGuard no_grad;
  Decoder copy = decoder;
  const auto freeze = [](const std::string&, Tensor& tensor, const auto&...) {
    if (tensor.requires_grad()) tensor = present(tensor).detach().clone();
  };
  visit_parameters(copy, freeze);
  visit_loras(copy, freeze);
  return copy;
}

/// Casts the weights of a frozen decoder to `compute` if that is the narrower type. They are cast for each product
/// anyway, so the numbers are the same, with half the memory and no casts in each step. Norms and the embedding, which
/// are used in float32, keep their type, and so do weights with an adapter.
inline Decoder held_in_compute_type(Decoder decoder) {
  const auto narrowed = [&](const Tensor& weight) {
    const bool narrows = weight.defined() && c10::elementSize(decoder.compute) < c10::elementSize(weight.scalar_type());
    return narrows ? weight.detach().to(decoder.compute) : weight;
  };
  visit_modules(decoder, [&](const std::string&, auto& module, const ModuleShape&) {
    if constexpr (detail::is_a<decltype(module), Linear>) {
      if (module.lora) return;
      module.weight_OI = narrowed(module.weight_OI);
      module.bias_O = narrowed(module.bias_O);
    } else if constexpr (detail::is_a<decltype(module), Experts>) {
      for (Tensor* held : {&module.gate_up, &module.down, &module.gate_up_bias_EO, &module.down_bias_ED})
        *held = narrowed(*held);
    }
  });
  if (decoder.head_lora()) return decoder;
  const Tensor head_VD = decoder.head_weight_VD();
  if (const Tensor held_VD = narrowed(head_VD); !held_VD.is_same(head_VD)) decoder.lm_head.weight_VD = held_VD;
  return decoder;
}

/// Puts the parameters of `decoder`, the same on all ranks, into units of `world` (with_units): one for each layer, and
/// one that stays for what stands around the layers. Each rank keeps a part, and passes gather them layer by layer. All
/// ranks call it. Adapters and what is trained beside them stay whole, as do weights in mapped files, which processes
/// share anyway, and those in units already. If not `cuts_inside`, one rank has all of a trained parameter.
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

/// Everything besides the parameters that a decoder's numbers depend on, as text.
inline std::string describe(const Decoder& decoder) {
  std::string out = concat(describe(decoder.spec), ", compute ", decoder.compute);
  visit_modules(decoder, [&](const std::string& path, const auto& module, const ModuleShape&) {
    using Module = decltype(module);
    if constexpr (detail::TakesLora<Module>) {
      const std::optional<LoraWeights> lora = [&] {
        if constexpr (detail::is_a<Module, OutputHead>)
          return decoder.head_lora();
        else
          return module.lora;
      }();
      if (lora) out += concat(", ", path, " scaled by ", Json(lora->scaling).dump());
      if constexpr (!detail::is_a<Module, Linear>)
        if (module.rows) {
          const Tensor ids_K = module.rows->ids_K.cpu();
          out += concat(", rows of ", path, ' ',
                        at::IntArrayRef(ids_K.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(ids_K.size(0))));
        }
    }
  });
  visit_buffers(decoder, [&](const std::string& name, const Tensor& tensor, const auto&) {
    ContentHash hash;
    hash.add(tensor);
    out += concat(", ", name, ' ', hash.hex());
  });
  return out;
}

}  // namespace kto
