#!/usr/bin/env bash
# Installs what Baton builds and runs with, on Debian 12.
#   deploy/setup.sh           what building and running need
#   deploy/setup.sh --tests   also what the tests need: a Python environment in build/venv
# Says nothing and takes no time when all is there. Root, or sudo, is needed only
# when Debian packages are missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/step.sh
interrupted() { echo "setup: interrupted; run it again to go on" >&2; }

packages=(
    gcc libc6-dev cmake ninja-build pkg-config
    libucx-dev            # KV data plane
    libzmq3-dev           # control plane
    libprotobuf-c-dev protobuf-c-compiler
    libmsgpack-dev        # KV events
    libcurl4-openssl-dev etcd-server
    libevent-dev node-llhttp libjansson-dev
    libpcre2-dev libutf8proc-dev # tokenizers
    libxxhash-dev libssl-dev libhwloc-dev
    liburing-dev          # disk tier of the KV block manager
    libcmocka-dev
    python3 python3-pip python3-venv ca-certificates curl
)
test_packages=(clang clang-format clang-tidy libclang-rt-14-dev iproute2 git)

tests=0
for option in "$@"; do
    case "$option" in
        --tests) tests=1 ;;
        *) echo "setup.sh: unknown option $option (known: --tests)" >&2; exit 2 ;;
    esac
done
[ "$tests" = 1 ] && packages+=("${test_packages[@]}")

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done

if [ ${#missing[@]} -gt 0 ]; then
    as_root=()
    if [ "$(id -u)" != 0 ]; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
            as_root=(sudo -n)
        else
            echo "setup.sh: these Debian packages are missing, and installing them needs root:" >&2
            echo "    sudo apt-get install ${missing[*]}" >&2
            exit 1
        fi
    fi
    echo "setup: installing ${#missing[@]} Debian packages: ${missing[*]}"
    log=$(mktemp)
    as_root+=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1) # daemons that packages bring are not started
    install=("${as_root[@]}" apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "${missing[@]}")
    if ! step "setup: installing packages" "$log" "${install[@]}"; then
        step "setup: finishing what was interrupted" "$log" "${as_root[@]}" dpkg --configure -a || true
        step "setup: refreshing the package lists" "$log" "${as_root[@]}" apt-get update || true
        if ! step "setup: installing packages" "$log" "${install[@]}"; then
            grep '^[EW]:' "$log" | tail -5 >&2
            echo "setup.sh: apt-get could not install: ${missing[*]}" >&2
            echo "    its log is $log; see that the package sources are reached (sudo apt-get update)" >&2
            exit 1
        fi
    fi
    rm -f "$log"
fi

if [ "$tests" = 1 ]; then
    stamp=build/venv/.requirements
    if ! cmp -s tests/requirements.txt "$stamp" 2>/dev/null; then
        echo "setup: making the Python environment of the tests in build/venv"
        rm -rf build/venv
        mkdir -p build
        log=build/pip.log
        if ! step "setup: making build/venv" "$log" /usr/bin/python3 -m venv build/venv ||
            ! step "setup: installing Python packages" "$log" \
                build/venv/bin/pip install --progress-bar off --disable-pip-version-check -r tests/requirements.txt; then
            grep '^ERROR' "$log" | tail -1 >&2 || true
            echo "setup.sh: the Python packages of tests/requirements.txt could not be installed (log: $log);" >&2
            echo "    tests with real clients will be skipped" >&2
        else
            cp tests/requirements.txt "$stamp"
        fi
    fi
fi
