// SPDX-License-Identifier: Apache-2.0
// The arguments of a training program: one table of all options, and what a command line and its YAML file make of it.
#pragma once

#include "kto/cli/command_line.hpp"
#include "kto/cli/validate.hpp"

namespace kto::cli {

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
    } else if (detail::among(key, idle_init_kwargs)) {
      if (note) note(where + " is taken without effect: models are read, and layers computed, in one way here");
    } else if (key == "revision" && (value.is_string() || value.is_null())) {
      if (value.is_null() || target != "dtype") continue;  // a reference's is read where its model is
      const auto revision = value.get<std::string>();
      if (script.model_revision != "main" && script.model_revision != revision)
        throw UsageError(concat(where, " and --model_revision name two revisions: give one of them"));
      script.model_revision = revision;
    } else {
      throw UsageError(
          concat(where, ": expected \"dtype\" or \"revision\": nothing else of from_pretrained has a ", "counterpart"));
    }
  }
}

/// Gives the options of a new adapter, which is not wanted, their defaults.
inline void reset_lora_options(ScriptConfig& script, const Note& note) {
  for (const Option<ScriptConfig>& row : script_options()) {
    const bool is_lora =
        row.works() && (row.name.starts_with("lora_") || detail::among(row.name, "use_rslora|use_dora"));
    if (!is_lora || row.get(script) == row.get(ScriptConfig{})) continue;
    row.set(script, row.get(ScriptConfig{}));
    if (note) note(concat(row.name, " is taken without effect: use_peft is False"));
  }
}

/// The one table of all options of a program that offers `losses`, which must outlive it.
inline Options<Arguments> argument_options(const LossTable& losses) {
  Options<Arguments> rows;
  const auto add = [&](auto part, const auto& options, std::string_view heading) {
    for (const auto& row : options)
      if (row.group == heading) rows.push_back(within(part, row));
  };
  for (const std::string_view heading : group::all) {
    add(&Arguments::loss, losses.options(), heading);
    add(&Arguments::train, train_options(), heading);
    add(&Arguments::script, script_options(), heading);
  }
  add(&Arguments::script, script_options(), "");  // aliases and refused names
  add(&Arguments::train, train_options(), "");
  for (const LossEntry& loss : losses.losses())
    for (const LossFlag& flag : loss.flags)
      check(find_option(train_options(), flag.name) == nullptr && find_option(script_options(), flag.name) == nullptr,
            "the loss ", loss.name, " has a flag --", flag.name, ", which is an option of its own; rename the flag");
  return rows;
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

/// The arguments of `program`, whose options are argument_options(losses); nothing when --help or --version was asked
/// for, and printed to `out`. `note` hears of values that were taken and change nothing. Throws UsageError with one line
/// for the user; the program then ends with status 2.
inline std::optional<Arguments> parse_arguments(int argc, const char* const* argv, const Program& program,
                                                const LossTable& losses, std::ostream& out = std::cout,
                                                const Note& note = {}) {
  const Options<Arguments> options = argument_options(losses);
  const auto line = read_command_line(options, program, argc, argv, out);
  if (!line) return std::nullopt;
  Arguments first, arguments;  // the first: what is asked for before all others
  first.script.use_peft = true;
  apply(options, *line, first);
  const bool adapter_is_off = !first.script.use_peft;  // it says so, in place of saying nothing
  if (first.script.trl_defaults) {
    set_trl_defaults(options, arguments);
    if (first.train.fp16) arguments.train.bf16 = false;  // as in TRL, where bf16 is what fp16 is not
  }
  std::int64_t& batch_size = arguments.train.per_device_train_batch_size;
  const std::int64_t usual_size = std::exchange(batch_size, 0);  // whether it is given
  apply(options, *line, arguments, note);
  if (batch_size == 0) batch_size = arguments.train.max_tokens_per_batch.value_or(usual_size);  // rows have a token
  arguments.script.trl_defaults = false;  // the options have their values
  arguments.loss.type = losses.chosen(arguments.loss).name;
  if (adapter_is_off) reset_lora_options(arguments.script, note);
  for (std::string* path :
       {&arguments.script.model_name_or_path, &arguments.script.dataset_name, &arguments.train.output_dir})
    *path = expand_home(*path);
  for (auto* path :
       {&arguments.script.dataset_cache, &arguments.script.adapter_name_or_path,
        &arguments.script.ref_model_name_or_path, &arguments.script.ref_logps_cache, &arguments.script.logging_dir})
    if (*path) **path = expand_home(**path);
  for (auto& [name, where] : arguments.script.eval_datasets.items())
    if (where.is_string()) where = expand_home(where.get<std::string>());
  apply_init_kwargs(arguments.script, arguments.script.model_init_kwargs, "model_init_kwargs", "dtype", note);
  apply_init_kwargs(arguments.script, arguments.script.ref_model_init_kwargs, "ref_model_init_kwargs", "ref_dtype",
                    note);
  validate(arguments, losses);
  if (note)
    visit_unused(options, arguments, [&](std::string_view name, std::string_view why) {
      note(concat(name, " is taken without effect: ", why));
    });
  return arguments;
}

}  // namespace kto::cli
