# SPDX-License-Identifier: Apache-2.0
"""A tiny llama folder with random weights and a real tokenizer, and rows for it. Standard library only."""
import json
import math
import os
import random
import re
import shutil
import struct


def write_safetensors(path, tensors):
    """tensors: {name: (shape, list of floats)}; written as float32."""
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, (shape, values) in tensors.items():
        blob = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def family_names(root):
    """The model_type of each family that kto has."""
    folder = os.path.join(root, "include", "kto", "model", "families")
    text = "".join(open(os.path.join(folder, name), encoding="utf-8").read() for name in sorted(os.listdir(folder)))
    return re.findall(r'\.model_type = "(\w+)"', text)


def without_dropout(config):
    """A config of transformers with every dropout at 0."""
    for name in vars(config):
        if name.endswith(("dropout", "pdrop")):
            setattr(config, name, 0.0)
    return config


def shapes_of(folder):
    """{name: shape} of the tensors of a model folder."""
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def fill_model(folder, source_root, config, shapes, seed=1):
    """Writes a model folder with random weights of those shapes, or constants where a number stands in place of a shape; its
    tokenizer is the one of tests/golden/data/model."""
    shutil.copytree(os.path.join(source_root, "tests", "golden", "data", "model"), folder)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file, indent=2)
    rng, tensors = random.Random(seed), {}
    for name, shape in shapes.items():
        if not isinstance(shape, list):
            tensors[name] = ([], [shape])
            continue
        count = math.prod(shape)
        tensors[name] = (shape, [1.0] * count if "norm" in name else [rng.gauss(0, 0.3) for _ in range(count)])
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    return folder


def vocabulary_size(source_root):
    """The number of ids of the tokenizer of tests/golden/data/model."""
    with open(os.path.join(source_root, "tests", "golden", "data", "model", "tokenizer.json"), encoding="utf-8") as file:
        tokenizer = json.load(file)
    return max(list(tokenizer["model"]["vocab"].values()) + [token["id"] for token in tokenizer["added_tokens"]]) + 1


def make_model(folder, source_root, seed=1, **overrides):
    """A tiny llama, or another model_type with llama's modules."""
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=vocabulary_size(source_root), hidden_size=16,
                  intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
                  hidden_act="silu", max_position_embeddings=512, rms_norm_eps=1e-6, tie_word_embeddings=True,
                  rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, dtype="float32")
    config.update(overrides)
    D, M, V = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv = config["num_attention_heads"] * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]
    shapes = {"model.embed_tokens.weight": [V, D], "model.norm.weight": [D]}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, shape in (("self_attn.q_proj", [heads, D]), ("self_attn.k_proj", [kv, D]), ("self_attn.v_proj", [kv, D]),
                            ("self_attn.o_proj", [D, heads]), ("mlp.gate_proj", [M, D]), ("mlp.up_proj", [M, D]),
                            ("mlp.down_proj", [D, M]), ("input_layernorm", [D]), ("post_attention_layernorm", [D])):
            shapes[layer + name + ".weight"] = shape
        if config["model_type"] == "qwen3":
            shapes |= {layer + f"self_attn.{name}_norm.weight": [config["head_dim"]] for name in "qk"}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [V, D]
    return fill_model(folder, source_root, config, shapes, seed)


def make_adapter(folder, model, r=3, alpha=6, seed=4):
    """Writes a PEFT folder with a random adapter on the queries and values of a model folder."""
    config = json.load(open(os.path.join(model, "config.json")))
    os.makedirs(folder)
    with open(os.path.join(folder, "adapter_config.json"), "w") as file:
        json.dump(dict(peft_type="LORA", task_type="CAUSAL_LM", r=r, lora_alpha=alpha, target_modules=["q_proj", "v_proj"], base_model_name_or_path=None),
                  file, indent=2)
    rng, D, tensors = random.Random(seed), config["hidden_size"], {}
    for i in range(config["num_hidden_layers"]):
        for name, heads in (("q_proj", "num_attention_heads"), ("v_proj", "num_key_value_heads")):
            for matrix, shape in (("A", [r, D]), ("B", [config[heads] * config["head_dim"], r])):
                values = [rng.gauss(0, 0.3) for _ in range(shape[0] * shape[1])]
                tensors[f"base_model.model.model.layers.{i}.self_attn.{name}.lora_{matrix}.weight"] = (shape, values)
    write_safetensors(os.path.join(folder, "adapter_model.safetensors"), tensors)
    return folder


def make_rows(path, count=12, system=()):
    """Conversational unpaired rows; the prompt of row i begins with system[i % len(system)], unless that is empty."""
    rng = random.Random(2)
    words = "alpha beta gamma delta rivers mountains answer question yes no because".split()
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            text = lambda n: " ".join(rng.choice(words) for _ in range(n))
            before = [{"role": "system", "content": system[i % len(system)]}] if system and system[i % len(system)] else []
            row = {"prompt": [*before, {"role": "user", "content": text(rng.randint(2, 8))}],
                   "completion": [{"role": "assistant", "content": text(rng.randint(2, 12))}], "label": i % 2 == 0}
            file.write(json.dumps(row) + "\n")
    return path
