"""Every supported network as a tiny model with random weights, against transformers in float32, teacher-forced over 200 positions.

    tests/golden/architectures.py                              the engine against the committed answers
    tests/golden/references.sh architectures.py --references   transformers anew: against the committed answers, and every logit
                                                               of the engine's
    tests/golden/references.sh architectures.py --write        writes the committed answers

The weights follow from the tensors' names, so that no model is stored: architectures/NAME.jsonl holds, for each position, the
likeliest tokens as [id, natural log-probability]. $BATON_TEST_BIN names the folder of the programs.
"""
import array
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "flow"))

from cluster import BIN, TINY, Suite

POSITIONS = 200
LISTED = 4
TOLERANCE = 1e-3
VOCAB = 1024  # that of the built-in model, whose tokenizer serves

SHAPE = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 16, "vocab_size": VOCAB, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "hidden_act": "silu",
         "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": 0, "torch_dtype": "float32"}


def llama(**more):
    return {**SHAPE, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_theta": 10000.0, **more}


def rope(kind, **numbers):
    return {"rope_scaling": {"rope_type": kind, **numbers}}


MODELS = {
    "llama": llama(),
    "llama-tied": llama(tie_word_embeddings=True, num_key_value_heads=4, num_hidden_layers=2),
    "llama-linear": llama(**rope("linear", factor=4.0)),
    "llama-llama3": llama(rope_theta=500000.0, **rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                      original_max_position_embeddings=64)),
    "llama-yarn": llama(**rope("yarn", factor=8.0, original_max_position_embeddings=64)),
    "mistral": {**llama(), "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None},
    "mistral-window": {**llama(), "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 37},
    "qwen2-window": {**llama(use_sliding_window=True, sliding_window=70, max_window_layers=1), "model_type": "qwen2",
                     "architectures": ["Qwen2ForCausalLM"]},
    "qwen2": {**llama(rope_theta=1000000.0, use_sliding_window=False), "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {**llama(head_dim=32, attention_bias=False, use_sliding_window=False), "model_type": "qwen3",
              "architectures": ["Qwen3ForCausalLM"]},
}


def tensors(c):
    """(name, shape) of a model folder."""
    width, ffn, heads, kv, dim = (c[k] for k in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
                                                 "head_dim"))
    yield "model.embed_tokens.weight", (VOCAB, width)
    for n in range(c["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        yield layer + "input_layernorm.weight", (width,)
        yield layer + "post_attention_layernorm.weight", (width,)
        for part, outputs in (("q", heads * dim), ("k", kv * dim), ("v", kv * dim)):
            yield f"{layer}self_attn.{part}_proj.weight", (outputs, width)
            if c["model_type"] == "qwen2":
                yield f"{layer}self_attn.{part}_proj.bias", (outputs,)
        if c["model_type"] == "qwen3":
            yield layer + "self_attn.q_norm.weight", (dim,)
            yield layer + "self_attn.k_norm.weight", (dim,)
        yield layer + "self_attn.o_proj.weight", (width, heads * dim)
        for part in ("gate", "up"):
            yield f"{layer}mlp.{part}_proj.weight", (ffn, width)
        yield layer + "mlp.down_proj.weight", (width, ffn)
    yield "model.norm.weight", (width,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (VOCAB, width)


def numbers(seed):
    """xorshift32, as values in [-1, 1)."""
    x = seed or 1
    while True:
        x ^= x << 13 & 0xffffffff
        x ^= x >> 17
        x ^= x << 5 & 0xffffffff
        yield (x >> 8) / 2 ** 23 - 1


def values(name, shape):
    """Norms lie around one, biases around zero, rows of matrices have about unit length, the head's more: its logits differ."""
    n = 1
    for size in shape:
        n *= size
    reach = 0.5 if len(shape) == 1 else (3 / shape[1]) ** 0.5 * (3 if name == "lm_head.weight" else 1)
    middle = 1 if name.endswith("norm.weight") else 0
    source = numbers(zlib.crc32(name.encode()))
    return array.array("f", (middle + reach * next(source) for _ in range(n)))


def write_model(config, folder):
    header, blob = {}, b""
    for name, shape in tensors(config):
        data = values(name, shape).tobytes()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + blob)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(TINY, name), folder)


def sequence():
    """One token to begin with, and those that are forced behind it."""
    source = numbers(7)
    return [int((next(source) + 1) / 2 * VOCAB) for _ in range(POSITIONS + 1)]


def engine(folder, top):
    """For each position {token: log-probability}."""
    first, *forced = sequence()
    line = json.dumps({"prompt_ids": [first], "greedy_ids": forced}) + "\n"
    command = [os.path.join(BIN, "baton"), "model", "score", "-", "--model", str(folder), "--f32", "--kv", "f32", "--top", top]
    done = subprocess.run(command, input=line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [dict(map(tuple, pairs)) for pairs in json.loads(done.stdout)["top_logprobs"]]


def committed(name):
    with open(HERE / "architectures" / f"{name}.jsonl") as f:
        return [json.loads(line) for line in f]


def compare(rows, wanted, what):
    """rows: {token: log-probability} of each position; wanted: [token, log-probability] of some."""
    assert len(rows) == len(wanted) == POSITIONS, (len(rows), len(wanted))
    worst = max(abs(row[token] - value) for row, pairs in zip(rows, wanted) for token, value in pairs)
    print(f"        worst log-probability is off by {worst:.1e} of {what} (limit {TOLERANCE})")
    assert worst <= TOLERANCE, f"off by {worst:.1e}"


def check_engine(config, name):
    with tempfile.TemporaryDirectory() as folder:
        write_model(config, pathlib.Path(folder))
        compare(engine(folder, "all"), committed(name), "the committed ones")


def reference(folder):
    """transformers' log-probabilities, [position][token]."""
    import torch
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        logits = model(torch.tensor([sequence()[:-1]])).logits[0].double()
    return torch.log_softmax(logits, -1).tolist()


def check_reference(config, name):
    with tempfile.TemporaryDirectory() as folder:
        write_model(config, pathlib.Path(folder))
        anew = reference(folder)
        compare([dict(enumerate(row)) for row in anew], committed(name), "the committed ones")
        compare(engine(folder, "all"), [list(enumerate(row)) for row in anew], "transformers'")


def write(config, name):
    with tempfile.TemporaryDirectory() as folder:
        write_model(config, pathlib.Path(folder))
        with open(HERE / "architectures" / f"{name}.jsonl", "w") as f:
            for row in reference(folder):
                best = sorted(enumerate(row), key=lambda pair: -pair[1])[:LISTED]
                f.write(json.dumps([[token, round(value, 5)] for token, value in best]) + "\n")


def main():
    suite = Suite()
    step = {"": check_engine, "--references": check_reference, "--write": write}[sys.argv[1] if len(sys.argv) > 1 else ""]
    for name, config in MODELS.items():
        suite.test(name, step, config, name)
    suite.finish()


main()
