"""Baton's engine beside llama.cpp and beside what the machine can do, in one run: same file, threads, prompt and answer lengths,
the two in turns, medians of the pairs.

    bench/peers/setup.sh                   # builds llama.cpp, once
    python3 bench/peers/engine.py MODEL.gguf [--prompt 512] [--generate 64] [--threads 2] [--sequences 1] [--class portable] [--pairs 5] [--json]

Without llama.cpp only the ratios to the machine's limits are printed. KV is bf16 in Baton and f16 in llama.cpp.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BATON = os.path.join(os.environ.get("BATON_TEST_BIN") or os.path.join(ROOT, "build/release/bin"), "baton")
PYTHON = os.environ.get("BATON_LLAMA_PYTHON") or os.path.join(ROOT, "build/venv-llama/bin/python3")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file")
    for name, default in (("prompt", 512), ("generate", 64), ("threads", 2), ("sequences", 1), ("pairs", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--isa", default="auto", help="of Baton")
    parser.add_argument("--class", default="portable", dest="arithmetic", help="of Baton: portable or amx")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser.parse_args()


class Peer:
    """llama.cpp in a process of its own, loaded once; None answers where it is not built."""

    def __init__(self, o):
        self.process = None
        if os.path.exists(PYTHON):
            side = os.path.join(os.path.dirname(os.path.abspath(__file__)), "llama_side.py")
            self.process = subprocess.Popen([PYTHON, side, o.model, str(o.threads), str(o.prompt), str(o.generate),
                                             str(o.sequences)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.read()  # until it is warm and quiet: neither may compute beside the other

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"llama.cpp's side ended with {self.process.wait()}")
        return line

    def run(self):
        if not self.process:
            return None
        self.process.stdin.write('{"run": true}\n')
        self.process.stdin.flush()
        return json.loads(self.read())

    def end(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait()


def baton(o, *extra):
    command = [BATON, "bench", "engine", "--model", o.model, "--isa", o.isa, "--class", o.arithmetic, "--json", "--repeats", "1"]
    for name in ("prompt", "generate", "threads", "sequences"):
        command += [f"--{name}", str(getattr(o, name))]
    done = subprocess.run([*command, *extra], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return json.loads(done.stdout)


def median(runs, key):
    return statistics.median(r[key] for r in runs)


def compare(o):
    peer = Peer(o)
    ours, theirs = [], []
    try:
        for _ in range(o.pairs):
            ours.append(baton(o, "--limits"))
            theirs.append(peer.run())
    finally:
        peer.end()
    best = {key: max(r.get(key, 0) for r in ours) for key in ("product_limit_gops", "read_limit_gbps")}
    result = {"model": ours[0]["model"], "isa": ours[0]["isa"], "class": o.arithmetic, "threads": o.threads, "prompt": o.prompt, "generate": o.generate,
              "sequences": o.sequences, "pairs": o.pairs, **best}
    for key in ("prefill_tps", "decode_tps", "product_gops", "product_share", "read_gbps"):
        result[key] = median(ours, key)
    if theirs[0]:
        for key in ("prefill_tps", "decode_tps"):
            ratios = [a[key] / b[key] for a, b in zip(ours, theirs)]
            result["llama_" + key] = median(theirs, key)
            result[key.replace("tps", "ratio")] = statistics.median(ratios)
            result[key.replace("tps", "ratios")] = [round(min(ratios), 2), round(max(ratios), 2)]
    return result


def show(r):
    print(f"{r['model']}, {r['isa']} kernels, class {r['class']}, {r['threads']} threads, {r['sequences']} at once, median of {r['pairs']}")
    for name, key, tokens in (("prefill", "prefill", r["prompt"]), ("decode", "decode", r["generate"])):
        line = f"  {name:8} {tokens:6} tokens {r[key + '_tps']:10.1f} tokens/s"
        if f"{key}_ratio" in r:
            low, high = r[f"{key}_ratios"]
            line += f", llama.cpp {r[f'llama_{key}_tps']:8.1f}: {r[f'{key}_ratio']:.2f} times ({low} - {high})"
        print(line)
    if r["product_limit_gops"]:
        print(f"  products of prefill {r['product_gops']:.1f} GOP/s, {100 * r['product_gops'] / r['product_limit_gops']:.0f} % of "
              f"{r['product_limit_gops']:.1f}; {100 * r['product_share']:.0f} % of its time")
    print(f"  decode reads {r['read_gbps']:.2f} GB/s at least, {100 * r['read_gbps'] / r['read_limit_gbps']:.0f} % of "
          f"{r['read_limit_gbps']:.2f}")
    if "prefill_ratio" not in r:
        print("  llama.cpp is not built here (bench/peers/setup.sh): no ratios to it")


def main():
    o = parse()
    result = compare(o)
    print(json.dumps(result)) if o.json else show(result)


main()
