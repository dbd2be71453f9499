#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a report with plots from the measurements of benchmarks/run.sh: benchmarks/results/DATE-library.md.

Runs Hugging Face's tokenizers on the same rows if this interpreter has them (and transformers, for chat templates, and
datasets, for the path from file to token ids), and draws plots if it has matplotlib; the report says what is missing."""
import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import time

import harness
from harness import head, plotter, report_path, write_report

GOALS = {"a loss header, s": 1, "program, s": 25, "program, GB": 2.5}
ONE_TRAINER = "kto.hpp and one Trainer"
KINDS = (("tensor", "forward"), ("tensor", "forward+backward"), ("ArrayXd", "forward"), ("ArrayXf", "forward"))
SIDES = {"full": "full softmax, plain LibTorch", "full_fast": "full softmax, kto's product", "chunked": "chunked (kto)"}
DATA_PEERS = (("tokenize", ("tokenize",)), ("encode", ("encode", 1)), ("prepare", ("prepare", 1)))
KTO, PEER, SECOND = "#2a6fb0", "#b8b8b8", "#e08a2e"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("measured", help="folder with losses.json, losses_tensor.json, logprob.json, data.json, compile_time.json")
    add("--model", required=True, help="model folder that data.json was measured with")
    add("--data", required=True, help="the rows it was measured with, JSON Lines")
    add("--output", help="the report (default: benchmarks/results/DATE-library.md)")
    return parser.parse_args()


# --- What was measured ------------------------------------------------------------------------------------------------
def load(folder, name):
    """The context, and the benchmarks by the parts of their names (numbers as int), in order; the fastest of repetitions."""
    path = os.path.join(folder, name + ".json")
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, json.JSONDecodeError) as error:
        sys.exit(f"error: {path}: {error}; benchmarks/run.sh makes it")
    if name == "compile_time":
        return content["compilers"]
    runs = {}
    for run in content["benchmarks"]:
        if run.get("error_occurred"):
            sys.exit(f"error: {path}: {run['name']}: {run['error_message']}")
        parts = run["run_name"].removesuffix("/real_time").split("/")
        key = tuple(int(part) if part.isdigit() else part for part in parts)
        if run["run_type"] == "iteration" and (key not in runs or run["cpu_time"] < runs[key]["cpu_time"]):
            runs[key] = run
    return content["context"], dict(sorted(runs.items()))


def ratios(runs):
    """{(loss, array, pass): {rows: (ns of kto, kto / by hand)}}"""
    out = {}
    for (loss, array, direction, side, rows), run in runs.items():
        if side == "kto":
            twin = runs[loss, array, direction, "by_hand", rows]
            out.setdefault((loss, array, direction), {})[rows] = (run["cpu_time"], run["cpu_time"] / twin["cpu_time"])
    return out


def peer_rows(args, expected_tokens):
    """Rows per second of Hugging Face's libraries on one thread, by name, and remarks for the report."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread
    os.environ["HF_HUB_OFFLINE"] = "1"
    with open(args.data, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    conversational = isinstance(rows[0]["prompt"], list)
    said = lambda part: [message["content"] for message in part] if conversational else [part]
    texts = ["".join(text + "\n" for text in said(row["prompt"]) + said(row["completion"])) for row in rows]

    def rate(work):
        seconds = []
        while sum(seconds) < 1.5 or len(seconds) < 5:
            start = time.process_time()
            work()
            seconds.append(time.process_time() - start)
        return len(rows) / min(seconds)

    rates, remarks = {}, []
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return rates, ["No comparison with Hugging Face's tokenizers: this Python has no `tokenizers`."]
    tokenizer = Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encode_all = lambda: [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    tokens = sum(map(len, encode_all()))
    agree = "the same number as kto" if tokens == expected_tokens else f"DISAGREES: kto has {expected_tokens:.0f}"
    remarks.append(f"Peer: tokenizers {importlib.metadata.version('tokenizers')} makes {tokens} tokens of these rows ({agree}).")
    rates["tokenize"] = rate(encode_all)
    try:
        from transformers import AutoTokenizer
    except ImportError:
        return rates, remarks + ["This Python has no `transformers`: encoding through a chat template has no peer."]
    if conversational:
        chat = AutoTokenizer.from_pretrained(args.model)

        def encode_chats():
            for row in rows:
                chat.apply_chat_template(row["prompt"], tokenize=True, add_generation_prompt=True)
                chat.apply_chat_template(row["prompt"] + row["completion"], tokenize=True)

        remarks.append(f"transformers {importlib.metadata.version('transformers')} renders and tokenizes prompt and whole, "
                       "row by row, as TRL does.")
        rates["encode"] = rate(encode_chats)
        try:
            rates["prepare"] = prepare_rate(rows, chat)
            remarks.append(f"datasets {importlib.metadata.version('datasets')} loads the file and maps those two calls over it, in one "
                           "process, as TRL does: from start to end, without a cache.")
        except ImportError:
            remarks.append("This Python has no `datasets`: the path from file to token ids has no peer.")
    return rates, remarks


def prepare_rate(rows, chat):
    """Rows per second from a JSON Lines file of about 2000 rows to token ids, through datasets' load_dataset and map."""
    import datasets

    datasets.disable_progress_bars()
    count = -(-2000 // len(rows)) * len(rows)

    def tokenize(row):  # KTOTrainer's tokenize_fn
        prompt = chat.apply_chat_template(row["prompt"], tokenize=True, add_generation_prompt=True, return_dict=True)["input_ids"]
        whole = chat.apply_chat_template(row["prompt"] + row["completion"], tokenize=True, return_dict=True)["input_ids"]
        start = next((i for i, (a, b) in enumerate(zip(prompt, whole)) if a != b), min(len(prompt), len(whole)))
        return {"prompt_ids": whole[:start], "completion_ids": whole[start:]}

    seconds = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:  # a new one each time, so that nothing is cached
            path = os.path.join(folder, "rows.jsonl")
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(rows[i % len(rows)]) + "\n" for i in range(count))
            start = time.perf_counter()
            datasets.load_dataset("json", data_files=path, split="train", cache_dir=folder).map(tokenize)
            seconds.append(time.perf_counter() - start)
    return count / min(seconds)


# --- Tables -----------------------------------------------------------------------------------------------------------
def table(header, rows):
    return [*harness.table(header, rows), ""]


def time_text(ns):
    return f"{ns:.0f} ns" if ns < 1e3 else f"{ns / 1e3:.1f} us"


def spread(values):
    values = list(values)
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def losses_section(losses):
    lines = ["## Losses: what the abstraction costs", "",
             "One call of the loss, and its time relative to the same formula written by hand: plain `at::` operators for "
             "tensors (float64, one thread), a plain loop for Eigen arrays. The fastest of five runs each, in random order. "
             "The loop has no intermediate arrays; the Eigen form has one for each that a loss names.", ""]
    for array, direction in KINDS:
        chosen = {loss: by_rows for (loss, a, d), by_rows in losses.items() if (a, d) == (array, direction)}
        sizes = list(next(iter(chosen.values())))
        lines += [f"**{array}, {direction}**", ""]
        lines += table(["", *(f"batch {rows}" for rows in sizes)],
                       [[loss, *(f"{time_text(ns)}, {ratio:.2f}" for ns, ratio in by_rows.values())]
                        for loss, by_rows in chosen.items()])
    return lines


def logprob_section(context, runs):
    lines = ["## Log-probs: full softmax and tiles", "",
             f"float32, width {context['width']}, {context['threads']} threads. kto's matrix product here: {context['product']}. "
             "*full*: the oracle, like a plain LibTorch program; *full, kto's product*: the same with kto's matrix product, "
             "so that only the tiling differs. The faster of two runs. Memory: the peak size of the tensors of one pass (outputs, "
             "gradients, scratch).", ""]
    for direction in ("forward", "forward+backward"):
        rows = []
        for vocabulary, tokens in dict.fromkeys(key[2:] for key in runs):
            of = {side: runs[direction, side, vocabulary, tokens] for side in SIDES}
            peak = {side: run["peak_bytes"] for side, run in of.items()}
            rows.append([str(vocabulary), str(tokens), *(f"{of[side]['items_per_second']:.0f}" for side in SIDES),
                         *(f"{peak[side] / 1e6:.0f} MB" for side in SIDES), f"{peak['full'] / peak['chunked']:.1f}"])
        lines += [f"**{direction}**, tokens/s and peak memory", ""]
        lines += table(["vocabulary", "tokens", "full", "full, kto's product", "chunked", "full", "full, kto's product", "chunked",
                        "memory, full / chunked"], rows)
    return lines


def data_section(context, runs, peers, remarks, args):
    what = {"read": "read and check JSON Lines", "tokenize": "tokenize the text of a row",
            "encode": "encode: render the chat template, tokenize prompt and whole",
            "prepare": "prepare: from a JSON Lines file to token ids, all of the above",
            "collate": "collate with KL pairs"}
    rows = []
    for key, run in runs.items():
        kind, *rest = key
        note = {"encode": "threads: {}", "prepare": "threads: {}", "collate": "{}, batch {}"}.get(kind, "").format(*rest)
        peer = peers.get(kind) if rest in ([], [1]) else None
        rows.append([what[kind] + (f"; {note}" if note else ""), f"{run['items_per_second']:,.0f}",
                     f"{peer:,.0f}" if peer else "-", f"{run['items_per_second'] / peer:.1f}" if peer else "-"])
    return ["## Data: rows/s", "",
            f"{context['rows']} rows of {os.path.basename(args.data)}, tokenizer of {os.path.basename(os.path.normpath(args.model))}, "
            "repeated, on one thread unless noted. The fastest of five runs each.", "",
            *table(["", "kto", "Hugging Face", "kto / Hugging Face"], rows), *remarks, ""]


def compile_section(compilers):
    units = [unit["unit"] for unit in compilers[0]["units"]]
    cells = [{unit["unit"]: unit for unit in compiler["units"]} for compiler in compilers]
    return ["## Compile time", "",
            "Each header alone, -O0 -fsyntax-only; the last three, -O0 -c. Processor seconds and peak memory of the compiler. "
            f"Goals: a loss header about {GOALS['a loss header, s']} s; {ONE_TRAINER} under "
            f"{GOALS['program, s']} s and {GOALS['program, GB']} GB.", "",
            *table(["", *(compiler["compiler"] for compiler in compilers)],
                   [[unit, *(f"{cell[unit]['seconds']:.1f} s, {cell[unit]['bytes'] / 1e9:.2f} GB" for cell in cells)]
                    for unit in units])]


def summary(losses, logprob, data, peers, compilers):
    on = lambda array, direction: spread(ratio for (_, a, d), by_rows in losses.items() if (a, d) == (array, direction)
                                         for _, ratio in by_rows.values())
    largest = max(key[2:] for key in logprob)
    full, chunked = (logprob["forward+backward", side, *largest] for side in ("full", "chunked"))
    rows = [[f"loss on tensors, {d}: kto / by hand, median (range)", on("tensor", d), "1"] for d in ("forward", "forward+backward")]
    rows += [[f"loss on {a}: kto / plain loop", on(a, "forward"), "1"] for a in ("ArrayXd", "ArrayXf")]
    shape = f"log-probs, vocabulary {largest[0]}, {largest[1]} tokens, forward+backward"
    rows.append([f"{shape}: peak, chunked / full", f"{chunked['peak_bytes'] / 1e9:.2f} / {full['peak_bytes'] / 1e9:.2f} GB", ""])
    rows.append([f"{shape}: tokens/s, chunked / full", f"{chunked['items_per_second']:.0f} / {full['items_per_second']:.0f}", ""])
    for kind, key in DATA_PEERS:
        rate = data[key]["items_per_second"]
        peer = f" / {peers[kind]:,.0f}" if kind in peers else ""
        rows.append([f"{kind}, rows/s on one thread{', kto / Hugging Face' if peer else ''}", f"{rate:,.0f}{peer}", ""])
    units = [unit for compiler in compilers for unit in compiler["units"]]
    program = [unit for unit in units if unit["unit"] == ONE_TRAINER]
    slowest = max(unit["seconds"] for unit in units if "/loss/" in unit["unit"])
    rows += [["slowest loss header, s", f"{slowest:.1f}", f"about {GOALS['a loss header, s']}"],
             [f"{ONE_TRAINER}, s", " / ".join(f"{u['seconds']:.1f}" for u in program), f"under {GOALS['program, s']}"],
             ["the same, compiler's memory, GB", " / ".join(f"{u['bytes'] / 1e9:.2f}" for u in program), f"under {GOALS['program, GB']}"]]
    return table(["", "measured", "goal"], rows)


# --- Plots ------------------------------------------------------------------------------------------------------------
def draw(stem, losses, logprob, data, peers, compilers):
    """Writes the plots beside the report; returns {section: file name}, or None without matplotlib."""
    pyplot = plotter()
    if pyplot is None:
        return None
    names = {}

    def save(figure, section):
        names[section] = os.path.basename(stem) + f"-{section}.png"
        figure.savefig(f"{stem}-{section}.png", dpi=110)
        pyplot.close(figure)

    figure, axes = pyplot.subplots(1, len(KINDS), figsize=(11, 3.4), sharey=True)
    for axis, (array, direction) in zip(axes, KINDS):
        axis.axhline(1, color="black", linewidth=0.8)
        for (loss, a, d), by_rows in losses.items():
            if (a, d) == (array, direction):
                axis.plot(list(by_rows), [ratio for _, ratio in by_rows.values()], marker="o", markersize=3, label=loss)
        axis.set(xscale="log", title=f"{array}, {direction}", xlabel="rows in the batch")
        axis.set_xticks(list(by_rows), list(map(str, by_rows)))
        axis.minorticks_off()
    axes[0].set(ylabel="time of kto / by hand (1: no cost)", ylim=(0, axes[0].get_ylim()[1]))  # after all: they share it
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
    save(figure, "losses")

    shapes = list(dict.fromkeys(key[2:] for key in logprob))
    labels = [f"{vocabulary // 1000}k\n{tokens}" for vocabulary, tokens in shapes]
    metrics = [("items_per_second", 1, "tokens/s"), ("peak_bytes", 1e6, "peak memory, MB")]
    figure, axes = pyplot.subplots(len(metrics), 2, figsize=(11, 3.1 * len(metrics)), squeeze=False)
    for row, (metric, unit, label) in zip(axes, metrics):
        for axis, direction in zip(row, ("forward", "forward+backward")):
            for place, (side, color) in enumerate(zip(SIDES, (PEER, SECOND, KTO))):
                values = [logprob[direction, side, *shape][metric] / unit for shape in shapes]
                axis.bar([x + 0.27 * (place - 1) for x in range(len(shapes))], values, 0.25, color=color, label=SIDES[side])
            axis.set(title=f"{direction}: {label}", yscale="log")
            axis.set_xticks(range(len(shapes)), labels)
    axes[-1][0].set_xlabel("vocabulary, tokens")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save(figure, "logprob")

    bars = [(kind, {"kto": data[key]["items_per_second"], "Hugging Face": peers[kind]})
            for kind, key in DATA_PEERS if kind in peers]
    if bars:
        figure, axis = pyplot.subplots(figsize=(6, 2.8))
        for place, (side, color) in enumerate((("kto", KTO), ("Hugging Face", PEER))):
            drawn = axis.barh([y + 0.38 * place for y in range(len(bars))], [rates[side] for _, rates in bars], 0.34,
                              color=color, label=side)
            axis.bar_label(drawn, fmt="{:,.0f}", padding=3)
        axis.set_yticks([y + 0.19 for y in range(len(bars))], [kind for kind, _ in bars])
        axis.set(title="rows/s on one thread", xscale="log")
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        save(figure, "data")

    units = [unit["unit"] for unit in compilers[0]["units"]]
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 0.28 * len(units) + 1.2), sharey=True)
    for axis, (metric, unit, label) in zip(axes, (("seconds", 1, "seconds"), ("bytes", 1e9, "peak memory, GB"))):
        for place, (compiler, color) in enumerate(zip(compilers, (KTO, SECOND, PEER))):
            axis.barh([y + 0.38 * place for y in range(len(units))], [u[metric] / unit for u in compiler["units"]], 0.36,
                      color=color, label=compiler["compiler"])
        axis.set(title=label)
        axis.axvline(GOALS["program, s" if metric == "seconds" else "program, GB"], color="black", linewidth=0.8, linestyle=":")
    axes[0].set_yticks([y + 0.19 for y in range(len(units))], units)
    axes[0].invert_yaxis()
    axes[1].legend(title="dotted: goal for one Trainer", loc="lower center" if len(units) < 8 else "center right")
    save(figure, "compile")
    return names


def main():
    args = parse_arguments()
    _, eigen = load(args.measured, "losses")
    _, tensor = load(args.measured, "losses_tensor")
    context, logprob = load(args.measured, "logprob")
    data_context, data = load(args.measured, "data")
    compilers = load(args.measured, "compile_time")
    losses = {**ratios(tensor), **ratios(eigen)}
    peers, remarks = peer_rows(args, data["tokenize",]["tokens"])
    path = report_path(args, "library")
    plots = draw(path.removesuffix(".md"), losses, logprob, data, peers, compilers)
    lines = [*head("The library's own benchmarks",
                   f"Built with {context['compiler']}, LibTorch {context['libtorch']}",
                   about_machine=f"; load average {context['load_avg'][0]:.1f} when the log-probs began", command="benchmarks/run.sh"),
             *summary(losses, logprob, data, peers, compilers)]
    if plots is None:
        lines += ["No plots: this Python has no matplotlib.", ""]
    for section, text in (("losses", losses_section(losses)), ("logprob", logprob_section(context, logprob)),
                          ("data", data_section(data_context, data, peers, remarks, args)),
                          ("compile", compile_section(compilers))):
        lines += text
        if plots and section in plots:
            lines += [f"![{section}]({plots[section]})", ""]
    write_report(path, "\n".join(lines))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
