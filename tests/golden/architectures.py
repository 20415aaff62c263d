"""Every supported network as a tiny model with random weights, against transformers in float32, teacher-forced over 200 positions.

    tests/golden/architectures.py                               the engine against the committed answers, from safetensors
    build/venv/bin/python3 tests/golden/architectures.py --gguf  from GGUF, with llama.cpp's names as PyPI gguf has them
    tests/golden/references.sh architectures.py --references    transformers anew: against the committed answers, and every logit
                                                                of the engine's
    tests/golden/references.sh architectures.py --write         writes the committed answers

Names of models behind that choose among them. The weights follow from the tensors' names, so that no model is stored: architectures/NAME.jsonl holds, for each position, the
likeliest tokens as [id, natural log-probability]. $BATON_TEST_BIN names the folder of the programs.
"""
import array
import json
import math
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import types
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


def qwen3_moe(**more):
    return {**llama(head_dim=32, num_experts=10, num_experts_per_tok=4, moe_intermediate_size=40, decoder_sparse_step=1,
                    attention_bias=False, use_sliding_window=False), "model_type": "qwen3_moe",
            "architectures": ["Qwen3MoeForCausalLM"], **more}


def phi3(**more):
    return {**llama(sliding_window=None, original_max_position_embeddings=512, pad_token_id=0), "model_type": "phi3",
            "architectures": ["Phi3ForCausalLM"], **more}


def gemma(kind, name, **more):
    return {**llama(head_dim=32, query_pre_attn_scalar=32, hidden_activation="gelu_pytorch_tanh", sliding_window=4096, pad_token_id=0,
                    tie_word_embeddings=True), "model_type": kind, "architectures": [name], **more}


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
    "gemma2": gemma("gemma2", "Gemma2ForCausalLM", sliding_window=45, attn_logit_softcapping=4.0, final_logit_softcapping=3.0),
    "gemma2-scaled": gemma("gemma2", "Gemma2ForCausalLM", query_pre_attn_scalar=9, attn_logit_softcapping=None),
    "gemma3": gemma("gemma3_text", "Gemma3ForCausalLM", sliding_window=45, num_hidden_layers=8, rope_local_base_freq=100.0),
    "gemma3-linear": gemma("gemma3_text", "Gemma3ForCausalLM", sliding_window=45, num_hidden_layers=6, rope_theta=1000000.0,
                           **rope("linear", factor=8.0)),
    "gemma3-pattern": gemma("gemma3_text", "Gemma3ForCausalLM", sliding_window=45, sliding_window_pattern=2,
                            query_pre_attn_scalar=9, final_logit_softcapping=5.0),
    "phi3": phi3(),
    "phi3-window": phi3(sliding_window=51, num_key_value_heads=4, tie_word_embeddings=True),
    "phi3-long": phi3(partial_rotary_factor=0.75, max_position_embeddings=1024, original_max_position_embeddings=256,
                      rope_scaling={"type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.7, 2.2, 2.9],
                                    "long_factor": [1.0, 2.0, 4.0, 8.0, 12.0, 16.0]}),
    "mixtral": {**llama(intermediate_size=96, num_local_experts=6, num_experts_per_tok=2, sliding_window=None), "model_type": "mixtral",
                "architectures": ["MixtralForCausalLM"]},
    "qwen3-moe": qwen3_moe(norm_topk_prob=True),
    "qwen3-moe-mixed": qwen3_moe(norm_topk_prob=False, mlp_only_layers=[1], num_experts_per_tok=3),
    "qwen3": {**llama(head_dim=32, attention_bias=False, use_sliding_window=False), "model_type": "qwen3",
              "architectures": ["Qwen3ForCausalLM"]},
}


def feed_forward(c, layer, n):
    """(name, shape) of what stands behind the attention."""
    width, ffn = c["hidden_size"], c["intermediate_size"]
    experts = c.get("num_local_experts") or c.get("num_experts")
    if c["model_type"] == "phi3":
        yield layer + "mlp.gate_up_proj.weight", (2 * ffn, width)
        yield layer + "mlp.down_proj.weight", (width, ffn)
        return
    if not experts or n in c.get("mlp_only_layers", []):
        yield layer + "mlp.gate_proj.weight", (ffn, width)
        yield layer + "mlp.up_proj.weight", (ffn, width)
        yield layer + "mlp.down_proj.weight", (width, ffn)
        return
    block, gate, up, down = ("block_sparse_moe", "w1", "w3", "w2") if c["model_type"] == "mixtral" else \
        ("mlp", "gate_proj", "up_proj", "down_proj")
    ffn = c.get("moe_intermediate_size", ffn)
    yield f"{layer}{block}.gate.weight", (experts, width)
    for e in range(experts):
        for part, shape in ((gate, (ffn, width)), (up, (ffn, width)), (down, (width, ffn))):
            yield f"{layer}{block}.experts.{e}.{part}.weight", shape


def tensors(c):
    """(name, shape) of a model folder."""
    width, heads, kv, dim = (c[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"))
    yield "model.embed_tokens.weight", (VOCAB, width)
    for n in range(c["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        yield layer + "input_layernorm.weight", (width,)
        yield layer + "post_attention_layernorm.weight", (width,)
        if c["model_type"].startswith("gemma"):
            yield layer + "pre_feedforward_layernorm.weight", (width,)
            yield layer + "post_feedforward_layernorm.weight", (width,)
        fused = ("qkv", (heads + 2 * kv) * dim),
        for part, outputs in fused if c["model_type"] == "phi3" else (("q", heads * dim), ("k", kv * dim), ("v", kv * dim)):
            yield f"{layer}self_attn.{part}_proj.weight", (outputs, width)
            if c["model_type"] == "qwen2":
                yield f"{layer}self_attn.{part}_proj.bias", (outputs,)
        if c["model_type"] in ("qwen3", "qwen3_moe", "gemma3_text"):
            yield layer + "self_attn.q_norm.weight", (dim,)
            yield layer + "self_attn.k_norm.weight", (dim,)
        yield layer + "self_attn.o_proj.weight", (width, heads * dim)
        yield from feed_forward(c, layer, n)
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


def values(name, shape, around_zero=False):
    """Norms lie around one (those that are stored as the distance from it, around zero), biases around zero, rows of matrices have about unit length, the head's more: its logits differ."""
    n = 1
    for size in shape:
        n *= size
    reach = 0.5 if len(shape) == 1 else (3 / shape[1]) ** 0.5 * (3 if name == "lm_head.weight" else 1)
    middle = 1 if name.endswith("norm.weight") and not around_zero else 0
    source = numbers(zlib.crc32(name.encode()))
    return array.array("f", (middle + reach * next(source) for _ in range(n)))


def values_of(c, name, shape):
    return values(name, shape, c["model_type"].startswith("gemma"))


def write_model(config, folder):
    header, blob = {}, b""
    for name, shape in tensors(config):
        data = values_of(config, name, shape).tobytes()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + blob)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(TINY, name), folder)


def use_gguf():
    """PyPI gguf and what models/ has with it are there in build/venv only."""
    global gguf, make_synthetic, numpy
    sys.path.append(str(HERE.parent.parent / "models"))
    import gguf
    import make_synthetic
    import numpy


# What llama.cpp calls them.
GGUF_ARCHS = {"llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3_moe": "qwen3moe",
              "phi3": "phi3", "gemma2": "gemma2", "gemma3_text": "gemma3"}
ONLY_FOLDERS = {"llama-llama3": "its frequencies are a tensor that the converter computes",
                "qwen2-window": "which layers see the window is not in the file",
                "gemma2-scaled": "what attention is scaled with follows from its shape",
                "gemma3-pattern": "which layers see the window, and what attention is scaled with, is not in the file",
                "qwen3-moe-mixed": "llama.cpp has experts in all layers, and their weights sum to one"}


def describe_long_rope(w, c):
    original, longest = c["original_max_position_embeddings"], c["max_position_embeddings"]
    w.add_rope_scaling_orig_ctx_len(original)
    if "rope_scaling" in c:
        w.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(longest / original) / math.log(original)))
        for kind in ("long", "short"):
            w.add_tensor(f"rope_factors_{kind}.weight", numpy.array(c["rope_scaling"][f"{kind}_factor"], dtype=numpy.float32))


def describe_gguf(w, c):
    """The metadata, as llama.cpp's converter has it."""
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_key_length(c["head_dim"])
    w.add_value_length(c["head_dim"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_dimension_count(int(c["head_dim"] * c.get("partial_rotary_factor", 1)))
    w.add_rope_freq_base(c["rope_theta"])
    if c["model_type"] == "phi3":
        describe_long_rope(w, c)
    elif "rope_scaling" in c:
        w.add_rope_scaling_type(gguf.RopeScalingType(c["rope_scaling"]["rope_type"]))
        w.add_rope_scaling_factor(c["rope_scaling"]["factor"])
        if c["rope_scaling"]["rope_type"] == "yarn":
            w.add_rope_scaling_orig_ctx_len(c["rope_scaling"]["original_max_position_embeddings"])
    if c.get("attn_logit_softcapping"):
        w.add_attn_logit_softcapping(c["attn_logit_softcapping"])
        w.add_final_logit_softcapping(c["final_logit_softcapping"])
    if "rope_local_base_freq" in c:
        w.add_rope_freq_base_swa(c["rope_local_base_freq"])
    if c.get("sliding_window"):
        w.add_sliding_window(c["sliding_window"])
    experts = c.get("num_local_experts") or c.get("num_experts")
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(c["num_experts_per_tok"])
    if "moe_intermediate_size" in c:
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])


def gguf_values(c, name, shape):
    """llama.cpp rotates neighbours where Llama rotates halves: the converter reorders rows. And it adds Gemma's ones to norms."""
    data = numpy.array(values_of(c, name, shape), dtype=numpy.float32).reshape(shape)
    if GGUF_ARCHS[c["model_type"]] == "llama" and (".q_proj." in name or ".k_proj." in name):
        data = data.reshape(-1, 2, c["head_dim"] // 2, shape[1]).swapaxes(1, 2).reshape(shape)
    if c["model_type"].startswith("gemma") and len(shape) == 1:
        data = data + 1
    return data


def write_gguf(c, path):
    arch = GGUF_ARCHS[c["model_type"]]
    w = gguf.GGUFWriter(path, arch)
    describe_gguf(w, c)
    make_synthetic.describe_tokenizer(w, types.SimpleNamespace(vocab=VOCAB))
    enum = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(enum, c["num_hidden_layers"])
    stacks = {}
    for name, shape in tensors(c):
        data, expert = gguf_values(c, name, shape), re.search(r"experts\.\d+\.", name)
        if expert:
            stacks.setdefault(name.replace(expert.group(), "experts."), []).append(data)
        else:
            w.add_tensor(names.get_name(name, (".weight", ".bias")), data)
    for name, stack in stacks.items():
        w.add_tensor(names.get_name(name, (".weight",)), numpy.stack(stack))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


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


def check_gguf(config, name):
    with tempfile.TemporaryDirectory() as folder:
        write_gguf(config, pathlib.Path(folder) / "model.gguf")
        compare(engine(pathlib.Path(folder) / "model.gguf", "all"), committed(name), "the committed ones")


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
    suite, arguments = Suite(), sys.argv[1:]
    mode = arguments.pop(0) if arguments and arguments[0].startswith("--") else ""
    step = {"": check_engine, "--gguf": check_gguf, "--references": check_reference, "--write": write}[mode]
    if mode == "--gguf":
        use_gguf()
    for name, config in MODELS.items():
        if mode == "--gguf" and name in ONLY_FOLDERS:
            print(f"        no GGUF of {name}: {ONLY_FOLDERS[name]}")
        elif not arguments or name in arguments:
            suite.test(name, step, config, name)
    suite.finish()


if __name__ == "__main__":
    main()
