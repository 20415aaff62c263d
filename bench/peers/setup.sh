#!/usr/bin/env bash
# Builds llama.cpp for comparison, from its package's source, in build/venv-llama: some minutes on two cores.
#   --server   also its HTTP server, of the same source, in build/llama-server: some minutes more
set -euo pipefail
cd "$(dirname "$0")/../.."
list=bench/peers/requirements.txt
venv=build/venv-llama
server=build/llama-server
jobs=${BATON_BUILD_JOBS:-$(nproc)}

fail() { # what went wrong, log
    tail -3 "$2" >&2
    echo "setup.sh: $1 could not be built; $2 has the whole story" >&2
    exit 1
}

build_library() {
    cmp -s $list $venv/.requirements && return
    echo "building llama.cpp in $venv: some minutes"
    rm -rf $venv
    mkdir -p build
    /usr/bin/python3 -m venv $venv
    # the library alone: no image input, no command line tools
    CMAKE_ARGS="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TOOLS=OFF" CMAKE_BUILD_PARALLEL_LEVEL=$jobs \
        $venv/bin/pip install -q --no-binary llama-cpp-python --disable-pip-version-check -r $list >$venv/pip.log 2>&1 ||
        fail "llama.cpp" $venv/pip.log
    cp $list $venv/.requirements
}

build_server() {
    cmp -s $list $server/.requirements && return
    echo "building llama.cpp's server in $server: some minutes"
    rm -rf $server
    mkdir -p $server
    get_and_make >$server/build.log 2>&1 || fail "llama.cpp's server" $server/build.log
    rm -rf $server/source
    cp $list $server/.requirements
}

# Without its web pages, which it would fetch, and without TLS.
get_and_make() {
    $venv/bin/pip download --no-deps --no-binary llama-cpp-python --disable-pip-version-check -d $server/source \
        "$(grep '^llama-cpp-python' $list)" &&
        tar -xzf $server/source/llama_cpp_python-*.tar.gz -C $server/source --strip-components 1 &&
        cmake -S $server/source/vendor/llama.cpp -B $server -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
            -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF \
            -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF &&
        cmake --build $server --target llama-server -j "$jobs"
}

case "${1:-}" in
    ""|--server) ;;
    --help|-h) sed -n '2,3s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "setup.sh: unknown option $1 (known: --server)" >&2; exit 2 ;;
esac
command -v g++ >/dev/null || { echo "setup.sh: llama.cpp needs a C++ compiler: apt-get install g++" >&2; exit 1; }
build_library
[ "${1:-}" != --server ] || build_server
