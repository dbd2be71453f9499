# SPDX-License-Identifier: Apache-2.0
"""families.py TRAIN_KTO SOURCE_ROOT [FAMILY...]: a tiny model of every family, made by transformers with random weights,
is trained, saved and loaded again: transformers gives the log-probs that train_kto evaluated, from the whole model and from
an adapter on it. Skipped where torch, transformers or peft are missing."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

try:
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, logging
except ImportError as error:
    print("skipped:", error)
    sys.exit(77)
from logps import mean_logps
from tiny_model import make_rows

train_kto, root, chosen = sys.argv[1], sys.argv[2], sys.argv[3:]
torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()

GPT2 = dict(n_embd=32, n_layer=2, n_head=4, n_positions=512)
CHANGES = {  # beside what all have
    "bloom": dict(hidden_size=32, n_layer=2, n_head=4),
    "deepseek_v3": dict(num_key_value_heads=4, q_lora_rank=12, kv_lora_rank=10, qk_nope_head_dim=8, qk_rope_head_dim=8,
                        v_head_dim=12, first_k_dense_replace=1, moe_intermediate_size=12, n_routed_experts=8,
                        num_experts_per_tok=2, n_group=2, topk_group=1),
    "falcon": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
    "gemma2": dict(sliding_window=16, query_pre_attn_scalar=8),
    "gemma3_text": dict(sliding_window=16, query_pre_attn_scalar=8, layer_types=["sliding_attention", "full_attention"]),
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gptj": GPT2 | dict(rotary_dim=4),
    "opt": dict(ffn_dim=48, word_embed_proj_dim=32, dropout=0.0),
    "phi3": dict(pad_token_id=None),
}  # fmt: skip


def families():
    folder = os.path.join(root, "include", "kto", "model", "families")
    text = "".join(open(os.path.join(folder, name), encoding="utf-8").read() for name in sorted(os.listdir(folder)))
    return re.findall(r'\.model_type = "(\w+)"', text)


def make_model(folder, family, tokenizer):
    shutil.copytree(tokenizer, folder)
    with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as file:
        known = json.load(file)
    size = max(list(known["model"]["vocab"].values()) + [token["id"] for token in known["added_tokens"]])
    size += 9  # some tokenizer classes add tokens
    common = dict(vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, head_dim=8, max_position_embeddings=512, bos_token_id=0, eos_token_id=0,
                  pad_token_id=0)  # fmt: skip
    changes = CHANGES.get(family, {})
    if family == "falcon" or "n_layer" in changes:
        common = dict(vocab_size=size, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    config = AutoConfig.for_model(family, **common | changes)
    for name in vars(config):
        if name.endswith(("dropout", "pdrop")):
            setattr(config, name, 0.0)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)


def check(family, folder, rows, *flags):
    model, out = os.path.join(folder, "model"), os.path.join(folder, "out" + "".join(flags[:1]))
    subprocess.run([train_kto, "--model_name_or_path", model, "--dataset_name", rows, "--output_dir", out, "--max_steps", "2",
                    "--learning_rate", "1e-2", "--per_device_train_batch_size", "4", "--do_eval", *flags],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    evaluated = json.load(open(os.path.join(out, "eval_results.json")))
    base = AutoModelForCausalLM.from_pretrained(model if flags else out)
    trained = (PeftModel.from_pretrained(base, out) if flags else base).eval()
    tokenizer = AutoTokenizer.from_pretrained(out if not flags else model)
    for name, want in mean_logps(trained, tokenizer, os.path.join(rows, "test.jsonl")).items():
        got = evaluated[f"eval_logps/{name}"]
        assert abs(want - got) < 2e-5 * abs(want), f"transformers gives {want:.6f}, train_kto {got:.6f}"


passed = failed = 0
with tempfile.TemporaryDirectory() as tmp:
    rows = os.path.join(tmp, "rows")
    os.makedirs(rows)
    make_rows(os.path.join(rows, "train.jsonl"))
    make_rows(os.path.join(rows, "test.jsonl"), 4)
    for family in chosen or families():
        folder = os.path.join(tmp, family)
        try:
            make_model(os.path.join(folder, "model"), family, os.path.join(root, "tests", "golden", "data", "model"))
            check(family, folder, rows)
            check(family, folder, rows, "--use_peft", "--lora_target_modules", "all-linear")
            passed += 1
        except Exception as error:  # the next family is still worth a look
            failed += 1
            print(f"{family}: {getattr(error, 'stderr', None) or error}")
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
