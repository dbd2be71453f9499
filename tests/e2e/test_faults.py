# SPDX-License-Identifier: Apache-2.0
"""test_faults.py TRAIN_KTO SOURCE_ROOT [FAULTS]: writing calls fail in the middle of a run, one of them or all from one on: with a full
disk, with I/O errors, on a disk that became read-only, interrupted, or after half of a write. A run that does not
report an error is complete and right; otherwise it reports one line and exits with 1 or 2; intact files stay intact; and the
next run in the folder gives the weights and the log of an undisturbed one. 20 random faults, or the number in FAULTS or the
environment variable KTO_FAULTS; `calls` means one for each call and file, `all` all of them. Standard library and a C compiler only."""
import collections
import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

from runs import Runs

train_kto, root = sys.argv[1:3]
wanted = sys.argv[3] if len(sys.argv) > 3 else os.environ.get("KTO_FAULTS", "20")
rng = random.Random(int(os.environ.get("KTO_SEED", 1)))
SHORT = 0  # of write_faults.c
ERRORS = {"open": "ENOSPC EROFS EDQUOT EIO EINTR", "write": "ENOSPC EIO EDQUOT EINTR SHORT", "fsync": "EIO ENOSPC EINTR",
          "rename": "ENOSPC EIO EROFS", "mkdir": "ENOSPC EROFS EIO", "unlink": "EIO EROFS", "close": "EIO EINTR ENOSPC", "ftruncate": "EIO ENOSPC"}
LASTING = ("ENOSPC", "EROFS")


with tempfile.TemporaryDirectory() as tmp:
    runs = Runs(train_kto, root, os.path.realpath(tmp))
    if not runs.compile_faults():
        print("skipped: no C compiler")
        sys.exit(77)
    case, at = runs.case, runs.at
    common = ["--max_steps", "4", "--save_steps", "2", "--save_total_limit", "1", "--eval_strategy", "steps", "--eval_steps", "2", "--dataset_cache",
              at("disk", "rows"), "--report_to", "jsonl", "tensorboard"]
    full = [*common, "--precompute_ref_log_probs", "True", "--ref_logps_cache", at("disk", "reference"), "--load_best_model_at_end", "True",
            "--metric_for_best_model", "loss"]
    lora = [*common, "--use_peft", "--lora_r", "4", "--optim", "adamw_8bit"]
    overwrite, resume = ["--overwrite_output_dir"], ["--resume_from_checkpoint", "True"]

    # What is on the disk before; the flags; those of the first run alone.
    os.makedirs(at("disk"))
    os.makedirs(at("before", "new"))
    assert runs.run("disk/out", *full, "--seed", "7").returncode == 0
    shutil.copytree(at("disk"), at("before", "over another model"))
    shutil.rmtree(at("disk"))
    assert runs.run("disk/out", *lora, "--save_total_limit", "2").returncode == 0
    shutil.copytree(at("disk", "out", "checkpoint-2"), at("before", "resumed", "out", "checkpoint-2"))
    scenes = {"new": (full, []), "over another model": (full, overwrite), "resumed": (lora, resume)}

    def restore(scene):
        shutil.rmtree(at("disk"), ignore_errors=True)
        shutil.copytree(at("before", scene), at("disk"))

    def run(*flags, **fault):
        return subprocess.run(runs.command("disk/out", *flags), capture_output=True, text=True, errors="replace", timeout=120,
                              env=runs.faulty("disk", **fault))

    def result():
        """Weights, log, and the files that are there."""
        names = sorted({"events" if ".tfevents." in name else name for _, _, files in os.walk(at("disk")) for name in files})
        return (*runs.result("disk/out"), names)

    def damage():
        """What of the disk is not whole."""
        for folder, _, files in os.walk(at("disk", "out")):
            inner = os.path.relpath(folder, at("disk", "out"))
            if inner.startswith("."):
                continue
            if os.path.basename(folder).startswith("checkpoint-"):
                if "kto_checkpoint.json" not in files:
                    return f"{inner}: no manifest"
                for name, file in json.load(open(os.path.join(folder, "kto_checkpoint.json")))["files"].items():
                    if os.path.getsize(os.path.join(folder, name)) != file["size"]:
                        return f"{inner}/{name}"
            for name in files:
                if name.endswith(".json"):
                    json.load(open(os.path.join(folder, name)))
        return None

    undisturbed, calls = {}, {}
    for scene, (flags, first) in scenes.items():
        restore(scene)
        assert run(*flags, *first).returncode == 0
        undisturbed[scene] = result()
        calls[scene] = runs.calls()
    whole_models = {scene: {content for weights in (undisturbed[scene][0], *([{0: open(at("before", scene, "out", "model.safetensors"), "rb").read()}] if
                            os.path.exists(at("before", scene, "out", "model.safetensors")) else [])) for content in weights.values()} for scene in scenes}

    faults = []
    for scene, made in calls.items():
        for number, (name, path) in enumerate(made, 1):
            faults += [(scene, number, name, path, error, False) for error in ERRORS[name].split()]
            faults += [(scene, number, name, path, error, True) for error in LASTING]
    print(f"{sum(map(len, calls.values()))} calls, {len(faults)} faults: " + ", ".join(f"{scene} {len(made)} calls" for scene, made in calls.items()))
    if wanted == "calls":
        by_call = collections.defaultdict(list)
        for fault in faults:
            by_call[fault[0], fault[2], re.sub(r"\.tmp\d+$|tfevents.*", "", fault[3])].append(fault)
        faults = [rng.choice(alike) for alike in by_call.values()]
        print(f"{len(faults)} calls of other names or files")
    elif wanted != "all":
        faults = rng.sample(faults, min(int(wanted), len(faults)))

    counts = collections.Counter()
    for scene, number, name, path, error, lasts in faults:
        flags, first = scenes[scene]
        what = f"{scene}, call {number}: {error}{' from' if lasts else ' of'} {name} {path}"
        problems = []
        restore(scene)
        try:
            ended = run(*flags, *first, number=number, error=SHORT if error == "SHORT" else getattr(errno, error), lasts=lasts)
        except subprocess.TimeoutExpired:
            case(what, False, "hangs")
            continue
        counts[scene, ended.returncode] += 1
        lines = ended.stderr.splitlines()
        errors = [line for line in lines if line.startswith("train_kto: error: ")]
        if ended.returncode == 0:
            if result()[:2] != undisturbed[scene][:2]:
                problems.append("exit 0 without the right result")
        elif ended.returncode not in (1, 2) or len(errors) != 1 or not all(line.startswith("train_kto: ") for line in lines):
            problems.append(f"exit {ended.returncode}: {ended.stderr[-600:]}")
        elif "filesystem error" in errors[0]:
            problems.append(f"raw: {errors[0]}")
        try:
            if damaged := damage():
                problems.append(f"damaged: {damaged}")
        except (ValueError, OSError) as broken:
            problems.append(f"damaged: {broken!r}")
        model = at("disk", "out", "model.safetensors")
        if os.path.exists(model) and open(model, "rb").read() not in whole_models[scene]:
            problems.append("a model that is neither the old nor the new one")
        elif scene == "over another model" and not os.path.exists(model):
            problems.append("the old model is gone and no new one there")
        if scene == "resumed" and not runs.checkpoints("disk/out"):
            problems.append("the old checkpoint is gone")
        again = run(*flags, *(overwrite if scene == "over another model" or not runs.checkpoints("disk/out") else resume))
        if again.returncode != 0:
            problems.append(f"the next run fails: {again.stderr[-400:]}")
        else:
            for part, have, want in zip(("weights", "log", "files"), result(), undisturbed[scene]):
                if have != want:
                    problems.append(f"the next run: other {part}" + (f": {set(have) ^ set(want)}" if part == "files" else ""))
        case(what, not problems, "; ".join(problems))
    print(", ".join(f"{scene}: {count} with status {status}" for (scene, status), count in sorted(counts.items())))
    sys.exit(runs.report())
