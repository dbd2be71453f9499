// SPDX-License-Identifier: Apache-2.0
// Options of KTOConfig and TrainingArguments that are known but refused, by reason, with the default that may be given.
// A name leaves this list when it gets a row of its own.
#pragma once

#include <string_view>
#include <vector>

#include "kto/train/option.hpp"

namespace kto::detail {

struct RefusedOption {
  std::string_view name;
  std::string_view defaults;  ///< "a|b" when releases differ or two values ask for nothing
};

struct RefusedOptions {
  std::string_view reason;
  std::vector<RefusedOption> options;
};

template <class Config>
void add_refused(Options<Config>& rows, const std::vector<RefusedOptions>& by_reason) {
  for (const auto& [reason, options] : by_reason)
    for (const auto& [name, defaults] : options) {
      const auto pieces = split_bars(defaults);
      const bool is_flag =
          std::any_of(pieces.begin(), pieces.end(), [](auto p) { return p == "True" || p == "False"; });
      rows.push_back({.name = name, .is_flag = is_flag, .defaults = defaults, .reason = reason});
    }
}

inline const std::vector<RefusedOptions>& refused_train_options() {
  static const std::vector<RefusedOptions> list{
      {"recomputing layer by layer has one form here, which is neither re-entrant nor selective",
       {{"activation_checkpointing_kwargs", "None|{}"}, {"gradient_checkpointing_kwargs", "None|{}"}}},
      {"activations are on the device that computes; use --gradient_checkpointing",
       {{"activation_offloading", "False"}}},
      {"there is one level: errors, notes, and the log", {{"log_level", "passive"}}},
      {"the families here have no experts", {{"router_aux_loss_coef", "None"}}},
      {"there is no prediction beside evaluation", {{"do_predict", "False"}}},
      {"checkpoints hold everything that a run needs to go on; there is nothing to choose",
       {{"enable_jit_checkpoint", "False"},
        {"restore_callback_states_from_checkpoint", "False"},
        {"save_on_each_node", "False"}}},
      {"no optimizer here works on a choice of modules", {{"optim_target_modules", "None"}}},
      {"training on several devices is not supported yet",
       {{"average_tokens_across_devices", "True"},
        {"ddp_backend", "None"},
        {"ddp_broadcast_buffers", "None|False"},
        {"ddp_bucket_cap_mb", "None"},
        {"ddp_find_unused_parameters", "None|False"},
        {"ddp_static_graph", "None|False"},
        {"ddp_timeout", "1800"},
        {"local_rank", "-1"},
        {"log_level_replica", "warning"},
        {"log_on_each_node", "True"}}},
      {"it configures a Python framework (accelerate, FSDP, DeepSpeed, torch.compile, Liger, Ray) that is not used "
       "here",
       {{"accelerator_config", "None"},
        {"deepspeed", "None"},
        {"fsdp", "None||[]|False"},
        {"fsdp_config", "None"},
        {"fsdp_min_num_params", "0"},
        {"fsdp_transformer_layer_cls_to_wrap", "None"},
        {"jit_mode_eval", "False"},
        {"liger_kernel_config", "None"},
        {"parallelism_config", "None"},
        {"ray_scope", "last"},
        {"torch_compile", "False"},
        {"torch_compile_backend", "None"},
        {"torch_compile_mode", "None"},
        {"torchdynamo", "None"},
        {"use_liger_kernel", "False"},
        {"use_liger_loss", "False"}}},
      {"it needs hardware or a service that is not supported",
       {{"mp_parameters", "|None"},
        {"tf32", "None|False"},
        {"tpu_metrics_debug", "False"},
        {"tpu_num_cores", "None"},
        {"use_ipex", "False"},
        {"use_mps_device", "False"}}},
      {"nothing is sent to a hub or a tracker",
       {{"hub_always_push", "False"},
        {"hub_model_id", "None"},
        {"hub_private_repo", "None|False"},
        {"hub_revision", "None"},
        {"hub_strategy", "every_save"},
        {"hub_token", "None"},
        {"project", "huggingface"},
        {"push_to_hub", "False"},
        {"push_to_hub_model_id", "None"},
        {"push_to_hub_organization", "None"},
        {"push_to_hub_token", "None"},
        {"trackio_bucket_id", "None"},
        {"trackio_space_id", "None"},
        {"trackio_static_space_id", "None|False"}}},
      {"it has no counterpart: a detail of transformers' Trainer, or a thing that KTO does not have",
       {{"base_model_attribute_name", "model"},
        {"batch_eval_metrics", "False"},
        {"dataloader_in_order", "True"},
        {"dataloader_multiprocessing_context", "None"},
        {"dataloader_persistent_workers", "False"},
        {"dataloader_pin_memory", "True"},
        {"debug", "|[]|None"},
        {"eval_accumulation_steps", "None"},
        {"eval_do_concat_batches", "True"},
        {"eval_use_gather_object", "False"},
        {"fp16_backend", "auto"},
        {"fp16_opt_level", "O1"},
        {"half_precision_backend", "auto"},
        {"include_for_metrics", "[]|None"},
        {"include_inputs_for_metrics", "False"},
        {"is_encoder_decoder", "None|False"},
        {"label_names", "None"},
        {"label_smoothing_factor", "0"},
        {"length_column_name", "length"},
        {"past_index", "-1"},
        {"remove_unused_columns", "True"},
        {"use_cache", "False"},
        {"use_legacy_prediction_loop", "False"}}},
      {"models are written as safetensors", {{"save_safetensors", "True"}}},
      {"code that comes with a model is never run", {{"trust_remote_code", "False"}}},
  };
  return list;
}

}  // namespace kto::detail
