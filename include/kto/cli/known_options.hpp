// SPDX-License-Identifier: Apache-2.0
// Options of ScriptArguments, ModelConfig and the launchers that cannot change a number here, by the reason why not:
// they are taken, with a note (see kto/train/options/taken.hpp).
#pragma once

#include "kto/train/options/taken.hpp"

namespace kto::cli {

inline const std::vector<detail::TakenOptions>& taken_script_options() {
  constexpr std::string_view starts = "nproc, torchrun, srun or mpirun starts the processes";
  static const std::vector<detail::TakenOptions> list{
      {"the library chooses how to compute attention, and all ways differ by rounding alone",
       {{"attn_implementation", "None", "TEXT"},
        {"use_flash_attention_2", "False", "True"},
        {"use_flash_attn", "False", "True"}}},
      {"it is read with load_in_4bit only",
       {{"bnb_4bit_quant_storage", "None", "TEXT"},
        {"bnb_4bit_quant_type", "nf4", "fp4"},
        {"use_bnb_nested_quant", "False", "True"}}},
      {"the launcher starts the processes",
       {{"accelerate_config", "None", "single_gpu", starts},
        {"ignore_bias_buffers", "False", "True"},
        {"nnodes", "None", "1", starts},
        {"nproc_per_node", "None", "1", starts},
        {"num_machines", "None", "1", starts},
        {"num_processes", "None", "1", starts}}},
  };
  return list;
}

/// Arguments of from_pretrained that cannot change a number here.
inline constexpr std::string_view idle_init_kwargs =
    "attn_implementation|experts_implementation|low_cpu_mem_usage|output_router_logits|trust_remote_code|use_cache|"
    "use_kernels|use_safetensors";

inline const std::vector<detail::RefusedOptions>& refused_script_options() {
  static const std::vector<detail::RefusedOptions> list{
      {"adapters of parameters that are no linear layer are not supported", {{"lora_target_parameters", "None"}}},
      {"quantized models are not supported yet", {{"load_in_4bit", "False"}, {"load_in_8bit", "False"}}},
      {"all rows are trained on; test_split_size and max_steps make a run smaller", {{"sanity_check", "False"}}},
  };
  return list;
}

/// transformers' other optimizers.
inline constexpr std::string_view other_optimizers =
    "adamw_hf|adamw_anyprecision|adamw_torch_4bit|ademamix|ademamix_8bit|lion_8bit|lion_32bit|"
    "paged_ademamix_32bit|paged_ademamix_8bit|paged_lion_32bit|paged_lion_8bit|rmsprop_bnb|rmsprop_bnb_8bit|"
    "rmsprop_bnb_32bit|galore_adamw|galore_adamw_8bit|galore_adafactor|galore_adamw_layerwise|"
    "galore_adamw_8bit_layerwise|galore_adafactor_layerwise|lomo|adalomo|grokadamw|schedule_free_radam|"
    "schedule_free_adamw|schedule_free_sgd|apollo_adamw|apollo_adamw_layerwise|stable_adamw";

}  // namespace kto::cli
