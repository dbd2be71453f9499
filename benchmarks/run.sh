#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs dependencies, builds, runs every benchmark of the library, and writes a report with plots into
# benchmarks/results/. Takes about ten minutes on two cores; do not use the machine meanwhile.
# With --quick: only the kernels, as shares of what bounds them, beside their last results on this kind of machine; three minutes,
# most of them building, to run before and after a change.
#
# usage: benchmarks/run.sh [--quick | REPORT.md]      (environment: see cmake/setup.sh)
#   KTO_PYTHON   interpreter with matplotlib (plots) and tokenizers, transformers (the peer); default: python3, else .venv
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. cmake/setup.sh

readonly out=build/benchmarks/results data=examples/data/train.jsonl
model=examples/models/SmolLM2-135M-Instruct
[[ -f $model/tokenizer.json ]] || model=tests/golden/data/model # a small one in the repository

# Sets kto_python; the report skips what it lacks, and says so.
find_python() {
  for kto_python in ${KTO_PYTHON:-} python3 "$kto_venv_python"; do
    python_has "$kto_python" matplotlib tokenizers && return
  done
  pip_install_small matplotlib tokenizers && return
  kto_python=${KTO_PYTHON:-python3}
}

# run NAME PROGRAM ARGUMENTS...: the program's JSON goes to NAME.json.
run() {
  say "running $1"
  build/benchmarks/"$2" --benchmark_format=json "${@:3}" >"$out/$1.json"
}

ensure_packages
find_torch
if [[ ${1:-} == --quick ]]; then
  configure -DKTO_BUILD_BENCHMARKS=ON
  build --target bench_kernels
  exec python3 benchmarks/quick.py
fi
find_python
configure -DKTO_BUILD_BENCHMARKS=ON
build --target bench_losses bench_losses_tensor bench_logprob bench_data
mkdir -p "$out"
readonly steady=(--benchmark_repetitions=5 --benchmark_enable_random_interleaving=true)
run losses bench_losses "${steady[@]}" --benchmark_min_time=0.02
run losses_tensor bench_losses_tensor "${steady[@]}" --benchmark_min_time=0.02
run logprob bench_logprob --benchmark_repetitions=2 --benchmark_enable_random_interleaving=true --benchmark_min_time=0.2
run data bench_data "${steady[@]}" --benchmark_min_time=0.1 "$model" "$data"
say "timing the compilers"
python3 benchmarks/compile_time.py >"$out/compile_time.json"
"$kto_python" benchmarks/report.py "$out" --model "$model" --data "$data" ${1:+--output "$1"}
