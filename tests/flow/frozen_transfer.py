"""KV on its way when its reader or writer freezes, or when it arrives damaged: the blocks are used by others meanwhile,
and no answer changes by one bit. Nothing is kept for later requests, so that all of it moves and blocks are soon used again.

    frozen_transfer.py          each once
    frozen_transfer.py --long   five times
"""
import re
import sys

from cluster import SIGCONT, STORY, Cluster, Streams, Suite, process_state, send_signal, wait_for

SETS = ["worker.prefix_cache=false", "prefill.threads=1", "decode.threads=1", "prefill.chunk_tokens=32", "router.policy=round-robin",
        "all.ping_interval=100ms", "all.ping_timeout=1s"]
SMALL = 4 << 20  # bytes of KV: 2048 tokens of the built-in model


def requests():
    return [{"text": f"{STORY * (4 + 2 * (i % 4))} Number {i}.", "max_tokens": 8, "ignore_eos": True, "seed": i,
             "temperature": 0.7 if i % 2 else 0, "route": "remote"} for i in range(6)]


def links_frozen(c, worker):
    return c.metrics(worker).get('baton_worker_link_faults_total{kind="frozen"}', 0)


def stale(c, worker):
    return c.metrics(worker).get('baton_worker_transfer_faults_total{kind="stale"}', 0)


def turned_over(c, worker):
    """How often the tokens that went through a worker's pool would have filled it."""
    m = c.metrics(worker)
    slots = 16 * sum(v for k, v in m.items() if k.startswith("baton_worker_kv_blocks{"))
    taken = sum(v for k, v in m.items() if k.startswith("baton_worker_transfer_bytes_total{")) / (SMALL / 2048)
    computed = m.get('baton_worker_events_total{event="tokens_computed"}', 0)
    return max(taken, computed) / slots if slots else 0


def frozen(c, streams, victim_role, point, after, other_role):
    """The victim stops at the point; the other side's blocks change hands at least twice; then it goes on."""
    victim, other = c.workers(victim_role)[0], c.workers(other_role)[0]
    acted = c.hits(victim, point)[1]
    with streams.running() as load:
        lost = links_frozen(c, other)
        c.arm(victim, f"{point}=freeze,after={after},times=1")
        wait_for(f"{victim['id']} to stop at {point}", lambda: process_state(victim["pid"]) == "T", 40)
        try:
            wait_for("its peer to give it up", lambda: links_frozen(c, other) > lost, 20)
            begin = turned_over(c, other)
            wait_for("its blocks to be reused", lambda: load.wrong or turned_over(c, other) >= begin + 2, 60)
        finally:
            send_signal(victim["pid"], SIGCONT)
        wait_for("it to go on", lambda: c.metrics(victim), 20)
        load.wait_rounds(1)
    assert c.hits(victim, point)[1] == acted + 1, c.hits(victim, point)
    c.wait_healed(len(c.workers("prefill")), len(c.workers("decode")))


def read_again_too_late(c, streams):
    """Frozen between its copy and its second look at the generation, which then tells."""
    before = stale(c, c.workers("decode")[0])
    frozen(c, streams, "decode", "transfer.take.before_generation", 5, "prefill")
    assert stale(c, c.workers("decode")[0]) > before, "the copy of a reused block was not noticed"


def damaged(c, worker):
    return c.count(worker, "bad_checksums")


def flipped_once(c):
    text = STORY * 8
    want, decode = c.ask(text, route="local", max_tokens=16), c.workers("decode")[0]
    before, legs = damaged(c, decode), c.count(decode, "legs_failed")
    c.arm(decode, "transfer.take.flip=flip,after=3,times=1")
    got = c.ask(text, route="remote", max_tokens=16)
    assert not got.error and got.hashes == want.hashes and got.text == want.text, got.error
    assert c.hits(decode, "transfer.take.flip")[1] == 1, "nothing was flipped"
    assert damaged(c, decode) == before + 1 and c.count(decode, "legs_failed") == legs, "not taken again"
    assert got.extra["route"] == "remote" and got.extra["timing"]["legs"] == 1, got.extra
    lines = re.findall(r'error decode-0 msg="block arrived damaged" (.*)', c.log_text("decode-0"))
    wanted = r"request=\S+ from=prefill-\d+ chunk=\d+ position=\d+ remote_block=\d+ local_block=\d+"
    assert lines and re.search(wanted, lines[-1]), lines


def flipped_always(c, worker, point):
    """Nothing arrives as it was sent: the prompt is computed where it is needed."""
    text = STORY * 8
    want = c.ask(text, route="local", max_tokens=16)
    decode = c.workers("decode")[0]
    before = damaged(c, decode)
    c.arm(worker, f"{point}=flip")
    try:
        got = c.ask(text, route="remote", max_tokens=16)
    finally:
        c.arm(worker, f"{point}=off")
    assert not got.error and got.hashes == want.hashes and got.text == want.text, got.error
    assert damaged(c, decode) > before
    again = c.ask(text, route="remote", max_tokens=16)
    assert again.hashes == want.hashes and again.extra["route"] == "remote", (again.error, again.extra)
    c.wait_nothing_left()


def data_dropped(c):
    """A piece is missing in the middle of a take."""
    text = STORY * 8
    want, prefill = c.ask(text, route="local", max_tokens=16), c.workers("prefill")[0]
    acted = c.hits(prefill, "transfer.serve.sending")[1]
    c.arm(prefill, "transfer.serve.sending=drop,after=2,times=1")
    got = c.ask(text, route="remote", max_tokens=16)
    assert not got.error and got.hashes == want.hashes and got.text == want.text, got.error
    assert c.hits(prefill, "transfer.serve.sending")[1] == acted + 1, "nothing was dropped"
    c.wait_nothing_left()


def readers(suite, transfer):
    with Cluster(prefill=1, decode=2, transfer=transfer, sets=SETS + [f"prefill.kv_memory={SMALL}"]) as c:
        streams = Streams(c, requests())
        suite.test(f"{transfer}: reader frozen in a copy", frozen, c, streams, "decode", "transfer.take.copying", 20,
                   "prefill")
        if transfer != "tcp":
            suite.test(f"{transfer}: reader frozen behind its copy", read_again_too_late, c, streams)


def writers(suite, transfer, points):
    with Cluster(prefill=2, decode=1, transfer=transfer, sets=SETS + [f"decode.kv_memory={SMALL}"]) as c:
        streams = Streams(c, requests())
        for point, after in points:
            suite.test(f"{transfer}: writer frozen at {point}", frozen, c, streams, "prefill", point, after, "decode")


def damages(suite, transfer):
    with Cluster(transfer=transfer, sets=SETS) as c:
        suite.test(f"{transfer}: one bit wrong", flipped_once, c)
        suite.test(f"{transfer}: every block wrong", flipped_always, c, c.workers("decode")[0], "transfer.take.flip")
        if transfer == "tcp":
            suite.test("tcp: every message wrong", flipped_always, c, c.workers("prefill")[0], "transfer.serve.sending")
            suite.test("tcp: a message dropped", data_dropped, c)


def main():
    suite = Suite()
    for _ in range(5 if "--long" in sys.argv else 1):
        readers(suite, "auto")
        readers(suite, "tcp")
        writers(suite, "auto", [("prefill.COMPUTING", 4), ("prefill.HANDING", 4)])
        writers(suite, "tcp", [("transfer.serve.sending", 30)])
        damages(suite, "auto")
        damages(suite, "tcp")
    suite.finish()


main()
