"""A conversation of twelve turns on SmolLM2: each turn finds the longest common prefix, in full blocks, of its rendered ids and of
all that was computed for the turn before; its logits are those of a prompt that was computed whole.

    conversation.py          routes in turn, decode alone until the last turn, and all killed, twice: it comes from disk
    conversation.py --full   one route all the time, too, prefill killed before the last turn, and nothing fetched
"""
import http.client
import itertools
import json
import os
import shutil
import sys
import tempfile

from cluster import SIGKILL, SLOW, SMOLLM2, Cluster, Suite, send_signal, wait_for

BLOCK, TURNS, TOKENS, WAYS = 16, 12, 8, 6
SETS = ["worker.threads=1", "worker.pull_timeout=10s"]
MANAGED = ["worker.fetch=always", "kvbm.admission=all", "kvbm.kv_memory=256MiB", "kvbm.disk_timeout=10s", "kvbm.disk_size=1GiB",
           "kvbm.disk_segment=64MiB"]
TOPICS = ["rivers", "seven", "paper boats", "a cold market", "letters", "old engines", "stones", "the light", "green houses", "a bridge",
          "sugar", "the north", "a window"]
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that stand for themselves in the vocabulary
BYTES = {chr(b): b for b in PRINTABLE} | {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in PRINTABLE)}


def question(turn):
    return f"Tell me of {TOPICS[turn]} and then of {TOPICS[turn + 1]}, please."


def rendered(c, messages):
    """A prompt's token ids, and the bytes of each."""
    connection = http.client.HTTPConnection("127.0.0.1", c.port, timeout=60 * SLOW)
    try:
        connection.request("POST", "/tokenize", json.dumps({"model": c.model, "messages": messages, "return_token_strs": True}),
                           {"Content-Type": "application/json"})
        told = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return told["tokens"], [bytes(BYTES[character] for character in text) for text in told["token_strs"]]


ways = (f"way {n}" for n in itertools.count())


class Turn:
    """What was asked and answered, and what therefore has KV."""

    def __init__(self, c, messages, route, salt=None, **fields):
        self.ids, self.texts = rendered(c, messages)
        answer = c.ask("", messages=messages, route=route, max_tokens=TOKENS, logprobs=True, no_cache=salt is None, stream=False,
                       **({"cache_salt": salt} if salt else {}), **fields)
        assert not answer.error, answer.error
        assert answer.extra["route"] == route and answer.usage["prompt_tokens"] == len(self.ids), (answer.extra, answer.usage)
        self.text, self.hashes, self.timing = answer.text, answer.hashes, answer.extra["timing"]
        self.cached = answer.usage["prompt_tokens_details"]["cached_tokens"]
        said = [bytes(token["bytes"]) for token in answer.logprobs["content"]]
        self.known = self.texts + said[:answer.usage["completion_tokens"] - 1]  # the last token has no KV


def theory(turn, before):
    same, most = 0, min(len(turn.texts) - 1, len(before.known))
    while same < most and turn.texts[same] == before.known[same]:
        same += 1
    return same // BLOCK * BLOCK


def blocks_of(turn):
    """What names its full blocks: all that stands before their ends."""
    return {b"".join(turn.known[:end]) for end in range(BLOCK, len(turn.known) + 1, BLOCK)}


class Conversation:
    """The same questions each time, so that the answers are the same."""
    whole = {}  # by turn: computed whole

    def __init__(self, c, name):
        self.c, self.name, self.messages, self.before, self.turn, self.blocks = c, name, [], None, 0, set()

    def ask(self, route, fetches=True, tier="device"):
        """Prefill fetches what it lacks of what decode holds. The block that ended with the answer before may not have its checksum yet;
        then that one is computed again."""
        self.messages.append({"role": "user", "content": question(self.turn)})
        turn = Turn(self.c, self.messages, route, self.name)
        if self.turn not in self.whole:
            self.whole[self.turn] = Turn(self.c, self.messages, "local").hashes
        what = f"{self.name}, turn {self.turn}, {route}"
        held = theory(turn, self.before) if self.before else 0
        told = turn.timing["cached_tokens"]
        assert turn.cached == held == told[tier], f"{what}: {held} tokens in theory, {turn.cached} cached: {told}"
        n, computed = len(turn.ids), turn.timing["computed_tokens"]
        wants = (n - held,) if route == "local" else (n - held, n - held + BLOCK) if fetches else (n,)
        assert computed in wants, f"{what}: {n} tokens, {held} found, {computed} computed, not {wants}"
        assert turn.hashes == self.whole[self.turn], f"{what}: other logits"
        self.messages.append({"role": "assistant", "content": turn.text})
        self.before, self.turn, self.blocks = turn, self.turn + 1, self.blocks | blocks_of(turn)
        return held


def pulled(c):
    return sum(c.metrics(w).get('baton_worker_pull_blocks_total{holder="worker"}', 0) for w in c.workers("prefill"))


def open_way(c):
    """The first prefill that wants decode's blocks may find the way closed."""
    def fetched():
        salt, messages = next(ways), [{"role": "user", "content": question(0) * 3}]
        Turn(c, messages, "local", salt)
        turn = Turn(c, messages, "remote", salt)
        assert turn.cached > 0, turn.timing
        return turn.timing["computed_tokens"] == len(turn.ids) - turn.cached
    wait_for("prefill to be used", lambda: c.ask("Hello!", route="remote", no_cache=True, max_tokens=1).extra["route"] == "remote", 20)
    wait_for("the way from prefill to decode", fetched, 30)


def routes(c, name, *pattern):
    talk = Conversation(c, name)
    held = [talk.ask(pattern[i % len(pattern)]) for i in range(TURNS)]
    assert held[0] == 0 and all(b > a for a, b in zip(held[1:], held[2:])) and held[-1] > 8 * BLOCK, held
    c.wait_nothing_left()


def fetched_whole(c, talk):
    """Of the last turn prefill fetches all that decode has, but for a last block whose checksum may not be known yet."""
    before = pulled(c)
    held = talk.ask("remote")
    assert held > 8 * BLOCK and pulled(c) - before in (held // BLOCK, held // BLOCK - 1), (before, pulled(c), held)
    c.wait_nothing_left()


def decode_alone(c):
    """Prefill has never seen the conversation when it is asked, and fetches all of it from decode."""
    talk = Conversation(c, "decode alone")
    for _ in range(TURNS - 1):
        talk.ask("local")
    fetched_whole(c, talk)


def prefill_killed(c):
    """Prefill had the conversation, and lost it."""
    talk = Conversation(c, "prefill killed")
    for _ in range(TURNS - 1):
        talk.ask("remote")
    send_signal(c.pid("prefill"), SIGKILL)
    c.wait_healed(1, 1)
    open_way(c)
    fetched_whole(c, talk)


def nothing_fetched(c):
    """Prefill computes all of it again; decode found what it holds, all the same."""
    talk = Conversation(c, "nothing fetched")
    for _ in range(TURNS - 1):
        talk.ask("local")
    talk.ask("remote", fetches=False)
    c.wait_nothing_left()


def on_disk(c, n):
    wait_for(f"the disk to have {n} blocks", lambda: c.metrics(c.workers("kvbm")[0]).get('baton_kvbm_blocks{tier="disk"}', 0) >= n, 60)


class Way:
    """A prompt that is on disk, too: the first that want a way to the manager may find it closed, and are computed."""

    def __init__(self, c, route):
        self.c, self.route, self.salt, self.messages = c, route, next(ways), [{"role": "user", "content": question(0) * 3}]
        self.blocks = len(blocks_of(self.ask()))

    def ask(self):
        return Turn(self.c, self.messages, self.route, self.salt)

    def is_open(self):
        return self.ask().timing["cached_tokens"]["disk"] > 0


def restart_all(c, talk, others):
    """Workers and manager are killed; `others` are blocks on disk that are none of the conversation's. Returns how many those are now."""
    tries = [Way(c, route) for _ in range(WAYS) for route in ("local", "remote")]
    others += sum(way.blocks for way in tries)
    on_disk(c, len(talk.blocks) + others)
    for role in ("kvbm", "decode", "prefill"):
        send_signal(c.pid(role), SIGKILL)
    c.wait_healed(1, 1)
    wait_for("prefill to be used", lambda: c.ask("Hello!", route="remote", no_cache=True, max_tokens=1).extra["route"] == "remote", 20)
    on_disk(c, len(talk.blocks) + others)
    for route in ("local", "remote"):
        assert any(way.is_open() for way in tries if way.route == route), f"{route}: nothing comes from disk"
    return others


def all_killed(c):
    """Before a turn in the middle, and before the last one: what they had is on disk."""
    talk, others = Conversation(c, "all killed"), 0
    for turn in range(TURNS):
        killed = turn in (TURNS // 2, TURNS - 1)
        if killed:
            others = restart_all(c, talk, others)
        held = talk.ask(("local", "remote")[turn % 2], tier="disk" if killed else "device")
    assert held > 8 * BLOCK, held
    c.wait_nothing_left()


def main():
    suite, full = Suite(), "--full" in sys.argv
    if not SMOLLM2:
        suite.skip("conversation", "the model is not there")
        suite.finish()
    with Cluster(model=SMOLLM2, sets=SETS + ["worker.fetch=always"], extra=["--kvbm", "0"]) as c:
        open_way(c)
        suite.test("both routes in turn", routes, c, "both", "local", "remote")
        suite.test("decode alone until the last turn", decode_alone, c)
        if full:
            suite.test("all at decode", routes, c, "local", "local")
            suite.test("all at prefill", routes, c, "remote", "remote")
            suite.test("prefill killed before the last turn", prefill_killed, c)
    disk = tempfile.mkdtemp(prefix="baton-kv-")
    try:
        with Cluster(model=SMOLLM2, sets=SETS + MANAGED, extra=["--kv-disk", os.path.join(disk, "kv")]) as c:
            suite.test("all killed, twice", all_killed, c)
    finally:
        shutil.rmtree(disk, ignore_errors=True)
    if full:
        with Cluster(model=SMOLLM2, sets=SETS + ["worker.fetch=never"], extra=["--kvbm", "0"]) as c:
            suite.test("nothing fetched", nothing_fetched, c)
    suite.finish()


main()
