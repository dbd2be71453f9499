#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs dependencies, builds, runs every test, and reports which were skipped and why.
#
# usage: tests/run.sh [more flags of ctest, such as -R NAME]      (environment: see cmake/setup.sh)
#   KTO_SLOW_CHECKS=ON     also clang-tidy, sanitizers, every header alone with the main compiler, and a build with PyPI's CUDA
#                          build of torch (2.5 GB to download)
#   KTO_FUZZ_SECONDS=900   fuzzes each parser of files from outside that long, instead of 3 s (tests/fuzz/)
#   KTO_KILLS=100          kills a run that often, instead of 20 times (tests/e2e/test_kill.py)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. cmake/setup.sh

# Sets kto_python, the interpreter for tests that load a trained model with transformers; they are skipped without it.
find_python() {
  local modules=(torch transformers safetensors peft)
  for kto_python in python3 "$kto_venv_python"; do
    python_has "$kto_python" "${modules[@]}" && return
  done
  { python_has "$kto_venv_python" torch || (install_torch); } && pip_install_small transformers==5.24.0 peft==0.21.2 ||
    say "no torch and transformers for Python: tests that need them will be skipped"
}

ensure_packages clang-19 libclang-rt-19-dev clang-format-19 clang-tidy-19 doxygen
find_torch
find_python
configure -DKTO_BUILD_TESTS=ON -DKTO_BUILD_EXAMPLES=ON -DKTO_SLOW_CHECKS="${KTO_SLOW_CHECKS:-OFF}" -DKTO_PYTHON="$(command -v "$kto_python" || true)"
build
rm -f build/tests.xml
status=0
ctest --test-dir build --output-on-failure --output-junit tests.xml --test-output-size-passed 100000 --test-output-size-failed 1000000 -j2 "$@" ||
  status=$?
[[ ! -f build/tests.xml ]] || python3 tests/summary.py build/tests.xml
exit $status
