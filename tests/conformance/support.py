"""What docs/SUPPORT.md says, found by asking the programs: small models in every number format and of every network are made, opened
and run with every number format of KV and every instruction set, and others that are refused, for the words of the refusal.
generated_docs.py writes and compares the page. Standard library only.
"""
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path += [str(ROOT / "tests/flow"), str(ROOT / "tests/golden")]

import architectures
from cluster import BIN, TINY

GGML_TYPES = 64  # no number of a format reaches it
WIDTH, FFN, VOCAB = 256, 256, 256
SAFETENSORS_TYPES = ["F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2", "I64", "I8", "U8", "BOOL"]
ONE_STEP = json.dumps({"prompt_ids": [1, 2, 3], "greedy_ids": [4, 5]}) + "\n"
LACKING = "this processor lacks"  # what another machine may have: no difference to the page


def baton(*arguments):
    command = [os.path.join(BIN, "baton"), "model", *map(str, arguments)]
    return subprocess.run(command, input=ONE_STEP, capture_output=True, text=True)


def words(command, option):
    """What an option takes, from its help."""
    return re.search(rf"--{option} (\S+)", baton(command, "--help").stdout).group(1).split("|")


def complaint(done, folder):
    """Without the name of the command and that of the temporary folder."""
    text = done.stderr.strip().replace(f"{folder}/", "")
    return re.sub(r"^baton model \w+: ", "", text)


# --- GGUF ---

TEXT, U32, F32, BOOL, I32 = 8, 4, 6, 7, 5


def text(s):
    data = s.encode()
    return struct.pack("<Q", len(data)) + data


def value(kind, x):
    if kind == TEXT:
        return text(x)
    return struct.pack({U32: "<I", F32: "<f", BOOL: "<?", I32: "<i"}[kind], x)


def key(name, kind, x):
    if isinstance(x, list):
        return text(name) + struct.pack("<IIQ", 9, kind, len(x)) + b"".join(value(kind, each) for each in x)
    return text(name) + struct.pack("<I", kind) + value(kind, x)


def byte_alphabet():
    """GPT-2's printable stand-in for each byte."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(b) if b in keep else chr(next(moved)) for b in range(256)]


KEYS = {
    "general.architecture": (TEXT, "llama"), "llama.block_count": (U32, 1), "llama.context_length": (U32, 64),
    "llama.embedding_length": (U32, WIDTH), "llama.feed_forward_length": (U32, FFN), "llama.attention.head_count": (U32, 4),
    "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5), "tokenizer.ggml.model": (TEXT, "gpt2"), "tokenizer.ggml.pre": (TEXT, "gpt-2"),
    "tokenizer.ggml.tokens": (TEXT, byte_alphabet()), "tokenizer.ggml.token_type": (I32, [1] * VOCAB), "tokenizer.ggml.merges": (TEXT, []),
}
VECTORS = {"blk.0.attn_norm.weight": WIDTH, "blk.0.ffn_norm.weight": WIDTH, "output_norm.weight": WIDTH}
MATRICES = ["token_embd", "output", *(f"blk.0.{n}" for n in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"))]


def gguf(keys={}, number=0, vector_number=0, without=(), extra=(), version=3):
    """A network of one layer whose weights are zeros, which they are in every number format. Each tensor has the room of F32."""
    keys = {name: pair for name, pair in {**KEYS, **keys}.items() if pair}
    tensors = [(name, (n,), vector_number) for name, n in VECTORS.items()]
    tensors += [(f"{name}.weight", (WIDTH, WIDTH), number) for name in (*MATRICES, *extra)]
    head, at = b"", 0
    for name, shape, kind in (t for t in tensors if t[0] not in without):
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at)
        at += 4 * WIDTH * (WIDTH if len(shape) > 1 else 1)
    n = sum(t[0] not in without for t in tensors)
    data = b"GGUF" + struct.pack("<IQQ", version, n, len(keys)) + b"".join(key(name, *pair) for name, pair in keys.items()) + head
    return data + bytes(-len(data) % 32) + bytes(at)


# --- Hugging Face folders ---

def folder_model(folder, config={}, tokenizer=None, dtype="F32", name="model", weights="model.safetensors"):
    """The tiny Llama of tests/golden, with fields of config.json or parts of tokenizer.json changed."""
    out = folder / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    whole = {**architectures.llama(), **config}
    architectures.write_model(whole if config.get("model_type") in (None, "llama") else architectures.llama(), out)
    (out / "config.json").write_text(json.dumps(whole))
    if dtype != "F32":
        with open(out / "model.safetensors", "rb") as f:
            header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        at, size = 0, 2 if dtype in ("F16", "BF16") else 4
        for entry in header.values():
            n = (entry["data_offsets"][1] - entry["data_offsets"][0]) // 4 * size
            entry.update(dtype=dtype, data_offsets=[at, at + n])
            at += n
        packed = json.dumps(header).encode()
        packed += b" " * (-len(packed) % 8)
        (out / "model.safetensors").write_bytes(struct.pack("<Q", len(packed)) + packed + bytes(at))
    (out / "model.safetensors").rename(out / weights)
    if tokenizer:
        made = json.loads((out / "tokenizer.json").read_text())
        tokenizer(made)
        (out / "tokenizer.json").write_text(json.dumps(made))
    return out


# --- what runs ---

def kernels(model, isas, kv):
    """The instruction sets that compute the model, or why one does not."""
    for isa in isas:
        done = baton("score", "-", "--model", model, "--engine", isa, "--kv", kv, "--threads", "1")
        if done.returncode != 0 and LACKING not in done.stderr:
            return f"{isa}: {complaint(done, model.parent)}"
    return "all"


def number_formats(folder, isas, kv):
    """Each that ggml or safetensors has a number or name for."""
    rows, refused = {}, {"GGUF": {}, "safetensors": {}}
    for number in range(GGML_TYPES):
        path = folder / "m.gguf"
        path.write_bytes(gguf(number=number))
        done = baton("inspect", path, "--json", "--tensors")
        if done.returncode == 0:
            name = next(t["type"] for t in json.loads(done.stdout)["tensors"] if len(t["shape"]) > 1)
            rows[name] = {"GGUF": "yes", "kernels": kernels(path, isas, kv)}
        elif "unknown number format" not in done.stderr:
            refused["GGUF"][re.search(r"number format (\S+)", done.stderr).group(1)] = complaint(done, folder)
    for name in SAFETENSORS_TYPES:
        done = baton("inspect", folder_model(folder, dtype=name))
        if done.returncode == 0:
            rows[name]["safetensors"] = "yes"
        else:
            refused["safetensors"][name] = complaint(done, folder)
    return rows, refused


def networks(folder, isas, kvs):
    rows = {}
    for name, config in architectures.MODELS.items():
        model, out = folder / name, folder / f"{name}.gguf"
        model.mkdir()
        architectures.write_model(config, model)
        rows[name] = {kv: kernels(model, isas, kv) for kv in kvs}
        rows[name]["model_type"] = config["model_type"]
        done = baton("quantize", model, out, "--type", "Q8_0")
        rows[name]["as GGUF"] = "yes" if done.returncode == 0 else re.sub(r"^[^:]*: ", "", complaint(done, folder))
    return rows


# --- what is refused ---

def set_part(*path):
    """Sets a place of tokenizer.json to the last of the arguments."""
    def change(made):
        for step in path[:-2]:
            made = made[step]
        made[path[-2]] = path[-1]
    return change


GGUF_REFUSALS = [
    ("no GGUF file", b"GGML" + bytes(64)),
    ("version 2", gguf(version=2)),
    ("big-endian", gguf(version=3 << 24)),
    ("another network", gguf({"general.architecture": (TEXT, "mamba")})),
    ("an adapter, not a model", gguf({"general.type": (TEXT, "adapter")})),
    ("a key that may change the mathematics", gguf({"llama.attention.max_alibi_bias": (F32, 8.0)})),
    ("another scaling of rotary frequencies", gguf({"llama.rope.scaling.type": (TEXT, "longrope"), "llama.rope.scaling.factor": (F32, 4.0)})),
    ("heads that are rotated in part", gguf({"llama.rope.dimension_count": (U32, 32)})),
    ("a vector that is quantised", gguf(vector_number=8)),
    ("a missing weight", gguf(without=["blk.0.attn_q.weight"])),
    ("a weight too many", gguf(extra=["blk.0.attn_sinks"])),
    ("another kind of tokenizer", gguf({"tokenizer.ggml.model": (TEXT, "bert")})),
    ("another way to cut texts", gguf({"tokenizer.ggml.pre": (TEXT, "deepseek-llm")})),
    ("a token behind each text", gguf({"tokenizer.ggml.add_eos_token": (BOOL, True)})),
    ("a chat template that is no Jinja", gguf({"tokenizer.chat_template": (TEXT, "{% if %}")})),
]

FOLDER_REFUSALS = [
    ("another network", {"config": {"model_type": "mamba"}}),
    ("another head", {"config": {"architectures": ["LlamaForSequenceClassification"]}}),
    ("weights quantised otherwise", {"config": {"quantization_config": {"quant_method": "gptq"}}}),
    ("code of its own", {"config": {"auto_map": {"AutoModel": "modeling.Model"}}}),
    ("another activation", {"config": {"hidden_act": "relu"}}),
    ("biases that its family has not", {"config": {"attention_bias": True}}),
    ("heads that are rotated in part", {"config": {"partial_rotary_factor": 0.5}}),
    ("another scaling of rotary frequencies", {"config": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}}),
    ("weights in no safetensors file", {"weights": "pytorch_model.bin"}),
    ("another kind of tokenizer", {"tokenizer": set_part("model", "type", "WordPiece")}),
    ("texts made lower-case", {"tokenizer": set_part("normalizer", {"type": "Lowercase"})}),
    ("texts cut by a class of characters", {"tokenizer": set_part("pre_tokenizer", {"type": "Whitespace"})}),
    ("texts cut at a length", {"tokenizer": set_part("truncation", {"max_length": 8})}),
]


def refusals(folder):
    rows = []
    for what, data in GGUF_REFUSALS:
        (folder / "m.gguf").write_bytes(data)
        rows.append(("GGUF", what, baton("inspect", folder / "m.gguf")))
    for what, changes in FOLDER_REFUSALS:
        rows.append(("folder", what, baton("inspect", folder_model(folder, **changes))))
    model = folder_model(folder, config={})
    rows.append(("KV", "another number format", baton("score", "-", "--model", model, "--kv", "q4_0")))
    rows.append(("kernels", "another instruction set", baton("score", "-", "--model", model, "--engine", "sse2")))
    rows.append(("quantize", "another mix", baton("quantize", model, folder / "new.gguf", "--type", "Q2_K")))
    (folder / "old.gguf").write_bytes(b"")
    rows.append(("quantize", "a file that is there", baton("quantize", model, folder / "old.gguf", "--type", "Q8_0")))
    for kind, what, done in rows:
        assert done.returncode != 0 and done.stderr.strip(), f"{kind}: {what}: it was not refused"
    return [(kind, what, complaint(done, folder)) for kind, what, done in rows]


# --- the page ---

def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in rows]) + "\n"


def code(text):
    return f"`{text}`"


def alike(refused):
    """(names, message) of those that are refused in the same words but for the name."""
    groups = {}
    for name, message in refused.items():
        groups.setdefault(message.replace(name, "FORMAT"), []).append(name)
    return [(", ".join(names), message) for message, names in groups.items()]


def page():
    isas = [word for word in words("score", "engine") if word != "auto"]
    kvs, mixes = words("score", "kv"), words("quantize", "type")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        formats, refused = number_formats(folder, isas, "bf16")
        models, others = networks(folder, isas, kvs), refusals(folder)
    out = ("# What is supported\n\nGenerated by `tests/conformance/generated_docs.py --write`, which makes a small model for each row, "
           "opens it and runs it; refusals are the programs' own words. Formats, networks and KV are not multiplied out: kernels know number "
           "formats and not networks, attention knows KV's and not the weights'.\n\n"
           f"Instruction sets: {', '.join(isas)}; one that the processor lacks is refused by its name. Number formats of KV: {', '.join(kvs)}. "
           f"`baton model quantize` writes {', '.join(mixes)}.\n\n"
           "## Number formats of weights\n\n")
    out += table(["format", "GGUF", "safetensors", "instruction sets"],
                 [(name, row["GGUF"], row.get("safetensors", ""), row["kernels"]) for name, row in formats.items()])
    out += "\n" + table(["in", "refused", "message"],
                        [(kind, names, code(message)) for kind in refused for names, message in alike(refused[kind])])
    out += "\n## Networks\n\nInstruction sets by number format of KV, and whether `baton model quantize` can write a folder of it as GGUF.\n\n"
    out += table(["network", "`model_type`", *kvs, "as GGUF"],
                 [(name, row["model_type"], *(row[kv] for kv in kvs), row["as GGUF"]) for name, row in models.items()])
    out += "\n## Refused\n\n"
    out += table(["in", "what", "message"], [(kind, what, code(message)) for kind, what, message in others])
    return out
