// SPDX-License-Identifier: Apache-2.0
// Runs a decoder on new tokens with a cache of the keys and values of earlier ones, for generation. The earlier tokens
// are a prefix of the new ones, so this is a call of Decoder::hidden.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "kto/model/folds.hpp"

namespace kto {

// Shapes: L new tokens after P earlier ones, D width, K key/value heads, d head dimension.

/// The tokens seen so far, and per layer their keys and values, in buffers that grow by doubling, or the state after
/// them.
class KvCache {
 public:
  KvCache() = default;
  /// For an encoder-decoder model: of what it writes about the prompt `prompt`, which the encoder reads once.
  explicit KvCache(std::span<const std::int32_t> prompt) : prompt_(prompt.begin(), prompt.end()) {}

  const std::vector<std::int64_t>& prompt() const { return prompt_; }
  std::int64_t length() const { return static_cast<std::int64_t>(ids_.size()); }
  const std::vector<std::int32_t>& ids() const { return ids_; }

  /// Drops the tokens after the first `length`, or all tokens if a layer has a state, which goes forward only.
  void truncate(std::int64_t length) {
    const bool has_state =
        std::ranges::any_of(layers_, [](const LayerMemory& layer) { return layer.conv.x_NC.defined(); });
    if (has_state && length < this->length()) *this = {};
    ids_.resize(std::min(ids_.size(), static_cast<std::size_t>(length)));
  }

  /// Keys and values of the tokens seen, [P, K, d] each, as views of the cache, or the state after them. Empty before
  /// the first token.
  Decoder::Prefix prefix() const {
    if (ids_.empty()) return {};
    Decoder::Prefix out = layers_;
    for (LayerMemory& layer : out)
      for (Tensor* tensor : {&layer.attention.k_NKd, &layer.attention.v_NKd})
        if (tensor->defined()) *tensor = tensor->narrow(0, 0, length());
    return out;
  }

  /// Appends `ids`, whose keys and values are `kept`, or the states after them.
  void append(std::span<const std::int32_t> ids, const Decoder::Prefix& kept, const ModelSpec& spec) {
    layers_.resize(kept.size());
    for (std::size_t i = 0; i < kept.size(); ++i) {
      if (!spec.layers[i].has_attention()) {
        layers_[i] = carried_on(spec.layers[i], layers_[i], kept[i], length() + static_cast<std::int64_t>(ids.size()));
        continue;
      }
      put(layers_[i].attention.k_NKd, kept[i].attention.k_NKd);
      put(layers_[i].attention.v_NKd, kept[i].attention.v_NKd);
      layers_[i].cross = kept[i].cross;
    }
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }

 private:
  void put(Tensor& buffer, const Tensor& part_LKd) const {
    const std::int64_t before = length(), now = before + part_LKd.size(0);
    if (!buffer.defined() || buffer.size(0) < now) {
      std::vector<std::int64_t> sizes = part_LKd.sizes().vec();
      sizes[0] = std::max<std::int64_t>(2 * now, 64);
      const Tensor larger = at::empty(sizes, part_LKd.options());
      if (before > 0) larger.narrow(0, 0, before).copy_(buffer.narrow(0, 0, before));
      buffer = larger;
    }
    buffer.narrow(0, before, part_LKd.size(0)).copy_(part_LKd);
  }

  Decoder::Prefix layers_;
  std::vector<std::int32_t> ids_;
  std::vector<std::int64_t> prompt_;
};

/// The states [L, D], after the final norm, of the tokens `ids`, which follow those in `cache` and are appended to it.
/// As in transformers, rotary tables that depend on the length use the length so far. Throws Error for an id outside
/// the vocabulary.
inline Tensor cached_hidden(const Decoder& decoder, KvCache& cache, std::span<const std::int32_t> ids) {
  const at::NoGradGuard no_grad;
  check(!ids.empty(), "no tokens to continue from");
  const std::vector<std::int64_t> wide(ids.begin(), ids.end());
  for (const auto& all : {wide, cache.prompt()})
    for (const std::int64_t id : all)
      check(id >= 0 && id < decoder.spec.vocab_size, "the token id ", id, " is not in the model's vocabulary of ",
            decoder.spec.vocab_size, " tokens");
  const auto options = decoder.embed_tokens.weight_VD.options().dtype(at::kLong).requires_grad(false);
  const auto count = static_cast<std::int64_t>(ids.size()), before = cache.length();
  Sequences sequences;
  sequences.ids_N = to_device(wide, options.device());
  sequences.position_N = at::arange(before, before + count, options);
  sequences.segments = {{.begin = 0, .length = count, .prefix_begin = 0, .prefix_length = before}};
  sequences.lengths = {count};
  if (!decoder.encoder.empty()) {
    const auto size = static_cast<std::int64_t>(cache.prompt().size());
    sequences.prompts = {{.begin = 0, .length = size}};
    if (before == 0) {
      Sequences& read = sequences.encoder.emplace_back();
      read.ids_N = to_device(cache.prompt(), options.device());
      read.position_N = at::arange(size, options);
      read.segments = {{.begin = 0, .length = size}};
      read.lengths = {size};
    }
  }
  Decoder::Prefix kept;
  const Tensor hidden_LD = decoder.hidden(sequences, cache.prefix(), &kept);
  cache.append(ids, kept, decoder.spec);
  return hidden_LD;
}

}  // namespace kto
