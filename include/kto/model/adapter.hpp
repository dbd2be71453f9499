// SPDX-License-Identifier: Apache-2.0
// Decoders with a LoRA adapter in PEFT's format: made, loaded, saved, merged. The policy is a decoder that shares the
// frozen weights of its base and has the adapter's beside them; the reference of a new adapter is the base itself, that
// of a loaded one live_reference(policy), which copies the adapter alone.
#pragma once

#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "kto/model/lora_config.hpp"
#include "kto/model/pretrained.hpp"

namespace kto {

struct AdaptedDecoder {
  Decoder policy;
  LoraConfig config;
};

/// Takes the gradient from every parameter: a base that adapters share.
inline Decoder freeze(Decoder decoder) {
  visit_parameters(decoder, [](const std::string&, Tensor& tensor, const auto&) { tensor.set_requires_grad(false); });
  return decoder;
}

/// The target modules that PEFT takes for these families when none are named.
inline std::vector<std::string> default_lora_targets() { return {"q_proj", "v_proj"}; }

namespace detail {

/// How unlike two names are: edits from one to the other.
inline std::size_t name_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

/// Calls visit(path, linear-like place) for all linear layers of a decoder, the head among them.
template <class Visit>
void visit_adaptable(Decoder& decoder, const Visit& visit) {
  for (std::size_t i = 0; i < decoder.layers.size(); ++i)
    visit_linears(
        decoder.config, decoder.layers[i], "model.layers." + std::to_string(i) + ".",
        [&](const std::string& path, Linear& linear, auto...) { visit(path, linear.weight_OI, linear.lora); });
  visit("lm_head", decoder.lm_head_VD.defined() ? decoder.lm_head_VD : decoder.embedding_VD, decoder.lm_head_lora);
}

inline std::set<std::string> linear_paths(Decoder decoder) {
  std::set<std::string> out;
  visit_adaptable(decoder, [&](const std::string& path, auto&...) { out.insert(path); });
  return out;
}

/// Throws Error unless every named target and saved module is there, and the pattern matches something.
inline void check_targets(const LoraConfig& config, const std::set<std::string>& linears,
                          const std::set<std::string>& modules) {
  const auto last_part = [](const std::string& path) { return path.substr(path.rfind('.') + 1); };
  const auto refuse = [&](const char* key, const std::string& name, const std::set<std::string>& known) {
    std::set<std::string> parts;
    for (const std::string& path : known) parts.insert(last_part(path));
    std::vector<std::string> near(parts.begin(), parts.end());
    std::ranges::stable_sort(near, [&](const std::string& a, const std::string& b) {
      return name_distance(a, name) < name_distance(b, name);
    });
    std::string list;
    for (std::size_t i = 0; i < std::min<std::size_t>(near.size(), 7); ++i) list += (i > 0 ? ", " : "") + near[i];
    fail(key, ": no module of the model matches \"", name, "\"; nearest: ", list);
  };
  const auto any = [](const std::set<std::string>& known, const auto& holds) {
    return std::any_of(known.begin(), known.end(), holds);
  };
  for (const std::string& name : config.target_modules)
    if (!any(linears, [&](const std::string& path) { return LoraConfig::ends_in(path, name); }))
      refuse("target_modules", name, linears);
  if (!config.target_pattern.empty() && !any(linears, [&](const std::string& path) { return config.targets(path); }))
    refuse("target_modules", config.target_pattern, linears);
  for (const std::string& name : config.modules_to_save)
    if (!any(modules, [&](const std::string& path) { return path.ends_with(name); }))
      refuse("modules_to_save", name, modules);
}

}  // namespace detail

/// `base` with a new adapter: A drawn as torch.nn.Linear draws its weight, B zero, so that the policy starts as the
/// base. Weights of `base` are shared and lose their gradient; those of modules_to_save are copied and trained. Throws
/// Error with near names when a target matches no module.
inline AdaptedDecoder with_adapter(const Decoder& base, LoraConfig config, std::uint64_t seed = 42) {
  const at::NoGradGuard no_grad;
  Decoder policy = freeze(base);
  std::set<std::string> modules;
  visit_parameters(policy, [&](const std::string& name, const Tensor&, const auto&) {
    modules.insert(name.substr(0, name.rfind('.')));
  });
  modules.insert("lm_head");
  if (config.target_modules.empty() && config.target_pattern.empty()) config.target_modules = default_lora_targets();
  detail::check_targets(config, detail::linear_paths(base), modules);
  check(config.lora_alpha != 0, "lora_alpha is 0: the adapter would change nothing");

  if (policy.config.tie_word_embeddings && (config.saves("lm_head") || config.saves("model.embed_tokens"))) {
    policy.config.tie_word_embeddings = false;  // one of the two moves on, the other stays
    policy.lm_head_VD = policy.embedding_VD;
  }
  visit_parameters(policy, [&](const std::string& name, Tensor& tensor, const auto&) {
    if (config.saves(name.substr(0, name.rfind('.'))))
      tensor = tensor.to(at::kFloat, false, true).set_requires_grad(true);
  });
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  detail::visit_adaptable(
      policy, [&](const std::string& path, const Tensor& weight_OI, std::optional<LoraWeights>& lora) {
        if (!config.targets(path)) return;
        const std::int64_t rank = config.rank_of(path), outputs = weight_OI.size(0), inputs = weight_OI.size(1);
        const auto dtype = weight_OI.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
        const auto options = weight_OI.options().dtype(dtype).requires_grad(false);
        const double bound = 1 / std::sqrt(static_cast<double>(inputs));
        lora.emplace();
        lora->a_RI =
            at::empty({rank, inputs}, options.device(at::kCPU)).uniform_(-bound, bound, generator).to(options.device());
        lora->b_OR = at::zeros({outputs, rank}, options);
        lora->scaling = config.scaling_of(path);
        lora->dropout = config.lora_dropout;
        if (config.use_dora) lora->magnitude_O = lora->norm_O(weight_OI);
      });
  visit_loras(policy, [](const std::string&, Tensor& tensor) { tensor.set_requires_grad(true); });
  return {std::move(policy), std::move(config)};
}

/// Takes the dropout from a decoder's adapters, as TRL's disable_dropout does; their config keeps it.
inline void disable_dropout(Decoder& decoder) {
  detail::visit_adaptable(decoder, [](const std::string&, const Tensor&, std::optional<LoraWeights>& lora) {
    if (lora) lora->dropout = 0;
  });
}

namespace detail {

/// Calls visit(PEFT's name, tensor) for all that an adapter's file holds: its matrices and the modules trained whole.
template <class Visit>
void visit_adapter_tensors(Decoder& policy, const LoraConfig& config, const Visit& visit) {
  visit_loras(policy, visit);
  visit_parameters(policy, [&](const std::string& name, Tensor& tensor, const auto&) {
    if (config.saves(name.substr(0, name.rfind('.')))) visit("base_model.model." + name, tensor);
  });
}

/// Takes the target names that match nothing from a file's config where others do: PEFT passes over them.
inline void drop_unmatched_targets(LoraConfig& config, const std::set<std::string>& linears) {
  const auto unmatched = [&](const std::string& name) {
    return std::ranges::none_of(linears, [&](const std::string& path) { return LoraConfig::ends_in(path, name); });
  };
  if (!std::ranges::all_of(config.target_modules, unmatched)) std::erase_if(config.target_modules, unmatched);
}

/// The weight of `base` that an adapter's file holds as `name`, as PEFT's do where the vocabulary was resized or the
/// head has an adapter; undefined where it is none.
inline Tensor base_weight(const Decoder& base, std::string name) {
  for (const std::string_view part : {"base_model.model.", ".base_layer"})
    if (const auto at = name.find(part); at != std::string::npos) name.erase(at, part.size());
  if (name == "lm_head.weight") return base.head().weight_VD;
  for (const auto& [known, tensor] : base.named_parameters())
    if (known == name) return tensor;
  return {};
}

}  // namespace detail

/// `base` with the adapter of a PEFT folder, ready to train on. Throws Error that names what is missing, unexpected,
/// misshapen, of another base, or not supported.
inline AdaptedDecoder load_adapter(const Decoder& base, const fs::path& folder) {
  const fs::path config_file = folder / "adapter_config.json";
  check(fs::exists(config_file), folder.string(), ": is no adapter: adapter_config.json is missing");
  LoraConfig config = parse_lora_config(read_json(config_file), config_file.string());
  detail::drop_unmatched_targets(config, detail::linear_paths(base));
  AdaptedDecoder out = with_adapter(base, std::move(config));
  const Checkpoint checkpoint(folder, "adapter_model");
  const at::NoGradGuard no_grad;
  detail::WeightProblems problems;
  std::set<std::string> used;
  detail::visit_adapter_tensors(out.policy, out.config, [&](const std::string& name, Tensor& tensor) {
    used.insert(name);
    if (!checkpoint.contains(name)) return problems.add("missing: ", name);
    const Tensor stored = checkpoint.tensor(name);
    if (stored.sizes() != tensor.sizes())
      return problems.add(name, " has shape ", stored.sizes(), ", expected ", tensor.sizes());
    tensor.copy_(stored);
  });
  for (const std::string& name : checkpoint.names()) {
    if (used.contains(name)) continue;
    const Tensor weight = detail::base_weight(base, name);
    if (!weight.defined())
      problems.add("unexpected: ", name);
    else if (const Tensor stored = checkpoint.tensor(name);
             stored.sizes() != weight.sizes() || !at::equal(stored.to(weight.options()), weight))
      problems.add(name, " is not what the base model has");
  }
  problems.raise(folder, "adapter of adapter_config.json, on a " + base.config.model_type);
  return out;
}

/// Saves an adapter into `folder` so that PeftModel.from_pretrained reads it: adapter_config.json, the weights, and
/// copies of the tokenizer files and chat templates of `source`. Existing files stay until all new ones are written.
inline void save_adapter(const AdaptedDecoder& adapted, const fs::path& folder, const fs::path& source) {
  std::vector<std::pair<std::string, Tensor>> tensors;
  Decoder policy = adapted.policy;
  detail::visit_adapter_tensors(policy, adapted.config, [&](const std::string& name, const Tensor& tensor) {
    tensors.emplace_back(name, tensor.detach());
  });
  fs::create_directories(folder);
  AtomicFiles files;
  constexpr auto one_file = std::numeric_limits<std::int64_t>::max();  // PEFT reads no shards
  const auto written = write_checkpoint(files, folder, tensors, one_file, "adapter_model");
  files.add(folder / "adapter_config.json").write(to_json(adapted.config).dump(2) + "\n");
  detail::copy_companions(files, source, folder);
  files.commit();
  remove_stale_weights(folder, written, "adapter_model");
}

/// The policy as a plain decoder: every adapter worked into its weight, in the base's type.
inline Decoder merge_and_unload(const Decoder& policy) {
  const at::NoGradGuard no_grad;
  Decoder merged = policy;
  if (merged.lm_head_lora && merged.config.tie_word_embeddings) {
    merged.config.tie_word_embeddings = false;
    merged.lm_head_VD = merged.embedding_VD;
  }
  const auto merge = [](Tensor& weight_OI, std::optional<LoraWeights>& lora) {
    if (lora) weight_OI = lora->merged_OI(weight_OI).to(weight_OI.scalar_type());
    lora.reset();
  };
  for (DecoderLayer& layer : merged.layers)
    detail::visit_linears(merged.config, layer, "",
                          [&](const std::string&, Linear& linear, auto...) { merge(linear.weight_OI, linear.lora); });
  if (merged.lm_head_lora) merge(merged.lm_head_VD, merged.lm_head_lora);
  visit_parameters(merged, [](const std::string&, Tensor& tensor, const auto&) { tensor = tensor.detach(); });
  return merged;
}

}  // namespace kto
