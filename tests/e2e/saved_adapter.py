# SPDX-License-Identifier: Apache-2.0
"""saved_adapter.py TRAIN_KTO SOURCE_ROOT: a trained adapter loads in peft and gives the log-probs that train_kto evaluated;
merged, it loads in transformers alone; train_kto trains on from it. Skipped where torch, transformers or peft are missing."""
import json
import os
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
from tiny_model import make_model, make_rows

train_kto, root = sys.argv[1:3]
torch.set_num_threads(1)
passed = failed = 0
with tempfile.TemporaryDirectory() as tmp:
    model, rows = os.path.join(tmp, "model"), os.path.join(tmp, "data")
    make_model(model, root)
    os.makedirs(rows)
    make_rows(os.path.join(rows, "train.jsonl"))
    make_rows(os.path.join(rows, "test.jsonl"), 8)

    def train(out, *flags, start=model):
        subprocess.run([train_kto, "--model_name_or_path", start, "--dataset_name", rows, "--output_dir", out, "--max_steps", "3",
                        "--learning_rate", "2e-2", "--per_device_train_batch_size", "4", "--do_eval", "--eval_on_start",
                        "--logging_steps", "1", *flags], check=True, stdout=subprocess.DEVNULL)
        return json.load(open(os.path.join(out, "eval_results.json"))), json.load(open(os.path.join(out, "trainer_state.json")))

    def logps(loaded, tokenizer):
        sums = {True: [], False: []}
        for line in open(os.path.join(rows, "test.jsonl")):
            row = json.loads(line)
            prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=True)["input_ids"]
            whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=True)["input_ids"]
            with torch.no_grad():
                logp = loaded(torch.tensor([whole])).logits[0].double().log_softmax(-1)
            sums[row["label"]].append(sum(logp[i - 1, whole[i]].item() for i in range(len(prompt), len(whole))))
        return {name: sum(sums[label]) / len(sums[label]) for label, name in ((True, "chosen"), (False, "rejected"))}

    def case(name, condition, detail=""):
        global passed, failed
        passed, failed = passed + bool(condition), failed + (not condition)
        print(("ok   " if condition else "FAIL ") + name + ("" if condition else f": {detail}"), flush=True)

    kinds = {"lora": [], "all_linear": ["--lora_target_modules", "all-linear"], "rslora": ["--use_rslora"], "dora": ["--use_dora"],
             "pattern": ["--lora_target_modules", r".*\.1\..*(up|down)_proj"], "head": ["--lora_target_modules", "q_proj", "lm_head"],
             "saved_modules": ["--lora_modules_to_save", "lm_head", "norm"], "bf16_base": ["--dtype", "bfloat16"]}
    for kind, flags in kinds.items():
        out = os.path.join(tmp, kind)
        evaluated, state = train(out, "--use_peft", "--lora_r", "4", *flags)
        dtype = torch.bfloat16 if kind == "bf16_base" else torch.float32
        base = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        loaded = PeftModel.from_pretrained(base, out).eval()
        got = logps(loaded, AutoTokenizer.from_pretrained(out))
        want = {name: evaluated[f"eval_logps/{name}"] for name in got}
        near = 2e-2 if kind == "bf16_base" else 1e-5
        case(f"{kind}: peft gives train_kto's log-probs", all(abs(got[n] - want[n]) < near * abs(want[n]) for n in got), (got, want))
        case(f"{kind}: starts at the reference", abs(state["log_history"][0]["eval_kl"]) < 1e-4 and state["log_history"][0]["eval_loss"] == 0.5,
             state["log_history"][0])
        if kind in ("bf16_base", "head"):
            continue
        merged, _ = train(os.path.join(tmp, kind + "_merged"), "--use_peft", "--lora_r", "4", "--merge_and_unload", *flags)
        got = logps(AutoModelForCausalLM.from_pretrained(os.path.join(tmp, kind + "_merged")), AutoTokenizer.from_pretrained(out))
        case(f"{kind}: merged, transformers gives the same", all(abs(got[n] - want[n]) < 1e-5 * abs(want[n]) for n in got), (got, want))
        for name, more in (("adapter_name_or_path", ["--adapter_name_or_path", out]), ("the adapter's folder as the model", None)):
            evaluated2, state2 = train(os.path.join(tmp, kind + "_on"), "--overwrite_output_dir", *(more or []), start=model if more else out)
            first = state2["log_history"][0]
            case(f"{kind}: trained on from {name}: starts where it was, held to the adapter as it was",
                 first["eval_loss"] == 0.5 and all(abs(first[f"eval_logps/{n}"] - want[n]) < 1e-5 * abs(want[n]) for n in want), first)
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
