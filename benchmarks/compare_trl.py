#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the same KTO steps in TRL and in train_kto on this machine, and puts time, memory and losses side by side.

The two take turns, each in a process of its own. Time is `train_runtime` over the number of steps: start-up, loading and
saving stay out. Memory is the process's peak resident size, start to end. Exit status 1 if the losses disagree.
Writes a report into benchmarks/results/. The interpreter given with --trl_python needs trl, and torch as train_kto has it.
"""
import argparse
import ctypes
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
TCMALLOC = "libtcmalloc_minimal.so.4"
SHOWN = ("loss", "kl", "grad_norm", "rewards/margins")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--train_kto", default=os.path.join(ROOT, "build/examples/train_kto"), help="the program to measure")
    add("--trl_python", default=sys.executable, help="interpreter with trl (default: this one)")
    add("--model", default=os.path.join(ROOT, "examples/models/SmolLM2-135M-Instruct"), help="model folder")
    add("--data", default=os.path.join(ROOT, "examples/data/train.jsonl"), help="rows, JSON Lines")
    add("--rows", type=int, default=64, help="train on the first N rows")
    add("--steps", type=int, default=6, help="optimizer steps")
    add("--batch", type=int, default=4, help="rows a step")
    add("--max_length", type=int, default=512)
    add("--learning_rate", type=float, default=5e-6)
    add("--rounds", type=int, default=1, help="runs of each side; the fastest counts")
    add("--bf16", action="store_true", help="both in bf16 mixed precision instead of float32")
    add("--tcmalloc", action="store_true", help=f"preload {TCMALLOC} into both (Debian: libtcmalloc-minimal4)")
    add("--output", help="the report (default: benchmarks/results/DATE-SETTINGS.md)")
    return parser.parse_args()


def training_flags(args):
    """Flags that KTOConfig and train_kto share."""
    return {
        "per_device_train_batch_size": args.batch, "max_steps": args.steps, "max_length": args.max_length,
        "learning_rate": args.learning_rate, "bf16": args.bf16, "gradient_checkpointing": False, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "seed": 42,
    }


def run_trl(model, data, output, flags):
    """The TRL side; runs in a process of its own, under --trl_python."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    with open(data, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    trainer = KTOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=KTOConfig(output_dir=output, use_cpu=True, disable_tqdm=True, **flags),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    result = trainer.train()
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()


def measure(command, output, tcmalloc):
    """Runs the command; returns its seconds a step, peak GB and log. Its output goes to a file, shown if it fails."""
    environment = dict(os.environ, **({"LD_PRELOAD": TCMALLOC} if tcmalloc else {}))
    with tempfile.TemporaryFile("w+") as text:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=text, stderr=text, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            text.seek(0)
            sys.exit(f"{text.read()[-3000:]}\nerror: exit status {process.returncode} of {shlex.join(command)}")
    with open(os.path.join(output, "trainer_state.json"), encoding="utf-8") as file:
        state = json.load(file)
    with open(os.path.join(output, "train_results.json"), encoding="utf-8") as file:
        results = json.load(file)
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": results["train_runtime"] / state["global_step"], "gigabytes": peak_bytes / 1e9,
            "log": [entry for entry in state["log_history"] if "loss" in entry]}


def run_both(args, scratch):
    """Returns {"TRL": runs, "train_kto": runs}."""
    data = os.path.join(scratch, "train.jsonl")
    with open(args.data, encoding="utf-8") as source, open(data, "w", encoding="utf-8") as file:
        lines = [line for line in source if line.strip()][:args.rows]
        file.writelines(lines)
    if len(lines) < args.rows:
        sys.exit(f"error: {args.data} has {len(lines)} rows, --rows asks for {args.rows}")
    flags = training_flags(args)
    runs = {"TRL": [], "train_kto": []}
    for turn in range(args.rounds):
        for side in sorted(runs, reverse=turn % 2):
            output = os.path.join(scratch, f"{side}-{turn}")
            if side == "TRL":
                command = [args.trl_python, os.path.abspath(__file__), "--run_trl",
                           json.dumps([args.model, data, output, flags])]
            else:
                command = [args.train_kto, "--model_name_or_path", args.model, "--dataset_name", data, "--output_dir", output]
                command += [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
            run = measure(command, output, args.tcmalloc)
            print(f"{side}: {run['seconds']:.2f} s a step, {run['gigabytes']:.2f} GB peak", flush=True)
            runs[side].append(run)
    return runs


def first_line(command, cwd=ROOT):
    try:
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout.strip().split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine():
    processor = platform.processor() or platform.machine()
    memory = ""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), processor)
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    return f"{processor}, {len(os.sched_getaffinity(0))} cores{memory}, {platform.system()} {platform.machine()}"


def largest_difference(runs, key):
    pairs = [(a.get(key), b.get(key)) for a, b in zip(runs["TRL"][0]["log"], runs["train_kto"][0]["log"])]
    return max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=0.0)


def report(args, runs, agree, tolerance):
    best = {side: {key: min(run[key] for run in runs[side]) for key in ("seconds", "gigabytes")} for side in runs}
    versions = first_line([args.trl_python, "-c", "import torch, transformers, trl; print(f'trl {trl.__version__}, "
                           "transformers {transformers.__version__}, torch {torch.__version__}')"])
    changed = first_line(["git", "status", "--porcelain", "--untracked-files=no"]) not in ("", "unknown")
    commit = first_line(["git", "rev-parse", "--short", "HEAD"]) + (" with local changes" if changed else "")
    shown = [shlex.quote(word if not os.path.isabs(word) else os.path.relpath(word, ROOT) if word.startswith(ROOT + os.sep)
                         else "PATH/" + os.path.basename(word)) for word in sys.argv[1:]]
    lines = [
        f"# TRL and train_kto, {'bf16' if args.bf16 else 'float32'}, batch {args.batch}, max_length {args.max_length}",
        "",
        f"- Date: {datetime.date.today()}; commit {commit}",
        f"- Machine: {machine()}{'; tcmalloc preloaded in both' if args.tcmalloc else ''}",
        f"- Model: {os.path.basename(os.path.normpath(args.model))}; rows: the first {args.rows} of "
        f"{os.path.basename(args.data)}; {args.steps} steps, learning rate {args.learning_rate:g}",
        f"- Peer: {versions}",
        f"- Command: `benchmarks/compare_trl.py {' '.join(shown)}`",
        "",
        "| | TRL | train_kto | TRL / train_kto |",
        "| --- | --- | --- | --- |",
    ]
    for name, key in (("seconds a step", "seconds"), ("peak memory, GB", "gigabytes")):
        trl, kto = best["TRL"][key], best["train_kto"][key]
        lines.append(f"| {name} | {trl:.2f} | {kto:.2f} | {trl / kto:.2f} |")
    if args.rounds > 1:
        lines += ["", f"The better of {args.rounds} runs each. All, seconds a step: " + "; ".join(
            f"{side} {', '.join(format(run['seconds'], '.2f') for run in runs[side])}" for side in runs) + "."]
    lines += ["", "Step by step (TRL, train_kto):", "", "| step | " + " | ".join(SHOWN) + " |", "| --- " * 5 + "|"]
    number = lambda value: "-" if value is None else f"{value:.5g}"
    for a, b in zip(runs["TRL"][0]["log"], runs["train_kto"][0]["log"]):
        lines.append(f"| {a['step']} | " + " | ".join(f"{number(a.get(k))}, {number(b.get(k))}" for k in SHOWN) + " |")
    lines += ["| largest difference | " + " | ".join(f"{largest_difference(runs, key):.2g}" for key in SHOWN) + " |", "",
              f"The losses {'agree' if agree else 'DISAGREE'} (within {tolerance:g})."]
    return "\n".join(lines) + "\n"


def main():
    if sys.argv[1:2] == ["--run_trl"]:
        return run_trl(*json.loads(sys.argv[2]))
    args = parse_arguments()
    for path in (args.train_kto, args.model, args.data):
        if not os.path.exists(path):
            sys.exit(f"error: {path} is missing; examples/quickstart.sh builds train_kto and fetches the model")
    if args.tcmalloc:
        try:
            ctypes.CDLL(TCMALLOC)
        except OSError:
            sys.exit(f"error: {TCMALLOC} is not installed (Debian: libtcmalloc-minimal4)")
    with tempfile.TemporaryDirectory() as scratch:
        runs = run_both(args, scratch)
    tolerance = 0.03 if args.bf16 else 5e-4
    same_steps = len(runs["TRL"][0]["log"]) == len(runs["train_kto"][0]["log"])
    agree = same_steps and largest_difference(runs, "loss") <= tolerance
    text = report(args, runs, agree, tolerance)
    settings = f"{'bf16' if args.bf16 else 'float32'}-batch{args.batch}-length{args.max_length}"
    settings += "-tcmalloc" if args.tcmalloc else ""
    path = args.output or os.path.join(HERE, "results", f"{datetime.date.today()}-{settings}.md")
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".tmp", path)
    print(f"\n{text}\nwritten to {path}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
