# SPDX-License-Identifier: Apache-2.0
"""test_kill.py TRAIN_KTO SOURCE_ROOT [KILLS]: SIGKILL at random moments of a run, every other one in the middle of a save;
resumed, the run gives the weights and the log of the uninterrupted one. 20 kills, or as many as KILLS or the environment
variable KTO_KILLS say. Standard library only."""
import os
import random
import shutil
import sys
import tempfile
import time

from runs import Runs

train_kto, root = sys.argv[1:3]
kills = int(sys.argv[3] if len(sys.argv) > 3 else os.environ.get("KTO_KILLS", 20))
rng = random.Random(int(os.environ.get("KTO_SEED", 1)))
with tempfile.TemporaryDirectory() as tmp:
    runs = Runs(train_kto, root, tmp)
    flags = ["--train_sampling_strategy", "random", "--max_steps", "8", "--use_peft", "--lora_r", "4", "--lora_dropout", "0.1",
             "--disable_dropout", "False", "--save_total_limit", "3", "--eval_strategy", "steps", "--eval_steps", "4",
             "--ref_model_ema_decay", "0.8"]
    begin = time.monotonic()
    assert runs.run("whole", *flags).returncode == 0
    length = time.monotonic() - begin
    reference = runs.result("whole")

    def saving():
        try:
            return any(name.startswith(".unfinished") for name in os.listdir(runs.at("killed")))
        except FileNotFoundError:
            return False

    left = killed_in_save = 0
    while left < kills:
        shutil.rmtree(runs.at("killed"), ignore_errors=True)
        in_this_run = 0
        while left < kills and in_this_run < 4:  # several kills of one run, too
            resume = ["--resume_from_checkpoint", "True"] if runs.checkpoints("killed") else ["--overwrite_output_dir"]
            process = runs.start("killed", *flags, *resume)
            until = time.monotonic() + rng.uniform(0.15, 0.95) * length
            in_save = left % 2 == 0
            while process.poll() is None and (time.monotonic() < until or (in_save and not saving())):
                time.sleep(0.0005)
            was_saving = saving()
            process.kill()
            if process.wait() == 0:
                break  # it was done before
            left, in_this_run, killed_in_save = left + 1, in_this_run + 1, killed_in_save + was_saving
        result = runs.finish("killed", *flags)
        if result.returncode:
            runs.case(f"after {left} kills the run goes on", False, result.stderr[-400:])
        else:
            runs.same(f"after {left} kills ({killed_in_save} within a save): the same weights and log", "killed", "whole")
            leftover = [name for name in os.listdir(runs.at("killed")) if name.startswith(".")]
            runs.case("and nothing unfinished is left", not leftover, leftover)
    runs.case("some kills fell into a save", killed_in_save > 0)
    sys.exit(runs.report())
