// SPDX-License-Identifier: Apache-2.0
// How files hold the parameters of experts: as the model does, under other names, or one linear layer each. A
// checkpoint is saved in the form in which it was read.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/io/checkpoint.hpp"
#include "kto/model/stored_names.hpp"

namespace kto::detail {

// Shapes: E experts, O outputs, I inputs.

/// The linear layers of `num_experts` experts that make up the parameter: joined along their outputs they are [E O, I].
/// Empty if files hold it whole.
inline std::vector<std::string> written_parts(const ModelSpec& spec, const std::string& name,
                                              std::int64_t num_experts) {
  const ExpertsNames& names = spec.names.layer.experts;
  if (names.files != ExpertFiles::split) return {};
  const auto [layer, rest] = split_layer(spec.names, name);
  const bool is_down = rest == names.experts + ".down_proj";
  if (layer.empty() || (!is_down && rest != names.experts + ".gate_up_proj")) return {};
  const std::vector<std::string> of_each =
      is_down ? std::vector{names.split_down} : std::vector{names.split_gate, names.split_up};
  std::vector<std::string> out;
  for (std::int64_t e = 0; e < num_experts; ++e)
    for (const std::string& part : of_each) out.push_back(concat(layer, names.split, e, '.', part, ".weight"));
  return out;
}

/// Whether the checkpoint holds a tensor of that name, or of another that files may have for it.
inline bool holds(const Checkpoint& checkpoint, const ModelSpec& spec, const std::string& name) {
  return checkpoint.contains(stored_name(checkpoint, spec.names, name));
}

/// How the checkpoint holds experts.
inline ExpertFiles expert_files(const Checkpoint& checkpoint, const ModelSpec& spec) {
  const ExpertsNames& names = spec.names.layer.experts;
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    if (!spec.layers[i].experts) continue;
    const std::string fused = concat(spec.names.layers, i, '.', names.experts, ".gate_up_proj");
    if (spec.layers[i].experts->is_transposed || holds(checkpoint, spec, fused)) break;
    return names.stored_gate_up.empty() ? ExpertFiles::split : ExpertFiles::renamed;
  }
  return ExpertFiles::fused;
}

/// Throws Error if the checkpoint holds experts one by one, and not as many as the config has.
inline void check_expert_counts(const Checkpoint& checkpoint, const ModelSpec& spec, const fs::path& folder) {
  const ExpertsNames& names = spec.names.layer.experts;
  if (names.files != ExpertFiles::split) return;
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    if (!spec.layers[i].experts) continue;
    const std::string before = concat(spec.names.layers, i, '.', names.split);
    std::int64_t count = 0;
    while (holds(checkpoint, spec, concat(before, count, '.', names.split_down, ".weight"))) ++count;
    check(count == 0 || count == spec.layers[i].experts->num_experts, folder.string(), ": the weights have ", count,
          " experts in layer ", i, ", and config.json has ", spec.layers[i].experts->num_experts);
  }
}

/// The parameter of that shape from the tensors of its parts, read(name, shape); undefined if one of them is.
template <class Read>
Tensor joined_experts(const std::vector<std::string>& parts, const std::vector<std::int64_t>& shape, const Read& read) {
  std::vector<Tensor> tensors;
  for (const std::string& part : parts)
    if (const Tensor tensor = read(part, {shape[0] * shape[1] / static_cast<std::int64_t>(parts.size()), shape[2]});
        tensor.defined())
      tensors.push_back(tensor);
  return tensors.size() == parts.size() ? at::cat(tensors).view(shape) : Tensor();
}

/// A parameter in the parts in which files hold it, as (name, tensor): several where they hold experts one by one.
inline std::vector<std::pair<std::string, Tensor>> written_parameter(const ModelSpec& spec, const std::string& name,
                                                                     const Tensor& tensor) {
  const auto parts = tensor.dim() == 3 ? written_parts(spec, name, tensor.size(0)) : std::vector<std::string>{};
  if (parts.empty()) return {{name, tensor}};
  const auto tensors = tensor.detach().flatten(0, 1).chunk(static_cast<std::int64_t>(parts.size()));
  std::vector<std::pair<std::string, Tensor>> out;
  for (std::size_t i = 0; i < parts.size(); ++i) out.emplace_back(parts[i], tensors[i]);
  return out;
}

}  // namespace kto::detail
