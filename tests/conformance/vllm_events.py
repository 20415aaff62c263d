"""KV events as vLLM has them: structs in its field order, its publisher, and a follower of it; with msgspec and pyzmq."""
import threading
import time

import msgspec
import zmq

END = (2**64 - 1).to_bytes(8, "big")
Hash = bytes | int


def structs(array_like, **trailing):
    """The classes of one version of vLLM; trailing: fields that later versions add to BlockStored."""
    common = {"array_like": array_like, "omit_defaults": True}
    event = {**common, "tag": True}
    stored = msgspec.defstruct("BlockStored", [
        ("block_hashes", list[Hash]), ("parent_block_hash", Hash | None), ("token_ids", list[int]), ("block_size", int),
        ("lora_id", int | None), ("medium", str | None), ("lora_name", str | None), ("extra_keys", list | None, None),
        ("group_idx", int | None, None), *((name, object, None) for name in trailing)], **event)
    removed = msgspec.defstruct("BlockRemoved", [("block_hashes", list[Hash]), ("medium", str | None),
                                                 ("group_idx", int | None, None), ("later", object, None)], **event)
    cleared = msgspec.defstruct("AllBlocksCleared", [], **event)
    batch = msgspec.defstruct("KVEventBatch", [("ts", float), ("events", list[stored | removed | cleared]),
                                               ("data_parallel_rank", int | None, None)], **common)
    return batch, stored, removed, cleared


class Publisher:
    """As vLLM's: numbers from 0, a ring, and a ROUTER that repeats it."""

    def __init__(self, ring=1000):
        self.context = zmq.Context()
        self.pub, self.router = self.context.socket(zmq.PUB), self.context.socket(zmq.ROUTER)
        self.endpoint = f"tcp://127.0.0.1:{self.pub.bind_to_random_port('tcp://127.0.0.1')}"
        self.replay = f"tcp://127.0.0.1:{self.router.bind_to_random_port('tcp://127.0.0.1')}"
        self.ring, self.size, self.number = [], ring, 0
        self.lock, self.done = threading.Lock(), False
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def publish(self, batch, lose=False):
        payload = msgspec.msgpack.encode(batch)
        with self.lock:
            if not lose:
                self.pub.send_multipart((b"kv-events", self.number.to_bytes(8, "big"), payload))
            self.ring = (self.ring + [(self.number, payload)])[-self.size:]
            self.number += 1

    def serve(self):
        while not self.done:
            if not self.router.poll(20):
                continue
            client, empty, start = self.router.recv_multipart()
            with self.lock:
                for number, payload in self.ring:
                    if number >= int.from_bytes(start, "big"):
                        self.router.send_multipart((client, empty, number.to_bytes(8, "big"), payload))
            self.router.send_multipart((client, empty, END, b""))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.done = True
        self.thread.join()
        self.context.destroy(0)


class Follower:
    """Follows one publisher as an engine's own router would: what comes live, and what was missed by asking for it."""

    def __init__(self, endpoint, replay):
        self.batch, self.stored, self.removed, self.cleared = structs(True)
        self.context = zmq.Context()
        self.sub, self.dealer = self.context.socket(zmq.SUB), self.context.socket(zmq.DEALER)
        self.sub.connect(endpoint)
        self.sub.subscribe(b"kv")
        self.dealer.connect(replay)
        self.blocks, self.next, self.tokens, self.heard = set(), 0, {}, 0

    def apply(self, number, payload):
        if self.next and number < self.next:
            return
        self.next, self.heard = number + 1, time.monotonic()
        for event in msgspec.msgpack.decode(payload, type=self.batch).events:
            if isinstance(event, self.cleared):
                self.blocks.clear()
            elif isinstance(event, self.removed):
                self.blocks.difference_update(event.block_hashes)
            else:
                assert event.medium == "GPU" and all(len(name) == 16 for name in event.block_hashes), event
                self.blocks.update(event.block_hashes)
                for i, name in enumerate(event.block_hashes):
                    self.tokens[name] = event.token_ids[i * event.block_size:(i + 1) * event.block_size]

    def ask(self, seconds=10):
        """Everything from the next batch on; the first time, and after too long a gap, all there is."""
        self.dealer.send_multipart((b"", self.next.to_bytes(8, "big")))
        while self.dealer.poll(seconds * 1000):
            _, number, payload = self.dealer.recv_multipart()
            if number == END:
                self.heard = time.monotonic()
                return
            self.apply(int.from_bytes(number, "big"), payload)
        raise AssertionError("no end of the answer came")

    def now(self):
        """The blocks there are, as far as one can tell."""
        if not self.next:
            self.ask()
        while self.sub.poll(0):
            _, number, payload = self.sub.recv_multipart()
            number = int.from_bytes(number, "big")
            if number > self.next:
                self.ask()
            self.apply(number, payload)
        if time.monotonic() > self.heard + 0.5:
            self.ask()
        return self.blocks

    def close(self):
        self.context.destroy(0)
