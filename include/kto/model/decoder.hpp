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

#include "kto/model/decoder_layer.hpp"
#include "kto/nn/head.hpp"
#include "kto/nn/recompute.hpp"

namespace kto {

// Shapes: N tokens of a batch in one row, D width, V vocabulary.

struct Decoder {
  ModelConfig config;
  Tensor embedding_VD;
  std::vector<DecoderLayer> layers;
  Tensor norm_D;
  Tensor lm_head_VD;  ///< undefined when config.tie_word_embeddings, but for a head held in another type
  std::optional<LoraWeights> lm_head_lora = std::nullopt;
  std::optional<LoraWeights> embedding_lora = std::nullopt;
  /// Where the head has the embedding's adapter, transposed, as it has its weight: the factor on it there.
  std::optional<double> tied_lora_scaling = std::nullopt;
  std::optional<TrainedRows> embedding_rows = std::nullopt;  ///< also the head's where it is tied and has none itself
  std::optional<TrainedRows> lm_head_rows = std::nullopt;

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

  /// States [N, D] after the final norm, of type `compute`. Segments' prefixes are of the row that `before` was kept
  /// of, or of this one where it is empty. `kept` gets this row's keys and values where it is given.
  Tensor hidden(const Sequences& sequences, const Prefix& before = {}, Prefix* kept = nullptr) const;
  /// Each token sees the same keys and values as in a row of its own: dropout would part those with gradient from those
  /// without, and so would rotary frequencies that depend on the longest sequence of a pass.
  bool has_steady_prefix(const SharedPrompts& batch) const;

  /// The embeddings [N, D] of tokens (int64), adapter and all, in float32 or wider.
  Tensor embedded(const Tensor& ids_N) const;
  Head head() const;
  /// The head's adapter: its own, or the embedding's.
  std::optional<LoraWeights> head_lora() const;

  /// The live parameters under their names in transformers, a tied head not named, and then those of adapters under
  /// PEFT's names.
  std::vector<std::pair<std::string, Tensor>> named_parameters() const;
};

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
  const std::string prefix = "base_model.model.", table = prefix + "model.embed_tokens", head = prefix + "lm_head";
  const auto visit_rows = [&](auto& trained, const std::string& path) {
    if (trained) visit(path + ".token_adapter.trainable_tokens_delta", trained->rows_KD);
  };
  if (decoder.embedding_lora) detail::visit_lora(*decoder.embedding_lora, table, visit, /*of_embedding=*/true);
  visit_rows(decoder.embedding_rows, table);
  for (std::size_t i = 0; i < decoder.layers.size(); ++i)
    detail::visit_layer_loras(decoder.config, decoder.layers[i], prefix + "model.layers." + std::to_string(i) + ".",
                              visit);
  if (decoder.lm_head_lora) detail::visit_lora(*decoder.lm_head_lora, head, visit);
  visit_rows(decoder.lm_head_rows, head);
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
  if (decoder.head_lora()) return decoder;
  const Tensor head_VD = decoder.lm_head_VD.defined() ? decoder.lm_head_VD : decoder.embedding_VD;
  if (const Tensor held_VD = narrowed(head_VD); !held_VD.is_same(head_VD)) decoder.lm_head_VD = held_VD;
  return decoder;
}

inline std::optional<LoraWeights> Decoder::head_lora() const {
  if (!tied_lora_scaling) return lm_head_lora;
  return LoraWeights{.a_RI = embedding_lora->b_OR.t(),
                     .b_OR = embedding_lora->a_RI.t(),
                     .magnitude_O = {},
                     .b_bias_O = {},
                     .scaling = *tied_lora_scaling};
}

inline Head Decoder::head() const {
  Head out{.weight_VD = lm_head_VD.defined() ? lm_head_VD : embedding_VD};
  const auto& rows = lm_head_rows || !config.tie_word_embeddings ? lm_head_rows : embedding_rows;
  if (rows) out.weight_VD = rows->put_into(out.weight_VD);
  if (const auto lora = head_lora()) {
    out.weight_VD = lora->merged_OI(out.weight_VD);
    if (lora->b_bias_O.defined()) out.bias_V = lora->b_bias_O * lora->scaling;
  }
  return out;
}

inline Tensor Decoder::embedded(const Tensor& ids_N) const {
  const std::int64_t pad_id = config.pad_token_id.value_or(-1);
  Tensor out_ND = embed(embedding_VD, ids_N, pad_id).to(wide_type(compute));
  if (embedding_rows) out_ND = embedding_rows->put_among(out_ND, ids_N, pad_id);
  if (embedding_lora) out_ND = embedding_lora->add_to_rows(out_ND, ids_N, embedding_VD, pad_id);
  return out_ND;
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
  add("embed_tokens", decoder.embedding_lora);
  add("lm_head", decoder.head_lora());
  const auto add_rows = [&](const char* path, const std::optional<TrainedRows>& rows) {
    if (!rows) return;
    const Tensor ids_K = rows->ids_K.cpu();
    out += concat(", rows of ", path, ' ',
                  at::IntArrayRef(ids_K.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(ids_K.size(0))));
  };
  add_rows("embed_tokens", decoder.embedding_rows);
  add_rows("lm_head", decoder.lm_head_rows);
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

inline Tensor Decoder::hidden(const Sequences& sequences, const Prefix& before, Prefix* kept) const {
  check(takes_vectorized(compute) || compute == at::kDouble || compute == at::kHalf,
        "a decoder computes in float32, float64, bfloat16 or float16, not in ", compute);
  const auto context = std::make_shared<const LayerContext>(
      LayerContext{.config = config,
                   .compute = compute,
                   .rope = rope_tables(config.rope, config.head_dim, sequences.position_N),
                   .segments = sequences.segments});
  if (kept != nullptr) kept->assign(layers.size(), {});
  Tensor hidden_ND = embedded(sequences.ids_N);
  if (neftune_noise_alpha > 0 && at::GradMode::is_enabled()) hidden_ND = hidden_ND + embedding_noise(*this, sequences);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    KeysValues* keeps = kept == nullptr ? nullptr : &(*kept)[i];
    const KeysValues prefix = before.empty() ? KeysValues{} : before[i];
    // All else by value: with recomputation it runs again in the backward pass, and then keeps nothing.
    const auto forward = [context, layer = layers[i], window = config.windows[i], prefix](const Tensor& input_ND,
                                                                                          KeysValues* keeps_now) {
      return layer_forward(*context, layer, window, input_ND, prefix, keeps_now);
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
