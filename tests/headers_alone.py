# SPDX-License-Identifier: Apache-2.0
"""headers_alone.py SOURCE_ROOT WORK_FOLDER COMPILER FLAGS...: every header compiles alone, without warnings. With clang,
headers that reach LibTorch get core/torch.hpp precompiled, the only way they may include it: this takes a tenth of the time,
but does not detect uses before a header includes that file. Standard library only."""
import concurrent.futures
import os
import re
import subprocess
import sys

root, work, compiler, *flags = sys.argv[1:]
include = os.path.join(root, "include")
warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
headers = sorted(os.path.relpath(os.path.join(folder, name), include)
                 for folder, _, names in os.walk(os.path.join(include, "kto")) for name in names)
uses = {h: re.findall(r'^#include "(kto/.+)"', open(os.path.join(include, h), encoding="utf-8").read(), re.M) for h in headers}
TORCH = "kto/core/torch.hpp"


def reaches_torch(header, seen=()):
    return header == TORCH or any(reaches_torch(other, (*seen, header)) for other in uses[header] if other not in seen)


with_torch = []
if "clang" in subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout:
    os.makedirs(work, exist_ok=True)
    pch = os.path.join(work, "torch.pch")
    subprocess.run([compiler, *flags, "-I" + include, "-w", "-x", "c++-header", os.path.join(include, TORCH), "-o", pch],
                   check=True)
    with_torch = ["-include-pch", pch]


def compile_alone(header):
    torch = with_torch if reaches_torch(header) else []
    command = [compiler, *torch, *flags, "-I" + include, *warnings, "-fsyntax-only", "-x", "c++", "-"]
    result = subprocess.run(command, input=f'#include "{header}"\n', capture_output=True, text=True)
    return header, result.returncode, result.stderr


bad = 0
with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for header, status, text in pool.map(compile_alone, headers):
        if status:
            bad += 1
            print(f"{header}:\n{text[:2000]}")
print(f"{len(headers) - bad} passed, {bad} failed")
sys.exit(bad > 0)
