# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""What a dormd finds when it starts: a host that was restarted, time that has passed, processes that
are not its own; and that a delete works when nothing else does."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

from crash import (Background, check_sound, delete_all, failure, is_alive, kill_and_wait, pager,
                   record)
from harness import ApiError, Dormouse, check, main, skip, wait_until

FAULTS = pathlib.Path(f"/tmp/dorm-recover.{os.getpid()}")
D = Dormouse(env={"DORM_FAULT": f"@{FAULTS}"}).__enter__()
BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
DELETE_S = 2.0
LOADED = 4.0  # on a machine that does eight other things, too


def delete_quickly(sandbox, what):
    t0 = time.monotonic()
    D.api("DELETE", f"/sandboxes/{sandbox}")
    took = time.monotonic() - t0
    check(took < DELETE_S * LOADED, f"{what}: the delete took {took:.1f} s")
    print(f"{what}: deleted in {took * 1000:.0f} ms", flush=True)


def change_record(sandbox, **fields):
    """as another dormd, or another boot, would have left it"""
    path = D.root / "sandboxes" / sandbox / "sandbox.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def start_time(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_template():
    D.build_template("base", 128)


def test_host_was_restarted():
    """what ran is failed with just that reason, and keeps its files; what slept is there"""
    ran, saved, asleep = D.create("base"), D.create("base"), D.create("base")
    D.exec(asleep, "sh", "-c", "echo dreams > /tmp/file")
    D.dorm("sleep", asleep)
    check(record(D, ran)["bootID"] == BOOT_ID, f"{record(D, ran)}")
    vms = [D.vm_pid(s) for s in (ran, saved)]
    before = sorted(p.name for p in (D.root / "sandboxes" / ran).iterdir() if p.is_dir())
    D.kill()
    for pid in vms:
        kill_and_wait(pid)
    other = BOOT_ID[::-1].replace("-", "0")[:36]
    # A process that has the same number and start as the VM had before the restart is not it.
    innocent = subprocess.Popen(["sleep", "600"])
    change_record(ran, bootID=other, vm={**record(D, ran)["vm"], "pid": innocent.pid,
                                         "startTime": start_time(innocent.pid)})
    change_record(saved, bootID=other, state="pausing")
    change_record(asleep, bootID=other)
    D.start()
    for s in (ran, saved):
        check(failure(D, s) == "the host was restarted while it ran", f"{failure(D, s)}")
    check(innocent.poll() is None, "the process that has its number now lives on")
    after = sorted(p.name for p in (D.root / "sandboxes" / ran).iterdir() if p.is_dir())
    check(before == after, f"its files: {before}, {after}")
    D.dorm("wake", asleep)
    check(D.exec(asleep, "cat", "/tmp/file") == "dreams", "the sleeper")
    D.kill()
    D.start()
    check(D.status(ran) == "failed" and innocent.poll() is None, "the same the next time")
    innocent.kill()
    innocent.wait(10)
    delete_all(D)
    check_sound(D)


def test_pid_of_another():
    """a number that was reused is not the VM's: its start time says so"""
    sandbox = D.create("base")
    pid = D.vm_pid(sandbox)
    D.kill()
    kill_and_wait(pid)
    innocent = subprocess.Popen(["sleep", "600"])
    change_record(sandbox, vm={**record(D, sandbox)["vm"], "pid": innocent.pid})
    D.start()
    check(D.status(sandbox) == "failed", f"{D.status(sandbox)}")
    delete_quickly(sandbox, "one that failed")
    check(innocent.poll() is None, "it lives on")
    innocent.kill()
    innocent.wait(10)


def another(root, before=lambda root: 0):
    """a dormd with a store of its own, at @root, that has the template, too"""
    other = Dormouse()
    other.root = root
    root.mkdir()
    if before(root):
        skip("a file system cannot be mounted here")
    for name in ("snapshots", "templates"):
        if (D.root / name).exists():
            shutil.copytree(D.root / name, root / name, symlinks=True)
    return other


def test_stores_side_by_side():
    """a dormd ends what lies about in its own store: not in one whose path begins with its own, nor
    in one that lies within"""
    with another(D.dir / "store-2") as beside, another(D.root / "inner") as within:
        mine, others = D.create("base"), [(o, o.create("base")) for o in (beside, within)]
        orphan = D.create("base")
        lost = D.vm_pid(orphan)
        D.kill()
        shutil.rmtree(D.root / "sandboxes" / orphan)
        D.start()
        wait_until(lambda: not is_alive(lost), 10, "its own orphan is ended")
        check(D.exec(mine, "hostname") == mine, "its own sandbox runs")
        for o, s in others:
            check(is_alive(o.vm_pid(s)) and o.exec(s, "hostname") == s, f"{s} in {o.root}")
    shutil.rmtree(D.root / "inner")
    delete_all(D)
    check_sound(D)


def test_time_passes_without_dormd():
    """what is over when dormd starts ends then; an auto-pausing sleeper has nothing to lose"""
    gone, pausing = D.create("base", timeout=3), D.create("base", timeout=3, autoPause=True)
    sleeper, stays = D.create("base", timeout=3), D.create("base", timeout=3, autoPause=True)
    later = D.create("base", timeout=3600)
    for s in (sleeper, stays):
        D.dorm("sleep", s)
    ends = max(record(D, s)["endNs"] for s in (gone, pausing, sleeper, stays)
               if (D.root / "sandboxes" / s).exists())
    D.kill()
    wait_until(lambda: time.time_ns() > ends, 10, "their time is up")
    D.start()
    want = {pausing: "asleep", stays: "asleep", later: "running"}
    wait_until(lambda: {s["sandboxID"]: s["status"] for s in D.sandboxes()} == want, 10,
               f"{want}; there are {D.sandboxes()}")
    check(record(D, later)["endNs"] > ends, "its end is where it was")
    D.dorm("wake", stays)
    check(D.exec(stays, "hostname") == stays, "woken after its time: it gets some more")
    delete_all(D)
    check_sound(D)


def test_asleep_until_its_end():
    asleep = D.create("base", timeout=2)
    D.dorm("sleep", asleep)
    wait_until(lambda: not D.sandboxes(), 10, "it is deleted while it sleeps")
    check_sound(D)


def test_time_is_up_amid_a_create():
    """nobody wants it any more when it comes up: it is interrupted, and leaves nothing"""
    FAULTS.write_text("create.answer:hang=60")
    done = Background(lambda: D.create("base", timeout=1))
    done.join(20)
    check(isinstance(done.error, ApiError) and done.error.status == 409, f"{done.result} {done.error}")
    check_sound(D)


def test_create_takes_too_long():
    """all of it has a deadline, too, and the client is told at which step that passed"""
    asleep = D.create("base")
    D.dorm("sleep", asleep)
    D.kill()
    D.args += ["--operation-timeout", "3"]
    D.start()
    for name, operation in (("create", lambda: D.create("base")),
                            ("wake", lambda: D.dorm("wake", asleep))):
        FAULTS.write_text(f"{name}.answer:hang=60")
        done = Background(operation)
        done.join(30)
        check("took too long" in str(done.error) and "answer" in str(done.error),
              f"{name}: {done.result} {done.error}")
    check(check_sound(D) == {asleep: "asleep"}, f"{D.sandboxes()}")
    D.kill()
    del D.args[-2:]
    D.start()
    D.dorm("wake", asleep)
    delete_all(D)


def test_delete_with_a_pager_that_stands_still():
    running, asleep, waking = [D.create("base") for _ in range(3)]
    for s in (asleep, waking):
        D.dorm("sleep", s)
    vm, served_by = D.vm_pid(running), pager(D)
    os.kill(served_by, signal.SIGSTOP)
    try:
        wake = Background(lambda: D.dorm("wake", waking))
        wait_until(lambda: D.api("GET", f"/sandboxes/{waking}").get("operation"), 10, "it is waking")
        for s, what in ((running, "running"), (waking, "waking"), (asleep, "asleep")):
            delete_quickly(s, f"{what}, pager stopped")
        check(not is_alive(vm) and D.sandboxes() == [], f"{D.sandboxes()}")
    finally:
        os.kill(served_by, signal.SIGCONT)
    wake.join(30)
    check(wake.error is not None, "its wake fails")
    wait_until(lambda: not [*(D.root / "sandboxes").iterdir(), *(D.root / "tmp").iterdir()], 20,
               "all of them are removed")
    check_sound(D)


def test_delete_with_a_vm_that_stands_still():
    """in the middle of a sleep, which waits for it"""
    sandbox = D.create("base")
    vm = D.vm_pid(sandbox)
    os.kill(vm, signal.SIGSTOP)
    sleep = Background(lambda: D.api("POST", f"/sandboxes/{sandbox}/pause", {}))
    wait_until(lambda: D.api("GET", f"/sandboxes/{sandbox}").get("operation"), 10, "it is pausing")
    delete_quickly(sandbox, "pausing, VM stopped")
    sleep.join(20)
    check(isinstance(sleep.error, ApiError) and sleep.error.status == 409, f"{sleep.error}")
    check(not is_alive(vm), "its VM is gone")
    check_sound(D)


def fill(other):
    """to the last byte; returns the file that does it"""
    ballast = other.root / "ballast"
    with open(ballast, "wb", buffering=0) as f:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    f.write(bytes(size))
            except OSError:
                pass
    for i in range(1000):  # nor is there a page for another name
        try:
            (other.root / f"ballast-{i}").write_bytes(b"x")
        except OSError:
            break
    return ballast


def refused(operation, what):
    try:
        operation()
        raise AssertionError(f"{what} on a full disk")
    except ApiError as e:
        check(e.status == 507, f"{what}: {e}")


def test_full_disk():
    """nothing is lost that cannot be recorded, and a delete needs no space"""
    other = another(D.dir / "small", before=lambda root: subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m,nr_inodes=4k", "tmpfs", root], check=False).returncode)
    try:
        with other:
            running, asleep, waking = [other.create("base") for _ in range(3)]
            for s in (asleep, waking):
                other.dorm("sleep", s)
            ballast = fill(other)
            refused(lambda: other.create("base"), "created")
            refused(lambda: other.api("POST", f"/v2/sandboxes/{waking}/connect", {}), "woken")
            refused(lambda: other.api("POST", f"/sandboxes/{running}/pause", {}), "put to sleep")
            end = other.api("GET", f"/sandboxes/{running}")["endAt"]
            refused(lambda: other.api("POST", f"/sandboxes/{running}/timeout", {"timeout": 9}), "timed")
            check(other.api("GET", f"/sandboxes/{running}")["endAt"] == end, "its end is as it was")
            want = {running: "running", asleep: "asleep", waking: "asleep"}
            found = {s["sandboxID"]: s["status"] for s in other.sandboxes()}
            check(found == want, f"{found}")
            for s in (running, asleep):
                t0 = time.monotonic()
                other.api("DELETE", f"/sandboxes/{s}")
                check(time.monotonic() - t0 < DELETE_S * LOADED, f"{time.monotonic() - t0:.1f} s")
            ballast.unlink()
            other.kill()
            other.start()
            check(check_sound(other) == {waking: "asleep"}, f"{other.sandboxes()}")
            other.dorm("wake", waking)
            check(other.exec(waking, "hostname") == waking, "with room again it wakes")
            other.stop()
    finally:
        subprocess.run(["umount", "-l", D.dir / "small"], capture_output=True, check=False)


def test_two_deletes():
    """one of them is told that there is none"""
    sandbox = D.create("base")
    FAULTS.write_text("delete.end:hang=2")
    first = Background(lambda: D.api("DELETE", f"/sandboxes/{sandbox}"))
    wait_until(lambda: not FAULTS.read_text(), 10, "the first is under way")
    try:
        D.api("DELETE", f"/sandboxes/{sandbox}")
        raise AssertionError("deleted twice")
    except ApiError as e:
        check(e.status == 404, f"{e}")
    first.join(20)
    check(first.error is None, f"{first.error}")
    check_sound(D)


def test_nothing_is_left():
    check_sound(D)
    FAULTS.unlink(missing_ok=True)
    D.__exit__(None)


main(globals())
