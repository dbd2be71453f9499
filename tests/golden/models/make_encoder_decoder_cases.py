#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes encoder_decoder/, the golden cases of tests/model/test_encoder_decoder.cpp: tiny encoder-decoders run by
transformers (5.24, torch 2.13).

  make_encoder_decoder_cases.py [--only PREFIX] [--output DIR]

Weights, token ids and probes are those of make_model_cases.py. A case has pairs of a prompt and a completion, `lengths`
their token counts: sequence 2 i is prompt i, sequence 2 i + 1 its completion. Per case: the log-prob of each token of the
completions, a loss (mean over tokens of a probe times the log-prob), for the gradient of each parameter its norm and its
product with a probe, and the tokens that greedy generate() writes for the first prompt.
"""

import argparse
import json
import pathlib
import tempfile

import torch
import transformers
from make_model_cases import no_casts_to_float32, noise_tensor, token_ids, weight

NEW_TOKENS = 8


def load(config):
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        model = transformers.AutoModelForSeq2SeqLM.from_config(
            transformers.AutoConfig.from_pretrained(folder), attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weight(name, parameter.shape))
        for name, buffer in model.named_buffers():
            if name == "final_logits_bias":
                buffer.copy_(weight(name, buffer.shape))
    return model.eval()


def padded(sequences):
    longest = max(map(len, sequences))
    return torch.tensor([s + [0] * (longest - len(s)) for s in sequences]), \
        torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])


def run(config, lengths, dtype):
    model = load(config).to(dtype)
    ids = [token_ids(i, length, model.config.vocab_size) for i, length in enumerate(sum(lengths, []))]
    prompts, completions = ids[::2], ids[1::2]
    start = model.config.decoder_start_token_id
    input_ids, mask = padded(prompts)
    targets, real = padded(completions)
    inputs, _ = padded([[start] + s[:-1] for s in completions])
    logits = model(input_ids=input_ids, attention_mask=mask, decoder_input_ids=inputs, use_cache=False).logits
    logp = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    real = real.bool()
    loss = (logp[real] * noise_tensor("loss", (int(real.sum()),)).to(dtype)).mean()
    loss.backward()
    grads = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.double()
        grads[name] = [gradient.norm().item(), (gradient * noise_tensor("probe/" + name, gradient.shape)).sum().item()]
    generated = model.generate(input_ids[:1, : len(prompts[0])], max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1,
                               eos_token_id=None, pad_token_id=0, forced_eos_token_id=None, use_cache=False)
    return {
        "logp": [row[: len(s)].tolist() for row, s in zip(logp, completions)],
        "loss": loss.item(),
        "grads": grads,
        "generated": generated[0, 1:].tolist(),
    }


def make_case(name, config, lengths):
    plain = run(config, lengths, torch.float32)
    with no_casts_to_float32():
        exact = run(config, lengths, torch.float64)
    error = max(abs(x - y) for p, q in zip(plain["logp"], exact["logp"]) for x, y in zip(p, q))
    assert error < 1e-4, (name, error)
    assert plain["generated"] == exact["generated"], name
    return {"name": name, "config": config, "lengths": lengths, "expected": exact}


T5 = dict(model_type="t5", vocab_size=80, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0,
          decoder_start_token_id=0, pad_token_id=0)  # fmt: skip
MT5 = T5 | dict(model_type="mt5", feed_forward_proj="gated-gelu")
UMT5 = MT5 | dict(model_type="umt5")
BART = dict(model_type="bart", vocab_size=80, d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=48,
            decoder_ffn_dim=40, encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=40,
            dropout=0.0)  # fmt: skip
PAIRS = [[9, 4], [3, 7], [12, 1]]
LONG = [[38, 30], [5, 12]]

CASES = {
    "t5_plain": (T5, PAIRS),
    "t5_gated": (
        T5 | dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False, d_kv=12, num_decoder_layers=3), PAIRS),
    "t5_buckets": (T5 | dict(relative_attention_num_buckets=8, relative_attention_max_distance=20,
                             feed_forward_proj="gated-silu", layer_norm_epsilon=1e-3), LONG),
    "mt5_plain": (MT5 | dict(tie_word_embeddings=False), PAIRS),
    "umt5_plain": (UMT5, PAIRS),
    "umt5_untied": (
        UMT5 | dict(relative_attention_num_buckets=6, relative_attention_max_distance=9, num_decoder_layers=1,
                    tie_word_embeddings=False), LONG),
    "bart_plain": (BART, PAIRS),
    "bart_scaled": (
        BART | dict(scale_embedding=True, activation_function="relu", decoder_layers=1,
                    decoder_attention_heads=2, decoder_start_token_id=5, pad_token_id=7), LONG),
}  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--output", default=pathlib.Path(__file__).parent / "encoder_decoder", type=pathlib.Path)
    args = parser.parse_args()
    args.output.mkdir(exist_ok=True)
    for name, (config, lengths) in CASES.items():
        if name.startswith(args.only):
            (args.output / f"{name}.json").write_text(json.dumps(make_case(name, config, lengths)) + "\n")
