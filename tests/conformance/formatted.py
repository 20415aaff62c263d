"""Every C file is as .clang-format wants it."""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
listed = subprocess.run(["git", "ls-files", "*.c", "*.h"], cwd=ROOT, capture_output=True, text=True).stdout.split()
files = [f for f in listed if os.path.exists(os.path.join(ROOT, f))]
said = subprocess.run(["clang-format", "--dry-run", "-Werror", *files], cwd=ROOT, capture_output=True, text=True)
bad = sorted(set(re.findall(r"^(\S+?):\d+:\d+: error:", said.stderr, re.M)))
for name in bad:
    print(name, "is not formatted")
if said.returncode and not bad:
    print(said.stderr)
    bad = files
print(f"{len(files) - len(bad)} passed, {len(bad)} failed")
sys.exit(1 if bad or not files else 0)
