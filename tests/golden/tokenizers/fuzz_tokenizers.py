# SPDX-License-Identifier: Apache-2.0
"""Compares kto's tokenizer with Hugging Face's on random texts and random steps.

    g++ -std=c++20 -O1 -Iinclude tests/golden/tokenizers/encode_lines.cpp -o encode_lines -lpcre2-8 -lutf8proc
    python fuzz_tokenizers.py ./encode_lines [rounds [seed [tokenizer.json ...]]]

Needs tokenizers 0.23; with sentencepiece also the normalizer Precompiled. Without files, each round trains a small
tokenizer of random parts. Prints what differs; exit status 1 if anything does.
"""
import json
import pathlib
import random
import subprocess
import sys
import tempfile

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from make_tokenizer_cases import ATOMS, CORPUS

MARK = "▁"


def texts(rng, count):
    def any_character():
        while True:
            top = rng.choice([0x80, 0x800, 0x3000, 0x10000, 0x20000, 0x110000])
            c = rng.randrange(top)
            if not 0xD800 <= c < 0xE000:
                return chr(c)
    lines = [line for line in CORPUS.split("\n") if line]
    out = []
    for _ in range(count):
        kind = rng.randrange(4)
        if kind == 0:
            out.append("".join(any_character() for _ in range(rng.randrange(1, 30))))
        elif kind == 1:
            out.append("".join(rng.choice(ATOMS) for _ in range(rng.randrange(1, 20))))
        elif kind == 2:
            line = rng.choice(lines)
            out.append(line[rng.randrange(len(line)):])
        else:
            out.append("".join(rng.choice([any_character(), rng.choice(ATOMS), rng.choice("abcdeth "), "\u0301"]) for _ in range(20)))
    return out


def charsmap():
    try:
        import sentencepiece
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        corpus = pathlib.Path(folder) / "corpus.txt"
        corpus.write_text(CORPUS * 3, encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(input=str(corpus), model_prefix=folder + "/m", vocab_size=300, hard_vocab_limit=False,
                                                 normalization_rule_name="nmt_nfkc", minloglevel=2)
        blob = (pathlib.Path(folder) / "m.model").read_bytes()
    # field 3 of the model is the NormalizerSpec; its field 2 is the table
    def fields(data):
        at = 0
        def varint():
            nonlocal at
            value = shift = 0
            while True:
                byte = data[at]
                at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value
        while at < len(data):
            tag = varint()
            if tag & 7 == 2:
                size = varint()
                yield tag >> 3, data[at:at + size]
                at += size
            elif tag & 7 == 0:
                yield tag >> 3, varint()
            else:
                size = 4 if tag & 7 == 5 else 8
                at += size
    import base64
    spec = dict(fields(dict(fields(blob))[3]))
    return base64.b64encode(spec[2]).decode()


def random_parts(rng, table):
    simple = ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "Strip"]
    norms = [lambda: getattr(normalizers, rng.choice(simple))() for _ in range(4)]
    norms += [lambda: normalizers.BertNormalizer(rng.random() < .7, rng.random() < .7, rng.choice([None, True, False]), rng.random() < .5),
              lambda: normalizers.Replace(rng.choice(["a", " ", Regex(r"\s+"), Regex("[aeiou]+"), Regex(" {2,}")]), rng.choice(["", " ", MARK, "xy"])),
              lambda: normalizers.Prepend(MARK)]
    if table:
        import base64
        norms += [lambda: normalizers.Precompiled(base64.b64decode(table))] * 3
    pres = [lambda: pre_tokenizers.Metaspace(MARK, rng.choice(["always", "first", "never"]), rng.random() < .5),
            lambda: pre_tokenizers.Metaspace(MARK, rng.choice(["always", "first", "never"]), rng.random() < .5),
            pre_tokenizers.BertPreTokenizer, pre_tokenizers.Whitespace, pre_tokenizers.WhitespaceSplit,
            lambda: pre_tokenizers.CharDelimiterSplit(rng.choice("ea ")),
            lambda: pre_tokenizers.Punctuation(rng.choice(["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"])),
            lambda: pre_tokenizers.Digits(rng.random() < .5), pre_tokenizers.UnicodeScripts, lambda: pre_tokenizers.FixedLength(rng.randrange(1, 9)),
            lambda: pre_tokenizers.ByteLevel(rng.random() < .5, use_regex=rng.random() < .5)]
    decs = [lambda: decoders.WordPiece("##", rng.random() < .5), lambda: decoders.Metaspace(MARK, rng.choice(["always", "first", "never"])),
            lambda: decoders.CTC("e", "|", rng.random() < .5), decoders.ByteFallback, decoders.Fuse, decoders.ByteLevel,
            lambda: decoders.Replace(MARK, " "), lambda: decoders.Strip(" ", 1, rng.randrange(2)), lambda: decoders.BPEDecoder("</w>")]
    posts = [lambda: processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="$A $B", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]),
             lambda: processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1)), lambda: processors.RobertaProcessing(("[SEP]", 2), ("[CLS]", 1)),
             processors.ByteLevel,
             lambda: processors.TemplateProcessing(single="$A [SEP] $A", pair="$A $B", special_tokens=[("[SEP]", 2)])]
    several = lambda kinds, most: [rng.choice(kinds)() for _ in range(rng.randrange(most + 1))]
    return several(norms, 3), several(pres, 3), several(decs, 3), several(posts, 1)


def random_tokenizer(rng, table):
    norms, pres, decs, posts = random_parts(rng, table)
    special = ["<unk>", "[CLS]", "[SEP]"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)] if rng.random() < .3 else []
    common = dict(special_tokens=special + fallback, show_progress=False)
    kind = rng.choice(["Unigram", "Unigram", "WordPiece", "WordLevel", "BPE"])
    if kind == "Unigram":
        model, trainer = models.Unigram(), trainers.UnigramTrainer(vocab_size=rng.choice([700, 1200]), unk_token="<unk>", **common)
    elif kind == "WordPiece":
        model = models.WordPiece(unk_token="<unk>", max_input_chars_per_word=rng.choice([5, 100]))
        trainer = trainers.WordPieceTrainer(vocab_size=500, limit_alphabet=rng.choice([80, 300]), **common)
    elif kind == "WordLevel":
        model, trainer = models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(vocab_size=200, **common)
    else:
        model = models.BPE(unk_token="<unk>", fuse_unk=rng.random() < .5, byte_fallback=bool(fallback), ignore_merges=rng.random() < .3)
        trainer = trainers.BpeTrainer(vocab_size=500, limit_alphabet=80, **common)
    tokenizer = Tokenizer(model)
    if norms:
        tokenizer.normalizer = normalizers.Sequence(norms)
    if pres:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pres)
    tokenizer.train_from_iterator(CORPUS.split("\n"), trainer)
    if decs:
        tokenizer.decoder = decoders.Sequence(decs)
    if posts:
        tokenizer.post_processor = processors.Sequence(posts)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in fallback]
    if kind == "Unigram":
        spec["model"]["byte_fallback"] = bool(fallback)
    return json.dumps(spec)


def compare(program, path, lines):
    tokenizer = Tokenizer.from_file(path)
    done = subprocess.run([program, path], input="".join(json.dumps(line) + "\n" for line in lines).encode(), capture_output=True)
    if done.returncode != 0:
        print(path, "failed:", done.stderr.decode()[:500])
        return 1
    wrong = 0
    for line, got in zip(lines, map(json.loads, filter(None, done.stdout.decode().split("\n")[1:]))):
        got = {"ids": got["ids"], "text": got["text"]}
        ids = tokenizer.encode(line).ids
        try:
            expected = {"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False)}
        except BaseException as error:  # its decoder Strip panics on an empty token
            if type(error).__name__ != "PanicException":
                raise
            expected = {"ids": ids, "text": got["text"]}
        if got != expected:
            wrong += 1
            if wrong <= 2:
                print(path, ascii(line), "\n  expected", ascii(expected), "\n  found   ", ascii(got))
    return wrong


def main():
    program, rounds, seed = sys.argv[1], int((sys.argv[2:] or [20])[0]), int((sys.argv[3:] or [1])[0])
    rng = random.Random(seed)
    wrong = compared = 0
    table = None if sys.argv[4:] else charsmap()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            lines = texts(rng, 200)
            files = sys.argv[4:]
            if not files:
                files = [f"{folder}/{number}.json"]
                pathlib.Path(files[0]).write_text(random_tokenizer(rng, table), encoding="utf-8")
            for file in files:
                bad = compare(program, file, lines)
                compared += len(lines)
                wrong += bad
                if bad and not sys.argv[4:]:
                    spec = json.loads(pathlib.Path(file).read_text(encoding="utf-8"))
                    spec["model"] = {k: v for k, v in spec["model"].items() if k not in ("vocab", "merges")}
                    print("  of", json.dumps(spec)[:1500].replace(table or "no table", "TABLE"))
    print(f"{compared} texts compared, {wrong} differ")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
