// SPDX-License-Identifier: Apache-2.0
// The options of ScriptConfig as a table: what each means, which values it takes, and what is refused and why.
#pragma once

#include "kto/cli/script_rows.hpp"

namespace kto::cli {

/// Says of which options the value changes nothing, and beside which others.
inline void add_unused_script_options(Options<ScriptConfig>& rows) {
  using C = ScriptConfig;
  detail::set_unused(rows, {"run_name"}, "there is no report_to", [](const C& c) { return !c.report_to; });
  detail::set_unused(rows, {"project"}, "report_to names no tracker",
                     [](const C& c) { return !reports_to(c, "trackio") && !reports_to(c, "wandb"); });
  detail::set_unused(rows, {"logging_dir"}, "report_to does not name tensorboard",
                     [](const C& c) { return !reports_to(c, "tensorboard"); });
  detail::set_unused(
      rows, {"hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_revision", "hub_always_push"},
      "it only applies with push_to_hub", [](const C& c) { return !c.push_to_hub; });
  detail::set_unused(rows, {"push_to_hub"}, "nothing is trained", [](const C& c) { return !c.do_train; });
  detail::set_unused(rows, {"padding_value", "pad_to_multiple_of"}, "packed rows have no padding (see collator)",
                     [](const C& c) { return c.collator != CollatorType::padded; });
  detail::set_unused(rows, {"precompute_ref_batch_size"}, "there is no precompute_ref_log_probs",
                     [](const C& c) { return !c.precompute_ref_log_probs; });
  detail::set_unused(rows, {"reuse_ref_log_probs"}, "precompute_ref_log_probs asks about each row before training",
                     [](const C& c) { return c.precompute_ref_log_probs; });
  detail::set_unused(rows, {"ref_model_mixup_alpha", "ref_model_sync_steps"}, "there is no sync_ref_model",
                     [](const C& c) { return !c.sync_ref_model; });
  detail::set_unused(rows, {"bf16_full_eval", "fp16_full_eval"},
                     "it is of evaluations outside training, which do_eval asks for",
                     [](const C& c) { return !c.do_eval; });
}

/// The rows for ScriptConfig.
inline const Options<ScriptConfig>& script_options() {
  using C = ScriptConfig;
  static const Options<C> table = [] {
    const auto text = [](Option<C> row, std::string placeholder, bool required = false) {
      row.placeholder = std::move(placeholder);
      row.required = required;
      return row;
    };
    const auto is_device = [](const std::string& s) {
      const std::string_view kind = std::string_view(s).substr(0, s.find(':')),
                             number = std::string_view(s).substr(kind.size());
      return !kind.empty() && kind.find_first_not_of("abcdefghijklmnopqrstuvwxyz") == kind.npos &&
             s.find("auto:") != 0 &&
             (number.empty() ||
              (number.size() > 1 && number.size() < 4 && number.find_first_not_of("0123456789", 1) == number.npos));
    };
    Option<C> device =
        text(option(&C::device, "device", group::machine,
                    "where to compute: cpu, cuda or another kind that LibTorch has here (xpu, mps, hpu), "
                    "or one of several, as in cuda:1; auto: its accelerator, else the CPU",
                    {"auto, or LibTorch's name for a device, as in cpu, cuda or cuda:1", {}}),
             "DEVICE");
    device.set = [set = device.set, is_device](C& config, const Json& value) {
      return value.is_string() && is_device(value.get<std::string>()) && set(config, value);
    };
    Options<C> rows{
        text(option(
                 &C::model_name_or_path, "model_name_or_path", group::model,
                 "folder of the model and its tokenizer, or its name on the hub, as in Qwen/Qwen2-0.5B-Instruct: read "
                 "from the hub's cache, and downloaded if it is not there"),
             "DIR", true),
        text(option(&C::model_revision, "model_revision", group::model,
                    "which branch, tag or commit of a model on the hub"),
             "NAME"),
        detail::with_refused(
            option(&C::dtype, "dtype", group::model, "type of the parameters; auto: the type they are stored in"),
            "float16", "float16 has too few bits for parameters that are trained; --fp16 multiplies in it"),
        {.name = "torch_dtype", .alias_of = "dtype"},
        option(&C::disable_dropout, "disable_dropout", group::model, "ignore the dropout of the model's config"),
        option(&C::is_encoder_decoder, "is_encoder_decoder", group::model,
               "whether the model is an encoder-decoder; None: as its config says, which another value contradicts"),
        text(option(&C::dataset_name, "dataset_name", group::data,
                    "a .jsonl, .json, .csv or .parquet file, a pattern of files, or a folder: with train* and test*, "
                    "or with a README.md that names its files, or as save_to_disk writes it; or the name of a data set "
                    "on the hub, as in trl-lib/kto-mix-14k; required unless datasets is given"),
             "PATH"),
        text(option(&C::dataset_config, "dataset_config", group::data,
                    "which of the configurations that the README.md of the data set names; None: its default"),
             "NAME"),
        detail::with_synonyms(datasets_option(), "dataset_mixer|dataset_mixture"),
        option(
            &C::test_split_size, "test_split_size", group::data,
            "share of the rows of the train split, drawn by seed, that is held out as the test split; the others are "
            "shuffled, as datasets' train_test_split does",
            {"None or a number above 0 and below 1", [](double x) { return x > 0 && x < 1; }}),
        option(
            &C::dataset_streaming, "dataset_streaming", group::data,
            "read and tokenize the rows while training goes on, in bounded memory: needs max_steps; rows are visited "
            "in the order of the files, again from the first when they end, and are not shuffled (transformers does "
            "not either); a malformed row ends the run when it is read; a resumed run ends where a row that it was "
            "trained on has changed, while rows after those may change and files may grow; the test split is held in "
            "memory"),
        {.name = "streaming", .is_flag = true, .alias_of = "dataset_streaming", .alias_value = "True"},
        text(
            option(&C::dataset_cache, "dataset_cache", group::data,
                   "folder where tokenized rows are kept under the hash of files, tokenizer and template; None: kto in "
                   "the user's cache folder, and only sets of 20000 rows or more; a damaged file there is noted and "
                   "replaced"),
            "DIR"),
        text(
            option(&C::dataset_train_split, "dataset_train_split", group::data,
                   "split to train on, or rows of it, as datasets has them: train[:1000], train[10%:50%], train+extra"),
            "SPLIT"),
        text(option(&C::dataset_test_split, "dataset_test_split", group::data, "split to evaluate on, likewise"),
             "SPLIT"),
        eval_datasets_option(),
        option(&C::max_length, "max_length", group::data,
               "rows are cut after this many tokens; None: never (512 with max_prompt_length, "
               "max_completion_length or truncation_mode, as in TRL 0.22)",
               {"None or an integer from 2 to 1000000000", [](double x) { return x >= 2 && x <= 1e9; }}),
        option(&C::max_prompt_length, "max_prompt_length", group::data,
               "tokens of the prompt of a row that is longer than max_length, whose completion then gets max_length - "
               "max_prompt_length; of an encoder-decoder model, tokens of any prompt, 512 for None. With this option "
               "or one of the next two, rows become the ids of TRL 0.22: BOS and "
               "EOS are added where they are missing, and no row is dropped. None: 512 where another of the three is "
               "given, else rows are cut from the right and dropped where the prompt fills max_length",
               detail::count(1)),
        option(
            &C::max_completion_length, "max_completion_length", group::data,
            "tokens of a completion, EOS included (TRL 0.22 cuts completions of encoder-decoder models alone, as here "
            "with 128 for None)",
            detail::count(1)),
        option(&C::truncation_mode, "truncation_mode", group::data,
               "which end of a prompt that is cut is kept; None: keep_end where another of these three is given"),
        option(&C::collator, "collator", group::data, "batches without padding, or padded to their longest row"),
        option(&C::share_prompt, "share_prompt", group::data,
               "in packed batches, encode once what prompts share: a prompt that several completions follow (chosen, "
               "rejected, KL pairs), or a beginning of 16 tokens or more, such as a system prompt; the same numbers to "
               "rounding"),
        option(&C::padding_value, "padding_value", group::data,
               "token id that rows are padded with; None: the tokenizer's pad token", detail::count(0)),
        none_also(option(&C::pad_to_multiple_of, "pad_to_multiple_of", group::data,
                         "padded rows have a multiple of this many tokens; None or auto: no such", detail::count(1)),
                  "auto"),
        option(&C::label_pad_token_id, "label_pad_token_id", group::data,
               "of rows that are tokenized already (completion_input_ids, completion_labels, label): the label of what "
               "is not the completion",
               {"an integer from -2147483648 to 2147483647",
                [](double x) { return x >= -2147483648.0 && x <= 2147483647.0; }}),
        option(&C::dataset_num_proc, "dataset_num_proc", group::data,
               "threads that tokenize; None: all cores; the result is the same for any number",
               {"None or an integer from 1 to 1024", [](double x) { return x >= 1 && x <= 1024; }}),
        {.name = "preprocessing_num_workers", .alias_of = "dataset_num_proc"},
        optim_option(),
        text(option(&C::optim_args, "optim_args", group::optimization,
                    "of sgd: momentum, dampening, nesterov; of rmsprop: alpha, eps, momentum, centered; of adagrad: "
                    "lr_decay, eps"),
             "NAME=X,..."),
        {.name = "adafactor", .is_flag = true, .alias_of = "optim", .alias_value = "adafactor"},
        text(option(&C::ref_model_name_or_path, "ref_model_name_or_path", group::reference,
                    "folder or name on the hub of the reference: a model, or an adapter, which is put on its base; "
                    "None: the policy as it starts"),
             "DIR"),
        option(&C::ref_dtype, "ref_dtype", group::reference,
               "type that a reference with weights of its own is held in; None: the policy's, but weights that its "
               "files have "
               "in a narrower type stay there (on the CPU), and are widened at each use to the same numbers"),
        option(
            &C::reuse_ref_log_probs, "reuse_ref_log_probs", group::reference,
            "ask a reference that does not move once about each row and KL pair, on its first visit, and free it when "
            "nothing else will be asked; the same numbers where batches repeat (sequential order, evaluations), else "
            "to rounding; not for streamed rows"),
        option(&C::precompute_ref_log_probs, "precompute_ref_log_probs", group::reference,
               "ask the reference once, before training; results are cached on disk"),
        option(&C::precompute_ref_batch_size, "precompute_ref_batch_size", group::reference,
               "rows a batch of that pass; None: as in training or evaluation", detail::count(1)),
        text(option(&C::ref_logps_cache, "ref_logps_cache", group::reference,
                    "folder of the cache; None: kto in the user's cache folder; a damaged file there is noted and "
                    "replaced"),
             "DIR"),
        option(
            &C::sync_ref_model, "sync_ref_model", group::reference,
            "move the reference towards the policy every ref_model_sync_steps updates (TR-DPO); with an adapter, the "
            "reference's adapter moves"),
        option(&C::ref_model_mixup_alpha, "ref_model_mixup_alpha", group::reference, "the policy's share in that move",
               {"a number from 0 to 1", [](double x) { return x >= 0 && x <= 1; }}),
        option(&C::ref_model_sync_steps, "ref_model_sync_steps", group::reference, "updates between two moves",
               detail::count(1)),
        option(&C::ref_model_ema_decay, "ref_model_ema_decay", group::reference,
               "in place of sync_ref_model: the reference is a moving average of the policy with this decay",
               {"None or a number from 0 to 1", [](double x) { return x >= 0 && x <= 1; }}),
        text(option(&C::adapter_name_or_path, "adapter_name_or_path", group::adapter,
                    "folder or name on the hub of a PEFT LoRA adapter to train on from; it is also the reference, as "
                    "it was"),
             "DIR"),
        text(option(&C::model_adapter_name, "model_adapter_name", group::adapter,
                    "which adapter of that folder to train: a folder in it, or default for itself"),
             "NAME"),
        text(option(&C::ref_adapter_name, "ref_adapter_name", group::adapter,
                    "which adapter of that folder the reference has; None: the trained one, as it was"),
             "NAME"),
        option(&C::use_peft, "use_peft", group::adapter, "train a new LoRA adapter; the reference is the bare model"),
        option(&C::lora_r, "lora_r", group::adapter, "rank", detail::count(1)),
        option(&C::lora_alpha, "lora_alpha", group::adapter, "the update is scaled by lora_alpha / lora_r",
               detail::count(1)),
        option(&C::lora_dropout, "lora_dropout", group::adapter,
               "dropout on the adapter's input; without effect while disable_dropout is on",
               {"a number from 0 to below 1", [](double x) { return x >= 0 && x < 1; }}),
        text(option(&C::lora_target_modules, "lora_target_modules", group::adapter,
                    "names, all-linear, or one regular expression; None: what PEFT adapts in such a model"),
             "NAME..."),
        text(option(&C::lora_modules_to_save, "lora_modules_to_save", group::adapter, "modules to train whole"),
             "NAME..."),
        text(option(&C::lora_task_type, "lora_task_type", group::adapter,
                    "written to adapter_config.json; of encoder-decoder models always SEQ_2_SEQ_LM"),
             "NAME"),
        option(&C::use_rslora, "use_rslora", group::adapter, "scale by lora_alpha / sqrt(lora_r)"),
        option(&C::use_dora, "use_dora", group::adapter, "weight-decomposed LoRA (DoRA)"),
        option(&C::merge_and_unload, "merge_and_unload", group::adapter,
               "save the trained adapter worked into the model"),
        option(&C::do_train, "do_train", group::length, "train; False with --do_eval: only evaluate"),
        option(&C::do_eval, "do_eval", group::evaluation, "evaluate at the end, whatever eval_strategy is"),
        option(&C::bf16_full_eval, "bf16_full_eval", group::evaluation,
               "hold the policy in bfloat16 in evaluations outside training (--do_eval)"),
        option(&C::fp16_full_eval, "fp16_full_eval", group::evaluation,
               "hold the policy in float16 in evaluations outside training (--do_eval)"),
        option(&C::generate_during_eval, "generate_during_eval", group::evaluation,
               "at each evaluation write replies of policy and reference to a few of its prompts into the log, as "
               "eval_samples; the reference of an adapter is the model without it; after precompute_ref_log_probs "
               "there is none, and the policy writes alone"),
        option(&C::generation_num_prompts, "generation_num_prompts", group::evaluation,
               "how many prompts: the first of the test split that differ", detail::count(1)),
        option(&C::generation_max_new_tokens, "generation_max_new_tokens", group::evaluation,
               "longest of those replies, in tokens", detail::count(1)),
        option(&C::generation_temperature, "generation_temperature", group::evaluation,
               "0: always the likeliest token; above: drawn, from seed, alike at each evaluation",
               {"0, or a number of 1.2e-38 or more", [](double x) { return x == 0 || x >= 1.2e-38; }}),
        option(&C::auto_find_batch_size, "auto_find_batch_size", group::length,
               "when memory runs out, start over with half of per_device_train_batch_size"),
        option(&C::model_init_kwargs, "model_init_kwargs", group::model,
               "\"dtype\" in place of --dtype, \"revision\" in place of --model_revision"),
        option(&C::ref_model_init_kwargs, "ref_model_init_kwargs", group::reference,
               "\"dtype\" in place of --ref_dtype; \"revision\" of a reference on the hub"),
        detail::with_synonyms(report_option(), "wandb_project|wandb_entity|logger"),
        text(option(&C::logging_dir, "logging_dir", group::output,
                    "folder of TensorBoard's event files; None: runs in output_dir, and in that run_name (with _ for "
                    "/), if there is one"),
             "DIR"),
        text(option(&C::run_name, "run_name", group::output, "name of this run in the reports"), "NAME"),
        text(option(&C::project, "project", group::output, "project of this run, for trackers"), "NAME"),
        option(&C::push_to_hub, "push_to_hub", group::output,
               "keep a repository on the hub in step with the run: as hub_strategy says, in the background, and the "
               "trained model at the end. It is created before training. A push that fails is noted, and the program's "
               "exit status is then 1. After SIGINT or SIGTERM the checkpoint that is saved is pushed like any other, "
               "and the trained model is not"),
        text(option(&C::hub_model_id, "hub_model_id", group::output,
                    "its name there: owner/name, or a name alone, the user's own; None: the name of output_dir"),
             "NAME"),
        option(&C::hub_strategy, "hub_strategy", group::output,
               "end: push the trained model; every_save: also the model of each checkpoint; checkpoint: also the "
               "newest checkpoint, as last-checkpoint, to resume from; all_checkpoints: also each by its name"),
        hub_token_option(),
        option(&C::hub_private_repo, "hub_private_repo", group::output,
               "whether a repository that is created is private; None: as its owner's are"),
        text(option(&C::hub_revision, "hub_revision", group::output,
                    "branch to push to, which is created if it is missing; None: main"),
             "NAME"),
        option(&C::hub_always_push, "hub_always_push", group::output,
               "push each checkpoint, after those before it; False: skip those that are saved while a push is under "
               "way"),
        {.name = "push_to_hub_model_id", .alias_of = "hub_model_id"},
        {.name = "push_to_hub_token", .alias_of = "hub_token"},
        option(&C::disable_tqdm, "disable_tqdm", group::output, "no progress bar; None: none unless on a terminal"),
        device,
        option(&C::nproc, "nproc", group::machine,
               "processes that train together on this machine, which the program starts itself; for more machines, or "
               "with torchrun, srun or mpirun, start the program with those alone",
               {"an integer from 1 to 1024", [](double x) { return x >= 1 && x <= 1024; }}),
        option(&C::ddp_backend, "ddp_backend", group::machine,
               "what carries tensors between processes; None: nccl for CUDA devices, if this build has it, else gloo"),
        option(&C::ddp_timeout, "ddp_timeout", group::machine,
               "seconds that a process waits for the others before it ends", detail::count(1)),
        option(&C::trl_defaults, "trl_defaults", group::machine,
               "TRL's defaults where others are kept here; options that are given go before them"),
        option(&C::logits_tile_mib, "logits_tile_mib", group::machine,
               "MiB of float32 logits that are held at once: more take fewer and larger kernels; None: 8 on the CPU, "
               "where they stay in a cache, else 256",
               {"None or an integer from 1 to 65536", [](double x) { return x >= 1 && x <= 65536; }}),
        option(
            &C::matmul, "matmul", group::machine,
            "library of float32 products on the CPU; auto: as the environment variable KTO_MATMUL says, else oneDNN on "
            "AMD processors and LibTorch's choice on others"),
        {.name = "use_cpu", .is_flag = true, .alias_of = "device", .alias_value = "cpu"},
        {.name = "no_cuda", .is_flag = true, .alias_of = "device", .alias_value = "cpu"},
    };
    add_unused_script_options(rows);
    detail::add_taken(rows, taken_script_options());
    detail::add_refused(rows, refused_script_options());
    return rows;
  }();
  return table;
}

}  // namespace kto::cli
