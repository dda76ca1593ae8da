# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""Files in and out of a real guest: /files, and `dorm cp` over it."""
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import tempfile
import threading
import time
import urllib.parse

from connect import Box
from harness import Dormouse, check, main, skip, wait_until

D = Dormouse().__enter__()
OCTETS = {"Content-Type": "application/octet-stream"}
BIG = 300 << 20
PEAK_KIB = 6144  # of the agent, while files of any size go through it


def pieces(n, size=1 << 20):
    """n bytes that do not repeat soon"""
    block = os.urandom(size + 4096)
    for i, at in enumerate(range(0, n, size)):
        shift = i % 4096
        yield block[shift:shift + min(size, n - at)]


def agent_peak_kib(sandbox):
    text = D.exec(sandbox, "grep", "VmHWM", "/proc/1/status")
    return int(re.search(r"\d+", text)[0])


def put(box, path, data, headers=None, **query):
    query = urllib.parse.urlencode({"path": path, **query})
    return box.fetch("POST", f"/files?{query}", data, headers or OCTETS, 300)


def get(box, path, headers=None):
    return box.fetch("GET", "/files?" + urllib.parse.urlencode({"path": path}), None, headers, 300)


def test_template():
    D.build_template("base", 700)


def test_sizes():
    sandbox = D.create("base")
    box = Box(D, sandbox)
    for n in (0, 1, 65535, 65536, 65537, 262143, 262145, (3 << 20) + 7):
        data = b"".join(pieces(n))
        status, body = put(box, f"/tmp/sizes/{n}", data)
        check(status == 200, f"{n} bytes in: {status} {body}")
        check(json.loads(body) == [{"path": f"/tmp/sizes/{n}", "name": str(n), "type": "file"}], body)
        status, back = get(box, f"/tmp/sizes/{n}")
        check((status, back) == (200, data), f"{n} bytes out: {status}, {len(back)} bytes")
        status, back = get(box, f"/tmp/sizes/{n}", {"Range": "bytes=-5"})
        check((status, back) == (206 if n else 200, data[-5:]), f"the last of {n} bytes: {status}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_big_file_in_little_memory():
    sandbox = D.create("base")
    box = Box(D, sandbox)
    sent = hashlib.sha256()

    def body():
        for piece in pieces(BIG):
            sent.update(piece)
            yield piece
    status, text = put(box, "/tmp/big", body())
    check(status == 200, f"{status} {text}")
    digest = D.exec(sandbox, "sha256sum", "/tmp/big").split()[0]
    check(digest == sent.hexdigest(), "what is in the guest is not what was sent")
    connection, reply = box.request("GET", "/files?path=/tmp/big", timeout_s=300)
    got = hashlib.sha256()
    while data := reply.read(1 << 20):
        got.update(data)
    connection.close()
    check(got.hexdigest() == sent.hexdigest(), "what came back is not what was sent")
    peak = agent_peak_kib(sandbox)
    check(peak < PEAK_KIB, f"the agent took {peak} KiB")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_no_space():
    sandbox = D.create("base")
    box = Box(D, sandbox)
    D.exec(sandbox, "sh", "-c", "mkdir /small && mount -t tmpfs -o size=1m none /small")
    check(put(box, "/small/old", b"old")[0] == 200, "a small one")
    for path in ("/small/new/file", "/small/old"):
        status, body = put(box, path, pieces(8 << 20))
        check(status == 507, f"{status} {body}")
        check("not enough disk space" in json.loads(body)["message"], body)
    check(get(box, "/small/old") == (200, b"old"), "what was there")
    check(D.exec(sandbox, "ls", "-A", "/small").split() == ["old"], "something was left behind")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_special_files():
    sandbox = D.create("base")
    box = Box(D, sandbox)
    D.exec(sandbox, "mkfifo", "/tmp/fifo")
    for path in ("/tmp/fifo", "/dev/zero", "/tmp", "/dev/hwrng"):
        for status, body in (get(box, path), put(box, path, b"x")):
            check(status in (400, 404) if path == "/dev/hwrng" else status == 400, f"{path}: {body}")
    status, body = get(box, "/proc/1/status")
    check(status == 200 and b"VmRSS" in body, f"{status} {body}")
    status, body = put(box, "/proc/sys/kernel/hostname", b"renamed")  # nothing can be put beside it
    check(status == 200, f"{status} {body}")
    check(D.exec(sandbox, "hostname").strip() == "renamed", "written in place")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_sleep_amid_transfers():
    sandbox = D.create("base")
    D.exec(sandbox, "sh", "-c", "mkdir /tmp/d && truncate -s 2G /tmp/hole")
    outcome, progress, asleep = {}, {"up": 0, "down": 0}, threading.Event()

    def upload():
        def body():
            while not asleep.is_set():
                progress["up"] += 1
                yield os.urandom(65536)
                time.sleep(0.005)
        outcome["up"] = put(Box(D, sandbox), "/tmp/d/new/file", body())[0]

    def download():
        connection, reply = Box(D, sandbox).request("GET", "/files?path=/tmp/hole", timeout_s=60)
        while reply.read(65536):
            progress["down"] += 1
            time.sleep(0.005)
        outcome["down"] = "ended"

    def guarded(name, work):
        try:
            work()
        except (OSError, http.client.HTTPException) as e:
            outcome[name] = repr(e)
        outcome[name + " at"] = time.monotonic()

    threads = [threading.Thread(target=guarded, args=a, daemon=True)
               for a in (("up", upload), ("down", download))]
    for t in threads:
        t.start()
    wait_until(lambda: min(progress.values()) > 20, 30, "both are under way")
    D.api("POST", f"/sandboxes/{sandbox}/pause", {})
    since = time.monotonic()
    asleep.set()
    for t in threads:
        t.join(20)
        check(not t.is_alive(), f"a client still waits: {outcome}")
    for name in ("up", "down"):
        check(outcome[name + " at"] - since < 1, f"{name}: {outcome}")
    check(outcome["up"] != 200, "the upload did not end well")
    check(outcome["down"] != "ended", "the download did not end well")
    D.api("POST", f"/v2/sandboxes/{sandbox}/connect", {})
    check(D.exec(sandbox, "ls", "-A", "/tmp/d") == "", "something was left behind")
    box = Box(D, sandbox)
    check(put(box, "/tmp/d/new/file", b"next")[0] == 200, "the next upload")
    check(get(box, "/tmp/d/new/file") == (200, b"next"), "the next download")
    D.api("DELETE", f"/sandboxes/{sandbox}")


# --- dorm cp -------------------------------------------------------------------------------------

def test_cp_files():
    sandbox = D.create("base")
    here = pathlib.Path(tempfile.mkdtemp())
    try:
        data = b"".join(pieces((5 << 20) + 1))
        (here / "in").write_bytes(data)
        (here / "in").chmod(0o751)
        D.dorm("cp", here / "in", f"{sandbox}:/tmp/cp/in")
        check(D.exec(sandbox, "stat", "-c", "%a %s", "/tmp/cp/in").split() ==
              ["751", str(len(data))], "mode and size")
        D.dorm("cp", f"{sandbox}:/tmp/cp/in", here / "out")
        check((here / "out").read_bytes() == data, "what came back")
        D.dorm("cp", here / "in", f"{sandbox}:/tmp/cp/dir/")
        D.dorm("cp", "-", f"{sandbox}:/tmp/cp/piped", stdin="from a pipe")
        check(D.dorm("cp", f"{sandbox}:/tmp/cp/piped", "-").stdout == "from a pipe", "to a pipe")
        D.dorm("cp", f"{sandbox}:/tmp/cp/dir/in", here / "sub", check_status=False)
        check((here / "sub").read_bytes() == data, "into a directory of the sandbox")
        for args, status, text in (
                ((f"{sandbox}:/tmp/none", here / "x"), 1, "does not exist"),
                ((f"{sandbox}:/tmp", here / "x"), 1, "directory"),
                ((here / "none", f"{sandbox}:/tmp/x"), 1, "No such file"),
                ((here, f"{sandbox}:/tmp/x"), 1, "-r"),
                ((f"{sandbox}:/a", f"{sandbox}:/b"), 2, "ID:PATH"),
                ((here / "in", here / "x"), 2, "ID:PATH"),
                (("-", f"{sandbox}:/tmp/"), 2, "file"),
                (("nosuchsandbox1:/a", here / "x"), 1, "not found")):
            done = D.dorm("cp", *args, check_status=False)
            check(done.returncode == status and text in done.stderr,
                  f"{args}: {done.returncode} {done.stderr}")
        check(sorted(p.name for p in here.iterdir()) == ["in", "out", "sub"], "left behind here")
    finally:
        shutil.rmtree(here)
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_cp_directories():
    sandbox = D.create("base")
    status, _ = Box(D, sandbox).fetch("POST", "/filesystem.Filesystem/Stat", b'{"path":"/tmp"}',
                                      {"Content-Type": "application/json"})
    if status != 200:
        skip("this agent has no filesystem.Filesystem")
    here = pathlib.Path(tempfile.mkdtemp())
    try:
        (here / "t" / "a" / "b").mkdir(parents=True)
        (here / "t" / "empty").mkdir()
        (here / "t" / "a" / "one").write_text("1")
        (here / "t" / "a" / "b" / "two").write_text("22")
        (here / "t" / "a" / "b" / "two").chmod(0o700)
        (here / "t" / "link").symlink_to("a/one")
        D.dorm("cp", "-r", here / "t", f"{sandbox}:/tmp")
        check(D.exec(sandbox, "sh", "-c", "cd /tmp/t && find . | sort").split() ==
              [".", "./a", "./a/b", "./a/b/two", "./a/one", "./empty", "./link"], "the tree in it")
        D.dorm("cp", "-r", f"{sandbox}:/tmp/t", here / "back")
        check(sorted(str(p.relative_to(here / "back")) for p in (here / "back").rglob("*")) ==
              ["a", "a/b", "a/b/two", "a/one", "empty", "link"], "the tree back here")
        check((here / "back" / "a" / "b" / "two").stat().st_mode & 0o777 == 0o700, "its mode")
        D.exec(sandbox, "sh", "-c", "ln -s / /tmp/t/root; mkfifo /tmp/t/fifo")
        done = D.dorm("cp", "-r", f"{sandbox}:/tmp/t", here / "more", check_status=False)
        check(done.returncode == 1 and "root" in done.stderr and "fifo" in done.stderr, done.stderr)
        check((here / "more" / "a" / "one").read_text() == "1", "the rest is there")
    finally:
        shutil.rmtree(here)
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_end():
    D.__exit__(None)


main(globals())
