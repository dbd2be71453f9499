// SPDX-License-Identifier: Apache-2.0
// A decoder's computation as data: a family (families/) reads this description from config.json, and the forward pass
// follows it. As JSON it is the model's identity for resumption and caches. Free of LibTorch.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kto/core/fields.hpp"
#include "kto/io/json.hpp"
#include "kto/nn/activation.hpp"
#include "kto/nn/rope_spec.hpp"

namespace kto {

/// Causal attention with rotary positions and separate projections for queries, keys and values.
struct AttentionSpec {
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;  ///< divides num_heads
  std::int64_t head_dim = 0;
  double scale = 1;                                   ///< factor on the scores
  std::optional<std::int64_t> window = std::nullopt;  ///< how many tokens a token sees, including itself
  std::size_t rope = 0;                               ///< which of ModelSpec::ropes
  bool qk_norm = false;                               ///< queries and keys are normalised per head
  bool qkv_bias = false;
  bool output_bias = false;
};

/// down(activation(gate(x)) * up(x)).
struct MlpSpec {
  std::int64_t intermediate_size = 0;
  Activation activation = Activation::silu;
  bool bias = false;
};

/// x + attention(norm(x)), then the same with the feed-forward part.
struct LayerSpec {
  AttentionSpec attention;
  MlpSpec mlp;
};

struct ModelSpec {
  std::string model_type;
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  double norm_eps = 1e-6;  ///< of the RMS norms
  std::vector<LayerSpec> layers;
  std::vector<RopeConfig> ropes;
  bool tie_word_embeddings = false;
  std::optional<std::int64_t> pad_token_id =
      std::nullopt;              ///< its embedding gets no gradient, as in torch.nn.Embedding
  double attention_dropout = 0;  ///< as in the file; never applied
};

/// A description as JSON: an array of all members' values, so none can be forgotten.
template <class T>
Json spec_json(const T& value) {
  if constexpr (requires { value.has_value(); }) {
    return value ? spec_json(*value) : Json();
  } else if constexpr (std::is_enum_v<T>) {
    return static_cast<int>(value);
  } else if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
    return value;
  } else {
    Json out = Json::array();
    if constexpr (requires { value.begin(); })
      for (const auto& item : value) out.push_back(spec_json(item));
    else
      visit_fields(value, [&](const auto& member) { out.push_back(spec_json(member)); });
    return out;
  }
}

/// Everything besides the parameters that the numbers of such a decoder depend on, as text.
inline std::string describe(const ModelSpec& spec) { return spec_json(spec).dump(); }

}  // namespace kto
