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
import time
import urllib.request

from cluster import ROOT, Suite, free_port, wait_for

QUICKSTART = os.path.join(ROOT, "deploy/quickstart.sh")
BIN = os.path.join(ROOT, "build/release/bin")
BATON = os.path.join(BIN, "baton")
SLOW_PYTHON = """#!/bin/sh
trap 'exit 130' INT
touch "$TMPDIR/half.whl"
while :; do sleep 0.1; done
"""
# For --print-config the real one; otherwise it starts and never gets ready.
STUCK_DECODE = """#!/bin/sh
case "$*" in *--print-config*) exec {bin}/baton-decode "$@" ;; esac
touch "{dir}/decode.begun"
exec sleep 600
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
        # A shell that put this test in the background told it, and what it starts, to ignore Ctrl-C: a terminal would not.
        return subprocess.Popen([QUICKSTART, *args], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, start_new_session=True,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def interrupt_when(self, there, doing, *args, kill=os.killpg):
        process = self.start(*args)
        try:
            wait_for("the phase to interrupt", there, 600)
        finally:
            kill(process.pid, signal.SIGINT)
            said = process.communicate(timeout=150)[0]
        assert "Traceback" not in said, said
        lines = [line for line in said.splitlines() if line.startswith("quickstart: interrupted")]
        assert process.returncode == 130, (process.returncode, said)
        assert lines == [f"quickstart: interrupted while {doing}; run it again to go on"], said
        assert not self.left_running(), (self.left_running(), said)

    def left_running(self):
        """Processes that have this place's environment, once what looks for progress every second has had time to end."""
        deadline = time.monotonic() + 5
        while (left := self.running()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def running(self):
        left = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/cmdline", "rb") as cmdline:
                    if f"XDG_STATE_HOME={self.dir}".encode() in environ.read().split(b"\0"):
                        left.append((pid, cmdline.read()))
            except OSError:  # it has ended meanwhile
                pass
        return left

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
        assert f"--port: 127.0.0.1:{port}" in failed.stderr, failed.stderr  # before anything is started


def tells_of_wrong_options():
    with Place() as place:
        unknown = place.quickstart("--prefill", "2")
        assert unknown.returncode == 2 and "--prefill" in unknown.stderr and "behind --" in unknown.stderr, unknown
        assert place.quickstart("--port").returncode == 2 and place.quickstart("--port", "x").returncode == 2
        wrong = place.quickstart("--port", str(place.port), "--", "--prefil", "2")
        assert wrong.returncode == 1 and "does not take these options" in wrong.stderr, wrong
        usage = place.quickstart("--help")
        assert usage.returncode == 0 and "--state-dir" in usage.stdout, usage


def write_program(path, text):
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, 0o755)


def runs_after_an_interruption():
    with Place() as place:
        port = str(place.port)
        place.env["BATON_PYTHON"] = os.path.join(place.dir, "python")
        write_program(place.env["BATON_PYTHON"], SLOW_PYTHON)
        for kill in (os.killpg, os.kill):  # Ctrl-C, and a signal to the script alone
            place.interrupt_when(lambda: place.find("half.whl"), "fetching the model", "--port", port, kill=kill)
        place.env["BATON_PYTHON"] = "false"
        place.env["BATON_BIN_DIR"] = os.path.join(place.dir, "bin")
        os.mkdir(place.env["BATON_BIN_DIR"])
        for name in ("baton-router", "baton-prefill", "baton-kvbm"):
            os.symlink(os.path.join(BIN, name), os.path.join(place.env["BATON_BIN_DIR"], name))
        write_program(os.path.join(place.env["BATON_BIN_DIR"], "baton-decode"),
                      STUCK_DECODE.format(bin=BIN, dir=place.dir))
        place.interrupt_when(lambda: place.find("decode.begun"), "starting the cluster", "--port", port)
        del place.env["BATON_BIN_DIR"]
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
