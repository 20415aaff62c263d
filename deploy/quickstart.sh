#!/usr/bin/env bash
# From a fresh Debian 12 to an answered chat: installs what is missing, builds,
# fetches a model, starts a local cluster and asks it one question.
# Run again, it takes seconds. The cluster stays up.
set -euo pipefail
cd "$(dirname "$0")/.."

question=${1:-"Why is the sky blue?"}
bin=build/release/bin
fail() { echo "quickstart: $1" >&2; [ -n "${2:-}" ] && echo "    $2" >&2; exit 1; }

./deploy/setup.sh || fail "the packages Baton needs could not be installed" "see the message above"

if [ ! -f build/release/build.ninja ]; then
    echo "quickstart: configuring"
    cmake --preset release >build.log 2>&1 || { tail -20 build.log >&2; fail "cmake failed" "the whole log is build.log"; }
    rm -f build.log
fi
mkdir -p build
# ninja shows its progress on a terminal; elsewhere a line every few seconds does.
if [ -t 1 ]; then
    ninja -C build/release all_programs || fail "the build failed" "the message above names the file"
else
    ninja -C build/release all_programs >build/release/build.log 2>&1 &
    build=$!
    while kill -0 $build 2>/dev/null; do
        sleep 0.2
        now=$(date +%s)
        if [ $((now % 5)) = 0 ] && [ "${shown:-}" != "$now" ]; then
            shown=$now
            echo "quickstart: building $(grep -o '^\[[0-9]*/[0-9]*\]' build/release/build.log 2>/dev/null | tail -1)"
        fi
    done
    wait $build || { grep -E 'error|FAILED' build/release/build.log | head -10 >&2; fail "the build failed" "the whole log is build/release/build.log"; }
fi

model=smollm2
if ! $bin/baton model fetch smollm2; then
    echo "quickstart: SmolLM2 cannot be fetched, so the small built-in model serves instead (it is for tests: expect little)"
    model=baton-tiny
fi

ready=$($bin/baton up --model $model --router 1 --prefill 1 --decode 1 ${BATON_QUICKSTART_UP:-} | tail -1)
echo "$ready"
case "$ready" in
    "ready http://"*) url=${ready#ready } ;;
    *) fail "the cluster did not start" "see: $bin/baton logs router" ;;
esac

echo
echo "> $question"
/usr/bin/python3 deploy/ask.py "$url" "$question" || fail "the cluster did not answer" "see: $bin/baton status; $bin/baton logs decode"
cat <<EOF

The cluster is up at $url (OpenAI API). Talk to it:
    $bin/baton chat
    curl $url/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"model": "$model", "messages": [{"role": "user", "content": "Hello"}]}'
Look at it:  $bin/baton status      Stop it:  $bin/baton down
EOF
