// SPDX-License-Identifier: Apache-2.0
// Loads and saves decoders in transformers' model folders: config.json, safetensors, and the files around them.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "kto/io/checkpoint.hpp"
#include "kto/io/folder.hpp"
#include "kto/model/config.hpp"
#include "kto/model/expert_files.hpp"
#include "kto/model/folds.hpp"
#include "kto/model/model_files.hpp"
#include "kto/model/special_tokens.hpp"

namespace kto {

namespace detail {

/// Tensors that transformers silently ignores: rotary buffers and masks saved by old versions, the layers of Qwen's
/// models that predict more than the next token, and what would make keys and values in layers that use those of others.
inline bool is_ignored_weight(const ModelSpec& spec, std::string_view name) {
  constexpr const char* masks[] = {".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"};
  const auto contains = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
  if (contains("rotary_emb.inv_freq") || contains("EncDecAttention.relative_attention_bias") ||
      name.starts_with("mtp.") || std::ranges::any_of(masks, [&](const char* mask) { return name.ends_with(mask); }))
    return true;
  if (spec.names.has_layer_after_last && name.starts_with(concat(spec.names.layers, spec.layers.size(), '.')))
    return true;
  for (std::size_t i = 0; i < spec.layers.size(); ++i)
    for (const char* module : {"k_proj.", "v_proj.", "k_norm.", "v_norm."})
      if (spec.layers[i].attention.kv.of_layer && contains(concat("layers.", i, ".self_attn.", module))) return true;
  return false;
}

inline std::string embedding_name(const ModelSpec& spec) { return spec.names.embedding + ".weight"; }
inline std::string head_name(const ModelSpec& spec) { return spec.names.head + ".weight"; }

/// Whether to tie, as in transformers: a checkpoint with two different weights is not tied, whatever its config says.
inline bool is_tied(const Checkpoint& checkpoint, const ModelSpec& config) {
  if (!config.tie_word_embeddings) return false;
  const std::string embedding = stored_name(checkpoint, config.names, embedding_name(config)),
                    head = stored_name(checkpoint, config.names, head_name(config));
  if (!checkpoint.contains(embedding) || !checkpoint.contains(head)) return true;
  return at::equal(checkpoint.tensor(embedding), checkpoint.tensor(head));
}

/// Whether `stored` is what `weight` was read from.
inline bool is_same_weight_as(const Tensor& stored, const Tensor& weight) {
  return stored.sizes() == weight.sizes() && at::equal(stored.to(weight.options()), weight.detach());
}

/// Everything that a checkpoint of the decoder holds, with the rest of the multimodal model that it is a part of.
inline std::vector<std::pair<std::string, Tensor>> written_tensors(const Decoder& decoder) {
  std::vector<std::pair<std::string, Tensor>> out;
  for (const auto& [name, tensor] : decoder.named_parameters())
    for (auto& part : decoder.written_parts(name, tensor)) out.push_back(std::move(part));
  visit_buffers(decoder, [&](const std::string& name, const Tensor& tensor, const auto&) {
    out.emplace_back(decoder.written_name(name), tensor);
  });
  const auto options = decoder.embed_tokens.weight_VD.options().requires_grad(false);
  visit_stored_constants(decoder, [&](const std::string& name, double value) {
    out.emplace_back(name, at::scalar_tensor(value, options));
  });
  if (decoder.origin)
    for (const std::string& name : decoder.origin->names())
      if (!is_of_decoder(decoder.spec.names, name)) out.emplace_back(name, decoder.origin->tensor(name));
  return out;
}

/// Collects mismatches for one message, a line.
class WeightProblems {
 public:
  template <class... Parts>
  void add(const Parts&... parts) {
    if (++count_ <= shown) text_ += concat(count_ == 1 ? "" : "; ", parts...);
  }
  void raise(const fs::path& folder, const std::string& model_type) const {
    if (count_ == 0) return;
    const std::string more = count_ > shown ? concat("; and ", count_ - shown, " more") : "";
    fail(folder.string(), ": the weights do not match the ", model_type, " model in config.json: ", text_, more);
  }

 private:
  static constexpr std::size_t shown = 4;
  std::size_t count_ = 0;
  std::string text_;
};

inline std::string_view dtype_name(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return "float64";
    case at::kHalf:
      return "float16";
    case at::kBFloat16:
      return "bfloat16";
    default:
      return "float32";
  }
}

/// Files with changed contents, by name.
using ChangedFiles = std::map<std::string, Json>;

/// Writes a file of `source` into `folder`, with the content in `changed` if it is there.
inline void write_companion(AtomicFiles& files, const ModelFiles& source, const fs::path& folder,
                            const std::string& name, const ChangedFiles& changed) {
  const auto other = changed.find(name);
  std::error_code none;
  if (other != changed.end() && !(source.has(name) && source.object(name) == other->second)) {
    files.add(folder / name).write(other->second.dump(2) + "\n");
  } else if (source.has(name) && !fs::equivalent(source.folder(), folder, none)) {
    make_folder((folder / name).parent_path());
    files.add(folder / name).write(source.texts().at(name));
  }
}

/// The same for all files of the tokenizer and the chat template.
inline void write_companions(AtomicFiles& files, const ModelFiles& source, const fs::path& folder,
                             const ChangedFiles& changed) {
  std::set<std::string> names;
  for (const auto& entry : source.texts()) names.insert(entry.first);
  for (const auto& entry : changed) names.insert(entry.first);
  for (const char* of_the_model : {"config.json", "generation_config.json"}) names.erase(of_the_model);
  for (const std::string& name : names) write_companion(files, source, folder, name, changed);
}

}  // namespace detail

/// The type of a folder's weights, by the rule of transformers' dtype="auto": from config.json, or else that of the
/// first floating-point tensor.
inline at::ScalarType stored_dtype(const fs::path& folder) {
  const Json config = read_json(folder / "config.json");
  for (const char* key : {"dtype", "torch_dtype"})
    for (const auto type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16})
      if (config.is_object() && config.contains(key) && config[key] == std::string(detail::dtype_name(type)))
        return type;
  const Checkpoint checkpoint(folder);
  for (const std::string& name : checkpoint.names())
    if (const Tensor weight = checkpoint.tensor(name); weight.is_floating_point()) return weight.scalar_type();
  return at::kFloat;
}

/// Loads a model folder. Parameters are read as `dtype` (by default float32 masters) and require a gradient. Throws
/// Error naming what is missing, unexpected, misshapen or unsupported.
inline Decoder load_pretrained(const fs::path& folder, at::ScalarType dtype = at::kFloat,
                               at::Device device = at::kCPU) {
  check(at::isFloatingType(dtype), "parameters must have a floating-point type, not ", dtype);
  ModelSpec config = read_model_config(folder);
  const auto origin = std::make_shared<const Checkpoint>(folder);
  const Checkpoint& checkpoint = *origin;
  const bool tied = detail::is_tied(checkpoint, config);
  config.tie_word_embeddings = tied;

  config.names.layer.experts.files = detail::expert_files(checkpoint, config);

  detail::WeightProblems problems;
  std::set<std::string> used;
  const std::string head = detail::stored_name(checkpoint, config.names, detail::head_name(config));
  if (tied) used.insert(head);
  std::vector<std::string> copies;
  for (const std::string& name : config.names.embedding_copies)
    copies.push_back(detail::stored_name(checkpoint, config.names, name));
  const auto read = [&](const std::string& name, const std::vector<std::int64_t>& shape) {
    std::string stored = detail::stored_name(checkpoint, config.names, name);
    const bool is_embedding = name == detail::embedding_name(config);
    if (is_embedding)
      for (const std::string& copy : copies)
        if (!checkpoint.contains(stored)) stored = copy;
    if (tied && is_embedding && !checkpoint.contains(stored)) stored = head;
    if (!checkpoint.contains(stored) && name == config.names.logits_constant) return at::zeros(shape);
    if (!checkpoint.contains(stored) && name.ends_with(detail::scalar_name)) return at::ones(shape);
    used.insert(stored);
    const Tensor weight = checkpoint.contains(stored) ? checkpoint.tensor(stored) : Tensor();
    if (!weight.defined())
      problems.add("missing: ", name);
    else if (weight.sizes() != shape)
      problems.add(stored, " has shape ", weight.sizes(), ", expected ", at::IntArrayRef(shape));
    else if (!weight.is_floating_point())
      problems.add(stored, " has type ", weight.scalar_type(), ", expected a floating-point type");
    else
      return weight;
    return Tensor();
  };
  Decoder decoder = make_decoder(config, [&](const std::string& name, const std::vector<std::int64_t>& shape) {
    const auto parts = detail::written_parts(config, name, shape[0]);
    const Tensor weight = parts.empty() ? read(name, shape) : detail::joined_experts(parts, shape, read);
    const at::ScalarType type = name.ends_with(detail::correction_name) ? wide_type(dtype) : dtype;
    return weight.defined() ? weight.to(at::TensorOptions(device).dtype(type)).requires_grad_(true) : weight;
  });
  for (const std::string& copy : copies) {
    used.insert(copy);
    if (checkpoint.contains(copy) && decoder.embed_tokens.weight_VD.defined() &&
        !detail::is_same_weight_as(checkpoint.tensor(copy), decoder.embed_tokens.weight_VD))
      problems.add(copy, " differs from ", detail::embedding_name(config), ", which transformers has in its place");
  }
  visit_stored_constants(decoder, [&](const std::string& name, double value) {
    const std::string stored = detail::stored_name(checkpoint, config.names, name);
    used.insert(stored);
    if (!checkpoint.contains(stored)) return;
    const Tensor held = checkpoint.tensor(stored);
    if (held.numel() != 1 || std::abs(held.item<double>() - value) > 0.01 * std::abs(value))
      problems.add(stored, " is not the constant ", value);
  });
  detail::check_expert_counts(checkpoint, config, folder);
  const bool is_wrapped = !config.names.wrapper.empty();
  const auto is_beside = [&](const std::string& name) {
    return (is_wrapped && !detail::is_of_decoder(config.names, name)) || detail::is_ignored_weight(config, name);
  };
  for (const std::string& name : checkpoint.names())
    if (!used.contains(name) && !is_beside(name)) problems.add("unexpected: ", name);
  problems.raise(folder, config.model_type);
  if (is_wrapped) decoder.origin = origin;
  if (dtype == at::kDouble) decoder.compute = at::kDouble;
  return decoder;
}

/// Saves a model into `folder`, which is created if missing, for load_pretrained and transformers: weights in the
/// parameters' type, config.json of `source` with the new "dtype", and copies of the generation config, tokenizer files
/// and chat templates of `source`. With `tokens` (Processor::named_tokens) these files name the tokenizer's special
/// tokens, so that generate() stops where trained completions end. Existing files stay until all new ones are written.
inline void save_pretrained(const Decoder& decoder, const fs::path& folder, const ModelFiles& source,
                            const NamedTokens& tokens = {}, std::int64_t max_shard_size = default_shard_size) {
  Json config = source.object("config.json");
  detail::ChangedFiles changed;
  if (tokens.any()) {
    TokenConfigs aligned = aligned_configs(source, tokens);
    decoder_config(config) = std::move(aligned.config);
    for (const EncoderSpec& encoder : decoder.spec.encoder)
      if (!aligned.generation.contains("decoder_start_token_id"))
        aligned.generation["decoder_start_token_id"] = encoder.start_token_id;
    changed = {{"generation_config.json", std::move(aligned.generation)},
               {"tokenizer_config.json", std::move(aligned.tokenizer_config)}};
  }
  const std::string_view dtype = detail::dtype_name(decoder.embed_tokens.weight_VD.scalar_type());
  for (const char* key : {"torch_dtype", "dtype"})
    for (Json* part : {&config, &decoder_config(config)})
      if (part->contains(key)) (*part)[key] = dtype;
  if (!config.contains("torch_dtype")) config["dtype"] = dtype;
  const bool was_tied = parse_model_config(config, (source.folder() / "config.json").string()).tie_word_embeddings;
  // Of encoder-decoders the key means something else, and transformers unties weights that differ.
  if (decoder.spec.encoder.empty() && was_tied != decoder.spec.tie_word_embeddings)
    config["tie_word_embeddings"] = decoder.spec.tie_word_embeddings;

  make_folder(folder);
  AtomicFiles files;
  const auto written = write_checkpoint(files, folder, detail::written_tensors(decoder), max_shard_size);
  files.add(folder / "config.json").write(config.dump(2) + "\n");
  detail::write_companion(files, source, folder, "generation_config.json", changed);
  detail::write_companions(files, source, folder, changed);
  files.commit();
  remove_stale_weights(folder, written);
}

}  // namespace kto
