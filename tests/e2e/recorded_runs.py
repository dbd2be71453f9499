# SPDX-License-Identifier: Apache-2.0
"""recorded_runs.py TRAIN_KTO SOURCE_ROOT [KIND ...]: replays runs that TRL recorded in tests/golden, of the kinds `runs`
(KTOTrainer; the default), `dpo` (DPOTrainer), `families` (KTOTrainer, a model of each family) and `ranks` (KTOTrainer on several
processes). Each takes the default path through the library and one of the others in turn; `families` and `ranks` take one or the
other. Standard library only."""
import argparse
import concurrent.futures
import json
import math
import os
import subprocess
import sys
import tempfile

from tiny_model import fill_model, make_adapter, make_model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("train_kto")
parser.add_argument("root")
parser.add_argument("kinds", nargs="*", default=["runs"])
parser.add_argument("--device", help="where to compute, exact where that has TF32")
parser.add_argument("--bf16", action="store_true", help="those in float32 in bf16: then they part after the first step, which is compared")
parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
args = parser.parse_args()
train_kto, root = args.train_kto, args.root
golden = os.path.join(root, "tests", "golden")
runs = [dict(run, kind=kind) for kind in args.kinds for run in json.load(open(os.path.join(golden, kind, "runs.json")))]
PATHS = {"padded": ["--collator", "padded"], "prompts not shared": ["--share_prompt", "False"], "recomputed": ["--gradient_checkpointing"],
         "aten's products": ["--matmul", "aten"], "oneDNN's products": ["--matmul", "onednn"]}
ALONE = ("mean_token_accuracy", "eval_mean_token_accuracy")  # which DPOTrainer logs, and train_kto does not


def rows_of(run):
    path = os.path.join(golden, "dpo", run["rows"] + ".jsonl") if run["kind"] == "dpo" else os.path.join(root, "examples", "data", "train.jsonl")
    return open(path, encoding="utf-8").readlines()


def tolerance(key, want, step, rounding):
    if key in ("step", "num_tokens", "num_input_tokens_seen"):
        return 0
    if key in ("epoch", "learning_rate"):
        return 1e-6 * max(1e-12, abs(want)) + 1e-12
    return rounding * (2e-4 if step <= 2 else 2e-3) * max(1.0, abs(want))  # Adam makes whole steps of rounding noise


def compare(got, want, rounding, first_alone):
    """What differs; with `first_alone`, of what precedes the first update, and with more room for the gradient's norm."""
    got = [entry for entry in got if "loss" in entry or "eval_loss" in entry]
    if len(got) != len(want):
        return [f"{len(got)} log entries, expected {len(want)}"]
    room = lambda key: 3 if first_alone and key == "grad_norm" else 1
    if first_alone:
        want = [{key: value for key, value in entry.items() if not key.endswith("accuracies")} for entry in want[:1] if entry["step"] == 1]
    return [f"step {w['step']}: {key} = {g.get(key)}, expected {value}" for g, w in zip(got, want) for key, value in w.items()
            if key not in ALONE and (not isinstance(g.get(key), (int, float)) or not math.isfinite(g[key]) or abs(g[key] - value) > room(key) * tolerance(key, value, w["step"], rounding))]


def commands(tmp, number, run, model, adapter):
    """(what is run, its output folder, its command, the tolerance's factor, whether the first entry alone) of each path that the run takes."""
    data = os.path.join(tmp, run["kind"], run["name"])
    os.makedirs(data)
    rows = rows_of(run)
    for split, chosen in (("train", rows[:run["num_rows"]]), ("test", rows[len(rows) - run["num_eval_rows"]:])):
        if chosen:
            with open(os.path.join(data, split + ".jsonl"), "w", encoding="utf-8") as file:
                file.writelines(chosen)
    policy = fill_model(os.path.join(data, "model"), root, run["config"], run["shapes"]) if "shapes" in run else model
    flags = [word for name, value in run["flags"].items() for word in ("--" + name, value)]
    flags += ["--adapter_name_or_path", adapter] * ("adapter" in run)
    flags += ["--nproc", str(run["ranks"])] if "ranks" in run else []
    flags += ["--ref_model_name_or_path", os.path.join(tmp, run["reference"])] if "reference" in run else []
    flags += ["--device", args.device, "--tf32", "False"] if args.device else []
    if run["flags"].get("include_num_input_tokens_seen") == "all":
        flags += ["--collator", "padded"]  # TRL's rows are
    # TRL rounds logits, and products elsewhere; fp16 has three bits more than bf16.
    rounding = 100 if "bf16" in run["flags"] else 100 / 8 if "fp16" in run["flags"] else 1
    first_alone = args.bf16 and rounding == 1
    if first_alone:
        flags, rounding = [*flags, "--bf16"], 100
    other, more = list(PATHS.items())[number % len(PATHS)]
    paths = {"default": [], other: more}
    if run["kind"] in ("families", "ranks"):
        paths.pop("default" if number % 2 else other)
    for path, path_flags in paths.items():
        if not path_flags or path_flags[0] not in flags:
            out = os.path.join(data, path.split()[0])
            yield f"{run['name']} ({path})", out, [train_kto, "--model_name_or_path", policy, "--dataset_name", data, "--output_dir", out, *flags,
                                                   *path_flags], rounding, first_alone


def result_of(name, out, command, rounding, first_alone, run):
    """Its name, and what is wrong with it."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if result.returncode:
        return name, [result.stderr.strip()[-300:]]
    with open(os.path.join(out, "trainer_state.json"), encoding="utf-8") as file:
        return name, compare(json.load(file)["log_history"], run["log"], rounding, first_alone)


passed = failed = 0
with tempfile.TemporaryDirectory() as tmp, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
    model = make_model(os.path.join(tmp, "model"), root)
    make_model(os.path.join(tmp, "other"), root, seed=2)
    adapter = make_adapter(os.path.join(tmp, "adapter"), model)
    results = [pool.submit(result_of, *what, run) for number, run in enumerate(runs) for what in commands(tmp, number, run, model, adapter)]
    for result in results:
        name, bad = result.result()
        failed, passed = failed + bool(bad), passed + (not bad)
        print(("FAIL " if bad else "ok   ") + name, "; ".join(bad[:3]), flush=True)
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
