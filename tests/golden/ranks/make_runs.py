#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the runs of one number of processes into runs.json: what TRL 1.16's KTOTrainer logs on them, for rows of
examples/data and the tiny model of tests/e2e/tiny_model.py. tests/e2e/recorded_runs.py replays them. The rows fill the batches of
all processes: TRL counts some twice otherwise. Needs torch, trl, transformers, peft.

usage: torchrun --nproc_per_node 2 make_runs.py; torchrun --nproc_per_node 4 make_runs.py"""
import json
import os
import sys
import tempfile

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(here))
from trl_runs import arguments, log_of, root, write_runs

import torch
import torch.distributed
from datasets import Dataset, load_from_disk
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from peft import PeftModel
from trl import KTOConfig, KTOTrainer

from tiny_model import make_adapter, make_model

COMMON = dict(per_device_train_batch_size=2, max_steps=4, learning_rate=1e-3, max_length=128, logging_steps=1, seed=42)
evaluated = lambda **flags: dict(eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=2, **flags)
CASES = {  # name: (processes, rows, rows to evaluate on, flags, with an adapter)
    "two_evaluated": (2, 16, 8, evaluated(include_num_input_tokens_seen="non_padding"), False),
    "two_accumulated_by_epoch": (2, 16, 0, dict(gradient_accumulation_steps=2, max_steps=-1, num_train_epochs=2, logging_strategy="epoch",
                                                lr_scheduler_type="cosine", warmup_steps=1), False),
    "two_shuffled_without_baseline": (2, 16, 8, dict(loss_type="apo_zero_unpaired", train_sampling_strategy="random", max_steps=-1, num_train_epochs=1,
                                                     logging_steps=3, eval_strategy="epoch", desirable_weight=1.5), False),
    "two_adapter_precomputed": (2, 16, 8, evaluated(precompute_ref_log_probs=True), True),
    "four_accumulated": (4, 32, 16, evaluated(gradient_accumulation_steps=2, max_grad_norm=0.1), False),
}
KEPT = ("loss", "grad_norm", "learning_rate", "kl", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logits/rejected",
        "entropy", "num_tokens", "eval_loss", "eval_kl", "eval_rewards/chosen", "eval_logps/rejected", "num_input_tokens_seen", "epoch", "step")
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
rows = [json.loads(line) for line in open(os.path.join(root, "examples", "data", "train.jsonl"), encoding="utf-8")]
with open(os.path.join(here, "runs.json")) as f:
    recorded = {run["name"]: run for run in json.load(f)}
tmp = os.path.join(tempfile.gettempdir(), "kto_ranks_" + os.environ["MASTER_PORT"])
torch.distributed.init_process_group("gloo")
if rank == 0:
    os.makedirs(tmp)
    make_adapter(os.path.join(tmp, "adapter"), make_model(os.path.join(tmp, "model"), root))
    for name, (_, num_rows, num_eval_rows, *_) in CASES.items():  # in files: their caches are then those of all processes
        Dataset.from_list(rows[:num_rows]).save_to_disk(os.path.join(tmp, name, "train"))
        Dataset.from_list(rows[-num_eval_rows or -1:]).save_to_disk(os.path.join(tmp, name, "test"))
torch.distributed.barrier()
for name, (ranks, num_rows, num_eval_rows, flags, with_adapter) in CASES.items():
    if ranks != world:
        continue
    load = lambda: AutoModelForCausalLM.from_pretrained(os.path.join(tmp, "model"), dtype=torch.float32)
    policy = PeftModel.from_pretrained(load(), os.path.join(tmp, "adapter"), is_trainable=True) if with_adapter else load()
    args = arguments(KTOConfig, tmp, **{**COMMON, **flags})
    data = lambda split: load_from_disk(os.path.join(tmp, name, split))
    extra = {"eval_dataset": data("test")} if num_eval_rows else {}
    trainer = KTOTrainer(model=policy, ref_model=None if with_adapter else load(), args=args, train_dataset=data("train"),
                         processing_class=PreTrainedTokenizerFast.from_pretrained(os.path.join(tmp, "model")), **extra)
    trainer.train()
    flags = {k: str(v) for k, v in {**COMMON, **flags}.items()}
    recorded[name] = {"name": name, "ranks": ranks, "num_rows": num_rows, "num_eval_rows": num_eval_rows, "flags": flags,
                      **({"adapter": True} if with_adapter else {}), "log": log_of(trainer, KEPT.__contains__)}
    if rank == 0:
        print(name, [round(entry.get("loss", entry.get("eval_loss")), 4) for entry in recorded[name]["log"]])
if rank == 0:
    write_runs(os.path.join(here, "runs.json"), [recorded[name] for name in CASES if name in recorded])
