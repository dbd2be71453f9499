// SPDX-License-Identifier: Apache-2.0
// Options of KTOConfig and TrainingArguments that are known but refused, by reason, with the default that is accepted:
// any other value would change numbers, or request something that is missing here. A name leaves this list when the
// option is implemented.
#pragma once

#include <vector>

#include "kto/options/known.hpp"

namespace kto::detail {

inline const std::vector<RefusedOptions>& refused_train_options() {
  static const std::vector<RefusedOptions> list{
      {"KTO's loss has no labels to smooth", {{"label_smoothing_factor", "0"}}},
      {"weights are not sharded over devices yet; several processes share the rows (nproc, torchrun, srun, mpirun)",
       {{"parallelism_config", "None"}, {"sharded_ddp", "|[]|None"}}},
      {"per_device_train_batch_size is the rows of each process", {{"split_batches", "None|False"}}},
      {"there is no such device here", {{"use_mps_device", "False"}}},
      {"write hub_model_id owner/name", {{"push_to_hub_organization", "None"}}},
      {"a loss or gradient that is not finite ends the run (see nonfinite_loss), and there is no other debugging",
       {{"debug", "|[]|None"}}},
      {"no family here passes states from batch to batch", {{"past_index", "-1"}}},
      {"models are written as safetensors", {{"save_safetensors", "True"}}},
  };
  return list;
}

}  // namespace kto::detail
