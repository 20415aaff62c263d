"""Kills, freezes and restarts real processes under streams: clients see no error and exactly the tokens of a calm run.

    faults.py           one kill and one freeze of each role, SIGTERM, etcd
    faults.py --smollm2 the same on SmolLM2
    faults.py --long    each of them several times (failpoints.py has a fault at every state)
"""
import sys
import time

from cluster import (SIGCONT, SIGKILL, SIGSTOP, SIGTERM, SMOLLM2, STORY, TINY, Cluster, Suite, in_parallel, send_signal,
                     wait_for)

BIG = "--smollm2" in sys.argv
STREAMS = 8
TOKENS = 64 if BIG else 160
PROMPTS = [f"{STORY * (1 + i % 5)} Number {i}." for i in range(STREAMS)]


def ask(c, i, **fields):
    return c.ask(PROMPTS[i], max_tokens=TOKENS, ignore_eos=True, temperature=0.7 if i % 2 else 0, seed=i,
                 route="remote" if i % 4 else None, **fields)


def calm(c):
    answers = [ask(c, i) for i in range(STREAMS)]
    for a in answers:
        assert not a.error, a.error
        assert len(a.hashes) == TOKENS
    return [(a.text, a.hashes) for a in answers]


def under(c, want, fault, rounds=3):
    """Streams run round after round; the fault strikes when the first tokens have come."""
    struck = []

    def strike_once(answer):
        if not struck and len(answer.text) > 20:
            struck.append(True)
            fault()

    def stream(i):
        return [ask(c, i, on_token=strike_once if i == 0 else None) for _ in range(rounds)]
    for i, answers in enumerate(in_parallel([lambda i=i: stream(i) for i in range(STREAMS)])):
        for a in answers:
            assert not a.error, f"stream {i}: {a.error}"
            assert a.text == want[i][0], f"stream {i}: other text"
            assert a.hashes == want[i][1], f"stream {i}: other logits"
    assert struck, "the fault did not strike"


def healed(c, before):
    c.wait_healed(2, 2)
    c.wait_descriptors(before)


def kill_one(c, role):
    return lambda: send_signal(c.pid(role), SIGKILL)


def freeze_one(c, role, seconds=10):
    def strike():
        pid = c.pid(role)
        send_signal(pid, SIGSTOP)
        end = time.monotonic() + seconds

        def thaw():
            time.sleep(max(0, end - time.monotonic()))
            send_signal(pid, SIGCONT)
        import threading
        threading.Thread(target=thaw).start()
    return strike


def terminate_one(c, role):
    return lambda: send_signal(c.pid(role), SIGTERM)


def etcd_pid(c):
    return c.status()["etcd"]["pid"]


def kill_etcd(c):
    return lambda: send_signal(etcd_pid(c), SIGKILL)


def router_killed(c, want, before):
    """Its streams break, everything else goes on, nothing leaks."""
    pid = c.pid("router")

    def strike(answer):
        if len(answer.text) > 20:
            send_signal(pid, SIGKILL)
    # So long that most of it is still to come when the first words are read, however fast the machine.
    broken = c.ask(PROMPTS[0], max_tokens=3000, ignore_eos=True, on_token=strike)
    assert broken.error, "the stream of a killed router should break"
    wait_for("the router to be back", lambda: c.pid("router") != pid and answers(c), 30)
    again = ask(c, 0)
    assert not again.error and (again.text, again.hashes) == want[0], again.error
    healed(c, before)


def answers(c):
    return not c.ask("Hello!", max_tokens=1).error


def scenario(c, want, before, fault):
    under(c, want, fault)
    healed(c, before)


def main():
    suite = Suite()
    repeat = 3 if "--long" in sys.argv else 1
    if BIG and not SMOLLM2:
        suite.skip("faults on SmolLM2", "the model is not there")
        suite.finish()
    # The router polls for tokens here, as one with a processor of its own may.
    sets = ["prefill.threads=1", "decode.threads=1", "prefill.chunk_tokens=32", "router.busy_poll=120us"]
    with Cluster(model=SMOLLM2 if BIG else TINY, prefill=2, decode=2, sets=sets) as c:
        want = calm(c)
        in_parallel([lambda i=i: ask(c, i) for i in range(STREAMS)])  # as many descriptors as the load needs
        before = c.descriptors()
        for _ in range(repeat):
            for role in ("prefill", "decode"):
                suite.test(f"{role} worker killed", scenario, c, want, before, kill_one(c, role))
                suite.test(f"{role} worker frozen for 10 s", scenario, c, want, before, freeze_one(c, role))
                suite.test(f"{role} worker told to end", scenario, c, want, before, terminate_one(c, role))
            suite.test("etcd killed", scenario, c, want, before, kill_etcd(c))
            suite.test("router frozen for 10 s", scenario, c, want, before, freeze_one(c, "router"))
            suite.test("router killed", router_killed, c, want, before)
    suite.finish()


main()
