// SPDX-License-Identifier: Apache-2.0
// The picks of every micro-batch of an epoch: which rows it visits, in which order, and whose completion each KL pair
// uses. Depends only on (config, epoch).
#pragma once

#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/collate/pairing.hpp"
#include "kto/collate/sampler.hpp"
#include "kto/train/kl_group.hpp"
#include "kto/train/plan.hpp"

namespace kto {

using Picks = std::vector<Pick>;

namespace detail {

/// Micro-batches of `sizes` units in `order`, each unit with the one whose completion its KL pair uses. A unit is a
/// row, or if `paired` the rows 2u (chosen) and 2u + 1 (rejected); a micro-batch then has all its chosen rows first.
inline std::vector<Picks> make_picks(std::span<const Example> rows, const std::vector<std::size_t>& order,
                                     std::span<const std::size_t> sizes, const std::vector<std::size_t>& partners,
                                     bool paired) {
  const std::size_t stride = paired ? 2 : 1;
  std::vector<Picks> out;
  std::size_t begin = 0;
  for (const std::size_t size : sizes) {
    Picks& picks = out.emplace_back();
    for (std::size_t offset = 0; offset < stride; ++offset)
      for (std::size_t i = begin; i < begin + size; ++i)
        picks.push_back({&rows[stride * order[i] + offset], &rows[stride * partners[i] + offset]});
    begin += size;
  }
  return out;
}

inline std::size_t kl_group(const TrainConfig& config) {
  const auto window = config.kl_scope == KlScope::window ? config.gradient_accumulation_steps : 1;
  return static_cast<std::size_t>(config.per_device_train_batch_size * window);
}

/// The sizes of the groups in which micro-batches of `sizes` units pair up: themselves, or windows of them.
inline std::vector<std::size_t> kl_groups(const TrainConfig& config, const std::vector<std::size_t>& sizes) {
  if (config.kl_scope != KlScope::window) return sizes;
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (i % static_cast<std::size_t>(config.gradient_accumulation_steps) == 0) out.push_back(0);
    out.back() += sizes[i];
  }
  return out;
}

/// The number of units in `rows`. Throws Error for pairs with an odd number of rows.
inline std::size_t num_units(std::span<const Example> rows, bool paired) {
  check(!paired || rows.size() % 2 == 0, "expected pairs of rows (chosen, rejected), got an odd number: ", rows.size());
  return paired ? rows.size() / 2 : rows.size();
}

}  // namespace detail

/// How picks are made, as required by the loss and the reference.
struct PickRules {
  bool paired = false;        ///< for a loss of pairs
  bool fixed_kl = false;      ///< in any order, a row's KL partner is the one from sequential order
  std::size_t step_size = 1;  ///< micro-batches of a micro-step: dataloader_drop_last also drops an incomplete one
  /// The tokens of a row in a batch; needed for max_tokens_per_batch.
  std::function<std::int64_t(const Example&)> num_tokens = {};
};

/// The units that an epoch visits, and how many of them make each micro-batch.
struct EpochLayout {
  std::vector<std::size_t> order, sizes;
};

inline EpochLayout epoch_layout(std::span<const Example> rows, const TrainConfig& config, std::int64_t epoch,
                                const PickRules& rules = {}) {
  const auto batch_size = static_cast<std::size_t>(config.per_device_train_batch_size);
  const auto seed = static_cast<std::uint64_t>(config.data_seed.value_or(config.seed));
  const std::size_t units = detail::num_units(rows, rules.paired);
  const auto lengths_by = [&](const auto& num_tokens) {
    std::vector<std::int64_t> lengths(units, 0);
    for (std::size_t i = 0; i < rows.size(); ++i) lengths[rules.paired ? i / 2 : i] += num_tokens(rows[i]);
    return lengths;
  };
  std::vector<std::int64_t> lengths;  // after truncation
  std::size_t usual_size = batch_size;
  if (config.max_tokens_per_batch) {
    lengths = lengths_by(rules.num_tokens);
    const std::int64_t all =
        std::max<std::int64_t>(1, std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0}));
    const auto fitting = static_cast<std::size_t>(static_cast<double>(*config.max_tokens_per_batch) *
                                                  static_cast<double>(units) / static_cast<double>(all));
    usual_size = std::clamp<std::size_t>(fitting, 1, batch_size);
  }

  EpochLayout out{sequential_order(units), {}};
  if (config.train_sampling_strategy == SamplingStrategy::random)
    out.order = shuffled_order(units, seed, static_cast<std::uint64_t>(epoch));
  if (config.train_sampling_strategy == SamplingStrategy::group_by_length)
    out.order =
        length_grouped_order(lengths_by([](const Example& row) {
                               return static_cast<std::int64_t>(row.prompt_ids.size() + row.completion_ids.size());
                             }),
                             usual_size * static_cast<std::size_t>(config.gradient_accumulation_steps), seed,
                             static_cast<std::uint64_t>(epoch));
  if (config.dataloader_drop_last) out.order.resize(out.order.size() / batch_size * batch_size);
  out.sizes = config.max_tokens_per_batch ? token_groups(out.order, lengths, *config.max_tokens_per_batch, batch_size)
                                          : even_groups(out.order.size(), batch_size);
  if (config.dataloader_drop_last)
    for (; out.sizes.size() % rules.step_size != 0; out.sizes.pop_back())
      out.order.resize(out.order.size() - out.sizes.back());
  return out;
}

/// The micro-batches of one epoch of training.
inline std::vector<Picks> train_picks(std::span<const Example> rows, const TrainConfig& config, std::int64_t epoch,
                                      const PickRules& rules = {}) {
  const auto [order, sizes] = epoch_layout(rows, config, epoch, rules);
  std::vector<std::size_t> partners;
  if (rules.fixed_kl) {
    const auto all = sequential_order(detail::num_units(rows, rules.paired));
    const auto fixed = kl_partners(all, detail::kl_group(config));
    for (const std::size_t unit : order) partners.push_back(fixed[unit]);
  } else {
    partners = kl_partners(order, detail::kl_groups(config, sizes));
  }
  return detail::make_picks(rows, order, sizes, partners, rules.paired);
}

/// Throws UsageError if every group of rows that pair up, with micro-batches of `sizes` rows, is a single row.
inline void check_kl_groups(const TrainConfig& config, const std::vector<std::size_t>& sizes) {
  check_kl_group(config);
  const auto groups = detail::kl_groups(config, sizes);
  if (config.max_tokens_per_batch && groups.size() > 1 && std::ranges::max(groups) == 1)
    throw UsageError(concat("max_tokens_per_batch ", *config.max_tokens_per_batch, detail::lone_rows, "; raise it",
                            config.kl_scope == KlScope::window ? "" : ", or use kl_scope window"));
}

/// A note on single-row micro-batches that a run visits after `step`, with micro-batches of `sizes` rows per epoch:
/// such a row has no other row to pair with. Empty if there are none.
inline std::string lone_row_note(const TrainConfig& config, const std::vector<std::size_t>& sizes, const Plan& plan,
                                 std::int64_t step) {
  if (config.kl_scope == KlScope::window || sizes.empty()) return "";
  const std::int64_t each = plan.steps_per_epoch, accumulate = config.gradient_accumulation_steps;
  auto begin = sizes.begin(), end = sizes.end();
  if (step / each == plan.num_steps / each) {  // the run finishes no epoch
    const auto at = [&](std::int64_t of) {
      return sizes.begin() + std::min(std::ssize(sizes), of % each * accumulate);
    };
    begin = at(step), end = at(plan.num_steps);
  }
  const auto lone = std::count(begin, end, std::size_t{1});
  if (lone == 0) return "";
  return concat(lone > 1            ? concat(lone, " of the ", sizes.size(), " micro-batches of an epoch: each")
                : sizes.back() == 1 ? "the last micro-batch of an epoch"
                                    : "a micro-batch of an epoch",
                " is a single row, whose KL pair is itself: its baseline is its own log-ratio, so its loss says "
                "nothing about learning; kl_scope window draws pairs across the update");
}

/// All rows once, in order, in batches of `batch_size`, with the KL partners of sequential order: the batches for a
/// precomputed reference.
inline std::vector<Picks> reference_picks(std::span<const Example> rows, const TrainConfig& config,
                                          std::int64_t batch_size, bool paired = false) {
  const auto order = sequential_order(detail::num_units(rows, paired));
  return detail::make_picks(rows, order, even_groups(order.size(), static_cast<std::size_t>(batch_size)),
                            kl_partners(order, detail::kl_group(config)), paired);
}

/// The micro-batches of an evaluation, in the order of the rows. As in transformers, dataloader_drop_last drops an
/// incomplete last one. KL pairs are drawn as in training, so eval_kl does not depend on the evaluation's batch size.
/// It also drops the micro-batches of an incomplete micro-step, of which each rank of several has one. Throws UsageError if no batch is left.
inline std::vector<Picks> eval_picks(std::span<const Example> rows, const TrainConfig& config, bool paired = false,
                                     std::size_t step_size = 1) {
  auto out = reference_picks(rows, config, config.per_device_eval_batch_size, paired);
  if (!config.dataloader_drop_last) return out;
  const auto size = static_cast<std::size_t>(config.per_device_eval_batch_size);
  if (detail::num_units(rows, paired) % size != 0) out.pop_back();
  out.resize(out.size() / step_size * step_size);
  if (out.empty())
    throw UsageError(concat("dataloader_drop_last: ", rows.size(), " rows to evaluate on do not fill a batch of ", size,
                            step_size > 1 ? concat(" on each of ", step_size, " processes") : "",
                            "; lower per_device_eval_batch_size"));
  return out;
}

}  // namespace kto
