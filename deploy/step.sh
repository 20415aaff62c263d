# shellcheck shell=bash
# Sourced by the scripts beside it.
#   step WHAT LOG COMMAND...   runs the command with all of its output in LOG. After two seconds, and then every five,
#                              a line says how long it has taken and what the log said last.
# The command stays in the foreground, so that Ctrl-C reaches it as if nobody stood between.

last_words() {
    tail -c 1000 "$1" 2>/dev/null | tr '\r' '\n' | grep -av '^[[:space:]]*$' | tail -1 | cut -c 1-80 | sed 's/^[[:space:]]*/: /' || true
}

report_progress() { # WHAT LOG
    local seconds=0
    while sleep 1 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
        seconds=$((seconds + 1))
        [ $((seconds % 5)) != 2 ] || echo "$1 ($seconds s)$(last_words "$2")"
    done
}

step() { # WHAT LOG COMMAND...
    local what=$1 log=$2 reporter code=0
    shift 2
    : >"$log"
    report_progress "$what" "$log" &
    reporter=$!
    "$@" >"$log" 2>&1 || code=$?
    kill "$reporter"
    wait "$reporter" 2>/dev/null || true
    return "$code"
}
