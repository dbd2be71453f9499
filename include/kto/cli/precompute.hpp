// SPDX-License-Identifier: Apache-2.0
// --precompute_ref_log_probs: what the reference says of all rows, from the cache or from one pass over them, of which
// each rank makes its part.
#pragma once

#include <cstring>

#include "kto/cli/run.hpp"
#include "kto/reference/cache.hpp"
#include "kto/train/run_setup.hpp"

namespace kto::cli {

namespace detail {

inline std::string to_bytes(std::span<const RowLogps> logps) {
  return {reinterpret_cast<const char*>(logps.data()), logps.size_bytes()};
}
inline std::vector<RowLogps> from_bytes(const std::string& bytes) {
  std::vector<RowLogps> out(bytes.size() / sizeof(RowLogps));
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

/// What rank 0 has.
inline std::optional<std::vector<RowLogps>> of_first(std::optional<std::vector<RowLogps>> known, const World& world) {
  if (world.alone()) return known;
  const std::string bytes = world.broadcast(known ? to_bytes(*known) : "");
  if (bytes.empty()) return std::nullopt;
  return from_bytes(bytes);
}

}  // namespace detail

/// What is kept under `key`; of a damaged file, a note.
inline std::optional<std::vector<RowLogps>> recall(const Run& run, const fs::path& folder, const std::string& key,
                                                   std::size_t num_rows) {
  try {
    auto kept = read_reference_cache(folder, key, num_rows);
    if (kept)
      run.note(concat("reference log-probs of ", num_rows, " rows read from ", cache_path(folder, key).string()));
    else if (run.args.script.ref_logps_cache)
      check_cache_place(folder, key);
    return kept;
  } catch (const std::exception& error) {  // damaged, or in a folder that may not be read
    run.note(concat(error_text(error), "; the reference log-probs are computed again"));
  }
  if (run.args.script.ref_logps_cache) check_cache_place(folder, key);
  return std::nullopt;
}

inline void keep(const Run& run, const fs::path& folder, const std::string& key, std::span<const RowLogps> logps) {
  try {
    write_reference_cache(folder, key, logps);
    run.note(concat("reference log-probs of ", logps.size(), " rows kept in ", cache_path(folder, key).string()));
  } catch (const std::exception& error) {  // no reason to lose them
    run.note(concat("reference log-probs are not kept: ", error_text(error)));
  }
}

/// One pass over `batches`: rank r has every W-th one from the r-th on.
inline std::vector<RowLogps> compute_together(const Run& run, const PrecomputedReference<Decoder>& reference,
                                              std::span<const Picks> batches, bool with_kl) {
  const World& world = run.world;
  const Numerics numerics(run.args.train, device_of(run.policy.model));
  const auto own = Share{world}.own(std::vector<Picks>(batches.begin(), batches.end()));
  kto::detail::ProgressBar bar(stdout, world.is_first() && !run.args.script.disable_tqdm.value_or(false));
  const auto show = [&](std::int64_t done, std::int64_t total) { bar.draw("reference", done, total); };
  std::vector<RowLogps> mine;
  together(world, [&] { mine = reference.compute(own, run.collator, with_kl, show); });
  bar.clear();
  if (world.alone()) return mine;
  std::vector<std::vector<RowLogps>> parts;
  for (const std::string& bytes : world.gather(detail::to_bytes(mine))) parts.push_back(detail::from_bytes(bytes));
  std::vector<RowLogps> out;
  std::vector<std::size_t> taken(parts.size());
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const std::size_t rank = i % parts.size(), end = taken[rank] + batches[i].size();
    for (; taken[rank] < end; ++taken[rank]) out.push_back(parts[rank][taken[rank]]);
  }
  return out;
}

/// The log-probs of the reference for all rows, from the cache or from one pass over them.
inline PrecomputedReference<Decoder> precompute(const Run& run, BatchParts needs) {
  const bool with_kl = needs.kl_pairs;
  const auto& args = run.args;
  const PrecomputedReference<Decoder> out{run.policy.load_reference};
  const fs::path folder = args.script.ref_logps_cache ? fs::path(*args.script.ref_logps_cache) : user_cache_folder();
  std::vector<const std::vector<Example>*> all{&run.rows.train};
  for (const auto& [name, rows] : run.rows.evaluation) all.push_back(&rows);
  for (const auto* rows : all) {
    if (rows->empty() || (rows == &run.rows.train && !args.script.do_train)) continue;
    const auto batch_size = args.script.precompute_ref_batch_size.value_or(
        rows == &run.rows.train && !args.train.max_tokens_per_batch ? args.train.per_device_train_batch_size
                                                                    : args.train.per_device_eval_batch_size);
    const auto batches = reference_picks(*rows, of_all_ranks(args.train, run.world), batch_size, needs.chosen_rejected);
    std::string key;
    std::optional<std::vector<RowLogps>> known;
    together(run.world, [&] {
      const LiveReference<Decoder> reference = out.make_reference();
      key = reference_key(batches, with_kl, reference.model, run.collator.truncation.describe());
      if (run.world.is_first()) known = recall(run, folder, key, rows->size());
    });
    known = detail::of_first(known, run.world);
    if (!known) {
      known = compute_together(run, out, batches, with_kl);
      if (run.world.is_first()) keep(run, folder, key, *known);
    }
    out.fill(*rows, batches, *known);
  }
  return out;
}

}  // namespace kto::cli
