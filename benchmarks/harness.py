# SPDX-License-Identifier: Apache-2.0
"""Shared by the benchmarks in this folder: rows, a measured run of a program, and the parts of a report. Standard library only."""
import datetime
import functools
import json
import os
import platform
import shlex
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)


# --- Arguments --------------------------------------------------------------------------------------------------------
def add_files(parser):
    """Adds the common flags: --train_kto, --model, --data."""
    parser.add_argument("--train_kto", default=os.path.join(ROOT, "build/examples/train_kto"), help="the program to measure")
    parser.add_argument("--model", default=os.path.join(ROOT, "examples/models/SmolLM2-135M-Instruct"), help="model folder")
    parser.add_argument("--data", default=os.path.join(ROOT, "examples/data/train.jsonl"), help="rows, JSON Lines")


def check_files(args):
    for path in (args.train_kto, args.model, args.data):
        if not os.path.exists(path):
            sys.exit(f"error: {path} is missing; examples/quickstart.sh builds train_kto and fetches the model")


# --- Models -----------------------------------------------------------------------------------------------------------
def stored_tensors(file):
    """{name: entry} of the tensors of an open safetensors file, which is left where their bytes begin."""
    tensors = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tensors.pop("__metadata__", None)
    return tensors


# --- Runs -------------------------------------------------------------------------------------------------------------
def train_kto(args, model, data, output, flags):
    """The command that trains `model` on the rows of the file `data` with {flag: value}."""
    return [args.train_kto, "--model_name_or_path", model, "--dataset_name", data, "--output_dir", output,
            *(word for flag, value in flags.items() for word in (f"--{flag}", str(value)))]


# About 400 tokens, as an assistant's instructions are.
SYSTEM_PROMPT = " ".join(f"Rule {n}: answer questions about item {n} politely and name its price, its size and the shelf where it lies."
                         for n in range(1, 17))


def with_system_prompt(line):
    """The row with SYSTEM_PROMPT before its conversation."""
    row = json.loads(line)
    prompt = row["prompt"] if isinstance(row["prompt"], list) else [{"role": "user", "content": row["prompt"]}]
    completion = row["completion"] if isinstance(row["completion"], list) else [{"role": "assistant", "content": row["completion"]}]
    prompt = [{"role": "system", "content": SYSTEM_PROMPT}, *(message for message in prompt if message["role"] != "system")]
    return json.dumps({**row, "prompt": prompt, "completion": completion}) + "\n"


def chosen_rows(path, kind, count, needed):
    """At most `count` lines of the kind ("first", "system_prompt", "long_prompt", "longest"), and at least `needed`."""
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file if line.strip()]
    length = lambda part: len(part) if isinstance(part, str) else sum(len(message["content"]) for message in part)
    if kind == "system_prompt":
        lines = list(map(with_system_prompt, lines))
    elif kind != "first":
        sizes = {line: (length(row["prompt"]), length(row["completion"])) for line in lines for row in [json.loads(line)]}
        if kind == "long_prompt":
            lines = [line for line in lines if sizes[line][0] >= 4 * sizes[line][1]]
        else:
            lines = sorted(lines, key=lambda line: -sum(sizes[line]))
    if len(lines) < needed:
        sys.exit(f"error: {path} has {len(lines)} rows of kind {kind}, but the steps need {needed}")
    return lines[:count]


def measure(command, output, preload=None):
    """Runs the command; returns its seconds per step, seconds to the end of the first step, peak GB and log. Shows its
    output if it fails. `preload` is a library to load before all others."""
    environment = dict(os.environ, PYTHONUNBUFFERED="1", **({"LD_PRELOAD": preload} if preload else {}))
    start, step_ends, text = time.perf_counter(), [], []
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
                               text=True, errors="replace")
    for line in process.stdout:
        if "'loss'" in line:  # both programs print a log entry for each step
            step_ends.append(time.perf_counter() - start)
        text.append(line)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not step_ends:
        sys.exit(f"{''.join(text)[-3000:]}\nerror: exit status {process.returncode} of {shlex.join(command)}")
    with open(os.path.join(output, "trainer_state.json"), encoding="utf-8") as file:
        state = json.load(file)
    with open(os.path.join(output, "train_results.json"), encoding="utf-8") as file:
        seconds = json.load(file)["train_runtime"]
    log = [entry for entry in state["log_history"] if "loss" in entry]
    return {"seconds": seconds / state["global_step"], "first_step_ends": step_ends[0], "log": log,
            "step_seconds": [after - before for before, after in zip([0, *step_ends], step_ends)],
            "gigabytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9}


# --- Report -----------------------------------------------------------------------------------------------------------
def first_line(command, cwd=ROOT):
    try:
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout.strip().split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# The best instructions for products, and what holds LibTorch's libraries, and train_kto, to AVX2.
INSTRUCTIONS = (("amx_bf16", "AMX"), ("avx512_bf16", "AVX-512 BF16"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))
HELD = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


def machine():
    processor = platform.processor() or platform.machine()
    memory = ""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = file.read().splitlines()
        value = lambda name: next((line.split(":")[1].strip() for line in lines if line.startswith(name)), "")
        processor = value("model name") or processor
        flags = value("flags").split()
        best = next((name for flag, name in INSTRUCTIONS if flag in flags), "")
        processor += f" with {best}" * bool(best)
        if best not in ("", "AVX2") and all(os.environ.get(name, "").upper() == "AVX2" for name in HELD):
            processor += f" held to AVX2 ({', '.join(HELD)})"
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    return f"{processor}, {len(os.sched_getaffinity(0))} cores{memory}, {platform.system()} {platform.machine()}"


@functools.cache
def trl_versions(python):
    return first_line([python, "-c", "import torch, transformers, trl; print(f'trl {trl.__version__}, "
                       "transformers {transformers.__version__}, torch {torch.__version__}')"])


def shown_command():
    """The command line of this program, with files outside the project shown without their folders."""
    name = lambda word: os.path.relpath(word, ROOT) if word.startswith(ROOT + os.sep) else "PATH/" + os.path.basename(word)
    return " ".join([f"benchmarks/{os.path.basename(sys.argv[0])}",
                     *(shlex.quote(name(word) if os.path.isabs(word) else word) for word in sys.argv[1:])])


def head(title, *lines, about_machine="", command=None):
    """The first lines of a report: its title, date, commit, machine, the given lines, and the command."""
    changed = first_line(["git", "status", "--porcelain", "--untracked-files=no"]) not in ("", "unknown")
    return [f"# {title}", "",
            f"- Date: {datetime.date.today()}; commit {first_line(['git', 'rev-parse', '--short', 'HEAD'])}"
            f"{' with local changes' * changed}",
            f"- Machine: {machine()}{about_machine}", *(f"- {line}" for line in lines), f"- Command: `{command or shown_command()}`", ""]


def table(header, rows):
    return ["| " + " | ".join(header) + " |", "| --- " * len(header) + "|", *("| " + " | ".join(row) + " |" for row in rows)]


def model_name(args):
    return os.path.basename(os.path.normpath(args.model))


def report_path(args, name):
    """--output, or the default path for today; creates its folder."""
    path = args.output or os.path.join(HERE, "results", f"{datetime.date.today()}-{name}.md")
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    return path


def write_report(path, text):
    """Writes the file atomically."""
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".tmp", path)


def plotter():
    """matplotlib's pyplot in the reports' style, or None without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot
    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10,
                            "legend.frameon": False, "figure.constrained_layout.use": True})
    return pyplot
