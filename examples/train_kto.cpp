// SPDX-License-Identifier: Apache-2.0
// The command-line trainer: a thin program over kto::Trainer, with the flags of TRL's scripts/kto.py.
//   train_kto --model_name_or_path DIR --dataset_name rows.jsonl --output_dir out --num_train_epochs 1
// Prints the log at each logging step and leaves the trained model in out/, ready for transformers.

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "kto/cli/collator.hpp"
#include "kto/cli/load_rows.hpp"
#include "kto/cli/optimizer.hpp"
#include "kto/cli/policy.hpp"
#include "kto/cli/save_run.hpp"
#include "kto/core/allocator.hpp"
#include "kto/core/terminal.hpp"
#include "kto/kto.hpp"

namespace {

using kto::Json;
namespace fs = std::filesystem;

void note(const std::string& text) { std::cerr << "train_kto: " << kto::printable(text) << '\n'; }

/// Refuses folders beside output_dir that are to be written to and cannot be, before anything is computed for them.
void check_folders(const kto::ScriptConfig& script) {
  if (script.dataset_cache) kto::check_folder(*script.dataset_cache, "--dataset_cache");
  if (script.ref_logps_cache) kto::check_folder(*script.ref_logps_cache, "--ref_logps_cache");
  if (script.logging_dir && kto::reports_to(script, "tensorboard"))
    kto::check_folder(*script.logging_dir, "--logging_dir");
}

/// What all kinds of trainers are made of here.
struct Run {
  kto::Arguments args;
  kto::LoadedRows rows;
  kto::Policy policy;
  kto::RuntimeCollator collator;
  Json rows_files = Json::object();  ///< {path: hash}
  const kto::Tokenizer* tokenizer = nullptr;
};

/// The callbacks of --report_to, and the bar.
kto::Callbacks make_callbacks(const kto::Arguments& args) {
  kto::Callbacks out{kto::show_progress(stdout, !args.script.disable_tqdm.value_or(false)), kto::watch_collapse(note)};
  const fs::path folder = args.train.output_dir;
  if (args.train.overwrite_output_dir && !args.train.resume_from_checkpoint)  // this run begins its own
    out.push_back({.on_train_begin = [file = folder / "metrics.jsonl"](const kto::TrainerState&, const kto::Plan&) {
      fs::remove(file);
    }});
  const std::string run_name = args.script.run_name.value_or("");
  for (const std::string& name : args.script.report_to.value_or(std::vector<std::string>{}))
    out.push_back(name == "jsonl" ? kto::report_jsonl(folder / "metrics.jsonl", run_name)
                                  : kto::report_tensorboard(kto::event_folder(args), kto::to_json(args)));
  return out;
}

/// The hook of --generate_during_eval. Model and reference are handles: it sees their weights of the day.
template <class Reference>
kto::EvaluationHooks evaluation_hooks(const Run& run, const Reference& reference) {
  const auto& script = run.args.script;
  if (!script.generate_during_eval) return {};
  auto config = kto::read_generation_config(run.policy.base_files, run.policy.tokens);
  config.max_new_tokens = script.generation_max_new_tokens;
  config.temperature = script.generation_temperature;
  config.top_k = 0;
  config.top_p = 1;
  config.seed = static_cast<std::uint64_t>(run.args.train.seed);
  std::optional<kto::Decoder> other;
  if constexpr (requires { reference.model.layers; })
    other = reference.model;
  else
    note("generate_during_eval: the reference was let go after precompute_ref_log_probs; the policy writes alone");
  const auto count = static_cast<std::size_t>(script.generation_num_prompts);
  for (const auto& [name, rows] : run.rows.evaluation)
    kto::check(!kto::first_prompts(rows, 1).empty(), "generate_during_eval: no row of the evaluation ",
               name.empty() ? "" : "set " + name + " ", "has a prompt");
  return {.compute_metrics = {},
          .preprocess_logits_for_metrics = {},
          .samples = [policy = run.policy.model, other, config, count,
                      &tokenizer = *run.tokenizer](std::span<const kto::Example> rows) {
            return kto::sample_replies(policy, other ? &*other : nullptr, tokenizer, kto::first_prompts(rows, count),
                                       config);
          }};
}

void print_evaluation(const Json& metrics) {
  std::cout << kto::detail::entry_text(metrics) << '\n';
  if (const auto samples = kto::detail::samples_text(metrics); !samples.empty()) std::cout << samples << '\n';
}

template <class Loss, class Reference>
void train(const Run& run, const Loss& loss, const Reference& reference) {
  const auto& args = run.args;
  kto::Trainer trainer{
      .model = run.policy.model,
      .collator = run.collator,
      .loss = loss,
      .reference = reference,
      .config = args.train,
      .callbacks = make_callbacks(args),
      .evaluation = evaluation_hooks(run, reference),
      .optimizer = kto::make_any_optimizer(args.script, args.train),
      .checkpointing = {.save_model = [&](const fs::path& folder) { kto::save_policy(run.policy, folder); },
                        .arguments = kto::to_json(args),
                        .files = run.rows_files,
                        .model_card = kto::model_card(args, run.policy, KTO_VERSION)}};
  Json eval_metrics = Json::object();
  const auto evaluate = [&](std::int64_t num_tokens) {
    if (!args.script.bf16_full_eval && !args.script.fp16_full_eval)
      return trainer.evaluate(run.rows.evaluation_sets(), "eval_", num_tokens);
    auto evaluator = trainer;
    evaluator.model = kto::narrow_copy(trainer.model, args.script.fp16_full_eval ? at::kHalf : at::kBFloat16);
    return evaluator.evaluate(run.rows.evaluation_sets(), "eval_", num_tokens);
  };
  if (!args.script.do_train) {
    eval_metrics = evaluate(0);
    print_evaluation(eval_metrics);
    kto::write_file(fs::path(args.train.output_dir) / "eval_results.json", eval_metrics.dump(2) + "\n");
    return;
  }
  kto::Plan plan;
  kto::Callback keep_plan;
  keep_plan.on_train_begin = [&](const kto::TrainerState&, const kto::Plan& made) { plan = made; };
  trainer.callbacks.push_back(std::move(keep_plan));
  const kto::TrainerState state = [&] {
    if constexpr (!kto::FixesKlPairs<Reference>)
      if (run.rows.stream) return trainer.train(*run.rows.stream, run.rows.evaluation_sets());
    return trainer.train(run.rows.train, run.rows.evaluation_sets());
  }();
  if (state.interrupted) {
    if (kto::list_checkpoints(args.train.output_dir).empty()) throw kto::Interrupted{};
    note(kto::concat("stopped after step ", state.global_step, "; go on with --resume_from_checkpoint True"));
    return;
  }
  if (args.script.do_eval) try {
      eval_metrics = evaluate(state.num_tokens);
      eval_metrics["epoch"] = state.epoch;
      print_evaluation(eval_metrics);
    } catch (const kto::Interrupted&) {
      note("the evaluation after training is broken off; the trained model is saved without it");
    }
  kto::save_run(args, run.policy, state, plan, eval_metrics, KTO_VERSION);
  std::cout << "Model saved to " << kto::printable(args.train.output_dir) << '\n';
}

/// The log-probs of the reference for all rows, from the cache or from one pass over them.
template <class Loss>
kto::PrecomputedReference<kto::Decoder> precompute(const Run& run) {
  const auto& args = run.args;
  const kto::PrecomputedReference<kto::Decoder> out{run.policy.load_reference};
  const fs::path folder =
      args.script.ref_logps_cache ? fs::path(*args.script.ref_logps_cache) : kto::user_cache_folder();
  std::vector<const std::vector<kto::Example>*> all{&run.rows.train};
  for (const auto& [name, rows] : run.rows.evaluation) all.push_back(&rows);
  for (const auto* rows : all) {
    if (rows->empty() || (rows == &run.rows.train && !args.script.do_train)) continue;
    const auto batch_size = args.script.precompute_ref_batch_size.value_or(
        rows == &run.rows.train && !args.train.max_tokens_per_batch ? args.train.per_device_train_batch_size
                                                                    : args.train.per_device_eval_batch_size);
    const auto batches = kto::reference_picks(*rows, args.train, batch_size);
    const kto::LiveReference<kto::Decoder> reference = out.make_reference();
    const std::string key =
        kto::reference_key(batches, Loss::needs.kl_pairs, reference.model, run.collator.truncation.describe());
    try {
      if (const auto cached = kto::read_reference_cache(folder, key, rows->size())) {
        note(kto::concat("reference log-probs of ", rows->size(), " rows read from ",
                         kto::cache_path(folder, key).string()));
        out.fill(batches, *cached);
        continue;
      }
    } catch (const std::exception& error) {  // damaged, or in a folder that may not be read
      note(kto::concat(kto::error_text(error), "; the reference log-probs are computed again"));
    }
    if (args.script.ref_logps_cache) kto::check_cache_place(folder, key);
    kto::detail::ProgressBar bar(stdout, !args.script.disable_tqdm.value_or(false));
    const auto logps = out.compute(batches, run.collator, Loss::needs.kl_pairs,
                                   [&](std::int64_t done, std::int64_t total) { bar.draw("reference", done, total); });
    bar.clear();
    out.fill(batches, logps);
    try {
      kto::write_reference_cache(folder, key, logps);
      note(kto::concat("reference log-probs of ", rows->size(), " rows kept in ",
                       kto::cache_path(folder, key).string()));
    } catch (const std::exception& error) {  // no reason to lose them
      note(kto::concat("reference log-probs are not kept: ", kto::error_text(error)));
    }
  }
  return out;
}

template <class Loss>
void train(const Run& run, const Loss& loss) {
  const auto& script = run.args.script;
  if (script.precompute_ref_log_probs) return train(run, loss, precompute<Loss>(run));
  if (script.sync_ref_model || script.ref_model_ema_decay) {
    const kto::Decoder start = run.policy.moving_reference();
    (void)kto::followed_parameters(start, run.policy.model);  // throws now and not at the first move
    if (script.sync_ref_model)
      return train(run, loss,
                   kto::SyncedReference<kto::Decoder>{
                       .model = start, .alpha = script.ref_model_mixup_alpha, .every = script.ref_model_sync_steps});
    return train(run, loss, kto::EmaReference<kto::Decoder>{.model = start, .decay = *script.ref_model_ema_decay});
  }
  train(run, loss, run.policy.copy_reference());
}

/// Throws Error when the tokenizer knows ids that the model does not.
void check_vocabulary(const kto::Processor& processor, const kto::Decoder& model) {
  const std::int64_t ids = processor.tokenizer().id_end(), vocabulary = model.spec.vocab_size;
  kto::check(ids <= vocabulary, "the tokenizer has ids up to ", ids - 1, ", and the model's vocabulary has ",
             vocabulary, " tokens: they do not belong together");
}

/// Notes where the saved model names other special tokens than its base, or an adapter's base ends texts with others.
void note_special_tokens(const kto::Policy& policy, bool is_adapter) {
  const auto& eos = policy.tokens.eos;
  if (const std::string text =
          kto::alignment_note(is_adapter ? policy.tokenizer_files : policy.base_files, policy.tokens, is_adapter);
      !text.empty())
    note(text);
  if (!is_adapter || !eos) return;
  const auto ends = kto::read_generation_config(policy.base_files).eos_token_ids;
  if (!ends.empty() && std::ranges::find(ends, eos->id) == ends.end())
    note(kto::concat("completions end with ", eos->text, " (id ", eos->id, "), which the eos_token_id of the base's ",
                     "configs does not name: with the adapter, generate() of transformers stops there only when asked "
                     "to (eos_token_id=",
                     eos->id, "); chat does"));
}

void run(const kto::Arguments& args) {
  (void)kto::make_any_optimizer(args.script, args.train);  // throws for optim_args that do not belong
  const bool evaluates = args.script.do_eval || args.train.eval_strategy != kto::IntervalStrategy::no;
  const kto::Processor processor(kto::tokenizer_folder(args));
  const kto::NamedTokens tokens = processor.named_tokens();
  Run run{.args = args,
          .rows = kto::load_rows(args, evaluates, kto::tokenizer_folder(args), processor, note),
          .policy = {},
          .collator = kto::make_collator(args.script, tokens),
          .rows_files = {},
          .tokenizer = &processor.tokenizer()};
  if (const auto advice =
          kto::weight_balance(run.rows.train, args.train.desirable_weight, args.train.undesirable_weight).advice())
    note(*advice);
  run.policy = kto::load_policy(args);
  run.policy.tokenizer_files = kto::tokenizer_folder(args);
  run.policy.tokens = tokens;
  check_vocabulary(processor, run.policy.model);
  kto::check(run.collator.pad_id < run.policy.model.spec.vocab_size, "padding_value is ", run.collator.pad_id,
             ", and the model's vocabulary has ", run.policy.model.spec.vocab_size, " tokens");
  if (args.script.do_train) note_special_tokens(run.policy, run.policy.adapter && !args.script.merge_and_unload);
  if (args.script.do_train)
    for (const std::string& advice : kto::config_advice(args.train)) note(advice);
  run.rows_files = kto::hash_rows_files(run.rows);
  switch (args.script.loss_type) {
    case kto::LossType::kto:
      return train(run, kto::Kto{.beta = args.script.beta});
    case kto::LossType::apo_zero_unpaired:
      return train(run, kto::ApoZeroUnpaired{.beta = args.script.beta});
  }
}

/// A run that goes on keeps the batch size that --auto_find_batch_size found for it, as transformers does.
void use_found_batch_size(kto::TrainConfig& config) {
  const auto folder = kto::checkpoint_to_resume(config);
  if (!folder || !fs::exists(*folder / "trainer_state.json")) return;
  const fs::path file = *folder / "trainer_state.json";
  const auto rows = kto::json_value<std::int64_t>(kto::read_json(file), "train_batch_size", 0, file.string());
  if (rows <= 0 || rows >= config.per_device_train_batch_size) return;
  config.per_device_train_batch_size = rows;
  note(kto::concat("going on with --per_device_train_batch_size ", rows, ", which the run had"));
}

/// run(), and with --auto_find_batch_size again from the start with half the rows a micro-batch while memory runs out.
void run_in_memory(kto::Arguments args) {
  check_folders(args.script);
  const kto::OutputFolder folder(args.train.output_dir, /*may_hold_files=*/args.train.overwrite_output_dir ||
                                                            args.train.resume_from_checkpoint.has_value());
  if (args.script.do_train) (void)kto::checkpoint_to_resume(args.train);  // throws now, not when all is read
  if (args.script.auto_find_batch_size) use_found_batch_size(args.train);
  for (;;) {
    try {
      return run(args);
    } catch (const std::exception& error) {
      std::int64_t& rows = args.train.per_device_train_batch_size;
      if (!args.script.auto_find_batch_size || !kto::is_memory_error(error) || rows == 1) throw;
      rows /= 2;
      if (args.script.loss_type == kto::LossType::kto && !kto::has_kl_partners(args.train)) throw;
      args.train.overwrite_output_dir = true;  // what is there is this run's own
      kto::release_freed_memory();
      note(kto::concat("memory ran out; starting over with --per_device_train_batch_size ", rows));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const kto::StopSignals signals;
  try {
    const auto args = kto::parse_arguments(argc, argv, KTO_VERSION, std::cout, note);
    if (!args) return 0;
    kto::keep_freed_memory();
    std::signal(SIGXFSZ, SIG_IGN);                             // a file over the limit is then an error like any other
    if (const char* threads = std::getenv("OMP_NUM_THREADS"))  // --config may have set it after OpenMP looked
      if (const int count = std::atoi(threads); count > 0) at::set_num_threads(count);
    if (args->script.matmul != kto::MatmulChoice::automatic)
      kto::set_matmul_backend(
          args->script.matmul == kto::MatmulChoice::onednn ? kto::MatmulBackend::onednn : kto::MatmulBackend::aten,
          "matmul");
    run_in_memory(*args);
    return signals.exit_status();
  } catch (const kto::Interrupted&) {
    note("stopped; there was nothing to save yet");
    return signals.exit_status();
  } catch (const std::exception& error) {
    const int status = kto::report_error("train_kto", error);
    if (kto::is_memory_error(error))
      std::cerr
          << "memory ran out: lower --per_device_train_batch_size or --max_length, or add --gradient_checkpointing "
             "or --auto_find_batch_size\n";
    return status;
  }
}
