"""Lets the CUDA build of torch be imported where no CUDA library is: `cuda_stubs.py SITE-PACKAGES/torch/lib`

The torch that pip installs on x86-64 is linked with CUDA's libraries, gigabytes of them, although arithmetic on the CPU never calls them.
For each that torch's own folder lacks, a library of that name is made there (it wins over one of the system) whose functions all
answer 100, cudaErrorNoDevice; those that name an error answer text. A build of torch that needs none gets none. Needs gcc and readelf.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

OF_CUDA = re.compile(r"lib(cu|nv|nccl)\w+\.so")


def readelf(option, path):
    return subprocess.run(["readelf", "-W", option, path], capture_output=True, text=True, check=True).stdout


def missing(folder, libraries):
    """Name of each missing library, and the symbol versions that are asked of it."""
    needed = {name for path in libraries for name in re.findall(r"\(NEEDED\).*\[(.*)\]", readelf("-d", path))
              if OF_CUDA.match(name) and not (folder / name).exists()}
    versions = {name: set() for name in needed}
    for path in libraries:
        for name, entries in re.findall(r"File: (\S+) .*\n((?:.*Name:.*\n)+)", readelf("-V", path)):
            if name in needed:
                versions[name].update(re.findall(r"Name: (\S+)", entries))
    return versions


def wanted_symbols(libraries):
    """Undefined symbols by version; under "" those without one, of which the name alone tells that they are CUDA's."""
    symbols = {"": set()}
    for path in libraries:
        table = readelf("--dyn-syms", path)
        symbols[""].update(re.findall(r" UND ((?:cu|nv|nccl)\w+)$", table, re.M))
        for symbol, version in re.findall(r" UND (\w+)@(\S+)", table):
            symbols.setdefault(version, set()).add(symbol)
    return symbols


def function(symbol):
    if symbol.endswith(("GetErrorString", "GetErrorName")):
        return f'const char *{symbol}(void) {{ return "no CUDA library is here"; }}\n'
    return f"int {symbol}(void) {{ return 100; }}\n"


def make_stub(path, versions, symbols):
    """Libraries without versions each get every such symbol: which one it belongs to is not recorded."""
    groups = {v: sorted(symbols.get(v, ())) for v in sorted(versions) or [""]}
    with tempfile.TemporaryDirectory() as work:
        source, script = pathlib.Path(work, "stub.c"), pathlib.Path(work, "stub.map")
        source.write_text("".join(function(s) for names in groups.values() for s in names))
        script.write_text("".join(f"{v} {{ global: {' '.join(s + ';' for s in names)} }};\n" for v, names in groups.items()))
        options = [f"-Wl,--version-script={script}"] if versions else []
        subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{path.name}", *options, "-o", path, source],
                       check=True)


def main():
    folder = pathlib.Path(sys.argv[1])
    libraries = sorted(folder.glob("*.so*"))
    symbols = wanted_symbols(libraries)
    for name, versions in sorted(missing(folder, libraries).items()):
        make_stub(folder / name, versions, symbols)


if __name__ == "__main__":
    main()
