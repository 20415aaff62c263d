"""More than fits: what is too much is refused at once and nobody else is harmed. Clients that do not read harm
nobody either."""
import http.client
import json
import os
import signal
import socket
import time

from cluster import SANITIZED, SLOW, STORY, Cluster, Suite, in_parallel, wait_for

SETS = ["prefill.threads=1", "decode.threads=1"]
REFUSAL_S = 1.0  # "at once", on a machine that is busy otherwise
MEMORY = 8 << 20  # four streams of 1500 tokens: 12 MB as text, 3 MB as ids
BYTES_OUT = 'baton_router_http_total{kind="bytes_out"}'
TAKEN = 192 << 10  # bytes given to the kernel for a client that reads nothing: its window, and 64 KiB unsent


def ask_raw(c, text, **fields):
    """Status, Retry-After, error code, and how long the answer took."""
    body = dict({"model": c.model, "messages": [{"role": "user", "content": text}]}, **fields)
    connection = http.client.HTTPConnection("127.0.0.1", c.port, timeout=60 * SLOW)
    begin = time.monotonic()
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
    finally:
        connection.close()
    return response.status, response.getheader("Retry-After"), answer.get("error", {}), time.monotonic() - begin


def assert_refused(got, status):
    for code, retry_after, error, took in got:
        assert code == status, (code, error)
        assert retry_after and int(retry_after) >= 1, f"Retry-After: {retry_after}"
        assert error.get("message") and error.get("type"), error
        assert status != 429 or took < REFUSAL_S * SLOW, f"refused after {took:.2f} s"


def long_stream(c, seed, **fields):
    return c.ask(STORY, max_tokens=3000, ignore_eos=True, temperature=0.7, seed=seed, **fields)


def beside_long_streams(c, n, held, strike):
    """Runs strike() while n long streams run, which must come out as they do alone."""
    want = [long_stream(c, i) for i in range(n)]

    def middle():
        wait_for("the streams to be there", held, 20)
        return strike()
    *got, struck = in_parallel([lambda i=i: long_stream(c, i) for i in range(n)] + [middle])
    for a, b in zip(want, got):
        assert not a.error and not b.error, (a.error, b.error)
        assert a.hashes == b.hashes and a.text == b.text
    assert struck is not None, "the test's own thread failed"
    return struck


def router_metric(c, name):
    return c.metrics(c.workers("router")[0]).get(name, 0)


def queue_full(c):
    got = beside_long_streams(c, 2, lambda: router_metric(c, "baton_router_requests_held") == 2,
                              lambda: [ask_raw(c, "Hello!") for _ in range(10)])
    assert_refused(got, 429)
    assert ask_raw(c, "Hello!", max_tokens=2)[0] == 200
    c.wait_nothing_left()


def queue_full_of_bytes(c):
    """The same before a body is parsed: two of 40 KB are beyond 64 KiB."""
    def strike():
        return [ask_raw(c, "x" * 40000, max_tokens=1) for _ in range(4)]
    got = beside_long_streams(c, 1, lambda: router_metric(c, "baton_router_requests_held") == 1, strike)
    assert all(code in (200, 400) for code, *_ in got), got  # one at a time they fit the queue, if not the model
    body = json.dumps({"model": c.model, "prompt": "x" * 60000, "max_tokens": 1}).encode()
    with socket.create_connection(("127.0.0.1", c.port), 30) as half:
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                     b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:30000])
        refused = wait_for("a request beside half a body to be refused",
                           lambda: [g for g in [ask_raw(c, "x" * 60000, max_tokens=1)] if g[0] == 429], 20)
        assert_refused(refused, 429)
        half.sendall(body[30000:])
        assert half.makefile("rb").readline().split()[1] in (b"200", b"400"), "the body that was there first is served"
    assert ask_raw(c, "Hello!", max_tokens=2)[0] == 200
    c.wait_nothing_left()


def workers_full(c):
    """Every decode worker holds all that it may: 429 after the router's patience."""
    got = beside_long_streams(c, 2, lambda: c.metrics(c.workers("decode")[0]).get("baton_worker_requests") == 2,
                              lambda: in_parallel([lambda: ask_raw(c, "Hello!") for _ in range(4)]))
    for code, retry_after, error, _ in got:
        assert code == 429 and retry_after, (code, retry_after, error)
    c.wait_nothing_left()


def no_decode_worker(c):
    worker = c.workers("decode")[0]
    os.kill(worker["pid"], signal.SIGSTOP)
    try:
        wait_for("the router to see it", lambda: not any(
            v for k, v in c.metrics(c.workers("router")[0]).items()
            if k.startswith("baton_router_workers{") and 'role="decode"' in k), 20)
        assert_refused(in_parallel([lambda: ask_raw(c, "Hello!") for _ in range(4)]), 503)
    finally:
        os.kill(worker["pid"], signal.SIGCONT)
    wait_for("the worker to be used again", lambda: ask_raw(c, "Hello!", max_tokens=1)[0] == 200, 20)


def no_prefill_worker(c):
    """Decode workers compute prompts themselves then."""
    want = c.ask(STORY * 4, route="remote", max_tokens=8, no_cache=True)
    assert c.baton("scale", "prefill=0").returncode == 0
    got = c.ask(STORY * 4, route="remote", max_tokens=8, no_cache=True)
    assert not got.error and got.hashes == want.hashes, got.error
    assert c.baton("scale", "prefill=1").returncode == 0
    c.wait_workers(1, 1)


class SlowClient:
    """Asks for a long stream with a small window, and reads nothing until told to. Alternatives make its tokens
    about 2 KB each: as text a stream would cost the router many times what it costs as ids."""

    def __init__(self, c, tokens):
        body = json.dumps({"model": c.model, "messages": [{"role": "user", "content": STORY}], "temperature": 0,
                           "ignore_eos": True, "stream": True, "max_tokens": tokens, "logprobs": True,
                           "top_logprobs": 20, "baton": {"logits_hash": True}}).encode()
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(60 * SLOW)
        self.socket.connect(("127.0.0.1", c.port))
        self.socket.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                            b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def read_all(self):
        """Text and hashes of the stream, chunk headers taken off."""
        raw = b""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        while True:
            part = self.socket.recv(1 << 20)
            if not part:
                break
            raw += part
        self.socket.close()
        head, _, rest = raw.partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            rest = unchunk(rest)
        text, hashes, done = "", [], False
        for line in rest.decode().splitlines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                for choice in json.loads(line[6:]).get("choices", []):
                    text += choice.get("delta", {}).get("content") or ""
                    hashes = (choice.get("baton") or {}).get("logits_hash", hashes)
        assert done, "the slow stream was cut"
        return text, hashes


def unchunk(data):
    out = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        n = int(size or b"0", 16)
        if n == 0:
            return out
        out, data = out + data[:n], data[n + 2:]


def resident(c, role):
    return c.metrics(c.workers(role)[0])["process_resident_memory_bytes"]


def slow_readers(c):
    tokens, n = 1500, 4
    want = c.ask(STORY, max_tokens=tokens, ignore_eos=True)
    assert not want.error and len(want.hashes) == tokens, want.error
    fast = min(timed_short(c)[1] for _ in range(5))
    before, blocked = resident(c, "router"), router_metric(c, "baton_router_streams_blocked_total")
    sent = router_metric(c, BYTES_OUT)
    slow = [SlowClient(c, tokens) for _ in range(n)]
    wait_for("the streams to be held back",
             lambda: router_metric(c, "baton_router_streams_blocked_total") >= blocked + n, 90)
    sent = router_metric(c, BYTES_OUT) - sent
    assert 0 < sent < n * TAKEN, f"{sent / 2**10:.0f} KiB were sent to {n} clients that read nothing"
    answer, took = timed_short(c)
    wait_for("decode to have finished them all", lambda: not c.leftovers(router=False), 60)
    assert answer.hashes, answer.error
    assert took < 5 * fast + 0.5 * SLOW, f"another stream took {took:.2f} s instead of {fast:.2f} s"
    grown = resident(c, "router") - before
    assert grown < MEMORY or SANITIZED, f"the router grew by {grown / 2**20:.1f} MiB"
    for client in slow:
        assert client.read_all() == (want.text, want.hashes), "a slow reader got something else"


def timed_short(c):
    begin = time.monotonic()
    answer = c.ask("Hello!", max_tokens=40, ignore_eos=True)
    return answer, time.monotonic() - begin


def slow_reader_is_cut(c):
    """One that takes nothing at all for write_timeout (2 s here) is disconnected, and its request ends."""
    client = SlowClient(c, 3900)
    held = lambda: router_metric(c, "baton_router_requests_held")
    wait_for("its request to be there", lambda: held() == 1, 10)
    wait_for("it to be cut off", lambda: held() == 0, 20)
    c.wait_nothing_left()
    client.socket.close()


def main():
    suite = Suite()
    with Cluster(sets=SETS + ["router.max_queued=2"]) as c:
        suite.test("queue full of requests", queue_full, c)
    with Cluster(sets=SETS + ["router.max_queued_bytes=65536"]) as c:
        suite.test("queue full of bytes", queue_full_of_bytes, c)
    with Cluster(sets=SETS + ["decode.max_requests=2", "router.worker_wait=300ms", "all.ping_interval=100ms",
                              "all.ping_timeout=1s"]) as c:
        suite.test("decode workers full", workers_full, c)
        suite.test("no prefill worker", no_prefill_worker, c)
        suite.test("no decode worker", no_decode_worker, c)
    with Cluster(sets=SETS + ["router.max_backlog=16KiB", "router.write_timeout=10m"]) as c:
        suite.test("clients that do not read", slow_readers, c)
    with Cluster(sets=SETS + ["router.max_backlog=16KiB", "router.write_timeout=2s"]) as c:
        suite.test("a client that never reads", slow_reader_is_cut, c)
    suite.finish()


main()
