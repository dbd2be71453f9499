// SPDX-License-Identifier: Apache-2.0
// Adds LoRA adapters to decoders and merges them. The policy shares the frozen weights of its base and has the
// adapter's weights beside them. The reference of a new adapter is the base itself, which keeps its original biases;
// the reference of a loaded adapter is live_reference(policy), which copies only what is trained.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "kto/model/adapter_init.hpp"
#include "kto/model/adapter_targets.hpp"
#include "kto/model/config.hpp"

namespace kto {

/// A decoder with an adapter on it.
struct AdaptedDecoder {
  Decoder policy;     ///< the base with the adapter on it, ready to train
  LoraConfig config;  ///< as it was resolved for this base
};

/// Turns gradients off for every parameter: for a base that adapters share.
inline Decoder freeze(Decoder decoder) {
  visit_parameters(decoder, [](const std::string&, Tensor& tensor, const auto&) { tensor.set_requires_grad(false); });
  return decoder;
}

namespace detail {

/// Calls visit(name in an adapter's file, tensor) for the base's parameters that are trained along with the matrices:
/// modules_to_save and biases.
template <class Visit>
void visit_trained_base(Decoder& policy, const LoraConfig& config, const Visit& visit) {
  std::set<std::string> adapted;
  visit_adaptable(policy, [&](const std::string& path, const AdaptablePlace& place) {
    if (place.lora) adapted.insert(path);
  });
  visit_parameters(policy, [&](const std::string& name, Tensor& tensor, const auto&) {
    const std::string module = name.substr(0, name.rfind('.'));
    const bool has_lora = adapted.contains(module);
    const bool trains_bias =
        name.ends_with(".bias") && (config.bias == LoraBias::all || (config.bias == LoraBias::lora_only && has_lora));
    if (config.saves(module))
      visit("base_model.model." + name, tensor);
    else if (trains_bias)
      visit("base_model.model." + module + (has_lora ? ".base_layer.bias" : ".bias"), tensor);
  });
}

/// `base` with a newly initialised adapter as `config` describes.
inline AdaptedDecoder put_adapter_on(const Decoder& base, LoraConfig config, std::uint64_t seed) {
  const at::NoGradGuard no_grad;
  Decoder policy = freeze(base);
  if (config.target_modules.empty() && config.target_pattern.empty())
    config.target_modules = default_lora_targets(base.spec);
  const std::string &embedding_path = base.spec.names.embedding, &head_path = base.spec.names.head;
  const TiedParts tied = tie_targets(config, base);
  const ModulePaths paths = module_paths(base);
  check_targets(config, paths);
  keep_from_experts(config, base.spec, paths);
  keep_to_decoder(config, base.spec.names, paths);
  check(config.lora_alpha != 0, "lora_alpha is 0: the adapter would change nothing");
  check(base.spec.encoder.empty() || (!config.targets(embedding_path) && !config.saves(embedding_path) &&
                                      config.trainable_token_indices.empty()),
        "the embedding of an encoder-decoder (", embedding_path,
        ") cannot be adapted or trained beside an adapter: two stacks share it, and PEFT changes neither");

  if (policy.spec.tie_word_embeddings && !tied.saved && (config.saves(head_path) || config.saves(embedding_path))) {
    policy.spec.tie_word_embeddings = false;  // one is trained, the other is not
    policy.lm_head.weight_VD = policy.embed_tokens.weight_VD;
  }
  config.fan_in_fan_out = false;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  visit_adaptable(policy, [&](const std::string& path, AdaptablePlace place) {
    if (!config.targets(path) || (tied.lora && path == head_path)) return;
    LoraStart start = start_lora(place.weight_OI(), config.rank_of(path), config.scaling_of(path),
                                 config.init_lora_weights, place.is_embedding, generator);
    if (start.weight_OI.defined()) place.set_weight(start.weight_OI.to(place.weight.scalar_type()));
    config.fan_in_fan_out = config.fan_in_fan_out || (place.is_transposed && !place.is_embedding);
    LoraWeights& lora = place.lora.emplace();
    lora.a_RI = start.a_RI;
    lora.b_OR = start.b_OR;
    lora.scaling = config.scaling_of(path);
    lora.dropout = place.is_embedding ? 0 : config.lora_dropout;
    if (config.lora_bias) lora.b_bias_O = at::zeros({start.b_OR.size(0)}, start.b_OR.options());
    if (config.use_dora) lora.magnitude_O = lora.norm_O(place.weight_OI());
  });
  if (tied.lora) policy.tied_lora_scaling = config.scaling_of(head_path);
  visit_loras(policy, [&](const std::string& name, Tensor& tensor) {
    const bool is_b = name.ends_with(".lora_B.weight") || name.ends_with(".lora_embedding_B");
    tensor.set_requires_grad(config.init_lora_weights != "mica" || !is_b);
  });
  add_trained_rows(policy, config, paths);
  visit_trained_base(policy, config, [](const std::string&, Tensor& tensor) { tensor = trained_copy(tensor); });
  return {std::move(policy), std::move(config)};
}

}  // namespace detail

/// `base` with a new adapter, initialised by config.init_lora_weights: by default A is random like the weight of a
/// torch.nn.Linear and B is zero, so the policy starts equal to the base. Weights of `base` are shared and no longer
/// require a gradient; those to be trained are copied. Throws Error with similar names if a target matches no module.
inline AdaptedDecoder with_adapter(const Decoder& base, LoraConfig config, std::uint64_t seed = 42) {
  for (const char* init : {"eva", "lora_ga"})
    check(config.init_lora_weights != init, "init_lora_weights ", init,
          " needs data to initialise; it is only supported in saved adapters");
  return detail::put_adapter_on(base, std::move(config), seed);
}

/// Turns off dropout in a decoder's adapters, as TRL's disable_dropout does; their config keeps the value.
inline void disable_dropout(Decoder& decoder) {
  detail::visit_adaptable(decoder, [](const std::string&, const detail::AdaptablePlace& place) {
    if (place.lora) place.lora->dropout = 0;
  });
}

/// Throws Error if an adapter has a bias but its layer has none: no plain layer is equivalent.
inline void check_mergeable(Decoder policy) {
  detail::visit_adaptable(policy, [](const std::string& path, const detail::AdaptablePlace& place) {
    const bool has_bias = place.bias_O != nullptr && place.bias_O->defined();
    check(!place.lora || !place.lora->b_bias_O.defined() || has_bias, path,
          ": lora_bias cannot be merged into a layer without a bias: omit merge_and_unload");
  });
}

/// The policy as a plain decoder: every adapter is merged into its weight and bias, in the base's type, and a head that
/// no longer equals the embedding is untied. Throws Error if check_mergeable does.
inline Decoder merge_and_unload(const Decoder& policy) {
  const at::NoGradGuard no_grad;
  check_mergeable(policy);
  Decoder merged = policy;
  const bool shares_lora = policy.embed_tokens.lora && policy.tied_lora_scaling == policy.embed_tokens.lora->scaling;
  const bool parts = policy.spec.tie_word_embeddings && policy.embed_tokens.lora && !shares_lora;
  if (policy.lm_head.lora || policy.lm_head.rows || parts) {
    merged.spec.tie_word_embeddings = false;
    merged.lm_head.weight_VD = policy.head().weight_VD.to(policy.embed_tokens.weight_VD.scalar_type());
    merged.lm_head.lora.reset();
    merged.lm_head.rows.reset();
  }
  if (merged.embed_tokens.rows)
    merged.embed_tokens.weight_VD = merged.embed_tokens.rows->put_into(merged.embed_tokens.weight_VD);
  detail::visit_adaptable(merged, [](const std::string&, detail::AdaptablePlace place) {
    if (!place.lora) return;
    const auto type = present(place.weight).scalar_type();
    place.set_weight(place.lora->merged_OI(place.weight_OI()).to(type));
    if (const Tensor& bias_O = place.lora->b_bias_O; bias_O.defined())
      *place.bias_O = (*place.bias_O + bias_O * place.lora->scaling).to(place.bias_O->scalar_type());
    place.lora.reset();
  });
  merged.embed_tokens.rows.reset();
  merged.tied_lora_scaling.reset();
  visit_parameters(merged, [](const std::string&, Tensor& tensor, const auto&) { tensor = tensor.detach(); });
  return merged;
}

}  // namespace kto
