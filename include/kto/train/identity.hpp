// SPDX-License-Identifier: Apache-2.0
// What makes a run the run it is: options, rows, starting weights, reference. A checkpoint records it, and resuming
// under anything else is refused by naming what differs.
#pragma once

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kto/data/example.hpp"
#include "kto/io/content_hash.hpp"
#include "kto/model/concept.hpp"
#include "kto/train/option.hpp"

namespace kto {

/// Options that may change when a run goes on: they say where things are, what is kept and what is shown. Rows and
/// models are compared by their content.
inline constexpr std::array free_options{"output_dir",
                                         "overwrite_output_dir",
                                         "save_strategy",
                                         "save_steps",
                                         "save_total_limit",
                                         "save_only_model",
                                         "resume_from_checkpoint",
                                         "ignore_data_skip",
                                         "nonfinite_loss",
                                         "disable_tqdm",
                                         "model_name_or_path",
                                         "dataset_name",
                                         "dataset_config",
                                         "datasets",
                                         "dataset_cache",
                                         "adapter_name_or_path",
                                         "ref_model_name_or_path",
                                         "ref_logps_cache",
                                         "precompute_ref_batch_size",
                                         "do_eval",
                                         "merge_and_unload",
                                         "dataset_num_proc",
                                         "dataloader_num_workers",
                                         "dataloader_prefetch_factor",
                                         "log_level",
                                         "logging_dir",
                                         "report_to",
                                         "run_name",
                                         "generate_during_eval",
                                         "generation_num_prompts",
                                         "generation_max_new_tokens",
                                         "generation_temperature"};

namespace detail {

inline std::string rows_hash(std::span<const Example> rows) {
  ContentHash hash;
  for (const Example& row : rows) {
    hash.add(std::span<const std::int32_t>(row.prompt_ids));
    hash.add(std::span<const std::int32_t>(row.completion_ids));
    hash.add(std::string_view(row.label ? "1" : "0"));
  }
  return hash.hex();
}

template <HasParameters Model>
std::string shapes_hash(const Model& model) {
  ContentHash hash;
  for (const auto& [name, tensor] : model.named_parameters())
    hash.add(concat(name, ' ', tensor.scalar_type(), tensor.sizes(), tensor.requires_grad()));
  return hash.hex();
}

template <HasParameters Model>
std::string weights_hash(const Model& model) {
  ContentHash hash;
  for (const auto& [name, tensor] : model.named_parameters()) hash.add(tensor);
  return hash.hex();
}

/// What a model says of itself beside its parameters.
template <class Model>
std::string own_description(const Model& model) {
  if constexpr (DescribesItself<Model>) return describe(model);
  return "";
}
template <class Reference>
std::string reference_description(const Reference& reference) {
  if constexpr (requires { reference.model.named_parameters(); }) return own_description(reference.model);
  return "";
}

/// The reference's weights, or its precomputed log-probs; empty where it has neither.
template <class Reference>
std::string reference_hash(const Reference& reference, std::span<const Example> rows) {
  if constexpr (requires { reference.model.named_parameters(); }) return weights_hash(reference.model);
  ContentHash hash;
  if constexpr (requires { reference.table->find(rows.data())->second.kl_logp; }) {
    for (const Example& row : rows)
      if (const auto found = reference.table->find(&row); found != reference.table->end()) {
        const std::array logps{found->second.logp, found->second.kl_logp};
        hash.add(std::span<const double>(logps));
      }
    return hash.hex();
  }
  return "";
}

}  // namespace detail

/// The identity of a run whose model has not been trained yet. `options` and `files` ({path: hash}) are the program's.
template <class Model, class Reference>
Json run_identity(const Model& model, const Reference& reference, std::span<const Example> rows,
                  std::span<const Example> eval_rows, const Json& options, const Json& files) {
  return {{"options", options},
          {"files", files},
          {"rows", {{"train", detail::rows_hash(rows)}, {"evaluation", detail::rows_hash(eval_rows)}}},
          {"parameters", detail::shapes_hash(model)},
          {"weights", detail::weights_hash(model)},
          {"reference", detail::reference_hash(reference, rows)},
          {"description",
           {{"model", detail::own_description(model)}, {"reference", detail::reference_description(reference)}}}};
}

/// What is not the same in two identities, a phrase each.
inline std::vector<std::string> identity_differences(const Json& saved, const Json& now) {
  std::vector<std::string> out;
  const auto part = [](const Json& object, const char* key) {
    return object.is_object() && object.contains(key) ? object[key] : Json();
  };
  const Json old_options = part(saved, "options"), new_options = part(now, "options");
  for (const auto& [name, value] : new_options.items()) {
    if (std::ranges::find(free_options, std::string_view(name)) != free_options.end()) continue;
    const Json old = part(old_options, name.c_str());
    if (old_options.contains(name) && old != value)
      out.push_back(concat(name, " is ", detail::quoted(value), " and was ", detail::quoted(old)));
  }
  bool file_changed = false;
  const Json old_files = part(saved, "files"), new_files = part(now, "files");
  for (const auto& [path, hash] : new_files.items()) {
    const auto slash = path.rfind('/');
    const std::string name = path.substr(slash == std::string::npos ? 0 : slash + 1);
    for (const auto& [old_path, old_hash] : old_files.items())
      if ((old_path == path || old_path.ends_with("/" + name)) && old_hash != hash) {
        file_changed = true;
        out.push_back("the rows file " + path + " has changed since");
        break;
      }
  }
  const Json old_rows = part(saved, "rows"), new_rows = part(now, "rows");
  if (!file_changed)
    for (const char* which : {"train", "evaluation"})
      if (part(old_rows, which) != part(new_rows, which))
        out.push_back(concat("the ", which, " rows are others (their token ids or labels differ)"));
  if (part(saved, "parameters") != part(now, "parameters"))
    out.emplace_back("the model has other parameters (names, shapes or types)");
  else if (part(saved, "weights") != part(now, "weights"))
    out.emplace_back("the model that the run started from has other weights");
  else if (part(saved, "reference") != part(now, "reference"))
    out.emplace_back("the reference is another one");
  else if (saved.is_object() && saved.contains("description"))  // that of an earlier version has none
    for (const char* which : {"model", "reference"})
      if (part(saved["description"], which) != part(now["description"], which))
        out.push_back(
            concat("the ", which, " computes otherwise with the same weights (config.json, or the adapter's)"));
  return out;
}

}  // namespace kto
