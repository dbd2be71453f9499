#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records the token ids of rows and their KL pairs in KTOTrainer 0.22, for every truncation_mode.

usage: make_older_cases.py        (in an environment with torch, trl 0.22.2, transformers 4.57, datasets)
Reads the folder model/ beside it and writes older_cases.json, which tests/data reads. For each row: the number of prompt
tokens and the ids, and the same for its KL pair.
"""
import itertools, json, os, warnings

os.environ["HF_HUB_OFFLINE"], os.environ["TRANSFORMERS_VERBOSITY"] = "1", "error"
warnings.filterwarnings("ignore")
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from trl import KTOConfig, KTOTrainer

disable_progress_bars()
here = os.path.dirname(os.path.abspath(__file__))


def user(text): return {"role": "user", "content": text}
def assistant(text): return {"role": "assistant", "content": text}


turns = [
    ([user("Which colour is the sky?")], [assistant("Blue, on a clear day.")]),
    ([{"role": "system", "content": "Answer in German."}, user("What is the time?")], [assistant("Es ist zwölf Uhr.")]),
    ([user("Tell me a story."), assistant("Once there was a fox."), user("  And then? ")], [assistant("The end.\n")]),
    ([user("天空为什么是蓝色的？")], [assistant("因为大气散射 🌤️ 阳光。")]),
    ([user("Go on."), assistant("The fox ran ")], [assistant("home.")]),
    ([user("Go on."), assistant("The fox")], [user("What?"), assistant("ran.")]),
    ([user("Hi")], [assistant("")]),
]
plain = [
    ("The sky is", " blue."), ("Hello wor", "ld of words"), ("", "Nothing before."), ("He said: ", "yes<|end|>"), ("The sea", ""),
    ("<|begin|>天空", "是蓝色的"), ("trailing space ", " two spaces"), ("a b c d e f g h i j k l m n o p", "q r s t u v w x y z"), ("x", "y" * 30),
]
SETS = {
    "conversational": [dict(prompt=p, completion=c, label=i % 3 != 0) for i, (p, c) in enumerate(turns)],
    "plain": [dict(prompt=p, completion=c, label=i % 3 != 0) for i, (p, c) in enumerate(plain)],
    "paired": [dict(prompt=p, chosen=c, rejected=[assistant("No idea.")]) for p, c in turns[:4]],
    "implicit": [dict(chosen=p + c, rejected=p + [assistant("No.")]) for p, c in turns[:4]],
}
RULES = [dict(max_length=m, max_prompt_length=p, truncation_mode=mode)
         for (m, p), mode in itertools.product([(64, 32), (24, 8), (16, 12), (24, 22), (12, 30), (1024, 512)], ["keep_end", "keep_start"])]


def make(rows, bos, rule):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(f"{here}/model")
    if not bos:
        tokenizer.bos_token = None
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(vocab_size=400, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))
    args = KTOConfig(output_dir="unused", per_device_train_batch_size=4, report_to="none", use_cpu=True, bf16=False, **rule)
    trainer = KTOTrainer(model=model, ref_model=None, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)

    def row(example, prefix):
        labels = example[f"{prefix}completion_labels"]
        assert [i for i in labels if i != -100] == example[f"{prefix}completion_input_ids"][labels.count(-100):]
        return [labels.count(-100), example[f"{prefix}completion_input_ids"]]
    return [row(example, "") + row(example, "KL_") for example in trainer.train_dataset]


cases = [dict(set=name, bos=bos, **rule, rows=make(SETS[name], bos, rule)) for name in SETS for bos in (True, False) for rule in RULES
         if name in ("conversational", "plain") or rule["max_length"] in (24, 1024)]
with open(f"{here}/older_cases.json", "w", encoding="utf-8") as file:
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    file.write('{"sets":' + json.dumps(SETS, ensure_ascii=False, separators=(",", ":")) + ',\n"cases":[\n' + lines + "\n]}\n")
print(len(cases), "cases,", sum(len(case["rows"]) for case in cases), "rows")
