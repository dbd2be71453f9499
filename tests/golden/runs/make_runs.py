#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes runs.json: what TRL 1.16's KTOTrainer logs under options that change numbers, on rows of examples/data and the
tiny model of tests/e2e/tiny_model.py. tests/e2e/recorded_runs.py replays them. Needs torch, trl, transformers, peft.

usage: make_runs.py [NAME ...]      with names, records only those cases and keeps the others"""
import json
import os
import sys
import tempfile

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(here))
from trl_runs import arguments, log_of, root, write_runs

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from accelerate import Accelerator
from peft import PeftModel
from trl import KTOConfig, KTOTrainer

from tiny_model import make_adapter, make_model



def with_float16(init):
    """accelerate has fp16 compute in float32 on the CPU without a word; torch has autocast and GradScaler there."""
    def patched(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if self.mixed_precision == "fp16":
            self.native_amp, self.scaler = True, torch.amp.GradScaler("cpu")
    return patched


Accelerator.__init__ = with_float16(Accelerator.__init__)
COMMON = dict(per_device_train_batch_size=4, max_steps=4, learning_rate=1e-3, max_length=128, logging_steps=1, seed=42)
evaluated = lambda **flags: dict(eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=4, **flags)
schedule = lambda name, kwargs=None, **flags: dict(lr_scheduler_type=name, max_steps=6, **({"lr_scheduler_kwargs": kwargs} if kwargs else {}), **flags)
moving = lambda **flags: dict(sync_ref_model=True, ref_model_mixup_alpha=0.6, ref_model_sync_steps=2, max_steps=6, **flags)
CASES = {  # name: (rows, rows to evaluate on, flags, and where there are such: adapter, reference)
    "cosine_with_restarts": (16, 0, schedule("cosine_with_restarts", {"num_cycles": 2}, warmup_steps=2)),
    "cosine_with_min_lr": (16, 0, schedule("cosine_with_min_lr", {"min_lr_rate": 0.1}, warmup_steps=0.25)),
    "warmup_stable_decay": (16, 0, schedule("warmup_stable_decay", {"num_decay_steps": 3}, warmup_steps=2)),
    "polynomial": (16, 0, schedule("polynomial", {"power": 2.0})),
    "inverse_sqrt": (16, 0, schedule("inverse_sqrt", warmup_steps=2)),
    "reduce_lr_on_plateau": (16, 4, schedule("reduce_lr_on_plateau", {"patience": 0, "factor": 0.5, "threshold": 0.05}, **evaluated())),
    "greedy": (16, 4, schedule("greedy", {"patience": 0, "factor": 0.5, "min_lr": 1e-5}, **evaluated())),
    "sgd": (16, 0, dict(optim="sgd", optim_args="momentum=0.9,nesterov=true", weight_decay=0.1, learning_rate=0.05)),
    "rmsprop": (16, 0, dict(optim="rmsprop", optim_args="centered=true,momentum=0.5", weight_decay=0.1, learning_rate=1e-4)),
    "adagrad": (16, 0, dict(optim="adagrad", weight_decay=0.1)),
    "adafactor": (16, 0, dict(optim="adafactor", weight_decay=0.1)),
    "decay_groups": (16, 0, dict(weight_decay=5.0, adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6)),
    "no_clipping": (16, 0, dict(max_grad_norm=0)),
    "tight_clipping": (16, 0, dict(max_grad_norm=0.01, optim="sgd", learning_rate=1.0)),
    "uneven_window": (14, 0, dict(per_device_train_batch_size=2, gradient_accumulation_steps=3, max_steps=-1, num_train_epochs=2)),
    "odd_last_batch": (14, 0, dict(max_steps=-1, num_train_epochs=2)),
    "drop_last": (14, 0, dict(max_steps=-1, num_train_epochs=2, dataloader_drop_last=True)),
    "eval_by_epoch_log_every_third": (15, 4, dict(max_steps=-1, num_train_epochs=2, eval_strategy="epoch", logging_steps=3)),
    "eval_delay_steps": (16, 4, evaluated(eval_delay=3)),
    "eval_delay_epochs": (16, 4, dict(max_steps=-1, num_train_epochs=3, eval_strategy="epoch", eval_delay=2)),
    "log_by_epoch_broken_off": (16, 0, dict(max_steps=6, logging_strategy="epoch", logging_first_step=True)),
    "fractions_of_steps": (16, 4, dict(max_steps=7, logging_steps=0.4, eval_strategy="steps", eval_steps=0.5)),
    "tokens_seen": (14, 0, dict(include_num_input_tokens_seen="non_padding")),
    "tokens_seen_with_padding": (14, 0, dict(include_num_input_tokens_seen="all")),
    "truncated_from_the_right": (24, 0, dict(max_length=48)),
    "linear_with_warmup": (16, 0, schedule("linear", warmup_steps=3)),
    "cosine_with_warmup": (16, 0, schedule("cosine", warmup_steps=2)),
    "constant": (16, 0, schedule("constant")),
    "constant_with_warmup": (16, 0, schedule("constant_with_warmup", warmup_steps=3)),
    "cosine_warmup_with_min_lr": (16, 0, schedule("cosine_warmup_with_min_lr", {"min_lr_rate": 0.2, "warmup_lr_rate": 0.1}, warmup_steps=2)),
    "loss_weights": (16, 0, dict(desirable_weight=1.5, undesirable_weight=0.5, beta=0.3)),
    "apo_zero": (16, 4, evaluated(loss_type="apo_zero_unpaired", beta=0.5)),
    "precomputed": (16, 4, evaluated(precompute_ref_log_probs=True)),
    "bf16": (16, 0, dict(bf16=True)),
    "fp16": (16, 0, dict(fp16=True)),
    "fp16_overflow": (16, 0, dict(fp16=True, desirable_weight=10, undesirable_weight=10, max_steps=8, warmup_steps=2)),
    "own_folder_as_reference": (16, 0, {}, dict(reference="model")),
    "own_folder_as_moving_reference": (16, 0, moving(), dict(reference="model")),
    "other_model_as_reference": (16, 4, evaluated(), dict(reference="other")),
    "other_model_as_moving_reference": (16, 4, evaluated(**moving()), dict(reference="other")),
    "adapter_held_to_itself": (16, 4, evaluated(), dict(adapter=True)),
    "adapter_held_to_its_base": (16, 4, evaluated(), dict(adapter=True, reference="model")),
    "adapter_held_to_its_base_precomputed": (16, 4, evaluated(precompute_ref_log_probs=True), dict(adapter=True, reference="model")),
    "adapter_held_to_another_model": (16, 0, {}, dict(adapter=True, reference="other")),
}
KEPT = ("loss", "grad_norm", "learning_rate", "kl", "rewards/chosen", "rewards/rejected", "num_tokens", "eval_loss", "eval_kl",
        "num_input_tokens_seen", "epoch", "step")
rows = [json.loads(line) for line in open(os.path.join(root, "examples", "data", "train.jsonl"), encoding="utf-8")]
names = sys.argv[1:] or list(CASES)
with open(os.path.join(here, "runs.json")) as f:
    recorded = {run["name"]: run for run in json.load(f)}
with tempfile.TemporaryDirectory() as tmp:
    folder = make_model(os.path.join(tmp, "model"), root)
    make_model(os.path.join(tmp, "other"), root, seed=2)
    make_adapter(os.path.join(tmp, "adapter"), folder)
    for name in names:
        num_rows, num_eval_rows, flags, *more = CASES[name]
        parts = more[0] if more else {}
        load = lambda name="model": AutoModelForCausalLM.from_pretrained(os.path.join(tmp, name), dtype=torch.float32)
        policy = PeftModel.from_pretrained(load(), os.path.join(tmp, "adapter"), is_trainable=True) if "adapter" in parts else load()
        reference = load(parts.get("reference", "model")) if "reference" in parts or "adapter" not in parts else None
        args = arguments(KTOConfig, tmp, **{**COMMON, **json.loads(json.dumps(flags))})
        extra = {"eval_dataset": Dataset.from_list(rows[-num_eval_rows:])} if num_eval_rows else {}
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        trainer = KTOTrainer(model=policy, ref_model=reference, args=args, train_dataset=Dataset.from_list(rows[:num_rows]), processing_class=tokenizer, **extra)
        trainer.train()
        log = log_of(trainer, KEPT.__contains__)
        flags = {k: json.dumps(v) if isinstance(v, dict) else str(v) for k, v in {**COMMON, **flags}.items()}
        recorded[name] = {"name": name, "num_rows": num_rows, "num_eval_rows": num_eval_rows, "flags": flags, **parts, "log": log}
        print(name, [round(entry.get("loss", entry.get("eval_loss")), 4) for entry in log])
write_runs(os.path.join(here, "runs.json"), [recorded[name] for name in CASES])
