#!/usr/bin/env bash
# Installs, builds and passes all tests; ends with `N passed, N failed, N skipped`.
#   --fast   without the sanitizer builds
#   --builds LIST  only these of release,asan,tsan
#   --long   also soaks, outages, load and the full matrices
#   --only REGEX   only steps and test programs whose name matches
#   --list   says the names of what would run with the other options, and how long it took when it last ran here
set -euo pipefail
cd "$(dirname "$0")/.."
for option in "$@"; do
    case "$option" in
        --list) exec /usr/bin/python3 tests/run.py "$@" ;;
        --help|-h) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    esac
done
./deploy/setup.sh --tests
exec /usr/bin/python3 tests/run.py "$@"
