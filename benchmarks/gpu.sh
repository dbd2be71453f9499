#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On a machine with a GPU, unattended and in under ten minutes: builds train_kto against the LibTorch that is there, checks its
# kernels and whole runs on the GPU, measures its speed and memory beside TRL, and profiles one run in the time that is left
# (benchmarks/gpu.py). Each part has a limit; what fails or runs out of time is reported, and the next part begins.
#
# usage: benchmarks/gpu.sh [FOLDER]      for the results, build/gpu if it is not given   (environment: see cmake/setup.sh)
#   KTO_SECONDS  for everything; default: 570
#   KTO_PYTHON   interpreter with trl, the peer, and liger_kernel; default: python3
#   KTO_BUILT    set to 1 to take build/ as it is
#   KTO_DRY_RUN  set to 1 to try out every line on the CPU, with the smallest sizes
set -uo pipefail
out=$(realpath -m "${1:-$(dirname "${BASH_SOURCE[0]}")/../build/gpu}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
device=cuda kinds=(runs dpo families) few=() sizes=()
[[ ${KTO_DRY_RUN:-} != 1 ]] || device=cpu kinds=(dpo) few=(--few) sizes=(--models smallest --batches 2 4 --max_length 64 --steps 5)
readonly out device kinds few sizes seconds=${KTO_SECONDS:-570} programs=build/examples
failed=0

left() { echo $((seconds > SECONDS ? seconds - SECONDS : 0)); }

# part NAME LIMIT COMMAND...: runs the command for at most LIMIT seconds and what is left; notes how it ended.
part() {
  local name=$1 limit=$2 begin=$SECONDS status
  ((limit <= $(left))) || limit=$(left)
  shift 2
  echo "== $name (at most $limit s)"
  if ((limit > 0)); then
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null
    status=$?
    case $status in 0) status=done ;; 124 | 137) status="stopped after $limit s" ;; *) status="exit status $status" ;; esac
  else
    status="no time was left"
  fi
  [[ $status == done ]] || ((++failed))
  echo "== $name: $status"
  echo "| $name | $status | $((SECONDS - begin)) | $(tail -n 1 "$out/$name.log" 2>/dev/null | tr '|' ' ' | cut -c 1-120) |" >>"$out/parts.md"
}

mkdir -p "$out"
rm -f "$out"/*.log "$out"/*.md
printf '| part | ended | s | its last line |\n| --- | --- | --- | --- |\n' >"$out/parts.md"
nvidia-smi >"$out/gpu.log" 2>&1
[[ ${KTO_BUILT:-} == 1 ]] || part build 300 bash -c 'set -e; . cmake/setup.sh; ensure_packages; find_torch
  configure -DKTO_BUILD_TESTS=ON -DKTO_BUILD_EXAMPLES=ON; say_gpu; build --target train_kto chat gpu_tests'
part kernels 60 build/tests/gpu_tests '[gpu]'
part recorded 75 python3 tests/e2e/recorded_runs.py $programs/train_kto . "${kinds[@]}" --device "$device" --jobs "$(nproc)"
part recorded_bf16 75 python3 tests/e2e/recorded_runs.py $programs/train_kto . "${kinds[@]}" --device "$device" --jobs "$(nproc)" --bf16
part paths 90 python3 tests/e2e/device_runs.py $programs/train_kto $programs/chat . "$device" "$(nproc)" "${few[@]}"
part measured "$(left)" "${KTO_PYTHON:-python3}" benchmarks/gpu.py --device "$device" --seconds $(($(left) - 5)) --output "$out/speed.md" "${sizes[@]}"
cat "$out/speed.md" "$out/parts.md" >"$out/report.md" 2>/dev/null
cat "$out/parts.md"
echo "== $failed parts failed; $SECONDS s; results: $out"
exit $((failed > 0))
