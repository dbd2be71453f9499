// SPDX-License-Identifier: Apache-2.0
// Every trained parameter of a model as a view into a few flat buffers. Gradients stay separate tensors: the backward
// pass creates them, in memory of activations that it no longer needs, and the update frees them.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/model/concept.hpp"

namespace kto {

/// One parameter's slice of a flat buffer.
struct FlatSlice {
  std::int64_t begin = 0;
  std::vector<std::int64_t> sizes;
  std::int64_t numel = 0;
  std::string name = "";  ///< in the model
  Tensor parameter = {};  ///< the model's tensor, a view of `values`; in a shard, a view without autograd
  /// A shard has a part of the parameter: where it begins, and how many elements are not in it.
  std::int64_t offset = 0, num_elsewhere = 0;

  std::int64_t num_whole() const { return numel + num_elsewhere; }
  /// What a shard has of `whole`, a contiguous tensor of the whole parameter's size.
  Tensor part_of(const Tensor& whole) const { return whole.view(-1).narrow(0, offset, numel).view(sizes); }

  /// This parameter's part of `flat_n`, in its shape.
  Tensor view(const Tensor& flat_n) const { return flat_n.narrow(0, begin, numel).view(sizes); }
};

/// Parameters of one dtype and device, with or without weight decay.
struct FlatGroup {
  Tensor values;  ///< [n], the parameters in order, each padded with zeros to a multiple of `alignment`
  bool decay = true;
  std::vector<FlatSlice> slices = {};  ///< the parameters, in order
};

struct FlatParameters {
  static constexpr std::int64_t alignment = 64;  ///< in elements: each parameter starts on its own cache line
  static constexpr std::int64_t run = 4096;      ///< elements whose squares are summed in the parameter's dtype

  std::vector<FlatGroup> groups;

  std::size_t num_parameters() const {
    std::size_t count = 0;
    for (const FlatGroup& group : groups) count += group.slices.size();
    return count;
  }

  /// Drops all gradients, as torch's zero_grad does.
  void zero_grad() {
    for (const FlatGroup& group : groups)
      for (const FlatSlice& slice : group.slices) slice.parameter.mutable_grad() = Tensor();
  }

  /// The Euclidean norm of all gradients, a float64 scalar tensor. Runs of 4096 elements are summed in their own dtype,
  /// and the runs in float64: over 10^8 elements a float32 sum would be off by a percent.
  Tensor grad_norm() const {
    Tensor sum;
    const auto add = [&](const Tensor& squares) { sum = sum.defined() ? sum + squares.to(sum.device()) : squares; };
    for (const FlatGroup& group : groups) {
      if (!group.values.is_cpu()) {
        add(sum_of_squares_on_device(group));
        continue;
      }
      std::vector<Tensor> small;  // norms and biases: one sum for all
      for (const FlatSlice& slice : group.slices) {
        const Tensor& grad = slice.parameter.grad();
        if (!grad.defined()) continue;
        if (slice.numel < run)
          small.push_back(grad.reshape(-1));
        else
          add(sum_of_squares(grad));
      }
      if (!small.empty()) add(sum_of_squares(at::cat(small)));
    }
    return sum.defined() ? sum.sqrt() : at::zeros({}, at::kDouble);
  }

  /// The sum of squares of a group's gradients, in few kernels, which sum in float32 and by tree.
  static Tensor sum_of_squares_on_device(const FlatGroup& group) {
    std::vector<Tensor> grads;
    for (const FlatSlice& slice : group.slices)
      if (slice.parameter.grad().defined()) grads.push_back(slice.parameter.grad());
    if (grads.empty()) return at::zeros({}, group.values.options().dtype(at::kDouble));
    const auto type = wide_type(group.values.scalar_type());
    return at::stack(at::_foreach_norm(grads, 2, type)).to(at::kDouble).square_().sum();
  }

  /// The sum of squares of one gradient.
  static Tensor sum_of_squares(const Tensor& grad) {
    const Tensor grads_n = grad.reshape(-1);
    const std::int64_t whole = grads_n.numel() / run * run, rest = grads_n.numel() - whole;
    const auto sum = [](const Tensor& runs) {
      return at::linalg_vector_norm(runs, 2, 1).to(at::kDouble).square_().sum();
    };
    const Tensor most = sum(grads_n.narrow(0, 0, whole).view({-1, run}));
    return rest == 0 ? most : most + sum(grads_n.narrow(0, whole, rest).view({1, rest}));
  }
};

/// transformers' rule for weight decay, by name: no decay if the name contains "bias", "layernorm" or "rmsnorm", or has
/// a part between dots that is "norm" or ends in "_norm", ignoring case. (transformers also skips torch's LayerNorm
/// whatever its name: of the families, those named "ln_...". Other names cannot show it; flatten_parameters accepts
/// your own rule.)
inline bool takes_weight_decay(std::string_view name) {
  std::string lower(name);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  for (const char* word : {"bias", "layernorm", "rmsnorm"})
    if (lower.find(word) != std::string::npos) return false;
  for (std::size_t begin = 0; begin <= lower.size();) {
    const std::size_t end = std::min(lower.find('.', begin), lower.size());
    const std::string_view part = std::string_view(lower).substr(begin, end - begin);
    if (part == "norm" || part.ends_with("_norm") || part.starts_with("ln_")) return false;
    begin = end + 1;
  }
  return true;
}

/// The parameters that require a gradient, by kind and whether they decay. Throws Error if there is nothing to train.
template <HasParameters Model>
std::map<std::pair<std::string, bool>, NamedTensors> grouped_parameters(
    const Model& model, const std::function<bool(std::string_view)>& decay = takes_weight_decay) {
  std::map<std::pair<std::string, bool>, NamedTensors> out;
  for (const auto& [name, parameter] : model.named_parameters())
    if (parameter.requires_grad())
      out[{concat(parameter.options().device(), ' ', parameter.scalar_type()), decay(name)}].emplace_back(name,
                                                                                                          parameter);
  check(!out.empty(), "the model has no parameter with requires_grad: nothing to train");
  return out;
}

/// Moves the parameters that require a gradient into flat buffers. The model's tensors become views of the buffers,
/// without gradients; do not use their old storage afterwards. Throws Error if there is nothing to train.
template <HasParameters Model>
FlatParameters flatten_parameters(const Model& model,
                                  const std::function<bool(std::string_view)>& decay = takes_weight_decay) {
  const auto padded = [](std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; };
  FlatParameters flat;
  for (const auto& [key, parameters] : grouped_parameters(model, decay)) {
    std::int64_t size = 0;
    for (const auto& [name, parameter] : parameters) size += padded(parameter.numel(), FlatParameters::alignment);
    size = padded(size, FlatParameters::run);
    const auto options = parameters.front().second.options().requires_grad(false);
    FlatGroup group{.values = at::zeros({size}, options), .decay = key.second};
    std::int64_t begin = 0;
    for (const auto& [name, parameter] : parameters) {
      const FlatSlice& slice =
          group.slices.emplace_back(FlatSlice{begin, parameter.sizes().vec(), parameter.numel(), name, parameter});
      slice.view(group.values).copy_(parameter.detach());
      parameter.set_data(slice.view(group.values));
      parameter.mutable_grad() = Tensor();
      begin += padded(parameter.numel(), FlatParameters::alignment);
    }
    flat.groups.push_back(std::move(group));
  }
  return flat;
}

}  // namespace kto
