"""Workers and the KV block manager of their host: after restarts of the workers, of the manager and of all, a prompt's
beginning comes from memory or disk, with the same logits, and is counted where it lay.

    kv_tiers.py            on the built-in model
    kv_tiers.py --smollm2  on SmolLM2
"""
import itertools
import json
import os
import random
import shutil
import sys
import tempfile

from cluster import SIGCONT, SIGKILL, SIGSTOP, SMOLLM2, TINY, Cluster, Suite, alive, send_signal, wait_for

BLOCK, CHUNK, VOCABULARY = 16, 32, 1000
PAGE, RECORD = 4096, b"BATONKDR"  # how a record on disk begins
TORN = 'baton_kvbm_disk_errors_total{kind="torn"}'
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


# ---- the disk after an end in the middle of a write ------------------------------------------------------------

def found(c, n):
    """How many blocks of a prompt's beginning the manager has: in memory, on disk."""
    done = c.baton("kv", "find", "--json", "--tokens", ",".join(map(str, ids(n)[:full(n)])))
    assert done.returncode == 0, done
    answer = json.loads(done.stdout)["answers"][0]
    return answer["host"], answer["disk"]


def wait_way(c):
    """Until both workers have asked the manager."""
    lengths = itertools.count(300)

    def has_asked(role):
        pulls = c.metrics(c.workers(role)[0])
        return any(pulls.get(f'baton_worker_pulls_total{{holder="manager",outcome="{end}"}}', 0) for end in ("empty", "whole"))

    def asked():
        for route in ("local", "remote"):
            ask(c, next(lengths), route)
        return has_asked("decode") and has_asked("prefill")
    wait_for("a way to the manager", asked, 20)


def on_disk_only(c, change):
    """The manager ends, the disk or so is changed, it begins anew, and the workers before it: UCX 1.13 aborts where the other
    end of a handshake dies."""
    done = c.baton("drain", "kvbm-0")
    assert done.returncode == 0, done
    change()
    for role in ("decode", "prefill"):
        send_signal(c.pid(role), SIGKILL)
    c.wait_healed(1, 1)
    done = c.baton("scale", "kvbm=1")
    assert done.returncode == 0, done
    wait_for("the disk to be read", lambda: kept(c, "disk") > 0, 20)


def kept_on_disk(c, n):
    want = ask(c, n, "local", no_cache=True)
    assert ask(c, n, "local").hashes == want.hashes
    wait_for("the disk to have it", lambda: found(c, n) == (full(n) // BLOCK, 0) and kept(c, "disk") >= kept(c, "host"), 20)
    return want


def tear(folder):
    """As if the second half of what was written last had not reached the disk."""
    path = os.path.join(folder, "kv.log")
    with open(path, "r+b") as log:
        data = log.read()
        at = data.rindex(RECORD)
        assert at % PAGE == 0
        size = int.from_bytes(data[at + 88:at + 92], "little")
        log.seek(at + PAGE + size // 2)
        log.write(bytes(size - size // 2))


def torn(c, folder):
    """The last block is gone, and counted; the others are there."""
    n = 200
    want, before = kept_on_disk(c, n), c.metrics(c.workers("kvbm")[0]).get(TORN, 0)
    blocks, all_blocks = full(n) // BLOCK, kept(c, "disk")
    on_disk_only(c, lambda: tear(folder))
    assert (kept(c, "disk"), found(c, n)) == (all_blocks - 1, (0, blocks - 1))
    assert c.metrics(c.workers("kvbm")[0])[TORN] == before + 1
    wait_way(c)
    answer = ask(c, n, "local")
    assert answer.hashes == want.hashes and cached(answer) == {"disk": (blocks - 1) * BLOCK}, answer.extra
    assert c.metrics(c.workers("kvbm")[0])[TORN] == before + 1
    wait_for("the manager to have it again", lambda: found(c, n) == (blocks, 0), 20)
    c.wait_nothing_left()


def killed_in_a_write(c):
    """Whatever has reached the disk is found, a beginning of the chain."""
    n, writes, manager = 210, 5, c.workers("kvbm")[0]
    want = ask(c, n, "local", no_cache=True)
    c.arm(manager, f"disk.write.flip=kill,after={writes},times=1")
    assert ask(c, n, "local").hashes == want.hashes
    wait_for("the manager to die", lambda: not alive(manager["pid"]), 20)
    c.wait_healed(1, 1)
    wait_way(c)
    restart(c, "decode", "prefill")
    wait_for("the disk to be read", lambda: kept(c, "disk") > 0, 20)
    wait_way(c)
    host, disk = found(c, n)
    assert host == 0 and disk <= writes, (host, disk)
    answer = ask(c, n, "local")
    assert answer.hashes == want.hashes and cached(answer) == ({"disk": disk * BLOCK} if disk else {}), answer.extra
    c.wait_nothing_left()


# ---- another key of salts -----------------------------------------------------------------------------------------

def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def refuses_salts(c):
    done = c.baton("kv", "find", "--salt", "red", "--tokens", "1,2,3")
    assert done.returncode == 1 and "--salt-key-file" in done.stderr, done


def manager_of_another_key(c, lengths, wants, key):
    """Salts are the routers' to make: what is on disk is found as ever, but by who names a salt to the manager."""
    plain, salted = lengths
    wants[plain] = kept_on_disk(c, plain)
    host = kept(c, "host")
    wants[salted] = ask(c, salted, "local", no_cache=True)
    ask(c, salted, "local", cache_salt="red")
    wait_for("the disk to have it", lambda: kept(c, "disk") >= kept(c, "host") >= host + full(salted) // BLOCK, 20)
    on_disk_only(c, lambda: write(key, "another"))
    wait_way(c)
    for n, fields in ((plain, {}), (salted, {"cache_salt": "red"})):
        answer = ask(c, n, "local", **fields)
        assert answer.hashes == wants[n].hashes and cached(answer) == {"disk": full(n)}, answer.extra
    refuses_salts(c)


def all_of_another_key(c, lengths, wants):
    """What is salted is a stranger's, and computed."""
    plain, salted = lengths
    wait_way(c)
    for n, fields, tiers in ((plain, {}, {"disk": full(plain)}), (salted, {"cache_salt": "red"}, {})):
        answer = ask(c, n, "local", **fields)
        assert answer.hashes == wants[n].hashes and cached(answer) == tiers, answer.extra


def other_keys(suite, folder):
    keys, lengths, wants = [os.path.join(folder, name) for name in ("routers", "manager")], (97, 113), {}
    for key in keys:
        write(key, "one")
    sets = [*SETS, f"router.salt_key_file={keys[0]}", f"kvbm.salt_key_file={keys[1]}"]
    extra = ["--kv-disk", os.path.join(folder, "salted")]
    with Cluster(sets=sets, extra=extra) as c:
        wait_way(c)
        suite.test("a manager of another salt key", manager_of_another_key, c, lengths, wants, keys[1])
    shutil.copyfile(keys[1], keys[0])
    with Cluster(sets=sets, extra=extra) as c:
        suite.test("all of another salt key", all_of_another_key, c, lengths, wants)


def main():
    suite, smollm2 = Suite(), "--smollm2" in sys.argv
    if smollm2 and not SMOLLM2:
        suite.skip("smollm2", "the model is not there")
        suite.finish()
    disk = tempfile.mkdtemp(prefix="baton-kv-")
    try:
        with Cluster(model=SMOLLM2 if smollm2 else TINY, sets=SETS, extra=["--kv-disk", os.path.join(disk, "kv")]) as c:
            suite.test("the same logits from memory and disk", tiers, c, LENGTHS[::4] if smollm2 else LENGTHS)
            suite.test("a torn write", torn, c, os.path.join(disk, "kv"))
            suite.test("a frozen manager", frozen, c, LENGTHS)
            suite.test("kill -9 of the manager", without_manager, c, LENGTHS)
            suite.test("kill -9 of the manager in a write", killed_in_a_write, c)
        if not smollm2:
            other_keys(suite, disk)
    finally:
        shutil.rmtree(disk, ignore_errors=True)
    suite.finish()


main()
