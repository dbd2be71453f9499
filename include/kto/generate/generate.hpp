// SPDX-License-Identifier: Apache-2.0
// Generates text from a trained decoder, token by token: greedily, or by sampling with temperature, top-k and top-p as
// in transformers' generate.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "kto/core/interrupt.hpp"
#include "kto/generate/cached_decoder.hpp"
#include "kto/io/json.hpp"
#include "kto/logprob/token_scores.hpp"
#include "kto/model/special_tokens.hpp"

namespace kto {

// Shapes: V vocabulary, D width.

/// How a reply's tokens are chosen.
struct GenerationConfig {
  std::int64_t max_new_tokens = 256;  ///< tokens of a reply at most
  double temperature = 0;             ///< 0: always the most likely token
  std::int64_t top_k = 0;             ///< sample from the k most likely tokens; 0: all
  double top_p = 1;                   ///< sample from the most likely tokens that together have this probability
  double repetition_penalty = 1;      ///< above 1: tokens already in the text become less likely
  std::uint64_t seed = 42;            ///< of sampling
  std::vector<std::int64_t> eos_token_ids = {};                    ///< tokens that end the text
  std::optional<std::int32_t> forced_bos_token_id = std::nullopt;  ///< stands first, whatever the model says
  std::optional<std::int32_t> forced_eos_token_id = std::nullopt;  ///< likewise last in a text of max_new_tokens
};

/// The end-of-text tokens in a model's config.json.
inline std::vector<std::int64_t> eos_token_ids(const ModelFiles& files) {
  std::vector<std::int64_t> out;
  const Json named = detail::value_or_null(read_token_configs(files).config, "eos_token_id");
  for (const Json& id : named.is_array() ? named : Json::array({named}))
    if (const auto number = json_as<std::int64_t>(id)) out.push_back(*number);
  return out;
}

/// The generation settings in a model's files: those of generation_config.json (its end-of-text tokens take precedence
/// over config.json's), greedy unless it requests sampling. With `tokens`, the settings that save_pretrained would
/// write for them. Throws Error naming the file if it is malformed.
inline GenerationConfig read_generation_config(const ModelFiles& files, const NamedTokens& tokens = {}) {
  GenerationConfig out;
  out.eos_token_ids = eos_token_ids(files);
  const Json config = aligned_configs(files, tokens).generation;
  const std::string where = (files.folder() / "generation_config.json").string();
  if (config.contains("eos_token_id") && config["eos_token_id"].is_array())
    out.eos_token_ids = json_value<std::vector<std::int64_t>>(config, "eos_token_id", {}, where);
  else if (config.contains("eos_token_id") && !config["eos_token_id"].is_null())
    out.eos_token_ids = {json_value<std::int64_t>(config, "eos_token_id", 0, where)};
  out.repetition_penalty = json_value<double>(config, "repetition_penalty", 1, where);
  const auto forced = [&](const char* key) {
    const Json id = detail::value_or_null(config, key);
    return id.is_null() ? std::nullopt : std::optional(json_value<std::int32_t>(config, key, 0, where));
  };
  out.forced_bos_token_id = forced("forced_bos_token_id");
  out.forced_eos_token_id = forced("forced_eos_token_id");
  if (!json_value<bool>(config, "do_sample", false, where)) return out;
  out.temperature = json_value<double>(config, "temperature", 1, where);
  out.top_k = json_value<std::int64_t>(config, "top_k", 50, where);
  out.top_p = json_value<double>(config, "top_p", 1, where);
  return out;
}

/// Throws UsageError naming the field that is out of range.
inline void validate(const GenerationConfig& config) {
  const auto require = [](bool holds, const char* message) {
    if (!holds) throw UsageError(message);
  };
  require(config.max_new_tokens > 0, "max_new_tokens: expected an integer above 0");
  const bool divides = config.temperature >= 1.2e-38 && std::isfinite(config.temperature);  // not 0 as a float
  require(config.temperature == 0 || divides, "temperature: expected 0, or a number of 1.2e-38 or more");
  require(config.top_k >= 0, "top_k: expected 0 (all) or more");
  require(config.top_p > 0 && config.top_p <= 1, "top_p: expected a number above 0 and at most 1");
  require(config.repetition_penalty > 0, "repetition_penalty: expected a number above 0");
}

/// Samples or picks the next token from `logits_V`. `earlier` are the tokens of the text so far.
inline std::int32_t next_token(Tensor logits_V, std::span<const std::int32_t> earlier, const GenerationConfig& config,
                               at::Generator& generator) {
  const at::NoGradGuard no_grad;
  logits_V = logits_V.to(at::kFloat).cpu().contiguous();
  if (config.repetition_penalty != 1) {
    logits_V = logits_V.clone();
    float* logit = logits_V.mutable_data_ptr<float>();
    const auto penalty = static_cast<float>(config.repetition_penalty);
    for (const std::int32_t id : std::unordered_set<std::int32_t>(earlier.begin(), earlier.end()))
      logit[id] = logit[id] < 0 ? logit[id] * penalty : logit[id] / penalty;
  }
  check(at::isfinite(logits_V).all().item<bool>(), "the model's logits are not finite: its weights are damaged");
  if (config.temperature == 0) return static_cast<std::int32_t>(logits_V.argmax().item<std::int64_t>());
  logits_V = (logits_V - logits_V.max()) / config.temperature;  // the largest is 0, so any temperature is fine
  const std::int64_t V = logits_V.size(0), k = config.top_k == 0 ? V : std::min(config.top_k, V);
  const auto [logits_k, ids_k] = logits_V.topk(k);  // in descending order
  Tensor probabilities_k = at::softmax(logits_k, -1);
  if (config.top_p < 1)  // keep a token if those before it have less than top_p
    probabilities_k = probabilities_k.masked_fill((probabilities_k.cumsum(-1) - probabilities_k) >= config.top_p, 0);
  const Tensor drawn = at::multinomial(probabilities_k, 1, false, generator);
  return static_cast<std::int32_t>(ids_k[drawn.item<std::int64_t>()].item<std::int64_t>());
}

/// Continues `prompt_ids`, or, with an encoder-decoder, writes about them, and returns the new tokens, including an
/// end-of-text token. Calls `on_token` for each one; if
/// it returns false, the text ends there. The text also ends where the model's learned positions do. Reuses the
/// beginning of the prompt that is in `cache`, so the turns of a conversation share their work. Throws Interrupted
/// between tokens, and Error for a prompt with more tokens than learned positions.
inline std::vector<std::int32_t> generate(const Decoder& decoder, KvCache& cache,
                                          std::span<const std::int32_t> prompt_ids, const GenerationConfig& config,
                                          at::Generator& generator,
                                          const std::function<bool(std::int32_t)>& on_token = nullptr) {
  const at::NoGradGuard no_grad;
  validate(config);
  check(!prompt_ids.empty(), "the prompt has no tokens");
  const std::int64_t most = max_positions(decoder.spec).value_or(std::numeric_limits<std::int64_t>::max());
  check(static_cast<std::int64_t>(prompt_ids.size()) <= most, "the prompt has ", prompt_ids.size(),
        " tokens, and the model has positions for ", most, "; shorten it");
  std::vector<std::int32_t> text(prompt_ids.begin(), prompt_ids.end());
  if (decoder.spec.encoder.empty()) {
    const auto known = std::ranges::mismatch(cache.ids(), prompt_ids).in2 - prompt_ids.begin();
    cache.truncate(std::min<std::int64_t>(known, static_cast<std::int64_t>(prompt_ids.size()) - 1));
  } else {
    cache = KvCache(prompt_ids);
    text = {static_cast<std::int32_t>(decoder.spec.encoder.front().start_token_id)};
  }
  const std::size_t given = text.size();
  const Head head = decoder.head();
  for (std::int64_t n = 0; n < config.max_new_tokens && static_cast<std::int64_t>(text.size()) <= most; ++n) {
    check_interrupt();
    const Tensor hidden_LD =
        cached_hidden(decoder, cache, std::span(text).subspan(static_cast<std::size_t>(cache.length())));
    std::int32_t id = next_token(head_logits(hidden_LD.slice(0, -1), head).squeeze(0), text, config, generator);
    if (n == 0) id = config.forced_bos_token_id.value_or(id);
    if (n == config.max_new_tokens - 1) id = config.forced_eos_token_id.value_or(id);
    text.push_back(id);
    if ((on_token && !on_token(id)) || std::ranges::find(config.eos_token_ids, id) != config.eos_token_ids.end()) break;
  }
  return {text.begin() + static_cast<std::ptrdiff_t>(given), text.end()};
}

/// The same without a cache.
inline std::vector<std::int32_t> generate(const Decoder& decoder, std::span<const std::int32_t> prompt_ids,
                                          const GenerationConfig& config = {}) {
  KvCache cache;
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(config.seed);
  return generate(decoder, cache, prompt_ids, config, generator);
}

}  // namespace kto
