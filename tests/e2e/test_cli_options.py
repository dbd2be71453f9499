# SPDX-License-Identifier: Apache-2.0
"""test_cli_options.py TRAIN_KTO SOURCE_ROOT: options whose effect is visible outside the log: memory, reports, threads,
kinds of data files, truncation. Standard library only; if tensorboard is installed, its reader reads the event file."""
import gzip
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile

from cases import Cases
from tiny_model import make_model, shapes_of

train_kto, root = sys.argv[1:3]
data = os.path.join(root, "examples", "data")
cases = Cases()
case = cases.case

with tempfile.TemporaryDirectory() as tmp:
    at = lambda *parts: os.path.join(tmp, *parts)
    model = make_model(at("model"), root)

    def run(*flags, rows=data, kib=None, keep=False):
        if not keep:
            shutil.rmtree(at("out"), ignore_errors=True)
        env = {**os.environ, "OMP_NUM_THREADS": "1", **({"KTO_MATMUL": "aten"} if kib else {})}  # oneDNN maps memory for its code
        limit = (lambda: resource.setrlimit(resource.RLIMIT_AS, (kib * 1024, kib * 1024))) if kib else None
        return subprocess.run([train_kto, "--model_name_or_path", model, "--dataset_name", rows, "--output_dir", at("out"), "--max_steps", "3",
                               "--logging_steps", "1", "--learning_rate", "1e-3", "--save_strategy", "no", "--per_device_train_batch_size", "4", *flags],
                              capture_output=True, text=True, timeout=300, preexec_fn=limit, env=env)

    def losses(*flags, **kwargs):
        result = run(*flags, **kwargs)
        if result.returncode:
            return result.stderr[-300:]
        return [entry["loss"] for entry in json.load(open(at("out", "trainer_state.json")))["log_history"] if "loss" in entry]

    plain = losses()
    case("threads that collate change nothing", losses("--dataloader_num_workers", "3") == plain)
    case("threads that tokenize change nothing", losses("--dataset_num_proc", "1") == losses("--dataset_num_proc", "5") == plain)
    noisy = losses("--neftune_noise_alpha", "5")
    case("NEFTune changes the losses, the same way each time", noisy != plain and noisy == losses("--neftune_noise_alpha", "5"), noisy)

    # Files of options after the kinds that are found in the wild
    files = sorted(os.listdir(os.path.join(root, "tests", "examples", "options")))
    for file in files:
        result = run("--config", os.path.join(root, "tests", "examples", "options", file), "--max_length", "64", "--max_steps", "1", "--tf32", "False")
        case(f"{file} runs as it is", result.returncode == 0, result.stderr[-400:])
    case("there are such files", len(files) > 5, files)
    idle = ("--attn_implementation", "flash_attention_2", "--gradient_checkpointing_kwargs", '{"use_reentrant": false}', "--torch_compile",
            "--use_liger_kernel", "--activation_offloading", "--no_remove_unused_columns", "--warmup_ratio", "0.5", "--lr_scheduler_type", "constant")
    case("options without effect change no number", losses(*idle) == losses("--lr_scheduler_type", "constant"))
    notes = [line for line in run(*idle).stderr.splitlines() if "is taken without effect" in line]
    case("and has a note each", len(notes) == 7 and all(line.startswith("train_kto: ") for line in notes), notes)

    result = run("--tf32", "--device", "cpu")
    case("tf32 is refused without such a GPU", result.returncode == 1 and "cpu has no TF32" in result.stderr, result.stderr[-300:])

    def closing(*flags):
        result = run(*flags)
        return json.load(open(at("out", "all_results.json"))) if result.returncode == 0 else result.stderr[-300:]

    parameters = sum(math.prod(shape) for name, shape in shapes_of(model).items() if "embed_tokens" not in name)
    padded = closing("--collator", "padded", "--include_num_input_tokens_seen", "all")
    case("total_flos: 6 per token, including padding, and non-embedding parameter",
         padded["total_flos"] == 6 * padded["num_input_tokens_seen"] * parameters, (padded, parameters))
    case("with packed rows the same", closing()["total_flos"] == padded["total_flos"] == json.load(open(at("out", "trainer_state.json")))["total_flos"])
    case("an adapter's parameters count, too", closing("--use_peft", "--lora_r", "2")["total_flos"] > padded["total_flos"])
    defaults = losses("--trl_defaults")
    case("trl_defaults: bf16 and gradient_checkpointing", defaults == losses("--bf16", "--gradient_checkpointing") != plain, defaults)

    # Memory: a wide layer takes much of it and little time
    wide = make_model(at("wide"), root, intermediate_size=4096)
    big = ["--model_name_or_path", wide, "--per_device_train_batch_size", "12", "--collator", "padded", "--pad_to_multiple_of", "512", "--max_steps", "1",
           "--dataset_num_proc", "1"]
    result = run(*big, kib=900_000)
    case("too little memory: a short error with advice",
         result.returncode == 1 and "--auto_find_batch_size" in result.stderr and len(result.stderr) < 1500, result.stderr[-400:])
    result = run(*big, "--auto_find_batch_size", kib=900_000)
    case("--auto_find_batch_size halves until it fits",
         result.returncode == 0 and "starting over with --per_device_train_batch_size 6" in result.stderr, result.stderr[-400:])

    # Another run in the same folder
    def has(*names):
        return [os.path.exists(at("out", name)) for name in names]

    kinds = ("config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors")
    again = ["--overwrite_output_dir", "--report_to", "jsonl"]
    case("an adapter's folder", run("--use_peft", "--report_to", "jsonl").returncode == 0 and has(*kinds) == [False, False, True, True])
    case("a whole model in its place leaves no adapter that transformers would put on it",
         run(*again, keep=True).returncode == 0 and has(*kinds) == [True, True, False, False], os.listdir(at("out")))
    case("an adapter in its place leaves no model that would be read for it",
         run("--use_peft", *again, keep=True).returncode == 0 and has(*kinds) == [False, False, True, True], os.listdir(at("out")))
    steps = [json.loads(line)["step"] for line in open(at("out", "metrics.jsonl"))]
    case("metrics.jsonl has only the last run", steps == [1, 2, 3, 3], steps)

    # Reports
    result = run("--report_to", "jsonl", "tensorboard", "--run_name", "night", "--skip_memory_metrics", "False")
    case("reports: the run ends well", result.returncode == 0, result.stderr[-300:])
    lines = [json.loads(line) for line in open(at("out", "metrics.jsonl"))]
    case("metrics.jsonl has a line an entry, with the run's name",
         [line["loss"] for line in lines if "loss" in line] == plain and all(line["run_name"] == "night" for line in lines), lines[:1])
    case("the closing entry has the memory", "train_mem_cpu_peaked_delta" in lines[-1], lines[-1])
    case("one event file", len(os.listdir(at("out", "runs", "night"))) == 1)
    before = set(os.listdir(tmp))
    result = run("--report_to", "tensorboard", "--run_name", "../../../escaped", "--overwrite_output_dir", keep=True)
    case("a name of a run does not lead out of its folder", result.returncode == 0 and set(os.listdir(tmp)) == before and
         sorted(os.listdir(at("out", "runs"))) == [".._.._.._escaped", "night"], (result.stderr[-200:], os.listdir(at("out", "runs"))))
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        events = EventAccumulator(at("out", "runs", "night"))
        events.Reload()
        seen = [(event.step, event.value) for event in events.Scalars("train/loss")]
        case("TensorBoard reads it", len(seen) == 3 and all(abs(v - p) < 1e-6 for (_, v), p in zip(seen, plain)), seen)
        case("and the settings", "args/text_summary" in events.Tags()["tensors"])
    except ImportError:
        print("(TensorBoard's reader is not installed)")

    # Data files
    source = open(os.path.join(data, "train.jsonl"), encoding="utf-8").readlines()
    with gzip.open(at("rows.jsonl.gz"), "wt", encoding="utf-8") as file:
        file.writelines(source)
    packed = losses(rows=at("rows.jsonl.gz"))
    case("gzip: the same rows (or built without zlib)", packed == plain or "built without zlib" in packed, packed)
    for i in (0, 1):
        with open(at(f"part-{i}.jsonl"), "w", encoding="utf-8") as file:
            file.writelines(source[i * 40:(i + 1) * 40 if i == 0 else None])
    case("several files by a pattern", losses(rows=at("part-*.jsonl")) == plain)

    # Truncation
    right, end, start = losses("--max_length", "64"), losses("--max_length", "64", "--truncation_mode", "keep_end", "--max_prompt_length", "16"), \
        losses("--max_length", "64", "--truncation_mode", "keep_start", "--max_prompt_length", "16")
    case("the rules of truncation differ, and all train", all(isinstance(x, list) and len(x) == 3 for x in (right, end, start))
         and len({tuple(right), tuple(end), tuple(start)}) == 3, (right, end, start))
    case("truncation is reported", "completions are truncated (max_length 64, prompt 16" in run("--max_length", "64", "--max_prompt_length", "16").stderr)

    result = run("--optim", "sgd", "--optim_args", "momentun=1")
    case("optim_args that do not belong: status 2, nothing written",
         result.returncode == 2 and "momentun" in result.stderr and not os.path.exists(at("out")), result.stderr[-300:])
sys.exit(cases.report())
