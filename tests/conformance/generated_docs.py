"""docs/CONFIG.md and docs/METRICS.md say what the programs say of themselves, docs/SUPPORT.md what they do with small models
(support.py), docs/API.md names each member of a request.

    generated_docs.py           compares, and prints what differs
    generated_docs.py --write   writes them anew
"""
import os
import re
import subprocess
import sys

import support

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("BATON_TEST_BIN") or os.path.join(ROOT, "build/release/bin")
PROGRAMS = ["baton-router", "baton-prefill", "baton-decode", "baton-kvbm"]


def ask(program, flag):
    return subprocess.run([os.path.join(BIN, program), flag], capture_output=True, text=True, check=True).stdout


def page(title, intro, flag):
    text = f"# {title}\n\n{intro}\n"
    for program in PROGRAMS:
        text += f"\n{ask(program, flag).strip()}\n"
    return text


PAGES = {
    "docs/CONFIG.md": lambda: page(
        "Configuration", "Generated from the `.def` tables by `tests/conformance/generated_docs.py --write`. Each option is a flag "
        "(`--key VALUE`), a line `key = value` of the file that `--config` names, or a variable (`BATON_KEY`, `BATON_ROLE_KEY`); "
        "later ones win in the order file, variable, flag.", "--write-config-doc"),
    "docs/METRICS.md": lambda: page(
        "Metrics", "Generated from the `.def` tables by `tests/conformance/generated_docs.py --write`. Histograms are in seconds.",
        "--write-metrics-doc"),
    "docs/SUPPORT.md": support.page,
}


def unnamed_members():
    """Members that the router reads and docs/API.md has not in backquotes."""
    with open(os.path.join(ROOT, "router/request_fields.def")) as f:
        members = re.findall(r"^(?:FIELD|IGNORED|REFUSED)\((\w+),", f.read(), re.MULTILINE)
    with open(os.path.join(ROOT, "docs/API.md")) as f:
        named = set(re.findall(r"`(\w+)`", f.read()))
    return [member for member in members if member not in named]


def main():
    passed = failed = 0
    for path, make in PAGES.items():
        full, text = os.path.join(ROOT, path), make()
        if "--write" in sys.argv:
            with open(full, "w") as f:
                f.write(text)
        with open(full) as f:
            same = f.read() == text
        passed, failed = passed + same, failed + (not same)
        if not same:
            print(f"{path} is out of date: run tests/conformance/generated_docs.py --write")
    unnamed = unnamed_members()
    passed, failed = passed + (not unnamed), failed + bool(unnamed)
    if unnamed:
        print(f"docs/API.md does not name {', '.join(unnamed)}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
