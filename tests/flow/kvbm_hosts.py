"""Managers of KV blocks on two hosts: what a worker asks its own for comes from the other's over TCP. kv_client_main stands
for the workers. The hosts are two network namespaces, so this needs root.
"""
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from cluster import BIN, SLOW, Suite, counts_held, wait_for
from hosts import A, B, cut_cable, draw_key, mend_cable, run_inside

CLIENT = os.path.join(BIN, "tests/kv_client_main")
FORMAT = "BF16-lsht-l4h2d32-b16-tp1-portable"
BLOCK_BYTES = 4 * 2 * 2 * 32 * 16 * 2
ADDRESSES = {"a": A, "b": B}


class Managers:
    def __init__(self, space):
        self.dir, self.processes, self.spaces = tempfile.mkdtemp(prefix="baton-hosts-"), {}, {"a": [], "b": ["ip", "netns", "exec", space]}
        self.key = draw_key(os.path.join(self.dir, "key"))
        self.start("etcd", [], "etcd", "--data-dir", os.path.join(self.dir, "etcd"), "--listen-client-urls",
                   f"http://{A}:2379", "--advertise-client-urls", f"http://{A}:2379", "--listen-peer-urls", f"http://{A}:2380")
        for name in ("a", "b"):
            self.manager(name)

    def manager(self, name):
        address = ADDRESSES[name]
        self.start(name, self.spaces[name], os.path.join(BIN, "baton-kvbm"), "--etcd", f"http://{A}:2379", "--id", f"kvbm-{name}",
                   "--host", f"host-{name}", "--listen", f"{address}:7000", "--advertise", address, "--admin-listen",
                   f"{address}:9000", "--kv-format", FORMAT, "--kv-memory", "4MiB", "--admission", "all",
                   "--remote-timeout", "500ms", "--cluster-key-file", self.key)

    def start(self, name, prefix, *command):
        with open(os.path.join(self.dir, name + ".log"), "ab") as log:
            self.processes[name] = subprocess.Popen([*prefix, *command], stdout=log, stderr=log,
                                                    env={**os.environ, "BATON_FAILPOINTS": ""})

    def client(self, name, operation, sequence, blocks, *more):
        done = subprocess.run([*self.spaces[name], CLIENT, f"tcp://{ADDRESSES[name]}:7000", f"kvbm-{name}", "default", FORMAT, "1",
                               "2", "", operation, str(sequence), str(blocks), *more], capture_output=True, text=True,
                              timeout=60 * SLOW, env={**os.environ, "BATON_TEST_CLUSTER_KEY": self.key})
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    def put(self, name, sequence, blocks):
        def taken():
            result = self.client(name, "put", sequence, blocks)
            return result["taken"] + result["present"] == blocks
        wait_for("the offer to be taken", taken, 10)

    def get(self, name, sequence, blocks, *more):
        got = self.client(name, "get", sequence, blocks, *more)
        assert got["wrong"] == 0 and got["damaged"] == 0, got
        assert got["blocks"] == got["host"] + got["disk"] + got["remote"], got
        return got

    def metrics(self, name):
        connection = http.client.HTTPConnection(ADDRESSES[name], 9000, timeout=10 * SLOW)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except OSError:
            return {}
        finally:
            connection.close()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
                for line in text.splitlines() if line and not line.startswith("#")}

    def arm(self, name, text):
        connection = http.client.HTTPConnection(ADDRESSES[name], 9000, timeout=10 * SLOW)
        try:
            connection.request("POST", "/failpoints", text)
            assert connection.getresponse().status == 200, text
        finally:
            connection.close()

    def metric(self, name, key):
        return self.metrics(name).get("baton_kvbm_" + key)

    def wait_known(self, name, blocks):
        wait_for(f"{name} to know of {blocks} blocks", lambda: self.metric(name, "remote_known_blocks") == blocks, 20)

    def wait_met(self, name):
        wait_for(f"{name} to have a link to the other", lambda: self.metric(name, 'remote_managers{state="up"}') == 1, 20)

    def wait_released(self):
        wait_for("loans and fetches to end", lambda: not any(counts_held("kvbm", self.metrics(n)) for n in ("a", "b")), 20)

    def down(self):
        for name in ("a", "b", "etcd"):
            self.processes[name].terminate()
        codes = {}
        for name, process in self.processes.items():
            try:
                codes[name] = process.wait(20 * SLOW)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = "killed"
        return codes

    def print_logs(self):
        for name in ("a", "b"):
            with open(os.path.join(self.dir, name + ".log"), errors="replace") as log:
                print(f"--- {name}", *log.readlines()[-40:], sep="\n")


def what_is_put_there_is_got_here(m):
    m.put("a", 1, 20)
    m.wait_known("b", 20)
    m.wait_met("b")

    def came():
        got = m.get("b", 1, 20)
        return got["blocks"] == 20 and got
    got = wait_for("20 blocks of the other host", came, 20)
    assert got["remote"] == 20, got
    assert m.get("b", 1, 20)["host"] == 20
    values = m.metrics("b")
    assert values['baton_kvbm_remote_fetches_total{outcome="whole"}'] == 1, values
    assert values["baton_kvbm_remote_bytes_total"] == 20 * BLOCK_BYTES, values
    assert values['baton_kvbm_transfer_bytes_total{transport="tcp"}'] == 20 * BLOCK_BYTES, values
    assert values['baton_kvbm_hit_blocks_total{tier="remote"}'] == 20, values
    assert values['baton_kvbm_hit_blocks_total{tier="host"}'] == 20, values


def both_ways_and_behind_what_is_here(m):
    m.put("b", 2, 30)
    m.put("a", 2, 10)
    wait_for("a to know of them", lambda: (m.metric("a", "remote_known_blocks") or 0) >= 50, 20)
    m.wait_met("a")

    def came():
        got = m.get("a", 2, 40)
        return got["blocks"] == 30 and got
    got = wait_for("what is missing", came, 20)
    assert (got["host"], got["remote"]) == (10, 20), got


def what_is_computed_faster_stays_there(m):
    m.put("a", 3, 20)
    wait_for("b to know of them", lambda: (m.metric("b", "remote_known_blocks") or 0) >= 70, 20)
    before = m.metric("b", 'remote_not_asked_total{reason="slower"}')
    assert m.get("b", 3, 20, "1e12")["blocks"] == 0
    assert m.metric("b", 'remote_not_asked_total{reason="slower"}') == before + 1
    assert m.get("b", 3, 20, "100")["remote"] == 20


def bounded(m, sequence):
    """10 blocks are here, and the rest out of reach."""
    begin = time.monotonic()
    got = m.get("b", sequence, 20)
    assert got["blocks"] == got["host"] == 10, got
    assert time.monotonic() - begin < 5 * SLOW, time.monotonic() - begin


def half_here(m, sequence):
    m.put("a", sequence, 20)
    m.put("b", sequence, 10)

    def known():
        before = m.metric("b", "remote_known_blocks")
        time.sleep(0.3)
        return m.metric("b", "remote_known_blocks") == before
    wait_for("the events to have come", known, 20)


def comes_again(m, sequence):
    def came():
        got = m.get("b", sequence, 20)
        return got["blocks"] == 20 and got
    assert wait_for("the rest", came, 40)["remote"] == 10


def a_bit_flipped_on_the_way_is_found(m):
    """At the manager that fetches: what is before the damaged block comes, and all of it when it is asked for again."""
    m.put("a", 7, 20)
    wait_for("b to know of them", lambda: (m.metric("b", "remote_known_blocks") or 0) >= 90, 20)
    names = ['remote_fetches_total{outcome="damaged"}', 'store_events_total{event="damaged_offers"}',
             'store_events_total{event="damaged_host"}']
    before = [m.metric("b", name) for name in names]
    lent, here = (m.metric("a", name) for name in ('pulls_total{event="damaged"}', names[2]))
    m.arm("b", "transfer.take.flip=flip,times=1")
    assert m.get("b", 7, 20)["blocks"] < 20
    after = [before[0] + 1, before[1] + 1, before[2]]
    assert [m.metric("b", name) for name in names] == after
    assert (m.metric("a", 'pulls_total{event="damaged"}'), m.metric("a", names[2])) == (lent + 1, here)
    assert m.get("b", 7, 20)["blocks"] == 20
    assert [m.metric("b", name) for name in names] == after


def a_frozen_manager_costs_its_deadline(m):
    half_here(m, 4)
    m.processes["a"].send_signal(signal.SIGSTOP)
    try:
        bounded(m, 4)
        assert m.metric("b", 'remote_fetches_total{outcome="timeout"}') == 1
    finally:
        m.processes["a"].send_signal(signal.SIGCONT)
    comes_again(m, 4)


def a_cut_network_leaves_what_is_here(m):
    half_here(m, 5)
    cut_cable()
    try:
        bounded(m, 5)
        time.sleep(4 * SLOW)
        bounded(m, 5)
    finally:
        mend_cable()
    values = wait_for("b to answer again", lambda: m.metrics("b"), 20)
    lost = sum(values[f'baton_kvbm_link_faults_total{{kind="{kind}"}}'] for kind in ("closed", "frozen"))
    assert lost >= 1, values
    comes_again(m, 5)


def a_killed_one_is_met_again(m):
    m.processes["a"].kill()
    m.processes["a"].wait()
    m.manager("a")
    m.put("a", 6, 20)
    m.wait_met("b")

    def came():
        return m.get("b", 6, 20)["remote"] == 20
    wait_for("blocks of the new process", came, 30)


def inside(space):
    suite = Suite()
    m = Managers(space)
    try:
        suite.test("what is put there is got here", what_is_put_there_is_got_here, m)
        suite.test("both ways, and behind what is here", both_ways_and_behind_what_is_here, m)
        suite.test("what is computed faster stays there", what_is_computed_faster_stays_there, m)
        suite.test("a bit flipped on the way is found", a_bit_flipped_on_the_way_is_found, m)
        suite.test("a frozen manager costs its deadline", a_frozen_manager_costs_its_deadline, m)
        suite.test("a cut network leaves what is here", a_cut_network_leaves_what_is_here, m)
        suite.test("a killed one is met again", a_killed_one_is_met_again, m)
        suite.test("nothing is held any more", m.wait_released)
        if suite.failed:
            m.print_logs()
    finally:
        codes = m.down()
        shutil.rmtree(m.dir, ignore_errors=True)
    assert codes["a"] == codes["b"] == 0, codes
    suite.finish()


def main():
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2])
    run_inside(Suite(), "managers on two hosts", __file__)


main()
