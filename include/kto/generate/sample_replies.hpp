// SPDX-License-Identifier: Apache-2.0
// Replies of policy and reference to a few prompts, side by side, for the log of an evaluation.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "kto/data/example.hpp"
#include "kto/generate/generate.hpp"
#include "kto/text/tokenizer.hpp"

namespace kto {

/// The first `count` distinct prompts of `rows`, skipping rows without a prompt.
inline std::vector<std::vector<std::int32_t>> first_prompts(std::span<const Example> rows, std::size_t count) {
  std::vector<std::vector<std::int32_t>> out;
  for (const Example& row : rows) {
    if (out.size() == count) break;
    if (!row.prompt_ids.empty() && std::ranges::find(out, row.prompt_ids) == out.end()) out.push_back(row.prompt_ids);
  }
  return out;
}

/// [{"prompt", "policy", "reference"}, ...]: the texts of `prompts` and of the replies, without special tokens; without
/// "reference" if that is null. The random numbers for a prompt depend only on config.seed and its position, so any
/// change between evaluations comes from the model.
inline Json sample_replies(const Decoder& policy, const Decoder* reference, const Tokenizer& tokenizer,
                           std::span<const std::vector<std::int32_t>> prompts, GenerationConfig config) {
  const auto text = [&](const std::vector<std::int32_t>& ids) { return tokenizer.decode(ids, true); };
  Json out = Json::array();
  for (const auto& prompt : prompts) {
    Json sample = {{"prompt", text(prompt)}, {"policy", text(generate(policy, prompt, config))}};
    if (reference != nullptr) sample["reference"] = text(generate(*reference, prompt, config));
    out.push_back(std::move(sample));
    ++config.seed;
  }
  return out;
}

}  // namespace kto
