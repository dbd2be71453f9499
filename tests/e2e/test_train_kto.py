# SPDX-License-Identifier: Apache-2.0
"""test_train_kto.py TRAIN_KTO SOURCE_ROOT: the command as users see it: its output files, and one clear error for
each kind of bad input, with nothing half-written. Standard library only."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from cases import Cases
from tiny_model import make_model, make_rows, write_safetensors

train_kto, root = sys.argv[1:3]
cases = Cases()
case = cases.case


def run(*flags, **kwargs):
    return subprocess.run([train_kto, *flags], capture_output=True, text=True, timeout=300, **kwargs)


def refused(name, status, pattern, flags, out):
    result = run(*flags)
    lines = result.stderr.strip().splitlines()
    good = (result.returncode == status and lines and re.search(pattern, result.stderr) and
            lines[0].startswith("train_kto: error: ") and not (out and os.path.exists(out)))
    case(name, good, f"status {result.returncode}, output folder {'there' if out and os.path.exists(out) else 'absent'}, "
                     f"stderr: {result.stderr.strip()[:400]}")


with tempfile.TemporaryDirectory() as tmp:
    at = lambda *parts: os.path.join(tmp, *parts)
    model, rows, out = make_model(at("model"), root), make_rows(at("rows.jsonl")), at("out")
    base = ["--per_device_train_batch_size", "4", "--max_steps", "3", "--logging_steps", "1", "--learning_rate", "1e-3"]
    to = lambda m=model, d=rows, o=out: ["--model_name_or_path", m, "--dataset_name", d, "--output_dir", o, *base]

    # A good run
    first = run(*to())
    case("a run ends with status 0", first.returncode == 0, first.stderr[-400:])
    files = set(os.listdir(out)) if os.path.exists(out) else set()
    want = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "trainer_state.json",
            "train_results.json", "training_args.json", "all_results.json"}
    case("it leaves model, tokenizer, state and results", want <= files, sorted(want - files))
    case("and no temporary file", not [f for f in files if ".tmp" in f], files)
    state = json.load(open(at("out", "trainer_state.json")))
    steps = [entry for entry in state["log_history"] if "loss" in entry]
    case("the log has an entry a step, with TRL's names and the sums",
         len(steps) == 3 and {"loss", "grad_norm", "learning_rate", "kl", "entropy", "num_tokens", "epoch", "step", "logps/chosen",
                              "rewards/margins", "rewards/chosen_sum", "count/rejected"} <= set(steps[0]), steps[:1])
    case("it starts at the reference: loss 1/2, kl 0", abs(steps[0]["loss"] - 0.5) < 1e-6 and abs(steps[0]["kl"]) < 1e-5, steps[0])
    again = run(*to(o=at("again")))
    case("a second run repeats the first to the last bit",
         open(at("out", "model.safetensors"), "rb").read() == open(at("again", "model.safetensors"), "rb").read())

    # Special tokens: the tokenizer has <|begin|> 0, <|end|> 2, and no pad token
    other = make_model(at("other"), root, eos_token_id=[1], bos_token_id=1)
    json.dump({"eos_token_id": 1, "do_sample": False}, open(at("other", "generation_config.json"), "w"))
    aligned = run(*to(m=other, o=at("aligned")), "--save_steps", "2")
    read = lambda *parts: json.load(open(at(*parts)))
    ids = lambda folder, name: [read(folder, name).get(key) for key in ("eos_token_id", "bos_token_id", "pad_token_id")]
    for folder in ("aligned", "aligned/checkpoint-2"):
        case(f"{folder} names the special tokens of the tokenizer",
             ids(folder, "config.json") == [[2, 1], 0, 2] and ids(folder, "generation_config.json") == [[2, 1], 0, 2]
             and read(folder, "tokenizer_config.json")["pad_token"] == "<|end|>", aligned.stderr[-400:])
    case("and it is reported", 'config.json eos_token_id [2,1] (was [1])' in aligned.stderr and 'pad_token "<|end|>" (was null)' in aligned.stderr, aligned.stderr)
    adapter = run(*to(m=other, o=at("adapter")), "--use_peft")
    files = os.listdir(at("adapter")) if adapter.returncode == 0 else []
    case("an adapter's folder has the tokenizer alone, with a pad token", "tokenizer.json" in files and "generation_config.json" not in files
         and read("adapter", "tokenizer_config.json")["pad_token"] == "<|end|>", (files, adapter.stderr[-400:]))
    case("and a note says where generate() stops", "eos_token_id=2" in adapter.stderr, adapter.stderr)
    card = open(at("adapter", "README.md"), encoding="utf-8").read()
    case("its card names the base", "base_model:adapter:" in card and "fine-tuned version of `other`" in card, card)

    # The same numbers on every path
    def losses(*flags):
        folder = at("path")
        shutil.rmtree(folder, ignore_errors=True)
        result = run(*to(o=folder), *flags)
        if result.returncode:
            return [result.stderr[-300:]]
        return [e["loss"] for e in json.load(open(os.path.join(folder, "trainer_state.json")))["log_history"] if "loss" in e]

    plain = [entry["loss"] for entry in steps]
    close = lambda a, b, tol=2e-5: len(a) == len(b) and all(isinstance(x, float) and abs(x - y) < tol for x, y in zip(a, b))
    for name, flags in (("padded rows", ["--collator", "padded"]), ("recomputed activations", ["--gradient_checkpointing"])):
        got = losses(*flags)
        case(f"{name}: the same losses", close(got, plain), (got, plain))
    one = losses("--kl_scope", "window", "--max_steps", "2", "--per_device_train_batch_size", "4")
    four = losses("--kl_scope", "window", "--max_steps", "2", "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "4")
    case("kl_scope window: four micro-batches of one row are one of four", close(one, four), (one, four))
    result = run(*to(o=at("path")), "--per_device_train_batch_size", "1", "--overwrite_output_dir")
    case("a batch of one row is refused, and what to do instead is named", result.returncode == 2 and "larger batches" in result.stderr and "kl_scope window" in result.stderr,
         (result.returncode, result.stderr[-300:]))
    got = losses("--bf16")
    case("bf16: starts at 1/2 exactly and stays close", close(got, plain, 0.05) and got[0] == 0.5, got)
    got = losses("--fp16")
    case("fp16: starts at 1/2 exactly and stays closer", close(got, plain, 0.01) and got[0] == 0.5, (got, plain))
    scales = [entry.get("loss_scale") for entry in json.load(open(at("path", "trainer_state.json")))["log_history"] if "loss" in entry]
    case("with a loss scale", scales == [65536] * 3, scales)
    seen = []
    for flags in ([], ["--fp16_full_eval"]):
        result = run(*to(o=at("path")), *flags, "--do_train", "False", "--do_eval", "--dataset_test_split", "train", "--overwrite_output_dir")
        seen.append(json.load(open(at("path", "eval_results.json")))["eval_logps/chosen"] if result.returncode == 0 else result.stderr[-300:])
    case("fp16_full_eval: nearly the same numbers", all(isinstance(x, float) for x in seen) and 0 < abs(seen[0] - seen[1]) < 2e-3 * abs(seen[0]), seen)
    for sampling in ("random", "group_by_length"):
        got = losses("--train_sampling_strategy", sampling)
        case(f"{sampling} sampling trains with KL", len(got) == 3 and got[0] == 0.5, got)

    # What a reference that does not move said is reused, and its weights stay in their files
    long = ["--max_steps", "9", "--dataset_test_split", "train", "--eval_strategy", "steps", "--eval_steps", "3"]
    got, each_time = losses(*long), losses(*long, "--reuse_ref_log_probs", "False")
    case("reused log-probs of the reference: the same losses to the last bit", len(got) == 9 and got == each_time, (got, each_time))
    stored = at("stored")
    assert run(*to(o=stored), "--dtype", "bfloat16").returncode == 0
    wide = losses("--model_name_or_path", stored, "--ref_dtype", "float32")
    got = losses("--model_name_or_path", stored)
    case("a reference that stays in bfloat16 in its files: the same losses to the last bit", len(got) == 3 and got == wide, (got, wide))

    # Precomputed reference, cached
    cache = at("cache")
    pre = ["--precompute_ref_log_probs", "--ref_logps_cache", cache]
    got = losses(*pre)
    case("precomputed reference: the same losses", close(got, plain), (got, plain))
    kept = os.listdir(cache) if os.path.isdir(cache) else []
    case("and one file in the cache", len(kept) == 1, kept)

    def said(*flags, d=rows):
        shutil.rmtree(at("path"), ignore_errors=True)
        return run(*to(o=at("path"), d=d), *pre, *flags)

    case("a second run reads it", "read from" in said().stderr)
    other = at("other.jsonl")
    open(other, "w").write(open(rows).read().replace("alpha", "omega", 1))
    case("a changed row is computed again", "read from" not in said(d=other).stderr and len(os.listdir(cache)) == 2)
    case("another max_length too", "read from" not in said("--max_length", "40").stderr)
    content = open(os.path.join(cache, kept[0]), "rb").read()
    open(os.path.join(cache, kept[0]), "wb").write(content[:-8] + bytes(8))
    result = said()
    case("a damaged cache is noted and replaced", result.returncode == 0 and "damaged" in result.stderr and "computed again" in result.stderr
         and open(os.path.join(cache, kept[0]), "rb").read() == content, result.stderr[-300:])
    os.remove(os.path.join(cache, kept[0]))
    os.mkdir(os.path.join(cache, kept[0]))
    result = said()
    case("a folder in its place is an error before the work", result.returncode == 1 and "expected a cache file" in result.stderr, result.stderr[-300:])

    # Usage: status 2, before any file is written
    new = at("new")
    refused("an unknown flag names the nearest", 2, r"--learning_rate", [*to(o=new), "--learnin_rate", "1"], new)
    refused("a value out of range", 2, r"beta", [*to(o=new), "--beta", "-1"], new)
    refused("a value that is not a number", 2, r"max_steps", [*to(o=new), "--max_steps", "many"], new)
    refused("an unsupported option", 2, r"fsdp", [*to(o=new), "--fsdp", "hybrid_shard"], new)
    refused("no data set", 2, r"dataset_name", ["--model_name_or_path", model, "--output_dir", new], new)

    # Bad data: status 1, the place named, no output folder
    def data(text, name="bad.jsonl"):
        with open(at(name), "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
        return at(name)

    good = open(rows).readline()
    refused("an empty data file", 1, r"no rows", to(d=data(""), o=new), new)
    refused("a data file that is not there", 1, r"nowhere\.jsonl", to(d=at("nowhere.jsonl"), o=new), new)
    refused("a row that is not JSON", 1, r"line 2", to(d=data(good + "{oops\n"), o=new), new)
    refused("a file that is not UTF-8", 1, r"line 2.*UTF-8|UTF-8.*line 2", to(d=data(good.encode() + b'{"prompt": "\xff"}\n'), o=new), new)
    no_label = {k: v for k, v in json.loads(good).items() if k != "label"}
    refused("a row without label", 1, r"label", to(d=data(good + json.dumps(no_label) + "\n"), o=new), new)
    refused("a label that is a string", 1, r"label.*(true|bool)", to(d=data(good.replace("true", '"true"')), o=new), new)
    refused("prompts that fill max_length", 1, r"max_length", [*to(o=new), "--max_length", "2"], new)

    # Bad models
    def broken(name, change):
        folder = at(name)
        shutil.copytree(model, folder)
        change(folder)
        return folder

    def edit_config(**changes):
        def change(folder):
            path = os.path.join(folder, "config.json")
            config = json.load(open(path))
            config.update(changes)
            json.dump(config, open(path, "w"))
        return change

    def cut(folder, size=-100):
        path = os.path.join(folder, "model.safetensors")
        content = open(path, "rb").read()
        open(path, "wb").write(content[:size])

    def remove(name):
        return lambda folder: os.remove(os.path.join(folder, name))

    def rubbish(name):
        return lambda folder: open(os.path.join(folder, name), "wb").write(b"\x00\xffrubbish" * 9)

    for name, change, pattern in (
            ("truncated weights", cut, r"model\.safetensors"),
            ("weights of zero bytes", lambda f: cut(f, 0), r"model\.safetensors"),
            ("rubbish for weights", rubbish("model.safetensors"), r"model\.safetensors"),
            ("no weights", remove("model.safetensors"), r"model\.safetensors"),
            ("no config", remove("config.json"), r"config\.json"),
            ("rubbish for a config", rubbish("config.json"), r"config\.json"),
            ("no tokenizer", remove("tokenizer.json"), r"tokenizer\.json"),
            ("rubbish for a tokenizer", rubbish("tokenizer.json"), r"tokenizer\.json"),
            ("weights of other shapes", edit_config(hidden_size=32), r"shape"),
            ("a missing tensor", edit_config(num_hidden_layers=3), r"model\.layers\.2"),
            ("tensors too many", edit_config(num_hidden_layers=1), r"model\.layers\.1"),
            ("an unknown family", edit_config(model_type="bert"), r"bert.*llama|llama.*bert"),
            ("an unknown activation", edit_config(hidden_act="mish"), r"mish")):
        refused(name, 1, pattern, to(m=broken(name.replace(" ", "_"), change), o=new), new)

    # Output
    contents = lambda: {os.path.join(folder, f): open(os.path.join(folder, f), "rb").read()
                        for folder, _, files in os.walk(out) for f in files}
    before = contents()
    refused("an output folder that is not empty", 1, r"overwrite_output_dir", to(), None)
    case("and its files are as they were", before == contents())
    case("--overwrite_output_dir replaces them", run(*to(), "--overwrite_output_dir").returncode == 0)
    data("x", "a_file")
    refused("an output folder that is a file", 1, r"a_file", to(o=at("a_file")), None)
    full = at("full")
    os.makedirs(full)
    limited = subprocess.run(["bash", "-c", 'ulimit -f 20; trap "" XFSZ; exec "$@"', "_", train_kto, *to(o=full)], capture_output=True, text=True)
    case("a full disk: an error and nothing half-written",
         limited.returncode == 1 and "cannot be written" in limited.stderr and not os.listdir(full),
         (limited.returncode, limited.stderr[-300:], os.listdir(full)))

sys.exit(cases.report())
