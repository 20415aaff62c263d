"""A prompt whose beginning is fetched is computed behind the pull, layer by layer: the logits are those of a prompt that was computed
whole, the rest in one step or in several, at decode and at prefill. When a bit flips or the manager dies in the middle of it what
was computed is thrown away, the answer stays right, and each is counted once.
"""
import random

from cluster import SIGKILL, Cluster, Suite, in_parallel, send_signal, wait_for

BLOCK, CHUNK, VOCABULARY, HELD = 16, 64, 1000, 34 * 16  # more blocks than one take has of a layer
RESTS = [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7]
SETS = [f"worker.{row}" for row in ("threads=1", f"chunk_tokens={CHUNK}", "fetch=always", "overlap=always", "pull_timeout=60s")]
SETS += ["kvbm.admission=all", "kvbm.remote_timeout=20s", "kvbm.kv_memory=128MiB"]
COMPUTES = {"local": "decode", "remote": "prefill"}
SLOW_COPY = "transfer.take.copying=sleep(1)"  # a block of a take: a pull takes tens of milliseconds a layer

BEGUN = 'baton_worker_events_total{event="overlapped"}'
VOID = 'baton_worker_events_total{event="overlaps_void"}'
DAMAGED = 'baton_worker_pull_damaged_blocks_total{where="fetched"}'
PULLS = 'baton_worker_pulls_total{holder="manager",outcome="%s"}'
COUNTED = [BEGUN, VOID, DAMAGED, *(PULLS % outcome for outcome in ("whole", "partial", "damaged", "lost", "timeout"))]


def ids(n, seed=0):
    return [random.Random(seed * 1000003 + i).randrange(VOCABULARY) for i in range(n)]


class Prompts:
    """Of one beginning, which the manager is to have under a salt of their own, and of several rests."""
    count = 0

    def __init__(self, c, route, rests):
        Prompts.count += 1
        self.c, self.route, self.salt, self.rests = c, route, f"prompts {Prompts.count}", rests
        self.want = {rest: self.ask(rest, no_cache=True) for rest in rests}

    def ask(self, rest, **fields):
        fields = fields or {"cache_salt": f"{self.salt} {rest}"}
        answer = self.c.ask("", prompt=ids(HELD) + ids(rest, 1 + rest), route=self.route, max_tokens=3, ignore_eos=True, **fields)
        assert not answer.error and answer.extra["route"] == self.route, (answer.error, answer.extra)
        return answer

    def keep(self):
        """With the manager, and with nobody else."""
        before = kept(self.c)
        for rest in self.rests:
            self.c.ask("", prompt=ids(HELD + 1), route=self.route, max_tokens=1, cache_salt=f"{self.salt} {rest}")
        wait_for("the manager to have them", lambda: kept(self.c) >= before + len(self.rests) * HELD // BLOCK, 30)
        for role in ("prefill", "decode"):
            send_signal(self.c.pid(role), SIGKILL)
        self.c.wait_healed(1, 1)
        open_ways(self.c)

    def worker(self):
        return self.c.workers(COMPUTES[self.route])[0]

    def check(self, rest, held):
        """The answer's logits, and that what was not found was computed. Returns it, and what was counted before."""
        want, before = self.want[rest], counts(self.c, self.worker())
        answer = self.ask(rest)
        assert answer.hashes == want.hashes, f"{rest} tokens behind it: other logits"
        timing = answer.extra["timing"]
        found = sum(timing["cached_tokens"].values())
        assert found == held(found) and timing["computed_tokens"] == HELD + rest - found, timing
        return answer, before


def kept(c):
    return c.metrics(c.workers("kvbm")[0]).get('baton_kvbm_blocks{tier="host"}', 0)


def counts(c, worker):
    values = c.metrics(worker)
    return {name: values.get(name, 0) for name in COUNTED}


def expect(c, worker, before, *raised):
    """Exactly these have gone up, by one."""
    want = {name: n + raised.count(name) for name, n in before.items()}
    try:
        wait_for("the counts", lambda: counts(c, worker) == want, 10)
    except AssertionError:
        raise AssertionError(f"counted {counts(c, worker)}, not {want}") from None


def open_ways(c):
    """Until both workers, asked for what nobody has, could ask the manager in vain."""
    def asked(role):
        return c.metrics(c.workers(role)[0]).get(PULLS % "empty", 0)

    def answered():
        Prompts.count += 1
        for route in COMPUTES:
            c.ask("", prompt=ids(33), route=route, max_tokens=1, cache_salt=f"nobody's, {route} {Prompts.count}")
        return asked("prefill") > 0 and asked("decode") > 0
    wait_for("a way to the manager", answered, 30)


def same_logits(c, route):
    """The pull is slow, so that no layer is there before the step wants it."""
    prompts = Prompts(c, route, RESTS)
    prompts.keep()
    worker = prompts.worker()
    c.arm(worker, SLOW_COPY)
    for rest in RESTS:
        _, before = prompts.check(rest, lambda _: HELD)
        expect(c, worker, before, BEGUN, PULLS % "whole")
    c.arm(worker, "transfer.take.copying=off")


def flipped(c, route):
    """A bit of a layer behind the first: nothing before the damaged block is lost."""
    rests = [2, 3 * CHUNK]
    prompts = Prompts(c, route, rests)
    prompts.keep()
    worker = prompts.worker()
    for rest in rests:
        c.arm(worker, f"{SLOW_COPY};transfer.take.flip=flip,after=60,times=1")
        acted = c.hits(worker, "transfer.take.flip")[1]
        answer, before = prompts.check(rest, lambda found: found // BLOCK * BLOCK)
        assert 0 < sum(answer.extra["timing"]["cached_tokens"].values()) < HELD, answer.extra
        assert c.hits(worker, "transfer.take.flip")[1] == acted + 1
        expect(c, worker, before, BEGUN, VOID, DAMAGED, PULLS % "damaged")
        c.arm(worker, "transfer.take.flip=off;transfer.take.copying=off")
        again, before = prompts.check(rest, lambda found: found)  # what was fetched and what was computed are both here
        assert again.extra["timing"]["computed_tokens"] <= BLOCK, again.extra
        expect(c, worker, before)


def manager_dies(c, route):
    """When the first layer is here, and before the second is."""
    prompts = Prompts(c, route, [3 * CHUNK])
    prompts.keep()
    worker, manager = prompts.worker(), c.pid("kvbm")
    begun = counts(c, worker)[BEGUN]
    c.arm(worker, f"transfer.take.copying=pause(60000),after={HELD // BLOCK + 5},times=1")

    def kill():
        wait_for("the step behind the pull", lambda: counts(c, worker)[BEGUN] > begun, 20)
        send_signal(manager, SIGKILL)
        wait_for("links to the next manager", lambda: any(c.metrics(w).get("baton_kvbm_links_up", 0) >= 2 for w in c.workers("kvbm")), 20)
        c.arm(worker, "transfer.take.copying=off")
    (_, before), _ = in_parallel([lambda: prompts.check(3 * CHUNK, lambda _: 0), kill])
    expect(c, worker, before, BEGUN, VOID, PULLS % "lost")
    c.wait_healed(1, 1)


def main():
    suite = Suite()
    with Cluster(sets=SETS) as c:
        open_ways(c)
        for route in COMPUTES:
            suite.test(f"{route}: the same logits", same_logits, c, route)
            suite.test(f"{route}: a bit flips", flipped, c, route)
            suite.test(f"{route}: the manager dies", manager_dies, c, route)
    suite.finish()


main()
