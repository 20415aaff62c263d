"""Runs a test program on an emulated processor that has AVX-512, when this machine's has not.

    run.py PROGRAM [ARGUMENT...]

Debian's Bochs emulates the processor and Debian's kernel boots on it, with init.c as its first process, which runs the
program. What that takes, about 40 MB of packages, is unpacked in build/emulated; nothing is installed. The program's
output is passed on.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WORK = os.path.join(ROOT, "build", "emulated")
DEBIAN = os.path.join(WORK, "debian")
LIMIT = 2700 * float(os.environ.get("BATON_TEST_SLOW", "1"))  # seconds that the emulated machine may take
PROCESSOR = "corei7_icelake_u"
FLAGS = {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"}
KERNEL = "linux-image-cloud-amd64"
PACKAGES = ["bochs", "bochs-term", "bochsbios", "vgabios", "genisoimage", "isolinux", "syslinux-common"]

# Bochs has no fast string operations and says so where Linux forgets to give up "fsrm" too; its XSAVES and PKU are laid
# out otherwise than Linux expects, which would cost all vector registers. "rdinit" stands last: it takes back the words
# before it that Linux would hand on as arguments. The rest is for a faster start.
BOOT = ("console=ttyS0,115200 quiet clearcpuid=fsrm,xsaves,xsavec,pku idle=halt nokaslr mitigations=off lsm= "
        "random.trust_cpu=on rdinit=/init")
ENDED = re.compile(r"(?:\[ *[\d.]+\] )?Kernel panic - not syncing: Attempted to kill init! exitcode=0x([0-9a-f]{8})")

BOCHSRC = """\
display_library: term
plugin_ctrl: speaker=0
sound: driver=dummy, waveout=none
megs: 512
cpu: model={processor}, count=1, ips=100000000
clock: sync=none
romimage: file={share}/bochs/BIOS-bochs-latest
vgaromimage: file={share}/vgabios/vgabios.bin
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial.txt
log: bochs.log
panic: action=fatal
error: action=report
info: action=ignore
"""


def skipped(reason):
    print("skipped:", reason)
    print("0 passed, 0 failed, 1 skipped")
    sys.exit(0)


def processor_flags():
    with open("/proc/cpuinfo") as f:
        return set(re.search(r"^flags\s*:(.*)$", f.read(), re.M).group(1).split())


def output_of(command, cwd=None):
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def unpack_packages(folder):
    """The packages, the kernel that the newest one names, and of what they depend on all that this system lacks."""
    kernel = re.search(r"Depends: (linux-image-\S+)", output_of(["apt-cache", "depends", KERNEL])).group(1)
    plan = output_of(["apt-get", "install", "--simulate", "--no-install-recommends", *PACKAGES])
    names = {kernel, *PACKAGES, *re.findall(r"^Inst (\S+)", plan, re.M)}
    output_of(["apt-get", "download", "--quiet", *sorted(names)], cwd=folder)
    for name in sorted(os.listdir(folder)):
        output_of(["dpkg-deb", "--extract", name, "."], cwd=folder)
        os.remove(os.path.join(folder, name))


def fetch_packages():
    if os.path.exists(DEBIAN):
        return
    folder = DEBIAN + ".new"
    update = ([] if os.geteuid() == 0 else ["sudo", "-n"]) + ["apt-get", "update"]
    for last in (False, True):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        try:
            unpack_packages(folder)
            os.rename(folder, DEBIAN)
            return
        except (OSError, AttributeError, subprocess.CalledProcessError) as e:
            if last:
                said = (getattr(e, "stderr", "") or str(e)).strip().splitlines()
                skipped(f"Debian's packages of the emulator cannot be had: {said[-1]}")
            subprocess.run(update, capture_output=True)


def debian(*pattern):
    return os.path.join(DEBIAN, *pattern)


def environment():
    libraries = debian("usr/lib/x86_64-linux-gnu")
    return dict(os.environ, LD_LIBRARY_PATH=libraries + ":" + debian("lib/x86_64-linux-gnu"), TERM="linux",
                LTDL_LIBRARY_PATH=os.path.join(libraries, "bochs/plugins"), BXSHARE=debian("usr/share/bochs"))


class Initramfs:
    """A cpio archive of the "newc" kind: Documentation/driver-api/early-userspace/buffer-format.rst of Linux."""

    def __init__(self):
        self.bytes, self.names = b"", set()

    def entry(self, name, mode, data=b"", device=(0, 0)):
        self.names.add(name)
        fields = [len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0]
        head = b"070701" + b"".join(b"%08X" % v for v in fields) + name.encode() + b"\0"
        self.bytes += head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)

    def file(self, path, name):
        parts = name.split("/")[:-1]
        for folder in ("/".join(parts[:i + 1]) for i in range(len(parts))):
            if folder not in self.names:
                self.entry(folder, 0o40755)
        with open(path, "rb") as f:
            self.entry(name, 0o100755, f.read())


def make_initramfs(program):
    archive = Initramfs()
    archive.entry("dev", 0o40755)
    archive.entry("dev/console", 0o20600, device=(5, 1))
    init = os.path.join(WORK, "init")
    output_of(["cc", "-O1", "-static", "-o", init, os.path.join(ROOT, "tests/emulated/init.c")])
    archive.file(init, "init")
    archive.file(program, "program")
    for path in re.findall(r"(/\S+) \(0x", output_of(["ldd", program])):
        archive.file(path, path[1:])
    archive.entry("TRAILER!!!", 0)
    return archive.bytes


def make_disc(program, arguments):
    disc = os.path.join(WORK, "disc")
    shutil.rmtree(disc, ignore_errors=True)
    os.makedirs(disc)
    kernels = [f for f in os.listdir(debian("boot")) if f.startswith("vmlinuz-")]
    shutil.copy(debian("boot", kernels[0]), os.path.join(disc, "vmlinuz"))
    shutil.copy(debian("usr/lib/ISOLINUX/isolinux.bin"), disc)
    shutil.copy(debian("usr/lib/syslinux/modules/bios/ldlinux.c32"), disc)
    with open(os.path.join(disc, "initrd"), "wb") as f:
        f.write(make_initramfs(program))
    with open(os.path.join(disc, "isolinux.cfg"), "w") as f:
        f.write(f"DEFAULT linux\nLABEL linux\nKERNEL vmlinuz\nAPPEND initrd=initrd {BOOT} -- {' '.join(arguments)}\n")
    subprocess.run([debian("usr/bin/genisoimage"), "-quiet", "-o", os.path.join(WORK, "boot.iso"), "-b", "isolinux.bin",
                    "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", disc],
                   check=True, env=environment())


def boot():
    """What the emulated machine wrote on its serial line until the program ended, and why it is all when it did not."""
    serial = os.path.join(WORK, "serial.txt")
    if os.path.exists(serial):
        os.remove(serial)
    with open(os.path.join(WORK, "bochsrc"), "w") as f:
        f.write(BOCHSRC.format(processor=PROCESSOR, share=debian("usr/share")))
    with open(os.path.join(WORK, "start"), "w") as f:
        f.write("continue\n")  # Debian's Bochs starts in its debugger
    with open(os.path.join(WORK, "screen.txt"), "wb") as screen:
        bochs = subprocess.Popen([debian("usr/bin/bochs-bin"), "-q", "-f", "bochsrc", "-rc", "start"], cwd=WORK,
                                 stdin=subprocess.DEVNULL, stdout=screen, stderr=subprocess.STDOUT, env=environment())
    text, end = "", time.monotonic() + LIMIT
    code = None
    try:
        while code is None and not ENDED.search(text) and time.monotonic() < end:
            time.sleep(1)
            code = bochs.poll()
            if os.path.exists(serial):
                with open(serial, errors="replace", newline="") as f:
                    text = f.read().replace("\r", "")
    finally:
        bochs.kill()  # it keeps running after SIGTERM
        bochs.wait()
    return text, f"it took more than {LIMIT:.0f} s" if code is None else f"Bochs ended with {code}"


def main():
    if FLAGS <= processor_flags():
        skipped("this processor has AVX-512: the tests run on it itself")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.makedirs(WORK, exist_ok=True)
    fetch_packages()
    make_disc(sys.argv[1], sys.argv[2:])
    text, why = boot()
    ended = ENDED.search(text)
    print(text[:ended.start()] if ended else text)
    if not ended:
        print(f"the program did not end: {why}; {WORK} has bochs.log and screen.txt")
    sys.exit(0 if ended and int(ended.group(1), 16) == 0 else 1)


main()
