"""docs/ENGINE.md adds an architecture step by step: its patches, applied to a copy of the sources, make one that answers as
transformers does, from safetensors and from GGUF.

    engine_page.py       $BATON_TEST_BIN names the folder of the programs of a build that is up to date; needs gguf

Only what sees a patched file is compiled anew; the rest comes from that build.
"""
import concurrent.futures
import importlib
import json
import math
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "tests/flow"))

from cluster import BIN, Suite

NAME = "smollm3"
BUILD = pathlib.Path(BIN).resolve().parent
PROGRAM = "tests/conformance/score_main.c"


def patch(copy):
    """What git knows of the sources, changed as the page says. Returns the changed files."""
    listed = subprocess.run(["git", "ls-files", "-z", "common", "engine", "models", "tests/conformance", "tests/flow", "tests/golden"],
                            cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["cp", "--parents", "-t", copy, *filter(None, listed.decode().split("\0"))], cwd=ROOT, check=True)
    blocks = re.findall(r"^```diff\n(.*?)^```$", (ROOT / "docs/ENGINE.md").read_text(), re.M | re.S)
    assert len(blocks) >= 5, f"{len(blocks)} blocks of patches in docs/ENGINE.md"
    done = subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], input="".join(blocks), cwd=copy, capture_output=True, text=True,
                          env={**os.environ, "GIT_CEILING_DIRECTORIES": str(copy.parent)})
    assert done.returncode == 0, f"docs/ENGINE.md does not fit the sources any more:\n{done.stderr}"
    return set(re.findall(r"^\+\+\+ b/(\S+)", "".join(blocks), re.M))


def sees(copy, source, changed, known):
    """Whether a file is, or includes, one that is changed."""
    if source not in known:
        known[source] = source in changed
        path = copy / source
        for include in re.findall(r'^#include "([^"]+)"', path.read_text(), re.M) if path.exists() else ():
            known[source] = sees(copy, include, changed, known) or known[source]
    return known[source]


def compile_all(copy, changed):
    """Objects of the sources that see a change, for the program's link to find before the library's own."""
    jobs, known = {}, {}
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        source = os.path.relpath(entry["file"], ROOT)
        if source == PROGRAM or (source.startswith("engine/") and sees(copy, source, changed, known)):
            out = copy / f"{len(jobs)}.o"
            command = shlex.split(entry["command"].replace(f"-I{ROOT} ", f"-I{copy} ").replace(entry["file"], str(copy / source)))
            command[command.index("-o") + 1] = str(out)
            jobs[out] = (command, entry["directory"])
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(lambda job: subprocess.run(job[0], cwd=job[1], capture_output=True, text=True), jobs.values()):
            assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    return list(jobs)


def link(copy, objects):
    commands = subprocess.run(["ninja", "-C", BUILD, "-t", "commands", "score_main"], capture_output=True, text=True, check=True)
    command = shlex.split(commands.stdout.strip().splitlines()[-1].replace("&&", ""))[1:-1]  # between two ":"
    command = [part for part in command if not part.endswith("score_main.c.o")]
    at = command.index("-o")
    command[at:at + 2] = [*map(str, objects), "-o", str(copy / "score")]
    subprocess.run(command, cwd=BUILD, check=True)


def log_probabilities(copy, model, tokens):
    done = subprocess.run([copy / "score", model], input=" ".join(map(str, tokens)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        logits = [float(x) for x in line.split()]
        top = max(logits)
        total = top + math.log(sum(math.exp(x - top) for x in logits))
        yield dict(enumerate(x - total for x in logits))


def builds(copy):
    link(copy, compile_all(copy, patch(copy)))


def answers(copy, form):
    golden = importlib.import_module("architectures")
    with tempfile.TemporaryDirectory() as folder:
        folder = model = pathlib.Path(folder)
        if form == "gguf":
            model = folder / "model.gguf"
            golden.use_gguf()
            golden.write_gguf(golden.MODELS[NAME], model)
        else:
            golden.write_model(golden.MODELS[NAME], folder)
        rows = list(log_probabilities(copy, model, golden.sequence()[:-1]))
        golden.compare(rows, golden.committed(NAME), "transformers'")


def main():
    suite = Suite()
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder)
        sys.path.insert(0, str(copy / "tests/golden"))
        suite.test("the page's patches build", builds, copy)
        suite.test("safetensors", answers, copy, "safetensors")
        suite.test("GGUF", answers, copy, "gguf")
    suite.finish()


main()
