# SPDX-License-Identifier: Apache-2.0
"""A guest that only moves bytes through the agent's port (tests/guest/raw-port.c): the channel itself.

The same QEMU, kernel, machine and device as a sandbox has, and nothing of Dormouse but the code that
finds the port. What dormd, the agent and HTTP/2 add is measured against it.
"""
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import tempfile
import time


def cpio_init(program):
    """an archive (newc) with /init, /dev/console and the directories that boot.c mounts on"""
    out = b""
    entries = [(name, 0o040755, b"", 0, 0) for name in
               ("dev", "proc", "run", "sandbox", "sys", "tmp")]
    entries += [("dev/console", 0o020600, b"", 5, 1),
                ("init", 0o100755, pathlib.Path(program).read_bytes(), 0, 0),
                ("TRAILER!!!", 0, b"", 0, 0)]
    for number, (name, mode, data, major, minor) in enumerate(entries):
        fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return out


class RawChannel:
    def __init__(self, cache, program, tsc_khz):
        kernel = max(cache.glob("kernel-*"), key=lambda p: p.stat().st_mtime)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="dorm-raw."))
        initrd = self.dir / "initrd"
        initrd.write_bytes((kernel / "modules.cpio").read_bytes() + cpio_init(program))
        command = [os.environ.get("DORM_QEMU", "qemu-system-x86_64"), "-M",
                   "microvm,acpi=on,rtc=on,x-option-roms=off", "-bios", "qboot.rom", "-accel",
                   "tcg,tb-size=32", "-cpu", "max", "-smp", "1", "-m", "128", "-nodefaults",
                   "-no-user-config", "-display", "none", "-serial", f"file:{self.dir}/console",
                   "-kernel", kernel / "vmlinuz", "-initrd", initrd, "-append",
                   "console=ttyS0 panic=-1 quiet nokaslr mitigations=off no_timer_check "
                   f"tsc_early_khz={tsc_khz} tsc=reliable",
                   "-chardev", f"socket,id=ag,path={self.dir}/port,server=on,wait=off", "-device",
                   "virtio-serial-device", "-device", "virtserialport,chardev=ag,name=agent"]
        self.socket = self.qemu = None
        try:
            self.qemu = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL)
            self.connect()
        except BaseException:
            self.close()
            raise

    def connect(self, timeout_s=60):
        end = time.monotonic() + timeout_s
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(f"{self.dir}/port")
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > end or self.qemu.poll() is not None:
                    raise
                time.sleep(0.05)
        self.socket.settimeout(timeout_s)
        self.ping()
        self.socket.settimeout(600)

    def ask(self, op, n=0):
        self.socket.sendall(struct.pack("<cQ", op, n))

    def take(self, n):
        buffer = memoryview(bytearray(1 << 20))
        while n:
            got = self.socket.recv_into(buffer, min(n, len(buffer)))
            if not got:
                raise EOFError("the guest is gone")
            n -= got

    def ping(self):
        """seconds for a byte there and back"""
        start = time.perf_counter()
        self.ask(b"P")
        self.take(1)
        return time.perf_counter() - start

    def download(self, n):
        """bytes per second from the guest"""
        start = time.perf_counter()
        self.ask(b"S", n)
        self.take(n)
        return n / (time.perf_counter() - start)

    def upload(self, n):
        chunk, left = bytes(1 << 20), n
        start = time.perf_counter()
        self.ask(b"R", n)
        while left:
            self.socket.sendall(chunk[:min(left, len(chunk))])
            left -= min(left, len(chunk))
        self.take(1)
        return n / (time.perf_counter() - start)

    def close(self):
        if self.socket:
            self.socket.close()
        if self.qemu:
            self.qemu.kill()
            self.qemu.wait(10)
        shutil.rmtree(self.dir, ignore_errors=True)
