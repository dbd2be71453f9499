#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes optimizers.json: updates of two parameters by the optimizers of transformers' Trainer (transformers 5.24, torch 2.13)
with given gradients, in float64. "weight" decays, "norm" does not."""
import json
import os

import torch
from transformers import TrainingArguments
from transformers.trainer import Trainer

CASES = [("sgd", None), ("sgd", "momentum=0.9"), ("sgd", "momentum=0.9,dampening=0.25"), ("sgd", "momentum=0.8,nesterov=true"),
         ("rmsprop", None), ("rmsprop", "alpha=0.9,eps=1e-4,momentum=0.5,centered=true"), ("rmsprop", "centered=yes"),
         ("rmsprop", "momentum=0.9"), ("adagrad", None), ("adagrad", "lr_decay=0.1,eps=1e-3"), ("adafactor", None),
         ("adamw_torch", None), ("adamw_torch_fused", None)]
STEPS = 5
torch.manual_seed(5)
start = [torch.randn(3, 5, dtype=torch.float64), torch.randn(7, dtype=torch.float64)]
grads = [[torch.randn_like(p) * 0.1 * 4 ** i for p in start] for i in range(STEPS)]
rates = [0.01 * (i + 1) for i in range(STEPS)]
cases = []
for name, optim_args in CASES:
    for decay in (0.0, 0.1):
        args = TrainingArguments(output_dir="/tmp/unused", optim=name, optim_args=optim_args, learning_rate=1e-2, weight_decay=decay, use_cpu=True)
        cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args)
        parameters = [p.clone().requires_grad_() for p in start]
        optimizer = cls([{"params": parameters[:1], "weight_decay": decay}, {"params": parameters[1:], "weight_decay": 0.0}], **kwargs)
        for grad, rate in zip(grads, rates):
            for group in optimizer.param_groups:
                group["lr"] = rate
            for p, g in zip(parameters, grad):
                p.grad = g.clone()
            optimizer.step()
        cases.append({"optim": name, "optim_args": optim_args, "weight_decay": decay, "weight": parameters[0].tolist(), "norm": parameters[1].tolist()})
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "optimizers.json"), "w") as f:
    json.dump({"rates": rates, "start": [p.tolist() for p in start], "grads": [[g.tolist() for g in step] for step in grads], "cases": cases}, f)
    f.write("\n")
