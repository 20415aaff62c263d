"""Is fetching faster than computing where a worker decides so, and slower where it does not?

    python3 bench/kv_crossover.py [--model MODEL] [--repeats 7] [--rest 1] [--transfer auto] [--delay MS] [--set ROLE.KEY=VALUE]... [--json]

Prompts of several lengths are computed by one decode worker, whose KV manager takes every block. The worker is killed, and its successor gets the
same prompts, once with worker.fetch=always, once with never and once with auto. The time until the first token is printed for each length (median), beside the
share of prompts that auto fetched. On one host fetching is the faster from the first block on, even for the built-in model. --delay makes the manager
answer that much later, as if it were far away, so that both sides of the crossover are seen. What is fetched is measured twice, once with
worker.overlap=off: --rest tokens behind it are computed while it comes, or when it is here. Exit code 1 when auto was more than --tolerance slower than the better of the two at any length.
"""
import argparse
import json
import os
import random
import statistics
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "flow"))
from cluster import SIGKILL, TINY, Cluster, send_signal  # noqa: E402

BLOCK = 16
LENGTHS = [BLOCK * n for n in (1, 2, 4, 8, 16, 32, 64, 120)]  # that are fetched
WARM = 6  # of each length, before those that count: rates are learned from them
FIRST_TOKEN, N_TOKENS = 5, 900


def prompts(repeats, rest):
    """(length, ids), in an order that mixes lengths; those that warm up come first."""
    rng = random.Random(7)

    def some(n):
        made = [(length, [FIRST_TOKEN + rng.randrange(N_TOKENS) for _ in range(length + rest)]) for length in LENGTHS for _ in range(n)]
        rng.shuffle(made)
        return made
    warm = some(WARM)
    return warm + some(repeats), len(warm)


def ask(cluster, ids):
    got = cluster.ask("", prompt=ids, stream=False, hashes=False, route="local", max_tokens=1, ignore_eos=True)
    if got.error:
        sys.exit(f"a prompt of {len(ids)} tokens: {got.error}")
    timing = got.extra["timing"]
    return timing["first_token_ms"], sum(timing["cached_tokens"].values()) > 0


def measure(options, fetch, overlap="auto"):
    """Milliseconds and whether anything was fetched, by length; and how many prompts were computed behind their pull."""
    asked, n_warm = prompts(options.repeats, options.rest)
    sets = [f"worker.fetch={fetch}", f"worker.overlap={overlap}", "worker.threads=1", "kvbm.admission=all", "kvbm.kv_memory=2GiB", *options.set]
    found = {length: [] for length in LENGTHS}
    with Cluster(model=options.model, prefill=0, decode=1, sets=sets, transfer=options.transfer) as cluster:
        for length, ids in asked:
            ask(cluster, ids[:length + 1])
        cluster.wait_nothing_left()
        send_signal(cluster.pid("decode"), SIGKILL)
        cluster.wait_healed(0, 1)
        if options.delay:
            cluster.arm(cluster.workers("kvbm")[0], f"kvbm.send.FOUND=sleep({options.delay})")
        for i, (length, ids) in enumerate(asked):
            one = ask(cluster, ids)
            if i >= n_warm:
                found[length].append(one)
            elif i == n_warm - 1:
                before = cluster.count(cluster.workers("decode")[0], "overlapped")
        overlapped = cluster.count(cluster.workers("decode")[0], "overlapped") - before
    return found, overlapped


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=TINY, help="a GGUF file or folder (default: the built-in model)")
    parser.add_argument("--repeats", type=int, default=7, help="prompts of each length (7)")
    parser.add_argument("--rest", type=int, default=1, metavar="N", help="tokens behind those that are fetched (1)")
    parser.add_argument("--transfer", default="auto", help="how KV moves: auto, shm or tcp (auto)")
    parser.add_argument("--delay", type=int, default=0, metavar="MS", help="by which the manager answers later (0)")
    parser.add_argument("--tolerance", type=float, default=0.25, help="of auto beyond the better one (0.25)")
    parser.add_argument("--set", action="append", default=[], help="ROLE.KEY=VALUE for `baton up`")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main():
    options = parse()
    runs = {fetch: measure(options, fetch) for fetch in ("always", "never", "auto")}
    overlapped = runs["always"][1]
    runs["whole"] = measure(options, "always", overlap="off")
    runs = {what: found for what, (found, _) in runs.items()}
    rows = []
    for length in LENGTHS:
        ms = {fetch: statistics.median(t for t, _ in runs[fetch][length]) for fetch in runs}
        share = sum(fetched for _, fetched in runs["auto"][length]) / options.repeats
        rows.append({"tokens": length + options.rest, **ms, "fetched": share, "lost": ms["auto"] / min(ms["always"], ms["never"]) - 1})
    if options.json:
        print(json.dumps({"overlapped": overlapped, "rows": rows}))
    else:
        print(f"{'tokens':>7} {'fetched, ms':>12} {'not overlapped':>15} {'computed, ms':>13} {'auto, ms':>9} {'auto fetched':>13} {'beyond the better':>18}")
        for r in rows:
            print(f"{r['tokens']:>7} {r['always']:>12.2f} {r['whole']:>15.2f} {r['never']:>13.2f} {r['auto']:>9.2f} {100 * r['fetched']:>11.0f} % {100 * r['lost']:>16.0f} %")
        print(f"{overlapped:.0f} of {len(LENGTHS) * options.repeats} fetched prompts were computed behind their pull")
    sys.exit(any(r["lost"] > options.tolerance for r in rows))


if __name__ == "__main__":
    main()
