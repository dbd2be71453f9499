#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes fields/fields.json for tests/model/test_decoder.cpp: every field of each family's config class in transformers
5.24, and every other key that the class writes, changed in tiny configs (the first cases of make_model_cases.py and
make_encoder_decoder_cases.py), with what transformers then computes and what kto
makes of it:

  used            the result changes, and kto gives the new one
  without effect  the result stays, and so does kto's
  refused         kto names the field in an error
  not run         transformers itself fails

Anything else is a defect: it is printed, and nothing is written for its family.

  make_field_cases.py TESTS [FAMILY...]      TESTS is the program with test_decoder.cpp in it; it computes kto's side
"""

import collections
import dataclasses
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import warnings

import torch
import transformers

import make_encoder_decoder_cases as pair_cases
import make_model_cases as cases

FOLDER = pathlib.Path(__file__).parent
LENGTH = 12
MOST_BASES = 3
ENCODER_DECODERS = {config["model_type"] for config, _ in pair_cases.CASES.values()}
CONFIGS = [config for config, _ in [*cases.CASES.values(), *pair_cases.CASES.values()]]
# Without a part in the numbers, whatever they are: names, ids, outputs, initialisation, caches, and dropouts, which are
# never applied.
LEFT_OUT = re.compile(r"architectures|dtype|id2label|label2id|problem_type|return_dict|transformers_version|use_cache|"
                      r"output_.*|initializer_range|init_std|.*dropout|.*pdrop|layerdrop|[be]os_token_id|eod_token_id")
ROPES = [
    {"rope_type": "default", "rope_theta": 300.0},
    {"rope_type": "linear", "rope_theta": 300.0, "factor": 3.0},
    {"rope_type": "yarn", "rope_theta": 300.0, "factor": 3.0, "original_max_position_embeddings": 8},
    {"rope_type": "dynamic", "rope_theta": 300.0, "factor": 2.0},
    {"rope_type": "llama3", "rope_theta": 30.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 8},
    {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    {"rope_type": "proportional", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
]  # fmt: skip
# Keys of files that transformers 4 wrote, or that other families have.
OTHER_KEYS = {
    "head_dim": 16, "rope_theta": 300.0, "rope_scaling": {"type": "linear", "factor": 3.0}, "partial_rotary_factor": 0.5,
    "sliding_window": 3, "attention_bias": True, "mlp_bias": True, "use_bias": True, "is_causal": False,
    "layer_types": ["sliding_attention", "full_attention"], "qk_layernorm": True, "clip_qkv": 0.3,
    "final_logit_softcapping": 2.0, "hidden_activation": "relu", "residual_multiplier": 0.5, "rotary_pct": 0.5,
    "original_max_position_embeddings": 8, "alibi": True, "embedding_multiplier": 2.0,
}  # fmt: skip
VALUES = {  # more than one value of a kind does
    "vocab_size": [64], "hidden_size": [64], "n_embd": [64], "intermediate_size": [40], "ffn_dim": [44],
    "ffn_hidden_size": [44], "n_inner": [44], "num_hidden_layers": [1], "n_layer": [1], "num_attention_heads": [2],
    "n_head": [2], "num_key_value_heads": [1, 4], "num_kv_heads": [1, 4], "head_dim": [16], "sliding_window": [3],
    "max_position_embeddings": [16], "n_positions": [16], "original_max_position_embeddings": [8], "max_window_layers": [1],
    "sliding_window_pattern": [2, "LG"], "no_rope_layers": [[0, 1]], "no_rope_layer_interval": [1], "clip_qkv": [0.3],
    "query_pre_attn_scalar": [5], "word_embed_proj_dim": [16], "rotary_dim": [2], "num_ln_in_parallel_attn": [1, 2],
    "rope_parameters": ROPES, "rope_scaling": ROPES, "pad_token_id": [cases.token_ids(0, LENGTH, 80)[3]],
    "attn_logit_softcapping": [2.0], "final_logit_softcapping": [2.0], "pretraining_tp": [2], "num_mtp_layers": [0],
    "chunk_size_feed_forward": [4],
}  # fmt: skip


def layer_types(layers):
    both = ["sliding_attention", "full_attention"]
    return [[both[i % 2] for i in range(layers)], ["full_attention"] * layers]


def values_of(field, base):
    """Plausible values other than the field's own in the config `base`."""
    own = base[field]
    name, kind = field, str(own[1])
    value = own[0]
    if name == "layer_types":
        out = layer_types(base.get("num_hidden_layers", (2, ""))[0])
    elif name in VALUES:
        out = list(VALUES[name])
    elif name.endswith(("_act", "activation", "activation_function")):
        out = ["relu", "gelu"]
    elif isinstance(value, bool) or (value is None and "bool" in kind):
        out = [not value]
    elif isinstance(value, int):
        out = [value * 2 if value else 1, max(1, value // 2)]
    elif isinstance(value, float):
        out = [1e-2] if "eps" in name else [value * 1.7 + 0.1]
    else:
        out = {"int": [2], "float": [0.7], "str": ["other"]}.get(next(iter(re.findall("int|float|str", kind)), ""), [])
    if "None" in kind and value is not None:
        out.append(None)
    return [other for other in out if other != value]


def fields_of(config):
    """name -> (value, type) of the fields of a config's class that may matter."""
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        read = transformers.AutoConfig.from_pretrained(folder)
    def value_of(field):
        try:
            return getattr(read, field.name, field.default)
        except Exception:  # differs by layer
            return field.default

    out = {key: (value, type(value)) for key, value in read.to_dict().items()}
    out |= {field.name: (value_of(field), field.type) for field in dataclasses.fields(type(read))}
    return {name: found for name, found in out.items() if not LEFT_OUT.fullmatch(name)}


def logits_of(model, is_pair):
    """[T, V], and the tokens they score: of one sequence, or of a completion behind a prompt for the encoder."""
    size = model.config.vocab_size
    first, second = (torch.tensor([cases.token_ids(i, LENGTH, size)]) for i in (0, 1))
    if not is_pair:
        return model(input_ids=first).logits[0, :-1], first[0, 1:]
    start = torch.tensor([[model.config.decoder_start_token_id]])
    inputs = torch.cat([start, second[:, :-1]], dim=1)
    return model(input_ids=first, decoder_input_ids=inputs, use_cache=False).logits[0], second[0]


def numbers(config):
    """The loss of one sequence or pair and the norm of its gradient; None where transformers fails."""
    is_pair = config["model_type"] in ENCODER_DECODERS
    try:
        with cases.no_casts_to_float32():
            model = (pair_cases if is_pair else cases).load(config).double()
            for module in model.modules():
                for name, buffer in module.named_buffers(recurse=False):
                    if "inv_freq" in name:
                        setattr(module, name, torch.empty_like(buffer, dtype=torch.float32).copy_(buffer))
            logits, tokens = logits_of(model, is_pair)
            logp = logits.double().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
            loss = (logp * cases.noise_tensor("loss", logp.shape)).mean()
            loss.backward()
            squares = sum(p.grad.double().square().sum().item() for p in model.parameters() if p.grad is not None)
        return [loss.item(), math.sqrt(squares)] if math.isfinite(loss.item()) else None
    except Exception:  # whatever a config that makes no sense raises
        return None


def same(a, b):
    return all(abs(x - y) <= 1e-9 * (1 + abs(y)) for x, y in zip(a, b))


def kto_numbers(tests, configs):
    with tempfile.TemporaryDirectory() as folder:
        given, answer = pathlib.Path(folder, "in.json"), pathlib.Path(folder, "out.json")
        given.write_text(json.dumps(configs))
        subprocess.run([tests, "the numbers of given configs"], check=True, stdout=subprocess.DEVNULL,
                       env=os.environ | {"KTO_CONFIGS": str(given), "KTO_CONFIG_NUMBERS": str(answer)})  # fmt: skip
        return json.loads(answer.read_text())


def outcome_of(row, before, want, got):
    """What became of a change, or a defect in words."""
    if want is None:
        return "not run"
    if "refused" in got:
        keys = [row["field"], *(row["value"] if isinstance(row["value"], dict) else [])]
        named = any(key in got["refused"] for key in keys) or "rope" in row["field"] and "rope" in got["refused"]
        return "refused" if named else f"refused without its name: {got['refused']}"
    if same(got["numbers"], want):
        return "without effect" if before is not None and same(want, before) else "used"
    return f"DEFECT: transformers gives {want} (before {before}), kto {got['numbers']}"


def family_rows(tests, family):
    bases = [config for config in CONFIGS if config["model_type"] == family][:MOST_BASES]
    rows, configs = [], []
    for number, base in enumerate(bases):
        fields = fields_of(base)
        for field in sorted(fields):
            rows += [dict(base=number, field=field, value=value) for value in values_of(field, fields)]
        rows += [dict(base=number, field=key, value=value) for key, value in OTHER_KEYS.items()
                 if key not in fields and base.get(key) != value]  # fmt: skip
    configs = [bases[row["base"]] | {row["field"]: row["value"]} for row in rows]
    answers = kto_numbers(tests, configs)
    before = [numbers(base) for base in bases]
    best, defects = {}, []
    order = ["used", "refused", "without effect", "not run"]
    for row, config, answer in zip(rows, configs, answers):
        want = numbers(config)
        row["outcome"] = outcome_of(row, before[row["base"]], want, answer)
        if row["outcome"] not in order:
            defects.append(f"{family}: base {row['base']}, {row['field']} = {json.dumps(row['value'])}: {row['outcome']}")
            continue
        row["numbers"] = want
        key = (row["field"], json.dumps(row["value"]))
        if key not in best or order.index(row["outcome"]) < order.index(best[key]["outcome"]):
            best[key] = row
    return dict(bases=bases, rows=[[row[key] for key in ("base", "field", "value", "outcome", "numbers")]
                                   for row in best.values()]), defects  # fmt: skip


def text_of(table):
    """The table as JSON with one row a line."""
    families = []
    for name, found in sorted(table.items()):
        rows = ",\n".join(json.dumps(row) for row in found["rows"])
        families.append(f'{json.dumps(name)}: {{"bases": {json.dumps(found["bases"])}, "rows": [\n{rows}]}}')
    return "{" + ",\n".join(families) + "}\n"


def main():
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tests, chosen = sys.argv[1], sys.argv[2:]
    path = FOLDER / "fields" / "fields.json"
    table = json.loads(path.read_text()) if path.exists() else {}
    failed = False
    for family in chosen or sorted({config["model_type"] for config in CONFIGS}):
        found, defects = family_rows(tests, family)
        counts = collections.Counter(row[3] for row in found["rows"])
        print(family, dict(counts), *("\n  " + defect for defect in defects), flush=True)
        failed = failed or bool(defects)
        if not defects:
            table[family] = found
            path.write_text(text_of(table))
    sys.exit(failed)


if __name__ == "__main__":
    main()
