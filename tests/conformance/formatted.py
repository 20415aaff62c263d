"""Every C file is as .clang-format wants it."""
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
files = subprocess.run(["git", "ls-files", "*.c", "*.h"], cwd=ROOT, capture_output=True, text=True).stdout.split()
bad = [f for f in files if os.path.exists(os.path.join(ROOT, f)) and
       subprocess.run(["clang-format", "--dry-run", "-Werror", f], cwd=ROOT, capture_output=True).returncode]
for name in bad:
    print(name, "is not formatted")
print(f"{len(files) - len(bad)} passed, {len(bad)} failed")
sys.exit(1 if bad or not files else 0)
