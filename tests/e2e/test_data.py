# SPDX-License-Identifier: Apache-2.0
"""test_data.py TRAIN_KTO INSPECT_ROWS SOURCE_ROOT: sources of rows (streams, mixtures, a held-out split, the cache,
Parquet) and sample replies in the log. Standard library only; with pyarrow also Parquet."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

from cases import Cases
from tiny_model import make_model

train_kto, inspect_rows, root = sys.argv[1:4]
data = os.path.join(root, "examples", "data")
cases = Cases()
case = cases.case

with tempfile.TemporaryDirectory() as tmp:
    at = lambda *parts: os.path.join(tmp, *parts)
    model = make_model(at("model"), root)

    def run(*flags, rows=data, steps=3):
        shutil.rmtree(at("out"), ignore_errors=True)
        where = ["--dataset_name", rows] if rows else []
        return subprocess.run([train_kto, "--model_name_or_path", model, *where, "--output_dir", at("out"), "--max_steps", str(steps), "--logging_steps",
                               "1", "--learning_rate", "1e-2", "--save_strategy", "no", "--per_device_train_batch_size", "4", *flags],
                              capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": at("home")})

    def log(*flags, **kwargs):
        result = run(*flags, **kwargs)
        if result.returncode:
            return [{"failed": result.stderr[-400:]}]
        return json.load(open(at("out", "trainer_state.json")))["log_history"]

    losses = lambda *flags, **kwargs: [entry.get("loss", entry.get("failed")) for entry in log(*flags, **kwargs) if "loss" in entry or "failed" in entry]
    plain = losses()

    # Streams
    case("a stream of rows trains as the rows in memory", losses("--dataset_streaming") == plain, losses("--dataset_streaming"))
    rows = open(os.path.join(data, "train.jsonl"), encoding="utf-8").readlines()
    few = open(at("few.jsonl"), "w", encoding="utf-8")
    few.writelines(rows[:8])
    few.close()
    case("and begins again where it ends", losses("--dataset_streaming", rows=at("few.jsonl"), steps=5) == losses(rows=at("few.jsonl"), steps=5))

    # Mixtures
    with open(at("rest.jsonl"), "w", encoding="utf-8") as file:
        file.writelines(rows[8:])
    with open(at("mixture.yaml"), "w") as file:
        file.write(f"datasets:\n  - path: {at('few.jsonl')}\n  - path: {tmp}\n    data_files: [rest.jsonl]\n    columns: [prompt, completion, label]\n")
    case("a mixture is its sets one after another", losses("--config", at("mixture.yaml"), rows=None) == plain,
         losses("--config", at("mixture.yaml"), rows=None))
    case("streamed too", losses("--config", at("mixture.yaml"), "--streaming", rows=None) == plain)

    # The files of a folder and the rows of a split
    def folder(name, **texts):
        for file, text in texts.items():
            path = at(name, file.replace("__", "."))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as out:
                out.write(text)
        return at(name)

    card = "---\nconfigs:\n- config_name: few\n  data_files: few.jsonl\n- config_name: whole\n  data_files:\n  - split: train\n    path: [few.jsonl, rest.jsonl]\n" \
           "  - split: test\n    path: test.jsonl\n---\n"
    named = folder("named", README__md=card, few__jsonl="".join(rows[:8]), rest__jsonl="".join(rows[8:]), test__jsonl="".join(rows[:4]),
                   train__jsonl=rows[0] * 9)
    case("a configuration of README.md is the rows that it names", losses("--dataset_config", "whole", rows=named) == plain)
    first = losses("--dataset_config", "few", rows=named)
    case("a different one does, and a slice of a split has the same rows", first == losses(rows=at("few.jsonl"))
         == losses("--dataset_train_split", "train[:8]") == losses("--dataset_config", "whole", "--dataset_train_split", "train[:8]", "--dataset_streaming", rows=named))
    with open(at("named.yaml"), "w") as file:
        file.write(f"datasets:\n  - path: {named}\n    name: whole\n    split: train[:4]\n  - path: {named}\n    config: few\n    split: 'train[50%:]'\n")
    case("and so are entries of a mixture", losses("--config", at("named.yaml"), rows=None) == first)
    result = run(rows=named)
    case("none of several is the default: their names", result.returncode == 1 and "name one of few, whole (--dataset_config)" in result.stderr, result.stderr)
    result = run("--dataset_train_split", "train[:8")
    case("a broken slice is reported before anything is read", result.returncode == 2 and "--dataset_train_split: the split" in result.stderr, result.stderr)
    both = folder("both", train__jsonl="".join(rows[:8]), train__csv="prompt,completion,label\na,b,1\n")
    case("one format of a folder is read, and skipped files are reported", losses(rows=both) == first and "train.csv is skipped" in run(rows=both).stderr)
    os.mkfifo(at("pipe.jsonl"))
    for flags, status in ((["--dataset_name", at("pipe.jsonl")], 1), (["--config", at("pipe.jsonl")], 2)):
        result = subprocess.run([train_kto, "--model_name_or_path", model, *flags], capture_output=True, text=True, timeout=60)
        case(f"a FIFO is no file for {flags[0]}", result.returncode == status and "is not a file but a FIFO" in result.stderr, result.stderr)

    # A held-out split
    result = run("--test_split_size", "0.25", "--do_eval", "--seed", "3", rows=at("rest.jsonl"))
    held, count = -(-(len(rows) - 8) // 4), len(rows) - 8
    case("test_split_size holds rows out", result.returncode == 0 and f"{held} rows held out, {count - held} to train on" in result.stderr,
         result.stderr[-300:])
    first = losses("--test_split_size", "0.25", rows=at("rest.jsonl"))
    case("by the seed", first == losses("--test_split_size", "0.25", rows=at("rest.jsonl"))
         and first != losses("--test_split_size", "0.25", "--seed", "3", rows=at("rest.jsonl")))

    # Cache
    said = run("--dataset_cache", at("cache")).stderr
    case("tokenized rows are kept", "tokenized rows kept in" in said and len(os.listdir(at("cache"))) == 1, said[-300:])
    case("and read again, for the same numbers", losses("--dataset_cache", at("cache")) == plain
         and "tokenized rows read from" in run("--dataset_cache", at("cache")).stderr)
    kept = at("cache", os.listdir(at("cache"))[0])
    with open(kept, "r+b") as file:
        file.seek(-5, 2)
        file.write(b"\xff\xfe\xff")
    said = run("--dataset_cache", at("cache")).stderr
    case("a damaged one is reported and made again", "damaged" in said and "tokenized again" in said and "kept in" in said, said[-300:])
    case("small sets are not kept unasked", not os.path.exists(at("home")))

    # Samples of text
    entries = log("--generate_during_eval", "--eval_strategy", "steps", "--eval_steps", "2", "--eval_on_start", "--generation_num_prompts", "2",
                  "--generation_max_new_tokens", "6")
    samples = [entry["eval_samples"] for entry in entries if "eval_samples" in entry]
    case("each evaluation has samples", len(samples) == 3 and all(len(sample) == 2 for sample in samples), entries[:1])
    case("policy and reference start alike, and part", samples and all(s["policy"] == s["reference"] for s in samples[0])
         and all(s["reference"] == t["reference"] for s, t in zip(samples[0], samples[-1]))
         and any(s["policy"] != s["reference"] for s in samples[-1]), samples)
    case("they change no number", [entry["loss"] for entry in entries if "loss" in entry] == plain)
    result = run("--generate_during_eval", "--do_eval", "--generation_max_new_tokens", "4", "--use_peft", "--lora_target_modules", "all-linear")
    saved = json.load(open(at("out", "eval_results.json"))) if result.returncode == 0 else {}
    case("an adapter's reference is the model without it; on the terminal too", all("reference" in s for s in saved.get("eval_samples", [{}]))
         and "policy:" in result.stdout and "reference:" in result.stdout, result.stderr[-300:])
    result = run("--generate_during_eval", "--do_eval", "--precompute_ref_log_probs", "--generation_temperature", "1", "--ref_logps_cache", at("refs"))
    saved = json.load(open(at("out", "eval_results.json"))) if result.returncode == 0 else {}
    case("after precomputing only the policy writes, and a note says so", "only the policy writes" in result.stderr
         and all("reference" not in s and "policy" in s for s in saved.get("eval_samples", [{"reference": 1}])), result.stderr[-300:])

    # Rows that are tokenized already, as KTOTrainer's older releases have them
    shown = subprocess.run([inspect_rows, "--model_name_or_path", model, "--dataset_name", data, "--json"], capture_output=True, text=True)
    for pad in (-100, -1):
        with open(at(f"ids{pad}.jsonl"), "w") as file:
            for line in shown.stdout.splitlines():
                row = json.loads(line)
                file.write(json.dumps({"completion_input_ids": row["prompt_ids"] + row["completion_ids"], "prompt_input_ids": row["prompt_ids"],
                                       "completion_labels": [pad] * len(row["prompt_ids"]) + row["completion_ids"], "label": row["label"]}) + "\n")
    case("tokenized rows: the same losses", losses(rows=at("ids-100.jsonl")) == plain, run(rows=at("ids-100.jsonl")).stderr[-300:])
    case("with their own label_pad_token_id, streamed and cached too", all(
        losses("--label_pad_token_id", "-1", *more, rows=at("ids-1.jsonl")) == plain for more in ([], ["--dataset_streaming"], ["--dataset_cache", at("ids")])))
    result = run("--label_pad_token_id", "-2", "--dataset_cache", at("ids"), rows=at("ids-1.jsonl"))
    case("another label_pad_token_id is another set, and a wrong one", result.returncode == 1 and "completion_labels" in result.stderr, result.stderr[-300:])
    result = run("--label_pad_token_id", "-1")
    case("rows of text have no such labels", result.returncode == 1 and "label_pad_token_id only applies" in result.stderr, result.stderr[-300:])
    again = [json.loads(line) for line in subprocess.run([inspect_rows, "--model_name_or_path", model, "--dataset_name", at("ids-100.jsonl"), "--json"],
                                                         capture_output=True, text=True).stdout.splitlines()]
    case("inspect_rows shows their text", again == [json.loads(line) for line in shown.stdout.splitlines()], again[:1])

    # Columns for templates
    with open(os.path.join(model, "chat_template.jinja"), "w") as file:
        file.write("{% for t in tools or [] %}<{{ t.function.name }}>{% endfor %}{{ mood }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
                   "{% if add_generation_prompt %}[assistant]{% endif %}")
    turn = lambda role, text: [{"role": role, "content": text}]
    row = {"prompt": turn("user", "hi"), "completion": turn("assistant", "yes"), "label": True, "chat_template_kwargs": {"mood": "calm "},
           "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}]}
    others = [dict(row, label=False, chat_template_kwargs=None), dict(row, tools=None)]
    with open(at("tools.jsonl"), "w") as file:
        file.writelines(json.dumps(r) + "\n" for r in [row, *others, row])
    seen = lambda path: subprocess.run([inspect_rows, "--model_name_or_path", model, "--dataset_name", path, "--json"], capture_output=True, text=True)
    prompts = [json.loads(line)["prompt"] for line in seen(at("tools.jsonl")).stdout.splitlines()]
    case("tools and chat_template_kwargs reach the template", prompts[:3] == ["<look>calm [user]hi[assistant]", "<look>[user]hi[assistant]",
                                                                          "calm [user]hi[assistant]"], prompts)
    result = run(rows=at("tools.jsonl"), steps=1)
    case("and rows with them train", result.returncode == 0, result.stderr[-300:])

    # Names and texts from outside reach a terminal escaped
    steering = "\x1b]0;x\x07\x9b\u202e"
    plain_row = {"prompt": "a", "completion": "b", "label": True, steering: 1}
    broken_row = {"prompt": "a", "completion" + steering: "b", "label": True}
    for name, content in ((steering[:-2], plain_row), ("broken", broken_row), ("talk", others[0])):
        with open(at(name + ".jsonl"), "w") as file:
            file.write(json.dumps(content) + "\n" + json.dumps({**content, "label": False}) + "\n")
    with open(os.path.join(model, "chat_template.jinja"), "w", encoding="utf-8") as file:
        file.write('{{ raise_exception("' + steering + '") }}')
    for name, status in ((steering[:-2], 0), ("broken", 1), ("talk", 1)):
        looked = subprocess.run([inspect_rows, "--model_name_or_path", model, "--dataset_name", at(name + ".jsonl")], capture_output=True, text=True)
        trained = run(rows=at(name + ".jsonl"), steps=1)
        said = looked.stdout + looked.stderr + trained.stdout + trained.stderr
        case(f"no control characters come out: {name!r}", looked.returncode == trained.returncode == status and "\\x1B]0;x" in said
             and not any(c in said for c in steering if not c.isascii() or not c.isprintable()), (looked.returncode, trained.returncode, said[-600:]))

    # Parquet
    try:
        import pyarrow
        import pyarrow.parquet as parquet
        plain = losses()  # under the template that the model has now
        source = [json.loads(line) for line in rows]
        parquet.write_table(pyarrow.Table.from_pylist([{key: row[key] for key in ("prompt", "completion", "label")} for row in source]), at("train.parquet"),
                            row_group_size=7)
        result = run(rows=at("train.parquet"))
        if "built without Apache Arrow" in result.stderr:
            case("without Arrow: what to do", "KTO_WITH_ARROW" in result.stderr and result.returncode == 1, result.stderr[-300:])
        else:
            case("Parquet with messages as lists of structs: the same losses", losses(rows=at("train.parquet")) == plain, result.stderr[-300:])
            case("streamed too", losses("--dataset_streaming", rows=at("train.parquet")) == plain)
            pair = [{"prompt": "a b", "chosen": "yes", "rejected": "no", "score": 0.5, "tags": ["x"], "none": None}] * 3
            parquet.write_table(pyarrow.Table.from_pylist(pair), at("pairs.parquet"))
            with open(at("pairs.jsonl"), "w") as file:
                file.writelines(json.dumps(r) + "\n" for r in pair)
            case("and pairs of plain text", seen(at("pairs.parquet")).stdout == seen(at("pairs.jsonl")).stdout != "", seen(at("pairs.parquet")).stderr)
            parquet.write_table(pyarrow.table({"prompt": ["a"], "completion": ["b"], "label": ["yes"]}), at("bad.parquet"))
            case("a bad row is named", "bad.parquet: line 1: \"label\" is the string" in run(rows=at("bad.parquet")).stderr, run(rows=at("bad.parquet")).stderr)
            with open(at("cut.parquet"), "wb") as file:
                file.write(open(at("train.parquet"), "rb").read()[:-40])
            result = run(rows=at("cut.parquet"))
            case("a damaged file is one clear error", result.returncode == 1 and "is not a Parquet file that can be read" in result.stderr, result.stderr[-300:])
    except ImportError:
        print("(pyarrow is not installed)")
sys.exit(cases.report())
