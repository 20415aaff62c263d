"""Two hosts, brought up by hand as docs/OPERATING.md says: KV moves over TCP between them, and the answers are those of one host.

The hosts are two network namespaces, so this needs root. --smollm2 takes that model.
"""
import os
import subprocess
import sys
import tempfile

from cluster import (BIN, QUESTIONS, SIGCONT, SIGKILL, SMOLLM2, STORY, TINY, Cluster, Suite, in_parallel, process_state,
                     wait_for)
from hosts import A, B, cut_cable, draw_key, mend_cable, run_inside

MODEL = SMOLLM2 if "--smollm2" in sys.argv and SMOLLM2 else TINY


class Hosts(Cluster):
    """A cluster whose processes were started by hand; this process lives on host A."""

    def __init__(self, other):
        self.dir, self.port, self.processes, self.other = tempfile.mkdtemp(prefix="baton-hosts-"), 8000, {}, other
        self.start("etcd", None, "etcd", "--data-dir", os.path.join(self.dir, "etcd"), "--listen-client-urls",
                   f"http://{A}:2379", "--advertise-client-urls", f"http://{A}:2379", "--listen-peer-urls", f"http://{A}:2380")
        self.key, self.other_key = (draw_key(os.path.join(self.dir, name)) for name in ("key", "other-key"))
        etcd = ["--etcd", f"http://{A}:2379"]
        self.start("router", None, os.path.join(BIN, "baton-router"), *etcd, "--models", f"m={MODEL}", "--http-listen",
                   f"127.0.0.1:{self.port}", "--debug-extensions", "--admin-listen", "127.0.0.1:9001")
        self.worker("decode", None, A, 9002)
        self.worker("prefill", other, B, 9003)
        self.model = "m"
        try:
            wait_for("an answer computed on the other host", self.serves, 30)
        except AssertionError:
            self.print_logs()
            raise

    def serves(self):
        return self.ask(STORY, route="remote", max_tokens=1).extra.get("route") == "remote"

    def worker(self, role, space, address, admin, key=None):
        self.start(role, space, os.path.join(BIN, "baton-" + role), "--etcd", f"http://{A}:2379", "--model", MODEL,
                   "--model-name", "m", "--listen", address + ":0", "--advertise", address, "--id", role, "--threads", "1",
                   "--admin-listen", f"{address}:{admin}", "--cluster-key-file", key or self.key)

    def start(self, name, space, *command):
        log = open(os.path.join(self.dir, name + ".log"), "ab")
        prefix = ["ip", "netns", "exec", space] if space else []
        self.processes[name] = subprocess.Popen([*prefix, *command], stdout=log, stderr=log,
                                                env={**os.environ, "BATON_FAILPOINTS": ""})

    def workers(self, role=None):
        all_of_them = [{"id": "router", "role": "router", "admin_host": "127.0.0.1", "admin_port": 9001},
                       {"id": "decode", "role": "decode", "admin_host": A, "admin_port": 9002},
                       {"id": "prefill", "role": "prefill", "admin_host": B, "admin_port": 9003}]
        return [w for w in all_of_them if role in (None, w["role"])]

    def down(self, check=True):
        if check:
            self.released()
        for name in ("router", "decode", "prefill", "etcd"):
            self.processes[name].terminate()
        codes = {}
        for name, process in self.processes.items():
            try:
                codes[name] = process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = "killed"
        if check:
            assert all(codes[n] == 0 for n in ("router", "decode", "prefill")), codes


def answers(c, route):
    got = [c.ask(q, route=route, max_tokens=16, no_cache=True) for q in QUESTIONS]
    for a in got:
        assert not a.error, a.error
        assert a.extra["route"] == route, a.extra
    return got


def same_as_local(c):
    local, remote = answers(c, "local"), answers(c, "remote")
    for a, b in zip(local, remote):
        assert a.hashes and a.hashes == b.hashes and a.text == b.text
        assert b.extra["timing"]["transport"] == "tcp" and b.extra["timing"]["moved_bytes"] > 0, b.extra


def in_mid_prefill(c, strike):
    """Asks for a long prompt to be computed on the other host, which stops when a part of it is done; strikes then."""
    worker = c.processes["prefill"]
    c.arm({"admin_host": B, "admin_port": 9003}, "block.FILLING=freeze,after=40,times=1")

    def strike_there():
        wait_for("the prefill worker to be in the middle", lambda: process_state(worker.pid) == "T", 30)
        strike(worker)
    answer, _ = in_parallel([lambda: c.ask(STORY * 40, route="remote", max_tokens=16, no_cache=True), strike_there])
    return answer


def cut_the_cable(worker):
    cut_cable()
    worker.send_signal(SIGCONT)


def link_cut_in_mid_prefill(c, want):
    """The cable is pulled while a long prompt is computed on the other host: the answer comes all the same."""
    got = in_mid_prefill(c, cut_the_cable)
    mend_cable()
    assert not got.error, got.error
    assert got.hashes == want.hashes and got.text == want.text
    wait_for("the other host to serve again", c.serves, 40)


def prefill_killed(c, want):
    got = in_mid_prefill(c, lambda worker: worker.send_signal(SIGKILL))
    assert not got.error and got.hashes == want.hashes, got.error
    c.processes["prefill"].wait()
    c.worker("prefill", c.other, B, 9003)
    wait_for("the new worker to serve", c.serves, 40)


def other_key(c, want):
    """A worker that registered and speaks the protocol gets no KV, and gives none, without the cluster's key."""
    c.processes["prefill"].terminate()
    c.processes["prefill"].wait()
    c.worker("prefill", c.other, B, 9003, key=c.other_key)
    wait_for("decode's question to be refused", lambda: c.metrics({"admin_host": B, "admin_port": 9003}).get(
             'baton_worker_transfer_faults_total{kind="unproven"}', 0) > 0, 40)
    got = c.ask(STORY * 40, route="remote", max_tokens=16)
    assert not got.error and got.hashes == want.hashes and got.extra["route"] == "local", (got.error, got.extra)
    c.processes["prefill"].terminate()
    c.processes["prefill"].wait()
    c.worker("prefill", c.other, B, 9003)
    wait_for("the worker with the right key to serve", c.serves, 40)


def no_key(c):
    """What would lend KV to other hosts does not start without a key, and says what it wants."""
    got = subprocess.run([os.path.join(BIN, "baton-decode"), "--etcd", f"http://{A}:2379", "--model", MODEL, "--model-name", "m",
                          "--id", "keyless", "--listen", A + ":0", "--advertise", A], capture_output=True, text=True, timeout=60)
    assert got.returncode == 1 and "--cluster-key-file" in got.stderr, got


def inside(other):
    suite = Suite()
    with Hosts(other) as c:
        suite.test("answers over TCP are those of one host", same_as_local, c)
        want = c.ask(STORY * 40, route="local", max_tokens=16)
        suite.test("link cut while KV is on its way", link_cut_in_mid_prefill, c, want)
        suite.test("worker of the other host killed", prefill_killed, c, want)
        suite.test("worker with another cluster's key", other_key, c, want)
        suite.test("worker without a key", no_key, c)
    suite.finish()


def main():
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2])
    run_inside(Suite(), "two hosts", __file__)


main()
