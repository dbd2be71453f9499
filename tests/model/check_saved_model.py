#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that transformers loads model folders saved by kto and computes the same logits.

  check_saved_model.py FOLDER... [--tolerance 1e-5]

A FOLDER holds, besides the model, expected_logits.safetensors with "ids" [B, T] (int64) and "logits" [B, T, V].
"""

import argparse
import pathlib
import sys

import safetensors.torch
import torch
import transformers


def is_right(folder, tolerance):
    expected = safetensors.torch.load_file(folder / "expected_logits.safetensors")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            print(f"{folder}: {kind}: {info[kind]}")
            return False
    saved_dtype = model.dtype
    with torch.no_grad():
        logits = model.to(expected["logits"].dtype).eval()(expected["ids"]).logits
    difference = (logits - expected["logits"]).abs().max().item()
    print(f"{folder}: saved as {saved_dtype}, logits differ by {difference:.1e}")
    return difference <= tolerance


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=pathlib.Path, nargs="+")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    options = parser.parse_args()
    if not all([is_right(folder, options.tolerance) for folder in options.folders]):
        sys.exit(1)


if __name__ == "__main__":
    main()
