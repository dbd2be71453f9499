# SPDX-License-Identifier: Apache-2.0
"""test_bad_days.py TRAIN_KTO SOURCE_ROOT: signals, full disks, folders that vanish, damaged and foreign checkpoints, changed
rows, two runs in one folder, numbers that are not finite: one clear error each, and saved files stay intact. Standard
library only."""
import fcntl
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

from runs import Runs, bound_by_permissions
from tiny_model import make_model, make_rows

train_kto, root = sys.argv[1:3]
STEPS = 40


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


with tempfile.TemporaryDirectory() as tmp:
    runs = Runs(train_kto, root, tmp)
    case, at = runs.case, runs.at
    flags = ["--max_steps", "6"]
    many = ["--max_steps", str(STEPS), "--save_steps", "2"]
    resume = ["--resume_from_checkpoint", "True"]

    def fails(name, result, pattern, status=1):
        lines = result.stderr.strip().splitlines()
        good = result.returncode == status and re.search(pattern, result.stderr) and any(line.startswith("train_kto: error: ") for line in lines)
        case(name, good, f"status {result.returncode}, stderr: {result.stderr.strip()[-500:]}")

    # Signals
    assert runs.run("whole", *many).returncode == 0
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        name, out = signal.Signals(number).name, f"signal{number}"
        process = subprocess.Popen(runs.command(out, *many, "--save_strategy", "no"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, env=runs.environment)
        process.stdout.readline()  # the first log entry
        process.send_signal(number)
        err = process.communicate()[1]
        saved = runs.checkpoints(out)
        case(f"{name}: the step is finished and saved, status {status}", process.returncode == status and len(saved) == 1 and
             saved[0] < STEPS and "resume_from_checkpoint True" in err, (process.returncode, saved, err[-300:]))
        result = runs.run(out, *many, *resume)
        if result.returncode:
            case(f"{name}: and it goes on", False, result.stderr[-300:])
        else:
            runs.same(f"{name}: resumed, it is the uninterrupted run", out, "whole")
    process = subprocess.Popen(runs.command("twice", "--max_steps", "100000", "--save_strategy", "no"), stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, env=runs.environment)
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)  # so that both signals arrive within one step
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    process.stdout.close()
    case("a second signal ends the program at once", process.wait(timeout=60) in (130, 143) and not runs.checkpoints("twice"),
         (process.returncode, runs.checkpoints("twice")))

    # Two runs in one folder
    process = subprocess.Popen(runs.command("shared", "--max_steps", "100000", "--save_strategy", "no"), stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, env=runs.environment)
    process.stdout.readline()
    fails("a second run in the same folder is refused", runs.run("shared", *flags, "--overwrite_output_dir"), r"another run is writing")
    process.kill()
    process.wait()
    process.stdout.close()
    case("the killed one leaves no lock", runs.run("shared", *flags, "--overwrite_output_dir").returncode == 0)

    os.makedirs(at("held"))
    held = os.open(at("held"), os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    fails("and before it reads rows or a model", runs.run("held", *flags, model=at("no_model"), data=at("no_rows")), r"held: another run is writing")
    os.close(held)
    fails("a run that cannot begin", runs.run("parent/begun", *flags, data=at("no_rows")), r"no_rows")
    case("leaves no folder behind", not os.path.exists(at("parent")))

    # What is in an output folder and is not this program's
    def listing(folder):
        return sorted(os.path.relpath(os.path.join(path, name), folder) for path, _, names in os.walk(folder) for name in names)

    foreign = [".unfinished-checkpoint-mine/y", "checkpoint-5/trainer_state.json", "checkpoint-7/thesis.txt", "mine/notes.txt", "notes.txt.tmp99999999"]
    stale = [".unfinished-checkpoint-3/model.safetensors", "model.safetensors.tmp99999999", "config.json.tmp1", "adapter_model.safetensors.tmp7-1"]
    for name in foreign + stale:
        os.makedirs(os.path.dirname(at("lived_in", name)), exist_ok=True)
        open(at("lived_in", name), "w").write(name)
    one = ["--max_steps", "1", "--report_to", "jsonl"]
    fails("a folder that is not empty", runs.run("lived_in", *one), r"lived_in: exists and is not empty")
    case("is left untouched", listing(at("lived_in")) == sorted(foreign + stale), listing(at("lived_in")))
    fails("checkpoints of other programs are not resumed from", runs.run("lived_in", *one, *resume), r"has no checkpoint-N of this program")
    result = runs.run("lived_in", *one, "--overwrite_output_dir")
    left = [name for name in listing(at("lived_in")) if "tmp" in name or "unfinished" in name or name in foreign]
    case("overwriting keeps other files and removes leftovers of killed runs", result.returncode == 0 and left == foreign and
         os.path.exists(at("lived_in", "checkpoint-1", "kto_checkpoint.json")), (result.stderr[-300:], left))
    fails("a folder of others in the place of a checkpoint", runs.run("lived_in", *flags, "--overwrite_output_dir"), r"checkpoint-5: is in the way of a checkpoint")
    case("is said before training", os.path.exists(at("lived_in", "checkpoint-1")) and not os.path.exists(at("lived_in", "checkpoint-2")))
    result = runs.run("lived_in", "--do_train", "False", "--do_eval", "--overwrite_output_dir")
    case("an evaluation alone replaces nothing of a run but its own results", result.returncode == 0 and os.path.exists(at("lived_in", "eval_results.json")) and
         all(os.path.getsize(at("lived_in", name)) > 0 for name in ("metrics.jsonl", "model.safetensors", "checkpoint-1/kto_checkpoint.json", *foreign)),
         (result.stderr[-300:], listing(at("lived_in"))))

    # Paths where no folder can be created
    os.symlink(at("loop"), at("loop"))
    os.symlink(at("nowhere"), at("dangling"))
    open(at("file"), "w").close()
    precompute = ["--precompute_ref_log_probs", "--ref_logps_cache"]
    for where, problem in (("file", "file is a file"), ("file/deep/out", "file is a file"), ("loop/out", "loop is a link to nothing"),
                           ("dangling", "dangling is a link to nothing"), ("x" * 256, "has 256 bytes")):
        fails(f"output_dir {where[:20]}", runs.run(where, *flags), rf"output_dir {re.escape(at(where))}: .*{problem}.*; expected a folder")
        fails(f"ref_logps_cache {where[:20]}", runs.run("new_cache", *flags, *precompute, at(where)), rf"--ref_logps_cache .*{problem}.*; expected a folder")
    for name, more, pattern in (("logging_dir", ["--report_to", "tensorboard", "--logging_dir", at("file/x")], r"--logging_dir .*file is a file"),
                                ("dataset_cache", ["--dataset_cache", at("loop")], r"--dataset_cache .*loop is a link"),
                                ("resume_from_checkpoint", ["--resume_from_checkpoint", at("loop")], r"loop: is not a folder"),
                                ("ref_model_name_or_path", ["--ref_model_name_or_path", at("loop")], r"loop.*: Too many levels"),
                                ("adapter_name_or_path", ["--adapter_name_or_path", at("nowhere"), "--model_adapter_name", "x"], r"nowhere: is not a folder here"),
                                ("model_name_or_path", [], r"loop.*: Too many levels")):
        result = runs.run("new_odd", *flags, *more, model=at("loop") if not more else None)
        fails(f"{name}: an odd path", result, pattern)
        case(f"{name}: in one line of our own", len(result.stderr.strip().splitlines()) == 1 and "filesystem error" not in result.stderr, result.stderr)
    case("none of them left a folder", not any(os.path.exists(at(name)) for name in ("new_cache", "new_odd", "nowhere")))
    result = subprocess.run(runs.command("precomputed", "--max_steps", "1", "--precompute_ref_log_probs"), capture_output=True, text=True, cwd=tmp,
                            env={**runs.environment, "XDG_CACHE_HOME": "relative", "HOME": at("home")})
    case("a relative XDG_CACHE_HOME counts as none", result.returncode == 0 and not os.path.exists(at("relative")) and os.listdir(at("home", ".cache", "kto")),
         result.stderr[-300:])

    # Rotation
    best = ["--eval_strategy", "steps", "--eval_steps", "1", "--metric_for_best_model", "loss", "--save_total_limit", "2"]
    assert runs.run("rotated", *flags, *best, "--greater_is_better", "True").returncode == 0
    state = json.load(open(at("rotated", "trainer_state.json")))
    kept = runs.checkpoints("rotated")
    case("rotation keeps the newest and the best", kept == sorted({state["best_global_step"], 6} | ({5} if state["best_global_step"] == 6 else set()))
         and os.path.basename(state["best_model_checkpoint"]) == f"checkpoint-{state['best_global_step']}", (kept, state["best_global_step"]))
    assert runs.run("best_alone", *flags, *best, "--greater_is_better", "True", "--save_strategy", "best").returncode == 0
    evaluated = [(e["step"], e["eval_loss"]) for e in json.load(open(at("best_alone", "trainer_state.json")))["log_history"] if "eval_loss" in e]
    records = [step for i, (step, loss) in enumerate(evaluated) if all(loss > other for _, other in evaluated[:i])]
    case("save_strategy best saves the records alone", runs.checkpoints("best_alone") == records[-2:], (runs.checkpoints("best_alone"), records))
    result = runs.run("early", "--max_steps", "50", *best, "--greater_is_better", "True", "--early_stopping_patience", "2")
    state = json.load(open(at("early", "trainer_state.json")))
    evaluated = [(e["step"], e["eval_loss"]) for e in state["log_history"] if "eval_loss" in e]
    peak = max(evaluated, key=lambda e: e[1])[0]
    case("early stopping: two evaluations after the best", state["global_step"] == peak + 2 == state["best_global_step"] + 2 < 50, (evaluated, state["global_step"]))
    assert runs.run("fraction", *flags, "--save_steps", "0.5").returncode == 0
    case("save_steps 0.5: twice a run", runs.checkpoints("fraction") == [3, 6], runs.checkpoints("fraction"))
    assert runs.run("epochs", "--num_train_epochs", "2", "--save_strategy", "epoch").returncode == 0
    case("save_strategy epoch", runs.checkpoints("epochs") == [6, 12], runs.checkpoints("epochs"))

    # What a checkpoint may be: whole, this run's, with its rows
    assert runs.run("good", *flags, "--save_total_limit", "3").returncode == 0
    case("a run that is done resumes to its end", runs.run("good", *flags, *resume).returncode == 0)

    def spoiled(change, checkpoint="checkpoint-5"):
        shutil.rmtree(at("spoiled"), ignore_errors=True)
        shutil.copytree(at("good", checkpoint), at("spoiled", checkpoint))
        change(at("spoiled", checkpoint))
        return ["--resume_from_checkpoint", at("spoiled", checkpoint)]

    def edit(name, function):
        def change(folder):
            path = os.path.join(folder, name)
            content = bytearray(open(path, "rb").read())
            open(path, "wb").write(function(content))
        return change

    def flip(content):
        content[len(content) // 2] ^= 1
        return content

    def refused(name, change, pattern, *more):
        shutil.rmtree(at("new"), ignore_errors=True)
        fails(name, runs.run("new", *flags, *spoiled(change), *more), pattern)

    for name in sorted(os.listdir(at("good", "checkpoint-5"))):
        refused(f"a truncated {name}", edit(name, lambda content: content[:-3]), name.replace(".", r"\."))
        refused(f"a flipped bit in {name}", edit(name, flip), name.replace(".", r"\."))
    refused("a missing file", lambda folder: os.remove(os.path.join(folder, "optimizer.safetensors")), r"optimizer\.safetensors: is missing")
    refused("a foreign checkpoint", lambda folder: os.remove(os.path.join(folder, "kto_checkpoint.json")), r"not a checkpoint of this program")
    fails("a checkpoint that is not there", runs.run("new2", *flags, "--resume_from_checkpoint", at("nowhere")), r"nowhere")
    fails("nothing to resume from", runs.run("new2", *flags, *resume), r"no checkpoint-N")
    assert runs.run("only_model", *flags, "--save_only_model").returncode == 0
    fails("a checkpoint of the model alone", runs.run("only_model", *flags, *resume), r"save_only_model")
    keep = lambda folder: None
    refused("other options are named", keep, r"beta is \"0\.2\" and was \"0\.1\"", "--beta", "0.2")
    refused("all of them", keep, r"beta(.|\n)*seed|seed(.|\n)*beta", "--seed", "7", "--beta", "0.2")
    refused("a step past the end of the run", keep, r"has step 5, but this run ends at step 4; raise max_steps", "--max_steps", "4")

    def add_adapter(folder):  # of zeros: it would win over the model
        content = open(os.path.join(folder, "model.safetensors"), "rb").read()
        header = 8 + struct.unpack("<Q", content[:8])[0]
        open(os.path.join(folder, "adapter_model.safetensors"), "wb").write(content[:header] + bytes(len(content) - header))

    refused("an adapter that was not saved with the checkpoint", add_adapter, r"adapter_model\.safetensors: was not saved with this checkpoint")
    hot = ["--learning_rate", "1e38", "--max_steps", "1"]
    fails("weights of infinities are not saved", runs.run("hot", *hot), r"step 1: the update left .* not finite")
    case("anywhere", not runs.checkpoints("hot") and not os.path.exists(at("hot", "model.safetensors")))
    other = make_model(at("other_model"), root, seed=2)
    fails("another model of the same shape", runs.run("new", *flags, *spoiled(keep), model=other), r"different weights")
    wider = make_model(at("wider"), root, intermediate_size=32)
    fails("another model of another shape", runs.run("new", *flags, *spoiled(keep), model=wider), r"different parameters")
    fails("another reference", runs.run("new", *flags, *spoiled(keep), "--ref_model_name_or_path", other), r"the reference is different")
    shutil.copytree(at("data"), at("moved"))
    shutil.rmtree(at("new"), ignore_errors=True)
    case("moved rows are the same rows", runs.run("new", *flags, *spoiled(keep), data=at("moved")).returncode == 0)
    text = open(at("moved", "train.jsonl")).read()
    open(at("moved", "train.jsonl"), "w").write(text.replace("alpha", "omega", 1))
    fails("a changed rows file is named", runs.run("new", *flags, *spoiled(keep), data=at("moved"), ), r"rows file .*train\.jsonl has changed")

    # Folders and disks that fail in mid-run
    def in_mid_run(out, act, **how):
        process = subprocess.Popen(runs.command(out, "--max_steps", "100000", "--save_steps", "2"), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True, env=runs.environment, **how)
        assert wait_for(lambda: len(runs.checkpoints(out)) > 1)
        act()
        err = process.communicate(timeout=60)[1]
        return subprocess.CompletedProcess([], process.returncode, "", err)

    def remove(out):
        os.rename(at(out), at(out + "_away"))  # as a removed folder, without a race against its writer

    fails("an output folder that was removed", in_mid_run("gone", lambda: remove("gone")), r"gone: is no longer a folder")
    result = in_mid_run("sealed", lambda: os.chmod(at("sealed"), 0o500), preexec_fn=bound_by_permissions)
    os.chmod(at("sealed"), 0o700)
    fails("an output folder that became read-only", result, r"could not be saved: .*[Pp]ermission denied")
    sealed = runs.checkpoints("sealed")
    case("leaves the checkpoints before", sealed and runs.run("from_sealed", "--max_steps", "100000", "--save_steps", "2", "--resume_from_checkpoint",
         at("sealed", f"checkpoint-{sealed[-1]}"), "--beta", "0.3").stderr.count("beta is") == 1, sealed)
    full = runs.command("full", "--max_steps", "4", "--save_steps", "2")
    assert subprocess.run(full, stdout=subprocess.DEVNULL, env=runs.environment).returncode == 0
    before = {name: open(at("full", "checkpoint-2", name), "rb").read() for name in os.listdir(at("full", "checkpoint-2"))}
    shutil.rmtree(at("full", "checkpoint-4"))
    result = subprocess.run(["bash", "-c", 'ulimit -f 20; exec "$@"', "_", *full, *resume], capture_output=True, text=True, env=runs.environment)
    fails("a full disk", result, r"checkpoint-4: the checkpoint could not be saved: .*cannot be written")
    case("leaves the checkpoint before and no other", runs.checkpoints("full") == [2] and before ==
         {name: open(at("full", "checkpoint-2", name), "rb").read() for name in before} and not [n for n in os.listdir(at("full")) if n.startswith(".")],
         os.listdir(at("full")))
    case("from which the run resumes once there is space", subprocess.run([*full, *resume], stdout=subprocess.DEVNULL, env=runs.environment).returncode == 0)

    def small_disk():
        os.makedirs(at("disk"), exist_ok=True)
        return subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2500k", "kto_test", at("disk")], capture_output=True).returncode == 0

    if small_disk():
        try:
            result = runs.run("disk/out", "--max_steps", "100", "--save_steps", "2")
            fails("a disk that fills up", result, r"could not be saved.*No space left")
            steps = runs.checkpoints("disk/out")
            case("leaves whole checkpoints alone", steps and not [n for n in os.listdir(at("disk", "out")) if n.startswith(".")], steps)
            result = runs.run("from_disk", "--max_steps", "100", "--save_steps", "200", "--resume_from_checkpoint", at("disk", "out", f"checkpoint-{steps[-1]}"))
            case("of which the last is good", result.returncode == 0, result.stderr[-300:])
        finally:
            subprocess.run(["umount", at("disk")], capture_output=True)
    else:
        print("skipped: a small tmpfs (mount is not allowed here)")

    # Numbers that are not finite
    def plant(folder, value):
        path = os.path.join(folder, "model.safetensors")
        content = bytearray(open(path, "rb").read())
        content[-4:] = value
        open(path, "wb").write(content)

    poisoned = at("poisoned")
    shutil.copytree(runs.model, poisoned)
    plant(poisoned, b"\x00\x00\xc0\x7f")  # a quiet NaN
    fails("a NaN in a weight", runs.run("nan", *flags, model=poisoned), r"step 1: the loss is not finite for the rows 1, 2, 3, 4; this step changed no weight")
    result = runs.run("nan", "--max_steps", "30", "--nonfinite_loss", "skip", "--overwrite_output_dir", model=poisoned)
    fails("skipping does not continue forever", result, r"step 10: .*steps before")
    case("and is noted once", result.stdout.count("the step is skipped") == 1, result.stdout[-300:])

    # A NaN that only the rows with a certain token meet: row 6, in step 2. (APO-zero has no KL pairs to carry it on.)
    assert make_model(at("untied"), root, tie_word_embeddings=False)
    vocabulary = json.load(open(at("untied", "tokenizer.json"), encoding="utf-8"))["model"]["vocab"]
    path = at("untied", "model.safetensors")
    content = bytearray(open(path, "rb").read())
    header_size = struct.unpack("<Q", content[:8])[0]
    place = json.loads(content[8:8 + header_size])["model.embed_tokens.weight"]
    width = place["shape"][1]
    for token, number in vocabulary.items():
        if "Z" in token:
            begin = 8 + header_size + place["data_offsets"][0] + 4 * width * number
            content[begin:begin + 4] = b"\x00\x00\xc0\x7f"
    open(path, "wb").write(content)
    rows = [json.loads(line) for line in open(at("data", "train.jsonl"), encoding="utf-8")]
    rows[5]["prompt"][0]["content"] += " Z"
    os.makedirs(at("one_bad_row"))
    with open(at("one_bad_row", "train.jsonl"), "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    where = dict(model=at("untied"), data=at("one_bad_row"))
    apo = ["--loss_type", "apo_zero_unpaired", "--max_steps", "4", "--logging_steps", "1"]
    fails("a NaN in a batch", runs.run("nan_batch", *apo, **where), r"step 2: the loss is not finite for row 6; this step changed no weight")
    case("leaves the checkpoint of the step before", runs.checkpoints("nan_batch") == [1], runs.checkpoints("nan_batch"))
    result = runs.run("nan_batch", *apo, "--nonfinite_loss", "skip", "--overwrite_output_dir", **where)
    steps = [e for e in json.load(open(at("nan_batch", "trainer_state.json")))["log_history"] if "learning_rate" in e] if result.returncode == 0 else []
    case("skipped where asked: the other steps train", len(steps) == 4 and ["loss" in e for e in steps] == [True, False, True, True] and
         steps[1].get("skipped_steps") == 1, (result.stderr[-300:], steps))
    case("and reported with its row", re.search(r"step 2: .*row 6", result.stdout + result.stderr), (result.stdout + result.stderr)[-600:])
    result = runs.run("nan_filtered", *apo, "--nonfinite_loss", "skip", "--logging_nan_inf_filter", "False", "--resume_from_checkpoint", runs.at("nan_batch", "checkpoint-2"), **where)
    closing = json.load(open(at("nan_filtered", "trainer_state.json")))["log_history"][-1] if result.returncode == 0 else {}
    case("a changed logging_nan_inf_filter is reported; losses excluded before stay excluded", 'logging_nan_inf_filter is "False" and was "True"' in result.stdout
         and abs(closing["train_loss"] - sum(e["loss"] for e in steps if "loss" in e) / 3) < 1e-9, (result.stderr[-300:], closing))
    result = runs.run("nan_shown", *apo, "--nonfinite_loss", "skip", "--logging_nan_inf_filter", "False", **where)
    shown = json.load(open(at("nan_shown", "trainer_state.json")))["log_history"] if result.returncode == 0 else [{}] * 5
    case("its loss shows where asked, as null", [type(e.get("loss")) for e in shown[:4]] == [float, type(None), float, float] and "loss" in shown[1] and
         "'loss': nan" in result.stdout and shown[-1].get("train_loss", 0) is None, (result.stderr[-300:], shown))
    runs.run("nan_shown_on", *apo, "--nonfinite_loss", "skip", "--logging_nan_inf_filter", "False", "--resume_from_checkpoint", at("nan_shown", "checkpoint-2"), **where)
    runs.same("and a run resumed after it is the same", "nan_shown_on", "nan_shown")
    sys.exit(runs.report())
