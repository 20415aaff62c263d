"""deploy/quickstart.sh on the built-in model: what it says when a step fails, and that one which was interrupted runs again.

It builds build/release, whichever programs the other tests run.
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.request

from cluster import ROOT, Suite, free_port, wait_for

QUICKSTART = os.path.join(ROOT, "deploy/quickstart.sh")
BATON = os.path.join(ROOT, "build/release/bin/baton")
SLOW_PYTHON = """#!/bin/sh
trap 'exit 130' INT
touch "$TMPDIR/half.whl"
while :; do sleep 0.1; done
"""


class Place:
    """State and cache folders of its own, and no package index."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="baton-quickstart-")
        self.port = free_port()
        self.env = dict(os.environ, XDG_CACHE_HOME=self.dir, XDG_STATE_HOME=self.dir, BATON_PYTHON="false")

    def __enter__(self):
        return self

    def __exit__(self, *why):
        for name in ("default", "second"):
            subprocess.run([BATON, "down", "--name", name], env=self.env, capture_output=True, timeout=60)
        shutil.rmtree(self.dir)

    def quickstart(self, *args):
        return subprocess.run([QUICKSTART, *args], env=self.env, capture_output=True, text=True, timeout=900)

    def start(self, *args):
        """As from a terminal: Ctrl-C reaches all of its processes."""
        return subprocess.Popen([QUICKSTART, *args], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, start_new_session=True)

    def run_until(self, there, *args, may_be_over=False):
        process = self.start(*args)
        try:
            wait_for("the phase to interrupt", there, 600)
        finally:
            os.killpg(process.pid, signal.SIGINT)
            said = process.communicate(timeout=60)[0]
        assert "Traceback" not in said, said
        # A fast start may be over when the signal comes: then there was nothing to interrupt.
        if may_be_over and process.returncode == 0 and "The cluster is up" in said:
            return
        assert process.returncode == 130 and "interrupted" in said, (process.returncode, said)

    def find(self, name):
        return any(name in files + folders for _, folders, files in os.walk(self.dir))


def answers_twice():
    with Place() as place:
        port = str(place.port)
        first = place.quickstart("--port", port)
        assert first.returncode == 0 and f"ready http://127.0.0.1:{port}" in first.stdout, first
        again = place.quickstart("--port=" + port, "Hello!")
        assert again.returncode == 0 and "> Hello!" in again.stdout and "building" not in again.stdout, again
        line = next(x for x in again.stdout.splitlines() if x.strip().startswith("-d '"))
        body = json.loads(line.strip()[4:-1])
        assert body["temperature"] < 1, body
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        assert json.load(urllib.request.urlopen(request, timeout=60))["choices"]
        other = place.quickstart("--port", port, "--", "--prefill", "2")
        assert other.returncode == 1 and "another cluster runs" in other.stderr, other
        assert "--name second --port" in other.stderr and "baton down" in other.stderr, other.stderr


def names_what_holds_the_port():
    with Place() as place, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        failed = place.quickstart("--name", "second", "--port", port)
        assert failed.returncode == 1 and f"port {port} is taken" in failed.stderr, failed
        assert "./deploy/quickstart.sh --name second --port " in failed.stderr, failed.stderr


def tells_of_wrong_options():
    with Place() as place:
        unknown = place.quickstart("--prefill", "2")
        assert unknown.returncode == 2 and "--prefill" in unknown.stderr and "behind --" in unknown.stderr, unknown
        assert place.quickstart("--port").returncode == 2 and place.quickstart("--port", "x").returncode == 2
        wrong = place.quickstart("--port", str(place.port), "--", "--prefil", "2")
        assert wrong.returncode == 1 and "does not take these options" in wrong.stderr, wrong
        usage = place.quickstart("--help")
        assert usage.returncode == 0 and "--state-dir" in usage.stdout, usage


def runs_after_an_interruption():
    with Place() as place:
        port = str(place.port)
        python = os.path.join(place.dir, "python")
        with open(python, "w") as f:
            f.write(SLOW_PYTHON)
        os.chmod(python, 0o755)
        place.env["BATON_PYTHON"] = python
        place.run_until(lambda: place.find("half.whl"), "--port", port)
        place.env["BATON_PYTHON"] = "false"
        place.run_until(lambda: place.find("control.sock"), "--port", port, may_be_over=True)
        done = place.quickstart("--port", port)
        assert done.returncode == 0 and f"ready http://127.0.0.1:{port}" in done.stdout, done


def main():
    suite = Suite()
    suite.test("tells of wrong options", tells_of_wrong_options)
    suite.test("answers, and again", answers_twice)
    suite.test("names what holds the port", names_what_holds_the_port)
    suite.test("runs after an interruption", runs_after_an_interruption)
    suite.finish()


main()
