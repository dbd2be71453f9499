// SPDX-License-Identifier: Apache-2.0
// From arguments to a run: rows, policy and collator, each checked before anything is computed.
#pragma once

#include <algorithm>
#include <functional>

#include "kto/cli/optimizer.hpp"
#include "kto/cli/run.hpp"
#include "kto/data/balance.hpp"
#include "kto/io/folder.hpp"

namespace kto::cli {

/// Refuses folders beside output_dir that are to be written to and cannot be, before anything is computed for them.
inline void check_folders(const ScriptConfig& script) {
  if (script.dataset_cache) check_folder(*script.dataset_cache, "--dataset_cache");
  if (script.ref_logps_cache) check_folder(*script.ref_logps_cache, "--ref_logps_cache");
  if (script.logging_dir && reports_to(script, "tensorboard")) check_folder(*script.logging_dir, "--logging_dir");
}

/// Throws Error when the tokenizer knows ids that the model does not.
inline void check_vocabulary(const Processor& processor, const Decoder& model) {
  const std::int64_t ids = processor.tokenizer().id_end(), vocabulary = model.spec.vocab_size;
  check(ids <= vocabulary, "the tokenizer has ids up to ", ids - 1, ", and the model's vocabulary has ", vocabulary,
        " tokens: they do not belong together");
}

/// The most tokens of a row of `rows`, or, `with_kl`, of a prompt and any completion among them.
inline std::size_t longest_row(std::span<const Example> rows, const Truncation& truncation, bool with_kl) {
  std::size_t longest = 0;
  std::span<const std::int32_t> prompt, completion;
  for (const Example& row : rows) {
    longest = std::max(longest, truncation({row.prompt_ids, row.completion_ids}).size());
    if (row.prompt_ids.size() > prompt.size()) prompt = row.prompt_ids;
    if (row.completion_ids.size() > completion.size()) completion = row.completion_ids;
  }
  return with_kl ? std::max(longest, truncation.mismatched({prompt, completion}, completion).size()) : longest;
}

/// Throws Error when a prompt or a completion may have more tokens than an encoder-decoder has learned positions.
inline void check_positions_apart(const Run& run) {
  const ModelSpec& spec = run.policy.model.spec;
  const auto check_parts = [&](const ModelSpec& stack, auto ids, const char* called, const char* option,
                               std::int64_t limit) {
    const auto most = max_positions(stack);
    if (!most || limit <= *most) return;
    check(!run.rows.stream, "rows that are streamed may have ", called, " of more tokens than the ", *most,
          " that the model has positions for; lower --", option, " to ", *most, " or less");
    const auto check_rows = [&](std::span<const Example> rows) {
      for (const Example& row : rows)
        check(static_cast<std::int64_t>((row.*ids).size()) <= *most, "row ", row.row, " has ", called, " of ",
              (row.*ids).size(), " tokens, and the model has positions for ", *most, "; lower --", option, " to ",
              *most, " or less");
    };
    check_rows(run.rows.train);
    for (const auto& [name, rows] : run.rows.evaluation) check_rows(rows);
  };
  const SeparateTruncation usual;
  const ScriptConfig& script = run.args.script;
  check_parts(spec.encoder.front().stack, &Example::prompt_ids, "a prompt", "max_prompt_length",
              script.max_prompt_length.value_or(usual.max_prompt_length));
  check_parts(spec, &Example::completion_ids, "a completion", "max_completion_length",
              script.max_completion_length.value_or(usual.max_completion_length));
}

/// Throws Error when a row, or a KL pair, may have more tokens than the model has learned positions.
inline void check_positions(const Run& run, const Truncation& truncation, bool with_kl) {
  if (!run.policy.model.spec.encoder.empty()) return check_positions_apart(run);
  const auto most = max_positions(run.policy.model.spec);
  if (!most || (!truncation.parts && truncation.max_length && *truncation.max_length <= *most)) return;
  const auto lower = concat("lower --max_length to ", *most, " or less");
  check(!run.rows.stream || truncation.parts, "rows that are streamed may have more tokens than the ", *most,
        " that the model has positions for; ", lower);
  const auto check_rows = [&](const std::string& which, std::span<const Example> rows) {
    const std::size_t longest = longest_row(rows, truncation, with_kl);
    check(longest <= static_cast<std::size_t>(*most), which, ": ", with_kl ? "rows and KL pairs" : "rows",
          " have up to ", longest, " tokens, and the model has positions for ", *most, "; ", lower);
  };
  check_rows("train", run.rows.train);
  for (const auto& [name, rows] : run.rows.evaluation) check_rows(name.empty() ? "eval" : "eval " + name, rows);
}

/// Notes where the saved model names other special tokens than its base, or an adapter's base ends texts with others.
inline void note_special_tokens(const Policy& policy, bool is_adapter, const Note& note) {
  const auto& eos = policy.tokens.eos;
  if (const std::string text =
          alignment_note(is_adapter ? policy.tokenizer_files : policy.base_files, policy.tokens, is_adapter);
      !text.empty())
    note(text);
  if (!is_adapter || !eos) return;
  const auto ends = read_generation_config(policy.base_files).eos_token_ids;
  if (!ends.empty() && std::ranges::find(ends, eos->id) == ends.end())
    note(concat("completions end with ", eos->text, " (id ", eos->id, "), which the eos_token_id of the base's ",
                "configs does not name: with the adapter, generate() of transformers stops there only when asked "
                "to (eos_token_id=",
                eos->id, "); chat does"));
}

/// Says what all-linear leaves out that PEFT adapts.
inline void note_experts(const Decoder& model, const LoraConfig& asked, const Note& note) {
  if (asked.target_pattern == "all-linear" && !lora_names_of_experts(model.spec).empty())
    note("all-linear adapts the linear layers outside of experts and their routers, which PEFT would adapt, too");
}

/// Says how products of bf16 and fp16 are made where the processor has no instructions for them.
inline void note_products(const Decoder& model, const Note& note) {
  const auto type = model.compute;
  if (model.embed_tokens.weight_VD.is_cpu() && !detail::has_products_of(type))
    note(concat("this processor has no instructions for products of ", type == at::kHalf ? "float16" : "bfloat16",
                ": they are float32's, of numbers rounded to it, and take a little longer than in float32"));
}

/// Runs `load` on rank 0, then on the others, which find what it has left in caches.
inline void load_in_turn(const World& world, const std::function<void()>& load) {
  on_first(world, load);
  if (world.alone()) return;
  together(world, [&] {
    if (!world.is_first()) load();
  });
}

/// Loads what `args` name and calls train(run).
inline void load_run(const Arguments& given, const LossTable& losses, const Note& note, const World& world,
                     const std::function<void(const Run&)>& train) {
  (void)make_any_optimizer(given.script, given.train);  // throws for optim_args that do not belong
  Arguments on_disk = given;
  Pushing pushing;
  on_first(world, [&] { pushing = begin_pushing(given, note); });
  on_disk.script = with_folders(given.script, note);
  if (given.script.push_to_hub) on_disk.script.hub_model_id = pushing.id;
  const fs::path folder = model_folder(on_disk.script);
  const ModelSpec spec = read_model_config(folder);
  Arguments args = for_model(on_disk, spec, folder);
  if (!world.is_first()) args.script.disable_tqdm = true;
  const bool evaluates = args.script.do_eval || args.train.eval_strategy != IntervalStrategy::no;
  const Processor processor(tokenizer_folder(args));
  const NamedTokens tokens = processor.named_tokens();
  const LossEntry& loss = losses.chosen(args.loss);
  Run run{.args = args,
          .loss = loss,
          .arguments = to_json(argument_options(losses), given),
          .note = note,
          .rows = {},
          .policy = {},
          .collator = make_collator(args.script, tokens),
          .rows_files = {},
          .tokenizer = &processor.tokenizer(),
          .world = world,
          .pushing = pushing};
  load_in_turn(world, [&] { run.rows = load_rows(args, loss, evaluates, tokenizer_folder(args), processor, note); });
  for (const EncoderSpec& encoder : spec.encoder)
    run.collator.of_encoder_decoder = EncoderDecoderCollator{.start_token_id = encoder.start_token_id};
  together(world, [&] {
    if (const auto advice =
            weight_balance(run.rows.train, args.train.desirable_weight, args.train.undesirable_weight).advice())
      note(*advice);
    run.policy = load_policy(args);
    note_products(run.policy.model, note);
    if (args.script.use_peft && !args.script.adapter_name_or_path)
      note_experts(run.policy.model, lora_config(args.script), note);
    run.policy.tokenizer_files = tokenizer_folder(args);
    run.policy.tokens = tokens;
    check_vocabulary(processor, run.policy.model);
    check_positions(run, truncation_of(args.script, tokens), loss.needs.kl_pairs);
    check(run.collator.pad_id < run.policy.model.spec.vocab_size, "padding_value is ", run.collator.pad_id,
          ", and the model's vocabulary has ", run.policy.model.spec.vocab_size, " tokens");
    if (args.script.do_train)
      note_special_tokens(run.policy, run.policy.adapter && !args.script.merge_and_unload, note);
    if (args.script.do_train && loss.needs.kl_pairs)  // its ranges are those of KTO
      for (const std::string& advice : config_advice(of_all_ranks(args.train, world))) note(advice);
    run.rows_files = hash_rows_files(run.rows);
  });
  train(run);
}

}  // namespace kto::cli
