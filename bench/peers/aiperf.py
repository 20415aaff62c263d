"""`baton bench serve` beside aiperf on the same server, in one run: the two in turns, and the ratios of what both call by the same name.

    python3 bench/peers/aiperf.py [--model models/baton-tiny] [--rate 10] [--requests 200] [--input 100] [--output 32] [--pairs 5]
        [--url http://HOST:PORT --tokenizer FOLDER] [--json] [-- OPTIONS OF baton up]

It installs aiperf of bench/peers/aiperf-requirements.txt in build/venv-aiperf, once, and starts a cluster of its own (`baton up`, with what
stands behind --: `-- --engine mock` where there is one), or loads the server at --url. Both send the same rate in equal steps, prompts and answers of the same lengths, over
kept connections, and find nothing cached. Times are from when a request was sent, as aiperf has no other; its inter-token latency is our
TPOT, its inter-chunk latency our time between tokens.
"""
import argparse
import filecmp
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BATON = os.path.join(os.environ.get("BATON_TEST_BIN") or os.path.join(ROOT, "build/release/bin"), "baton")
LIST = os.path.join(ROOT, "bench/peers/aiperf-requirements.txt")
VENV = os.path.join(ROOT, "build/venv-aiperf")
GOAL = 0.05
LIMIT_S = 1800  # of one command

# What is compared: our metric, aiperf's, and which of their figures.
TIMES = (("ttft_sent", "time_to_first_token"), ("tpot", "inter_token_latency"), ("itl", "inter_chunk_latency"), ("e2e_sent", "request_latency"))
FIGURES = (("mean", "avg"), ("p50", "p50"), ("p90", "p90"), ("p99", "p99"))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.path.join(ROOT, "models/baton-tiny"), help="of the cluster that is started")
    parser.add_argument("--url", help="of a server that runs already")
    parser.add_argument("--tokenizer", help="folder of the model's tokenizer (that of --model)")
    parser.add_argument("--rate", type=float, default=10)
    for name, default in (("requests", 200), ("input", 100), ("output", 32), ("pairs", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("up", nargs="*", help="options of baton up")
    o = parser.parse_args()
    if o.url and not o.tokenizer:
        parser.error("--url needs --tokenizer")
    o.tokenizer = os.path.abspath(o.tokenizer or o.model)
    if not os.path.isdir(o.tokenizer):
        parser.error(f"{o.tokenizer} is no folder with a tokenizer.json: give --tokenizer")
    return o


def call(command, **more):
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, **more)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} ended with {done.returncode}:\n{(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout


def install():
    mark = os.path.join(VENV, ".requirements")
    if os.path.exists(mark) and filecmp.cmp(LIST, mark, shallow=False):
        return
    print(f"installing aiperf in {VENV}: a minute or two", file=sys.stderr)
    shutil.rmtree(VENV, ignore_errors=True)
    call(["/usr/bin/python3", "-m", "venv", VENV])
    call([os.path.join(VENV, "bin/pip"), "install", "-q", "--disable-pip-version-check", "-r", LIST])
    shutil.copy(LIST, mark)


class Cluster:
    def __init__(self, o):
        self.url, self.folder = o.url, None
        if self.url:
            return
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.folder = tempfile.mkdtemp(prefix="baton-aiperf-")
        self.url = f"http://127.0.0.1:{port}"
        call([BATON, "up", "--model", o.model, "--port", str(port), "--state-dir", self.folder, *o.up])

    def end(self):
        if self.folder:
            subprocess.run([BATON, "down", "--state-dir", self.folder], capture_output=True, timeout=LIMIT_S)
            shutil.rmtree(self.folder, ignore_errors=True)


def ours(o, url, seed):
    told = json.loads(call([BATON, "bench", "serve", "--url", url, "--rate", str(o.rate), "--arrivals", "fixed", "--requests", str(o.requests), "--input", str(o.input),
                            "--output", str(o.output), "--seed", str(seed), "--json"]))
    if told["errors"]:
        sys.exit(f"requests of ours failed: {told['errors']}")
    result = {(metric, figure): told["latency_ms"][metric][figure] for metric, _ in TIMES for figure, _ in FIGURES}
    return result | {("requests_per_s", "mean"): told["throughput"]["requests_per_s"],
                     ("output_tokens", "mean"): told["requests"]["output_tokens"] / told["requests"]["done"],
                     ("prompt_tokens", "mean"): told["requests"]["prompt_tokens"] / told["requests"]["done"]}


def theirs(o, url, model, seed):
    folder = tempfile.mkdtemp(prefix="baton-aiperf-run-")
    try:
        call([os.path.join(VENV, "bin/aiperf"), "profile", "--model", model, "--url", url, "--endpoint-type", "chat", "--streaming",
              "--tokenizer", o.tokenizer, "--use-server-token-count", "--request-rate", str(o.rate), "--arrival-pattern", "constant",
              "--request-count", str(o.requests), "--num-dataset-entries", str(o.requests), "--isl", str(o.input), "--osl", str(o.output), "--random-seed",
              str(seed), "--extra-inputs", json.dumps({"ignore_eos": True, "temperature": 0, "cache_salt": f"aiperf-{seed}-{os.getpid()}"}),
              "--no-server-metrics", "--no-gpu-telemetry", "--ui", "none", "--output-artifact-dir", folder])
        with open(find(folder, "profile_export_aiperf.json")) as file:
            told = json.load(file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if told.get("error_request_count", {}).get("avg"):
        sys.exit(f"requests of aiperf failed: {told['error_request_count']}")
    result = {(metric, figure): told[name][own] for metric, name in TIMES if name in told for figure, own in FIGURES}
    return result | {("requests_per_s", "mean"): told["request_throughput"]["avg"],
                     ("output_tokens", "mean"): told["output_sequence_length"]["avg"],
                     ("prompt_tokens", "mean"): told["input_sequence_length"]["avg"]}


def find(folder, name):
    for path, _, files in os.walk(folder):
        if name in files:
            return os.path.join(path, name)
    sys.exit(f"aiperf left no {name}")


def compare(o):
    install()
    cluster = Cluster(o)
    a, b = [], []
    try:
        model = json.loads(call(["curl", "-sf", "--noproxy", "*", f"{cluster.url}/v1/models"]))["data"][0]["id"]
        for i in range(o.pairs):
            a.append(ours(o, cluster.url, i + 1))
            b.append(theirs(o, cluster.url, model, i + 1))
            print(f"pair {i + 1} of {o.pairs}", file=sys.stderr)
    finally:
        cluster.end()
    rows = []
    for key in a[0]:
        if key not in b[0]:
            continue
        x, y = statistics.median(r[key] for r in a), statistics.median(r[key] for r in b)
        ratios = sorted(p[key] / q[key] for p, q in zip(a, b) if q[key])
        rows.append({"metric": key[0], "figure": key[1], "ours": x, "aiperf": y, "ratio": x / y if y else None, "ratios": [ratios[0], ratios[-1]] if ratios else []})
    return {"rate": o.rate, "requests": o.requests, "input": o.input, "output": o.output, "pairs": o.pairs, "rows": rows}


def show(result):
    print(f"{result['rate']:g} requests/s in equal steps, {result['requests']} of {result['input']} tokens in and {result['output']} out, medians of {result['pairs']} pairs")
    print(f"{'':16} {'':6} {'ours':>10} {'aiperf':>10} {'ratio':>7}   of single pairs")
    for r in result["rows"]:
        if r["ratio"] is None:
            continue
        mark = "" if abs(r["ratio"] - 1) <= GOAL else f"  beyond {100 * GOAL:.0f} %"
        print(f"{r['metric']:16} {r['figure']:6} {r['ours']:10.3f} {r['aiperf']:10.3f} {r['ratio']:7.3f}   {r['ratios'][0]:.3f} - {r['ratios'][1]:.3f}{mark}")


def main():
    o = parse()
    result = compare(o)
    print(json.dumps(result)) if o.json else show(result)


main()
