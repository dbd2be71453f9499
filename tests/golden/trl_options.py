#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes trl_options.json: the options of `trl kto` and their defaults.

usage: trl_options.py KTO_PAGE.txt      (needs trl 1.16 and transformers 5.24)

"trl": {option: default} of ScriptArguments, KTOConfig, ModelConfig and DatasetMixtureConfig as installed;
"page": the same of KTOConfig's signature in TRL's documentation page, an older release.
"""
import dataclasses
import json
import os
import re
import sys

from trl import DatasetMixtureConfig, KTOConfig, ModelConfig, ScriptArguments


def installed():
    out = {}
    for config in (ScriptArguments, KTOConfig, ModelConfig, DatasetMixtureConfig):
        for field in dataclasses.fields(config):
            made = field.default_factory is not dataclasses.MISSING
            out[field.name] = str(field.default_factory() if made else field.default)
    return out


def page(path):
    text = open(path, encoding="utf-8").read()
    signature = re.search(r"class trl\.KTOConfig\s.*?\( (.*?) \)\n", text, re.S).group(1)
    out = {}
    for argument in re.split(r" (?=\w+: )", signature):
        name, default = re.match(r"(\w+): .* = (.*)$", argument, re.S).groups()
        out[name] = "None" if default == "<factory>" else default.strip("'")
    return out


golden = {"trl": installed(), "page": page(sys.argv[1])}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "trl_options.json"), "w") as f:
    json.dump(golden, f, indent=1)
    f.write("\n")
print({name: len(options) for name, options in golden.items()})
