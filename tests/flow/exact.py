"""Same request, same logits: over chunk sizes, threads, instruction sets, transports and batches.

    exact.py            the built-in model, each setting once
    exact.py --smollm2  SmolLM2, a small set of settings
    exact.py --full     all settings on both models
"""
import os
import subprocess
import sys

from cluster import BIN, QUESTIONS, SMOLLM2, STORY, TINY, Cluster, Suite, in_parallel, wait_for

SETTINGS = [
    ("chunks of 1", ["prefill.chunk_tokens=1", "decode.chunk_tokens=1"], "auto"),
    ("chunks of 7", ["prefill.chunk_tokens=7", "decode.chunk_tokens=7"], "auto"),
    ("chunks of 16", ["prefill.chunk_tokens=16", "decode.chunk_tokens=16"], "tcp"),
    ("chunks of 512", ["prefill.chunk_tokens=512", "decode.chunk_tokens=512"], "auto"),
    ("two threads", ["prefill.threads=2", "decode.threads=2"], "auto"),
    ("reference kernels", ["prefill.isa=reference", "decode.isa=reference"], "auto"),
    ("avx2 kernels", ["prefill.isa=avx2", "decode.isa=avx2"], "auto"),
    ("avx512 kernels", ["prefill.isa=avx512", "decode.isa=avx512"], "auto"),
    ("amx kernels", ["prefill.isa=amx", "decode.isa=amx"], "auto"),
    ("prefill by reference kernels", ["prefill.isa=reference", "prefill.chunk_tokens=7"], "tcp"),
    ("blocks of 16 preempted", ["decode.kv_memory=2MiB", "decode.reserve_blocks=0"], "auto"),
    ("four threads", ["prefill.threads=4", "decode.threads=4"], "auto"),
    ("a target for the time between tokens", ["decode.itl_target=1ms", "decode.local_tokens=1000"], "auto"),
    ("few prompt rows beside tokens", ["decode.beside_tokens=3", "decode.local_tokens=1000", "decode.step_tokens=16"], "auto"),
    ("four guesses by lookup", ["decode.speculation=lookup"], "auto"),
    ("guesses by a model", ["decode.speculation=model", f"decode.draft_model={TINY}"], "auto"),
    ("guesses by a model, in little room", ["decode.speculation=model", f"decode.draft_model={TINY}", "decode.draft_tokens=9",
                                            "decode.kv_memory=2MiB", "decode.reserve_blocks=0"], "auto"),
    ("guesses and little room", ["decode.speculation=lookup", "decode.draft_tokens=16", "decode.kv_memory=2MiB",
                                 "decode.reserve_blocks=0"], "auto"),
]
BASE = ["prefill.threads=1", "decode.threads=1"]
INT8 = ["prefill.kv_dtype=int8", "decode.kv_dtype=int8"]
PROMPTS = QUESTIONS + [STORY + str(n) + " and then" * n for n in (3, 14, 15, 16, 17, 31, 32, 33)]


# What looks back at the answer, or ends it: guesses must not show in it.
EXTRAS = [{}, {"repetition_penalty": 1.2, "min_tokens": 5}, {"frequency_penalty": 0.7, "logprobs": True, "top_logprobs": 3},
          {"stop": ["e ", "n"]}, {"presence_penalty": -0.5, "priority": -3}]


def ask_all(c, prompts, together, tokens):
    def one(i, text):
        return c.ask(text, max_tokens=tokens, route=("local", "remote")[i % 2], seed=i,
                     temperature=0.8 if i % 3 == 0 else 0, **EXTRAS[i % len(EXTRAS)])
    calls = [lambda i=i, t=t: one(i, t) for i, t in enumerate(prompts)]
    answers = in_parallel(calls) if together else [call() for call in calls]
    for a in answers:
        assert not a.error, a.error
        assert a.hashes
    return [(a.text, a.hashes) for a in answers]


def compare(model, prompts, tokens, sets, transport, want):
    sets = [s for s in BASE if s.split("=")[0] not in {x.split("=")[0] for x in sets}] + sets
    with Cluster(model=model, sets=sets, transfer=transport) as c:
        assert ask_all(c, prompts, True, tokens) == want, "together"
        drafted = [c.count(w, "drafted") for w in c.workers("decode")]
        assert any(drafted) == any("speculation" in s for s in sets), drafted
        c.wait_nothing_left()


def int8_moves(transport):
    """Blocks of int8 carry their scales along: computed elsewhere is computed here."""
    with Cluster(sets=BASE + INT8, transfer=transport) as c:
        for text in PROMPTS:
            here, there, left, found = (c.ask(text, max_tokens=16, route=route, no_cache=no_cache) for no_cache in (True, False)
                                        for route in ("local", "remote"))
            assert not here.error and not there.error, here.error or there.error
            assert there.extra["route"] == "remote", there.extra
            assert (here.text, here.hashes) == (there.text, there.hashes), text
            assert here.hashes == left.hashes == found.hashes, text
        c.wait_nothing_left()


class Unequal(Cluster):
    def wait_workers(self, prefill, decode):
        """They are not to find each other."""
        wait_for("the router to find decode", lambda: not self.ask("Hello!").error, 30)


def formats_are_not_mixed():
    """A decode worker takes no KV of another number format."""
    with Unequal(sets=BASE + ["prefill.kv_dtype=bf16", "decode.kv_dtype=int8"]) as c:
        answer = c.ask(STORY * 4, max_tokens=4, route="remote")
        assert not answer.error and answer.extra["route"] == "local", (answer.error, answer.extra)


def lacks(sets):
    """Why this processor cannot run the kernels that the settings name; empty when it can."""
    for isa in {s.split("=")[1] for s in sets if ".isa=" in s}:
        done = subprocess.run([os.path.join(BIN, "baton"), "bench", "engine", "--model", TINY, "--isa", isa, "--prompt", "1",
                               "--generate", "1", "--repeats", "1"], capture_output=True, text=True)
        if done.returncode and "this processor lacks" in done.stderr:
            return done.stderr.strip()
    return ""


def matrix(suite, name, model, prompts, tokens, settings):
    with Cluster(model=model, sets=BASE) as c:
        want = ask_all(c, prompts, False, tokens)
    for title, sets, transport in settings:
        if any("kv_memory" in s or "draft_model" in s for s in sets) and model != TINY:
            continue
        if why := lacks(sets):
            suite.skip(f"{name}: {title}", why)
            continue
        suite.test(f"{name}: {title}", compare, model, prompts, tokens, sets, transport, want)


def main():
    suite = Suite()
    full = "--full" in sys.argv
    if "--smollm2" in sys.argv or full:
        if SMOLLM2:
            few = PROMPTS[1:12:3]
            matrix(suite, "smollm2", SMOLLM2, few, 8, SETTINGS if full else [SETTINGS[1], SETTINGS[4]])
            if full:
                matrix(suite, "smollm2, batch of 16", SMOLLM2, PROMPTS, 8, [SETTINGS[2], SETTINGS[3]])
        else:
            suite.skip("smollm2", "the model is not there")
    if "--smollm2" not in sys.argv or full:
        matrix(suite, "baton-tiny", TINY, PROMPTS, 24, SETTINGS)
        for transport in ("shm", "tcp"):
            suite.test(f"int8 KV by {transport}", int8_moves, transport)
        suite.test("KV of two formats is not mixed", formats_are_not_mixed)
    suite.finish()


main()
