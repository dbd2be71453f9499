# SPDX-License-Identifier: Apache-2.0
"""What the scripts share that record runs of TRL: import it first, before torch. Needs torch."""
import json
import math
import os
import sys
import warnings

root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(root, "tests", "e2e"))
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
warnings.filterwarnings("ignore")
import torch

torch.set_num_threads(1)


def arguments(config_class, folder, **flags):
    """TRL's arguments for a quiet run on the CPU that saves nothing."""
    fixed = dict(output_dir=os.path.join(folder, "out"), gradient_checkpointing=False, report_to="none", save_strategy="no",
                 use_cpu=True, disable_tqdm=True)  # fmt: skip
    return config_class(**fixed, **{"bf16": False, **flags})


def log_of(trainer, is_kept):
    """The finite values of the run's log whose names are kept."""
    entries = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
    return [{k: v for k, v in entry.items() if is_kept(k) and math.isfinite(v)} for entry in entries]


def write_runs(path, runs):
    with open(path, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(run) for run in runs) + "\n]\n")
