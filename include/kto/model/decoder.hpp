// SPDX-License-Identifier: Apache-2.0
// A decoder: a ModelSpec with weights. One forward serves padded and packed rows, shared prompts and generation: it
// works on a single row of tokens, and only the attention knows their segments.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kto/model/concept.hpp"
#include "kto/model/expert_files.hpp"
#include "kto/model/forward.hpp"
#include "kto/model/layer_units.hpp"
#include "kto/model/stored_names.hpp"
#include "kto/nn/head.hpp"
#include "kto/nn/recompute.hpp"

namespace kto {

// Shapes: N tokens of a batch in one row, D width, V vocabulary.

/// A handle, as a tensor is: copies share their tensors. Training one copy trains them all, so any of them may be saved
/// afterwards. The settings below (compute, recompute, neftune_noise_alpha) are each copy's own. frozen_copy() gives a
/// decoder that later training does not change.
struct Decoder {
  ModelSpec spec;                    ///< what the config says
  Embedding embed_tokens;            ///< [V, D]
  PositionTable positions;           ///< learned positions; empty for rotary ones
  Norm embedding_norm;               ///< after the embeddings; empty for most families
  LayerEmbeddings layer_embeddings;  ///< further embeddings of each layer (Gemma 4); empty for others
  std::vector<DecoderLayer> layers;  ///< first to last
  Norm norm;                         ///< before the head
  OutputHead lm_head;                ///< empty where it is the embedding's weight
  Tensor logits_constant_1V = {};    ///< added to the logits, not trained; undefined where the model has none
  std::vector<Decoder> encoder;      ///< none, or one: its layers and norms; the embedding is the one here
  /// If the head is tied and so has the embedding's adapter, transposed: the factor on it in the head.
  std::optional<double> tied_lora_scaling = std::nullopt;

  /// The files that it was loaded from, if they hold more: those of a multimodal model. The rest is saved with it.
  std::shared_ptr<const Checkpoint> origin = nullptr;
  /// The files that some of its weights are mapped from (held_as_stored.hpp).
  std::shared_ptr<const Checkpoint> mapped = nullptr;

  /// The type of matrix products and attention: float32, float64, bfloat16 or float16. The last two work like torch's
  /// autocast: parameters keep their type (float32 masters) and are cast for each product; the residual stream, norms,
  /// rotary tables and softmax stay in float32. Parameters may have any floating type; training in float16 needs a
  /// scaled loss (TrainConfig::fp16).
  at::ScalarType compute = at::kFloat;
  /// Gradient checkpointing: keep only each layer's input for the backward pass and recompute the rest there.
  bool recompute = false;
  /// How many logits log-probs hold at once; by the device when absent (ChunkedOptions).
  std::optional<std::int64_t> tile_elements = std::nullopt;
  /// NEFTune (arXiv:2310.05914): when gradients are computed, adds uniform noise of at most alpha / sqrt(T * D) to the
  /// embeddings of a sequence of T tokens. 0: none.
  double neftune_noise_alpha = 0;

  /// The cache of a row, for tokens that follow it: each layer's keys and values, or states.
  using Prefix = std::vector<LayerMemory>;

  /// States [N, D] after the final norm, of type `compute`. The last layer leaves out, as zeros, what sequences.needed_S
  /// does not name: of a prompt's tokens, but for the last, it takes keys and values alone. Prefixes of segments refer to
  /// the row that `before` was kept from, or to this row if `before` is empty. If given, `kept` receives this row's own,
  /// and `trace` what else the pass gives. Where `sequences` has no prompts, an encoder's states come from `before`.
  Tensor hidden(const Sequences& sequences, const Prefix& before = {}, Prefix* kept = nullptr,
                Trace* trace = nullptr) const;
  /// The states [N, D] of tokens whose embeddings are embedded_ND, seen from the embedding on. `encoded_MD` are an
  /// encoder's states.
  Tensor states(Tensor embedded_ND, const Sequences& sequences, const Prefix& before, Prefix* kept, bool is_causal,
                const Tensor& encoded_MD, Trace* trace = nullptr) const;
  /// The states [M, D] of the encoder for prompts, of type `compute`.
  Tensor encoded(const Sequences& prompts) const;
  /// Gathers what stands around the layers, where ranks share out the weights.
  void fetch_outer() const;
  /// The usual coefficient of the load-balancing loss; none where the model has no such loss.
  std::optional<double> auxiliary_coef() const;
  /// Whether each token sees the same keys and values as in a row of its own. Not with dropout, which differs between
  /// passes with and without gradient, nor with rotary frequencies that depend on the longest sequence of a pass.
  bool has_steady_prefix(const SharedPrompts& batch) const;

  /// The embeddings [N, D] of tokens (int64), including the adapter, in float32 or wider.
  Tensor embedded(const Tensor& ids_N) const;
  /// The head as log-probs take it: weight [V, D], adapters included, bias, scale and soft cap.
  Head head() const;
  /// The head's adapter: its own, or the embedding's.
  std::optional<LoraWeights> head_lora() const;
  /// The head's weight without adapters: its own, or the embedding's.
  const Tensor& head_weight_VD() const {
    return lm_head.weight_VD.defined() ? lm_head.weight_VD : embed_tokens.weight_VD;
  }

  /// The live parameters under transformers' names (a tied head is not listed), then those of adapters under PEFT's
  /// names.
  std::vector<std::pair<std::string, Tensor>> named_parameters() const;
  /// The name of a parameter in the decoder's saved files: as in those that it was loaded from, or transformers'.
  std::string written_name(const std::string& name) const {
    return origin ? detail::stored_name(*origin, spec.names, name) : detail::written_name(spec.names, name);
  }
  /// A parameter as views with their names in the decoder's saved files: several where those hold experts one by one.
  std::vector<std::pair<std::string, Tensor>> written_parts(const std::string& name, const Tensor& tensor) const {
    auto out = detail::written_parameter(spec, name, tensor);
    for (auto& part : out) part.first = written_name(part.first);
    return out;
  }
};

inline std::optional<LoraWeights> Decoder::head_lora() const {
  if (!tied_lora_scaling) return lm_head.lora;
  const LoraWeights& lora = *embed_tokens.lora;
  return LoraWeights{
      .a_RI = lora.b_OR.t(), .b_OR = lora.a_RI.t(), .magnitude_O = {}, .b_bias_O = {}, .scaling = *tied_lora_scaling};
}

inline Head Decoder::head() const {
  present(head_weight_VD());
  Head out{.weight_VD = head_weight_VD(),
           .scale = spec.head.scale,
           .soft_cap = spec.head.soft_cap,
           .tile_elements = tile_elements};
  if (spec.head.has_bias) out.bias_V = lm_head.bias_V;
  if (logits_constant_1V.defined()) out.bias_V = logits_constant_1V.squeeze(0);
  const auto& rows = lm_head.rows || !spec.tie_word_embeddings ? lm_head.rows : embed_tokens.rows;
  if (rows) out.weight_VD = rows->put_into(out.weight_VD);
  if (const auto lora = head_lora()) {
    out.weight_VD = lora->merged_OI(out.weight_VD);
    if (lora->b_bias_O.defined())
      out.bias_V = out.bias_V ? *out.bias_V + lora->b_bias_O * lora->scaling : lora->b_bias_O * lora->scaling;
  }
  return out;
}

inline Tensor Decoder::embedded(const Tensor& ids_N) const {
  const std::int64_t pad_id = spec.pad_token_id.value_or(-1);
  const auto& [table_VD, lora, rows] = embed_tokens;
  Tensor out_ND = embed(table_VD, ids_N, pad_id).to(wide_type(compute));
  if (rows) out_ND = rows->put_among(out_ND, ids_N, pad_id);
  if (lora) out_ND = lora->add_to_rows(out_ND, ids_N, table_VD, pad_id);
  return spec.embedding_scale == 1 ? out_ND : out_ND * spec.embedding_scale;
}

inline std::optional<double> Decoder::auxiliary_coef() const {
  for (const LayerSpec& layer : spec.layers)
    if (layer.experts) return layer.experts->router.aux_loss_coef;
  return std::nullopt;
}

inline void Decoder::fetch_outer() const {
  if (unit_of(embed_tokens.weight_VD) == nullptr && unit_of(norm.weight_D) == nullptr) return;
  Decoder outer = *this;
  outer.layers.clear();
  for (Decoder& stack : outer.encoder) stack.layers.clear();
  visit_modules(outer, [](const std::string& path, const auto& module, const ModuleShape& shape) {
    detail::visit_module_parameters(path, module, shape,
                                    [](const std::string&, const Tensor& tensor, const auto&) { present(tensor); });
  });
}

/// Parameters of embeddings and position tables, also of the encoder.
inline std::int64_t num_embedding_parameters(const Decoder& decoder) {
  std::int64_t out = 0;
  visit_modules(decoder, [&](const std::string&, const auto& module, const ModuleShape&) {
    using Module = decltype(module);
    if constexpr (detail::is_a<Module, Embedding> || detail::is_a<Module, LayerTable>)
      out += module.weight_VD.numel();
    else if constexpr (detail::is_a<Module, PositionTable>)
      out += module.weight_PD.numel();
  });
  return out;
}

/// NEFTune's noise [N, D] on the embeddings of `sequences`.
inline Tensor embedding_noise(const Decoder& decoder, const Sequences& sequences) {
  const std::int64_t D = decoder.spec.hidden_size;
  Tensor noise_ND =
      at::empty({sequences.ids_N.size(0), D},
                decoder.embed_tokens.weight_VD.options().dtype(wide_type(decoder.compute)).requires_grad(false));
  for (const Segment& segment : sequences.segments) {
    const double most =
        decoder.neftune_noise_alpha / std::sqrt(static_cast<double>(segment.length) * static_cast<double>(D));
    noise_ND.narrow(0, segment.begin, segment.length).uniform_(-most, most);
  }
  return noise_ND;
}

inline bool Decoder::has_steady_prefix(const SharedPrompts& batch) const {
  if (batch.kl_tails)
    for (const RopeConfig& rope : spec.ropes)
      if (!have_same_angles(rope, batch.rows.longest(), batch.kl_tails->longest())) return false;
  if (!at::GradMode::is_enabled()) return true;  // no dropout without gradient
  if (neftune_noise_alpha != 0) return false;
  const auto drops = [](const Decoder& stack) {
    bool out = false;
    for (std::size_t i = 0; i < stack.layers.size(); ++i)
      out = out || detail::drops(stack.spec, stack.spec.layers[i], stack.layers[i]);
    return out;
  };
  return !drops(*this) && std::ranges::none_of(encoder, drops);
}

namespace detail {

/// Throws Error if a sequence has more tokens than the model has learned positions.
inline void check_positions(const ModelSpec& spec, const Sequences& sequences) {
  const std::int64_t most = *max_positions(spec);
  for (std::size_t i = 0; i < sequences.segments.size(); ++i) {
    const Segment& segment = sequences.segments[i];
    const std::int64_t length = sequences.lengths.empty() ? segment.length : sequences.lengths[i];
    check(segment.prefix_length + length <= most, "a sequence has ", segment.prefix_length + length,
          " tokens, and the model has positions for ", most, "; shorten it");
  }
}

/// The embeddings of the tokens for each layer [N, L, P], in float32 or wider; undefined if layers have none.
inline Tensor layer_embeddings(const Decoder& decoder, const Tensor& ids_N, const Tensor& embedded_ND) {
  const ModelSpec& spec = decoder.spec;
  if (spec.layers.empty() || !spec.layers[0].embedding) return {};
  const LayerEmbeddingSpec& of = *spec.layers[0].embedding;
  const auto& [table, projection, norm] = decoder.layer_embeddings;
  const std::vector<std::int64_t> by_layer{-1, of.width};
  const Tensor of_token = embed(table.weight_VD, ids_N, spec.pad_token_id.value_or(-1))
                              .to(embedded_ND.scalar_type())
                              .unflatten(-1, by_layer);
  const double D = static_cast<double>(spec.hidden_size), scale = std::sqrt(static_cast<float>(of.width));
  const Tensor projected = projection(embedded_ND.to(decoder.compute)).to(embedded_ND.scalar_type()) / std::sqrt(D);
  const Tensor of_context = normalized(of.norm, norm, projected.unflatten(-1, by_layer), embedded_ND.scalar_type());
  return (of_context + of_token * scale) * std::sqrt(0.5);
}

/// The positions whose states the last layer gives; undefined: all, as where a load-balancing loss counts all tokens.
/// Policy and reference must give the same, or they differ by rounding.
inline Tensor needed_of(const Decoder& decoder, const Sequences& sequences) {
  return decoder.layers.empty() || decoder.auxiliary_coef() ? Tensor() : sequences.needed_S;
}

/// What layer `i` gets beside the residual stream. `inputs_ND` are the earlier layers' inputs.
inline LayerInputs layer_inputs(const Decoder& decoder, std::size_t i, const Tensor& embeddings_NLP,
                                const std::vector<Tensor>& inputs_ND) {
  LayerInputs out;
  if (embeddings_NLP.defined())
    out.embedding_NP = embeddings_NLP.select(1, static_cast<std::int64_t>(i)).to(decoder.compute);
  if (const auto source = decoder.spec.layers[i].attention.kv.of_layer)
    out.source = {decoder.spec.layers[*source], decoder.layers[*source], inputs_ND[*source]};
  return out;
}

/// Whether a later layer uses the keys and values of layer `i`.
inline bool is_source(const ModelSpec& spec, std::size_t i) {
  return std::ranges::any_of(spec.layers, [&](const LayerSpec& layer) { return layer.attention.kv.of_layer == i; });
}

/// The learned positions of a row's tokens [N, D]. Those of padding past the last position are the last one's.
inline Tensor position_rows(const Decoder& decoder, const Sequences& sequences) {
  check_positions(decoder.spec, sequences);
  const auto& [count, offset] = *decoder.spec.positions;
  return embed(decoder.positions.weight_PD, (sequences.position_N + offset).clamp_max(count - 1));
}

}  // namespace detail

inline Tensor Decoder::encoded(const Sequences& prompts) const {
  Decoder stack = encoder.front();
  stack.compute = compute;
  stack.recompute = recompute;
  return stack.states(embedded(prompts.ids_N), prompts, {}, nullptr, /*is_causal=*/false, {});
}

inline Tensor Decoder::hidden(const Sequences& sequences, const Prefix& before, Prefix* kept, Trace* trace) const {
  check(takes_vectorized(compute) || compute == at::kDouble,
        "a decoder computes in float32, float64, bfloat16 or float16, not in ", compute);
  check(sequences.max_id < embed_tokens.weight_VD.size(0), "the batch holds token id ", sequences.max_id,
        ", but the model's vocabulary has ", embed_tokens.weight_VD.size(0),
        " tokens: tokenizer and model do not match");
  check(sequences.prompts.size() == (encoder.empty() ? 0 : sequences.segments.size()),
        encoder.empty() ? "the batch has prompts for an encoder, and the model is a decoder"
                        : "the model is an encoder-decoder: its batches need prompts for the encoder "
                          "(kto::EncoderDecoderCollator makes them)");
  fetch_outer();
  check(encoder.empty() || neftune_noise_alpha == 0, "neftune_noise_alpha is not supported for encoder-decoder models");
  const bool encodes = !encoder.empty() && !sequences.encoder.empty();
  const Tensor encoded_MD = encodes ? encoded(sequences.encoder.front()) : Tensor();
  Tensor hidden_ND = embedded(sequences.ids_N);
  if (neftune_noise_alpha > 0 && at::GradMode::is_enabled()) hidden_ND = hidden_ND + embedding_noise(*this, sequences);
  return states(std::move(hidden_ND), sequences, before, kept, /*is_causal=*/true, encoded_MD, trace);
}

inline Tensor Decoder::states(Tensor hidden_ND, const Sequences& sequences, const Prefix& before, Prefix* kept,
                              bool is_causal, const Tensor& encoded_MD, Trace* trace) const {
  const auto context =
      std::make_shared<LayerContext>(compute, std::vector<RopeTables>{}, sequences.segments, sequences.position_N,
                                     Tensor(), is_causal, sequences.lengths, encoded_MD, sequences.prompts);
  for (const RopeConfig& rope : spec.ropes) context->ropes.push_back(rope_tables(rope, sequences.position_N));
  if (trace != nullptr) context->token_weight_N = token_weights(sequences);
  if (kept != nullptr) kept->assign(layers.size(), {});
  const Tensor embeddings_NLP = detail::layer_embeddings(*this, sequences.ids_N, hidden_ND);
  if (spec.positions) hidden_ND = hidden_ND + detail::position_rows(*this, sequences).to(hidden_ND.scalar_type());
  if (spec.embedding_norm)
    hidden_ND = normalized(*spec.embedding_norm, embedding_norm, hidden_ND, hidden_ND.scalar_type());
  const Tensor needed_S = detail::needed_of(*this, sequences);  // by the last layer
  LoadBalance balance;
  std::vector<Tensor> inputs_ND(layers.size());
  const std::vector<detail::Units> units = detail::units_of_layers(spec, layers);  // empty: all weights are here
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (!units.empty()) detail::fetch(units[i], i + 1 < units.size() ? &units[i + 1] : nullptr);
    LayerInputs inputs = detail::layer_inputs(*this, i, embeddings_NLP, inputs_ND);
    if (i + 1 == layers.size()) inputs.needed_S = needed_S;
    // A node of its own: embeddings_NLP depends on hidden_ND, and recomputation must not go back from one to the other.
    if (detail::is_source(spec, i)) inputs_ND[i] = hidden_ND.view_as(hidden_ND);
    LayerMemory* keeps = kept == nullptr ? nullptr : &(*kept)[i];
    LayerMemory prefix = before.empty() ? LayerMemory{} : before[i];
    if (sequences.prefix_P.defined()) prefix = detail::memory_of(prefix, sequences.prefix_P);
    const LayerSpec& of = spec.layers[i];
    DecoderLayer layer = layers[i];
    if (of.relative_bias && of.relative_bias->is_first_layers) layer.relative_bias = layers[0].relative_bias;
    const bool sums_up = trace != nullptr && of.experts;
    // Everything else is captured by value: recomputation calls this again in the backward pass, without `kept`.
    const auto forward = [context, of, layer, prefix, inputs, sums_up](const Tensor& input_ND, LayerMemory* keeps_now) {
      RouterSums sums;
      const Tensor out_ND =
          layer_forward(*context, of, layer, input_ND, prefix, keeps_now, inputs, sums_up ? &sums : nullptr);
      return sums_up ? std::vector<Tensor>{out_ND, sums.probability_E, sums.count_E} : std::vector<Tensor>{out_ND};
    };
    std::vector<Tensor> out;
    if (recompute) {
      const auto once_more = [forward, keeps, first = true](const Tensor& input_ND) mutable {
        return forward(input_ND, std::exchange(first, false) ? keeps : nullptr);
      };
      auto parameters = detail::trained_parameters(spec, of, layers[i], inputs);
      for (const Tensor& shared : {encoded_MD, layer.relative_bias.weight_PD})
        if (shared.defined() && shared.requires_grad() &&
            std::ranges::none_of(parameters, [&](const Tensor& known) { return known.is_same(shared); }))
          parameters.push_back(shared);
      out = recomputed(once_more, hidden_ND, parameters, detail::drops(spec, of, layers[i]));
    } else {
      out = forward(hidden_ND, keeps);
    }
    hidden_ND =
        units.empty() ? out[0] : detail::with_units_in_backward(out[0], units[i], i > 0 ? &units[i - 1] : nullptr);
    if (sums_up) balance.add({out[1], out[2].detach()});
  }
  if (trace != nullptr) trace->auxiliary = balance.loss(context->token_weight_N);
  hidden_ND = spec.last_norm ? normalized(*spec.last_norm, norm, hidden_ND, compute) : hidden_ND.to(compute);
  if (!needed_S.defined()) return hidden_ND;
  return at::zeros({sequences.ids_N.size(0), spec.hidden_size}, hidden_ND.options()).index_copy(0, needed_S, hidden_ND);
}

}  // namespace kto
