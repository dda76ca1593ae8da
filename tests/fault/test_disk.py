#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A disk that fails, and a kernel that does: a page that cannot be had ends its VM, and nothing else.

Whatever a read or an ioctl answers, no page is ever wrong, no thread waits for ever, the pager lives,
and what is whole again is served again. The faults are made by fault-io.c inside the pager.
"""
import signal

from rig import Pager, check, image, main, wait_until

MODES = ("shared", "copy")


def died(client):
    """the client was killed by the pager, as one whose page could not be had"""
    return client.process.wait(30) == -signal.SIGKILL


def try_all(p, img, name, mode, faulty=True):
    """touch and compare; returns True when all was right, False when the client was killed"""
    c = p.client(name, img, mode=mode, threads=2, owned=10, write=20, seed=5)
    if faulty:  # an image that cannot even be opened is another story
        p.switch.touch()
    try:
        c.touch("shuffled 8000")
        c.compare()
    except (AssertionError, BrokenPipeError) as e:
        check("wrong" not in str(e), str(e))
        check(died(c), f"the client did not end: {e}")
        wait_until(lambda: p.session(name)["state"] == "failed", 10, f"{name} is failed")
        failure = p.session(name)["failure"]
        check(failure, "a session failed without a reason")
        print(f"  {name}: {failure}")
        return False
    check(c.close() == 0, "vm-client failed")
    return True


def always_right(mode, faults, codec="none", *args):
    with Pager(*args, faults=faults) as p:
        check(try_all(p, image(codec=codec), "a", mode), f"{faults} is no reason to fail")


def fails_and_recovers(mode, faults, codec="none"):
    """sessions may fail while the fault is there; the image is good as soon as it is not"""
    with Pager("--linger", "0", faults=faults) as p:
        img = image(codec=codec)
        fds = p.fds()
        right = 0
        for i in range(4):
            right += try_all(p, img, f"c{i}", mode)
            p.switch.unlink()
            p.wait_sessions(0)
        check(try_all(p, img, "after", mode, faulty=False), "the fault is over")
        p.wait_sessions(0)
        wait_until(lambda: p.fds() <= fds, 10, f"{fds} descriptors are open again")
        return right


def short_reads(mode):
    always_right(mode, "short%2")
    always_right(mode, "short%3,nouring", "zstd")


def not_in_page_cache(mode):
    """reads that must not wait find nothing, now and then"""
    always_right(mode, "again%2")
    always_right(mode, "again%1")


def one_error(mode):
    """at most one session sees the one read that failed"""
    for faults in ("eio@3", "eio@40,nouring"):
        check(fails_and_recovers(mode, faults) >= 3, f"one error ({faults}) ended two sessions")


def all_errors(mode):
    check(fails_and_recovers(mode, "eio%1") == 0, "a session cannot be right without its pages")


def some_errors(mode):
    fails_and_recovers(mode, "eio%50,short%7", "zstd")


def no_memory(mode):
    """now and then, which the pager may get over; then for good"""
    fails_and_recovers(mode, "enomem%20")
    check(fails_and_recovers(mode, "enomem%1") == 0, "a session cannot be right without memory")


def mappings_change(mode):
    """EAGAIN from UFFDIO_COPY is no error, and no fault may be lost over it"""
    if not fails_and_recovers(mode, "busy%5"):
        check(False, "EAGAIN ended every session")


def slow(mode):
    """many threads, each read 5 ms: the frames are read once each, and all is right"""
    with Pager("--threads", "2", faults="delay=5") as p:
        img = image(pages=2048)
        clients = [p.begin(f"c{i}", img, mode=mode, threads=3, seed=i) for i in range(3)]
        for c in clients:
            c.wait_attached()
        p.switch.touch()
        for c in clients:
            c.send("touch shuffled 600")
        for c in clients:
            check(c.line().get("wrong") == 0, "wrong pages")
        for c in clients:
            c.compare()
            check(c.close() == 0, "vm-client failed")


def demand_first(mode):
    """while everything is loaded from a disk that takes 20 ms, a fault waits for one read of that
    at most, and for its own"""
    with Pager(faults="delay=20") as p:
        img = image(pages=16384)
        img.drop_cache()
        p.switch.touch()
        c = p.client("c", img, mode=mode, load="full", seed=3)
        latency = c.touch("frames 60")["latency"]
        stats = p.session("c")
        check(stats["load"]["state"] == "loading", f"too fast to test anything: {stats['load']}")
        # two reads, and what a machine of two cores adds to that under a sanitizer
        check(latency["p90_ns"] < 75e6, f"demand waits behind background reads: {latency}")
        p.switch.unlink()
        p.wait_loaded("c")
        c.compare()
        check(c.close() == 0, "vm-client failed")


def stuck(mode):
    """a read that takes longer than anybody waits is told of: in the statistics, and in the log"""
    with Pager(faults="delay=13000") as p:
        img = image(pages=2048)
        img.drop_cache()
        c = p.client("c", img, mode=mode, seed=3)
        p.switch.touch()
        c.send("touch shuffled 3")
        wait_until(lambda: p.session("c")["oldest_fault_ns"] > 1e9, 10, "a fault waits")
        check(p.session("c")["stuck_faults"] == 0, "stuck after a second")
        wait_until(lambda: p.session("c")["stuck_faults"], 12, "it is stuck")
        wait_until(lambda: "does its storage answer" in p.tail(), 3, "the log says so")
        p.switch.unlink()
        check(c.line().get("wrong") == 0, "wrong pages")
        stats = p.session("c")
        check(not stats["stuck_faults"] and not stats["oldest_fault_ns"], f"still stuck: {stats}")
        c.compare()
        check(c.close() == 0, "vm-client failed")


CASES = (short_reads, not_in_page_cache, one_error, all_errors, some_errors, no_memory,
         mappings_change, slow, demand_first)


def bind(case, mode):
    return lambda: case(mode)


for _mode in MODES:
    for _case in CASES:
        globals()[f"test_{_mode}_{_case.__name__}"] = bind(_case, _mode)
test_shared_stuck = bind(stuck, "shared")

main(globals())
