#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The pager in figures, each against a raw loop in the same run.

    make bench-pager        or        python3 tests/bench/pager.py --build-dir build [--quick]
                                      [--only NAME]...

bench-pager.c has the loops and takes turns between them and the pager; this script starts pagers,
makes images, and adds what takes many processes (64 sessions, kills) or a real guest (working set,
overlay). It needs about 2 GiB of memory, 2 GiB of disk and some minutes. --only: one of the groups
warm, resident, cached, fill, unpack, demand, sessions, kills, working-set, overlay.
Writes build/bench/pager.json (docs/architecture.md, "Benchmarks").
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests" / d) for d in ("fault", "bench/lib", "e2e")]

from rows import Rows, at_least, at_most, below, show  # noqa: E402


GOALS = {
    "warm_events": at_most(0),
    "warm_ratio": at_most(1.2),
    "resident_p50_ratio": at_most(1.5),
    "resident_p99_ratio": at_most(2),
    "cached_p50_ratio": at_most(2.5),
    "graduation_ratio": at_least(0.75),
    "prefetch_ratio": at_least(0.75),
    "zstd_ratio": at_least(0.75),
    "demand_p99_ratio": at_most(3),
    "sessions_own_mib": below(16),
    "sessions_idle_cpu_percent": at_most(0.05),
    "kills_wrong_pages": at_most(0),
    "kills_lost_sessions": at_most(0),
    "kills_stall_p99_ms": below(100),
    "guest_kills_wrong_pages": at_most(0),
    "working_set_faults_gone": at_least(97),
    "working_set_unused": at_most(25),
    "overlay_memory_ratio": at_most(1.3),
}


class Bench:
    def __init__(self, args, rows):
        self.rows, self.quick, self.build = rows, args.quick, pathlib.Path(args.build_dir).resolve()
        self.pages = 16384 if args.quick else 65536
        self.rounds = 3 if args.quick else 9

    def add(self, metric, values, unit, start, end):
        self.rows.add(metric, values, unit, *GOALS.get(metric, (None, None)), start, end)
        show(self.rows.rows[-1])

    def program(self, what, img, *pager_args, mode, suffix=""):
        """one run of bench-pager with a pager of its own"""
        from rig import Pager
        with Pager(*pager_args) as p:
            done = subprocess.run(
                [self.build / "tests" / "bench" / "bench-pager", what, "--control", p.control,
                 "--image", img.path, "--pages", str(img.pages), "--mode", mode, "--rounds",
                 str(self.rounds)], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"bench-pager {what} ended with status {done.returncode}")
        for line in done.stdout.splitlines():
            row = json.loads(line)
            goal = GOALS.get(row["metric"], (None, None))
            row["metric"] += suffix
            self.rows.take(row, *goal)
            show(self.rows.rows[-1])


def warm(b):
    from rig import image
    b.program("warm", image(b.pages, "31:0:100"), mode="shared")


def resident(b):
    from rig import image
    b.program("resident", image(b.pages, "31:0:100"), mode="copy")


def cached(b):
    from rig import image
    b.program("cached", image(b.pages, "31:0:100"), "--linger", "0", mode="copy")


def fill(b):
    from rig import image
    img = image(b.pages, "31:0:100")
    b.program("fill", img, mode="copy")
    b.program("fill-cached", img, "--linger", "0", mode="copy")
    b.program("fill", img, "--linger", "0", mode="shared")


def unpack(b):
    from rig import image
    b.program("unpack", image(b.pages, "31:0:10", codec="zstd"), "--linger", "0", mode="shared")


def demand(b):
    from rig import image
    img = image(4 * b.pages, "31:0:100")
    for mode in ("shared", "copy"):
        b.program("demand", img, "--linger", "0", mode=mode,
                  suffix="" if mode == "shared" else "_copy")


# ---- many sessions


def own_memory(pid):
    """MiB of a process that are not shared memory: what the pager needs beside the images"""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return [int(re.search(rf"^{name}:\s+(\d+)", status, re.M)[1]) / 1024
            for name in ("RssAnon", "RssFile")]


def cpu_ms(pid):
    """time on a CPU, of all threads, as the scheduler counts it"""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e6


def sessions(b):
    """64 of one image that have all they touched, and do nothing"""
    from rig import Pager, check, image
    img = image(b.pages, "31:20:50", codec="zstd")
    with Pager() as p:
        before = own_memory(p.process.pid)
        clients = [p.begin(f"s{i}", img, seed=i, regions=1 + i % 8) for i in range(64)]
        for c in clients:
            c.wait_attached()
        for c in clients:
            c.touch("uniform 2000")
        time.sleep(1)
        own, start = own_memory(p.process.pid), cpu_ms(p.process.pid)
        time.sleep(5)
        idle = cpu_ms(p.process.pid) - start
        for c in clients:
            check(c.close() == 0, "vm-client failed")
    b.add("sessions_own_before_mib", sum(before), "MiB", "a pager has started", "no session yet")
    b.add("sessions_own_anonymous_mib", own[0], "MiB", "64 sessions of one image", "RssAnon")
    b.add("sessions_own_mib", sum(own), "MiB", "64 sessions of one image have touched pages",
          "RssAnon + RssFile of the pager, which shared memory is not part of")
    b.add("sessions_idle_cpu_percent", round(idle / 50, 4), "%", "64 sessions touch nothing",
          "CPU time of the pager in the next 5 s; zero is less than one tick")


# ---- death


def kills(b):
    from kill_pager import kill_pager, percentile
    n = 10 if b.quick else 100
    done = kill_pager(n)
    what = f"{n} kill -9 of the pager under load from 8 clients"
    b.add("kills_wrong_pages", done["wrong"], "pages", what, "every page was compared")
    b.add("kills_lost_sessions", done["lost"], "sessions", what, "every client asked for")
    ms = [ns / 1e6 for ns in done["stalls_ns"]]
    b.add("kills_stall_p50_ms", percentile(ms, 0.5), "ms", "kill -9",
          "the longest touch of a client around it is done")
    b.add("kills_stall_p99_ms", percentile(ms, 0.99), "ms", "kill -9",
          "the longest touch of a client around it is done")
    b.add("kills_new_pager_ms", [ns / 1e6 for ns in done["takeover_ns"]], "ms", "kill -9",
          "the new pager is ready")
    guest_kills(b, 5 if b.quick else 20)


def pager_of(d):
    """the pager of a dormd; None while there is none"""
    from crash import pagers
    found = pagers(d)
    return found[0] if len(found) == 1 else None


def guest_kills(b, n):
    """the same under a real guest whose memory holds a pattern that it checks itself"""
    from harness import Dormouse, wait_until
    with Dormouse() as d:
        d.build_template("base", 512)
        sandbox = d.create("base")
        d.hold_pattern(sandbox, 64)
        d.api("POST", f"/sandboxes/{sandbox}/pause", {})
        d.api("POST", f"/sandboxes/{sandbox}/resume", {})
        for _ in range(n):
            old = pager_of(d)
            os.kill(old, 9)
            wait_until(lambda o=old: pager_of(d) not in (None, o), 20, "dormd starts a new pager")
            time.sleep(0.3)
        d.check_pattern(sandbox)  # fails when a page is wrong, or the sandbox is gone
    b.add("guest_kills_wrong_pages", 0, "pages", f"{n} kill -9 of the pager under a woken guest",
          "the guest checked its memory")


# ---- with real guests, through dormd


def control_socket(d):
    """the pager's control socket of a dormd"""
    pid = pager_of(d)
    command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return command[command.index(b"--socket") + 1].decode()


def ask_pager(d, op, **members):
    from rig import Pager
    p = Pager.__new__(Pager)
    p.control = control_socket(d)
    return p.call(op, **members)


def answers(d):
    """does its pager listen already?"""
    try:
        return ask_pager(d, "ping").get("ok")
    except (OSError, ValueError):
        return False


def cold_host(d):
    """nothing of any image in memory: a new pager, and no page of a layer in the page cache"""
    from harness import wait_until
    old = pager_of(d)
    os.kill(old, 9)
    wait_until(lambda: pager_of(d) not in (None, old) and answers(d), 20,
               "dormd starts a new pager")
    for path in d.root.rglob("layers/*"):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def set_times(d):
    return {p: p.stat().st_mtime_ns for p in d.root.rglob("working-set")}


def wake_and_work(d, prefetch, record=False):
    """a sandbox on a cold host does a little work; returns its session's statistics. record: it
    lives until what it needed has become the template's working set"""
    from harness import wait_until
    before = set_times(d)
    cold_host(d)
    ask_pager(d, "config", prefetch=prefetch)
    sandbox = d.create("base")
    d.exec(sandbox, "sh", "-c", "ls -lR /etc >/dev/null; sha256sum /bin/* >/dev/null")
    time.sleep(1)
    if record:
        wait_until(lambda: set_times(d) != before, 60, "the working set is refined")
    found = [s for s in ask_pager(d, "stats")["stats"]["sessions"]
             if sandbox in s["session"] or s["pid"] == d.vm_pid(sandbox)]
    d.api("DELETE", f"/sandboxes/{sandbox}")
    return found[0]


def working_set(b):
    """after two recordings: userfaults of a wake on a cold host, with the set and without"""
    from harness import Dormouse
    rounds = 1 if b.quick else 3
    with Dormouse() as d:
        d.build_template("base", 512)
        for _ in range(2):
            wake_and_work(d, True, record=True)
        without = [wake_and_work(d, False)["faults"] for _ in range(rounds)]
        woken = [wake_and_work(d, True) for _ in range(rounds)]
    gone = [100 * (1 - s["faults"] / f) for s, f in zip(woken, without)]
    unused = [100 * (1 - s["prefetched_used_pages"] / s["prefetched_pages"]) for s in woken]
    b.add("working_set_faults_without", without, "faults", "a wake on a cold host, no prefetch",
          "one second after a little work")
    b.add("working_set_faults_with", [s["faults"] for s in woken], "faults",
          "a wake on a cold host after two recordings", "one second after the same work")
    b.add("working_set_faults_gone", gone, "%", "working_set_faults_without",
          "working_set_faults_with")
    b.add("working_set_unused", unused, "%", "pages prefetched in those wakes",
          "those of them that nobody touched")


def own_pages(pid):
    """bytes of a VM's RAM that only it has: copied into it, or written by it"""
    total, ram = 0, False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            ram = "memfd:" in line
        elif ram and line.startswith("Anonymous:"):
            total += int(line.split()[1]) * 1024
    return total


def guest_memory(d, sandboxes):
    """bytes of guest memory on this host, mapped by a VM or not: what VMs have for themselves, and
    what the pager holds for all"""
    shared = sum(i["resident_pages"] for i in ask_pager(d, "stats")["stats"]["images"]) * 4096
    return shared + sum(own_pages(d.vm_pid(s)) for s in sandboxes)


def slept_forks(d, n, own):
    """sandboxes of the template that hold so many bytes of their own, asleep"""
    ids = []
    for _ in range(n):
        sandbox = d.create("base")
        d.exec(sandbox, "sh", "-c", f"head -c {own} /dev/urandom >/dev/shm/own; "
               f"test $(stat -c %s /dev/shm/own) = {own}", timeout_s=60)
        d.dorm("sleep", sandbox)
        ids.append(sandbox)
    return ids


def wake_again(d, ids, mode):
    """all of them, in one mode; each reads what it owns"""
    took = []
    for sandbox in ids:
        start = time.monotonic()
        d.dorm("wake", "--mode", mode, sandbox)
        d.exec(sandbox, "sha256sum", "/dev/shm/own", timeout_s=60)  # cat might only splice it
        took.append(1e3 * (time.monotonic() - start))
    return took


def overlay(b):
    """forks that slept with 30 MB of their own each, all awake again"""
    from harness import Dormouse
    forks, own = (4 if b.quick else 20), 30 << 20
    what = f"{forks} woken forks with 30 MB each"
    with Dormouse() as d:
        d.build_template("base", 256)
        cold_host(d)
        first = d.create("base")
        d.exec(first, "true")
        template = guest_memory(d, [first])
        d.api("DELETE", f"/sandboxes/{first}")
        ids = slept_forks(d, forks, own)
        used, took = {}, {}
        for mode in ("shared", "auto"):
            cold_host(d)
            took[mode] = wake_again(d, ids, mode)
            used[mode] = guest_memory(d, ids)
            modes = {s["mode"] for s in ask_pager(d, "stats")["stats"]["sessions"]
                     if s["state"] == "serving"}
            for sandbox in ids:
                d.dorm("sleep", sandbox)
            print(f"   {mode}: {modes}")
    b.add("overlay_template_mib", template / 2**20, "MiB", "one fork of the template, awake",
          "its own pages and what the pager holds")
    for mode, name in (("auto", "overlay"), ("shared", "overlay_shared")):
        b.add(f"{name}_memory_mib", used[mode] / 2**20, "MiB", what, f"mode {mode}; all of their "
              "own pages, and what the pager holds")
        b.add(f"{name}_wake_ms", took[mode][1:], "ms", f"wake, mode {mode}",
              "it has read its 30 MB; cold disk, and others run before it")
    b.add("overlay_memory_ratio", used["auto"] / (template + forks * own), "x",
          "overlay_memory_mib", f"overlay_template_mib + {forks} * 30 MB")


GROUPS = {"warm": warm, "resident": resident, "cached": cached, "fill": fill, "unpack": unpack,
          "demand": demand, "sessions": sessions, "kills": kills, "working-set": working_set,
          "overlay": overlay}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build-dir", default="build")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", choices=list(GROUPS))
    args = parser.parse_args()
    build = pathlib.Path(args.build_dir).resolve()
    os.environ["DORM_BUILD"] = str(build)
    os.environ.setdefault("TMPDIR", str(build))  # images on a disk, not in memory
    from rig import WORK
    rows = Rows()
    b = Bench(args, rows)
    try:
        for name in args.only or GROUPS:
            print(f"-- {name}", flush=True)
            GROUPS[name](b)
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
    if not args.only:
        rows.write(build / "bench" / "pager.json")
        print(f"  figures in {build / 'bench' / 'pager.json'}")
    rows.table()


if __name__ == "__main__":
    main()
