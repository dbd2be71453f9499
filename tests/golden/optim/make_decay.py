#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes decay.json: which parameters transformers (5.24) keeps from weight decay, for the tiny models of ../models, and for
made-up names that test its rule.

{"models": {case: [names without decay, "*" for a layer's number]}, "names": {name: whether it decays}}
"""
import glob
import json
import os
import re
import types

import torch
import transformers

here = os.path.dirname(os.path.abspath(__file__))
rule = lambda model: set(transformers.Trainer.get_decay_parameter_names(types.SimpleNamespace(), model))
models = {}
for path in sorted(glob.glob(os.path.join(here, "..", "models", "*.json"))):
    if os.path.basename(path).startswith(("act_", "rope_")):  # llamas all
        continue
    with open(path) as file:
        case = json.load(file)
    config = transformers.AutoConfig.for_model(**case["config"])
    with torch.device("meta"):
        of = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
        model = of.from_config(config)
    decays = rule(model)
    models[case["name"]] = sorted({re.sub(r"\.\d+\.", ".*.", name) for name, _ in model.named_parameters() if name not in decays})

names = {}
for name in ["model.norm.weight", "norm", "layer_norm.weight", "a.q_norm.weight", "q_norm", "norm_f.weight", "a.norms.weight", "normal.weight",
             "final_norm_scale.weight", "a.LayerNorm.gain", "a.MyRMSNorm.g", "head.bias", "biased.weight", "a.bias_proj.weight", "Norm.weight",
             "enorm.weight", "x.my-norm.weight", "x.post_layernorm_1.weight", "proj.weight", "a.weight_norm_g", "a.norm.deeper.weight"]:
    root = torch.nn.Module()
    module = root
    *path, last = name.split(".")
    for part in path:
        child = torch.nn.Module()
        module.add_module(part, child)
        module = child
    module.register_parameter(last, torch.nn.Parameter(torch.zeros(1)))
    names[name] = name in rule(root)
with open(os.path.join(here, "decay.json"), "w") as file:
    lines = lambda of: ",\n".join(json.dumps(key) + ": " + json.dumps(value) for key, value in of.items())
    file.write('{"models": {\n' + lines(models) + '\n}, "names": {\n' + lines(names) + "\n}}\n")
