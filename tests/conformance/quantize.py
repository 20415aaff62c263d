"""`baton model quantize` against PyPI gguf, which reads its files and has the same bits where it quantises itself; and against the
models it started from, in logits.

    quantize.py        $BATON_TEST_BIN names the folder of the programs; needs gguf and numpy
"""
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile

import gguf
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path += [str(ROOT / "tests/flow"), str(ROOT / "tests/golden")]

import architectures
from cluster import BIN, TINY, Suite

STORIES = ROOT / "tests/golden/stories260k"
LLAMA = ROOT / "build/venv-llama/bin/python3"  # bench/peers makes it
WRITTEN_ANEW = {"general.file_type", "general.quantization_version"}
FORMATS = gguf.GGMLQuantizationType
# Nats a token that the built-in model's answers may move; they are certain, mostly.
MOST_KL = {"Q8_0": 0.0001, "Q4_0": 0.001, "Q4_K_M": 0.0005}


def baton(*arguments, **more):
    return subprocess.run([os.path.join(BIN, "baton"), "model", *map(str, arguments)], capture_output=True, text=True, **more)


def quantize(source, out, mix):
    done = baton("quantize", source, out, "--type", mix, "--force")
    assert done.returncode == 0, done.stderr
    return gguf.GGUFReader(out)


def synthetic(folder, geometry, kind):
    path = folder / f"{geometry}.{kind}.gguf"
    subprocess.run([sys.executable, ROOT / "models/make_synthetic.py", path, "--geometry", geometry, "--type", kind], check=True)
    return path


def spoil_evenness(path):
    """Blocks of zeros, of one value, with a tie for the largest, of tiny values and of values far apart."""
    rng = np.random.default_rng(5)
    for t in gguf.GGUFReader(path, "r+").tensors:
        if t.tensor_type == FORMATS.F32 and len(t.shape) == 2:
            rows = t.data
            rows[:] = rng.standard_normal(rows.shape, np.float32) * np.float32(0.03)
            rows[0, :32], rows[0, 32:64], rows[1, :64], rows[2, :32] = 0, 0.25, 1e-9, 1e-35
            rows[1, 5], rows[1, 9], rows[3, :32] = -0.5, 0.5, np.logspace(-9, 3, 32, dtype=np.float32)
            rows[4, :32] = (np.arange(32) - 16) / np.float32(8)


def equals_gguf(folder):
    source = synthetic(folder, "tiny", "F32")
    spoil_evenness(source)
    before = {t.name: t for t in gguf.GGUFReader(source).tensors}
    compared = set()
    for mix in ("Q8_0", "Q4_0", "Q4_K_M"):  # rows of 128 do not fill blocks of Q4_K
        for t in quantize(source, folder / "out.gguf", mix).tensors:
            if t.tensor_type not in (FORMATS.Q4_K, FORMATS.Q6_K):  # which gguf only reads
                wanted = gguf.quants.quantize(before[t.name].data, t.tensor_type)
                assert t.data.tobytes() == wanted.tobytes(), (mix, t.name)
                compared.add(t.tensor_type.name)
    assert compared >= {"F32", "Q8_0", "Q4_0", "Q5_0"}, compared


def fields(reader):
    return {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}


def carries_metadata(folder):
    for kind in ("BF16", "Q5_K", "Q4_1"):
        source = synthetic(folder, "tiny-k", kind)
        old, new = gguf.GGUFReader(source), quantize(source, folder / "out.gguf", "Q8_0")
        before, after = fields(old), fields(new)
        for name in before.keys() | after.keys():
            assert name in WRITTEN_ANEW or before[name] == after[name], name
        assert after["general.file_type"] == 7 and after["general.quantization_version"] == 2
        assert {t.name: list(t.shape) for t in old.tensors} == {t.name: list(t.shape) for t in new.tensors}


def inspects(folder):
    """What the command counts is what gguf counts."""
    made = quantize(TINY, folder / "tiny.gguf", "Q4_K_M")
    about = json.loads(baton("inspect", folder / "tiny.gguf", "--json", "--tensors").stdout)
    assert {t["name"]: (t["type"], t["bytes"]) for t in about["tensors"]} == \
        {t.name: (t.tensor_type.name, t.n_bytes) for t in made.tensors}
    for row in about["types"]:
        same = [t for t in made.tensors if t.tensor_type.name == row["type"]]
        assert (row["tensors"], row["values"], row["bytes"]) == \
            (len(same), sum(t.n_elements for t in same), sum(t.n_bytes for t in same)), row
    kv = about["worker"]["kv_bytes_per_1000_tokens"]
    token = 2 * about["layers"] * about["kv_heads"] * about["head_dim"]
    assert kv["f32"] == 4000 * token and kv["bf16"] == kv["f16"] == 2000 * token, kv
    assert "tensors" not in json.loads(baton("inspect", TINY, "--json").stdout)
    text, listed = baton("inspect", TINY).stdout, baton("inspect", TINY, "--tensors").stdout
    assert "2.0 MB  1000 tokens of KV in bf16" in text and "k_proj" not in text, text
    assert listed.startswith(text) and "model.layers.3.self_attn.k_proj.weight" in listed, listed


def inspects_experts(folder):
    config = architectures.MODELS["mixtral"]
    (folder / "experts").mkdir()
    architectures.write_model(config, folder / "experts")
    about = json.loads(baton("inspect", folder / "experts", "--json").stdout)
    assert (about["experts"], about["experts_used"], about["expert_ffn"]) == \
        (config["num_local_experts"], config["num_experts_per_tok"], config["intermediate_size"]), about
    assert "experts     6 of FFN 96, a token goes through 2" in baton("inspect", folder / "experts").stdout
    assert json.loads(baton("inspect", TINY, "--json").stdout)["experts"] == 0
    assert "experts" not in baton("inspect", TINY).stdout


def joins_split_files(folder):
    path = folder / "m.gguf"
    command = [sys.executable, ROOT / "models/make_synthetic.py", path, "--geometry", "tiny", "--type", "F16"]
    subprocess.run(command, check=True)
    whole = quantize(path, folder / "whole.gguf", "Q8_0")
    subprocess.run(command + ["--split", "7"], check=True)
    joined = quantize(folder / "m-00001-of-00003.gguf", folder / "joined.gguf", "Q8_0")
    assert fields(whole) == fields(joined)
    assert all(np.array_equal(a.data, b.data) for a, b in zip(whole.tensors, joined.tensors, strict=True))


def log_probabilities(model, lines):
    """Of each position of each line, every token's."""
    done = baton("score", "-", "--model", model, "--top", "all", input="".join(json.dumps(line) + "\n" for line in lines))
    assert done.returncode == 0, done.stderr
    rows = [row for answer in done.stdout.splitlines() for row in json.loads(answer)["top_logprobs"]]
    return np.array([[value for _, value in sorted(map(tuple, row))] for row in rows])


def divergence(source, quantised, lines):
    """Of each position, in nats, and the share of those with the same likeliest token."""
    p, q = log_probabilities(source, lines), log_probabilities(quantised, lines)
    return (np.exp(p) * (p - q)).sum(1), (p.argmax(1) == q.argmax(1)).mean()


def keeps_answers(folder, mix):
    with open(ROOT / "tests/golden/baton-tiny/completions.jsonl") as f:
        lines = [json.loads(line) for line in f][:24]
    quantize(TINY, folder / "tiny.gguf", mix)
    each, same = divergence(TINY, folder / "tiny.gguf", lines)
    kl = each.mean()
    print(f"        {mix}: KL divergence {kl:.5f} (limit {MOST_KL[mix]}), the same token in {100 * same:.1f} %")
    assert kl <= MOST_KL[mix] and same >= 0.9


def keeps_networks(folder, name, config):
    """What a wrong order of rows or a lost constant costs is a hundred times this. In a few positions a router chooses other experts:
    the median does not mind."""
    model, out = folder / name, folder / f"{name}.gguf"
    model.mkdir()
    architectures.write_model(config, model)
    done = baton("quantize", model, out, "--type", "Q8_0")
    if done.returncode:
        print(f"        refused: {done.stderr.strip()}")
        assert "cannot be written to GGUF" in done.stderr and name not in CARRIED, done.stderr
        assert not out.exists()
        return
    first, *forced = architectures.sequence()
    each, _ = divergence(model, out, [{"prompt_ids": [first], "greedy_ids": forced}])
    print(f"        median KL divergence {np.median(each):.5f} (limit 0.02)")
    assert np.median(each) <= 0.02


CARRIED = {"llama", "llama-tied", "llama-linear", "llama-llama3", "llama-yarn", "mistral", "mistral-window", "qwen2", "qwen3",
           "phi3", "phi3-window", "mixtral", "qwen3-moe"}


def keeps_sentencepiece(folder):
    """The converter's GGUF says what the keys of its folder must become."""
    for out, kind in (("stories", "safetensors"), ("stories.gguf", "gguf")):
        subprocess.run([sys.executable, ROOT / "models/convert_llama2c.py", STORIES / "stories260K.bin", STORIES / "tok512.bin",
                        folder / out, "--format", kind], check=True)
    made = fields(quantize(folder / "stories", folder / "out.gguf", "Q8_0"))
    wanted = fields(gguf.GGUFReader(folder / "stories.gguf"))
    for key in ("model", "tokens", "token_type", "bos_token_id", "eos_token_id", "eot_token_id", "unknown_token_id",
                "add_bos_token", "add_space_prefix"):
        assert made["tokenizer.ggml." + key] == wanted["tokenizer.ggml." + key], key
    each, _ = divergence(folder / "stories", folder / "out.gguf", [{"prompt_ids": [1, 403, 407], "greedy_ids": [261, 378, 432]}])
    assert each.max() < 0.02, each


def llama_reads(folder):
    code = ("import llama_cpp, sys\nm = llama_cpp.Llama(sys.argv[1], n_ctx=128, verbose=False)\n"
            "print(m.create_completion('Once upon a time', max_tokens=20, temperature=0)['choices'][0]['text'])")
    done = subprocess.run([LLAMA, "-c", code, folder / "out.gguf"], capture_output=True, text=True)
    assert done.returncode == 0 and "little girl named Lily" in done.stdout, done.stdout + done.stderr


def says_when_full(folder):
    """A limit on the size of files is met as a full disk is."""
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    before = sorted(folder.iterdir())
    done = baton("quantize", TINY, folder / "full.gguf", "--type", "Q8_0", preexec_fn=limit)
    assert done.returncode == 1 and "full.gguf: File too large; 2.8 MB are needed" in done.stderr, done.stderr
    assert sorted(folder.iterdir()) == before


def main():
    suite = Suite()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        suite.test("blocks are gguf's bit for bit", equals_gguf, folder)
        suite.test("all metadata is carried over", carries_metadata, folder)
        suite.test("inspect counts it", inspects, folder)
        suite.test("inspect tells of experts", inspects_experts, folder)
        suite.test("split files become one", joins_split_files, folder)
        for mix in MOST_KL:
            suite.test(f"answers of the built-in model in {mix}", keeps_answers, folder, mix)
        for name, config in architectures.MODELS.items():
            suite.test(f"{name} as a folder and as GGUF", keeps_networks, folder, name, config)
        suite.test("a SentencePiece vocabulary becomes GGUF's keys", keeps_sentencepiece, folder)
        if LLAMA.exists():
            suite.test("llama.cpp reads it", llama_reads, folder)
        else:
            suite.skip("llama.cpp reads it", f"{LLAMA} is not there (bench/peers/setup.sh makes it)")
        suite.test("a full disk is told of and nothing stays", says_when_full, folder)
    suite.finish()


if __name__ == "__main__":
    main()
