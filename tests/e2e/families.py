# SPDX-License-Identifier: Apache-2.0
"""families.py TRAIN_KTO SOURCE_ROOT [--options] [FAMILY...]: a tiny model of every family of decoders, made by transformers with random weights,
is trained, saved and loaded again: transformers gives the log-probs that train_kto evaluated, from the whole model and from
an adapter on it. Of multimodal models, all but the text's weights are kept to the bit, and all have their names.
Runs whose options must not change the numbers agree, and a resumed one is the same to the bit: of a few families, and with
--options of all. Skipped where torch, transformers or peft are missing."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

try:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, logging
except ImportError as error:
    print("skipped:", error)
    sys.exit(77)
from logps import mean_logps
from tiny_model import family_names, make_rows, without_dropout

train_kto, root, chosen = sys.argv[1], sys.argv[2], [name for name in sys.argv[3:] if name != "--options"]
torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()

ENCODER_DECODERS = ("bart", "mt5", "t5", "umt5")  # see encoder_decoder.py
EXPERTS = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, n_positions=512)
DELTA = dict(layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2, linear_num_value_heads=4,
             linear_key_head_dim=8, linear_value_head_dim=8, partial_rotary_factor=0.5)  # fmt: skip
CHANGES = {  # beside what all have
    "bloom": dict(hidden_size=32, n_layer=2, n_head=4),
    "deepseek_v3": dict(num_key_value_heads=4, q_lora_rank=12, kv_lora_rank=10, qk_nope_head_dim=8, qk_rope_head_dim=8,
                        v_head_dim=12, first_k_dense_replace=1, moe_intermediate_size=12, n_routed_experts=8,
                        num_experts_per_tok=2, n_group=2, topk_group=1),
    "falcon": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
    "gemma2": dict(sliding_window=16, query_pre_attn_scalar=8),
    "gemma3_text": dict(sliding_window=16, query_pre_attn_scalar=8, layer_types=["sliding_attention", "full_attention"]),
    "gemma4_text": dict(sliding_window=16, global_head_dim=16, num_hidden_layers=4, num_kv_shared_layers=2,
                        layer_types=["sliding_attention", "full_attention"] * 2, hidden_size_per_layer_input=4,
                        vocab_size_per_layer_input=512, use_double_wide_mlp=True),
    "glm4_moe": dict(n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=24),
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gpt_oss": EXPERTS | dict(sliding_window=16),
    "gptj": GPT2 | dict(rotary_dim=4),
    "granitemoe": EXPERTS,
    "lfm2": dict(layer_types=["conv", "full_attention"], block_multiple_of=8),
    "mixtral": EXPERTS,
    "olmoe": EXPERTS,
    "opt": dict(ffn_dim=48, word_embed_proj_dim=32, dropout=0.0),
    "phi3": dict(pad_token_id=None),
    "phimoe": EXPERTS,
    "qwen2_moe": EXPERTS | dict(shared_expert_intermediate_size=24),
    "qwen3_5_text": DELTA,
    "qwen3_moe": EXPERTS,
    "qwen3_next": DELTA | EXPERTS | dict(shared_expert_intermediate_size=24),
}  # fmt: skip
ADAPTED_EXPERTS = ("deepseek_v3", "glm4_moe", "mixtral", "olmoe", "qwen3_moe", "qwen3_next")  # by PEFT's all-linear
VISION = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
              head_dim=8, image_size=28, patch_size=14, depth=1, num_heads=2, out_hidden_size=32, num_position_embeddings=16)  # fmt: skip
WRAPPERS = {"gemma3": "gemma3_text", "gemma4": "gemma4_text", "llava": "llama", "mistral3": "ministral3",
            "qwen3_5": "qwen3_5_text"}  # fmt: skip -- their texts


def families():
    return [name for name in family_names(root) if name not in ENCODER_DECODERS] + list(WRAPPERS)


def make_config(family, size):
    if family in WRAPPERS:
        text = make_config(WRAPPERS[family], size).to_dict()
        vision = {key: value for key, value in VISION.items() if hasattr(AutoConfig.for_model(family).vision_config, key)}
        return AutoConfig.for_model(family, text_config=text, vision_config=vision or VISION, image_token_id=5)
    common = dict(vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, head_dim=8, max_position_embeddings=512, bos_token_id=0, eos_token_id=0,
                  pad_token_id=0)  # fmt: skip
    changes = CHANGES.get(family, {})
    if family == "falcon" or "n_layer" in changes:
        common = dict(vocab_size=size, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    return without_dropout(AutoConfig.for_model(family, **common | changes))


def make_model(folder, family, tokenizer):
    shutil.copytree(tokenizer, folder)
    with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as file:
        known = json.load(file)
    size = max(list(known["model"]["vocab"].values()) + [token["id"] for token in known["added_tokens"]])
    size += 9  # some tokenizer classes add tokens
    config = make_config(family, size)
    torch.manual_seed(1)
    model = class_of(family).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    if family == "llava":  # as transformers 5 names modules; others are saved under older names
        path = os.path.join(folder, "model.safetensors")
        weights = load_file(path)
        renamed = lambda name: "model." + name.replace("language_model.model.", "language_model.")
        weights = {name.removeprefix("language_model.") if "lm_head" in name else renamed(name): w for name, w in weights.items()}
        save_file(weights, path, metadata={"format": "pt"})


def class_of(family):
    return AutoModelForImageTextToText if family in WRAPPERS else AutoModelForCausalLM


def check_kept(model, out):
    before, after = (load_file(os.path.join(folder, "model.safetensors")) for folder in (model, out))
    assert set(before) == set(after), f"names differ: {sorted(set(before) ^ set(after))[:4]}"
    for name, weight in before.items():
        is_trained = ("language_model" in name or "lm_head" in name) and not name.endswith("layer_scalar")
        assert torch.equal(weight, after[name]) != is_trained, f"{name}: {'was not trained' if is_trained else 'has changed'}"


def check_flos(trained, tokenizer, rows_file, out):
    """total_flos is what transformers estimates for the two batches of four rows."""
    rows = [json.loads(line) for line in open(rows_file)][:8]
    ids = lambda row: tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=True)["input_ids"]
    lengths = [len(ids(row)) for row in rows]
    tokens = 4 * (max(lengths[:4]) + max(lengths[4:]))
    got = json.load(open(os.path.join(out, "trainer_state.json")))["total_flos"]
    want = 6 * tokens * trained.num_parameters(exclude_embeddings=True)
    assert got == want, f"transformers' total_flos is {want}, train_kto's {got}"


def check(family, folder, rows, *flags):
    model, out = os.path.join(folder, "model"), os.path.join(folder, "out" + "".join(flags[:1]))
    result = subprocess.run([train_kto, "--model_name_or_path", model, "--dataset_name", rows, "--output_dir", out,
                             "--max_steps", "2", "--learning_rate", "1e-2", "--per_device_train_batch_size", "4",
                             "--do_eval", *flags], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    has_note = "all-linear adapts the linear layers outside of experts" in result.stderr
    assert has_note == (bool(flags) and family in ADAPTED_EXPERTS), f"a note on experts: {has_note}"
    evaluated = json.load(open(os.path.join(out, "eval_results.json")))
    if family in WRAPPERS and not flags:
        check_kept(model, out)
    base = class_of(family).from_pretrained(model if flags else out)
    trained = (PeftModel.from_pretrained(base, out) if flags else base).eval()
    tokenizer = AutoTokenizer.from_pretrained(out if not flags else model)
    if family not in WRAPPERS and not flags:
        check_flos(trained, tokenizer, os.path.join(rows, "train.jsonl"), out)
    for name, want in mean_logps(trained, tokenizer, os.path.join(rows, "test.jsonl")).items():
        got = evaluated[f"eval_logps/{name}"]
        assert abs(want - got) < 2e-5 * abs(want), f"transformers gives {want:.6f}, train_kto {got:.6f}"


# Of each four rows three begin with the same tokens, which packed batches hold once.
SYSTEM = [*["alpha beta gamma delta rivers mountains answer question yes no because"] * 3, ""]

# Options of runs that must agree to rounding, in pairs.
WINDOW = ["--kl_scope", "window", "--per_device_train_batch_size", "2"]
DORA = ["--use_peft", "--use_dora", "--lora_target_modules", "all-linear"]
OTHERWISE = ["--gradient_checkpointing", "--collator", "padded"]
ALIKE = [([], [*OTHERWISE, "--reuse_ref_log_probs", "False"]), (DORA, [*DORA, *OTHERWISE, "--precompute_ref_log_probs"]),
         ([*WINDOW, "--gradient_accumulation_steps", "2"], [*WINDOW, "--nproc", "2"])]  # fmt: skip
CHECKED_OPTIONS = ("deepseek_v3", "gemma4_text", "qwen3_5_text")


def check_options(folder, rows):
    def run(name, *flags):
        out = os.path.join(folder, name)
        subprocess.run([train_kto, "--model_name_or_path", os.path.join(folder, "model"), "--dataset_name", rows,
                        "--output_dir", out, "--per_device_train_batch_size", "4", "--logging_steps", "1", *flags],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                       env=dict(os.environ, XDG_CACHE_HOME=os.path.join(folder, "cache")))  # fmt: skip
        return out

    def values(out):
        entries = json.load(open(os.path.join(out, "trainer_state.json")))["log_history"]
        keys = ("loss", "kl", "grad_norm", "logps/chosen", "logps/rejected")
        return [(key, entry[key]) for entry in entries for key in keys if key in entry]

    sgd = ["--max_steps", "3", "--optim", "sgd", "--learning_rate", "0.02"]  # does not amplify rounding
    for i, both in enumerate(ALIKE):
        logs = [values(run(f"alike-{i}-{j}", *sgd, *flags)) for j, flags in enumerate(both)]
        for (key, a), (_, b) in zip(*logs, strict=True):
            assert abs(a - b) < 2e-4 * (1 + abs(a)), f"{key}: {a} with {both[0]}, {b} with {both[1]}"
    flags = ["--max_steps", "4", "--save_steps", "2", "--learning_rate", "1e-3", "--bf16", "--sync_ref_model",
             "--ref_model_sync_steps", "1"]  # fmt: skip
    whole, resumed = run("whole", *flags), os.path.join(folder, "resumed")
    shutil.copytree(os.path.join(whole, "checkpoint-2"), os.path.join(resumed, "checkpoint-2"))
    run("resumed", *flags, "--resume_from_checkpoint", "True")
    weights = [open(os.path.join(out, "model.safetensors"), "rb").read() for out in (whole, resumed)]
    assert weights[0] == weights[1], "a resumed run has other weights"


passed = failed = 0
with tempfile.TemporaryDirectory() as tmp:
    rows = os.path.join(tmp, "rows")
    os.makedirs(rows)
    make_rows(os.path.join(rows, "train.jsonl"), system=SYSTEM)
    make_rows(os.path.join(rows, "test.jsonl"), 4, SYSTEM)
    for family in chosen or families():
        folder = os.path.join(tmp, family)
        try:
            make_model(os.path.join(folder, "model"), family, os.path.join(root, "tests", "golden", "data", "model"))
            check(family, folder, rows)
            check(family, folder, rows, "--use_peft", "--lora_target_modules", "all-linear")
            if "--options" in sys.argv or family in CHECKED_OPTIONS:
                check_options(folder, rows)
            passed += 1
        except Exception as error:  # the next family is still worth a look
            failed += 1
            print(f"{family}: {getattr(error, 'stderr', None) or error}")
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
