"""Workers of several classes of arithmetic: an answer stays in the class that it began in, and what becomes of it when no
worker of that is left is the operator's setting. Class amx is made by the reference kernels, as they run everywhere.
"""
import os
import subprocess

from cluster import BIN, QUESTIONS, SIGCONT, SIGSTOP, STORY, TINY, Cluster, Suite, send_signal, wait_for
from etcd import Etcd

ONE_THREAD = ["prefill.threads=1", "decode.threads=1"]
AMX = [*ONE_THREAD, "prefill.class=amx", "prefill.isa=reference", "decode.class=amx", "decode.isa=reference"]
TOKENS = 400
REQUEST = {"text": "Tell me a story.", "max_tokens": TOKENS, "ignore_eos": True}


def usable(c):
    """Decode workers that the router would choose from."""
    router = c.workers("router")[0]
    return sum(n for key, n in c.metrics(router).items() if key.startswith('baton_router_workers{role="decode"'))


class Portable:
    """A decode worker of class portable that joins a cluster."""

    def __init__(self, c, etcd):
        self.log = open(os.path.join(c.dir, "portable.log"), "ab")
        before = usable(c)
        self.process = subprocess.Popen(
            [os.path.join(BIN, "baton-decode"), "--cluster", os.path.basename(c.dir), "--id", "portable", "--model", TINY,
             "--model-name", c.model, "--etcd", etcd.url, "--threads", "1"], stdout=self.log, stderr=self.log,
            env={**os.environ, "BATON_FAILPOINTS": ""})
        wait_for("the router to know the other worker", lambda: usable(c) == before + 1, 30)

    def end(self):
        self.process.terminate()
        assert self.process.wait(60) == 0
        self.log.close()


def begin_and_lose(c, etcd):
    """An answer begins at a worker of class amx. Then one of class portable appears, and the first one freezes: what is
    killed would be started again."""
    portable, frozen = [], []

    def strike(answer):
        if answer.text and not portable:
            portable.append(Portable(c, etcd))
            busy = next(w for w in c.workers("decode") if c.metrics(w).get("baton_worker_requests", 0))
            frozen.append(busy["pid"])
            send_signal(busy["pid"], SIGSTOP)
    try:
        answer = c.ask(**REQUEST, on_token=strike)
        assert frozen, "the answer ended before the fault"
    finally:
        for pid in frozen:
            send_signal(pid, SIGCONT)
        for worker in portable:
            worker.end()
    return answer


def events(c, event):
    router = c.workers("router")[0]
    return c.metrics(router).get(f'baton_router_choice_events_total{{event="{event}"}}', 0)


def continues(etcd):
    with Cluster(decode=1, prefill=0, sets=AMX, extra=["--etcd", etcd.url]) as c:
        calm = c.ask(**REQUEST)
        assert not calm.error, calm.error
        assert calm.extra["class"] == "amx-bf16" and not calm.changed, calm.extra
        assert c.get("/v1/models")["data"][0]["classes"] == ["amx-bf16"]
        answer = begin_and_lose(c, etcd)
        assert not answer.error, answer.error
        assert answer.extra["class"] == "portable-bf16" and answer.changed, answer.extra
        assert len(answer.hashes) == TOKENS
        same = [a == b for a, b in zip(answer.hashes, calm.hashes)]
        switch = same.index(False)
        assert 0 < switch and not any(same[switch:]), f"logits of class amx: {same}"
        assert events(c, "class_changed") == 1
        c.wait_healed(0, 1)


def errs(etcd):
    sets = [*AMX, "router.class_lost=error", "router.worker_wait=100ms"]
    with Cluster(decode=1, prefill=0, sets=sets, extra=["--etcd", etcd.url]) as c:
        answer = begin_and_lose(c, etcd)
        assert answer.error and "no worker of the class amx-bf16, in which the answer began, is left" in answer.error, answer.error
        assert not answer.changed and events(c, "class_changed") == 0
        c.wait_healed(0, 1)


def stays(etcd):
    """With another worker of the class the answer is the calm one, though a worker of the other class is idle."""
    with Cluster(decode=2, prefill=0, sets=AMX, extra=["--etcd", etcd.url]) as c:
        calm = c.ask(**REQUEST)
        assert not calm.error, calm.error
        answer = begin_and_lose(c, etcd)
        assert not answer.error, answer.error
        assert events(c, "replayed") == 1
        assert (answer.text, answer.hashes) == (calm.text, calm.hashes), "other logits"
        assert answer.extra["class"] == "amx-bf16" and not answer.changed
        c.wait_healed(0, 2)


def is_exact(etcd):
    """Prefill elsewhere, chunks and neighbours change no bit of class amx."""
    prompts = [QUESTIONS[1], STORY, STORY + "and then " * 31]

    def ask_all(c, route):
        answers = [c.ask(p, max_tokens=8, route=route, no_cache=True) for p in prompts]
        assert not any(a.error for a in answers), [a.error for a in answers]
        assert [a.extra["route"] for a in answers] == [route] * len(prompts)
        return [(a.text, a.hashes) for a in answers]
    with Cluster(sets=AMX, extra=["--etcd", etcd.url]) as c:
        want = ask_all(c, "local")
        assert ask_all(c, "remote") == want
    with Cluster(sets=[*AMX, "prefill.chunk_tokens=7", "decode.chunk_tokens=7"], extra=["--etcd", etcd.url]) as c:
        assert ask_all(c, "remote") == want
    with Cluster(sets=ONE_THREAD, extra=["--etcd", etcd.url]) as c:
        assert ask_all(c, "local") != want, "class portable has the same logits"


def lacking(suite):
    """A worker whose processor lacks the instructions says so and ends."""
    def refuses(etcd):
        done = subprocess.run([os.path.join(BIN, "baton-decode"), "--model", TINY, "--class", "amx", "--etcd", etcd.url, "--id",
                               "lacks", "--threads", "1"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1, done
        assert "which class amx needs: take class portable" in done.stderr, done.stderr
    with open("/proc/cpuinfo") as f:
        if "amx_bf16" in f.read():
            suite.skip("a worker without AMX refuses class amx", "this processor has AMX")
            return None
    return refuses


def main():
    suite = Suite()
    etcd = Etcd()
    try:
        suite.test("class amx is exact", is_exact, etcd)
        suite.test("an answer stays in its class", stays, etcd)
        suite.test("an answer continues in another class", continues, etcd)
        suite.test("an answer ends with its class", errs, etcd)
        if refuses := lacking(suite):
            suite.test("a worker without AMX refuses class amx", refuses, etcd)
    finally:
        etcd.end()
    suite.finish()


main()
