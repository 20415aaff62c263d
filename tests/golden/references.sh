#!/usr/bin/env bash
# Runs a script of this folder that needs torch and transformers, in an environment of their own
# (build/venv-references, made at first use: 1.6 GB on disk). CPU only.
#   tests/golden/references.sh make_references.py --check
#   tests/golden/references.sh make_references.py --write DIR
#   tests/golden/references.sh fresh_prompts.py
# Where the packages cannot be installed it says so and skips.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || { sed -n '4,6s/^# *//p' "$0" >&2; exit 2; }
list=tests/golden/requirements.txt
venv=build/venv-references
stamp=$venv/.requirements

if ! cmp -s $list $stamp; then
    echo "making the Python environment of the references in $venv"
    rm -rf $venv
    mkdir -p build
    /usr/bin/python3 -m venv $venv
    if ! $venv/bin/pip install -q --no-deps --no-cache-dir --disable-pip-version-check -r $list >$venv/pip.log 2>&1; then
        echo "skipped: $list could not be installed: $(grep -v '^$' $venv/pip.log | tail -1)"
        echo "0 passed, 0 failed, 1 skipped"
        exit 0
    fi
    $venv/bin/python3 tests/golden/cuda_stubs.py $venv/lib/python3*/site-packages/torch/lib
    cp $list $stamp
fi
script=$1
shift
exec $venv/bin/python3 "tests/golden/$script" "$@"
