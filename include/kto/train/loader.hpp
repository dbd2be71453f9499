// SPDX-License-Identifier: Apache-2.0
// Which rows an epoch visits, in which order, and which row lends its completion to which: the picks of every
// micro-batch, from (config, epoch) alone.
#pragma once

#include <range/v3/range/conversion.hpp>
#include <range/v3/view/chunk.hpp>
#include <range/v3/view/transform.hpp>
#include <range/v3/view/zip_with.hpp>
#include <span>
#include <vector>

#include "kto/collate/pairing.hpp"
#include "kto/collate/sampler.hpp"
#include "kto/train/config.hpp"

namespace kto {

using Picks = std::vector<Pick>;

namespace detail {

/// Micro-batches of `batch_size` rows in `order`; KL partners are drawn within runs of `kl_group` rows.
inline std::vector<Picks> make_picks(std::span<const Example> rows, const std::vector<std::size_t>& order,
                                     std::size_t batch_size, std::size_t kl_group) {
  const auto partners = kl_partners(order, kl_group);
  const auto pick = [&](std::size_t row, std::size_t partner) { return Pick{&rows[row], &rows[partner]}; };
  return ranges::views::zip_with(pick, order, partners) | ranges::views::chunk(batch_size) |
         ranges::views::transform([](auto&& batch) { return batch | ranges::to<Picks>(); }) |
         ranges::to<std::vector<Picks>>();
}

inline std::size_t kl_group(const TrainConfig& config) {
  const auto window = config.kl_scope == KlScope::window ? config.gradient_accumulation_steps : 1;
  return static_cast<std::size_t>(config.per_device_train_batch_size * window);
}

}  // namespace detail

/// The micro-batches of one epoch of training.
inline std::vector<Picks> train_picks(std::span<const Example> rows, const TrainConfig& config, std::int64_t epoch) {
  const auto batch_size = static_cast<std::size_t>(config.per_device_train_batch_size);
  const auto seed = static_cast<std::uint64_t>(config.data_seed.value_or(config.seed));
  auto order = sequential_order(rows.size());
  if (config.train_sampling_strategy == SamplingStrategy::random)
    order = shuffled_order(rows.size(), seed, static_cast<std::uint64_t>(epoch));
  if (config.train_sampling_strategy == SamplingStrategy::group_by_length) {
    std::vector<std::int64_t> lengths;
    for (const Example& row : rows)
      lengths.push_back(static_cast<std::int64_t>(row.prompt_ids.size() + row.completion_ids.size()));
    order = length_grouped_order(lengths, batch_size * static_cast<std::size_t>(config.gradient_accumulation_steps),
                                 seed, static_cast<std::uint64_t>(epoch));
  }
  if (config.dataloader_drop_last) order.resize(order.size() / batch_size * batch_size);
  return detail::make_picks(rows, order, batch_size, detail::kl_group(config));
}

/// The micro-batches of an evaluation, in the order of the rows. KL pairs are drawn as in training, so that eval_kl
/// does not depend on the evaluation's batch size.
inline std::vector<Picks> eval_picks(std::span<const Example> rows, const TrainConfig& config) {
  return detail::make_picks(rows, sequential_order(rows.size()),
                            static_cast<std::size_t>(config.per_device_eval_batch_size), detail::kl_group(config));
}

}  // namespace kto
