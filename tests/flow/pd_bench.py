"""bench/pd itself: the same requests for all, nothing lost in silence, figures that follow from what came, on the built-in model.
Its speeds are not looked at."""
import json
import os
import socket
import subprocess
import sys
import threading

from cluster import BIN, ROOT, SLOW, SMOLLM2, TINY, Suite

sys.path.insert(0, os.path.join(ROOT, "bench", "pd"))
import figures  # noqa: E402
from load import Call, Run  # noqa: E402
from servers import LLAMA_SERVER  # noqa: E402
from traffic import LONG, Shape, Traffic  # noqa: E402

SHAPE = Shape(list(range(100)), (30, 50), (4, 8), 2, (3, 5))


def prompts_of(traffic):
    return [(r.due, r.prompt, r.answer) for r in traffic.arrivals(20)]


def same_requests():
    a, b = Traffic(SHAPE, 7, 3.0), Traffic(SHAPE, 7, 3.0)
    b.of_stream(1, 4)  # asking for more changes nothing
    assert prompts_of(a) == prompts_of(b) and a.of_stream(1, 2) == b.of_stream(1, 2)
    assert a.of_stream(1, 2).prompt != a.of_stream(0, 2).prompt and a.of_stream(1, 2).prompt != a.of_stream(1, 3).prompt
    assert prompts_of(a) != prompts_of(Traffic(SHAPE, 8, 3.0))
    due = [at for at, _, _ in prompts_of(a)]
    assert due == sorted(due) and 30 <= len(due) <= 90, f"{len(due)} arrivals in 20 s at 3 a second"
    assert all(30 <= len(p) <= 50 and 4 <= n <= 8 for _, p, n in prompts_of(a))
    assert prompts_of(a)[:10] == [(r.due, r.prompt, r.answer) for r in a.arrivals(20)[:10]]
    assert not Traffic(SHAPE, 7, 0.0).arrivals(20)


class Fake:
    """A server that answers as many tokens as asked for, or does one thing wrong to every long prompt."""

    fields, model = {}, "fake"

    def __init__(self, fault):
        self.fault, self.held = fault, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(peer,), daemon=True).start()

    def answer(self, peer):
        stream = peer.makefile("rb")
        length = 0
        while (line := stream.readline().strip()):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        asked = json.loads(stream.read(length))
        fault = self.fault if len(asked["prompt"]) >= SHAPE.prompts[0] else None
        if fault == "silent":
            self.held.append((peer, stream))
            return
        if fault == "refused":
            self.send(peer, b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}")
        else:
            self.send(peer, self.events(asked, fault))
        stream.close()
        peer.close()

    @staticmethod
    def events(asked, fault):
        n, prompt = asked["max_tokens"] - (fault == "short"), len(asked["prompt"]) + (fault == "other prompt")
        events = [{"choices": [{"text": "x", "finish_reason": None}]}] * n
        events.append({"choices": [{"text": "", "finish_reason": "stop" if fault == "stopped" else "length"}]})
        events.append({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": n}})
        if fault == "error":
            events.append({"error": {"message": "out of order"}})
        lines = [b"data: " + json.dumps(e).encode() + b"\n\n" for e in events] + [b"data: [DONE]\n\n"] * (fault != "cut")
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in lines)
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"

    @staticmethod
    def send(peer, data):
        try:
            peer.sendall(data)
        except OSError:
            pass  # the client has seen enough

    def end(self):
        self.listener.close()
        for peer, stream in self.held:
            stream.close()
            peer.close()


def run_fake(fault):
    fake = Fake(fault)
    try:
        return Run(fake, Traffic(SHAPE, 7, 8.0), 0.2, 1.0, 1.0).run()
    finally:
        fake.end()


def nothing_is_lost_in_silence():
    for fault, text in (("refused", "answered 503"), ("cut", "cut after"), ("short", "completion_tokens is"), ("stopped", "ended with stop"),
                        ("other prompt", "prompt_tokens is"), ("error", "out of order"), ("silent", "were not answered")):
        errors = run_fake(fault).errors
        assert errors and text in errors[0], f"{fault}: {errors}"


def streams_stay_as_load():
    """Long prompts that arrived late are measured beside streams, too."""
    run = run_fake("silent")
    assert max(c.sent for c in run.calls if c.request.stream != LONG) > run.end + 0.5


def pieces_are_put_together():
    """Whatever they are: neither events nor chunks are respected."""
    request = Traffic(SHAPE, 7, 8.0).of_stream(0, 0)
    data = Fake.events({"max_tokens": request.answer, "prompt": request.prompt}, None)
    for size in (1, 2, 3, 7, 13, 50, len(data)):
        call = Call(request, Fake)
        for i in range(0, len(data), size):
            call.take(data[i:i + size], float(i))
        assert not call.wrong() and len(call.tokens) == request.answer, (size, call.wrong(), call.tokens)


def all_that_comes_is_counted():
    run = run_fake(None)
    assert not run.errors, run.errors
    assert all(len(c.tokens) == c.request.answer and not c.wrong() for c in run.calls)
    long = [c.request for c in run.calls if c.request.stream == LONG]
    assert long == Traffic(SHAPE, 7, 8.0).arrivals(1.2) and long, "others were sent than were drawn"
    assert {c.request.stream for c in run.calls} == {LONG, 0, 1}
    p = figures.point(run, "x", 10, 10)
    sent = [c for c in run.calls if run.begin <= c.due < run.end]
    assert p["requests"] == len(sent) and p["goodput_rps"] == len(sent) / 1.0 and p["events_per_token"] == 1, p
    assert figures.point(run, "x", 0, 10)["goodput_rps"] == 0, "no first token comes at once"


class Made:
    """A call of a run that never was: sent at a time, with tokens at others."""

    def __init__(self, sent, tokens, stream=LONG, prompt=10):
        self.due, self.sent, self.tokens, self.usage = sent, sent, tokens, {"completion_tokens": len(tokens)}
        self.request = Traffic(SHAPE, 1, 1.0).of_stream(0, 0)
        self.request.stream, self.request.prompt = stream, [0] * prompt

    def wrong(self):
        return None


def figures_follow():
    assert figures.percentile([], 50) is None and figures.percentile([3, 1, 2], 50) == 2
    assert figures.percentile(range(1, 101), 99) == 99 and figures.percentile(range(1, 11), 99) == 10
    run = type("R", (), {"begin": 10.0, "end": 20.0, "seconds": 10.0, "busy": 0.0, "traffic": Traffic(SHAPE, 1, 0.5)})
    run.calls = [Made(11, [12, 13, 15]), Made(9, [10.5, 12.5], stream=0), Made(19, [22, 23]), Made(5, [6, 7, 11]),
                 Made(9, [19, 26], stream=0)]
    p = figures.point(run, "x", 2, 2)
    assert (p["ttft_p50_ms"], p["ttft_p99_ms"]) == (1000, 3000), p  # those sent in the window
    assert (p["itl_p50_ms"], p["itl_max_ms"]) == (2000, 4000), p     # gaps that end in it: 1, 2, 2, 4
    assert (p["output_tps"], p["prompt_tps"], p["tokens_per_s"]) == (0.7, 3.0, 3.7), p
    assert (p["requests"], p["goodput_rps"]) == (2, 0.1), p          # the one sent at 19 came too late
    assert figures.point(run, "x", 3, 0.5)["goodput_rps"] == 0, "gaps count"


def made_point(name, rate, itl, tokens, goodput=1.0, **more):
    return {"configuration": name, "rate": rate, "itl_p99_ms": itl, "tokens_per_s": tokens, "goodput_rps": goodput, "ttft_p50_ms": 100,
            "ttft_p99_ms": 100, "itl_p50_ms": 10, "output_tps": tokens, "prompt_tps": tokens, **more}


def goals_follow():
    ours = made_point("1+1", 1, 30, 100, goodput=3)
    def met(*others):
        return [g["met"] for g in figures.goals([ours, *others])]
    assert met() == [None, None, None]
    assert met(made_point("agg:whole", 1, 90, 100)) == [True, True, None]
    assert met(made_point("agg:whole", 1, 89, 100)) == [False, True, None]
    assert met(made_point("agg:64", 1, 29, 96)) == [None, False, None]
    assert met(made_point("agg:64", 1, 29, 94)) == [None, True, None], "less throughput is no match"
    assert met(made_point("agg:64", 2, 29, 120)) == [None, False, None], "at any rate"
    assert met(made_point("llama", 1, 30, 50, goodput=1)) == [None, None, True]
    assert met(made_point("llama", 1, 30, 50, goodput=1), made_point("llama:64", 1, 30, 50, goodput=1.1)) == [None, None, False]
    assert met(made_point("llama", 2, 30, 50, goodput=9)) == [None, None, None], "under the same load"
    two = [ours, made_point("1+1", 2, 50, 200), made_point("agg:whole", 1, 100, 100), made_point("agg:whole", 2, 100, 100)]
    assert figures.goals(two)[0]["met"] is False, "one rate that misses is a miss"


def losses_and_frontiers_follow():
    ours = made_point("1+1", 1, 30, 100)
    lost = figures.losses([ours, made_point("agg:64", 1, 40, 100, ttft_p50_ms=50), made_point("agg:9", 1, 29, 104, ttft_p50_ms=60)])
    assert [(x["figure"], x["configuration"]) for x in lost] == [("ttft_p50_ms", "agg:64")], lost
    assert figures.losses([ours, made_point("agg:64", 1, 40, 200)])[0]["figure"] == "output_tps"
    assert not figures.losses([ours, made_point("agg:64", 2, 1, 900)]), "another load"
    points = [made_point("agg:1", 1, 30, 100), made_point("agg:2", 1, 20, 90), made_point("agg:3", 1, 40, 95), made_point("agg:4", 1, 50, 120)]
    assert [p["configuration"] for p in figures.frontier(points)] == ["agg:2", "agg:1", "agg:4"]
    middle = figures.median_point([made_point("agg:1", 1, x, 100, ttft_p50_ms=None) for x in (3, 1, 2)])
    assert middle["itl_p99_ms"] == 2 and middle["ttft_p50_ms"] is None and middle["configuration"] == "agg:1"


def bench(*options, model=TINY):
    command = [sys.executable, os.path.join(ROOT, "bench/pd/pd.py"), "--model", model, "--prompts", "300-500", "--answers", "8-16",
               "--streams", "3", "--stream-answers", "40-80", "--seconds", "3", "--warm", "0.5", "--drain", "60", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300 * SLOW, env={**os.environ, "BATON_TEST_BIN": BIN})
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def on_the_built_in_model():
    code, r = bench("--configurations", "agg:32,agg:whole,1+1,llama", "--rates", "2,6", "--rounds", "2")
    assert code == 0 and not r["errors"], r["errors"]
    points = {(p["configuration"], p["rate"]): p for p in r["points"]}
    assert set(points) == {(name, rate) for name in ("agg:32", "agg:whole", "1+1") for rate in (2, 6)}, sorted(points)
    for rate in (2, 6):
        sent = {points[name, rate]["long_prompts"] for name in ("agg:32", "agg:whole", "1+1")}
        assert len(sent) == 1 and min(sent) > 0, f"not all were sent the same: {sent} long prompts"
    for p in r["points"]:
        assert p["output_tps"] > 0 and p["prompt_tps"] > 0 and p["ttft_p99_ms"] >= p["ttft_p50_ms"] > 0, p
        assert p["itl_p99_ms"] >= p["itl_p50_ms"] >= 0 and p["tokens_per_s"] > p["output_tps"], p
    assert all(r["frontiers"][name] for name in ("agg", "1+1")) and len(r["goals"]) == 3
    assert any(note.startswith("llama:") for note in r["notes"]), r["notes"]


def prompts_computed_at_decode_are_an_error():
    code, r = bench("--configurations", "1+1", "--rates", "4", "--set", "decode.local_tokens=4096")
    assert code == 1 and "computed by the decode worker" in r["errors"][0], (code, r["errors"])


def beside_llama():
    code, r = bench("--configurations", "1+1,llama,llama:64", "--rates", "1", "--prompts", "60-100", "--answers", "4-8", "--streams", "2",
                    "--stream-answers", "8-16", "--drain", "200", model=SMOLLM2)
    assert code == 0 and {p["configuration"] for p in r["points"]} == {"1+1", "llama", "llama:64"}, (code, r["errors"], r["notes"])
    assert all(p["requests"] > 0 and p["events_per_token"] > 0.5 for p in r["points"]), r["points"]
    assert len(r["goals"][2]["at"]) <= 1 and not r["losses"]


def refuses_nonsense():
    for options, text in ((["--configurations", "agg:0"], "agg:0 is none of"), (["--prompts", "9-3"], "9-3 is no range"),
                          (["--rates", "x"], "x is no list"), (["--model", "/nowhere"], "no model /nowhere")):
        done = subprocess.run([sys.executable, os.path.join(ROOT, "bench/pd/pd.py"), *options], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and text in done.stderr, done.stderr


def main():
    suite = Suite()
    suite.test("the same requests for all", same_requests)
    suite.test("nothing is lost in silence", nothing_is_lost_in_silence)
    suite.test("streams stay as load", streams_stay_as_load)
    suite.test("pieces are put together", pieces_are_put_together)
    suite.test("all that comes is counted", all_that_comes_is_counted)
    suite.test("figures follow from what came", figures_follow)
    suite.test("goals follow from figures", goals_follow)
    suite.test("losses and frontiers follow from figures", losses_and_frontiers_follow)
    suite.test("options that make no sense are refused", refuses_nonsense)
    suite.test("on the built-in model", on_the_built_in_model)
    suite.test("prompts computed at decode are an error", prompts_computed_at_decode_are_an_error)
    if os.path.exists(LLAMA_SERVER) and SMOLLM2:
        suite.test("beside llama.cpp's server", beside_llama)
    else:
        suite.skip("beside llama.cpp's server", "it is not built (bench/peers/setup.sh --server), or SmolLM2 is not there")
    suite.finish()


main()
