"""What the number format of the KV cache costs in fidelity: teacher-forced over the reference texts, in float32 mathematics, so
that nothing but the cache differs.

    kv_cost.py MODEL [FILE.jsonl]    FILE: as tests/golden/MODEL/completions.jsonl (default: smollm2's)
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.environ.get("BATON_TEST_BIN") or os.path.join(ROOT, "build/release/bin")
FORMATS = ["f32", "f16", "bf16", "int8"]


def inputs(path):
    """Prompt and answer as one text each: every position but the first is predicted."""
    with open(path, encoding="utf-8") as f:
        for line in f:
            given = json.loads(line)
            yield {"tokens": given["prompt_ids"] + given["greedy_ids"]}


def score(model, path, kv):
    """The log-probability of each given token, and the likeliest token before it."""
    command = [os.path.join(BIN, "baton"), "model", "score", path, "--model", model, "--f32", "--kv", kv, "--top", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr.strip())
    logprobs, likeliest = [], []
    for line in done.stdout.splitlines():
        row = json.loads(line)
        known = [i for i, p in enumerate(row["logprobs"]) if p is not None]
        logprobs += [row["logprobs"][i] for i in known]
        likeliest += [row["top_logprobs"][i][0][0] for i in known]
    return logprobs, likeliest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("texts", nargs="?", default=os.path.join(ROOT, "tests/golden/smollm2/completions.jsonl"))
    options = parser.parse_args()
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        f.writelines(json.dumps(item) + "\n" for item in inputs(options.texts))
        f.flush()
        scores = {kv: score(options.model, f.name, kv) for kv in FORMATS}
    exact, top = scores["f32"]
    n = len(exact)
    print(f"{n} positions\n\n| KV cache | perplexity | against f32 | mean change of a log-probability | largest | other top token |")
    print("|---|---|---|---|---|---|")
    for kv, (logprobs, likeliest) in scores.items():
        perplexity = math.exp(-sum(logprobs) / n)
        change = [abs(a - b) for a, b in zip(logprobs, exact)]
        flips = sum(a != b for a, b in zip(likeliest, top))
        print(f"| {kv} | {perplexity:.4f} | {100 * (perplexity / math.exp(-sum(exact) / n) - 1):+.3f} % "
              f"| {sum(change) / n:.5f} | {max(change):.4f} | {flips} |")


main()
