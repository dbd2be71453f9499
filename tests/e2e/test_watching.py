# SPDX-License-Identifier: Apache-2.0
"""test_watching.py TRAIN_KTO SOURCE_ROOT: what a run reports while it runs and leaves for a person to look at: advice, once
each; the model card's front matter; the picture that examples/plot.py draws. Standard library; PyYAML and matplotlib if
installed."""
import json
import os
import re
import struct
import subprocess
import sys
import tempfile

from runs import Runs

train_kto, root = sys.argv[1:3]
plot = os.path.join(root, "examples", "plot.py")
with tempfile.TemporaryDirectory() as tmp:
    runs = Runs(train_kto, root, tmp)
    case, at = runs.case, runs.at
    flags = ["--max_steps", "6", "--logging_steps", "1", "--save_strategy", "no", "--eval_strategy", "steps", "--eval_steps", "2"]

    # Advice: three desirable rows to one undesirable
    rows = [json.loads(line) for line in open(at("data", "train.jsonl"), encoding="utf-8")]
    os.makedirs(at("unbalanced"))
    for split in ("train", "test"):
        with open(at("unbalanced", split + ".jsonl"), "w", encoding="utf-8") as file:
            file.writelines(json.dumps({**row, "label": i % 4 != 3}) + "\n" for i, row in enumerate(rows))
    result = runs.run("out", *flags, data=at("unbalanced"))
    told = result.stdout + result.stderr
    # Equation 8 of arXiv:2402.01306: w_D n_D / (w_U n_U) in [1, 4/3], as TRL rounds it.
    case("unbalanced rows: counts and both ranges, once", result.returncode == 0 and told.count(
        "18 desirable and 6 undesirable rows") == 1 and "desirable_weight in [0.33, 0.44]" in told and "undesirable_weight in [2.26, 3]" in told, told[-800:])
    case("learning rate and rows an update out of range, once each", told.count("is outside 5e-7 to 5e-6") == 1 and
         told.count("an update has 4 rows") == 1, told[-800:])
    result = runs.run("calm", *flags, "--learning_rate", "1e-6", "--gradient_accumulation_steps", "4", "--undesirable_weight", "2.5", data=at("unbalanced"))
    told = result.stdout + result.stderr
    case("weights and settings in range: no advice", result.returncode == 0 and not re.search("desirable rows|is outside|an update has", told), told[-500:])

    # Model card
    card = open(at("out", "README.md"), encoding="utf-8").read()
    matter = card.split("---\n")[1] if card.startswith("---\n") else ""
    try:
        import yaml
        fields = yaml.safe_load(matter)
        case("the front matter is YAML, as TRL's", fields == {"library_name": "transformers", "model_name": "out", "tags": ["generated_from_trainer", "trl", "kto"],
                                                              "licence": "license"}, fields)
    except ImportError:
        case("the front matter", re.search(r"^tags:\n- generated_from_trainer\n- trl\n- kto\n", matter, re.M), matter)

    # Picture
    def draw(*arguments):
        return subprocess.run([sys.executable, plot, *arguments], capture_output=True, text=True, timeout=120)

    bad = draw(at("nowhere"))
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        case("without matplotlib plot.py says so", bad.returncode == 1 and "pip install matplotlib" in bad.stderr, bad.stderr)
        sys.exit(runs.report())
    case("plot.py: a log that is not there is an error", bad.returncode == 1 and "nowhere" in bad.stderr and "Traceback" not in bad.stderr, bad.stderr)
    picture = at("run.png")
    result = draw(at("out"), picture)
    content = open(picture, "rb").read() if os.path.exists(picture) else b""
    case("plot.py: a PNG of the run", result.returncode == 0 and content.startswith(b"\x89PNG\r\n\x1a\n") and
         min(struct.unpack(">II", content[16:24])) > 500, (result.stderr[-300:], len(content)))
    with open(at("empty.json"), "w") as file:
        json.dump({"log_history": []}, file)
    result = draw(at("empty.json"))
    case("plot.py: a log without a loss is an error", result.returncode == 1 and "no log entries" in result.stderr and not os.path.exists(at("empty.png")), result.stderr)
    if len(sys.argv) > 3:
        os.replace(picture, sys.argv[3])
    sys.exit(runs.report())
