# SPDX-License-Identifier: Apache-2.0
"""run_hashes.py TRAIN_KTO CHAT SOURCE_ROOT [HASHES]: whole runs, one for each path through the library, as hashes of their
logs and final weights, and of greedy replies. Writes HASHES if the file does not exist, else compares with it, so that a
change that moves code can show that it changed no number. The bits are specific to a kind of processor and a build of
LibTorch: record and compare on one machine. Standard library only."""
import hashlib
import json
import os
import subprocess
import sys
import tempfile

from paths import CONFIGURATIONS, FAMILIES
from runs import Runs
from tiny_model import make_adapter, make_model

train_kto, chat, root = sys.argv[1:4]
recorded = sys.argv[4] if len(sys.argv) > 4 else None


def digest(*parts):
    return hashlib.sha256(b"\0".join(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode() for part in parts)).hexdigest()[:24]


with tempfile.TemporaryDirectory() as tmp:
    runs = Runs(train_kto, root, tmp)
    runs.environment["XDG_CACHE_HOME"] = runs.at("cache")
    known = {"OTHER": make_model(runs.at("other"), root, seed=2), "ADAPTER": make_adapter(runs.at("adapter"), runs.model)}
    found = {}

    def take(name, *flags, model=None):
        out = "run-" + name.replace(" ", "_")
        result = runs.run(out, "--max_steps", "6", *(known.get(flag, flag) for flag in flags), model=model)
        if result.returncode:
            return runs.case(name, False, result.stderr[-400:])
        weights, log = runs.result(out)
        log = [{k: v for k, v in entry.items() if "memory" not in k} for entry in log]
        found[name] = digest(*(weights[k] for k in sorted(weights)), log)

    for name, flags in CONFIGURATIONS.items():
        take(name, "--save_strategy", "no" if name != "best" else "steps", *flags)
    for name in ("full", "lora", "8 bits"):
        flags = ["--save_strategy", "steps", *CONFIGURATIONS[name]]
        assert runs.run("run-resumed", "--max_steps", "6", "--overwrite_output_dir", *flags).returncode == 0
        for step in (4, 5, 6):
            subprocess.run(["rm", "-r", runs.at("run-resumed", f"checkpoint-{step}")], check=True)
        take("resumed", "--resume_from_checkpoint", "True", *flags)
        found[name + ", resumed"] = found.pop("resumed", None)
        runs.case(f"{name}: a resumed run has the bits of the whole one", found[name] == found[name + ", resumed"])
    replies = {}
    for name, overrides in {"llama": {}, **FAMILIES}.items():
        model = runs.model if name == "llama" else make_model(runs.at("model-" + name), root, **overrides)
        if name != "llama":
            take(name, "--save_strategy", "no", model=model)
            take(name + ", padded and recomputed", "--save_strategy", "no", "--collator", "padded", "--gradient_checkpointing", model=model)
        reply = subprocess.run([chat, "--model_name_or_path", model, "--max_new_tokens", "40", "--temperature", "0"], input=b"rivers and mountains\nbecause\n",
                               capture_output=True, env=runs.environment, timeout=300)
        runs.case(f"{name}: replies", reply.returncode == 0 and len(reply.stdout) > 8, reply.stderr[-300:])
        found[name + ", replies"] = digest(reply.stdout)
    if recorded and os.path.exists(recorded):
        want = json.load(open(recorded))
        for name in sorted(set(want) | set(found)):
            runs.case(f"{name}: the recorded bits", want.get(name) == found.get(name), f"{found.get(name)}, recorded {want.get(name)}")
    elif recorded:
        with open(recorded, "w") as file:
            json.dump(found, file, indent=1)
        print(f"{len(found)} hashes written to {recorded}")
    sys.exit(runs.report())
