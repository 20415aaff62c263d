"""KV events between Baton and others: structs in vLLM's field order, written and read by msgspec, over pyzmq; replay as vLLM's
publisher and its example of a subscriber do it.

    kv_events.py        $BATON_TEST_BIN names the folder of the programs; needs msgspec and pyzmq
"""
import os
import pathlib
import subprocess
import sys
import time

import msgspec
import zmq

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/flow"))

from cluster import BIN, Suite
from vllm_events import END, Publisher, structs

PROGRAM = os.path.join(BIN, "tests", "kv_events_main")
DEADLINE_S = 60


class Program:
    """kv_events_main with its two pipes."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen([PROGRAM, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self):
        return self.process.stdout.readline().strip()

    def ask(self):
        """One line in; the lines up to the answer's end."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        lines = []
        while not (line := self.line()).startswith("."):
            assert line or self.process.poll() is None, "kv_events_main ended"
            lines.append(line)
        return lines, "complete" in line

    def until(self, enough):
        lines, end = [], time.monotonic() + DEADLINE_S
        while not enough(lines):
            assert time.monotonic() < end, f"only this came: {lines}"
            lines += self.ask()[0]
            time.sleep(0.02)
        return lines

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        assert self.process.wait(DEADLINE_S) == 0
        self.process.stdout.close()


def expected(hash_):
    return hash_.hex() if isinstance(hash_, bytes) else f"{0 if hash_ >= 0 else 2**64 - 1:016x}{hash_ % 2**64:016x}"


def theirs_to_ours(array_like):
    batch, stored, removed, cleared = structs(array_like, kv_cache_spec_kind="", locality="")
    names = [bytes(range(16)), 5, -7, 2**64 - 1]
    with Publisher() as p, Program("follow", p.endpoint, p.replay) as program:
        p.publish(batch(ts=time.time(), events=[
            cleared(), stored(names, None, list(range(16)), 4, None, "GPU", "poet", [None, ("salt",), None, None], 0, "full", {"a": [1]}),
            removed(names[:1], "CPU", 0, {"b": None})], data_parallel_rank=3))
        lines = [each for each in program.until(lambda lines: len([x for x in lines if x != "forget"]) >= 3) if each != "forget"]
    assert lines[0].startswith("cleared")
    tokens = ",".join(map(str, range(16)))
    assert lines[1] == f"stored GPU size=4 tokens={tokens} adapter=poet extra=1 parent= {' '.join(map(expected, names))}", lines[1]
    assert lines[2].startswith("removed CPU") and lines[2].endswith(expected(names[0])), lines[2]


def lost_batches_are_asked_for():
    batch, stored, _, _ = structs(True)
    def one(n):
        return batch(ts=time.time(), events=[stored([n], None, [], 4, None, "GPU", None)])
    with Publisher() as p, Program("follow", p.endpoint, p.replay) as program:
        for n in range(40):
            p.publish(one(n), lose=n % 3 == 1 or n > 35)
        lines = program.until(lambda lines: sum(x.startswith("stored") for x in lines) >= 40)
    assert [each.split()[-1] for each in lines if each.startswith("stored")] == [expected(n) for n in range(40)]


def without_replay():
    batch, stored, _, _ = structs(False)
    with Publisher() as p, Program("follow", p.endpoint, "-") as program:
        def send(lines):
            p.publish(batch(ts=time.time(), events=[stored([b"x" * 32], None, [1, 2], 2, None, None, None)]))
            return any(x.startswith("stored GPU size=2 tokens=1,2") for x in lines)
        program.until(send)


def ours_to_theirs(form):
    batch, stored, _, _ = structs(True)
    context = zmq.Context()
    with Program("publish", 1000, form, "tokens") as program:
        pub, _ = program.line().split()
        sub = context.socket(zmq.SUB)
        sub.connect(pub)
        sub.subscribe(b"kv")
        end = time.monotonic() + DEADLINE_S
        while not sub.poll(20):
            assert time.monotonic() < end
            program.ask()
        topic, number, payload = sub.recv_multipart()
        assert topic == b"kv" and len(number) == 8
        got = msgspec.msgpack.decode(payload, type=batch)
        event = got.events[0]
        n = event.token_ids[0]
        name = n.to_bytes(4, "big") * 2 + n.to_bytes(8, "big") if form == "bytes" else n
        assert event.block_hashes == [name] and event.token_ids == [n, 1, 70000, 2**32 - 1] and event.block_size == 4
        assert event.medium == "GPU" and got.data_parallel_rank == 0 and abs(got.ts - time.time()) < DEADLINE_S
    context.destroy(0)


def replay_as_in_vllms_example():
    """The last 10 batches are held: what is older comes as a dump."""
    batch, stored, _, cleared = structs(True)
    context = zmq.Context()
    with Program("publish", 10, "bytes", "none") as program:
        pub, replay = program.line().split()
        sub = context.socket(zmq.SUB)
        sub.connect(pub)
        sub.subscribe(b"kv")
        while not sub.poll(20):
            program.ask()
        first = int.from_bytes(sub.recv_multipart()[1], "big")
        known = 1 + first
        for _ in range(30):
            program.ask()

        def ask(start):
            dealer = context.socket(zmq.DEALER)
            dealer.connect(replay)
            dealer.send_multipart((b"", start.to_bytes(8, "big")))
            answers = []
            while dealer.poll(DEADLINE_S * 1000):
                _, number, payload = dealer.recv_multipart()
                if not payload:
                    assert number == END
                    return answers
                answers.append((int.from_bytes(number, "big"), msgspec.msgpack.decode(payload, type=batch)))
            raise AssertionError("no end of the answer came")

        newest = first + 30
        held = ask(newest - 4)
        assert [number for number, _ in held] == list(range(newest - 4, newest + 1))
        assert all(not event.token_ids for _, each in held for event in each.events)
        assert not ask(newest + 1)
        dump = ask(known)
        assert [number for number, _ in dump] == list(range(newest - len(dump) + 1, newest + 1))
        events = [event for _, each in dump for event in each.events]
        assert isinstance(events[0], cleared) and not any(isinstance(each, cleared) for each in events[1:])
        blocks = [int.from_bytes(name, "big") % 2**32 for each in events[1:] for name in each.block_hashes]
        assert blocks == list(range(len(blocks))) and len(blocks) >= 31
        rude = context.socket(zmq.DEALER)
        rude.connect(replay)
        for frames in ([b"x"], [b"", b"short"], [b"", b"12345678", b"more"], [b"y" * 100, b"12345678"]):
            rude.send_multipart(frames)
        assert ask(newest) == held[-1:]
    context.destroy(0)


def ours_to_ours():
    with Program("publish", 10, "bytes", "none") as publisher:
        pub, replay = publisher.line().split()
        for _ in range(50):
            publisher.ask()
        with Program("follow", pub, replay, "dumps") as follower:
            blocks = lambda lines: len({x.split()[-1] for x in lines if x.startswith("stored")})
            follower.until(lambda lines: blocks(lines) >= 50)
            for _ in range(20):
                publisher.ask()
            follower.until(lambda lines: blocks(lines) >= 20)
            end = time.monotonic() + DEADLINE_S
            while not follower.ask()[1]:
                assert time.monotonic() < end
                time.sleep(0.05)


def main():
    suite = Suite()
    suite.test("arrays of msgspec, with fields that are not known, are read", theirs_to_ours, True)
    suite.test("maps of msgspec, as newer vLLM writes, are read", theirs_to_ours, False)
    suite.test("lost batches are asked for", lost_batches_are_asked_for)
    suite.test("a publisher without replay is followed", without_replay)
    suite.test("ours are read by msgspec, hashes as bytes", ours_to_theirs, "bytes")
    suite.test("ours are read by msgspec, hashes as integers", ours_to_theirs, "integers")
    suite.test("replay as in vLLM's example, and a dump", replay_as_in_vllms_example)
    suite.test("ours to ours", ours_to_ours)
    suite.finish()


main()
