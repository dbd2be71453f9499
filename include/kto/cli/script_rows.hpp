// SPDX-License-Identifier: Apache-2.0
// Rows of the table of options that take more than a field's value: other names, lists, JSON.
#pragma once

#include <utility>

#include "kto/cli/known_options.hpp"
#include "kto/cli/script_config.hpp"

namespace kto::cli {

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
  return detail::with_refused(row, other_optimizers,
                              "it needs a Python package or hardware that is not used here, and has no counterpart");
}

/// The writers of the log that report_to can name.
inline constexpr std::array<std::string_view, 6> report_names{"html",        "jsonl",   "mlflow",
                                                              "tensorboard", "trackio", "wandb"};

/// report_to: the names of writers of metrics; "none" and "all" stand for no and every one.
inline Option<ScriptConfig> report_option() {
  Option<ScriptConfig> row = option(
      &ScriptConfig::report_to, "report_to", group::output,
      "also write the log while it grows: html: as charts in report.html; jsonl: as metrics.jsonl; tensorboard: as "
      "event files; all: these three; trackio: into the inbox of its folder; wandb: as an offline run, to upload with "
      "`wandb sync`; mlflow: to the server at the environment's MLFLOW_TRACKING_URI");
  row.placeholder = "none|all|html|jsonl|mlflow|tensorboard|trackio|wandb...";
  row.expects = "none, all, or one or more of html, jsonl, mlflow, tensorboard, trackio and wandb";
  row.set = [](ScriptConfig& config, const Json& value) {
    if (is_none(value) || value == Json::array() || value == "[]" || value == Json::array({"none"})) {
      config.report_to.reset();
      return true;
    }
    std::optional<std::vector<std::string>> names;
    if (!decode(value, names)) return false;
    if (*names == std::vector<std::string>{"all"}) names = {"html", "jsonl", "tensorboard"};
    for (const std::string& name : *names)
      if (std::ranges::find(report_names, name) == report_names.end()) return false;
    config.report_to = std::move(names);
    return true;
  };
  row.refused = "azure_ml|clearml|codecarbon|comet_ml|comet|dagshub|dvclive|flyte|kubeflow|neptune|swanlab";
  row.reason =
      "there is no writer for it: it can import TensorBoard's event files, which --report_to tensorboard writes";
  return row;
}

/// hub_token: what is written of it, in files and to other processes, is a word in its place, which is no token itself.
inline Option<ScriptConfig> hub_token_option() {
  static constexpr const char* in_its_place = "<HUB_TOKEN>";  // transformers'
  Option<ScriptConfig> row =
      option(&ScriptConfig::hub_token, "hub_token", group::output,
             "token to push with; it is written nowhere, but other users of this machine can see a command line: "
             "better put it into HF_TOKEN. None: HF_TOKEN, or that of `hf auth login`");
  row.placeholder = "TOKEN";
  row.get = [](const ScriptConfig& config) { return config.hub_token ? Json(in_its_place) : Json(); };
  row.set = [](ScriptConfig& config, const Json& value) {
    const bool is_given = value.is_string() && !is_none(value) && value != in_its_place && value != "";
    config.hub_token = is_given ? std::optional(value.get<std::string>()) : std::nullopt;
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

}  // namespace kto::cli
