#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the folders beside it: three tiny bases, and one adapter for each kind of LoraConfig that PEFT trains (peft 0.21,
transformers 5.24). An adapter's golden.safetensors has what PEFT computes after reading the folder back: "logp" of the
row below, and "grad.KEY" of every trained tensor KEY of the file.

usage: make_adapters.py
"""
import json
import os
import shutil
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

PROMPT, COMPLETION = [1, 2, 0, 3], [4, 5, 0, 6, 7]  # 0 is the pad token, whose embedding gets no gradient
HERE = os.path.dirname(os.path.abspath(__file__))
SHAPE = dict(vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
             head_dim=4, max_position_embeddings=64, rms_norm_eps=1e-6, pad_token_id=0, bos_token_id=1, eos_token_id=2)
BASES = {
    "tied": lambda shape: Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True)),
    "untied": lambda shape: LlamaForCausalLM(LlamaConfig(**shape, attention_bias=True, mlp_bias=True, tie_word_embeddings=False)),
    "conv1d": lambda shape: GPT2LMHeadModel(GPT2Config(
        vocab_size=shape["vocab_size"], n_embd=shape["hidden_size"], n_inner=shape["intermediate_size"],
        n_layer=shape["num_hidden_layers"], n_head=shape["num_attention_heads"],
        n_positions=shape["max_position_embeddings"] // 4, pad_token_id=0, bos_token_id=1, eos_token_id=2)),
}
QV = dict(target_modules=["q_proj", "v_proj"])
KINDS = {  # name: (base, LoraConfig's fields)
    "plain": ("tied", {}),
    "adapter_name_in_keys": ("tied", QV),
    "bias_all": ("tied", dict(QV, bias="all")),
    "bias_lora_only": ("untied", dict(QV, bias="lora_only")),
    "bias_all_and_saved": ("untied", dict(QV, bias="all", modules_to_save=["k_proj", "up_proj"])),
    "bias_all_dora": ("untied", dict(bias="all", target_modules="all-linear", use_dora=True)),
    "lora_bias": ("untied", dict(target_modules=["q_proj", "down_proj"], lora_bias=True)),
    "layers_to_transform": ("tied", dict(QV, layers_to_transform=1)),
    "layers_pattern": ("tied", dict(target_modules=["k_proj", "model.layers.0.mlp.up_proj"], layers_to_transform=[1], layers_pattern="layers")),
    "exclude_list": ("tied", dict(target_modules="all-linear", exclude_modules=["0.mlp.up_proj", "o_proj"])),
    "exclude_pattern": ("tied", dict(target_modules=["q_proj", "down_proj"], exclude_modules=r".*layers\.0\..*")),
    "patterns": ("tied", dict(target_modules=r".*\.(q_proj|up_proj)", rank_pattern={r"layers\.0\..*": 2}, alpha_pattern={"up_proj": 3},
                              use_rslora=True)),
    "fan_in_fan_out": ("tied", dict(QV, fan_in_fan_out=True)),
    "qalora": ("tied", dict(QV, use_qalora=True)),
    "embedding": ("tied", dict(target_modules=["embed_tokens", "q_proj"])),
    "embedding_and_head": ("untied", dict(target_modules=["embed_tokens", "lm_head"], use_rslora=True)),
    "embedding_dora": ("untied", dict(target_modules=["embed_tokens", "q_proj"], use_dora=True)),
    "tied_targets": ("tied", dict(target_modules=["lm_head", "q_proj"], ensure_weight_tying=True)),
    "tied_saved": ("tied", dict(QV, modules_to_save=["lm_head"], ensure_weight_tying=True)),
    "untied_saved": ("untied", dict(QV, modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
    "saved_blocks": ("tied", dict(QV, modules_to_save=["mlp"])),
    "saved_layer": ("untied", dict(QV, modules_to_save=["layers.1", "model.norm"])),
    "tokens": ("tied", dict(QV, trainable_token_indices=[0, 2, 5])),
    "tokens_tied_alike": ("tied", dict(QV, trainable_token_indices={"embed_tokens": [3, 4], "lm_head": [3, 4]}, ensure_weight_tying=True)),
    "tokens_apart": ("tied", dict(QV, trainable_token_indices={"embed_tokens": [3, 4], "lm_head": [5]})),
    "tokens_of_head": ("untied", dict(QV, trainable_token_indices={"lm_head": [4, 19]})),
    "init_false": ("tied", dict(QV, init_lora_weights=False)),
    "init_gaussian": ("tied", dict(QV, init_lora_weights="gaussian")),
    "init_orthogonal": ("tied", dict(QV, r=4, init_lora_weights="orthogonal")),
    "init_pissa": ("tied", dict(target_modules=["q_proj", "down_proj"], init_lora_weights="pissa", use_rslora=True)),
    "init_olora": ("untied", dict(target_modules=["v_proj", "lm_head"], init_lora_weights="olora")),
    "conv1d_default": ("conv1d", dict(bias="all")),
    "conv1d_dora": ("conv1d", dict(target_modules="all-linear", use_dora=True)),
    "conv1d_pissa": ("conv1d", dict(target_modules=["c_proj"], init_lora_weights="pissa")),
    "conv1d_tokens": ("conv1d", dict(target_modules=["c_fc"], trainable_token_indices=[2, 5], modules_to_save=["ln_f", "wpe"])),
    "init_mica": ("untied", dict(target_modules=["q_proj", "embed_tokens"], init_lora_weights="mica")),
}


def make_base(name, folder, shape=SHAPE):
    torch.manual_seed(1)
    model = BASES[name](shape)
    for parameter in model.parameters():
        is_norm = parameter.dim() == 1 and parameter.numel() == shape["hidden_size"]
        torch.nn.init.normal_(parameter, mean=1.0 if is_norm else 0.0, std=0.4)
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "generation_config.json"))


def load_base(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def make_adapter(fields, base, folder):
    """Saves an adapter all of whose trained tensors are random."""
    torch.manual_seed(2)
    model = get_peft_model(load_base(base), LoraConfig(**{"task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 5, **fields}))
    trained = {id(p): p for p in model.parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter += torch.randn_like(parameter) * 0.2
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    path = os.path.join(folder, "adapter_config.json")
    config = json.load(open(path))
    config["base_model_name_or_path"] = None  # else it says where this ran
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    with open(path, "w") as file:
        json.dump(config, file, indent=2)
        file.write("\n")


def logp(model):
    ids = torch.tensor([PROMPT + COMPLETION])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    scores = torch.log_softmax(logits[len(PROMPT) - 1:-1].double(), -1)
    return scores.gather(1, torch.tensor(COMPLETION)[:, None]).sum()


def key_of(name):
    """The file's key of a parameter of a PeftModel."""
    for part in (".modules_to_save.default", ".default"):
        name = name.replace(part, "")
    return name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def make_golden(name, base, fields):
    folder, base_folder = os.path.join(HERE, name), os.path.join(HERE, base)
    shutil.rmtree(folder, ignore_errors=True)
    make_adapter(fields, base_folder, folder)
    weights = os.path.join(folder, "adapter_model.safetensors")
    model = PeftModel.from_pretrained(load_base(base_folder), folder, is_trainable=True)
    score = logp(model)
    score.backward()
    golden = {"logp": score.detach()}
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is not None:
            golden["grad." + key_of(parameter_name)] = parameter.grad
    if name == "tied_targets":  # two parameters in one memory: one tensor here, whose gradient is the sum
        for of_embedding, of_head in (("A", "B"), ("B", "A")):
            golden["grad.base_model.model.model.embed_tokens.lora_embedding_" + of_embedding] += golden.pop(
                f"grad.base_model.model.lm_head.lora_{of_head}.weight").T
    save_file({key: tensor.contiguous() for key, tensor in golden.items()}, os.path.join(folder, "golden.safetensors"))
    if name == "adapter_name_in_keys":
        save_file({key.replace(".weight", ".default.weight"): tensor for key, tensor in load_file(weights).items()}, weights)
        assert torch.equal(logp(PeftModel.from_pretrained(load_base(base_folder), folder)), score)
    with open(os.path.join(folder, "base"), "w") as file:
        file.write(base + "\n")
    print(name, float(score), len(golden) - 1, "gradients")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with open(os.path.join(HERE, "default_targets.json"), "w") as file:
        json.dump(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, file, indent=2)
        file.write("\n")
    for name in BASES:
        shutil.rmtree(os.path.join(HERE, name), ignore_errors=True)
        make_base(name, os.path.join(HERE, name))
    for name, (base, fields) in KINDS.items():
        make_golden(name, base, fields)
