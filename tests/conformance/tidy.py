"""Every C file is as .clang-tidy wants it; needs build/release/compile_commands.json."""
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDERS = ("common", "proto", "engine", "transfer", "kvbm", "worker", "prefill", "decode", "router", "sim", "cli", "bench")


def check(path):
    done = subprocess.run(["clang-tidy", "-p", os.path.join(ROOT, "build/release"), "--quiet", path],
                          capture_output=True, text=True, cwd=ROOT)
    complaints = [t for t in done.stdout.splitlines() if "warning:" in t or "error:" in t]
    return path, complaints


def main():
    with open(os.path.join(ROOT, "build/release/compile_commands.json")) as f:
        files = sorted({e["file"] for e in json.load(f) if e["file"].startswith(ROOT + os.sep)})
    files = [f for f in files if os.path.relpath(f, ROOT).split(os.sep)[0] in FOLDERS]
    bad = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, complaints in pool.map(check, files):
            bad += bool(complaints)
            for text in complaints:
                print(os.path.relpath(text, ROOT) if text.startswith(ROOT) else text, flush=True)
    print(f"{len(files) - bad} passed, {bad} failed")
    sys.exit(1 if bad or not files else 0)


main()
