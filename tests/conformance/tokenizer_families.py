#!/usr/bin/env python3
"""Compares our token ids with those of Hugging Face `tokenizers`.

Makes a byte-level BPE for each family's published pre-tokeniser and for the
rarer options of tokenizer.json, and one with byte fallback as SentencePiece's are
converted, writes it as a folder, and encodes one corpus
with both: every code point, emoji sequences, control characters, long runs,
combining marks, random text and random bytes. Each family is tried with a
trained vocabulary and with one in which any two bytes merge, so that a piece
cut at another place shows in the ids whatever the characters are.

SentencePiece's have, beside a trained vocabulary, Llama 2's with merges made of its
scores as transformers makes them.

usage: tokenizer_families.py TOOL [--all | --brief] [NAME...]
TOOL is the program built from tokenize_main.c. The published families see the whole
corpus, the rarer options every eighth text of it, all with --all; with --brief every
128th, and the published ones see it once, not once for each way of asking, and of their
trained vocabulary only every eighth text.
"""
import itertools
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL, ADD_BOS = 1, 2
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + REST
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + REST
CASED = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTIONS +
         r"?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTIONS +
         r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
PUNCTUATION = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
               r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level(use_regex=False, space=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=use_regex)


def sequence(*steps):
    return pre_tokenizers.Sequence(list(steps))


def added(content, **flags):
    return AddedToken(content, **{"normalized": False, **flags})


PLAIN_ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Tokens of white space and tokens that strip it stand apart: `tokenizers` panics where they overlap.
ODD_ADDED = [
    added("<|im|>", special=True), added("<|im|>s", special=False), added("<left>", lstrip=True),
    added("<right>", rstrip=True), added("<both>", lstrip=True, rstrip=True), added("word", single_word=True),
    added("caf\u00e9", normalized=True), added("e\u0301t\u00e9", normalized=True), added("\u65e5\u672c"),
    added("<", special=True, rstrip=True), added("<<", special=True, single_word=True, lstrip=True),
]
SPACE_ADDED = [added("  "), added("   "), added("\n", lstrip=True), added("\t", special=True), added("<|im|>", special=True)]
BEHAVIORS = ["removed", "isolated", "contiguous", "merged_with_previous", "merged_with_next"]

PUBLISHED = ["gpt2", "llama3", "qwen2", "smollm", "llama2"]
# name: pre-tokeniser and options
FAMILIES = {
    "gpt2": dict(pre=byte_level(use_regex=True)),
    "llama3": dict(pre=sequence(split(LLAMA3), byte_level()), ignore_merges=True, bos="<|endoftext|>"),
    "qwen2": dict(pre=sequence(split(QWEN2), byte_level()), nfc=True),
    "smollm": dict(pre=sequence(pre_tokenizers.Digits(individual_digits=True), byte_level(use_regex=True))),
    "cased": dict(pre=sequence(split(CASED), byte_level())),
    "punctuation": dict(pre=sequence(split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
                                     split(PUNCTUATION), byte_level())),
    "prefix_space": dict(pre=sequence(pre_tokenizers.Digits(individual_digits=False),
                                      byte_level(use_regex=True, space=True))),
    "no_split": dict(pre=byte_level()),
    "string": dict(pre=sequence(pre_tokenizers.Split("a.", "merged_with_next"), byte_level())),
    "empty_matches": dict(pre=sequence(split("b*", "merged_with_next"), byte_level())),
    "added": dict(pre=sequence(split(QWEN2), byte_level()), nfc=True, tokens=ODD_ADDED),
    "added_gpt2": dict(pre=byte_level(use_regex=True), tokens=ODD_ADDED),
    "added_spaces": dict(pre=sequence(split(LLAMA3), byte_level()), tokens=SPACE_ADDED),
    "unknown": dict(pre=byte_level(use_regex=True), drop=True),
    "unknown_fused": dict(pre=byte_level(use_regex=True), drop=True, unk="!", fuse=True),
    "unknown_token": dict(pre=byte_level(use_regex=True), drop=True, unk="!"),
}
for b in BEHAVIORS:
    FAMILIES[b] = dict(pre=sequence(split(r"\s?\p{N}\p{L}*", b), byte_level()))
    FAMILIES[b + "_inverted"] = dict(pre=sequence(split(r"\s?\p{N}\p{L}*", b, True), byte_level()))

MARK = "\u2581"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LLAMA2_VOCABULARY = os.path.join(ROOT, "tests/unit/engine/data/spm/ggml-vocab-llama-spm.gguf")


def replace(prepend=True):
    steps = [normalizers.Prepend(MARK)] if prepend else []
    return normalizers.Sequence(steps + [normalizers.Replace(" ", MARK)])


def metaspace(scheme):
    return pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme=scheme, split=False)


# Where a Replace comes before them, those that are normalized strip U+2581, which is no white space: refused.
SPM_ADDED = ODD_ADDED + [added("<n>", normalized=True), added("b\u2581 c"), added("\u2581 d", normalized=True)]
# name: normaliser or pre-tokeniser, and options
SPM = {
    "llama2": dict(normalizer=replace(), bos="<s>"),
    "llama2_added": dict(normalizer=replace(), tokens=SPM_ADDED),
    "llama2_spaces": dict(normalizer=replace(), tokens=SPACE_ADDED),
    "metaspace_first": dict(pre=metaspace("first"), bos="<s>"),
    "metaspace_first_added": dict(pre=metaspace("first"), tokens=SPM_ADDED + [added("<nl>", normalized=True, lstrip=True)]),
    "metaspace_always": dict(pre=metaspace("always"), tokens=SPM_ADDED),
    "metaspace_never": dict(pre=metaspace("never"), tokens=SPM_ADDED),
    "no_prefix": dict(normalizer=replace(prepend=False), tokens=SPM_ADDED),
    "no_bytes": dict(normalizer=replace(), bytes=False, fuse=True),
    "no_bytes_each": dict(normalizer=replace(), bytes=False, fuse=False),
    "no_bytes_dropped": dict(normalizer=replace(), bytes=False, fuse=True, unk=None),
}

EMOJI = ["\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f3f3\ufe0f\u200d\U0001f308", "\u2764\ufe0f",
         "\U0001f44d\U0001f3fd", "\U0001f1eb\U0001f1f7", "1\ufe0f\u20e3", "\U0001f9d1\U0001f3ff\u200d\U0001f680",
         "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"]
TEXT = ["The quick brown fox can't jump; it's 12,345.67 dollars. WE'VE SEEN THEM'LL you'Re I'M 'tis",
        "def f(x):\n\treturn x**2  # square\r\n\r\n  if x == 1000000:\n\n\n        pass  ",
        "na\u00efve caf\u00e9 \u00fcber stra\u00dfe \u0130stanbul \u01c5 \u017fo '\u017f '\u212aa o'\u017f k'\u017f",
        "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \u4f60\u597d\uff0c\u4e16\u754c\u3002 \ud55c\uad6d\uc5b4 \u0939\u093f\u0928\u094d\u0926\u0940 "
        "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8\u05d9\u05ea \u0440\u0443\u0441\u0441\u043a\u0438\u0439",
        "\u0663\u0664\u0665 \u2163 \u00bd \u00b2 \u096a\u096b x\u00b2+y\u00b3 \u2460\u3220",
        "e\u0301 \u00e9 \u1e9b\u0323 \u212b \u1100\u1161\u11a8 \u0958 q\u0307\u0323 \u0f73\u0f71 \ufb2c"]


def every_code_point():
    for start in range(0, 0x110000, 128):
        yield "".join(map(chr, (c for c in range(start, start + 128) if not 0xD800 <= c < 0xE000)))


def neighbours(rng):
    """Code points of all planes between letters, digits, spaces, line ends and each other."""
    around = ["a", "Z", "1", " ", "\n", "'", ".", "\u00e9", "  ", "\t", ""]
    for _ in range(6000):
        plane = rng.choice([0, 0, 0, 0, 1, 1, 1, 2, 3, 14, 15, 16])
        c = rng.randrange(plane << 16, (plane + 1) << 16)
        if not 0xD800 <= c < 0xE000:
            yield "".join(rng.choice(around) + chr(c) * rng.choice([1, 1, 2]) + rng.choice(around) for _ in range(3))


def marks(rng):
    import unicodedata
    combining = [chr(c) for c in range(0x300, 0x1F000) if unicodedata.combining(chr(c))]
    bases = [chr(c) for c in range(0x41, 0x2000) if unicodedata.decomposition(chr(c))] + list("qaoeuiAOE\u1100\u0915")
    for _ in range(4000):
        yield "".join(rng.choice(bases) + "".join(rng.choices(combining, k=rng.randrange(6))) for _ in range(4))
    yield "a" + "\u0301" * 3000 + "\u0316" * 3000


def mixtures(rng):
    atoms = (list(" \t\n\r\x0b\x0c\x85\xa0\u1680\u180e\u2000\u200b\u2028\u202f\u205f\u3000\ufeff\x00\x1c\x7f") + list("aZ0.'<|>-_") +
             ["'s", "'LL", "12345", "caf\u00e9", "cafe\u0301", "e\u0301t\u00e9", "word", "sword", "<|im|>", "<|im|>s", "<left>", "<right>",
              "<both>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "\u65e5\u672c", "\u65e5", "<<", "a.", "bb", "\u24b6",
              "\u0903", "\u203f", "\u200d", "   ", "\n\n"] + EMOJI)
    for _ in range(12000):
        yield "".join(rng.choices(atoms, k=rng.randrange(1, 14)))


def runs():
    for c in "a 1\n.\u00e9\u8a9e\t'\U0001f600<":
        for n in (2, 3, 39, 40, 41, 63, 64, 257, 20000):
            yield c * n
            yield c * n + "x" + c * n
    yield "ab" * 9000
    yield " \n" * 5000 + "x"


def random_bytes(rng):
    for n in [1, 2, 3, 4, 5, 8, 13, 40, 41, 200, 5000] * 60:
        yield rng.randbytes(n)
    heads = [b"\xf0\x9f\x98\x80", b"\xe6\x97\xa5", b"\xc3\xa9", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xe0\x80\xaf", b"a"]
    for _ in range(3000):
        yield b"".join(rng.choice(heads)[:rng.randrange(1, 5)] for _ in range(rng.randrange(1, 12)))


def corpus():
    rng = random.Random(20260131)
    texts = ["", *TEXT, *EMOJI, " ".join(EMOJI), *every_code_point(), *neighbours(rng), *marks(rng), *mixtures(rng), *runs()]
    return [t.encode("utf-8") for t in texts] + list(random_bytes(rng))


def alphabet():
    """GPT-2's characters for the bytes 0 to 255, in order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


def trained_vocabulary(pre):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre
    rng = random.Random(7)
    lines = TEXT * 20 + list(mixtures(rng))[:3000] + ["".join(map(chr, range(0x100, 0x17F))), "a" * 64, " " * 64, "\n" * 16]
    tok.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=1500, show_progress=False, initial_alphabet=alphabet()))
    model = json.loads(tok.to_str())["model"]
    return model["vocab"], [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]


def pair_vocabulary():
    chars = alphabet()
    merges = [(a, b) for a in chars for b in chars]
    random.Random(11).shuffle(merges)
    vocab = {c: i for i, c in enumerate(chars)}
    for a, b in merges:
        vocab[a + b] = len(vocab)
    return vocab, merges


def drop_some(vocab, merges):
    """Leaves out the tokens of some bytes and all that is made of them."""
    gone = set(alphabet()[b] for b in (0x00, 0x01, 0x7F, 0x80, 0xC2, 0x39, 0x7A, 0xF5, 0xFF))
    kept = [t for t in vocab if not gone & set(t)]
    return {t: i for i, t in enumerate(kept)}, [(a, b) for a, b in merges if not gone & set(a + b)]


def add_tokens(tok, options):
    for token in options.get("tokens", []):
        (tok.add_special_tokens if token.special else tok.add_tokens)([token])


def bos_template(tok, bos):
    return processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B",
                                         special_tokens=[(bos, tok.token_to_id(bos))])


def make(options, vocab, merges):
    if options.get("drop"):
        vocab, merges = drop_some(vocab, merges)
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=options.get("unk"), fuse_unk=options.get("fuse", False),
                               ignore_merges=options.get("ignore_merges", False)))
    tok.pre_tokenizer = options["pre"]
    tok.decoder = decoders.ByteLevel()
    if options.get("nfc"):
        tok.normalizer = normalizers.NFC()
    tok.add_special_tokens(PLAIN_ADDED)
    add_tokens(tok, options)
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    if options.get("bos"):
        tok.post_processor = processors.Sequence([tok.post_processor, bos_template(tok, options["bos"])])
    return tok


def byte_tokens():
    return [f"<0x{b:02X}>" for b in range(256)]


def trained_spm_vocabulary():
    """Its tokens have spaces inside, and some characters of the texts are no tokens."""
    tok = Tokenizer(models.BPE(byte_fallback=True))
    tok.normalizer = replace()
    lines = TEXT * 20 + list(mixtures(random.Random(7)))[:3000] + ["a" * 64, " " * 64, "\n" * 16]
    lines = [line.replace("\0", "") for line in lines]  # JSON keys of ours have no NUL
    tok.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=1200, show_progress=False, limit_alphabet=90))
    model = json.loads(tok.to_str())["model"]
    vocab = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>", *byte_tokens()])}
    for t in sorted(model["vocab"], key=model["vocab"].get):
        vocab.setdefault(t, len(vocab))
    return vocab, [tuple(m) for m in model["merges"]]


def llama2_vocabulary():
    """As transformers converts it."""
    fields = GGUFReader(LLAMA2_VOCABULARY).fields
    tokens, scores = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores"))
    vocab = {t: i for i, t in enumerate(tokens)}
    merges = []
    for token, score in zip(tokens, scores):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [(a, b, score) for a, b in cuts if a in vocab and b in vocab]
        merges += sorted(known, key=lambda m: (vocab[m[0]], vocab[m[1]]))
    return vocab, [(a, b) for a, b, _ in sorted(merges, key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)]


def make_spm(options, vocab, merges):
    if not options.get("bytes", True):
        kept = [t for t in vocab if t not in byte_tokens()]
        vocab = {t: i for i, t in enumerate(kept)}
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=options.get("unk", "<unk>"), byte_fallback=True,
                               fuse_unk=options.get("fuse", True)))
    if "normalizer" in options:
        tok.normalizer = options["normalizer"]
    else:
        tok.pre_tokenizer = options["pre"]
    tok.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tok.add_special_tokens([added(t, special=True) for t in ("<unk>", "<s>", "</s>")])
    add_tokens(tok, options)
    if options.get("bos"):
        tok.post_processor = bos_template(tok, options["bos"])
    return tok


def write_folder(tok, folder, merges_as_strings):
    root = json.loads(tok.to_str())
    if merges_as_strings:
        root["model"]["merges"] = [" ".join(m) if isinstance(m, list) else m for m in root["model"]["merges"]]
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
        f.write(json.dumps(root, ensure_ascii=merges_as_strings))  # far quicker than dump


def ours(tool, folder, texts, flags):
    stream = b"".join(struct.pack("<I", len(t)) + t for t in texts)
    done = subprocess.run([tool, folder, str(flags)], input=stream, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode("utf-8", "replace").strip())
    words = struct.unpack(f"<{len(done.stdout) // 4}I", done.stdout)
    ids, at = [], 0
    while at < len(words):
        ids.append(list(words[at + 1:at + 1 + words[at]]))
        at += 1 + words[at]
    return ids


def compare(tool, name, tok, folder, texts, flags):
    tok.encode_special_tokens = not flags & SPECIAL
    plain = [t.decode("utf-8", "replace") for t in texts]
    wanted = [e.ids for e in tok.encode_batch(plain, add_special_tokens=bool(flags & ADD_BOS))]
    got = ours(tool, folder, texts, flags)
    bad = [i for i in range(len(texts)) if i >= len(got) or got[i] != wanted[i]]
    print(f"{'ok  ' if not bad else 'FAIL'} {name}: {len(texts)} texts, {sum(map(len, wanted))} tokens, {len(bad)} differ", flush=True)
    for i in bad[:3]:
        print(f"     {ascii(plain[i])[:200]}\n     theirs {wanted[i][:40]}\n     ours   {got[i][:40] if i < len(got) else None}")
    return not bad


def byte_level_cases(only):
    """name, tokenizer of `tokenizers`, options, whether its merges are written as strings."""
    pairs = pair_vocabulary()
    for family, options in FAMILIES.items():
        if not only or family in only:
            yield f"{family}, trained vocabulary", make(options, *trained_vocabulary(options["pre"])), options, True
            yield f"{family}, pairs vocabulary", make(options, *pairs), options, False


def spm_cases(only):
    vocabularies = {"trained": trained_spm_vocabulary(), "Llama 2's": llama2_vocabulary()}
    for family, options in SPM.items():
        for kind, (vocab, merges) in vocabularies.items():
            if not only or family in only:
                yield f"{family}, {kind} vocabulary", make_spm(options, vocab, merges), options, kind == "trained"


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    tool, only = sys.argv[1], [a for a in sys.argv[2:] if not a.startswith("--")]
    brief, all_texts = "--brief" in sys.argv, "--all" in sys.argv
    everything, passed, failed = corpus(), 0, 0
    for name, tok, options, merges_as_strings in itertools.chain(byte_level_cases(only), spm_cases(only)):
        family, vocabulary = name.split(", ")
        published = family in PUBLISHED
        whole = all_texts or published and not (brief and vocabulary == "trained vocabulary")
        texts = everything if whole else everything[::8 if published or not brief else 128]
        with tempfile.TemporaryDirectory() as folder:
            write_folder(tok, folder, merges_as_strings)
            ways = [SPECIAL, 0, SPECIAL | ADD_BOS] if "tokens" in options or "bos" in options else [SPECIAL]
            for flags in ways[:1] if brief and published else ways:
                good = compare(tool, f"{name}, flags {flags}", tok, folder, texts, flags)
                passed, failed = passed + good, failed + (not good)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
