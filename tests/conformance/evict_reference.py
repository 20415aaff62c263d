"""Hit rates of eviction policies on a trace, computed without Baton's code; what `baton bench evict` prints must be the same.

    evict_reference.py [--capacity TOKENS]... TRACE...           prints its own figures, and two other ways to count
    evict_reference.py --check [--capacity TOKENS]... TRACE...   compares the hits with those of `baton bench evict`

A hit is a block of a prompt's leading run: the blocks up to the first that is missing. A request's blocks are pinned until it ends.
"""
import argparse
import heapq
import json
import os
import subprocess
import sys
from collections import OrderedDict

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("BATON_TEST_BIN") or os.path.join(ROOT, "build/release/bin")
BLOCK_TOKENS = 512


def leading_run(ids, here):
    return next((i for i, block in enumerate(ids) if block not in here), len(ids))


class Fifo:
    """One queue, oldest first."""

    def __init__(self, capacity):
        self.capacity, self.queue, self.pinned = capacity, OrderedDict(), set()

    def __contains__(self, block):
        return block in self.queue

    def hit(self, block):
        pass

    def add(self, block, parent):
        if len(self.queue) == self.capacity:
            victim = next((b for b in self.queue if b not in self.pinned), None)
            if victim is None:
                return False
            del self.queue[victim]
        self.queue[block] = True
        return True

    def unpin(self, blocks):
        self.pinned.difference_update(blocks)


class Lru(Fifo):
    def hit(self, block):
        self.queue.move_to_end(block)


class S3Fifo:
    """Yang et al., SOSP 2023. A block that comes to a tail and may not go waits outside and comes back to the tail."""

    def __init__(self, capacity, small=0.1, hits_to_main=2, ghosts=0.9, ghosts_of_main=False, leaf_first=False, count_ghosts=False):
        self.capacity, self.small_limit, self.hits_to_main = capacity, int(capacity * small), hits_to_main
        self.ghost_limit, self.ghosts_of_main, self.leaf_first = int(capacity * ghosts), ghosts_of_main, leaf_first
        self.count_ghosts = count_ghosts
        self.queues = {"small": OrderedDict(), "main": OrderedDict()}
        self.queue_of, self.hits, self.parent, self.children = {}, {}, {}, {}
        self.pinned, self.waiting, self.ghosts, self.n_small, self.made = set(), set(), {}, 0, 0

    def __contains__(self, block):
        return block in self.queue_of or (self.count_ghosts and self.is_ghost(block))

    def is_ghost(self, block):
        return block in self.ghosts and self.made - self.ghosts[block] <= self.ghost_limit

    def hit(self, block):
        if block in self.hits:
            self.hits[block] = min(3, self.hits[block] + 1)

    def may_go(self, block):
        return block not in self.pinned and not (self.leaf_first and self.children[block])

    def recheck(self, block):
        if block in self.waiting and self.may_go(block):
            self.waiting.remove(block)
            queue = self.queues[self.queue_of[block]]
            queue[block] = True
            queue.move_to_end(block, last=False)

    def evict(self):
        small, main = self.queues["small"], self.queues["main"]
        while small or main:
            from_small = bool(small) and (self.n_small > self.small_limit or not main)
            block, _ = (small if from_small else main).popitem(last=False)
            if self.hits[block] >= (self.hits_to_main if from_small else 1):
                self.hits[block] = 0 if from_small else self.hits[block] - 1
                self.n_small -= from_small
                self.queue_of[block] = "main"
                main[block] = True
            elif not self.may_go(block):
                self.waiting.add(block)
            else:
                self.leave(block, from_small)
                return True
        return False

    def leave(self, block, from_small):
        self.n_small -= from_small
        if from_small or self.ghosts_of_main:
            self.made += 1
            self.ghosts[block] = self.made - 1
        parent = self.parent.pop(block)
        del self.queue_of[block], self.hits[block], self.children[block]
        if self.leaf_first and parent is not None:
            self.children[parent] -= 1
            self.recheck(parent)

    def add(self, block, parent):
        if len(self.queue_of) == self.capacity and not self.evict():
            return False
        came_back = self.is_ghost(block)
        self.ghosts.pop(block, None)
        name = "main" if came_back else "small"
        self.n_small += not came_back
        self.queue_of[block], self.hits[block], self.parent[block], self.children[block] = name, 0, parent, 0
        self.queues[name][block] = True
        if self.leaf_first and parent is not None:
            self.children[parent] += 1
        return True

    def unpin(self, blocks):
        self.pinned.difference_update(blocks)
        for block in blocks:
            self.recheck(block)


def replay(trace, cache):
    hits = 0
    for ids in trace:
        hits += leading_run(ids, cache)
        parent, served = None, []
        for block in ids:
            if block in getattr(cache, "queue_of", cache):
                cache.hit(block)
            elif not cache.add(block, parent):
                break
            cache.pinned.add(block)
            served.append(block)
            parent = block
        cache.unpin(served)
    return hits


def clairvoyant(trace, capacity, by_request=False):
    """Belady's: out goes what is used again last. by_request: times are whole requests, and of one request's blocks the one with the
    smallest id goes first, which breaks prompts at their beginning."""
    last, uses = {}, []
    at = sum(map(len, trace))
    for request in range(len(trace) - 1, -1, -1):
        row = []
        at -= len(trace[request])
        for i, block in enumerate(trace[request]):
            row.append(last.get(block, float("inf")))
            last[block] = request if by_request else at + i
        uses.append(row)
    uses.reverse()
    here, heap, hits = {}, [], 0
    for ids, row in zip(trace, uses):
        hits += leading_run(ids, here)
        for block, following in zip(ids, row):
            here[block] = following
            heapq.heappush(heap, (-following, block if by_request else -len(heap), block))
        while len(here) > capacity:
            following, _, block = heapq.heappop(heap)
            if here.get(block) == -following:
                del here[block]
    return hits


POLICIES = {
    "lru": lambda trace, n: replay(trace, Lru(n)),
    "fifo": lambda trace, n: replay(trace, Fifo(n)),
    "s3fifo-plain": lambda trace, n: replay(trace, S3Fifo(n)),
    "s3fifo": lambda trace, n: replay(trace, S3Fifo(n, 0.05, 1, 4, True, True)),
    "clairvoyant": clairvoyant,
}
OTHER_WAYS = {
    "clairvoyant, by request, root first": lambda trace, n: clairvoyant(trace, n, True),
    "s3fifo, one hit, as many ghosts as blocks": lambda trace, n: replay(trace, S3Fifo(n, 0.1, 1, 1)),
    "the same, a ghost counted as a block": lambda trace, n: replay(trace, S3Fifo(n, 0.1, 1, 1, count_ghosts=True)),
    "unbounded": lambda trace, n: replay(trace, Fifo(1 << 60)),
}


def check(path, capacity, trace):
    command = [os.path.join(BIN, "baton"), "bench", "evict", "--json", "--trace", path, "--capacity", str(capacity)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    rows = {row["policy"]: row for row in map(json.loads, out.splitlines())}
    wrong = 0
    for policy, compute in POLICIES.items():
        row, hits, blocks = rows[policy], compute(trace, capacity // BLOCK_TOKENS), sum(map(len, trace))
        if (row["hit_blocks"], row["blocks"]) != (hits, blocks):
            print(f"{path}, {capacity} tokens, {policy}: baton says {row['hit_blocks']} of {row['blocks']}, the reference {hits} of {blocks}")
            wrong += 1
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--capacity", type=int, action="append")
    parser.add_argument("trace", nargs="+")
    args = parser.parse_args()
    wrong = 0
    for path in args.trace:
        with open(path, encoding="utf-8") as lines:
            trace = [json.loads(line)["hash_ids"] for line in lines]
        for capacity in args.capacity or [3000000]:
            if args.check:
                wrong += check(path, capacity, trace)
                continue
            for name, compute in {**POLICIES, **OTHER_WAYS}.items():
                rate = compute(trace, capacity // BLOCK_TOKENS) / sum(map(len, trace))
                print(f"{os.path.basename(path):28} {capacity:>12} {name:42} {rate:.4f}")
    if args.check:
        print(f"{len(args.trace) * len(args.capacity or [0]) * len(POLICIES) - wrong} passed, {wrong} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
