// SPDX-License-Identifier: Apache-2.0
// What DeepSpeed's and FSDP's settings are here: stages of zero_stage. Settings that change how something is done, and no
// number, are taken; others must be the same as the rest of the config says, or are refused by name.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "kto/io/home.hpp"
#include "kto/options/option_table.hpp"
#include "kto/options/rows.hpp"
#include "kto/train/config.hpp"
#include "kto/train/options/groups.hpp"

namespace kto::detail {

/// Keys that say how, in what steps or when something is done.
inline constexpr std::string_view
    idle_deepspeed =
        "steps_per_print|wall_clock_breakdown|memory_breakdown|dump_state|zero_allow_untested_optimizer|"
        "zero_force_ds_cpu_optimizer",
    idle_zero =
        "allgather_partitions|allgather_bucket_size|overlap_comm|reduce_scatter|reduce_bucket_size|"
        "contiguous_gradients|round_robin_gradients|sub_group_size|ignore_unused_parameters",
    idle_fsdp =
        "min_num_params|transformer_layer_cls_to_wrap|auto_wrap_policy|backward_prefetch|"
        "backward_prefetch_policy|forward_prefetch|limit_all_gathers|use_orig_params|sync_module_states|"
        "cpu_ram_efficient_loading|activation_checkpointing|state_dict_type|version|xla_fsdp_settings|"
        "xla_fsdp_grad_ckpt";

/// Whether a setting is not used: absent, null, False, 0, or an object that says so.
inline bool is_off(const Json& value) {
  if (value.is_object()) return value.empty() || (value.contains("device") && is_none(value["device"]));
  return is_none(value) || value == false || value == 0 || value == "";
}

[[noreturn]] inline void refuse_setting(const std::string& where, const Json& value, std::string_view why) {
  throw UsageError(concat(where, ": ", quoted(value), " is refused: ", why));
}

/// A value of a DeepSpeed file: `ours`, or "auto".
inline void check_agrees(const std::string& where, const Json& value, const Json& ours, std::string_view option) {
  if (value == "auto" || value == ours || same_value(value, value_text(ours))) return;
  throw UsageError(concat(where, " is ", quoted(value), " and ", option, " is ", quoted(ours),
                          ": set both to the same, or the first to \"auto\""));
}

/// The stage that a DeepSpeed file asks for.
inline std::int64_t deepspeed_stage(const Json& file) {
  const Json zero = file.value("zero_optimization", Json::object());
  return zero.is_object() ? json_as<std::int64_t>(zero.value("stage", Json(0))).value_or(-1) : -1;
}

/// Throws UsageError naming a setting that has no counterpart, or is another one in `config`.
inline void check_deepspeed(const TrainConfig& config) {
  const auto check_half = [&](const std::string& name, const Json& block, bool ours) {
    if (!block.is_object()) refuse_setting("deepspeed: " + name, block, "it is no object");
    const Json enabled = block.value("enabled", Json(false));
    check_agrees(concat("deepspeed: ", name, ".enabled"), enabled, ours, name);
    for (const auto& [key, value] : block.items())
      if (ours && key != "enabled" &&
          !(name == "fp16" && (is_off(value) || (key == "initial_scale_power" && value == 16))))
        refuse_setting(concat("deepspeed: ", name, '.', key), value,
                       "the loss scale begins at 65536 and grows after 2000 good steps, as torch's GradScaler has it");
  };
  for (const auto& [key, value] : config.deepspeed.items()) {
    const std::string where = "deepspeed: " + key;
    if (key == "gradient_clipping")
      check_agrees(where, value, config.max_grad_norm, "max_grad_norm");
    else if (key == "train_micro_batch_size_per_gpu")
      check_agrees(where, value, config.per_device_train_batch_size, "per_device_train_batch_size");
    else if (key == "gradient_accumulation_steps")
      check_agrees(where, value, config.gradient_accumulation_steps, key);
    else if (key == "bf16" || key == "fp16")
      check_half(key, value, key == "bf16" ? config.bf16 : config.fp16);
    else if (key == "zero_optimization") {
      const std::int64_t stage = deepspeed_stage(config.deepspeed);
      if (stage < 0 || stage > 3) throw UsageError(where + ": expected an object with a stage from 0 to 3");
      for (const auto& [name, setting] : value.items())
        if (name != "stage" && !among(name, idle_zero) && !name.starts_with("stage3_") && !is_off(setting))
          refuse_setting(concat(where, '.', name), setting,
                         name.starts_with("offload") ? "nothing is moved off the device" : "it has no counterpart");
    } else if (key == "train_batch_size") {
      if (value != "auto") refuse_setting(where, value, "it follows from the number of processes: set it to \"auto\"");
    } else if (key == "optimizer" || key == "scheduler") {
      refuse_setting(where, value.is_object() ? value.value("type", Json()) : value,
                     key == "optimizer" ? "optim, learning_rate, weight_decay and adam_* say it: leave the block out"
                                        : "lr_scheduler_type and warmup_steps say it: leave the block out");
    } else if (!among(key, idle_deepspeed) && !is_off(value) && value != Json{{"enabled", false}}) {
      refuse_setting(where, value, "it has no counterpart");
    }
  }
}

/// The sharding strategy that `fsdp` and `fsdp_config` name, in lower case; empty if fsdp is off.
inline std::string fsdp_strategy(const TrainConfig& config) {
  std::string out;
  if (!config.fsdp) return out;
  for (const std::string& word : *config.fsdp)
    if (word != "auto_wrap" && word != "offload") out = word;
  if (out != "true" && !out.empty()) return out;
  out = "full_shard";
  for (const auto& [key, value] : config.fsdp_config.items()) {
    const bool is_strategy = key.ends_with("sharding_strategy") || key.ends_with("reshard_after_forward");
    if (!is_strategy || value.is_null()) continue;
    const std::string text = lower(value_text(value));
    out = text == "true" || text == "1" ? "full_shard" : text == "false" || text == "2" ? "shard_grad_op" : text;
    if (text == "3") out = "no_shard";
  }
  return out;
}

inline std::optional<std::int64_t> fsdp_stage(const TrainConfig& config) {
  const std::string strategy = fsdp_strategy(config);
  if (strategy == "no_shard") return 0;
  if (strategy == "full_shard") return 3;
  return strategy == "shard_grad_op" ? std::optional<std::int64_t>(2) : std::nullopt;
}

/// Throws UsageError naming what of FSDP has no counterpart.
inline void check_fsdp(const TrainConfig& config) {
  if (!config.fsdp) return;
  for (const std::string& word : *config.fsdp)
    if (word == "offload") refuse_setting("fsdp", word, "nothing is moved off the device");
  const std::string strategy = fsdp_strategy(config);
  if (strategy.starts_with("hybrid_shard")) refuse_setting("fsdp", strategy, "all processes share one set of shards");
  if (!fsdp_stage(config))
    throw UsageError(
        concat("fsdp: expected full_shard, shard_grad_op or no_shard, perhaps with auto_wrap, got ", quoted(strategy)));
  for (const auto& [name, value] : config.fsdp_config.items()) {
    const std::string key = name.starts_with("fsdp_") ? name.substr(5) : name;
    if (key == "sharding_strategy" || key == "reshard_after_forward" || among(key, idle_fsdp) || is_off(value) ||
        same_value(value, "False"))
      continue;
    refuse_setting(
        "fsdp_config: " + name, value,
        among(key, "offload_params|cpu_offload") ? "nothing is moved off the device" : "it has no counterpart");
  }
}

/// Throws UsageError if settings of DeepSpeed or FSDP contradict the rest of `config`.
inline void check_sharding(const TrainConfig& config) {
  const bool deepspeed = !config.deepspeed.empty();
  if (deepspeed && config.fsdp) throw UsageError("deepspeed and fsdp both say what is sharded: give one of them");
  check_deepspeed(config);
  check_fsdp(config);
  const std::int64_t asked =
      deepspeed ? deepspeed_stage(config.deepspeed) : fsdp_stage(config).value_or(config.zero_stage);
  if (asked != config.zero_stage)
    throw UsageError(concat("zero_stage is ", config.zero_stage, ", and ", deepspeed ? "deepspeed" : "fsdp",
                            " asks for stage ", asked, ": give one of them"));
}

/// An option whose value is a JSON object, or the path of a file with one.
inline Option<TrainConfig> file_option(Json TrainConfig::* field, std::string_view name, std::string_view help,
                                       const std::function<void(TrainConfig&)>& set_stage) {
  Option<TrainConfig> row = option(field, name, group::machine, help, {"a JSON file, or a JSON object", {}});
  row.placeholder = "FILE|JSON";
  row.set = [set = row.set, set_stage](TrainConfig& config, const Json& value) {
    const std::int64_t before = fsdp_stage(config).value_or(0);
    const bool is_path = value.is_string() && !is_none(value) && !value.get_ref<const std::string&>().empty() &&
                         !value.get_ref<const std::string&>().starts_with('{');
    if (!set(config, is_path ? read_json(expand_home(value.get<std::string>())) : value == "" ? Json() : value))
      return false;
    if (config.zero_stage == before) config.zero_stage = 0;  // it was what fsdp said without this file
    set_stage(config);
    return true;
  };
  return row;
}

inline void add_sharding_options(Options<TrainConfig>& rows) {
  using C = TrainConfig;
  const auto take_stage = [](C& config, std::int64_t stage) {
    if (config.zero_stage == 0 && stage <= 3) config.zero_stage = std::max<std::int64_t>(0, stage);
  };
  const auto take_fsdp = [take_stage](C& config) { take_stage(config, fsdp_stage(config).value_or(0)); };
  rows.push_back(file_option(&C::deepspeed, "deepspeed",
                             "DeepSpeed's settings, of which zero_optimization.stage is zero_stage; gradient_clipping, "
                             "bf16 and fp16 must be \"auto\" or as the options say",
                             [take_stage](C& config) { take_stage(config, deepspeed_stage(config.deepspeed)); }));
  Option<C> fsdp =
      option(&C::fsdp, "fsdp", group::machine,
             "in place of zero_stage: full_shard is 3, shard_grad_op 2, no_shard 0; auto_wrap changes nothing");
  fsdp.placeholder = "NAME";
  fsdp.expects = "full_shard, shard_grad_op or no_shard";
  fsdp.set = [take_fsdp](C& config, const Json& value) {
    config.fsdp.reset();
    if (is_off(value) || same_value(value, "False") || (value.is_array() && value.empty())) return true;
    std::vector<std::string> words;
    std::string text = lower(value_text(value)) + " ", word;
    for (const char c : text) {
      if (c != ' ' && c != ',') {
        word += c;
        continue;
      }
      if (!word.empty()) words.push_back(std::exchange(word, {}));
    }
    config.fsdp = words;
    take_fsdp(config);
    return true;
  };
  rows.push_back(fsdp);
  rows.push_back(file_option(&C::fsdp_config, "fsdp_config",
                             "FSDP's settings, of which only the sharding strategy changes something here", take_fsdp));
  set_unused(rows, {"fsdp_config"}, "it only applies with fsdp", [](const C& c) { return !c.fsdp; });
}

}  // namespace kto::detail
