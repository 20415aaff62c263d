"""Prompts whose beginning was computed before, in a real cluster: the same logits, and exactly the theory's tokens found.

    cache.py            on the built-in model; salts keep one trial from the next
    cache.py --smollm2  on SmolLM2, fewer lengths
"""
import itertools
import random
import sys

from cluster import SIGKILL, SMOLLM2, TINY, Cluster, Suite, send_signal, wait_for

BLOCK, CHUNK, VOCABULARY = 16, 32, 1000
LENGTHS = [1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 97]
SETS = [f"{role}.{row}" for role in ("prefill", "decode") for row in ("threads=1", f"chunk_tokens={CHUNK}")]
FORCED = 7  # with this bias each token of an answer is this one
BIAS = {str(FORCED): 100}

salts = (f"trial {n}" for n in itertools.count())


def ids(n, seed):
    return [random.Random(seed * 1000003 + i).randrange(VOCABULARY) for i in range(n)]


def full(n):
    """Of n tokens those in full blocks."""
    return n // BLOCK * BLOCK


def ask(c, prompt, salt=None, route=None, tokens=3, **fields):
    if salt:
        fields["cache_salt"] = salt
    answer = c.ask("", prompt=prompt, route=route, no_cache=not salt, max_tokens=tokens, ignore_eos=True, **fields)
    assert not answer.error, answer.error
    assert len(answer.hashes) == tokens, answer.hashes
    assert route is None or answer.extra["route"] == route, answer.extra
    return answer


def found(answer):
    """Tokens found and tokens computed."""
    timing = answer.extra["timing"]
    assert answer.usage["prompt_tokens_details"]["cached_tokens"] == timing["cached_tokens"]["device"], answer.usage
    return timing["cached_tokens"]["device"], timing["computed_tokens"]


def check(answer, want, cached, computed, what):
    """computed: how many tokens, or those that it may be, as what prefill lacks of decode's blocks it computes or fetches."""
    expected = [(cached, n) for n in (computed if isinstance(computed, tuple) else (computed,))]
    assert found(answer) in expected, f"{what}: found and computed {found(answer)}, not {expected}"
    assert answer.hashes == want.hashes, f"{what}: other logits"


def same_logits(c, lengths):
    for n in lengths:
        prompt, want = ids(n, n), ask(c, ids(n, n), route="local")
        check(ask(c, prompt, route="remote"), want, 0, n, f"{n} tokens, no_cache")
        for before, route in itertools.product(("local", "remote"), repeat=2):
            what = f"{n} tokens, {before} and then {route}"
            salt = next(salts)
            check(ask(c, prompt, salt, before), want, 0, n, f"{what}: none")
            held = full(n - 1)
            computed = (n, n - held) if (before, route) == ("local", "remote") else n - held
            check(ask(c, prompt, salt, route), want, held, computed, f"{what}: all")
            salt, half = next(salts), n // 2
            ask(c, prompt[:half] + ids(20, 77), salt, before)
            held = min(full(half), full(n - 1))
            computed = (n, n - held) if (before, route) == ("local", "remote") else n - held
            check(ask(c, prompt, salt, route), want, held, computed, f"{what}: half")
    c.wait_nothing_left()


def turns(c):
    """Each turn finds the full blocks of the one before, its answer but for the last token included."""
    salt, prompt, known = next(salts), ids(40, 1), []
    for turn in range(12):
        route = ("local", "remote", None)[turn % 3]
        answer = ask(c, prompt, salt, route, tokens=8, logit_bias=BIAS)
        want = ask(c, prompt, route="local", tokens=8, logit_bias=BIAS)
        held = full(len(known))
        assert found(answer)[0] == held, f"turn {turn}: {found(answer)[0]} tokens found, not {held}"
        assert answer.hashes == want.hashes, f"turn {turn}: other logits"
        known = prompt + [FORCED] * 7
        prompt = known + [FORCED] + ids(5 + 3 * turn, 100 + turn)
    c.wait_nothing_left()


def registered(c):
    return sum(c.metrics(w).get('baton_worker_prefix_cache_total{event="registered"}', 0) for w in c.workers())


def salts_share_nothing(c):
    prompt, want = ids(50, 5), ask(c, ids(50, 5), route="local")
    names = [next(salts), next(salts), next(salts)]
    for salt in names:
        before = registered(c)
        check(ask(c, prompt, salt, "local"), want, 0, 50, salt)
        assert registered(c) - before == 50 // BLOCK, (before, registered(c))
    for salt in names:
        check(ask(c, prompt, salt, "remote"), want, 48, (50, 2), salt)
    before = registered(c)
    check(ask(c, prompt, route="remote"), want, 0, 50, "no_cache")
    assert registered(c) == before
    c.wait_nothing_left()


def killed(c):
    """What one worker lost the other still has; what both lost is computed again."""
    prompt, want, salt = ids(90, 9), ask(c, ids(90, 9), route="local"), next(salts)
    check(ask(c, prompt, salt, "remote"), want, 0, 90, "at first")
    check(ask(c, prompt, salt, "remote"), want, 80, 10, "again")
    for roles, cached, computed in [(["decode"], 80, 10), (["prefill"], 80, (90, 10)), (["decode", "prefill"], 0, 90)]:
        for role in roles:
            send_signal(c.pid(role), SIGKILL)
        c.wait_healed(1, 1)
        wait_for("the prefill worker to be used", lambda: c.ask("Hello!", route="remote", no_cache=True).extra["route"] == "remote", 20)
        check(ask(c, prompt, salt, "remote"), want, cached, computed, f"after the death of {roles}")
        check(ask(c, prompt, salt, "local"), want, 80, 10, f"after the death of {roles}, here")
        check(ask(c, prompt, salt, "remote"), want, 80, 10, f"after the death of {roles}, again")
    c.wait_nothing_left()


def main():
    suite, smollm2 = Suite(), "--smollm2" in sys.argv
    if smollm2 and not SMOLLM2:
        suite.skip("smollm2", "the model is not there")
        suite.finish()
    for transport in ("shm", "tcp"):
        with Cluster(model=SMOLLM2 if smollm2 else TINY, sets=SETS, transfer=transport, extra=["--kvbm", "0"]) as c:
            suite.test(f"logits, by {transport}", same_logits, c, LENGTHS[3::4] if smollm2 else LENGTHS)
            suite.test(f"twelve turns, by {transport}", turns, c)
            if transport == "shm":
                suite.test("salts share nothing", salts_share_nothing, c)
                suite.test("kill -9", killed, c)
    suite.finish()


main()
