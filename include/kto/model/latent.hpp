// SPDX-License-Identifier: Apache-2.0
// Queries, keys and values of latent attention (MLA, arXiv:2405.04434), as its LatentSpec says. Keys and values are
// expanded from their latents before the attention, which is then one of any other kind.
#pragma once

#include <vector>

#include "kto/model/normalize.hpp"
#include "kto/nn/rotate.hpp"

namespace kto::detail {

// Shapes: N tokens, H heads, d head dimension of queries and keys, R rotary coordinates of it, v of a value, L rank of
// keys and values.

struct HeadsOf {
  Tensor q_NHd, k_NKd, v_NKd;
  Tensor gate_NHd = {};  ///< of the heads' outputs, where they have one
};

/// The projections of the layer's input: of the queries or their latents, and of the other latents.
inline std::vector<const Linear*> latent_projections(const LatentSpec& spec, const DecoderLayer& layer) {
  return {spec.query_rank ? &layer.q_a_proj : &layer.q_proj, &layer.kv_a_proj};
}

/// Queries, keys and values from the output of latent_projections, with rotary positions, of type `compute`.
inline HeadsOf latent_heads(const AttentionSpec& attention, const DecoderLayer& layer, const RopeTables& rope,
                            at::ScalarType compute, const std::vector<Tensor>& projected) {
  const LatentSpec& spec = *attention.latent;
  const std::int64_t H = attention.num_heads, R = spec.rope_dim, others = attention.head_dim - R;
  const auto expanded = [&](const Linear& linear, const Norm& norm, const Tensor& latent) {
    return normalized_linears(spec.norm, norm, latent, compute, {&linear})[0].unflatten(-1, {H, -1});
  };
  const Tensor q_NHd =
      spec.query_rank ? expanded(layer.q_b_proj, layer.q_a_norm, projected[0]) : projected[0].unflatten(-1, {H, -1});
  const auto latents = projected[1].split_with_sizes({spec.rank, R}, -1);
  const auto kv = expanded(layer.kv_b_proj, layer.kv_a_norm, latents[0]).split_with_sizes({others, spec.value_dim}, -1);
  const auto q = q_NHd.split_with_sizes({others, R}, -1);
  const Tensor q_NHR = apply_rope(q[1], rope, compute), k_N1R = apply_rope(latents[1].unsqueeze(-2), rope, compute);
  return {at::cat({q[0], q_NHR}, -1), at::cat({kv[0], k_N1R.expand({-1, H, -1})}, -1), kv[1]};
}

}  // namespace kto::detail
