"""A model in several GGUF files, as PyPI gguf splits it, is the model in one: same fingerprint, same logits; and what is wrong
with a part is said by its name.

    split_gguf.py        $BATON_TEST_BIN names the folder of the programs; needs gguf
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "tests/flow"))

from cluster import BIN, Suite

TOKENS = json.dumps({"prompt_ids": [1, 2, 3], "greedy_ids": [4, 5, 6, 7]}) + "\n"


def make(folder, *options):
    subprocess.run([sys.executable, ROOT / "models/make_synthetic.py", folder / "m.gguf", "--geometry", "tiny", "--type", "Q8_0",
                    *options], check=True)


def baton(*arguments):
    return subprocess.run([os.path.join(BIN, "baton"), "model", *map(str, arguments)], input=TOKENS, capture_output=True, text=True)


def facts(path):
    inspected = baton("inspect", path, "--json", "--tensors")
    scored = baton("score", "-", "--model", path)
    assert inspected.returncode == 0 and scored.returncode == 0, inspected.stderr + scored.stderr
    about = json.loads(inspected.stdout)
    return about["name"], about["fingerprint"], len(about["tensors"]), scored.stdout


def same_model(one, several):
    assert len(list(several.glob("m-*.gguf"))) == 3, list(several.iterdir())
    assert facts(several / "m-00001-of-00003.gguf") == facts(one / "m.gguf")


def refused(path, words):
    done = baton("inspect", path)
    assert done.returncode != 0 and words in done.stderr, done.stderr


def broken_sets(several, folder):
    first, second, third = (f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3))
    refused(several / second, f"{second}: this is part 2 of 3; name the first one")
    shutil.copy(several / first, folder / "whole.gguf")
    refused(folder / "whole.gguf", "one of 3 files, but not named NAME-00001-of-00003.gguf")
    for name in (first, second):
        shutil.copy(several / name, folder)
    refused(folder / first, third)  # which is not there
    shutil.copy(several / second, folder / third)
    refused(folder / first, f"{third}: it says that it is part 2 of 3")


def main():
    suite = Suite()
    with tempfile.TemporaryDirectory() as folder:
        one, several, broken = (pathlib.Path(folder) / name for name in ("one", "several", "broken"))
        for path in (one, several, broken):
            path.mkdir()
        make(one)
        make(several, "--split", "7")
        suite.test("three files are the model of one", same_model, one, several)
        suite.test("what is wrong with a part is said", broken_sets, several, broken)
    suite.finish()


main()
