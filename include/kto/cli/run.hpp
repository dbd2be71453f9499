// SPDX-License-Identifier: Apache-2.0
// One run of a program: what its trainer is made of, whichever loss and reference it has, and what it shows.
#pragma once

#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "kto/cli/collator.hpp"
#include "kto/cli/load_rows.hpp"
#include "kto/cli/policy.hpp"
#include "kto/cli/push.hpp"
#include "kto/core/terminal.hpp"
#include "kto/generate/sample_replies.hpp"
#include "kto/train/callbacks/advice.hpp"
#include "kto/train/callbacks/report.hpp"
#include "kto/train/callbacks/report_html.hpp"
#include "kto/train/callbacks/trackers/mlflow.hpp"
#include "kto/train/callbacks/trackers/trackio.hpp"
#include "kto/train/callbacks/trackers/wandb.hpp"
#include "kto/train/evaluate.hpp"

namespace kto::cli {

/// Everything but loss and reference.
struct Run {
  Arguments args;
  const LossEntry& loss;
  Json arguments;  ///< the content of training_args.json
  Note note;
  LoadedRows rows;
  Policy policy;
  RuntimeCollator collator;
  Json rows_files = Json::object();  ///< {path: hash}
  const Tokenizer* tokenizer = nullptr;
  World world = {};  ///< rank 0 alone writes and shows something
  Pushing pushing = {};
};

/// The callbacks of --report_to, and the bar: rank 0's.
inline Callbacks make_callbacks(const Run& run) {
  const Arguments& args = run.args;
  if (!run.world.is_first()) return {};
  Callbacks out{show_progress(stdout, !args.script.disable_tqdm.value_or(false))};
  if (run.loss.needs.kl_pairs) out.push_back(watch_collapse(run.note));
  const fs::path folder = args.train.output_dir, lines = folder / "metrics.jsonl", page = folder / "report.html";
  if (args.train.overwrite_output_dir && !args.train.resume_from_checkpoint)  // this run begins its own
    out.push_back({.on_train_begin = [lines, page](const TrainerState&, const Plan&) {
      fs::remove(lines);
      std::error_code none;
      fs::remove(page, none);
    }});
  const std::string run_name = args.script.run_name.value_or("");
  const TrackedRun tracked{.folder = folder,
                           .project = args.script.project,
                           .name = run_name.empty() ? name_of(folder) : run_name,
                           .config = run.arguments,
                           .note = run.note};
  for (const std::string& name : args.script.report_to.value_or(std::vector<std::string>{})) {
    if (name == "html")
      out.push_back(report_html({.path = page,
                                 .title = tracked.name,
                                 .settings = run.arguments,
                                 .device = device_of(run.policy.model),
                                 .warn = run.note}));
    if (name == "jsonl") out.push_back(report_jsonl(lines, run_name));
    if (name == "tensorboard") out.push_back(report_tensorboard(event_folder(args), run.arguments));
#if defined(KTO_HAS_HUB)
    if (name == "mlflow") out.push_back(report_mlflow(tracked));
#endif
    if (name == "trackio") out.push_back(report_trackio(tracked));
    if (name == "wandb") out.push_back(report_wandb(tracked));
  }
  out.push_back(run.pushing.callback);  // after the reports, which it sends
  return out;
}

/// The hook of --generate_during_eval. Model and reference are handles: it sees their weights of the day.
template <class Reference>
EvaluationHooks evaluation_hooks(const Run& run, const Reference& reference) {
  const auto& script = run.args.script;
  if (!script.generate_during_eval) return {};
  auto config = read_generation_config(run.policy.base_files, run.policy.tokens);
  config.max_new_tokens = script.generation_max_new_tokens;
  config.temperature = script.generation_temperature;
  config.top_k = 0;
  config.top_p = 1;
  config.seed = static_cast<std::uint64_t>(run.args.train.seed);
  std::optional<Decoder> other;
  visit_models(reference, [&](const Decoder& held) { other = held; });
  if (!other)
    run.note("generate_during_eval: the reference was freed after precompute_ref_log_probs; only the policy writes");
  const auto count = static_cast<std::size_t>(script.generation_num_prompts);
  for (const auto& [name, rows] : run.rows.evaluation)
    check(!first_prompts(rows, 1).empty(), "generate_during_eval: no row of the evaluation ",
          name.empty() ? "" : "set " + name + " ", "has a prompt");
  return {.compute_metrics = {},
          .preprocess_logits_for_metrics = {},
          .samples = [policy = run.policy.model, other, config, count,
                      &tokenizer = *run.tokenizer](std::span<const Example> rows) {
            return sample_replies(policy, other ? &*other : nullptr, tokenizer, first_prompts(rows, count), config);
          }};
}

inline void print_evaluation(const Json& metrics) {
  std::cout << detail::entry_text(metrics) << '\n';
  if (const auto samples = detail::samples_text(metrics); !samples.empty()) std::cout << samples << '\n';
}

}  // namespace kto::cli
