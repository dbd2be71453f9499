# SPDX-License-Identifier: Apache-2.0
"""saved_adapter.py TRAIN_KTO SOURCE_ROOT: a trained adapter loads in peft and gives the same log-probs as train_kto;
merged, it loads in transformers alone; train_kto continues to train it, peft's adapters of every kind, and named adapters
with another one as the reference. Skipped if torch, transformers or peft are missing."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

try:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as error:
    print("skipped:", error)
    sys.exit(77)
from cases import Cases
from safetensors.torch import load_file
from logps import mean_logps
from tiny_model import make_model, make_rows

train_kto, root = sys.argv[1:3]
sys.path.insert(0, os.path.join(root, "tests", "golden", "adapters"))
sys.dont_write_bytecode = True
from make_adapters import BASES, KINDS, SHAPE, load_base, make_adapter, make_base
torch.set_num_threads(1)
one_thread = dict(os.environ, OMP_NUM_THREADS="1")  # equal to the last bit: with two, DoRA's products do not always round alike
cases = Cases()
case = cases.case
with tempfile.TemporaryDirectory() as tmp:
    model, rows = os.path.join(tmp, "model"), os.path.join(tmp, "data")
    make_model(model, root)
    os.makedirs(rows)
    make_rows(os.path.join(rows, "train.jsonl"))
    make_rows(os.path.join(rows, "test.jsonl"), 8)

    def train(out, *flags, start=model):
        subprocess.run([train_kto, "--model_name_or_path", start, "--dataset_name", rows, "--output_dir", out, "--max_steps", "3",
                        "--learning_rate", "2e-2", "--per_device_train_batch_size", "4", "--do_eval", "--eval_on_start",
                        "--logging_steps", "1", *flags], check=True, stdout=subprocess.DEVNULL, env=one_thread)
        return json.load(open(os.path.join(out, "eval_results.json"))), json.load(open(os.path.join(out, "trainer_state.json")))

    def logps(loaded, tokenizer):
        return mean_logps(loaded, tokenizer, os.path.join(rows, "test.jsonl"))

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

    # Adapters of every kind made by peft: read, trained, saved, read by peft; merged, read by transformers; trained further.
    near = lambda got, want: all(abs(got[n] - want[n]) < 1e-4 * max(1, abs(want[n])) for n in want)
    bases = {name: os.path.join(tmp, "base_" + name) for name in BASES}
    shape = dict(SHAPE, vocab_size=416, max_position_embeddings=1024)  # transformers gives qwen2's tokenizer a token more
    for name, folder in bases.items():
        shutil.copytree(os.path.join(root, "tests", "golden", "data", "model"), folder)
        make_base(name, folder, shape)
    for kind, (base, fields) in KINDS.items():
        start, out, merged = (os.path.join(tmp, f"{kind}_{part}") for part in ("start", "out", "merged"))
        make_adapter(fields, bases[base], start)
        tokenizer = AutoTokenizer.from_pretrained(bases[base])
        flags = ["--adapter_name_or_path", start, "--optim", "sgd", "--beta", "0.5", "--save_steps", "1"]
        evaluated, state = train(out, *flags, start=bases[base])
        first, of_start = state["log_history"][0], logps(PeftModel.from_pretrained(load_base(bases[base]), start).eval(), tokenizer)
        case(f"{kind}: peft's adapter has peft's log-probs, and itself as reference",
             near({n: first[f"eval_logps/{n}"] for n in of_start}, of_start) and first["eval_loss"] == 0.5, (first, of_start))
        trained = PeftModel.from_pretrained(load_base(bases[base]), out).eval()
        want = logps(trained, tokenizer)
        case(f"{kind}: trained, peft gives train_kto's log-probs", near({n: evaluated[f"eval_logps/{n}"] for n in want}, want), (evaluated, want))
        before, after = (load_file(os.path.join(folder, "adapter_model.safetensors")) for folder in (start, out))
        wrapped = (".base_layer.weight", ".original_module.bias", ".modules_to_save.bias")
        frozen = {name for name in before if name.endswith(wrapped) or (kind == "init_mica" and ("lora_B" in name or name.endswith("_B")))
                  or (kind == "tokens_apart" and "embed_tokens" in name)}  # no row has those tokens
        same = {name for name in before if name not in after or torch.equal(before[name], after[name])}
        case(f"{kind}: the file has all of peft's tensors that are trained, and they have moved", same <= frozen and after.keys() <= before.keys(),
             (same - frozen, after.keys() - before.keys()))
        train(merged, *flags, "--merge_and_unload", start=bases[base])
        got = logps(AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32), tokenizer)
        case(f"{kind}: merged, transformers gives the same", near(got, want), (got, want))
        if kind in ("bias_all_and_saved", "embedding_dora", "tied_targets", "tied_saved", "tokens_apart", "init_pissa"):
            resumed = os.path.join(tmp, kind + "_resumed")
            train(resumed, *flags, "--resume_from_checkpoint", os.path.join(out, "checkpoint-2"), start=bases[base])
            again = load_file(os.path.join(resumed, "adapter_model.safetensors"))
            case(f"{kind}: gone on with, to the same weights", all(torch.equal(after[name], again[name]) for name in after))

    # Adapters side by side, as peft saves them: "default" in the folder itself, the others in folders of their names.
    torch.manual_seed(0)
    shelf = os.path.join(tmp, "named")
    several = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), LoraConfig(r=4, task_type="CAUSAL_LM"))
    several.add_adapter("strict", LoraConfig(r=2, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM"))
    for name, parameter in several.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    several.save_pretrained(shelf)
    tokenizer, of = AutoTokenizer.from_pretrained(model), {}
    for name in ("default", "strict"):
        several.set_adapter(name)
        of[name] = logps(several.eval(), tokenizer)
    case("the two named adapters differ", abs(of["default"]["chosen"] - of["strict"]["chosen"]) > 0.1, of)
    for policy, reference in (("default", "strict"), ("strict", "default"), ("strict", None)):
        out, title, held_to = os.path.join(tmp, f"named_{policy}_{reference}"), f"{policy} against {reference or 'itself'}", reference or policy
        last, state = train(out, "--adapter_name_or_path", shelf, "--model_adapter_name", policy, "--beta", "0.5",
                            *(["--ref_adapter_name", reference] if reference else []))
        first = state["log_history"][0]
        near_to = lambda got, want: abs(got - want) < 1e-4 * max(1, abs(want))
        rewarded = lambda got, logp: all(near_to(got[f"eval_rewards/{n}"], 0.5 * (logp[n] - of[held_to][n])) for n in logp)
        case(f"{title}: its log-probs at the start are peft's", all(near_to(first[f"eval_logps/{n}"], of[policy][n]) for n in of[policy]),
             (first, of[policy]))
        case(f"{title}: the rewards at the start are those of the two adapters", rewarded(first, of[policy]), first)
        trained = logps(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), out).eval(), tokenizer)
        case(f"{title}: the trained adapter's log-probs and rewards",
             all(near_to(last[f"eval_logps/{n}"], trained[n]) for n in trained) and rewarded(last, trained), (last, trained))
    wrong = subprocess.run([train_kto, "--model_name_or_path", model, "--dataset_name", rows, "--output_dir", os.path.join(tmp, "wrong"),
                            "--adapter_name_or_path", shelf, "--ref_adapter_name", "lenient"], capture_output=True, text=True)
    case("a name that is not there: refused with those that are", wrong.returncode == 1 and "lenient" in wrong.stderr
         and "default" in wrong.stderr and "strict" in wrong.stderr and not os.path.exists(os.path.join(tmp, "wrong")), wrong.stderr)
sys.exit(cases.report())
