"""Two hosts for a test: network namespaces with a cable between them, which needs root."""
import os
import signal
import subprocess
import sys

from cluster import wait_for

A, B = "10.77.0.1", "10.77.0.2"
SPACE_A, SPACE_B = f"baton-a-{os.getpid()}", f"baton-b-{os.getpid()}"


def ip(*args):
    subprocess.run(["ip", *args], check=True)


def draw_key(path):
    """A cluster's key, for both hosts."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as f:
        f.write(os.urandom(32))
    return path


def make_hosts():
    for space in (SPACE_A, SPACE_B):
        ip("netns", "add", space)
        ip("-n", space, "link", "set", "lo", "up")
    ip("-n", SPACE_A, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", SPACE_B)
    for space, address in ((SPACE_A, A), (SPACE_B, B)):
        ip("-n", space, "address", "add", address + "/24", "dev", "veth0")
        ip("-n", space, "link", "set", "veth0", "up")
    wait_for("the cable to have a carrier", lambda: all(carrier(s) for s in (SPACE_A, SPACE_B)), 10)


def carrier(space):
    """IPv6 finishes with an address only when packets flow."""
    shown = subprocess.run(["ip", "-n", space, "address", "show", "dev", "veth0"], capture_output=True, text=True).stdout
    return "LOWER_UP" in shown and "tentative" not in shown


def cut_cable():
    ip("link", "set", "veth0", "down")


def mend_cable():
    ip("link", "set", "veth0", "up")


def run_inside(suite, what, file):
    """Runs the file again on host A, with --inside and the name of B's namespace, and ends as that did."""
    try:
        make_hosts()
    except (OSError, subprocess.CalledProcessError) as why:
        suite.skip(what, f"network namespaces cannot be made here ({why})")
        suite.finish()
    try:
        process = subprocess.Popen(["ip", "netns", "exec", SPACE_A, sys.executable, file, "--inside", SPACE_B,
                                    *sys.argv[1:]])
        code = process.wait()
    finally:
        for space in (SPACE_A, SPACE_B):
            for pid in subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True).stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", space])
    sys.exit(code)
