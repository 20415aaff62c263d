"""How far a policy can come that does not know the future: an index fitted to the very trace that it is judged by.

    evict_bound.py [--capacity TOKENS] TRACE...

Each request is an arm: a conversation at a turn, with all its blocks. For each class of arms the trace says how often one that is so old
comes back, and when; the index of an arm is the best ratio of chance to come back within some time to the time that it is kept for it
(Gittins 1979). Out goes what has the lowest index, deepest block first. A real policy has to learn what is given here.
"""
import argparse
import json
import os
from collections import defaultdict

BLOCK_TOKENS = 512
STEP = 1000      # block accesses, the unit of age
OLDEST = 60      # steps
FEW = 5          # arms of an age below which nothing is said


def load(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def follow(requests):
    """For each request: when it starts, its turn, and which request continues it."""
    owner, starts, turns, successor, seq = {}, [], [], [None] * len(requests), 0
    for i, request in enumerate(requests):
        ids = request["hash_ids"]
        run = next((k for k, block in enumerate(ids) if block not in owner), len(ids))
        before = owner[ids[run - 1]] if run > 1 else None  # the first block may be everybody's
        turns.append(0 if before is None else turns[before] + 1)
        if before is not None and successor[before] is None:
            successor[before] = i
        starts.append(seq)
        seq += len(ids)
        for block in ids:
            owner[block] = i
    return starts, turns, successor, seq


def indices(classes, starts, successor, end):
    """class -> index by age."""
    seen, back = defaultdict(lambda: [0] * (OLDEST + 1)), defaultdict(lambda: [0] * (OLDEST + 1))
    for i, kind in enumerate(classes):
        until = end if successor[i] is None else starts[successor[i]]
        age = (until - starts[i]) // STEP
        for k in range(min(OLDEST, age) + 1):
            seen[kind][k] += 1
        if successor[i] is not None and age <= OLDEST:
            back[kind][age] += 1
    out = {}
    for kind in seen:
        out[kind] = []
        for age in range(OLDEST + 1):
            best, alive, chance, time = 0, 1, 0, 0
            for k in range(age, OLDEST + 1):
                if seen[kind][k] < FEW:
                    break
                hazard = back[kind][k] / seen[kind][k]
                time += alive * STEP
                chance += alive * hazard
                alive *= 1 - hazard
                best = max(best, chance / time)
            out[kind].append(best)
    return out


def replay(requests, capacity, starts, classes, index):
    owner, here, arms, hits = {}, set(), {}, 0
    for i, request in enumerate(requests):
        ids = request["hash_ids"]
        hits += next((k for k, block in enumerate(ids) if block not in here), len(ids))
        for block in ids:
            if block in here:
                arms[owner[block]].discard(block)
            owner[block] = i
        here.update(ids)
        arms[i] = set(ids)
        if len(here) > capacity:
            worth = lambda arm: index[classes[arm]][min(OLDEST, (starts[i] - starts[arm]) // STEP)]
            for arm in sorted((a for a in arms if a != i), key=lambda a: (worth(a), a)):
                for block in reversed(requests[arm]["hash_ids"]):
                    if len(here) > capacity and block in arms[arm]:
                        arms[arm].remove(block)
                        here.remove(block)
                if not arms[arm]:
                    del arms[arm]
                if len(here) <= capacity:
                    break
    return hits


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--capacity", type=int, default=3000000)
    parser.add_argument("trace", nargs="+")
    args = parser.parse_args()
    kinds = {"turn": lambda turn, r: min(turn, 6),
             "turn, lengths of prompt and answer": lambda turn, r: (min(turn, 4), min(5, len(r["hash_ids"]) // 8), min(4, r["output_length"] // 200))}
    for path in args.trace:
        requests = load(path)
        starts, turns, successor, end = follow(requests)
        for name, kind in kinds.items():
            classes = [kind(turn, request) for turn, request in zip(turns, requests)]
            index = indices(classes, starts, successor, end)
            rate = replay(requests, args.capacity // BLOCK_TOKENS, starts, classes, index) / end
            print(f"{os.path.basename(path):28} {args.capacity:>12} {name:36} {rate:.4f}")


if __name__ == "__main__":
    main()
