"""`baton bench serve` on a real cluster: what it counts is what the router counted, conversations find their KV again, servers that
go away or stand still end it in time, and runs that are not alike are not compared."""
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time

from cluster import BIN, SLOW, Cluster, Suite, wait_for


def command(c, folder, *options):
    return [os.path.join(BIN, "baton"), "bench", "serve", "--state-dir", c.dir, "--baselines", folder, *options]


def bench(c, folder, *options, code=0, timeout=120):
    done = subprocess.run(command(c, folder, *options), capture_output=True, text=True, timeout=timeout * SLOW)
    assert done.returncode == code, f"{options}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def measure(c, folder, *options, **more):
    return json.loads(bench(c, folder, "--json", *options, **more).stdout)


def router_counts(c):
    metrics = c.metrics(c.workers("router")[0])
    return {"requests": metrics.get('baton_router_requests_total{endpoint="chat",code="200"}', 0),
            **{kind: sum(n for key, n in metrics.items() if key.startswith("baton_router_tokens_total{") and f'kind="{kind}"' in key)
               for kind in ("prompt", "answer")},
            "cached": sum(n for key, n in metrics.items() if key.startswith("baton_router_cached_tokens_total{"))}


def grown(c, before, key, by):
    """The router counts an answer after its last byte has left."""
    wait_for(f"the router to have counted {by} {key}", lambda: router_counts(c)[key] - before[key] >= by, 10)
    return router_counts(c)[key] - before[key]


def counts_are_the_routers(c, folder):
    before = router_counts(c)
    records = os.path.join(folder, "records")
    told = measure(c, folder, "--rate", "20", "--requests", "60", "--input", "uniform:20,80", "--output", "normal:12,4", "--records", records)
    requests = told["requests"]
    assert requests["n"] == requests["done"] == 60 and not told["errors"], told
    assert grown(c, before, "requests", 60) == 60
    assert grown(c, before, "prompt", requests["prompt_tokens"]) == requests["prompt_tokens"], requests
    assert grown(c, before, "answer", requests["output_tokens"]) == requests["output_tokens"], requests
    assert requests["output_tokens"] == requests["wanted_output_tokens"], requests
    with open(records) as file:
        lines = [json.loads(line) for line in file]
    assert len(lines) == 60 and len({line["prompt_tokens"] - line["wanted_input"] for line in lines}) == 1, "the template's tokens"
    assert all(line["due_ms"] <= line["sent_ms"] <= line["first_ms"] <= line["last_ms"] <= line["done_ms"] for line in lines), lines
    assert all(line["events"] <= line["output_tokens"] for line in lines), lines
    ttft = told["latency_ms"]["ttft"]
    assert 0 < ttft["min"] <= ttft["p50"] <= ttft["p99"] <= ttft["max"] <= told["latency_ms"]["e2e"]["max"], ttft
    assert told["latency_ms"]["ttft_sent"]["mean"] <= ttft["mean"], "from sent is shorter than from due"


def conversations_are_cached(c, folder):
    records = os.path.join(folder, "records")
    before = router_counts(c)
    told = measure(c, folder, "--concurrency", "3", "--requests", "36", "--turns", "4", "--input", "40", "--output", "12",
                   "--prefixes", "1", "--prefix-tokens", "100", "--slo-ttft", "60s", "--slo-itl", "60s", "--records", records)
    assert told["requests"]["done"] == 36 and told["throughput"]["attained"] == 1, told
    assert told["throughput"]["goodput_per_s"] == told["throughput"]["requests_per_s"], told["throughput"]
    assert grown(c, before, "cached", told["requests"]["cached_tokens"]) == told["requests"]["cached_tokens"]
    with open(records) as file:
        lines = [json.loads(line) for line in file]
    talks = {}
    for line in lines:
        talks.setdefault(line["conversation"], []).append(line)
    turns = {number: [t["turn"] for t in talk] for number, talk in talks.items()}
    assert all(t == list(range(len(t))) for t in turns.values()) and sum(len(t) == 4 for t in turns.values()) >= 6, turns
    for talk in talks.values():
        told = [(t["sent_ms"], t["done_ms"], t["prompt_tokens"], t["cached_tokens"]) for t in talk]
        assert all(b[0] > a[1] and b[2] > a[2] + 40 and b[3] > a[2] - 16 for a, b in zip(told, told[1:])), told


def traces_are_replayed(c, folder):
    path, records = os.path.join(folder, "t.csv"), os.path.join(folder, "records")
    with open(path, "w") as file:
        file.write("arrival_s,input_tokens,output_tokens,blocks\n0,600,5,1 2\n1,600,6,1 2\n4,700,7,1 3\n4,50,8,\n")
    told = measure(c, folder, "--trace", path, "--speed", "4", "--length-scale", "0.5", "--records", records)
    with open(records) as file:
        lines = [json.loads(line) for line in file]
    assert [line["due_ms"] for line in lines] == [0, 250, 1000, 1000], lines
    assert [line["wanted_input"] for line in lines] == [300, 300, 350, 25], lines
    assert [line["wanted_output"] for line in lines] == [3, 3, 4, 4], lines
    assert told["requests"]["seconds"] > 1
    tokens = [line["cached_tokens"] for line in lines]
    assert tokens[0] == 0 and tokens[3] < 100 and tokens[1] >= 256 and tokens[2] >= 240, tokens


def page_needs_nothing_else(c, folder):
    path = os.path.join(folder, "page.html")
    lost = bench(c, folder, "--rate", "20", "--html", os.path.join(folder, "none", "page.html"), code=1)
    assert "none/page.html" in lost.stderr and not lost.stdout, lost
    other = bench(c, folder, "--rate", "20", "--model", "nobody", code=1)
    assert f'no model "nobody", but {c.model}' in other.stderr, other
    done = bench(c, folder, "--rate", "20", "--requests", "10", "--output", "4", "--html", path)
    assert "10 done" in done.stdout and "first token, from due" in done.stdout, done.stdout
    with open(path) as file:
        page = file.read()
    assert page.count("<svg") == 4 and not re.search(r"(src|href)=|<script|https?://(?!127\.0\.0\.1)", page), page[:300]


def while_running(c, folder, act, *options):
    """Acts once the load runs, and returns what it told and how long it took after that."""
    with subprocess.Popen(command(c, folder, "--json", *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        before = router_counts(c)["requests"]
        wait_for("the load to run", lambda: router_counts(c)["requests"] > before + 3, 30)
        act(process)
        begin = time.monotonic()
        out, errors = process.communicate(timeout=60 * SLOW)
        return process.returncode, json.loads(out), time.monotonic() - begin, errors


def killed_server(c, folder):
    router = c.workers("router")[0]["pid"]
    code, told, _, errors = while_running(c, folder, lambda _: os.kill(router, signal.SIGKILL), "--rate", "30", "--duration", "3s",
                                          "--output", "40", "--timeout", "10s")
    assert code == 0, errors
    kinds = {kind: told["errors"][kind]["n"] for kind in told["errors"]}
    failed = told["requests"]["n"] - told["requests"]["done"]
    assert kinds and set(kinds) <= {"closed", "not connected", "refused", "broke off"} and sum(kinds.values()) == failed > 0, told["errors"]
    assert all(told["errors"][kind]["first"] for kind in kinds), told["errors"]
    c.wait_healed(1, 1)


def silent_server(c, folder):
    router = c.workers("router")[0]["pid"]
    wake = threading.Timer(20 * SLOW, lambda: os.kill(router, signal.SIGCONT))
    wake.start()
    try:
        code, told, took, errors = while_running(c, folder, lambda _: os.kill(router, signal.SIGSTOP), "--rate", "20", "--duration", "2s",
                                                 "--timeout", "1s", "--connections", "4", "--output", "30")
    finally:
        wake.cancel()
        os.kill(router, signal.SIGCONT)
    assert code == 0 and took < 8 * SLOW, (took, errors)
    kinds = {kind: told["errors"][kind]["n"] for kind in told["errors"]}
    assert kinds["timed out"] >= 1 and set(kinds) <= {"timed out", "not connected", "not sent"}, told["errors"]
    assert told["client"]["waited_for_connection"] > 0 and any("--connections" in note for note in told["notes"]), told
    assert told["latency_ms"]["ttft"]["max"] >= told["latency_ms"]["ttft_sent"]["max"], told["latency_ms"]
    c.wait_nothing_left()


def interrupted(c, folder):
    code, told, took, _ = while_running(c, folder, lambda process: process.send_signal(signal.SIGINT), "--concurrency", "2", "--duration", "60s",
                                        "--output", "10")
    assert code == 130 and told["interrupted"] and took < 20 * SLOW and told["requests"]["done"] > 0, told
    assert set(told["errors"]) <= {"not sent"}, told["errors"]


def refused_requests_are_told(c, folder):
    """Longer than the model's context."""
    done = bench(c, folder, "--rate", "20", "--requests", "5", "--input", "6000", "--json", code=1)
    told = json.loads(done.stdout)
    assert told["http_statuses"] == {"400": 5} and told["errors"]["refused"]["n"] == 5, told
    assert told["errors"]["refused"]["first"].startswith("400: "), told
    assert "no request was answered" in done.stderr, done.stderr


def baselines(c, folder):
    same = ["--rate", "20", "--requests", "20", "--output", "8"]
    bench(c, folder, *same, "--save-baseline", "before")
    compared = bench(c, folder, *same, "--against", "before").stdout
    assert re.search(r"first token, from due, p50, ms +[0-9.]+ +[0-9.]+ +[0-9.]+", compared), compared
    for options, word in ((["--seed", "2"], "traffic"), (["--output", "9"], "traffic"), (["--cache", "as-found"], "cache"),
                          (["--fact", "transport=tcp"], "transport"), (["--fact", "hardware=a larger one"], "hardware"),
                          (["--fact", "versions=other"], "versions"), (["--fact", "tokenizer=other"], "tokenizer")):
        before = router_counts(c)["requests"]
        refused = bench(c, folder, *same, *options, "--against", "before", code=1)
        assert re.search(f"^{word}: ", refused.stderr, re.M) and "nothing was sent" in refused.stderr, refused.stderr
        assert router_counts(c)["requests"] == before
    unknown = subprocess.run([os.path.join(BIN, "baton"), "bench", "serve", "--url", c.url, "--baselines", folder, *same, "--against", "before"],
                             capture_output=True, text=True, timeout=60 * SLOW)
    assert unknown.returncode == 1 and "transport: of this run it is not known" in unknown.stderr, unknown.stderr
    assert "there is no baseline" in bench(c, folder, *same, "--against", "other", code=1).stderr
    assert "no name of a baseline" in bench(c, folder, *same, "--against", "../x", code=2).stderr


def wrong_options():
    def refuse(word, *options):
        done = subprocess.run([os.path.join(BIN, "baton"), "bench", "serve", *options], capture_output=True, text=True, timeout=30 * SLOW)
        assert done.returncode == 2 and word in done.stderr, (options, done)
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as trace:
        trace.write("arrival_s,input_tokens,output_tokens\n0,5,5\n")
        trace.flush()
        refuse("--concurrency N", "--duration", "1s")
        refuse("give one", "--rate", "1", "--concurrency", "1")
        refuse("--speed", "--rate", "1", "--speed", "2")
        refuse("--length-scale", "--rate", "1", "--length-scale", "2")
        refuse("--input", "--trace", trace.name, "--input", "5")
        refuse("--prefix-tokens", "--rate", "1", "--prefixes", "2")
        refuse("uniform:LOW,HIGH", "--rate", "1", "--input", "uniform:5")
        refuse("500ms", "--rate", "1", "--slo-ttft", "5")
        refuse("--warmup", "--rate", "1", "--requests", "5", "--warmup", "5")
        refuse("transport", "--rate", "1", "--fact", "model=x")
        refuse("--connections", "--concurrency", "1", "--connections", "5")
        refuse("line 1", "--trace", __file__)


def main():
    suite = Suite()
    suite.test("wrong options are told", wrong_options)
    with tempfile.TemporaryDirectory() as folder, Cluster() as c:
        for name, function in (("counts are the router's", counts_are_the_routers), ("conversations are cached", conversations_are_cached),
                               ("traces are replayed", traces_are_replayed), ("the page needs nothing else", page_needs_nothing_else),
                               ("refused requests are told", refused_requests_are_told), ("baselines", baselines),
                               ("an interrupted run tells what it has", interrupted), ("a silent server", silent_server),
                               ("a killed server", killed_server)):
            suite.test(name, function, c, folder)
    suite.finish()


main()
