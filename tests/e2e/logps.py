# SPDX-License-Identifier: Apache-2.0
"""Log-probs of completions from a model that transformers or peft loaded, to compare with train_kto's. Needs torch."""
import json

import torch


def mean_logps(model, tokenizer, rows_file):
    """{"chosen": mean log-prob of the desirable rows, "rejected": of the others}, for conversational rows with a label."""
    sums = {True: [], False: []}
    for line in open(rows_file):
        row = json.loads(line)
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=True)["input_ids"]
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=True)["input_ids"]
        with torch.no_grad():
            logp = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        sums[row["label"]].append(sum(logp[i - 1, whole[i]].item() for i in range(len(prompt), len(whole))))
    return {name: sum(sums[label]) / len(sums[label]) for label, name in ((True, "chosen"), (False, "rejected"))}
