"""A kill and a freeze of a real process in each state of requests and blocks, under eight streams.

    failpoints.py           every state, with 2 prefill and 2 decode workers
    failpoints.py --smoke   one kill and one freeze
    failpoints.py NAME...   only these failpoints
    failpoints.py --tcp     KV by TCP instead of a mapping
    failpoints.py --smollm2 on that model
"""
import sys
import time

from cluster import SIGCONT, SMOLLM2, STORY, TINY, Cluster, Streams, Suite, alive, process_state, send_signal, wait_for

TOKENS = 96
FREEZE_PINGS = 3  # of the ping timeout
PING_TIMEOUT = 1
SETS = ["prefill.threads=1", "decode.threads=1", "prefill.chunk_tokens=32", "decode.chunk_tokens=32",
        "router.policy=round-robin", "all.ping_interval=100ms", f"all.ping_timeout={PING_TIMEOUT}s"]

# role, state, and at which hit after the arming it strikes; a generation is NEW only until the end of its first turn
POINTS = [
    ("decode", "generation.WAITING", 2),
    ("decode", "generation.ASKED", 3),
    ("decode", "generation.CLAIMING", 3),
    ("decode", "generation.RECEIVING", 3),
    ("decode", "generation.COMPUTING", 2),
    ("decode", "generation.DECODING", 3),
    ("decode", "generation.FINISHED", 3),
    ("decode", "generation.ENDED", 3),
    ("decode", "block.RESERVED", 20),
    ("decode", "block.FILLING", 30),
    ("decode", "block.COMPLETE", 20),
    ("decode", "block.FREE", 20),
    ("prefill", "prefill.QUEUED", 3),
    ("prefill", "prefill.ASKING", 3),
    ("prefill", "prefill.COMPUTING", 3),
    ("prefill", "prefill.HANDING", 3),
    ("prefill", "prefill.ENDED", 3),
    ("prefill", "block.FILLING", 20),
    ("prefill", "block.COMPLETE", 20),
    ("prefill", "block.FREE", 20),
]
SMOKE = [("prefill.COMPUTING", "kill"), ("generation.DECODING", "freeze")]


def requests():
    """Three quarters are prefilled remotely, some sampled, prompts from one to about forty chunks. Half of them find nothing and leave
    nothing behind: who asks again and again computes little else, and prefill workers would complete hardly a block."""
    return [{"text": f"{STORY * (1 + 3 * (i % 4))} Number {i}.", "max_tokens": TOKENS, "ignore_eos": True, "seed": i,
             "temperature": 0.7 if i % 3 else 0, "route": "local" if i % 4 == 0 else "remote",
             "no_cache": i % 4 in (1, 2)} for i in range(8)]


def killed(c, streams, role, point, after):
    with streams.running() as load:
        victim = c.workers(role)[0]
        c.arm(victim, f"{point}=kill,after={after},times=1")
        wait_for(f"{victim['id']} to die at {point}", lambda: not alive(victim["pid"]), 60)
        wait_for(f"{victim['id']} to be started again",
                 lambda: any(w["id"] == victim["id"] and w["pid"] != victim["pid"] for w in c.workers(role)), 30)
        load.wait_rounds(1)
    c.wait_healed(2, 2)


def frozen(c, streams, role, point, after):
    with streams.running() as load:
        victim = c.workers(role)[0]
        acted = c.hits(victim, point)[1]
        c.arm(victim, f"{point}=freeze,after={after},times=1")
        wait_for(f"{victim['id']} to stop at {point}", lambda: process_state(victim["pid"]) == "T", 60)
        try:
            load.wait_rounds(1)
            frozen_for(load, FREEZE_PINGS * PING_TIMEOUT)
        finally:
            send_signal(victim["pid"], SIGCONT)
        wait_for(f"{victim['id']} to go on", lambda: process_state(victim["pid"]) != "T", 10)
        load.wait_rounds(1)
        assert c.hits(victim, point)[1] == acted + 1, c.hits(victim, point)
    assert [w["pid"] for w in c.workers(role)].count(victim["pid"]) == 1, "a frozen worker was not to be restarted"
    c.wait_healed(2, 2)


def frozen_for(load, seconds):
    """The others go on meanwhile: counted in answers, none of which may fail."""
    end = time.monotonic() + seconds
    wait_for("the freeze to last", lambda: load.wrong or time.monotonic() >= end, 4 * seconds)


ACTIONS = {"kill": killed, "freeze": frozen}


def chosen(arguments):
    for role, point, after in POINTS:
        for action in ACTIONS:
            if "--smoke" in arguments and (point, action) not in SMOKE:
                continue
            names = [a for a in arguments if not a.startswith("--")]
            if not names or point in names or f"{role}:{point}:{action}" in names:
                yield role, point, after, action


def main():
    suite = Suite()
    transfer = "tcp" if "--tcp" in sys.argv else "auto"
    big = "--smollm2" in sys.argv
    if big and not SMOLLM2:
        suite.skip("faults at states on SmolLM2", "the model is not there")
        suite.finish()
    with Cluster(model=SMOLLM2 if big else TINY, prefill=2, decode=2, transfer=transfer, sets=SETS) as c:
        streams = Streams(c, requests())
        for role, point, after, action in chosen(sys.argv[1:]):
            suite.test(f"{role}: {action} at {point}", ACTIONS[action], c, streams, role, point, after)
    suite.finish()


main()
