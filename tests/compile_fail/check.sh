#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# check.sh FILE COMPILER FLAGS...: compiling FILE must fail with exactly one error, whose line holds the text that
# FILE's first line expects.
set -u
file=$1; shift
expected=$(sed -n '1s|^// expects: ||p' "$file")
[ -n "$expected" ] || { echo "$file: first line must be: // expects: TEXT"; exit 1; }
output=$(LC_ALL=C "$@" -fsyntax-only "$file" 2>&1) && { echo "$file compiles; it must not"; exit 1; }
errors=$(grep -E '(^|[^a-z_])error: ' <<<"$output")
count=$(grep -c . <<<"$errors")
if [ "$count" -ne 1 ] || ! grep -qF -- "$expected" <<<"$errors"; then
  printf 'expected one error with: %s\ngot %s:\n%s\n' "$expected" "$count" "$errors"
  exit 1
fi
