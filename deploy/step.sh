# shellcheck shell=bash
# Sourced by the scripts beside it, which have a function `interrupted` that says so.
#   step WHAT LOG COMMAND...   runs the command with all of its output in LOG. After two seconds, and then every five,
#                              a line says how long it has taken and what the log said last.
#   child COMMAND... &         runs the command; all that takes long is started this way,
#   await $!                   and waited for.
# Ctrl-C ends the script with 130, after all of its children. While bash waits for a child in the foreground, or for a
# $(...), there are moments in which a SIGINT is lost, and before the command runs the child itself may lose it. `wait`
# ends with the signal at once; the child is told again until it ends.
INTERRUPT_SECONDS=120 # apt-get lets dpkg finish

child() { # COMMAND...
    exec env --default-signal=INT "$@" </dev/null # which & has the shell ignore
}

is_child() { # PID
    local stat
    read -r stat 2>/dev/null <"/proc/$1/stat" && [[ $stat == *") "?" $$ "* ]]
}

end_child() { # PID
    local tenths=0
    while is_child "$1" && [ $tenths -lt $((INTERRUPT_SECONDS * 10)) ]; do
        sleep 0.1
        tenths=$((tenths + 1))
        # Not at once: the terminal has sent it to all.
        [ $((tenths % 10)) != 0 ] || kill -INT "$1" 2>/dev/null || true
    done
}

awaited=
on_interrupt() {
    trap '' INT
    [ -z "$awaited" ] || end_child "$awaited"
    [ -z "${!-}" ] || end_child "$!"
    interrupted
    exit 130
}
trap on_interrupt INT

await() { # PID
    local code=0
    awaited=$1
    wait "$1" || code=$?
    [ "$code" != 130 ] || on_interrupt # of the child alone
    return "$code"
}

last_words() {
    tail -c 1000 "$1" 2>/dev/null | tr '\r' '\n' | grep -av '^[[:space:]]*$' | tail -1 | cut -c 1-80 | sed 's/^[[:space:]]*/: /' || true
}

report_progress() { # WHAT LOG PID
    local seconds=0
    while sleep 1 >/dev/null 2>&1 && [ -d "/proc/$3" ]; do
        seconds=$((seconds + 1))
        [ $((seconds % 5)) != 2 ] || echo "$1 ($seconds s)$(last_words "$2")"
    done
}

step() { # WHAT LOG COMMAND...
    local what=$1 log=$2 reporter code=0
    shift 2
    child "$@" >"$log" 2>&1 &
    awaited=$!
    report_progress "$what" "$log" "$awaited" &
    reporter=$!
    await "$awaited" || code=$?
    kill "$reporter"
    wait "$reporter" 2>/dev/null || true
    return "$code"
}
