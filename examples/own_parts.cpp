// SPDX-License-Identifier: Apache-2.0
// A reference and a collator of your own. The reference looks log-probs up in a table; the collator keeps the end of each
// prompt. Prints the reward margin (good - bad) on held-out rows before and after: it starts at 0 and rises.
#include <algorithm>
#include <map>

#include "kto/logprob/log_probs.hpp"
#include "kto/loss/apo_zero.hpp"
#include "toy.hpp"

// [reference]
/// Knows the log-prob of each row by the row's number. For losses without KL pairs, since it knows nothing of those.
struct TableReference {
  std::map<std::size_t, double> logp_of_row;  // nats

  template <class Model>
  kto::ReferenceLogps log_probs(const Model&, const kto::Batch& batch) const {
    std::vector<double> logps;
    for (const kto::Pick& pick : batch.picks) logps.push_back(logp_of_row.at(pick.example->row));
    return {.logp_B = at::tensor(logps, batch.sign_B.options()), .kl_logp_B = {}};
  }
};
// [reference]

// [collator]
/// Padded batches of the last tokens of each prompt, with the completion that follows.
struct PromptEnds {
  static constexpr kto::BatchParts provides{.kl_pairs = true, .padded_rows = true};
  std::size_t prompt_tokens = 1;

  kto::Batch operator()(std::span<const kto::Pick> picks, bool with_kl) const {
    const auto lay_out = [&](const auto& completion_of) {
      std::vector<kto::TokenPair> pairs;  // spans: the rows' ids are not copied
      std::size_t longest = 1;
      for (const kto::Pick& pick : picks) {
        const std::span prompt(pick.example->prompt_ids);
        pairs.push_back(
            {.prompt = prompt.last(std::min(prompt.size(), prompt_tokens)), .completion = completion_of(pick)});
        longest = std::max(longest, pairs.back().size());
      }
      return kto::make_sequences(pairs, static_cast<std::int64_t>(longest));
    };
    kto::Batch batch;
    batch.rows = lay_out([](const kto::Pick& pick) { return std::span(pick.example->completion_ids); });
    // kl_partner is null in batches that need no KL pairs, as those of kto::log_probs: ask it only if with_kl.
    if (with_kl)
      batch.kl_rows = lay_out([](const kto::Pick& pick) { return std::span(pick.kl_partner->completion_ids); });
    std::vector<double> signs;
    for (const kto::Pick& pick : picks) signs.push_back(pick.example->label ? 1 : -1);
    batch.sign_B = at::tensor(signs, at::kDouble);
    batch.num_chosen = std::ranges::count(signs, 1);
    // The picks as they came. They point at the rows given to train() (of a RowStream: at those of this window), which
    // outlive the batch. A row that this function made would not.
    batch.picks.assign(picks.begin(), picks.end());
    // batch.shared stays empty: it saves time with a model that can reuse a prompt (kto::Decoder), and changes nothing.
    return batch;
  }
};
// [collator]

int main() try {
  const auto rows = toy::rows(96);
  const auto model = toy::bigram_model();
  // [log_probs]
  const kto::Tensor logp_B = kto::log_probs(model, rows, PromptEnds{});  // [96], nats
  TableReference reference;
  for (std::size_t i = 0; i < rows.size(); ++i)
    reference.logp_of_row[rows[i].row] = logp_B[static_cast<std::int64_t>(i)].item<double>();
  // [log_probs]
  kto::Trainer trainer{.model = model,
                       .collator = PromptEnds{},
                       .loss = kto::ApoZeroUnpaired{.beta = 0.3},
                       .reference = reference,
                       .config = {.per_device_train_batch_size = 8, .max_steps = 60, .learning_rate = 0.05}};
  const auto margin = [&] { return trainer.evaluate(toy::rows(24))["eval_rewards/margins"].get<double>(); };
  std::printf("margin %.3f\n", margin());
  trainer.train(rows);
  std::printf("margin %.3f\n", margin());
} catch (const std::exception& error) {
  return kto::report_error("own_parts", error);
}
