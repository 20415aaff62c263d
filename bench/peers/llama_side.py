"""llama.cpp's side of a comparison: says "ready" once it is warm, then reads one JSON object a line and answers with one.

    llama_side.py MODEL THREADS PROMPT GENERATE SEQUENCES
    {"run": true}  ->  {"prefill_tps": ..., "decode_tps": ...}

The prompt's tokens are those of `baton bench engine`; prompts are taken in batches of 512, answers are greedy and never end early.
"""
import ctypes
import json
import os
import sys
import time

import llama_cpp
import numpy

BATCH = 512


def prompt_tokens(n, n_vocab):
    """xorshift32, as bench/bench_engine.c fills its prompts."""
    tokens, x = [], 2463534242
    for _ in range(n):
        x ^= x << 13 & 0xffffffff
        x ^= x >> 17
        x ^= x << 5 & 0xffffffff
        tokens.append(x % n_vocab)
    return tokens


class Llama:
    def __init__(self, path, threads, prompt, generate, sequences):
        self.prompt, self.generate, self.sequences = prompt, generate, sequences
        quiet()
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            sys.exit(f"llama.cpp cannot load {path}")
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = sequences * (prompt + generate + 1)
        context.n_batch = max(BATCH, sequences)
        context.n_ubatch = BATCH
        context.n_seq_max = sequences
        context.n_threads = context.n_threads_batch = threads
        context.no_perf = True
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        if not self.context:
            sys.exit("llama.cpp cannot make a context")
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.tokens = prompt_tokens(prompt * sequences, self.n_vocab)
        self.batch = llama_cpp.llama_batch_init(context.n_batch, 0, 1)

    def decode(self, rows):
        """rows: (token, position, sequence, whether its logits are wanted); the likeliest next token of those that are."""
        for i, (token, position, sequence, wanted) in enumerate(rows):
            self.batch.token[i], self.batch.pos[i] = token, position
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, sequence
            self.batch.logits[i] = wanted
        self.batch.n_tokens = len(rows)
        code = llama_cpp.llama_decode(self.context, self.batch)
        if code:
            sys.exit(f"llama_decode answered {code}")
        return [self.best(i) for i, row in enumerate(rows) if row[3]]

    def best(self, row):
        logits = llama_cpp.llama_get_logits_ith(self.context, row)
        return int(numpy.ctypeslib.as_array(logits, (self.n_vocab,)).argmax())

    def run(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        begin, last = time.perf_counter(), []
        for s in range(self.sequences):
            tokens = self.tokens[s * self.prompt:(s + 1) * self.prompt]
            for at in range(0, self.prompt, BATCH):
                got = self.decode([(t, at + i, s, at + i + 1 == self.prompt) for i, t in enumerate(tokens[at:at + BATCH])])
            last += got
        middle = time.perf_counter()
        for i in range(self.generate):
            last = self.decode([(token, self.prompt + i, s, True) for s, token in enumerate(last)])
        end = time.perf_counter()
        return {"prefill_tps": self.sequences * self.prompt / (middle - begin),
                "decode_tps": self.sequences * self.generate / (end - middle)}


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def keep_quiet(level, text, data):
    pass


def quiet():
    llama_cpp.llama_log_set(keep_quiet, ctypes.c_void_p(0))


def main():
    side = Llama(sys.argv[1], *map(int, sys.argv[2:6]))
    side.run()  # caches, page tables, clock frequency
    print("ready", flush=True)
    for line in sys.stdin:
        if json.loads(line).get("run"):
            print(json.dumps(side.run()), flush=True)
    os._exit(0)  # its destructors take seconds


main()
