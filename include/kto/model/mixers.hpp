// SPDX-License-Identifier: Apache-2.0
// The token mixers that some layers have in place of attention: from the output of their first projections to the input
// of the last. And what a layer keeps of a row for tokens that follow: keys and values, or inputs of a convolution and
// a state.
#pragma once

#include <cmath>
#include <vector>

#include "kto/model/normalize.hpp"
#include "kto/nn/attention.hpp"
#include "kto/nn/causal_conv.hpp"
#include "kto/nn/delta_rule.hpp"

namespace kto {

// Shapes: N tokens of a batch in one row, D width, C channels of a convolution, K key heads, H value heads, d key and e
// value width.

/// What one layer keeps of a row.
struct LayerMemory {
  KeysValues attention;
  KeysValues cross = {};  ///< of an encoder's states
  ConvMemory conv;
  DeltaMemory delta;
};

namespace detail {

/// What is kept of tokens `token_P` of a row of several sequences, in that order; of an encoder, all.
inline LayerMemory memory_of(const LayerMemory& row, const Tensor& token_P) {
  const auto rows = [&](const Tensor& kept) { return kept.defined() ? kept.index_select(0, token_P) : kept; };
  const DeltaTokens& delta = row.delta.tokens;
  return {.attention = {rows(row.attention.k_NKd), rows(row.attention.v_NKd)},
          .cross = row.cross,
          .conv = {rows(row.conv.x_NC)},
          .delta = {.tokens = {.q_NKd = {},
                               .k_NKd = rows(delta.k_NKd),
                               .v_NHe = rows(delta.v_NHe),
                               .decay_NH = rows(delta.decay_NH),
                               .beta_NH = rows(delta.beta_NH)},
                    .state_Hde = {}}};
}

/// What a mixer has of a pass.
struct MixerPass {
  const MixerModules& modules;
  const std::vector<Segment>& segments;
  const LayerMemory& prefix;
  LayerMemory* kept;
};

inline Tensor short_conv_output(const MixerPass& pass, const std::vector<Tensor>& projected) {
  const auto parts = projected[0].chunk(3, -1);  // the gates before and after the convolution, and its input
  const Tensor x_ND = parts[0] * parts[2];
  if (pass.kept != nullptr) pass.kept->conv = {x_ND.detach()};
  return parts[1] * causal_conv(pass.modules.conv, x_ND, pass.segments, pass.prefix.conv);
}

/// The parts that a delta rule's projections make.
struct DeltaProjections {
  Tensor qkv_NC, z_NHe, b_NH, a_NH;
};

inline DeltaProjections split_projections(const DeltaRuleSpec& spec, const std::vector<Tensor>& projected) {
  const std::int64_t K = spec.num_key_heads, H = spec.num_value_heads, d = spec.key_dim, e = spec.value_dim, G = H / K;
  if (!spec.is_grouped) return {projected[0], projected[1].unflatten(-1, {H, e}), projected[2], projected[3]};
  const auto parts = projected[0].unflatten(-1, {K, -1}).split_with_sizes({d, d, G * e, G * e}, -1);
  const auto gates = projected[1].unflatten(-1, {K, -1}).split_with_sizes({G, G}, -1);
  return {at::cat({parts[0].flatten(-2), parts[1].flatten(-2), parts[2].flatten(-2)}, -1),
          parts[3].unflatten(-1, {G, e}).flatten(-3, -2), gates[0].flatten(-2), gates[1].flatten(-2)};
}

/// `length` x / |x| over the last dimension: a root mean square norm.
inline Tensor with_length(double length, const Tensor& x) {
  const auto width = static_cast<double>(x.size(-1));
  const Tensor weight_d = at::full({x.size(-1)}, length / std::sqrt(width), x.options().requires_grad(false));
  return normalized({.eps = 1e-6 / width}, {weight_d, {}}, x, x.scalar_type());
}

inline Tensor delta_rule_output(const DeltaRuleSpec& spec, const MixerPass& pass,
                                const std::vector<Tensor>& projected) {
  const DeltaProjections parts = split_projections(spec, projected);
  const at::ScalarType compute = parts.qkv_NC.scalar_type(), wide = wide_type(compute);
  const std::int64_t K = spec.num_key_heads, H = spec.num_value_heads, d = spec.key_dim;
  if (pass.kept != nullptr) pass.kept->conv = {parts.qkv_NC.detach()};
  const Tensor mixed_NC =
      gated(spec.activation, {.gate = causal_conv(pass.modules.conv, parts.qkv_NC, pass.segments, pass.prefix.conv)});
  const auto qkv = mixed_NC.split_with_sizes({K * d, K * d, H * spec.value_dim}, -1);
  const auto heads = [&](const Tensor& x, std::int64_t count) { return x.unflatten(-1, {count, -1}).to(wide); };
  const auto& [a_log_H, dt_bias_H] = pass.modules.decay;
  const DeltaTokens tokens{.q_NKd = with_length(1 / std::sqrt(static_cast<double>(d)), heads(qkv[0], K)),
                           .k_NKd = with_length(1, heads(qkv[1], K)),
                           .v_NHe = heads(qkv[2], H),
                           .decay_NH = -a_log_H.to(wide).exp() * at::softplus(parts.a_NH.to(wide) + dt_bias_H),
                           .beta_NH = parts.b_NH.sigmoid().to(wide)};
  const DeltaOutput out = delta_rule(tokens, pass.segments, pass.prefix.delta);
  if (pass.kept != nullptr) {
    const auto& [q, k, v, decay, beta] = tokens;
    const bool is_one = pass.segments.size() == 1;
    pass.kept->delta = {{Tensor(), k.detach(), v.detach(), decay.detach(), beta.detach()},
                        is_one ? out.state_SHde[0].detach() : Tensor()};
  }
  const Tensor normed_NHe = normalized(spec.norm, pass.modules.norm, out.out_NHe.to(compute), wide);
  return gated(Activation::silu, {.gate = parts.z_NHe.to(wide), .up = normed_NHe}).to(compute).flatten(-2);
}

}  // namespace detail

/// What a layer without attention keeps for tokens after all of a sequence of `length` tokens: of `before`, kept from
/// its earlier tokens, and of `kept`, from the last.
inline LayerMemory carried_on(const LayerSpec& spec, const LayerMemory& before, const LayerMemory& kept,
                              std::int64_t length) {
  const std::int64_t num_taps = spec.short_conv ? spec.short_conv->num_taps : spec.delta_rule->num_taps;
  const Tensor &last = kept.conv.x_NC, &earlier = before.conv.x_NC,
               rows = earlier.defined() ? at::cat({earlier, last}) : last;
  const std::int64_t count = std::min(rows.size(0), num_taps - 1);
  return {.attention = {},
          .conv = {rows.narrow(0, rows.size(0) - count, count).clone(), length - count},
          .delta = {{}, kept.delta.state_Hde}};
}

}  // namespace kto
