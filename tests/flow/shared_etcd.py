"""Clusters that share an etcd: names, records that somebody deletes, and what `baton status` says meanwhile."""
import json
import os
import re
import shutil
import subprocess
import tempfile

from cluster import BIN, SIGKILL, SLOW, TINY, Cluster, Suite, free_port, wait_for
from etcd import Etcd

LEASE = "all.etcd_lease=5m"  # nothing that is seen here can come of a lease that ran out


def name_of(c):
    return os.path.basename(c.dir)


def records(c, etcd, role):
    return etcd.values(f"/baton/v1/{name_of(c)}/instances/{role}/")


def ask(c):
    answer = c.ask("Hello!", max_tokens=2)
    assert not answer.error, answer.error


def deleted_records_come_back(c, etcd):
    for role in "decode", "prefill", "router":
        before = wait_for(f"the record of {role}-0", lambda r=role: records(c, etcd, r), 20)
        assert etcd.delete(f"/baton/v1/{name_of(c)}/instances/{role}/") == 1
        wait_for(f"the record of {role}-0 to be back", lambda r=role, b=before: records(c, etcd, r) == b, 20)
    c.wait_workers(1, 1)
    ask(c)


def killed_worker_gets_its_name_back(c, etcd):
    killed = c.pid("decode")
    os.kill(killed, SIGKILL)
    wait_for("its successor to have the name", lambda: [r["pid"] for r in records(c, etcd, "decode").values()] not in
             ([], [killed]), 60)
    c.wait_healed(1, 1)
    ask(c)


def status_asks_the_router(c):
    wait_for("the cluster to be ready", lambda: c.status()["state"] == "ready", 30)
    assert c.baton("scale", "decode=0").returncode == 0
    try:
        # The router is asked twice, for its figures and whether it is ready, and may lose the worker in between.
        wait_for("the router to say that it has no decode worker", lambda: (s := c.status())["state"] == "not ready" and
                 "no decode worker" in s["reason"] and
                 [w["state"] for w in s["workers"] if w["role"] == "router"] == ["not ready"], 30)
        text = c.baton("status").stdout
        assert text.startswith("not ready  http") and "the router says: no decode worker" in text, text
    finally:
        assert c.baton("scale", "decode=1").returncode == 0
        wait_for("the cluster to be ready", lambda: c.status()["state"] == "ready", 60)


def status_prints_whole_numbers(c):
    text = c.baton("status", "--json").stdout
    found = re.findall(r'"(?:resident_bytes|requests|running|queued_tokens)":([^,}]*)', text)
    assert len(found) >= 4 and all(n.isdigit() for n in found), text


def up(folder, etcd, *more):
    return subprocess.run([os.path.join(BIN, "baton"), "up", "--model", TINY, "--port", "0", "--state-dir", folder, "--etcd",
                           etcd.url, *more], capture_output=True, text=True, timeout=120 * SLOW)


def down(folder):
    done = subprocess.run([os.path.join(BIN, "baton"), "down", "--state-dir", folder], capture_output=True, text=True,
                          timeout=90 * SLOW)
    assert done.returncode == 0, done.stderr


def clear(top):
    """Ends what a failed test left running below a folder."""
    for path, _, files in os.walk(top):
        if "state.json" in files:
            down(path)
    shutil.rmtree(top, ignore_errors=True)


def second_of_a_name_is_refused(c, etcd):
    top = tempfile.mkdtemp(prefix="baton-flow-")
    folder = os.path.join(top, name_of(c))
    try:
        before = etcd.values("/baton/v1/")
        done = up(folder, etcd)
        assert done.returncode == 1, done
        assert name_of(c) in done.stderr and c.dir in done.stderr and "--name" in done.stderr, done.stderr
        assert etcd.values("/baton/v1/") == before
        done = up(folder, etcd, "--name", "another")
        assert done.returncode == 0, done.stderr
        wait_for("all four to be registered", lambda: len(etcd.keys("/baton/v1/another/instances/")) == 4, 20)
        down(folder)
        ask(c)
    finally:
        clear(top)


def worker_of_a_name_in_use_ends(c, etcd):
    """Started by hand, on the same host."""
    before = records(c, etcd, "decode")
    done = subprocess.run([os.path.join(BIN, "baton-decode"), "--cluster", name_of(c), "--id", "decode-0", "--model", TINY,
                           "--etcd", etcd.url], capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode == 1, done
    line = next(line for line in done.stderr.splitlines() if "another process has this name" in line)
    assert f"cluster={name_of(c)} " in line and "/decode/decode-0 " in line and "--name" in line, line
    assert f"holder_pid={c.pid('decode')} " in line, line
    assert records(c, etcd, "decode") == before
    ask(c)


def name_of_a_killed_cluster_is_free(etcd):
    """Its supervisor had no time to give the name back."""
    top = tempfile.mkdtemp(prefix="baton-flow-")
    first, second = os.path.join(top, "1", "same"), os.path.join(top, "2", "same")
    try:
        done = up(first, etcd, "--set", LEASE)
        assert done.returncode == 0, done.stderr
        with open(os.path.join(first, "state.json")) as file:
            os.kill(json.load(file)["pid"], SIGKILL)
        done = up(second, etcd, "--set", LEASE)
        assert done.returncode == 0, done.stderr
        down(second)
    finally:
        clear(top)


def cluster_that_starts_is_named(unused):
    """Another `up` for its folder, while it waits for an etcd that is not there and so has no address yet."""
    folder = tempfile.mkdtemp(prefix="baton-flow-")
    command = [os.path.join(BIN, "baton"), "up", "--model", TINY, "--port", "0", "--state-dir", folder, "--etcd",
               f"http://127.0.0.1:{unused}"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for("the first to answer", lambda: subprocess.run(
            [os.path.join(BIN, "baton"), "status", "--state-dir", folder], capture_output=True).returncode == 0, 30)
        done = subprocess.run(command + ["--decode", "2"], capture_output=True, text=True, timeout=60 * SLOW)
        assert done.returncode == 1, done
        assert f"other options runs in {folder}: stop it" in done.stderr, done.stderr
    finally:
        first.terminate()
        first.wait()
        wait_for("its supervisor to end", lambda: not os.path.exists(os.path.join(folder, "state.json")), 60)
        shutil.rmtree(folder, ignore_errors=True)


def main():
    suite = Suite()
    etcd = Etcd()
    try:
        with Cluster(sets=[LEASE], extra=["--etcd", etcd.url]) as c:
            suite.test("deleted records come back", deleted_records_come_back, c, etcd)
            suite.test("a killed worker gets its name back", killed_worker_gets_its_name_back, c, etcd)
            suite.test("status says what the router says", status_asks_the_router, c)
            suite.test("status prints whole numbers", status_prints_whole_numbers, c)
            suite.test("a second cluster of a name is refused", second_of_a_name_is_refused, c, etcd)
            suite.test("a worker of a name in use ends", worker_of_a_name_in_use_ends, c, etcd)
        suite.test("the name of a killed cluster is free", name_of_a_killed_cluster_is_free, etcd)
        suite.test("a cluster that starts is named", cluster_that_starts_is_named, free_port())
    finally:
        etcd.end()
    suite.finish()


main()
