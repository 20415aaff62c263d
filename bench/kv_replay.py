"""Does a cluster find in its caches what an offline count says? Requests of a trace in Mooncake's form, one at a time through one prefill and
one decode worker, beside `baton bench evict` with as many blocks and the workers' policy.

    python3 bench/kv_replay.py [--model MODEL] [--requests 200] [--kv-memory 128MiB] [--trace FILE] [--json]

Lengths are divided by 16, so that a block of 512 tokens of the trace is 32 tokens, two KV blocks of 16; its tokens follow from its id. Requests that
are longer than the model takes are skipped and counted. All go through both workers, which do not fetch from one another (worker.fetch=never): each pool has then what the count's has. With --manager
they may fetch, the host's KV manager takes every block, and after the last request both workers are killed and all requests asked again: what was
computed is fetched then. No fewer hit tokens than counted are asked for. Exit code 1 when hit tokens are further apart than --tolerance, or anything failed.

With --decisions FILE the router logs what it predicts there, and how far that was from what came is told for each part of a prompt's time, as a
share of it (or of 1 ms where that is more): median and quantiles. A median of 15 % is the goal.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "flow"))
from cluster import BIN, SIGKILL, TINY, Cluster, send_signal  # noqa: E402

TRACE = os.path.join(ROOT, "..", "shared", "traces", "conversation_trace.jsonl")
SCALE = 16             # of lengths
TRACE_BLOCK = 512      # tokens; `baton bench evict` counts capacity in these, whatever an id stands for
KV_BLOCK = 16          # tokens
PER_ID = TRACE_BLOCK // SCALE
FIRST_TOKEN, N_TOKENS = 5, 900  # ids that every model has as plain tokens
POLICY = "s3fifo"      # the workers' own
ERROR_GOAL = 0.15
BLOCKS = 'baton_worker_kv_blocks{state="'


def mixed(x):
    """A number of 64 bits that has nothing of x to be seen (splitmix64)."""
    x = (x + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = ((x ^ x >> shift) * factor) & 0xFFFFFFFFFFFFFFFF
    return x ^ x >> 31


class Request:
    def __init__(self, line):
        trace = json.loads(line)
        self.n = trace["input_length"] // SCALE
        ids = trace["hash_ids"]
        self.tokens = [FIRST_TOKEN + mixed(b * PER_ID + i) % N_TOKENS for b in ids for i in range(PER_ID)][:self.n]
        blocks = [b * (PER_ID // KV_BLOCK) + i for b in ids for i in range(PER_ID // KV_BLOCK)]
        self.blocks = blocks[:self.n // KV_BLOCK]

    def most_hits(self):
        """Blocks that may be found: the last token is always computed."""
        return (self.n - 1) // KV_BLOCK


def read_trace(path, wanted, longest):
    """The first requests that are short enough, and how many were skipped before there were so many."""
    requests, skipped = [], 0
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            request = Request(line)
            if len(requests) == wanted:
                break
            if request.n < KV_BLOCK or request.n >= longest:
                skipped += 1
            else:
                requests.append(request)
    return requests, skipped


def offline(requests, blocks):
    """Hit tokens of each request."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        f.writelines(json.dumps({"hash_ids": r.blocks}) + "\n" for r in requests)
        f.flush()
        done = subprocess.run([os.path.join(BIN, "baton"), "bench", "evict", "--trace", f.name, "--capacity", str(blocks * TRACE_BLOCK),
                               "--policy", POLICY, "--per-request"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr.strip())
    hits = [json.loads(line)["hit_blocks"] for line in done.stdout.splitlines()]
    return [KV_BLOCK * min(n, r.most_hits()) for n, r in zip(hits, requests, strict=True)]


def replay(cluster, requests, answer):
    """Hit tokens of each request, tokens by tier, and what failed."""
    hits, tiers, failures = [], {}, []
    for i, request in enumerate(requests):
        got = cluster.ask("", prompt=request.tokens, stream=False, hashes=False, route="remote", max_tokens=answer, ignore_eos=True)
        if got.error or got.usage["prompt_tokens"] != request.n:
            failures.append(f"request {i}: {got.error or got.usage}")
            hits.append(0)
            continue
        hits.append(got.usage["prompt_tokens_details"]["cached_tokens"])
        for tier, n in (got.extra["timing"]["cached_tokens"] or {}).items():
            tiers[tier] = tiers.get(tier, 0) + n
    return hits, tiers, failures


def pool_blocks(cluster):
    """Of each worker, all states together."""
    return {w["id"]: int(sum(v for k, v in cluster.metrics(w).items() if k.startswith(BLOCKS)))
            for w in cluster.engines()}


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, math.floor(q * len(values)))]


def prediction_errors(path):
    """Of each part of a prompt's time, from the outcomes in a decision log."""
    errors = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            for part, told in json.loads(line).get("parts", {}).items():
                errors.setdefault(part, []).append(told["error"])
    return {part: {"n": len(values), "median": quantile(values, 0.5), "p75": quantile(values, 0.75), "p90": quantile(values, 0.9),
                   "most": max(values)} for part, values in errors.items()}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=TINY, help="a GGUF file or folder (default: the built-in model)")
    parser.add_argument("--trace", default=TRACE, help="one request a line (default: Mooncake's conversation)")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--kv-memory", default="128MiB", help="of each worker's pool (default: 128MiB, half of what these requests fill)")
    parser.add_argument("--answer", type=int, default=1, help="tokens of each answer; more leave KV behind that the count has not (1)")
    parser.add_argument("--tolerance", type=float, default=0.02, help="of hit tokens, relative to the offline count (0.02)")
    parser.add_argument("--decisions", metavar="FILE", help="the router's decision log, made anew; its predictions are judged")
    parser.add_argument("--manager", action="store_true", help="with a KV manager that takes every block, and once more after the workers were killed")
    parser.add_argument("--set", action="append", default=[], help="ROLE.KEY=VALUE for `baton up`")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def run(options):
    sets = [f"worker.kv_memory={options.kv_memory}", "worker.threads=1",
            *(["kvbm.admission=all", "kvbm.kv_memory=4GiB"] if options.manager else ["worker.fetch=never"]), *options.set]
    if options.decisions:
        open(options.decisions, "w").close()  # the router appends
        sets.append(f"router.decision_log={os.path.abspath(options.decisions)}")
    with Cluster(model=options.model, sets=sets, extra=["--kvbm", "01"[options.manager]]) as cluster:
        blocks = pool_blocks(cluster)
        if len(set(blocks.values())) != 1:
            sys.exit(f"the pools differ, and one count cannot stand for both: {blocks}")
        longest = cluster.get("/v1/models")["data"][0]["max_model_len"] - options.answer
        requests, skipped = read_trace(options.trace, options.requests, longest)
        hits, tiers, failures = replay(cluster, requests, options.answer)
        again = {}
        if options.manager:
            cluster.wait_nothing_left()
            for role in ("prefill", "decode"):
                send_signal(cluster.pid(role), SIGKILL)
            cluster.wait_healed(1, 1)
            found, again, failed = replay(cluster, requests, options.answer)
            again["all"] = sum(found)
            failures += failed
    capacity = next(iter(blocks.values()))
    counted = offline(requests, capacity)
    served, expected = sum(hits), sum(counted)
    return {"requests": len(requests), "skipped": skipped, "prompt_tokens": sum(r.n for r in requests), "blocks": capacity,
            "hit_tokens": served, "offline_hit_tokens": expected, "difference": (served - expected) / max(expected, 1),
            "requests_that_differ": sum(a != b for a, b in zip(hits, counted)), "tiers": tiers, "again": again,
            "prediction_errors": prediction_errors(options.decisions) if options.decisions else {}, "failures": failures}


def main():
    options = parse()
    r = run(options)
    if options.json:
        print(json.dumps(r))
    else:
        print(f"{r['requests']} requests ({r['skipped']} longer or shorter ones skipped), {r['prompt_tokens']} tokens of prompts, "
              f"{r['blocks']} KV blocks at each worker")
        print(f"hit tokens {r['hit_tokens']}, offline {r['offline_hit_tokens']}: {100 * r['difference']:+.2f} % "
              f"(goal {100 * options.tolerance:.0f} %), {r['requests_that_differ']} requests differ; "
              + " ".join(f"{tier}={n}" for tier, n in r["tiers"].items()))
        if r["again"]:
            print("after the workers were killed: " + " ".join(f"{tier}={n}" for tier, n in r["again"].items()))
        for part, e in r["prediction_errors"].items():
            print(f"prediction error of {part:<8} median {100 * e['median']:5.1f} %, p75 {100 * e['p75']:5.1f} %, p90 {100 * e['p90']:5.1f} %, "
                  f"most {100 * e['most']:5.1f} %, of {e['n']} (goal: median {100 * ERROR_GOAL:.0f} %)")
        print(*r["failures"][:5], sep="\n", end="\n" if r["failures"] else "")
    apart = max(-r["difference"], 0) if options.manager else abs(r["difference"])
    sys.exit(bool(r["failures"]) or apart > options.tolerance)


if __name__ == "__main__":
    main()
