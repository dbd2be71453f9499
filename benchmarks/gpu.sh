#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On a machine with a GPU: builds train_kto against the LibTorch that is there, checks whole runs on the GPU against the CPU,
# and measures its speed and memory (benchmarks/gpu.py), in under ten minutes on 16 cores. tests/run.sh tests kernels alone.
#
# usage: benchmarks/gpu.sh [ARGUMENTS OF gpu.py]      (environment: see cmake/setup.sh)
#   KTO_DEVICE   default: cuda; "cpu" tries this script out on any machine:
#                KTO_DEVICE=cpu benchmarks/gpu.sh --models smallest --batches 4 --max_length 128 --steps 6
#   KTO_PYTHON   interpreter with trl, the peer; default: python3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. cmake/setup.sh
device=${KTO_DEVICE:-cuda}

ensure_packages
find_torch
configure
build --target train_kto chat
say "whole runs on $device against the CPU"
timeout 180 python3 tests/e2e/device_runs.py build/examples/train_kto build/examples/chat . "$device" "$(nproc)" ||
  say "not all of them agree: see above"
say "measuring"
"${KTO_PYTHON:-python3}" benchmarks/gpu.py --device "$device" "$@"
