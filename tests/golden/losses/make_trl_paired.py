# SPDX-License-Identifier: Apache-2.0
"""make_trl_paired.py MODEL_FOLDER ROWS.jsonl > trl_paired.json: what TRL's DPOTrainer logs for the paired losses, in float64
parameters: 4 steps of 4 pairs. Needs trl 1.16."""
import json
import os
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

model_folder, rows = sys.argv[1:3]
torch.set_num_threads(1)
out = {}
for loss_type in ("sigmoid", "ipo", "apo_zero", "apo_down"):
    load = lambda: AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float64)
    with tempfile.TemporaryDirectory() as tmp:
        config = DPOConfig(output_dir=tmp, loss_type=[loss_type], beta=0.1, per_device_train_batch_size=4, max_steps=4,
                           learning_rate=1e-3, logging_steps=1, max_length=256, bf16=False, gradient_checkpointing=False,
                           report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
                           train_sampling_strategy="sequential")
        data = Dataset.from_list([json.loads(line) for line in open(rows, encoding="utf-8")][:16])
        trainer = DPOTrainer(model=load(), ref_model=load(), args=config, train_dataset=data,
                             processing_class=AutoTokenizer.from_pretrained(model_folder))
        trainer.train()
        keys = ("loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected")
        out[loss_type] = [{k: h[k] for k in keys} for h in trainer.state.log_history if "loss" in h]
json.dump(out, sys.stdout, indent=1)
