"""From the calls of runs to figures, and from figures to what the goals say. No sockets, no clock.

Throughput is prompt and answer tokens together. A point's prompt counts when its first token comes.
"""
import math
import statistics

from traffic import LONG

DISAGGREGATED = "1+1"
WHOLE = "agg:whole"
PEER = "llama"
EQUAL = 0.95  # throughput from which on one counts as not less than another


def percentile(values, p):
    """The nearest rank; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(p / 100 * len(ordered)) - 1)] if ordered else None


def ms(seconds):
    return None if seconds is None else round(1000 * seconds, 2)


def gaps(call):
    return [b - a for a, b in zip(call.tokens, call.tokens[1:])]


def is_good(call, ttft_limit, itl_limit):
    """Its first token came in time, and all but at most one in a hundred of the others did."""
    return (bool(call.tokens) and not call.wrong() and call.tokens[0] - call.sent <= ttft_limit and
            (percentile(gaps(call), 99) or 0) <= itl_limit)


def point(run, name, ttft_limit, itl_limit):
    """Figures of the window of one run."""
    def inside(t):
        return run.begin <= t < run.end

    calls = [c for c in run.calls if c.tokens]
    sent = [c for c in run.calls if inside(c.due)]  # the same in all configurations
    itl = [b - a for c in calls for a, b in zip(c.tokens, c.tokens[1:]) if inside(b)]
    long = [c.tokens[0] - c.sent for c in sent if c.tokens and c.request.stream == LONG]
    short = [c.tokens[0] - c.sent for c in sent if c.tokens and c.request.stream != LONG]
    output = sum(inside(t) for c in calls for t in c.tokens) / run.seconds
    prompt = sum(len(c.request.prompt) for c in calls if inside(c.tokens[0])) / run.seconds
    good = [c for c in sent if is_good(c, ttft_limit, itl_limit)]
    answered = sum(c.usage.get("completion_tokens", 0) for c in calls)
    late = [c.sent - c.due for c in run.calls if c.request.stream == LONG]
    return {"configuration": name, "rate": run.traffic.rate, "long_prompts": sum(c.request.stream == LONG for c in sent), "requests": len(sent),
            "ttft_p50_ms": ms(percentile(long, 50)), "ttft_p99_ms": ms(percentile(long, 99)),
            "stream_ttft_p50_ms": ms(percentile(short, 50)), "stream_ttft_p99_ms": ms(percentile(short, 99)),
            "itl_p50_ms": ms(percentile(itl, 50)), "itl_p99_ms": ms(percentile(itl, 99)),
            "itl_p999_ms": ms(percentile(itl, 99.9)), "itl_max_ms": ms(max(itl, default=None)),
            "output_tps": round(output, 2), "prompt_tps": round(prompt, 2), "tokens_per_s": round(output + prompt, 2),
            "goodput_rps": round(len(good) / run.seconds, 4),
            "good_long_rps": round(sum(c.request.stream == LONG for c in good) / run.seconds, 4),
            "events_per_token": round(sum(len(c.tokens) for c in calls) / answered, 3) if answered else None,
            "client_busy": round(run.busy, 3), "client_late_p99_ms": ms(percentile(late, 99))}


def median_point(points):
    """Rounds of one configuration at one rate, figure by figure."""
    merged = dict(points[0])
    for key, value in points[0].items():
        values = [p[key] for p in points if p[key] is not None]
        if not isinstance(value, str) and values:
            merged[key] = statistics.median(values)
    return merged


def of(points, name, rate):
    return next((p for p in points if (p["configuration"], p["rate"]) == (name, rate)), None)


def is_aggregated(p):
    return p["configuration"].startswith("agg:")


def family(points, name):
    """Points of aggregated serving ("agg"), or of the configuration with that name."""
    return [p for p in points if (is_aggregated(p) if name == "agg" else p["configuration"] == name)]


def frontier(points):
    """Those that no other beats in throughput and p99 ITL at once, by throughput."""
    known = sorted((p for p in points if p["itl_p99_ms"] is not None), key=lambda p: (-p["tokens_per_s"], p["itl_p99_ms"]))
    best, kept = math.inf, []
    for p in known:
        if p["itl_p99_ms"] < best:
            best = p["itl_p99_ms"]
            kept.append(p)
    return kept[::-1]


def against_whole(points, ours):
    """p99 ITL of 1+1 at most a third of that of unchunked aggregated serving, under the same load."""
    whole = of(points, WHOLE, ours["rate"])
    if not whole or not whole["itl_p99_ms"]:
        return None
    ratio = ours["itl_p99_ms"] / whole["itl_p99_ms"]
    return {"met": ratio <= 1 / 3, "ratio": round(ratio, 3),
            "text": f"p99 ITL {ours['itl_p99_ms']:.1f} ms, unchunked {whole['itl_p99_ms']:.1f} ms: {ratio:.2f} of it"}


def against_best(points, ours):
    """Not worse than the best budget among those that give as much throughput, at whatever rate."""
    if not family(points, "agg"):
        return None
    equal = [p for p in family(points, "agg") if p["itl_p99_ms"] and p["tokens_per_s"] >= EQUAL * ours["tokens_per_s"]]
    have = f"p99 ITL {ours['itl_p99_ms']:.1f} ms at {ours['tokens_per_s']:.0f} tokens/s"
    if not equal:
        return {"met": True, "ratio": None, "text": f"{have}: no budget gives as many tokens/s"}
    best = min(equal, key=lambda p: p["itl_p99_ms"])
    ratio = ours["itl_p99_ms"] / best["itl_p99_ms"]
    return {"met": ratio <= 1, "ratio": round(ratio, 3),
            "text": f"{have}, {best['configuration']} (at {best['rate']:g}/s) {best['itl_p99_ms']:.1f} ms at "
                    f"{best['tokens_per_s']:.0f}: {ratio:.2f} of it"}


def against_peer(points, ours):
    """Goodput at least three times that of llama.cpp's server (its best batch size where several were run) on the same requests."""
    peers = [p for p in points if p["rate"] == ours["rate"] and p["configuration"].split(":")[0] == PEER]
    if not peers:
        return None
    peer = max(peers, key=lambda p: p["goodput_rps"])
    have = f"goodput {ours['goodput_rps']:.3f} requests/s, {peer['configuration']} {peer['goodput_rps']:.3f}"
    if not peer["goodput_rps"]:
        return {"met": ours["goodput_rps"] > 0, "ratio": None, "text": f"{have}: no ratio to nothing"}
    ratio = ours["goodput_rps"] / peer["goodput_rps"]
    return {"met": ratio >= 3, "ratio": round(ratio, 3), "text": f"{have}: {ratio:.2f} times"}


GOALS = (("p99 ITL of 1+1 at most 1/3 of unchunked aggregated", against_whole),
         ("p99 ITL of 1+1 not worse than the best budget at equal throughput", against_best),
         ("goodput of 1+1 at least 3 times llama.cpp's server", against_peer))


def goals(points):
    """Each goal with a verdict for each rate of 1+1; "met" of all, None where what it needs was not run."""
    found = []
    for name, judge in GOALS:
        at = []
        for ours in family(points, DISAGGREGATED):
            verdict = judge(points, ours) if ours["itl_p99_ms"] else None
            if verdict:
                at.append({"rate": ours["rate"], **verdict})
        found.append({"goal": name, "met": all(v["met"] for v in at) if at else None, "at": at})
    return found


# what is compared, in which unit, and whether less is better
COMPARED = (("ttft_p50_ms", "ms of TTFT p50", True), ("ttft_p99_ms", "ms of TTFT p99", True), ("itl_p50_ms", "ms of ITL p50", True),
            ("itl_p99_ms", "ms of ITL p99", True), ("output_tps", "answer tokens/s", False), ("prompt_tps", "prompt tokens/s", False),
            ("goodput_rps", "requests/s of goodput", False))


def losses(points):
    """Where 1+1 is worse than some aggregated configuration under the same load, by more than what counts as equal."""
    found = []
    for ours in family(points, DISAGGREGATED):
        others = [p for p in family(points, "agg") if p["rate"] == ours["rate"]]
        for key, unit, less in COMPARED:
            known = [p for p in others if p[key] is not None]
            if not known or ours[key] is None:
                continue
            best = min(known, key=lambda p: p[key] if less else -p[key])
            worse = best[key] < EQUAL * ours[key] if less else ours[key] < EQUAL * best[key]
            if worse:
                found.append({"rate": ours["rate"], "figure": key, "ours": ours[key], "best": best[key],
                              "configuration": best["configuration"],
                              "text": f"at {ours['rate']:g}/s: {ours[key]:g} {unit}, {best['configuration']} {best[key]:g}"})
    return found
