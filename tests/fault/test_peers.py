#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Peers that die, lie, flood or never answer: nobody else notices, and nothing is left of them.

What one connection can do wrong by itself is in src/pager/test-hostile.c. Here are many of them, at
random moments, beside sessions that must stay right.
"""
import array
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import time

from rig import Pager, check, image, main, wait_until

LIBC = ctypes.CDLL(None, use_errno=True)
SYS_USERFAULTFD = 323


def userfaultfd():
    """one that has seen no UFFDIO_API, which is none that could be served"""
    fd = LIBC.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
    check(fd >= 0, "no userfaultfd here")
    return fd


def witness(p, img, **options):
    """a session that must not notice anything"""
    return p.client("witness", img, threads=2, owned=20, write=30, seed=1, **options)


def let_witness_end(p, w):
    w.touch("uniform 2000")
    w.compare()
    check(w.close() == 0, "vm-client failed")
    p.wait_sessions(0)


def killed_clients(mode):
    """kill -9 of the client at 100 random moments: no descriptor, session or memory stays"""
    dice = random.Random(17)
    options = dict(mode=mode, **({"private": True} if mode == "overlay" else {}))
    with Pager("--linger", "0") as p:
        img, other = image(codec="zstd"), image(content="8:10:30")
        if mode == "overlay":
            img, other = (image(content=i.content + ":99:12", parent=i) for i in (img, other))
        before = p.fds()
        w = witness(p, other, **options)
        w.touch("uniform 500")
        with_witness = p.fds()
        for i in range(100):
            c = p.begin(f"c{i}", img, **options, threads=2, owned=20, write=30, seed=i,
                        **({"remove": 10} if mode == "copy" else {}))
            if dice.random() < 0.7:
                c.wait_attached()
                c.send("touch uniform 200000")
                time.sleep(dice.random() * 0.012)
            else:  # while it opens, maps and shakes hands
                time.sleep(dice.random() * 0.006)
            c.kill()
        # a session that nobody came to is closed by its owner
        for s in p.stats()["sessions"]:
            if s["state"] == "listening":
                p.call("close", session=s["session"])
        p.wait_sessions(1)
        wait_until(lambda: p.fds() <= with_witness, 20,
                   f"{with_witness} descriptors are open again, not {p.fds()}")
        let_witness_end(p, w)
        wait_until(lambda: p.fds() <= before, 20, f"{before} descriptors, not {p.fds()}")


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(path)
    return s


def is_closed(s):
    try:
        return s.recv(1) == b""
    except ConnectionResetError:
        return True


def shake(path, text, fds):
    """one bad handshake; it must be refused by closing"""
    with connect(path) as s:
        try:
            s.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                      if fds else [])
            s.shutdown(socket.SHUT_WR)
        except BrokenPipeError:
            return
        check(is_closed(s), f"accepted: {text[:100]} with {len(fds)} descriptors")


def region(**changes):
    return {"base_host_virt_addr": 1 << 40, "size": 1 << 20, "offset": 0, "page_size": 4096,
            **changes}


WRONG_REGIONS = (
    [],
    [region(size=0)],
    [region(size=-4096)],
    [region(size=4095)],
    [region(size=1e6)],
    [region(size=1 << 62)],
    [region(size=(8192 + 1) * 4096)],
    [region(offset=8192 * 4096)],
    [region(offset=1 << 63)],
    [region(base_host_virt_addr=0)],
    [region(base_host_virt_addr=(1 << 64) - 4096)],
    [region(base_host_virt_addr="1099511627776")],
    [region(page_size=2 << 20)],
    [region(page_size=1 << 30)],
    [region(page_size_kib=2048)],
    [region(page_size=0)],
    [region(), region()],
    [region(), region(base_host_virt_addr=2 << 40)],
    [region(), region(offset=1 << 20, base_host_virt_addr=(1 << 40) + (1 << 19))],
    [region(size=4096, offset=i * 4096, base_host_virt_addr=(1 << 40) + i * 8192)
     for i in range(65)],
    [[region()]],
    {"regions": [region()]},
)


def test_wrong_handshakes():
    with Pager("--handshake-ms", "300") as p:
        img = image()
        w = witness(p, img)
        dirfd = os.open(img.path, os.O_RDONLY | os.O_DIRECTORY)
        opened = p.call("open", [dirfd], session="victim", n_pages=img.pages)
        os.close(dirfd)
        path = opened["socket"]
        fds, uffd = p.fds(), userfaultfd()
        for wrong in WRONG_REGIONS:
            shake(path, json.dumps(wrong).encode(), [uffd])
        good = json.dumps([region(size=4096)]).encode()
        # descriptors that are something else, or a userfaultfd that nobody switched on
        r, wr = os.pipe()
        a, b = socket.socketpair()
        others = [os.open("/", os.O_PATH), os.open("/dev/zero", os.O_RDWR), r, wr, a.fileno(),
                  os.memfd_create("x"), LIBC.eventfd(0, 0), LIBC.epoll_create1(0),
                  LIBC.timerfd_create(1, 0), os.pidfd_open(os.getpid())]
        for fd in others:
            shake(path, good, [fd])
        shake(path, b"\x00" * 20000, [uffd])
        shake(path, b"[" * 16000, [uffd])
        shake(path, b'[{"base_host_virt_addr":' + b"9" * 15000 + b"}]", [uffd])
        shake(path, good, [uffd] * 250)
        # half handshakes, many at once; each ends when its time is up
        halves = [connect(path) for _ in range(60)]
        for i, s in enumerate(halves):
            try:
                s.send(good[: i % len(good)])
            except BrokenPipeError:
                pass
        for s in halves:
            check(is_closed(s), "a half handshake was accepted")
            s.close()
        for fd in others[:4] + others[5:] + [uffd]:
            os.close(fd)
        a.close()
        b.close()
        check(p.session("victim")["state"] == "listening", f"{p.session('victim')}")
        wait_until(lambda: p.fds() <= fds, 10, f"{fds} descriptors, not {p.fds()}")
        p.call("close", session="victim")
        let_witness_end(p, w)


VALUES = (None, True, 0, 1, -1, 1.5, 1 << 40, (1 << 63) - 1, "", "x", "shared", "full", "../x",
          "a" * 5000, "\u0000", "none", [], {}, [1], {"a": 1})
MEMBERS = ("session", "n_pages", "zero", "keys", "mode", "private", "load", "prefetch", "what",
           "image_id", "userfaultfd", "memory_limit", "image_limit", "op")
OPS = ("ping", "open", "close", "session", "stats", "load", "warm", "image", "working-set", "config",
       "metrics", "sessions", "fly")


def test_garbage_requests():
    """every request with members of every type, and bytes that are no request at all"""
    dice = random.Random(23)
    with Pager() as p:
        img = image()
        w = witness(p, img)
        null = os.open("/dev/null", os.O_RDWR)
        dirfd = os.open(img.path, os.O_RDONLY | os.O_DIRECTORY)
        fds = p.fds()
        for i in range(1500):
            members = {m: dice.choice(VALUES) for m in dice.sample(MEMBERS, dice.randrange(5))}
            members.pop("op", None)
            if members.get("session") == "witness":
                continue
            op = dice.choice(OPS)
            if op == "config":  # a limit of nothing is allowed, and would not be fair to the witness
                members = {k: v for k, v in members.items() if isinstance(v, (str, list, dict))}
            reply = p.call(op, dice.choice(((), (), (null,), (dirfd,), (dirfd, null))), **members)
            check("ok" in reply and (reply["ok"] or reply["message"]), f"{op} {members}: {reply}")
        for i in range(300):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
                s.settimeout(20)
                s.connect(str(p.control))
                text = json.dumps({"op": "open", "session": "z", "n_pages": 16, "zero": True})
                cut = bytearray(text.encode())
                for _ in range(1 + i % 4):
                    cut[dice.randrange(len(cut))] = dice.randrange(256)
                s.send(bytes(cut[: dice.randrange(1, len(cut))] if i % 3 else cut))
                data, got, _, _ = socket.recv_fds(s, 65536, 4)
                for fd in got:
                    os.close(fd)
                check(json.loads(data).get("ok") in (True, False), f"{data!r}")
        for s in p.stats()["sessions"]:
            if s["session"] != "witness":
                p.call("close", session=s["session"])
        os.close(null)
        os.close(dirfd)
        p.wait_sessions(1)
        # images that linger hold descriptors; more than a few would be a leak
        check(p.fds() < fds + 100, f"{p.fds()} descriptors, before {fds}")
        let_witness_end(p, w)


def test_thousand_sessions():
    """1024 and no more; then all of them go and nothing is left"""
    with Pager("--linger", "0") as p:
        w = witness(p, image())
        fds = p.fds()
        for i in range(1023):
            reply = p.call("open", session=f"s{i}", n_pages=4096, zero=True)
            check(reply["ok"], f"session {i}: {reply}")
        reply = p.call("open", session="one-too-many", n_pages=4096, zero=True)
        check(reply.get("code") == "EAGAIN", f"session 1025: {reply}")
        check(len(p.stats()["sessions"]) == 1024, "statistics of all sessions")
        w.touch("uniform 1000")
        for i in range(0, 1023, 2):
            p.call("close", session=f"s{i}")
        late = [p.client(f"late{i}", image(codec="zstd"), seed=i) for i in range(4)]
        for c in late:
            c.compare()
            c.close()
        for i in range(1, 1023, 2):
            p.call("close", session=f"s{i}")
        p.wait_sessions(1)
        wait_until(lambda: p.fds() <= fds, 20, f"{fds} descriptors, not {p.fds()}")
        let_witness_end(p, w)


def test_two_pagers():
    """the second refuses to start, again and again, and the first does not care"""
    with Pager() as p:
        w = witness(p, image())
        for _ in range(5):
            second = subprocess.run(list(map(str, p.args)), stderr=subprocess.PIPE, text=True,
                                    timeout=30, check=False)
            check(second.returncode == 1, f"status {second.returncode}: {second.stderr}")
            check(str(p.control) in second.stderr, f"it does not say why: {second.stderr}")
        let_witness_end(p, w)


def test_stopped_clients():
    """clients that are stopped (SIGSTOP) in the middle of everything hold up nobody"""
    with Pager("--threads", "1") as p:
        img = image(codec="zstd")
        frozen = [p.client(f"f{i}", img, threads=3, seed=i) for i in range(4)]
        for c in frozen:
            c.send("touch uniform 4000")
            os.kill(c.pid, signal.SIGSTOP)
        w = witness(p, img)
        w.touch("shuffled 3000")
        w.compare()
        for c in frozen:
            os.kill(c.pid, signal.SIGCONT)
            check(c.line().get("wrong") == 0, "wrong pages")
            c.compare()
            check(c.close() == 0, "vm-client failed")
        let_witness_end(p, w)


def test_shared_killed_clients():
    killed_clients("shared")


def test_copy_killed_clients():
    killed_clients("copy")


def test_overlay_killed_clients():
    killed_clients("overlay")


main(globals())
