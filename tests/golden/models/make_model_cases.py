#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden cases of tests/model/test_decoder.cpp: tiny decoders run by transformers (5.24, torch 2.13).

  make_model_cases.py                        rewrites the cases beside this script
  make_model_cases.py --random 50 --seed 7 --output DIR
                                             writes 50 cases of random options; the test reads DIR when the environment
                                             variable KTO_MODEL_CASES names it

A case is {name, config, lengths, expected}. Weights, token ids and probes follow from names by a formula (`noise`) that
the test computes too, so that a case holds only results. Expected values are in float64: transformers with its casts
to float32 left out (in norms and the softmax), which its unchanged float32 run must match to 1e-4. Per case: log-prob of each
next token, some hidden states, a loss (mean over tokens of a probe times the log-prob), and for the gradient of each
parameter its norm and its product with a probe. rope/frequencies.json holds inverse frequencies for the rotary settings
of well-known models.
"""

import argparse
import contextlib
import json
import pathlib
import random
import tempfile

import numpy
import torch
import transformers

HIDDEN_SHOWN = 6


def noise(name, count):
    """`count` numbers in [-1, 1), multiples of 2^-23: SplitMix64 seeded with the FNV-1a hash of `name`."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed) + numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z ^= z >> numpy.uint64(31)
    return (z >> numpy.uint64(40)).astype(numpy.float64) / 2**23 - 1


def noise_tensor(name, shape):
    return torch.from_numpy(noise(name, int(numpy.prod(shape)))).reshape(tuple(shape))


def weight(name, shape):
    if "norm" in name or "scalar" in name:
        return 1 + 0.25 * noise_tensor(name, shape)
    return noise_tensor(name, shape) * (1 if "embed" in name or "lm_head" in name else 0.25)


def token_ids(sequence, length, vocab_size):
    return [int((u + 1) / 2 * vocab_size) for u in noise(f"ids/{sequence}", length)]


@contextlib.contextmanager
def no_casts_to_float32():
    """While open, what is float64 stays float64."""
    to, to_float, to_type, softmax = torch.Tensor.to, torch.Tensor.float, torch.Tensor.type, torch.nn.functional.softmax

    def is_narrowing(tensor, dtype):
        return tensor.dtype == torch.float64 and dtype == torch.float32

    def wide_to(self, *args, **kwargs):
        if any(is_narrowing(self, dtype) for dtype in (*args, kwargs.get("dtype")) if isinstance(dtype, torch.dtype)):
            return self
        return to(self, *args, **kwargs)

    def wide_softmax(tensor, dim=None, dtype=None, **kwargs):
        return softmax(tensor, dim=dim, dtype=None if is_narrowing(tensor, dtype) else dtype)

    torch.Tensor.to, torch.nn.functional.softmax = wide_to, wide_softmax
    torch.Tensor.type = lambda self, *dtype: self if dtype and is_narrowing(self, dtype[0]) else to_type(self, *dtype)
    torch.Tensor.float = lambda self: self if self.dtype == torch.float64 else to_float(self)
    try:
        yield
    finally:
        torch.Tensor.to, torch.Tensor.float, torch.Tensor.type = to, to_float, to_type
        torch.nn.functional.softmax = softmax


def load(config):
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.from_pretrained(folder),
            attn_implementation="sdpa" if config.get("alibi") else "eager",  # falcon's eager one adds its biases twice
            **{} if "experts" not in json.dumps(config) else dict(experts_implementation="eager"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weight(name, parameter.shape))
        for name, buffer in model.named_buffers():
            if name.endswith(("e_score_correction_bias", "layer_scalar")):
                buffer.copy_(weight(name, buffer.shape))
    return model.eval()


def run(config, lengths, dtype, autocast=False):
    model = load(config).to(dtype)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if "inv_freq" in name:  # rotary tables are in float32 whatever the model's type
                setattr(module, name, torch.empty_like(buffer, dtype=torch.float32).copy_(buffer))
    sequences = [token_ids(i, length, model.config.vocab_size) for i, length in enumerate(lengths)]
    longest = max(lengths)
    ids = torch.tensor([s + [0] * (longest - len(s)) for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        hidden = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        logits = model(input_ids=ids, attention_mask=mask).logits
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    logp = logits[:, :-1].to(wide).log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    real = mask[:, 1:].bool()
    probe = noise_tensor("loss", (int(real.sum()),)).to(wide)
    loss = (logp[real] * probe).mean()
    loss.backward()
    grads = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.double()
        grads[name] = [gradient.norm().item(), (gradient * noise_tensor("probe/" + name, gradient.shape)).sum().item()]
    return {
        "logp": [row[: length - 1].tolist() for row, length in zip(logp, lengths)],
        "hidden": [row[length - 1, :HIDDEN_SHOWN].tolist() for row, length in zip(hidden.double(), lengths)],
        "loss": loss.item(),
        "grads": grads,
    }


def largest_difference(a, b):
    return max(abs(x - y) for p, q in zip(a["logp"], b["logp"]) for x, y in zip(p, q))


def mean_difference(a, b):
    differences = [abs(x - y) for p, q in zip(a["logp"], b["logp"]) for x, y in zip(p, q)]
    return sum(differences) / len(differences)


def make_case(name, config, lengths):
    plain = run(config, lengths, torch.float32)
    autocast = run(config, lengths, torch.float32, autocast=True)
    with no_casts_to_float32():
        exact = run(config, lengths, torch.float64)
    error = largest_difference(plain, exact)
    assert error < 1e-4, (name, error)
    exact["float32_error"] = error
    exact["autocast_error"] = mean_difference(autocast, exact)
    return {"name": name, "config": config, "lengths": lengths, "expected": exact}


TINY = dict(vocab_size=80, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
LENGTHS = [9, 14, 5]
LONG = [30, 12]
MLP_ONLY = dict(num_hidden_layers=1, intermediate_size=40)


def tiny(family, **changes):
    config = {"model_type": family, **TINY, **changes}
    return {key: value for key, value in config.items() if value != "absent"}


def rope(rope_type, **values):
    return {"rope_type": rope_type, "rope_theta": 10000.0, **values}


def older(family, **changes):
    """A config with the keys of GPT-2's time."""
    own = dict(n_head=4, n_layer=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0) | (
        {} if family == "bloom" else dict(n_embd=32, n_positions=64))
    return {"model_type": family, "vocab_size": 80, **({"hidden_size": 32} if family == "bloom" else {}), **own, **changes}


OPT = dict(intermediate_size="absent", num_key_value_heads="absent", dropout=0)
FALCON = dict(intermediate_size="absent", num_key_value_heads="absent")
DELTA = dict(linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=12, linear_value_head_dim=8,
             rms_norm_eps=1e-2)  # heads are small, and the norms of their outputs would enlarge rounding errors
EXPERTS = dict(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=20)
LONGROPE = dict(short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.0, 2.5, 6.0, 11.0])
LATENT = dict(num_key_value_heads=4, q_lora_rank=12, kv_lora_rank=10, qk_nope_head_dim=6, qk_rope_head_dim=4,
              v_head_dim=7, first_k_dense_replace=9)
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)

CASES = {
    "llama_plain": (tiny("llama", num_key_value_heads="absent"), LENGTHS),
    "llama_gqa_tied": (tiny("llama", tie_word_embeddings=True, pad_token_id=7), LENGTHS),
    "llama_one_kv_head": (tiny("llama", num_key_value_heads=1, rms_norm_eps=1e-3), LENGTHS),
    "llama_equal_lengths": (tiny("llama"), [8, 8, 8]),
    "llama_biases": (tiny("llama", attention_bias=True, mlp_bias=True), LENGTHS),
    "llama_head_dim": (tiny("llama", head_dim=12, rope_theta=500.0), LENGTHS),
    "llama_keys_it_ignores": (tiny("llama", sliding_window=3, use_cache=False, pretraining_tp=2), LENGTHS),
    "rope_linear_old": (tiny("llama", rope_theta=5000, rope_scaling={"type": "linear", "factor": 2.5}), LENGTHS),
    "rope_linear": (tiny("llama", rope_parameters=rope("linear", factor=4)), LENGTHS),
    "rope_dynamic_short": (
        tiny("llama", max_position_embeddings=30, rope_scaling={"type": "dynamic", "factor": 1.7}), LONG),
    "rope_dynamic_long": (
        tiny("llama", max_position_embeddings=8, rope_scaling={"type": "dynamic", "factor": 1.7}), LONG),
    "rope_yarn": (
        tiny("qwen3", head_dim=16,
             rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=16)), LONG),
    "rope_yarn_old": (
        tiny("qwen2", rope_theta=300.0, head_dim=24,
             rope_scaling=dict(type="yarn", factor=3.0, beta_fast=8, beta_slow=2, truncate=False,
                               original_max_position_embeddings=12)), LONG),
    "rope_yarn_mscale": (
        tiny("llama", original_max_position_embeddings=8,
             rope_parameters=rope("yarn", factor=None, mscale=0.7, mscale_all_dim=1.3)), LONG),
    "rope_yarn_attention": (
        tiny("mistral", sliding_window=None, rope_parameters=rope("yarn", factor=2.0, attention_factor=0.9)), LONG),
    "rope_longrope_short": (
        tiny("llama", rope_parameters=rope("longrope", **LONGROPE, original_max_position_embeddings=30)), LONG),
    "rope_longrope_long": (
        tiny("llama", rope_parameters=rope("longrope", **LONGROPE, original_max_position_embeddings=29)), LONG),
    "rope_longrope_factor": (
        tiny("llama", original_max_position_embeddings=16,
             rope_scaling=dict(type="longrope", factor=6.0, **LONGROPE)), LONG),
    "rope_llama3": (tiny("llama", rope_theta=500000.0, head_dim=16, rope_scaling=dict(rope_type="llama3", **LLAMA3)), LONG),
    "rope_llama3_medium": (tiny("llama", head_dim=16, rope_parameters=rope("llama3", **LLAMA3) | {"rope_theta": 30.0}), LONG),
    "mistral_window": (tiny("mistral", sliding_window=5), LENGTHS),
    "mistral_no_window": (tiny("mistral", sliding_window=None, head_dim=16, tie_word_embeddings=True), LENGTHS),
    "mistral_defaults": (tiny("mistral", num_attention_heads=8, num_key_value_heads="absent"), LENGTHS),
    "qwen2_plain": (tiny("qwen2"), LENGTHS),
    "qwen2_tied_window": (
        tiny("qwen2", tie_word_embeddings=True, use_sliding_window=True, sliding_window=4, max_window_layers=1),
        LENGTHS),
    "qwen2_window_off": (tiny("qwen2", sliding_window=4, max_window_layers=0, pad_token_id=-1), LENGTHS),
    "qwen3_plain": (tiny("qwen3", head_dim=8), LENGTHS),
    "qwen3_default_head_dim": (tiny("qwen3", num_hidden_layers=1, num_attention_heads=2, rms_norm_eps=1e-5), [6, 3]),
    "qwen3_layer_types": (
        tiny("qwen3", head_dim=16, attention_bias=True, tie_word_embeddings=True, use_sliding_window=True,
             sliding_window=6, layer_types=["sliding_attention", "full_attention"]), LENGTHS),
} | {
    "gemma_plain": (tiny("gemma", head_dim=12), LENGTHS),
    "gemma2_windows": (
        tiny("gemma2", head_dim=8, sliding_window=4, query_pre_attn_scalar=5, num_hidden_layers=3), LENGTHS),
    "gemma2_no_caps": (
        tiny("gemma2", head_dim=8, attn_logit_softcapping=None, final_logit_softcapping=None,
             hidden_activation="gelu", tie_word_embeddings=False), LENGTHS),
    "gemma3_windows": (
        tiny("gemma3_text", head_dim=8, sliding_window=5, num_hidden_layers=3,
             layer_types=["sliding_attention", "full_attention", "sliding_attention"]), LENGTHS),
    "gemma3_old_ropes": (
        tiny("gemma3_text", head_dim=12, sliding_window=3, sliding_window_pattern=2, rope_theta=500.0,
             rope_local_base_freq=70.0, rope_scaling={"rope_type": "linear", "factor": 8.0}), LENGTHS),
    "gemma4_plain": (
        tiny("gemma4_text", head_dim=8, global_head_dim=16, sliding_window=5, hidden_size_per_layer_input=6,
             vocab_size_per_layer_input=80, final_logit_softcapping=4.0), LENGTHS),
    "gemma4_shared_keys": (
        tiny("gemma4_text", head_dim=8, global_head_dim=16, sliding_window=4, hidden_size_per_layer_input=4,
             vocab_size_per_layer_input=90, num_hidden_layers=6, num_kv_shared_layers=3, use_double_wide_mlp=True,
             attention_k_eq_v=True, num_global_key_value_heads=1, layer_types=["sliding_attention", "full_attention"] * 3,
             pad_token_id=7), LENGTHS),
    "gemma4_no_layer_inputs": (
        tiny("gemma4_text", head_dim=8, sliding_window=4, hidden_size_per_layer_input=0, attention_bias=True,
             per_layer_config={"1": {"head_dim": 12}}, layer_types=["sliding_attention", "full_attention"],
             rope_parameters={"sliding_attention": rope("default"),
                              "full_attention": rope("proportional", partial_rotary_factor=0.7, factor=2.0)},
             tie_word_embeddings=False), LENGTHS),
    "gemma3_ropes_by_type": (
        tiny("gemma3_text", head_dim=8, sliding_window=3, sliding_window_pattern=2,
             rope_parameters={"full_attention": rope("linear", factor=4.0),
                              "sliding_attention": rope("default") | {"rope_theta": 30.0}}), LENGTHS),
    "phi3_plain": (tiny("phi3", pad_token_id=None), LENGTHS),
    "phi3_window_partial": (
        tiny("phi3", pad_token_id=None, sliding_window=4, partial_rotary_factor=0.5, tie_word_embeddings=True), LENGTHS),
    "phi3_longrope": (
        tiny("phi3", pad_token_id=None, original_max_position_embeddings=16, num_attention_heads=2, num_key_value_heads=1,
             partial_rotary_factor=0.5, rope_scaling=dict(type="longrope", **LONGROPE)), LONG),
    "olmo_plain": (tiny("olmo"), LENGTHS),
    "olmo_clipped": (tiny("olmo", clip_qkv=0.6, attention_bias=True, tie_word_embeddings=True), LENGTHS),
    "olmo2_plain": (tiny("olmo2", attention_bias=True), LENGTHS),
    "olmo3_windows": (tiny("olmo3", sliding_window=4, num_hidden_layers=4), LENGTHS),
    "granite_multipliers": (
        tiny("granite", embedding_multiplier=3.0, logits_scaling=2.5, residual_multiplier=0.4,
             attention_multiplier=0.2, attention_bias=True, mlp_bias=True), LENGTHS),
    "cohere_plain": (tiny("cohere", tie_word_embeddings=False), LENGTHS),
    "cohere_qk_norm": (tiny("cohere", use_qk_norm=True, attention_bias=True, logit_scale=0.5), LENGTHS),
    "cohere2_windows": (tiny("cohere2", sliding_window=4, num_hidden_layers=4), LENGTHS),
    "glm_plain": (tiny("glm", head_dim=8, pad_token_id=None), LENGTHS),
    "glm4_plain": (
        tiny("glm4", head_dim=16, pad_token_id=None, attention_bias=False, partial_rotary_factor=0.25), LENGTHS),
    "helium_plain": (tiny("helium", head_dim=8, mlp_bias=True, attention_bias=True), LENGTHS),
} | {
    "arcee_plain": (tiny("arcee", attention_bias=True), LENGTHS),
    "arcee_silu_tied": (
        tiny("arcee", hidden_act="silu", mlp_bias=True, head_dim=12, tie_word_embeddings=True), LENGTHS),
    "seed_oss_plain": (tiny("seed_oss", head_dim=12, attention_dropout=0.0, residual_dropout=0.0), LENGTHS),
    "seed_oss_biases": (
        tiny("seed_oss", head_dim=None, attention_bias=False, attention_out_bias=True, mlp_bias=True,
             attention_dropout=0.0, residual_dropout=0.0), LENGTHS),
    "smollm3_plain": (tiny("smollm3", pad_token_id=None, num_hidden_layers=3, no_rope_layer_interval=2), LENGTHS),
    "smollm3_windows": (
        tiny("smollm3", pad_token_id=3, no_rope_layers=[0, 1, 1], use_sliding_window=True, sliding_window=4,
             attention_bias=True, mlp_bias=True, tie_word_embeddings=False), LENGTHS),
    "smollm3_layer_types": (
        tiny("smollm3", pad_token_id=None, no_rope_layers=[0, 1], use_sliding_window=True, sliding_window=4,
             layer_types=["full_attention", "sliding_attention"]), LENGTHS),
    "ernie4_5_plain": (tiny("ernie4_5", head_dim=12), LENGTHS),
    "ernie4_5_biases": (tiny("ernie4_5", head_dim=None, use_bias=True, tie_word_embeddings=False), LENGTHS),
    "hunyuan_plain": (tiny("hunyuan_v1_dense", head_dim=8, attention_bias=True), LENGTHS),
    "hunyuan_alpha": (
        tiny("hunyuan_v1_dense", head_dim=12, tie_word_embeddings=True,
             rope_scaling={"type": "dynamic", "alpha": 50.0, "factor": 1.0}), LENGTHS),
    "exaone4_windows": (
        tiny("exaone4", sliding_window=4, num_hidden_layers=3, sliding_window_pattern=2), LENGTHS),
    "exaone4_no_windows": (
        tiny("exaone4", sliding_window=None, layer_types=["full_attention"] * 2, tie_word_embeddings=True), LENGTHS),
    "nemotron_plain": (tiny("nemotron"), LENGTHS),
    "nemotron_biases": (
        tiny("nemotron", attention_bias=True, mlp_bias=True, head_dim=16, partial_rotary_factor=0.25,
             tie_word_embeddings=True), LENGTHS),
    "starcoder2_plain": (tiny("starcoder2"), LENGTHS),
    "starcoder2_window": (
        tiny("starcoder2", sliding_window=4, use_bias=False, tie_word_embeddings=False, norm_epsilon=1e-3), LENGTHS),
} | {
    "phi_plain": (tiny("phi"), LENGTHS),
    "phi_qk_norm": (
        tiny("phi", qk_layernorm=True, partial_rotary_factor=0.25, tie_word_embeddings=True, hidden_act="gelu"), LENGTHS),
    "stablelm_plain": (tiny("stablelm"), LENGTHS),
    "stablelm_parallel": (
        tiny("stablelm", use_parallel_residual=True, use_qkv_bias=True, partial_rotary_factor=0.5,
             tie_word_embeddings=True), LENGTHS),
    "gpt_neox_plain": (tiny("gpt_neox", num_key_value_heads="absent", pad_token_id=3), LENGTHS),
    "gpt_neox_old_keys": (
        tiny("gpt_neox", num_key_value_heads="absent", use_parallel_residual=False, rotary_pct=0.5,
             rotary_emb_base=500, attention_bias=False, tie_word_embeddings=True, hidden_act="gelu_fast"), LENGTHS),
    "gpt_neox_new_keys": (
        tiny("gpt_neox", num_key_value_heads="absent", num_hidden_layers=1,
             rope_parameters=rope("linear", factor=2.0, partial_rotary_factor=1.0)), LENGTHS),
    "ministral_window": (tiny("ministral", head_dim=8, sliding_window=5), LENGTHS),
    "ministral_layer_types": (
        tiny("ministral", head_dim=12, sliding_window=4, layer_types=["sliding_attention", "full_attention"],
             tie_word_embeddings=True), LENGTHS),
    "ministral3_defaults": (tiny("ministral3", head_dim=16), LENGTHS),
    "ministral3_growing": (
        tiny("ministral3", head_dim=16,
             rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=8, llama_4_scaling_beta=0.3)),
        LONG),
    "ministral3_window": (
        tiny("ministral3", head_dim=8, sliding_window=5, pad_token_id=None, tie_word_embeddings=True), LENGTHS),
    "nanochat_plain": (tiny("nanochat", pad_token_id=None), LENGTHS),
    "nanochat_biases": (
        tiny("nanochat", num_key_value_heads=1, attention_bias=True, final_logit_softcapping=3.0,
             tie_word_embeddings=True), LENGTHS),
    "apertus_plain": (tiny("apertus"), LENGTHS),
    "apertus_biases": (
        tiny("apertus", attention_bias=True, rope_parameters=rope("default"), tie_word_embeddings=True), LENGTHS),
    "apertus_gelu": (tiny("apertus", hidden_act="gelu", num_hidden_layers=1), [6, 4]),
    "deepseek_v3_dense": (tiny("deepseek_v3", **LATENT, num_hidden_layers=1), LENGTHS),
    "deepseek_v3_groups": (
        tiny("deepseek_v3", **LATENT | dict(first_k_dense_replace=1, v_head_dim=16, qk_nope_head_dim=12),
             moe_intermediate_size=12, n_routed_experts=8, num_experts_per_tok=3, n_group=4, topk_group=2,
             n_shared_experts=2, norm_topk_prob=False), LENGTHS),
    "deepseek_v3_dense_yarn": (
        tiny("deepseek_v3", **LATENT | dict(q_lora_rank=None, v_head_dim=32, qk_nope_head_dim=12), rope_interleave=False,
             attention_bias=True, tie_word_embeddings=True,
             rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=16, mscale=0.7,
                                  mscale_all_dim=1.2)), LONG),
    "gptj_plain": ({"model_type": "gptj", "vocab_size": 80, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
                    "rotary_dim": 4}, LENGTHS),
    "gptj_tied": ({"model_type": "gptj", "vocab_size": 80, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64,
                   "n_inner": 40, "rotary_dim": 16, "activation_function": "relu", "tie_word_embeddings": True,
                   "layer_norm_epsilon": 1e-3}, LENGTHS),
} | {
    "gpt2_plain": (older("gpt2", n_inner=48), LENGTHS),
    "gpt2_scales": (
        older("gpt2", scale_attn_by_inverse_layer_idx=True, n_positions=14, tie_word_embeddings=False,
              activation_function="relu", pad_token_id=7), LENGTHS),
    "gpt2_unscaled": (older("gpt2", n_inner=40, scale_attn_weights=False, layer_norm_epsilon=1e-3), LENGTHS),
    "opt_plain": (tiny("opt", ffn_dim=48, **OPT), LENGTHS),
    "opt_norms_after": (
        tiny("opt", ffn_dim=40, do_layer_norm_before=False, enable_bias=False, activation_function="gelu",
             tie_word_embeddings=False, **OPT), LENGTHS),
    "opt_norms_without_weights": (
        tiny("opt", ffn_dim=40, layer_norm_elementwise_affine=False, max_position_embeddings=14, pad_token_id=None,
             **OPT), LENGTHS),
    "gpt_bigcode_plain": (older("gpt_bigcode", n_inner=48), LENGTHS),
    "gpt_bigcode_all_heads": (older("gpt_bigcode", multi_query=False, tie_word_embeddings=False), LENGTHS),
    "falcon_old": (tiny("falcon", **FALCON), LENGTHS),
    "falcon_in_turn": (
        tiny("falcon", multi_query=False, parallel_attn=False, bias=True, tie_word_embeddings=False, **FALCON), LENGTHS),
    "falcon_new": (
        tiny("falcon", new_decoder_architecture=True, num_kv_heads=2, bias=True, rope_theta=500.0, **FALCON), LENGTHS),
    "falcon_new_one_norm": (
        tiny("falcon", new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1, ffn_hidden_size=40,
             **FALCON), LENGTHS),
    "falcon_alibi": (tiny("falcon", alibi=True, bias=True, **FALCON | {"num_attention_heads": 8}), LONG),
    "falcon_alibi_new": (
        tiny("falcon", alibi=True, new_decoder_architecture=True, num_kv_heads=2, parallel_attn=True, hidden_size=48,
             **FALCON | {"num_attention_heads": 6}), LONG),
    "bloom_plain": (older("bloom", n_head=8), LONG),
    "bloom_heads": (older("bloom", n_head=6, hidden_size=48, tie_word_embeddings=False, pad_token_id=3), LENGTHS),
} | {
    "lfm2_plain": (
        tiny("lfm2", num_hidden_layers=3, block_multiple_of=8, layer_types=["conv", "full_attention", "conv"]), LENGTHS),
    "lfm2_old_keys": (
        tiny("lfm2", intermediate_size="absent", block_ff_dim=70, block_multiple_of=4, block_ffn_dim_multiplier=1.3,
             full_attn_idxs=[1], conv_bias=True, conv_L_cache=5, tie_embedding=False, norm_eps=1e-3), LENGTHS),
    "lfm2_as_named": (
        tiny("lfm2", block_auto_adjust_ff_dim=False, full_attn_idxs=[0], conv_L_cache=2, pad_token_id=None), LENGTHS),
    "qwen3_5_plain": (
        tiny("qwen3_5_text", layer_types=["linear_attention", "full_attention"], head_dim=16, **DELTA), LENGTHS),
    "qwen3_5_chunks": (
        tiny("qwen3_5_text", num_hidden_layers=3, full_attention_interval=3, head_dim=8, attention_bias=True,
             tie_word_embeddings=True, max_position_embeddings=256,
             rope_parameters=rope("default", partial_rotary_factor=0.5, mrope_section=[1, 1, 0], mrope_interleaved=True),
             **DELTA | dict(linear_num_value_heads=2)), [150, 70, 3]),
    "qwen3_next_plain": (
        tiny("qwen3_next", num_hidden_layers=3, layer_types=["linear_attention", "full_attention", "linear_attention"],
             mlp_only_layers=[2], head_dim=8, shared_expert_intermediate_size=28, **EXPERTS, **DELTA), LENGTHS),
    "qwen3_next_dense": (
        tiny("qwen3_next", num_hidden_layers=4, num_experts=0, head_dim=8, partial_rotary_factor=0.5, **DELTA), LENGTHS),
    "qwen3_moe_plain": (tiny("qwen3_moe", head_dim=8, **EXPERTS), LENGTHS),
    "qwen3_moe_sparse_layers": (
        tiny("qwen3_moe", head_dim=12, num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[3],
             norm_topk_prob=True, attention_bias=True, tie_word_embeddings=True, use_sliding_window=True, sliding_window=4,
             **EXPERTS), LENGTHS),
    "mixtral_plain": (tiny("mixtral", num_local_experts=4, num_experts_per_tok=2), LENGTHS),
    "mixtral_window": (
        tiny("mixtral", num_experts=6, num_experts_per_tok=3, head_dim=12, sliding_window=4, hidden_act="gelu"), LENGTHS),
    "qwen2_moe_plain": (tiny("qwen2_moe", shared_expert_intermediate_size=28, **EXPERTS), LENGTHS),
    "qwen2_moe_windows": (
        tiny("qwen2_moe", shared_expert_intermediate_size=28, num_hidden_layers=3, mlp_only_layers=[1], qkv_bias=False,
             norm_topk_prob=True, use_sliding_window=True, sliding_window=4, max_window_layers=2, **EXPERTS), LENGTHS),
    "olmoe_plain": (tiny("olmoe", num_experts=6, num_experts_per_tok=3), LENGTHS),
    "olmoe_clipped": (
        tiny("olmoe", num_experts=4, num_experts_per_tok=1, clip_qkv=0.6, norm_topk_prob=True, attention_bias=True,
             tie_word_embeddings=True), LENGTHS),
    "granitemoe_multipliers": (
        tiny("granitemoe", num_local_experts=5, num_experts_per_tok=2, embedding_multiplier=3.0, logits_scaling=2.5,
             residual_multiplier=0.4, attention_multiplier=0.2, attention_bias=True), LENGTHS),
    "phimoe_plain": (tiny("phimoe", num_local_experts=4, attention_bias=True, lm_head_bias=True), LENGTHS),
    "phimoe_longrope": (
        tiny("phimoe", num_local_experts=5, sliding_window=6, router_jitter_noise=0.2,
             rope_scaling=dict(type="longrope", short_mscale=1.2, long_mscale=1.2, original_max_position_embeddings=16,
                               **LONGROPE)), LONG),
    "gpt_oss_plain": (tiny("gpt_oss", head_dim=8, num_local_experts=5, num_experts_per_tok=2, sliding_window=4), LENGTHS),
    "gpt_oss_plain_rope": (
        tiny("gpt_oss", head_dim=12, num_local_experts=3, num_experts_per_tok=3, sliding_window=6, swiglu_limit=0.5,
             swiglu_alpha=1.2, attention_bias=False, layer_types=["full_attention", "sliding_attention"],
             rope_parameters=rope("default"), tie_word_embeddings=True), LENGTHS),
    "glm4_moe_plain": (tiny("glm4_moe", head_dim=16, n_routed_experts=8, num_experts_per_tok=2, n_group=4, topk_group=2,
                            moe_intermediate_size=20, num_hidden_layers=3), LENGTHS),
    "glm4_moe_qk_norm": (tiny("glm4_moe", head_dim=8, n_routed_experts=6, num_experts_per_tok=3, first_k_dense_replace=0,
                              moe_intermediate_size=12, n_shared_experts=2, use_qk_norm=True, attention_bias=True,
                              norm_topk_prob=False, routed_scaling_factor=2.5, tie_word_embeddings=True,
                              partial_rotary_factor=1.0), LENGTHS),
} | {
    f"act_{name}": (tiny("llama", hidden_act=name, **MLP_ONLY), [6, 4])
    for name in ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "relu2", "swish")
}  # fmt: skip


def random_case(r):
    family = r.choice(["llama", "mistral", "qwen2", "qwen3"])
    heads = r.choice([2, 4, 6])
    head_dim = r.choice([4, 8, 12, 20])
    hidden = heads * r.choice([6, 8])
    config = tiny(family, hidden_size=hidden, num_attention_heads=heads, intermediate_size=r.choice([17, 40, 64]),
                  num_key_value_heads=r.choice([k for k in range(1, heads + 1) if heads % k == 0]),
                  head_dim=head_dim, num_hidden_layers=r.choice([1, 2, 3]), vocab_size=r.choice([33, 80, 200]),
                  tie_word_embeddings=r.random() < 0.5, rms_norm_eps=r.choice([1e-6, 1e-5, 1e-2]),
                  hidden_act=r.choice(["silu", "silu", "gelu", "gelu_pytorch_tanh", "relu"]))  # fmt: skip
    if family in ("llama", "qwen3"):
        config["attention_bias"] = r.random() < 0.5
    if family == "llama":
        config["mlp_bias"] = r.random() < 0.5
    if family == "mistral":
        config["sliding_window"] = r.choice([None, 1, 4, 9])
    if family in ("qwen2", "qwen3") and r.random() < 0.6:
        config |= dict(use_sliding_window=True, sliding_window=r.choice([1, 3, 8]))
        if r.random() < 0.5:
            config["layer_types"] = r.choices(["full_attention", "sliding_attention"], k=config["num_hidden_layers"])
        else:
            config["max_window_layers"] = r.randrange(4)
    if r.random() < 0.5:
        config["pad_token_id"] = r.randrange(33)
    original = r.choice([8, 16, 24])
    numbers = [round(r.uniform(1, 9), 3) for _ in range(head_dim)]
    scaling = r.choice([
        None, dict(linear=r.uniform(1, 5)), dict(dynamic=r.uniform(1, 5)), dict(yarn=r.uniform(1, 8)), "longrope",
        "llama3"])  # fmt: skip
    theta = r.choice([100.0, 10000, 1000000.0])
    if scaling == "longrope":
        scaling = dict(rope_type="longrope", short_factor=numbers[: head_dim // 2], long_factor=numbers[head_dim // 2 :],
                       original_max_position_embeddings=original)  # fmt: skip
    elif scaling == "llama3":
        scaling = dict(rope_type="llama3", **LLAMA3 | dict(original_max_position_embeddings=original))
    elif scaling:
        kind, factor = next(iter(scaling.items()))
        scaling = dict(rope_type=kind, factor=factor)
        if kind == "yarn":
            scaling |= r.choice([{}, dict(beta_fast=r.uniform(3, 20)), dict(truncate=False),
                                 dict(original_max_position_embeddings=original)])  # fmt: skip
        if kind == "dynamic":
            config["max_position_embeddings"] = original
    if r.random() < 0.5:
        config["rope_theta"] = theta
        if scaling:
            config["rope_scaling"] = {("type" if key == "rope_type" else key): v for key, v in scaling.items()}
    else:
        config["rope_parameters"] = {"rope_theta": theta, **(scaling or {"rope_type": "default"})}
    return config, [r.randrange(2, 30) for _ in range(r.randrange(1, 4))]


ROPE_CONFIGS = [
    dict(model_type="llama"),
    dict(model_type="llama", rope_theta=500000.0, max_position_embeddings=131072, head_dim=64,
         rope_scaling=dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                           original_max_position_embeddings=8192)),
    dict(model_type="qwen3", rope_theta=1000000, max_position_embeddings=40960,
         rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)),
    dict(model_type="qwen2", rope_theta=1000000.0, max_position_embeddings=32768, num_attention_heads=28,
         hidden_size=3584, num_key_value_heads=4,
         rope_scaling=dict(type="yarn", factor=4.0, original_max_position_embeddings=32768)),
    dict(model_type="llama", max_position_embeddings=4096, rope_scaling=dict(type="dynamic", factor=2.3)),
    dict(model_type="llama", rope_scaling=dict(type="linear", factor=8.0)),
    dict(model_type="mistral", head_dim=96, max_position_embeddings=131072, original_max_position_embeddings=4096,
         rope_scaling=dict(type="longrope", short_factor=[1 + i / 40 for i in range(48)],
                           long_factor=[1 + i * i / 30 for i in range(48)])),
    dict(model_type="llama", head_dim=128,
         rope_parameters=dict(rope_type="yarn", rope_theta=150000.0, factor=32.0, beta_fast=32.0, beta_slow=1.0,
                              truncate=False, original_max_position_embeddings=4096)),
]  # fmt: skip


def rope_case(config, length):
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        loaded = transformers.AutoConfig.from_pretrained(folder)
    family = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]
    module = __import__(getattr(transformers, family).__module__, fromlist=["x"])
    rotary = getattr(module, family.removesuffix("ForCausalLM") + "RotaryEmbedding")(loaded)
    rotary(torch.zeros(1), torch.arange(length)[None])
    return dict(config=config, length=length, frequencies=rotary.inv_freq.tolist(), scaling=rotary.attention_scaling)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="names that begin so")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    cases = CASES
    if options.random:
        r = random.Random(options.seed)
        cases = {f"random_{options.seed}_{i:03}": random_case(r) for i in range(options.random)}
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.random:
        (options.output / "rope").mkdir(exist_ok=True)
        ropes = [rope_case(config, length) for config in ROPE_CONFIGS for length in (100, 9000)]
        (options.output / "rope/frequencies.json").write_text(json.dumps(ropes) + "\n")
    for name, (config, lengths) in cases.items():
        if not name.startswith(options.only):
            continue
        case = make_case(name, config, lengths)
        print(f"{name}: float32 {case['expected']['float32_error']:.1e}, autocast {case['expected']['autocast_error']:.1e}")
        (options.output / f"{name}.json").write_text(json.dumps(case) + "\n")


if __name__ == "__main__":
    main()
