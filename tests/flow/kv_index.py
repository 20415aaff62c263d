"""The router's index says what the workers hold: while they compute and evict, when one or the router is killed, when one is
silent; and a publisher of vLLM's kind feeds it.

    kv_index.py        needs msgspec and pyzmq
"""
import os
import re
import sys
import time

from cluster import ROOT, SIGCONT, SIGKILL, SIGSTOP, STORY, Cluster, Suite, in_parallel, send_signal, wait_for

sys.path.insert(0, os.path.join(ROOT, "tests/conformance"))
from vllm_events import Follower, Publisher, structs

BATCH, STORED, REMOVED, CLEARED = structs(True)
BLOCK = 16


def addresses(c, worker):
    """Where the last process of this name publishes."""
    said = re.findall(r'^(\S+) .*msg="KV events published" address=(\S+) replay=(\S+)', c.log_text(worker), re.M)
    return max(said)[1:]


class Truth:
    """What the workers publish, followed by others than the router."""

    def __init__(self, c):
        self.c, self.followers, self.foreign = c, {}, 0  # foreign: blocks that only the publisher has

    def now(self):
        for w in self.c.workers():
            if w["role"] == "router":
                continue
            where = addresses(self.c, w["id"])
            if w["id"] not in self.followers or self.followers[w["id"]][0] != where:
                if w["id"] in self.followers:
                    self.followers[w["id"]][1].close()
                self.followers[w["id"]] = where, Follower(*where)
        return {name: follower.now() for name, (_, follower) in self.followers.items()}

    def close(self):
        for _, follower in self.followers.values():
            follower.close()


def router(c):
    return c.metrics(c.workers("router")[0])


def publishers(c, state):
    return router(c).get(f'baton_router_kv_publishers{{state="{state}"}}')


def wait_right(c, truth, n=4):
    """The index, the followers and the workers' own figures agree."""
    def differ():
        held = truth.now()
        own = {w["id"]: c.metrics(w).get('baton_worker_kv_blocks{state="REGISTERED"}') for w in c.workers() if w["id"] in held}
        told = {name: len(blocks) for name, blocks in held.items()}
        all_ = len(set().union(*held.values())) + truth.foreign
        index = router(c).get("baton_router_kv_index_blocks")
        complete = publishers(c, "complete")
        return None if own == told and index == all_ and complete == n else (own, told, all_, index, complete)
    try:
        wait_for("the index to be right", lambda: not differ(), 30)
    except AssertionError:
        raise AssertionError(f"workers, followers, together, index, complete: {differ()}") from None


def ask_all(c, texts):
    for answer in in_parallel([lambda t=t: c.ask(t, max_tokens=24) for t in texts]):
        assert not answer.error, answer.error


def converges(c, truth):
    def evicted():
        return sum(c.metrics(w).get('baton_worker_prefix_cache_total{event="evicted"}', 0) for w in c.engines())
    wait_right(c, truth)
    for round_ in range(20):  # how soon a pool is full depends on who gets what
        ask_all(c, [f"{round_}.{i} {STORY * (1 + 3 * i)}" for i in range(5)])
        wait_right(c, truth)
        if round_ >= 2 and evicted() > 0:
            break
    held = truth.now()
    assert any(held.values())
    assert evicted() > 0, "nothing was evicted: the pools are too large for this test"
    tokens = truth.followers["decode-0"][1].tokens
    assert all(len(tokens[name]) == BLOCK for name in held["decode-0"])
    assert router(c)['baton_router_kv_events_total{kind="corrupt"}'] == 0


def worker_killed(c, truth):
    send_signal(c.pid("decode"), SIGKILL)
    c.wait_healed(1, 2)
    wait_right(c, truth)
    ask_all(c, [f"again {i} {STORY * 4}" for i in range(4)])
    wait_right(c, truth)


def router_killed(c, truth):
    send_signal(c.pid("router"), SIGKILL)
    c.wait_healed(1, 2)
    wait_right(c, truth)


def silence(c, truth):
    assert publishers(c, "silent") == 0
    pid = c.pid("prefill")
    send_signal(pid, SIGSTOP)
    try:
        wait_for("the alarm", lambda: publishers(c, "silent") == 1, 10)
    finally:
        send_signal(pid, SIGCONT)
    wait_for("the alarm to end", lambda: publishers(c, "silent") == 0, 10)
    wait_right(c, truth)


def foreign(c, truth, publisher):
    """Its blocks are put under our hashes: those of a prompt that a worker has computed, too, are no others."""
    def publish(*events, lose=False):
        publisher.publish(BATCH(ts=time.time(), events=list(events), data_parallel_rank=0), lose)
    ids = [7 * i % 900 + 5 for i in range(10 * BLOCK)]
    names = [b"n%031d" % i for i in range(10)]
    publish(STORED(names[:3], None, ids[:3 * BLOCK], BLOCK, None, "GPU", None))
    publish(STORED(names[3:6], names[2], ids[3 * BLOCK:6 * BLOCK], BLOCK, None, "GPU", None), lose=True)
    publish(STORED(names[6:], names[5], ids[6 * BLOCK:], BLOCK, None, "GPU", None))
    truth.foreign = 10
    wait_right(c, truth)
    answer = c.ask("", prompt=ids, max_tokens=1)
    assert not answer.error, answer.error
    truth.foreign = 0
    wait_right(c, truth)
    assert router(c)['baton_router_kv_events_total{kind="gaps"}'] >= 1
    publish(STORED([b"m%031d" % i for i in range(5)], names[3], ids[:5 * BLOCK], BLOCK, None, "CPU", None),
            REMOVED([b"m%031d" % 4], "CPU"))
    truth.foreign = 4
    wait_right(c, truth)
    publish(CLEARED())
    truth.foreign = 0
    wait_right(c, truth)


def main():
    suite = Suite()
    with Publisher() as publisher:
        publisher.publish(BATCH(ts=time.time(), events=[CLEARED()]))  # so that there is something to be known of it
        sets = ["prefill.kv_memory=4MiB", "decode.kv_memory=4MiB", "prefill.threads=1", "decode.threads=1",
                "decode.kv_events_tokens=true", "router.index_memory=4MiB", "router.kv_events_silence=2s",
                f"router.foreign_publishers={publisher.endpoint}+{publisher.replay}"]
        with Cluster(prefill=1, decode=2, sets=sets, extra=["--kvbm", "0"]) as c:
            truth = Truth(c)
            suite.test("what the workers hold is what the index knows", converges, c, truth)
            suite.test("blocks of a publisher like vLLM's are in it under our hashes", foreign, c, truth, publisher)
            suite.test("a worker is killed", worker_killed, c, truth)
            suite.test("the router is killed", router_killed, c, truth)
            suite.test("a worker that is silent raises an alarm", silence, c, truth)
            truth.close()
    suite.finish()


main()
