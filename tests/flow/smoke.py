"""A small cluster on the built-in model does its main job, and leaves nothing behind."""
import json
import os
import subprocess

from cluster import BIN, QUESTIONS, ROOT, SLOW, STORY, TINY, Cluster, Suite, in_parallel, wait_for


def answers_golden(c):
    """Greedy answers equal Hugging Face's for as long as no near-tie flips the top token."""
    with open(os.path.join(ROOT, "tests/golden/baton-tiny/completions.jsonl")) as f:
        cases = [json.loads(line) for line in f][:12]
    same = sum(c.ask(x["messages"][0]["content"], max_tokens=len(x["greedy_ids"])).text == x["greedy_text"]
               for x in cases if len(x["messages"]) == 1)
    total = sum(len(x["messages"]) == 1 for x in cases)
    assert same >= 0.7 * total, f"{same} of {total} answers are the reference's"


def local_equals_remote(c):
    for text in QUESTIONS:
        local = c.ask(text, route="local", max_tokens=24, no_cache=True)
        remote = c.ask(text, route="remote", max_tokens=24, no_cache=True)
        assert not local.error and not remote.error, (local.error, remote.error)
        assert local.hashes and local.hashes == remote.hashes and local.text == remote.text, text[:40]
        assert local.extra["route"] == "local" and remote.extra["route"] == "remote", (local.extra, remote.extra)
        timing = remote.extra["timing"]
        assert timing["moved_bytes"] > 0 and timing["transport"] == c.expect_transport, timing


def stop_string_keeps_the_timing(c):
    """The router ends the answer itself, and tells all the same where the time went."""
    whole = c.ask(STORY, route="remote", max_tokens=40)
    stop = whole.text[len(whole.text) // 2:][:8]
    for stream in (True, False):
        cut = c.ask(STORY, route="remote", max_tokens=40, stop=stop, stream=stream)
        timing = cut.extra["timing"]
        assert not cut.error and cut.finish == "stop" and cut.extra["route"] == "remote", (cut.error, cut.extra)
        assert cut.text == whole.text[:whole.text.index(stop)], (cut.text, whole.text, stop)
        assert None not in timing.values(), timing
        assert timing["prefill_ms"] > 0 and timing["moved_bytes"] > 0, timing
        assert 0 < timing["decode_ms"] < timing["total_ms"], timing


def stream_equals_whole(c):
    a, b = c.ask(STORY, stream=True, max_tokens=40), c.ask(STORY, stream=False, max_tokens=40)
    assert a.text == b.text and a.hashes == b.hashes and a.finish == b.finish
    assert a.usage == b.usage and a.usage["completion_tokens"] == len(a.hashes)


def seeded_sampling_repeats(c):
    def ask(route):
        return c.ask(STORY, temperature=0.9, seed=7, max_tokens=30, route=route)
    a, b, d = ask("local"), ask("remote"), c.ask(STORY, temperature=0.9, seed=8, max_tokens=30)
    assert a.text == b.text and a.hashes == b.hashes
    assert a.text != d.text


def batch_equals_single(c):
    texts = [q + " " + str(i) for i, q in enumerate(QUESTIONS * 2)]
    single = [c.ask(t, max_tokens=20) for t in texts]
    together = in_parallel([lambda t=t: c.ask(t, max_tokens=20) for t in texts])
    for s, t in zip(single, together):
        assert not s.error and s.hashes == t.hashes, (s.error, t.error)


def cancelled_requests_free_everything(c):
    class Gone(Exception):
        pass

    def leave(answer):
        raise Gone()
    in_parallel([lambda: c.ask(STORY * 10, max_tokens=2000, ignore_eos=True, on_token=leave) for _ in range(6)])
    c.wait_nothing_left(10)


def talk(c, lines):
    return subprocess.run([os.path.join(BIN, "baton"), "chat", "--max-tokens", "20", "--state-dir", c.dir], input=lines,
                          capture_output=True, text=True, timeout=90 * SLOW)


def commands(c):
    status = c.status()
    roles = sorted(w["role"] for w in status["workers"])
    assert {"router", "prefill", "decode", "kvbm"} <= set(roles), roles
    chat = c.baton("chat", "Hello!")
    assert chat.returncode == 0 and chat.stdout.strip(), (chat.stdout, chat.stderr)
    own = talk(c, "/help\n/nonsense\n/clear\n/quit\nHello!\n")
    assert own.returncode == 1 and not own.stdout, own
    assert "/clear" in own.stderr and "there is no /nonsense" in own.stderr, own.stderr
    path = talk(c, "/etc/passwd is what?\n")
    assert path.returncode == 0 and path.stdout.strip(), path
    logs = c.baton("logs", "decode", "-n", "5")
    assert logs.returncode == 0 and "msg=" in logs.stdout
    bad = subprocess.run([os.path.join(BIN, "baton-decode"), "--kv-dtype", "bf17"], capture_output=True, text=True)
    assert bad.returncode == 2 and "kv" in bad.stderr and "bf16" in bad.stderr, bad.stderr


def scale_and_drain(c):
    scaled = c.baton("scale", "prefill=2")
    assert scaled.returncode == 0 and scaled.stdout == "prefill: 2 running (before: 1)\n", scaled
    wait_for("a second prefill worker", lambda: len(c.workers("prefill")) == 2, 30)
    c.wait_workers(2, 1)
    drained = c.baton("drain", "prefill-1")
    assert drained.returncode == 0 and drained.stdout == "prefill-1 has ended\n", drained
    assert len(c.workers("prefill")) == 1, c.workers("prefill")
    assert not c.ask(STORY, route="remote", max_tokens=5).error


def rdma_without_a_device(c):
    """Whoever insists on RDMA hears that there is no device; `auto` goes on without, as this cluster does."""
    command = [os.path.join(BIN, "baton-decode"), "--etcd", c.status()["etcd_url"], "--model", TINY, "--id", "by-rdma", "--transfer", "rdma"]
    env = {**os.environ, "UCX_TLS": "tcp", "BATON_CLUSTER_KEY_FILE": os.path.join(c.dir, "cluster.key")}
    got = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW, env=env)
    assert got.returncode == 1 and "--transfer rdma: UCX finds no device" in got.stderr, got
    got = subprocess.run([os.path.join(BIN, "baton"), "doctor"], capture_output=True, text=True, timeout=60 * SLOW)
    assert "--transfer rdma does not start" in got.stdout, got.stdout


def one_transport(suite, transport, expect):
    with Cluster(transfer=transport) as c:
        c.expect_transport = expect
        suite.test(f"local equals remote by {expect}", local_equals_remote, c)
        if transport != "tcp":
            suite.test("answers are the reference's", answers_golden, c)
            suite.test("a stop string keeps the timing", stop_string_keeps_the_timing, c)
            suite.test("a stream equals a whole answer", stream_equals_whole, c)
            suite.test("seeded sampling repeats on any route", seeded_sampling_repeats, c)
            suite.test("a batch equals single requests", batch_equals_single, c)
            suite.test("cancelled requests free everything", cancelled_requests_free_everything, c)
            suite.test("commands of operators", commands, c)
            suite.test("scale and drain", scale_and_drain, c)
            if os.path.exists("/sys/class/infiniband"):
                suite.skip("RDMA without a device", "this machine has one")
            else:
                suite.test("RDMA without a device", rdma_without_a_device, c)
        suite.test("nothing is left over", c.wait_nothing_left)


def main():
    suite = Suite()
    one_transport(suite, "auto", "shm")
    one_transport(suite, "tcp", "tcp")
    suite.finish()


main()
