# SPDX-License-Identifier: Apache-2.0
"""Compares model folders with transformers' AutoTokenizer: classes, special tokens and files at random.

    g++ -std=c++20 -O1 -Iinclude tests/golden/tokenizers/encode_lines.cpp -o encode_lines -lpcre2-8 -lutf8proc
    python fuzz_folders.py ./encode_lines [rounds [seed [CLASS ...]]]

Needs transformers 5.24 and tokenizers 0.23; with sentencepiece and protobuf also folders with only a SentencePiece
model. Prints what differs; exit status 1 if anything does.
"""
import collections
import json
import logging
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import warnings

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from fuzz_tokenizers import charsmap, texts
from make_tokenizer_cases import CORPUS

MARK = "▁"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ROBERTA = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", sep_token="</s>", pad_token="<pad>", cls_token="<s>", mask_token="<mask>")
BERT = dict(unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]", cls_token="[CLS]", mask_token="[MASK]")
END = dict(bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>")
# class: (kind of model, its special tokens, first pieces of the vocabulary, file without tokenizer.json, options)
CLASSES = {
    "GPT2Tokenizer": ("bytes", END, [], "vocab.json", ["add_prefix_space", "add_bos_token", "add_eos_token"]),
    "GPTNeoXTokenizer": ("bytes", END, [], "vocab.json", ["add_prefix_space", "add_bos_token", "add_eos_token"]),
    "Qwen2Tokenizer": ("bytes", dict(eos_token="<|endoftext|>", pad_token="<|endoftext|>"), [], "vocab.json", ["add_prefix_space"]),
    "CohereTokenizer": ("bytes", dict(bos_token="<BOS_TOKEN>", pad_token="<PAD>"), [], "vocab.json", ["add_prefix_space", "add_bos_token"]),
    "RobertaTokenizer": ("bytes", ROBERTA, ["<s>", "<pad>", "</s>", "<unk>"], "vocab.json", ["add_prefix_space", "trim_offsets"]),
    "BartTokenizerFast": ("bytes", ROBERTA, ["<s>", "<pad>", "</s>", "<unk>"], "vocab.json", ["add_prefix_space"]),
    "DebertaTokenizer": ("bytes", dict(BERT, bos_token="[CLS]", eos_token="[SEP]"), ["[PAD]", "[CLS]", "[SEP]", "[UNK]"], "vocab.json", ["add_prefix_space"]),
    "LlamaTokenizer": ("pieces", dict(unk_token="<unk>", bos_token="<s>", eos_token="</s>"), ["<unk>", "<s>", "</s>"], "tokenizer.model",
                       ["legacy", "add_prefix_space", "add_bos_token", "add_eos_token"]),
    "CodeLlamaTokenizer": ("pieces", dict(unk_token="<unk>", bos_token="<s>", eos_token="</s>"), ["<unk>", "<s>", "</s>"], "tokenizer.model",
                           ["add_prefix_space", "add_bos_token", "add_eos_token"]),
    "GemmaTokenizer": ("pieces", dict(unk_token="<unk>", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"), ["<pad>", "<eos>", "<bos>", "<unk>"],
                       "tokenizer.model", ["add_bos_token", "add_eos_token"]),
    "T5Tokenizer": ("unigram", dict(pad_token="<pad>", eos_token="</s>", unk_token="<unk>"), ["<pad>", "</s>", "<unk>"], "spiece.model", ["extra_ids"]),
    "XLMRobertaTokenizer": ("unigram", ROBERTA, ["<s>", "<pad>", "</s>", "<unk>"], "sentencepiece.bpe.model", ["add_prefix_space"]),
    "AlbertTokenizer": ("unigram", dict(bos_token="[CLS]", eos_token="[SEP]", unk_token="<unk>", sep_token="[SEP]", pad_token="<pad>", cls_token="[CLS]",
                                        mask_token="[MASK]"), ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], "spiece.model",
                        ["do_lower_case", "keep_accents", "add_prefix_space"]),
    "DebertaV2Tokenizer": ("unigram", dict(BERT, bos_token="[CLS]", eos_token="[SEP]"), ["[PAD]", "[CLS]", "[SEP]", "[UNK]"], "spm.model",
                           ["do_lower_case", "split_by_punct", "add_prefix_space"]),
    "BertTokenizer": ("words", BERT, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], "vocab.txt", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"]),
    "DistilBertTokenizerFast": ("words", BERT, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], "vocab.txt", ["do_lower_case", "strip_accents"]),
    "PreTrainedTokenizerFast": ("any", {}, ["<unk>", "<s>", "</s>"], "tokenizer.model", ["legacy", "add_bos_token", "add_eos_token"]),
}


def trained(kind, first, table, rng):
    first = list(dict.fromkeys(first))
    common = dict(special_tokens=first + (BYTES if kind == "pieces" else []), show_progress=False)
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=rng.random() < .3)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **common)
    elif kind == "pieces":
        tokenizer = Tokenizer(models.BPE(unk_token=first[0], fuse_unk=True, byte_fallback=True))
        tokenizer.normalizer = normalizers.Replace(" ", MARK)
        trainer = trainers.BpeTrainer(vocab_size=700, limit_alphabet=120, **common)
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        steps = [normalizers.Precompiled(table)] if table and rng.random() < .7 else []
        tokenizer.normalizer = normalizers.Sequence(steps + [normalizers.Replace(Regex(" {2,}"), " ")])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(MARK, "always")
        trainer = trainers.UnigramTrainer(vocab_size=700, unk_token=[token for token in first if "unk" in token.lower()][0], **common)
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=rng.random() < .5)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=500, limit_alphabet=150, **common)
    tokenizer.train_from_iterator(CORPUS.split("\n"), trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in BYTES and rng.random() < .8]
    if rng.random() < .5 and first:
        spec["post_processor"] = json.loads(processors.TemplateProcessing(
            single=f"{first[0]} $A", pair="$A $B", special_tokens=[(first[0], 0)]).__getstate__().decode())
    return spec


def sentence_piece(path, rng):
    import sentencepiece
    with tempfile.TemporaryDirectory() as folder:
        corpus = pathlib.Path(folder) / "corpus.txt"
        corpus.write_text(CORPUS * 3, encoding="utf-8")
        options = dict(model_type=rng.choice(["bpe", "unigram"]), normalization_rule_name=rng.choice(["identity", "nmt_nfkc", "nfkc", "nmt_nfkc_cf"]),
                       byte_fallback=rng.random() < .6, add_dummy_prefix=rng.random() < .8, remove_extra_whitespaces=rng.random() < .5)
        if rng.random() < .5:
            options["user_defined_symbols"] = rng.sample(["<mask>", "<|im_start|>", "hello", "the", MARK + "q", "a.b", "  ", "<t>"], 3)
        if rng.random() < .3:
            options["control_symbols"] = ["<ctl>", "<|im_end|>"]
        if rng.random() < .3:
            options.update(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
        sentencepiece.SentencePieceTrainer.train(input=str(corpus), model_prefix=folder + "/m", vocab_size=900, hard_vocab_limit=False,
                                                 minloglevel=2, **options)
        path.write_bytes((pathlib.Path(folder) / "m.model").read_bytes())


def token_value(rng, text):
    if rng.random() < .6:
        return text
    flags = {flag: rng.random() < .3 for flag in ("lstrip", "rstrip", "single_word", "normalized")}
    return dict(flags, content=text, __type="AddedToken", special=rng.random() < .8)


def random_folder(rng, path, name, table, has_sentencepiece):
    kind, special, first, file, options = CLASSES[name]
    config = {}
    if rng.random() < .9:
        config["tokenizer_class"] = name
    for option in options:
        if rng.random() < .5:
            config[option] = rng.random() < .5 if option != "extra_ids" else rng.choice([0, 3, 100])
    for key, text in special.items():
        if rng.random() < .6:
            config[key] = token_value(rng, text if rng.random() < .9 else f"<own {key}>")
    if rng.random() < .2:
        config[rng.choice(["mask_token", "pad_token", "bos_token", "image_token"])] = rng.choice(["<mask>", "<x>"])
    if rng.random() < .2:
        config["additional_special_tokens"] = rng.choice([None, [], ["<x>", "hello"], ["<extra_id_0>", "<y>"]])
    if rng.random() < .2:
        config["extra_special_tokens"] = rng.choice([["<z>", token_value(rng, "<w>")], {"boi_token": "<boi>"}])
    if rng.random() < .2:
        config["split_special_tokens"] = True
    if rng.random() < .3:
        config["clean_up_tokenization_spaces"] = rng.random() < .7
    if kind == "any":
        kind = rng.choice(["bytes", "pieces", "unigram"])
    source = rng.random()
    if source < .5 and (file != "tokenizer.model" or name != "PreTrainedTokenizerFast") or not has_sentencepiece and file.endswith(".model"):
        spec = trained(kind, first, table, rng)
        (path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    elif file.endswith(".model"):
        sentence_piece(path / (file if source < .8 else "tokenizer.model"), rng)
    else:
        spec = trained(kind, first, table, rng)
        vocabulary = spec["model"]["vocab"]
        if file == "vocab.txt":
            lines = sorted(vocabulary, key=vocabulary.get)
            if rng.random() < .3:
                lines[-3] = lines[-2] + rng.choice(["", " ", "\t"])
            (path / file).write_text("".join(line + rng.choice(["\n", "\n", "\r\n"]) for line in lines), encoding="utf-8", newline="")
        else:
            (path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
            (path / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in spec["model"]["merges"]), encoding="utf-8")
    if rng.random() < .3:
        tokens = {str(rng.choice([0, 1, 2, 5, 300, 2000])): token_value(rng, rng.choice(["<s>", "</s>", "<new>", "[MASK]"])) for _ in range(2)}
        config["added_tokens_decoder"] = {key: {k: v for k, v in value.items() if k != "__type"} if isinstance(value, dict) else
                                          dict(content=value, lstrip=False, rstrip=False, single_word=False, normalized=False, special=True)
                                          for key, value in tokens.items()}
    elif rng.random() < .2:
        (path / "special_tokens_map.json").write_text(json.dumps({key: token_value(rng, text) for key, text in special.items()} |
                                                                 {"additional_special_tokens": ["<v>"]}), encoding="utf-8")
    if rng.random() < .9:
        (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    types = {"T5Tokenizer": ["t5", "mt5", "umt5"], "RobertaTokenizer": ["bart", "roberta"], "BartTokenizerFast": ["bart"], "BertTokenizer": ["bert"],
             "GPT2Tokenizer": ["gpt2", "opt", "llama"], "GPTNeoXTokenizer": ["gpt_neox", "olmo"], "Qwen2Tokenizer": ["qwen2", "qwen3"],
             "LlamaTokenizer": ["llama", "mistral"], "GemmaTokenizer": ["gemma", "gemma3_text"], "CohereTokenizer": ["cohere"],
             "XLMRobertaTokenizer": ["xlm-roberta"], "AlbertTokenizer": ["albert"], "PreTrainedTokenizerFast": ["llama", "mistral", "phi3"]}
    if rng.random() < .7 and name in types:
        (path / "config.json").write_text(json.dumps({"model_type": rng.choice(types[name])}))


def compare(program, folder, lines):
    """What differs, None if transformers cannot load the folder, or \"refused\" with the reason if only kto cannot."""
    from transformers import AutoTokenizer
    done = subprocess.run([program, folder], input="".join(json.dumps(line) + "\n" for line in lines).encode(), capture_output=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        expected = [{"class": type(tokenizer).__name__, "special_tokens": tokenizer.special_tokens_map, "size": len(tokenizer)}]
        for line in lines:
            ids = tokenizer(line)["input_ids"]
            expected.append({"ids": ids, "alone": tokenizer(line, add_special_tokens=False)["input_ids"], "text": tokenizer.decode(ids),
                             "skipped": tokenizer.decode(ids, skip_special_tokens=True)})
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return ("only transformers refuses: " + repr(error)[:160]) if done.returncode == 0 else None
    if done.returncode != 0:
        return "refused: " + done.stderr.decode().strip()
    found = [json.loads(line) for line in done.stdout.decode().split("\n") if line]
    for line, want, got in zip(["the tokenizer"] + lines, expected, found):
        if want != got:
            keys = [key for key in want if want[key] != got[key]]
            return f"differs in {keys} for {ascii(line)}\n  expected {ascii([want[k] for k in keys])[:600]}\n  found    {ascii([got[k] for k in keys])[:600]}"
    return ""


def main():
    program, rounds, seed = sys.argv[1], int((sys.argv[2:] or [50])[0]), int((sys.argv[3:] or [1])[0])
    rng = random.Random(seed)
    warnings.filterwarnings("ignore")
    os.environ["TRANSFORMERS_VERBOSITY"] = "critical"
    logging.disable(logging.CRITICAL)
    blob = charsmap()
    try:
        import sentencepiece  # noqa: F401
        has_sentencepiece = True
    except ImportError:
        has_sentencepiece = False
    import base64
    table = base64.b64decode(blob) if blob else None
    counts = collections.Counter()
    bad = 0
    for number in range(rounds):
        name = rng.choice(sys.argv[4:] or list(CLASSES))
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            random_folder(rng, path, name, table, has_sentencepiece)
            lines = texts(rng, 40) + ["<s> a</s><mask>", "<new>hello <x>", "<extra_id_0> <extra_id_99>the", "[MASK] [CLS]", " the", "a , b ."]
            result = compare(program, folder, lines)
            if result is None:
                counts["transformers cannot load"] += 1
                continue
            if result.startswith(("only", "refused")):
                key = result.replace(folder, "FOLDER")[:200]
                counts[key] += 1
                continue
            counts["equal" if result == "" else "different"] += 1
            if result:
                bad += 1
                if "KEEP" in os.environ:
                    shutil.copytree(folder, f"{os.environ['KEEP']}/{number}", dirs_exist_ok=True)
                if bad <= int(os.environ.get("SHOW", "5")):
                    print(number, name, sorted(file.name for file in path.iterdir()), result)
                    for file in ("tokenizer_config.json", "special_tokens_map.json", "config.json"):
                        if (path / file).exists():
                            print("  ", file, (path / file).read_text()[:1500])
    for key, count in counts.most_common():
        print(count, key)
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
