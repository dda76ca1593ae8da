#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A pager that runs alone serves VMs that nobody announced: whoever connects brings its own memory.

The client does what Firecracker does, from the first byte: connect, one message, one descriptor.
"""
import os
import pathlib
import subprocess
import tempfile

from rig import PAGER, WORK, Client, check, has_option, image, main, program, skip, wait_until


class Alone:
    """dorm-pager --image ... --listen SOCKET, gone when the block is left"""

    def __init__(self, path, *more):
        if not has_option("--listen "):
            skip("this pager cannot run alone")
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="alone.", dir=WORK))
        self.socket = self.dir / "socket"
        self.args = [PAGER, "--image", path, "--listen", self.socket, *more]
        self.clients = []

    def __enter__(self):
        with open(self.dir / "log", "wb") as log:
            self.process = subprocess.Popen(list(map(str, self.args)), stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        wait_until(lambda: self.socket.exists() or self.process.poll() is not None, 30, "it listens")
        check(self.process.poll() is None, f"it did not start: {self.tail()}")
        return self

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
                "--pages", img.pages, "--commands", "--timeout", 40]
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


main(globals())
