#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How train_kto's time and memory scale with the batch, the length of rows, the vocabulary and the number of rows.

One run each. Prints progress; writes a dated report, with plots if this Python has matplotlib, into benchmarks/results/.
To fill the lengths, completions of short prompts are repeated. The vocabularies are the model's own, and larger ones made by
repeating rows of its embedding (the data does not use these tokens). The many rows repeat those of --data, with a number added
to each so that no two are equal; their time covers everything around the step (reading, tokenizing, loading, saving), first
without and then with the cache of tokenized rows. Do not use the machine meanwhile."""
import argparse
import itertools
import json
import os
import struct
import subprocess
import sys
import tempfile
import time

from harness import add_files, check_files, chosen_rows, head, measure, model_name, plotter, report_path, stored_tensors, table, train_kto, write_report

BATCHES = (1, 2, 4, 8, 16)
LENGTHS = (128, 256, 512, 1024, 2048)
VOCABULARIES = (1, 2, 3)  # multiples of the model's own
ROWS = (1_000, 10_000, 100_000, 1_000_000)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_files(parser)
    add("--steps", type=int, default=3, help="optimizer steps of each run, except those of many rows, which make one")
    add("--most_rows", type=int, default=max(ROWS), help="skip larger numbers of rows")
    add("--bf16", action="store_true", help="bf16 mixed precision instead of float32")
    add("--output", help="the report (default: benchmarks/results/DATE-scaling[-bf16].md)")
    return parser.parse_args()


def enlarge_vocabulary(model, times, folder):
    """A copy of the model in `folder` whose embedding (and head, if separate) has `times` as many rows."""
    for name in os.listdir(model):
        if name not in ("config.json", "model.safetensors"):
            os.symlink(os.path.join(os.path.abspath(model), name), os.path.join(folder, name))
    with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    config["vocab_size"] *= times
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    with open(os.path.join(model, "model.safetensors"), "rb") as file:
        header = stored_tensors(file)
        data = file.read()
    parts, end = [], 0
    for name, entry in header.items():
        begin, until = entry["data_offsets"]
        repeat = times if name in ("model.embed_tokens.weight", "lm_head.weight") else 1
        entry["shape"][0] *= repeat
        parts += [data[begin:until]] * repeat
        entry["data_offsets"] = [end, end := end + (until - begin) * repeat]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.writelines([struct.pack("<Q", len(text)), text, *parts])
    return config["vocab_size"]


def read_rows(source):
    with open(source, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def text_of(part):
    return part if isinstance(part, str) else part[0]["content"]


def with_text(part, text):
    return text if isinstance(part, str) else [dict(part[0], content=text), *part[1:]]


def filling_rows(source, count):
    """The `count` rows with the shortest prompts, with completions repeated to fill any max_length."""
    for row in sorted(read_rows(source), key=lambda row: len(json.dumps(row["prompt"])))[:count]:
        text = text_of(row["completion"]) + " "
        yield {**row, "completion": with_text(row["completion"], text * (1 + 8 * max(LENGTHS) // len(text)))}


def numbered_rows(source, count):
    """`count` rows: those of `source`, repeated, each with its number before the prompt."""
    for i, row in zip(range(count), itertools.cycle(read_rows(source))):
        yield {**row, "prompt": with_text(row["prompt"], f"{i} {text_of(row['prompt'])}")}


def write_rows(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


class Runs:
    def __init__(self, args, scratch):
        self.args, self.scratch, self.count = args, scratch, 0

    def run(self, what, model, data, **flags):
        self.count += 1
        output = os.path.join(self.scratch, f"out-{self.count}")
        flags = {"max_steps": self.args.steps, "per_device_train_batch_size": 4, "max_length": 512, "logging_steps": 1,
                 "save_strategy": "no", "report_to": "none", "bf16": self.args.bf16,
                 "dataset_cache": os.path.join(self.scratch, "cache"), **flags}
        start = time.perf_counter()
        run = measure(train_kto(self.args, model, data, output, flags), output)
        run["around"] = time.perf_counter() - start - run["seconds"] * flags["max_steps"]
        run["tokens"] = run["log"][-1]["num_tokens"] / run["log"][-1]["step"]
        print(f"{what}: {run['seconds']:.2f} s per step, {run['around']:.1f} s around the steps, {run['gigabytes']:.2f} GB", flush=True)
        subprocess.run(["rm", "-rf", output], check=True)
        return run


def measure_all(args, scratch):
    """{section: [(value, run)]}; of "rows", (value, run, run from the cache)."""
    runs = Runs(args, scratch)
    sections = {"batch": [], "length": [], "vocabulary": [], "rows": []}
    first, filling = (os.path.join(scratch, f"{name}.jsonl") for name in ("first", "filling"))
    needed = max(BATCHES) * args.steps
    with open(first, "w", encoding="utf-8") as file:
        file.writelines(chosen_rows(args.data, "first", needed, needed))
    write_rows(filling, filling_rows(args.data, 4 * args.steps))
    for batch in BATCHES:
        sections["batch"].append((batch, runs.run(f"batch {batch}", args.model, first, per_device_train_batch_size=batch)))
    for length in LENGTHS:
        sections["length"].append((length, runs.run(f"length {length}", args.model, filling, max_length=length)))
    for times in VOCABULARIES:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            vocabulary = enlarge_vocabulary(args.model, times, folder)
            sections["vocabulary"].append((vocabulary, runs.run(f"vocabulary {vocabulary}", folder, first)))
    for count in ROWS:
        if count > args.most_rows:
            continue
        data = os.path.join(scratch, "many.jsonl")
        write_rows(data, numbered_rows(args.data, count))
        sections["rows"].append((count, *(runs.run(f"{count} rows{cached}", args.model, data, max_steps=1)
                                          for cached in ("", ", cached"))))
        os.remove(data)
    return sections


def report(args, sections, plot):
    lines = [
        *head("How train_kto scales",
              f"Model: {model_name(args)} in {'bf16' if args.bf16 else 'float32'}, all weights, AdamW; KTO; rows of "
              f"{os.path.basename(args.data)}",
              f"Batch 4 and max_length 512 unless the table says otherwise; {args.steps} steps; one run each"),
        "Tokens count the rows, without KL pairs. Memory is the peak resident size of the process.", ""]
    if plot:
        lines += [f"![scaling]({os.path.basename(plot)})", ""]
    titles = {"batch": "Batch (the first rows)", "length": "max_length (short prompts; completions repeated until they fill it)",
              "vocabulary": "Vocabulary"}
    for section, title in titles.items():
        lines += [f"## {title}", "", *table([section, "s a step", "tokens a step", "tokens/s", "peak GB"], [
            [f"{value:,}", f"{run['seconds']:.2f}", f"{run['tokens']:,.0f}", f"{run['tokens'] / run['seconds']:,.0f}",
             f"{run['gigabytes']:.2f}"] for value, run in sections[section]]), ""]
    lines += ["## Rows", "", "Everything around one step: reading, checking, templates, tokenizing, loading the model, saving it.", "",
              *table(["rows", "s", "peak GB", "s, from the cache", "peak GB"], [
                  [f"{value:,}", f"{run['around']:.1f}", f"{run['gigabytes']:.2f}", f"{cached['around']:.1f}",
                   f"{cached['gigabytes']:.2f}"] for value, run, cached in sections["rows"]])]
    return "\n".join(lines) + "\n"


def draw(path, sections):
    """Plots speed and memory over each of the four; returns the path, or None without matplotlib."""
    pyplot = plotter()
    if pyplot is None:
        return None
    figure, axes = pyplot.subplots(2, 4, figsize=(12, 5))
    for (upper, lower), (section, points) in zip(axes.T, sections.items()):
        values = [point[0] for point in points]
        for place, color in enumerate(("#2a6fb0", "#e08b2c")[:len(points[0]) - 1]):
            runs = [point[1 + place] for point in points]
            label = ("without cache", "from the cache")[place]
            speeds = [run["around"] if section == "rows" else run["tokens"] / run["seconds"] for run in runs]
            upper.plot(values, speeds, marker="o", markersize=3, color=color, label=label)
            lower.plot(values, [run["gigabytes"] for run in runs], marker="o", markersize=3, color=color)
        upper.set(title="s around the step" if section == "rows" else "tokens/s", ylim=(0, None))
        lower.set(title="peak memory, GB", ylim=(0, None), xlabel=section)
        for axis in (upper, lower):
            axis.set_xscale("log")
            axis.set_xticks(values, [f"{value:,}" if value < 10_000 else f"{value // 1000:,}k" for value in values])
            axis.minorticks_off()
        if section == "rows":
            upper.legend()
    figure.savefig(path, dpi=110)
    return path


def main():
    args = parse_arguments()
    check_files(args)
    stem = report_path(args, f"scaling{'-bf16' * args.bf16}").removesuffix(".md")
    with tempfile.TemporaryDirectory() as scratch:
        sections = measure_all(args, scratch)
    text = report(args, sections, draw(stem + ".png", sections))
    write_report(stem + ".md", text)
    print(f"\n{text}\nwritten to {stem}.md")


if __name__ == "__main__":
    sys.exit(main())
