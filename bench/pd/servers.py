"""What serves the requests: Baton in one worker or in two, or llama.cpp's server, on the same cores."""
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "flow"))
from cluster import Cluster, free_port  # noqa: E402

LLAMA_SERVER = os.environ.get("BATON_LLAMA_SERVER") or os.path.join(ROOT, "build/llama-server/bin/llama-server")
MAX_SEQS = 32  # rows that decode beside a chunk, at most
COMPUTED = 'baton_worker_events_total{event="tokens_computed"}'
READY_SECONDS = 180


def token_ids(model, text):
    """As Baton's router has them, each once."""
    with Cluster(model=model, prefill=0) as cluster:
        connection = http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=30)
        try:
            connection.request("POST", "/tokenize", json.dumps({"prompt": text, "add_special_tokens": False}),
                               {"Content-Type": "application/json"})
            return sorted(set(json.loads(connection.getresponse().read())["tokens"]))
        finally:
            connection.close()


class Baton:
    """A cluster. `agg:N`: one decode worker that computes prompts itself, N prompt rows a step; `agg:whole`: prompts as wholes;
    `1+1`: a prefill and a decode worker with a thread each. Nothing is kept from one prompt to the next."""

    fields = {}

    def __init__(self, name, model, threads, longest, sets):
        self.name, self.longest = name, longest
        budget = name.partition(":")[2]
        if budget:
            rows = longest if budget == "whole" else int(budget)
            own = [f"decode.threads={threads}", f"decode.step_tokens={rows + MAX_SEQS}", f"decode.chunk_tokens={rows}",
                   f"decode.beside_tokens={rows}"]
        else:
            own = [f"worker.threads={threads // 2}", "router.policy=least-loaded"]  # long prompts go apart whatever is faster
        self.split = not budget
        own += [f"worker.max_seqs={MAX_SEQS}", "worker.prefix_cache=false"]
        self.cluster = Cluster(model=model, prefill=int(self.split), decode=1, sets=[*own, *sets])
        self.port, self.model = self.cluster.port, self.cluster.model
        self.before = 0

    def end(self, check=True):
        """Checked, a process that crashed or stays is an AssertionError."""
        self.cluster.down(check)

    def print_logs(self):
        self.cluster.print_logs()

    def notes(self):
        """What a reader of the figures should know of this start."""
        loose = [w["id"] for w in self.cluster.workers() if w["role"] != "router" and
                 "pinned=true" not in self.cluster.log_text(w["id"])]
        return [f"{self.name}: the threads of {name} are not bound to cores, which other workers of this machine hold" for name in loose]

    def computed_apart(self):
        return sum(self.cluster.metrics(w).get(COMPUTED, 0) for w in self.cluster.workers("prefill"))

    def mark(self):
        self.before = self.computed_apart()

    def check(self, long_tokens):
        """Errors since mark(): a prompt that should have been computed apart and was not."""
        apart = self.computed_apart() - self.before
        if self.split and apart < long_tokens:
            return [f"{long_tokens - apart:.0f} of {long_tokens} tokens of long prompts were computed by the decode worker"]
        return []


class Llama:
    """llama.cpp's server as it comes; `llama:N` gives it batches of N tokens. Its cache of prompts, which are all new, is off."""

    fields = {"cache_prompt": False}

    def __init__(self, name, model, threads, slots, slot_tokens):
        self.name, self.port, self.model = name, free_port(), os.path.basename(model)
        self.log = tempfile.NamedTemporaryFile("w+", prefix="baton-pd-llama-", suffix=".log")
        batch = name.partition(":")[2]
        command = [LLAMA_SERVER, "--model", model, "--host", "127.0.0.1", "--port", str(self.port), "--threads", str(threads),
                   "--threads-batch", str(threads), "--parallel", str(slots), "--ctx-size", str(slots * slot_tokens),
                   "--cache-ram", "0", *(["--batch-size", batch, "--ubatch-size", batch] if batch else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT)
        try:
            self.wait_ready()
        except BaseException:
            self.print_logs()
            self.end(check=False)
            raise

    def wait_ready(self):
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            finally:
                connection.close()
            time.sleep(0.05)
        raise RuntimeError(f"llama-server is not ready (exit code {self.process.poll()})")

    def end(self, check=True):
        code = self.process.poll()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        assert code is None or not check, f"llama-server ended by itself with {code}"

    def print_logs(self):
        self.log.seek(0)
        print("---- llama-server", *self.log.read().splitlines()[-40:], sep="\n", file=sys.stderr)

    def notes(self):
        return []

    def mark(self):
        pass

    def check(self, long_tokens):
        return []
