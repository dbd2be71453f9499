// SPDX-License-Identifier: Apache-2.0
// Loads and saves adapters in PEFT's format: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "kto/model/adapted_decoder.hpp"
#include "kto/model/lora_config_json.hpp"
#include "kto/model/pretrained.hpp"

namespace kto {

namespace detail {

/// Calls visit(PEFT's name, tensor) for everything that is trained and stored in an adapter's file: its matrices, and
/// the base's parameters that are trained along with them.
template <class Visit>
void visit_adapter_tensors(Decoder& policy, const LoraConfig& config, const Visit& visit) {
  visit_loras(policy, visit);
  visit_trained_base(policy, config, visit);
}

/// The tensors that PEFT writes a second time, under the name of the head that ensure_weight_tying ties.
inline std::vector<std::pair<std::string, Tensor>> tied_copies(const Decoder& policy, const LoraConfig& config) {
  std::vector<std::pair<std::string, Tensor>> out;
  const std::string head = "base_model.model." + policy.spec.names.head;
  const auto add = [&](const char* name, const Tensor& tensor) {
    out.emplace_back(head + name, tensor.detach().clone(at::MemoryFormat::Contiguous));
  };
  if (policy.tied_lora_scaling) {
    const LoraWeights lora = *policy.head_lora();
    add(".lora_A.weight", lora.a_RI);
    add(".lora_B.weight", lora.b_OR);
  }
  if (policy.spec.tie_word_embeddings && config.saves(policy.spec.names.embedding))
    add(".weight", policy.embed_tokens.weight_VD);
  return out;
}

/// The name of a stored tensor without PEFT's wrappers and without the adapter's name, which the state of a PeftModel
/// contains but PEFT's files do not. Adds the adapter's name to `adapters`.
inline std::string plain_name(const std::string& name, std::set<std::string>& adapters) {
  for (const char* marker : {".lora_A.", ".lora_B.", ".lora_embedding_A.", ".lora_embedding_B.",
                             ".lora_magnitude_vector.", ".trainable_tokens_delta.", ".modules_to_save."}) {
    const std::size_t at = name.find(marker);
    if (at == name.npos) continue;
    const std::string_view kind = marker;
    std::string rest = name.substr(at + kind.size());
    const bool whole = kind == ".modules_to_save.", matrix = kind == ".lora_A." || kind == ".lora_B.";
    const bool is_parameter = rest == "weight" || rest == "bias";
    if (!is_parameter) {
      const std::size_t dot = std::min(rest.find('.'), rest.size());
      adapters.insert(rest.substr(0, dot));
      rest.erase(0, dot + 1);
    }
    const std::string before = name.substr(0, at);
    if (whole) return before + "." + rest;
    return before + std::string(kind.substr(0, kind.size() - 1)) + (matrix ? "." + rest : "");
  }
  return name;
}

/// Maps plain names to the tensors of an adapter's file. Throws Error if they belong to two adapters.
inline std::map<std::string, std::string> plain_names(const Checkpoint& checkpoint, const fs::path& folder) {
  std::map<std::string, std::string> out;
  std::set<std::string> adapters;
  for (const std::string& name : checkpoint.names()) {
    const std::string plain = plain_name(name, adapters);
    if (plain == name || !checkpoint.contains(plain)) out.emplace(plain, name);
  }
  check(adapters.size() <= 1, folder.string(), ": has tensors of two adapters, ",
        adapters.empty() ? "" : *adapters.begin(), " and ", adapters.empty() ? "" : *adapters.rbegin(),
        "; save each in a folder of its own");
  return out;
}

/// The weight of `model` that an adapter's file repeats as `name`; undefined if none. PEFT stores such weights when the
/// vocabulary was resized, the embedding or head has an adapter, or a wrapper keeps what it replaces.
inline Tensor base_weight(const Decoder& model, std::string name) {
  for (const std::string_view part : {"base_model.model.", ".base_layer", ".original_module"})
    if (const auto at = name.find(part); at != std::string::npos) name.erase(at, part.size());
  if (name == head_name(model.spec)) return model.head_weight_VD();
  for (const auto& [known, tensor] : model.named_parameters())
    if (known == name) return tensor;
  return {};
}

/// Whether a stored tensor equals `weight`; with `nearly`, up to the rounding of another run of the same decomposition.
inline bool is_same_weight(const Tensor& stored, const Tensor& weight, bool nearly) {
  if (stored.sizes() != weight.sizes()) return false;
  const Tensor taken = stored.to(weight.options());
  if (!nearly) return at::equal(taken, weight);
  return (taken - weight).norm().item<double>() <= 0.02 * weight.norm().item<double>();
}

}  // namespace detail

/// `base` with the adapter of a PEFT folder, ready to train. Throws Error naming what is missing, unexpected,
/// misshapen, made for another base, or unsupported.
inline AdaptedDecoder load_adapter(const Decoder& base, const fs::path& folder) {
  const fs::path config_file = folder / "adapter_config.json";
  check(fs::exists(config_file), folder.string(), ": is not an adapter: adapter_config.json is missing");
  LoraConfig config = parse_lora_config(read_json(config_file), config_file.string());
  detail::drop_unmatched_names(config, detail::module_paths(base));
  AdaptedDecoder out = detail::put_adapter_on(base, std::move(config), /*seed=*/0);
  const Checkpoint checkpoint(folder, "adapter_model");
  const at::NoGradGuard no_grad;
  detail::WeightProblems problems;
  auto names = detail::plain_names(checkpoint, folder);
  detail::visit_adapter_tensors(out.policy, out.config, [&](const std::string& name, Tensor& tensor) {
    const auto found = names.find(name);
    const bool is_base_bias = name.ends_with(".bias") && !name.ends_with(".lora_B.bias");
    if (found == names.end()) {
      if (!is_base_bias || out.config.saves(name)) problems.add("missing: ", name);
      return;  // older PEFTs did not save this bias: keep the base's
    }
    const Tensor stored = checkpoint.tensor(found->second);
    names.erase(found);
    if (stored.sizes() != tensor.sizes())
      return problems.add(name, " has shape ", stored.sizes(), ", expected ", tensor.sizes());
    tensor.copy_(stored);
  });
  for (const auto& [name, copy] : detail::tied_copies(out.policy, out.config)) {
    const auto found = names.find(name);
    if (found == names.end()) continue;
    if (!detail::is_same_weight(checkpoint.tensor(found->second), copy, /*nearly=*/false))
      problems.add(name, " differs from the embedding, to which it is tied");
    names.erase(found);
  }
  for (const auto& [name, stored] : names) {
    const bool changed = out.config.changes_base() && name.ends_with(".base_layer.weight");
    const Tensor weight = detail::base_weight(changed ? out.policy : base, name);
    if (!weight.defined())
      problems.add("unexpected: ", stored);
    else if (!detail::is_same_weight(checkpoint.tensor(stored), weight, changed))
      problems.add(stored, " differs from the base model");
    else if (changed)
      weight.copy_(checkpoint.tensor(stored));
  }
  problems.raise(folder, "adapter of adapter_config.json, on a " + base.spec.model_type);
  return out;
}

/// Saves an adapter into `folder` for PeftModel.from_pretrained: adapter_config.json, the weights, and copies of the
/// tokenizer files and chat templates of `source`, with a pad token as in save_pretrained. If the config names no base
/// model, `source` becomes the base model. Existing files stay until all new ones are written.
inline void save_adapter(const AdaptedDecoder& adapted, const fs::path& folder, const ModelFiles& source,
                         const NamedTokens& tokens = {}) {
  std::vector<std::pair<std::string, Tensor>> tensors = detail::tied_copies(adapted.policy, adapted.config);
  Decoder policy = adapted.policy;
  detail::visit_adapter_tensors(policy, adapted.config, [&](const std::string& name, const Tensor& tensor) {
    tensors.emplace_back(name, tensor.detach());
  });
  LoraConfig config = adapted.config;
  if (config.base_model_name_or_path.empty()) config.base_model_name_or_path = source.folder().string();
  detail::ChangedFiles changed;
  if (tokens.any()) changed = {{"tokenizer_config.json", aligned_configs(source, tokens).tokenizer_config}};
  make_folder(folder);
  AtomicFiles files;
  constexpr auto one_file = std::numeric_limits<std::int64_t>::max();  // PEFT does not read shards
  const auto written = write_checkpoint(files, folder, tensors, one_file, "adapter_model");
  files.add(folder / "adapter_config.json").write(to_json(config).dump(2) + "\n");
  detail::write_companions(files, source, folder, changed);
  files.commit();
  remove_stale_weights(folder, written, "adapter_model");
}

}  // namespace kto
