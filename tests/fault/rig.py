# SPDX-License-Identifier: Apache-2.0
"""A pager and its clients, for tests without VMs.

    from rig import Pager, client, image, main

    def test_something():
        with Pager() as p:
            a = p.client("a", image(4096, "7:20:50"), mode="copy")
            check(a.ask("compare")["wrong"] == 0, "wrong pages")

Programs are those of the build that DORM_BUILD names (default build/). Run one file by hand:
DORM_BUILD=build-asan python3 tests/fault/test_pages.py [NAME or beginning of one]...
"""
import array
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

import harness  # noqa: E402
from harness import check, program, wait_until  # noqa: E402, F401

WORK = pathlib.Path(tempfile.mkdtemp(prefix="dorm-fault."))
KEY = {"DORM_TEST_KEY": "ab" * 32}
SANITIZER = {"ASAN_OPTIONS": "verify_asan_link_order=0:" + os.environ.get("ASAN_OPTIONS", "")}
PAGES = 8192
CONTENT = "7:25:50"
PAGER = os.environ.get("DORM_PAGER") or program("dorm-pager")  # build/bin may be older


class Image:
    """a snapshot directory whose content follows from a seed"""

    def __init__(self, path, pages, content, sealed):
        self.path, self.pages, self.content, self.sealed = path, pages, content, sealed

    def layers(self):
        return sorted((self.path / "layers").iterdir())

    def remove(self):
        """what is open stays open; the next image() of this kind is made anew"""
        shutil.rmtree(self.path)

    def drop_cache(self):
        for layer in self.layers():
            fd = os.open(layer, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def image(pages=PAGES, content=CONTENT, codec="none", sealed=False, parent=None, fresh=False,
          order="sequential", raw=False, alone=False, all_pages=False, working_set=0):
    """make one, or find the one made before; fresh: a directory that nobody else uses; raw: a file;
    parent, alone, working_set: see make-image.c"""
    name = re.sub(r"[^\w]+", "-", f"{pages}-{content}-{codec}-{sealed}-{order}-{raw}-{working_set}")
    name += f"-of-{zlib.crc32(str(parent.path).encode()):x}" if parent else ""
    if fresh:
        name += f"-{time.monotonic_ns()}"
    path = WORK / name
    if not path.exists():
        args = [program("make-image"), path, str(pages), content, "--codec", codec, "--order", order]
        args += ["--key", "env:DORM_TEST_KEY"] if sealed else []
        args += ["--parent", parent.path] if parent else []
        args += ["--alone"] if alone else []
        args += ["--all"] if all_pages else []
        args += ["--raw"] if raw else []
        args += ["--working-set", str(working_set)] if working_set else []
        subprocess.run(args, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ, **KEY))
    return Image(path, pages, content, sealed)


class Client:
    """one vm-client that obeys commands; its lines are dictionaries"""

    def __init__(self, args, env=None):
        self.process = subprocess.Popen(list(map(str, args)), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True,
                                        env=dict(os.environ, **KEY, **(env or {})))
        self.pid = self.process.pid
        self.attached = None

    def line(self):
        text = self.process.stdout.readline()
        if not text:
            status = self.process.wait(20)
            raise AssertionError(f"vm-client ended with status {status}")
        return json.loads(text)

    def wait_attached(self):
        self.attached = self.line()
        check("attached" in self.attached, f"vm-client: {self.attached}")
        return self

    def send(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def ask(self, command):
        self.send(command)
        return self.line()

    def touch(self, what=""):
        """touch; fails when a page is wrong"""
        answer = self.ask(f"touch {what}".strip())
        check(answer.get("wrong") == 0, f"wrong pages: {answer}")
        return answer

    def compare(self):
        """every page; fails when one is wrong"""
        answer = self.ask("compare")
        check(answer.get("wrong") == 0, f"wrong pages: {answer}")
        return answer

    def kill(self):
        self.process.kill()
        self.close()

    def close(self):
        """let it end by itself; returns its status"""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.stdout.close()
        return self.process.wait(60)


class Pager:
    """a dorm-pager of its own, gone when the block is left; faults: see fault-io.c"""

    def __init__(self, *args, faults=None, env=None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="pager.", dir=WORK))
        self.control = self.dir / "control"
        self.switch = self.dir / "faults-on"
        self.log = self.dir / "log"
        self.args = [PAGER, "--socket", self.control, "--run-dir", self.dir, *args]
        self.env = dict(os.environ, **(env or {}))
        if faults: # the library that makes the faults sleeps and reads files: not on the list
            self.args.append("--seccomp=off")
            self.env.update(SANITIZER, DORM_FAULT_IO=faults, DORM_FAULT_IO_WHEN=str(self.switch),
                            LD_PRELOAD=program("libfault-io.so"))
        self.process = None
        self.clients = []

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        for c in self.clients:
            if c.process.poll() is None:
                c.kill()
        try:
            status = self.stop()
            check(kind or status == 0, f"the pager ended with status {status}: {self.tail()}")
        finally:
            if kind:
                print("--- the end of the pager's log")
                print(self.tail())
            shutil.rmtree(self.dir, ignore_errors=True)

    def tail(self):
        """the end of its log, or what a sanitizer said"""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        found = re.search(r"^(==\d+==ERROR|WARNING: ThreadSanitizer|.*runtime error:)", text, re.M)
        return text[found.start():][:6000] if found else text[-3000:]

    def start(self):
        ready, told = os.pipe()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*map(str, self.args), "--ready-fd", str(told)],
                                            env=self.env, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, pass_fds=[told])
        os.close(told)
        byte = os.read(ready, 1)
        os.close(ready)
        check(byte, f"the pager did not start: {self.tail()}")

    def kill(self):
        self.process.kill()
        self.process.wait(20)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise AssertionError("the pager did not end within 30 s of SIGTERM") from None

    def call(self, op, fds=(), timeout_s=60, **members):
        """one request; returns the reply, whatever it says; descriptors of it are closed"""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.settimeout(timeout_s)
            s.connect(str(self.control))
            request = json.dumps({"op": op, **members}).encode()
            if fds:
                s.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
            else:
                s.send(request)
            data, got, _, _ = socket.recv_fds(s, 65536, 2)
        try:
            reply = json.loads(data)
            if "reply_in_fd" in reply:
                reply = json.loads(os.pread(got[0], reply["reply_in_fd"], 0))
        finally:
            for fd in got:
                os.close(fd)
        return reply

    def session(self, name):
        return self.call("session", session=name).get("stats")

    def stats(self):
        return self.call("stats")["stats"]

    def wait_sessions(self, n):
        wait_until(lambda: len(self.stats()["sessions"]) == n, 20, f"{n} sessions")

    def fds(self):
        """descriptors it has open, but for the connection that asks whether all is quiet"""
        self.call("ping")
        time.sleep(0.02)
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def arguments(self, name, img, **options):
        args = [program("vm-client"), "--control", self.control, "--session", name,
                "--image", img.path, "--content", img.content, "--pages", img.pages]
        args += ["--key", "env:DORM_TEST_KEY"] if img.sealed else []
        options = {"timeout": 40, **options}
        for option, value in options.items():
            option = "--" + option.replace("_", "-")
            args += [option] if value is True else [] if value is None else [option, value]
        return args

    def begin(self, name, img, **options):
        """start a client and do not wait for it"""
        c = Client(self.arguments(name, img, commands=True, **options))
        self.clients.append(c)
        return c

    def client(self, name, img, **options):
        """a client that is attached and waits for commands"""
        return self.begin(name, img, **options).wait_attached()

    def wait_loaded(self, name, timeout_s=60):
        """until all that was to be loaded for it is"""
        wait_until(lambda: self.session(name)["load"]["state"] != "loading", timeout_s,
                   f"session {name} is loaded")
        stats = self.session(name)
        check(stats["load"]["state"] == "done", f"loading failed: {stats}")
        return stats


def main(namespace):
    """harness.main() for names that may be beginnings"""
    tests = [n.removeprefix("test_") for n in namespace if n.startswith("test_")]
    if sys.argv[1:]:
        sys.argv[1:] = [t for t in tests if any(t.startswith(w) for w in sys.argv[1:])]
        tests = sys.argv[1:] or sys.exit("no such test")
    try:
        harness.main({"test_" + t: namespace["test_" + t] for t in tests})
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
