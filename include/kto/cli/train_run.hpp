// SPDX-License-Identifier: Apache-2.0
// Trains, or evaluates, one run with its loss.
#pragma once

#include <algorithm>
#include <limits>
#include <string_view>
#include <type_traits>

#include "kto/cli/any_loss.hpp"
#include "kto/cli/optimizer.hpp"
#include "kto/cli/precompute.hpp"
#include "kto/cli/save_run.hpp"
#include "kto/collate/paired.hpp"
#include "kto/core/version.hpp"
#include "kto/train/trainer.hpp"

namespace kto::cli {

/// `layout`, for pairs where the loss compares them.
template <class Loss>
auto collator_for(const RuntimeCollator& layout) {
  if constexpr (Loss::needs.chosen_rejected)
    return PairedCollator<RuntimeCollator>{layout};
  else
    return layout;
}

template <class Loss, class Reference>
void train(const Run& run, const Loss& loss, const Reference& reference) {
  const auto& args = run.args;
  Trainer trainer{.model = run.policy.model,
                  .collator = collator_for<Loss>(run.collator),
                  .loss = loss,
                  .reference = reference,
                  .config = args.train,
                  .callbacks = make_callbacks(run),
                  .evaluation = evaluation_hooks(run, reference),
                  .optimizer = make_any_optimizer(args.script, args.train),
                  .checkpointing = {.save_model = [&](const fs::path& folder) { save_policy(run.policy, folder); },
                                    .arguments = run.arguments,
                                    .files = run.rows_files,
                                    .model_card = model_card(args, run.loss, run.policy, library_version)},
                  .world = run.world};
  Json eval_metrics = Json::object();
  const auto evaluate = [&](std::int64_t num_tokens) {
    if (!args.script.bf16_full_eval && !args.script.fp16_full_eval)
      return trainer.evaluate(run.rows.evaluation_sets(), "eval_", num_tokens);
    auto evaluator = trainer;
    evaluator.model = narrow_copy(trainer.model, args.script.fp16_full_eval ? at::kHalf : at::kBFloat16);
    return evaluator.evaluate(run.rows.evaluation_sets(), "eval_", num_tokens);
  };
  if (!args.script.do_train) {
    eval_metrics = evaluate(0);
    on_first(run.world, [&] {
      print_evaluation(eval_metrics);
      write_file(fs::path(args.train.output_dir) / "eval_results.json", eval_metrics.dump(2) + "\n");
    });
    return;
  }
  Plan plan;
  Callback keep_plan;
  keep_plan.on_train_begin = [&](const TrainerState&, const Plan& made) { plan = made; };
  trainer.callbacks.push_back(std::move(keep_plan));
  const TrainerState state = [&] {
    if constexpr (!FixesKlPairs<Reference>)
      if (run.rows.stream) return trainer.train(*run.rows.stream, run.rows.evaluation_sets());
    return trainer.train(run.rows.train, run.rows.evaluation_sets());
  }();
  if (state.interrupted) {
    if (list_checkpoints(args.train.output_dir).empty()) throw Interrupted{};
    run.note(concat("stopped after step ", state.global_step, "; go on with --resume_from_checkpoint True"));
    run.pushing.wait();
    return;
  }
  if (args.script.do_eval) try {
      eval_metrics = evaluate(state.num_tokens);
      eval_metrics["epoch"] = state.epoch;
      if (run.world.is_first()) print_evaluation(eval_metrics);
    } catch (const Interrupted&) {
      run.note("the evaluation after training is broken off; the trained model is saved without it");
    }
  on_first(run.world, [&] {
    save_run(args, run.arguments, run.loss, run.policy, state, plan, eval_metrics, library_version);
    std::cout << "Model saved to " << printable(args.train.output_dir) << std::endl;
  });
  try {
    run.pushing.end();  // the other ranks do not wait for it
  } catch (const Interrupted&) {
    run.note(concat("stopped before the trained model was pushed to ", run.pushing.id, ": push_to_hub uploads ",
                    args.train.output_dir));
  }
}

/// Whether a row's log-probs do not depend on the others of its batch, but for rounding.
inline bool rows_stand_alone(const ModelSpec& spec) {
  return std::ranges::all_of(spec.ropes, [](const RopeConfig& rope) {
    return have_same_angles(rope, 1, std::numeric_limits<std::int64_t>::max());
  });
}

/// The reference of `run` that does not move.
inline ReusedReference<HeldReference> fixed_reference(const Run& run) {
  const Arguments& args = run.args;
  const auto hold = [](const LiveReference<Decoder>& live) {
    return HeldReference{.model = live.model, .starts_as_policy = live.starts_as_policy};
  };
  auto out = reused(hold(run.policy.copy_reference()));
  out.reuses = args.script.reuse_ref_log_probs;
  out.reuses_training_rows =
      args.train.train_sampling_strategy == SamplingStrategy::sequential || rows_stand_alone((*out.held)->model.spec);
  if (!args.script.generate_during_eval)  // which has the reference write
    out.make_again = [hold, load = run.policy.load_reference] { return hold(load()); };
  return out;
}

/// The same with the reference that the arguments ask for.
template <class Loss>
void train(const Run& run, const Loss& loss) {
  const ScriptConfig& script = run.args.script;
  if (script.precompute_ref_log_probs) return train(run, loss, precompute(run, Loss::needs));
  if (!script.sync_ref_model && !script.ref_model_ema_decay) return train(run, loss, fixed_reference(run));
  HeldReference reference{.model = run.policy.moving_reference()};
  (void)followed_parameters(reference.model, run.policy.model);  // throws now and not at the first move
  reference.share = script.sync_ref_model ? script.ref_model_mixup_alpha : 1 - *script.ref_model_ema_decay;
  if (script.sync_ref_model) reference.every = script.ref_model_sync_steps;
  train(run, loss, reused(std::move(reference)));
}

/// Whether a command line takes it: see CommandLineLoss.
template <class Loss>
inline constexpr bool is_sound = NamesItself<Loss> && ListsOptions<Loss> && LossPolicy<Loss, Tensor>;

/// Trains `run` with the one of `Losses` that its arguments name.
template <class... Losses>
void train_chosen(const Run& run, const LossTable& losses) {
  const std::string_view name = losses.chosen(run.args.loss).name;
  const auto train_if_named = [&]<class Loss>(std::type_identity<Loss>) {
    if (name == Loss::name) train(run, AnyLossLike<Loss, Losses...>{make_loss<Loss>(run.args.loss.values)});
  };
  (train_if_named(std::type_identity<Losses>{}), ...);
}

}  // namespace kto::cli
