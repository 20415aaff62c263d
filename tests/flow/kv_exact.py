"""The matrix of exactness: whatever part of a prompt is cached, wherever it lies and whoever computes the rest, the logits are
those of a prompt that was computed whole; and what was cached comes from the very tier that is meant.

    kv_exact.py            the built-in model, lengths at the edges of one block and one chunk
    kv_exact.py --full     more lengths, by shared memory and by TCP; of the built-in model more shares of them, too
    kv_exact.py --smollm2  on SmolLM2

Tiers: the worker's own pool, memory of this host's manager (after the workers are killed), disk (after the manager is, too, or it alone),
another worker's pool (without a manager), and, on two network namespaces, which need root, another host's manager, its disk
(after it is killed) and another host's worker.
"""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

from cluster import BIN, SIGKILL, SLOW, SMOLLM2, TINY, Cluster, Suite, send_signal, wait_for
from hosts import A, B, draw_key, run_inside

BLOCK, CHUNK, VOCABULARY, TOKENS, WAYS = 16, 32, 1000, 3, 12
FULL = "--full" in sys.argv
MODEL = SMOLLM2 if "--smollm2" in sys.argv else TINY
LENGTHS = [15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 97] if FULL else [15, 16, 17, 31, 32, 33, 65]
FEW = LENGTHS if FULL else [16, 33, 65]
ROUTES = ("local", "remote")
COMPUTES = {"local": "decode", "remote": "prefill"}  # the worker that looks for a prompt's KV
# Deadlines are not what is tested.
WORKER = ["threads=1", f"chunk_tokens={CHUNK}", "fetch=always", "pull_timeout=10s"]
MANAGER = ["admission=all", "remote_timeout=10s", "disk_timeout=10s", "disk_size=1GiB", "disk_segment=8MiB",
           f"kv_memory={'512MiB' if MODEL == SMOLLM2 else '256MiB'}"]


def ids(n, seed=0):
    return [random.Random(seed * 1000003 + i).randrange(VOCABULARY) for i in range(n)]


def full(n):
    """Of n tokens those in full blocks."""
    return n // BLOCK * BLOCK


class Case:
    """A prompt of n tokens of which `share` were computed before, as the beginning of another prompt or as this one."""

    def __init__(self, stage, route, n, share):
        self.route, self.n, self.share = route, n, share
        self.salt = f"{stage} {route} {n} {share}"  # nothing is shared by cases
        self.held = min(full(share), full(n - 1))

    def before(self):
        return ids(self.n)[:self.share] + ([] if self.share == self.n else ids(20, 7))

    def blocks(self):
        return len(self.before()) // BLOCK if self.share else 0


def shares(n):
    """None, all, and about half, at a block's edge and beside it."""
    half = full(full(n - 1) // 2 + BLOCK - 1)
    return sorted({0, n} | ({half - 1, half, half + 1} if FULL and MODEL == TINY else {half}) - {-1, n + 1})


def cases(stage, routes=ROUTES, lengths=LENGTHS):
    return [Case(stage, route, n, share) for route in routes for n in lengths for share in shares(n)]


def ask(c, prompt, route, salt=None, tokens=TOKENS):
    fields = {"cache_salt": salt} if salt else {"no_cache": True}
    answer = c.ask("", prompt=prompt, route=route, max_tokens=tokens, ignore_eos=True, stream=salt is None, **fields)
    assert not answer.error, answer.error
    assert answer.extra["route"] == route and len(answer.hashes) == tokens, answer.extra
    return answer


def tiers(answer):
    """What was cached, by tier: the answer's timing, and a whole answer's header, say the same."""
    timing = {tier: n for tier, n in answer.extra["timing"]["cached_tokens"].items() if n}
    header = {tier: int(n) for tier, n in (pair.split("=") for pair in answer.headers["x-baton-cache"].split()) if n != "0"}
    assert timing == header, (timing, header)
    assert answer.usage["prompt_tokens_details"]["cached_tokens"] == sum(timing.values()), answer.usage
    return timing


def computed(answer):
    return answer.extra["timing"]["computed_tokens"]


class Matrix:
    """Cases against one cluster: asked once so that their KV is there, and again when it lies where it is to be found."""

    def __init__(self, c):
        self.c, self.cases, self.ways, self.seed_blocks = c, [], [], 0
        self.want = {n: ask(c, ids(n), "local").hashes for n in LENGTHS}

    def counts(self, wanted):
        """Metrics, (role, name), each of all processes of the role."""
        pages = [(w["role"], self.c.metrics(w)) for w in self.c.workers()]
        return [sum(page.get("baton_" + name, 0) for of, page in pages if of == role) for role, name in wanted]

    def count(self, role, name):
        return self.counts([(role, name)])[0]

    def seed(self, stage, routes=ROUTES, by=None, lengths=LENGTHS):
        """`by`: the route that computes, where it is not the one that is asked later. Returns how many blocks that are."""
        self.cases = cases(stage, routes, lengths)
        self.ways = [Case(f"{stage}, way {i}", route, 33, 33) for route in routes for i in range(WAYS)]
        for case in self.cases + self.ways:
            if case.share:
                answer = ask(self.c, case.before(), by or case.route, case.salt, tokens=1)
                assert not tiers(answer), f"{case.salt}: found before it was computed"
        self.seed_blocks = sum(case.blocks() for case in self.cases + self.ways)
        return self.seed_blocks

    def open_way(self, route, tier):
        """The first that want a way to a holder may find it closed, and are computed."""
        ways = [way for way in self.ways if way.route == route]

        def found():
            time.sleep(0.1 * SLOW)
            assert ways, f"{route}: nothing comes from {tier} without computing it"
            way = ways.pop()
            answer = ask(self.c, ids(way.n), route, way.salt)
            return tiers(answer) == {tier: way.held} and computed(answer) == way.n - way.held
        wait_for(f"{route}: the way to {tier}", found, 30)

    def check_answers(self, tier, cases):
        for case in cases:
            answer = ask(self.c, ids(case.n), case.route, case.salt)
            assert answer.hashes == self.want[case.n], f"{case.salt} shared: other logits"
            assert tiers(answer) == ({tier: case.held} if case.held else {}), f"{case.salt} shared: {tiers(answer)}"
            assert computed(answer) == case.n - case.held, f"{case.salt} shared: computed {computed(answer)}"

    def check(self, tier, *grows):
        """All that was shared comes from the tier, and nothing of it is computed. Counters that grow with it: (role, name, what each case
        adds); without a role of the worker that looks for the prompt."""
        grows = [*grows, ("router", f'router_cached_tokens_total{{model="{self.c.model}",tier="{tier}"}}', tokens)]
        for route in sorted({case.route for case in self.cases}):
            self.open_way(route, tier)
            cases = [case for case in self.cases if case.route == route]

            def counted():
                return self.counts([(role or COMPUTES[route], name) for role, name, _ in grows])
            want = [n + sum(map(adds, cases)) for n, (_, _, adds) in zip(counted(), grows)]
            self.check_answers(tier, cases)
            try:
                wait_for("counters", lambda: counted() == want, 5)
            except AssertionError:
                raise AssertionError(f"{tier}, {route}: {list(zip(grows, counted(), want))}") from None
        self.c.wait_nothing_left()


def tokens(case):
    return case.held


def blocks(case):
    return case.held // BLOCK


def hits(case):
    return case.held > 0


def nothing(_):
    return 0


def fetched(tier, holder):
    """What the worker counts that fetches."""
    return [(None, f'worker_pulled_tokens_total{{tier="{tier}"}}', tokens), (None, f'worker_pull_blocks_total{{holder="{holder}"}}', blocks)]


READ = [("kvbm", 'kvbm_disk_operations_total{operation="read"}', blocks)]
DEVICE = [(None, 'worker_prefix_cache_total{event="hit"}', hits)] + [(None, f'worker_pulled_tokens_total{{tier="{tier}"}}', nothing)
                                                                   for tier in ("host", "disk", "remote")]
HOST = fetched("host", "manager") + [("kvbm", 'kvbm_hit_tokens_total{tier="host"}', tokens)]
DISK = fetched("disk", "manager") + [("kvbm", 'kvbm_hit_tokens_total{tier="disk"}', tokens), *READ]
WORKER_HERE = fetched("remote", "worker")
WORKER_THERE = fetched("remote", "remote")


def manager_there(tier):
    """Asked by the worker itself."""
    return WORKER_THERE + [("kvbm", f'kvbm_hit_tokens_total{{tier="{tier}"}}', tokens), ("kvbm", "kvbm_remote_blocks_total", nothing)]


def managers(tier):
    """Asked by the worker's own manager: what that lends has come from there."""
    return fetched("remote", "manager") + [
        ("kvbm", 'kvbm_hit_tokens_total{tier="remote"}', tokens),
        ("kvbm", f'kvbm_hit_tokens_total{{tier="{tier}"}}', tokens),
        ("kvbm", "kvbm_remote_blocks_total", blocks)]


# ---- one host -----------------------------------------------------------------------------------


def kill(c, *roles):
    for role in roles:
        send_signal(c.pid(role), SIGKILL)
    c.wait_healed(1, 1)
    wait_for("prefill to be used", lambda: c.ask("Hello!", route="remote", no_cache=True, max_tokens=1).extra["route"] == "remote", 20)


def kept(m, tier, n):
    wait_for(f"the manager to have {n} blocks on {tier}", lambda: m.count("kvbm", f'kvbm_blocks{{tier="{tier}"}}') >= n, 60)


def empty_workers(c):
    """They live on, and hold nothing."""
    ports = [part for w in c.engines() for part in ("--admin", f"http://127.0.0.1:{w['ports']['admin']}")]
    done = c.baton("kv", "wipe", "--node", *ports)
    assert done.returncode == 0, done


def manager_here(m):
    """Tiers 1, 2 and 3, as worker, manager or both are killed."""
    n = m.seed("own pool")
    m.check("device", *DEVICE)
    n += m.seed("manager killed")
    kept(m, "disk", n)
    kill(m.c, "kvbm")
    m.check("device", *DEVICE)
    n += m.seed("workers killed")
    kept(m, "host", m.seed_blocks)
    kept(m, "disk", n)
    kill(m.c, "decode", "prefill")
    m.check("host", *HOST)
    n += m.seed("all killed")
    kept(m, "disk", n)
    kill(m.c, "kvbm", "decode", "prefill")
    kept(m, "disk", n)
    m.check("disk", *DISK)
    n += m.seed("manager killed, workers emptied", lengths=FEW)
    kept(m, "disk", n)
    empty_workers(m.c)
    kill(m.c, "kvbm")
    kept(m, "disk", n)
    m.check("disk", *DISK)


def worker_here(m):
    """Without a manager: what one worker lost comes from the other."""
    m.seed("decode killed", ["local"], by="remote")
    kill(m.c, "decode")
    m.check("peer", *WORKER_HERE)
    m.seed("prefill killed", ["remote"])
    kill(m.c, "prefill")
    m.check("device", *WORKER_HERE)


# ---- two hosts ------------------------------------------------------------------------------------


DEAF = ("--index-memory", "0")  # a router that follows no KV events


class Hosts(Cluster):
    """Processes started by hand, each until it is stopped; this process, the router and etcd live on host a."""

    def __init__(self, other):
        self.dir, self.port, self.processes, self.members = tempfile.mkdtemp(prefix="baton-hosts-"), 8000, {}, {}
        self.spaces = {"a": (A, []), "b": (B, ["ip", "netns", "exec", other])}
        self.key, self.model = draw_key(os.path.join(self.dir, "key")), "m"
        self.start("etcd", "a", "etcd", "--data-dir", os.path.join(self.dir, "etcd"), "--listen-client-urls", f"http://{A}:2379",
                   "--advertise-client-urls", f"http://{A}:2379", "--listen-peer-urls", f"http://{A}:2380")
        self.router(*DEAF)

    def router(self, *options):
        self.member("router", "a", 9001, "--models", f"m={MODEL}", "--http-listen", f"127.0.0.1:{self.port}", "--debug-extensions",
                    *options)

    def start(self, name, host, *command):
        with open(os.path.join(self.dir, name + ".log"), "ab") as log:
            self.processes[name] = subprocess.Popen([*self.spaces[host][1], *command], stdout=log, stderr=log,
                                                    env={**os.environ, "BATON_FAILPOINTS": ""})

    def member(self, role, host, port, *options):
        address, name = self.spaces[host][0], f"{role}-{host}"
        self.start(name, host, os.path.join(BIN, "baton-" + role), "--etcd", f"http://{A}:2379", "--id", name, "--host", f"host-{host}",
                   "--listen", f"{address}:0", "--advertise", address, "--admin-listen", f"{address}:{port}", *options)
        self.members[name] = {"id": name, "role": role, "admin_host": address, "admin_port": port, "pid": self.processes[name].pid}

    def worker(self, role, host, *options):
        rows = [part for row in WORKER for part in ("--" + row.split("=")[0].replace("_", "-"), row.split("=")[1])]
        self.member(role, host, 9002 if role == "decode" else 9003, "--model", MODEL, "--model-name", "m", "--cluster-key-file", self.key,
                    *rows, *options)

    def manager(self, host, *options):
        rows = [part for row in MANAGER for part in ("--" + row.split("=")[0].replace("_", "-"), row.split("=")[1])]
        self.member("kvbm", host, 9004, "--cluster-key-file", self.key, *rows, *options)

    def manager_b(self, *options):
        """The one of which another manager fetches has a disk."""
        self.manager("b", "--disk", os.path.join(self.dir, "kv"), *options)

    def kv_format(self, host):
        with urllib.request.urlopen(f"http://{self.spaces[host][0]}:9004/kv/status", timeout=10 * SLOW) as page:
            return json.load(page)["kv_format"]

    def kill(self, *names):
        for name in names:
            self.processes[name].kill()
            self.processes.pop(name).wait()
            del self.members[name]

    def workers(self, role=None):
        return [m for m in self.members.values() if role in (None, m["role"])]

    def wait_serves(self):
        def serves():
            answer = self.ask("Hello!", route="remote", no_cache=True, max_tokens=1)
            return not answer.error and answer.extra["route"] == "remote"
        wait_for("an answer of prefill and decode", serves, 40)
        managed = [m for m in self.workers("kvbm") if any(w["admin_host"] == m["admin_host"] for w in self.workers("decode"))]
        wait_for("the workers' links to their manager", lambda: all(self.metrics(m).get("baton_kvbm_links_up", 0) >= 2 for m in managed), 20)

    def down(self, check=True):
        codes, etcd = {}, self.processes.pop("etcd")
        for process in self.processes.values():
            process.terminate()
        for name, process in [*self.processes.items(), ("etcd", etcd)]:
            if name == "etcd":
                process.terminate()
            try:
                codes[name] = process.wait(30 * SLOW)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = "killed"
        shutil.rmtree(self.dir, ignore_errors=True)
        del codes["etcd"]
        assert not check or not any(codes.values()), codes


def manager_a(m, name):
    return m.c.metrics(m.c.members["kvbm-a"]).get("baton_kvbm_remote_" + name, 0)


def know_another(m, n):
    """The workers of b are gone: it is its manager that has the n blocks."""
    wait_for("a's manager to know what b's has", lambda: manager_a(m, "known_blocks") >= n and manager_a(m, 'managers{state="up"}') == 1, 40)


def restart_router(m, *options):
    m.c.kill("router-a")
    m.c.router(*options)
    m.c.wait_serves()


def restart_another(m, n):
    """Then n blocks are on its disk only. Without workers it has to be told its format."""
    kept(m, "disk", n)
    kv_format = m.c.kv_format("b")
    m.c.kill("kvbm-b")
    wait_for("a's manager to know that b's is gone", lambda: not manager_a(m, "known_blocks"), 40)
    m.c.manager_b("--kv-format", kv_format)
    kept(m, "disk", n)
    know_another(m, n)


def another_manager(m):
    """The workers of b are gone, and a's manager has nothing. It fetches what its workers ask it for (tier 4): they know of nobody else,
    as the router is deaf. One that is not names b's manager to them, and they ask that."""
    c, n, stages = m.c, 0, {}
    for stage, lengths in (("disk, named", FEW), ("disk", FEW), ("memory, named", LENGTHS), ("memory", LENGTHS)):
        n += m.seed(f"another manager's {stage}", lengths=lengths)
        stages[stage] = m.cases, m.ways
    kept(m, "host", n)
    kept(m, "disk", n)
    c.kill("decode-b", "prefill-b")
    c.manager("a")
    for role in ("decode", "prefill"):
        c.worker(role, "a")
    know_another(m, n)
    c.wait_serves()
    m.check("peer", *managers("host"))
    restart_router(m)
    m.cases, m.ways = stages["memory, named"]
    m.check("peer", *manager_there("host"))
    restart_another(m, n)
    c.wait_serves()
    m.cases, m.ways = stages["disk, named"]
    m.check("peer", *manager_there("disk"), *READ)
    restart_router(m, *DEAF)
    m.cases, m.ways = stages["disk"]
    m.check("peer", *managers("disk"), *READ)


def worker_there(m):
    """Without managers: what one worker lost comes from the other, over TCP."""
    c = m.c
    c.kill("kvbm-a", "kvbm-b", "prefill-a")
    c.worker("prefill", "b")
    restart_router(m)
    m.seed("another worker", ["local"], by="remote")
    c.kill("decode-a")
    c.worker("decode", "a")
    c.wait_serves()
    m.check("peer", *WORKER_THERE)
    m.seed("another prefill", ["remote"])
    c.kill("prefill-b")
    c.worker("prefill", "b")
    c.wait_serves()
    m.check("device", *WORKER_THERE)


def inside(other):
    suite = Suite()
    with Hosts(other) as c:
        c.manager_b()
        for role in ("decode", "prefill"):
            c.worker(role, "b")
        c.wait_serves()
        m = Matrix(c)
        suite.test("from another host's manager", another_manager, m)
        suite.test("from another host's worker", worker_there, m)
        if suite.failed:
            c.print_logs()
    suite.finish()


def main():
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2])
    suite = Suite()
    if not MODEL:
        suite.skip("smollm2", "the model is not there")
        suite.finish()
    disk = tempfile.mkdtemp(prefix="baton-kv-")
    sets = [f"worker.{row}" for row in WORKER] + [f"kvbm.{row}" for row in MANAGER]
    try:
        for transport in ("shm", "tcp") if FULL else ("auto",):
            with Cluster(model=MODEL, sets=sets, transfer=transport, extra=["--kv-disk", os.path.join(disk, transport)]) as c:
                suite.test(f"from pool, memory and disk, by {transport}", manager_here, Matrix(c))
            with Cluster(model=MODEL, sets=sets[:len(WORKER)], transfer=transport, extra=["--kvbm", "0"]) as c:
                suite.test(f"from another worker, by {transport}", worker_here, Matrix(c))
    finally:
        shutil.rmtree(disk, ignore_errors=True)
    print(f"{suite.passed} passed, {suite.failed} failed, {suite.skipped} skipped", flush=True)
    if suite.failed:
        sys.exit(1)
    run_inside(Suite(), "two hosts", __file__)


main()
