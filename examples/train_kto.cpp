// SPDX-License-Identifier: Apache-2.0
// The command-line trainer: a thin program over kto::Trainer, with the flags of TRL's scripts/kto.py.
//   train_kto --model_name_or_path DIR --dataset_name rows.jsonl --output_dir out --num_train_epochs 1
// Prints the log at each logging step and leaves the trained model in out/, ready for transformers.

#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "cli/arguments.hpp"
#include "kto/core/allocator.hpp"
#include "kto/kto.hpp"

namespace {

using kto::Json;
namespace fs = std::filesystem;

void note(const std::string& text) { std::cerr << "train_kto: " << text << '\n'; }

/// Refuses a folder that holds something, so that no earlier result is overwritten unasked.
void check_output_folder(const kto::TrainConfig& config) {
  const fs::path folder = config.output_dir;
  if (!fs::exists(folder)) return;
  kto::check(fs::is_directory(folder), folder.string(), ": is a file; expected a folder for --output_dir");
  kto::check(fs::is_empty(folder) || config.overwrite_output_dir, folder.string(),
             ": exists and is not empty; choose another --output_dir, or add --overwrite_output_dir");
}

at::Device choose_device(const std::string& name) {
  if (name == "auto") return at::hasCUDA() ? at::kCUDA : at::kCPU;
  const at::Device device(name);
  kto::check(device.is_cpu() || at::hasCUDA(), "--device ", name, ": this LibTorch sees no such device; use cpu");
  return device;
}

std::vector<kto::Example> load_examples(const kto::Arguments& args, const std::string& split,
                                        const kto::Processor& processor) {
  const kto::RowSet rows = kto::read_rows(args.script.dataset_name, split);
  kto::Encoded encoded =
      kto::encode_rows(rows, processor.encoder(), {.max_length = args.script.max_length, .num_threads = 0});
  for (const auto& notes : {rows.notes, encoded.notes})
    for (const std::string& line : notes) note(split + ": " + line);
  return std::move(encoded.examples);
}

/// The policy and what it is held to. The three kinds: all weights trained, against a frozen copy; a new adapter,
/// against the bare model; an adapter trained on, against a frozen copy of it. Adapters share the base's weights.
struct Policy {
  kto::Decoder model;
  kto::LiveReference<kto::Decoder> reference;
  std::optional<kto::LoraConfig> adapter;
  fs::path base;  ///< folder of the base model
};

kto::Decoder load_model(const kto::Arguments& args, const fs::path& folder) {
  at::ScalarType dtype = at::kFloat;
  if (args.script.dtype == kto::ModelDtype::bfloat16) dtype = at::kBFloat16;
  if (args.script.dtype == kto::ModelDtype::as_stored) dtype = kto::stored_dtype(folder);
  kto::check(dtype != at::kHalf, folder.string(),
             ": is stored in float16, and training float16 parameters is not supported; use --dtype float32");
  kto::Decoder model = kto::load_pretrained(folder, dtype, choose_device(args.script.device));
  kto::check(args.script.disable_dropout || model.config.attention_dropout == 0, folder.string(),
             ": config.json has attention_dropout ", model.config.attention_dropout,
             ", which is not supported in training; leave --disable_dropout True");
  if (args.train.bf16 || dtype == at::kBFloat16) model.compute = at::kBFloat16;
  model.recompute = args.train.gradient_checkpointing;
  return model;
}

kto::LoraConfig lora_config(const kto::ScriptConfig& script) {
  kto::LoraConfig out{.r = script.lora_r,
                      .lora_alpha = static_cast<double>(script.lora_alpha),
                      .lora_dropout = script.lora_dropout,
                      .modules_to_save = script.lora_modules_to_save.value_or(std::vector<std::string>{}),
                      .use_rslora = script.use_rslora,
                      .use_dora = script.use_dora,
                      .task_type = script.lora_task_type,
                      .base_model_name_or_path = script.model_name_or_path};
  const auto targets = script.lora_target_modules.value_or(std::vector<std::string>{});
  const bool is_pattern = targets.size() == 1 && (targets[0] == "all-linear" ||
                                                  targets[0].find_first_of("*+?()[]{}|^$\\") != std::string::npos);
  if (is_pattern)
    out.target_pattern = targets[0];
  else
    out.target_modules = targets;
  return out;
}

/// The folder of the base model that an adapter folder names, which may be relative to the adapter or to here.
fs::path base_of_adapter(const fs::path& adapter) {
  const fs::path file = adapter / "adapter_config.json";
  const fs::path named = kto::parse_lora_config(kto::read_json(file), file.string()).base_model_name_or_path;
  kto::check(!named.empty(), file.string(),
             ": base_model_name_or_path is missing; give the base as "
             "--model_name_or_path and this folder as --adapter_name_or_path");
  for (const fs::path& candidate : {named, adapter / named})
    if (fs::is_directory(candidate)) return candidate;
  kto::fail(file.string(), ": base_model_name_or_path \"", named.string(),
            "\" is no folder here; give the base as "
            "--model_name_or_path and this folder as --adapter_name_or_path");
}

Policy load_policy(const kto::Arguments& args) {
  const fs::path folder = args.script.model_name_or_path;
  std::optional<fs::path> adapter;
  if (args.script.adapter_name_or_path) adapter = *args.script.adapter_name_or_path;
  const bool is_adapter = fs::exists(folder / "adapter_config.json") && !fs::exists(folder / "config.json");
  if (is_adapter) {
    kto::check(!adapter && !args.script.use_peft, folder.string(),
               ": is an adapter itself; leave out --adapter_name_or_path and --use_peft");
    adapter = folder;
  }
  const fs::path base_folder = is_adapter ? base_of_adapter(folder) : folder;
  const kto::Decoder base = load_model(args, base_folder);
  if (!adapter && !args.script.use_peft) return {base, kto::live_reference(base), std::nullopt, base_folder};

  kto::AdaptedDecoder adapted =
      adapter ? kto::load_adapter(base, *adapter)
              : kto::with_adapter(base, lora_config(args.script), static_cast<std::uint64_t>(args.train.seed));
  adapted.config.base_model_name_or_path = base_folder.string();
  const auto reference = adapter ? kto::live_reference(adapted.policy) : kto::live_reference(base);
  if (args.script.disable_dropout) kto::disable_dropout(adapted.policy);
  return {adapted.policy, reference, adapted.config, base_folder};
}

/// Writes what transformers' Trainer leaves in its output folder.
void save(const kto::Arguments& args, const Policy& policy, const kto::TrainerState& state, const kto::Plan& plan,
          const Json& eval_metrics) {
  const fs::path folder = args.train.output_dir;
  const auto write = [&](const char* name, const Json& content) {
    kto::write_file(folder / name, content.dump(2) + "\n");
  };
  if (!policy.adapter)
    kto::save_pretrained(policy.model, folder, policy.base);
  else if (args.script.merge_and_unload)
    kto::save_pretrained(kto::merge_and_unload(policy.model), folder, policy.base);
  else
    kto::save_adapter({policy.model, *policy.adapter}, folder, policy.base);
  Json results = state.log_history.back();
  results.erase("step");
  write("train_results.json", results);
  if (!eval_metrics.empty()) {
    write("eval_results.json", eval_metrics);
    results.update(eval_metrics);
  }
  write("all_results.json", results);
  write("training_args.json", kto::to_json(args));
  write("trainer_state.json", kto::to_json(state, plan, args.train));
}

/// The model's own folder, or where that is an adapter without a tokenizer, its base's.
fs::path tokenizer_folder(const kto::Arguments& args) {
  const fs::path folder = args.script.model_name_or_path;
  const bool bare_adapter = fs::exists(folder / "adapter_config.json") && !fs::exists(folder / "tokenizer.json");
  return bare_adapter ? base_of_adapter(folder) : folder;
}

template <class Collator, class Loss>
void run(const kto::Arguments& args, const Collator& collator, const Loss& loss) {
  check_output_folder(args.train);
  const bool evaluates = args.script.do_eval || args.train.eval_strategy != kto::IntervalStrategy::no;
  const kto::Processor processor(tokenizer_folder(args));
  const auto train_rows = load_examples(args, args.script.dataset_train_split, processor);
  const auto eval_rows =
      evaluates ? load_examples(args, args.script.dataset_test_split, processor) : std::vector<kto::Example>{};
  if (const auto advice =
          kto::weight_balance(train_rows, args.train.desirable_weight, args.train.undesirable_weight).advice())
    note(*advice);
  const Policy policy = load_policy(args);
  fs::create_directories(args.train.output_dir);

  kto::Trainer trainer{.model = policy.model,
                       .collator = collator,
                       .loss = loss,
                       .reference = policy.reference,
                       .config = args.train,
                       .callbacks = {kto::show_progress(stdout, !args.script.disable_tqdm.value_or(false))}};
  Json eval_metrics = Json::object();
  if (!args.script.do_train) {
    eval_metrics = trainer.evaluate(eval_rows);
    std::cout << kto::detail::entry_text(eval_metrics) << '\n';
    kto::write_file(fs::path(args.train.output_dir) / "eval_results.json", eval_metrics.dump(2) + "\n");
    return;
  }
  const kto::TrainerState state = trainer.train(train_rows, eval_rows);
  if (args.script.do_eval) {
    eval_metrics = trainer.evaluate(eval_rows, "eval_", state.num_tokens);
    eval_metrics["epoch"] = state.epoch;
    std::cout << kto::detail::entry_text(eval_metrics) << '\n';
  }
  save(args, policy, state, kto::make_plan(args.train, static_cast<std::int64_t>(train_rows.size())), eval_metrics);
  std::cout << "Model saved to " << args.train.output_dir << '\n';
}

template <class Collator>
void run(const kto::Arguments& args, const Collator& collator) {
  switch (args.script.loss_type) {
    case kto::LossType::kto:
      return run(args, collator, kto::Kto{.beta = args.script.beta});
    case kto::LossType::apo_zero_unpaired:
      return run(args, collator, kto::ApoZeroUnpaired{.beta = args.script.beta});
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const auto args = kto::parse_arguments(argc, argv, KTO_VERSION);
    if (!args) return 0;
    kto::keep_freed_memory();
    if (const char* threads = std::getenv("OMP_NUM_THREADS"))  // --config may have set it after OpenMP looked
      if (const int count = std::atoi(threads); count > 0) at::set_num_threads(count);
    if (args->script.collator == kto::CollatorType::padded)
      run(*args, kto::PaddedCollator{.max_length = args->script.max_length});
    else
      run(*args, kto::PackedCollator{.max_length = args->script.max_length});
    return 0;
  } catch (const kto::UsageError& error) {
    std::cerr << "train_kto: error: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "train_kto: error: " << error.what() << '\n';
    return 1;
  }
}
