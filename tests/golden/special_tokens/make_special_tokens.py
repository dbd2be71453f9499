#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records which special tokens a model folder names after training with KTOTrainer, for many initial folders.

usage: make_special_tokens.py        (in an environment with torch, trl 1.16, transformers 5.24, datasets)
Writes special_tokens.json beside itself: for each case the ids in config.json, generation_config.json or null, and the tokens
that the tokenizer names (out of `vocabulary`); then the tokens that config.json, generation_config.json and
tokenizer_config.json name afterwards, without other values that transformers adds.
"""
import itertools, json, os, random, shutil, tempfile, warnings

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", CUDA_VISIBLE_DEVICES="")
warnings.filterwarnings("ignore")
import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import KTOConfig, KTOTrainer

disable_progress_bars()
torch.set_num_threads(1)
here = os.path.dirname(os.path.abspath(__file__))
KEYS = ["eos_token_id", "bos_token_id", "pad_token_id"]
VOCABULARY = {token: i for i, token in enumerate(["<e>", "<f>", "<b>", "<p>", "<q>", "x", "y"])}
ROWS = Dataset.from_list([dict(prompt="x", completion="y y", label=i % 2 == 0) for i in range(2)])


def train(family, config, generation, tokens):
    with tempfile.TemporaryDirectory() as folder:
        source, out = f"{folder}/source", f"{folder}/out"
        tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="y"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens).save_pretrained(source)
        AutoModelForCausalLM.from_config(AutoConfig.for_model(
            family, vocab_size=len(VOCABULARY), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            num_key_value_heads=1, head_dim=8, bos_token_id=None, eos_token_id=None, pad_token_id=None)).save_pretrained(source)
        content = json.load(open(f"{source}/config.json"))
        json.dump({**{k: v for k, v in content.items() if k not in KEYS}, **config}, open(f"{source}/config.json", "w"))
        os.remove(f"{source}/generation_config.json")
        if generation is not None:
            json.dump(generation, open(f"{source}/generation_config.json", "w"))
        args = KTOConfig(output_dir=out, max_steps=1, per_device_train_batch_size=2, report_to="none", save_strategy="no", use_cpu=True,
                         bf16=False, disable_tqdm=True)
        trainer = KTOTrainer(model=source, args=args, train_dataset=ROWS)
        trainer.train()
        trainer.save_model(out)
        read = lambda name: json.load(open(f"{out}/{name}"))
        beside = ("transformers_version", "use_cache", "output_attentions", "output_hidden_states")
        return dict(config={k: read("config.json").get(k) for k in KEYS},
                    generation={k: v for k, v in read("generation_config.json").items() if k not in beside},
                    pad_token=read("tokenizer_config.json")["pad_token"])


rng = random.Random(3)
eos = [None, 0, 1, [0], [1], [1, 0], [0, 1], [1, 4], []]
inputs = []
for config_eos, generation_eos in itertools.product([..., *eos], [..., *eos]):  # ...: no such key
    config = {k: v for k, v in zip(KEYS, (config_eos, rng.choice([..., None, 2, 5]), rng.choice([..., None, 3, 0]))) if v is not ...}
    generation = {k: v for k, v in zip(KEYS, (generation_eos, rng.choice([..., None, 2, 5]), rng.choice([..., 3, 4]))) if v is not ...}
    if rng.random() < 0.3:
        generation.update(do_sample=True, temperature=0.6, top_k=20)
    tokens = {k: v for k, v in dict(eos_token="<e>", bos_token=rng.choice([None, "<b>", "x"]), pad_token=rng.choice([None, "<p>", "<e>"])).items() if v}
    inputs.append((rng.choice(["llama", "mistral", "qwen3"]), config, generation if rng.random() < 0.75 else None, tokens))
cases = [dict(family=f, before=dict(config=c, generation=g), tokens=t, after=train(f, c, g, t)) for f, c, g, t in inputs]
with open(f"{here}/special_tokens.json", "w", encoding="utf-8") as file:
    file.write('{"vocabulary":' + json.dumps(VOCABULARY) + ',\n"cases":[\n')
    file.write(",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]}\n")
print(len(cases), "cases")
