#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tokens per second and peak memory of train_kto on a GPU, beside TRL where this Python has it, in bf16 mixed precision.

Models of known shapes with random weights, on rows of random words about as long as --max_length; both programs train on the
same rows with the same flags, one run each. A rate is taken from the third step to the last, by the times at which a program
prints its log entries. Memory is the peak of allocated tensors, as the allocator of each program counts it.

Writes a dated report into benchmarks/results/ after each run, so that an interrupted one leaves its results. benchmarks/gpu.sh
calls it."""
import argparse
import importlib.util
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

from harness import ROOT, first_line, head, report_path, table, train_kto, trl_versions, write_report

COMMON = {"hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "dtype": "bfloat16"}
SHAPES = {
    "SmolLM2-135M": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152, "hidden_size": 576,
                     "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
                     "rope_theta": 100000.0},
    "Qwen2-0.5B": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896,
                   "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
                   "rope_theta": 1000000.0},
    "smallest": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 2000, "hidden_size": 64,
                 "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                 "rope_theta": 1000000.0},
}
TOKENIZER = os.path.join(ROOT, "tests/golden/data/model")  # whatever the vocabulary: rows use a part of it
TOKENS_PER_WORD = 5  # of that tokenizer, about


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--train_kto", default=os.path.join(ROOT, "build/examples/train_kto"), help="the program to measure")
    add("--device", default="cuda", help="for train_kto and TRL; cpu tries this program out")
    add("--models", nargs="+", default=["SmolLM2-135M", "Qwen2-0.5B"], choices=list(SHAPES))
    add("--batches", nargs="+", type=int, default=[8, 32], help="rows per step")
    add("--max_length", type=int, default=1024)
    add("--steps", type=int, default=12, help="optimizer steps of each run")
    add("--timeout", type=int, default=90, help="seconds after which a run counts as failed")
    add("--output", help="the report (default: benchmarks/results/DATE-gpu.md)")
    return parser.parse_args()


# --- Models and rows --------------------------------------------------------------------------------------------------
def tensor_shapes(config):
    D, M, V = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    width = D // config["num_attention_heads"]
    queries, keys = D, config["num_key_value_heads"] * width
    out = {"model.embed_tokens.weight": [V, D], "model.norm.weight": [D]}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            out[f"{layer}self_attn.{name}_proj.weight"] = [rows, D]
            if config["model_type"] == "qwen2":
                out[f"{layer}self_attn.{name}_proj.bias"] = [rows]
        out |= {layer + "self_attn.o_proj.weight": [D, queries], layer + "mlp.gate_proj.weight": [M, D], layer + "mlp.up_proj.weight": [M, D],
                layer + "mlp.down_proj.weight": [D, M], layer + "input_layernorm.weight": [D], layer + "post_attention_layernorm.weight": [D]}
    return out


def random_bfloat16(count):
    """Numbers of random sign between 2^-7 and 2^-5."""
    out = bytearray(2 * count)
    out[0::2] = os.urandom(count)
    out[1::2] = os.urandom(count).translate(bytes(0xBC if byte % 2 else 0x3C for byte in range(256)))
    return bytes(out)


def make_model(folder, shape):
    shutil.copytree(TOKENIZER, folder)
    config = {**COMMON, **SHAPES[shape]}
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)
    header, end = {"__metadata__": {"format": "pt"}}, 0
    counts = {}
    for name, sizes in tensor_shapes(config).items():
        counts[name] = sizes[0] * (sizes[1] if len(sizes) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": sizes, "data_offsets": [end, end := end + 2 * counts[name]]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, count in counts.items():
            one = struct.pack("<H", 0x3F80)
            file.write(one * count if "norm" in name else bytes(2 * count) if name.endswith("bias") else random_bfloat16(count))


def make_rows(path, count, max_length):
    rng = random.Random(3)
    words = "alpha beta gamma delta rivers mountains answer question yes no because light water stone paper green".split()
    text = lambda: " ".join(rng.choice(words) for _ in range(rng.randint(3 * max_length // 8, 5 * max_length // 8) // TOKENS_PER_WORD))
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            row = {"prompt": [{"role": "user", "content": text()}], "completion": [{"role": "assistant", "content": text()}], "label": i % 2 == 0}
            file.write(json.dumps(row) + "\n")


# --- Runs -------------------------------------------------------------------------------------------------------------
def run_trl(model, data, output, device, flags):
    """The TRL side; runs in its own process."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    with open(data, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    KTOTrainer(model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), train_dataset=Dataset.from_list(rows),
               args=KTOConfig(output_dir=output, disable_tqdm=True, use_cpu=device == "cpu", **flags),
               processing_class=AutoTokenizer.from_pretrained(model)).train()
    if device != "cpu":
        print(f"peak {torch.cuda.max_memory_allocated()}", flush=True)


def measure(command, timeout):
    """{"rate": tokens per second, "seconds" per step, "peak" bytes or 0, "log": first and last loss}, or what went wrong."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace", env=dict(os.environ, PYTHONUNBUFFERED="1"))
    times, logs, text, peak, begin = [], [], [], 0, time.perf_counter()
    killer = subprocess.Popen(["sh", "-c", f"sleep {timeout}; kill {process.pid} 2>/dev/null"])
    for line in process.stdout:
        text.append(line)
        numbers = dict(part.split(": ", 1) for part in line.strip().strip("{}").replace("'", "").split(", ") if ": " in part)
        if "loss" in numbers:
            times.append(time.perf_counter())
            logs.append(numbers)
        if line.startswith("peak "):
            peak = float(line.split()[1])
        if "train_mem_gpu_peaked_delta" in numbers:
            peak = sum(float(numbers[name]) for name in ("init_mem_gpu_alloc_delta", "train_mem_gpu_alloc_delta", "train_mem_gpu_peaked_delta"))
    status = process.wait()
    killer.kill()
    if status or len(times) < 5:
        return f"exit status {status} after {time.perf_counter() - begin:.0f} s and {len(times)} steps: {''.join(text)[-400:]}"
    tokens = float(logs[-1]["num_tokens"]) - float(logs[2]["num_tokens"])
    seconds = times[-1] - times[2]
    return {"rate": tokens / seconds, "seconds": seconds / (len(times) - 3), "peak": peak,
            "log": [float(logs[0]["loss"]), float(logs[-1]["loss"])]}


def commands(args, model, data, scratch, batch):
    """{program: command}."""
    flags = {"per_device_train_batch_size": batch, "max_steps": args.steps, "max_length": args.max_length, "learning_rate": 1e-5,
             "bf16": True, "gradient_checkpointing": False, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "seed": 42,
             "loss_type": "kto"}
    out = lambda side: os.path.join(scratch, f"{side}-{os.path.basename(model)}-{batch}")
    both = {"train_kto": train_kto(args, model, data, out("train_kto"), {**flags, "device": args.device, "skip_memory_metrics": False})}
    if all(importlib.util.find_spec(name) for name in ("trl", "torch", "transformers", "datasets")):
        both["TRL"] = [sys.executable, os.path.abspath(__file__), "--run_trl", json.dumps([model, data, out("trl"), args.device, flags])]
    return both


# --- Report -----------------------------------------------------------------------------------------------------------
def report(args, results):
    gpu = first_line(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    lines = [*head("Training on a GPU", f"GPU: {gpu}" if args.device != "cpu" else "No GPU: a trial of this program",
                   f"Peer: {trl_versions(sys.executable)}", f"bf16 mixed precision, max_length {args.max_length}, {args.steps} steps; "
                   "random weights and rows"), __doc__.split("\n\n")[1], ""]
    rows = []
    for (model, batch, program), result in results.items():
        if isinstance(result, str):
            rows.append([model, str(batch), program, "failed", "", "", result.replace("\n", " ")[:200]])
            continue
        rows.append([model, str(batch), program, f"{result['rate']:.0f}", f"{result['seconds']:.4f}", f"{result['peak'] / 1e9:.2f}",
                     ", ".join(f"{loss:.4g}" for loss in result["log"])])
    return "\n".join([*lines, *table(["model", "rows", "program", "tokens/s", "s per step", "peak GB", "first and last loss"], rows)]) + "\n"


def main():
    if sys.argv[1:2] == ["--run_trl"]:
        return run_trl(*json.loads(sys.argv[2]))
    args = parse_arguments()
    path, results = report_path(args, "gpu"), {}
    with tempfile.TemporaryDirectory() as scratch:
        data = os.path.join(scratch, "train.jsonl")
        make_rows(data, args.steps * max(args.batches), args.max_length)
        for shape in args.models:
            model = os.path.join(scratch, shape)
            make_model(model, shape)
            for batch in args.batches:
                for program, command in commands(args, model, data, scratch, batch).items():
                    results[shape, batch, program] = measure(command, args.timeout)
                    print(shape, batch, program, results[shape, batch, program], flush=True)
                    write_report(path, report(args, results))
    print(f"written to {path}")
    return int(any(isinstance(result, str) for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
