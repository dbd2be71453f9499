#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records which rows Hugging Face's load_dataset reads from folders with many layouts.

usage: make_layout_cases.py        (in an environment with datasets 5.2 and pyarrow)
Writes, beside this script, layout_cases.json, which tests/data reads: a list of folders, each with
  files    names; row i of the file NAME has the prompt "NAME#i" (NUM_ROWS rows a file)
  texts    {name: content} of other files, such as README.md
  asked    what load_dataset was asked for (split, config, data_dir, data_files; the split absent: all) and what it
           gave: {split: prompts}, or null where it raised. Prompts that are all rows of files are the files' names.
"""
import bz2, gzip, json, lzma, os, random, tempfile, warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
import pyarrow
import pyarrow.parquet
from datasets import Dataset, DatasetDict, disable_progress_bars, load_dataset
from datasets.utils import logging

disable_progress_bars()
logging.set_verbosity(logging.CRITICAL)
here = os.path.dirname(os.path.abspath(__file__))
NUM_ROWS = 3


def rows_of(name): return [{"prompt": f"{name}#{i}", "completion": "c", "label": True} for i in range(NUM_ROWS)]


def content_of(name):
    base, ending = os.path.splitext(name)
    if ending in (".gz", ".bz2", ".xz"):
        return {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[ending](content_of_kind(base, name))
    return content_of_kind(name, name)


def content_of_kind(kind, name):
    ending = os.path.splitext(kind)[1]
    rows = rows_of(name)
    if ending == ".parquet":
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
        return sink.getvalue().to_pybytes()
    if ending == ".arrow":
        sink = pyarrow.BufferOutputStream()
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return sink.getvalue().to_pybytes()
    if ending in (".csv", ".tsv"):
        sep = "," if ending == ".csv" else "\t"
        return "".join(sep.join(line) + "\n" for line in [("prompt", "completion", "label")] + [(r["prompt"], "c", "true") for r in rows]).encode()
    if kind.endswith(".json"):
        return json.dumps(rows).encode()
    return "".join(json.dumps(r) + "\n" for r in rows).encode()


def card(*configs, rest=""): return "---\nlicense: mit\nconfigs:\n" + "".join(configs) + rest + "---\n# A set\n"


def config(name, files=None, directory=None, default=None):
    out = f"- config_name: {name}\n"
    out += f"  data_dir: {directory}\n" if directory else ""
    out += f"  default: {default}\n" if default else ""
    if files is not None:
        out += f"  data_files:{files}\n"
    return out


pairs = lambda **splits: "".join(f"\n  - split: {split}\n    path: {path}" for split, path in splits.items())
shard = lambda name, i=0, n=1: f"{name}-{i:05}-of-{n:05}"
A, B = "a.jsonl", "b.jsonl"
# Each: files, {other file: text}, questions beside "everything".
CURATED = [
    ([A], {}, [dict(config="default"), dict(config="other")]),
    (["train.jsonl", "test.jsonl"], {}, [dict(split=s) for s in (
        "train[:2]", "train[1:]", "train[-1:]", "train[:-1]", "train[1:2]", "train[:50%]", "train[34%:]", "train[50%:]", "train[-50%:]", "train[10%:90%]",
        "train+test", "test+train", "train[:1]+test[2:]+train[1:]", "train[:2]+test[:34%]", "train[5:]", "train[:100]", "train[-100:2]",
        "train[:20%]", "train[:17%]", "train[:16%]", "train[ :2]", "train [:2]", "train[:2", "train[2]", "train[:101%]", "train[:2](closest)",
        "train[:67%](closest)", "train[:67%](pct1_dropremainder)", "train[:67%](floor)", "nope", "train+nope", "train + test", "train[0:1_0]", "train[1:2%]", "")]),
    ([shard("data/train") + ".parquet", shard("data/test") + ".parquet", shard("data/train_extra") + ".parquet"], {}, []),
    ([shard("data/train", i, 3) + ".parquet" for i in range(3)] + [shard("data/validation") + ".parquet", "other.jsonl"], {}, []),
    ([shard("train", i, 2) + ".jsonl" for i in range(2)] + [shard("validation") + ".jsonl"], {}, []),
    ([shard("data/train") + "-0a1b2c.parquet"], {}, []),
    (["data/train.jsonl", "data/test.jsonl"], {}, [dict(data_dir="data"), dict(data_files="data/test.jsonl"), dict(data_files={"train": "data/test.jsonl", "extra": "data/*.jsonl"}),
        dict(data_files=["data/*.jsonl"], split="train[2:5]"), dict(data_files="*.jsonl", data_dir="data"), dict(data_files="none.jsonl"), dict(data_files="none*.jsonl"),
        dict(data_files={"train": "data/train.jsonl", "test": "data/test.jsonl"}, split="train[:1]+test"), dict(data_files="data"), dict(data_dir="nope")]),
    (["train/a.jsonl", "train/b.jsonl", "test/a.jsonl", "validation/a.jsonl"], {}, [dict(data_dir="train")]),
    (["train/a.jsonl", "test.jsonl"], {}, []),
    (["test/a.jsonl", "train.jsonl"], {}, []),
    (["en/train.jsonl", "de/train.jsonl", "en/test.jsonl"], {}, [dict(data_dir="en"), dict(data_dir="de")]),
    (["train.csv", "train.jsonl"], {}, []),
    (["train.csv", "train.parquet", "train.json"], {}, []),
    (["train-1.csv", "train-2.csv", "train.jsonl", "test.csv"], {}, []),
    (["train.csv", "test.jsonl"], {}, []),
    (["a.json", "b.jsonl", "c.csv", "d.csv"], {}, []),
    (["a.json", "b.jsonl", "c.csv"], {}, []),
    (["a.ndjson", "b.csv"], {}, []),
    (["a.arrow", "b.parquet"], {}, []),
    (["a.arrow", "b.jsonl"], {}, []),
    (["a.csv", "b.csv", "c.jsonl.gz", "d.jsonl.bz2", "e.jsonl.xz"], {}, []),
    (["a.csv.gz", "b.csv.bz2"], {}, []),
    (["a.tsv"], {}, []),
    (["x/a.jsonl", "x/y/b.jsonl", "c.jsonl"], {}, [dict(data_dir="x"), dict(data_files="**/*.jsonl"), dict(data_files="*/*.jsonl"), dict(data_files="x/**"), dict(data_files="**")]),
    ([".hidden.jsonl", ".h/a.jsonl", "__x/a.jsonl", "__a.jsonl", "b.jsonl"], {}, [dict(data_files=".h/*.jsonl"), dict(data_files="__x/*"), dict(data_files=".*.jsonl")]),
    (["dataset_infos.json", A], {}, []),
    (["dev.jsonl", "training.jsonl", "eval.jsonl"], {}, []),
    (["my_train_file.jsonl", "my-valid-file.jsonl", "testing1.jsonl"], {}, []),
    (["trainer.jsonl", "latest.jsonl", "contest.jsonl"], {}, []),
    (["TRAIN.jsonl", "test.jsonl"], {}, []),
    (["train.jsonl", "README.txt"], {}, []),
    # README.md
    ([A, B], {"README.md": card(config("default", pairs(train=B, test=A)))}, [dict(config="default"), dict(config="x"), dict(split="train"), dict(split="test[:1]"), dict(data_files=A),
        dict(split="train+test"), dict(split="validation")]),
    ([A, B], {"README.md": card(config("en", " " + A), config("de", " " + B, default="true"))}, [dict(config="en"), dict(config="de"), dict(config="fr"), dict(data_files=A), dict(config="en", split="train[:1]")]),
    ([A, B], {"README.md": card(config("en", " " + A), config("de", " " + B))}, [dict(config="en"), dict(config="de"), dict(data_files=B), dict(data_files=B, config="en"), dict(data_files=B, config="fr")]),
    ([A, B], {"README.md": card(config("en", " " + A), config("default", " " + B))}, [dict(config="en")]),
    ([A, B], {"README.md": card(config("en", " " + A, default="true"), config("default", " " + B))}, [dict(config="en")]),
    ([A, B], {"README.md": card(config("en", " " + A, default="false"))}, []),
    ([A, B], {"README.md": card(config("yes", " " + A), config("no", " " + B, default="yes"))}, []),
    ([A, B, "c.jsonl"], {"README.md": card(config("x", "\n  - a.jsonl\n  - c.jsonl"))}, []),
    ([A, B, "c.jsonl"], {"README.md": card(config("x", "\n  - c.jsonl\n  - a.jsonl\n  - '[bc].jsonl'"))}, []),
    ([A, B, "c.jsonl"], {"README.md": card(config("x", pairs(train="\n    - a.jsonl\n    - b.jsonl", extra="c.jsonl")))}, [dict(split="extra"), dict(split="train[4:]+extra")]),
    ([A, B], {"README.md": card(config("x", " '*.jsonl'"))}, []),
    ([A, B], {"README.md": card(config("x", ' "b*"'))}, []),
    ([A, B], {"README.md": card(config("x", pairs(train="none.jsonl", test=B)))}, []),
    ([A, B], {"README.md": card(config("x", pairs(train="none*", test=B)))}, []),
    ([A, B], {"README.md": card(config("x", "\n  - split: train\n    path: a.jsonl\n  - split: train\n    path: b.jsonl"))}, []),
    ([A, B], {"README.md": card(config("x", "\n  - split: train"))}, []),
    ([A, B], {"README.md": card(config("x", "\n    train: a.jsonl"))}, []),
    ([A, B], {"README.md": "---\nconfigs: a\n---\n"}, []),
    ([A, B], {"README.md": "---\nconfigs:\n- data_files: a.jsonl\n---\n"}, []),
    ([A, B], {"README.md": "---\nconfigs: []\n---\n"}, []),
    ([A, B], {"README.md": "---\nconfigs:\n- {config_name: x\n---\n"}, []),
    ([A, B], {"README.md": "# A set\n\n---\nconfigs:\n" + config("x", " " + A) + "---\n"}, []),
    ([A, B], {"README.md": "\n\n" + card(config("x", " " + A))}, []),
    ([A, B], {"README.md": card(config("x", " " + A)).replace("\n", "\r\n")}, []),
    ([A, B], {"README.md": "---\nconfigs:\n" + config("x", " " + A)}, []),
    ([A, B], {"README.md": "---\ndataset_info:\n  features:\n  - name: prompt\n    dtype: string\n---\n"}, []),
    ([A, B], {".huggingface.yaml": "configs:\n" + config("x", " " + B)}, []),
    ([A, B], {".huggingface.yaml": "configs:\n" + config("x", " " + B), "README.md": card(config("y", " " + A))}, []),
    (["x/train.jsonl", "x/test.jsonl", "y/train.jsonl", A], {"README.md": card(config("x", directory="x"), config("y", directory="y", default="true"))},
        [dict(config="x"), dict(config="y"), dict(data_dir="x"), dict(data_dir="y", split="train[:1]")]),
    (["x/a.jsonl", "x/b.jsonl", "x/test/c.jsonl"], {"README.md": card(config("x", directory="x"))}, []),
    (["x/a.jsonl", "y/a.jsonl"], {"README.md": card(config("y"), config("x", " a.jsonl", directory="x"))}, [dict(config="x"), dict(config="y")]),
    ([shard("data/train", i, 2) + ".parquet" for i in range(2)] + [shard("data/test") + ".parquet"], {"README.md": card(config("default", pairs(train="data/train-*", test="data/test-*")))}, []),
    ([shard("en/train") + ".parquet", shard("de/train") + ".parquet", shard("de/test") + ".parquet"],
        {"README.md": card(config("en", pairs(train="en/train-*")), config("de", pairs(train="de/train-*", test="de/test-*")))}, [dict(config="en"), dict(config="de")]),
    (["train.csv", "train.jsonl"], {"README.md": card(config("x", " 'train.*'"))}, []),
    (["a.csv", B], {"README.md": card(config("x", " a.csv"), config("y", " a.csv"))}, [dict(config="x")]),
    (["d/a.jsonl", "d/e/b.jsonl"], {"README.md": card(config("x", " d/**"))}, []),
    (["d/a.jsonl", "d/e/b.jsonl"], {"README.md": card(config("x", " d/**/*.jsonl"))}, []),
    (["d/a.jsonl", "d/e/b.jsonl"], {"README.md": card(config("x", " d/"))}, []),
    (["d/a.jsonl", "d/e/b.jsonl"], {"README.md": card(config("x", " ./d/*"))}, []),
    ([A, B], {"README.md": card(config("x", pairs(train=A, test=B)), rest="train-eval-index:\n- config: x\n")}, [dict(split="train[:1]+test[1:]")]),
    ([A, B], {"README.md": card("- &c\n  config_name: x\n  data_files: a.jsonl\n")}, []),
    ([A, B, "LICENSE.txt", "notes.txt", "more.txt"], {"README.md": card(config("x", " '*'"))}, []),
    ([A, "LICENSE.txt", "notes.txt", "more.txt"], {}, []),
]


def random_layout(rng):
    folders = ["", "", "", "data/", "en/", "train/", "test/", "x/test/", "my-train/", "validation/", "deep/er/"]
    words = ["train", "test", "validation", "dev", "a", "b", "c", "my_train", "val-1", "train_2", "test.v1", "trains", "eval"]
    endings = rng.choice([[".jsonl"], [".jsonl"], [".parquet"], [".csv"], [".jsonl", ".csv"], [".jsonl", ".parquet", ".csv"], [".json", ".jsonl"], [".jsonl", ".jsonl.gz"]])
    files = set()
    while len(files) < rng.randint(1, 6):
        word = rng.choice(words)
        name = shard(word, rng.randint(0, 1), 2) if rng.random() < 0.2 and word.isalpha() else word
        files.add(rng.choice(folders) + name + rng.choice(endings))
    files = sorted(files)
    texts, asked = {}, []
    if rng.random() < 0.4:
        configs = []
        for name in rng.sample(["default", "en", "de"], rng.randint(1, 3)):
            pick = lambda: rng.choice([rng.choice(files), "*" + os.path.splitext(files[0])[1], os.path.dirname(files[0]) + "/*" if "/" in files[0] else "**", "**/*.jsonl"])
            shape = rng.randint(0, 3)
            files_of = {0: f" '{pick()}'", 1: f"\n  - '{pick()}'\n  - '{pick()}'", 2: pairs(train=f"'{pick()}'", test=f"'{pick()}'"), 3: None}[shape]
            configs.append(config(name, files_of, default="true" if rng.random() < 0.2 else None))
            asked.append(dict(config=name))
        texts["README.md"] = card(*configs)
    return files, texts, asked


def ask(folder, question, tmp):
    try:
        found = load_dataset(folder, name=question.get("config"), cache_dir=tmp, **{k: v for k, v in question.items() if k != "config"})
        found = found if isinstance(found, DatasetDict) else {question["split"]: found}
        return {split: [row["prompt"] for row in rows] for split, rows in found.items()}
    except Exception:  # of many kinds; also where the rows are no rows, as of text
        return None


def folded(prompts):
    """Whole files as their names."""
    out = []
    while prompts:
        name = prompts[0].rpartition("#")[0]
        whole = [f"{name}#{i}" for i in range(NUM_ROWS)]
        out.append(name if prompts[:NUM_ROWS] == whole else prompts[0])
        prompts = prompts[NUM_ROWS if prompts[:NUM_ROWS] == whole else 1:]
    return out


if __name__ == "__main__":
    rng = random.Random(52)
    layouts = CURATED + [random_layout(rng) for _ in range(250)]
    cases = []
    for files, texts, questions in layouts:
        with tempfile.TemporaryDirectory() as tmp:
            folder = os.path.join(tmp, "set")
            for name in files + list(texts):
                os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
                with open(os.path.join(folder, name), "wb") as file:
                    file.write(texts[name].encode() if name in texts else content_of(name))
            asked = []
            for question in [{}] + questions:
                given = ask(folder, question, os.path.join(tmp, "cache"))
                asked.append(dict(question, given=given and {split: folded(prompts) for split, prompts in given.items()}))
        cases.append(dict(files=files, texts=texts, asked=asked))
    with open(f"{here}/layout_cases.json", "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases) + "\n]\n")
    print(len(cases), "layouts,", sum(len(c["asked"]) for c in cases), "questions,", sum(a["given"] is None for c in cases for a in c["asked"]), "refused")
