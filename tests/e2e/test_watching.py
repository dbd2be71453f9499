# SPDX-License-Identifier: Apache-2.0
"""test_watching.py TRAIN_KTO SOURCE_ROOT: what a run reports while it runs and leaves for a person to look at: advice, once
each; the model card's front matter; the page of --report_to html, and what trackers get. MLflow's server is one of this
machine. Standard library; PyYAML, Chromium, wandb and Trackio if installed."""
import collections
import glob
import html.parser
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

from mlflow_server import Mlflow
from runs import Runs



def wandb_records(path):
    """The records of a .wandb file: pieces with zlib's CRC-32, length and kind, in blocks of 32 KiB."""
    content, at, records = open(path, "rb").read(), 7, []
    while at < len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        checksum, length, kind = struct.unpack("<IHB", content[at:at + 7])
        assert checksum == zlib.crc32(content[at + 6:at + 7 + length])
        records = [*records, b""] if kind in (1, 2) else records
        records[-1] += content[at + 7:at + 7 + length]
        at += 7 + length
    return records


class Page(html.parser.HTMLParser):
    """The page of a run: its data, its elements, what it would load, and tags that do not match."""

    def __init__(self, path):
        super().__init__()
        self.counts, self.loads, self.problems, self.open, self.data = collections.Counter(), [], [], [], None
        self.feed(open(path, encoding="utf-8").read())
        self.problems += self.open

    def handle_starttag(self, tag, attributes):
        self.counts[tag] += 1
        self.loads += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "input"):
            self.open.append((tag, dict(attributes).get("id")))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop()[0] != tag:
            self.problems.append(f"stray </{tag}>")

    def handle_data(self, text):
        if self.open and self.open[-1] == ("script", "run"):
            self.data = json.loads(text)
        elif self.open and self.open[-1][0] in ("script", "style"):
            self.loads += re.findall(r"url\(|import\(|fetch\(|https?://(?!www.w3.org/2000/svg)", text)


train_kto, root = sys.argv[1:3]
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

    # The page, and trackers
    runs.environment["TRACKIO_DIR"] = at("trackio")
    mlflow, sends = Mlflow(), b"libcurl" in subprocess.run(["ldd", train_kto], capture_output=True).stdout
    mlflow.faults = [503]
    runs.environment |= {"MLFLOW_TRACKING_URI": mlflow.address + "/", "MLFLOW_EXPERIMENT_NAME": "a b", "MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "word",
                         "no_proxy": "127.0.0.1"}
    flags += ["--report_to", "html", "trackio", "wandb", *(["mlflow"] if sends else []), "--project", "own", "--run_name", "night </script><b>", "--generate_during_eval", "--generation_num_prompts", "2", "--generation_max_new_tokens", "4"]
    result = runs.run("page", *flags)
    page = Page(at("page", "report.html"))
    data = page.data
    case("--report_to html: a page of the finished run", result.returncode == 0 and (data["status"], data["step"], data["num_steps"]) == ("finished", 6, 6) and
         data["title"] == "night </script><b>" and data["settings"]["max_steps"] == 6, (result.stderr[-300:], data["status"], data["step"]))
    log = json.load(open(at("page", "trainer_state.json")))["log_history"]
    lost = [(name, entry["step"]) for entry in log for name, value in entry.items() if type(value) in (int, float) and not any(
        step == entry["step"] and math.isclose(value, shown, rel_tol=1e-5) for step, shown in zip(*data["series"][name]))]
    case("with each number of the log", len(log) > 8 and not lost, lost[:3])
    case("tokens per second and memory", all(len(data["series"][name][0]) == 6 and min(data["series"][name][1]) > 0 for name in ("tokens_per_second", "memory/process")))
    case("and the replies of each evaluation", [of["step"] for of in data["samples"]] == [2, 4, 6] and
         data["samples"][-1]["replies"] == next(entry["eval_samples"] for entry in reversed(log) if "eval_samples" in entry), data["samples"][-1])
    case("it is HTML that loads nothing", not page.problems and page.counts["script"] == 2 and not page.loads, (page.problems, page.loads))
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium:
        seen = subprocess.run([chromium, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=" + at("browser"), "--virtual-time-budget=1000", "--dump-dom",
                               "file://" + at("page", "report.html")], capture_output=True, text=True, timeout=120).stdout
        case("a browser draws it", all(f">{title}</h2>" in seen for title in ("Loss", "Reward margin", "KL", "Rewards", "Log-probs", "Learning rate", "Gradient norm",
                                       "Tokens per second", "Memory", "Sample replies")) and seen.count("<path") >= 12 and "NaN" not in seen, seen[:300])
    else:
        print("(no Chromium here)")
    (offline,) = glob.glob(at("page", "wandb", "offline-run-*"))
    case("a note says how to upload the run to wandb", result.stderr.count(f"wandb sync {offline}") == 1, result.stderr[-300:])
    wanted = [(entry["step"], entry.get("loss"), entry.get("eval_loss")) for entry in log]
    try:
        from wandb.proto import wandb_internal_pb2
        records = [wandb_internal_pb2.Record.FromString(record) for record in wandb_records(glob.glob(offline + "/*.wandb")[0])]
        values = [{item.nested_key[0]: json.loads(item.value_json) for item in record.history.item if len(item.nested_key) == 1}
                  for record in records if record.WhichOneof("record_type") == "history"]
        case("wandb reads the log", [(v["train/global_step"], v.get("train/loss"), v.get("eval/loss")) for v in values] == wanted, values[:2])
        case("and run, config and end", (records[1].run.project, records[1].run.display_name, records[-1].WhichOneof("record_type"), records[-1].exit.exit_code) ==
             ("own", "night </script><b>", "exit", 0) and any(item.key == "max_steps" and item.value_json == "6" for item in records[1].run.config.update))
        tables = [json.load(open(os.path.join(offline, "files", record.files.files[0].path))) for record in records if record.files.files]
        case("and the replies as tables", len(tables) == 3 and tables[-1]["data"] == [list(reply.values()) for reply in data["samples"][-1]["replies"]], tables[-1:])
    except ImportError:
        print("(wandb is not installed)")
    lines = [json.loads(line) for path in sorted(glob.glob(at("trackio", "inbox", "*", "*.jsonl"))) for line in open(path, encoding="utf-8")]
    case("Trackio's inbox has the log", [(r["step"], r["metrics"].get("train/loss"), r["metrics"].get("eval/loss")) for r in lines] == wanted and
         all((r["project"], r["run"]) == ("own", "night </script><b>") for r in lines), lines[:1])
    if sends:
        run = mlflow.runs.get("run0", {"metrics": [], "params": {}, "tags": {}})
        case("MLflow has the run, in its experiment, for its user", (run.get("name"), run.get("experiment"), run.get("status"), mlflow.experiments, mlflow.users) ==
             ("night </script><b>", "7", "FINISHED", {"a b": "7"}, {"me:word"}), (run, mlflow.users))
        sent = [(name, value if math.isfinite(value) else str(value), entry["step"]) for entry in log for name, value in entry.items()
                if type(value) in (int, float) and name != "step"]
        case("each number of the log under its name there", sorted(map(tuple, run["metrics"])) == sorted(sent), run["metrics"][:3])
        case("the settings, and the replies as tables", (run["params"].get("max_steps"), run["params"].get("bf16")) == ("6", "False") and
             [row[1:] for row in mlflow.artifacts["7/run0/artifacts/eval/samples.json"]["data"][-2:]] == [list(reply.values()) for reply in data["samples"][-1]["replies"]] and
             json.loads(run["tags"]["mlflow.loggedArtifacts"]) == [{"path": "eval/samples.json", "type": "table"}], (run["params"].get("max_steps"), list(mlflow.artifacts), run["tags"]))
    else:
        print("(no libcurl: nothing is sent to MLflow)")
    try:
        os.environ["TRACKIO_DIR"] = at("trackio")
        from trackio import fragments
        from trackio.sqlite_storage import SQLiteStorage
        fragments.import_inbox_dir()
        stored = SQLiteStorage.get_logs("own", "night </script><b>")
        case("Trackio imports it", [(r["step"], r.get("train/loss"), r.get("eval/loss")) for r in stored] == wanted, stored[:1])
    except ImportError:
        print("(Trackio is not installed)")
    half = [*flags[:1], "3", *flags[2:]]
    runs.run("halves", *half, "--save_strategy", "steps", "--save_steps", "3")
    before = Page(at("halves", "report.html")).data["series"]["tokens_per_second"]
    result = runs.run("halves", *flags, "--save_strategy", "steps", "--resume_from_checkpoint", "True")
    after = Page(at("halves", "report.html")).data
    case("a resumed run goes on with its page", result.returncode == 0 and after["series"]["loss"][0] == [1, 2, 3, 4, 5, 6] == after["series"]["tokens_per_second"][0] and
         after["series"]["tokens_per_second"][1][:3] == before[1], (result.stderr[-300:], after["series"]["loss"], before))
    if sends:
        steps = [step for name, _, step in mlflow.runs["run1"]["metrics"] if name == "loss"]
        case("and as the same run of MLflow", (list(mlflow.runs), mlflow.runs["run1"]["status"], steps) == (["run0", "run1"], "FINISHED", [1, 2, 3, 4, 5, 6]), (list(mlflow.runs), steps))
    mlflow.refuses = 403
    os.makedirs(at("taken", "report.html", "full"))
    result = runs.run("taken", *flags, "--overwrite_output_dir")
    case("a page that cannot be written ends no run", result.returncode == 0 and result.stderr.count("report html: ") == 1 and
         os.path.exists(at("taken", "model.safetensors")), result.stderr[-300:])
    case("nor does a server that refuses", not sends or (result.stderr.count("report_to mlflow: ") == 1 and "status 403" in result.stderr), result.stderr[-300:])
    sys.exit(runs.report())
