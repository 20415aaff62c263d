"""Writes GGUF files with random weights, for benchmarks and tests. Their answers are noise; their shapes are real.

    deploy/setup.sh --tests        # makes build/venv, which has gguf and numpy
    build/venv/bin/python3 models/make_synthetic.py OUT.gguf --geometry 1b --type Q8_0 [--seed 0] [--embedding-type Q8_0]

Q4_K_M is the mix that llama.cpp makes under this name: Q4_K, and Q6_K for the head and half of the layers' V and down matrices.

The same arguments give the same bytes. Quantised weights are drawn as raw blocks: random integers and a scale a block
that gives the weights a spread of 0.02, so activations stay in the range that trained models have.
The tokenizer is a byte-level BPE over GPT-2's pattern: 256 bytes, then merges that spell every short run of letters.
"""
import argparse
import dataclasses
import itertools
import string
import sys

try:
    import gguf
    import numpy as np
except ModuleNotFoundError as missing:
    sys.exit(f"make_synthetic.py: {sys.executable} has no {missing.name}; build/venv/bin/python3 has it, after deploy/setup.sh --tests")

SPREAD = 0.02
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


@dataclasses.dataclass
class Geometry:
    arch: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    positions: int
    tied: bool = False


GEOMETRIES = {
    "1b": Geometry("llama", 22, 2048, 32, 4, 64, 5632, 32000, 4096),
    "135m": Geometry("llama", 30, 576, 9, 3, 64, 1536, 49152, 8192, tied=True),         # SmolLM2's
    "long-64": Geometry("llama", 2, 2048, 32, 4, 64, 512, 512, 65536),                  # for attention over long prompts
    "long-128": Geometry("llama", 2, 2048, 16, 4, 128, 512, 512, 65536),
    "tiny": Geometry("llama", 2, 128, 4, 2, 32, 256, 512, 2048),
    "tiny-tied": Geometry("llama", 3, 96, 3, 1, 32, 160, 384, 2048, tied=True),  # nothing is a power of two
    "tiny-k": Geometry("llama", 8, 256, 4, 2, 64, 512, 512, 2048),               # rows fill super-blocks
    "tiny-qwen3": Geometry("qwen3", 2, 128, 4, 2, 64, 256, 512, 2048),           # heads wider than width / heads
}
TYPES = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "BF16", "F16", "F32")
MIXES = ("Q4_K_M",)


def byte_alphabet():
    """GPT-2's printable stand-in for each byte."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(b) if b in keep else chr(next(moved)) for b in range(256)]


def vocabulary(size):
    """Tokens and merges: letter pairs first, then triples and fours, each also after a space."""
    tokens, merges = byte_alphabet(), []
    space, letters = tokens[32], string.ascii_lowercase
    pairs = [(a, b) for a in (*letters, space) for b in letters]
    triples = (((a + b), c) for a, b in pairs for c in letters)
    fours = (((a + b + c), d) for a, b, c in itertools.product((space,), letters, letters) for d in letters)
    for left, right in itertools.islice(itertools.chain(pairs, triples, fours), size - len(tokens) - len(SPECIAL)):
        merges.append(f"{left} {right}")
        tokens.append(left + right)
    unused = size - len(tokens) - len(SPECIAL)
    types = [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.UNUSED] * unused + [gguf.TokenType.CONTROL] * len(SPECIAL)
    tokens += [f"<|unused_{i}|>" for i in range(unused)] + SPECIAL
    return tokens, merges, types


def tensors(g):
    """(name, shape outermost first) in the order of the file."""
    q, kv = g.heads * g.head_dim, g.kv_heads * g.head_dim
    yield "token_embd", (g.vocab, g.width)
    for i in range(g.layers):
        for name, shape in (("attn_norm", (g.width,)), ("attn_q", (q, g.width)), ("attn_k", (kv, g.width)), ("attn_v", (kv, g.width)),
                            ("attn_output", (g.width, q)), ("ffn_norm", (g.width,)), ("ffn_gate", (g.ffn, g.width)),
                            ("ffn_up", (g.ffn, g.width)), ("ffn_down", (g.width, g.ffn))):
            yield f"blk.{i}.{name}", shape
        if g.arch == "qwen3":
            yield f"blk.{i}.attn_q_norm", (g.head_dim,)
            yield f"blk.{i}.attn_k_norm", (g.head_dim,)
    yield "output_norm", (g.width,)
    if not g.tied:
        yield "output", (g.vocab, g.width)


def factors_of_6_bits(rng, n):
    """The 12 bytes of Q4_K and Q5_K, with each group's minimum as large as its scale."""
    f = rng.integers(16, 64, (n, 8)).astype(np.uint8)
    first, last = f[:, :4], f[:, 4:]
    upper = first | (last >> 4) << 6
    return np.concatenate((upper, upper, (last & 15) | (last & 15) << 4), axis=1)


def random_blocks(rng, kind, n):
    """n blocks of weights as raw bytes."""
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    blocks = np.frombuffer(rng.bytes(n * size), np.uint8).reshape(n, size).copy()
    bits = int(kind[1])
    spread_of_integers = ((4 ** bits - 1) / 12) ** 0.5  # uniform
    scale = SPREAD / spread_of_integers * rng.uniform(0.5, 1.5, n)
    if kind.endswith("_K"):
        scale /= 39.5 if bits < 6 else 73.9  # the mean of factors_of_6_bits, the spread of int8
    scale = scale.astype(np.float16)
    at = 208 if kind == "Q6_K" else 0
    blocks[:, at:at + 2] = scale.view(np.uint8).reshape(n, 2)
    if kind in ("Q4_1", "Q5_1", "Q4_K", "Q5_K"):
        middle = np.float16((2 ** bits - 1) / 2)
        blocks[:, 2:4] = (scale * (middle if kind.endswith("_K") else -middle)).view(np.uint8).reshape(n, 2)
    if kind in ("Q4_K", "Q5_K"):
        blocks[:, 4:16] = factors_of_6_bits(rng, n)
    return blocks


def random_values(rng, kind, n):
    reach = np.float32(SPREAD * 3 ** 0.5)
    values = (rng.random(n, np.float32) * 2 - 1) * reach
    if kind == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16) if kind == "F16" else values


def wants_more_bits(layer, layers):
    """Which layers llama.cpp gives more bits in its _M mixes."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def kind_of(name, shape, layers, args):
    if len(shape) == 1:
        return "F32"
    if name in ("token_embd", "output"):
        return args.embedding_type or {"Q4_K_M": "Q6_K" if name == "output" else "Q4_K"}.get(args.type, args.type)
    if args.type == "Q4_K_M":
        _, layer, role = name.split(".")
        return "Q6_K" if role in ("attn_v", "ffn_down") and wants_more_bits(int(layer), layers) else "Q4_K"
    return args.type


def bytes_of(shape, kind):
    per_block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return int(np.prod(shape)) // per_block * size


def weights(rng, shape, kind):
    n = int(np.prod(shape))
    if len(shape) == 1:
        return rng.uniform(0.9, 1.1, n).astype(np.float32)
    if kind.startswith("Q"):
        return random_blocks(rng, kind, n // gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0])
    return random_values(rng, kind, n)


def describe(w, g):
    w.add_type("model")
    w.add_block_count(g.layers)
    w.add_context_length(g.positions)
    w.add_embedding_length(g.width)
    w.add_feed_forward_length(g.ffn)
    w.add_head_count(g.heads)
    w.add_head_count_kv(g.kv_heads)
    w.add_key_length(g.head_dim)
    w.add_value_length(g.head_dim)
    w.add_rope_dimension_count(g.head_dim)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(g.vocab)


def describe_tokenizer(w, g):
    tokens, merges, types = vocabulary(g.vocab)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(merges)
    w.add_bos_token_id(g.vocab - 3)
    w.add_eos_token_id(g.vocab - 1)
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--geometry", choices=GEOMETRIES, default="tiny")
    parser.add_argument("--type", choices=TYPES + MIXES, default="Q8_0", help="of the matrices; norms are F32")
    parser.add_argument("--embedding-type", choices=TYPES, help="of the embeddings and the head; as --type by default")
    parser.add_argument("--split", type=int, default=0, metavar="N", help="several files of N tensors each")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    g = GEOMETRIES[args.geometry]
    w = gguf.GGUFWriter(args.out, g.arch, split_max_tensors=args.split)
    w.add_name(f"synthetic-{args.geometry}-{args.type}")
    describe(w, g)
    describe_tokenizer(w, g)
    plan = [(f"{name}.weight", shape, kind_of(name, shape, g.layers, args)) for name, shape in tensors(g)]
    for name, shape, kind in plan:
        w.add_tensor_info(name, shape, np.dtype(np.float32), bytes_of(shape, kind), raw_dtype=gguf.GGMLQuantizationType[kind])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    rng = np.random.Generator(np.random.SFC64(args.seed))
    for _, shape, kind in plan:
        w.write_tensor_data(weights(rng, shape, kind))
    w.close()


if __name__ == "__main__":
    main()
