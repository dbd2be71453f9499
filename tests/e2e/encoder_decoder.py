# SPDX-License-Identifier: Apache-2.0
"""encoder_decoder.py TRAIN_KTO CHAT SOURCE_ROOT: tiny encoder-decoders with random weights, made by transformers. The log of
a run is that of a loop here, with transformers' forward, KTO's formula and torch's AdamW; saved models and adapters load in
transformers and peft with the log-probs that train_kto evaluated; chat writes what generate() does. Skipped where torch,
transformers or peft are missing."""
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
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, logging
except ImportError as error:
    print("skipped:", error)
    sys.exit(77)
from cases import Cases
from encoder_decoder_formula import encode, logps, train
from tiny_model import make_rows

train_kto, chat, root = sys.argv[1:4]
torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()

T5 = dict(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=1, pad_token_id=1, eos_token_id=2)
BART = dict(d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=48, decoder_ffn_dim=48, encoder_attention_heads=4,
            decoder_attention_heads=4, max_position_embeddings=512, decoder_start_token_id=2, pad_token_id=1, bos_token_id=0,
            eos_token_id=2, forced_eos_token_id=2)  # fmt: skip
MODELS = {"t5": T5, "mt5": T5, "umt5": T5, "bart": BART | dict(scale_embedding=True)}


def make_model(folder, family):
    """Its tokenizer is that of tests/golden/data/model, with T5's or BART's special tokens around a text."""
    shutil.copytree(os.path.join(root, "tests", "golden", "data", "model"), folder)
    path = os.path.join(folder, "tokenizer.json")
    tokenizer = json.load(open(path, encoding="utf-8"))
    special = lambda text: {"SpecialToken": {"id": text, "type_id": 0}}
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    single = [special("<|begin|>"), sequence, special("<|end|>")] if family == "bart" else [sequence, special("<|end|>")]
    tokens = {text: {"id": text, "ids": [id], "tokens": [text]} for text, id in (("<|begin|>", 0), ("<|end|>", 2))}
    tokenizer["post_processor"] = dict(type="TemplateProcessing", single=single, pair=single, special_tokens=tokens)
    json.dump(tokenizer, open(path, "w", encoding="utf-8"))
    size = max(list(tokenizer["model"]["vocab"].values()) + [token["id"] for token in tokenizer["added_tokens"]]) + 1
    config = AutoConfig.for_model(family, vocab_size=size, **MODELS[family])
    for name in vars(config):
        if name.endswith(("dropout", "dropout_rate")):
            setattr(config, name, 0.0)
    torch.manual_seed(1)
    model = AutoModelForSeq2SeqLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)


def embedding_size(tensors):
    return tensors["model.shared.weight"].shape[0]


class Test(Cases):
    def __init__(self, tmp):
        super().__init__()
        self.at = lambda *parts: os.path.join(tmp, *parts)
        os.makedirs(self.at("rows"))
        make_rows(self.at("rows", "train.jsonl"))
        make_rows(self.at("rows", "test.jsonl"), 4)
        words = "alpha beta gamma delta rivers mountains".split()
        self.plain = [dict(prompt=" ".join(words[: 1 + i % 6]), completion=" " + " ".join(words[i % 3 : i % 3 + 1 + i % 4]),
                           label=i % 3 != 0) for i in range(12)]  # fmt: skip
        with open(self.at("plain.jsonl"), "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in self.plain)
        for family in MODELS:
            make_model(self.at(family), family)

    def run(self, family, out, *flags, rows="rows"):
        command = [train_kto, "--model_name_or_path", self.at(family), "--dataset_name", self.at(rows), "--output_dir", self.at(out),
                   "--per_device_train_batch_size", "4", "--learning_rate", "1e-2", "--logging_steps", "1", *flags]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ, OMP_NUM_THREADS="1"))

    def log(self, out):
        clock = re.compile("runtime|_per_second")
        entries = json.load(open(self.at(out, "trainer_state.json")))["log_history"]
        return [{k: v for k, v in entry.items() if not clock.search(k)} for entry in entries]

    def weights(self, out):
        return {name: open(self.at(out, name), "rb").read() for name in os.listdir(self.at(out)) if name.endswith(".safetensors")}

    def formula(self, family):
        flags = ["--max_steps", "3", "--train_sampling_strategy", "sequential", "--lr_scheduler_type", "constant",
                 "--max_prompt_length", "9", "--max_completion_length", "6", "--truncation_mode", "keep_start"]  # fmt: skip
        result = self.run(family, f"{family}-formula", *flags, rows="plain.jsonl")
        if result.returncode != 0:
            return self.case(f"{family}: a run", False, result.stderr)
        tokenizer = AutoTokenizer.from_pretrained(self.at(family))
        rows = [(encode(tokenizer, row, 9, 6), row["label"]) for row in self.plain]
        assert any(len(pair[0]) == 9 for pair, _ in rows) and any(len(pair[1]) == 6 for pair, _ in rows)
        expected = train(AutoModelForSeq2SeqLM.from_pretrained(self.at(family)).eval(), [rows[i : i + 4] for i in (0, 4, 8)])
        got = self.log(f"{family}-formula")
        worst = max((abs(log[key] - want[key]) / (1 + abs(want[key])), key, step)
                    for step, (log, want) in enumerate(zip(got, expected)) for key in want)  # fmt: skip
        self.case(f"{family}: the log is that of transformers and the formula", worst[0] < 1e-5, worst)
        tokens = sum(4 * max(len(pair[0]) for pair, _ in rows[i : i + 4]) for i in (0, 4, 8))
        want = 6 * tokens * AutoModelForSeq2SeqLM.from_pretrained(self.at(family)).num_parameters(exclude_embeddings=True)
        flos = json.load(open(self.at(f"{family}-formula", "trainer_state.json")))["total_flos"]
        self.case(f"{family}: total_flos is transformers' estimate", flos == want, (flos, want))

    def reload(self, family, *flags):
        out = f"{family}-saved" + "".join(flags[:1])
        result = self.run(family, out, "--max_steps", "2", "--do_eval", *flags)
        if result.returncode != 0:
            return self.case(f"{family}: a run with {flags}", False, result.stderr)
        evaluated = json.load(open(self.at(out, "eval_results.json")))
        base = AutoModelForSeq2SeqLM.from_pretrained(self.at(family if flags else out))
        trained = (PeftModel.from_pretrained(base, self.at(out)) if flags else base).eval()
        tokenizer = AutoTokenizer.from_pretrained(self.at(family))
        rows = [json.loads(line) for line in open(self.at("rows", "test.jsonl"))]
        for name, label in (("chosen", True), ("rejected", False)):
            with torch.no_grad():
                want = logps(trained, [encode(tokenizer, row) for row in rows if row["label"] == label]).mean().item()
            got = evaluated[f"eval_logps/{name}"]
            self.case(f"{family} {flags}: saved, it gives the log-probs that were evaluated ({name})", abs(want - got) < 2e-5 * abs(want), (want, got))
        if flags:
            config = json.load(open(self.at(out, "adapter_config.json")))
            self.case(f"{family}: its adapter is one of a sequence to sequence model", config["task_type"] == "SEQ_2_SEQ_LM", config)
        else:
            self.replies(out)

    def replies(self, out):
        """Greedy replies of chat and of transformers."""
        text = "alpha beta"
        result = subprocess.run([chat, "--model_name_or_path", self.at(out), "--temperature", "0", "--max_new_tokens", "12"],
                                input=text + "\n", capture_output=True, text=True, timeout=120)  # fmt: skip
        model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(self.at(out)).eval(), AutoTokenizer.from_pretrained(self.at(out))
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        ids = model.generate(**tokenizer(rendered, return_tensors="pt"), max_new_tokens=12, do_sample=False, num_beams=1)[0]
        want = tokenizer.decode(ids, skip_special_tokens=True)
        is_blank = out.startswith("bart") and not want.strip()  # bart's first token may be its end
        self.case(f"{out}: chat writes what generate() does", result.stdout.strip() == want.strip() and (want.strip() or is_blank), (result.stdout, result.stderr, want))

    def variants(self):
        """Checkpoints as other versions wrote them."""
        def rewrite(family, name, change):
            shutil.copytree(self.at(family), self.at(name))
            path = self.at(name, "model.safetensors")
            tensors = load_file(path)
            save_file(change(tensors), path, metadata={"format": "pt"})
            return self.run(name, f"{name}-out", "--max_steps", "1", "--do_eval")

        embedding = lambda tensors: tensors["shared.weight"]
        untied = rewrite("t5", "untied", lambda tensors: tensors | {"lm_head.weight": embedding(tensors).flip(0).contiguous()})
        self.case("a head of its own", untied.returncode == 0, untied.stderr)
        if untied.returncode == 0:
            trained = AutoModelForSeq2SeqLM.from_pretrained(self.at("untied-out")).eval()
            tokenizer = AutoTokenizer.from_pretrained(self.at("t5"))
            rows = [json.loads(line) for line in open(self.at("rows", "test.jsonl"))]
            with torch.no_grad():
                want = logps(trained, [encode(tokenizer, row) for row in rows if row["label"]]).mean().item()
            got = json.load(open(self.at("untied-out", "eval_results.json")))["eval_logps/chosen"]
            self.case("it is saved so that transformers gives its log-probs", abs(want - got) < 2e-5 * abs(want), (want, got))
        copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
        same = rewrite("t5", "copies", lambda tensors: tensors | {name: embedding(tensors).clone() for name in copies})
        self.case("copies of the embedding", same.returncode == 0, same.stderr)
        differ = rewrite("t5", "differ", lambda tensors: tensors | {copies[0]: embedding(tensors) + 1})
        self.case("other embeddings are refused", differ.returncode == 1 and "encoder.embed_tokens.weight differs" in differ.stderr, differ.stderr)
        bare = rewrite("bart", "bare", lambda tensors: {name.removeprefix("model."): tensor for name, tensor in tensors.items()
                                                        if name != "final_logits_bias"})  # fmt: skip
        self.case("names of the bare model, and no final_logits_bias", bare.returncode == 0, bare.stderr)
        logits = rewrite("bart", "logits", lambda tensors: tensors | {"final_logits_bias": torch.randn(1, embedding_size(tensors))})
        kept = load_file(self.at("logits-out", "model.safetensors")) if logits.returncode == 0 else {}
        self.case("final_logits_bias is used and kept", kept and torch.equal(kept["final_logits_bias"], load_file(self.at("logits", "model.safetensors"))["final_logits_bias"])
                  and json.load(open(self.at("logits-out", "eval_results.json")))["eval_logps/chosen"] != json.load(open(self.at("bare-out", "eval_results.json")))["eval_logps/chosen"], logits.stderr)

    def paths(self):
        """Runs that must agree with a plain one."""
        flags = ["--max_steps", "4", "--save_steps", "2", "--eval_strategy", "steps", "--eval_steps", "2"]
        plain = self.run("t5", "plain", *flags)
        self.case("a run with evaluations and checkpoints", plain.returncode == 0, plain.stderr)
        shutil.copytree(self.at("plain"), self.at("resumed"))
        for name in ("model.safetensors", "checkpoint-4"):
            path = self.at("resumed", name)
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        resumed = self.run("t5", "resumed", *flags, "--resume_from_checkpoint", "True")
        self.case("a resumed run is the same to the last bit", resumed.returncode == 0 and self.weights("plain") == self.weights("resumed"), resumed.stderr)
        for name, more in (("precomputed", ["--precompute_ref_log_probs", "--ref_logps_cache", self.at("cache")]),
                           ("recomputed", ["--gradient_checkpointing"]), ("streamed", ["--dataset_streaming"]),
                           ("generating", ["--generate_during_eval", "--is_encoder_decoder", "True"])):  # fmt: skip
            other = self.run("t5", name, *flags, "--train_sampling_strategy", "sequential", *more)
            if name == "precomputed":
                base = self.run("t5", "sequential", *flags, "--train_sampling_strategy", "sequential")
                self.case("a run in order", base.returncode == 0, base.stderr)
            if other.returncode != 0:
                self.case(f"{name}: it runs", False, other.stderr)
                continue
            same = lambda a, b: isinstance(a, (int, str, list)) or abs(a - b) < 1e-4 * (1 + abs(a))
            pairs = list(zip(self.log("sequential"), self.log(name)))
            keys = [key for key in ("loss", "eval_loss", "logps/chosen", "kl", "eval_kl") if name != "precomputed" or "kl" not in key]
            self.case(f"{name}: the same log", len(pairs) > 4 and all(same(a[key], b[key]) for a, b in pairs for key in keys if key in a), pairs[:2])
        samples = [entry["eval_samples"] for entry in self.log("generating") if "eval_samples" in entry]
        self.case("replies of policy and reference in the log", samples and samples[0][0]["policy"] != samples[0][0]["prompt"], samples)

    def refusals(self):
        """What has no meaning here."""
        for family, flags, message in (("t5", ["--is_encoder_decoder", "False"], "is_encoder_decoder is False"),
                                       ("t5", ["--max_length", "64"], "max_prompt_length and max_completion_length"),
                                       ("t5", ["--collator", "padded"], "have no padding"),
                                       ("t5", ["--neftune_noise_alpha", "5"], "neftune_noise_alpha"),
                                       ("bart", ["--max_prompt_length", "900", "--dataset_streaming", "--max_steps", "1"], "lower --max_prompt_length to 512"),
                                       ("umt5", ["--use_peft"], "PEFT has no default for umt5"),
                                       ("t5", ["--use_peft", "--lora_target_modules", "shared"], "two stacks share it")):  # fmt: skip
            result = self.run(family, "refused", *flags)
            self.case(f"refused: {' '.join(flags)}", result.returncode in (1, 2) and message in result.stderr, result.stderr)


with tempfile.TemporaryDirectory() as tmp:
    test = Test(tmp)
    for family in ("t5", "bart"):
        test.formula(family)
    for family in ("t5", "umt5", "bart"):
        test.reload(family)
    test.reload("t5", "--use_peft")
    test.reload("bart", "--use_peft", "--lora_target_modules", "all-linear")
    test.variants()
    test.paths()
    test.refusals()
    sys.exit(test.report())
