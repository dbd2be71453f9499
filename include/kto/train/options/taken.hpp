// SPDX-License-Identifier: Apache-2.0
// Options of KTOConfig and TrainingArguments, of this release and older ones, that cannot change a number here, by
// reason: they are accepted with a note. Values that would change a number, or request something that is missing, are
// refused. A name leaves this list when the option is implemented.
#pragma once

#include <string_view>
#include <vector>

#include "kto/options/known.hpp"

namespace kto::detail {

inline const std::vector<TakenOptions>& taken_train_options() {
  constexpr std::string_view checkpointing = "{use_reentrant,determinism_check,every_n_layers,offload}";
  static const std::vector<TakenOptions> list{
      {"layers are recomputed in one way here, with the same numbers as in all others",
       {{"activation_checkpointing_kwargs", "None|{}", checkpointing, "other keys may change what is computed"},
        {"gradient_checkpointing_kwargs", "None|{}", checkpointing, "other keys may change what is computed"},
        {"gradient_checkpointing_use_reentrant", "False", "True"}}},
      {"activations stay on the device that computes; gradient_checkpointing saves their memory",
       {{"activation_offloading", "False", "True"}}},
      {"there is only one level: errors, notes, and the log",
       {{"log_level", "passive", "debug|info|warning|error|critical"},
        {"log_level_replica", "warning", "debug|info|error|critical|passive"},
        {"log_on_each_node", "True", "False"}}},
      {"processes share rows, gradients and files in one way",
       {{"average_tokens_across_devices", "True", "False"},
        {"accelerator_config", "None|{}", "{split_batches=False,dispatch_batches,even_batches,non_blocking}",
         "other keys may change batches or their order"},
        {"ddp_broadcast_buffers", "None|False", "True"},
        {"ddp_bucket_cap_mb", "None", "N"},
        {"ddp_find_unused_parameters", "None|False", "True"},
        {"ddp_static_graph", "None|False", "True"},
        {"dispatch_batches", "None|False", "True"},
        {"eval_use_gather_object", "False", "True"},
        {"local_rank", "-1", "0", "launchers set it in the environment"},
        {"ray_scope", "last", "TEXT"},
        {"save_on_each_node", "False", "True"},
        {"tp_size", "0", "1", "weights are not sharded over devices yet"},
        {"mp_parameters", "|None", "TEXT"}}},
      {"parameters are sharded in one way, whatever layers they are of",
       {{"fsdp_min_num_params", "0", "N"}, {"fsdp_transformer_layer_cls_to_wrap", "None", "TEXT"}}},
      {"code is compiled and layers are fused here already",
       {{"jit_mode_eval", "False", "True"},
        {"liger_kernel_config", "None|{}", "{rope,swiglu,cross_entropy,fused_linear_cross_entropy,rms_norm}"},
        {"torch_compile", "False", "True"},
        {"torch_compile_backend", "None", "TEXT"},
        {"torch_compile_mode", "None", "TEXT"},
        {"torchdynamo", "None", "TEXT"},
        {"use_ipex", "False", "True"},
        {"use_liger_kernel", "False", "True"},
        {"use_liger_loss", "False", "True"}}},
      {"it belongs to a device that is not used here",
       {{"tpu_metrics_debug", "False", "True"},
        {"tpu_num_cores", "None", "N"},
        {"xpu_backend", "None", "TEXT"},
        {"fp16_backend", "auto", "cuda_amp|cpu_amp|amp", "fp16 is not Apex's"},
        {"fp16_opt_level", "O1", "O0|O2|O3"},
        {"half_precision_backend", "auto", "cuda_amp|cpu_amp|amp", "fp16 is not Apex's"}}},
      {"trackio's records stay on this machine: upload them with `trackio sync`",
       {{"trackio_bucket_id", "None", "TEXT"},
        {"trackio_space_id", "None|trackio", "TEXT"},
        {"trackio_static_space_id", "None|False", "TEXT"}}},
      {"checkpoints always hold everything needed to resume, and SIGTERM saves one",
       {{"enable_jit_checkpoint", "False", "True"}, {"restore_callback_states_from_checkpoint", "False", "True"}}},
      {"batches are prepared by threads that keep their order",
       {{"dataloader_in_order", "True", "False"},
        {"dataloader_multiprocessing_context", "None", "fork|spawn|forkserver"},
        {"dataloader_persistent_workers", "False", "True"},
        {"dataloader_pin_memory", "True", "False"}}},
      {"evaluations keep no predictions",
       {{"batch_eval_metrics", "False", "True"},
        {"do_predict", "False", "True"},
        {"eval_accumulation_steps", "None", "N"},
        {"eval_do_concat_batches", "True", "False"},
        {"include_for_metrics", "[]|None", "TEXT..."},
        {"include_inputs_for_metrics", "False", "True"},
        {"label_names", "None", "TEXT..."},
        {"use_legacy_prediction_loop", "False", "True"}}},
      {"it belongs to the optimizers GaLore and APOLLO", {{"optim_target_modules", "None", "TEXT..."}}},
      {"unused columns are never read", {{"remove_unused_columns", "True", "False"}}},
      {"it is a detail of transformers' Trainer",
       {{"base_model_attribute_name", "model", "TEXT"},
        {"length_column_name", "length", "TEXT"},
        {"use_cache", "False", "True"}}},
      {"the families here are built in, and code that comes with a model is never run",
       {{"trust_remote_code", "False", "True"}}},
  };
  return list;
}

}  // namespace kto::detail
