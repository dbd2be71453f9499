# SPDX-License-Identifier: Apache-2.0
"""structure.py SOURCE_ROOT: the shape of include/kto. A flow room includes only rooms before it; foundations include no
flow room; no room includes another one's detail/; LibTorch is included only through core/torch.hpp (c10d: dist/c10d.hpp), and never in
rooms that do without it; nothing names CUDA outside nn/cuda/ (NCCL: dist/c10d.hpp); the hand-written kernels of nn/cpu/ are included only by nn/; every header has its SPDX line and
`#pragma once`, and is ASCII. Standard library only."""
import os
import re
import sys

root = os.path.join(sys.argv[1], "include")
FOUNDATIONS = ["core", "dist", "io", "options"]
FLOW = ["text", "data", "collate", "nn", "model", "logprob", "reference", "loss", "optim", "train", "generate", "hub", "cli"]
WITHOUT_LIBTORCH = ("text/", "data/", "loss/", "options/", "hub/", "dist/place.hpp", "dist/store.hpp", "dist/detail/", "collate/parts.hpp", "nn/activation.hpp", "nn/rope_spec.hpp", "model/config.hpp", "optim/schedule.hpp", "optim/plateau.hpp", "optim/learning_rate.hpp", "train/config.hpp", "train/kl_group.hpp", "train/options/options.hpp")
CUDA = r"\b(is_cuda|kCUDA|hasCUDA|CUDA[A-Z]\w*|getNumGPUs|\w*(CuDNN|CuBLAS|cudnn|cublas)\w*)\b"
problems = []
includes = {}
for folder, _, names in os.walk(os.path.join(root, "kto")):
    for name in names:
        path = os.path.relpath(os.path.join(folder, name), root)[len("kto/"):]
        with open(os.path.join(folder, name), "rb") as file:
            content = file.read()
        text = content.decode("utf-8")
        lines = text.splitlines()
        if lines[0] != "// SPDX-License-Identifier: Apache-2.0":
            problems.append(f"{path}: the first line is not the SPDX line")
        if "#pragma once" not in lines:
            problems.append(f"{path}: no #pragma once")
        if not content.isascii():
            problems.append(f"{path}: not ASCII")
        if len(lines) > 350:
            problems.append(f"{path}: {len(lines)} lines; split by idea past 350")
        includes[path] = re.findall(r'^#include "kto/(.+)"', text, re.M)
        if not path.startswith(("nn/cuda/", "dist/c10d.hpp")) and (found := re.search(CUDA, re.sub(r'//.*|"(\\.|[^"])*"', "", text))):
            problems.append(f"{path}: {found[0]}: what CUDA alone has belongs in nn/cuda/")
        if path not in ("core/torch.hpp", "dist/c10d.hpp") and re.search(r"^#include <(ATen|torch|c10)/", text, re.M):
            problems.append(f"{path}: includes LibTorch; core/torch.hpp does that")

room_of = lambda path: path.split("/")[0]
for path, used in includes.items():
    if "/" not in path:
        continue
    room = room_of(path)
    if room not in FOUNDATIONS + FLOW:
        problems.append(f"{path}: {room} is no room")
        continue
    for other in used:
        if other not in includes:
            problems.append(f"{path}: includes {other}, which is not there")
        elif "/detail/" in other and room_of(other) != room:
            problems.append(f"{path}: includes {other}, which is private to its room")
        elif "nn/cpu/" in other and room != "nn":
            problems.append(f"{path}: includes {other}, which nn/ alone uses")
        elif room in FOUNDATIONS and room_of(other) not in FOUNDATIONS:
            problems.append(f"{path}: a foundation includes {other}")
        elif room in FLOW and room_of(other) in FLOW and FLOW.index(room_of(other)) > FLOW.index(room):
            problems.append(f"{path}: includes {other}, of a later room")


def reaches_torch(path, seen):
    return path == "core/torch.hpp" or any(reaches_torch(o, seen | {o}) for o in includes.get(path, []) if o not in seen)


for path in includes:
    if path.startswith(WITHOUT_LIBTORCH) and reaches_torch(path, {path}):
        problems.append(f"{path}: brings LibTorch in")
print("\n".join(problems) or f"{len(includes)} headers are as they should be")
sys.exit(bool(problems))
