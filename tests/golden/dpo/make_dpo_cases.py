#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes runs.json: what TRL's DPOTrainer logs for paired rows, and the rows themselves (*.jsonl, made from examples/data).
The model is the tiny llama of tests/e2e/tiny_model.py, so nothing else is needed to repeat a run.

usage: make_dpo_cases.py [NAME ...]      with names, records only those runs and keeps the others
Recorded with trl 1.16.0, transformers 5.24.0, peft 0.21.2, torch 2.13.0 (CPU, one thread, float32).

A run has the form of tests/golden/runs/runs.json, plus `rows`, the file its rows are in: the first `num_rows` train, the last
`num_eval_rows` are evaluated on. `flags` are DPOConfig's; rows are read in order (train_sampling_strategy=sequential;
DPOTrainer shuffles by default). Dropout is 0. `first_batch` holds, for the first micro-batch, each row's summed log-probability of
its completion under policy and reference, and the number of completion tokens after truncation.

Where DPOTrainer differs from KTOTrainer (both TRL 1.16):
 - A batch of B rows is B pairs: 2B sequences. num_tokens counts both of them, the prompt in each.
 - The loss of a micro-batch is the mean over its pairs; apo_zero and apo_down are sums of two terms a pair (1 at the start, not
   0.5). As in KTOTrainer the micro-batches of a window weigh the same, however many rows each has, and a short last window is
   divided by the number of its own micro-batches.
 - Every metric is a mean over the pairs of a micro-batch, then an unweighted mean over the micro-batches since the last log.
   KTOTrainer does the same, but leaves out micro-batches without a chosen (or rejected) row; here every micro-batch has both.
 - eval_loss is a mean over rows (transformers weights the batches by their size), the other eval_* metrics are unweighted
   means over batches: a smaller last batch counts as much as a full one.
 - rewards/accuracies (the share of pairs with a higher reward for the chosen completion; equal rewards, as at the start, count
   as wrong) and mean_token_accuracy (the share of the chosen completions' tokens that are the model's first choice) are logged
   by DPOTrainer alone; kl by KTOTrainer alone. entropy is over the completion tokens of both sequences.
 - rewards/* are beta * (policy - reference) of summed log-probabilities for every loss. ipo divides by the number of
   completion tokens (those left after truncation) in its loss only, and logps/* are sums for ipo too.
 - A pair has one boundary: the common prefix of the prompt's tokens with those of prompt + chosen and of prompt + rejected,
   whichever is shorter. KTOTrainer unpairs first, so each completion has its own boundary. The two differ in every row of the
   `boundary*` runs: a token that belongs to the prompt for KTOTrainer is a completion token of one side here.
 - max_length: each sequence keeps its first max_length tokens, as in KTOTrainer. A pair is dropped if its common prompt has
   max_length tokens or more. truncation_mode=keep_end, which KTOTrainer lacks, is not recorded.
 - <eos> is added to plain completions that do not end with it, as in KTOTrainer; never to conversational ones.
"""
import json
import os
import sys
import tempfile

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(here))
from trl_runs import arguments, log_of, root, write_runs

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from tiny_model import make_adapter, make_model

NUM_PAIRS = 16  # in each file
COMMON = dict(per_device_train_batch_size=4, max_steps=4, learning_rate=1e-3, max_length=256, logging_steps=1, seed=42)
evaluated = lambda **flags: dict(eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=2, **flags)
epochs = lambda count, **flags: dict(max_steps=-1, num_train_epochs=count, **flags)
CASES = {  # name: (file of rows, rows, rows to evaluate on, flags, and for some: adapter, reference)
    "sigmoid": ("chat", 16, 0, dict(loss_type="sigmoid")),
    "ipo": ("chat", 16, 0, dict(loss_type="ipo")),
    "apo_zero": ("chat", 16, 0, dict(loss_type="apo_zero")),
    "apo_down": ("chat", 16, 0, dict(loss_type="apo_down")),
    "sigmoid_accumulated_uneven": ("chat", 11, 0, epochs(2, loss_type="sigmoid", beta=0.3, per_device_train_batch_size=2, gradient_accumulation_steps=2)),
    "apo_down_accumulated_log_every_second": ("chat", 14, 0, epochs(2, loss_type="apo_down", beta=0.5, per_device_train_batch_size=3, gradient_accumulation_steps=2, logging_steps=2)),
    "ipo_truncated": ("chat", 16, 0, dict(loss_type="ipo", beta=0.5, max_length=96)),
    "sigmoid_truncated_some_dropped": ("chat", 16, 0, epochs(2, loss_type="sigmoid", max_length=40)),
    "sigmoid_evaluated": ("chat", 11, 5, evaluated(loss_type="sigmoid", eval_on_start=True)),
    "apo_zero_evaluated_against_other_model": ("chat", 11, 5, evaluated(loss_type="apo_zero", beta=0.2), dict(reference="other")),
    "ipo_precomputed_against_other_model": ("chat", 11, 5, evaluated(loss_type="ipo", precompute_ref_log_probs=True), dict(reference="other")),
    "sigmoid_adapter_held_to_itself": ("chat", 16, 0, dict(loss_type="sigmoid"), dict(adapter=True)),
    "apo_zero_adapter_held_to_its_base": ("chat", 16, 0, dict(loss_type="apo_zero"), dict(adapter=True, reference="model")),
    "sigmoid_plain_rows": ("plain", 16, 0, dict(loss_type="sigmoid", per_device_train_batch_size=3, lr_scheduler_type="cosine", warmup_steps=2)),
    "ipo_implicit_prompt": ("implicit", 16, 0, dict(loss_type="ipo", weight_decay=0.1)),
    "boundary_sigmoid": ("boundary", 16, 0, dict(loss_type="sigmoid")),
    "boundary_ipo_truncated": ("boundary", 16, 4, evaluated(loss_type="ipo", max_length=64)),
}
DROPPED = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")


def write_rows():
    """Pairs the good and the bad answer to each question of examples/data, in four layouts. Returns {layout: rows}."""
    answers = {}
    for line in open(os.path.join(root, "examples", "data", "train.jsonl"), encoding="utf-8"):
        row = json.loads(line)
        answers.setdefault(row["prompt"][0]["content"], {})[row["label"]] = row["completion"][0]["content"]
    pairs = [(question, both[True], both[False]) for question, both in answers.items()][:NUM_PAIRS]
    user, assistant = (lambda text: [{"role": "user", "content": text}]), (lambda text: [{"role": "assistant", "content": text}])
    layouts = {
        "chat": [dict(prompt=user(q), chosen=assistant(good), rejected=assistant(bad)) for q, good, bad in pairs],
        "implicit": [dict(chosen=user(q) + assistant(good), rejected=user(q) + assistant(bad)) for q, good, bad in pairs],
        # One completion brings its own end-of-text token.
        "plain": [dict(prompt=f"Question: {q}\nAnswer:", chosen=" " + good + "<|end|>" * (i == 1), rejected=" " + bad) for i, (q, good, bad) in enumerate(pairs)],
        # The tokenizer merges the prompt's last space with the first letters of "in short", and not with a capital.
        "boundary": [dict(prompt=f"Question: {q}\nAnswer: ", chosen="in short: " * (i % 2) + good, rejected="in short: " * (i % 2 == 0) + bad)
                     for i, (q, good, bad) in enumerate(pairs)],
    }
    for name, rows in layouts.items():
        with open(os.path.join(here, name + ".jsonl"), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return layouts


class Recorder(DPOTrainer):
    """Keeps the log-probabilities of the first micro-batch."""
    first_batch = None

    def compute_loss(self, model, inputs, *args, **kwargs):
        if model.training and self.first_batch is None:
            count = inputs["completion_mask"][:, 1:].sum(dim=1)
            with torch.no_grad():
                labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
                policy = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels, fused_lm_head=True).log_probs.sum(1)
            reference = torch.cat((inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]) if "ref_chosen_logps" in inputs
                                  else self.compute_ref_log_probs(self.ref_model or model, inputs))
            self.first_batch = {f"{name}_{side}": half.tolist() for name, values in dict(policy=policy, reference=reference, tokens=count).items()
                                for side, half in zip(("chosen", "rejected"), values.chunk(2))}
        return super().compute_loss(model, inputs, *args, **kwargs)


layouts = write_rows()
path = os.path.join(here, "runs.json")
names = sys.argv[1:] or list(CASES)
recorded = {run["name"]: run for run in json.load(open(path))} if sys.argv[1:] else {}
with tempfile.TemporaryDirectory() as tmp:
    folder = make_model(os.path.join(tmp, "model"), root)
    make_model(os.path.join(tmp, "other"), root, seed=2)
    make_adapter(os.path.join(tmp, "adapter"), folder)
    for name in names:
        layout, num_rows, num_eval_rows, flags, *more = CASES[name]
        parts = more[0] if more else {}
        rows = layouts[layout]
        load = lambda name="model": AutoModelForCausalLM.from_pretrained(os.path.join(tmp, name), dtype=torch.float32)
        policy = PeftModel.from_pretrained(load(), os.path.join(tmp, "adapter"), is_trainable=True) if "adapter" in parts else load()
        reference = load(parts.get("reference", "model")) if "reference" in parts or "adapter" not in parts else None
        args = arguments(DPOConfig, tmp, train_sampling_strategy="sequential", **{**COMMON, **flags, "loss_type": [flags["loss_type"]]})
        extra = {"eval_dataset": Dataset.from_list(rows[-num_eval_rows:])} if num_eval_rows else {}
        trainer = Recorder(model=policy, ref_model=reference, args=args, train_dataset=Dataset.from_list(rows[:num_rows]),
                           processing_class=PreTrainedTokenizerFast.from_pretrained(folder), **extra)
        trainer.train()
        log = log_of(trainer, lambda name: name not in DROPPED)
        recorded[name] = {"name": name, "rows": layout, "num_rows": num_rows, "num_eval_rows": num_eval_rows,
                          "flags": {k: str(v) for k, v in {**COMMON, **flags}.items()}, **parts, "first_batch": trainer.first_batch, "log": log}
        kept = trainer.train_dataset
        print(f"{name}: {len(kept)} of {num_rows} pairs, tokens {[(len(r['prompt_ids']), len(r['chosen_ids']), len(r['rejected_ids'])) for r in kept][:5]}",
              [round(entry.get("loss", entry.get("eval_loss")), 4) for entry in log])
write_runs(path, [recorded[name] for name in CASES])
