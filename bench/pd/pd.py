"""Does it pay to compute prompts apart? Long prompts that arrive at random beside running streams, on two cores, against
  agg:N, agg:whole   one worker with both threads, prompts in chunks of N rows beside what decodes, or as wholes
  1+1                a prefill and a decode worker with a thread each
  llama, llama:N     llama.cpp's server, with its own batch size or N (bench/peers/setup.sh --server builds it)
and prints p99 ITL against throughput for each configuration and arrival rate, and what that says of the goals.

    python3 bench/pd/pd.py [--model MODEL.gguf] [--loads 0.2,0.3,0.4 | --rates 0.25,0.5] [--seconds 60] [--json]

A load is a share of the prompt tokens a second that the engine computes on both threads with nothing beside it. The same seed
and rate give the same requests. Exit code 1 when anything was lost, refused or cut.
"""
import argparse
import json
import os
import subprocess
import sys

import figures
import servers
from load import Run
from traffic import LONG, WORDS, Shape, Traffic

BATON = os.path.join(os.environ.get("BATON_TEST_BIN") or os.path.join(servers.ROOT, "build/release/bin"), "baton")
CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
SMOLLM2 = os.path.join(CACHE, "baton", "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
CONFIGURATIONS = "agg:32,agg:64,agg:128,agg:256,agg:512,agg:1024,agg:2048,agg:whole,1+1,llama"
THREADS = 2
SLOTS_BESIDE = 8  # long prompts that llama.cpp's server may hold beside the streams; more wait in its queue


def pair(text):
    low, _, high = text.partition("-")
    if not (low.isdigit() and (high or low).isdigit() and 0 < int(low) <= int(high or low)):
        raise argparse.ArgumentTypeError(f"{text} is no range of tokens such as 1500-2000")
    return int(low), int(high or low)


def numbers(text):
    try:
        values = [float(item) for item in text.split(",")]
    except ValueError:
        values = [-1]
    if min(values) < 0:
        raise argparse.ArgumentTypeError(f"{text} is no list of numbers from 0 on, such as 0.2,0.4")
    return values


def names(text):
    for name in text.split(","):
        kind, colon, size = name.partition(":")
        good = (name == "1+1" or name == "llama" or name == "agg:whole" or
                (kind in ("agg", "llama") and colon and size.isdigit() and 0 < int(size) <= 32768))
        if not good:
            raise argparse.ArgumentTypeError(f"{name} is none of agg:1 to agg:32768, agg:whole, 1+1, llama, llama:1 to llama:32768")
    return text.split(",")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMOLLM2, help="a GGUF file, or a folder without llama (default: SmolLM2 as fetched)")
    parser.add_argument("--configurations", type=names, default=CONFIGURATIONS, help=f"({CONFIGURATIONS})")
    parser.add_argument("--loads", type=numbers, default="0.2,0.3,0.4", help="(0.2,0.3,0.4)")
    parser.add_argument("--rates", type=numbers, help="long prompts a second, instead of --loads")
    parser.add_argument("--prompts", type=pair, default="1500-2000", help="tokens of a long prompt (1500-2000)")
    parser.add_argument("--answers", type=pair, default="32-64", help="tokens of its answer (32-64)")
    parser.add_argument("--streams", type=int, default=8, help="(8)")
    parser.add_argument("--stream-answers", type=pair, default="192-320", help="tokens of a stream's answers (192-320)")
    parser.add_argument("--seconds", type=float, default=60, help="that count, for each configuration and rate (60)")
    parser.add_argument("--warm", type=float, default=10, help="seconds of the same load before (10)")
    parser.add_argument("--drain", type=float, default=300, help="longest wait in seconds for the last answer (300)")
    parser.add_argument("--rounds", type=int, default=1, help="of all configurations in turn; figures are medians (1)")
    parser.add_argument("--ttft-limit", type=float, default=5000, help="of goodput, ms (5000)")
    parser.add_argument("--itl-limit", type=float, default=100, help="of goodput, ms, for 99 in 100 tokens of an answer (100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="ROLE.KEY=VALUE", help="an option of Baton's workers")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    o = parser.parse_args()
    if not os.path.exists(o.model):
        parser.error(f"there is no model {o.model}; baton model fetch smollm2 gets the default one")
    if min(o.seconds, o.rounds, o.streams) <= 0 or min(o.warm, o.drain) < 0:
        parser.error("--seconds, --rounds and --streams are above 0, --warm and --drain not below")
    return o


def say(o, text):
    print(text, file=sys.stderr if o.json else sys.stdout, flush=True)


def baton(*command):
    done = subprocess.run([BATON, *command, "--json"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"baton {' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def use_two_cores():
    """For this process and all that it starts."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < THREADS:
        sys.exit(f"pd.py: this needs {THREADS} cores, {len(allowed)} may be used")
    os.sched_setaffinity(0, allowed[:THREADS])
    return allowed[:THREADS]


def rates_of(o):
    """Arrivals a second for each load, by what the engine does alone."""
    if o.rates is not None:
        return o.rates
    mean = sum(o.prompts) // 2
    alone = baton("bench", "engine", "--model", o.model, "--threads", str(THREADS), "--prompt", str(mean), "--generate", "1")
    return [round(load * alone["prefill_tps"] / mean, 3) for load in o.loads]


def shape_of(o):
    return Shape(servers.token_ids(o.model, WORDS), o.prompts, o.answers, o.streams, o.stream_answers)


def why_not(o, name):
    """Why a configuration cannot run here; None when it can."""
    if name.split(":")[0] != figures.PEER:
        return None
    if not os.path.exists(servers.LLAMA_SERVER):
        return f"{name}: llama.cpp's server is not built here (bench/peers/setup.sh --server)"
    return None if o.model.endswith(".gguf") else f"{name}: llama.cpp's server takes GGUF files only"


def start(o, name):
    if name.split(":")[0] == figures.PEER:
        longest = max(o.prompts[1] + o.answers[1], o.stream_answers[1] + 64)
        return servers.Llama(name, o.model, THREADS, o.streams + SLOTS_BESIDE, longest)
    return servers.Baton(name, o.model, THREADS, o.prompts[1], o.set)


def measure(o, name, shape, rates, result):
    """One configuration, started once, at all rates."""
    server = start(o, name)
    try:
        result["notes"] += [note for note in server.notes() if note not in result["notes"]]
        for rate in rates:
            server.mark()
            run = Run(server, Traffic(shape, o.seed, rate), o.warm, o.seconds, o.drain).run()
            errors = run.errors or server.check(sum(len(c.request.prompt) for c in run.calls if c.request.stream == LONG))
            result["errors"] += [f"{name} at {rate:g}/s: {error}" for error in errors]
            result["runs"].append(figures.point(run, name, o.ttft_limit / 1000, o.itl_limit / 1000))
            say(o, f"  {name} at {rate:g}/s{', with errors' if errors else ''}")
    except Exception:
        server.print_logs()
        server.end(check=False)
        raise
    except BaseException:  # told to stop
        server.end(check=False)
        raise
    server.end()


def merge(runs):
    """The rounds of each configuration and rate as one point."""
    groups = {}
    for run in runs:
        groups.setdefault((run["configuration"], run["rate"]), []).append(run)
    return [figures.median_point(group) for group in groups.values()]


def add_notes(result):
    for p in result["points"]:
        where = f"{p['configuration']} at {p['rate']:g}/s"
        if p["events_per_token"] is not None and p["events_per_token"] < 0.95:
            result["notes"].append(f"{where}: {p['events_per_token']} events with text a token, so that gaps are longer than they were")
        if p["client_busy"] > 0.1:
            result["notes"].append(f"{where}: the client took {100 * p['client_busy']:.0f} % of a core")


def run_all(o):
    cores = use_two_cores()
    shape, rates = shape_of(o), rates_of(o)
    say(o, f"{os.path.basename(o.model)}, cores {cores}, {o.streams} streams, {o.prompts[0]} to {o.prompts[1]} tokens arriving at "
           f"{', '.join(f'{r:g}' for r in rates)} a second, {o.seconds:g} s each")
    result = {"model": os.path.basename(o.model), "cores": cores, "seed": o.seed, "streams": o.streams, "prompts": o.prompts,
              "answers": o.answers, "stream_answers": o.stream_answers, "seconds": o.seconds, "rounds": o.rounds, "rates": rates,
              "ttft_limit_ms": o.ttft_limit, "itl_limit_ms": o.itl_limit, "runs": [], "notes": [], "errors": []}
    absent = [why_not(o, name) for name in o.configurations]
    result["notes"] += [why for why in absent if why]
    for _ in range(o.rounds):
        for name, why in zip(o.configurations, absent):
            if not why:
                measure(o, name, shape, rates, result)
    points = result["points"] = merge(result.pop("runs"))
    result["frontiers"] = {name: figures.frontier(figures.family(points, name)) for name in ("agg", figures.DISAGGREGATED)}
    result["goals"], result["losses"] = figures.goals(points), figures.losses(points)
    add_notes(result)
    return result


COLUMNS = (("rate", "rate/s", "g"), ("ttft_p50_ms", "TTFT p50", ".0f"), ("ttft_p99_ms", "p99 ms", ".0f"), ("itl_p50_ms", "ITL p50", ".1f"),
           ("itl_p99_ms", "p99 ms", ".1f"), ("output_tps", "answer t/s", ".1f"), ("prompt_tps", "prompt t/s", ".1f"),
           ("tokens_per_s", "both t/s", ".1f"), ("goodput_rps", "goodput/s", ".3f"))


def table(points):
    print(f"  {'configuration':14}" + "".join(f"{title:>11}" for _, title, _ in COLUMNS))
    for p in points:
        cells = ("-" if p[key] is None else format(p[key], form) for key, _, form in COLUMNS)
        print(f"  {p['configuration']:14}" + "".join(f"{cell:>11}" for cell in cells))


def show(r):
    print(f"\nTTFT of long prompts, ITL of all answers; goodput: TTFT within {r['ttft_limit_ms']:g} ms and 99 in 100 tokens within "
          f"{r['itl_limit_ms']:g} ms")
    table(r["points"])
    for name, title in (("agg", "aggregated"), ("1+1", "one prefill and one decode worker")):
        if r["frontiers"][name]:
            print(f"\nfrontier of p99 ITL against throughput, {title}")
            table(r["frontiers"][name])
    print()
    for goal in r["goals"]:
        print(f"goal: {goal['goal']}: {({True: 'met', False: 'MISSED', None: 'not measured'})[goal['met']]}")
        for v in goal["at"]:
            print(f"  at {v['rate']:g}/s: {v['text']}{'' if v['met'] else ' (missed)'}")
    if any(p["configuration"] == "1+1" for p in r["points"]):
        print("where 1+1 loses to aggregated serving under the same load:" + ("" if r["losses"] else " nowhere"))
    for loss in r["losses"]:
        print(f"  {loss['text']}")
    for note in r["notes"]:
        print(f"note: {note}")


def main():
    o = parse()
    result = run_all(o)
    print(json.dumps(result)) if o.json else show(result)
    for error in result["errors"]:
        print(f"error: {error}", file=sys.stderr)
    sys.exit(1 if result["errors"] else 0)


main()
