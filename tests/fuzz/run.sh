#!/usr/bin/env bash
# Runs every fuzz target for SECONDS (default 60) under ASan and UBSan, from its corpus.
# What it finds is left in build/fuzz/findings. Ends with `N passed, N failed`.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-60}
[ -f build/fuzz/build.ninja ] || cmake --preset fuzz >/dev/null
targets=$(ls tests/fuzz/fuzz_*.c | xargs -n1 basename | sed 's/\.c$//')
ninja -C build/fuzz $targets >build/fuzz/build.log || { tail -20 build/fuzz/build.log; exit 1; }
mkdir -p build/fuzz/findings
passed=0 failed=0
for target in $targets; do
    work=build/fuzz/work/$target
    mkdir -p "$work"
    if build/fuzz/bin/tests/$target -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix=build/fuzz/findings/$target- "$work" "tests/fuzz/corpus/${target#fuzz_}" \
        >build/fuzz/$target.log 2>&1; then
        passed=$((passed + 1))
        echo "ok      $target: $(grep -o 'number_of_executed_units: *[0-9]*' build/fuzz/$target.log | grep -o '[0-9]*') runs"
    else
        failed=$((failed + 1))
        echo "FAILED  $target"
        tail -15 build/fuzz/$target.log
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
