"""Starts real clusters with `baton up` for the flow tests, talks to them and looks for what they leave behind.

Standard library only. $BATON_TEST_BIN names the folder of the programs, $BATON_TEST_SLOW how many times
slower than the release build they are.
"""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("BATON_TEST_BIN") or os.path.join(ROOT, "build/release/bin")
# Freed memory stays resident for a while there (the quarantine), so that growth tells nothing.
SANITIZED = "ASAN_OPTIONS" in os.environ
SLOW = float(os.environ.get("BATON_TEST_SLOW", "1"))
TINY = os.path.join(ROOT, "models/baton-tiny")
SMOLLM2 = os.environ.get("BATON_TEST_SMOLLM2")


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that clusters are taken down, as at any other end


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# UCX 1.13 ends a process so when the other end of a handshake is killed at that moment (docs/KV.md, "Every failure").
UCX_REPLY_TO_THE_DEAD = r"ucp_request\.c:\d+ +Assertion .* got REP message"


def wait_for(what, condition, seconds):
    """Waits for a condition with a deadline; returns its first true value."""
    end = time.monotonic() + seconds * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds * SLOW:.0f} s in vain: {what}")
        time.sleep(0.02)


class Answer:
    """One finished answer: text, token hashes, how it ended."""

    def __init__(self):
        self.text, self.hashes, self.finish, self.error, self.status = "", [], None, None, 0
        self.usage, self.extra, self.headers, self.logprobs, self.first_us, self.changed = {}, {}, {}, None, 0, False


# Counts that are 0 when nobody wants anything; of names that end in * all that begin so. KV that is only kept for later is
# nobody's.
HELD = {
    "router": ["baton_router_requests_held", "baton_router_held_bytes", "baton_router_tokenize_pending",
               "baton_router_choices{*", "baton_router_dispatched*"],
    "worker": ["baton_worker_requests", "baton_worker_running_sequences", "baton_worker_queued_tokens",
               "baton_worker_kv_used_ratio", "baton_worker_loans", "baton_worker_exchanges{*"],
    "kvbm": ["baton_kvbm_loans", "baton_kvbm_remote_fetches", "baton_kvbm_intakes", 'baton_kvbm_slots{state="reserved"}',
             'baton_kvbm_slots{state="held"}'],
}


def counts_held(role, metrics):
    """Those of a process that are not 0."""
    names = HELD.get(role, HELD["worker"])
    return {key: value for key, value in metrics.items() if value and
            any(key.startswith(name[:-1]) if name.endswith("*") else key == name for name in names)}


class Cluster:
    """Taken down without an error it must hold nothing any more."""

    def __init__(self, model=TINY, prefill=1, decode=1, router=1, transfer="auto", sets=(), env=None, extra=()):
        self.managed = not any(item.endswith("kvbm=off") for item in sets)
        sets = ["kvbm.kv_memory=32MiB", *sets]
        self.dir = tempfile.mkdtemp(prefix="baton-flow-")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [os.path.join(BIN, "baton"), "up", "--model", model, "--router", str(router), "--prefill",
                   str(prefill), "--decode", str(decode), "--transfer", transfer, "--port", str(self.port),
                   "--state-dir", self.dir]
        for item in sets:
            command += ["--set", item]
        done = subprocess.run(command + list(extra), capture_output=True, text=True, timeout=120 * SLOW,
                              env={**os.environ, "BATON_FAILPOINTS": "", **(env or {})})
        if done.returncode != 0 or not done.stdout.strip().endswith(f"ready {self.url}"):
            self.print_logs()
            raise AssertionError(f"baton up failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")
        self.model = self.get("/v1/models")["data"][0]["id"]
        self.wait_workers(prefill, decode)

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        if kind:
            self.print_logs()
        self.down(check=kind is None)

    # -- commands -------------------------------------------------------------------

    def baton(self, *args, timeout=90):
        return subprocess.run([os.path.join(BIN, "baton"), *args, "--state-dir", self.dir], capture_output=True,
                              text=True, timeout=timeout * SLOW)

    def status(self):
        return json.loads(self.baton("status", "--json").stdout)

    def workers(self, role=None):
        return [w for w in self.status()["workers"] if role in (None, w["role"])]

    def engines(self):
        """Those that compute."""
        return [w for w in self.workers() if w["role"] in ("prefill", "decode")]

    def pid(self, role, index=0):
        return self.workers(role)[index]["pid"]

    def wait_workers(self, prefill, decode):
        """Until the router and every decode worker know each other and all prefill workers, and workers their manager."""
        def known(router, role):
            return sum(n for key, n in self.metrics(router).items() if key.startswith(f'baton_router_workers{{role="{role}"'))

        def there():
            members = self.workers()
            managers = [w for w in members if self.managed and w["role"] == "kvbm" and w["state"] == "ready"]
            links = [self.metrics(w).get("baton_worker_links_up", 0) for w in members if w["role"] == "decode"]
            return (len(links) == decode and all(n >= prefill + 1 + len(managers) for n in links) and
                    all(known(w, "prefill") >= prefill and known(w, "decode") >= decode for w in members if w["role"] == "router"))
        wait_for("workers to find each other", there, 30)

    def print_logs(self, lines=40):
        for folder, _, files in os.walk(self.dir):
            for name in files:
                if not name.endswith(".log"):
                    continue
                with open(os.path.join(folder, name), errors="replace") as log:
                    print(f"---- {name}", *log.read().splitlines()[-lines:], sep="\n", file=sys.stderr)

    def check_crashes(self):
        """The supervisor starts again what crashed, so only its log tells: no end but by SIGKILL, SIGTERM or exit 0."""
        ends = re.findall(r'msg="process ended" (id=.*)', self.log_text("supervisor"))
        crashed = [end for end in ends if not re.search(r"signal (9|15) |exited with code 0", end)]
        known = 0
        for worker_id in {re.match(r"id=(\S+)", end).group(1) for end in crashed}:
            log = self.log_text(worker_id)
            known += len(re.findall(UCX_REPLY_TO_THE_DEAD, log))
            # What a library or a sanitizer said has no time before it.
            print(f"---- {worker_id}", *[line for line in log.splitlines() if not re.match(r"\d{4}-", line)][:100], sep="\n",
                  file=sys.stderr)
        assert len(crashed) <= known, f"crashed: {crashed}"

    def down(self, check=True):
        if check:
            self.released()
        pids = [w["pid"] for w in self.status()["workers"]] if check else []
        done = self.baton("down")
        try:
            if check:
                self.check_crashes()
                assert done.returncode == 0, f"baton down: {done.stdout} {done.stderr}"
                for pid in pids:
                    wait_for(f"process {pid} to end", lambda p=pid: not alive(p), 20)
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)

    def released(self):
        """Nothing is left over; otherwise the cluster is taken down without further questions."""
        try:
            self.wait_nothing_left(30)
        except AssertionError:
            self.print_logs()
            self.down(check=False)
            raise

    def log_text(self, worker_id):
        """Everything that a process and its predecessors of the same name logged."""
        text = ""
        for folder, _, files in os.walk(self.dir):
            for name in sorted(f for f in files if f.startswith(worker_id + ".") and ".log" in f):
                with open(os.path.join(folder, name), errors="replace") as log:
                    text += log.read()
        return text

    def children(self):
        """Processes under the supervisor, the dead ones that were not waited for included."""
        supervisor, found = str(self.status()["pid"]), []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            fields = process_fields(int(pid))
            if fields and fields[1] == supervisor:
                found.append(int(pid))
        return found

    def wait_healed(self, prefill, decode, seconds=40):
        """All processes run, know each other, and hold nothing; there is no child beside them."""
        def whole():
            workers = self.workers()
            return ([sum(w["role"] == role for w in workers) for role in ("prefill", "decode", "router")] ==
                    [prefill, decode, 1] and
                    all(w["state"] == "ready" and process_state(w["pid"]) not in "ZT" for w in workers))
        wait_for("all processes to run", whole, seconds)
        self.wait_workers(prefill, decode)
        self.wait_nothing_left(25)
        expected = len(self.workers()) + (1 if self.status().get("etcd") else 0)
        wait_for(f"{expected} children of the supervisor", lambda: len(self.children()) == expected, 10)

    # -- HTTP ---------------------------------------------------------------------------

    def get(self, path, port=None):
        with_connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=60 * SLOW)
        try:
            with_connection.request("GET", path)
            body = with_connection.getresponse().read()
        finally:
            with_connection.close()
        return json.loads(body)

    def arm(self, worker, text):
        """Sets failpoints of one process: "name=action,after=N,times=N;..."."""
        connection = http.client.HTTPConnection(worker.get("admin_host", "127.0.0.1"), admin_port(worker), timeout=10 * SLOW)
        try:
            connection.request("POST", "/failpoints", text)
            response = connection.getresponse()
            body = response.read().decode()
            assert response.status == 200, f"{text}: {body}"
        finally:
            connection.close()

    def hits(self, worker, name):
        """How often a failpoint was reached, and how often it acted."""
        points = {p["name"]: p for p in self.get("/failpoints", admin_port(worker))}
        return (points[name]["hits"], points[name]["acted"]) if name in points else (0, 0)

    def count(self, worker, event):
        """A counter of a worker; 0 while it does not answer."""
        return self.metrics(worker).get(f'baton_worker_events_total{{event="{event}"}}', 0)

    def metrics(self, worker):
        """All samples of a worker's metrics page, by name with labels."""
        connection = http.client.HTTPConnection(worker.get("admin_host", "127.0.0.1"), admin_port(worker), timeout=10 * SLOW)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except OSError:
            return {}
        finally:
            connection.close()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
                for line in text.splitlines() if line and not line.startswith("#")}

    def ask(self, text, stream=True, route=None, hashes=True, no_cache=False, on_token=None, **fields):
        """Streams (or not) one chat answer; never raises: errors are in the Answer. With no_cache all of it is computed."""
        answer = Answer()
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "temperature": 0, "stream": stream,
                "baton": {"timing": True, "logits_hash": hashes}}
        if stream:
            body["stream_options"] = {"include_usage": True}
        if route:
            body["baton"]["route"] = route
        if no_cache:
            body["baton"]["no_cache"] = True
        body.update(fields)
        path = "/v1/completions" if "prompt" in fields else "/v1/chat/completions"
        if "prompt" in fields:
            del body["messages"]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120 * SLOW)
        begin = time.monotonic()
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer.status, answer.headers = response.status, response.headers
            if response.status != 200:
                answer.error = response.read().decode(errors="replace")
            elif stream:
                read_stream(response, answer, on_token, begin)
            else:
                read_whole(json.loads(response.read()), answer)
        except Exception as why:  # a broken stream is an answer, too
            answer.error = f"{type(why).__name__}: {why}"
        finally:
            connection.close()
        return answer

    def descriptors(self):
        """Open descriptors of each process, by name."""
        return {w["id"]: len(os.listdir(f"/proc/{w['pid']}/fd")) for w in self.workers()}

    def wait_descriptors(self, before, spare=12):
        """Until no process, started again or not, has more descriptors open than it had, but for a few: workers connect to
        whom they fetch KV from when they first want some."""
        def grown():
            return {name: (before[name], n) for name, n in self.descriptors().items() if n > before[name] + spare}
        try:
            wait_for("descriptors to be closed", lambda: not grown(), 30)
        except AssertionError:
            raise AssertionError(f"descriptors left open (before, now): {grown()}") from None

    def leftovers(self, router=True):
        """What is still held, by process."""
        held = {}
        for w in self.workers():
            counts = counts_held(w["role"], self.metrics(w))
            if counts and (router or w["role"] != "router"):
                held[w["id"]] = counts
        return held

    def wait_nothing_left(self, seconds=20):
        try:
            wait_for("all blocks and requests to be given back", lambda: not self.leftovers(), seconds)
        except AssertionError:
            raise AssertionError(f"left over: {self.leftovers()}") from None


def read_stream(response, answer, on_token, begin):
    done = False
    while True:
        line = response.readline()
        if not line:
            break
        if not line.startswith(b"data: "):
            continue
        if line.strip() == b"data: [DONE]":
            done = True
            continue
        event = json.loads(line[6:])
        if "error" in event:
            answer.error = json.dumps(event["error"])
            return
        if event.get("usage"):
            answer.usage = event["usage"]
        for choice in event.get("choices", []):
            text = choice.get("delta", {}).get("content") or choice.get("text") or ""
            if text and not answer.first_us:
                answer.first_us = int(1e6 * (time.monotonic() - begin))
            answer.text += text
            take_choice(choice, answer)
            if on_token:
                on_token(answer)
    if not done:
        answer.error = answer.error or "the stream ended without [DONE]"


def take_choice(choice, answer):
    answer.finish = choice.get("finish_reason") or answer.finish
    answer.changed = choice.get("class_changed", answer.changed)
    answer.logprobs = choice.get("logprobs") or answer.logprobs
    if choice.get("baton"):
        answer.extra = choice["baton"]
        answer.hashes = answer.extra.get("logits_hash", answer.hashes)


def read_whole(body, answer):
    choice = body["choices"][0]
    answer.usage = body.get("usage", {})
    answer.text = choice.get("message", {}).get("content") or choice.get("text") or ""
    take_choice(choice, answer)


def admin_port(worker):
    return (worker.get("ports") or {}).get("admin") or worker.get("admin_port")


def process_fields(pid):
    """State, parent and the rest of /proc/PID/stat; empty when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()
    except OSError:
        return []


def process_state(pid):
    """One letter: R, S, D: runs, T: stopped, Z: dead and not waited for, -: gone."""
    return (process_fields(pid) or "-")[0]


def alive(pid):
    return process_state(pid) not in "Z-"


def in_parallel(functions):
    """Runs all at once; returns their results in order."""
    results = [None] * len(functions)

    def work(i):
        results[i] = functions[i]()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(functions))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


class Streams:
    """Requests asked again and again, each by a thread of its own; every answer must be the calm one.

    with Streams(c, requests).running() as s: ...    leaving the block ends the load and raises what went wrong
    """

    def __init__(self, c, requests):
        self.c, self.requests = c, requests
        self.want = [self.calm(r) for r in requests]
        self.wrong, self.rounds, self.stopping, self.threads = [], [0] * len(requests), False, []

    def calm(self, request):
        answer = self.c.ask(**request)
        assert not answer.error, f"calm: {answer.error}"
        assert answer.hashes, "no logits hashes"
        return answer.text, answer.hashes

    def check(self, i, answer):
        if answer.error:
            self.wrong.append(f"stream {i}: {answer.error}, after {len(answer.text)} characters")
        elif answer.text != self.want[i][0]:
            self.wrong.append(f"stream {i}: other text: {answer.extra}")
        elif answer.hashes != self.want[i][1]:
            at = [a == b for a, b in zip(answer.hashes, self.want[i][1])]
            self.wrong.append(f"stream {i}: other logits at {at.index(False) if False in at else len(at)}: {answer.extra}")

    def work(self, i):
        while not self.stopping:
            self.check(i, self.c.ask(**self.requests[i]))
            self.rounds[i] += 1

    def running(self):
        self.wrong, self.rounds, self.stopping = [], [0] * len(self.requests), False
        self.threads = [threading.Thread(target=self.work, args=(i,)) for i in range(len(self.requests))]
        return self

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, kind, *rest):
        self.stopping = True
        for t in self.threads:
            t.join()
        if not kind:
            assert not self.wrong, f"{len(self.wrong)} of {sum(self.rounds)} answers: " + "; ".join(self.wrong[:4])

    def wait_rounds(self, n, seconds=60):
        """Until every stream has begun and ended n answers more."""
        until = [r + n + 1 for r in self.rounds]
        wait_for(f"{n} answers of every stream", lambda: all(a >= b for a, b in zip(self.rounds, until)), seconds)


class Suite:
    """Runs functions as tests, and prints the closing line."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def test(self, name, function, *args):
        begin = time.monotonic()
        try:
            function(*args)
            self.passed += 1
            print(f"ok      {name} ({time.monotonic() - begin:.1f} s)", flush=True)
        except Exception as why:
            self.failed += 1
            print(f"FAILED  {name}: {why}", flush=True)
            traceback.print_exc()

    def skip(self, name, reason):
        self.skipped += 1
        print(f"SKIP: {name}: {reason}", flush=True)

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped", flush=True)
        sys.exit(1 if self.failed else 0)


def send_signal(pid, number):
    assert pid > 0, f"{pid} would be a group of processes: this test's own"
    os.kill(pid, number)


SIGKILL, SIGSTOP, SIGCONT, SIGTERM = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT, signal.SIGTERM

STORY = "Tell me a short story about a dog and a river and a little boat that sails to the sea. "
QUESTIONS = ["Hello!", "What is the capital of France?", "What is the opposite of hot?", STORY, STORY * 4, STORY * 12,
             "Which day comes after Monday?", "Repeat these words: apple river stone"]
