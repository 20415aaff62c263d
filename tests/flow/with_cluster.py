"""Starts a small cluster on the built-in model and runs a script against it.

    with_cluster.py [--set ROLE.KEY=VALUE]... SCRIPT ARGUMENTS...     {host}, {port} and {url} are filled in
"""
import subprocess
import sys

from cluster import Cluster


def main():
    arguments, sets = sys.argv[1:], []
    while arguments[0] == "--set":
        sets, arguments = sets + [arguments[1]], arguments[2:]
    with Cluster(sets=["prefill.threads=1", "decode.threads=1"] + sets) as c:
        words = {"host": "127.0.0.1", "port": c.port, "url": c.url}
        code = subprocess.run([sys.executable, *(a.format(**words) for a in arguments)]).returncode
        c.wait_nothing_left()
    sys.exit(code)


main()
