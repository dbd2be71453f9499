# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of interrupted runs: a tiny model and rows, and runs that can be compared to the last bit."""
import ctypes
import json
import os
import shutil
import subprocess

from cases import Cases
from tiny_model import make_model, make_rows


def bound_by_permissions():
    """Takes from root the right to write where permissions forbid it."""
    PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


class Runs(Cases):
    """Runs of train_kto on a tiny model in the folder `tmp`."""

    def __init__(self, train_kto, root, tmp):
        self.train_kto, self.root, self.tmp = train_kto, root, tmp
        self.model = make_model(self.at("model"), root)
        os.makedirs(self.at("data"))
        make_rows(self.at("data", "train.jsonl"), 24)
        make_rows(self.at("data", "test.jsonl"), 4)
        super().__init__()
        self.environment = dict(os.environ, OMP_NUM_THREADS="1")

    def at(self, *parts):
        return os.path.join(self.tmp, *parts)

    def command(self, out, *flags, model=None, data=None):
        return [self.train_kto, "--model_name_or_path", model or self.model, "--dataset_name", data or self.at("data"), "--output_dir",
                self.at(out), "--per_device_train_batch_size", "4", "--learning_rate", "1e-2", "--logging_steps", "2",
                "--save_steps", "1", *flags]

    def run(self, out, *flags, **where):
        return subprocess.run(self.command(out, *flags, **where), capture_output=True, text=True, timeout=300, env=self.environment)

    def start(self, out, *flags, environment=None):
        return subprocess.Popen(self.command(out, *flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment or self.environment)

    def compile_faults(self):
        """Whether write_faults.c can be compiled here; faulty() needs it."""
        compiler = next((name for name in ("cc", "gcc", "g++", "clang-19", "clang") if shutil.which(name)), None)
        if compiler is not None:
            source = os.path.join(self.root, "tests", "e2e", "write_faults.c")
            subprocess.run([compiler, "-x", "c", "-shared", "-fPIC", "-O1", "-o", self.at("write_faults.so"), source, "-ldl"], check=True)
        return compiler is not None

    def faulty(self, folder, number=0, error=0, lasts=False):
        """The environment of a run in which the call with that number of those that write below `folder` fails, and with
        `lasts` all after it; see write_faults.c. Such calls are listed in the file `calls`."""
        if os.path.exists(self.at("calls")):
            os.remove(self.at("calls"))
        out = dict(self.environment, LD_PRELOAD=self.at("write_faults.so"), KTO_FAULT_ROOT=os.path.realpath(self.at(folder)),
                   KTO_FAULT_LOG=self.at("calls"), KTO_FAULT_AT=str(number), KTO_FAULT_ERRNO=str(error))
        return dict(out, KTO_FAULT_LASTS="1") if lasts else out

    def calls(self):
        """[name, path] of each call that wrote, in the last run with an environment of faulty()."""
        return [line.split(" ", 1) for line in open(self.at("calls")).read().splitlines()]

    def checkpoints(self, out):
        folder = self.at(out)
        names = os.listdir(folder) if os.path.isdir(folder) else []
        return sorted(int(name[len("checkpoint-"):]) for name in names if name.startswith("checkpoint-"))

    def finish(self, out, *flags):
        """Resumes a run, or starts it again if there is nothing to resume."""
        how = ["--resume_from_checkpoint", "True"] if self.checkpoints(out) else ["--overwrite_output_dir"]
        return self.run(out, *flags, *how)

    def result(self, out):
        """The trained weights, and the log without times."""
        weights = {name: open(self.at(out, name), "rb").read() for name in os.listdir(self.at(out)) if name.endswith(".safetensors")}
        log = json.load(open(self.at(out, "trainer_state.json")))["log_history"]
        clock = ("runtime", "_per_second")
        return weights, [{k: v for k, v in entry.items() if not k.endswith(clock)} for entry in log]

    def same(self, name, out, reference):
        if not os.path.exists(self.at(out, "trainer_state.json")):
            return self.case(name, False, "the run did not finish")
        (weights, log), (want_weights, want_log) = self.result(out), self.result(reference)
        differ = [(a, b) for a, b in zip(log, want_log) if a != b][:1]
        self.case(name, weights == want_weights and log == want_log,
                  f"weights {'equal' if weights == want_weights else 'differ'}, {len(log)} of {len(want_log)} entries, {differ}")
