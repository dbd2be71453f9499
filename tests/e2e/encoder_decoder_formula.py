# SPDX-License-Identifier: Apache-2.0
"""KTO of encoder-decoders with transformers' forward: the oracle of encoder_decoder.py, and the peer in benchmarks/compare_trl.py
(TRL trains none)."""
import copy

import torch
from transformers import AutoConfig


def padded(sequences):
    longest = max(map(len, sequences))
    return torch.tensor([s + [0] * (longest - len(s)) for s in sequences]), \
        torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])


def logps(model, pairs):
    """Sums of the log-probs of completions, [B]."""
    input_ids, mask = padded([prompt for prompt, _ in pairs])
    targets, real = padded([completion for _, completion in pairs])
    start = AutoConfig.from_pretrained(model.config.name_or_path).decoder_start_token_id
    inputs, _ = padded([[start] + completion[:-1] for _, completion in pairs])
    logits = model(input_ids=input_ids, attention_mask=mask, decoder_input_ids=inputs, use_cache=False).logits
    return (logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0] * real).sum(-1)


def encode(tokenizer, row, max_prompt_length=None, max_completion_length=None):
    ids = lambda text, limit: tokenizer(text, truncation=limit is not None, max_length=limit)["input_ids"]
    prompt, completion = row["prompt"], row["completion"]
    if not isinstance(prompt, str):
        whole = tokenizer.apply_chat_template(prompt + completion, tokenize=False)
        prompt = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        completion = whole[len(prompt):]
    return ids(prompt, max_prompt_length), ids(completion, max_completion_length)


def train(model, batches, beta=0.1, learning_rate=1e-2, bf16=False):
    """Yields the log of each step: the KL pairs of a batch are its prompts and the completions moved on by one. bf16: under
    autocast."""
    def scores(scored, pairs):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return logps(scored, pairs)

    reference = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    for batch in batches:
        pairs, chosen = [pair for pair, _ in batch], torch.tensor([label for _, label in batch])
        mismatched = [(prompt, pairs[i - 1][1]) for i, (prompt, _) in enumerate(pairs)]
        with torch.no_grad():
            kl = (scores(model, mismatched) - scores(reference, mismatched)).mean().clamp(min=0)
            expected = scores(reference, pairs)
        got = scores(model, pairs)
        reward = beta * (got - expected)
        loss = (1 - torch.where(chosen, reward - beta * kl, beta * kl - reward).sigmoid()).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield {"loss": loss.item(), "kl": kl.item(), "grad_norm": norm.item(),
               "rewards/chosen": reward[chosen].mean().item(), "rewards/rejected": reward[~chosen].mean().item(),
               "logps/chosen": got[chosen].mean().item(), "logps/rejected": got[~chosen].mean().item()}  # fmt: skip
