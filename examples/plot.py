# SPDX-License-Identifier: Apache-2.0
"""plot.py TRAINER_STATE_JSON [PNG]: plots a run (loss, reward margin, kl, rewards, log-probs, learning rate; training and
evaluation) from the trainer_state.json of an output folder or checkpoint. Needs matplotlib."""
import json
import os
import sys

if len(sys.argv) not in (2, 3):
    sys.exit(__doc__)
try:
    import matplotlib
except ImportError:
    sys.exit("plot.py: matplotlib is missing; pip install matplotlib")
matplotlib.use("Agg")
import matplotlib.pyplot as plt

source = os.path.join(sys.argv[1], "trainer_state.json") if os.path.isdir(sys.argv[1]) else sys.argv[1]
try:
    with open(source, encoding="utf-8") as file:
        log = json.load(file)["log_history"]
except (OSError, ValueError, KeyError) as error:
    sys.exit(f"plot.py: {source}: is not a trainer_state.json: {error}")
target = sys.argv[2] if len(sys.argv) > 2 else os.path.splitext(source)[0] + ".png"
PANELS = [("loss", ["loss"]), ("reward margin", ["rewards/margins"]), ("kl", ["kl"]),
          ("rewards", ["rewards/chosen", "rewards/rejected"]), ("log-probs", ["logps/chosen", "logps/rejected"]),
          ("learning rate", ["learning_rate"])]
COLORS = {"chosen": "tab:green", "rejected": "tab:red"}


def series(key):
    points = [(entry["step"], entry[key]) for entry in log if isinstance(entry.get(key), (int, float)) and "step" in entry]
    return [step for step, _ in points], [value for _, value in points]


HELD_OUT = sorted({key[:-len("loss")] for entry in log for key in entry if key.startswith("eval_") and key.endswith("_loss")})
if not series("loss")[0] and not HELD_OUT:
    sys.exit(f"plot.py: {source}: has no log entries with a loss")
figure, axes = plt.subplots(2, 3, figsize=(13, 7), constrained_layout=True)
for axis, (title, keys) in zip(axes.flat, PANELS):
    for key in keys:
        side = key.split("/")[-1]
        color = COLORS.get(side, "tab:blue")
        name = side if side in COLORS else "training"
        if series(key)[0]:
            axis.plot(*series(key), color=color, label=name, marker="." if len(series(key)[0]) < 60 else "")
        for prefix, marker in zip(HELD_OUT, "osv^D*" * len(HELD_OUT)):  # "eval_", or one for each of several sets
            if series(prefix + key)[0]:
                label = ", ".join(part for part in (name if side in COLORS else "", "held out", prefix[len("eval_"):-1]) if part)
                axis.plot(*series(prefix + key), color=color if side in COLORS else "tab:orange", label=label, linestyle="--", marker=marker)
    axis.set_title(title)
    axis.set_xlabel("step")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize="small")
figure.savefig(target, dpi=110)
print(target)
