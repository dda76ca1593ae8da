# SPDX-License-Identifier: Apache-2.0
# timeout: 400
"""A sandbox falls asleep in the middle of something: within a second it has failed cleanly at the
client's end, and after the wake it goes on inside, or has been cleaned up there. Nothing hangs."""
import base64
import contextlib
import http.client
import threading
import time

from connect import Box, Broken, output_of
from harness import ApiError, Dormouse, check, main, wait_until

D = Dormouse().__enter__()
CLEAN_S = 1.0  # from the sandbox being asleep to the client's knowing


class Client(threading.Thread):
    """does something that the sleep interrupts; `ended` is when, `outcome` how"""

    def __init__(self, work):
        super().__init__(daemon=True)
        self.work, self.ended, self.outcome, self.progress = work, None, None, 0
        self.start()

    def run(self):
        try:
            self.outcome = self.work(self)
        except Exception as e:
            self.outcome = e
        self.ended = time.monotonic()


def sleep_amid(sandbox, *clients):
    """put it to sleep while the clients are at work; all must have failed by a second later"""
    for c in clients:
        wait_until(lambda c=c: c.progress or c.ended, 30, "it is under way")
        check(c.ended is None, f"it ended before the sleep: {c.outcome!r}")
    D.api("POST", f"/sandboxes/{sandbox}/pause", {})
    asleep = time.monotonic()
    for c in clients:
        c.join(20)
        check(c.ended is not None, "a client still waits 20 s after the sleep")
        check(c.ended - asleep < CLEAN_S, f"it took {c.ended - asleep:.1f} s to fail: {c.outcome!r}")
        check(isinstance(c.outcome, Exception), f"it ended as if all were well: {c.outcome!r}")
    D.api("POST", f"/v2/sandboxes/{sandbox}/connect", {})
    return Box(D, sandbox)


def test_template():
    D.build_template("base", 192)


def test_download_from_a_file():
    sandbox = D.create("base")
    D.exec(sandbox, "sh", "-c", "truncate -s 4G /tmp/big")

    def download(client):
        connection, reply = Box(D, sandbox).request("GET", "/files?path=/tmp/big")
        with contextlib.closing(connection):
            check(reply.status == 200, f"{reply.status}")
            while data := reply.read(1 << 20):
                client.progress += len(data)
                time.sleep(0.02)
            if client.progress < 4 << 30:
                raise Broken("short")

    box = sleep_amid(sandbox, Client(download))
    status, body = box.fetch("GET", "/files?path=/tmp/big", headers={"Range": "bytes=0-99"})
    check((status, len(body)) == (206, 100), f"after the wake: {status}, {len(body)} bytes")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_download_through_a_port():
    sandbox = D.create("base")
    D.exec(sandbox, "sh", "-c", "mkdir /tmp/www; truncate -s 4G /tmp/www/big; echo well >/tmp/www/a;"
           "httpd -p 127.0.0.1:8080 -h /tmp/www")

    def download(client):
        connection, reply = Box(D, sandbox).request("GET", "/big", port=8080)
        with contextlib.closing(connection):
            check(reply.status == 200, f"{reply.status}")
            while data := reply.read(1 << 20):
                client.progress += len(data)
                time.sleep(0.02)
            if client.progress < 4 << 30:
                raise Broken("short")

    box = sleep_amid(sandbox, Client(download))
    check(box.fetch("GET", "/a", port=8080) == (200, b"well\n"), "the server after the wake")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_open_terminal():
    sandbox = D.create("base")
    pids = []

    def terminal(client):
        stream = Box(D, sandbox).stream("/process.Process/Start", {
            "process": {"cmd": "/bin/sh", "args": ["-i"], "envs": {"PS1": "ready> "}},
            "pty": {"size": {"cols": 80, "rows": 24}}})
        for message in stream:
            if "start" in message["event"]:
                pids.append(message["event"]["start"]["pid"])
            client.progress += "data" in message["event"]
        return stream.error

    client = Client(terminal)
    wait_until(lambda: pids, 30, "the shell runs")
    box = Box(D, sandbox)

    def type_line(text):
        box.call("/process.Process/SendInput", {
            "process": {"pid": pids[0]}, "input": {"pty": base64.b64encode(text.encode()).decode()}})

    type_line("remembered=before\n")
    box = sleep_amid(sandbox, client)
    stream = box.connect(pids[0])
    type_line("echo it-was-$remembered; exit 3\n")
    text, end = output_of(stream)
    check("it-was-before" in text and end["exitCode"] == 3, f"{text!r} {end}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_hundred_processes():
    sandbox = D.create("base")
    started = []

    def count(client):
        stream, pid = Box(D, sandbox).start("while :; do echo tick; sleep 0.5; done")
        started.append(pid)
        for message in stream:
            client.progress += 1
        return stream.error

    clients = [Client(count) for _ in range(100)]
    wait_until(lambda: len(started) == 100, 60, "all have started")
    box = sleep_amid(sandbox, *clients)
    alive = {p["pid"] for p in box.call("/process.Process/List", {})["processes"]}
    check(alive == set(started), f"{len(alive)} processes of 100 are there")
    for pid in (started[0], started[50], started[99]):
        stream = box.connect(pid)
        check("data" in stream.next()["event"], "it goes on talking")
        stream.close()
    for pid in started:
        box.call("/process.Process/SendSignal", {"process": {"pid": pid},
                                                 "signal": "SIGNAL_SIGKILL"})
    wait_until(lambda: not box.call("/process.Process/List", {}).get("processes"), 20,
               "all were killed")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_file_being_written():
    sandbox = D.create("base")
    D.exec(sandbox, "sh", "-c", "echo old >/tmp/target")

    def upload(client):
        def body():
            while True:
                client.progress += 1
                yield bytes(65536)
                time.sleep(0.01)
        try:
            return Box(D, sandbox).fetch("POST", "/files?path=/tmp/target", body(),
                                         {"Content-Type": "application/octet-stream"})
        except (OSError, http.client.HTTPException) as e:
            raise Broken(str(e)) from None

    client = Client(lambda c: refuse_success(upload(c)))
    box = sleep_amid(sandbox, client)
    check(box.fetch("GET", "/files?path=/tmp/target") == (200, b"old\n"), "what was there before")
    left = D.exec(sandbox, "sh", "-c", "find /tmp -type f -size +10k")
    check(left == "", f"something was left behind: {left}")
    check(box.fetch("POST", "/files?path=/tmp/target", b"new",
                    {"Content-Type": "application/octet-stream"})[0] == 200, "writing it again")
    check(box.fetch("GET", "/files?path=/tmp/target") == (200, b"new"), "what is there now")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def refuse_success(answer):
    status, body = answer
    if status >= 400:
        raise Broken(f"{status} {body[:200]}")
    return answer


def test_watch():
    sandbox = D.create("base")
    D.exec(sandbox, "mkdir", "/tmp/watched")

    def watch(client):
        stream = Box(D, sandbox).stream("/filesystem.Filesystem/WatchDir",
                                        {"path": "/tmp/watched", "recursive": True})
        for message in stream:
            client.progress += 1
        return stream.error

    box = sleep_amid(sandbox, Client(watch))
    stream = box.stream("/filesystem.Filesystem/WatchDir", {"path": "/tmp/watched"})
    check("start" in stream.next(), "a new watch begins")
    D.exec(sandbox, "touch", "/tmp/watched/new")
    check(stream.next()["filesystem"]["name"] == "new", "and sees what happens")
    stream.close()
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_requests_while_asleep():
    """a sleeping sandbox is not there for its own API, and says so at once"""
    sandbox = D.create("base")
    box = Box(D, sandbox)
    D.api("POST", f"/sandboxes/{sandbox}/pause", {})
    start = time.monotonic()
    try:
        box.call("/process.Process/List", {})
        check(False, "it answered in its sleep")
    except ApiError as e:
        check(e.status == 502 and e.body["message"] == "The sandbox was not found", f"{e.body}")
    check(time.monotonic() - start < 1, "at once")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_end():
    D.__exit__(None, None, None)


main(globals())
