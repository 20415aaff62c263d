#!/usr/bin/env bash
# Builds llama.cpp for comparison, from its package's source, in build/venv-llama: some minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
list=bench/peers/requirements.txt
venv=build/venv-llama
stamp=$venv/.requirements

cmp -s $list $stamp && exit 0
command -v g++ >/dev/null || { echo "setup.sh: llama.cpp needs a C++ compiler: apt-get install g++" >&2; exit 1; }
echo "building llama.cpp in $venv: some minutes"
# the library alone: no image input, no command line tools
export CMAKE_ARGS="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TOOLS=OFF" CMAKE_BUILD_PARALLEL_LEVEL=${BATON_BUILD_JOBS:-$(nproc)}
rm -rf $venv
mkdir -p build
/usr/bin/python3 -m venv $venv
if ! $venv/bin/pip install -q --no-binary llama-cpp-python --disable-pip-version-check -r $list >$venv/pip.log 2>&1; then
    tail -3 $venv/pip.log >&2
    echo "setup.sh: llama.cpp could not be built; $venv/pip.log has the whole story" >&2
    exit 1
fi
cp $list $stamp
