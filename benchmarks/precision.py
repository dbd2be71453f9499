#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How far train_kto and TRL in bf16 deviate from float32 over the steps of a run, on the same rows.

The oracle is train_kto in float32 with padded rows and without shared prompts, which equals TRL in float32 up to rounding
(compare_trl.py). Each model is run with the weights of its file and with these weights rounded to bf16, like published
checkpoints. With more bits than bf16, some weights are exactly halfway between two bf16 numbers, and the smallest update
flips all of them at once. One run is one sample of the rounding: --draws repeats it with other orders of the rows, to
tell systematic differences from chance. Writes a report into benchmarks/results/.
The interpreter given with --trl_python needs trl."""
import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile

from compare_trl import ROWS, train_trl
from harness import (add_files, check_files, chosen_rows, head, measure, model_name, report_path, table, train_kto, trl_versions,
                     write_report)

COMPARED = ("loss", "kl", "logps/chosen", "logps/rejected", "rewards/chosen", "rewards/rejected", "rewards/margins", "grad_norm")
ORACLE, PEER, OURS = "float32 padded", "TRL in bf16", "train_kto in bf16"
SHOWN = ("loss", "kl", "rewards/margins")


def round_weights(source, target):
    """Copies a model folder with every weight rounded to bf16 but stored as float32; under --trl_python."""
    import torch
    from safetensors.torch import load_file, save_file
    shutil.copytree(source, target)
    for name in os.listdir(target):
        if name.endswith(".safetensors"):
            weights = load_file(os.path.join(target, name))
            save_file({key: weight.to(torch.bfloat16).float() for key, weight in weights.items()}, os.path.join(target, name),
                      metadata={"format": "pt"})


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_files(parser)
    add("--trl_python", default=sys.executable, help="interpreter with trl (default: this one)")
    add("--num_rows", type=int, default=64, help="train on this many rows, or all if there are fewer")
    add("--steps", type=int, default=16, help="optimizer steps")
    add("--batch", type=int, default=4, help="rows a step")
    add("--max_length", type=int, default=512)
    add("--rows", default="first", choices=ROWS, help="which rows; see compare_trl.py")
    add("--draws", type=int, default=1, help="number of orders of the rows, each run on every side")
    add("--weights", default="both", choices=("both", "exact", "file"), help="weights rounded to bf16, weights as in the file, or both")
    add("--learning_rate", type=float, default=5e-6)
    add("--output", help="the report (default: benchmarks/results/DATE-precision.md)")
    return parser.parse_args()


def run_all(args, model, scratch, draw):
    """Returns {side: log}; the first draw has the rows in their order, the others a random order, the same on all sides."""
    rows = chosen_rows(args.data, args.rows, args.num_rows, args.batch)
    if draw:
        random.Random(draw).shuffle(rows)
    data = os.path.join(scratch, "train.jsonl")
    with open(data, "w", encoding="utf-8") as file:
        file.writelines(rows)
    flags = {
        "per_device_train_batch_size": args.batch, "max_steps": args.steps, "max_length": args.max_length,
        "learning_rate": args.learning_rate, "lr_scheduler_type": "constant", "gradient_checkpointing": False,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "seed": 42,
    }
    sides = {
        ORACLE: {"collator": "padded", "share_prompt": False},
        PEER: {"bf16": True},
        OURS: {"bf16": True},
    }
    logs = {}
    for number, (side, extra) in enumerate(sides.items()):
        output = os.path.join(scratch, str(number))
        train = train_trl if side == PEER else train_kto
        logs[side] = measure(train(args, model, data, output, {**flags, **extra}), output)["log"]
        print(f"draw {draw + 1}, {side}: {len(logs[side])} steps", flush=True)
        shutil.rmtree(output, ignore_errors=True)
    return logs


def distance(draws, side, key):
    """The RMS and largest of the differences from the oracle over the steps that have the key; 0 if none has."""
    gaps = [abs(a[key] - b[key]) for logs in draws for a, b in zip(logs[side], logs[ORACLE]) if key in a and key in b] or [0.0]
    return (sum(gap * gap for gap in gaps) / len(gaps)) ** 0.5, max(gaps)


def compared_row(draws, key):
    """The distances of both sides, and in how many draws train_kto's is larger."""
    (peer, _), (ours, _) = pooled = [distance(draws, side, key) for side in (PEER, OURS)]
    farther = sum(distance([logs], OURS, key)[0] > distance([logs], PEER, key)[0] for logs in draws)
    return [key, *("{:.4g} ({:.2g})".format(*each) for each in pooled), f"{ours / peer:.2f}" if peer else "-",
            f"{farther} of {len(draws)}"]


def report(args, results):
    lines = [
        *head("bf16 against float32",
              f"Model: {model_name(args)}; {args.num_rows} rows of {os.path.basename(args.data)} ({args.rows}); {args.draws} x {args.steps} steps of "
              f"{args.batch} rows, max_length {args.max_length}, learning rate {args.learning_rate:g}",
              f"Peer: {trl_versions(args.trl_python)}"),
        "Distance from train_kto in float32 with padded rows and without shared prompts: RMS over the "
        "steps (and the largest). A draw is an order of the rows.",
    ]
    for title, draws in results.items():
        lines += ["", f"## {title}", ""]
        lines += table(["", PEER, OURS, "ratio", "draws in which train_kto is further"], [compared_row(draws, key) for key in COMPARED])
        logs = draws[0]
        lines += ["", f"The first draw, step by step ({', '.join(logs)}):", ""]
        number = lambda value: "-" if value is None else f"{value:.4g}"
        lines += table(["step", *SHOWN],
                       [[str(entries[0]["step"]), *(", ".join(number(entry.get(key)) for entry in entries) for key in SHOWN)]
                        for entries in zip(*logs.values())])
    return "\n".join(lines) + "\n"


def main():
    if sys.argv[1:2] == ["--round_weights"]:
        return round_weights(*sys.argv[2:4])
    args = parse_arguments()
    check_files(args)
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        models = {}
        if args.weights != "file":
            models["Weights rounded to bf16"] = rounded = os.path.join(scratch, "rounded")
            subprocess.run([args.trl_python, os.path.abspath(__file__), "--round_weights", args.model, rounded], check=True)
        if args.weights != "exact":
            models["Weights as in the file"] = args.model
        for title, model in models.items():
            results[title] = [run_all(args, model, scratch, draw) for draw in range(args.draws)]
    path, text = report_path(args, "precision"), report(args, results)
    write_report(path, text)
    print(f"\n{text}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
