// SPDX-License-Identifier: Apache-2.0
// --push_to_hub of a run.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "kto/cli/arguments.hpp"
#include "kto/hub/push_run.hpp"
#include "kto/train/callbacks.hpp"

namespace kto::cli {

/// How a run pushes; empty where it does not.
struct Pushing {
  std::string id;                      ///< owner/name
  Callback callback = {};              ///< of the trainer
  std::function<void()> wait = [] {};  ///< at the end of a run that is stopped
  std::function<void()> end = [] {};   ///< when the trained model is saved; throws Error if a push failed
};

/// Creates the repository that `args` name, if they do and it is missing. Throws Error if pushes to it cannot work.
inline Pushing begin_pushing([[maybe_unused]] const Arguments& args, [[maybe_unused]] const Note& note) {
#if defined(KTO_HAS_HUB)
  const ScriptConfig& script = args.script;
  if (script.push_to_hub && script.do_train) {
    const auto pusher =
        std::make_shared<hub::RunPusher>(hub::RunPush{.push = {.id = script.hub_model_id.value_or(output_name(args)),
                                                               .revision = script.hub_revision.value_or("main"),
                                                               .is_private = script.hub_private_repo,
                                                               .token = script.hub_token.value_or("")},
                                                      .folder = args.train.output_dir,
                                                      .strategy = script.hub_strategy,
                                                      .always = script.hub_always_push,
                                                      .saves_by_epoch = args.train.save_strategy != SaveStrategy::steps,
                                                      .note = note});
    return {.id = pusher->id(),
            .callback = hub::push_saves(pusher),
            .wait = [pusher] { pusher->wait(); },
            .end = [pusher] { pusher->end(); }};
  }
#endif
  return {};
}

}  // namespace kto::cli
