// SPDX-License-Identifier: Apache-2.0
// A training program in one line: the command line, files and log of train_kto over losses of one's own choice.
//
//   int main(int argc, char** argv) { return kto::cli::train_main<kto::Kto, MyLoss>(argc, argv); }
//
// --loss_type my_loss trains MyLoss, whose fields are flags as it lists them (kto/loss/option.hpp); the first loss is the
// default.
#pragma once

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "kto/cli/load_run.hpp"
#include "kto/cli/start.hpp"
#include "kto/cli/train_run.hpp"
#include "kto/core/allocator.hpp"
#include "kto/train/callbacks/stop_signals.hpp"
#include "kto/train/checkpoint/output_folder.hpp"
#include "kto/train/contract.hpp"

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

/// Trains `run` with the one of `Losses` that its arguments name.
template <class... Losses>
void train_chosen(const Run& run, const LossTable& losses) {
  const std::string_view name = losses.chosen(run.args.loss).name;
  const auto train_if_named = [&]<class Loss>(std::type_identity<Loss>) {
    if (name == Loss::name) train(run, AnyLossLike<Loss, Losses...>{make_loss<Loss>(run.args.loss.values)});
  };
  (train_if_named(std::type_identity<Losses>{}), ...);
}

/// What a loss must have for a command line. Each requirement is one static_assert whose text says what to write.
template <class Loss>
struct CommandLineLoss {
  static_assert(NamesItself<Loss> && ListsOptions<Loss>,
                "kto: write `static constexpr std::string_view name = \"my_loss\";`, its value of --loss_type, and "
                "`static constexpr auto options() { return std::tuple{kto::LossOption{\"beta\", &MyLoss::beta, \"what "
                "it means\"}}; }`, its flags, in your loss; see kto/loss/option.hpp");
  static_assert(!Observes<Loss, Tensor> || HasState<Loss>,
                "kto: your loss observes: write `template <class Archive> void visit_state(Archive&)` in it, which "
                "lists what a checkpoint has to keep; see kto/io/state.hpp");
  static_assert(sizeof(LossContract<Loss>) > 0);
};
template <class Loss>
inline constexpr bool is_sound = NamesItself<Loss> && ListsOptions<Loss> && LossPolicy<Loss, Tensor>;

template <class... Losses>
constexpr bool names_differ() {
  std::array names{std::string_view(Losses::name)...};
  std::ranges::sort(names);
  return std::ranges::adjacent_find(names) == names.end();
}

/// The whole program; returns its exit status.
template <class... Losses>
int train_main(int argc, char** argv) {
  static_assert(sizeof...(Losses) > 0, "kto: train_main needs a loss: kto::cli::train_main<kto::Kto>(argc, argv)");
  static_assert((sizeof(CommandLineLoss<Losses>) + ... + 0) >= sizeof...(Losses));
  if constexpr (sizeof...(Losses) > 0 && (is_sound<Losses> && ...)) {
    static_assert(names_differ<Losses...>(), "kto: two losses of train_main have the same name; rename one");
    const LossTable& losses = loss_table<Losses...>();
    return run_program(argc, argv, losses, [&](const Run& run) { train_chosen<Losses...>(run, losses); });
  } else {
    return 2;
  }
}

}  // namespace kto::cli
