"""The KV block manager as a process: its place in the cluster, what it keeps over kills and restarts, what `baton kv` says
and does. kv_client_main stands for a worker."""
import json
import os
import re
import shutil
import subprocess
import tempfile

from cluster import BIN, SIGKILL, SLOW, Cluster, Suite, send_signal, wait_for
from etcd import Etcd

CLIENT = os.path.join(BIN, "tests/kv_client_main")
FOLLOWER = os.path.join(BIN, "tests/kv_events_main")
BLOCK_TOKENS = 16
SLOTS = 64
SETS = ["kvbm.kv_memory=2MiB", "kvbm.admission=all", "kvbm.disk_size=64MiB", "kvbm.disk_segment=4MiB"]
MASK = 2**64 - 1


def token(sequence, i):
    """As the client makes them."""
    x = (sequence * 1000003 + i) & MASK
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9 & MASK
    x = (x ^ x >> 27) * 0x94d049bb133111eb & MASK
    return (x ^ x >> 31) % 200


def tokens(sequence, blocks):
    return ",".join(str(token(sequence, i)) for i in range(blocks * BLOCK_TOKENS))


class Manager:
    def __init__(self, cluster, etcd):
        self.c, self.etcd, self.name, self.id = cluster, etcd, os.path.basename(cluster.dir), "kvbm-0"

    def member(self):
        return self.c.workers("kvbm")[0]

    def pid(self):
        return self.member()["pid"]

    def record(self):
        """Once its tiers are open."""
        def opened():
            found = self.registered("kvbm", self.id)
            return found and found.get("control") and found["pid"] == self.pid() and found
        return wait_for("the manager to be registered with its address", opened, 30)

    def registered(self, role, name):
        """A record may be gone for a moment, until its process finds that out."""
        return self.etcd.values(f"/baton/v1/{self.name}/instances/{role}/").get(f"/baton/v1/{self.name}/instances/{role}/{name}")

    def client(self, operation, sequence, blocks, salt=""):
        record = self.record()
        worker = wait_for("a record of decode", lambda: self.registered("decode", "decode-0"), 30)
        done = subprocess.run([CLIENT, record["control"], record["id"], self.name, record["kv_format"], worker["weights"],
                               worker["tokenizer"], salt, operation, str(sequence), str(blocks)], capture_output=True,
                              text=True, timeout=60 * SLOW,
                              env={**os.environ, "BATON_TEST_CLUSTER_KEY": os.path.join(self.c.dir, "cluster.key"),
                                   "BATON_TEST_SALT_KEY": os.path.join(self.c.dir, "salt.key")})
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    def put(self, sequence, blocks, salt=""):
        """An offer is refused, and not repeated, as long as the manager has no way to the blocks of who has just come."""
        def taken():
            result = self.client("put", sequence, blocks, salt)
            return result["taken"] + result["present"] == blocks and result
        return wait_for("the offer to be taken", taken, 10)

    def get(self, sequence, blocks, salt=""):
        result = self.client("get", sequence, blocks, salt)
        assert result["wrong"] == 0 and result["damaged"] == 0, result
        return result

    def kv(self, *args):
        return self.c.baton("kv", *args, "--admin", f"http://127.0.0.1:{self.member()['ports']['admin']}")

    def find(self, sequence, blocks, *args):
        done = self.kv("find", "--json", "--tokens", tokens(sequence, blocks), *args)
        assert done.returncode == 0, done
        answer = json.loads(done.stdout)["answers"][0]
        assert answer["blocks"] == blocks, answer
        return answer["host"], answer["disk"]

    def metric(self, name):
        return self.c.metrics(self.member()).get(name)

    def wait_written(self, blocks):
        wait_for(f"{blocks} blocks on disk", lambda: self.metric('baton_kvbm_blocks{tier="disk"}') == blocks, 20)

    def restarted(self, number):
        old = self.member()["pid"]
        send_signal(old, number)
        wait_for("another process", lambda: (m := self.member())["state"] == "ready" and m["pid"] != old, 30)
        self.record()


def is_registered_and_shown(m):
    record = m.record()
    assert record["role"] == "kvbm" and record["kv_format"].startswith("BF16-lsht-"), record
    assert record["block_tokens"] == BLOCK_TOKENS and record["kv_tokens"] == SLOTS * BLOCK_TOKENS, record
    assert record["kv_events"].startswith("tcp://127.0.0.1:") and record["kv_replay"].startswith("tcp://127.0.0.1:")
    assert m.member()["state"] == "ready" and m.metric("baton_kvbm_open") == 1
    shown = m.c.baton("status").stdout
    assert re.search(r"^kvbm-0 +\d+ +ready ", shown, re.M), shown
    told = m.kv("status").stdout
    assert re.search(r"^kvbm-0|^http\S+ +host +0 ", told, re.M) and " disk " in told and "HEALTHY" in told, told


def what_is_put_comes_back(m):
    assert m.put(1, 20)["taken"] == 20
    assert m.put(1, 20)["present"] == 20
    got = m.get(1, 20)
    assert (got["blocks"], got["host"]) == (20, 20), got
    assert m.get(1, 24)["blocks"] == 20
    assert m.get(2, 20)["announced"] == 0
    assert m.find(1, 24) == (20, 0)
    m.wait_written(20)
    assert m.metric('baton_kvbm_hit_tokens_total{tier="host"}') >= 40 * BLOCK_TOKENS
    assert m.metric('baton_kvbm_pushes_total{event="taken"}') == 20


def salts_share_nothing(m):
    m.put(1, 10, "secret")
    assert m.get(1, 20, "secret")["blocks"] == 10
    assert m.get(1, 20)["blocks"] == 20
    assert m.get(1, 20, "other")["blocks"] == 0
    assert m.find(1, 20, "--salt", "secret") == (10, 0)
    m.wait_written(30)


def events_tell_of_it(m):
    record = m.record()
    follower = subprocess.Popen([FOLLOWER, "follow", record["kv_events"], record["kv_replay"], "dumps"],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    seen = {"CPU": set(), "DISK": set()}

    def told():
        follower.stdin.write("\n")
        follower.stdin.flush()
        while not (line := follower.stdout.readline()).startswith("."):
            assert line, "the follower ended"
            kind, tier = (line.split() + [""])[:2]
            hashes = re.findall(r" ([0-9a-f]{32})\b", line)
            if kind in ("cleared", "forget"):
                seen["CPU"].clear(), seen["DISK"].clear()
            elif kind == "stored":
                parent = re.search(r" parent=(\w*)", line).group(1)
                assert not parent or parent in seen[tier], f"a parent that nobody was told of: {line}"
                seen[tier].update(hashes)
            else:
                seen[tier].difference_update(hashes)
        return [len(seen["CPU"]), len(seen["DISK"])]
    try:
        wait_for("the dump", lambda: told() == [30, 30], 20)
        m.put(3, 5)
        wait_for("35 blocks in two tiers", lambda: told() == [35, 35], 20)
    finally:
        follower.kill()
        follower.wait()


def killed_it_comes_back_with_its_disk(m):
    m.wait_written(35)
    before = m.c.ask("Hello!", max_tokens=4)
    m.restarted(SIGKILL)
    after = m.c.ask("Hello!", max_tokens=4)
    assert not after.error and after.hashes == before.hashes
    assert m.find(1, 20) == (0, 20)
    got = m.get(1, 20)
    assert (got["blocks"], got["disk"]) == (20, 20), got
    assert m.find(1, 20) == (20, 0)
    assert m.get(1, 20, "secret")["blocks"] == 10


def pinned_blocks_stay(m):
    assert m.kv("pin", "--tokens", tokens(1, 20), "--seconds", "600").returncode == 0
    for sequence in range(10, 16):
        m.put(sequence, 20)
    assert m.find(1, 20)[0] == 20
    assert ", pinned 20\n" in m.kv("status").stdout
    assert m.kv("unpin", "--tokens", tokens(1, 20)).returncode == 0
    again = m.kv("unpin", "--tokens", tokens(1, 20))
    assert again.returncode == 1 and "not pinned" in again.stderr, again
    for sequence in range(16, 22):
        m.put(sequence, 20)
    assert m.find(1, 20)[0] < 20
    assert m.metric('baton_kvbm_removed_blocks_total{reason="evicted"}') > 0


def a_wiped_salt_is_gone(m):
    assert m.get(1, 10, "secret")["blocks"] == 10
    done = m.kv("wipe", "--salt", "secret", "--json")
    assert done.returncode == 0, done
    answer = json.loads(done.stdout)["answers"][0]
    assert answer["wiped"] and answer["disk_bytes"] > 0, answer
    assert m.get(1, 10, "secret")["blocks"] == 0
    assert m.get(1, 20)["blocks"] == 20
    m.restarted(SIGKILL)
    assert m.get(1, 10, "secret")["blocks"] == 0
    assert m.get(1, 20)["blocks"] == 20


def everything_is_wiped(m):
    assert m.kv("wipe", "--node").returncode == 0
    assert m.get(1, 20)["blocks"] == 0 and m.find(1, 20) == (0, 0)
    m.put(1, 20)
    assert m.get(1, 20)["blocks"] == 20


class Elsewhere(Manager):
    """A manager of another host, in the same cluster."""

    def __init__(self, m):
        super().__init__(m.c, m.etcd)
        self.id = "kvbm-there"
        key, salt = (os.path.join(m.c.dir, name) for name in ("cluster.key", "salt.key"))
        with open(os.path.join(m.c.dir, "logs", "kvbm-there.log"), "ab") as log:
            self.process = subprocess.Popen(
                [os.path.join(BIN, "baton-kvbm"), "--etcd", m.etcd.url, "--cluster", self.name, "--id", self.id, "--host", "there",
                 "--kv-format", m.record()["kv_format"], "--kv-memory", "2MiB", "--admission", "all", "--cluster-key-file", key,
                 "--salt-key-file", salt], stdout=log, stderr=log, env={**os.environ, "BATON_FAILPOINTS": ""})

    def pid(self):
        return self.process.pid

    def end(self):
        self.process.kill()
        self.process.wait()


def other_hosts_are_reached(m):
    def asked(*args, code=0, whole=("--etcd", m.etcd.url, "--cluster", m.name)):
        """Of the local cluster, and of the one that etcd knows, the same is told."""
        done = m.c.baton("kv", *args, "--json", *whole)
        assert done.returncode == code, done
        return {a["id"]: a for a in json.loads(done.stdout)["answers"]}, done.stderr

    there, managers = Elsewhere(m), {"kvbm-0", "kvbm-there"}
    find = ("find", "--salt", "secret", "--tokens", tokens(7, 5))
    try:
        for manager in (m, there):
            manager.put(7, 5, "secret")
        for whole in ([], ("--etcd", m.etcd.url, "--cluster", m.name)):
            assert set(asked("status", whole=whole)[0]) == managers
            found, told = asked(*find, whole=whole)
            assert {name: a["host"] for name, a in found.items()} == dict.fromkeys(managers, 5) and not told, (found, told)
        record = {**there.record(), "id": "kvbm-far", "host": "far", "admin": "http://127.0.0.1:1", "process": "1/2/3/4"}
        m.etcd.put(f"/baton/v1/{m.name}/instances/kvbm/kvbm-far", json.dumps(record))
        wiped, told = asked("wipe", "--salt", "secret", code=1, whole=[])
        assert set(wiped) == managers | {w["id"] for w in m.c.engines()} and all(a["wiped"] for a in wiped.values()), wiped
        assert "kvbm-far" in told and "--admin-listen" in told and "kvbm-0" not in told, told
        m.etcd.delete(f"/baton/v1/{m.name}/instances/kvbm/kvbm-far")
        assert {a["host"] for a in asked(*find)[0].values()} == {0}
        assert asked("wipe", "--salt", "secret")[1] == ""
    finally:
        there.end()
    assert set(asked("status", whole=[])[0]) == {"kvbm-0"}, "what has ended is still asked"
    for args, why in ((("--etcd", "http://127.0.0.1:1"), "127.0.0.1:1"), (("--etcd", m.etcd.url, "--cluster", "nobody"), "no KV block manager"),
                      (("--cluster", "x"), "--etcd"), (("--etcd", m.etcd.url, "--admin", "http://127.0.0.1:1"), "one of the two")):
        done = m.c.baton("kv", "status", *args)
        assert done.returncode == 1 and why in done.stderr, done
    assert m.c.baton("kv", "wipe", "--node", "--etcd", m.etcd.url).returncode == 2


def requests_are_refused_by_name(m):
    for args, why in ((["find", "--tokens", "1,2"], "no full block"), (["find", "--tokens", "1,x"], "no list of token ids"),
                      (["find", "--tokens", tokens(1, 1), "--model", "nobody"], "no worker has registered"),
                      (["pin", "--tokens", tokens(99, 1)], "no block of this is in memory")):
        done = m.kv(*args)
        assert done.returncode == 1 and why in done.stderr, done
    assert m.kv("wipe").returncode == 2


def it_may_be_left_out(m):
    c = m.c
    done = c.baton("scale", "kvbm=2")
    assert done.returncode == 1 and "kvbm takes a number from 0 to 1" in done.stderr, done
    assert c.baton("drain", "kvbm-0").stdout == "kvbm-0 has ended\n"
    ends = re.findall(r'msg="process ended" id=kvbm-0 how="([^"]*)"', c.log_text("supervisor"))
    assert ends[-1] == "exited with code 0", ends
    assert not c.workers("kvbm") and not c.ask("Hello!", max_tokens=2).error
    gone = c.baton("kv", "status")
    assert gone.returncode == 1 and "no KV block manager" in gone.stderr, gone
    assert c.baton("scale", "kvbm=1").stdout == "kvbm: 1 running (before: 0)\n"
    assert m.get(1, 20)["disk"] == 20


def main():
    suite, etcd, disk = Suite(), Etcd(), tempfile.mkdtemp(prefix="baton-kv-")
    try:
        with Cluster(sets=SETS, extra=["--etcd", etcd.url, "--kv-disk", os.path.join(disk, "kv")]) as c:
            m = Manager(c, etcd)
            suite.test("it is registered and shown", is_registered_and_shown, m)
            suite.test("what is put comes back", what_is_put_comes_back, m)
            suite.test("salts share nothing", salts_share_nothing, m)
            suite.test("events tell of it", events_tell_of_it, m)
            suite.test("killed, it comes back with its disk", killed_it_comes_back_with_its_disk, m)
            suite.test("pinned blocks stay", pinned_blocks_stay, m)
            suite.test("a wiped salt is gone", a_wiped_salt_is_gone, m)
            suite.test("everything is wiped", everything_is_wiped, m)
            suite.test("other hosts are reached", other_hosts_are_reached, m)
            suite.test("requests are refused by name", requests_are_refused_by_name, m)
            suite.test("it may be left out", it_may_be_left_out, m)
    finally:
        etcd.end()
        shutil.rmtree(disk, ignore_errors=True)
    suite.finish()


main()
