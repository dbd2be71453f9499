// SPDX-License-Identifier: Apache-2.0
// The options of KTOConfig as a table over TrainConfig: the meaning and values of each, and which names and values are
// refused and why. Options that choose a policy (loss_type, beta, max_length, optim ...) belong to the program; its
// table is kto/cli/arguments.hpp.
#pragma once

#include <cmath>

#include "kto/optim/learning_rate.hpp"
#include "kto/options/option_table.hpp"
#include "kto/options/rows.hpp"
#include "kto/train/config.hpp"
#include "kto/train/options/groups.hpp"
#include "kto/train/options/refused.hpp"
#include "kto/train/options/sharding.hpp"
#include "kto/train/options/taken.hpp"

namespace kto {

namespace detail {

/// Marks options that have no effect with certain values of others.
inline void add_unused_train_options(Options<TrainConfig>& rows) {
  using C = TrainConfig;
  set_unused(rows, {"eval_delay", "metric_for_best_model", "greater_is_better"}, "eval_strategy is no",
             [](const C& c) { return c.eval_strategy == IntervalStrategy::no && !c.early_stopping_patience; });
  set_unused(rows, {"eval_steps"}, "eval_strategy is not steps",
             [](const C& c) { return c.eval_strategy != IntervalStrategy::steps; });
  set_unused(rows, {"save_steps"}, "save_strategy is not steps",
             [](const C& c) { return c.save_strategy != SaveStrategy::steps; });
  set_unused(rows, {"logging_steps"}, "logging_strategy is not steps", [](const C& c) {
    return c.logging_strategy != IntervalStrategy::steps &&
           (c.eval_strategy != IntervalStrategy::steps || c.eval_steps);
  });
  set_unused(rows, {"warmup_ratio"}, "warmup_steps takes precedence", [](const C& c) { return c.warmup_steps != 0; });
  set_unused(rows, {"warmup_steps", "warmup_ratio"},
             "this lr_scheduler_type has no warm-up (constant_with_warmup is the constant one with it)",
             [](const C& c) { return !has_warmup(c.lr_scheduler_type); });
  set_unused(rows, {"ignore_data_skip"}, "there is no resume_from_checkpoint",
             [](const C& c) { return !c.resume_from_checkpoint; });
}

}  // namespace detail

/// The table, in display order.
inline const Options<TrainConfig>& train_options() {
  using C = TrainConfig;
  using detail::with_refused;
  static const Options<C> table = [] {
    Options<C> rows{
        option(&C::desirable_weight, "desirable_weight", group::loss, "weight of the loss of desirable rows",
               detail::at_least_zero()),
        option(&C::undesirable_weight, "undesirable_weight", group::loss, "weight of the loss of undesirable rows",
               detail::at_least_zero()),
        option(&C::kl_scope, "kl_scope", group::loss,
               "rows that share a KL baseline and a mean: a micro-batch, as in TRL, or the whole update"),

        option(&C::per_device_train_batch_size, "per_device_train_batch_size", group::length,
               "rows per micro-batch, or pairs if the loss compares them", detail::count(1)),
        {.name = "per_gpu_train_batch_size", .alias_of = "per_device_train_batch_size"},
        option(
            &C::max_tokens_per_batch, "max_tokens_per_batch", group::length,
            "a micro-batch takes rows while they fit in this many tokens (prompt and completion after truncation, KL "
            "pairs not counted), at least one row, and at most per_device_train_batch_size if that is given; "
            "for packed rows",
            detail::count(1)),
        option(&C::gradient_accumulation_steps, "gradient_accumulation_steps", group::length,
               "micro-batches per update", detail::count(1)),
        option(&C::num_train_epochs, "num_train_epochs", group::length, "passes over the rows; may be a fraction",
               {"a number > 0 and at most 1000000", [](double x) { return x > 0 && x <= 1e6; }}),
        option(&C::max_steps, "max_steps", group::length, "number of updates; overrides num_train_epochs unless -1",
               {"-1 or an integer from 1 to 1000000000", [](double x) { return x == -1 || (x >= 1 && x <= 1e9); }}),
        option(&C::train_sampling_strategy, "train_sampling_strategy", group::length, "order of the rows"),
        {.name = "group_by_length",
         .is_flag = true,
         .alias_of = "train_sampling_strategy",
         .alias_value = "group_by_length"},
        option(&C::dataloader_drop_last, "dataloader_drop_last", group::length,
               "drop the last micro-batch of an epoch if it is incomplete"),
        option(&C::dataloader_num_workers, "dataloader_num_workers", group::length,
               "threads that prepare batches ahead of time; the number does not change the result",
               {"an integer from 0 to 256", [](double x) { return x >= 0 && x <= 256; }}),
        option(&C::dataloader_prefetch_factor, "dataloader_prefetch_factor", group::length,
               "batches that each of these threads prepares ahead; None: 2", detail::count(1)),

        option(&C::learning_rate, "learning_rate", group::optimization, "peak learning rate",
               detail::at_least_zero(1e300)),
        detail::named(option(&C::lr_scheduler_type, "lr_scheduler_type", group::optimization,
                             "schedule of the learning rate after the warm-up: linear, cosine, cosine_with_restarts, "
                             "polynomial, constant, constant_with_warmup, inverse_sqrt, reduce_lr_on_plateau, "
                             "cosine_with_min_lr, cosine_warmup_with_min_lr, warmup_stable_decay, greedy"),
                      "NAME"),
        option(&C::lr_scheduler_kwargs, "lr_scheduler_kwargs", group::optimization,
               "further arguments of the schedule, such as {\"num_cycles\": 2}"),
        option(&C::warmup_steps, "warmup_steps", group::optimization,
               "updates during which the learning rate rises from 0; below 1: a fraction of the run",
               detail::steps("0, ", true)),
        option(&C::warmup_ratio, "warmup_ratio", group::optimization,
               "the same as a fraction of the run, used if warmup_steps is 0",
               detail::fraction("a number from 0 to 1", true)),
        option(&C::weight_decay, "weight_decay", group::optimization, "weight decay, not for biases and norms",
               detail::at_least_zero()),
        option(&C::adam_beta1, "adam_beta1", group::optimization, "decay of AdamW's first moment",
               detail::fraction("a number >= 0 and < 1", false)),
        option(&C::adam_beta2, "adam_beta2", group::optimization, "decay of AdamW's second moment",
               detail::fraction("a number >= 0 and < 1", false)),
        option(&C::adam_epsilon, "adam_epsilon", group::optimization, "AdamW's epsilon", detail::above_zero()),
        option(&C::max_grad_norm, "max_grad_norm", group::optimization, "clip gradients to this norm; 0: never",
               detail::at_least_zero()),
        option(
            &C::zero_stage, "zero_stage", group::optimization,
            "what several processes share out instead of each having it whole: 1: the optimizer's state, 2: also the "
            "sum of the gradients, 3: also the weights, which are gathered layer by layer; 0: nothing",
            {"0, 1, 2 or 3", [](double x) { return x == 0 || x == 1 || x == 2 || x == 3; }}),
        option(
            &C::optim_in_backward, "optim_in_backward", group::optimization,
            "update each weight in the backward pass, as soon as its gradient is complete: all gradients never exist "
            "at once; unless max_grad_norm is 0, a first backward pass finds their norm; needs "
            "gradient_accumulation_steps 1"),

        option(&C::eval_strategy, "eval_strategy", group::evaluation,
               "when to evaluate: never, every eval_steps, or after each epoch"),
        {.name = "evaluation_strategy", .alias_of = "eval_strategy"},
        option(&C::eval_steps, "eval_steps", group::evaluation,
               "updates between evaluations; below 1: a fraction of the run; None: logging_steps",
               detail::steps("None, ", false)),
        option(&C::eval_delay, "eval_delay", group::evaluation,
               "updates, or with eval_strategy epoch epochs, before the first evaluation", detail::at_least_zero()),
        option(&C::prediction_loss_only, "prediction_loss_only", group::evaluation,
               "skip your own metrics (compute_metrics) in evaluations"),
        option(&C::eval_on_start, "eval_on_start", group::evaluation, "also evaluate before the first update"),
        option(&C::per_device_eval_batch_size, "per_device_eval_batch_size", group::evaluation,
               "rows per batch of an evaluation", detail::count(1)),
        {.name = "per_gpu_eval_batch_size", .alias_of = "per_device_eval_batch_size"},
        option(&C::logging_strategy, "logging_strategy", group::evaluation,
               "when to log: never, every logging_steps, or after each epoch"),
        option(&C::logging_steps, "logging_steps", group::evaluation,
               "updates between log entries; below 1: a fraction of the run", detail::steps("0, ", true)),
        option(&C::logging_first_step, "logging_first_step", group::evaluation, "also log the first update"),
        option(&C::logging_nan_inf_filter, "logging_nan_inf_filter", group::evaluation,
               "exclude losses that are not finite, of skipped steps (nonfinite_loss) and batches of evaluations, from "
               "the logged loss; False: it shows as nan, in JSON as null"),
        detail::flag_also(option(&C::include_num_input_tokens_seen, "include_num_input_tokens_seen", group::evaluation,
                                 "log how many tokens were trained on; all includes padding"),
                          "all", "no"),
        {.name = "include_tokens_per_second",
         .is_flag = true,
         .alias_of = "include_num_input_tokens_seen",
         .alias_value = "non_padding"},
        option(&C::skip_memory_metrics, "skip_memory_metrics", group::evaluation,
               "do not report the memory used for training in the last log entry"),

        option(&C::output_dir, "output_dir", group::output, "folder of the trained model and the log"),
        option(
            &C::overwrite_output_dir, "overwrite_output_dir", group::output,
            "write into output_dir even if it is not empty: model, log and metrics.jsonl are replaced, checkpoints of "
            "this program (with kto_checkpoint.json) are replaced by new ones, everything else stays"),
        option(&C::save_strategy, "save_strategy", group::output,
               "when to save checkpoints; the trained model is always saved"),
        option(&C::save_steps, "save_steps", group::output,
               "updates between checkpoints; below 1: a fraction of the run", detail::steps("", false)),
        option(&C::save_total_limit, "save_total_limit", group::output,
               "checkpoints to keep; the newest and the best are never removed, but if this is 1, a finished run keeps "
               "only the best",
               detail::count(1)),
        option(&C::save_only_model, "save_only_model", group::output,
               "save checkpoints without the state needed to resume (optimizer and so on)"),
        option(&C::load_best_model_at_end, "load_best_model_at_end", group::output,
               "end with the weights of the best checkpoint instead of the last"),
        option(&C::metric_for_best_model, "metric_for_best_model", group::output,
               "metric of the evaluation that decides which is best; None: loss, if one is needed"),
        option(&C::greater_is_better, "greater_is_better", group::output,
               "whether higher is better; None: unless its name ends in loss"),
        option(&C::early_stopping_patience, "early_stopping_patience", group::output,
               "stop after this many evaluations without a better metric (EarlyStoppingCallback)", detail::count(1)),
        option(&C::early_stopping_threshold, "early_stopping_threshold", group::output,
               "a smaller change is no improvement", detail::at_least_zero()),
        detail::resume_option(option(&C::resume_from_checkpoint, "resume_from_checkpoint", group::output,
                                     "checkpoint to resume from; True: the newest in output_dir")),
        option(&C::ignore_data_skip, "ignore_data_skip", group::output,
               "resume at the first row of the epoch instead of where the run stopped; streamed rows are then not "
               "compared with those the run was trained on"),
        option(&C::nonfinite_loss, "nonfinite_loss", group::output,
               "if the loss of an update is not finite: stop the run before it, or skip it"),

        option(&C::seed, "seed", group::machine, "seed of everything random", detail::seeds("", 4294967295.0)),
        option(&C::data_seed, "data_seed", group::machine, "seed of the order of rows; None: seed",
               detail::seeds("None or ", 9007199254740992.0)),
        detail::with_trl_default(
            option(&C::bf16, "bf16", group::machine,
                   "matrix products in bfloat16, parameters as loaded; on a CPU without instructions for them (AVX512 "
                   "BF16 or AMX) from float32 products, with the memory of bfloat16 and about the time of float32"),
            "True"),
        option(&C::fp16, "fp16", group::machine,
               "matrix products in float16, parameters in float32, dynamic loss scaling like torch's GradScaler; for "
               "devices without bfloat16 (on the CPU from float32 products)"),
        option(&C::tf32, "tf32", group::machine,
               "float32 products on a GPU (NVIDIA's, Ampere or newer; refused elsewhere) from factors of TF32: faster, "
               "with 10 of 23 bits; None: LibTorch's default, exact but for convolutions"),
        detail::with_trl_default(option(&C::gradient_checkpointing, "gradient_checkpointing", group::machine,
                                        "recompute activations in the backward pass: less memory, more time"),
                                 "True"),
        option(&C::full_determinism, "full_determinism", group::machine,
               "fail if an operation has no deterministic kernel (on the CPU all "
               "do)"),
        option(&C::neftune_noise_alpha, "neftune_noise_alpha", group::optimization,
               "noise on the embeddings in training (NEFTune), not in the reference and the KL baseline; 5 is common",
               detail::at_least_zero(1e6)),
        option(&C::router_aux_loss_coef, "router_aux_loss_coef", group::loss,
               "how much of the load-balancing loss of a model with experts is added (logged as aux_loss); None: what "
               "the model's config.json says; 0: none",
               detail::at_least_zero(1e6)),
        option(&C::torch_empty_cache_steps, "torch_empty_cache_steps", group::machine,
               "updates between releases of unused cached memory to the system; None: never", detail::count(1)),
        {.name = "activation_checkpointing", .is_flag = true, .alias_of = "gradient_checkpointing"},
    };
    detail::add_unused_train_options(rows);
    detail::add_sharding_options(rows);
    detail::add_taken(rows, detail::taken_train_options());
    detail::add_refused(rows, detail::refused_train_options());
    return rows;
  }();
  return table;
}

/// Every field and its value, as in training_args.json.
inline Json to_json(const TrainConfig& config) { return to_json(train_options(), config); }

/// The inverse of to_json; missing fields keep their defaults. Throws UsageError, starting with `where`, for an unknown
/// or refused name and for a value out of range. Calls `note` for options without effect.
inline TrainConfig train_config_from_json(const Json& object, std::string_view where, const Note& note = {}) {
  TrainConfig config;
  from_json(train_options(), config, object, where, note);
  return config;
}

/// The learning rate of a run of `num_steps` updates, the first `num_warmup_steps` of which are warm-up.
inline LearningRate learning_rate_of(const TrainConfig& config, std::int64_t num_warmup_steps, std::int64_t num_steps) {
  return make_learning_rate({.type = config.lr_scheduler_type,
                             .peak = config.learning_rate,
                             .num_warmup_steps = num_warmup_steps,
                             .num_steps = num_steps},
                            config.lr_scheduler_kwargs);
}

/// Throws UsageError naming the field if one is out of range, refused, or contradicts another.
inline void validate(const TrainConfig& config) {
  check_fields(train_options(), config, "TrainConfig");
  const auto require = [](bool holds, std::string_view message) {
    if (!holds) throw UsageError(std::string(message));
  };
  require(config.logging_strategy != IntervalStrategy::steps || config.logging_steps > 0,
          "logging_strategy steps needs logging_steps above 0");
  require(config.eval_strategy != IntervalStrategy::steps || config.eval_steps.value_or(config.logging_steps) > 0,
          "eval_strategy steps needs eval_steps, or logging_steps above 0");
  const bool picks_best =
      config.load_best_model_at_end || config.early_stopping_patience || config.save_strategy == SaveStrategy::best;
  require(!picks_best || config.eval_strategy != IntervalStrategy::no,
          "load_best_model_at_end, early_stopping_patience and save_strategy best need evaluations: set "
          "eval_strategy to steps or epoch");
  const bool same = (config.save_strategy == SaveStrategy::steps && config.eval_strategy == IntervalStrategy::steps) ||
                    (config.save_strategy == SaveStrategy::epoch && config.eval_strategy == IntervalStrategy::epoch);
  require(!config.load_best_model_at_end || same || config.save_strategy == SaveStrategy::best,
          "load_best_model_at_end needs a checkpoint at each evaluation: set save_strategy and eval_strategy to the "
          "same value, or set save_strategy to best");
  const double eval_steps = config.eval_steps.value_or(config.logging_steps);
  const double ratio = eval_steps > 0 ? config.save_steps / eval_steps : 1;
  require(
      !config.load_best_model_at_end || config.save_strategy != SaveStrategy::steps ||
          (std::abs(ratio - std::round(ratio)) < 1e-6 && ratio > 0.5 && (config.save_steps < 1) == (eval_steps < 1)),
      "load_best_model_at_end needs save_steps to be a multiple of eval_steps");
  require(config.early_stopping_threshold == 0 || config.early_stopping_patience,
          "early_stopping_threshold needs early_stopping_patience");
  require(!config.bf16 || !config.fp16, "bf16 and fp16 both set the type of products: use one of them");
  require(config.desirable_weight > 0 || config.undesirable_weight > 0,
          "desirable_weight and undesirable_weight are both 0: there is nothing to learn");
  detail::check_sharding(config);
  require(!config.optim_in_backward || config.zero_stage == 0,
          "optim_in_backward holds no gradients that could be shared out: set zero_stage to 0");
  require(!config.optim_in_backward || !config.fp16,
          "optim_in_backward changes weights before it is known whether a gradient overflows float16: use bf16");
  require(!config.optim_in_backward || config.gradient_accumulation_steps == 1,
          "optim_in_backward changes weights in each backward pass: set gradient_accumulation_steps to 1, and "
          "per_device_train_batch_size to the rows of an update");
  require(!config.max_tokens_per_batch || !config.dataloader_drop_last,
          "max_tokens_per_batch makes micro-batches of any number of rows, so none is incomplete: omit "
          "dataloader_drop_last");
  const bool adaptive = follows_evaluations(config.lr_scheduler_type);
  require(!adaptive || config.eval_strategy != IntervalStrategy::no,
          "a learning rate that follows the evaluations needs evaluations: set eval_strategy to steps or epoch");
  require(!config.dataloader_prefetch_factor || config.dataloader_num_workers > 0,
          "dataloader_prefetch_factor needs dataloader_num_workers above 0");
  (void)learning_rate_of(config, 0, 1);  // throws for lr_scheduler_kwargs that the type does not have
}

}  // namespace kto
