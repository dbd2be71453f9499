// SPDX-License-Identifier: Apache-2.0
// What a training program does, whichever losses it was compiled with: arguments, processes, the run, and an exit status.
#pragma once

#include <csignal>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "kto/cli/load_run.hpp"
#include "kto/cli/start.hpp"
#include "kto/core/allocator.hpp"
#include "kto/train/callbacks/stop_signals.hpp"
#include "kto/train/checkpoint/output_folder.hpp"

namespace kto::cli {

/// A run that goes on keeps the batch size that --auto_find_batch_size found for it, as transformers does.
inline void use_found_batch_size(TrainConfig& config, const Note& note) {
  const auto folder = checkpoint_to_resume(config);
  if (!folder || !fs::exists(*folder / "trainer_state.json")) return;
  const fs::path file = *folder / "trainer_state.json";
  const auto rows = json_value<std::int64_t>(read_json(file), "train_batch_size", 0, file.string());
  if (rows <= 0 || rows >= config.per_device_train_batch_size) return;
  config.per_device_train_batch_size = rows;
  note(concat("going on with --per_device_train_batch_size ", rows, ", which the run had"));
}

/// load_run() in `world`, and with --auto_find_batch_size again from the start with half the rows a micro-batch while
/// memory runs out on a rank: all then join once more, since some may wait for others.
inline void run_in_memory(Arguments args, const LossTable& losses, const Note& note, Job& job, World& world,
                          const std::function<void(const Run&)>& train) {
  std::optional<OutputFolder> folder;
  on_first(world, [&] {
    check_folders(args.script);
    folder.emplace(args.train.output_dir,
                   /*may_hold_files=*/args.train.overwrite_output_dir || args.train.resume_from_checkpoint.has_value());
    if (args.script.do_train) (void)checkpoint_to_resume(args.train);  // throws now, not when all is read
  });
  if (args.script.auto_find_batch_size) use_found_batch_size(args.train, note);
  for (;;) {
    try {
      return load_run(args, losses, note, world, train);
    } catch (const std::exception& error) {
      std::int64_t& rows = args.train.per_device_train_batch_size;
      const auto* of_other = dynamic_cast<const RankError*>(&error);
      const bool of_memory = of_other ? of_other->may_retry : is_memory_error(error);
      if (!args.script.auto_find_batch_size || !of_memory || rows == 1) throw;
      rows /= 2;
      if (losses.chosen(args.loss).needs.kl_pairs && !has_kl_partners(args.train)) throw;
      args.train.overwrite_output_dir = true;  // what is there is this run's own
      world.fail(error_text(error), /*may_retry=*/true);
      world = {};
      release_freed_memory();
      note(concat("memory ran out; starting over with --per_device_train_batch_size ", rows));
    }
    world = join(job, args);
  }
}

/// What a program does with `train`, which trains a run with the loss that its arguments name, as one process of its job.
/// Returns the exit status.
inline int run_at(const RankPlace& place, int argc, char** argv, const LossTable& losses,
                  const std::function<void(const Run&)>& train) {
  const StopSignals signals(/*says=*/place.rank == 0);
  const std::string name = argc > 0 ? fs::path(argv[0]).filename().string() : "train";
  const std::string shown = name_of_rank(name, place);
  const Note note = [&](const std::string& text) {
    if (place.rank == 0) std::cerr << name << ": " << printable(text) << '\n';
  };
  std::optional<Arguments> args;
  std::vector<std::string> notes;  // for copies, if they are started, to print
  try {
    const Program program{.name = name,
                          .version = library_version,
                          .usage = "--model_name_or_path DIR --dataset_name PATH [--output_dir DIR] [options]",
                          .summary = "Trains a language model on preferences; --loss_type says with which loss."};
    std::ostream nowhere(nullptr);
    args = parse_arguments(argc, argv, program, losses, place.rank == 0 ? std::cout : nowhere,
                           [&](const std::string& text) { notes.push_back(text); });
    if (!args) return 0;
    if (const auto status = launch_ranks(*args, argv, name)) return *status;
    for (const std::string& text : notes) note(text);
  } catch (const std::exception& error) {
    if (place.size > 1 && !report_absence(place, error_text(error))) return exit_status(error);
    return report_error(shown, error);
  }
  World world;
  try {
    keep_freed_memory();
    std::signal(SIGXFSZ, SIG_IGN);                             // a file over the limit is then an error like any other
    if (const char* threads = std::getenv("OMP_NUM_THREADS"))  // --config may have set it after OpenMP looked
      if (const int count = std::atoi(threads); count > 0) at::set_num_threads(count);
    kto::detail::check_tf32(args->train.tf32, choose_device(args->script.device));  // now, not when all is read
    if (args->script.matmul != MatmulChoice::automatic)
      set_matmul_backend(args->script.matmul == MatmulChoice::onednn ? MatmulBackend::onednn : MatmulBackend::aten,
                         "matmul");
    Job job(place, join_options(args->script, place));
    world = start_rank(job, *args, losses);
    run_in_memory(*args, losses, note, job, world, train);
    return signals.exit_status();
  } catch (const Interrupted&) {
    note("stopped; there was nothing to save yet");
    return end_rank(world, "stopped by a signal", signals.exit_status());
  } catch (const std::exception& error) {
    const auto* of_other = dynamic_cast<const RankError*>(&error);
    if (of_other && of_other->reported) return end_rank(world, "", exit_status(error));
    report_error(shown, error);
    if (!of_other && is_memory_error(error))
      std::cerr
          << "memory ran out: lower --per_device_train_batch_size or --max_length, or add --gradient_checkpointing "
             "or --auto_find_batch_size\n";
    return end_rank(world, error_text(error), exit_status(error));
  }
}

/// run_at() for the place that the environment names.
inline int run_program(int argc, char** argv, const LossTable& losses, const std::function<void(const Run&)>& train) {
  RankPlace place;
  try {
    place = read_place();
  } catch (const std::exception& error) {
    return report_error(argc > 0 ? fs::path(argv[0]).filename().string() : "train", error);
  }
  return run_at(place, argc, argv, losses, train);
}

}  // namespace kto::cli
