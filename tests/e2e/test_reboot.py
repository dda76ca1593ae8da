# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""Sleeping without memory: what is on the disk is kept, and a wake is a boot."""
import json
import os
import re
import signal
import threading
import time

from crash import is_alive, kill_and_wait, pager, vms
from harness import ApiError, Dormouse, check, main, wait_until

D = Dormouse().__enter__()
START = "while true; do echo run >>/home/user/runs; sleep 1000; done"


def build(name, *options):
    D.dorm("template", "build", "--base", "busybox", "--memory", "128M", "--no-working-set", *options, name,
           timeout_s=300)


def pause(sandbox, **body):
    D.api("POST", f"/sandboxes/{sandbox}/pause", {"memory": False, **body})


def connect(sandbox, **body):
    return D.api("POST", f"/v2/sandboxes/{sandbox}/connect", {"timeout": 3600, **body})


def info(sandbox):
    return D.api("GET", f"/sandboxes/{sandbox}")


def record(sandbox):
    return json.loads((D.root / "sandboxes" / sandbox / "sandbox.json").read_text())


def memory_dirs(sandbox):
    return sorted(p.name for p in (D.root / "sandboxes" / sandbox).glob("memory-*"))


def refused(status, words, method, path, body=None):
    try:
        D.api(method, path, body)
    except ApiError as e:
        check(e.status == status and words in str(e), f"{method} {path}: {e}")
        check(e.body.get("code") == status, f"{e.body}")
        return
    raise AssertionError(f"{method} {path} {body} was done")


def boot_id(sandbox):
    return D.exec(sandbox, "cat", "/proc/sys/kernel/random/boot_id")


def write(sandbox, name, kib=200):
    """a file of noise, which nobody syncs; returns its digest"""
    D.exec(sandbox, "sh", "-c", f"dd if=/dev/urandom of={name} bs=1k count={kib} 2>/dev/null")
    return D.exec(sandbox, "sha256sum", name).split()[0]


def check_file(sandbox, name, digest):
    seen = D.exec(sandbox, "sha256sum", name).split()[0]
    check(seen == digest, f"{name} of {sandbox} is {seen}, was {digest}")


def stored_bytes(sandbox):
    """what its memory directory takes, but for the disks"""
    at = D.root / "sandboxes" / sandbox / memory_dirs(sandbox)[0]
    return sum(p.stat().st_size for p in at.rglob("*") if p.is_file() and p.parent.name != "disks")


def test_templates():
    build("plain")
    build("disk", "--disk", "256M", "--start-cmd", START)


def test_sleep_and_boot():
    sandbox = D.create("disk", envVars={"COLOUR": "blue"}, metadata={"k": "v"}, timeout=1000)
    digest = write(sandbox, "/home/user/f")
    D.exec(sandbox, "sh", "-c", "echo gone >/dev/shm/x; sleep 2000 >/dev/null 2>&1 </dev/null &")
    before, token, boot = info(sandbox), D.access(sandbox), boot_id(sandbox)
    t0 = time.monotonic()
    pause(sandbox)
    asleep = time.monotonic() - t0
    check(D.status(sandbox) == "asleep" and info(sandbox)["diskOnly"] is True, f"{info(sandbox)}")
    check(info(sandbox)["state"] == "paused", "clients know two states")
    told = D.dorm("inspect", sandbox).stdout
    check(re.search(r"^disk only +yes$", told, re.M), told)
    check(stored_bytes(sandbox) < 16384, f"{stored_bytes(sandbox)} bytes are kept beside the disk")
    refused(409, "cannot be put to sleep", "POST", f"/sandboxes/{sandbox}/pause", {"memory": False})
    refused(409, "without its memory", "POST", f"/sandboxes/{sandbox}/snapshots", {})
    D.dorm("store", "check", "--data")
    t0 = time.monotonic()
    connect(sandbox)
    print(f"  asleep after {asleep:.2f} s, booted after {time.monotonic() - t0:.2f} s")
    after = info(sandbox)
    check("diskOnly" not in after and after["metadata"] == {"k": "v"}, f"{after}")
    check(before["endAt"] < after["endAt"], "it was given more time")
    check(D.access(sandbox) == token, "the same token")
    check_file(sandbox, "/home/user/f", digest)
    check(boot_id(sandbox) != boot, "it was booted")
    check(D.exec(sandbox, "sh", "-c", "hostname; echo $COLOUR $E2B_SANDBOX_ID; ls /dev/shm").split()
          == [sandbox, "blue", sandbox], "its identity, environment, and nothing of its memory")
    wait_until(lambda: D.exec(sandbox, "cat", "/home/user/runs").split() == ["run"] * 2, 20,
               "its template's start command runs again")
    check(D.exec(sandbox, "sh", "-c", "ps | grep '[s]leep 2000'; true") == "", "and nothing else does")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_generations():
    """with and without memory in turn: what runs is what slept, and nothing is left over"""
    sandbox, digests = D.create("disk"), {}
    for i, memory in enumerate((False, False, True, False, True, True, False)):
        digests[f"/home/user/f{i}"] = write(sandbox, f"/home/user/f{i}")
        D.exec(sandbox, "sh", "-c", f"echo {i} >/dev/shm/i")
        boot = boot_id(sandbox)
        pause(sandbox, memory=memory)
        check(len(memory_dirs(sandbox)) == 1, f"{memory_dirs(sandbox)}")
        connect(sandbox)
        for name, digest in digests.items():
            check_file(sandbox, name, digest)
        check((boot_id(sandbox) == boot) == memory, f"sleep {i}: memory {memory}")
        check(D.exec(sandbox, "sh", "-c", "cat /dev/shm/i 2>/dev/null; true") == (str(i) if memory else ""),
              f"sleep {i}")
    D.api("DELETE", f"/sandboxes/{sandbox}")
    check(not vms(D), f"processes are left: {vms(D)}")


main(globals())
