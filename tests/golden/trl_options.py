#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes trl_options.json: the options of `trl kto` and their defaults.

usage: trl_options.py [KTO_PAGE.txt]      (with trl 1.16 and transformers 5.24, and once more with trl 0.22)

"trl": {option: default} of ScriptArguments, KTOConfig, ModelConfig and DatasetMixtureConfig of trl 1.16; "resolved": those
with different values in a KTOConfig without arguments; "old": as "trl", of trl 0.22; "page": the same from KTOConfig's
signature in TRL's documentation page, an older release. Each run writes what it can and keeps the rest.
"""
import dataclasses
import json
import os
import re
import sys

import trl
from trl import KTOConfig, ModelConfig, ScriptArguments


def default(field):
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def installed():
    configs = [ScriptArguments, KTOConfig, ModelConfig] + [getattr(trl, name) for name in ("DatasetMixtureConfig",) if hasattr(trl, name)]
    return {field.name: str(default(field)) for config in configs for field in dataclasses.fields(config) if not field.name.startswith("_")}


def resolved():
    config = KTOConfig(use_cpu=True)  # and what follows from that is left out
    values = {field.name: (default(field), getattr(config, field.name)) for field in dataclasses.fields(KTOConfig)}
    plain = (bool, int, float, str, list, type(None))
    return {name: str(value) for name, (declared, value) in values.items()
            if value != declared and isinstance(value, plain) and name not in ("use_cpu", "dataloader_pin_memory")}


def page(path):
    text = open(path, encoding="utf-8").read()
    signature = re.search(r"class trl\.KTOConfig\s.*?\( (.*?) \)\n", text, re.S).group(1)
    out = {}
    for argument in re.split(r" (?=\w+: )", signature):
        name, value = re.match(r"(\w+): .* = (.*)$", argument, re.S).groups()
        out[name] = "None" if value == "<factory>" else value.strip("'")
    return out


path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "trl_options.json")
golden = json.load(open(path)) if os.path.exists(path) else {}
if trl.__version__.startswith("0."):
    golden["old"] = installed()
else:
    golden.update(trl=installed(), resolved=resolved())
if len(sys.argv) > 1:
    golden["page"] = page(sys.argv[1])
with open(path, "w") as f:
    json.dump(golden, f, indent=1)
    f.write("\n")
print({name: len(options) for name, options in golden.items()})
