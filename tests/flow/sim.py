"""`baton sim` and `baton bench sim` from the command line: the same bytes each time, every request ends, what a cache finds is what an offline count
finds, decisions can be replayed, and wrong use is told."""
import json
import os
import random
import subprocess
import tempfile

from cluster import BIN, SLOW, Suite

BATON = os.path.join(BIN, "baton")
PROFILE = {"baton_profile": 1, "name": "test", "layers": 10,
           "prefill": {"base_us": 2000, "token_us": 20, "square_us": 0.001},
           "decode": [{"base_us": 5000, "context_us": 0.01, "sequence_us": 50}],
           "kv": {"token_bytes": 1000, "tokens": 40960}, "link": {"bytes_per_s": 1e9, "latency_us": 50}}
BLOCK = 512
TOLERANCE = 0.02  # of hit tokens


def run(*options, code=0):
    done = subprocess.run([BATON, *options], capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode == code, f"{options}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def make_trace(path, n, gap_ms, groups=12, seed=1):
    """Prompts of whole blocks that begin as others of their group do."""
    draw = random.Random(seed)
    next_id, chains = 0, [[] for _ in range(groups)]
    with open(path, "w", encoding="utf-8") as f:
        for i in range(n):
            chain = chains[min(int(draw.expovariate(0.3)), groups - 1)]
            ids = chain[:draw.randint(0, len(chain))]
            while len(ids) < draw.randint(1, 12):
                ids = ids + [next_id]
                next_id += 1
            chain[:] = ids
            line = {"timestamp": i * gap_ms, "input_length": len(ids) * BLOCK, "output_length": draw.randint(1, 20), "hash_ids": ids}
            f.write(json.dumps(line) + "\n")


class Files:
    def __init__(self, folder):
        self.folder = folder
        self.profile = os.path.join(folder, "profile.json")
        self.slow, self.busy = os.path.join(folder, "slow.jsonl"), os.path.join(folder, "busy.jsonl")
        with open(self.profile, "w", encoding="utf-8") as f:
            json.dump(PROFILE, f)
        make_trace(self.slow, 600, 2000)
        make_trace(self.busy, 1500, 40)

    def sim(self, *options, code=0):
        return run("sim", "--profile", self.profile, *options, code=code)


def equal_runs_print_equal_bytes(files):
    options = ("--trace", files.busy, "--workers", "2P:3D", "--block-tokens", "64", "--fail", "decode-1@10+20", "--fail", "prefill-0@30", "--json")
    one, two = files.sim(*options), files.sim(*options)
    assert one.stdout == two.stdout and one.stderr == ""
    told = json.loads(one.stdout)
    assert told["done"] + told["refused"] == told["requests"] == 1500 and told["refused"] == 0, told
    assert told["counts"]["replays"] > 0 and told["decode"]["worker_hours"] < 3 * told["seconds"] / 3600, told
    tokens = told["prompt_tokens"]
    assert tokens["device"] + tokens["remote"] + tokens["computed"] == tokens["all"] and 0 < told["hit_rate"] < 1, told
    assert told["ttft_ms"]["p50"] <= told["ttft_ms"]["p99"] <= told["ttft_ms"]["max"], told


def a_cache_finds_what_a_count_finds(files):
    """One worker, one request at a time: as `baton bench evict` with as many blocks and the workers' policy, but that the last token of a prompt is
    always computed, and with it its block."""
    capacity = PROFILE["kv"]["tokens"]
    told = json.loads(files.sim("--trace", files.slow, "--workers", "1", "--block-tokens", str(BLOCK), "--json").stdout)
    lines = run("bench", "evict", "--trace", files.slow, "--capacity", str(capacity), "--policy", "s3fifo", "--per-request").stdout.splitlines()
    count = sum(min(r["hit_blocks"], r["blocks"] - 1) for r in map(json.loads, lines))
    hits = told["prompt_tokens"]["device"] / BLOCK
    assert abs(hits - count) <= TOLERANCE * count, (hits, count)
    assert told["counts"]["evicted_blocks"] > 100 and count > 100, (told, count)
    none = json.loads(files.sim("--trace", files.slow, "--workers", "1", "--block-tokens", str(BLOCK), "--no-cache", "--json").stdout)
    assert none["hit_rate"] == 0 and none["ttft_ms"]["mean"] > told["ttft_ms"]["mean"]


def decisions_can_be_replayed(files):
    log = os.path.join(files.folder, "decisions.jsonl")
    told = json.loads(files.sim("--trace", files.busy, "--workers", "2P:2D", "--requests", "200", "--decision-log", log, "--json").stdout)
    replayed = run("replay-decisions", log, "--json")
    with open(log, encoding="utf-8") as f:
        assert len(f.readlines()) == told["counts"]["decisions"] == 200
    assert json.loads(replayed.stdout)["same"] == 200, replayed.stdout
    files.sim("--decision-log", "/nowhere/at/all", code=1)


def synthetic_requests(files):
    for process in ("poisson", "gamma", "mmpp", "diurnal"):
        told = json.loads(files.sim("--arrivals", process, "--rate", "10", "--requests", "500", "--input", "lognormal:270,0.47", "--output", "10",
                                    "--workers", "2", "--period", "20", "--json").stdout)
        assert told["done"] == 500 and told["hit_rate"] == 0, told
    page = files.sim("--requests", "50").stdout
    assert "first token (TTFT)" in page and "50 done" in page and page.endswith("\n"), page


def a_profile_in_its_own_form(files):
    shown = files.sim("--show-profile", "--kv-tokens", "1000").stdout
    assert json.loads(shown) == {**PROFILE, "kv": {"token_bytes": 1000, "tokens": 1000}, "error": {"prefill": 0, "decode": 0},
                                 "decode": [{"max_batch": 4294967295, **PROFILE["decode"][0]}]}, shown


def wrong_use_is_told(files):
    for options, word in ((("--workers", "P:3"), "4P:8D"), (("--fail", "router-1@3"), "decode-3@120+60"), (("--policy", "best"), "cache-aware"),
                          (("--profile", "/nowhere"), "/nowhere"), (("--input", "300:0.5"), "lognormal:MEDIAN,SIGMA")):
        done = subprocess.run([BATON, "sim", "--profile", files.profile, *options], capture_output=True, text=True, timeout=60 * SLOW)
        assert done.returncode in (1, 2) and word in done.stderr and not done.stdout, (options, done)
    assert "decode worker 9" in files.sim("--fail", "decode-9@3", code=1).stderr
    assert "do not divide" in files.sim("--trace", files.busy, "--block-tokens", "48", code=1).stderr
    assert "--profile" in run("sim", code=2).stderr


def its_speed_is_told(files):
    table = os.path.join(files.folder, "measured.csv")
    with open(table, "w", encoding="utf-8") as f:
        f.write("model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,prompt_time,token_time,e2e_time,tensor_parallel\n")
        for n in (128, 512, 2048, 8192):
            for batch in (1, 4):
                f.write(f"llama2-70b,h100-80gb,{n},{batch},128,1,1,{20 + 0.01 * n * batch},{30 + batch},1,8\n")
    told = json.loads(run("bench", "sim", "--trace", files.busy, "--repeats", "1", "--profile", table, "--workers", "20P:20D", "--json").stdout)
    assert told["requests"] == 1500 and told["requests_per_min"] > 0 and told["workers"] == 40 and told["index_blocks"] > 0, told


def main():
    suite = Suite()
    with tempfile.TemporaryDirectory() as folder:
        files = Files(folder)
        for test in (equal_runs_print_equal_bytes, a_cache_finds_what_a_count_finds, decisions_can_be_replayed, synthetic_requests,
                     a_profile_in_its_own_form, wrong_use_is_told, its_speed_is_told):
            suite.test(test.__name__.replace("_", " "), test, files)
    suite.finish()


main()
