"""Clients that go away, and deadlines that pass: nothing further is computed, and every block is given back."""
import json
import socket
import time

from cluster import SLOW, STORY, Cluster, Suite, wait_for

LONG = STORY * 60  # about 1500 tokens
CHUNK = 8          # small steps: the prompt takes a while, and work that goes on would show
SETS = ["prefill.threads=1", "decode.threads=1", f"prefill.chunk_tokens={CHUNK}", f"decode.chunk_tokens={CHUNK}"]


class Client:
    """One request on a socket of its own, which is closed when the test says so."""

    def __init__(self, c, text, **fields):
        body = json.dumps(dict({"model": c.model, "messages": [{"role": "user", "content": text}], "temperature": 0,
                                "ignore_eos": True, "stream": True}, **fields)).encode()
        self.socket = socket.create_connection(("127.0.0.1", c.port), timeout=60 * SLOW)
        self.socket.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                            b"Content-Length: %d\r\n\r\n" % len(body) + body)

    def read_events(self, n):
        seen = b""
        while seen.count(b"data: ") < n:
            part = self.socket.recv(65536)
            assert part, "the stream ended early"
            seen += part

    def read_all(self):
        seen = b""
        while b"[DONE]" not in seen and b'"error"' not in seen:
            part = self.socket.recv(65536)
            if not part:
                break
            seen += part
        return seen.decode(errors="replace")

    def leave(self):
        self.socket.close()

    def end_input(self):
        """Half closed: no further request can come, which counts as gone."""
        self.socket.shutdown(socket.SHUT_WR)


def computed(workers, c):
    return sum(c.count(w, "tokens_computed") for w in workers)


def rests(c, workers):
    """From the Cancel on at most the step ends that was running."""
    at_cancel = computed(workers, c)
    c.wait_nothing_left(10)
    after = computed(workers, c)
    end = time.monotonic() + 0.7
    wait_for("a while to pass", lambda: time.monotonic() >= end, 5)
    assert computed(workers, c) == after, f"work goes on: {after} tokens, then {computed(workers, c)}"
    assert after - at_cancel <= CHUNK * len(workers), f"{after - at_cancel} tokens were computed after the Cancel"


def gone_in_prefill(c, route, leave):
    """The client leaves when a good part of its prompt is computed, and a good part is not."""
    role = "prefill" if route == "remote" else "decode"
    worker, everyone = c.workers(role)[0], c.workers("prefill") + c.workers("decode")
    before, cancelled = c.count(worker, "tokens_computed"), c.count(worker, "cancelled")
    client = Client(c, LONG, max_tokens=4, baton={"route": route, "no_cache": True})
    wait_for("the prompt to be begun", lambda: c.count(worker, "tokens_computed") > before + 4 * CHUNK, 20)
    leave(client)
    wait_for("the Cancel to arrive", lambda: c.count(worker, "cancelled") > cancelled, 5)
    rests(c, everyone)
    done = c.count(worker, "tokens_computed") - before
    assert done < c.prompt_tokens - CHUNK, f"the whole prompt was computed ({done} tokens): nothing was cancelled"
    client.leave()


def gone_in_stream(c, route, leave):
    worker, everyone = c.workers("decode")[0], c.workers("prefill") + c.workers("decode")
    cancelled = c.count(worker, "cancelled")
    client = Client(c, STORY, max_tokens=3500, baton={"route": route})
    client.read_events(8)
    leave(client)
    wait_for("the Cancel to arrive", lambda: c.count(worker, "cancelled") > cancelled, 5)
    rests(c, everyone)
    client.leave()


def gone_while_queued(c):
    """Behind others that hold the prefill worker's whole window."""
    worker = c.workers("prefill")[0]
    clients = [Client(c, LONG + str(i), max_tokens=1, baton={"route": "remote", "no_cache": True}) for i in range(8)]
    wait_for("all to be there", lambda: c.metrics(worker).get("baton_worker_requests", 0) >= 4, 20)
    for client in clients:
        client.leave()
    wait_for("the Cancels to arrive", lambda: c.count(worker, "cancelled") >= 4, 10)
    rests(c, c.workers("prefill") + c.workers("decode"))


def deadline(c, text, max_tokens, stream):
    begin = time.monotonic()
    answer = c.ask(text, route="remote", max_tokens=max_tokens, ignore_eos=True, stream=stream)
    took = time.monotonic() - begin
    assert answer.error and "deadline" in answer.error, (answer.status, answer.error, answer.text[:60])
    assert stream and answer.text or answer.status == 504, f"status {answer.status}"
    assert took < 5 * SLOW, f"answered after {took:.1f} s"
    rests(c, c.workers("prefill") + c.workers("decode"))


def others_live_on(c, want):
    again = c.ask(STORY, max_tokens=40)
    assert not again.error and again.hashes == want.hashes, again.error


def main():
    suite = Suite()
    with Cluster(sets=SETS) as c:
        want = c.ask(STORY, max_tokens=40)
        c.prompt_tokens = c.ask(LONG, max_tokens=1, stream=False).usage["prompt_tokens"]
        for leave in (Client.leave, Client.end_input):
            for route in ("remote", "local"):
                name = f"{'half closed' if leave is Client.end_input else 'closed'}, {route}"
                suite.test(f"client gone in its prompt: {name}", gone_in_prefill, c, route, leave)
                suite.test(f"client gone in its stream: {name}", gone_in_stream, c, route, leave)
        suite.test("clients gone while they queue", gone_while_queued, c)
        suite.test("the next one is answered", others_live_on, c, want)
    # A row a step, so that the prompt takes several times the deadline.
    with Cluster(sets=SETS[:2] + ["prefill.chunk_tokens=1", "decode.chunk_tokens=1", "router.deadline=300ms"]) as c:
        suite.test("deadline in a long prompt", deadline, c, LONG, 4, False)
        suite.test("deadline in a stream", deadline, c, STORY, 3500, True)
    suite.finish()


main()
