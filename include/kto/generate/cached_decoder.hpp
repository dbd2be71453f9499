// SPDX-License-Identifier: Apache-2.0
// A decoder's forward pass over new tokens with the keys and values of the earlier ones kept: what generating token by
// token needs. Its oracle is Decoder::hidden over the whole text.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include "kto/model/decoder.hpp"

namespace kto {

// Shapes: L new tokens after P earlier ones, D width, H heads, K key/value heads, d head dimension, V vocabulary.

/// Keys and values of the tokens seen so far, per layer, in buffers that grow by doubling.
class KvCache {
 public:
  std::int64_t length() const { return static_cast<std::int64_t>(ids_.size()); }
  const std::vector<std::int32_t>& ids() const { return ids_; }

  /// Forgets all tokens after the first `length`.
  void truncate(std::int64_t length) { ids_.resize(static_cast<std::size_t>(length)); }

  struct Layer {
    Tensor key_CKd, value_CKd;  ///< C places, of which P are used
  };

  /// Puts a layer's new keys and values behind the P earlier ones; returns all of them, [P + L, K, d].
  std::pair<Tensor, Tensor> extend(std::size_t layer, const Tensor& key_LKd, const Tensor& value_LKd) {
    if (layers_.size() <= layer) layers_.resize(layer + 1);
    const std::int64_t before = length(), now = before + key_LKd.size(0);
    const auto put = [&](Tensor& buffer, const Tensor& part) {
      if (!buffer.defined() || buffer.size(0) < now) {
        std::vector<std::int64_t> sizes = part.sizes().vec();
        sizes[0] = std::max<std::int64_t>(2 * now, 64);
        Tensor larger = at::empty(sizes, part.options());
        if (before > 0) larger.narrow(0, 0, before).copy_(buffer.narrow(0, 0, before));
        buffer = larger;
      }
      buffer.narrow(0, before, part.size(0)).copy_(part);
      return buffer.narrow(0, 0, now);
    };
    Layer& place = layers_[layer];
    const Tensor key = put(place.key_CKd, key_LKd);
    return {key, put(place.value_CKd, value_LKd)};
  }

  /// To be called once all layers have the new tokens.
  void add(std::span<const std::int32_t> ids) { ids_.insert(ids_.end(), ids.begin(), ids.end()); }

 private:
  std::vector<Layer> layers_;
  std::vector<std::int32_t> ids_;
};

namespace detail {

/// Queries of the last L of P + L tokens, each looking at itself and the tokens before it, at most `window` of them.
inline Tensor attend_cached(const Tensor& q_LHd, const Tensor& k_TKd, const Tensor& v_TKd,
                            std::optional<std::int64_t> window, double scale) {
  const std::int64_t L = q_LHd.size(0), T = k_TKd.size(0);
  std::optional<Tensor> mask;
  if ((L > 1 && T > L) || (window && *window < T)) {
    mask = at::ones({L, T}, q_LHd.options().dtype(at::kBool)).tril_(T - L);
    if (window) mask->triu_(T - L - *window + 1);
  }
  const auto by_head = [](const Tensor& x) { return x.transpose(0, 1).unsqueeze(0); };
  return at::scaled_dot_product_attention(by_head(q_LHd), by_head(k_TKd), by_head(v_TKd), mask, /*dropout_p=*/0.0,
                                          /*is_causal=*/!mask && L > 1, scale,
                                          /*enable_gqa=*/q_LHd.size(1) != k_TKd.size(1))
      .squeeze(0)
      .transpose(0, 1);
}

/// layer_forward of the decoder, with the cache in place of the row.
inline Tensor cached_layer(const Decoder& decoder, std::size_t index, const RopeTables& rope, KvCache& cache,
                           const Tensor& hidden_LD) {
  const ModelConfig& config = decoder.config;
  const DecoderLayer& layer = decoder.layers[index];
  const at::ScalarType compute = decoder.compute;
  const double eps = config.rms_norm_eps, scale = 1 / std::sqrt(static_cast<double>(config.head_dim));
  const auto heads = [&](const Tensor& x) { return x.unflatten(-1, {-1, config.head_dim}); };
  const auto turned = [&](const Tensor& x_LHd, const Tensor& norm_d) {
    return apply_rope(config.qk_norm ? rms_norm(x_LHd, norm_d, eps, wide_type(compute)) : x_LHd, rope, compute);
  };

  const auto qkv =
      normed_linears(hidden_LD, layer.input_norm_D, eps, compute, {&layer.q_proj, &layer.k_proj, &layer.v_proj});
  const auto [k_TKd, v_TKd] = cache.extend(index, turned(heads(qkv[1]), layer.k_norm_d), heads(qkv[2]));
  const Tensor attended_LHd =
      attend_cached(turned(heads(qkv[0]), layer.q_norm_d), k_TKd, v_TKd, config.windows[index], scale);
  const Tensor middle_LD = hidden_LD + layer.o_proj(attended_LHd.flatten(-2));
  const auto gate_up =
      normed_linears(middle_LD, layer.post_attention_norm_D, eps, compute, {&layer.gate_proj, &layer.up_proj});
  return middle_LD + gated_down(config.activation, gate_up[0], gate_up[1], layer.down_proj);
}

}  // namespace detail

/// The states [L, D] after the final norm of the tokens `ids`, which follow those in `cache` and are added to it. As in
/// transformers, rotary tables that depend on the length take the length so far. Throws Error for an id that the model
/// does not know.
inline Tensor cached_hidden(const Decoder& decoder, KvCache& cache, std::span<const std::int32_t> ids) {
  const at::NoGradGuard no_grad;
  check(!ids.empty(), "no tokens to go on from");
  const std::vector<std::int64_t> wide(ids.begin(), ids.end());
  for (const std::int64_t id : wide)
    check(id >= 0 && id < decoder.config.vocab_size, "the token id ", id, " is not in the model's vocabulary of ",
          decoder.config.vocab_size, " tokens");
  const auto options = decoder.embedding_VD.options().dtype(at::kLong).requires_grad(false);
  const Tensor ids_L = at::tensor(at::ArrayRef<std::int64_t>(wide), at::kLong).to(options.device());
  const Tensor position_L = at::arange(cache.length(), cache.length() + ids_L.size(0), options);
  const RopeTables rope = rope_tables(decoder.config.rope, decoder.config.head_dim, position_L);
  Tensor hidden_LD = decoder.embedded(ids_L);
  for (std::size_t i = 0; i < decoder.layers.size(); ++i)
    hidden_LD = detail::cached_layer(decoder, i, rope, cache, hidden_LD);
  cache.add(ids);
  return rms_norm(hidden_LD, decoder.norm_D, decoder.config.rms_norm_eps, decoder.compute);
}

}  // namespace kto
