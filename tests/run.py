"""Builds Baton in the configurations that matter and runs every test in them.

Called by tests/run.sh, which explains the options. A step is a build, a test
program of ctest, or a script; scripts and programs are counted by the closing line that
they print: cmocka's "[  PASSED  ] N test(s).", or "N passed, N failed[, N skipped]".
"""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOGS = os.path.join(ROOT, "build", "test-logs")
SECONDS = os.path.join(LOGS, "seconds.json")
VENV = os.path.join(ROOT, "build", "venv", "bin", "python3")
EVERY = "^(unit|property|replay)"
THREADED = (r"loop|metrics|team|cores|engine_thread|model_quantise|weights_client|weights_holder|control|transfer|failpoint"
            r"|tokenize_pool|decision_log|layer_gate|unit_router_prefix_index")
PROGRAMS = {"release": EVERY, "asan": EVERY, "tsan": THREADED, "cuda": "^unit_engine_device$"}  # of ctest, that are run
# Timeouts are so many times those of ctest, and of SCRIPTS.
PROGRAM_SLOW = {"release": 1, "asan": 4, "tsan": 6}
SCRIPT_SLOW = {"release": 1, "asan": 4, "tsan": 6}
# What leaves a processor idle for most of its ten seconds or more: it sleeps until something expires or is started again.
WAITING = (r"/unit_(common_etcd|proto_(link_failures|membership)|transfer_(lender|stranger)|router_kv_feeds|cli_supervisor)$"
           r"|flow/(weights|shared_etcd|kvbm_hosts|frozen_transfer|cancel|faults|routing|cache|two_hosts)$")

passed = failed = skipped = 0
skips, failures = [], []
took = {}  # seconds of each finished step
details = {}  # of a failed test: the lines that say what failed, for the end of a long output
lock = threading.Lock()


def say(text):
    with lock:
        print(text, flush=True)


def count(name, output, code, timed_out=False):
    """What a finished program said of itself; a crash or silence counts as a failure."""
    global passed, failed, skipped
    ok = bad = skip = 0
    for n in re.findall(r"\[  PASSED  \] (\d+) test", output):
        ok += int(n)
    for n in re.findall(r"\[  FAILED  \] (\d+) test", output):
        bad += int(n)
    for n in re.findall(r"\[  SKIPPED \] (\d+) test", output):
        skip += int(n)
    for a, b, c in re.findall(r"^(?:\w+: )?(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", output, re.M):
        ok, bad, skip = ok + int(a), bad + int(b), skip + int(c or 0)
    reasons = re.findall(r"^\s*(?:SKIP|skip(?:ped)?)[:\s]+(.*)$", output, re.M | re.I)
    if code != 0 and bad == 0:
        bad = 1
    if code == 0 and ok + bad + skip == 0:
        bad = 1
        output += "\nno closing line: nothing was counted\n"
    with lock:
        passed, failed, skipped = passed + ok, failed + bad, skipped + skip
        if skip:
            skips.append(f"{name}: {skip} skipped: {reasons[0] if reasons else 'no reason given'}")
        if bad:
            failures.append(name)
    verdict = "ok" if not bad else "FAILED" + (" (timed out)" if timed_out else f" (exit code {code})")
    return bad, f"{ok:5d} passed {bad:3d} failed {skip:3d} skipped  {verdict}", output


def end_group(process):
    """A flow test that is told to stop takes its cluster down, which is not of its process group."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(name, command, timeout, env=None, cwd=ROOT):
    os.makedirs(LOGS, exist_ok=True)
    path = os.path.join(LOGS, name.replace("/", "_") + ".log")
    begin = time.monotonic()
    with open(path, "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=cwd,
                                   env=dict(os.environ, **(env or {})), start_new_session=True)
        timed_out = False
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            timed_out, code = True, 124
            end_group(process)
    with open(path, errors="replace") as log:
        output = log.read()
    return code, output, time.monotonic() - begin, path, timed_out


def test(name, command, timeout, env=None, cwd=ROOT):
    code, output, seconds, path, timed_out = run(name, command, timeout, env, cwd)
    bad, line, output = count(name, output, code, timed_out)
    took[name] = round(seconds, 1)
    say(f"  {name:44s} {line} {seconds:6.1f} s")
    if bad:
        say("\n".join("      | " + text for text in output.splitlines()[-25:]) + f"\n      log: {path}")
        with lock:
            details[name] = [text for text in output.splitlines() if re.match(r"FAIL|\[  FAILED  \]|.*Error\b", text)][-8:]


def skip(name, reason):
    global skipped
    skipped += 1
    skips.append(f"{name}: {reason}")
    say(f"  {name:44s} skipped: {reason}")


def build(preset, nice=0):
    """True when it built."""
    global failed
    folder = os.path.join(ROOT, "build", preset)
    begin = time.monotonic()
    say(f"building {preset}")

    def step(*command):
        code, output, _, path, _ = run("build-" + preset, ["nice", "-n", str(nice), *command], 1800)
        if code == 0 and command[1] == "--build" and re.search(r"\bwarning:", output):
            code, output = 1, output + "\nthe build has warnings\n"
        if code:
            lines = [t for t in output.splitlines() if re.search(r"error|warning|FAILED|undefined", t)] or output.splitlines()
            say("\n".join("      | " + t for t in lines[-20:]) + f"\n      log: {path}")
        return code == 0

    built = os.path.exists(os.path.join(folder, "build.ninja")) or step("cmake", "--preset", preset)
    if built:
        # Of what only some programs are run, no others are built.
        targets = ["all"] if PROGRAMS[preset] == EVERY else [entry["name"] for entry in entries(preset)]
        built = step("cmake", "--build", folder, "--", *targets)
    if built:
        say(f"built {preset} in {time.monotonic() - begin:.0f} s")
    else:
        with lock:
            failed += 1
            failures.append("build " + preset)
    return built


def entries(preset):
    """What ctest knows of the programs of this build that are run."""
    folder = os.path.join(ROOT, "build", preset)
    out = subprocess.run(["ctest", "--test-dir", folder, "--show-only=json-v1"], capture_output=True, text=True)
    return [entry for entry in json.loads(out.stdout)["tests"] if re.search(PROGRAMS[preset], entry["name"])]


def is_wanted(only, preset, name):
    return re.search(only, name) or re.search(only, f"{preset}/{name}")


def programs(preset, only):
    """Those programs that are wanted as (name, command, timeout); no command where they are not built."""
    for entry in entries(preset):
        timeout = next((p["value"] for p in entry.get("properties", []) if p["name"] == "TIMEOUT"), 120)
        if is_wanted(only, preset, entry["name"]):
            yield f"{preset}/{entry['name']}", entry.get("command"), timeout * PROGRAM_SLOW[preset]


def program_steps(preset, only, env):
    """As test() takes them."""
    steps = [(*program, env, os.path.join(ROOT, "build", preset)) for program in programs(preset, only)]
    say(f"{preset}: {len(steps)} test programs")
    return steps


class Lanes:
    """Runs steps side by side: two at a time that compute, and a third of those that mostly wait."""

    def __init__(self):
        self.steps, self.closed, self.changed = [], False, threading.Condition()

    def add(self, steps):
        with self.changed:
            self.steps += steps
            self.changed.notify_all()

    def close(self):
        """No more are added."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def choose(self, for_waiting):
        """The next for such a lane. Where nothing is left that computes, what waits may as well wait in its place."""
        waiting = [step for step in self.steps if re.search(WAITING, step[0])]
        computing = [step for step in self.steps if not re.search(WAITING, step[0])]
        steps = waiting if for_waiting else computing + waiting
        return steps[0] if steps else None

    def take(self, for_waiting):
        """None at the end."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.choose(for_waiting))
            step = self.choose(for_waiting)
            if step:
                self.steps.remove(step)
            return step

    def work(self, for_waiting):
        while step := self.take(for_waiting):
            test(*step)

    def run(self):
        """Until all are done."""
        lanes = [threading.Thread(target=self.work, args=(for_waiting,)) for for_waiting in (False, False, True)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()


CLUSTER = "tests/flow/with_cluster.py"

# name, script and arguments, seconds, and when: "long" (only with --long), "venv" (needs the Python packages),
# "smollm2" (needs the model), "alone" (no step runs beside it), "asan" (also against that build; with --long all flows are, but for those with "release"). Scripts find the programs under $BATON_TEST_BIN.
SCRIPTS = [
    ("conformance/formatted", ["tests/conformance/formatted.py"], 60, set()),
    ("conformance/generated_docs", ["tests/conformance/generated_docs.py"], 180, set()),
    ("conformance/evict", ["tests/conformance/evict_reference.py", "--check", "--capacity", "30000", "--capacity", "100000",
                           "tests/conformance/evict_trace.jsonl"], 60, set()),
    ("conformance/tokenizers", ["tests/conformance/tokenizer_families.py", "build/release/bin/tests/tokenize_main", "--brief"], 400,
     {"venv"}),
    ("conformance/tokenizers_whole", ["tests/conformance/tokenizer_families.py", "build/release/bin/tests/tokenize_main"], 1400,
     {"venv", "long"}),
    ("conformance/templates", ["tests/conformance/template_render.py"], 300, {"venv"}),
    ("conformance/split_gguf", ["tests/conformance/split_gguf.py"], 120, {"venv"}),
    ("conformance/engine_page", ["tests/conformance/engine_page.py"], 180, {"venv"}),
    ("conformance/quantize", ["tests/conformance/quantize.py"], 240, {"venv"}),
    ("conformance/kv_events", ["tests/conformance/kv_events.py"], 120, {"venv", "asan"}),
    ("conformance/openai_client", [CLUSTER, "tests/conformance/openai_client.py", "{url}"], 200, {"venv"}),
    ("flow/smoke", ["tests/flow/smoke.py"], 120, {"asan"}),
    ("flow/quickstart", ["tests/flow/quickstart.py"], 900, {"alone", "release"}),
    ("flow/model_fetch", ["tests/flow/model_fetch.py"], 120, set()),
    ("flow/hostile_http", [CLUSTER, "--set", "router.request_timeout=3s", "tests/flow/hostile_http.py",
                           "--request-timeout", "3", "{host}", "{port}"], 200, {"asan"}),
    ("flow/routing", ["tests/flow/routing.py"], 180, set()),
    ("flow/sim", ["tests/flow/sim.py"], 120, set()),
    ("flow/exact", ["tests/flow/exact.py"], 200, set()),
    ("flow/cache", ["tests/flow/cache.py"], 120, set()),
    ("flow/kv_tiers", ["tests/flow/kv_tiers.py"], 120, set()),
    ("flow/kv_flips", ["tests/flow/kv_flips.py"], 1800, {"long"}),
    ("flow/kv_overlap", ["tests/flow/kv_overlap.py"], 200, set()),
    ("flow/kv_exact", ["tests/flow/kv_exact.py"], 120, set()),
    ("flow/kv_exact_full", ["tests/flow/kv_exact.py", "--full"], 900, {"long"}),
    ("flow/kv_exact_smollm2", ["tests/flow/kv_exact.py", "--full", "--smollm2"], 1800, {"smollm2", "long"}),
    ("flow/conversation", ["tests/flow/conversation.py"], 200, {"smollm2"}),
    ("flow/conversation_full", ["tests/flow/conversation.py", "--full"], 600, {"smollm2", "long"}),
    ("flow/cache_smollm2", ["tests/flow/cache.py", "--smollm2"], 600, {"smollm2", "long"}),
    ("flow/lora", ["tests/flow/lora.py"], 120, {"asan"}),
    ("flow/exact_smollm2", ["tests/flow/exact.py", "--smollm2"], 300, {"smollm2"}),
    ("flow/exact_full", ["tests/flow/exact.py", "--full"], 1800, {"smollm2", "long"}),
    ("flow/classes", ["tests/flow/classes.py"], 240, set()),
    ("flow/faults", ["tests/flow/faults.py"], 200, set()),
    ("flow/faults_smollm2", ["tests/flow/faults.py", "--smollm2"], 900, {"smollm2", "long"}),
    ("flow/two_hosts_smollm2", ["tests/flow/two_hosts.py", "--smollm2"], 300, {"smollm2", "long"}),
    ("flow/faults_long", ["tests/flow/faults.py", "--long"], 3000, {"long"}),
    ("flow/failpoints", ["tests/flow/failpoints.py", "--smoke"], 120, set()),
    ("flow/failpoints_all", ["tests/flow/failpoints.py"], 1800, {"long"}),
    ("flow/failpoints_tcp", ["tests/flow/failpoints.py", "--tcp"], 1800, {"long", "release"}),
    ("flow/failpoints_smollm2", ["tests/flow/failpoints.py", "--smollm2", "prefill.COMPUTING", "prefill.HANDING",
                                 "generation.RECEIVING", "generation.DECODING"], 1800, {"smollm2", "long"}),
    ("flow/frozen_transfer", ["tests/flow/frozen_transfer.py"], 240, set()),
    ("flow/frozen_transfer_long", ["tests/flow/frozen_transfer.py", "--long"], 1200, {"long", "release"}),
    ("flow/kv_index", ["tests/flow/kv_index.py"], 120, {"venv"}),
    ("flow/cancel", ["tests/flow/cancel.py"], 120, set()),
    ("flow/overload", ["tests/flow/overload.py"], 240, set()),
    ("flow/shared_etcd", ["tests/flow/shared_etcd.py"], 240, set()),
    ("flow/outage", ["tests/flow/outage.py", "--long"], 900, {"long"}),
    ("flow/soak", ["tests/flow/soak.py", "--long"], 1500, {"long"}),
    ("flow/soak_tcp", ["tests/flow/soak.py", "--tcp"], 300, {"long", "release"}),
    ("flow/soak_kvbm", ["tests/flow/soak.py", "--kvbm", "--long"], 900, {"long"}),
    ("flow/two_hosts", ["tests/flow/two_hosts.py"], 120, set()),
    ("flow/kvbm", ["tests/flow/kvbm.py"], 120, {"asan"}),
    ("flow/kv_wipe", ["tests/flow/kv_wipe.py"], 120, {"asan"}),
    ("flow/kvbm_hosts", ["tests/flow/kvbm_hosts.py"], 120, set()),
    ("flow/weights", ["tests/flow/weights.py"], 240, set()),
    ("flow/weights_smollm2", ["tests/flow/weights.py", "--smollm2"], 400, {"smollm2", "long"}),
    ("flow/kv_benches", ["tests/flow/kv_benches.py"], 120, set()),
    ("flow/bench_serve", ["tests/flow/bench_serve.py"], 120, set()),
    ("flow/pd_bench", ["tests/flow/pd_bench.py"], 900, {"long", "release"}),
    ("golden/architectures", ["tests/golden/architectures.py"], 120, set()),
    ("golden/architectures_gguf", ["tests/golden/architectures.py", "--gguf"], 120, {"venv"}),
    ("golden/architectures_anew", ["tests/golden/references.sh", "architectures.py", "--references"], 3600, {"long"}),
    ("golden/stories260k", ["tests/golden/stories260k.py"], 120, {"venv"}),
    ("golden/references", ["tests/golden/references.sh", "make_references.py", "--check"], 3600, {"long"}),
    ("golden/fresh_prompts", ["tests/golden/references.sh", "fresh_prompts.py"], 3600, {"long"}),
    ("emulated/kernels", ["tests/emulated/run.py", "build/release/bin/tests/unit_engine_kernels", "8", "*avx512"],
     3000, {"long"}),
    ("conformance/tidy", ["tests/conformance/tidy.py"], 1800, {"long"}),
    ("fuzz/run", ["tests/fuzz/run.sh"], 1800, {"long"}),
]


def run_cuda(only):
    """What needs CUDA's compiler, where there is one: a build of its own, so with --long. Its test skips what needs a device."""
    name = "cuda/unit_engine_device"
    if not re.search(only, name):
        return
    if not shutil.which("nvcc"):
        skip(name, "nvcc is not on PATH: what the preset cuda adds was not compiled")
    elif build("cuda"):
        test(name, [os.path.join(ROOT, "build/cuda/bin/tests/unit_engine_device"), "*cuda*"], 300)


def smollm2():
    """Path of SmolLM2 in the cache, fetched when it can be; None with a reason printed otherwise."""
    command = [os.path.join(ROOT, "build/release/bin/baton"), "model", "fetch", "smollm2"]
    code, output, _, _, _ = run("fetch-smollm2", command, 900)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = os.path.join(cache, "baton", "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
    if code == 0 and os.path.exists(path):
        return path
    say("  SmolLM2 cannot be fetched: " + (output.strip().splitlines() or ["no reason given"])[-1])
    return None


HAS_VENV = os.path.join(ROOT, "build/venv/.requirements")


def interpreter(command, when):
    return [] if command[0].endswith(".sh") else [VENV if "venv" in when else "/usr/bin/python3"]


def scripts(options, preset):
    """Rows of SCRIPTS that are wanted, and against this build."""
    for row in SCRIPTS:
        name, _, _, when = row
        if preset == "tsan":
            runs = False
        elif preset == "release":
            runs = options.long or "long" not in when
        else:
            runs = "asan" in when or options.long and name.startswith("flow/") and not when & {"smollm2", "release"}
        if runs and is_wanted(options.only, preset, name):
            yield row


def prefixed(preset, name):
    return name if preset == "release" else f"{preset}/{name}"


def script_steps(options, preset, env):
    """Those that may run beside others, and those that may not: "alone" ones, and all of --long, as they may measure."""
    short, alone, long = [], [], []
    for name, command, timeout, when in scripts(options, preset):
        reason = None
        if "venv" in when and not os.path.exists(HAS_VENV):
            reason = "the Python packages of tests/requirements.txt could not be installed"
        elif "smollm2" in when and "BATON_TEST_SMOLLM2" not in env:
            reason = "SmolLM2 could not be fetched"
        step = (prefixed(preset, name), interpreter(command, when) + command, timeout * SCRIPT_SLOW[preset], env)
        if not reason:
            (long if "long" in when else alone if "alone" in when else short).append(step)
        elif preset == "release":  # once is enough
            skip(name, reason)
    return short, alone, long


def release_steps(options):
    # Twice the time: tests run side by side.
    env = {"BATON_TEST_BIN": os.path.join(ROOT, "build/release/bin"), "BATON_TEST_LONG": "1" if options.long else "0",
           "BATON_TEST_SLOW": "2"}
    model = smollm2()
    if model:
        env["BATON_TEST_SMOLLM2"] = model
    short, alone, long = script_steps(options, "release", env)
    return program_steps("release", options.only, env) + short, alone, long


def asan_steps(options):
    asan = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    env = {"BATON_TEST_BIN": os.path.join(ROOT, "build/asan/bin"), "BATON_TEST_LONG": "1" if options.long else "0",
           "BATON_TEST_SLOW": "8"}
    short, alone, long = script_steps(options, "asan", dict(env, **asan))
    return short + program_steps("asan", options.only, asan), alone, long


def tsan_steps(options):
    # UCX's hooks on memory calls take a lock in threads that ThreadSanitizer has already let go of.
    hooks_off = {"UCX_MEM_MMAP_HOOK_MODE": "none", "UCX_MEM_EVENTS": "n"}
    return program_steps("tsan", options.only, dict(hooks_off, TSAN_OPTIONS="halt_on_error=1")), [], []


STEPS = {"release": release_steps, "asan": asan_steps, "tsan": tsan_steps}


def build_behind(options, presets, lanes, long):
    """Builds at the lowest priority, as the tests that run meanwhile have deadlines, and hands over what can be run then."""
    try:
        for preset in presets:
            if build(preset, nice=19):
                side_by_side, alone, later = STEPS[preset](options)
                lanes.add(side_by_side)
                long += alone + later
    finally:
        lanes.close()


def run_all(options, builds):
    lanes, long = Lanes(), []
    built = "release" in builds and build("release")
    # That of ThreadSanitizer is the shorter one, so that few tests are left to run when there is nothing to build any more.
    behind = [preset for preset in ("tsan", "asan") if preset in builds]
    builder = threading.Thread(target=build_behind, args=(options, behind, lanes, long), daemon=True)
    builder.start()
    if built:
        side_by_side, alone, later = release_steps(options)
        for step in alone:
            test(*step)
        lanes.add(side_by_side)
        long[:0] = later
    lanes.run()
    builder.join()
    for step in long:
        test(*step)
    if built and options.long:
        run_cuda(options.only)


def list_steps(options, builds):
    """What would run, and how long it took when it last ran here."""
    last = read_seconds()
    steps = []
    for preset in builds:
        if os.path.exists(os.path.join(ROOT, "build", preset, "build.ninja")):
            steps += [(name, timeout) for name, _, timeout in programs(preset, options.only)]
        else:
            say(f"the test programs of {preset} can be listed after `cmake --preset {preset}`")
        steps += [(prefixed(preset, name), timeout * SCRIPT_SLOW[preset]) for name, _, timeout, _ in scripts(options, preset)]
    for name, timeout in steps:
        seconds = f"{last[name]:6.1f} s" if name in last else "     - s"
        say(f"  {name:44s} {seconds}, at most {timeout:.0f} s")
    say(f"{len(steps)} steps, of which those that were run here took {sum(last.get(name, 0) for name, _ in steps):.0f} s")


def read_seconds():
    """Of each step that was ever run here, the last time."""
    try:
        with open(SECONDS) as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def write_seconds():
    os.makedirs(LOGS, exist_ok=True)
    known = dict(read_seconds(), **took)
    with open(SECONDS, "w") as file:
        json.dump(known, file, indent=0, sort_keys=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--builds", default="release,asan,tsan")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    builds = ["release"] if options.fast else options.builds.split(",")
    if set(builds) - {"release", "asan", "tsan"}:
        parser.error(f"--builds takes release, asan and tsan, not {options.builds}")
    if options.list:
        return list_steps(options, builds)

    begin = time.monotonic()
    run_all(options, builds)
    write_seconds()
    print()
    for line in skips:
        print("skipped:", line)
    for name in failures:
        print("failed:", name, *details.get(name, []), sep="\n    | " if details.get(name) else " ")
    print(f"took {time.monotonic() - begin:.0f} s")
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    sys.exit(1 if failed or passed == 0 else 0)


main()
