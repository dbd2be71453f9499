# SPDX-License-Identifier: Apache-2.0
"""test_hub.py TRAIN_KTO INSPECT_ROWS PUSH_TO_HUB SOURCE_ROOT: names of models and data sets on a hub of this machine: downloaded, read from the
cache, and through every fault either whole or one clear error. Its cache is huggingface_hub's, both ways. Standard library; the
comparison with huggingface_hub is made where it is installed. Pushes arrive as its do."""
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from cases import Cases
from hub_server import COMMIT, Hub, blob_hash
from tiny_model import make_model, make_rows

train_kto, inspect_rows, push_to_hub, root = sys.argv[1:5]
cases = Cases()
case = cases.case
if b"libcurl" not in subprocess.run(["ldd", inspect_rows], capture_output=True).stdout:
    print("skipped: built without libcurl")
    sys.exit(77)
try:
    import huggingface_hub
except ImportError:
    huggingface_hub = None


def files_of(folder):
    out = {}
    for path, _, names in os.walk(folder):
        for name in names:
            full = os.path.join(path, name)
            out[os.path.relpath(full, folder)] = "-> " + os.readlink(full) if os.path.islink(full) else open(full, "rb").read()
    return out


def split_model(folder):
    """The files of a model folder, its weights in two shards that an index lists."""
    import struct
    content = open(os.path.join(folder, "model.safetensors"), "rb").read()
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8:8 + size]), content[8 + size:]
    header.pop("__metadata__", None)
    names = sorted(header)
    files, weight_map = {}, {}
    for i, part in enumerate((names[:4], names[4:])):
        name, new, blob = f"model-0000{i + 1}-of-00002.safetensors", {}, b""
        for tensor in part:
            begin, end = header[tensor]["data_offsets"]
            new[tensor] = dict(header[tensor], data_offsets=[len(blob), len(blob) + end - begin])
            blob += data[begin:end]
            weight_map[tensor] = name
        text = json.dumps(new).encode()
        text += b" " * (-len(text) % 8)
        files[name] = struct.pack("<Q", len(text)) + text + blob
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    for name in os.listdir(folder):
        if name != "model.safetensors":
            files[name] = open(os.path.join(folder, name), "rb").read()
    return files


with tempfile.TemporaryDirectory() as tmp:
    at = lambda *parts: os.path.join(tmp, *parts)
    hub = Hub()
    model = make_model(at("model"), root)
    os.makedirs(at("rows"))
    rows = [open(make_rows(at("rows", f"{i}.jsonl"), 6 + i), "rb").read() for i in range(4)]
    readme = b"---\nconfigs:\n- config_name: chat\n  default: true\n  data_files: [{split: train, path: data/train-*}, {split: test, path: data/test-*}]\n" \
             b"- config_name: other\n  data_files: other.jsonl\n---\nRows.\n"
    weights = split_model(model)
    hub.repositories["models/org/tiny"] = dict(weights, **{
        "pytorch_model.bin": b"pickle" * 999, "consolidated.safetensors": b"twice" * 999, "onnx/model.onnx": b"onnx" * 999, "tiny.gguf": b"gguf" * 999,
        "README.md": b"# Tiny", "training_args.bin": b"x"})
    hub.repositories["datasets/org/rows"] = {
        "README.md": readme, "data/train-00000-of-00002.jsonl": rows[0], "data/train-00001-of-00002.jsonl": rows[1], "data/test-00000-of-00001.jsonl": rows[2],
        "other.jsonl": rows[3], "raw/source.jsonl": rows[3]}
    local = dict(hub.repositories["datasets/org/rows"])
    for name, content in local.items():
        os.makedirs(os.path.dirname(at("local", name)), exist_ok=True)
        open(at("local", name), "wb").write(content)

    def environment(cache="cache", **more):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) and not k.lower().endswith("_proxy")}
        return env | dict(HF_ENDPOINT=hub.endpoint, HF_HOME=at("home"), HF_HUB_CACHE=at(cache), HF_HUB_DOWNLOAD_TIMEOUT="2", OMP_NUM_THREADS="1") | more

    def command(model="org/tiny", data="org/rows", *flags):
        return [inspect_rows, "--json", "--model_name_or_path", model, "--dataset_name", data, *flags]

    def run(*where, cache="cache", limits=None, **env):
        hub.requests.clear()
        return subprocess.run(command(*where), capture_output=True, text=True, timeout=120, cwd=tmp, env=environment(cache, **env), preexec_fn=limits)

    expected = run(model, at("local"))
    assert expected.returncode == 0, expected.stderr

    def works(name, result, detail=""):
        case(name, result.returncode == 0 and result.stdout == expected.stdout, f"{result.stderr.strip()[-400:]} {detail}")

    def fails(name, result, *parts):
        lines = [line for line in result.stderr.strip().splitlines() if "error: " in line]
        case(name, result.returncode == 1 and len(lines) == 1 and all(part in lines[0] for part in parts), result.stderr.strip()[-600:])

    # Downloaded, and only what is needed
    hub.token = "hf_secret"
    open(at("token"), "w").write("hf_secret\n")
    works("names on the hub are their folders", run(HF_TOKEN_PATH=at("token")))
    got = set(hub.asked("resolve"))
    case("of the model only the tokenizer", {"tokenizer.json", "config.json"} <= got and not any(name.endswith((".safetensors", ".bin", ".gguf", ".onnx"))
         for name in got), got)
    case("of the rows only the split", "data/train-00001-of-00002.jsonl" in got and not {"data/test-00000-of-00001.jsonl", "other.jsonl", "raw/source.jsonl"} & got, got)
    case("the token is sent to the hub and nowhere else", all((token == "hf_secret") == (what != "cdn") for what, _, _, token in hub.requests) and
         hub.asked("cdn"), hub.requests)
    works("again: from the cache", run())
    case("without a request", not hub.requests, hub.requests)
    works("offline, too", run(HF_HUB_OFFLINE="1"))
    result = run("org/tiny", "org/rows", "--split", "test")
    case("another split is added to the snapshot", result.returncode == 0 and hub.asked("cdn") and all("test-" in path for path in hub.asked("cdn")) and
         len(result.stdout.splitlines()) == 8, (result.stderr, hub.requests))
    hub.old["models/org/tiny"] = dict(hub.repositories["models/org/tiny"])
    works("a tag", run("org/tiny", "org/rows", "--model_revision", "v1"))
    works("a commit", run("org/tiny", "org/rows", "--model_revision", COMMIT["v1"], HF_HUB_OFFLINE="1"))

    # Whole runs
    flags = ["--per_device_train_batch_size", "4", "--max_steps", "1", "--save_strategy", "no", "--use_peft", "--eval_strategy", "epoch"]

    def train(out, *more, **env):
        hub.requests.clear()
        return subprocess.run([train_kto, "--output_dir", at(out), *flags, *more], capture_output=True, text=True, timeout=120, cwd=tmp, env=environment("cache", **env))

    result = train("out", "--model_name_or_path", "org/tiny", "--dataset_name", "org/rows")
    case("a run on names", result.returncode == 0, result.stderr[-600:])
    case("reads the weights that the index lists, and no others", sorted(name for name in hub.asked("resolve")) ==
         sorted(n for n in weights if "safetensors" in n), hub.asked("resolve"))
    if result.returncode == 0:
        config = json.load(open(at("out", "adapter_config.json")))
        case("its adapter names the base as the hub does", (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", COMMIT["main"]), config)
        card = open(at("out", "README.md")).read()
        case("so does its card, with the rows", "base_model: 'org/tiny'" in card and "datasets: 'org/rows'" in card, card[:300])
        hub.repositories["models/org/adapter"] = {name: open(at("out", name), "rb").read() for name in ("adapter_config.json", "adapter_model.safetensors")}
        result = train("out2", "--model_name_or_path", "org/tiny", "--adapter_name_or_path", "org/adapter", "--datasets", '[{"path": "org/rows", "name": "other"}]',
                       "--use_peft", "False", "--eval_strategy", "no", "--ref_model_name_or_path", "org/adapter")
        case("an adapter, a reference and a mixture by name", result.returncode == 0 and "other.jsonl" in hub.asked("resolve"), result.stderr[-600:])

    # huggingface_hub's cache, both ways
    if huggingface_hub is None:
        print("     not compared: huggingface_hub is not installed")
    else:
        script = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1], repo_type=sys.argv[2], local_files_only=sys.argv[3] == '1'))"

        def theirs(cache, only_local, *repositories):
            for name, kind in repositories:
                result = subprocess.run([sys.executable, "-c", script, name, kind, only_local], capture_output=True, text=True,
                                        env=environment(cache, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1"))
                yield result.stdout.strip() or result.stderr[-400:]

        both = (("org/tiny", "model"), ("org/rows", "dataset"))
        found = list(theirs("cache", "1", *both))
        case("huggingface_hub accepts our cache", found == [at("cache", f"{kind}s--org--{name[4:]}", "snapshots", COMMIT["main"]) for name, kind in both], found)
        found = list(theirs("theirs", "0", *both))
        works("we accept theirs, offline", run(cache="theirs", HF_HUB_OFFLINE="1"), found)
        mine, other = files_of(at("cache")), files_of(at("theirs"))
        differing = [name for name, content in mine.items() if other.get(name) != content and "adapter" not in name and "b" * 40 not in name and "refs/v1" not in name
                     and "/kto/" not in name]
        case("each of our files is theirs, byte for byte and link for link", not differing and len(mine) > 30, differing)
        os.remove(at("theirs", "datasets--org--rows", "snapshots", COMMIT["main"], "data", "train-00001-of-00002.jsonl"))
        fails("a snapshot that lacks a shard is not taken for whole", run(cache="theirs", HF_HUB_OFFLINE="1"), "org/rows", "not complete", "HF_HUB_OFFLINE")
        works("and is completed", run(cache="theirs"))
        case("with that alone", hub.asked("resolve") == [], hub.requests)

    # Parts in the cache, as programs leave them that ask for single files
    hub.repositories["datasets/org/loose"] = {"a.jsonl": rows[0], "b.jsonl": rows[1]}

    def take(cache, repository, *names):
        folder = at(cache, f"datasets--{repository.replace('/', '--')}")
        for name in names:
            os.makedirs(at(folder, "snapshots", COMMIT["main"]), exist_ok=True)
            open(at(folder, "snapshots", COMMIT["main"], name), "wb").write(hub.repositories[f"datasets/{repository}"][name])
        os.makedirs(at(folder, "refs"), exist_ok=True)
        open(at(folder, "refs", "main"), "w").write(COMMIT["main"])

    take("part", "org/loose", "a.jsonl")
    result = run(model, "org/loose", cache="part", HF_ENDPOINT="http://127.0.0.1:9")
    case("a part of a data set, and no hub to ask: it is taken, with a note", result.returncode == 0 and "cannot be asked" in result.stderr and
         len(result.stdout.splitlines()) == 6, result.stderr[-300:])
    case("offline, too", len(run(model, "org/loose", cache="part", HF_HUB_OFFLINE="1").stdout.splitlines()) == 6)
    case("the hub is asked, and the rest comes", len(run(model, "org/loose", cache="part").stdout.splitlines()) == 13, hub.requests)
    case("once", len(run(model, "org/loose", cache="part").stdout.splitlines()) == 13 and not hub.requests, hub.requests)
    take("read", "org/loose", "a.jsonl", "b.jsonl")
    open(at("read", "datasets--org--loose", "kto"), "w").close()  # nothing can be written there
    case("all is there, in a cache that is only read", len(run(model, "org/loose", cache="read").stdout.splitlines()) == 13 and not hub.asked("resolve"))
    tiny = at("part", "models--org--tiny")  # as AutoModel leaves it
    shutil.copytree(at("cache", "models--org--tiny"), tiny, symlinks=True)
    shutil.rmtree(at(tiny, "kto"))
    for name in os.listdir(at(tiny, "snapshots", COMMIT["main"])):
        if "token" in name or "template" in name:
            link = at(tiny, "snapshots", COMMIT["main"], name)
            os.remove(os.path.realpath(link))
            os.remove(link)
    result = train("out4", "--model_name_or_path", "org/tiny", "--dataset_name", at("local"), HF_HUB_CACHE=at("part"))
    case("weights in the cache, and no tokenizer: it comes", result.returncode == 0 and "tokenizer.json" in hub.asked("resolve") and
         not [name for name in hub.asked("cdn") if "safetensors" in name], (result.stderr[-300:], hub.requests))

    # Faults
    big = "data/train-00001-of-00002.jsonl"

    def fault(name, *faults, file=big, **env):
        shutil.rmtree(at("faulty"), ignore_errors=True)
        hub.faults = {file: list(faults)}
        return run(cache="faulty", **env)

    works("a connection that breaks off is taken up again", fault("cut", "cut", "cut"))
    ranges = [given for _, path, given, _ in hub.requests if path.endswith(big) and given]
    case("where it ended", len(set(ranges)) == 2, hub.requests)
    works("a server that knows no ranges", fault("no range", "cut", "no range"))
    works("errors of the server", fault("5xx", "503", "500"))
    start = time.monotonic()
    works("too many requests", fault("429", "429"))
    case("waits as long as the server says", time.monotonic() - start >= 1)
    works("an address that has expired", fault("403", "403"))
    works("a small file that breaks off", fault("small", "cut", "503", file="tokenizer.json"))
    fails("another content than listed", fault("wrong", "wrong", "wrong"), big, "another hash")
    snapshot = at("faulty", "datasets--org--rows", "snapshots")
    case("leaves no snapshot", not os.path.exists(snapshot) and not os.path.exists(at("faulty", "datasets--org--rows", "refs")))
    works("which the next run gets", run(cache="faulty"))
    works("a bad beginning from earlier is found out", fault("wrong once", "wrong"))
    fails("more than listed", fault("long", "long"), big, "more than")
    fails("redirects in a circle", fault("loop", "loop"), "in a circle")
    hub.faults = {}
    for bad in ("../../../escape", "/etc/escape", "a//b", "data/..", "x\\..\\y"):
        hub.extra_entries = [{"type": "file", "path": bad, "size": 1, "oid": "0" * 40}]
        shutil.rmtree(at("faulty"), ignore_errors=True)
        fails(f"a path that leads out: {bad}", run(cache="faulty"), "outside of the repository")
    hub.extra_entries = []
    hub.repositories["datasets/org/out"] = {"README.md": b"---\nconfigs:\n- config_name: a\n  data_files: ../../../../../rows/0.jsonl\n---\n"}
    fails("rows that a README.md names outside", run("org/tiny", "org/out"), "org/out")

    # Killed, and started again; a full disk; two at once; the lock
    shutil.rmtree(at("faulty"), ignore_errors=True)
    hub.faults, hub.requests[:] = {big: ["slow"]}, []
    process = subprocess.Popen(command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp, env=environment("faulty"))
    hub.wait_for("cdn", big)
    part = at("faulty", "datasets--org--rows", "blobs", blob_hash(big, rows[1]) + ".incomplete")
    end = time.monotonic() + 10
    while not (os.path.exists(part) and os.path.getsize(part)) and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    case("killed midway: no snapshot", not os.path.exists(snapshot))
    hub.resume.set()
    works("started again", run(cache="faulty"))
    case("goes on where it was", any(path.endswith(big) and given for _, path, given, _ in hub.requests), hub.requests)
    case("and leaves nothing unfinished", not [name for name in files_of(at("faulty")) if "incomplete" in name or ".tmp" in name])

    shutil.rmtree(at("faulty"), ignore_errors=True)
    limit = len(rows[1]) // 2
    no_signal = lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    fails("a disk that is full", run(model, "org/rows", cache="faulty", limits=no_signal), "cannot be written")
    works("once there is room", run(cache="faulty"))

    shutil.rmtree(at("faulty"), ignore_errors=True)
    lock = at("faulty", ".locks", "datasets--org--rows", blob_hash(big, rows[1]) + ".lock")
    os.makedirs(os.path.dirname(lock))
    held = open(lock, "w")
    fcntl.flock(held, fcntl.LOCK_EX)
    hub.requests.clear()
    two = [subprocess.Popen(command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp, env=environment("faulty")) for _ in range(2)]
    hub.wait_for("cdn", "data/train-00000-of-00002.jsonl")
    time.sleep(0.3)
    case("a file that another program has locked is waited for", all(process.poll() is None for process in two) and
         not any(path.endswith(big) for path in hub.asked("cdn")))
    held.close()
    outputs = [process.communicate() for process in two]
    case("two at once", all(process.returncode == 0 for process in two) and all(out == expected.stdout for out, _ in outputs), [err[-300:] for _, err in outputs])
    case("download each file once", sum(path.endswith(big) for path in hub.asked("cdn")) == 1, hub.asked("cdn"))

    # What cannot be had
    if b"libparquet" not in subprocess.run(["ldd", inspect_rows], capture_output=True).stdout:
        hub.repositories["datasets/org/table"] = {"data/train-00000-of-00001.parquet": b"PAR1"}
        fails("Parquet, which this program does not read", run(model, "org/table"), "org/table", "Apache Arrow")
        case("is not downloaded", not hub.asked("resolve"), hub.requests)
    fails("a name that the hub has not", run("org/none"), "org/none", "no such model", "HF_TOKEN")
    fails("a data set that it has not", run("org/tiny", "org/none"), "org/none", "no such data set")
    fails("a revision that it has not", run("org/tiny", "org/rows", "--model_revision", "v9"), "v9", "no such revision")
    fails("a revision that is a path", run("org/tiny", "org/rows", "--model_revision", "../../x"), "no name of a branch")
    fails("offline", run("org/other", HF_HUB_OFFLINE="1"), "org/other", "HF_HUB_OFFLINE", "hf download")
    fails("no hub there", run("org/other", HF_ENDPOINT="http://127.0.0.1:9"), "org/other: is not a folder", "127.0.0.1:9", "HF_ENDPOINT")
    fails("a token that is refused", run("org/other", HF_TOKEN="hf_old"), "refuses the token")
    fails("a token of two lines", run("org/other", HF_TOKEN="hf\nX-Header: 1"), "no token")
    hub.gated.add("models/org/gated")
    hub.repositories["models/org/gated"] = hub.repositories["models/org/tiny"]
    fails("a gated model", run("org/gated"), "gated", "accept its terms", hub.endpoint + "/org/gated", "HF_TOKEN")
    works("with the token of one who may", run("org/gated", HF_TOKEN="hf_secret"))
    fails("a folder with a revision", run(model, "org/rows", "--model_revision", "v1"), "no revision v1")
    hub.repositories["models/org/pickled"] = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    result = train("out3", "--model_name_or_path", "org/pickled", "--dataset_name", "org/rows")
    case("a model with pickled weights alone: nothing of it is downloaded", result.returncode == 1 and "pickled" in result.stderr and
         "pytorch_model.bin" not in hub.asked("resolve"), result.stderr[-300:])

    # Pushed
    pushed = {name: weights[name] for name in ("config.json", "tokenizer.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")}
    pushed |= {"README.md": b"---\ntags: [x]\n---\n", "empty.txt": b"", "sub/one.safetensors": b"1" * 9999, "two bytes.txt": b"ab", "\u00e9.txt": b"a"}
    for name, content in (pushed | {"checkpoint-1/model.safetensors": b"x", "ignored.txt": b"x", ".git/config": b"x"}).items():
        os.makedirs(os.path.dirname(at("trained", name)), exist_ok=True)
        open(at("trained", name), "wb").write(content)

    def push(*more, **env):
        hub.requests.clear()
        return subprocess.run([push_to_hub, at("trained"), *more], capture_output=True, text=True, timeout=120, cwd=tmp, env=environment(**{"HF_TOKEN": "hf_secret"} | env))

    result = push("org/pushed", "--hub_private_repo", "--commit_message", "End of training")
    received = hub.repositories.get("models/org/pushed")
    case("a push arrives whole", result.returncode == 0 and received == pushed, (result.stderr[-400:], received and {k: len(v) for k, v in received.items()}))
    case("in one commit, with its address", hub.commits == [("models/org/pushed", "main", "End of training")] and f"{hub.endpoint}/org/pushed/commit/" in result.stdout,
         (hub.commits, result.stdout))
    case("to a private repository", hub.created.get("visibility") == "private", hub.created)
    case("in parts where the hub wants them; the token goes to the hub alone", len(hub.asked("put")) > 4 and
         all((token == "hf_secret") == (what == "post" and "/complete/" not in path) for what, path, _, token in hub.requests), hub.requests)
    result = push("org/pushed")
    case("again: what the hub has is not sent", result.returncode == 0 and not hub.asked("put"), (result.stderr[-300:], hub.asked("put")))
    if huggingface_hub is not None:
        script = "import sys, huggingface_hub as h; h.create_repo('org/their', exist_ok=True); h.upload_folder(repo_id='org/their', folder_path=sys.argv[1], " \
                 "ignore_patterns=['_*', 'checkpoint-*'])"
        hub.blobs.clear()
        result = subprocess.run([sys.executable, "-c", script, at("trained")], capture_output=True, text=True,
                                env=environment(HF_TOKEN="hf_secret", HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1"))
        case("as huggingface_hub's does", hub.repositories.get("models/org/their") == pushed, result.stderr[-400:])
    hub.blobs.clear(), hub.parts.clear()
    first = "/put/" + blob_hash("x.bin", pushed["sub/one.safetensors"]) + "/"
    hub.faults = {first: ["503", "403", "lost"], "preupload": ["429"], "commit": ["500"]}
    result = push("a-name")
    case("through errors, expired addresses and bytes that are lost", result.returncode == 0 and hub.repositories.get("models/me/a-name") == pushed and
         not any(hub.faults.values()), (result.stderr[-400:], hub.faults))
    fails("a push without a token", push("org/pushed", HF_TOKEN=""), "needs a token")
    fails("with one that is refused", push("org/pushed", HF_TOKEN="hf_old"), "refuses the token")
    fails("offline", push("org/pushed", HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE")

    # Pushed by a run
    hub.token = "hf_secret"
    short = ["--model_name_or_path", model, "--dataset_name", at("rows", "0.jsonl"), "--per_device_train_batch_size", "2", "--save_steps", "1", "--push_to_hub"]

    def begin(out, steps, *more, **env):
        hub.commits.clear(), hub.history.clear(), hub.requests.clear(), hub.resume.clear()
        return subprocess.Popen([train_kto, "--output_dir", at(out), *short, "--max_steps", str(steps), *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, cwd=tmp, env=environment(**{"HF_TOKEN": "hf_secret"} | env))

    def finish(process):
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def messages():
        return [message for _, _, message in hub.commits]

    result = finish(begin("night-run", 3, "--hub_token", "hf_secret", "--hub_always_push", "--hub_private_repo", "--save_total_limit", "1", "--report_to", "all", HF_TOKEN=""))
    trained = files_of(at("night-run"))
    whole = {name: content for name, content in trained.items() if not name.startswith(("checkpoint-", "."))}
    case("a run is pushed to the user's repository of its folder's name", result.returncode == 0 and hub.repositories.get("models/me/night-run") == whole,
         (result.stderr[-600:], sorted(set(whole) ^ set(hub.repositories.get("models/me/night-run", {})))))
    case("each save and the end", messages() == [f"Training in progress, step {i}" for i in (1, 2, 3)] + ["End of training"], messages())
    first = hub.history[0] if hub.history else {}
    case("of a save the model with card and reports, as they were then", {"model.safetensors", "config.json", "tokenizer.json", "README.md", "training_args.json", "metrics.jsonl"}
         <= set(first) and first["model.safetensors"] != whole["model.safetensors"] and first["metrics.jsonl"] != whole["metrics.jsonl"] and
         not [name for name in first if "state" in name or "optimizer" in name or "checkpoint" in name], sorted(first))
    case("the token is in no file and no output", "hf_secret" not in result.stdout + result.stderr and not [name for name, content in trained.items() if b"hf_secret" in
         (content if isinstance(content, bytes) else b"")] and json.loads(whole["training_args.json"])["hub_token"] == "<HUB_TOKEN>")
    case("nothing else is left in the folder, and the repository is private", sorted(os.listdir(at("night-run"))) == sorted({name.split("/")[0] for name in whole} | {"checkpoint-3"}) and
         hub.created.get("visibility") == "private", os.listdir(at("night-run")))
    card = whole["README.md"].decode()
    case("the card names the model on the hub, versions and paper", 'model="me/night-run"' in card and "- LibTorch: " in card and "@article{ethayarajh2024kto," in card, card)

    hub.faults = {"commit": ["hold"]}
    process = begin("held", 3, "--hub_model_id", "org/held", "--hub_strategy", "checkpoint", "--gradient_accumulation_steps", "2")
    line = process.stdout.readline()
    while line and not line.startswith("Model saved"):
        line = process.stdout.readline()
    done = list(hub.commits)
    hub.resume.set()
    result = finish(process)
    case("training does not wait for a push; saves meanwhile are skipped", result.returncode == 0 and not done and result.stderr.count("is not pushed") == 2 and
         messages() == ["Training in progress, step 1", "Training in progress, step 1, checkpoint", "End of training"], (messages(), result.stderr[-500:]))
    for name, content in hub.repositories["models/org/held"].items():
        if name.startswith("last-checkpoint/"):  # fetched into the folder of the run
            os.makedirs(at("held", "last-checkpoint"), exist_ok=True)
            open(at("held", name), "wb").write(content)
    result = finish(begin("held", 3, "--hub_model_id", "org/held2", "--hub_strategy", "all_checkpoints", "--hub_always_push", "--nproc", "2", "--overwrite_output_dir",
                          "--resume_from_checkpoint", at("held", "last-checkpoint")))
    case("last-checkpoint is one to resume from, here on two processes; all checkpoints are pushed, once", result.returncode == 0 and messages() == [
         text for i in (2, 3) for text in (f"Training in progress, step {i}", f"Training in progress, step {i}, checkpoint")] + ["End of training"] and
         {f"checkpoint-{i}/kto_checkpoint.json" for i in (2, 3)} <= set(hub.repositories["models/org/held2"]), (messages(), result.stderr[-600:]))
    case("which is not pushed back", not [name for name in hub.repositories["models/org/held2"] if name.startswith("last-checkpoint")])

    hub.faults = {"preupload": ["cut"], "commit": ["503", ""] + ["500"] * 5 + ["expire"]}  # the first passes on its second try
    result = finish(begin("unlucky", 3, "--hub_always_push"))
    case("pushes that fail end no run: notes, and an exit status", result.returncode == 1 and messages() == ["Training in progress, step 1"] and
         result.stderr.count(" failed: ") == 3 and "HTTP 500" in result.stderr and "refuses the token" in result.stderr and
         [line for line in result.stderr.splitlines() if "error: " in line] == [f"train_kto: error: me/unlucky: 3 of the run's pushes failed; the trained model is in "
                                                                               f"{at('unlucky')}: push_to_hub uploads it"], result.stderr[-900:])
    case("and the model is that of a run without failures", files_of(at("unlucky")).get("model.safetensors") == whole["model.safetensors"])
    hub.token, hub.faults = "hf_secret", {}

    hub.readers.add("hf_reader")
    hub.requests.clear()
    for name, parts, more, env in (("no token", ["needs a token"], (), {"HF_TOKEN": ""}), ("a token that is refused", ["refuses the token"], (), {"HF_TOKEN": "hf_old"}),
                                   ("no right to create", ["no right to write", "org/other"], ("--hub_model_id", "org/other"), {"HF_TOKEN": "hf_reader"}),
                                   ("no right to write", ["no right to write", "read only"], ("--hub_model_id", "org/held"), {"HF_TOKEN": "hf_reader"})):
        result = finish(begin("never", 3, *more, **env))
        fails(f"to push with {name}", result, *parts)
        case("is an error before the run", not os.path.exists(at("never")), os.path.exists(at("never")) and os.listdir(at("never")))
    result = finish(begin("a run!", 3))
    case("a folder's name that is none on the hub", result.returncode == 2 and "--hub_model_id owner/name" in result.stderr, result.stderr)

    hub.faults = {"commit": ["hold"]}
    process = begin("killed", 500)
    hub.wait_for("post", "/commit/main")
    process.kill()
    finish(process)
    hub.resume.set()
    while not hub.commits:  # what the killed run had sent
        time.sleep(0.01)
    left = [name for name in os.listdir(at("killed")) if name.endswith("-pushed")]
    process = begin("killed", 500, "--resume_from_checkpoint", "True", "--save_steps", "200", "--report_to", "jsonl", "--logging_steps", "1")
    end = time.monotonic() + 30
    while not os.path.exists(at("killed", "metrics.jsonl")) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    result = finish(process)
    steps = [int(name.split("-")[1]) for name in os.listdir(at("killed")) if name.startswith("checkpoint-")]
    case("killed in a push: the next run clears up", len(left) == 1 and not [name for name in os.listdir(at("killed")) if name.endswith("-pushed")], (left, os.listdir(at("killed"))))
    case("SIGINT: the checkpoint that it saves is pushed, and no end", result.returncode == 130 and messages() == [f"Training in progress, step {max(steps)}"], (messages(), result.stderr[-500:]))
sys.exit(cases.report())
