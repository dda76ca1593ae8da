#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A pager that runs alone serves VMs that nobody announced: whoever connects brings its own memory.

The client does what Firecracker does, from the first byte: connect, one message, one descriptor.
"""
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import tempfile
import time

from kill_pager import percentile, stalls_of
from rig import PAGER, WORK, Client, check, image, main, program, wait_until
from crash import is_alive


class Alone:
    """dorm-pager --image ... --listen SOCKET, gone when the block is left"""

    def __init__(self, path, *more):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="alone.", dir=WORK))
        self.socket = self.dir / "socket"
        self.control = self.dir / "control"
        self.args = [PAGER, "--image", path, "--listen", self.socket, "--control",
                     self.control, *more]
        self.clients = []

    def __enter__(self):
        self.start()
        return self

    def start(self):
        """again, too: with the same arguments"""
        ready, told = os.pipe()
        with open(self.dir / "log", "ab") as log:
            self.process = subprocess.Popen([*map(str, self.args), "--ready-fd", str(told)],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            pass_fds=[told])
        os.close(told)
        byte = os.read(ready, 1)
        os.close(ready)
        check(byte, f"it did not start: {self.tail()}")

    def worker(self):
        """the pid of the worker; of an orphan too, because it is remembered"""
        path = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        wait_until(lambda: path.read_text().strip(), 20, "there is a worker")
        return int(path.read_text().split()[0])

    def sessions(self):
        """names of those that are served"""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.connect(str(self.control))
            s.send(b'{"op": "stats"}')
            data, fds, _, _ = socket.recv_fds(s, 65536, 2)
        reply = json.loads(data)
        if "reply_in_fd" in reply:
            reply = json.loads(os.pread(fds[0], reply["reply_in_fd"], 0))
        for fd in fds:
            os.close(fd)
        return {s["session"] for s in reply["stats"]["sessions"] if s["state"] == "serving"}

    def __exit__(self, kind, *_):
        for c in self.clients:
            if c.process.poll() is None:
                c.kill()
        self.process.terminate()
        status = self.process.wait(30)
        if kind:
            print(self.tail())
        check(kind or status == 0, f"status {status}: {self.tail()}")

    def tail(self):
        return (self.dir / "log").read_text(errors="replace")[-2000:]

    def client(self, img, **options):
        args = [program("vm-client"), "--listener", self.socket, "--content", img.content,
                "--pages", img.pages, "--commands", "--timeout", options.pop("timeout", 40)]
        for option, value in options.items():
            option = "--" + option.replace("_", "-")
            args += [option] if value is True else [option, value]
        c = Client(args)
        self.clients.append(c)
        return c.wait_attached()


BUSY = dict(threads=3, owned=25, write=30, remove=8, chaos=True)


def serve(img):
    with Alone(img.path) as a:
        clients = [a.client(img, seed=i, regions=1 + 7 * i, **BUSY,
                            **({"page_size_kib": True} if i % 2 else {})) for i in range(4)]
        for c in clients:
            c.send("touch uniform 3000")
        for c in clients:
            answer = c.line()
            check(answer.get("wrong") == 0, f"wrong pages: {answer}")
        for c in clients:
            c.compare()
            check(c.close() == 0, "vm-client failed")


def test_snapshot():
    serve(image(codec="zstd"))


def test_raw_file():
    serve(image(raw=True))


def test_killed_clients():
    """one after the other, killed at any moment: the next is served, and no descriptor stays"""
    img = image(raw=True)
    with Alone(img.path) as a:
        c = a.client(img, **BUSY)
        c.compare()
        c.close()
        fds = lambda: len(os.listdir(f"/proc/{a.process.pid}/fd"))  # noqa: E731
        before = fds()
        for i in range(20):
            c = a.client(img, seed=i, **BUSY)
            c.send("touch uniform 100000")
            c.kill()
        wait_until(lambda: fds() <= before, 20, f"{before} descriptors, not {fds()}")
        c = a.client(img)
        c.compare()
        check(c.close() == 0, "vm-client failed")


KILLS = int(os.environ.get("KILLS", "8"))
PAUSE = (1.02, 1.3)  # a worker that dies within a second is started again later and later


def under_load(a, img, seconds, kill, kills, n_clients=4):
    """4 VMs that touch, write and give back at a steady rate while kill() is called; stalls in ns"""
    dice = random.Random(kills)
    load = dict(threads=2, owned=50, write=20, remove=15, trace="uniform", keep_checking=True,
                rate=1500, seconds=seconds, timeout=int(seconds + 40))
    clients = [a.client(img, seed=i, regions=1 + 3 * i, **load) for i in range(n_clients)]
    for c in clients:
        c.send("touch")
    moments = []
    for _ in range(kills):
        time.sleep(dice.uniform(*PAUSE))
        moments.append(time.monotonic_ns())
        kill()
    touched = [c.line() for c in clients]
    check(all(t.get("wrong") == 0 for t in touched), f"wrong pages: {touched}")
    for c in clients:
        c.compare()
    names = {f"vm-{i + 1}" for i in range(n_clients)}
    check(a.sessions() == names, f"{a.sessions()}, not {names}: {a.tail()}")
    extra = a.client(img)  # the numbers go on, though nobody remembers but the successor
    wait_until(lambda: f"vm-{n_clients + 1}" in a.sessions(), 20, "the next number is used")
    for c in (*clients, extra):
        check(c.close() == 0, "vm-client failed")
    wait_until(lambda: not a.sessions(), 20, "all sessions are over")
    stalls = stalls_of(touched, moments)
    print(f"  {kills} kills, {len(stalls)} stalls: p50 {percentile(stalls, 0.5) / 1e6:.1f} ms, "
          f"p99 {percentile(stalls, 0.99) / 1e6:.1f} ms, longest {max(stalls) / 1e6:.1f} ms")
    check(percentile(stalls, 0.5) < 2e9, f"stalls of seconds: {sorted(stalls)[-5:]}")


def kill_workers(img):
    with Alone(img.path) as a:
        under_load(a, img, KILLS * 1.3 + 1, lambda: os.kill(a.worker(), signal.SIGKILL), KILLS)
        ended = re.findall(r"sessions taken back .* (\d+) lost", a.tail())
        check(ended and not any(map(int, ended)), a.tail())


def test_killed_worker():
    kill_workers(image(16384, codec="zstd"))


def test_killed_worker_raw():
    kill_workers(image(16384, raw=True))


def test_killed_supervisor():
    """the worker goes on"""
    img = image(raw=True)
    with Alone(img.path) as a:
        c = a.client(img, **BUSY)
        worker = a.worker()
        a.process.kill()
        a.process.wait(20)
        c.touch("uniform 3000")
        c.compare()
        d = a.client(img, **BUSY)
        d.compare()
        check(a.sessions() == {"vm-1", "vm-2"}, f"{a.sessions()}")
        for x in (c, d):
            check(x.close() == 0, "vm-client failed")
        os.kill(worker, signal.SIGTERM)
        wait_until(lambda: not is_alive(worker), 20, "the worker ends")
        a.start()  # its socket is its own again


def kill_both(supervise):
    img = image(16384, raw=True)
    with Alone(img.path, f"--supervise={supervise}", "--run-dir", WORK / f"run-{supervise}") as a:
        def kill():
            worker = a.worker() if supervise == "yes" else None
            a.process.kill()
            if worker:
                os.kill(worker, signal.SIGKILL)
            a.process.wait(20)
            a.start()

        kills = max(KILLS // 2, 3)
        under_load(a, img, kills * 1.6 + 1, kill, kills)


def test_killed_both():
    kill_both("yes")


def test_killed_without_supervisor():
    kill_both("no")


def test_stopped_and_started():
    """in order: an upgrade"""
    img = image(16384, raw=True)
    with Alone(img.path, "--take-back=yes") as a:
        def restart():
            a.process.terminate()
            check(a.process.wait(30) == 0, f"it did not end in order: {a.tail()}")
            a.start()

        under_load(a, img, 6, restart, 3)


def test_changed_raw_file():
    """a worker that finds another file than its VMs ran from kills them"""
    img = image(order="random", raw=True, fresh=True)
    with Alone(img.path) as a:
        c = a.client(img, **BUSY)
        c.touch("uniform 100")
        os.utime(img.path)
        os.kill(a.worker(), signal.SIGKILL)
        check(c.process.wait(20) == -signal.SIGKILL, f"it lives: {a.tail()}")
        check("could not be taken back" in a.tail(), a.tail())


main(globals())
