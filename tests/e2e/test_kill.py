# SPDX-License-Identifier: Apache-2.0
"""test_kill.py TRAIN_KTO SOURCE_ROOT [KILLS]: kills runs of all kinds with SIGKILL at random moments, in the middle of a save, and
at random writing calls (the last needs a C compiler); of several processes, a random one. Resumed, or started again if there was
no checkpoint yet, they give the weights and the log of the uninterrupted run. 24 kills, or the number in KILLS or the environment variable KTO_KILLS.
Standard library only."""
import collections
import os
import random
import shutil
import signal
import sys
import tempfile
import time

from runs import Runs

train_kto, root = sys.argv[1:3]
kills = int(sys.argv[3] if len(sys.argv) > 3 else os.environ.get("KTO_KILLS", 24))
rng = random.Random(int(os.environ.get("KTO_SEED", 1)))
KILL = -9  # of write_faults.c
evaluated = ["--eval_strategy", "steps", "--eval_steps", "2"]
lora = ["--use_peft", "--lora_r", "4", "--lora_dropout", "0.1", "--disable_dropout", "False"]
KINDS = {
    "full": ["--train_sampling_strategy", "random"],
    "LoRA, random rows, EMA": [*lora, "--train_sampling_strategy", "random", "--save_total_limit", "3", *evaluated, "--ref_model_ema_decay", "0.8"],
    "DoRA": [*lora, "--use_dora"],
    "streaming": ["--dataset_streaming", "--save_total_limit", "2"],
    "precomputed reference": ["--precompute_ref_log_probs", "True", "--ref_logps_cache", "CACHE", *evaluated],
    "rows cache": ["--dataset_cache", "CACHE"],
    "8-bit optimizer": ["--optim", "adamw_8bit"],
    "EMA": ["--ref_model_ema_decay", "0.8"],
    "TR-DPO": ["--sync_ref_model", "True", "--ref_model_sync_steps", "2", "--ref_model_mixup_alpha", "0.5"],
    "accumulation": ["--gradient_accumulation_steps", "2", "--num_train_epochs", "3"],
    "best model": [*evaluated, "--load_best_model_at_end", "True", "--metric_for_best_model", "loss", "--save_steps", "2", "--save_total_limit", "1"],
    "processes": ["--nproc", "2", "--zero_stage", "3", "--train_sampling_strategy", "random", *evaluated, "--load_best_model_at_end", "True", "--save_steps", "2",
                  "--sync_ref_model", "True", "--ref_model_sync_steps", "2"],
    "processes, LoRA": ["--nproc", "2", "--zero_stage", "1", *lora, "--optim", "adamw_8bit", "--gradient_accumulation_steps", "2"],
}
only = os.environ.get("KTO_KINDS", "")  # those whose name begins so
with tempfile.TemporaryDirectory() as tmp:
    runs = Runs(train_kto, root, tmp)
    at, killed_at_calls = runs.at, runs.compile_faults()
    counts = collections.Counter()

    def saving():
        try:
            return any(name.startswith(".unfinished") for name in os.listdir(at("disk", "out")))
        except FileNotFoundError:
            return False

    def kill_once(how, flags, length, num_calls):
        """Whether a run, resumed or new, was killed before it finished."""
        resume = ["--resume_from_checkpoint", "True"] if runs.checkpoints("disk/out") else ["--overwrite_output_dir"]
        if how == "call":
            process = runs.start("disk/out", *flags, *resume, environment=runs.faulty("disk", rng.randint(1, num_calls), KILL))
            return process.wait() != 0
        process = runs.start("disk/out", *flags, *resume)
        until = time.monotonic() + rng.uniform(0.05, 0.95) * length
        while process.poll() is None and (time.monotonic() < until or (how == "save" and not saving())):
            time.sleep(0.0005)
        try:  # one of the processes that it started, or itself
            started = open(f"/proc/{process.pid}/task/{process.pid}/children").read().split()
            os.kill(int(rng.choice(started or [process.pid])), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended
        return process.wait() != 0

    ways = ["call", "save", "moment"] if killed_at_calls else ["save", "moment"]
    KINDS = {kind: flags for kind, flags in KINDS.items() if kind.startswith(only)}
    for index, (kind, flags) in enumerate(KINDS.items()):
        flags = [at("disk", "cache") if flag == "CACHE" else flag for flag in ["--max_steps", "6", *flags]]
        begin = time.monotonic()
        environment = runs.faulty("disk") if killed_at_calls else None
        shutil.rmtree(at("disk"), ignore_errors=True)
        os.makedirs(at("disk"))
        assert runs.start("disk/out", *flags, environment=environment).wait() == 0, kind
        length, num_calls = time.monotonic() - begin, len(runs.calls()) if killed_at_calls else 0
        shutil.rmtree(at("whole"), ignore_errors=True)
        os.rename(at("disk", "out"), at("whole"))
        left = kills * (index + 1) // len(KINDS) - kills * index // len(KINDS)
        while left > 0:
            shutil.rmtree(at("disk"))
            os.makedirs(at("disk"))
            done = []
            for _ in range(rng.randint(1, min(left, 4))):  # several kills of one run, too
                how = ways[(left + index) % len(ways)]
                if not kill_once(how, flags, length, num_calls):
                    break  # it was done before
                left -= 1
                counts[kind] += 1
                counts["by " + how] += 1
                done.append(how)
            if not done:
                continue
            result = runs.finish("disk/out", *flags)
            what = f"{kind}, killed by {', '.join(done)}: "
            if result.returncode:
                runs.case(what + "the run resumes", False, result.stderr[-400:])
            else:
                runs.same(what + "the same weights and log", "disk/out", "whole")
                leftover = [name for _, folders, files in os.walk(at("disk")) for name in folders + files if name.startswith(".") or ".tmp" in name]
                runs.case(what + "nothing unfinished is left", not leftover, leftover)
    print("kills: " + ", ".join(f"{kind} {count}" for kind, count in counts.items()))
    sys.exit(runs.report())
