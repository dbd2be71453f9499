#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs bench_kernels and shows each kernel beside its last result on this kind of machine: its share of the machine's own product
or copy, and the tensors that it makes. Then keeps the new results in benchmarks/results/quick/KIND.json. Speeds in themselves are
kept, too, but only shares and counts are compared: they hold from day to day. Standard library only."""
import argparse
import datetime
import json
import os
import platform
import re
import subprocess

import harness

NOTABLE = 0.1  # a share that moves by less than this part of itself is noise


def instructions():
    """The widest that the processor has, with products of bfloat16 or without."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = set(re.search(r"^(?:flags|Features)\s*:(.*)$", file.read(), re.MULTILINE)[1].split())
    except (OSError, TypeError):
        return platform.machine()
    for name, needed in (("amx", "amx_bf16"), ("avx512-bf16", "avx512_bf16"), ("avx512", "avx512f"), ("avx2", "avx2")):
        if needed in flags:
            return name
    return platform.machine()


def machine_kind():
    vendor = "unknown"
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            vendor = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}.get(
                next((line.split(":")[1].strip() for line in file if line.startswith("vendor_id")), ""), platform.machine())
    held = os.environ.get("ATEN_CPU_CAPABILITY")
    return f"{vendor}-{instructions()}" + (f"-held-to-{held}" if held else "")


def symbols(program):
    """Functions that the program holds, or none if it is not built: what templates cost."""
    if not os.path.exists(program):
        return None
    listed = subprocess.run(["nm", "--defined-only", program], capture_output=True, text=True)
    return sum(1 for line in listed.stdout.splitlines() if re.search(r" [tTwWu] ", line)) if listed.returncode == 0 else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(harness.ROOT, "build/benchmarks/bench_kernels"))
    parser.add_argument("--rounds", type=int, default=5, help="timings of each kernel, each beside its bound (default: 5)")
    parser.add_argument("--filter", default="", help="only kernels whose name contains this; results are not kept")
    args = parser.parse_args()
    ran = subprocess.run([args.program, str(args.rounds), args.filter], stdout=subprocess.PIPE, text=True, check=True)
    now = json.loads(ran.stdout)
    now = {"date": datetime.date.today().isoformat(), "machine": machine_kind(),
           "functions": {name: symbols(os.path.join(harness.ROOT, "build", name)) for name in ("benchmarks/bench_kernels", "examples/train_kto")},
           **now}
    path = os.path.join(harness.HERE, "results", "quick", now["machine"] + ".json")
    before = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            before = json.load(file)
    kernels = {kernel["kernel"]: kernel for kernel in before.get("kernels", [])}
    print(f"{now['machine']}, {now['threads']} threads; before: {before.get('date', 'nothing')}\n")
    print(f"{'kernel':<50} {'share':>6} {'before':>7}  {'tensors':>7} {'before':>7}  {'MB':>7} {'before':>7}")
    for kernel in now["kernels"]:
        old = kernels.get(kernel["kernel"], {})
        shown = [f"{old[key]:>7}" if key in old else " " * 7 for key in ("share_of_bound", "allocations", "MB_allocated")]
        change = kernel["share_of_bound"] / old["share_of_bound"] - 1 if old.get("share_of_bound") else 0
        mark = "  slower" if change < -NOTABLE else "  faster" if change > NOTABLE else ""
        print(f"{kernel['kernel']:<50} {kernel['share_of_bound']:>6} {shown[0]}  {kernel['allocations']:>7} {shown[1]}  "
              f"{kernel['MB_allocated']:>7} {shown[2]}{mark}")
    for name, count in now["functions"].items():
        print(f"functions in {name}: {count} (before: {before.get('functions', {}).get(name)})")
    if not args.filter:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(now, file, indent=1)
            file.write("\n")
        print(f"kept in {os.path.relpath(path, harness.ROOT)}")


main()
