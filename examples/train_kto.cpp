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

kto::Decoder load_model(const kto::Arguments& args, at::Device device) {
  at::ScalarType dtype = at::kFloat;
  if (args.script.dtype == kto::ModelDtype::bfloat16) dtype = at::kBFloat16;
  if (args.script.dtype == kto::ModelDtype::as_stored) dtype = kto::stored_dtype(args.script.model_name_or_path);
  kto::check(dtype != at::kHalf, args.script.model_name_or_path,
             ": is stored in float16, and training float16 parameters is not supported; use --dtype float32");
  kto::Decoder model = kto::load_pretrained(args.script.model_name_or_path, dtype, device);
  kto::check(args.script.disable_dropout || model.config.attention_dropout == 0, args.script.model_name_or_path,
             ": config.json has attention_dropout ", model.config.attention_dropout,
             ", which is not supported in training; leave --disable_dropout True");
  if (args.train.bf16 || dtype == at::kBFloat16) model.compute = at::kBFloat16;
  model.recompute = args.train.gradient_checkpointing;
  return model;
}

/// Writes what transformers' Trainer leaves in its output folder.
void save(const kto::Arguments& args, const kto::Decoder& model, const kto::TrainerState& state, const kto::Plan& plan,
          const Json& eval_metrics) {
  const fs::path folder = args.train.output_dir;
  const auto write = [&](const char* name, const Json& content) {
    kto::write_file(folder / name, content.dump(2) + "\n");
  };
  kto::save_pretrained(model, folder, args.script.model_name_or_path);
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

template <class Collator, class Loss>
void run(const kto::Arguments& args, const Collator& collator, const Loss& loss) {
  check_output_folder(args.train);
  const bool evaluates = args.script.do_eval || args.train.eval_strategy != kto::IntervalStrategy::no;
  const kto::Processor processor(args.script.model_name_or_path);
  const auto train_rows = load_examples(args, args.script.dataset_train_split, processor);
  const auto eval_rows =
      evaluates ? load_examples(args, args.script.dataset_test_split, processor) : std::vector<kto::Example>{};
  if (const auto advice =
          kto::weight_balance(train_rows, args.train.desirable_weight, args.train.undesirable_weight).advice())
    note(*advice);
  const kto::Decoder model = load_model(args, choose_device(args.script.device));
  fs::create_directories(args.train.output_dir);

  kto::Trainer trainer{.model = model,
                       .collator = collator,
                       .loss = loss,
                       .reference = kto::live_reference(model),
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
  save(args, model, state, kto::make_plan(args.train, static_cast<std::int64_t>(train_rows.size())), eval_metrics);
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
