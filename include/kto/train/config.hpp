// SPDX-License-Identifier: Apache-2.0
// How a run goes: what the Trainer needs to know, named and defaulted as in TRL's KTOConfig, where bf16 and
// gradient_checkpointing are off. The loss, the model, the reference and the collator are policies, not settings;
// kto/train/options/options.hpp has the same fields as a table with meanings, ranges and the options that are refused.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kto/io/json.hpp"
#include "kto/optim/schedule.hpp"

namespace kto {

enum class IntervalStrategy { no, steps, epoch };
enum class SaveStrategy { no, steps, epoch, best };
enum class SamplingStrategy { sequential, random, group_by_length };

/// What to do with an update whose loss or gradient is not finite: end the run before it, or leave it out.
enum class NonFiniteLoss { stop, skip };

/// Whether the log tells how many tokens were trained on, and whether padding counts.
enum class InputTokens { no, all, non_padding };

/// Over which rows the KL baseline z0 and the mean of the loss are taken: each micro-batch by itself, as TRL does, or
/// the whole window of an update, so that accumulating k micro-batches of b rows is one batch of k * b rows.
enum class KlScope { micro_batch, window };

struct TrainConfig {
  std::string output_dir = "trainer_output";
  bool overwrite_output_dir = false;

  // Batches
  std::int64_t per_device_train_batch_size = 8;
  std::int64_t per_device_eval_batch_size = 8;
  std::optional<std::int64_t> max_tokens_per_batch = std::nullopt;  ///< rows until so many tokens, 1 at least
  std::int64_t gradient_accumulation_steps = 1;
  bool dataloader_drop_last = false;
  SamplingStrategy train_sampling_strategy = SamplingStrategy::sequential;
  std::int64_t dataloader_num_workers = 0;                                ///< threads that collate ahead; 0: none
  std::optional<std::int64_t> dataloader_prefetch_factor = std::nullopt;  ///< batches ahead a thread; 2 when absent

  // Loss
  double desirable_weight = 1;
  double undesirable_weight = 1;
  KlScope kl_scope = KlScope::micro_batch;

  // Length and learning rate
  double num_train_epochs = 3;
  std::int64_t max_steps = -1;  ///< when positive, in place of num_train_epochs
  double learning_rate = 1e-6;
  LrSchedulerType lr_scheduler_type = LrSchedulerType::linear;
  Json lr_scheduler_kwargs = Json::object();  ///< what the type has beside a warm-up, as transformers names it
  double warmup_steps = 0;                    ///< below 1: a fraction of the run's steps
  double warmup_ratio = 0;                    ///< used while warmup_steps is 0

  // Optimizer
  double weight_decay = 0;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  double max_grad_norm = 1;        ///< 0: no clipping
  bool optim_in_backward = false;  ///< weights change in the backward pass, and gradients are not held together

  // Log and evaluation
  IntervalStrategy logging_strategy = IntervalStrategy::steps;
  double logging_steps = 10;  ///< below 1: a fraction of the run's steps
  bool logging_first_step = false;
  bool logging_nan_inf_filter = true;  ///< losses that are not finite are left out of the logged ones
  InputTokens include_num_input_tokens_seen = InputTokens::no;
  bool skip_memory_metrics = true;  ///< no resident memory in the closing log entry
  IntervalStrategy eval_strategy = IntervalStrategy::no;
  std::optional<double> eval_steps = std::nullopt;  ///< below 1: a fraction; logging_steps when absent
  double eval_delay = 0;  ///< updates (or epochs, as eval_strategy counts) before the first evaluation
  bool eval_on_start = false;
  bool prediction_loss_only = false;  ///< leave compute_metrics out

  // Checkpoints: folders output_dir/checkpoint-N from which a run goes on to the last bit
  SaveStrategy save_strategy = SaveStrategy::no;
  double save_steps = 500;  ///< below 1: a fraction of the run's steps
  std::optional<std::int64_t> save_total_limit = std::nullopt;
  bool save_only_model = false;  ///< smaller checkpoints, not to resume from
  bool load_best_model_at_end = false;
  std::optional<std::string> metric_for_best_model = std::nullopt;     ///< of an evaluation; "loss" where one is needed
  std::optional<bool> greater_is_better = std::nullopt;                ///< when absent: unless the name ends in "loss"
  std::optional<std::int64_t> early_stopping_patience = std::nullopt;  ///< evaluations without a better metric
  double early_stopping_threshold = 0;                                 ///< a smaller change is not better
  std::optional<std::string> resume_from_checkpoint = std::nullopt;    ///< a folder; "True": output_dir's newest
  bool ignore_data_skip = false;                                       ///< resume at the first row of the epoch
  NonFiniteLoss nonfinite_loss = NonFiniteLoss::stop;

  // Randomness and numbers
  std::int64_t seed = 42;
  std::optional<std::int64_t> data_seed = std::nullopt;  ///< for the order of rows; seed when absent
  bool bf16 = false;                                     ///< matrix products in bfloat16, parameters as loaded
  bool fp16 = false;                    ///< the same in float16, with dynamic loss scaling; parameters of float32
  bool full_determinism = false;        ///< refuse kernels whose result differs from run to run
  bool gradient_checkpointing = false;  ///< activations recomputed layer by layer
  std::optional<double> neftune_noise_alpha = std::nullopt;            ///< noise on embeddings (arXiv:2310.05914)
  std::optional<std::int64_t> torch_empty_cache_steps = std::nullopt;  ///< updates between giving cached memory back
};

}  // namespace kto
