#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tokens per second and peak memory of train_kto on a GPU, beside TRL, and TRL with Liger's kernels, where this Python has them,
in bf16 mixed precision; then the kernels of some steps, by nsys or ncu where the machine has one.

Models of known shapes, from examples/models/ or with random weights, on rows of random words about as long as --max_length; all
programs train on the same rows with the same flags, one run each. A rate is taken from the third step to the last, by the times at
which a program prints its log entries. Memory is the peak of allocated tensors, as the allocator of each program counts it. A step's
work is taken as 12 operations a token and parameter: the policy's two passes, its reference's, and those of both on KL pairs; its
share is of the rate of one bf16 product of two large matrices, measured before.

Writes a dated report into benchmarks/results/ after each run, so that an interrupted one leaves its results. benchmarks/gpu.sh
calls it."""
import argparse
import csv
import importlib.util
import json
import math
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
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
LEAST_SECONDS = 10  # that a run needs
BEGIN = time.monotonic()


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
    add("--seconds", type=int, default=3600, help="for all runs, and the profile after them; what does not fit is left out")
    add("--kernels", help="shows this file of ncu alone")
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


def num_parameters(shape):
    """The head is tied to the embeddings, and counted once."""
    return sum(math.prod(sizes) for sizes in tensor_shapes({**COMMON, **SHAPES[shape]}).values())


def make_model(folder, shape):
    files = os.path.join(ROOT, "examples/models", shape + "-Instruct")
    if os.path.isdir(files):
        return os.symlink(files, folder)
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


def bf16_rate(device, size):
    """Operations per second of one product; runs in its own process."""
    import torch
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    wait = torch.cuda.synchronize if device != "cpu" else lambda: None
    times = []
    for _ in range(12):
        wait()
        begin = time.perf_counter()
        a @ b
        wait()
        times.append(time.perf_counter() - begin)
    print(2 * size**3 / min(times))


def ask(function, *arguments, timeout=60):
    """The number that a function of this file prints, with the Python that has torch; 0 if it fails."""
    command = [sys.executable, os.path.abspath(__file__), "--call", function, json.dumps(arguments)]
    try:
        return float(subprocess.run(command, capture_output=True, text=True, timeout=timeout).stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return 0.0


def stop(process):
    """Ends the process and those that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def measure(command, timeout):
    """{"rate": tokens per second, "seconds" per step, "peak" bytes or 0, "log": first and last loss}, or what went wrong."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace", start_new_session=True, env=dict(os.environ, PYTHONUNBUFFERED="1"))
    times, logs, text, peak, begin = [], [], [], 0, time.perf_counter()
    killer = threading.Timer(timeout, stop, [process])
    killer.start()
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
    killer.cancel()
    if status or len(times) < 5:
        return f"exit status {status} after {time.perf_counter() - begin:.0f} s and {len(times)} steps: {''.join(text)[-400:]}"
    tokens = float(logs[-1]["num_tokens"]) - float(logs[2]["num_tokens"])
    seconds = times[-1] - times[2]
    return {"rate": tokens / seconds, "seconds": seconds / (len(times) - 3), "peak": peak,
            "log": [float(logs[0]["loss"]), float(logs[-1]["loss"])]}


def commands(args, model, data, scratch, batch, steps):
    """{program: command}."""
    flags = {"per_device_train_batch_size": batch, "max_steps": steps, "max_length": args.max_length, "learning_rate": 1e-5,
             "bf16": True, "gradient_checkpointing": False, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "seed": 42,
             "loss_type": "kto"}
    out = lambda side: os.path.join(scratch, f"{side}-{os.path.basename(model)}-{batch}")
    both = {"train_kto": train_kto(args, model, data, out("train_kto"), {**flags, "device": args.device, "skip_memory_metrics": False})}
    if all(importlib.util.find_spec(name) for name in ("trl", "torch", "transformers", "datasets")):
        call = lambda name, **more: [sys.executable, os.path.abspath(__file__), "--call", "run_trl",
                                     json.dumps([model, data, out(name), args.device, {**flags, **more}])]
        both["TRL"] = call("trl")
        if importlib.util.find_spec("liger_kernel"):
            both["TRL, Liger"] = call("liger", use_liger_kernel=True)
    return both


# --- Profile ----------------------------------------------------------------------------------------------------------
def kernel_table(path, most=30):
    """Of ncu's CSV: the kernels that took the most time."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line for line in file if line.startswith('"')]
    times = {}
    for row in csv.DictReader(lines):
        if row.get("Metric Name") == "gpu__time_duration.sum":
            scale = {"ns": 1e-9, "nsecond": 1e-9, "us": 1e-6, "usecond": 1e-6, "ms": 1e-3, "msecond": 1e-3}.get(row["Metric Unit"], 1)
            name = row["Kernel Name"].split("(")[0]
            count, seconds = times.get(name, (0, 0.0))
            times[name] = (count + 1, seconds + float(row["Metric Value"].replace(",", "")) * scale)
    total = sum(seconds for _, seconds in times.values()) or 1.0
    rows = [[name[:100].replace("|", " "), str(count), f"{1e3 * seconds:.3f}", f"{100 * seconds / total:.1f} %"]
            for name, (count, seconds) in sorted(times.items(), key=lambda item: -item[1][1])[:most]]
    return "\n".join(table(["kernel", "calls", "ms", "of all"], rows)) + "\n"


def profile(command, path, seconds):
    """The kernels of a run, beside the report at `path`; says so if nothing here can list them."""
    base = os.path.splitext(path)[0]
    if shutil.which("nsys"):
        command = ["nsys", "profile", "--trace=cuda", "--stats=true", "--force-overwrite=true", "--output", base + "-nsys", *command]
    elif shutil.which("ncu"):
        command = ["ncu", "--csv", "--log-file", base + "-ncu.csv", "--metrics", "gpu__time_duration.sum", "--launch-skip", "1000",
                   "--launch-count", "3000", *command]
    else:
        return "Not profiled: the machine has neither nsys nor ncu.\n"
    with open(base + "-profile.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            stop(process)
            status = f"none after {seconds} s"
    if os.path.exists(base + "-ncu.csv"):
        return f"Kernels of some steps (exit status {status}):\n\n{kernel_table(base + '-ncu.csv')}"
    return f"Kernels of a run: {os.path.basename(base)}-profile.log (exit status {status}).\n"


# --- Report -----------------------------------------------------------------------------------------------------------
def report(args, results, peak_rate):
    gpu = first_line(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    rate = f"one bf16 product makes {peak_rate / 1e12:.3g} TFLOP/s" if peak_rate else "the rate of a bf16 product is not known"
    lines = [*head("Training on a GPU", f"GPU: {gpu}; {rate}" if args.device != "cpu" else f"No GPU: a trial of this program; {rate}",
                   f"Peer: {trl_versions(sys.executable)}", f"bf16 mixed precision, max_length {args.max_length}, {args.steps} steps"),
             __doc__.split("\n\n")[1], ""]
    rows = []
    for (model, batch, program), result in results.items():
        if isinstance(result, str):
            rows.append([model, str(batch), program, "none", "", "", "", result.replace("\n", " ").replace("|", " ")[:200]])
            continue
        share = 12 * num_parameters(model) * result["rate"] / peak_rate if peak_rate else 0
        rows.append([model, str(batch), program, f"{result['rate']:.0f}", f"{result['seconds']:.4f}", f"{result['peak'] / 1e9:.2f}",
                     f"{100 * share:.1f} %" if share else "", ", ".join(f"{loss:.4g}" for loss in result["log"])])
    return "\n".join([*lines, *table(["model", "rows", "program", "tokens/s", "s per step", "peak GB", "of the bf16 rate",
                                      "first and last loss"], rows)]) + "\n"


def main():
    if sys.argv[1:2] == ["--call"]:
        return globals()[sys.argv[2]](*json.loads(sys.argv[3]))
    args = parse_arguments()
    if args.kernels:
        return print(kernel_table(args.kernels))
    path, results = report_path(args, "gpu"), {}
    left = lambda: args.seconds - (time.monotonic() - BEGIN)
    peak_rate = ask("bf16_rate", args.device, 8192 if args.device != "cpu" else 256, timeout=max(1, min(60, left())))
    with tempfile.TemporaryDirectory() as scratch:
        data = os.path.join(scratch, "train.jsonl")
        make_rows(data, args.steps * max(args.batches), args.max_length)
        for shape in args.models:
            make_model(os.path.join(scratch, shape), shape)
        for batch in args.batches:  # what matters most first
            for shape in args.models:
                for program, command in commands(args, os.path.join(scratch, shape), data, scratch, batch, args.steps).items():
                    seconds = min(args.timeout, left())
                    results[shape, batch, program] = measure(command, seconds) if seconds >= LEAST_SECONDS else "no time was left"
                    print(shape, batch, program, results[shape, batch, program], flush=True)
                    write_report(path, report(args, results, peak_rate))
        text = report(args, results, peak_rate)
        if left() >= LEAST_SECONDS:
            last = commands(args, os.path.join(scratch, args.models[-1]), data, scratch, args.batches[0], steps=4)["train_kto"]
            text += "\n" + profile([*last, "--overwrite_output_dir"], path, left() - 3)
        write_report(path, text)
    print(f"written to {path}")
    return int(any(isinstance(result, str) for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
