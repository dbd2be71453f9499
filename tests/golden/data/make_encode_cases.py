#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records how TRL's KTOTrainer encodes small data sets: token ids, dropped rows, extracted prompts, weight advice.

usage: make_encode_cases.py        (in an environment with torch, trl 1.16, transformers, datasets)
Writes, beside this script, the folder model/ (a small byte-level BPE tokenizer that puts a token before plain text, and a
chat template) and encode_cases.json, which tests/data reads.
"""
import json, os, re, tempfile, types, warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
from datasets import disable_progress_bars, load_dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from trl.data_utils import extract_prompt
from trl.trainer import kto_trainer

disable_progress_bars()
here = os.path.dirname(os.path.abspath(__file__))
TEMPLATE = """{{- bos_token }}
{%- if tools %}<|start|>tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|end|>
{% endif %}
{%- for message in messages %}
{{- '<|start|>' + message.role + '\\n' }}
{%- if message.reasoning_content is defined and loop.last %}<think>{{ message.reasoning_content }}</think>{% endif %}
{%- if message.content is string %}{{ message.content }}
{%- elif message.content is defined %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}
{%- for call in message.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}
{{- '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% if mood is defined %}({{ mood }}) {% endif %}
{%- if think is defined and not think %}<think></think>{% endif %}{% endif %}"""


def user(text): return {"role": "user", "content": text}
def assistant(text, **more): return {"role": "assistant", "content": text, **more}


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
turns = [
    ([user("Which colour is the sky?")], [assistant("Blue, on a clear day.")]),
    ([{"role": "system", "content": "Answer in German."}, user("What is the time?")], [assistant("Es ist zwölf Uhr – Mittag.")]),
    ([user("Tell me a story."), assistant("Once there was a fox."), user("  And then? ")], [assistant("The end.\n")]),
    ([user("天空为什么是蓝色的？")], [assistant("因为大气散射 🌤️ 阳光。")]),
    ([user("e\u0301 or \u00e9?")], [assistant(""), user("More."), assistant("\ttab\r\n")]),
    ([user("<|end|> as text")], [assistant("plain <|start|> words")]),
]
plain = [
    ("The sky is", " blue."), ("Hello wor", "ld of words"), ("", "Nothing before."), ("He said: ", "yes<|end|>"),
    ("The sea", ""), ("天空", "是蓝色的"), ("trailing space ", " two spaces"),
]
texts = [
    ("The sky is blue.", "The sky is green."), ("abc", "abcd"), ("abcd", "abc"), ("same", "same"), ("a", "a"), ("a", "b"),
    ("x ", "yz"), ("x é ", "yzü"), ("ab cd", "ab ef"), ("ab  cd", "ab  ef"), (" a", " b"), ("日本語", "日本人"), ("é", "è"),
    ("café x", "café y"), ("🌤️a", "🌤b"), ("ab", "ac"), (" ", "b"), (" ", "  "), ("e\u0301", "e\u0300"), ("é ", "è "),
]


def unpaired(pairs): return [dict(prompt=p, completion=c, label=i % 3 != 0) for i, (p, c) in enumerate(pairs)]


paired = [dict(prompt=p, chosen=c, rejected=[assistant("No idea.")]) for p, c in turns]
CASES = {
    "conversational": dict(rows=unpaired(turns)),
    "conversational_max_length": dict(rows=unpaired(turns), max_length=35),
    "plain": dict(rows=unpaired(plain)),
    "plain_max_length": dict(rows=unpaired(plain), max_length=6),
    "paired": dict(rows=paired),
    "paired_plain": dict(rows=[dict(prompt=p, chosen=c, rejected=c + "!") for p, c in plain]),
    "implicit": dict(rows=[dict(chosen=r["prompt"] + r["chosen"], rejected=r["prompt"] + r["rejected"]) for r in paired]),
    "implicit_plain": dict(rows=[dict(chosen=a, rejected=b) for a, b in texts if len(a) > 1 and len(b) > 1]),
    "tools": dict(rows=[
        dict(prompt=[user("2+2?")], completion=[assistant(None, tool_calls=[CALL])], label=True, tools=json.dumps([TOOL])),
        dict(prompt=[user("2+2?")], completion=[{"role": "assistant", "tool_calls": [CALL]}], label=False, tools=None),
        dict(prompt=[user("2+2?"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "4"}], completion=[assistant("4.")], label=True, tools="[]"),
    ]),
    "template_variables": dict(rows=[
        dict(prompt=[user("Hi")], completion=[assistant("Hello.", reasoning="greet")], label=True, chat_template_kwargs={"mood": "calm"}),
        dict(prompt=[user("Hi")], completion=[assistant("Hello.")], label=False, chat_template_kwargs={"mood": "calm", "bos_token": "<|start|>"}),
        dict(prompt=[user("Hi")], completion=[assistant("(calm) Hello.", thinking="mimic")], label=False, chat_template_kwargs={"mood": "calm"}),
    ]),
    "parted": dict(rows=[  # the rendered prompt is not how the whole begins
        dict(prompt=[user("Hi")], completion=[assistant("Hello.")], label=True, chat_template_kwargs={"think": False}),
        dict(prompt=[user("Hi")], completion=[assistant("<think></think>Hello.")], label=True, chat_template_kwargs={"think": False}),
    ]),
    "parts": dict(rows=[
        dict(prompt=[user([{"type": "text", "text": "One "}, {"type": "text", "text": "two"}])], completion=[assistant([{"type": "text", "text": "three"}])], label=True),
    ]),
}


def make_model(folder):
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|begin|>", "<|start|>", "<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator([json.dumps(turns, ensure_ascii=False), json.dumps(plain), TEMPLATE] * 3, trainer)
    t.post_processor = processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", 0)])
    f = PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<|begin|>", eos_token="<|end|>")
    f.chat_template = TEMPLATE
    f.save_pretrained(folder)


def prepare(tokenizer, rows, max_length=None, weights=(1.0, 1.0)):
    """The trainer's data set and the ranges that it recommends, if it does."""
    said = []
    log = types.SimpleNamespace(warning=lambda m, *a: said.append(m), warning_once=lambda m, *a: None)
    trainer = types.SimpleNamespace(_tokenizer=tokenizer, calculate_KL=False, desirable_weight=weights[0], undesirable_weight=weights[1])
    args = types.SimpleNamespace(dataset_num_proc=None, max_length=max_length, per_device_train_batch_size=4)
    with tempfile.TemporaryDirectory() as tmp:
        with open(f"{tmp}/rows.jsonl", "w", encoding="utf-8") as f:
            f.writelines(json.dumps(r) + "\n" for r in rows)
        data = load_dataset("json", data_files=f"{tmp}/rows.jsonl", cache_dir=tmp)["train"]
        kept, kto_trainer.logger = kto_trainer.logger, log
        try:
            out = [dict(r) for r in kto_trainer.KTOTrainer._prepare_dataset(trainer, data, tokenizer, args, "train")]
        finally:
            kto_trainer.logger = kept
    ranges = [[float(x) for x in re.findall(r"\[([\d.]+), ([\d.]+)\]", m)[i]] for m in said for i in (0, 1)]
    return out, ranges or None


make_model(f"{here}/model")
tokenizer = AutoTokenizer.from_pretrained(f"{here}/model")
tokenizer.pad_token = tokenizer.eos_token  # as the trainer does
out = dict(encode={}, extract=[], balance=[])
for name, case in CASES.items():
    rows, _ = prepare(tokenizer, **case)
    out["encode"][name] = dict(**case, examples=[{k: r[k] for k in ("prompt_ids", "completion_ids", "label")} for r in rows])
for chosen, rejected in texts:
    r = extract_prompt(dict(chosen=chosen, rejected=rejected))
    out["extract"].append(dict(pair=[chosen, rejected], cut=[r["prompt"], r["chosen"], r["rejected"]]))
for good, bad, weights in [(3, 3, (1, 1)), (5, 2, (1, 1)), (2, 5, (1, 1)), (4, 3, (1, 1)), (3, 4, (1.33, 1)), (7, 3, (0.5, 1.1)), (0, 4, (1, 1)), (4, 0, (1, 1)), (1, 0, (1, 1)), (200, 3, (1, 1))]:
    rows = [dict(prompt="a", completion="b", label=i < good) for i in range(good + bad)]
    out["balance"].append(dict(num=[good, bad], weights=weights, ranges=prepare(tokenizer, rows, None, weights)[1]))
with open(f"{here}/encode_cases.json", "w", encoding="utf-8") as f:
    json.dump(out, f, ensure_ascii=False, separators=(",", ":"))
    f.write("\n")
print({k: len(v["examples"]) for k, v in out["encode"].items()}, [b["ranges"] for b in out["balance"]])
