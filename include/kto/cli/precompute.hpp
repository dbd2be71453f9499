// SPDX-License-Identifier: Apache-2.0
// --precompute_ref_log_probs: what the reference says of all rows, from the cache or from one pass over them.
#pragma once

#include "kto/cli/run.hpp"
#include "kto/reference/cache.hpp"

namespace kto::cli {

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
    const auto batches = reference_picks(*rows, args.train, batch_size, needs.chosen_rejected);
    const LiveReference<Decoder> reference = out.make_reference();
    const std::string key = reference_key(batches, with_kl, reference.model, run.collator.truncation.describe());
    try {
      if (const auto cached = read_reference_cache(folder, key, rows->size())) {
        run.note(concat("reference log-probs of ", rows->size(), " rows read from ", cache_path(folder, key).string()));
        out.fill(*rows, batches, *cached);
        continue;
      }
    } catch (const std::exception& error) {  // damaged, or in a folder that may not be read
      run.note(concat(error_text(error), "; the reference log-probs are computed again"));
    }
    if (args.script.ref_logps_cache) check_cache_place(folder, key);
    detail::ProgressBar bar(stdout, !args.script.disable_tqdm.value_or(false));
    const auto logps = out.compute(batches, run.collator, with_kl,
                                   [&](std::int64_t done, std::int64_t total) { bar.draw("reference", done, total); });
    bar.clear();
    out.fill(*rows, batches, logps);
    try {
      write_reference_cache(folder, key, logps);
      run.note(concat("reference log-probs of ", rows->size(), " rows kept in ", cache_path(folder, key).string()));
    } catch (const std::exception& error) {  // no reason to lose them
      run.note(concat("reference log-probs are not kept: ", error_text(error)));
    }
  }
  return out;
}

}  // namespace kto::cli
