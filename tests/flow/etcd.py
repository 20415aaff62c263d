"""An etcd of a test's own, which no supervisor starts again."""
import base64
import http.client
import json
import os
import shutil
import subprocess
import tempfile

from cluster import SLOW, free_port, wait_for


class Etcd:
    def __init__(self):
        self.dir, self.port, self.peer_port = tempfile.mkdtemp(prefix="baton-etcd-"), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        peer = f"http://127.0.0.1:{self.peer_port}"
        with open(os.path.join(self.dir, "log"), "ab") as log:
            self.process = subprocess.Popen(
                ["etcd", "--data-dir", os.path.join(self.dir, "data"), "--listen-client-urls", self.url,
                 "--advertise-client-urls", self.url, "--listen-peer-urls", peer,
                 "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"], stdout=log, stderr=log)
        wait_for("etcd to answer", self.answers, 30)

    def answers(self):
        try:
            return self.keys("/") is not None
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def keys(self, prefix):
        """Keys below a prefix, with their leases."""
        return {key: int(kv.get("lease", 0)) for key, kv in self.range(prefix).items()}

    def values(self, prefix):
        """JSON values below a prefix, by their keys."""
        return {key: json.loads(base64.b64decode(kv["value"])) for key, kv in self.range(prefix).items()}

    def range(self, prefix):
        answer = self.call("/v3/kv/range", self.below(prefix))
        return {base64.b64decode(kv["key"]).decode(): kv for kv in answer.get("kvs", [])}

    def delete(self, prefix):
        """How many keys were below the prefix."""
        return int(self.call("/v3/kv/deleterange", self.below(prefix)).get("deleted", 0))

    def put(self, key, value):
        self.call("/v3/kv/put", {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(value.encode()).decode()})

    @staticmethod
    def below(prefix):
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        return {"key": base64.b64encode(prefix.encode()).decode(), "range_end": base64.b64encode(end.encode()).decode()}

    def call(self, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5 * SLOW)
        try:
            connection.request("POST", path, json.dumps(body))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def signal(self, number):
        self.process.send_signal(number)

    def end(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
