// SPDX-License-Identifier: Apache-2.0
// Decoders and batches from the formula of tests/golden/models/make_model_cases.py.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kto/collate/sequences.hpp"
#include "kto/logprob/token_scores.hpp"
#include "kto/model/config.hpp"
#include "kto/model/folds.hpp"

namespace kto::test {

/// `count` numbers in [-1, 1), multiples of 2^-23: SplitMix64 seeded with the FNV-1a hash of `name`.
inline std::vector<double> noise(std::string_view name, std::int64_t count) {
  std::uint64_t seed = 0xCBF29CE484222325;
  for (const char byte : name) seed = (seed ^ static_cast<unsigned char>(byte)) * 0x100000001B3;
  std::vector<double> out;
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint64_t z = seed += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    z ^= z >> 31;
    out.push_back(static_cast<double>(z >> 40) / (1 << 23) - 1);
  }
  return out;
}

inline Tensor noise_tensor(std::string_view name, at::IntArrayRef shape) {
  return at::tensor(at::ArrayRef<double>(noise(name, c10::multiply_integers(shape))), at::kDouble).view(shape);
}

/// The weight that a case's model has under `name`, in float64.
inline Tensor case_weight(std::string_view name, at::IntArrayRef shape) {
  const auto has = [&](const char* part) { return name.find(part) != std::string_view::npos; };
  const Tensor values = noise_tensor(name, shape);
  return has("norm") || has("scalar") ? 1 + 0.25 * values : values * (has("embed") || has("lm_head") ? 1 : 0.25);
}

inline Decoder case_decoder(const ModelSpec& config, at::ScalarType dtype, at::Device device = at::kCPU) {
  Decoder decoder = make_decoder(config, [&](const std::string& name, const std::vector<std::int64_t>& shape) {
    // Through float32, as transformers' parameters were made.
    return case_weight(name, shape).to(at::kFloat).to(device, dtype).requires_grad_(true);
  });
  decoder.compute = dtype;
  return decoder;
}

inline std::vector<std::int32_t> case_ids(std::size_t sequence, std::int64_t length, std::int64_t vocab_size) {
  std::vector<std::int32_t> out;
  for (const double u : noise("ids/" + std::to_string(sequence), length))
    out.push_back(static_cast<std::int32_t>((u + 1) / 2 * static_cast<double>(vocab_size)));
  return out;
}

/// Every token after the first of each sequence is scored; packed, or padded to the longest. All states are needed.
inline Sequences case_sequences(const std::vector<std::vector<std::int32_t>>& ids, bool padded) {
  std::vector<TokenPair> pairs;
  std::size_t longest = 0;
  for (const auto& sequence : ids) {
    pairs.push_back({.prompt = std::span(sequence).first(1), .completion = std::span(sequence).subspan(1)});
    longest = std::max(longest, sequence.size());
  }
  Sequences out = make_sequences(pairs, padded ? static_cast<std::int64_t>(longest) : 0);
  out.needed_S = Tensor();
  return out;
}

/// Log-probs [C] of the scored tokens from the whole softmax.
inline Tensor case_logp(const Decoder& decoder, const Tensor& hidden_ND, const Sequences& sequences) {
  const Tensor hidden_CD = hidden_ND.index_select(0, sequences.predict_C);
  const Tensor logits_CV = head_logits(hidden_CD, decoder.head()).to(wide_type(decoder.compute));
  return at::log_softmax(logits_CV, -1).gather(-1, sequences.target_C.unsqueeze(-1)).squeeze(-1);
}

/// The loss of a case: mean of a probe times the log-probs.
inline Tensor case_loss(const Tensor& logp_C) {
  return (logp_C * noise_tensor("loss", logp_C.sizes()).to(logp_C.options())).mean();
}

inline std::vector<Tensor> gradients(const Decoder& decoder, const Tensor& loss) {
  std::vector<Tensor> parameters;
  for (const auto& item : decoder.named_parameters()) parameters.push_back(item.second);
  return torch::autograd::grad({loss}, parameters);
}

inline double largest(const Tensor& tensor) { return tensor.numel() == 0 ? 0 : tensor.abs().max().item<double>(); }

}  // namespace kto::test
