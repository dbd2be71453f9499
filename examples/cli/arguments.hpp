// SPDX-License-Identifier: Apache-2.0
// The arguments of train_kto: TRL's ScriptArguments, ModelConfig and KTOConfig. What the Trainer takes is TrainConfig;
// what chooses model, rows, loss, collator, optimizer and device is ScriptConfig.
#pragma once

#include "command_line.hpp"
#include "kto/data/truncation.hpp"
#include "kto/text/named_tokens.hpp"
#include "kto/train/kl_group.hpp"
#include "kto/train/options/options.hpp"
#include "mixture.hpp"
#include "taken_options.hpp"

namespace kto {

enum class LossType { kto, apo_zero_unpaired };
enum class CollatorType { packed, padded };
enum class MatmulChoice { automatic, aten, onednn };
enum class ReferenceDtype { float32, bfloat16 };
enum class Optim { adamw_torch_fused, adamw_torch, adamw_8bit, adamw_bf16, sgd, rmsprop, adagrad, adafactor };
enum class ModelDtype { float32, bfloat16, as_stored };  ///< as_stored is spelled "auto"

template <>
inline constexpr std::array<std::string_view, 2> enum_names<LossType>{"kto", "apo_zero_unpaired"};
template <>
inline constexpr std::array<std::string_view, 8> enum_names<Optim>{
    "adamw_torch_fused", "adamw_torch", "adamw_8bit", "adamw_bf16", "sgd", "rmsprop", "adagrad", "adafactor"};
template <>
inline constexpr std::array<std::string_view, 2> enum_names<TruncationMode>{"keep_end", "keep_start"};
template <>
inline constexpr std::array<std::string_view, 2> enum_names<CollatorType>{"packed", "padded"};
template <>
inline constexpr std::array<std::string_view, 3> enum_names<MatmulChoice>{"auto", "aten", "onednn"};
template <>
inline constexpr std::array<std::string_view, 2> enum_names<ReferenceDtype>{"float32", "bfloat16"};
template <>
inline constexpr std::array<std::string_view, 3> enum_names<ModelDtype>{"float32", "bfloat16", "auto"};

struct ScriptConfig {
  std::string model_name_or_path = "";
  ModelDtype dtype = ModelDtype::float32;
  bool disable_dropout = true;
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
  std::optional<std::int64_t> padding_value = std::nullopt;  ///< token id; the tokenizer's pad token when absent
  std::optional<std::int64_t> pad_to_multiple_of = std::nullopt;
  std::int64_t label_pad_token_id = default_label_pad_token_id;  ///< of rows that are tokenized already
  std::optional<std::int64_t> dataset_num_proc = std::nullopt;   ///< threads that tokenize; all cores when absent
  LossType loss_type = LossType::kto;
  double beta = 0.1;
  Optim optim = Optim::adamw_torch_fused;
  std::optional<std::string> optim_args = std::nullopt;              ///< "momentum=0.9,nesterov=true"
  std::optional<std::string> ref_model_name_or_path = std::nullopt;  ///< another model as reference
  std::optional<ReferenceDtype> ref_dtype = std::nullopt;  ///< type the reference is held in; the policy's when absent
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
  std::optional<std::vector<std::string>> report_to = std::nullopt;  ///< jsonl, tensorboard
  std::optional<std::string> logging_dir = std::nullopt;             ///< of TensorBoard; output_dir/runs when absent
  std::optional<std::string> run_name = std::nullopt;
  std::string device = "auto";                      ///< auto, cpu, cuda, cuda:N
  std::optional<bool> disable_tqdm = std::nullopt;  ///< no progress bar; only on a terminal when absent
};

struct Arguments {
  ScriptConfig script;
  TrainConfig train = {.save_strategy = SaveStrategy::steps};  ///< TRL's default; the library saves when asked to
};

/// Whether the log is also written in this form.
inline bool reports_to(const ScriptConfig& script, std::string_view name) {
  return script.report_to && std::ranges::find(*script.report_to, name) != script.report_to->end();
}

namespace detail {
inline const std::vector<RefusedOptions>& refused_script_options() {
  static const std::vector<RefusedOptions> list{
      {"adapters of parameters that are no linear layer are not supported", {{"lora_target_parameters", "None"}}},
      {"quantized models are not supported yet", {{"load_in_4bit", "False"}, {"load_in_8bit", "False"}}},
      {"models are read from a folder, which has no revisions", {{"model_revision", "main"}}},
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
}  // namespace detail

inline const Options<ScriptConfig>& script_options();

namespace detail {
/// A row of an optional value that other trainers also leave out by the word `none`.
template <class Config>
Option<Config> none_also(Option<Config> row, std::string_view none) {
  row.set = [set = row.set, none](Config& config, const Json& value) {
    return set(config, value == none ? Json(nullptr) : value);
  };
  return row;
}

/// optim: also the other names that transformers has for AdamW: where it is computed, and where its moments lie.
inline Option<ScriptConfig> optim_option() {
  Option<ScriptConfig> row =
      option(&ScriptConfig::optim, "optim", group::optimization,
             "how weights follow their gradients; adamw_8bit (also adamw_bnb_8bit, adamw_torch_8bit, "
             "paged_adamw_8bit): AdamW's moments in 8 bits; adamw_bf16: in bfloat16; adamw_torch is also "
             "paged_adamw_32bit, adamw_apex_fused, adamw_torch_xla, adamw_torch_npu_fused");
  row.set = [set = row.set](ScriptConfig& config, const Json& value) {
    if (is_any_of(value, "adamw_bnb_8bit|adamw_torch_8bit|paged_adamw_8bit")) return set(config, "adamw_8bit");
    if (is_any_of(value, "paged_adamw_32bit|paged_adamw|adamw_apex_fused|adamw_torch_xla|adamw_torch_npu_fused"))
      return set(config, "adamw_torch");
    return set(config, value);
  };
  return with_refused(row, other_optimizers,
                      "it needs a Python package or hardware that is not used here, and has no counterpart");
}

/// report_to: the names of writers of metrics; "none" and "all" stand for no and every one.
inline Option<ScriptConfig> report_option() {
  Option<ScriptConfig> row =
      option(&ScriptConfig::report_to, "report_to", group::output,
             "also write the log while it grows: as metrics.jsonl, as TensorBoard's event files");
  row.placeholder = "none|all|jsonl|tensorboard...";
  row.expects = "none, all, or one or more of jsonl and tensorboard (nothing is sent to a tracker)";
  row.set = [](ScriptConfig& config, const Json& value) {
    if (is_none(value) || value == Json::array() || value == "[]" || value == Json::array({"none"}))
      return config.report_to.reset(), true;
    std::optional<std::vector<std::string>> names;
    if (!decode(value, names)) return false;
    if (*names == std::vector<std::string>{"all"}) names = {"jsonl", "tensorboard"};
    for (const std::string& name : *names)
      if (name != "jsonl" && name != "tensorboard") return false;
    config.report_to = std::move(names);
    return true;
  };
  return row;
}

/// datasets: a list of mappings, as YAML has it, or its JSON text.
inline Option<ScriptConfig> datasets_option() {
  Option<ScriptConfig> row{.name = "datasets",
                           .group = group::data,
                           .help =
                               "a mixture in place of dataset_name: a list of path, name, data_dir, data_files, split, "
                               "columns, fraction, as TRL's YAML files have it; the sets come one after another"};
  row.placeholder = "JSON";
  row.expects = "a list of mappings such as [{\"path\": \"rows.jsonl\"}]";
  row.get = [](const ScriptConfig& config) { return config.datasets; };
  row.set = [](ScriptConfig& config, const Json& value) {
    Json list = is_none(value) ? Json::array() : value;
    if (list.is_string()) list = Json::parse(list.get_ref<const std::string&>(), nullptr, false);
    if (!list.is_array()) return false;
    for (const Json& item : list)
      if (!item.is_object()) return false;
    config.datasets = std::move(list);
    return true;
  };
  return row;
}

/// eval_datasets: {name: path or split} as YAML or JSON text has it; a list of splits goes by their own names.
inline Option<ScriptConfig> eval_datasets_option() {
  Option<ScriptConfig> row{
      .name = "eval_datasets",
      .group = group::data,
      .help =
          "several sets to evaluate on in place of dataset_test_split, whose metrics are eval_NAME_loss and so on: "
          "by name a file, a pattern of files, a folder (its dataset_test_split), or a split of dataset_name; a list "
          "names splits of dataset_name"};
  row.placeholder = "JSON";
  row.expects =
      "names and paths such as {\"chat\": \"chat.jsonl\", \"code\": \"code/\"}, or a list of splits; no name has a "
      "slash, or dots alone";
  row.get = [](const ScriptConfig& config) { return config.eval_datasets; };
  row.set = [](ScriptConfig& config, const Json& value) {
    Json sets = is_none(value) ? Json::object() : value;
    if (sets.is_string()) sets = Json::parse(sets.get_ref<const std::string&>(), nullptr, false);
    const auto is_text = [](const Json& text) {
      return text.is_string() && !text.get_ref<const std::string&>().empty();
    };
    Json named = Json::object();
    if (sets.is_array()) {
      for (const Json& split : sets) {
        if (!is_text(split) || named.contains(split.get<std::string>())) return false;
        named[split.get<std::string>()] = {{"split", split}};
      }
    } else if (sets.is_object()) {
      named = std::move(sets);
    } else {
      return false;
    }
    const auto is_name = [](const std::string& name) {  // of metrics, which TensorBoard sorts by their slashes
      return name.find_first_not_of('.') != std::string::npos && std::ranges::none_of(name, [](unsigned char c) {
               return c < ' ' || c == '/' || c == '\\' || c == '\x7f';
             });
    };
    for (const auto& [name, where] : named.items())
      if (!is_name(name) || !(is_text(where) || (where.is_object() && where.size() == 1 && where.contains("split") &&
                                                 is_text(where["split"]))))
        return false;
    config.eval_datasets = std::move(named);
    return true;
  };
  return row;
}

/// Takes "dtype" out of model_init_kwargs or ref_model_init_kwargs into the option that `target` is.
inline void apply_init_kwargs(ScriptConfig& script, const Json& kwargs, const std::string& name,
                              std::string_view target, const Note& note) {
  for (const auto& [key, value] : kwargs.items()) {
    const std::string where = name + ": " + key;
    const bool is_dtype = key == "dtype" || key == "torch_dtype";
    if (is_dtype) {
      const Json text = value.is_string() && value.get_ref<const std::string&>().starts_with("torch.")
                            ? Json(value.get<std::string>().substr(6))
                            : value;
      assign(script_options(), *find_option(script_options(), target), script, text, where);
    } else if (among(key, idle_init_kwargs)) {
      if (note) note(where + " is taken without effect: models are read, and layers computed, in one way here");
    } else if (!(key == "revision" && (value == "main" || value.is_null()))) {
      throw UsageError(
          concat(where, ": expected \"dtype\", or \"revision\" main: models are read from a folder, which has no ",
                 "revisions, and nothing else of from_pretrained has a counterpart"));
    }
  }
}

/// Gives the options of a new adapter, which is not wanted, their defaults.
inline void reset_lora_options(ScriptConfig& script, const Note& note) {
  for (const Option<ScriptConfig>& row : script_options()) {
    const bool is_lora = row.works() && (row.name.starts_with("lora_") || among(row.name, "use_rslora|use_dora"));
    if (!is_lora || row.get(script) == row.get(ScriptConfig{})) continue;
    row.set(script, row.get(ScriptConfig{}));
    if (note) note(concat(row.name, " is taken without effect: use_peft is False"));
  }
}

/// Says of which options the value changes nothing, and beside which others.
inline void add_unused_script_options(Options<ScriptConfig>& rows) {
  using C = ScriptConfig;
  set_unused(rows, {"run_name"}, "there is no report_to", [](const C& c) { return !c.report_to; });
  set_unused(rows, {"logging_dir"}, "report_to does not name tensorboard",
             [](const C& c) { return !reports_to(c, "tensorboard"); });
  set_unused(rows, {"padding_value", "pad_to_multiple_of"}, "packed rows have no padding (see collator)",
             [](const C& c) { return c.collator != CollatorType::padded; });
  set_unused(rows, {"precompute_ref_batch_size"}, "there is no precompute_ref_log_probs",
             [](const C& c) { return !c.precompute_ref_log_probs; });
  set_unused(rows, {"ref_model_mixup_alpha", "ref_model_sync_steps"}, "there is no sync_ref_model",
             [](const C& c) { return !c.sync_ref_model; });
  set_unused(rows, {"bf16_full_eval", "fp16_full_eval"},
             "it is of evaluations outside training, which do_eval asks for", [](const C& c) { return !c.do_eval; });
}
}  // namespace detail

/// How rows are cut. `tokens` are the tokenizer's.
inline Truncation truncation_of(const ScriptConfig& script, const NamedTokens& tokens = {}) {
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

/// The rows for ScriptConfig.
inline const Options<ScriptConfig>& script_options() {
  using C = ScriptConfig;
  static const Options<C> table = [] {
    const auto text = [](Option<C> row, std::string placeholder, bool required = false) {
      row.placeholder = std::move(placeholder);
      row.required = required;
      return row;
    };
    const auto is_device = [](const std::string& s) {
      return s == "auto" || s == "cpu" || s == "cuda" ||
             (s.starts_with("cuda:") && s.size() > 5 && s.size() < 8 && s.find_first_not_of("0123456789", 5) == s.npos);
    };
    Option<C> device = text(option(&C::device, "device", group::machine, "where to compute: auto, cpu, cuda, cuda:N",
                                   {"auto, cpu, cuda or cuda:N", {}}),
                            "DEVICE");
    device.set = [set = device.set, is_device](C& config, const Json& value) {
      return value.is_string() && is_device(value.get<std::string>()) && set(config, value);
    };
    Options<C> rows{
        text(
            option(&C::model_name_or_path, "model_name_or_path", group::model, "folder of the model and its tokenizer"),
            "DIR", true),
        detail::with_refused(
            option(&C::dtype, "dtype", group::model, "type of the parameters; auto: the type they are stored in"),
            "float16", "float16 has too few bits for parameters that are trained; --fp16 multiplies in it"),
        {.name = "torch_dtype", .alias_of = "dtype"},
        option(&C::disable_dropout, "disable_dropout", group::model, "ignore the dropout of the model's config"),
        text(option(&C::dataset_name, "dataset_name", group::data,
                    "a .jsonl, .json, .csv or .parquet file, a pattern of files, or a folder: with train* and test*, "
                    "or with a README.md that names its files, or as save_to_disk writes it; required unless datasets "
                    "is given"),
             "PATH"),
        text(option(&C::dataset_config, "dataset_config", group::data,
                    "which of the configurations that the README.md of the data set's folder names; None: its default"),
             "NAME"),
        detail::with_synonyms(detail::datasets_option(), "dataset_mixer|dataset_mixture"),
        option(
            &C::test_split_size, "test_split_size", group::data,
            "share of the rows of the train split, drawn by seed, that is held out as the test split; the others are "
            "shuffled, as datasets' train_test_split does",
            {"None or a number above 0 and below 1", [](double x) { return x > 0 && x < 1; }}),
        option(
            &C::dataset_streaming, "dataset_streaming", group::data,
            "read and tokenize the rows while training goes on, in bounded memory: needs max_steps; rows are visited "
            "in the order of the files, again from the first when they end, and are not shuffled (transformers does "
            "not either); a malformed row ends the run when it is come to; a resumed run ends where a row that it was "
            "trained on has changed, while rows after those may change and files may grow; the test split is held in "
            "memory"),
        {.name = "streaming", .is_flag = true, .alias_of = "dataset_streaming", .alias_value = "True"},
        text(
            option(&C::dataset_cache, "dataset_cache", group::data,
                   "folder where tokenized rows are kept under the hash of files, tokenizer and template; None: kto in "
                   "the user's cache folder, and only sets of 20000 rows or more; a damaged file there is noted and "
                   "replaced"),
            "DIR"),
        text(
            option(&C::dataset_train_split, "dataset_train_split", group::data,
                   "split to train on, or rows of it, as datasets has them: train[:1000], train[10%:50%], train+extra"),
            "SPLIT"),
        text(option(&C::dataset_test_split, "dataset_test_split", group::data, "split to evaluate on, likewise"),
             "SPLIT"),
        detail::eval_datasets_option(),
        option(&C::max_length, "max_length", group::data,
               "rows are cut after this many tokens; None: never (512 with max_prompt_length, "
               "max_completion_length or truncation_mode, as in TRL 0.22)",
               {"None or an integer from 2 to 1000000000", [](double x) { return x >= 2 && x <= 1e9; }}),
        option(&C::max_prompt_length, "max_prompt_length", group::data,
               "tokens of the prompt of a row that is longer than max_length, whose completion then gets max_length - "
               "max_prompt_length. With this option or one of the next two, rows become the ids of TRL 0.22: BOS and "
               "EOS are added where they are missing, and no row is dropped. None: 512 where another of the three is "
               "given, else rows are cut from the right and dropped where the prompt fills max_length",
               detail::count(1)),
        option(&C::max_completion_length, "max_completion_length", group::data,
               "tokens of a completion, EOS included (TRL 0.22 cuts completions of encoder-decoder models alone)",
               detail::count(1)),
        option(&C::truncation_mode, "truncation_mode", group::data,
               "which end of a prompt that is cut is kept; None: keep_end where another of these three is given"),
        option(&C::collator, "collator", group::data, "batches without padding, or padded to their longest row"),
        option(
            &C::share_prompt, "share_prompt", group::data,
            "in packed batches, encode a prompt once for all completions that follow it (chosen, rejected, KL pairs); "
            "the same numbers to rounding"),
        option(&C::padding_value, "padding_value", group::data,
               "token id that rows are padded with; None: the tokenizer's pad token", detail::count(0)),
        detail::none_also(
            option(&C::pad_to_multiple_of, "pad_to_multiple_of", group::data,
                   "padded rows have a multiple of this many tokens; None or auto: no such", detail::count(1)),
            "auto"),
        option(&C::label_pad_token_id, "label_pad_token_id", group::data,
               "of rows that are tokenized already (completion_input_ids, completion_labels, label): the label of what "
               "is not the completion",
               {"an integer from -2147483648 to 2147483647",
                [](double x) { return x >= -2147483648.0 && x <= 2147483647.0; }}),
        option(&C::dataset_num_proc, "dataset_num_proc", group::data,
               "threads that tokenize; None: all cores; the result is the same for any number",
               {"None or an integer from 1 to 1024", [](double x) { return x >= 1 && x <= 1024; }}),
        {.name = "preprocessing_num_workers", .alias_of = "dataset_num_proc"},
        option(&C::loss_type, "loss_type", group::kto, "the loss"),
        option(&C::beta, "beta", group::kto, "how strongly the policy is held to the reference", detail::above_zero()),
        detail::optim_option(),
        text(option(&C::optim_args, "optim_args", group::optimization,
                    "of sgd: momentum, dampening, nesterov; of rmsprop: alpha, eps, momentum, centered; of adagrad: "
                    "lr_decay, eps"),
             "NAME=X,..."),
        {.name = "adafactor", .is_flag = true, .alias_of = "optim", .alias_value = "adafactor"},
        text(option(&C::ref_model_name_or_path, "ref_model_name_or_path", group::reference,
                    "folder of the reference: a model, or an adapter, which is put on its base; None: the policy as "
                    "it starts"),
             "DIR"),
        option(&C::ref_dtype, "ref_dtype", group::reference,
               "type that a reference with weights of its own is held in; None: the policy's"),
        option(&C::precompute_ref_log_probs, "precompute_ref_log_probs", group::reference,
               "ask the reference once, before training; results are cached on disk"),
        option(&C::precompute_ref_batch_size, "precompute_ref_batch_size", group::reference,
               "rows a batch of that pass; None: as in training or evaluation", detail::count(1)),
        text(option(&C::ref_logps_cache, "ref_logps_cache", group::reference,
                    "folder of the cache; None: kto in the user's cache folder; a damaged file there is noted and "
                    "replaced"),
             "DIR"),
        option(
            &C::sync_ref_model, "sync_ref_model", group::reference,
            "move the reference towards the policy every ref_model_sync_steps updates (TR-DPO); with an adapter, the "
            "reference's adapter moves"),
        option(&C::ref_model_mixup_alpha, "ref_model_mixup_alpha", group::reference, "the policy's share in that move",
               {"a number from 0 to 1", [](double x) { return x >= 0 && x <= 1; }}),
        option(&C::ref_model_sync_steps, "ref_model_sync_steps", group::reference, "updates between two moves",
               detail::count(1)),
        option(&C::ref_model_ema_decay, "ref_model_ema_decay", group::reference,
               "in place of sync_ref_model: the reference is a moving average of the policy with this decay",
               {"None or a number from 0 to 1", [](double x) { return x >= 0 && x <= 1; }}),
        text(option(&C::adapter_name_or_path, "adapter_name_or_path", group::adapter,
                    "folder of a PEFT LoRA adapter to train on from; it is also the reference, as it was"),
             "DIR"),
        text(option(&C::model_adapter_name, "model_adapter_name", group::adapter,
                    "which adapter of that folder to train: a folder in it, or default for itself"),
             "NAME"),
        text(option(&C::ref_adapter_name, "ref_adapter_name", group::adapter,
                    "which adapter of that folder the reference has; None: the trained one, as it was"),
             "NAME"),
        option(&C::use_peft, "use_peft", group::adapter, "train a new LoRA adapter; the reference is the bare model"),
        option(&C::lora_r, "lora_r", group::adapter, "rank", detail::count(1)),
        option(&C::lora_alpha, "lora_alpha", group::adapter, "the update is scaled by lora_alpha / lora_r",
               detail::count(1)),
        option(&C::lora_dropout, "lora_dropout", group::adapter,
               "dropout on the adapter's input; without effect while disable_dropout is on",
               {"a number from 0 to below 1", [](double x) { return x >= 0 && x < 1; }}),
        text(option(&C::lora_target_modules, "lora_target_modules", group::adapter,
                    "names, all-linear, or one regular expression; None: q_proj v_proj"),
             "NAME..."),
        text(option(&C::lora_modules_to_save, "lora_modules_to_save", group::adapter, "modules to train whole"),
             "NAME..."),
        text(option(&C::lora_task_type, "lora_task_type", group::adapter, "written to adapter_config.json"), "NAME"),
        option(&C::use_rslora, "use_rslora", group::adapter, "scale by lora_alpha / sqrt(lora_r)"),
        option(&C::use_dora, "use_dora", group::adapter, "weight-decomposed LoRA (DoRA)"),
        option(&C::merge_and_unload, "merge_and_unload", group::adapter,
               "save the trained adapter worked into the model"),
        option(&C::do_train, "do_train", group::length, "train; False with --do_eval: only evaluate"),
        option(&C::do_eval, "do_eval", group::evaluation, "evaluate at the end, whatever eval_strategy is"),
        option(&C::bf16_full_eval, "bf16_full_eval", group::evaluation,
               "hold the policy in bfloat16 in evaluations outside training (--do_eval)"),
        option(&C::fp16_full_eval, "fp16_full_eval", group::evaluation,
               "hold the policy in float16 in evaluations outside training (--do_eval)"),
        option(&C::generate_during_eval, "generate_during_eval", group::evaluation,
               "at each evaluation write replies of policy and reference to a few of its prompts into the log, as "
               "eval_samples; the reference of an adapter is the model without it; after precompute_ref_log_probs "
               "there is none, and the policy writes alone"),
        option(&C::generation_num_prompts, "generation_num_prompts", group::evaluation,
               "how many prompts: the first of the test split that differ", detail::count(1)),
        option(&C::generation_max_new_tokens, "generation_max_new_tokens", group::evaluation,
               "longest of those replies, in tokens", detail::count(1)),
        option(&C::generation_temperature, "generation_temperature", group::evaluation,
               "0: always the likeliest token; above: drawn, from seed, alike at each evaluation",
               {"0, or a number of 1.2e-38 or more", [](double x) { return x == 0 || x >= 1.2e-38; }}),
        option(&C::auto_find_batch_size, "auto_find_batch_size", group::length,
               "when memory runs out, start anew with half of per_device_train_batch_size"),
        option(&C::model_init_kwargs, "model_init_kwargs", group::model,
               "\"dtype\" in place of --dtype; revision main"),
        option(&C::ref_model_init_kwargs, "ref_model_init_kwargs", group::reference,
               "\"dtype\" in place of --ref_dtype"),
        detail::with_synonyms(detail::report_option(), "wandb_project|wandb_entity|logger"),
        text(option(&C::logging_dir, "logging_dir", group::output,
                    "folder of TensorBoard's event files; None: runs in output_dir, and in that run_name (with _ for "
                    "/), if there is one"),
             "DIR"),
        text(option(&C::run_name, "run_name", group::output, "name of this run in metrics.jsonl and for TensorBoard"),
             "NAME"),
        option(&C::disable_tqdm, "disable_tqdm", group::output, "no progress bar; None: none unless on a terminal"),
        device,
        option(&C::trl_defaults, "trl_defaults", group::machine,
               "TRL's defaults where others are kept here; options that are given go before them"),
        option(
            &C::matmul, "matmul", group::machine,
            "library of float32 products on the CPU; auto: as the environment variable KTO_MATMUL says, else oneDNN on "
            "AMD processors and LibTorch's choice on others"),
        {.name = "use_cpu", .is_flag = true, .alias_of = "device", .alias_value = "cpu"},
        {.name = "no_cuda", .is_flag = true, .alias_of = "device", .alias_value = "cpu"},
    };
    detail::add_unused_script_options(rows);
    detail::add_taken(rows, detail::taken_script_options());
    detail::add_refused(rows, detail::refused_script_options());
    return rows;
  }();
  return table;
}

/// The one table of all options of train_kto.
inline const Options<Arguments>& argument_options() {
  static const Options<Arguments> table = [] {
    Options<Arguments> rows;
    const auto add = [&](auto part, const auto& options, std::string_view heading) {
      for (const auto& row : options)
        if (row.group == heading) rows.push_back(within(part, row));
    };
    for (const std::string_view heading : group::all) {
      const bool script_first = heading == group::kto;
      if (script_first) add(&Arguments::script, script_options(), heading);
      add(&Arguments::train, train_options(), heading);
      if (!script_first) add(&Arguments::script, script_options(), heading);
    }
    add(&Arguments::script, script_options(), "");  // aliases and refused names
    add(&Arguments::train, train_options(), "");
    return rows;
  }();
  return table;
}

/// All options that work and their values: the content of training_args.json.
inline Json to_json(const Arguments& arguments) { return to_json(argument_options(), arguments); }

/// What to_json wrote. Throws UsageError, which begins with `where` (a path), for unknown or refused names or values.
inline Arguments arguments_from_json(const Json& object, std::string_view where) {
  Arguments arguments;
  from_json(argument_options(), arguments, object, where);
  return arguments;
}

/// The folder of TensorBoard's event files. A run's name is one folder in it: what would lead elsewhere becomes _.
inline fs::path event_folder(const Arguments& arguments) {
  if (arguments.script.logging_dir) return *arguments.script.logging_dir;
  std::string name = arguments.script.run_name.value_or("");
  const bool dots = name.find_first_not_of('.') == std::string::npos;
  for (char& c : name)
    if (c == '/' || c == '\\' || static_cast<unsigned char>(c) < ' ' || c == '\x7f' || dots) c = '_';
  return fs::path(arguments.train.output_dir) / "runs" / name;
}

/// Throws UsageError when two arguments contradict each other.
inline void validate(const Arguments& arguments) {
  validate(arguments.train);
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
  if (script.lora_task_type != "CAUSAL_LM")
    throw UsageError(concat("lora_task_type \"", script.lora_task_type, "\" is not supported; expected CAUSAL_LM"));
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
  if (script.do_train && script.loss_type == LossType::kto) check_kl_group(arguments.train);
  if (arguments.train.eval_on_start && !evaluates)
    throw UsageError("eval_on_start needs --do_eval, or --eval_strategy steps or epoch");
}

/// The arguments of train_kto; nothing when --help or --version was asked for, and printed to `out`. `note` hears of
/// values that were taken and change nothing. Throws UsageError with one line for the user; the program then ends with
/// status 2.
inline std::optional<Arguments> parse_arguments(int argc, const char* const* argv, std::string_view version,
                                                std::ostream& out = std::cout, const Note& note = {}) {
  const Program program{.name = "train_kto",
                        .version = version,
                        .usage = "--model_name_or_path DIR --dataset_name PATH [--output_dir DIR] [options]",
                        .summary = "Trains a language model with KTO (Kahneman-Tversky Optimization)."};
  const auto line = read_command_line(argument_options(), program, argc, argv, out);
  if (!line) return std::nullopt;
  Arguments first, arguments;  // the first: what is asked for before all others
  first.script.use_peft = true;
  apply(argument_options(), *line, first);
  const bool adapter_is_off = !first.script.use_peft;  // it says so, in place of saying nothing
  if (first.script.trl_defaults) {
    set_trl_defaults(argument_options(), arguments);
    if (first.train.fp16) arguments.train.bf16 = false;  // as in TRL, where bf16 is what fp16 is not
  }
  std::int64_t& batch_size = arguments.train.per_device_train_batch_size;
  const std::int64_t usual_size = std::exchange(batch_size, 0);  // whether it is given
  apply(argument_options(), *line, arguments, note);
  if (batch_size == 0) batch_size = arguments.train.max_tokens_per_batch.value_or(usual_size);  // rows have a token
  arguments.script.trl_defaults = false;  // the options have their values
  if (adapter_is_off) detail::reset_lora_options(arguments.script, note);
  for (std::string* path :
       {&arguments.script.model_name_or_path, &arguments.script.dataset_name, &arguments.train.output_dir})
    *path = detail::expand_home(*path);
  for (auto* path :
       {&arguments.script.dataset_cache, &arguments.script.adapter_name_or_path,
        &arguments.script.ref_model_name_or_path, &arguments.script.ref_logps_cache, &arguments.script.logging_dir})
    if (*path) **path = detail::expand_home(**path);
  for (auto& [name, where] : arguments.script.eval_datasets.items())
    if (where.is_string()) where = detail::expand_home(where.get<std::string>());
  detail::apply_init_kwargs(arguments.script, arguments.script.model_init_kwargs, "model_init_kwargs", "dtype", note);
  detail::apply_init_kwargs(arguments.script, arguments.script.ref_model_init_kwargs, "ref_model_init_kwargs",
                            "ref_dtype", note);
  validate(arguments);
  if (note)
    visit_unused(argument_options(), arguments, [&](std::string_view name, std::string_view why) {
      note(concat(name, " is taken without effect: ", why));
    });
  return arguments;
}

}  // namespace kto
