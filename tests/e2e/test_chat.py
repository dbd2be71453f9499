# SPDX-License-Identifier: Apache-2.0
"""test_chat.py CHAT TRAIN_KTO SOURCE_ROOT [MODEL_DIR]: greedy replies equal those of transformers' generate, token by token and
turn by turn, for a model, a base with an adapter, and an adapter's folder; sampled ones depend on the seed; wrong input is an
error. Skipped if torch, transformers or peft are missing. MODEL_DIR adds a real model."""
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile

try:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as error:
    print("skipped:", error)
    sys.exit(77)
from runs import Runs

chat, train_kto, root = sys.argv[1:4]
torch.set_num_threads(2)
TURNS = ["Which river is the longest?", "And mountains? \u00e9\u4e2d\u6587", "no because"]


def talk(*flags, lines=TURNS):
    return subprocess.run([chat, *flags], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=300)


def expected(model, tokenizer, count, turns=TURNS, system=None, eos=None):
    messages, out = [{"role": "system", "content": system}] if system else [], ""
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        new = model.generate(**ids, max_new_tokens=count, do_sample=False, temperature=None, top_p=None, top_k=None, eos_token_id=eos)[0, ids["input_ids"].shape[1]:]
        text = tokenizer.decode(new, skip_special_tokens=True)
        messages.append({"role": "assistant", "content": text})
        out += text + "\n"
    return out


with tempfile.TemporaryDirectory() as tmp:
    runs = Runs(train_kto, root, tmp)
    case, at = runs.case, runs.at
    short = ["--max_new_tokens", "24"]

    def same(name, flags, model, tokenizer, count=24, **more):
        result, want = talk(*flags, "--temperature", "0", "--max_new_tokens", str(count), *(["--system", more["system"]] if "system" in more else [])), \
            expected(model, tokenizer, count, **more)
        case(name, result.returncode == 0 and result.stdout == want, f"\ngot  {result.stdout!r}\nwant {want!r}\n{result.stderr[-300:]}")

    tokenizer = AutoTokenizer.from_pretrained(runs.model)
    base = AutoModelForCausalLM.from_pretrained(runs.model)
    same("a model", ["--model_name_or_path", runs.model], base, tokenizer)
    for kind, flags in (("LoRA", []), ("DoRA on all layers", ["--use_dora", "--lora_target_modules", "all-linear"])):
        out = kind.split()[0]
        assert runs.run(out, "--max_steps", "6", "--save_strategy", "no", "--learning_rate", "5e-2", "--use_peft", *flags).returncode == 0
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(runs.model), at(out)).eval()
        case(f"{kind}: the adapter changes the replies", expected(adapted, tokenizer, 24) != expected(base, tokenizer, 24))
        eos = tokenizer.eos_token_id  # where the whole model, saved, stops
        same(f"{kind}: base and adapter", ["--model_name_or_path", runs.model, "--adapter_name_or_path", at(out)], adapted, tokenizer, eos=eos)
        same(f"{kind}: the adapter's folder", ["--model_name_or_path", at(out)], adapted, tokenizer, eos=eos)

    draw = lambda *flags: talk("--model_name_or_path", runs.model, *short, "--temperature", "1.5", *flags).stdout
    case("a seed repeats its replies", draw("--seed", "3") == draw("--seed", "3") != draw("--seed", "4"))
    greedy = talk("--model_name_or_path", runs.model, *short, "--temperature", "0").stdout
    case("top_k 1 and a small top_p are greedy", draw("--top_k", "1") == greedy == draw("--top_p", "1e-6"))
    twice = talk("--model_name_or_path", runs.model, *short, "--temperature", "1", lines=["yes", "/new", "yes"]).stdout
    case("/new starts over", len(twice) % 2 == 0 and twice[:len(twice) // 2] == twice[len(twice) // 2:], twice)

    def refused(name, pattern, *flags, status=2, lines=TURNS):
        result = talk(*flags, lines=lines)
        case(name, result.returncode == status and pattern in result.stderr, (result.returncode, result.stderr[-300:]))

    refused("a temperature below 0", "temperature", "--model_name_or_path", runs.model, "--temperature", "-1")
    for flag, value in (("--temperature", "1e-320"), ("--seed", "-1"), ("--seed", "4294967296"), ("--seed", "99999999999999999999")):
        refused(f"{flag} {value}", flag[2:], "--model_name_or_path", runs.model, flag, value)
    plain = [chat, "--model_name_or_path", runs.model, *short, "--temperature", "0"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(plain, input=b"yes\n", stdout=full, stderr=subprocess.PIPE)
    case("a full disk", result.returncode == 1 and b"cannot be written" in result.stderr, result)
    result = subprocess.run(plain, input=b"yes\nn\xffo\n", capture_output=True)
    one = subprocess.run(plain, input=b"yes\n", capture_output=True).stdout
    case("a line of a pipe that is not UTF-8", result.returncode == 1 and result.stdout == one
         and b"line 2 of the input is not UTF-8: byte 2" in result.stderr, result)

    # On a terminal: what is not UTF-8 is named, and control characters of a reply are shown
    tokens = json.load(open(os.path.join(runs.model, "tokenizer.json"), encoding="utf-8"))
    special = {token["content"] for token in tokens["added_tokens"]}
    tokens["model"]["merges"] = []
    tokens["model"]["vocab"] = {text if len(text) == 1 or text in special else f"\u011b[31m{i}": i for text, i in tokens["model"]["vocab"].items()}
    shutil.copytree(runs.model, at("escapes"))
    json.dump(tokens, open(at("escapes", "tokenizer.json"), "w"))
    ours, theirs = pty.openpty()
    process = subprocess.Popen([chat, "--model_name_or_path", at("escapes"), *short, "--temperature", "5"], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, b"n\xffo\nyes\n/exit\n")
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:
        pass  # the other end is closed
    case("a terminal", process.wait() == 0 and b"not UTF-8: byte 2; skipped" in shown and b"\\x1B[31m" in shown and b"\x1b" not in shown, shown)

    refused("an unknown flag", "--tmperature", "--model_name_or_path", runs.model, "--tmperature", "1")
    refused("a model that is not there", "nowhere", "--model_name_or_path", at("nowhere"), status=1)
    refused("a message longer than the model reads", "the model reads at most 512", "--model_name_or_path", runs.model, status=1, lines=["word " * 200000])
    if len(sys.argv) > 4:
        real = sys.argv[4]
        turns = ["Name three rivers of Europe.", "Which of them is the longest? Answer in one sentence.", "Write a haiku about it."]
        model, tokenizer = AutoModelForCausalLM.from_pretrained(real, dtype=torch.float32), AutoTokenizer.from_pretrained(real)
        result, want = talk("--model_name_or_path", real, "--temperature", "0", "--max_new_tokens", "80", lines=turns), expected(model, tokenizer, 80, turns)
        case("a real model", result.stdout == want, f"\ngot  {result.stdout!r}\nwant {want!r}")
        print(result.stdout)
    sys.exit(runs.report())
