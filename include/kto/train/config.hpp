// SPDX-License-Identifier: Apache-2.0
// The settings of a run, with the names and defaults of TRL's KTOConfig, except that bf16 and gradient_checkpointing
// are off. Loss, model, reference and collator are policies, not settings. kto/train/options/options.hpp has the same
// fields as a table with meanings, ranges and the refused options.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kto/io/json.hpp"
#include "kto/optim/schedule.hpp"

namespace kto {

/// When the log is written or an evaluation is made.
enum class IntervalStrategy { no, steps, epoch };
/// When a checkpoint is saved; best: after an evaluation with a better metric.
enum class SaveStrategy { no, steps, epoch, best };
/// The order of the rows in an epoch.
enum class SamplingStrategy { sequential, random, group_by_length };

/// What to do with an update whose loss or gradient is not finite: end the run before it, or skip it.
enum class NonFiniteLoss { stop, skip };

/// Whether the log shows how many tokens were trained on, and whether padding counts.
enum class InputTokens { no, all, non_padding };

/// The rows that share a KL baseline z0 and a mean loss: each micro-batch separately, as in TRL, or the whole window of
/// an update, so that accumulating k micro-batches of b rows equals one batch of k * b rows.
enum class KlScope { micro_batch, window };

/// The settings of a run, with the names and defaults of TRL's KTOConfig. Loss, model, reference and collator are policies.
struct TrainConfig {
  std::string output_dir = "trainer_output";
  bool overwrite_output_dir = false;

  // Batches
  std::int64_t per_device_train_batch_size = 8;
  std::int64_t per_device_eval_batch_size = 8;
  std::optional<std::int64_t> max_tokens_per_batch = std::nullopt;  ///< as many rows as fit, at least 1
  std::int64_t gradient_accumulation_steps = 1;
  bool dataloader_drop_last = false;
  SamplingStrategy train_sampling_strategy = SamplingStrategy::sequential;
  std::int64_t dataloader_num_workers = 0;                                ///< threads that collate ahead; 0: none
  std::optional<std::int64_t> dataloader_prefetch_factor = std::nullopt;  ///< batches ahead per thread; default 2

  // Loss
  double desirable_weight = 1;
  double undesirable_weight = 1;
  KlScope kl_scope = KlScope::micro_batch;
  /// Of the load-balancing loss of a model with experts; default the model's own; 0: none.
  std::optional<double> router_aux_loss_coef = std::nullopt;

  // Length and learning rate
  double num_train_epochs = 3;
  std::int64_t max_steps = -1;  ///< if positive, replaces num_train_epochs
  double learning_rate = 1e-6;
  LrSchedulerType lr_scheduler_type = LrSchedulerType::linear;
  Json lr_scheduler_kwargs = Json::object();  ///< further arguments of the type, with transformers' names
  double warmup_steps = 0;                    ///< below 1: a fraction of the run's steps
  double warmup_ratio = 0;                    ///< used if warmup_steps is 0

  // Optimizer
  double weight_decay = 0;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  double max_grad_norm = 1;     ///< 0: no clipping
  std::int64_t zero_stage = 0;  ///< what ranks share out: 1: the optimizer's state, 2: also gradients, 3: also weights
  /// Settings of DeepSpeed and FSDP in place of zero_stage, which they set; see train/options/sharding.hpp.
  Json deepspeed = Json::object();
  std::optional<std::vector<std::string>> fsdp = std::nullopt;
  Json fsdp_config = Json::object();
  bool optim_in_backward = false;  ///< update weights in the backward pass, without holding all gradients

  // Log and evaluation
  IntervalStrategy logging_strategy = IntervalStrategy::steps;
  double logging_steps = 10;  ///< below 1: a fraction of the run's steps
  bool logging_first_step = false;
  bool logging_nan_inf_filter = true;  ///< exclude losses that are not finite from the logged loss
  InputTokens include_num_input_tokens_seen = InputTokens::no;
  bool skip_memory_metrics = true;  ///< no resident memory in the closing log entry
  IntervalStrategy eval_strategy = IntervalStrategy::no;
  std::optional<double> eval_steps = std::nullopt;  ///< below 1: a fraction; default logging_steps
  double eval_delay = 0;  ///< updates (or epochs, as eval_strategy counts) before the first evaluation
  bool eval_on_start = false;
  bool prediction_loss_only = false;  ///< skip compute_metrics

  // Checkpoints: folders output_dir/checkpoint-N, from which a run resumes to the last bit
  SaveStrategy save_strategy = SaveStrategy::no;
  double save_steps = 500;  ///< below 1: a fraction of the run's steps
  std::optional<std::int64_t> save_total_limit = std::nullopt;
  bool save_only_model = false;  ///< smaller checkpoints, not to resume from
  bool load_best_model_at_end = false;
  std::optional<std::string> metric_for_best_model = std::nullopt;     ///< of an evaluation; default "loss", if needed
  std::optional<bool> greater_is_better = std::nullopt;                ///< default: unless the name ends in "loss"
  std::optional<std::int64_t> early_stopping_patience = std::nullopt;  ///< evaluations without a better metric
  double early_stopping_threshold = 0;                                 ///< a smaller change is no improvement
  std::optional<std::string> resume_from_checkpoint = std::nullopt;    ///< a folder; "True": output_dir's newest
  bool ignore_data_skip = false;                                       ///< resume at the first row of the epoch
  NonFiniteLoss nonfinite_loss = NonFiniteLoss::stop;

  // Randomness and numbers
  std::int64_t seed = 42;
  std::optional<std::int64_t> data_seed = std::nullopt;  ///< for the order of rows; default seed
  bool bf16 = false;                                     ///< matrix products in bfloat16, parameters as loaded
  bool fp16 = false;  ///< the same in float16, with dynamic loss scaling; needs float32 parameters
  std::optional<bool> tf32 = std::nullopt;  ///< float32 products on a GPU by TF32; as LibTorch has it when absent
  bool full_determinism = false;            ///< refuse kernels whose results differ between runs
  bool gradient_checkpointing = false;      ///< activations recomputed layer by layer
  std::optional<double> neftune_noise_alpha = std::nullopt;            ///< noise on embeddings (arXiv:2310.05914)
  std::optional<std::int64_t> torch_empty_cache_steps = std::nullopt;  ///< updates between releases of cached memory
};

}  // namespace kto
