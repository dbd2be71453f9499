// SPDX-License-Identifier: Apache-2.0
// The forward pass of one layer, driven by its LayerSpec.
#pragma once

#include <memory>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/model/modules.hpp"
#include "kto/nn/attention.hpp"
#include "kto/nn/blocks.hpp"
#include "kto/nn/rotate.hpp"

namespace kto {

// Shapes: N tokens of a batch in one row, D width, H heads, K key/value heads, d head dimension.

/// State shared by all layers of a decoder during one forward pass.
struct LayerContext {
  double norm_eps;
  at::ScalarType compute;
  std::vector<RopeTables> ropes;
  std::vector<Segment> segments;
};

/// One layer: states [N, D] to states [N, D], in float32 or wider. Prefixes of segments are in `prefix`, or in the row
/// itself if that is empty. If given, `kept` receives the row's keys and values, without gradient.
inline Tensor layer_forward(const LayerContext& context, const LayerSpec& spec, const DecoderLayer& layer,
                            const Tensor& hidden_ND, const KeysValues& prefix = {}, KeysValues* kept = nullptr) {
  const AttentionSpec& attention = spec.attention;
  const at::ScalarType compute = context.compute;
  const double eps = context.norm_eps;
  const auto heads = [&](const Tensor& x) { return x.unflatten(-1, {-1, attention.head_dim}); };
  const auto rotated = [&](const Tensor& x_NHd, const Norm& norm) {
    const Tensor normed = attention.qk_norm ? rms_norm(x_NHd, norm.weight_D, eps, wide_type(compute)) : x_NHd;
    return apply_rope(normed, context.ropes[attention.rope], compute);
  };

  const auto qkv = normed_linears(hidden_ND, layer.input_layernorm.weight_D, eps, compute,
                                  {&layer.q_proj, &layer.k_proj, &layer.v_proj});
  const Tensor q_NHd = rotated(heads(qkv[0]), layer.q_norm), k_NKd = rotated(heads(qkv[1]), layer.k_norm),
               v_NKd = heads(qkv[2]);
  if (kept != nullptr) *kept = {k_NKd.detach(), v_NKd.detach()};
  const Tensor attended_NHd =
      causal_attention(q_NHd, k_NKd, v_NKd, context.segments, attention.window, attention.scale, prefix);
  const auto middle_gate_up =
      add_normed_linears(hidden_ND, layer.o_proj(attended_NHd.flatten(-2)), layer.post_attention_layernorm.weight_D,
                         eps, compute, {&layer.gate_proj, &layer.up_proj});
  return middle_gate_up[0] + gated_down(spec.mlp.activation, middle_gate_up[1], middle_gate_up[2], layer.down_proj);
}

namespace detail {

/// Whether a layer's output is random when gradients are computed (dropout).
inline bool drops(const ModelSpec& spec, const LayerSpec& of, const DecoderLayer& layer) {
  bool out = false;
  visit_layer_modules(spec, of, layer, "", [&](const std::string&, const auto& module, const ModuleShape&) {
    if constexpr (is_a<decltype(module), Linear>) out = out || (module.lora && module.lora->dropout > 0);
  });
  return out;
}

inline std::vector<Tensor> trained_parameters(const ModelSpec& spec, const LayerSpec& of, const DecoderLayer& layer) {
  std::vector<Tensor> out;
  const auto add = [&](const std::string&, const Tensor& tensor, const auto&...) {
    if (tensor.requires_grad()) out.push_back(tensor);
  };
  visit_layer_modules(spec, of, layer, "", [&](const std::string& path, const auto& module, const ModuleShape& shape) {
    visit_module_parameters(path, module, shape, add);
  });
  visit_layer_modules(spec, of, layer, "", [&](const std::string& path, const auto& module, const ModuleShape&) {
    visit_module_lora(path, module, add);
  });
  return out;
}

}  // namespace detail

}  // namespace kto
