# SPDX-License-Identifier: Apache-2.0
# timeout: 400
"""The pager or a QEMU dies or stands still: the sandboxes concerned fail with a reason, everything
else runs on, no guest ever sees zeros, and nothing leaks."""
import os
import pathlib
import signal
import time

from crash import (Background, check_sound, delete_all, failure, is_alive, kill_and_wait, pager,
                   pagers, read)
from harness import ApiError, Dormouse, check, main, wait_until

D = Dormouse().__enter__()


def error(method, path, body=None, within_s=60):
    t0 = time.monotonic()
    try:
        D.api(method, path, body)
    except ApiError as e:
        took = time.monotonic() - t0
        check(took < within_s, f"{method} {path}: {e} took {took:.1f} s")
        return e
    raise AssertionError(f"{method} {path} succeeded")


def works(sandbox):
    check(D.exec(sandbox, "hostname") == sandbox, f"{sandbox} works")


def test_template():
    D.build_template("base", 128)


def test_pager_killed():
    running, asleep = [D.create("base"), D.create("base")], D.create("base")
    D.exec(asleep, "sh", "-c", "echo dreams > /tmp/file")
    D.dorm("sleep", asleep)
    processes, old = [D.vm_pid(s) for s in running], pager(D)
    kill_and_wait(old)
    for s, pid in zip(running, processes):
        works(s)
        check(D.vm_pid(s) == pid, "the same VM goes on")
    D.dorm("wake", asleep)
    check(D.exec(asleep, "cat", "/tmp/file") == "dreams", "sleepers do not notice")
    works(D.create("base"))
    check(pager(D) != old, "by a new pager")
    check_sound(D)
    delete_all(D)
    check_sound(D)


def test_never_zeros():
    """a guest that waits for a page when the pager dies waits for the next pager, and gets it"""
    source = D.create("base")
    D.hold_pattern(source, 40)
    snapshot = D.api("POST", f"/sandboxes/{source}/snapshots", {})["snapshotID"]
    D.api("DELETE", f"/sandboxes/{source}")
    for delay_s in (0.03, 0.06, 0.1, 0.15):
        kill_and_wait(pager(D))  # so that nothing is resident
        wait_until(lambda: len(pagers(D)) == 1, 10, "a new pager")
        sandbox = D.create(snapshot)
        pid, serving = D.vm_pid(sandbox), pager(D)
        asked = Background(lambda s=sandbox: D.dorm("exec", "-u", "root", "--timeout", "20", s, "--",
                                                    "/tmp/pattern", "check", check_status=False))
        time.sleep(delay_s)
        os.kill(serving, signal.SIGKILL)
        asked.join(60)
        check(asked.result is not None, f"{asked.error}")
        text = asked.result.stdout.strip()
        check(" bad=0 " in text, f"after {delay_s} s: {text}")
        check(D.vm_pid(sandbox) == pid and D.status(sandbox) == "running", "the same VM goes on")
        D.api("DELETE", f"/sandboxes/{sandbox}")
    good = D.create(snapshot)
    D.check_pattern(good)
    delete_all(D)
    D.dorm("snapshot", "rm", snapshot)
    check_sound(D)


def test_pager_killed_during_create():
    """what is under way fails, or succeeds with the next pager; nothing hangs or stays"""
    for delay_s in (0.0, 0.05, 0.1):
        creates = [Background(lambda: D.create("base")) for _ in range(3)]
        time.sleep(delay_s)
        for pid in pagers(D):
            os.kill(pid, signal.SIGKILL)
        for c in creates:
            c.join(40)
            check(not c.is_alive(), "a create hangs")
            check(c.result or isinstance(c.error, ApiError), f"{c.error}")
        wait_until(lambda: len(pagers(D)) == 1, 10, "a new pager")
        works(D.create("base"))
        delete_all(D)
        check_sound(D)


def test_qemu_killed():
    victim, other = D.create("base"), D.create("base")
    kill_and_wait(D.vm_pid(victim))
    check("signal 9" in failure(D, victim), f"{failure(D, victim)}")
    works(other)
    check_sound(D)
    delete_all(D)


def test_guest_that_ends_itself():
    for command in ("poweroff", "reboot"):
        sandbox = D.create("base")
        D.dorm("exec", "-u", "root", "--timeout", "5", sandbox, "--", "busybox", command, "-f",
               check_status=False)
        why = failure(D, sandbox)
        check("guest" in why, f"{command}: {why}")
        D.api("DELETE", f"/sandboxes/{sandbox}")
    check_sound(D)


def test_qemu_stands_still():
    sleeper, goner = D.create("base"), D.create("base")
    processes = [D.vm_pid(s) for s in (sleeper, goner)]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    e = error("POST", f"/sandboxes/{sleeper}/pause", {}, within_s=25)
    check(e.status == 504 and "did not answer" in e.body["message"], f"{e.status} {e.body}")
    check(D.status(sleeper) in ("running", "failed"), f"{D.status(sleeper)}")
    for s in (sleeper, goner):
        t0 = time.monotonic()
        D.api("DELETE", f"/sandboxes/{s}")
        check(time.monotonic() - t0 < 3, f"a delete took {time.monotonic() - t0:.1f} s")
    check(not any(is_alive(pid) for pid in processes), "they are gone")
    check_sound(D)


def test_pager_stands_still():
    delete_all(D)
    other, asleep = D.create("base"), D.create("base")
    D.dorm("sleep", asleep)
    served_by = pager(D)
    os.kill(served_by, signal.SIGSTOP)
    try:
        creates = [Background(lambda: error("POST", "/v2/sandboxes", {"templateID": "base"},
                                            within_s=20)) for _ in range(3)]
        while any(c.is_alive() for c in creates):
            t0 = time.monotonic()
            D.api("GET", "/healthz")
            check({other, asleep} <= {s["sandboxID"] for s in D.sandboxes()}, f"{D.sandboxes()}")
            check(time.monotonic() - t0 < 2, f"a list took {time.monotonic() - t0:.1f} s")
            time.sleep(0.2)
        for c in creates:
            check(c.result and c.result.status == 503 and "pager" in c.result.body["message"],
                  f"{c.error} {c.result}")
        e = error("POST", f"/v2/sandboxes/{asleep}/connect", {}, within_s=20)
        check("pager" in e.body["message"] and D.status(asleep) == "asleep", f"{e.body}")
        # A dormd that starts now must not take it for dead.
        D.kill()
        try:
            D.start()
            raise AssertionError("dormd started although its pager does not answer")
        except AssertionError as e:
            check("does not answer" in str(e), f"{e}")
    finally:
        os.kill(served_by, signal.SIGCONT)
    D.start()
    works(other)
    D.dorm("wake", asleep)
    works(asleep)
    works(D.create("base"))
    delete_all(D)
    check_sound(D)


def usage(pid):
    """what a process must give back: descriptors, memfds among them, threads, own memory in KiB"""
    status = dict(line.split(":", 1) for line in read(f"/proc/{pid}/status").splitlines() if ":" in line)
    fds = []
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            fds.append(os.readlink(fd))
        except OSError:
            pass
    return {"fds": len(fds), "memfds": sum("memfd:" in f for f in fds),
            "threads": int(status["Threads"]), "anon_kb": int(status["RssAnon"].split()[0])}


def cycles():
    for _ in range(15):
        D.api("DELETE", f"/sandboxes/{D.create('base')}")
    sandbox = D.create("base")
    for _ in range(10):
        D.api("POST", f"/sandboxes/{sandbox}/pause", {})
        D.api("POST", f"/v2/sandboxes/{sandbox}/connect", {})
    D.api("DELETE", f"/sandboxes/{sandbox}")
    time.sleep(1)  # connections of this test, retired sessions
    return {"dormd": usage(D.daemon.pid), "pager": usage(pager(D))}


def test_nothing_leaks():
    """two rounds of the same end alike; what the pager keeps for later (8 images) is full after one"""
    first, second = cycles(), cycles()
    print(f"{first}\n{second}", flush=True)
    for who in first:
        for what in ("fds", "memfds", "threads"):
            check(second[who][what] <= first[who][what] + 1, f"{who} {what}: {first} then {second}")
        check(second[who]["anon_kb"] < first[who]["anon_kb"] + 4096, f"{who}: {first} then {second}")
    check_sound(D)


def test_nothing_is_left():
    check_sound(D)
    D.__exit__(None)


main(globals())
