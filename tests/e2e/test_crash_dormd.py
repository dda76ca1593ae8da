# SPDX-License-Identifier: Apache-2.0
# timeout: 400
"""kill -9 of dormd at any moment: the next one adopts what runs, and nothing leaks."""
import os
import random
import signal
import subprocess
import time

from crash import (Background, check_sound, delete_all, failure, is_alive, kill_and_wait, pager,
                   record)
from harness import Dormouse, check, main, program

SEED = int(os.environ.get("DORM_SEED", "20"))
ROUNDS = int(os.environ.get("DORM_CRASH_ROUNDS", "21"))
D = Dormouse().__enter__()


def hash_of(sandbox):
    """the pattern's: fails when a page is wrong"""
    D.check_pattern(sandbox)
    return D.exec(sandbox, "/tmp/pattern", "check").split("hash=")[1].split()[0]


def mutate(sandbox, seed, pages=300):
    return D.exec(sandbox, "/tmp/pattern", "mutate", str(seed), str(pages)).split("hash=")[1].split()[0]


def restart(pause_s=0.0):
    D.kill()
    time.sleep(pause_s)
    D.start()


def test_template():
    D.build_template("base", 128)


def test_next_dormd_adopts():
    awake, asleep = D.create("base"), D.create("base")
    D.hold_pattern(awake, 24)
    D.exec(asleep, "sh", "-c", "echo dreams > /tmp/file")
    D.dorm("sleep", asleep)
    changed = mutate(awake, 1)
    before, pid = D.check_pattern(awake), D.vm_pid(awake)
    restart(pause_s=3)
    check(check_sound(D) == {awake: "running", asleep: "asleep"}, f"{D.sandboxes()}")
    check(D.vm_pid(awake) == pid and is_alive(pid), "its VM is the same process")
    after = D.check_pattern(awake)
    check(after >= before + 20, f"it counted while no dormd ran: {before} to {after}")
    check(hash_of(awake) == changed, "its memory")
    # What was written before the adoption and after it is in the next snapshots.
    changed = mutate(awake, 2)
    forks = [m["sandbox"]["sandboxID"]
             for m in D.api("POST", f"/sandboxes/{awake}/fork", {"count": 2})]
    for s in forks:
        check(hash_of(s) == changed, f"fork {s} after an adoption")
    D.dorm("sleep", awake)
    D.dorm("wake", awake)
    check(hash_of(awake) == changed, "slept and woken after an adoption")
    D.dorm("wake", asleep)
    check(D.exec(asleep, "cat", "/tmp/file") == "dreams", "the sleeper")
    check_sound(D)
    delete_all(D)


def test_killed_again_and_again():
    """an adopted sandbox is as good as any other: also dirty pages of several reigns are saved"""
    sandbox = D.create("base")
    D.hold_pattern(sandbox, 8)
    for seed in range(3):
        restart()
        changed = mutate(sandbox, seed, 100)
    D.dorm("sleep", sandbox)
    restart()
    D.dorm("wake", sandbox)
    check(hash_of(sandbox) == changed, "everything it wrote")
    delete_all(D)


def build_another():
    made = D.api("POST", "/v3/templates", {"name": "another", "memoryMB": 128})
    path = f"builds/{made['buildID']}"
    D.api("POST", f"/v2/templates/{made['templateID']}/{path}", {})
    while True:
        status = D.api("GET", f"/templates/{made['templateID']}/{path}/status")["status"]
        if status != "building":
            return status


# What is interrupted: (longest delay in s, what to do; returns the sandboxes that a client was told of)
OPERATIONS = {
    "create": (0.25, lambda s: [D.create("base")]),
    "sleep": (0.25, lambda s: D.api("POST", f"/sandboxes/{s}/pause", {}) or []),
    "wake": (0.25, lambda s: D.api("POST", f"/v2/sandboxes/{s}/connect", {}) and []),
    "fork": (0.6, lambda s: [m["sandbox"]["sandboxID"] for m in
                             D.api("POST", f"/sandboxes/{s}/fork", {"count": 4})]),
    "delete": (0.06, lambda s: D.api("DELETE", f"/sandboxes/{s}") or []),
    "snapshot": (0.2, lambda s: D.api("POST", f"/sandboxes/{s}/snapshots", {}) and []),
    "build": (4.0, lambda s: build_another() and []),
}


def interrupt(name, delay_s, keep):
    """one operation, cut short by kill -9; then all must be well"""
    target = D.create("base") if name == "delete" else keep
    if name == "wake":
        D.dorm("sleep", keep)
    operation = Background(lambda: OPERATIONS[name][1](target))
    time.sleep(delay_s)
    D.kill()
    operation.join(30)
    check(not operation.is_alive(), "the client hears that dormd is gone")
    D.start()
    where = f"{name} cut short after {delay_s * 1000:.0f} ms"
    try:
        status = check_sound(D)
    except AssertionError as e:
        raise AssertionError(f"{where}: {e}") from None
    told = {keep, *(operation.result or [])}
    check(told <= set(status), f"{where}: {told} were known, {status} are there")
    check("failed" not in status.values(), f"{where}: {D.sandboxes()}")
    if name == "delete" and operation.error is None:
        check(target not in status, f"{where}: it is still there")
    for s, state in status.items():
        if state == "asleep":
            D.dorm("wake", s)
        check(D.exec(s, "hostname") == s, f"{where}: {s} works")
        if name == "fork":
            D.check_pattern(s)
    D.check_pattern(keep)
    delete_all(D, {keep})
    for snapshot in D.json("snapshot", "ls"):
        if "base" not in snapshot.get("names", []):
            D.dorm("snapshot", "rm", snapshot["snapshotID"])
    return "done" if operation.error is None else "cut"


def test_killed_at_any_moment():
    rng = random.Random(SEED)
    keep = D.create("base")
    D.hold_pattern(keep, 12)
    for i in range(ROUNDS):
        name = list(OPERATIONS)[i % len(OPERATIONS)]
        delay = rng.uniform(0, OPERATIONS[name][0])
        t0 = time.monotonic()
        how = interrupt(name, delay, keep)
        print(f"seed {SEED}: {name} after {delay * 1000:.0f} ms: {how} "
              f"({time.monotonic() - t0:.1f} s)", flush=True)
    check(hash_of(keep), "its memory")
    delete_all(D)
    check_sound(D)


def test_damaged_record():
    """a record that cannot be read costs one sandbox, which says so, and nothing that it stored"""
    sandbox, other = D.create("base"), D.create("base")
    D.dorm("sleep", sandbox)
    home = D.root / "sandboxes" / sandbox
    good = (home / "sandbox.json").read_bytes()
    D.kill()
    (home / "sandbox.json").write_bytes(good[:50])
    D.start()
    check("sandbox.json" in failure(D, sandbox), f"{failure(D, sandbox)}")
    check(D.status(other) == "running", "the other one")
    D.kill()
    (home / "sandbox.json").write_bytes(good)
    D.start()
    D.dorm("wake", sandbox)
    check(D.exec(sandbox, "hostname") == sandbox, "repaired by hand")
    delete_all(D)
    check_sound(D)


def test_guest_that_does_not_answer_survives():
    """its VM runs, its agent is too busy to say so: no reason to end it"""
    sandbox = D.create("base")
    pid = D.vm_pid(sandbox)
    D.dorm("exec", "-u", "root", "--timeout", "2", sandbox, "--", "sh", "-c",
           "echo 0 > /proc/sys/kernel/panic; echo 1 > /proc/sys/kernel/sysrq; "
           "echo c > /proc/sysrq-trigger", check_status=False)
    restart()
    check(D.status(sandbox) == "running" and D.vm_pid(sandbox) == pid and is_alive(pid),
          f"{record(D, sandbox)}")
    D.api("DELETE", f"/sandboxes/{sandbox}")
    check_sound(D)


def test_pager_dies_while_no_dormd_runs():
    awake, forgotten, asleep = [D.create("base") for _ in range(3)]
    D.dorm("sleep", asleep)
    pid, lost, served_by = D.vm_pid(awake), D.vm_pid(forgotten), pager(D)
    D.kill()
    kill_and_wait(served_by)
    check(is_alive(pid), "nobody has ended the VM yet")
    for path in D.run.rglob(f"{forgotten}.session"):
        path.unlink()  # now nobody can know what its memory is
    D.start()
    check(D.exec(awake, "hostname") == awake and D.vm_pid(awake) == pid, "the same VM goes on")
    check("pager" in failure(D, forgotten), f"{failure(D, forgotten)}")
    check(not is_alive(lost), "what cannot be taken back is gone")
    D.dorm("wake", asleep)
    check(D.exec(asleep, "hostname") == asleep, "the sleeper")
    check_sound(D)
    delete_all(D)


def test_vm_dies_while_no_dormd_runs():
    a, b = D.create("base"), D.create("base")
    D.kill()
    kill_and_wait(record(D, a)["vm"]["pid"])
    D.start()
    check("VM" in failure(D, a), f"{failure(D, a)}")
    check(D.exec(b, "hostname") == b, "the other one")
    check_sound(D)
    delete_all(D)


def test_sigterm():
    """also with a command under way: it ends at once, the sandboxes do not"""
    sandbox = D.create("base")
    pid = D.vm_pid(sandbox)
    client = subprocess.Popen([program("dorm"), "exec", sandbox, "--", "sleep", "1000"], env=D.env,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    t0 = time.monotonic()
    D.daemon.send_signal(signal.SIGTERM)
    check(D.daemon.wait(20) == 0, f"status {D.daemon.returncode}")
    check(time.monotonic() - t0 < 5, f"it took {time.monotonic() - t0:.1f} s")
    check(client.wait(10) != 0, "the command's client is told")
    D.start()
    check(D.status(sandbox) == "running" and D.vm_pid(sandbox) == pid and is_alive(pid), "adopted")
    check_sound(D)
    delete_all(D)


def test_second_dormd_refuses():
    done = subprocess.run([program("dormd"), "--root", D.root, "--run-dir", D.run], text=True,
                          env=D.env, capture_output=True, timeout=20, check=False)
    check(done.returncode == 1, f"{done}")
    check("owns this store" in done.stderr and str(D.daemon.pid) in done.stderr, f"{done.stderr}")
    check(D.sandboxes() == [], "the first one still answers")


def test_nothing_is_left():
    check_sound(D)
    D.__exit__(None)


main(globals())
