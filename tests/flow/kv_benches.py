"""What tells of cached KV, and measures it: `usage`, `baton bench multiturn`, `bench disk`, `bench evict --per-request` and bench/kv_replay.py, on the
built-in model."""
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from cluster import BIN, ROOT, SIGKILL, SLOW, STORY, Cluster, Suite, send_signal, wait_for

sys.path.insert(0, os.path.join(ROOT, "bench"))
import kv_replay  # noqa: E402

SETS = ["worker.threads=1", "worker.fetch=always", "worker.pull_timeout=10s", "kvbm.admission=all", "kvbm.disk_timeout=10s",
        "kvbm.disk_size=256MiB", "kvbm.disk_segment=8MiB"]
REPLAY = os.path.join(ROOT, "bench", "kv_replay.py")


def run(*command, code=0):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120 * SLOW)
    assert done.returncode == code, f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def bench(*options, code=0):
    return run(os.path.join(BIN, "baton"), "bench", *options, code=code)


# ---- multiturn --------------------------------------------------------------------------


def talk(c, *options, code=0):
    done = bench("multiturn", "--url", c.url, "--words", "20", "--answer", "12", "--json", *options, code=code)
    return json.loads(done.stdout)


def on_disk(c):
    """And in memory."""
    metrics = c.metrics(c.workers("kvbm")[0])
    return metrics.get('baton_kvbm_blocks{tier="disk"}', 0), metrics.get('baton_kvbm_blocks{tier="host"}', 0)


class Ways:
    """Prompts that are on disk, too: the first that want a way to the manager may find it closed, and are computed."""

    def __init__(self, c):
        self.c, self.tries = c, [(route, f"way {i}") for i in range(10) for route in ("local", "remote")]
        for way in self.tries:
            self.ask(*way)

    def ask(self, route, salt):
        answer = self.c.ask(STORY, route=route, cache_salt=salt, max_tokens=1)
        assert not answer.error, answer.error
        return answer.extra["timing"]["cached_tokens"]["disk"]

    def open(self):
        for route in ("local", "remote"):
            assert any(self.ask(*way) for way in self.tries if way[0] == route), f"{route}: nothing comes from disk"


def all_on_disk(c):
    """How many blocks, once no more come."""
    before = on_disk(c)
    time.sleep(0.3 * SLOW)
    return on_disk(c) == before and before[0] == before[1] and before[0]


def kill_all(c, ways):
    """All that the manager has is on disk, and nothing anywhere else, when they are back."""
    c.wait_nothing_left()
    kept = wait_for("the disk to have all of it", lambda: all_on_disk(c), 30)
    for w in c.workers():
        if w["role"] != "router":
            send_signal(w["pid"], SIGKILL)
    c.wait_healed(1, 1)
    wait_for("prefill to be used", lambda: c.ask("Hello!", route="remote", no_cache=True, max_tokens=1).extra["route"] == "remote", 20)
    wait_for("the disk to be read", lambda: on_disk(c)[0] >= kept, 20)
    ways.open()


def conversation_is_cached(c):
    """The command of --restart asks this test to kill all workers and the manager, and waits until it is done."""
    ways = Ways(c)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as side:
        wish = os.path.join(folder, "wish")
        told = side.submit(talk, c, "--turns", "4", "--debug-extensions", "--restart", f"touch {wish}; while test -e {wish}; do sleep 0.05; done")
        try:
            wait_for("the restart, or the end", lambda: os.path.exists(wish) or told.done(), 60)
            kill_all(c, ways)
        finally:
            if os.path.exists(wish):
                os.remove(wish)
        told = told.result()
    turns = told["turns"] + [told["restarted"]]
    assert told["wrong"] == 0 and len(turns) == 5, told
    assert turns[0]["theory"] == 0 and all(t["theory"] % 16 == 0 for t in turns), told
    assert all(b["theory"] > a["theory"] for a, b in zip(turns, turns[1:])), "each turn finds more than the one before"
    assert all(t["theory"] < t["prompt"] and t["theory"] == sum(t["tiers"].values()) for t in turns), told
    assert turns[4]["prompt"] == turns[3]["prompt"] and turns[4]["prompt"] - turns[4]["theory"] <= 16, told
    assert all(t["first_token_ms"] > 0 and t["uncached_ms"] > 0 for t in turns), told
    assert all(t["tiers"]["device"] == t["theory"] for t in turns[:4]) and turns[4]["tiers"]["disk"] == turns[4]["theory"], told


def other_theory_is_told(c):
    """With blocks of another size it is another one, and the exit code says so; without extensions no tiers are known."""
    told = talk(c, "--turns", "2", "--block-tokens", "7", code=1)
    assert told["wrong"] >= 1 and "tiers" not in told["turns"][1] and "restarted" not in told, told


def failures_of_a_conversation(c):
    for options, word in ((("--restart", "exit 3"), "code 3"), (("--model", "nobody"), "nobody"), (("--turns", "0"), "--turns")):
        code = 2 if word == "--turns" else 1
        assert word in bench("multiturn", "--url", c.url, "--turns", "1", *options, code=code).stderr
    assert "http://127.0.0.1:1" in bench("multiturn", "--url", "http://127.0.0.1:1", code=1).stderr


def salts_share_nothing(c):
    """What is told of a prompt's tokens, under salts and without; the answer is the same."""
    def ask(**fields):
        answer = c.ask(STORY * 4, max_tokens=4, **fields)
        assert not answer.error, answer.error
        hashes.add(tuple(answer.hashes))
        return answer.usage["prompt_tokens_details"]["cached_tokens"]

    hashes = set()
    first, again = ask(), ask()
    told = [ask(cache_salt="a"), ask(cache_salt="a"), ask(cache_salt="b"), ask(cache_salt="a", stream=False), ask(stream=False)]
    assert first == 0 < again and told == [0, again, 0, again, again], (first, again, told)
    assert len(hashes) == 1, hashes


# ---- disk ----------------------------------------------------------------------------------


def disk_tier_is_measured():
    with tempfile.TemporaryDirectory() as folder:
        done = bench("disk", "--folder", folder, "--block", "16KiB", "--total", "2MiB", "--seconds", "0.05", "--depth", "4", "--json")
        r = json.loads(done.stdout)
        assert os.listdir(folder) == [], "a file stayed"
        assert r["blocks"] >= 128 and r["block_bytes"] == 16384 and r["extent_bytes"] == 16384 + 4096, r
        assert all(r[key] > 0 for key in ("put_mbps", "get_mbps", "plain_write_mbps", "plain_read_mbps", "random_gets_per_s",
                                          "rebuild_s", "rebuild_s_per_100_gb", "put_ratio", "get_ratio")), r
        assert abs(r["put_ratio"] - r["put_mbps"] / r["plain_write_mbps"]) < 1e-6, r
        assert "eight blocks" in bench("disk", "--folder", folder, "--block", "16KiB", "--total", "100KiB", code=2).stderr
    assert folder in bench("disk", "--folder", folder, code=1).stderr


# ---- replay --------------------------------------------------------------------------------


def write_trace(f):
    """Conversations that grow and come back, some one-off prompts, and one that is too long."""
    def line(i, tokens, blocks):
        return json.dumps({"timestamp": 1000 * i, "input_length": tokens, "output_length": 1, "hash_ids": blocks}) + "\n"

    draw, conversations, ids = random.Random(5), [[] for _ in range(4)], iter(range(10**6))
    for i in range(40):
        blocks = draw.choice(conversations) if i % 3 else []
        blocks += [next(ids) for _ in range(draw.randint(1, 3))]
        blocks = blocks[:9]
        f.write(line(i, 512 * len(blocks) - draw.choice((0, 1, 200, 300)), blocks))
    f.write(line(40, 512 * 200, [next(ids) for _ in range(200)]))
    f.write(line(41, 512, [0]))
    f.flush()


def replay(trace, *options, code=0):
    done = run(sys.executable, REPLAY, "--trace", trace, "--requests", "41", "--kv-memory", "1MiB",
               "--json", *options, code=code)
    return json.loads(done.stdout)


def replay_equals_the_count(trace):
    """In a pool of 32 blocks nearly so: the worker holds a block for the unfinished end of a prompt, and there are two workers."""
    r = replay(trace, "--tolerance", "0.1")
    assert r["requests"] == 41 and r["skipped"] == 1 and not r["failures"] and r["blocks"] == 32, r
    assert r["hit_tokens"] > 0 and r["hit_tokens"] == sum(r["tiers"].values()), r
    requests, _ = kv_replay.read_trace(trace, 41, 4000)
    all_of_it = sum(kv_replay.offline(requests, 1000))
    assert 0 < r["offline_hit_tokens"] < all_of_it, f"{r}: nothing was evicted of {all_of_it} that come back"


def replay_without_a_cache_fails(trace):
    r = replay(trace, "--set", "worker.prefix_cache=false", code=1)
    assert r["hit_tokens"] == 0 and r["difference"] == -1, r


def hits_by_request_are_the_sum(trace):
    options = ("evict", "--trace", trace, "--capacity", str(20 * 512), "--policy", "s3fifo", "--policy", "lru")
    rows = [json.loads(line) for line in bench(*options, "--per-request").stdout.splitlines()]
    sums = [json.loads(line) for line in bench(*options, "--json").stdout.splitlines()]
    assert len(rows) == 2 * 42
    for total in sums:
        of_policy = [r for r in rows if r["policy"] == total["policy"]]
        assert [r["request"] for r in of_policy] == list(range(42))
        assert sum(r["hit_blocks"] for r in of_policy) == total["hit_blocks"] > 0
        assert sum(r["blocks"] for r in of_policy) == total["blocks"]
    assert "clairvoyant" in bench("evict", "--policy", "clairvoyant", "--per-request", code=2).stderr


def prediction_errors_are_read():
    """Decisions and outcomes stand in one file, and a part is only there where a request had it."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        for i in range(10):
            parts = {"prefill": {"predicted_us": 5, "us": 10, "error": 0.1 * (9 - i)}}
            if i == 4:
                parts["pull"] = {"predicted_us": 5, "us": 5, "error": 0.25}
            f.write(json.dumps({"decision": 1, "policy": "cache-aware"}) + "\n" + json.dumps({"outcome": 1, "parts": parts}) + "\n")
        f.flush()
        errors = kv_replay.prediction_errors(f.name)
    assert set(errors) == {"prefill", "pull"} and errors["pull"] == {"n": 1, "median": 0.25, "p75": 0.25, "p90": 0.25, "most": 0.25}, errors
    assert errors["prefill"]["n"] == 10 and abs(errors["prefill"]["median"] - 0.5) < 1e-9 and abs(errors["prefill"]["most"] - 0.9) < 1e-9, errors


def main():
    suite = Suite()
    for test in (disk_tier_is_measured, prediction_errors_are_read):
        suite.test(test.__name__.replace("_", " "), test)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        write_trace(f)
        for test in (hits_by_request_are_the_sum, replay_equals_the_count, replay_without_a_cache_fails):
            suite.test(test.__name__.replace("_", " "), test, f.name)
    with tempfile.TemporaryDirectory(prefix="baton-kv-") as disk, Cluster(sets=SETS, extra=["--kv-disk", os.path.join(disk, "kv")]) as c:
        for test in (salts_share_nothing, conversation_is_cached, other_theory_is_told, failures_of_a_conversation):
            suite.test(test.__name__.replace("_", " "), test, c)
    suite.finish()


main()
