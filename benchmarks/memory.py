#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The memory that each option of train_kto saves: the peak of the process, one run each, in float32, in bf16 and with LoRA.

Writes a dated report into benchmarks/results/. It measures no times, so other work on the machine does not matter. Standard library only."""
import argparse
import os
import sys
import tempfile

from harness import add_files, check_files, chosen_rows, head, measure, model_name, report_path, table, train_kto, write_report

ADAM_8BIT, IN_BACKWARD = "--optim adamw_8bit", "--optim_in_backward"
RECOMPUTE, PRECOMPUTE = "--gradient_checkpointing", "--precompute_ref_log_probs"
FULL = (
    ("--optim adamw_bf16", "half of the moments"),
    (ADAM_8BIT, "three quarters of the moments"),
    (IN_BACKWARD, "gradients: nothing if they fit in the memory of freed activations"),
    (RECOMPUTE, "the activations of all layers but one"),
    (PRECOMPUTE, "the reference, after its pass"),
    (PRECOMPUTE, "the reference: its log-probs are in the cache"),
    (f"{IN_BACKWARD} {RECOMPUTE}", "activations, and all gradients but the largest (the embedding's)"),
    (f"{ADAM_8BIT} {IN_BACKWARD} {RECOMPUTE}", "moments, gradients and activations"),
)
LORA = ((RECOMPUTE, "the activations of all layers but one"),)
SECTIONS = (
    ("float32, all weights, AdamW", "", FULL),
    ("bf16, all weights, AdamW", "--bf16", (("--ref_dtype float32", "nothing: the reference takes twice the memory"), *FULL)),
    ("float32, LoRA of rank 16 on q_proj and v_proj", "--use_peft --lora_r 16", LORA),
    ("bf16, LoRA of rank 16 on q_proj and v_proj", "--use_peft --lora_r 16 --bf16", LORA),
)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_files(parser)
    add("--num_rows", type=int, default=64, help="train on this many rows, or all if there are fewer")
    add("--steps", type=int, default=3, help="optimizer steps of each run")
    add("--batch", type=int, default=4, help="rows a step")
    add("--max_length", type=int, default=512)
    add("--output", help="the report (default: benchmarks/results/DATE-memory.md)")
    return parser.parse_args()


def measure_section(args, base, options, scratch):
    """[(flags, peak GB, what is no longer held)]; the first entry has no extra flags."""
    data = os.path.join(scratch, "train.jsonl")
    with open(data, "w", encoding="utf-8") as file:
        file.writelines(chosen_rows(args.data, "first", args.num_rows, args.batch))
    common = {"dataset_cache": os.path.join(scratch, "cache"), "max_steps": args.steps, "per_device_train_batch_size": args.batch,
              "max_length": args.max_length, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "learning_rate": 1e-6}
    rows = []
    for flags, saved in (("", ""), *options):
        with tempfile.TemporaryDirectory(dir=scratch) as output:
            command = [*train_kto(args, args.model, data, output, common), *base.split(), *flags.split()]
            if RECOMPUTE not in flags:
                command += [RECOMPUTE, "False"]
            if PRECOMPUTE in flags:  # not the user's cache: the first such run must find it empty, the second filled
                command += ["--ref_logps_cache", os.path.join(scratch, "ref-logps")]
            rows.append((flags, measure(command, output)["gigabytes"], saved))
        print(f"{base} {flags}: {rows[-1][1]:.2f} GB", flush=True)
    return rows


def report(args, sections):
    lines = [
        *head("The memory that each option saves",
              f"Model: {model_name(args)}; {args.steps} steps of {args.batch} rows, max_length {args.max_length}; "
              f"{args.num_rows} rows of {os.path.basename(args.data)}; one run each"),
        "Peak resident size of the process.",
    ]
    for title, rows in sections:
        whole = rows[0][1]
        lines += ["", f"## {title}", "", *table(["flags", "peak, GB", "saved, GB", "what is no longer held"], [
            [f"`{flags}`" if flags else "(none)", f"{peak:.2f}", f"{whole - peak:.2f}" if flags else "", saved]
            for flags, peak, saved in rows])]
    return "\n".join(lines) + "\n"


def main():
    args = parse_arguments()
    check_files(args)
    path = report_path(args, "memory")
    sections = []
    for title, base, options in SECTIONS:
        with tempfile.TemporaryDirectory() as scratch:
            sections.append((title, measure_section(args, base, options, scratch)))
    text = report(args, sections)
    write_report(path, text)
    print(f"\n{text}\nwritten to {path}")


if __name__ == "__main__":
    sys.exit(main())
