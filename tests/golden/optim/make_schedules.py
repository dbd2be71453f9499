#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes schedules.json: learning rates of transformers' get_scheduler (transformers 5.24, torch 2.13), update by update.
Schedules that follow evaluations receive the metrics in "metrics", one after each update."""
import json
import math
import os
import random
import warnings

import torch
from transformers.optimization import get_scheduler

warnings.filterwarnings("ignore")
CASES = [
    ("linear", 3, {}), ("linear", 0, {}), ("cosine", 3, {}), ("cosine", 2, {"num_cycles": 1.25}),
    ("cosine_with_restarts", 3, {}), ("cosine_with_restarts", 4, {"num_cycles": 3}),
    ("polynomial", 3, {}), ("polynomial", 0, {"power": 2.5, "lr_end": 1e-5}),
    ("constant", 0, {}), ("constant_with_warmup", 5, {}),
    ("inverse_sqrt", 4, {}), ("inverse_sqrt", 0, {}), ("inverse_sqrt", 4, {"timescale": 50}),
    ("cosine_with_min_lr", 3, {"min_lr": 2e-5}), ("cosine_with_min_lr", 3, {"min_lr_rate": 0.1, "num_cycles": 0.75}),
    ("cosine_warmup_with_min_lr", 4, {"min_lr_rate": 0.2}),
    ("cosine_warmup_with_min_lr", 4, {"min_lr": 1e-5, "warmup_lr_rate": 0.3}),
    ("warmup_stable_decay", 4, {"num_decay_steps": 10}),
    ("warmup_stable_decay", 4, {"num_decay_steps": 8, "num_stable_steps": 5, "min_lr_ratio": 0.1, "warmup_type": "cosine",
                                "decay_type": "linear"}),
    ("warmup_stable_decay", 5, {"num_decay_steps": 12, "warmup_type": "1-sqrt", "decay_type": "1-sqrt"}),
    ("reduce_lr_on_plateau", 0, {}), ("reduce_lr_on_plateau", 0, {"patience": 1, "factor": 0.5, "cooldown": 2, "min_lr": 2e-5}),
    ("reduce_lr_on_plateau", 0, {"mode": "max", "patience": 0, "factor": 0.7, "threshold": 0.01, "threshold_mode": "abs"}),
    ("greedy", 0, {}),
    ("greedy", 0, {"min_lr": 1e-5, "max_lr": 1e-3, "patience": 1, "factor": 0.8, "cooldown": 1, "warmup": 2}),
    ("greedy", 0, {"min_lr": 8e-5, "patience": 0, "factor": 0.5, "smooth": True, "window_size": 3, "reset_start": 2, "cooldown": 1}),
]
STEPS, EXTRA, RATE = 24, 4, 1e-4
rng = random.Random(3)
METRICS = [round(1 / math.sqrt(1 + i) + 0.3 * rng.random() if i < 14 else 0.9 + 0.05 * rng.random(), 6) for i in range(STEPS + EXTRA)]
out = []
for name, warmup, kwargs in CASES:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    scheduler = get_scheduler(name, optimizer, warmup, STEPS, kwargs)
    adaptive = name in ("reduce_lr_on_plateau", "greedy")
    rates = []
    for i in range(STEPS + EXTRA):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(METRICS[i]) if adaptive else scheduler.step()
    out.append({"type": name, "warmup": warmup, "kwargs": kwargs, "rates": rates})
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "schedules.json"), "w") as f:
    json.dump({"num_steps": STEPS, "learning_rate": RATE, "metrics": METRICS, "cases": out}, f)
    f.write("\n")
