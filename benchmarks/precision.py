#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How far training in bf16 is from float32: TRL's and train_kto's, step by step on the same rows.

The oracle is train_kto in float32 with padded rows and prompts that are not shared, which equals TRL in float32 to
rounding (compare_trl.py). Each model is run as its file has it and with weights that bf16 holds exactly, as published
checkpoints have them: in a file with more bits than bf16, some weights lie in the middle between two numbers of bf16,
and the smallest update flips all of those at once. Writes a report into benchmarks/results/. The interpreter given with
--trl_python needs trl."""
import argparse
import datetime
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile

from compare_trl import HERE, ROOT, chosen_rows, first_line, machine, measure, table

COMPARED = ("loss", "kl", "logps/chosen", "logps/rejected", "rewards/chosen", "rewards/rejected", "rewards/margins", "grad_norm")
ORACLE = "float32 padded"
SHOWN = ("loss", "kl", "rewards/margins")


def round_weights(source, target):
    """Copies a model folder with every weight rounded to bf16, still written as float32; under --trl_python."""
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
    add("--train_kto", default=os.path.join(ROOT, "build/examples/train_kto"), help="the program to look at")
    add("--trl_python", default=sys.executable, help="interpreter with trl (default: this one)")
    add("--model", default=os.path.join(ROOT, "examples/models/SmolLM2-135M-Instruct"), help="model folder")
    add("--data", default=os.path.join(ROOT, "examples/data/train.jsonl"), help="rows, JSON Lines")
    add("--num_rows", type=int, default=64, help="train on so many rows, or as many as there are")
    add("--steps", type=int, default=16, help="optimizer steps")
    add("--batch", type=int, default=4, help="rows a step")
    add("--max_length", type=int, default=512)
    add("--learning_rate", type=float, default=5e-6)
    add("--output", help="the report (default: benchmarks/results/DATE-precision.md)")
    return parser.parse_args()


def run_all(args, model, scratch):
    """Returns {side: log}."""
    data = os.path.join(scratch, "train.jsonl")
    with open(data, "w", encoding="utf-8") as file:
        file.writelines(chosen_rows(args.data, "first", args.num_rows, args.batch))
    flags = {
        "per_device_train_batch_size": args.batch, "max_steps": args.steps, "max_length": args.max_length,
        "learning_rate": args.learning_rate, "lr_scheduler_type": "constant", "gradient_checkpointing": False,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "seed": 42,
    }
    sides = {
        ORACLE: {"collator": "padded", "share_prompt": False},
        "TRL in bf16": {"bf16": True},
        "train_kto in bf16": {"bf16": True},
    }
    logs = {}
    for number, (side, extra) in enumerate(sides.items()):
        output = os.path.join(scratch, str(number))
        if side.startswith("TRL"):
            command = [args.trl_python, os.path.join(HERE, "compare_trl.py"), "--run_trl",
                       json.dumps([model, data, output, {**flags, **extra}, False])]
        else:
            command = [args.train_kto, "--model_name_or_path", model, "--dataset_name", data, "--output_dir", output]
            command += [word for flag, value in {**flags, **extra}.items() for word in (f"--{flag}", str(value))]
        logs[side] = measure(command, output, tcmalloc=False)["log"]
        print(f"{side}: {len(logs[side])} steps", flush=True)
    return logs


def distances(log, oracle, key):
    """Root of the mean square and largest of the differences over the steps that have the key."""
    gaps = [abs(a[key] - b[key]) for a, b in zip(log, oracle) if key in a and key in b]
    return (sum(gap * gap for gap in gaps) / len(gaps)) ** 0.5, max(gaps)


def report(args, results):
    versions = first_line([args.trl_python, "-c", "import torch, transformers, trl; print(f'trl {trl.__version__}, "
                           "transformers {transformers.__version__}, torch {torch.__version__}')"])
    changed = first_line(["git", "status", "--porcelain", "--untracked-files=no"]) not in ("", "unknown")
    shown = [shlex.quote(word if not os.path.isabs(word) else "PATH/" + os.path.basename(word)) for word in sys.argv[1:]]
    lines = [
        "# bf16 beside float32", "",
        f"- Date: {datetime.date.today()}; commit {first_line(['git', 'rev-parse', '--short', 'HEAD'])}{' with local changes' * changed}",
        f"- Machine: {machine()}",
        f"- Model: {os.path.basename(os.path.normpath(args.model))}; {args.num_rows} rows of {os.path.basename(args.data)}; "
        f"{args.steps} steps of {args.batch} rows, max_length {args.max_length}, learning rate {args.learning_rate:g}",
        f"- Peer: {versions}",
        f"- Command: `benchmarks/precision.py {' '.join(shown)}`", "",
        "Distance from train_kto in float32 with padded rows and prompts that are not shared: root of the mean square over the "
        "steps (and the largest).",
    ]
    for title, logs in results.items():
        oracle = logs[ORACLE]
        lines += ["", f"## {title}", ""]
        lines += table(["", *(side for side in logs if side != ORACLE)],
                       [[key, *("{:.4g} ({:.2g})".format(*distances(log, oracle, key)) for side, log in logs.items() if side != ORACLE)]
                        for key in COMPARED])
        lines += ["", f"Step by step ({', '.join(logs)}):", ""]
        number = lambda value: "-" if value is None else f"{value:.4g}"
        lines += table(["step", *SHOWN],
                       [[str(entries[0]["step"]), *(", ".join(number(entry.get(key)) for entry in entries) for key in SHOWN)]
                        for entries in zip(*logs.values())])
    return "\n".join(lines) + "\n"


def main():
    if sys.argv[1:2] == ["--round_weights"]:
        return round_weights(*sys.argv[2:4])
    args = parse_arguments()
    for path in (args.train_kto, args.model, args.data):
        if not os.path.exists(path):
            sys.exit(f"error: {path} is missing; examples/quickstart.sh builds train_kto and fetches the model")
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        rounded = os.path.join(scratch, "rounded")
        subprocess.run([args.trl_python, os.path.abspath(__file__), "--round_weights", args.model, rounded], check=True)
        for number, (title, model) in enumerate((("Weights that bf16 holds exactly", rounded), ("Weights as in the file", args.model))):
            folder = os.path.join(scratch, f"runs-{number}")
            os.mkdir(folder)
            results[title] = run_all(args, model, folder)
    path = args.output or os.path.join(HERE, "results", f"{datetime.date.today()}-precision.md")
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    text = report(args, results)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    print(f"\n{text}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
