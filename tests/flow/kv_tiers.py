"""Workers and the KV block manager of their host: after restarts of the workers, of the manager and of all, a prompt's
beginning comes from memory or disk, with the same logits, and is counted where it lay.

    kv_tiers.py            on the built-in model
    kv_tiers.py --smollm2  on SmolLM2
"""
import os
import random
import shutil
import sys
import tempfile

from cluster import SIGCONT, SIGKILL, SIGSTOP, SMOLLM2, TINY, Cluster, Suite, send_signal, wait_for

BLOCK, CHUNK, VOCABULARY = 16, 32, 1000
LENGTHS = [31, 32, 33, 47, 48, 49, 63, 64, 65, 97]
SETS = [f"{role}.{row}" for role in ("prefill", "decode") for row in ("threads=1", f"chunk_tokens={CHUNK}")]
SETS += ["worker.fetch=always", "kvbm.admission=all", "kvbm.disk_size=256MiB", "kvbm.disk_segment=8MiB"]


def ids(n):
    return [random.Random(n * 1000003 + i).randrange(VOCABULARY) for i in range(n)]


def full(n):
    return (n - 1) // BLOCK * BLOCK


def ask(c, n, route, **fields):
    answer = c.ask("", prompt=ids(n), route=route, max_tokens=3, ignore_eos=True, **fields)
    assert not answer.error, answer.error
    assert answer.extra["route"] == route, answer.extra
    return answer


def cached(answer):
    return {tier: n for tier, n in answer.extra["timing"]["cached_tokens"].items() if n}


def kept(c, tier):
    return c.metrics(c.workers("kvbm")[0]).get(f'baton_kvbm_blocks{{tier="{tier}"}}', 0)


def restart(c, *roles):
    for role in roles:
        send_signal(c.pid(role), SIGKILL)
    c.wait_healed(1, 1)
    c.wait_workers(1, 1)
    for role in ("prefill", "decode"):  # each knows the manager and the way to its blocks
        worker = c.workers(role)[0]
        wait_for(f"the links of {role}", lambda w=worker: c.metrics(w).get("baton_worker_links_up", 0) >= 2, 20)


def fetched(c, wants, route, tiers):
    """Every prompt's full blocks but the last token's come from these tiers. The first may be computed: a way may not be open
    yet."""
    sums = dict.fromkeys(tiers, 0)
    ask(c, 500, route)
    for n, want in wants.items():
        answer = ask(c, n, route)
        assert answer.hashes == want.hashes, f"{n} tokens, {route}: other logits"
        found = cached(answer)
        assert sum(found.values()) == full(n) and set(found) <= set(tiers), f"{n} tokens, {route}: {found}"
        for tier, tokens in found.items():
            sums[tier] += tokens
    assert sums[tiers[-1]] > 0, sums
    c.wait_nothing_left()


def tiers(c, lengths):
    wants = {n: ask(c, n, "local", no_cache=True) for n in lengths}
    blocks = sum(full(n + 1) // BLOCK for n in lengths)
    for n, want in wants.items():
        assert ask(c, n, "local").hashes == want.hashes
    wait_for("the manager to have all blocks", lambda: kept(c, "host") >= blocks and kept(c, "disk") >= blocks, 30)
    for route in ("local", "remote"):
        restart(c, "decode", "prefill")
        fetched(c, wants, route, ["device", "host"])
    restart(c, "kvbm", "decode", "prefill")
    wait_for("the disk to be read", lambda: kept(c, "disk") >= blocks, 30)
    fetched(c, wants, "local", ["device", "host", "disk"])


def frozen(c, lengths):
    """It costs the time for an answer, once; awake again it is asked again."""
    want = {n: ask(c, n, "local", no_cache=True) for n in lengths[-2:]}
    restart(c, "decode", "prefill")
    ask(c, 500, "local")
    manager, decode = c.pid("kvbm"), c.workers("decode")[0]
    send_signal(manager, SIGSTOP)
    try:
        for n in want:
            assert ask(c, n, "local").hashes == want[n].hashes
        counted = c.metrics(decode).get('baton_worker_pulls_total{holder="manager",outcome="timeout"}', 0)
        assert counted == 1, counted
    finally:
        send_signal(manager, SIGCONT)
    restart(c, "decode", "prefill")
    fetched(c, want, "local", ["device", "host"])


def without_manager(c, lengths):
    """Killed under load it costs nobody an answer."""
    want = ask(c, lengths[0], "local", no_cache=True)
    send_signal(c.pid("kvbm"), SIGKILL)
    for i in range(20):
        assert ask(c, lengths[0], ("local", "remote")[i % 2]).hashes == want.hashes
    c.wait_healed(1, 1)
    c.wait_nothing_left()


def main():
    suite, smollm2 = Suite(), "--smollm2" in sys.argv
    if smollm2 and not SMOLLM2:
        suite.skip("smollm2", "the model is not there")
        suite.finish()
    disk = tempfile.mkdtemp(prefix="baton-kv-")
    try:
        with Cluster(model=SMOLLM2 if smollm2 else TINY, sets=SETS, extra=["--kv-disk", os.path.join(disk, "kv")]) as c:
            suite.test("the same logits from memory and disk", tiers, c, LENGTHS[::4] if smollm2 else LENGTHS)
            suite.test("a frozen manager", frozen, c, LENGTHS)
            suite.test("kill -9 of the manager", without_manager, c, LENGTHS)
    finally:
        shutil.rmtree(disk, ignore_errors=True)
    suite.finish()


main()
