#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: run.sh PROGRAM TARGET   Fuzzes TARGET for KTO_FUZZ_SECONDS, from seeds/TARGET and goldens. Inputs that reach new
# code, and one that fails, are left in TARGET.corpus/ and TARGET.found-* beside PROGRAM. To run one again:
#   PROGRAM --target=TARGET FILE
# With KTO_FUZZ_SECONDS unset it is a deterministic test: the same few inputs, made from one seed.
set -euo pipefail
program=$1 target=$2
here=$(dirname "${BASH_SOURCE[0]}")
golden=$here/../golden
if [[ ${KTO_FUZZ_SECONDS:-} ]]; then
  budget=(-max_total_time="$KTO_FUZZ_SECONDS") found=$(dirname "$program")/$target.corpus
else
  budget=(-seed=1 -runs=3000) found=$(dirname "$program")/$target.once
  rm -rf "$found"
fi
mkdir -p "$found"
corpora=("$found" "$here/seeds/$target")
[[ $target != chat_template ]] || corpora+=("$golden/chat_templates/templates")
[[ $target != tokenizer_json ]] || corpora+=("$here/../golden/tokenizers")
dictionary=()
[[ ! -f $here/$target.dict ]] || dictionary=(-dict="$here/$target.dict")
# An input takes milliseconds: twenty seconds are a hang, and a gigabyte is out of proportion to 16 KiB of input.
exec "$program" --target="$target" "${budget[@]}" -timeout=20 -rss_limit_mb=2048 \
  -malloc_limit_mb=1024 -max_len=16384 -print_final_stats=1 -verbosity=1 "${dictionary[@]}" \
  -artifact_prefix="$(dirname "$program")/$target.found-" "${corpora[@]}" 2>&1 | tail -n 60
