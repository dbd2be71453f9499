// SPDX-License-Identifier: Apache-2.0
// A training program in one line: the command line, files and log of train_kto over losses of one's own choice.
//
//   int main(int argc, char** argv) { return kto::cli::train_main<kto::Kto, MyLoss>(argc, argv); }
//
// --loss_type my_loss trains MyLoss, whose fields are flags as it lists them (kto/loss/option.hpp); the first loss is the
// default.
#pragma once

#include "kto/cli/program.hpp"
#include "kto/cli/train_run.hpp"
#include "kto/train/contract.hpp"

namespace kto::cli {

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

/// The whole program, with all options of train_kto and `Losses`, of which the first is the default. Returns the exit
/// status: 0, 1 after an error, 2 after one in the request, 128 + its number after a signal.
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
