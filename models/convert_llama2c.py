"""Converts models of karpathy's llama2.c (legacy files, and version 1) to GGUF or to a Hugging Face folder, in float32.

    deploy/setup.sh --tests        # makes build/venv, which has gguf and numpy
    build/venv/bin/python3 models/convert_llama2c.py MODEL.bin TOKENIZER.bin OUT --format gguf|safetensors

A llama2.c file has no name for what it holds and no tokenizer: both formats are written from the two files together.
Generation ends at </s>, and at <s> as llama2.c's does, which was trained with it between stories.
"""
import argparse
import json
import os
import struct
import sys

try:
    import gguf
    import numpy as np
except ModuleNotFoundError as missing:
    sys.exit(f"convert_llama2c.py: {sys.executable} has no {missing.name}; build/venv/bin/python3 has it, after deploy/setup.sh --tests")

MAGIC = 0x616B3432  # "ak42"
MARK = "\u2581"     # SentencePiece's space; llama2.c has spaces
UNKNOWN, BOS, EOS = 0, 1, 2
FIRST_BYTE, FIRST_PIECE = 3, 259
RMS_EPS, ROPE_BASE = 1e-5, 10000.0


class Model:
    """Shapes, and tensors by llama2.c's names; those of all layers together are [layer, ...]."""

    def __init__(self, path):
        with open(path, "rb") as f:
            data = f.read()
        versioned = struct.unpack_from("<I", data)[0] == MAGIC
        at = 8 if versioned else 0
        self.dim, self.hidden, self.layers, self.heads, self.kv_heads, vocab, self.positions = struct.unpack_from("<7i", data, at)
        self.vocab, self.head_dim = abs(vocab), self.dim // self.heads
        if versioned and struct.unpack_from("<i", data, 4)[0] != 1:
            sys.exit(f"{path}: version {struct.unpack_from('<i', data, 4)[0]} of llama2.c's files is not supported, only 1 and legacy ones")
        tied = data[at + 28] != 0 if versioned else vocab > 0
        self.tensors = {}
        self.take(path, np.frombuffer(data, "<f4", offset=256 if versioned else 28), versioned, tied)

    def shapes(self):
        kv = self.kv_heads * self.head_dim
        n, d, h = self.layers, self.dim, self.hidden
        return {"embed": (self.vocab, d), "att_norm": (n, d), "wq": (n, d, d), "wk": (n, kv, d), "wv": (n, kv, d), "wo": (n, d, d),
                "ffn_norm": (n, d), "w1": (n, h, d), "w2": (n, d, h), "w3": (n, h, d), "norm": (d,),
                "angles": (2, self.positions, self.head_dim // 2), "head": (self.vocab, d)}

    def take(self, path, values, versioned, tied):
        """The order of the files; the legacy one has the rotations' cosines and sines, which follow from the shapes."""
        if versioned:
            order = ["att_norm", "ffn_norm", "norm", "embed", "wq", "wk", "wv", "wo", "w1", "w2", "w3"]
        else:
            order = ["embed", "att_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3", "norm", "angles"]
        shapes, at = self.shapes(), 0
        for name in order + ([] if tied else ["head"]):
            n = int(np.prod(shapes[name]))
            if at + n > len(values):
                sys.exit(f"{path}: ends before {name}")
            self.tensors[name] = values[at:at + n].reshape(shapes[name])
            at += n
        if at != len(values):
            sys.exit(f"{path}: {len(values) - at} numbers are left over")
        self.tensors.pop("angles", None)


def read_tokenizer(path, n):
    """Texts as SentencePiece has them, and scores."""
    with open(path, "rb") as f:
        data = f.read()
    texts, scores, at = [], [], 4  # behind the length of the longest
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        texts.append(data[at + 8:at + 8 + length].decode("utf-8").replace(" ", MARK))
        scores.append(score)
        at += 8 + length
    if len(texts) != n:
        sys.exit(f"{path}: {len(texts)} tokens for a model of {n}")
    texts[:FIRST_BYTE] = ["<unk>", "<s>", "</s>"]  # which llama2.c writes with line ends around
    return texts, scores


def write_gguf(model, texts, scores, out):
    w = gguf.GGUFWriter(out, "llama")
    w.add_name(os.path.splitext(os.path.basename(out))[0])
    w.add_block_count(model.layers)
    w.add_context_length(model.positions)
    w.add_embedding_length(model.dim)
    w.add_feed_forward_length(model.hidden)
    w.add_head_count(model.heads)
    w.add_head_count_kv(model.kv_heads)
    w.add_rope_dimension_count(model.head_dim)
    w.add_rope_freq_base(ROPE_BASE)
    w.add_layer_norm_rms_eps(RMS_EPS)
    w.add_vocab_size(model.vocab)
    kinds = gguf.TokenType
    w.add_tokenizer_model("llama")
    w.add_token_list(texts)
    w.add_token_scores(scores)
    w.add_token_types([kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL] + [kinds.BYTE] * 256 + [kinds.NORMAL] * (model.vocab - FIRST_PIECE))
    w.add_unk_token_id(UNKNOWN)
    w.add_bos_token_id(BOS)
    w.add_eos_token_id(EOS)
    w.add_eot_token_id(BOS)
    w.add_add_bos_token(True)
    w.add_add_space_prefix(True)
    names = {"att_norm": "attn_norm", "wq": "attn_q", "wk": "attn_k", "wv": "attn_v", "wo": "attn_output", "ffn_norm": "ffn_norm",
             "w1": "ffn_gate", "w2": "ffn_down", "w3": "ffn_up"}
    w.add_tensor("token_embd.weight", model.tensors["embed"])
    for i in range(model.layers):
        for name, theirs in names.items():
            w.add_tensor(f"blk.{i}.{theirs}.weight", model.tensors[name][i])
    w.add_tensor("output_norm.weight", model.tensors["norm"])
    if "head" in model.tensors:
        w.add_tensor("output.weight", model.tensors["head"])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def halves(matrix, heads):
    """Rotary pairs are neighbours in llama2.c and GGUF; Hugging Face has the first of all pairs, then the second."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def folder_tensors(model):
    t = model.tensors
    names = {"att_norm": "input_layernorm", "wv": "self_attn.v_proj", "wo": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
             "w1": "mlp.gate_proj", "w2": "mlp.down_proj", "w3": "mlp.up_proj"}
    yield "model.embed_tokens.weight", t["embed"]
    for i in range(model.layers):
        yield f"model.layers.{i}.self_attn.q_proj.weight", halves(t["wq"][i], model.heads)
        yield f"model.layers.{i}.self_attn.k_proj.weight", halves(t["wk"][i], model.kv_heads)
        for name, theirs in names.items():
            yield f"model.layers.{i}.{theirs}.weight", t[name][i]
    yield "model.norm.weight", t["norm"]
    if "head" in t:
        yield "lm_head.weight", t["head"]


def write_safetensors(tensors, path):
    header, blobs, at = {}, [], 0
    for name, values in tensors:
        blob = np.ascontiguousarray(values, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def merges_of(texts, scores):
    """Any two pieces that make one merge, the better its score the sooner: how transformers converts such vocabularies."""
    ids, merges = {t: i for i, t in enumerate(texts)}, []
    for token, score in zip(texts[FIRST_PIECE:], scores[FIRST_PIECE:]):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        merges += [(score, a, b) for a, b in cuts if ids.get(a, 0) >= FIRST_PIECE and ids.get(b, 0) >= FIRST_PIECE]
    return [[a, b] for _, a, b in sorted(merges, key=lambda m: (-m[0], ids[m[1]], ids[m[2]]))]


def tokenizer_json(texts, scores):
    special = [{"id": i, "content": texts[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
               for i in (UNKNOWN, BOS, EOS)]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": MARK},
                                                           {"type": "Replace", "pattern": {"String": " "}, "content": MARK}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                    {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": MARK}, "content": " "},
                                                     {"type": "ByteFallback"}, {"type": "Fuse"},
                                                     {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": {t: i for i, t in enumerate(texts)},
                  "merges": merges_of(texts, scores)},
    }


def write_folder(model, texts, scores, out):
    os.makedirs(out, exist_ok=True)
    files = {
        "config.json": {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32", "hidden_act": "silu",
            "hidden_size": model.dim, "intermediate_size": model.hidden, "num_hidden_layers": model.layers,
            "num_attention_heads": model.heads, "num_key_value_heads": model.kv_heads, "vocab_size": model.vocab,
            "max_position_embeddings": model.positions, "rms_norm_eps": RMS_EPS, "rope_theta": ROPE_BASE,
            "tie_word_embeddings": "head" not in model.tensors, "bos_token_id": BOS, "eos_token_id": EOS},
        "generation_config.json": {"bos_token_id": BOS, "eos_token_id": [EOS, BOS]},
        "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "model_max_length": model.positions, "add_bos_token": True,
                                  "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "tokenizer.json": tokenizer_json(texts, scores),
    }
    for name, content in files.items():
        with open(os.path.join(out, name), "w", encoding="utf-8") as f:
            json.dump(content, f, ensure_ascii=False, indent=1)
    write_safetensors(folder_tensors(model), os.path.join(out, "model.safetensors"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tokenizer")
    parser.add_argument("out", help="a file, or with safetensors a folder")
    parser.add_argument("--format", choices=("gguf", "safetensors"), required=True)
    args = parser.parse_args()
    model = Model(args.model)
    texts, scores = read_tokenizer(args.tokenizer, model.vocab)
    (write_gguf if args.format == "gguf" else write_folder)(model, texts, scores, args.out)


if __name__ == "__main__":
    main()
