#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures the same updates in one process with two threads, and in two processes with one thread each in every zero_stage:
seconds a step, each process's peak memory, and the bytes that they send each other. With --trl_python also TRL on two
processes. Linux only: bytes are those of all network interfaces, so nothing else should use the network."""
import argparse
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import compare_trl
from harness import ROOT, add_files, check_files, chosen_rows, head, measure, model_name, report_path, stored_tensors, table, train_kto, trl_versions, write_report

PROCESSES = 2


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_files(parser)
    add = parser.add_argument
    add("--trl_python", help="interpreter with trl; without it TRL is left out")
    add("--batch", type=int, default=4, help="rows of one process's micro-batch")
    add("--max_length", type=int, default=512)
    add("--steps", type=int, default=3)
    add("--rounds", type=int, default=1, help="runs of each setting, in turn")
    add("--output", help="the report (default: benchmarks/results/DATE-processes.md)")
    return parser.parse_args()


def sent_bytes():
    with open("/proc/net/dev", encoding="utf-8") as file:
        return sum(int(line.split(":")[1].split()[8]) for line in file if ":" in line)


def peaks_of_children(stop, peaks):
    """Until `stop`: {process: peak bytes} of all descendants of this process."""
    while not stop.is_set():
        parents, peak = {}, {}
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                with open(f"/proc/{name}/status", encoding="utf-8") as file:
                    status = dict(line.split(":", 1) for line in file if ":" in line)
                parents[int(name)] = int(status["PPid"])
                peak[int(name)] = int(status.get("VmHWM", "0 kB").split()[0]) * 1024
            except (OSError, KeyError, ValueError):
                continue
        for child in parents:
            ancestor = child
            while ancestor in parents and ancestor != os.getpid():
                ancestor = parents[ancestor]
            if ancestor == os.getpid() and child != os.getpid():
                peaks[child] = max(peaks.get(child, 0), peak.get(child, 0))
        stop.wait(0.1)


def run(command, output, threads, count):
    """A measured run, with "peaks" of the `count` largest processes and "bytes" sent a step."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    stop, peaks = threading.Event(), {}
    watch = threading.Thread(target=peaks_of_children, args=(stop, peaks))
    watch.start()
    before = sent_bytes()
    result = measure(command, output)
    sent = sent_bytes() - before
    stop.set()
    watch.join()
    return result | {"peaks": sorted(peaks.values(), reverse=True)[:count], "bytes": sent / len(result["log"])}


def num_weights(model):
    with open(os.path.join(model, "model.safetensors"), "rb") as file:
        return sum(math.prod(entry["shape"]) for entry in stored_tensors(file).values())


def beyond(sent_of_gradients):
    """Lines on larger jobs, from the bytes that `sent_of_gradients` says are sent for each byte of two processes' gradients."""
    tokens, rate = 8 * 1024, 0.4 * 989e12
    rows = []
    for model, weights in (("Qwen2-0.5B", 0.494e9), ("8B", 8.03e9)):
        for count, gigabytes in ((8, 200), (64, 25)):
            least = 2 * (count - 1) / count * 4 * weights
            pass_back, step = (part * weights * tokens / rate for part in (4, 12))
            sending = least * sent_of_gradients / PROCESSES / (gigabytes * 1e9)
            rows.append([f"{model}, {count} at {gigabytes} GB/s", f"{least / 1e9:.1f}", f"{sending:.2f}", f"{pass_back:.2f}", f"{step:.2f}",
                         f"{100 * step / (step + max(0, sending - pass_back)):.0f} %"])
    return ["", "## Beyond this machine", "",
            "Arithmetic, not measured: float32 gradients in a ring, with the bytes counted above for stage 0; 8,192 tokens a process and update; "
            "12 operations a weight and token, 4 of them in the backward pass, which sending overlaps; 40 % of 989 TFLOP/s.", "",
            *table(["job", "GB sent a process, at least", "s to send", "s of the backward pass", "s of all passes", "speed of W times one"], rows)]


def main():
    args = arguments()
    check_files(args)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    settings = [("one process, two threads", 1, None)] + [(f"two processes, stage {stage}", PROCESSES, stage) for stage in (0, 1, 2, 3)]
    if args.trl_python:
        settings.append(("TRL, two processes", PROCESSES, "TRL"))
    runs = {name: [] for name, *_ in settings}
    scratch = tempfile.mkdtemp(prefix="processes-")
    try:
        data = os.path.join(scratch, "train.jsonl")
        with open(data, "w", encoding="utf-8") as file:
            file.writelines(chosen_rows(args.data, "first", 64, args.steps * args.batch * PROCESSES))
        flags = {"per_device_train_batch_size": args.batch, "max_steps": args.steps, "max_length": args.max_length, "learning_rate": 5e-6,
                 "logging_steps": 1, "save_strategy": "no", "report_to": "none", "seed": 42, "loss_type": "kto",
                 "gradient_checkpointing": False}
        for turn in range(args.rounds):
            for name, count, stage in settings if turn % 2 == 0 else reversed(settings):
                output = os.path.join(scratch, f"{turn}-{name}")
                if stage == "TRL":
                    python, *rest = compare_trl.train_trl(args, args.model, data, output, flags | {"bf16": False})
                    command = [python, "-m", "torch.distributed.run", "--nproc_per_node", str(count), *rest]
                else:
                    more = {"kl_scope": "window", "disable_tqdm": True}
                    more |= {"gradient_accumulation_steps": PROCESSES} if count == 1 else {"nproc": count, "zero_stage": stage}
                    command = train_kto(args, args.model, data, output, flags | more)
                runs[name].append(run(command, output, 1 if count > 1 else 2, count))
                print(f"{name}: {runs[name][-1]['seconds']:.2f} s a step", flush=True)
                shutil.rmtree(output, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

    best = lambda name, key: min(each[key] for each in runs[name])
    alone = best(settings[0][0], "seconds")
    gradients = num_weights(args.model) * 4
    rows = []
    for name, count, _ in settings:
        peaks = [min(each["peaks"][i] for each in runs[name]) for i in range(count)]
        rows.append([name, f"{best(name, 'seconds'):.2f}", f"{alone / best(name, 'seconds'):.2f}",
                     " + ".join(f"{peak / 1e9:.2f}" for peak in peaks),
                     f"{best(name, 'bytes') / 1e6:.0f}" if count > 1 else "-", f"{best(name, 'bytes') / gradients:.2f}" if count > 1 else "-"])
    lines = head("One process and two", f"Model: {model_name(args)}, {num_weights(args.model) / 1e6:.0f} million weights in float32; "
                 f"updates of {args.batch * PROCESSES} rows, max_length {args.max_length}, KTO, {args.steps} steps, {args.rounds} "
                 f"run{'s' * (args.rounds > 1)} of each",
                 *([f"Peer: {trl_versions(args.trl_python)}, under torchrun with Gloo"] if args.trl_python else []))
    lines += table(["setting", "s a step", "speed of one process", "peak GB of each", "MB sent a step, by both", "of the gradients"], rows)
    lines += ["", f"Gradients are {gradients / 1e6:.0f} MB. To sum them over two processes, each must send at least as many bytes as they "
              "have (2 (W - 1) / W times), so both 2.00 times. Bytes include those of starting, shared out over the steps."]
    first = [[entry["loss"] for entry in runs[name][0]["log"]] for name, *_ in settings]
    lines += ["", "Losses, step by step: " + "; ".join(f"{name}: " + ", ".join(f"{loss:.6g}" for loss in losses)
                                                        for (name, *_), losses in zip(settings, first)) + "."]
    lines += beyond(best(settings[1][0], "bytes") / gradients)
    path = report_path(args, "processes")
    write_report(path, "\n".join(lines) + "\n")
    print(f"written to {os.path.relpath(path, ROOT)}")


if __name__ == "__main__":
    main()
