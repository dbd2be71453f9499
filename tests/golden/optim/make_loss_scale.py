#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes loss_scale.json: the scale of torch's GradScaler over steps, some with overflowing gradients. Needs torch.

"overflows": numbers of those steps, from 1; "changes": [step, scale after it] wherever it changes, the first at step 0."""
import json
import os

import torch

num_steps = 9000
overflows = [1, 2, 3, 7, *range(1000, 1006), 3005, 3006, 5007, 7006]
weight = torch.nn.Parameter(torch.zeros(1))
optimizer = torch.optim.SGD([weight], lr=0.1)
scaler = torch.amp.GradScaler("cpu")
changes = [[0, scaler.get_scale()]]
for step in range(1, num_steps + 1):
    optimizer.zero_grad()
    scaler.scale(weight.sum() * (float("inf") if step in overflows else 1.0)).backward()
    scaler.step(optimizer)
    scaler.update()
    if scaler.get_scale() != changes[-1][1]:
        changes.append([step, scaler.get_scale()])
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "loss_scale.json"), "w") as file:
    json.dump({"torch": torch.__version__, "num_steps": num_steps, "overflows": overflows, "changes": changes}, file)
    file.write("\n")
print(changes)
