// SPDX-License-Identifier: Apache-2.0
// What train_kto takes beside TrainConfig: TRL's ScriptArguments, ModelConfig and the rest of KTOConfig. It chooses
// model, rows, collator, optimizer and device. The loss is a LossChoice.
#pragma once

#include <map>
#include <string>

#include "kto/data/files.hpp"
#include "kto/data/truncation.hpp"
#include "kto/hub/push_strategy.hpp"
#include "kto/text/named_tokens.hpp"
#include "kto/train/options/options.hpp"

namespace kto::cli {

enum class CollatorType { packed, padded };
enum class MatmulChoice { automatic, aten, onednn };
enum class ReferenceDtype { float32, bfloat16 };
enum class Optim { adamw_torch_fused, adamw_torch, adamw_8bit, adamw_bf16, sgd, rmsprop, adagrad, adafactor };
enum class DdpBackend { gloo, nccl };
enum class ModelDtype { float32, bfloat16, as_stored };  ///< as_stored is spelled "auto"

}  // namespace kto::cli

namespace kto {

template <>
inline constexpr std::array<std::string_view, 8> enum_names<cli::Optim>{
    "adamw_torch_fused", "adamw_torch", "adamw_8bit", "adamw_bf16", "sgd", "rmsprop", "adagrad", "adafactor"};
template <>
inline constexpr std::array<std::string_view, 2> enum_names<TruncationMode>{"keep_end", "keep_start"};
template <>
inline constexpr std::array<std::string_view, 2> enum_names<cli::CollatorType>{"packed", "padded"};
template <>
inline constexpr std::array<std::string_view, 3> enum_names<cli::MatmulChoice>{"auto", "aten", "onednn"};
template <>
inline constexpr std::array<std::string_view, 2> enum_names<cli::ReferenceDtype>{"float32", "bfloat16"};
template <>
inline constexpr std::array<std::string_view, 2> enum_names<cli::DdpBackend>{"gloo", "nccl"};
template <>
inline constexpr std::array<std::string_view, 3> enum_names<cli::ModelDtype>{"float32", "bfloat16", "auto"};

}  // namespace kto

namespace kto::cli {

struct ScriptConfig {
  std::string model_name_or_path = "";
  std::string model_revision = "main";  ///< on the hub: a branch, a tag or a commit
  ModelDtype dtype = ModelDtype::float32;
  bool disable_dropout = true;
  std::optional<bool> is_encoder_decoder = std::nullopt;     ///< what the model is (see for_model)
  std::string dataset_name = "";                             ///< in place of datasets
  std::optional<std::string> dataset_config = std::nullopt;  ///< which of those that the folder's README.md names
  Json datasets = Json::array();                             ///< a mixture: see parse_mixture
  std::optional<double> test_split_size = std::nullopt;      ///< share of the rows that is held out for evaluations
  bool dataset_streaming = false;                            ///< read and tokenize rows while training goes on
  std::optional<std::string> dataset_cache = std::nullopt;   ///< folder; the user's cache folder when absent
  std::string dataset_train_split = "train";
  std::string dataset_test_split = "test";
  Json eval_datasets = Json::object();                               ///< {name: path or split}, in place of that split
  std::optional<std::int64_t> max_length = 1024;                     ///< tokens
  std::optional<std::int64_t> max_prompt_length = std::nullopt;      ///< this and the next two: PartTruncation
  std::optional<std::int64_t> max_completion_length = std::nullopt;  ///< tokens
  std::optional<TruncationMode> truncation_mode = std::nullopt;
  CollatorType collator = CollatorType::packed;
  bool share_prompt = true;
  MatmulChoice matmul = MatmulChoice::automatic;
  std::optional<std::int64_t> logits_tile_mib = std::nullopt;  ///< MiB of logits held at once; by device when absent
  std::optional<std::int64_t> padding_value = std::nullopt;    ///< token id; the tokenizer's pad token when absent
  std::optional<std::int64_t> pad_to_multiple_of = std::nullopt;
  std::int64_t label_pad_token_id = default_label_pad_token_id;  ///< of rows that are tokenized already
  std::optional<std::int64_t> dataset_num_proc = std::nullopt;   ///< threads that tokenize; all cores when absent
  Optim optim = Optim::adamw_torch_fused;
  std::optional<std::string> optim_args = std::nullopt;              ///< "momentum=0.9,nesterov=true"
  std::optional<std::string> ref_model_name_or_path = std::nullopt;  ///< another model as reference
  std::optional<ReferenceDtype> ref_dtype = std::nullopt;  ///< the reference is held in; its files' or the policy's
  bool reuse_ref_log_probs = true;
  bool precompute_ref_log_probs = false;
  std::optional<std::int64_t> precompute_ref_batch_size = std::nullopt;
  std::optional<std::string> ref_logps_cache = std::nullopt;  ///< folder; the user's cache folder when absent
  bool sync_ref_model = false;
  double ref_model_mixup_alpha = 0.6;
  std::int64_t ref_model_sync_steps = 512;
  std::optional<double> ref_model_ema_decay = std::nullopt;
  std::optional<std::string> adapter_name_or_path = std::nullopt;  ///< PEFT folder to train on from
  std::optional<std::string> model_adapter_name = std::nullopt;    ///< of several adapters in that folder
  std::optional<std::string> ref_adapter_name = std::nullopt;      ///< the one that the reference uses
  bool use_peft = false;                                           ///< train a new LoRA adapter
  std::int64_t lora_r = 16;
  std::int64_t lora_alpha = 32;
  double lora_dropout = 0.05;
  std::optional<std::vector<std::string>> lora_target_modules = std::nullopt;
  std::optional<std::vector<std::string>> lora_modules_to_save = std::nullopt;
  std::string lora_task_type = "CAUSAL_LM";
  bool use_rslora = false;
  bool use_dora = false;
  bool trl_defaults = false;      ///< stands for the values that set_trl_defaults gives
  bool merge_and_unload = false;  ///< save the adapter worked into the model, not by itself
  bool do_train = true;
  bool do_eval = false;               ///< evaluate the test split at the end, whatever eval_strategy is
  bool bf16_full_eval = false;        ///< evaluations outside training with the policy in bfloat16
  bool fp16_full_eval = false;        ///< likewise in float16
  bool generate_during_eval = false;  ///< replies of policy and reference to prompts of the test split, in the log
  std::int64_t generation_num_prompts = 4;
  std::int64_t generation_max_new_tokens = 64;
  double generation_temperature = 0;  ///< 0: greedy
  bool auto_find_batch_size = false;  ///< halve per_device_train_batch_size when memory runs out
  Json model_init_kwargs = Json::object();
  Json ref_model_init_kwargs = Json::object();
  std::optional<std::vector<std::string>> report_to = std::nullopt;  ///< report_names
  std::optional<std::string> logging_dir = std::nullopt;             ///< of TensorBoard; output_dir/runs when absent
  std::optional<std::string> run_name = std::nullopt;
  std::string project = "huggingface";                     ///< of the run, for trackers
  bool push_to_hub = false;                                ///< keep a repository on the hub in step with the run
  std::optional<std::string> hub_model_id = std::nullopt;  ///< its name; that of output_dir when absent
  hub::PushStrategy hub_strategy = hub::PushStrategy::every_save;
  std::optional<std::string> hub_token = std::nullopt;     ///< never written anywhere; the environment's when absent
  std::optional<bool> hub_private_repo = std::nullopt;     ///< of a repository that is created
  std::optional<std::string> hub_revision = std::nullopt;  ///< the branch; main when absent
  bool hub_always_push = false;                            ///< also while an earlier push is under way
  std::string device = "auto";                             ///< auto, or LibTorch's name for one
  std::int64_t nproc = 1;                                  ///< copies of itself that the program starts as ranks
  std::optional<DdpBackend> ddp_backend = std::nullopt;    ///< by device when absent
  std::int64_t ddp_timeout = 1800;                         ///< seconds
  std::optional<bool> disable_tqdm = std::nullopt;         ///< no progress bar; only on a terminal when absent
};

/// The loss of --loss_type, and those of its flags that are given.
struct LossChoice {
  std::string type = "";  ///< the program's first loss where empty
  std::map<std::string, Json> values = {};
};

struct Arguments {
  ScriptConfig script;
  LossChoice loss;
  TrainConfig train = {.save_strategy = SaveStrategy::steps};  ///< TRL's default; the library saves when asked to
};

/// The name of the output folder itself.
inline std::string output_name(const Arguments& arguments) {
  const fs::path folder = fs::absolute(arguments.train.output_dir).lexically_normal();
  return (folder.has_filename() ? folder : folder.parent_path()).filename().string();
}

/// Whether the log is also written in this form.
inline bool reports_to(const ScriptConfig& script, std::string_view name) {
  return script.report_to && std::ranges::find(*script.report_to, name) != script.report_to->end();
}

/// How rows are cut. `tokens` are the tokenizer's.
inline Truncation truncation_of(const ScriptConfig& script, const NamedTokens& tokens = {}) {
  if (script.is_encoder_decoder.value_or(false)) return {.max_length = std::nullopt};  // see separate_truncation
  if (!script.max_prompt_length && !script.max_completion_length && !script.truncation_mode)
    return {.max_length = script.max_length};
  const auto id = [](const std::optional<NamedToken>& token) {
    return token ? std::optional(token->id) : std::nullopt;
  };
  constexpr std::int64_t length_of_none = 512;  // in TRL 0.22
  return {.max_length = script.max_length.value_or(length_of_none),
          .parts = PartTruncation{.mode = script.truncation_mode.value_or(TruncationMode::keep_end),
                                  .max_prompt_length = script.max_prompt_length.value_or(512),
                                  .max_completion_length = script.max_completion_length,
                                  .bos_id = id(tokens.bos),
                                  .eos_id = id(tokens.eos)}};
}

}  // namespace kto::cli
