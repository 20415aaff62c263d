"""Workers and the router are killed, frozen and told to end at random, minute after minute, under eight streams whose answers
must not change; what the processes hold must not grow. What breaks with a router's end is asked again, and is no error.

    soak.py                 one minute
    soak.py --long          ten
    soak.py --seed N        the order of faults of an earlier run (it is printed)
    soak.py --tcp --kv SIZE KV by TCP, and so much memory for it (default 32MiB; 4MiB brings preemptions)
    soak.py --kvbm          the KV block manager is struck, too, its disk is a file system that prompts which come only
                            once fill up, and the requests have different salts; five minutes with --long
    soak.py ... --seconds N
"""
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from cluster import SANITIZED, SIGCONT, SIGKILL, SIGSTOP, SIGTERM, STORY, Cluster, Streams, Suite, alive, send_signal, wait_for

SETS = ["prefill.threads=1", "decode.threads=1", "prefill.chunk_tokens=64", "all.ping_interval=100ms",
        "all.ping_timeout=1s"]
GROWTH = 56 << 20  # bytes, of one process: a pool of 32 MiB is touched as it fills with what is kept
DESCRIPTORS = 12  # links to other workers are made when first wanted
MANAGED = ["kvbm.disk_size=256MiB", "kvbm.disk_segment=4MiB", "kvbm.admission=all"]
SALTS = [None, "one tenant", "another"]
SEGMENT = 4 << 20  # of MANAGED
ONCE = 1024  # tokens of a prompt that fills the disk: two megabytes of KV


class SmallDisk:
    """A file system of 24 MiB, for a manager that is told it may use 256."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="baton-disk-")

    def is_full(self):
        """No further segment fits."""
        room = os.statvfs(self.dir)
        return room.f_bavail * room.f_bsize < SEGMENT

    def __enter__(self):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", self.dir], check=True, capture_output=True)
        return self

    def __exit__(self, *why):
        subprocess.run(["umount", "-l", self.dir], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)


class SoakStreams(Streams):
    """With a router that may be struck: what a client gets until its stream breaks is right, and what it asks again is answered.
    One thread more asks what nobody asked before, where a disk is to be filled."""

    def __init__(self, c, requests, fills=False):
        self.struck, self.fills, self.broken, self.filled = [], fills, 0, 0
        super().__init__(c, requests)

    def router_struck(self):
        self.struck.append([time.monotonic(), float("inf")])

    def router_serves(self):
        for outage in self.struck:
            outage[1] = min(outage[1], time.monotonic())

    def is_of_router(self, begin):
        return any(begin < back for _, back in self.struck)

    def check(self, i, answer):
        if not (answer.error and self.is_of_router(self.begun[i])):
            super().check(i, answer)
            return
        self.broken += 1
        if not self.want[i][0].startswith(answer.text):
            self.wrong.append(f"stream {i}: other text before it broke: {answer.text[-40:]}")
        time.sleep(0.1)

    def work(self, i):
        while not self.stopping:
            self.begun[i] = time.monotonic()
            self.check(i, self.c.ask(**self.requests[i]))
            self.rounds[i] += 1

    def fill(self):
        while not self.stopping:
            begin, self.filled = time.monotonic(), self.filled + 1
            prompt = [random.Random(self.filled * ONCE + i).randrange(5, 900) for i in range(ONCE)]
            answer = self.c.ask("", prompt=prompt, stream=False, hashes=False, max_tokens=1, cache_salt="once")
            if answer.error and not self.is_of_router(begin):
                self.wrong.append(f"a prompt that comes once: {answer.error}")
            time.sleep(0.3)

    def running(self):
        super().running()
        self.begun = [0.0] * len(self.requests)
        self.threads += [threading.Thread(target=self.fill)] * self.fills
        return self


class Seen:
    """The highest figures of processes whose counts begin anew when they are killed."""

    def __init__(self, c):
        self.c, self.cached, self.no_space = c, dict.fromkeys(("device", "host", "disk"), 0), 0

    def look(self):
        router = self.c.metrics(self.c.workers("router")[0])
        for tier in self.cached:
            tokens = sum(v for k, v in router.items() if k.startswith("baton_router_cached_tokens_total") and f'tier="{tier}"' in k)
            self.cached[tier] = max(self.cached[tier], tokens)
        for manager in self.c.workers("kvbm"):
            counted = self.c.metrics(manager).get('baton_kvbm_disk_errors_total{kind="no_space"}', 0)
            self.no_space = max(self.no_space, counted)


def requests(salted=False):
    lengths = [(0, 200), (1, 100), (2, 60), (4, 150), (8, 40), (16, 30), (30, 20), (1, 400)]
    made = [{"text": STORY * n + f" Number {i}.", "max_tokens": tokens, "ignore_eos": True, "seed": i,
             "temperature": 0.8 if i % 2 else 0, "route": ("remote", "auto", "local")[i % 3]}
            for i, (n, tokens) in enumerate(lengths)]
    for i, request in enumerate(made):
        if salted and SALTS[i % len(SALTS)]:
            request["cache_salt"] = SALTS[i % len(SALTS)]
    return made


def held_by(c):
    """Resident memory and descriptors of each process, by name."""
    held = {}
    for w in c.workers():
        m = c.metrics(w)
        held[w["id"]] = (m["process_resident_memory_bytes"], m["process_open_fds"])
    return held


def strike(c, role, how, rng, ending):
    """Whoever is to end goes to `ending`: told to, he serves for a while still."""
    pid = rng.choice(wait_for(f"a {role} that runs", lambda: running(c, role), 20))
    print(f"  {time.strftime('%H:%M:%S')} {how} {role} {pid}", flush=True)
    try:
        if how != "freeze":
            ending.append(pid)
        if how == "kill":
            send_signal(pid, SIGKILL)
        elif how == "end":
            send_signal(pid, SIGTERM)
        else:
            send_signal(pid, SIGSTOP)
            thaw = threading.Timer(rng.uniform(0.2, 4), lambda: try_signal(pid, SIGCONT))
            thaw.start()
            return thaw
    except ProcessLookupError:
        pass
    return None


def running(c, role):
    """Process ids; one that was struck a moment ago has none until it is started again."""
    return [w["pid"] for w in c.workers(role) if w["pid"]]


def try_signal(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def serving(c):
    """Both workers of each role run and are known to the router."""
    router = c.metrics(c.workers("router")[0])
    known = {k: v for k, v in router.items() if k.startswith("baton_router_workers{")}
    return len(known) == 2 and all(v == 2 for v in known.values()) and router.get("baton_router_links_up") == 2


def settled(c, ending):
    """Those that are to end have ended, and all run."""
    for pid in ending:
        wait_for(f"process {pid} to end", lambda p=pid: not alive(p), 40)
    ending.clear()
    c.wait_workers(2, 2)
    wait_for("the router to know all workers", lambda: serving(c), 40)


def faults(c, streams, seconds, rng, more, seen):
    """One worker of a role at a time; the other one of its role lives. Roles in `more` have only one."""
    end, n, ending = time.monotonic() + seconds, 0, []
    with streams.running() as load:
        while time.monotonic() < end and not load.wrong:
            settled(c, ending)
            load.router_serves()
            seen.look()
            roles = rng.choice([["prefill"], ["decode"], ["prefill", "decode"]] + [[role] for role in more] * 2)
            how = [rng.choice(["kill", "freeze", "freeze", "end"]) for _ in roles]
            if ("router", "freeze") not in zip(roles, how) and "router" in roles:
                load.router_struck()
            thaws = [strike(c, role, what, rng, ending) for role, what in zip(roles, how)]
            n += 1
            pause = time.monotonic() + rng.uniform(0.2, 2)
            wait_for("the next fault", lambda: time.monotonic() >= pause, 10)
            for thaw in filter(None, thaws):
                thaw.join()
        settled(c, ending)
        load.router_serves()
        load.wait_rounds(1)
    print(f"  {n} faults, {sum(load.rounds)} answers, of which {load.broken} broke with the router", flush=True)
    assert n >= seconds / 20, f"only {n} faults"
    c.wait_healed(2, 2)


def everyone_works(c, streams):
    """None is left out for what it suffered."""
    before = {w["id"]: done(c, w) for w in c.engines()}
    with streams.running():
        try:
            wait_for("work for everyone", lambda: all(
                done(c, w) > before[w["id"]] for w in c.engines()), 30)
        except AssertionError:
            idle = [w["id"] for w in c.engines() if done(c, w) <= before[w["id"]]]
            raise AssertionError(f"these get nothing to do: {idle}") from None


def frozen_one_works_again(c):
    """Few short requests: the other worker could well do them all, for ever."""
    streams = Streams(c, [{"text": f"Hello {i}!", "max_tokens": 20, "ignore_eos": True, "no_cache": True} for i in range(3)])
    victim, router = c.workers("decode")[0], c.workers("router")[0]
    with streams.running():
        send_signal(victim["pid"], SIGSTOP)
        try:
            wait_for("the router to notice", lambda: c.metrics(router).get("baton_router_links_up") == 1, 20)
        finally:
            send_signal(victim["pid"], SIGCONT)
        wait_for("its link to be up again", lambda: c.metrics(router).get("baton_router_links_up") == 2, 20)
        before = done(c, victim)
        wait_for("it to be chosen again", lambda: done(c, victim) > before, 20)


def done(c, worker):
    return c.count(worker, "prefills" if worker["role"] == "prefill" else "generations")


def nothing_grew(c, before):
    after = held_by(c)
    grown = [f"{name}: {(after[name][0] - old[0]) / 2**20:.1f} MiB, {after[name][1] - old[1]:.0f} descriptors"
             for name, old in before.items()
             if (after[name][0] - old[0] > GROWTH and not SANITIZED) or after[name][1] - old[1] > DESCRIPTORS]
    print(f"  before {before}\n  after  {after}", flush=True)
    assert not grown, "; ".join(grown)


def sockets(pid):
    folder, found = f"/proc/{pid}/fd", set()
    for fd in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{fd}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def nothing_inherited(c):
    """A worker started again has no connection of the supervisor's in its hands."""
    own = sockets(c.status()["pid"])
    shared = {w["id"]: len(own & sockets(w["pid"])) for w in c.workers()}
    assert not any(shared.values()), f"sockets of the supervisor in its children: {shared}"


def warm(c, streams):
    with streams.running() as load:
        load.wait_rounds(3)
    c.wait_healed(2, 2)


def soak(c, suite, streams, seconds, seed, more, seen):
    suite.test("calm load", warm, c, streams)
    before = held_by(c)
    suite.test("random faults", faults, c, streams, seconds, random.Random(seed), more, seen)
    # What is cached goes to who holds it.
    uncached = Streams(c, [dict(request, no_cache=True) for request in requests()])
    suite.test("everyone works again", everyone_works, c, uncached)
    suite.test("one that was frozen works again", frozen_one_works_again, c)
    suite.test("calm load again", warm, c, streams)
    suite.test("memory and descriptors", nothing_grew, c, before)
    suite.test("nothing is inherited", nothing_inherited, c)


def tiers_were_used(c, disk, seen):
    """Else the faults of the manager say nothing."""
    seen.look()
    print(f"  cached tokens by tier: {seen.cached}, errors for want of room on disk: {seen.no_space}", flush=True)
    assert seen.cached["device"] > 0 and seen.cached["host"] > 0, seen.cached
    assert disk.is_full() and seen.no_space > 0, "the file system was not filled"
    assert c.metrics(c.workers("kvbm")[0]).get('baton_kvbm_blocks{tier="host"}', 0) > 0


def main():
    arguments, suite = sys.argv[1:], Suite()
    kvbm = "--kvbm" in arguments
    seconds = (300 if kvbm else 600) if "--long" in arguments else 60
    if "--seconds" in arguments:
        seconds = int(arguments[arguments.index("--seconds") + 1])
    seed = int(arguments[arguments.index("--seed") + 1]) if "--seed" in arguments else random.randrange(10 ** 6)
    print(f"soak of {seconds:.0f} s, seed {seed}", flush=True)
    kv = arguments[arguments.index("--kv") + 1] if "--kv" in arguments else "32MiB"
    sets = SETS + [f"worker.kv_memory={kv}"]
    transfer = "tcp" if "--tcp" in arguments else "auto"
    if kvbm and os.geteuid() != 0:
        suite.skip("soak with a manager", "mounting a small file system for its disk takes root")
    elif kvbm:
        with SmallDisk() as disk, Cluster(prefill=2, decode=2, transfer=transfer, sets=sets + MANAGED,
                                          extra=["--kv-disk", disk.dir]) as c:
            seen = Seen(c)
            soak(c, suite, SoakStreams(c, requests(salted=True), fills=True), seconds, seed, ["kvbm", "router"], seen)
            suite.test("tiers were used", tiers_were_used, c, disk, seen)
    else:
        with Cluster(prefill=2, decode=2, transfer=transfer, sets=sets) as c:
            soak(c, suite, SoakStreams(c, requests()), seconds, seed, ["router"], Seen(c))
    suite.finish()


main()
