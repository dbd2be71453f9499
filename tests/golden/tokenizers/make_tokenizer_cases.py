# SPDX-License-Identifier: Apache-2.0
"""Trains small tokenizers of many kinds and writes the results of Hugging Face's tokenizers and transformers on texts.

    python make_tokenizer_cases.py            # writes beside itself
    python make_tokenizer_cases.py folders    # only folders.json, with the existing tokenizers

Needs tokenizers 0.23 and transformers 5.24; folders.json also sentencepiece and protobuf.

NAME.json         a tokenizer
texts.json        the texts
cases.json        per tokenizer: ids of each text, ids with special tokens of some, decoded text where it differs
folders.json      model folders: files, and the results of AutoTokenizer
pieces.json       SentencePiece models in base64, which files of the folders name
patterns.json     regular expressions, and the pieces of the step "Split" with them
"""
import base64
import json
import pathlib
import random
import sys
import tempfile
import warnings

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent

CORPUS = """
The quick brown fox jumps over the lazy dog. It's what they'd call a "pangram", isn't it? We've 26 letters; I'll say so.
KTO needs only a binary signal: desirable or undesirable. The reward margin rises from 0.12 to 3.14159 in 100 steps.
def forward(self, input_ids, attention_mask=None):\n    x = self.embed(input_ids)\n    return x @ x.T  # (B, T, T)\n
for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }\r\nif (x == nullptr) return;\r\n\tprintf("%d\\n", 1000000);
Der schnelle braune Fuchs springt über den faulen Hund. Ça va très bien, à bientôt! El niño comió piña mañana.
Быстрая коричневая лиса прыгает через ленивую собаку. Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.
敏捷的棕色狐狸跳过了懒狗。你好，世界！今天天气很好。 素早い茶色の狐はのろまな犬を飛び越える。こんにちは、カタカナ。
빠른 갈색 여우가 게으른 개를 뛰어넘는다. 안녕하세요 세계. الثعلب البني السريع يقفز فوق الكلب الكسول. השועל החום המהיר
तेज भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है। สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ ದೊಡ್ಡ নমস্কার
the the the and and of of to to in in is is that that it it was was for for on on with with as as his his
user\nassistant\nsystem\nYou are a helpful assistant.\n\nWhat is the capital of France?\n\nThe capital of France is Paris.
"""

ATOMS = [
    "a", "B", "é", "ß", "e\u0301", "\u0301", "1", "23", "456", "7890", "٣", "½", "Ⅷ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0",
    "\u180e", "\u200b", "\u200d", "\u2028", "\u3000", "\x85", "\x0b", "\x1c", "\x00", ".", ",", "!", "...", "-", "_", "=>", "()", "//", '"',
    "'", "'s", "'S", "'ſ", "'LL", "n't", "漢", "字", "あ", "カ", "한", "ا", "َ", "ที่", "👍", "👨\u200d👩\u200d👧", "🏽", "🇺🇸", "K", "İ", "𝒜", "𞤀",
    "🫩", "\u0897", "\U00031350", "™", "€", "\ufeff", "\ufffd", "\uffff", "\U0010ffff", "the", " the", "The", " THE", "hello", " world",
    "camelCase", "HTMLParser", "3.14", "x_1", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<mask>", "<0x0A>", "▁", "Ġ", "fi", "Ａ", "각",
]


def make_texts():
    rng = random.Random(11)
    texts = ["", " ", "\n", "a", " a", "  a  ", "\x00", "<s>", "the", "<|im_start|>user\nHi!<|im_end|>\n", "a <mask>  b", "x<mask>y"]
    texts += [line.strip()[:90] for line in CORPUS.strip().split("\n")][:16]
    texts += ["".join(rng.choice(ATOMS) for _ in range(rng.choice([2, 4, 8, 14]))) for _ in range(70)]
    texts += ["a" * 70, " " * 40, "ab" * 30, "9" * 25, "漢" * 20, "\u0301" * 10, "\r\n" * 9, "the the  the   the\nthe\tthe"]
    return texts


CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
            "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]
HAN = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}&&[^\p{Han}]]+|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(pattern if isinstance(pattern, str) and len(pattern) == 1 else Regex(pattern), behavior, invert)


def sequence(*steps):
    return pre_tokenizers.Sequence(list(steps))


def byte_level(prefix=False, regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def train(pre_tokenizer=None, normalizer=None, decoder=None, special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), vocab=420,
          bytes_alphabet=True, post=None, added=(), fallback=False, trainer_options=None, **model_options):
    tokenizer = Tokenizer(models.BPE(byte_fallback=fallback, **model_options))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder or decoders.ByteLevel()
    fallback_tokens = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    alphabet = pre_tokenizers.ByteLevel.alphabet() if bytes_alphabet else []
    tokenizer.train_from_iterator(
        CORPUS.split("\n"),
        trainers.BpeTrainer(vocab_size=vocab, special_tokens=list(special) + fallback_tokens, initial_alphabet=alphabet, show_progress=False,
                            **(trainer_options or {})))
    tokenizer.add_tokens(list(added))
    if post is not None:
        tokenizer.post_processor = post
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in fallback_tokens]
    return spec


def with_merges_as_text(spec):
    spec["model"]["merges"] = [" ".join(pair) for pair in spec["model"]["merges"]]
    return spec


def make_tokenizers():
    mark = "▁"
    bos = processors.TemplateProcessing(single="<|endoftext|> $A", pair="$A $B", special_tokens=[("<|endoftext|>", 0)])
    piece = dict(special=("<unk>", "<s>", "</s>"), bytes_alphabet=False, fallback=True, unk_token="<unk>", fuse_unk=True, vocab=700,
                 trainer_options=dict(limit_alphabet=120, max_token_length=10),
                 post=processors.TemplateProcessing(single="<s> $A", pair="$A $B", special_tokens=[("<s>", 1)]))
    llama_decoder = decoders.Sequence([decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    flags = [AddedToken("<mask>", lstrip=True, special=True), AddedToken(" the", normalized=True), AddedToken("hello", single_word=True),
             AddedToken("\n\n", rstrip=True, normalized=False), AddedToken("字", lstrip=True, rstrip=True, normalized=True)]
    return {
        "gpt2": with_merges_as_text(train(byte_level(regex=True))),
        "llama3": train(sequence(split(CL100K), byte_level()), ignore_merges=True, post=processors.Sequence([processors.ByteLevel(), bos])),
        "qwen2": train(sequence(split(CL100K.replace("{1,3}", "")), byte_level()), normalizers.NFC()),
        "o200k": train(sequence(split(O200K, "removed", True), byte_level())),
        "deepseek": train(sequence(*[split(p) for p in DEEPSEEK], byte_level()), normalizers.Sequence([]), post=bos,
                          added=[AddedToken("<｜User｜>", normalized=True), AddedToken("<mask>", normalized=True)]),
        "kimi": train(sequence(split(HAN), byte_level())),
        "smollm": train(sequence(pre_tokenizers.Digits(individual_digits=True), byte_level(regex=True)), added=flags),
        "falcon": train(sequence(pre_tokenizers.Punctuation("contiguous"), byte_level(prefix=True, regex=True),
                                 pre_tokenizers.Digits(individual_digits=False), split(r"[0-9][0-9][0-9]"))),
        "llama2": with_merges_as_text(train(normalizer=normalizers.Sequence([normalizers.Prepend(mark), normalizers.Replace(" ", mark)]),
                                            decoder=llama_decoder, **piece)),
        "llama2_first": train(pre_tokenizers.Metaspace(mark, "first", split=False), decoder=llama_decoder, **piece),
        "gemma": train(split(" ", "merged_with_previous"), normalizers.Replace(" ", mark),
                       decoder=decoders.Sequence([decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse()]),
                       added=[AddedToken("\n\n", normalized=False), AddedToken("   ", normalized=False)], **piece),
        "metaspace": train(pre_tokenizers.Metaspace(mark, "always", split=True), normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()]),
                           decoder=decoders.Metaspace(mark, "always"), bytes_alphabet=False, special=("<unk>", "<s>", "</s>"), unk_token="<unk>"),
        "words": train(sequence(pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("isolated")),
                       normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\p{Mn}+"), "")]),
                       decoder=decoders.BPEDecoder("</w>"), bytes_alphabet=False, special=("<unk>", "<s>", "</s>"), unk_token="<unk>",
                       end_of_word_suffix="</w>", trainer_options=dict(end_of_word_suffix="</w>"),
                       post=processors.RobertaProcessing(("</s>", 2), ("<s>", 1))),
        "prefixes": train(pre_tokenizers.BertPreTokenizer(), normalizers.NFKD(), decoder=decoders.Fuse(), bytes_alphabet=False,
                          special=("<unk>", "<s>", "</s>"), unk_token="<unk>", continuing_subword_prefix="##",
                          trainer_options=dict(continuing_subword_prefix="##"), post=processors.BertProcessing(("</s>", 2), ("<s>", 1))),
    }


# SentencePiece's table for three rules (its trainer with normalization_rule_tsv): U+00A0 and U+2581 to a space, e + U+0301 to U+00E9
CHARSMAP = "AAQAAACQAQBlPAMAzAACAIEdAAACAACAoA0AAAAAAICWOAIAgTkAAAgAAAALAAAACgAAAA0AAAAMAAAADwAAAA4AAAARAAAAEAAAABMAAAASAAAAFQAAABQAAAAXAAAAFgAAABkAAAAYAAAAGwAAABoAAAAdAAAAHAAAAB8AAAAeAAAAIQAAACAAAAAjAAAAIgAAACUAAAAkAAAAJwAAACYAAAApAAAAKAAAACsAAAAqAAAALQAAACwAAAAvAAAALgAAADEAAAAwAAAAMwAAADIAAAA1AAAANAAAADcAAAA2AAAAOQAAADgAAAA7AAAAOgAAAD0AAAA8AAAAPwAAAD4AAABBAAAAQAAAAEMAAABCAAAARQAAAEQAAABHAAAARgAAAEkAAABIAAAASwAAAEoAAABNAAAATAAAAE8AAABOAAAAUQAAAFAAAABTAAAAUgAAAFUAAABUAAAAVwAAAFYAAABZAAAAWAAAAFsAAABaAAAAXQAAAFwAAABfAAAAXgAAAGEAAABgAAAAYwAAAGIAAABlAAAAZAAAAGcAAABmAAAAaQAAAGgAAABrAAAAagAAAG0AAABsAAAAbwAAAG4AAABxAAAAcAAAAHMAAAByAAAAdQAAAHQAAAB3AAAAdgAAAHkAAAB4AAAAewAAAHoAAAB9AAAAfAAAAH8AAAB+AAAAgQAAAIAAAACDAAAAggAAAIUAAACEAAAA4lwAAIYAAACJAAAAiAAAAIsAAACKAAAAjQAAAIwAAACPAAAAjgAAAJEAAACQAAAAkwAAAJIAAACVAAAAlAAAAJcAAACWAAAAmQAAAJgAAACbAAAAmgAAAJ0AAACcAAAAnwAAAJ4AAAChAAAAoAAAAKMAAACiAAAApQAAAKQAAADCDAAApgAAAKkAAACoAAAAqwAAAKoAAACtAAAArAAAAK8AAACuAAAAsQAAALAAAACzAAAAsgAAALUAAAC0AAAAtwAAALYAAAC5AAAAuAAAALsAAAC6AAAAvQAAALwAAAC/AAAAvgAAAMEAAADAAAAAwwAAAMIAAADFAAAAxAAAAMcAAADGAAAAyQAAAMgAAADLAAAAygAAAM0AAADMAAAAzwAAAM4AAADRAAAA0AAAANMAAADSAAAA1QAAANQAAADXAAAA1gAAANkAAADYAAAA2wAAANoAAADdAAAA3AAAAN8AAADeAAAA4QAAAOAAAADjAAAA4gAAAOUAAADkAAAA5wAAAOYAAADpAAAA6AAAAOsAAADqAAAA7QAAAOwAAADvAAAA7gAAAPEAAADwAAAA8wAAAPIAAAD1AAAA9AAAAPcAAAD2AAAA+QAAAPgAAAD7AAAA+gAAAP0AAAD8AAAA/wAAAP4AAAAgAMOpAA=="


def make_other_models():
    """Models other than byte-pair encoding, with the steps that go with them."""
    mark, special = "▁", ["<unk>", "[CLS]", "[SEP]"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]

    def trained(model, trainer, normalizer, pre_tokenizer, decoder, post, byte_fallback=False):
        tokenizer = Tokenizer(model)
        tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, pre_tokenizer, decoder
        tokenizer.train_from_iterator(CORPUS.split("\n"), trainer)
        tokenizer.post_processor = post
        spec = json.loads(tokenizer.to_str())
        spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in fallback]
        if byte_fallback:
            spec["model"]["byte_fallback"] = True
        return spec

    common = dict(show_progress=False)
    ends = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="$A $B", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    twice = processors.TemplateProcessing(single="$A [SEP] $A", pair="$A $B", special_tokens=[("[SEP]", 2)])
    return {
        "t5": trained(models.Unigram(), trainers.UnigramTrainer(vocab_size=700, unk_token="<unk>", special_tokens=special, **common),
                      normalizers.Sequence([normalizers.Precompiled(base64.b64decode(CHARSMAP)), normalizers.Replace(Regex(" {2,}"), " ")]),
                      pre_tokenizers.Metaspace(mark, "always"), decoders.Metaspace(mark, "always"), ends),
        "unigram_bytes": trained(models.Unigram(), trainers.UnigramTrainer(vocab_size=1000, unk_token="<unk>", special_tokens=special + fallback, **common),
                                 normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()]),
                                 pre_tokenizers.Sequence([pre_tokenizers.UnicodeScripts(), pre_tokenizers.Metaspace(mark, "first", split=False)]),
                                 decoders.Sequence([decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse()]), twice, True),
        "bert": trained(models.WordPiece(unk_token="<unk>", max_input_chars_per_word=12),
                        trainers.WordPieceTrainer(vocab_size=500, limit_alphabet=150, special_tokens=special, **common),
                        normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece("##"), ends),
        "word_level": trained(models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(vocab_size=200, special_tokens=special, **common),
                              normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), pre_tokenizers.Whitespace(),
                              decoders.CTC("e", "|", True), None),
    }


def make_cases(texts, tokenizers):
    cases = {}
    for name, spec in tokenizers.items():
        path = HERE / f"{name}.json"
        path.write_text(json.dumps(spec, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
        tokenizer = Tokenizer.from_file(str(path))
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        decoded = [tokenizer.decode(i, skip_special_tokens=False) for i in ids]
        cases[name] = {
            "vocab_size": tokenizer.get_vocab_size(), "ids": ids,
            "ids_with_special": [tokenizer.encode(text).ids for text in texts[:12]],
            "decoded": {str(k): d for k, (d, text) in enumerate(zip(decoded, texts)) if d != text},
            "decoded_without_special": [tokenizer.decode(i) for i in ids[:12]],
        }
    return cases


def token(content, **flags):
    return dict(dict(content=content, lstrip=False, rstrip=False, single_word=False, normalized=False, special=True), **flags)


def train_pieces(**options):
    """A SentencePiece model in base64."""
    import sentencepiece
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        (path / "corpus.txt").write_text(CORPUS * 3, encoding="utf-8")
        (path / "rules.tsv").write_text("A0\t20\n65 301\tE9\n9\t20\n7\t\n", encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(path / "corpus.txt"), model_prefix=folder + "/m", hard_vocab_limit=False, minloglevel=2, character_coverage=0.98, num_threads=1,
            normalization_rule_tsv=str(path / "rules.tsv"), **options)
        return base64.b64encode((path / "m.model").read_bytes()).decode()


def make_pieces():
    return {"bpe": train_pieces(model_type="bpe", vocab_size=720, byte_fallback=True, user_defined_symbols=["<mask>", "a.b"]),
            "unigram": train_pieces(model_type="unigram", vocab_size=400, remove_extra_whitespaces=False, control_symbols=["<ctl>"])}


def without_tokenizer_json():
    """Folders with other files; {"pieces": NAME} stands for a model of pieces.json."""
    bytes_spec = json.loads((HERE / "gpt2.json").read_text(encoding="utf-8"))["model"]
    words = json.loads((HERE / "bert.json").read_text(encoding="utf-8"))["model"]["vocab"]
    gpt2 = {"vocab.json": bytes_spec["vocab"], "merges.txt": "#version: 0.2\n" + "".join(merge + "\n" for merge in bytes_spec["merges"])}
    bert = {"vocab.txt": "".join(token + "\n" for token in sorted(words, key=words.get))}
    opt = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>", "add_bos_token": True, "pad_token": "<pad>"}
    bpe, unigram = {"pieces": "bpe"}, {"pieces": "unigram"}
    llama = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    return [
        dict(gpt2, **{"tokenizer_config.json": opt}),
        dict(gpt2, **{"tokenizer_config.json": {"tokenizer_class": "RobertaTokenizer", "cls_token": "<|im_start|>", "sep_token": "<|im_end|>"}}),
        dict(bert, **{"tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "unk_token": "<unk>"}}),
        {"tokenizer.model": bpe, "tokenizer_config.json": llama},
        {"tokenizer.model": bpe, "tokenizer_config.json": dict(llama, legacy=True, tokenizer_class="GemmaTokenizer")},
        {"tokenizer.model": bpe, "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True, "added_tokens_decoder": {
            "5": token("<five>"), "700": token("<new>", normalized=True)}}},
        {"tokenizer.model": unigram, "tokenizer_config.json": {"legacy": False}},
        {"spiece.model": unigram, "tokenizer_config.json": {"extra_ids": 3}, "config.json": {"model_type": "t5"}},
        {"sentencepiece.bpe.model": unigram, "tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizer"}},
    ]


def make_folders(texts, pieces):
    typed = lambda content, **flags: dict(token(content, **flags), __type="AddedToken")
    untyped = lambda content, **flags: dict(dict(content=content, lstrip=False, rstrip=False, single_word=False, normalized=False), **flags)
    gpt2 = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    fast = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    llama = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    folders = [
        ("smollm", {"tokenizer_config.json": gpt2, "config.json": {"model_type": "llama"}}),
        ("smollm", {"tokenizer_config.json": dict(gpt2, add_prefix_space=True)}),
        ("smollm", {"tokenizer_config.json": fast, "config.json": {"model_type": "llama"}}),
        ("smollm", {}),
        ("kimi", {"tokenizer_config.json": fast, "config.json": {"model_type": "qwen2"}}),
        ("kimi", {"tokenizer_config.json": fast, "config.json": {"model_type": "qwen3"}}),
        ("kimi", {"config.json": {"model_type": "qwen3"}}),
        ("llama3", {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizerFast", "bos_token": typed("<|endoftext|>")}}),
        ("llama3", {"tokenizer_config.json": dict(fast, add_bos_token=False, add_eos_token=True)}),
        ("llama2", {"tokenizer_config.json": dict(llama, legacy=True), "config.json": {"model_type": "llama"}}),
        ("llama2", {"tokenizer_config.json": dict(llama, legacy=False), "config.json": {"model_type": "llama"}}),
        ("llama2", {"tokenizer_config.json": dict(llama, legacy=False), "config.json": {"model_type": "mistral"}}),
        ("llama2", {"tokenizer_config.json": dict(llama, add_prefix_space=False)}),
        ("llama2", {"tokenizer_config.json": dict(llama, tokenizer_class="CodeLlamaTokenizer")}),
        ("gemma", {"tokenizer_config.json": {"tokenizer_class": "GemmaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "pad_token": None},
                   "config.json": {"model_type": "gemma3_text"}}),
        ("qwen2", {"tokenizer_config.json": {"tokenizer_class": "GPTNeoXTokenizerFast", "add_bos_token": True}}),
        ("qwen2", {"tokenizer_config.json": {"tokenizer_class": "CohereTokenizerFast", "bos_token": "<|im_start|>"}}),
        ("qwen2", {"tokenizer_config.json": dict(
            fast, image_token="<image>", extra_special_tokens={"boi_token": "<boi>"}, pad_token="<pad>",
            added_tokens_decoder={"0": token("<|endoftext|>", lstrip=True), "1": token("<|im_start|>"),
                                  "2": token("<|im_end|>", rstrip=True), "430": token(" fox", special=False, normalized=True)})}),
        ("qwen2", {"tokenizer_config.json": dict(fast, additional_special_tokens=["<x>", "hello"], split_special_tokens=True)}),
        ("deepseek", {"tokenizer_config.json": {"eos_token": "<|endoftext|>"}, "added_tokens.json": {"<t1>": 440},
                      "special_tokens_map.json": {"eos_token": {"content": "<|im_end|>", "lstrip": False, "rstrip": True,
                                                                "single_word": False, "normalized": False},
                                                  "pad_token": "<t1>", "additional_special_tokens": ["<|im_start|>", "<y>"]}}),
        # special tokens from several sources at once
        ("qwen2", {"tokenizer_config.json": dict(fast, extra_special_tokens={"boi_token": "<boi>", "audio_token": typed("<aud>", lstrip=True)},
                                                 additional_special_tokens=["<x>", "hello"], image_token="<image>")}),
        ("qwen2", {"tokenizer_config.json": dict(fast, additional_special_tokens=["<x>", "<y>"], mask_token=typed("<mask>", rstrip=True)),
                   "special_tokens_map.json": {"extra_special_tokens": {"boi_token": "<boi>", "eos_token": "<boe>"},
                                               "image_token": token("<image>"), "additional_special_tokens": ["<z>"]}}),
        ("qwen2", {"tokenizer_config.json": dict(fast, extra_special_tokens={"image_token": "<image>", "boi_token": "<boi>"}, boi_token="<b>"),
                   "special_tokens_map.json": {"additional_special_tokens": ["<z>", "<|im_end|>"], "boi_token": "<c>"},
                   "added_tokens.json": {"<z>": 900, "hello": 901}}),
        ("smollm", {"tokenizer_config.json": dict(gpt2, extra_special_tokens=["<x>", typed("<z>", rstrip=True)], additional_special_tokens=["<y>"]),
                    "special_tokens_map.json": {"extra_special_tokens": ["<y>", untyped("<x>", rstrip=True), "<x>"], "pad_token": "<pad>"}}),
        ("kimi", {"tokenizer_config.json": {"extra_special_tokens": {"image_token": "<image>"}, "additional_special_tokens": ["<x>", "the"],
                                            "vision_token": typed("<v>", special=False)}, "config.json": {"model_type": "qwen3"}}),
        ("llama2", {"tokenizer_config.json": dict(llama, tokenizer_class="CodeLlamaTokenizer", prefix_token="<pre>", image_token="<image>",
                                                  extra_special_tokens={"eot_token": "<eot>"}, additional_special_tokens=["<x>"])}),
        ("gpt2", {"tokenizer_config.json": dict(fast, chat_template=[{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}])}),
        ("gpt2", {"tokenizer_config.json": dict(fast, chat_template="old"), "chat_template.jinja": "{{ messages }}\n"}),
        ("gpt2", {"tokenizer_config.json": dict(fast, chat_template="old"), "chat_template.jinja": "D",
                  "additional_chat_templates/rag.jinja": "R"}),
        # classes of encoders and of encoder-decoders
        ("t5", {"tokenizer_config.json": {"tokenizer_class": "T5TokenizerFast", "extra_ids": 2, "pad_token": "[CLS]"}, "config.json": {"model_type": "t5"}}),
        ("t5", {"tokenizer_config.json": {"tokenizer_class": "T5Tokenizer", "additional_special_tokens": None}, "config.json": {"model_type": "mt5"}}),
        ("t5", {"tokenizer_config.json": {"tokenizer_class": "T5Tokenizer"}, "config.json": {"model_type": "umt5"}}),
        ("t5", {"tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizer", "add_prefix_space": False}}),
        ("t5", {"tokenizer_config.json": {"tokenizer_class": "AlbertTokenizer", "keep_accents": True}, "config.json": {"model_type": "albert"}}),
        ("t5", {"tokenizer_config.json": {"tokenizer_class": "DebertaV2Tokenizer", "split_by_punct": True, "do_lower_case": True}}),
        ("gpt2", {"tokenizer_config.json": {"tokenizer_class": "BartTokenizer", "add_prefix_space": True}, "config.json": {"model_type": "bart"}}),
        ("gpt2", {"tokenizer_config.json": {"tokenizer_class": "DebertaTokenizer"}}),
        ("bert", {"tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": True, "unk_token": "<unk>",
                                            "clean_up_tokenization_spaces": True}}),
        ("bert", {"tokenizer_config.json": {"tokenizer_class": "DistilBertTokenizerFast", "tokenize_chinese_chars": False, "unk_token": "<unk>"}}),
    ]
    folders += [(None, files) for files in without_tokenizer_json()]
    out = []
    for name, files in folders:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            if name is not None:
                (path / "tokenizer.json").write_bytes((HERE / f"{name}.json").read_bytes())
            for file, content in files.items():
                (path / file).parent.mkdir(exist_ok=True)
                if isinstance(content, dict) and "pieces" in content:
                    (path / file).write_bytes(base64.b64decode(pieces[content["pieces"]]))
                else:
                    (path / file).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
            tokenizer = AutoTokenizer.from_pretrained(folder)
        templates = tokenizer.chat_template
        spelled = " a ".join(str(token) for token in tokenizer.added_tokens_decoder.values())
        out.append({
            "tokenizer": name, "files": files, "class": type(tokenizer).__name__, "vocab_size": len(tokenizer),
            "special_tokens": tokenizer.special_tokens_map,
            "chat_templates": templates if isinstance(templates, dict) else {} if templates is None else {"default": templates},
            "ids": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
            "ids_with_special": [tokenizer(text)["input_ids"] for text in texts[:6]],
            "decoded": [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts[:6]],
            "spelled": spelled, "spelled_ids": tokenizer._tokenizer.encode(spelled, add_special_tokens=False).ids,
        })
    return out


def make_patterns():
    rng = random.Random(5)
    given = [
        (CL100K, "Don't STOP 12345 了\r\n\n  x  "), (r"\d{1,3}+", "1234567 12"), (r"\d{3}?", "1234567"), (r"\d{,2}", "12345"), (r"a{2", "a{2a"),
        (r"(?=\d)", "a12b3"), (r"\d*", "a12b3"), (r"^a", "a\na\n"), (r"a$", "a\na\nba"), (r"a\Z", "a\na\n"), (r"\ba", "a ba \u0301a"),
        (r"a(?i)b|c", "abC xC aB c"), (r"(?i:k)", "K k"), (r"(?i:'s)", "'S 'ſ"), (r"(?i)\p{Lu}+", "abC"), (r"[a-c&&[^b]]+", "abcab"),
        (r"[^a-c&&b]+", "abcdb"), (r"[\p{L}&&[^\p{Han}]]+", "ab漢cd"), (r"[a[bc]d]+", "abcde"), (r"\h+", "a1gf"), (r".+", "a\r\nb\u2028c"),
        (r"(?m:.+)", "a\nb"), (r"\R", "a\r\n\n"), (r"\N+", "a\nb"), (r"[[:^alpha:]]+", "a12"), (r"[[:punct:]]+", "a+$_b"), (r"\p{Punct}", "a+_b"),
        (r"\p{^L}+", "ab12"), (r"[^\P{L}]+", "ab12"), (r"\S+", "a\u180eb c\x85d"), (r"\w", "a²_\u0301-"), (r"[\w]", "a²_\u0301-"),
        (r"(?<=a|bc)x", "ax bcx"), (r"(?<!\d)(?=(?:\d{3})+(?!\d))", "x123456"), (r"a++b", "aab"), (r"\x{4e00}|\u4e8c|\x61", "a一二"), (r"", "abc"),
        (r"\p{Emoji}", "a👍"), (r"\p{So}", "🫩👍"), (r"\p{M}", "a\u0897"), (r"\p{Han}+", "a\U00031350漢"),
    ]
    behaviors = {"removed": "Removed", "isolated": "Isolated", "merged_with_previous": "MergedWithPrevious",
                 "merged_with_next": "MergedWithNext", "contiguous": "Contiguous"}
    cases = [(pattern, text, "isolated", False) for pattern, text in given]
    for _ in range(60):
        text = "".join(rng.choice(ATOMS) for _ in range(8))
        cases.append((rng.choice([CL100K, O200K, HAN, DEEPSEEK[2], r"\s+", r"\w+|[^\w\s]+", r"\d", r"\b", r"(?=\p{Lu})"]), text,
                      rng.choice(list(behaviors)), rng.random() < 0.3))
    return [[pattern, text, behaviors[behavior], invert,
             [piece for piece, _ in pre_tokenizers.Split(Regex(pattern), behavior, invert).pre_tokenize_str(text)]]
            for pattern, text, behavior, invert in cases]


def write(name, value):
    lines = [json.dumps(entry, ensure_ascii=True, separators=(",", ":")) for entry in value] if isinstance(value, list) else None
    text = "[\n" + ",\n".join(lines) + "\n]\n" if lines else json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n"
    (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    all_texts = make_texts()
    if sys.argv[1:] != ["folders"]:
        write("texts.json", all_texts)
        write("cases.json", make_cases(all_texts, make_tokenizers() | make_other_models()))
        write("patterns.json", make_patterns())
    all_pieces = make_pieces()
    write("pieces.json", all_pieces)
    write("folders.json", make_folders(all_texts[:60:2], all_pieces))
