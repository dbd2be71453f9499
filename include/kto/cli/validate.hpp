// SPDX-License-Identifier: Apache-2.0
// Arguments of train_kto that contradict each other.
#pragma once

#include "kto/cli/losses.hpp"
#include "kto/cli/mixture.hpp"
#include "kto/cli/script_options.hpp"
#include "kto/hub/repository.hpp"
#include "kto/train/callbacks/trackers/mlflow.hpp"
#include "kto/train/kl_group.hpp"

namespace kto::cli {

/// Throws UsageError if the log is to be sent to MLflow and cannot be.
inline void check_mlflow(const ScriptConfig& script) {
  if (!reports_to(script, "mlflow")) return;
#if defined(KTO_HAS_HUB)
  (void)mlflow_address();
#else
  throw UsageError(
      "report_to mlflow needs libcurl, which this program was built without: install libcurl's development files and "
      "configure again, or use another of report_to");
#endif
}

/// Throws UsageError if the run is to be pushed to the hub and cannot be.
inline void check_push(const Arguments& arguments) {
  const ScriptConfig& script = arguments.script;
  if (!script.push_to_hub) return;
#if defined(KTO_HAS_HUB)
  const std::string id = script.hub_model_id.value_or(output_name(arguments));
  if (!hub::is_id(id))
    throw UsageError(concat(script.hub_model_id ? "hub_model_id" : "push_to_hub: the name of output_dir,", " \"", id,
                            "\" is no name on the hub: expected ", script.hub_model_id ? "" : "--hub_model_id ",
                            "owner/name of letters, digits, - _ and ."));
  if (script.hub_revision && !hub::is_plain_path(*script.hub_revision))
    throw UsageError(concat("hub_revision \"", *script.hub_revision, "\" is no name of a branch"));
#else
  throw UsageError(
      "push_to_hub needs libcurl, which this program was built without: install libcurl's development files and "
      "configure again, or leave it out");
#endif
}

/// Throws UsageError when two arguments contradict each other.
inline void validate(const Arguments& arguments, const LossTable& losses) {
  validate(arguments.train);
  losses.check(arguments.loss);
  check_mlflow(arguments.script);
  check_push(arguments);
  const LossEntry& loss = losses.chosen(arguments.loss);
  if (loss.needs.chosen_rejected && (arguments.train.desirable_weight != 1 || arguments.train.undesirable_weight != 1))
    throw UsageError(concat("desirable_weight and undesirable_weight weigh rows one by one, and ", loss.name,
                            " compares pairs: leave both at 1"));
  const bool evaluates = arguments.script.do_eval || arguments.train.eval_strategy != IntervalStrategy::no;
  if (!arguments.script.do_train && !arguments.script.do_eval)
    throw UsageError("do_train False leaves nothing to do: add --do_eval");
  const ScriptConfig &script = arguments.script, plain;
  if (script.dataset_name.empty() == script.datasets.empty())
    throw UsageError(script.datasets.empty() ? "--dataset_name is required (or datasets, a mixture, in a --config file)"
                                             : "dataset_name and datasets both name the rows: give one of them");
  if (!script.datasets.empty()) {
    (void)parse_mixture(script.datasets, script.dataset_streaming);
    if (script.dataset_train_split != "train" || script.dataset_test_split != "test")
      throw UsageError("a mixture is the split train, and with --test_split_size also test: name splits in datasets");
    if (script.dataset_config) throw UsageError("dataset_config is of dataset_name: give name to entries of datasets");
    if (evaluates && !script.test_split_size && script.eval_datasets.empty())
      throw UsageError("a mixture has no rows to evaluate on: add --test_split_size or --eval_datasets");
  }
  if (!script.eval_datasets.empty() && !evaluates)
    throw UsageError("eval_datasets needs --do_eval, or --eval_strategy steps or epoch");
  for (const auto& [name, where] : script.eval_datasets.items())
    if (where.is_object() && script.dataset_name.empty())
      throw UsageError(
          concat("eval_datasets: ", name, " names a split, and a mixture has none: give a file or a folder"));
  if (!script.eval_datasets.empty() && script.test_split_size)
    throw UsageError("eval_datasets and test_split_size both name the rows to evaluate on: give one of them");
  for (const auto& [name, split] : {std::pair("dataset_train_split", &script.dataset_train_split),
                                    std::pair("dataset_test_split", &script.dataset_test_split)})
    try {
      (void)detail::parse_split(*split);
    } catch (const Error& error) {
      throw UsageError(concat("--", name, ": ", error.what()));
    }
  if (script.dataset_streaming) {
    const auto refuse = [](bool given, const char* name, const char* why) {
      if (given) throw UsageError(concat("dataset_streaming and ", name, " do not go together: ", why));
    };
    if (arguments.train.max_steps < 1)
      throw UsageError("dataset_streaming needs --max_steps: the number of rows is not known");
    refuse(script.test_split_size.has_value(), "test_split_size", "that takes all rows at once");
    refuse(script.precompute_ref_log_probs, "precompute_ref_log_probs", "that visits all rows before training");
    refuse(script.dataset_cache.has_value(), "dataset_cache", "streamed rows are not kept");
    refuse(arguments.train.train_sampling_strategy != SamplingStrategy::sequential, "train_sampling_strategy",
           "a stream is visited in its order");
    refuse(arguments.train.max_tokens_per_batch.has_value(), "max_tokens_per_batch",
           "a stream goes on at a row that is counted in batches of one size");
    refuse(arguments.train.dataloader_num_workers > 0, "dataloader_num_workers",
           "a stream is read ahead by a thread of its own");
  }
  if (arguments.train.max_tokens_per_batch && script.collator != CollatorType::packed)
    throw UsageError("max_tokens_per_batch counts tokens without padding: it needs --collator packed");
  if (arguments.train.max_tokens_per_batch && script.auto_find_batch_size)
    throw UsageError("auto_find_batch_size lowers per_device_train_batch_size, not max_tokens_per_batch: give one");
  check_truncation(truncation_of(script));
  const bool adapts = script.use_peft || script.adapter_name_or_path;
  if (script.use_peft && script.adapter_name_or_path)
    throw UsageError("use_peft makes a new adapter and adapter_name_or_path trains on one: give one of them");
  if (int{script.precompute_ref_log_probs} + int{script.sync_ref_model} + int{script.ref_model_ema_decay.has_value()} >
      1)
    throw UsageError(
        "precompute_ref_log_probs holds the reference fixed, sync_ref_model and ref_model_ema_decay move it: give one "
        "of "
        "them");
  if (!script.precompute_ref_log_probs && script.ref_logps_cache)
    throw UsageError("ref_logps_cache needs --precompute_ref_log_probs");
  const bool moves = script.sync_ref_model || script.ref_model_ema_decay;
  if (script.ref_dtype && moves && !script.ref_model_name_or_path)
    throw UsageError("a reference that starts as the policy and follows it is of its type: leave out --ref_dtype");
  if (script.ref_adapter_name && script.ref_model_name_or_path)
    throw UsageError("ref_adapter_name and ref_model_name_or_path both name the reference: give one of them");
  if (script.ref_dtype && adapts && !script.ref_model_name_or_path)
    throw UsageError("with an adapter the reference shares the base's weights: use --dtype in place of --ref_dtype");
  if (!script.adapter_name_or_path && (script.model_adapter_name || script.ref_adapter_name))
    throw UsageError("model_adapter_name and ref_adapter_name need --adapter_name_or_path");
  if (script.lora_task_type != "CAUSAL_LM" && script.lora_task_type != "SEQ_2_SEQ_LM")
    throw UsageError(concat("lora_task_type \"", script.lora_task_type,
                            "\" is not supported; expected CAUSAL_LM or, of an encoder-decoder, SEQ_2_SEQ_LM"));
  const bool has_lora_options = script.lora_r != plain.lora_r || script.lora_alpha != plain.lora_alpha ||
                                script.lora_dropout != plain.lora_dropout || script.lora_target_modules ||
                                script.lora_modules_to_save || script.use_rslora || script.use_dora;
  if (has_lora_options && !script.use_peft)
    throw UsageError("lora_* options, use_rslora and use_dora make a new adapter: add --use_peft");
  if (script.merge_and_unload && !adapts)
    throw UsageError("merge_and_unload needs --use_peft or --adapter_name_or_path");
  if (script.bf16_full_eval && script.fp16_full_eval)
    throw UsageError("bf16_full_eval and fp16_full_eval both say what the policy is held in: give one of them");
  if (arguments.train.fp16 && script.dtype == ModelDtype::bfloat16)
    throw UsageError("fp16 trains parameters of float32: leave --dtype bfloat16 out");
  if (script.generate_during_eval && !evaluates)
    throw UsageError("generate_during_eval needs --do_eval, or --eval_strategy steps or epoch");
  if (script.generate_during_eval && arguments.train.prediction_loss_only)
    throw UsageError("generate_during_eval and prediction_loss_only contradict each other: give one of them");
  if (!script.generate_during_eval && (script.generation_num_prompts != plain.generation_num_prompts ||
                                       script.generation_max_new_tokens != plain.generation_max_new_tokens ||
                                       script.generation_temperature != plain.generation_temperature))
    throw UsageError(
        "generation_num_prompts, generation_max_new_tokens and generation_temperature need "
        "--generate_during_eval");
  if (script.do_train && loss.needs.kl_pairs) check_kl_group(arguments.train);
  if (arguments.train.eval_on_start && !evaluates)
    throw UsageError("eval_on_start needs --do_eval, or --eval_strategy steps or epoch");
}

}  // namespace kto::cli
