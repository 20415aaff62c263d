"""How far Baton and llama.cpp are from float32 mathematics on the same file: mean KL divergence of the next token, and how
often the likeliest token is the same, over teacher-forced positions of English text.

    bench/peers/setup.sh                                            # builds llama.cpp, once
    build/venv-llama/bin/python3 bench/peers/fidelity.py MODEL.gguf [--positions 10240] [--window 512] [--class portable] [--json]

The reference is `baton model score --f32` with the KV dtype of both, f16, which tests/golden compares
with transformers. What a KV dtype costs is told against float32 mathematics with a float32 cache. A model without a
tokenizer that llama.cpp can use is fed pseudo-random tokens.
"""
import argparse
import ctypes
import glob
import json
import os
import subprocess
import sys
import tempfile

import llama_cpp
import numpy

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BATON = os.path.join(os.environ.get("BATON_TEST_BIN") or os.path.join(ROOT, "build/release/bin"), "baton")
TEXTS = sorted(glob.glob(os.path.join(ROOT, "docs/*.md"))) + ["/usr/share/common-licenses/" + name for name in
                                                              ("GPL-3", "Apache-2.0", "LGPL-2.1", "GPL-2")]
GROUP_BYTES = 1 << 29  # of logits that lie in a file at once
KINDS = ("ours", "llama")
CACHES = ("f16", "bf16")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--positions", type=int, default=10240)
    parser.add_argument("--window", type=int, default=512, help="positions of one text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--class", default="portable", dest="arithmetic", help="of Baton: portable or amx")
    parser.add_argument("--random", action="store_true", help="pseudo-random tokens instead of text")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def keep_quiet(level, text, data):
    pass


class Llama:
    def __init__(self, o):
        llama_cpp.llama_log_set(keep_quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(o.model.encode(), params)
        if not self.model:
            sys.exit(f"llama.cpp cannot load {o.model}")
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = o.window
        context.n_threads = context.n_threads_batch = o.threads
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def tokens(self, o):
        if o.random:
            return numpy.random.default_rng(1).integers(0, self.n_vocab, o.positions).tolist()
        text = b"".join(open(path, "rb").read() for path in TEXTS if os.path.exists(path))
        room = (llama_cpp.llama_token * len(text))()
        n = llama_cpp.llama_tokenize(self.vocab, text, len(text), room, len(text), False, False)
        if n < o.positions:
            sys.exit(f"the texts have {n} tokens, less than {o.positions}")
        return list(room[:o.positions])

    def logits(self, tokens):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, i, True
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        batch.n_tokens = len(tokens)
        code = llama_cpp.llama_decode(self.context, batch)
        if code:
            sys.exit(f"llama_decode answered {code}")
        llama_cpp.llama_batch_free(batch)
        pointer = llama_cpp.llama_get_logits(self.context)
        return numpy.ctypeslib.as_array(pointer, (len(tokens), self.n_vocab)).copy()


def baton(o, folder, windows, n_vocab, *options):
    """Logits [positions][n_vocab] of all windows, from a file."""
    path = os.path.join(folder, "_".join(options).replace("-", "") + ".f32")
    command = [BATON, "model", "score", "-", "--model", o.model, "--top", "1", "--threads", str(o.threads), "--logits", path,
               *options]
    lines = "".join(json.dumps({"tokens": w}) + "\n" for w in windows)
    done = subprocess.run(command, input=lines, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return numpy.memmap(path, numpy.float32, "r").reshape(-1, n_vocab)


def log_softmax(logits):
    x = logits.astype(numpy.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - numpy.log(numpy.exp(x).sum(axis=1, keepdims=True))


class Tally:
    """Divergences from a reference, position by position."""

    def __init__(self):
        self.kl, self.same = [], []

    def add(self, reference, other):
        p, q = log_softmax(reference), log_softmax(other)
        self.kl += (numpy.exp(p) * (p - q)).sum(axis=1).tolist()
        self.same += (p.argmax(axis=1) == q.argmax(axis=1)).tolist()

    def result(self):
        kl, same = numpy.array(self.kl), numpy.array(self.same, float)
        root = len(kl) ** 0.5
        return {"kl": kl.mean(), "kl_error": kl.std() / root, "top_same": same.mean(), "top_error": same.std() / root}


def measure(o):
    llama = Llama(o)
    tokens = llama.tokens(o)
    windows = [tokens[i:i + o.window] for i in range(0, o.positions, o.window)]
    tallies = {name: Tally() for name in KINDS + CACHES}
    group = max(1, GROUP_BYTES // (4 * llama.n_vocab * o.window))
    for first in range(0, len(windows), group):
        some = windows[first:first + group]
        with tempfile.TemporaryDirectory() as folder:
            run = lambda *options: baton(o, folder, some, llama.n_vocab, *options)
            ours = run("--kv", "f16", "--class", o.arithmetic)
            exact = {kv: run("--f32", "--kv", kv) for kv in ("f32", "f16", "bf16")}
            at = 0
            for window in some:
                span = slice(at, at + len(window))
                tallies["ours"].add(exact["f16"][span], ours[span])
                tallies["llama"].add(exact["f16"][span], llama.logits(window))
                for kv in CACHES:
                    tallies[kv].add(exact["f32"][span], exact[kv][span])
                at += len(window)
        print(f"{min(first + group, len(windows)) * o.window} of {o.positions} positions", file=sys.stderr)
    return {"model": os.path.basename(o.model), "positions": o.positions, **{k: t.result() for k, t in tallies.items()}}


def show(r):
    print(f"{r['model']}, {r['positions']} positions, against float32 mathematics on the same file")
    for key, text in (("ours", "Baton"), ("llama", "llama.cpp"), ("f16", "an f16 cache alone"), ("bf16", "a bf16 cache alone")):
        x = r[key]
        print(f"  {text:20} mean KL {x['kl']:.3e} +- {x['kl_error']:.1e}, same likeliest token {100 * x['top_same']:.2f} "
              f"+- {100 * x['top_error']:.2f} %")
    ratio = r["ours"]["kl"] / r["llama"]["kl"]
    behind = r["llama"]["top_same"] - r["ours"]["top_same"]
    error = (r["llama"]["top_error"] ** 2 + r["ours"]["top_error"] ** 2) ** 0.5
    print(f"  KL {ratio:.2f} times llama.cpp's (goal: at most 1.10); likeliest token the same {100 * behind:+.2f} % less often, "
          f"two standard errors are {200 * error:.2f} %")


def main():
    o = parse()
    result = measure(o)
    print(json.dumps(result)) if o.json else show(result)


main()
