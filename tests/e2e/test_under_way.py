# SPDX-License-Identifier: Apache-2.0
"""test_under_way.py TRAIN_KTO SOURCE_ROOT: SIGTERM during evaluation, generation, tokenizing and precomputing; files that become
shorter while they are read; two runs with the same input. Standard library only.

The program's output goes to a terminal, which is read up to a certain point. The program draws a bar for every batch, and
blocks when the terminal's buffer of a few thousand bytes is full: so it is still near that point when the signal arrives, on
any machine."""
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile

from runs import Runs, bound_by_permissions
from tiny_model import make_rows

train_kto, root = sys.argv[1:3]
EVALUATION_BATCHES = 240  # more than the terminal's buffer holds bars of


def read_terminal(master):
    """Yields what comes, until the program ends."""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:
            return
        if not part:
            return
        yield part.decode("utf-8", "replace")


with tempfile.TemporaryDirectory() as tmp:
    runs = Runs(train_kto, root, tmp)
    case, at = runs.case, runs.at
    make_rows(at("data", "test.jsonl"), EVALUATION_BATCHES)
    make_rows(at("many.jsonl"), 6000)

    def stopped(out, place, *flags, data=None):
        """SIGTERM at the first place where the output is like `place`: status, stderr, output before and after."""
        master, terminal = pty.openpty()
        process = subprocess.Popen(runs.command(out, *flags, data=data), stdout=terminal, stderr=subprocess.PIPE, text=True, env=runs.environment)
        os.close(terminal)
        output = read_terminal(master)
        before = ""
        for part in output:
            before += part
            if re.search(place, before, re.S):
                break
        process.send_signal(signal.SIGTERM)
        after = "".join(output)
        os.close(master)
        err = process.communicate(timeout=120)[1]
        return process.returncode, err, before, after

    def evaluation(number):
        return r"('eval_\w*loss'.*){%d}evaluate" % (number - 1)

    def leftovers(folder):
        return [name for _, folders, files in os.walk(folder) for name in folders + files if ".tmp" in name or name.startswith(".unfinished")]

    evaluates = ["--max_steps", "3", "--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1", "--per_device_eval_batch_size", "1"]

    # Within an evaluation: a checkpoint of the step before it, and the evaluation is repeated
    sets = json.dumps({"chat": "test", "code": at("data", "test.jsonl")})
    best = ["--load_best_model_at_end", "--metric_for_best_model", "loss", "--greater_is_better", "True"]
    kinds = {  # evaluation, step, flags
        "a learning rate on a plateau": (2, 2, [*best, "--lr_scheduler_type", "reduce_lr_on_plateau", "--lr_scheduler_kwargs", '{"patience": 0}']),
        "early stopping": (2, 2, ["--early_stopping_patience", "1", "--early_stopping_threshold", "100", "--metric_for_best_model", "loss"]),
        "the second of two sets": (4, 2, ["--eval_datasets", sets, "--max_steps", "2"]),
        "after the last step, which is the best": (3, 3, best),
        "at the end of an epoch": (1, 6, ["--eval_strategy", "epoch", "--max_steps", "7", "--save_strategy", "epoch", "--logging_steps", "5"]),
        "of a stream": (2, 2, ["--dataset_streaming"]),
    }
    for kind, (number, step, flags) in kinds.items():
        for out in ("whole", "broken"):
            shutil.rmtree(at(out), ignore_errors=True)
        whole = runs.run("whole", *evaluates, *flags)
        if whole.returncode:
            case(kind, False, whole.stderr[-300:])
            continue
        status, err, _, after = stopped("broken", evaluation(number), *evaluates, *flags)
        case(f"{kind}: the evaluation is broken off, status 143", status == 143 and f"stopped after step {step};" in err and after.count("evaluate") < EVALUATION_BATCHES - 40
             and not leftovers(at("broken")), (status, after.count("evaluate"), err[-300:], leftovers(at("broken"))))
        saved = at("broken", f"checkpoint-{step}", "trainer_state.json")
        log = json.load(open(saved))["log_history"] if os.path.exists(saved) else []
        case(f"{kind}: the step before it is saved, and no numbers of it", log and not [e for e in log if e["step"] == step and [k for k in e if k.startswith("eval_")]],
             (runs.checkpoints("broken"), log))
        result = runs.run("broken", *evaluates, *flags, "--resume_from_checkpoint", "True")
        if result.returncode:
            case(f"{kind}: and it goes on", False, result.stderr[-300:])
            continue
        runs.same(f"{kind}: resumed, it is the uninterrupted run", "broken", "whole")
        judged = [{k: v for k, v in json.load(open(at(out, "trainer_state.json"))).items() if k in ("best_global_step", "best_metric")} for out in ("broken", "whole")]
        case(f"{kind}: with the same best", judged[0] == judged[1] and runs.checkpoints("broken") == runs.checkpoints("whole"), (judged, runs.checkpoints("broken"), runs.checkpoints("whole")))

    # Before the first update, nothing is saved; after the last one, the model is
    def ends(name, result, want="stopped; there was nothing to save yet"):
        status, err, before, after = result
        case(f"{name}: ends with status 143", status == 143 and want in err and not leftovers(tmp), (status, err[-300:], leftovers(tmp), before[-200:]))
        return after

    after = ends("an evaluation on start", stopped("start", "evaluate", *evaluates, "--eval_on_start"))
    case("breaks it off", after.count("evaluate") < EVALUATION_BATCHES - 40 and not runs.checkpoints("start"), (after.count("evaluate"), runs.checkpoints("start")))
    ends("an evaluation alone", stopped("alone", "evaluate", "--do_train", "False", "--do_eval", "--per_device_eval_batch_size", "1"))
    case("writes no results", not os.path.exists(at("alone", "eval_results.json")))
    after = ends("tokenizing", stopped("tokenized", "tokenize", "--max_steps", "1", "--dataset_num_proc", "2", data=at("many.jsonl")))
    case("breaks it off in the middle", "100%" not in after and not os.path.exists(at("tokenized")), after[-300:])
    after = ends("precomputing", stopped("precomputed", "reference", "--max_steps", "1", "--precompute_ref_log_probs", "--ref_logps_cache", at("logps"),
                                         "--precompute_ref_batch_size", "1", data=at("many.jsonl")))
    case("breaks it off, too", "100%" not in after and not os.path.exists(at("precomputed")) and not os.listdir(at("logps")), after[-300:])
    short = ["--max_steps", "2", "--logging_steps", "1", "--per_device_eval_batch_size", "1"]
    ends("the evaluation after training", stopped("last", "evaluate", *short, "--do_eval"), "the evaluation after training is broken off; the trained model is saved")
    assert runs.run("trained", *short).returncode == 0
    runs.same("leaves the trained model", "last", "trained")
    writes = ["--eval_strategy", "steps", "--eval_steps", "1", "--generate_during_eval", "--generation_temperature", "0", "--generation_max_new_tokens", "100000000"]
    ends("generation", stopped("generated", "evaluate 100%", *short, *writes), "stopped after step 1;")
    case("has saved the step", runs.checkpoints("generated") == [1], runs.checkpoints("generated"))

    # Files that become shorter
    with open(at("long.jsonl"), "w") as file:
        for i in range(6000):
            file.write(json.dumps({"prompt": f"q{i}", "completion": f" good {i}" + " a" * 2000, "label": i % 2 == 0}) + "\n")
    stream = runs.command("stream", "--dataset_streaming", "--max_steps", "100000", "--max_length", "32", "--save_total_limit", "2", "--logging_steps", "1", data=at("long.jsonl"))
    process = subprocess.Popen(stream, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=runs.environment)
    process.stdout.readline()
    os.truncate(at("long.jsonl"), 100000)
    err = process.communicate(timeout=300)[1]
    case("a streamed file that becomes shorter is an error that names it", process.returncode == 1 and re.search(r"error: \S*long\.jsonl: became shorter while it was read", err),
         (process.returncode, err[-300:]))
    case("and what was saved is whole", runs.checkpoints("stream") and not leftovers(at("stream")), (runs.checkpoints("stream"), leftovers(at("stream"))))

    # Two runs that share rows, caches and the model
    share = ["--max_steps", "3", "--dataset_cache", at("rows_cache"), "--precompute_ref_log_probs", "--ref_logps_cache", at("logps_cache")]
    assert runs.run("single", *share[:2], "--precompute_ref_log_probs", "--ref_logps_cache", at("other_cache")).returncode == 0
    both = [runs.start(out, *share) for out in ("first", "second")]
    case("two runs at once", [process.wait(timeout=120) for process in both] == [0, 0] and not leftovers(tmp), leftovers(tmp))
    for out in ("first", "second"):
        runs.same(f"the {out} is as if it were alone", out, "single")

    # An old checkpoint that cannot be removed
    limited = ["--save_total_limit", "1"]
    assert runs.run("kept", "--max_steps", "2", *limited).returncode == 0
    os.chmod(at("kept", "checkpoint-2"), 0o500)
    result = subprocess.run(runs.command("kept", "--max_steps", "4", *limited, "--resume_from_checkpoint", "True"), capture_output=True, text=True,
                            env=runs.environment, preexec_fn=bound_by_permissions)
    case("an old checkpoint that cannot be removed is noted", result.returncode == 0 and "checkpoint-2: cannot remove this old checkpoint: " in result.stdout,
         (result.stdout[-300:], result.stderr[-300:]))
    sys.exit(runs.report())
