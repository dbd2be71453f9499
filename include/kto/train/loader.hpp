// SPDX-License-Identifier: Apache-2.0
// Which rows an epoch visits, in which order, and which row lends its completion to which: the picks of every
// micro-batch, from (config, epoch) alone.
#pragma once

#include <range/v3/range/conversion.hpp>
#include <range/v3/view/chunk.hpp>
#include <range/v3/view/transform.hpp>
#include <range/v3/view/zip.hpp>
#include <span>
#include <string>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/collate/pairing.hpp"
#include "kto/collate/sampler.hpp"
#include "kto/train/config.hpp"

namespace kto {

using Picks = std::vector<Pick>;

namespace detail {

/// Micro-batches of `batch_size` units in `order`, with the unit that lends its completion to each. A unit is a row, or
/// where `paired` the rows 2u (chosen) and 2u + 1 (rejected): a micro-batch then has all its chosen rows first.
inline std::vector<Picks> make_picks(std::span<const Example> rows, const std::vector<std::size_t>& order,
                                     std::size_t batch_size, const std::vector<std::size_t>& partners, bool paired) {
  const std::size_t stride = paired ? 2 : 1;
  std::vector<Picks> out;
  for (auto&& batch : ranges::views::zip(order, partners) | ranges::views::chunk(batch_size)) {
    Picks& picks = out.emplace_back();
    for (std::size_t offset = 0; offset < stride; ++offset)
      for (const auto& [unit, partner] : batch)
        picks.push_back({&rows[stride * unit + offset], &rows[stride * partner + offset]});
  }
  return out;
}

inline std::size_t kl_group(const TrainConfig& config) {
  const auto window = config.kl_scope == KlScope::window ? config.gradient_accumulation_steps : 1;
  return static_cast<std::size_t>(config.per_device_train_batch_size * window);
}

/// How many units `rows` make. Throws Error when pairs are asked of an odd number of rows.
inline std::size_t num_units(std::span<const Example> rows, bool paired) {
  check(!paired || rows.size() % 2 == 0, "expected pairs of rows (chosen, rejected), got an odd number: ", rows.size());
  return paired ? rows.size() / 2 : rows.size();
}

}  // namespace detail

/// How picks are made: as the loss and the reference need it.
struct PickRules {
  bool paired = false;    ///< the loss is one of pairs
  bool fixed_kl = false;  ///< a row's KL partner is that of sequential visiting, in any order
};

/// The micro-batches of one epoch of training.
inline std::vector<Picks> train_picks(std::span<const Example> rows, const TrainConfig& config, std::int64_t epoch,
                                      PickRules rules = {}) {
  const bool paired = rules.paired;
  const auto batch_size = static_cast<std::size_t>(config.per_device_train_batch_size);
  const auto seed = static_cast<std::uint64_t>(config.data_seed.value_or(config.seed));
  const std::size_t units = detail::num_units(rows, paired);
  auto order = sequential_order(units);
  if (config.train_sampling_strategy == SamplingStrategy::random)
    order = shuffled_order(units, seed, static_cast<std::uint64_t>(epoch));
  if (config.train_sampling_strategy == SamplingStrategy::group_by_length) {
    std::vector<std::int64_t> lengths(units, 0);
    for (std::size_t i = 0; i < rows.size(); ++i)
      lengths[paired ? i / 2 : i] +=
          static_cast<std::int64_t>(rows[i].prompt_ids.size() + rows[i].completion_ids.size());
    order = length_grouped_order(lengths, batch_size * static_cast<std::size_t>(config.gradient_accumulation_steps),
                                 seed, static_cast<std::uint64_t>(epoch));
  }
  if (config.dataloader_drop_last) order.resize(order.size() / batch_size * batch_size);
  const std::size_t group = detail::kl_group(config);
  std::vector<std::size_t> partners = kl_partners(rules.fixed_kl ? sequential_order(units) : order, group);
  if (rules.fixed_kl)
    partners =
        order | ranges::views::transform([&](std::size_t unit) { return partners[unit]; }) | ranges::to<std::vector>();
  return detail::make_picks(rows, order, batch_size, partners, paired);
}

/// What to know of KL pairs under `config`: a micro-batch of one row has no other row to pair with. Empty when there is
/// none such.
inline std::string lone_row_note(const TrainConfig& config, std::int64_t num_rows) {
  const std::int64_t batch = config.per_device_train_batch_size;
  const bool lone = batch == 1 || (num_rows % batch == 1 && !config.dataloader_drop_last);
  if (config.kl_scope == KlScope::window || !lone) return "";
  return concat(batch == 1 ? "every micro-batch" : "the last micro-batch of an epoch",
                " is a single row, whose KL pair is itself: its baseline is its own log-ratio, so its loss tells "
                "nothing of what was learnt; kl_scope window draws pairs across the update");
}

/// All rows once in their order, in batches of `batch_size`, with the KL partners of sequential visiting: what a
/// precomputed reference is asked for.
inline std::vector<Picks> reference_picks(std::span<const Example> rows, const TrainConfig& config,
                                          std::int64_t batch_size, bool paired = false) {
  const auto order = sequential_order(detail::num_units(rows, paired));
  return detail::make_picks(rows, order, static_cast<std::size_t>(batch_size),
                            kl_partners(order, detail::kl_group(config)), paired);
}

/// The micro-batches of an evaluation, in the order of the rows. KL pairs are drawn as in training, so that eval_kl
/// does not depend on the evaluation's batch size.
inline std::vector<Picks> eval_picks(std::span<const Example> rows, const TrainConfig& config, bool paired = false) {
  return reference_picks(rows, config, config.per_device_eval_batch_size, paired);
}

}  // namespace kto
