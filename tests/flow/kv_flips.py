"""One bit is flipped at each place that KV comes through: on the way from worker to worker and manager, in the manager's
memory, to disk and from it. Every answer has the undisturbed one's logits, each flip is counted once where it is found, and
what is damaged is not served again.
"""
import os
import random
import shutil
import struct
import tempfile
import time

from cluster import SIGKILL, SLOW, Cluster, Suite, send_signal, wait_for

BLOCK, VOCABULARY, LENGTH = 16, 1000, 81  # five full blocks before the last token
FULL = LENGTH // BLOCK
PAGE = 4096  # of a record on disk, before the block
SETS = [f"{role}.{row}" for role in ("prefill", "decode") for row in ("threads=1", "chunk_tokens=32")]
SETS += ["worker.fetch=always", "kvbm.admission=all", "kvbm.disk_size=256MiB", "kvbm.disk_segment=8MiB"]

TAKE, SEND = "transfer.take.flip", "transfer.serve.sending"
HANDED = 'baton_worker_events_total{event="bad_checksums"}'
FETCHED = 'baton_worker_pull_damaged_blocks_total{where="fetched"}'
FOUND_HERE = 'baton_worker_pull_damaged_blocks_total{where="lent"}'
LENT = 'baton_worker_lent_total{event="damaged"}'
OFFERED = 'baton_worker_offered_blocks_total{event="damaged"}'
PUSHED = 'baton_kvbm_pushes_total{event="damaged"}'
PULLED = 'baton_kvbm_pulls_total{event="damaged"}'
TAKEN = 'baton_kvbm_store_events_total{event="damaged_offers"}'
HOST = 'baton_kvbm_store_events_total{event="damaged_host"}'
DISK = 'baton_kvbm_disk_errors_total{kind="checksum"}'
WORKER = [HANDED, FETCHED, FOUND_HERE, LENT, OFFERED]
TORN = 'baton_kvbm_disk_errors_total{kind="torn"}'
MANAGER = [PUSHED, PULLED, TAKEN, HOST, DISK, TORN]


class Prompt:
    """One that nobody has asked before, and what its answer is when nothing is kept and nothing is fetched."""
    count = 0

    def __init__(self, c, begin=()):
        Prompt.count += 1
        draw = random.Random(Prompt.count)
        self.c, self.ids = c, [*begin, *(draw.randrange(VOCABULARY) for _ in range(LENGTH))]
        self.want = self.answer("local", no_cache=True)

    def answer(self, route, **fields):
        answer = self.c.ask("", prompt=self.ids, route=route, max_tokens=4, ignore_eos=True, **fields)
        assert not answer.error, answer.error
        return answer

    def ask(self, route):
        """Tokens that were found, by tier."""
        answer = self.answer(route)
        assert answer.text == self.want.text and answer.hashes == self.want.hashes, f"another answer: {answer.extra}"
        return {tier: n for tier, n in answer.extra["timing"]["cached_tokens"].items() if n}


def counts(c):
    """Of damaged blocks, by process and counter: those that are not 0."""
    found = {}
    for w in c.workers():
        values = c.metrics(w)
        for name in {"kvbm": MANAGER, "router": []}.get(w["role"], WORKER):
            if values.get(name):
                found[w["role"], name] = found.get((w["role"], name), 0) + values[name]
    return found


def expect(c, before, *raised):
    """Exactly these counters have gone up, by one."""
    want = dict(before)
    for key in raised:
        want[key] = want.get(key, 0) + 1
    try:
        wait_for("the counts", lambda: counts(c) == want, 10)
    except AssertionError:
        raise AssertionError(f"counted {counts(c)}, not {want}") from None


class Flip:
    """with Flip(c, role, point): the next time that this comes by there one bit is flipped, once."""

    def __init__(self, c, role, point):
        self.c, self.point, self.worker = c, point, c.workers(role)[0]

    def __enter__(self):
        self.acted = self.c.hits(self.worker, self.point)[1]
        self.c.arm(self.worker, self.point + "=flip,times=1")

    def __exit__(self, kind, *rest):
        if kind is None:
            wait_for(f"{self.point} to act", lambda: self.c.hits(self.worker, self.point)[1] == self.acted + 1, 20)
        self.c.arm(self.worker, self.point + "=off")


def kept(c, tier):
    return c.metrics(c.workers("kvbm")[0]).get(f'baton_kvbm_blocks{{tier="{tier}"}}', 0)


def settled(c):
    """How many blocks the manager has in memory and on disk, once what was offered before has come."""
    before = kept(c, "host"), kept(c, "disk")
    time.sleep(0.2 * SLOW)
    return not c.leftovers() and before == (kept(c, "host"), kept(c, "disk")) and before


def keep(c, prompt):
    """Its blocks are with the manager."""
    host, written = wait_for("nothing more to come", lambda: settled(c), 20)
    prompt.ask("local")
    wait_for("the manager to have it", lambda: kept(c, "host") >= host + FULL, 20)
    wait_for("the disk to have it", lambda: kept(c, "disk") >= written + FULL, 20)


def wait_ways(c):
    """Until both workers, asked for what nobody has, could ask the manager in vain."""
    def asked(role):
        return c.metrics(c.workers(role)[0]).get('baton_worker_pulls_total{holder="manager",outcome="empty"}', 0)

    def answered():
        for route in ("local", "remote"):
            Prompt(c).ask(route)
        return asked("prefill") > 0 and asked("decode") > 0
    wait_for("a way to the manager", answered, 20)


def workers_forget(c):
    """What they know now they have from the manager; their counts begin anew."""
    for role in ("prefill", "decode"):
        send_signal(c.pid(role), SIGKILL)
    c.wait_healed(1, 1)
    wait_ways(c)
    return counts(c)


def asked_again(c, prompt, *tiers):
    """Of workers that have forgotten it: found where it is sound, and nothing is counted any more."""
    before = workers_forget(c)
    found = prompt.ask("local")
    assert set(found) <= set(tiers), found
    prompt.ask("remote")
    expect(c, before)
    return sum(found.values())


def handed_over(c, role, point):
    prompt, before = Prompt(c), counts(c)
    with Flip(c, role, point):
        prompt.ask("remote")
    expect(c, before, ("decode", HANDED))
    prompt.ask("remote")
    prompt.ask("local")
    expect(c, before, ("decode", HANDED))


def offered(c, role, point):
    prompt, before = Prompt(c), counts(c)
    with Flip(c, role, point):
        prompt.ask("local")
    raised = [("decode", OFFERED), ("kvbm", PUSHED), ("kvbm", TAKEN)]
    expect(c, before, *raised)
    prompt.ask("local")
    expect(c, before, *raised)
    asked_again(c, prompt, "host")


def pulled_from_memory(c, role, point):
    """Spoiled on the way: the manager looks at its own and keeps it."""
    prompt = Prompt(c)
    keep(c, prompt)
    before = workers_forget(c)
    with Flip(c, role, point):
        assert sum(prompt.ask("local").values()) < FULL * BLOCK
    raised = [("decode", FETCHED), ("kvbm", PULLED)]
    expect(c, before, *raised)
    prompt.ask("local")
    expect(c, before, *raised)
    assert asked_again(c, prompt, "host") == FULL * BLOCK


def damaged_in_memory(c):
    """The manager looks at its own and forgets it; the disk has it as it was."""
    prompt = Prompt(c)
    keep(c, prompt)
    before = workers_forget(c)
    with Flip(c, "kvbm", "store.lend.flip"):
        prompt.ask("local")
    raised = [("decode", FETCHED), ("kvbm", PULLED), ("kvbm", HOST)]
    expect(c, before, *raised)
    prompt.ask("local")
    expect(c, before, *raised)
    assert asked_again(c, prompt, "host", "disk") == FULL * BLOCK


def damaged_before_it_is_written(c):
    prompt, before = Prompt(c), counts(c)
    with Flip(c, "kvbm", "store.write.flip"):
        prompt.ask("local")
    expect(c, before, ("kvbm", HOST))
    asked_again(c, prompt, "host", "disk")


def manager_ends(c):
    done = c.baton("drain", "kvbm-0")
    assert done.returncode == 0, done


def manager_begins(c):
    """And the workers with it; all counts begin anew."""
    done = c.baton("scale", "kvbm=1")
    assert done.returncode == 0, done
    wait_for("the disk to be read", lambda: kept(c, "disk") > 0, 20)
    workers_forget(c)


def found_at_start(c, prompt, torn):
    """So many are found damaged when the manager looks through the segment that it ended with; then the disk has it again."""
    manager_begins(c)
    before = {("kvbm", TORN): torn}
    expect(c, before)
    prompt.ask("local")
    expect(c, before)
    asked_again(c, prompt, "host", "disk")


def found_torn(c):
    return counts(c).get(("kvbm", TORN), 0)


def written_to_disk(c):
    prompt, torn = Prompt(c), found_torn(c)
    with Flip(c, "kvbm", "disk.write.flip"):
        keep(c, prompt)
    manager_ends(c)
    found_at_start(c, prompt, torn + 1)


def read_from_disk(c):
    """One damaged block is found, and computed; then the disk has it again."""
    prompt = Prompt(c)
    keep(c, prompt)
    manager_ends(c)
    manager_begins(c)
    before = counts(c)
    with Flip(c, "kvbm", "disk.read.flip"):
        prompt.ask("local")
    expect(c, before, ("kvbm", DISK))
    prompt.ask("local")
    expect(c, before, ("kvbm", DISK))
    asked_again(c, prompt, "host", "disk")


def damaged_on_disk(c, folder, offset):
    """A bit of the file itself; a record begins with a page that has its tokens."""
    prompt, torn = Prompt(c), found_torn(c)
    keep(c, prompt)
    manager_ends(c)
    assert flip_in_files(folder, struct.pack(f"<{BLOCK}I", *prompt.ids[:BLOCK]), offset) == 1
    found_at_start(c, prompt, torn + 1)


def flip_in_files(folder, tokens, offset):
    """In each record of these tokens, so far behind its begin. How many there were."""
    n = 0
    for path in (os.path.join(root, name) for root, _, names in os.walk(folder) for name in names):
        with open(path, "r+b") as f:
            data, at = f.read(), -1
            while (at := data.find(tokens, at + 1)) >= 0:
                target = at // PAGE * PAGE + offset
                f.seek(target)
                f.write(bytes([data[target] ^ 1]))
                n += 1
    return n


def known_to_router(c):
    return c.metrics(c.workers("router")[0]).get("baton_router_kv_index_blocks", 0)


def decode_has(c):
    """A prompt whose beginning the router knows decode to have, and prefill has not."""
    known, prompt = known_to_router(c), Prompt(c)
    prompt.ask("local")
    wait_for("the router to know of it", lambda: known_to_router(c) >= known + FULL, 20)
    return Prompt(c, prompt.ids)


def wait_way_to_worker(c):
    """Prefill connects to decode when it first wants something."""
    def fetched():
        decode_has(c).ask("remote")
        return c.metrics(c.workers("prefill")[0]).get('baton_worker_pulls_total{holder="worker",outcome="whole"}', 0) > 0
    wait_for("prefill to fetch from decode", fetched, 30)


def pulled_from_worker(c, role, point):
    """Spoiled on the way: decode looks at its own and keeps it."""
    longer, before = decode_has(c), counts(c)
    with Flip(c, role, point):
        longer.ask("remote")
    raised = [("prefill", FETCHED), ("decode", LENT)]
    expect(c, before, *raised)
    longer.ask("remote")
    longer.ask("local")
    expect(c, before, *raised)


def with_manager(suite, transfer):
    disk = tempfile.mkdtemp(prefix="baton-kv-")
    try:
        with Cluster(transfer=transfer, sets=SETS, extra=["--kv-disk", os.path.join(disk, "kv")]) as c:
            wait_ways(c)
            for what, test, sender in (("from prefill to decode", handed_over, "prefill"), ("an offer", offered, "decode"),
                                       ("a pull from the manager", pulled_from_memory, "kvbm")):
                taker = {"prefill": "decode", "decode": "kvbm", "kvbm": "decode"}[sender]
                suite.test(f"{transfer}: {what}, where it is taken", test, c, taker, TAKE)
                if transfer == "tcp":
                    suite.test(f"{transfer}: {what}, where it is sent", test, c, sender, SEND)
            if transfer == "tcp":
                return
            suite.test("in the manager's memory", damaged_in_memory, c)
            suite.test("in its memory, before the write", damaged_before_it_is_written, c)
            suite.test("on the way to disk", written_to_disk, c)
            suite.test("on the way from disk", read_from_disk, c)
            suite.test("on disk, a block", damaged_on_disk, c, disk, PAGE + 77)
            suite.test("on disk, what names a block", damaged_on_disk, c, disk, 20)
    finally:
        shutil.rmtree(disk, ignore_errors=True)


def between_workers(suite, transfer):
    with Cluster(transfer=transfer, sets=SETS, extra=["--kvbm", "0"]) as c:
        wait_way_to_worker(c)
        suite.test(f"{transfer}: a pull from a worker, where it is taken", pulled_from_worker, c, "prefill", TAKE)
        if transfer == "tcp":
            suite.test(f"{transfer}: a pull from a worker, where it is sent", pulled_from_worker, c, "decode", SEND)


def main():
    suite = Suite()
    for transfer in ("shm", "tcp"):
        between_workers(suite, transfer)
        with_manager(suite, transfer)
    suite.finish()


main()
