#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes runs.json: what TRL 1.16's KTOTrainer logs for a tiny model of each family, on rows of examples/data. A run holds
the model's config and the shapes of its weights, which follow from a seed (fill_model of tests/e2e/tiny_model.py).
tests/e2e/recorded_runs.py replays them. Needs torch, trl, transformers.

usage: make_families.py [FAMILY ...]      with names, records only those and keeps the others"""
import json
import os
import sys
import tempfile

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(here))
from trl_runs import arguments, log_of, root, write_runs

import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import KTOConfig, KTOTrainer

from tiny_model import family_names, fill_model, vocabulary_size, without_dropout

GPT2 = dict(n_embd=16, n_layer=2, n_head=4, n_positions=256)
SLIDES = dict(sliding_window=16, layer_types=["sliding_attention", "full_attention"])
CONFIGS = {  # beside what all have
    "bloom": dict(hidden_size=16, n_layer=2, n_head=4),
    "cohere2": SLIDES,
    "exaone4": SLIDES,
    "falcon": dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, new_decoder_architecture=True, num_kv_heads=2),
    "gemma2": SLIDES | dict(query_pre_attn_scalar=8),
    "gemma3_text": SLIDES | dict(query_pre_attn_scalar=8),
    "gemma4_text": SLIDES | dict(num_hidden_layers=4, num_kv_shared_layers=2, global_head_dim=8, hidden_size_per_layer_input=4,
                                 layer_types=SLIDES["layer_types"] * 2, vocab_size_per_layer_input=vocabulary_size(root)),
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gpt_neox": dict(rotary_pct=0.5),
    "gptj": GPT2 | dict(rotary_dim=2),
    "granite": dict(embedding_multiplier=2.0, residual_multiplier=0.5, attention_multiplier=0.4, logits_scaling=3.0),
    "ministral": SLIDES,
    "mistral": dict(sliding_window=16),
    "olmo3": SLIDES,
    "opt": dict(ffn_dim=24, word_embed_proj_dim=16, activation_function="relu"),
    "phi3": dict(sliding_window=16),
    "qwen2": dict(vocab_size=vocabulary_size(root) + 8),  # its tokenizer's class adds tokens
    "smollm3": dict(no_rope_layers=[1, 0]),
    "stablelm": dict(partial_rotary_factor=0.5),
    "starcoder2": dict(sliding_window=16),
}  # fmt: skip
FLAGS = dict(per_device_train_batch_size=4, max_steps=3, learning_rate=5e-3, max_length=96, logging_steps=1, seed=42,
             desirable_weight=3.0, undesirable_weight=0.2)  # else the baseline is 0
LEFT_OUT = ("apertus",)  # TRL's float32 run is 6e-4 from its float64 run after one step
KEPT = ("loss", "grad_norm", "kl", "logps/chosen", "logps/rejected", "rewards/chosen", "rewards/rejected", "step")
NUM_ROWS = 12


def make_config(family):
    changes = CONFIGS.get(family, {})
    common = dict(vocab_size=vocabulary_size(root), bos_token_id=0, eos_token_id=0, pad_token_id=0)
    if family not in ("bloom", "falcon") and "n_layer" not in changes:
        common |= dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                       head_dim=4, max_position_embeddings=256)
    return without_dropout(AutoConfig.for_model(family, **common | changes))


def record(family, rows):
    with tempfile.TemporaryDirectory() as tmp:
        folder = os.path.join(tmp, "shapes")
        AutoModelForCausalLM.from_config(make_config(family)).save_pretrained(folder)
        saved = load_file(os.path.join(folder, "model.safetensors"))
        shapes = {name: list(tensor.shape) if tensor.dim() else tensor.item() for name, tensor in saved.items()}
        config = json.load(open(os.path.join(folder, "config.json")))
        folder = fill_model(os.path.join(tmp, "model"), root, config, shapes)
        load = lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        trainer = KTOTrainer(model=load(), ref_model=load(), args=arguments(KTOConfig, tmp, **FLAGS), train_dataset=Dataset.from_list(rows),
                             processing_class=PreTrainedTokenizerFast.from_pretrained(folder))
        trainer.train()
    log = log_of(trainer, KEPT.__contains__)
    print(family, [(round(entry["loss"], 4), round(entry["grad_norm"], 3)) for entry in log], flush=True)
    return {"name": family, "num_rows": NUM_ROWS, "num_eval_rows": 0, "flags": {k: str(v) for k, v in FLAGS.items()},
            "config": config, "shapes": shapes, "log": log}


path = os.path.join(here, "runs.json")
recorded = {run["name"]: run for run in json.load(open(path))} if os.path.exists(path) else {}
lines = open(os.path.join(root, "examples", "data", "train.jsonl"), encoding="utf-8").readlines()
for family in sys.argv[1:] or [family for family in family_names(root) if family not in LEFT_OUT]:
    try:
        recorded[family] = record(family, [json.loads(line) for line in lines[:NUM_ROWS]])
    except Exception as error:
        print(f"{family}: TRL does not train it: {type(error).__name__}: {error}", flush=True)
write_runs(path, [recorded[name] for name in sorted(recorded)])
