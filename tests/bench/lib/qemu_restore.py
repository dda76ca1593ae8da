# SPDX-License-Identifier: Apache-2.0
"""QEMU's own snapshot of a guest: its migration stream in a file, and a restore from that.

The yardstick for a wake. save_with_qemu() takes the control socket of a sandbox's VM (whose dormd has
died) and lets QEMU write everything, memory included, to a file. restore_with_qemu() starts the same
machine with ordinary memory and no Dormouse in it, from that file in the page cache, and stops the
clock when the guest's agent answers on its port.
"""
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

FRAME_MAX = 16384  # docs/format-channel.md


class Qmp:
    def __init__(self, path, timeout_s=60):
        end = time.monotonic() + timeout_s
        while True:
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(str(path))
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.001)
        self.socket.settimeout(timeout_s)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self("qmp_capabilities")

    def __call__(self, command, fd=None, **arguments):
        text = json.dumps({"execute": command, "arguments": arguments}) + "\n"
        socket.send_fds(self.socket, [text.encode()], [] if fd is None else [fd])
        while True:
            reply = json.loads(self.file.readline())
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                raise RuntimeError(f"{command}: {reply['error']['desc']}")

    def wait_migrated(self, timeout_s=120):
        end = time.monotonic() + timeout_s
        while True:
            status = self("query-migrate").get("status")
            if status == "completed":
                return
            if status in ("failed", "cancelled") or time.monotonic() > end:
                raise RuntimeError(f"migration {status}")
            time.sleep(0.002)

    def close(self):
        self.file.close()
        self.socket.close()


def process_in(directory):
    """the pid of the QEMU that runs in this directory"""
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == str(directory) and b"qemu" in (entry / "cmdline").read_bytes():
                return int(entry.name)
        except OSError:
            pass
    raise RuntimeError(f"no VM runs in {directory}")


def save_with_qemu(directory, state):
    """returns the VM's command line; the VM is gone afterwards"""
    pid = process_in(directory)
    command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
    qmp = Qmp(directory / "qmp.sock")
    qmp("stop")
    qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    ours, theirs = socket.socketpair()  # in its jail it has no path to a socket of ours
    qmp("getfd", fd=theirs.fileno(), fdname="state")
    theirs.close()
    qmp("migrate", uri="fd:state")
    with ours, open(state, "wb") as out:
        while chunk := ours.recv(1 << 20):
            out.write(chunk)
    qmp.close()
    os.kill(pid, signal.SIGKILL)
    return command


def plain(command, directory, memory_mb, state):
    """the same machine with ordinary memory, without our library, restored from the file"""
    out, words = [], iter(command)
    for word in words:
        if word == "-S":
            continue
        if word in ("-incoming", "-sandbox", "-mon", "-object"):
            next(words)
        elif word == "-netdev":
            next(words)  # its socket was a descriptor of ours; an empty hub is as little
            out += [word, "hubport,id=net,hubid=0"]
        elif word == "-chardev":
            value = next(words)
            if "id=agent," in value:
                value = f"socket,id=agent,path={directory}/qemu-agent.sock,server=on,wait=off"
            if "id=qmp," not in value:
                out += [word, value]
        else:
            out.append(word)
    return out + ["-object", f"memory-backend-ram,id=ram,size={memory_mb}M", "-S",
                  "-qmp", f"unix:{directory}/qemu-qmp.sock,server=on,wait=off",
                  "-incoming", f"exec:cat {state}"]


def agent_answers(path, timeout_s=60):
    """open a session on the agent's port (docs/format-channel.md): True when the agent replied"""
    nonce = os.urandom(16)
    hello = b"DORMCHAN" + bytes([1]) + nonce
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(path))
            s.sendall(bytes(FRAME_MAX + 8) + b"\xd1" + len(hello).to_bytes(2, "little") + hello + b"\x5a")
            s.settimeout(0.25)
            seen = b""
            try:
                while hello not in seen:
                    chunk = s.recv(65536)
                    if not chunk:
                        break
                    seen += chunk
                else:
                    return True
            except TimeoutError:
                pass
    return False


def restore_with_qemu(command, state, directory, memory_mb):
    """milliseconds from the start of QEMU to the agent's first answer"""
    argv = plain(command, directory, memory_mb, state)
    for name in ("qemu-agent.sock", "qemu-qmp.sock"):
        (directory / name).unlink(missing_ok=True)
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD" and not k.startswith("DORM_VMM")}
    start = time.monotonic()
    with open(directory / "qemu.log", "wb") as log:
        vm = subprocess.Popen([os.environ.get("DORM_QEMU") or shutil.which("qemu-system-x86_64"),
                               *argv[1:]], env=env, cwd=directory, stdin=subprocess.DEVNULL,
                              stdout=log, stderr=log)
    try:
        qmp = Qmp(directory / "qemu-qmp.sock")
        qmp.wait_migrated()
        qmp("cont")
        if not agent_answers(directory / "qemu-agent.sock"):
            raise RuntimeError("the guest restored by QEMU does not answer")
        return (time.monotonic() - start) * 1e3
    finally:
        vm.kill()
        vm.wait()
