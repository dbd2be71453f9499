# SPDX-License-Identifier: Apache-2.0
"""device_runs.py TRAIN_KTO CHAT SOURCE_ROOT DEVICE [JOBS] [--preload LIBRARY] [--few]: whole runs, one for each path through the
library, on DEVICE and on the CPU, whose logs must agree up to rounding; a resumed run; greedy replies. Prints the largest
difference of each run, relative to the value where that is above 1. JOBS runs at a time. LIBRARY is preloaded into the runs on
DEVICE, which it may be the device of (tests/device/guarded_device.cpp). --few: the paths that differ most. Standard library
only."""
import argparse
import concurrent.futures
import json
import math
import os
import subprocess
import sys
import tempfile

from paths import CONFIGURATIONS, FAMILIES
from runs import Runs
from tiny_model import make_adapter, make_model

parser = argparse.ArgumentParser()
parser.add_argument("programs", nargs=2)
parser.add_argument("root")
parser.add_argument("device")
parser.add_argument("jobs", nargs="?", type=int, default=4)
parser.add_argument("--preload")
parser.add_argument("--few", action="store_true")
options = parser.parse_args()
(train_kto, chat), root, device, jobs = options.programs, options.root, options.device, options.jobs
STEPS = 4
# Accumulated windows, other kinds of reference, adapters with recomputed layers, updates in the backward pass, generated replies,
# a checkpoint that is loaded again.
FEW = ("accumulation", "dora", "precomputed", "another reference", "tr-dpo", "in the backward pass", "generation", "best")
WIDER = {"hidden_size": 32, "head_dim": 16}  # what the kernels for a GPU take
DRAWN = () if device.startswith("guarded") else ("--lora_dropout", "--neftune_noise_alpha")  # the devices' random numbers differ
NARROW, NARROW_TOLERANCE = ("--bf16", "bfloat16"), 0.1
# With Adam's usual 1e-8, a weight whose gradient is rounding noise moves by about as much as all others, and by another amount on each
# device.
STEADY = ("--adam_epsilon", "1e-3")
CPU_ONLY = ("adamw_8bit",)


def difference(got, want, flags):
    """The largest difference of two logs in units of their tolerance, and where; infinite if they have other entries."""
    worst = (0.0, "")
    if len(got) != len(want):
        return math.inf, f"{len(got)} entries, expected {len(want)}"
    tolerance = NARROW_TOLERANCE if any(flag in flags for flag in NARROW) else 1e-4
    for a, b in zip(got, want):
        for key, value in b.items():
            if not isinstance(value, (int, float)) or any(word in key for word in ("runtime", "per_second", "mem_")):
                continue
            if not isinstance(a.get(key), (int, float)) or not math.isfinite(a[key]):
                return math.inf, f"step {b.get('step')}: {key} = {a.get(key)}, expected {value}"
            off = abs(a[key] - value) / max(1.0, abs(value)) / tolerance
            worst = max(worst, (off, f"step {b.get('step')}: {key} = {a[key]}, expected {value}"))
    return worst


with tempfile.TemporaryDirectory() as tmp:
    runs = Runs(train_kto, root, tmp)
    model = make_model(runs.at("wider"), root, **WIDER)
    known = {"OTHER": make_model(runs.at("other"), root, seed=2, **WIDER), "ADAPTER": make_adapter(runs.at("adapter"), model)}

    def environment_on(where):
        return dict(runs.environment, LD_PRELOAD=options.preload) if options.preload and where == device else runs.environment

    def run(out, where, flags, folder):
        environment = dict(environment_on(where), XDG_CACHE_HOME=runs.at("cache-" + out))
        command = runs.command(out, "--device", where, "--max_steps", str(STEPS), *STEADY, *(known.get(flag, flag) for flag in flags), model=folder)
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)

    def log_of(out):
        with open(runs.at(out, "trainer_state.json"), encoding="utf-8") as file:
            return json.load(file)["log_history"]

    def both(name, flags, folder):
        out = name.replace(" ", "_").replace(",", "")
        on_cpu, on_device = run(out + "-cpu", "cpu", flags, folder), run(out + "-device", device, flags, folder)
        if any(flag in flags for flag in CPU_ONLY) and device != "cpu":
            return name, flags, None if on_cpu.returncode or on_device.returncode != 1 else "refused", on_device.stderr[-600:]
        for result in (on_cpu, on_device):
            if result.returncode:
                return name, flags, None, result.stderr[-600:]
        return name, flags, log_of(out + "-device"), log_of(out + "-cpu")

    def resumed(name, flags):
        out = "resumed_" + name
        whole = run(out, device, ["--save_strategy", "steps", *flags], model)
        if whole.returncode:
            return name + ", resumed", flags, None, whole.stderr[-600:]
        want = log_of(out)
        for step in range(3, STEPS + 1):
            subprocess.run(["rm", "-r", runs.at(out, f"checkpoint-{step}")], check=True)
        result = run(out, device, ["--save_strategy", "steps", "--resume_from_checkpoint", "True", *flags], model)
        if result.returncode:
            return name + ", resumed", flags, None, result.stderr[-600:]
        return name + ", resumed", flags, log_of(out), want

    def short_of_memory():
        """A device that has three quarters of what a batch takes."""
        def entries(out, *flags, **more):
            result = subprocess.run(runs.command(out, "--device", device, "--max_steps", "2", "--save_strategy", "no", *flags, model=model),
                                    capture_output=True, text=True, timeout=300, env=dict(environment_on(device), **more))
            return result, log_of(out) if result.returncode == 0 else []

        _, log = entries("memory", "--skip_memory_metrics", "False")
        most = sum(log[-1][name] for name in ("init_mem_gpu_alloc_delta", "train_mem_gpu_alloc_delta", "train_mem_gpu_peaked_delta"))
        limit = {"GUARDED_BYTES": str(int(most * 3 / 4))}
        result, _ = entries("memory_short", **limit)
        runs.case("out of memory: the advice", result.returncode == 1 and "memory ran out: lower --per_device_train_batch_size" in result.stderr,
                  result.stderr[-600:])
        result, log = entries("memory_halved", "--auto_find_batch_size", **limit)
        runs.case("out of memory: half of the batch", bool(log) and "starting over with --per_device_train_batch_size" in result.stderr,
                  result.stderr[-600:])

    def replies(name, folder):
        texts = []
        for where in ("cpu", device):
            reply = subprocess.run([chat, "--model_name_or_path", folder, "--device", where, "--max_new_tokens", "40", "--temperature", "0"],
                                   input="rivers and mountains\nbecause\n", capture_output=True, text=True, env=environment_on(where), timeout=300)
            texts.append(reply.stdout if reply.returncode == 0 else reply.stderr[-300:])
        return name + ", replies", texts

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        plain = ["--save_strategy", "no"]
        futures = [pool.submit(both, name, [*(plain if name != "best" else ["--save_strategy", "steps"]), *flags], model)
                   for name, flags in CONFIGURATIONS.items() if not options.few or name in FEW]
        for name, overrides in ({} if options.few else FAMILIES).items():
            folder = make_model(runs.at("model-" + name), root, **{**WIDER, **overrides, "head_dim": 16})
            futures.append(pool.submit(both, name, plain, folder))
            futures.append(pool.submit(both, name + ", bf16, padded and recomputed",
                                       [*plain, "--bf16", "--collator", "padded", "--gradient_checkpointing"], folder))
            futures.append(pool.submit(replies, name, folder))
        futures += [pool.submit(resumed, name, CONFIGURATIONS[name]) for name in (("bf16",) if options.few else ("full", "bf16"))]
        futures.append(pool.submit(replies, "llama", model))
        for future in futures:
            name, *rest = future.result()
            if len(rest) == 1:
                runs.case(name, rest[0][0] == rest[0][1] and len(rest[0][0]) > 8, rest[0])
                continue
            flags, got, want = rest
            if got is None:
                runs.case(name, False, want)
            elif got == "refused":
                runs.case(name + " (refused: for the CPU alone)", True)
            elif any(flag in flags for flag in DRAWN):
                runs.case(name + " (other random numbers)", len(got) == len(want))
            else:
                worst, where = difference(got, want, flags)
                print(f"     {name}: {worst:.2g} of its tolerance", flush=True)
                runs.case(name, worst <= 1, where)
    if options.preload:
        short_of_memory()
        for name, expected in (("guarded:5", "sees only 2 such devices"), ("xpu", "sees no such device"), ("gpu", "sees no such device")):
            result = subprocess.run(runs.command("refused", "--device", name, model=model), capture_output=True, text=True, env=environment_on(device))
            runs.case(f"--device {name}", result.returncode == 1 and expected in result.stderr, result.stderr[-300:])
    sys.exit(runs.report())
