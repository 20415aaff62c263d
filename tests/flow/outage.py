"""etcd stands still, dies and comes back under load: no request fails, and everybody is registered again.

    outage.py           an outage of 20 s
    outage.py --long    of 5 minutes
"""
import os
import shutil
import sys
import time

from cluster import SIGCONT, SIGKILL, SIGSTOP, STORY, Cluster, Streams, Suite, wait_for
from etcd import Etcd

SETS = ["prefill.threads=1", "decode.threads=1", "all.etcd_lease=4s"]  # shorter than the outage
ROLES = {"prefill": 2, "decode": 2, "router": 1}


def requests():
    return [{"text": f"{STORY * (1 + i * 2)} Number {i}.", "max_tokens": 64, "ignore_eos": True, "seed": i,
             "temperature": 0.7 if i % 2 else 0, "route": "remote" if i % 3 else "local"} for i in range(6)]


def registered(etcd):
    found = {role: 0 for role in ROLES}
    for key, lease in etcd.keys("/baton/v1/").items():
        role = key.split("/")[-2]
        if "/instances/" in key and role in found and lease:
            found[role] += 1
    return found


def wait_registered(etcd, wanted=None):
    wanted = wanted or ROLES
    try:
        wait_for("everybody to be registered", lambda: registered(etcd) == wanted, 30)
    except AssertionError:
        raise AssertionError(f"registered: {registered(etcd)}, not {wanted}") from None


def last(load, seconds):
    end = time.monotonic() + seconds
    wait_for("the outage to last", lambda: load.wrong or time.monotonic() >= end, 2 * seconds + 30)


def etcd_health(c):
    return [c.metrics(w).get("baton_worker_etcd_up") for w in c.engines()]


def stands_still(c, etcd, streams, seconds):
    with streams.running() as load:
        etcd.signal(SIGSTOP)
        try:
            wait_for("the workers to see that etcd is down", lambda: etcd_health(c) == [0] * 4, 30)
            last(load, seconds)
        finally:
            etcd.signal(SIGCONT)
        wait_registered(etcd)
        load.wait_rounds(2)
    wait_for("the workers to see that etcd is up", lambda: etcd_health(c) == [1] * 4, 30)
    c.wait_healed(2, 2)


def dies(c, etcd, streams, seconds):
    """Its data are lost as well: those who live must say again who they are."""
    with streams.running() as load:
        etcd.signal(SIGKILL)
        etcd.process.wait()
        shutil.rmtree(os.path.join(etcd.dir, "data"))
        last(load, seconds)
        etcd.start()
        wait_registered(etcd)
        load.wait_rounds(2)
    c.wait_healed(2, 2)


def worker_dies_meanwhile(c, etcd, streams):
    """The others see its end by their links; its successor is found once etcd is back."""
    with streams.running() as load:
        etcd.signal(SIGSTOP)
        try:
            victim = c.workers("decode")[0]
            os.kill(victim["pid"], SIGKILL)
            load.wait_rounds(2)
        finally:
            etcd.signal(SIGCONT)
        wait_registered(etcd)
        load.wait_rounds(1)
    c.wait_healed(2, 2)


def new_worker_is_found(c, etcd):
    assert c.baton("scale", "prefill=3").returncode == 0
    wait_registered(etcd, dict(ROLES, prefill=3))
    c.wait_workers(3, 2)
    new = c.workers("prefill")[2]
    wait_for("the new worker to be used", lambda: not c.ask(STORY, route="remote", max_tokens=2).error and
             c.count(new, "prefills") > 0, 30)
    assert c.baton("scale", "prefill=2").returncode == 0
    wait_registered(etcd)
    c.wait_healed(2, 2)


def main():
    suite = Suite()
    seconds = 300 if "--long" in sys.argv else 20
    etcd = Etcd()
    try:
        with Cluster(prefill=2, decode=2, sets=SETS, extra=["--etcd", etcd.url]) as c:
            streams = Streams(c, requests())
            suite.test("etcd stands still", stands_still, c, etcd, streams, seconds)
            suite.test("etcd is killed and loses its data", dies, c, etcd, streams, seconds)
            suite.test("a worker dies while etcd is down", worker_dies_meanwhile, c, etcd, streams)
            suite.test("a worker that starts afterwards is found", new_worker_is_found, c, etcd)
    finally:
        etcd.end()
    suite.finish()


main()
