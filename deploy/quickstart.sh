#!/usr/bin/env bash
# From a fresh Debian 12 to an answered chat: installs what is missing, builds, fetches a model, starts a local cluster
# and asks it one question. Run again, it takes seconds. The cluster stays up.
#
# usage: deploy/quickstart.sh [OPTIONS] [QUESTION] [-- OPTIONS OF baton up]
#   --port PORT      port of the API on 127.0.0.1 (8000)
#   --name NAME      name of the cluster, for a second one beside the first (default)
#   --state-dir DIR  its state folder, instead of the one that belongs to the name
#   --help           this
# What stands behind -- goes to `baton up` as it is: -- --prefill 2, or -- --model PATH instead of SmolLM2.
set -euo pipefail
caller=$PWD
case "$0" in */*) cd "${0%/*}/.." ;; *) cd .. ;; esac
root=$PWD
cd "$caller"
. "$root/deploy/step.sh"

fail() { # WHAT [WHAT TO DO]...
    echo "quickstart: $1" >&2
    shift
    [ $# = 0 ] || printf '    %s\n' "$@" >&2
    exit 1
}
misuse() { echo "quickstart: $1 (see deploy/quickstart.sh --help)" >&2; exit 2; }

work=${TMPDIR:-/tmp}/baton-quickstart-$$
mkdir -m 700 "$work"
trap 'rm -rf "$work"' EXIT
doing="preparing"
interrupted() {
    [ ! -s "$work/ready" ] || doing="$doing; the cluster is up"
    printf '\nquickstart: interrupted while %s; run it again to go on\n' "$doing" >&2
}

question=
port=8000 place=() up_options=() own_model=0
while [ $# -gt 0 ]; do
    case "$1" in --port | --name | --state-dir) [ $# -ge 2 ] || misuse "$1 needs a value" ;; esac
    case "$1" in
        --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
        --port=* | --name=* | --state-dir=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
        --port) port=$2; shift 2 ;;
        --name | --state-dir) place+=("$1" "$2"); shift 2 ;;
        --) shift; up_options=("$@"); break ;;
        -*) misuse "there is no option $1; options of baton up stand behind --" ;;
        *) question=$1; shift ;;
    esac
done
case "$port" in "" | *[!0-9]*) misuse "--port takes a number, not \"$port\"" ;; esac
for option in ${up_options[@]+"${up_options[@]}"}; do
    case "$option" in --model | --model=*) own_model=1 ;; esac
done

where= # for commands that are printed
[ ${#place[@]} = 0 ] || printf -v where ' %q' "${place[@]}"

# ---- packages and programs --------------------------------------------------------------

doing="installing"
child "$root/deploy/setup.sh" &
await $! || fail "what Baton needs could not be installed" "the message above says what to do"

build=$root/build/release
mkdir -p "$build" 2>/dev/null || true
[ -w "$build" ] || fail "$(id -un) may not write to $build" "use a checkout of your own, or be given this one: chown -R $(id -un) $root"
doing="configuring"
if [ ! -f "$build/build.ninja" ]; then
    step "quickstart: configuring" "$build/configure.log" cmake -S "$root" --preset release || {
        tail -20 "$build/configure.log" >&2
        fail "cmake failed" "the whole log is $build/configure.log" "rm -rf $build begins afresh"
    }
fi
doing="building"
step "quickstart: building" "$build/build.log" ninja -C "$build" all_programs || {
    grep -E 'error|FAILED' "$build/build.log" | head -10 >&2
    fail "the build failed" "the whole log is $build/build.log" "rm -rf $build begins afresh"
}
bin=$build/bin
[ "$PWD" != "$root" ] || bin=build/release/bin

# ---- model and cluster ---------------------------------------------------------------------

doing="fetching the model"
if [ "$own_model" = 0 ]; then
    fetched=0
    child "$bin/baton" model fetch smollm2 &
    await $! || fetched=$?
    if [ $fetched = 0 ]; then
        up_options=(--model smollm2 ${up_options[@]+"${up_options[@]}"})
    else
        echo "quickstart: SmolLM2 cannot be fetched, so the small built-in model serves instead (it is for tests: expect little)"
        question=${question:-Who are you?}
        up_options=(--model baton-tiny ${up_options[@]+"${up_options[@]}"})
    fi
fi

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_port() {
    local p=$((port + 1))
    while listens $p; do p=$((p + 1)); done
    echo $p
}

holder() { # of the port, where it can be seen: ", held by nginx (pid 12)"
    command -v ss >/dev/null || return 0
    ss -Hltnp "sport = :$port" | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/, held by \1 (pid \2)/p' | head -1
}

explain_failed_start() { # CODE of baton up
    [ "$1" != 2 ] || fail "baton up does not take these options" "the message above says which; see $bin/baton up --help"
    if "$bin/baton" status ${place[@]+"${place[@]}"} >/dev/null 2>&1; then
        fail "another cluster runs in this state folder" "stop it:                 $bin/baton down$where" \
            "or start one beside it:  ./deploy/quickstart.sh --name second --port $(free_port)"
    elif listens "$port"; then
        fail "port $port is taken$(holder)" "take another: ./deploy/quickstart.sh$where --port $(free_port)"
    fi
    fail "the cluster did not start" "the message above says why; more is in: $bin/baton logs router$where"
}

doing="starting the cluster"
child "$bin/baton" up --port "$port" ${place[@]+"${place[@]}"} "${up_options[@]}" >"$work/ready" &
await $! || explain_failed_start $?
read -r ready url <"$work/ready" || explain_failed_start 0
echo "$ready $url"

question=${question:-Explain in one sentence why the sky is blue.}
doing="asking"
echo
echo "> $question"
# Python that starts with SIGINT ignored has no handler of its own, which would print where it was.
child env --ignore-signal=INT /usr/bin/python3 "$root/deploy/ask.py" "$url" "$question" &
await $! || fail "the cluster did not answer" "see: $bin/baton status$where; $bin/baton logs decode$where"
child curl -s --max-time 10 --noproxy '*' -o "$work/models" "$url/v1/models" &
await $! || fail "the cluster did not answer" "see: $bin/baton status$where"
read -r models <"$work/models" || true
[[ $models =~ \"id\":\ *\"([^\"]*)\" ]] || fail "$url/v1/models has no model"
model=${BASH_REMATCH[1]}
cat <<END

The cluster is up at $url (OpenAI API). Talk to it:
    $bin/baton chat$where
    curl $url/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"model": "$model", "temperature": 0.2, "messages": [{"role": "user", "content": "Hello"}]}'
Look at it:  $bin/baton status$where     Stop it:  $bin/baton down$where
END
