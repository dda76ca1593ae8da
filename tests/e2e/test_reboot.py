# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""Sleeping without memory: what is on the disk is kept, and a wake is a boot."""
import json
import re
import tempfile
import threading
import time

from crash import Background, check_sound, kill_and_wait, pager, vms
from harness import ApiError, Dormouse, check, main, wait_until

FAULTS = tempfile.NamedTemporaryFile(prefix="dorm-faults.")
D = Dormouse(env={"DORM_FAULT": f"@{FAULTS.name}"}).__enter__()
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
    for i, memory in enumerate((False, True, True, False)):
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


def test_boot_instead_of_wake():
    """of one that slept with its memory, which is dropped when it has booted and not before"""
    sandbox = D.create("disk")
    digest = write(sandbox, "/home/user/f")
    D.exec(sandbox, "sh", "-c", "echo kept >/dev/shm/x; mkdir -p /etc/dorm/hooks/after-wake.d; "
                                "cat >/etc/dorm/hooks/after-wake.d/1; chmod 755 /etc/dorm/hooks/after-wake.d/1",
           stdin="#!/bin/sh\n[ $DORM_KIND != boot ] || [ -e /home/user/may-boot ]\n")
    boot = boot_id(sandbox)
    pause(sandbox, memory=True)
    slept, names = record(sandbox), memory_dirs(sandbox)
    try:
        connect(sandbox, memory=False)
        raise AssertionError("a boot succeeded whose hook fails")
    except ApiError as e:
        check(e.status == 500 and "after-wake" in str(e), f"{e}")
    check(D.status(sandbox) == "asleep" and memory_dirs(sandbox) == names, f"{memory_dirs(sandbox)}")
    check(record(sandbox)["imageID"] == slept["imageID"] and not vms(D), "it is as it was")
    connect(sandbox)
    check(boot_id(sandbox) == boot and D.exec(sandbox, "cat", "/dev/shm/x") == "kept", "with its memory")
    D.exec(sandbox, "touch", "/home/user/may-boot")
    pause(sandbox, memory=True)
    check(connect(sandbox, memory=False)["wake"]["totalMs"] > 0, "it was woken")
    check(boot_id(sandbox) != boot and len(memory_dirs(sandbox)) == 1, f"{memory_dirs(sandbox)}")
    check_file(sandbox, "/home/user/f", digest)
    check(stored_bytes(sandbox) < 16384, "its memory is dropped")
    boot = boot_id(sandbox)
    check(connect(sandbox, memory=False) and boot_id(sandbox) == boot, "one that runs runs on")
    D.dorm("sleep", sandbox)
    D.dorm("wake", "--reboot", sandbox)
    check(boot_id(sandbox) != boot, "on the command line")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_forks():
    """of one that sleeps without memory: each boots, and has its own files from then on"""
    sandbox = D.create("disk")
    digest = write(sandbox, "/home/user/f")
    D.dorm("sleep", "--no-memory", sandbox)
    made = D.api("POST", f"/sandboxes/{sandbox}/fork", {"count": 2, "timeout": 600})
    forks = [m["sandbox"]["sandboxID"] for m in made]
    boots = {boot_id(fork) for fork in forks}
    check(len(boots) == 2 and D.status(sandbox) == "asleep", f"{boots}")
    for fork in forks:
        check_file(fork, "/home/user/f", digest)
        check(D.exec(fork, "hostname") == fork, "its own name")
        write(fork, "/home/user/f")
        check(D.access(fork) != D.access(sandbox), "its own token")
    D.api("DELETE", f"/sandboxes/{sandbox}")
    D.dorm("sleep", forks[0])  # with its memory, which is nobody else's
    D.dorm("wake", forks[0])
    check(boot_id(forks[0]) in boots, "it woke")
    copy = D.api("POST", f"/sandboxes/{forks[1]}/fork", {"timeout": 600})[0]["sandbox"]["sandboxID"]
    check(boot_id(copy) in boots, "a fork of one that was booted, and runs")
    for name in (*forks, copy):
        D.api("DELETE", f"/sandboxes/{name}")


def test_refused():
    """what has no disk keeps its memory, and runs on"""
    sandbox = D.create("plain")
    refused(400, "has no disk", "POST", f"/sandboxes/{sandbox}/pause", {"memory": False})
    refused(400, "memory", "POST", f"/sandboxes/{sandbox}/pause", {"memory": "no"})
    check(D.status(sandbox) == "running" and D.exec(sandbox, "echo", "1") == "1", "it runs on")
    pause(sandbox, memory=True)
    refused(400, "has no disk", "POST", f"/v2/sandboxes/{sandbox}/connect", {"memory": False})
    check(D.status(sandbox) == "asleep", "it sleeps on")
    before = len(D.sandboxes())
    refused(400, "autoPauseMemory", "POST", "/v2/sandboxes",
            {"templateID": "plain", "autoPause": True, "autoPauseMemory": False})
    refused(400, "autoResume", "POST", "/v2/sandboxes", {"templateID": "plain", "autoResume": True})
    refused(400, "autoResume", "POST", "/v2/sandboxes", {"templateID": "disk", "autoResume": {"enabled": True},
                                                         "autoPause": True, "autoPauseMemory": False})
    check(len(D.sandboxes()) == before, "nothing was made")
    connect(sandbox)
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_failed_sleep():
    """nothing could be stored: the sandbox runs on, and can write to its disk"""
    sandbox = D.create("disk")
    at = D.root / "sandboxes" / sandbox
    for _ in range(2):
        (at / f"memory-{record(sandbox)['generation'] + 1}").mkdir()  # in the way of the rename
        try:
            pause(sandbox)
            raise AssertionError("a pause succeeded that could not be stored")
        except ApiError as e:
            check(e.status >= 500 or e.status == 409, f"{e}")
        check(D.status(sandbox) == "running" and len(memory_dirs(sandbox)) == 1, f"{memory_dirs(sandbox)}")
        D.exec(sandbox, "sh", "-c", "echo on >>/home/user/on; sync")
    pause(sandbox)
    connect(sandbox)
    check(D.exec(sandbox, "cat", "/home/user/on").split() == ["on"] * 2, "what it wrote in between")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_guest_cannot_write():
    """a file system that somebody has frozen already: it runs on, thawed, and sleeps the next time"""
    sandbox = D.create("disk")
    D.exec(sandbox, "sh", "-c", "mkdir -p /mnt/d; for i in /dev/vd?; do mount -t ext4 $i /mnt/d 2>/dev/null && break; "
                                "done; fsfreeze --freeze /mnt/d")
    refused(500, "freeze_disk", "POST", f"/sandboxes/{sandbox}/pause", {"memory": False})
    check(D.status(sandbox) == "running" and len(memory_dirs(sandbox)) == 1, f"{memory_dirs(sandbox)}")
    D.exec(sandbox, "sh", "-c", "umount /mnt/d; echo on >/home/user/on; sync", timeout_s=60)
    pause(sandbox)
    connect(sandbox)
    check(D.exec(sandbox, "cat", "/home/user/on") == "on", "what it wrote in between")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_auto_pause():
    """its time is up: it sleeps without its memory, and stays when that is up again"""
    sandbox = D.create("disk", autoPause=True, autoPauseMemory=False)
    boot, digest = boot_id(sandbox), write(sandbox, "/home/user/f")
    D.api("POST", f"/sandboxes/{sandbox}/timeout", {"timeout": 0})
    wait_until(lambda: D.status(sandbox) == "asleep", 30, "its time is up")
    check(info(sandbox)["diskOnly"] is True, f"{info(sandbox)}")
    connect(sandbox)
    check(boot_id(sandbox) != boot, "it was booted")
    check_file(sandbox, "/home/user/f", digest)
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_other_processes():
    """one that was booted goes on with another dormd, and another pager"""
    sandbox = D.create("disk")
    digest = write(sandbox, "/home/user/f")
    pause(sandbox)
    D.kill()
    D.start()
    check(D.status(sandbox) == "asleep" and info(sandbox)["diskOnly"] is True, "it sleeps")
    connect(sandbox)
    D.hold_pattern(sandbox, 8)
    boot = boot_id(sandbox)
    kill_and_wait(pager(D))
    wait_until(lambda: D.dorm("exec", sandbox, "--", "true", check_status=False).returncode == 0, 60, "it goes on")
    D.check_pattern(sandbox)
    D.kill()
    D.start()
    wait_until(lambda: D.dorm("exec", sandbox, "--", "true", check_status=False).returncode == 0, 60, "it goes on")
    check(boot_id(sandbox) == boot and "diskOnly" not in info(sandbox), "the same")
    pause(sandbox, memory=True)
    connect(sandbox)
    D.check_pattern(sandbox)
    check_file(sandbox, "/home/user/f", digest)
    D.api("DELETE", f"/sandboxes/{sandbox}")


def interrupted(path, body, delay_s):
    """a request to dormd, which is killed that long after it was sent; what became of it"""
    def ask():
        try:
            D.api("POST", path, body)
        except Exception:  # the connection breaks in many ways
            pass
    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(delay_s)
    D.kill()
    thread.join(20)
    D.start()
    sandbox = path.split("/")[-2]
    wait_until(lambda: D.status(sandbox) in ("running", "asleep", "failed"), 60, "settled")
    return D.status(sandbox)


def took(call, *args, **kwargs):
    """how long that takes when nobody is in the way, in seconds"""
    t0 = time.monotonic()
    call(*args, **kwargs)
    return time.monotonic() - t0


def test_kill_dormd():
    """in the middle of a pause and of a boot: it runs or sleeps, and every file is there"""
    sandbox, digests, seen, n = D.create("disk"), {}, [], 6
    pause_s, boot_s = took(pause, sandbox), took(connect, sandbox)
    for i in range(n):
        digests[f"/home/user/f{i % 4}"] = write(sandbox, f"/home/user/f{i % 4}")
        D.exec(sandbox, "sync")
        part = 1.4 * (i + 0.5) / n  # the last ones may be done
        seen.append(interrupted(f"/sandboxes/{sandbox}/pause", {"memory": False}, part * pause_s))
        if seen[-1] == "running":
            wait_until(lambda: D.dorm("exec", sandbox, "--", "true", check_status=False).returncode == 0, 60,
                       "it answers")
            D.exec(sandbox, "sh", "-c", "echo 1 >/home/user/on; sync")  # nothing is frozen
            pause(sandbox, memory=i % 2 == 0)
        seen.append(interrupted(f"/v2/sandboxes/{sandbox}/connect", {"memory": False}, part * boot_s))
        if seen[-1] == "asleep":
            connect(sandbox, memory=False)
        for name, digest in digests.items():
            check_file(sandbox, name, digest)
        check(len(memory_dirs(sandbox)) == 1 and len(vms(D)) == 1, f"{memory_dirs(sandbox)} {vms(D)}")
    check("failed" not in seen, f"{seen}")
    print(f"  killed {2 * n} times: {seen[::2].count('asleep')} of {n} pauses and {seen[1::2].count('running')} of {n} "
          f"boots were done")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def fault(text=""):
    with open(FAULTS.name, "w", encoding="ascii") as f:
        f.write(text)


STEPS = ("begin", "prepare", "pause", "disks", "commit", "record")


def test_steps_fail():
    """whichever step of the sleep fails, or dormd with it, the sandbox runs on with its files"""
    sandbox = D.create("disk")
    boot, digest = boot_id(sandbox), write(sandbox, "/home/user/f")
    for step in STEPS:
        fault(f"sleep.{step}:error")
        refused(500, "", "POST", f"/sandboxes/{sandbox}/pause", {"memory": False})
        fault(f"sleep.{step}:kill")
        done = Background(lambda: pause(sandbox))
        D.daemon.wait(60)
        done.join(20)
        fault()
        D.start()
        wait_until(lambda: D.dorm("exec", sandbox, "--", "true", check_status=False).returncode == 0, 60, step)
        D.exec(sandbox, "sh", "-c", "echo on >/home/user/on; sync", timeout_s=60)  # nothing is frozen
        check(boot_id(sandbox) == boot, f"{step}: it is the same guest")
        check_file(sandbox, "/home/user/f", digest)
    pause(sandbox)
    connect(sandbox)
    check_file(sandbox, "/home/user/f", digest)
    D.api("DELETE", f"/sandboxes/{sandbox}")
    wait_until(lambda: not vms(D), 20, "nothing is left")


def test_deleted_amid():
    """a delete does not wait for the end of the sleep, or of the boot, and leaves nothing"""
    def delete_at(sandbox, operation, step, call):
        fault(f"{operation}.{step}:hang=60")
        done = Background(call)
        wait_until(lambda: (info(sandbox).get("operation") or {}).get("step") == step, 30, f"{step} is reached")
        t0 = time.monotonic()
        D.api("DELETE", f"/sandboxes/{sandbox}")
        check(time.monotonic() - t0 < 8, f"{operation}.{step}: the delete took {time.monotonic() - t0:.1f} s")
        done.join(20)
        fault()
        check(isinstance(done.error, ApiError) and done.error.status == 409, f"{step}: {done.result} {done.error}")
        wait_until(lambda: not D.sandboxes(), 20, "it is gone")
        check_sound(D)

    for s in D.sandboxes():
        D.api("DELETE", f"/sandboxes/{s['sandboxID']}")
    for step in STEPS:
        sandbox = D.create("disk")
        delete_at(sandbox, "sleep", step, lambda s=sandbox: pause(s))
    for step in ("check", "session", "start", "answer", "record"):
        sandbox = D.create("disk")
        pause(sandbox)
        delete_at(sandbox, "wake", step, lambda s=sandbox: connect(s))


def test_boot_fails():
    """also one that has booted and could not be recorded sleeps as before; the next boot succeeds"""
    sandbox = D.create("disk")
    digest = write(sandbox, "/home/user/f")
    pause(sandbox)
    for memory in (False, True):
        for step in ("check", "session", "start", "answer", "record"):
            fault(f"wake.{step}:error")
            refused(500, "", "POST", f"/v2/sandboxes/{sandbox}/connect", {"timeout": 3600, "memory": False})
            fault()
            check(D.status(sandbox) == "asleep", f"{step}: {D.status(sandbox)}")
            check_sound(D)
        connect(sandbox, memory=False)
        check_file(sandbox, "/home/user/f", digest)
        if not memory:
            pause(sandbox, memory=True)  # and once more, with one to leave out
    D.api("DELETE", f"/sandboxes/{sandbox}")


main(globals())
