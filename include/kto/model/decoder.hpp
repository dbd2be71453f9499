// SPDX-License-Identifier: Apache-2.0
// The decoder of the llama, mistral, qwen2 and qwen3 families: pre-normalised attention with rotary positions and a
// gated MLP. One forward serves padded and packed rows and shared prompts: it works on tokens in one row and only the
// attention knows their segments.
#pragma once

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/model/attention.hpp"
#include "kto/model/blocks.hpp"
#include "kto/model/config.hpp"
#include "kto/model/embedding.hpp"
#include "kto/model/head.hpp"
#include "kto/model/recompute.hpp"
#include "kto/model/rotate.hpp"

namespace kto {

// Shapes: N tokens of a batch in one row, D width, V vocabulary, H heads, K key/value heads, d head dimension.

struct DecoderLayer {
  Linear q_proj, k_proj, v_proj, o_proj;
  Tensor q_norm_d, k_norm_d;  ///< undefined in families without them
  Linear gate_proj, up_proj, down_proj;
  Tensor input_norm_D, post_attention_norm_D;
};

/// What all layers of a decoder share in one forward pass.
struct LayerContext {
  ModelConfig config;
  at::ScalarType compute;
  RopeTables rope;
  std::vector<Segment> segments;
};

/// One layer: states [N, D] in, states out, in float32 or wider. Segments' prefixes are of `prefix`, or of the row
/// itself when that is empty. Where `kept` is given, it gets the row's keys and values, without gradient.
inline Tensor layer_forward(const LayerContext& context, const DecoderLayer& layer, std::optional<std::int64_t> window,
                            const Tensor& hidden_ND, const KeysValues& prefix = {}, KeysValues* kept = nullptr) {
  const ModelConfig& config = context.config;
  const at::ScalarType compute = context.compute;
  const double eps = config.rms_norm_eps, scale = 1 / std::sqrt(static_cast<double>(config.head_dim));
  const auto heads = [&](const Tensor& x) { return x.unflatten(-1, {-1, config.head_dim}); };
  const auto turned = [&](const Tensor& x_NHd, const Tensor& norm_d) {
    const Tensor normed = config.qk_norm ? rms_norm(x_NHd, norm_d, eps, wide_type(compute)) : x_NHd;
    return apply_rope(normed, context.rope, compute);
  };

  const auto qkv =
      normed_linears(hidden_ND, layer.input_norm_D, eps, compute, {&layer.q_proj, &layer.k_proj, &layer.v_proj});
  const Tensor q_NHd = turned(heads(qkv[0]), layer.q_norm_d), k_NKd = turned(heads(qkv[1]), layer.k_norm_d),
               v_NKd = heads(qkv[2]);
  if (kept != nullptr) *kept = {k_NKd.detach(), v_NKd.detach()};
  const Tensor attended_NHd = causal_attention(q_NHd, k_NKd, v_NKd, context.segments, window, scale, prefix);
  const auto middle_gate_up =
      add_normed_linears(hidden_ND, layer.o_proj(attended_NHd.flatten(-2)), layer.post_attention_norm_D, eps, compute,
                         {&layer.gate_proj, &layer.up_proj});
  return middle_gate_up[0] + gated_down(config.activation, middle_gate_up[1], middle_gate_up[2], layer.down_proj);
}

struct Decoder {
  ModelConfig config;
  Tensor embedding_VD;
  std::vector<DecoderLayer> layers;
  Tensor norm_D;
  Tensor lm_head_VD;  ///< undefined when config.tie_word_embeddings, but for a head held in another type
  std::optional<LoraWeights> lm_head_lora = std::nullopt;

  /// Type of matrix products and attention: float32, float64, bfloat16 or float16. With the last two it is torch's
  /// autocast: the parameters keep their type (float32 masters) and are cast for each product; residual stream, norms,
  /// rotary tables and the softmax stay in float32. Parameters of any floating type work with any of the four; training
  /// in float16 needs a scaled loss (TrainConfig::fp16).
  at::ScalarType compute = at::kFloat;
  /// Keep only each layer's input for the backward pass and compute the rest once more there.
  bool recompute = false;
  /// NEFTune (arXiv:2310.05914): where a gradient is asked for, uniform noise of at most alpha / sqrt(T * D) is added
  /// to the embeddings of a sequence of T tokens; 0: none.
  double neftune_noise_alpha = 0;

  /// What a row leaves for tokens that follow its own: each layer's keys and values.
  using Prefix = std::vector<KeysValues>;

  /// States [N, D] after the final norm, of type `compute`. `kept` gets the row's keys and values where it is given.
  Tensor hidden(const Sequences& sequences, Prefix* kept = nullptr) const { return run(sequences, {}, kept); }
  /// The same for tokens whose segments' prefixes are of the row that `prefix` was kept of.
  Tensor hidden_after(const Sequences& sequences, const Prefix& prefix) const {
    return run(sequences, prefix, nullptr);
  }
  /// Each token sees the same keys and values as in a row of its own: dropout would part those with gradient from those
  /// without, and so would rotary frequencies that depend on the longest sequence of a pass.
  bool has_steady_prefix(const SharedPrompts& batch) const;

  Head head() const {
    const Tensor& weight_VD = lm_head_VD.defined() ? lm_head_VD : embedding_VD;
    return {.weight_VD = lm_head_lora ? lm_head_lora->merged_OI(weight_VD) : weight_VD};
  }

  /// The live parameters under their names in transformers, a tied head not named, and then those of adapters under
  /// PEFT's names.
  std::vector<std::pair<std::string, Tensor>> named_parameters() const;

 private:
  Tensor run(const Sequences& sequences, const Prefix& prefix, Prefix* kept) const;
};

namespace detail {

/// Calls visit(path, linear, outputs, inputs, has bias) for every linear layer of a decoder layer.
template <class Layer, class Visit>
void visit_linears(const ModelConfig& config, Layer& layer, const std::string& prefix, const Visit& visit) {
  const std::int64_t D = config.hidden_size, M = config.intermediate_size, Hd = config.num_heads * config.head_dim,
                     Kd = config.num_kv_heads * config.head_dim;
  visit(prefix + "self_attn.q_proj", layer.q_proj, Hd, D, config.qkv_bias);
  visit(prefix + "self_attn.k_proj", layer.k_proj, Kd, D, config.qkv_bias);
  visit(prefix + "self_attn.v_proj", layer.v_proj, Kd, D, config.qkv_bias);
  visit(prefix + "self_attn.o_proj", layer.o_proj, D, Hd, config.output_bias);
  visit(prefix + "mlp.gate_proj", layer.gate_proj, M, D, config.mlp_bias);
  visit(prefix + "mlp.up_proj", layer.up_proj, M, D, config.mlp_bias);
  visit(prefix + "mlp.down_proj", layer.down_proj, D, M, config.mlp_bias);
}

/// Calls visit(name, tensor, shape) for every parameter that `config` gives a layer.
template <class Layer, class Visit>
void visit_layer(const ModelConfig& config, Layer& layer, const std::string& prefix, const Visit& visit) {
  using Shape = std::vector<std::int64_t>;
  visit_linears(config, layer, prefix,
                [&](const std::string& path, auto& linear, std::int64_t out, std::int64_t in, bool bias) {
                  visit(path + ".weight", linear.weight_OI, Shape{out, in});
                  if (bias) visit(path + ".bias", linear.bias_O, Shape{out});
                });
  if (config.qk_norm) {
    visit(prefix + "self_attn.q_norm.weight", layer.q_norm_d, Shape{config.head_dim});
    visit(prefix + "self_attn.k_norm.weight", layer.k_norm_d, Shape{config.head_dim});
  }
  visit(prefix + "input_layernorm.weight", layer.input_norm_D, Shape{config.hidden_size});
  visit(prefix + "post_attention_layernorm.weight", layer.post_attention_norm_D, Shape{config.hidden_size});
}

/// Calls visit(name, tensor) for the tensors of an adapter of the module at `path`, under PEFT's names.
template <class Lora, class Visit>
void visit_lora(Lora& lora, const std::string& path, const Visit& visit) {
  visit(path + ".lora_A.weight", lora.a_RI);
  visit(path + ".lora_B.weight", lora.b_OR);
  if (lora.magnitude_O.defined()) visit(path + ".lora_magnitude_vector", lora.magnitude_O);
}

/// The same for all adapters of a layer.
template <class Layer, class Visit>
void visit_layer_loras(const ModelConfig& config, Layer& layer, const std::string& prefix, const Visit& visit) {
  visit_linears(config, layer, prefix, [&](const std::string& path, auto& linear, auto...) {
    if (linear.lora) visit_lora(*linear.lora, path, visit);
  });
}

/// Whether a layer's output is drawn at random where a gradient is asked for.
inline bool drops(const ModelConfig& config, const DecoderLayer& layer) {
  bool out = false;
  visit_linears(config, layer, "", [&](const std::string&, const Linear& linear, auto...) {
    out = out || (linear.lora && linear.lora->dropout > 0);
  });
  return out;
}

inline std::vector<Tensor> trained_parameters(const ModelConfig& config, const DecoderLayer& layer) {
  std::vector<Tensor> out;
  visit_layer(config, layer, "", [&](const std::string&, const Tensor& tensor, const auto&) {
    if (tensor.requires_grad()) out.push_back(tensor);
  });
  visit_layer_loras(config, layer, "", [&](const std::string&, const Tensor& tensor) { out.push_back(tensor); });
  return out;
}

}  // namespace detail

/// Calls visit(name, tensor, shape) for every parameter that decoder.config asks for, with its name in transformers and
/// a reference to its place in the decoder. The one list of a decoder's parameters.
template <class AnyDecoder, class Visit>
void visit_parameters(AnyDecoder& decoder, const Visit& visit) {
  using Shape = std::vector<std::int64_t>;
  const ModelConfig& config = decoder.config;
  visit("model.embed_tokens.weight", decoder.embedding_VD, Shape{config.vocab_size, config.hidden_size});
  for (std::size_t i = 0; i < decoder.layers.size(); ++i)
    detail::visit_layer(config, decoder.layers[i], "model.layers." + std::to_string(i) + ".", visit);
  visit("model.norm.weight", decoder.norm_D, Shape{config.hidden_size});
  if (!config.tie_word_embeddings)
    visit("lm_head.weight", decoder.lm_head_VD, Shape{config.vocab_size, config.hidden_size});
}

/// Calls visit(name, tensor) for every tensor of the decoder's adapters, under PEFT's names.
template <class AnyDecoder, class Visit>
void visit_loras(AnyDecoder& decoder, const Visit& visit) {
  const std::string prefix = "base_model.model.";
  for (std::size_t i = 0; i < decoder.layers.size(); ++i)
    detail::visit_layer_loras(decoder.config, decoder.layers[i], prefix + "model.layers." + std::to_string(i) + ".",
                              visit);
  if (decoder.lm_head_lora) detail::visit_lora(*decoder.lm_head_lora, prefix + "lm_head", visit);
}

/// A decoder whose parameters are make(name, shape).
template <class Make>
Decoder make_decoder(const ModelConfig& config, const Make& make) {
  Decoder decoder;
  decoder.config = config;
  decoder.layers.resize(static_cast<std::size_t>(config.num_layers));
  visit_parameters(decoder, [&](const std::string& name, Tensor& tensor, const std::vector<std::int64_t>& shape) {
    tensor = make(name, shape);
  });
  return decoder;
}

/// A copy without gradient: what is trained is copied, what is frozen is shared, since it does not change.
inline Decoder frozen_copy(const Decoder& decoder) {
  const at::NoGradGuard no_grad;
  Decoder copy = decoder;
  const auto freeze = [](Tensor& tensor) {
    if (tensor.requires_grad()) tensor = tensor.detach().clone();
  };
  visit_parameters(copy, [&](const std::string&, Tensor& tensor, const auto&) { freeze(tensor); });
  visit_loras(copy, [&](const std::string&, Tensor& tensor) { freeze(tensor); });
  return copy;
}

/// A frozen decoder with the weights of its products held in `compute`, which they are cast to anyway, where that is
/// the narrower type: the same numbers from half the memory, and no cast at each step. Norms and the embedding, which
/// are used in float32, keep their type, and so do weights beside an adapter.
inline Decoder held_in_compute_type(Decoder decoder) {
  const auto narrowed = [&](const Tensor& weight) {
    const bool narrows = weight.defined() && c10::elementSize(decoder.compute) < c10::elementSize(weight.scalar_type());
    return narrows ? weight.detach().to(decoder.compute) : weight;
  };
  for (DecoderLayer& layer : decoder.layers)
    detail::visit_linears(decoder.config, layer, "", [&](const std::string&, Linear& linear, auto...) {
      if (linear.lora) return;
      linear.weight_OI = narrowed(linear.weight_OI);
      linear.bias_O = narrowed(linear.bias_O);
    });
  const Tensor head_VD = decoder.head().weight_VD;
  if (const Tensor held_VD = narrowed(head_VD); !decoder.lm_head_lora && !held_VD.is_same(head_VD))
    decoder.lm_head_VD = held_VD;
  return decoder;
}

inline std::vector<std::pair<std::string, Tensor>> Decoder::named_parameters() const {
  std::vector<std::pair<std::string, Tensor>> out;
  visit_parameters(*this,
                   [&](const std::string& name, const Tensor& tensor, const auto&) { out.emplace_back(name, tensor); });
  visit_loras(*this, [&](const std::string& name, const Tensor& tensor) { out.emplace_back(name, tensor); });
  return out;
}

/// All that a decoder's numbers depend on beside its parameters, as text.
inline std::string describe(const Decoder& decoder) {
  std::string out = concat(describe(decoder.config), ", compute ", decoder.compute);
  const auto add = [&](const std::string& path, const std::optional<LoraWeights>& lora) {
    if (lora) out += concat(", ", path, " scaled by ", Json(lora->scaling).dump());
  };
  for (std::size_t i = 0; i < decoder.layers.size(); ++i)
    detail::visit_linears(decoder.config, decoder.layers[i], std::to_string(i) + ".",
                          [&](const std::string& path, const Linear& linear, auto...) { add(path, linear.lora); });
  add("lm_head", decoder.lm_head_lora);
  return out;
}

inline std::int64_t num_embedding_parameters(const Decoder& decoder) { return decoder.embedding_VD.numel(); }

/// NEFTune's noise [N, D] on the embeddings of `sequences`.
inline Tensor embedding_noise(const Decoder& decoder, const Sequences& sequences) {
  const auto width = static_cast<double>(decoder.config.hidden_size);
  Tensor noise_ND = at::empty({sequences.ids_N.size(0), decoder.config.hidden_size},
                              decoder.embedding_VD.options().dtype(wide_type(decoder.compute)).requires_grad(false));
  for (const Segment& segment : sequences.segments) {
    const double most = decoder.neftune_noise_alpha / std::sqrt(static_cast<double>(segment.length) * width);
    noise_ND.narrow(0, segment.begin, segment.length).uniform_(-most, most);
  }
  return noise_ND;
}

inline bool Decoder::has_steady_prefix(const SharedPrompts& batch) const {
  if (batch.kl_tails && !have_same_angles(config.rope, batch.rows.longest(), batch.kl_tails->longest())) return false;
  if (!at::GradMode::is_enabled()) return true;  // nothing drops without gradient
  return neftune_noise_alpha == 0 &&
         std::ranges::none_of(layers, [&](const DecoderLayer& layer) { return detail::drops(config, layer); });
}

inline Tensor Decoder::run(const Sequences& sequences, const Prefix& prefix, Prefix* kept) const {
  check(takes_vectorized(compute) || compute == at::kDouble || compute == at::kHalf,
        "a decoder computes in float32, float64, bfloat16 or float16, not in ", compute);
  const auto context = std::make_shared<const LayerContext>(
      LayerContext{.config = config,
                   .compute = compute,
                   .rope = rope_tables(config.rope, config.head_dim, sequences.position_N),
                   .segments = sequences.segments});
  if (kept != nullptr) kept->assign(layers.size(), {});
  Tensor hidden_ND = embed(embedding_VD, sequences.ids_N, config.pad_token_id.value_or(-1)).to(wide_type(compute));
  if (neftune_noise_alpha > 0 && at::GradMode::is_enabled()) hidden_ND = hidden_ND + embedding_noise(*this, sequences);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    KeysValues* keeps = kept == nullptr ? nullptr : &(*kept)[i];
    const KeysValues before = prefix.empty() ? KeysValues{} : prefix[i];
    // All else by value: with recomputation it runs again in the backward pass, and then keeps nothing.
    const auto forward = [context, layer = layers[i], window = config.windows[i], before](const Tensor& input_ND,
                                                                                          KeysValues* keeps_now) {
      return layer_forward(*context, layer, window, input_ND, before, keeps_now);
    };
    if (!recompute) {
      hidden_ND = forward(hidden_ND, keeps);
      continue;
    }
    const auto once_more = [forward, keeps, first = true](const Tensor& input_ND) mutable {
      return forward(input_ND, std::exchange(first, false) ? keeps : nullptr);
    };
    hidden_ND = recomputed(once_more, hidden_ND, detail::trained_parameters(config, layers[i]),
                           detail::drops(config, layers[i]));
  }
  return rms_norm(hidden_ND, norm_D, config.rms_norm_eps, compute);
}

}  // namespace kto
