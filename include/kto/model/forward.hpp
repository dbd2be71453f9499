// SPDX-License-Identifier: Apache-2.0
// The forward pass of one layer, as its LayerSpec says.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "kto/model/mixing.hpp"
#include "kto/model/normalize.hpp"

namespace kto {

// Shapes: N tokens of a batch in one row, D width, M intermediate width. Behind the mixer N is the number of positions
// whose output is asked for.

namespace detail {

inline std::vector<const Linear*> mlp_projections(const MlpSpec& spec, const DecoderLayer& layer) {
  if (spec.is_fused) return {&layer.gate_up_proj};
  if (spec.is_gated) return {&layer.gate_proj, &layer.up_proj};
  return {&layer.up_proj};
}

/// The feed-forward part's output from that of its first projections, which begin at `projected[first]`.
inline Tensor mlp_output(const MlpSpec& spec, const DecoderLayer& layer, const std::vector<Tensor>& projected,
                         std::size_t first) {
  if (spec.is_xielu) return layer.down_proj(layer.xielu(projected[first]));
  const Tensor up_NM = spec.is_gated && !spec.is_fused ? projected[first + 1] : Tensor();
  return gated_down(spec.activation, {projected[first], up_NM, spec.is_fused}, layer.down_proj);
}

/// The rows of x whose output is asked for.
inline Tensor needed(const LayerPass& pass, const Tensor& x_N) {
  const Tensor& needed_S = pass.inputs.needed_S;
  return needed_S.defined() ? x_N.index_select(0, needed_S) : x_N;
}

/// The output of the mixer's last projection.
inline Tensor mixer_output(const LayerPass& pass, const std::vector<Tensor>& projected) {
  return pass.layer.o_proj(needed(pass, mixed(pass, projected)));
}

/// What the experts make of their normed input.
inline Tensor experts_of(const LayerPass& pass, const Tensor& x_ND) {
  return experts_output(pass.spec, pass.layer, x_ND, pass.context.token_weight_N, pass.sums);
}

/// What a part adds to the residual stream.
inline Tensor residual_of(const LayerPass& pass, const Tensor& out_ND, const std::optional<NormSpec>& spec,
                          const Norm& norm) {
  const Tensor normed = spec ? normalized(*spec, norm, out_ND, out_ND.scalar_type()) : out_ND;
  return pass.spec.residual_scale == 1 ? normed : normed * pass.spec.residual_scale;
}

/// The end of a layer: what its embedding of the tokens adds, and its constant.
inline Tensor with_embedding(const LayerPass& pass, Tensor hidden_ND) {
  const auto& [context, spec, layer, prefix, kept, inputs, sums] = pass;
  if (spec.embedding) {
    const Tensor gate_NP = layer.embedding_gate(hidden_ND.to(context.compute));
    const Tensor out_ND = gated_down(spec.embedding->activation, {gate_NP, needed(pass, inputs.embedding_NP)},
                                     layer.embedding_projection);
    hidden_ND = hidden_ND + normalized(spec.embedding->norm, layer.after_embedding, out_ND, hidden_ND.scalar_type());
  }
  return spec.has_scalar ? hidden_ND * layer.scalar_1.to(hidden_ND.options()) : hidden_ND;
}

/// Attention and feed-forward part of one input.
inline Tensor parallel_layer(const LayerPass& pass, const Tensor& hidden_ND) {
  const auto& [context, spec, layer, prefix, kept, inputs, sums] = pass;
  const at::ScalarType compute = context.compute;
  const auto qkv = mixer_projections(spec, layer), mlp = mlp_projections(spec.mlp, layer);
  const Tensor stream_ND = needed(pass, hidden_ND);
  std::vector<Tensor> projected;
  if (spec.before_mlp || inputs.needed_S.defined()) {
    projected = normalized_linears(spec.before_attention, layer.before_attention, hidden_ND, compute, qkv);
    const auto& [norm, weights] = spec.before_mlp ? std::tie(spec.before_mlp, layer.before_mlp)
                                                  : std::tie(spec.before_attention, layer.before_attention);
    for (Tensor& each : normalized_linears(norm, weights, stream_ND, compute, mlp))
      projected.push_back(std::move(each));
  } else {
    std::vector<const Linear*> all = qkv;
    all.insert(all.end(), mlp.begin(), mlp.end());
    projected = normalized_linears(spec.before_attention, layer.before_attention, hidden_ND, compute, all);
  }
  const Tensor attention_ND =
      residual_of(pass, mixer_output(pass, projected), spec.after_attention, layer.after_attention);
  const Tensor mlp_ND =
      residual_of(pass, mlp_output(spec.mlp, layer, projected, qkv.size()), spec.after_mlp, layer.after_mlp);
  return stream_ND + attention_ND + mlp_ND;
}

/// A layer whose norms follow its sums.
inline Tensor normalizing_layer(const LayerPass& pass, const Tensor& hidden_ND) {
  const auto& [context, spec, layer, prefix, kept, inputs, sums] = pass;
  const auto qkv = normalized_linears({}, {}, hidden_ND, context.compute, mixer_projections(spec, layer));
  Tensor middle_ND = normalized(*spec.after_attention, layer.after_attention,
                                needed(pass, hidden_ND) + mixer_output(pass, qkv), hidden_ND.scalar_type());
  if (spec.cross) {
    const Tensor across_ND = attended_across(pass, layer.cross.q_proj(middle_ND.to(context.compute)));
    middle_ND = normalized(*spec.cross->after, layer.cross.after, middle_ND + layer.cross.o_proj(across_ND),
                           hidden_ND.scalar_type());
  }
  const auto mlp = normalized_linears({}, {}, middle_ND, context.compute, mlp_projections(spec.mlp, layer));
  return normalized(*spec.after_mlp, layer.after_mlp, middle_ND + mlp_output(spec.mlp, layer, mlp, 0),
                    hidden_ND.scalar_type());
}

}  // namespace detail

/// One layer: states [N, D] in, states out (of inputs.needed_S, if given), in float32 or wider. Segments' prefixes refer to `prefix`, or to the row
/// itself if that is empty. `kept`, if given, receives what tokens that follow need, without gradient, and `sums` those
/// of the router, where the layer has experts.
inline Tensor layer_forward(const LayerContext& context, const LayerSpec& spec, const DecoderLayer& layer,
                            const Tensor& hidden_ND, const LayerMemory& prefix = {}, LayerMemory* kept = nullptr,
                            const LayerInputs& inputs = {}, RouterSums* sums = nullptr) {
  const detail::LayerPass pass{context, spec, layer, prefix, kept, inputs, sums};
  if (spec.is_parallel) return detail::parallel_layer(pass, hidden_ND);
  if (spec.normalizes_sums) return detail::normalizing_layer(pass, hidden_ND);
  const at::ScalarType compute = context.compute;
  const auto qkv = normalized_linears(spec.before_attention, layer.before_attention, hidden_ND, compute,
                                      detail::mixer_projections(spec, layer));
  Tensor added_ND =
      detail::residual_of(pass, detail::mixer_output(pass, qkv), spec.after_attention, layer.after_attention);
  Tensor stream_ND = detail::needed(pass, hidden_ND);
  if (spec.cross) {
    const auto crossing = add_normalized_linears(spec.cross->before, layer.cross.before, stream_ND, added_ND, compute,
                                                 {&layer.cross.q_proj});
    stream_ND = crossing[0];
    added_ND = layer.cross.o_proj(detail::attended_across(pass, crossing[1]));
  }
  if (spec.experts) {
    const Tensor middle_ND = stream_ND + added_ND;
    const Tensor x_ND = normalized(*spec.before_mlp, layer.before_mlp, middle_ND, compute);
    return middle_ND + detail::residual_of(pass, detail::experts_of(pass, x_ND), spec.after_mlp, layer.after_mlp);
  }
  const auto middle = add_normalized_linears(spec.before_mlp, layer.before_mlp, stream_ND, added_ND, compute,
                                             detail::mlp_projections(spec.mlp, layer));  // the sum comes first
  const Tensor mlp_ND =
      detail::residual_of(pass, detail::mlp_output(spec.mlp, layer, middle, 1), spec.after_mlp, layer.after_mlp);
  return detail::with_embedding(pass, middle[0] + mlp_ND);
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

/// Everything with a gradient that a layer's output depends on, besides the residual stream.
inline std::vector<Tensor> trained_parameters(const ModelSpec& spec, const LayerSpec& of, const DecoderLayer& layer,
                                              const LayerInputs& inputs) {
  std::vector<Tensor> out;
  if (inputs.source) {
    out = trained_parameters(spec, inputs.source->spec, inputs.source->layer, {});
    if (inputs.source->hidden_ND.requires_grad()) out.push_back(inputs.source->hidden_ND);
  }
  if (inputs.embedding_NP.defined() && inputs.embedding_NP.requires_grad()) out.push_back(inputs.embedding_NP);
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
