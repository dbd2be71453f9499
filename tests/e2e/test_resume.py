# SPDX-License-Identifier: Apache-2.0
"""test_resume.py TRAIN_KTO ADAPTER MINIMAL SOURCE_ROOT: a run that is stopped in the middle and resumed equals the uninterrupted run,
to the last bit of its weights and its log, with every kind of policy that has state; from code too (examples/adapter.cpp).
examples/minimal.cpp trains as train_kto does. Standard library only."""
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile

from runs import Runs

train_kto, adapter, minimal, root = sys.argv[1:5]
with tempfile.TemporaryDirectory() as tmp:
    runs = Runs(train_kto, root, tmp)
    common = ["--train_sampling_strategy", "random", "--max_steps", "7", "--gradient_accumulation_steps", "2"]
    lora = ["--use_peft", "--lora_r", "4", "--lora_dropout", "0.2", "--disable_dropout", "False"]
    kinds = {  # what has nothing to do with each other shares a run
        "all weights": [],
        "rows by length, warm-up, cosine, threads that collate": ["--train_sampling_strategy", "group_by_length", "--lr_scheduler_type", "cosine", "--warmup_steps",
                                                                  "2", "--dataloader_num_workers", "3", "--dataloader_prefetch_factor", "3"],
        "LoRA with dropout": lora,
        "DoRA with saved modules": [*lora, "--use_dora", "--lora_modules_to_save", "norm"],
        "TR-DPO, SGD": ["--sync_ref_model", "--ref_model_sync_steps", "2", "--optim", "sgd", "--optim_args", "momentum=0.9"],
        "a moving average as reference": [*lora, "--ref_model_ema_decay", "0.7"],
        "precomputed reference, Adagrad": ["--precompute_ref_log_probs", "--ref_logps_cache", runs.at("cache"), "--optim", "adagrad"],
        "kl_scope window, RMSprop": ["--kl_scope", "window", "--optim", "rmsprop"],
        "bfloat16": ["--dtype", "bfloat16"],
        "float16 with loss scaling": ["--fp16", "--logging_nan_inf_filter", "False"],
        "float16, steps that overflow": ["--fp16", "--desirable_weight", "3e4", "--undesirable_weight", "3e4", "--max_grad_norm", "0.5"],
        "learning rate on a plateau, evaluations": ["--eval_strategy", "steps", "--eval_steps", "1", "--lr_scheduler_type", "reduce_lr_on_plateau",
                                                    "--lr_scheduler_kwargs", '{"patience": 0}'],
        "the best model": ["--eval_strategy", "steps", "--eval_steps", "1", "--load_best_model_at_end", "--metric_for_best_model", "rewards/margins"],
        "NEFTune, Adafactor": ["--neftune_noise_alpha", "5", "--optim", "adafactor"],
        "AdamW with moments in 8 bits": ["--optim", "adamw_8bit"],
        "AdamW with moments in bfloat16, micro-batches by tokens": ["--optim", "adamw_bf16", "--max_tokens_per_batch", "300"],
        "updates in the backward pass": ["--optim_in_backward", "--max_grad_norm", "0", "--gradient_accumulation_steps", "1"],
    }
    for kind, flags in kinds.items():
        flags = [*common, *flags]
        whole = runs.run("whole", *flags)
        if whole.returncode:
            runs.case(kind, False, whole.stderr[-300:])
            continue
        for step in (3, 6):  # in the middle of a log interval, and in the second epoch or third
            shutil.rmtree(runs.at("resumed"), ignore_errors=True)
            result = runs.run("resumed", *flags, "--resume_from_checkpoint", runs.at("whole", f"checkpoint-{step}"))
            if result.returncode:
                runs.case(f"{kind}: from step {step}", False, result.stderr[-300:])
            else:
                runs.same(f"{kind}: from step {step}", "resumed", "whole")
        shutil.rmtree(runs.at("whole"))

    # What is to come may be another: longer, logged, evaluated, saved and reported otherwise
    flags = [*common, "--lr_scheduler_type", "constant"]
    assert runs.run("whole", *flags).returncode == 0
    assert runs.run("short", *flags, "--max_steps", "4").returncode == 0
    from_short = ["--resume_from_checkpoint", runs.at("short", "checkpoint-4")]
    result = runs.run("resumed", *flags, *from_short)
    runs.same("more steps: the longer run", "resumed", "whole")
    runs.case("and it is reported", 'note: the run resumes at step 4 with different settings: max_steps is "7" and was "4"' in result.stdout, result.stdout[-600:])
    shutil.copy(runs.at("data", "test.jsonl"), runs.at("code.jsonl"))
    other = ["--eval_strategy", "steps", "--eval_steps", "2", "--eval_datasets", json.dumps({"chat": "test", "code": runs.at("code.jsonl")}), "--do_eval",
             "--metric_for_best_model", "eval_code_loss", "--load_best_model_at_end", "--early_stopping_patience", "9", "--save_steps", "2", "--logging_steps", "1",
             "--report_to", "jsonl", "--per_device_eval_batch_size", "2", "--run_name", "evening", "--generate_during_eval", "--generation_num_prompts", "1",
             "--generation_max_new_tokens", "2"]
    result = runs.run("watched", *flags, *from_short, *other)
    lines = [json.loads(line) for line in open(runs.at("watched", "metrics.jsonl"))] if result.returncode == 0 else []
    names = [(e["step"], key[5:-5]) for e in lines for key in e if key.startswith("eval_") and key.endswith("_loss")]
    runs.case("an evaluation on several sets is taken up", names == [(6, "chat"), (6, "code"), (7, "chat"), (7, "code")], (result.stderr[-300:], names))
    final = json.load(open(runs.at("watched", "eval_results.json"))) if result.returncode == 0 else {}
    runs.case("at the end, too", {"eval_chat_loss", "eval_code_loss", "eval_code_samples"} <= set(final) and final["eval_chat_loss"] == final["eval_code_loss"], sorted(final))
    told = ['eval_strategy is "steps" and was "no"', 'logging_steps is "1" and was "2"', "report_to is", "the evaluation set chat is new"]
    runs.case("and all of it is reported", all(text in result.stdout for text in told), result.stdout[:900])
    result = runs.run("again", *flags, *other, "--resume_from_checkpoint", runs.at("watched", "checkpoint-6"))
    runs.case("such a run resumes without a note", result.returncode == 0 and "note:" not in result.stdout, (result.stdout[-600:], result.stderr[-300:]))
    runs.same("and is the same", "again", "watched")
    result = runs.run("refused", *flags, *from_short, "--weight_decay", "0.1")
    runs.case("another optimizer is another run", result.returncode == 1 and 'weight_decay is "0.1" and was "0"' in result.stderr, result.stderr[-300:])
    shutil.rmtree(runs.at("resumed"))
    shutil.rmtree(runs.at("whole"))

    # A stream of two files, one compressed, 6 updates a pass
    rows = open(runs.at("data", "train.jsonl"), encoding="utf-8").readlines()
    os.makedirs(runs.at("stream"))

    def write(rows):
        with open(runs.at("stream", "train-0.jsonl"), "w", encoding="utf-8") as file:
            file.writelines(rows[:12])
        with gzip.open(runs.at("stream", "train-1.jsonl.gz"), "wt", encoding="utf-8") as file:
            file.writelines(rows[12:])

    def resumed(step, *more):
        shutil.rmtree(runs.at("resumed"), ignore_errors=True)
        return runs.run("resumed", *stream, "--resume_from_checkpoint", runs.at("whole", f"checkpoint-{step}"), *more, data=runs.at("stream"))

    write(rows)
    stream = ["--dataset_streaming", "--max_steps", "9"]
    assert runs.run("whole", *stream, data=runs.at("stream")).returncode == 0
    for step in (2, 6, 7):
        result = resumed(step)
        runs.same(f"a stream: from step {step}", "resumed", "whole")
    runs.case("without a note", "note:" not in result.stdout, result.stdout[-600:])
    other = [*rows[:13], rows[13].replace("true", "TRUE").replace("false", "true").replace("TRUE", "false"), *rows[14:]]
    for name, now, step, want in (("a changed row", other, 7, r"train-1.jsonl.gz: row 14 has changed since the checkpoint"),
                                  ("a row less", rows[1:], 2, r"train-0.jsonl: row 1 has changed since the checkpoint"),
                                  ("fewer rows", rows[:7], 2, r"train-0.jsonl: ends after 7 rows, but the run was trained on 8"),
                                  ("a shorter second file", rows[:20], 6, r"train-1.jsonl.gz: ends after 20 rows, but the run was trained on 24")):
        write(now)
        result = resumed(step)
        runs.case(f"a stream with {name} since", result.returncode == 1 and want in result.stderr and "ignore_data_skip" in result.stderr, result.stderr[-400:])
    write(other)
    result = resumed(2)
    runs.case("rows to come may change, with a note", result.returncode == 0 and "train-1.jsonl.gz has changed since" in result.stdout, (result.stdout[-300:], result.stderr))
    write([*rows, *rows[:4]])
    result = resumed(6)
    runs.case("and files may grow", result.returncode == 0, result.stderr[-300:])
    write(other)
    result = resumed(7, "--ignore_data_skip")
    runs.case("ignore_data_skip begins at the first row, changed or not", result.returncode == 0, result.stderr[-300:])
    shutil.rmtree(runs.at("whole"))

    # What --auto_find_batch_size found is kept, whatever the command line began with.
    auto = [*common, "--auto_find_batch_size"]
    assert runs.run("whole", *auto, "--per_device_train_batch_size", "2").returncode == 0
    resume = ["--per_device_train_batch_size", "16", "--resume_from_checkpoint", runs.at("whole", "checkpoint-3")]
    result = runs.run("resumed", *auto, *resume)
    runs.case("auto_find_batch_size: the found batch size is reported", "going on with --per_device_train_batch_size 2" in result.stderr, result.stderr[-300:])
    runs.same("auto_find_batch_size: from step 3", "resumed", "whole")
    result = runs.run("refused", *common, *resume)
    runs.case("without it another batch size is another run", result.returncode == 1 and 'per_device_train_batch_size is "16" and was "2"' in result.stderr,
              result.stderr[-300:])

    # A program that composes its Trainer itself, and resumes where it finds a checkpoint.
    def train_adapter(out):
        return subprocess.run([adapter, runs.model, runs.at("data", "train.jsonl"), runs.at(out)], capture_output=True, text=True, env=runs.environment)

    def weights(out):
        with open(runs.at(out, "adapter_model.safetensors"), "rb") as file:
            return file.read()

    from_code = subprocess.run([minimal, runs.model, runs.at("data", "train.jsonl"), runs.at("minimal")], capture_output=True, text=True, env=runs.environment)
    named = runs.run("named", "--num_train_epochs", "1", "--learning_rate", "5e-6", "--max_length", "512", "--logging_steps", "1", "--save_strategy", "no")
    runs.case("minimal.cpp trains", from_code.returncode == 0 == named.returncode and from_code.stdout.count("'loss'") == 6, (from_code, named))
    if from_code.returncode == 0:
        runs.case("minimal.cpp: the weights of the same flags", open(runs.at("minimal", "model.safetensors"), "rb").read() == runs.result("named")[0]["model.safetensors"])

    whole = train_adapter("adapter")
    runs.case("adapter.cpp trains", whole.returncode == 0 and "saved the adapter after 6 updates" in whole.stdout, whole)
    shutil.copytree(runs.at("adapter", "checkpoint-4"), runs.at("adapter_resumed", "checkpoint-4"))
    resumed = train_adapter("adapter_resumed")
    runs.case("adapter.cpp resumes", resumed.returncode == 0 and f"resuming from {runs.at('adapter_resumed', 'checkpoint-4')}" in resumed.stdout, resumed)
    runs.case("adapter.cpp: the same adapter", weights("adapter_resumed") == weights("adapter"), "the weights differ")
    sys.exit(runs.report())
