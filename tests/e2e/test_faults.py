# SPDX-License-Identifier: Apache-2.0
# timeout: 900
"""Every row of the table of fault points (src/sandbox/op-points.c, docs/lifecycle.md): at each step of
each operation the step fails, the VM dies, the pager dies, dormd dies, or a client deletes the
sandbox; then its state is what the table says, also for the next dormd, a guest that lives has its
memory and goes on counting, it can be deleted, and nothing leaks."""
import json
import os
import subprocess
import tempfile
import time

from crash import Background, check_sound, delete_all, pagers
from harness import ROOT, ApiError, Dormouse, UnixConnection, check, main, program, wait_until

FAULTS = tempfile.NamedTemporaryFile(prefix="dorm-faults.")
# Compaction, in its own time, would write into tmp/ just when that is looked at.
D = Dormouse("--compact", "off", env={"DORM_FAULT": f"@{FAULTS.name}"}).__enter__()
CODE = json.loads(subprocess.run([program("dormd"), "--fault-table"], check=True, text=True,
                                 capture_output=True).stdout)
TABLE = CODE["points"]
# Steps that a test of the machinery may leave out, to be quick: DORM_FAULT_ROWS=wake.load,sleep.end
ONLY = os.environ.get("DORM_FAULT_ROWS", "").split(",")
ERRORS = ("error", "enospc")
DELETE_S = 2.0
LOADED = 4.0  # on a machine that does eight other things, too
source = None


def fault(text=""):
    with open(FAULTS.name, "w", encoding="ascii") as f:
        f.write(text)


def test_template():
    """one sandbox with a pattern in its memory, asleep; every guest here is a fork of it"""
    global source
    D.build_template("base", 128)
    source = D.create("base")
    D.hold_pattern(source, 4)
    D.dorm("sleep", source)


def fork(target):
    done = D.api("POST", f"/sandboxes/{target}/fork", {"count": 1, "timeout": 3600})[0]
    if "error" in done:
        raise ApiError(done["error"]["code"], done["error"])
    return done["sandbox"]["sandboxID"]


OPERATIONS = {
    "create": lambda target: fork(source),
    "wake": lambda target: D.api("POST", f"/v2/sandboxes/{target}/connect", {}),
    "sleep": lambda target: D.api("POST", f"/sandboxes/{target}/pause", {}),
    "snapshot": lambda target: D.api("POST", f"/sandboxes/{target}/snapshots", {"name": "picture"}),
    "fork": fork,
    "delete": lambda target: D.api("DELETE", f"/sandboxes/{target}"),
}


def prepare(operation, target):
    """a sandbox in the state that an operation begins in, the one of the last row if it is there"""
    if operation == "create":
        return None
    states = {s["sandboxID"]: s["status"] for s in D.sandboxes()}
    if target not in states or states[target] == "failed":
        target, states = fork(source), {}
    wanted = "asleep" if operation == "wake" else "running"
    if states.get(target, "running") != wanted:
        OPERATIONS["sleep" if wanted == "asleep" else "wake"](target)
    return target


def known():
    return {s["sandboxID"]: s["status"] for s in D.sandboxes() if s["sandboxID"] != source}


def state_of(target, before):
    """of the target, or of the one sandbox that a create made"""
    now = known()
    if target is None:
        target = next(iter(set(now) - before), None)
    return target, now.get(target, "gone")


def snapshots():
    return {s["snapshotID"] for s in D.json("snapshot", "ls") if "base" not in s.get("names", [])}


def drop_extra(keep):
    """what a fork or a snapshot left besides the sandbox"""
    for s in set(known()) - {keep}:
        D.api("DELETE", f"/sandboxes/{s}")
    for s in snapshots():
        D.dorm("snapshot", "rm", s)


def works(target, where):
    """its memory is right, and it counts"""
    a = D.check_pattern(target)
    wait_until(lambda: D.check_pattern(target) > a, 10, f"{where}: it counts on")


def run(row, kind, target):
    """one row, one kind of failure; returns the sandbox for the next one"""
    operation, step, want = row["operation"], row["step"], row["error" if kind in ERRORS else kind]
    where = f"{operation}.{step}:{kind}"
    target = prepare(operation, target)
    before = set(known())
    fault(f"{operation}.{step}:{kind}")
    try:
        done = Background(lambda: OPERATIONS[operation](target))
        done.join(60)
        check(not done.is_alive(), f"{where}: the operation hangs")
    finally:
        fault()
    if kind == "kill":
        D.daemon.wait(10)
        D.start()
    wait_until(lambda: state_of(target, before)[1] == want, 15,
               f"{where}: {want}; it is {state_of(target, before)}, {done.error or 'done'}")
    target, state = state_of(target, before)
    if kind in ERRORS:
        check(isinstance(done.error, ApiError) or operation == "delete", f"{where}: {done.error}")
        check(operation == "delete" or done.error.status in (500, 507), f"{where}: {done.error}")
    if kind == "pager":
        check(done.error is None, f"{where}: {done.error}")
        wait_until(lambda: len(pagers(D)) == 1, 10, "a pager")
    if operation == "snapshot" and kind in ERRORS:
        check(not snapshots(), f"{where}: {snapshots()}")
    if state == "running":
        works(target, where)
    elif state == "failed":
        check(D.api("GET", f"/sandboxes/{target}")["failure"], f"{where}: no reason")
        D.api("DELETE", f"/sandboxes/{target}")
    drop_extra(target)
    try:
        check_sound(D)
    except AssertionError as e:
        raise AssertionError(f"{where}: {e}") from None
    return target


def rows(operation):
    found = [r for r in TABLE if r["operation"] == operation]
    return [r for r in found if ONLY == [""] or f"{operation}.{r['step']}" in ONLY]


def drive(operation):
    """all of an operation, each kind of failure in turn; then what dormd finds when it starts again"""
    t0, n, target = time.monotonic(), 0, None
    for i, row in enumerate(rows(operation)):
        for kind in ("error", "vmm", "pager", "kill"):
            if row[kind] != "-":
                target = run(row, ERRORS[i % 2] if kind == "error" else kind, target)
                n += 1
    before = known()
    D.kill()
    D.start()
    check(known() == before, f"after a restart {known()}, before {before}")
    delete_all(D, {source})
    print(f"{operation}: {n} failures in {time.monotonic() - t0:.1f} s", flush=True)


def test_create():
    drive("create")


def test_wake():
    drive("wake")


def test_sleep():
    drive("sleep")


def test_snapshot():
    drive("snapshot")


def test_fork():
    drive("fork")


def test_delete():
    drive("delete")


def doing(sandbox, operation, step):
    found = D.api("GET", f"/sandboxes/{sandbox}").get("operation") or {}
    return (found.get("name"), found.get("step")) == (operation, step)


def test_deleted_amid():
    """a delete ends what is under way at once, wherever it is, and leaves nothing"""
    slowest, t0, n = 0, time.monotonic(), 0
    for row in TABLE:
        operation, step = row["operation"], row["step"]
        if operation in ("delete", "fork") or (ONLY != [""] and f"{operation}.{step}" not in ONLY):
            continue
        where = f"{operation}.{step}"
        target = prepare(operation, None)
        homes = {p.name for p in (D.root / "sandboxes").iterdir()}
        fault(f"{where}:hang=60")
        done = Background(lambda o=operation, t=target: OPERATIONS[o](t))
        if target is None:  # nobody was told of it; but whoever guesses its name may
            made = wait_until(lambda h=homes: {p.name for p in (D.root / "sandboxes").iterdir()} - h,
                              20, f"{where}: a directory")
            target = made.pop()
        wait_until(lambda t=target, o=operation, s=step: doing(t, o, s), 20, f"{where} is reached")
        t = time.monotonic()
        D.api("DELETE", f"/sandboxes/{target}")
        took = time.monotonic() - t
        slowest = max(slowest, took)
        check(took < DELETE_S * LOADED, f"{where}: the delete took {took:.1f} s")
        done.join(20)
        fault()
        check(not done.is_alive(), f"{where}: the operation goes on")
        if step != "reply":
            check(isinstance(done.error, ApiError) or row["error"] == "-",
                  f"{where}: {done.result} {done.error}")
        wait_until(lambda: not known(), 10, f"{where}: it is gone")
        drop_extra(None)
        check_sound(D)
        n += 1
    print(f"{n} deletes, the slowest took {slowest * 1000:.0f} ms "
          f"({time.monotonic() - t0:.1f} s in all)", flush=True)


ASK = {
    "look": lambda s: ("GET", f"/sandboxes/{s}", None),
    "sleep": lambda s: ("POST", f"/sandboxes/{s}/pause", {}),
    "wake": lambda s: ("POST", f"/v2/sandboxes/{s}/connect", {}),
    "fork": lambda s: ("POST", f"/sandboxes/{s}/fork", {}),
    "snapshot": lambda s: ("POST", f"/sandboxes/{s}/snapshots", {}),
    "network": lambda s: ("PUT", f"/sandboxes/{s}/network", {}),
    "timeout": lambda s: ("POST", f"/sandboxes/{s}/timeout", {"timeout": 600}),
    "delete": lambda s: ("DELETE", f"/sandboxes/{s}", None),
}


def status_of(method, path, body):
    """the status of one request"""
    connection = UnixConnection(D.socket, 60)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None,
                           {"Content-Type": "application/json"} if body is not None else {})
        return str(connection.getresponse().status)
    finally:
        connection.close()


def test_answers():
    """what each operation answers in each state that lasts, and in "pausing", which is held"""
    for state in ("running", "asleep", "failed"):
        for row in CODE["answers"]:
            if row["operation"] not in ASK:
                continue
            target = fork(source)
            if state == "asleep":
                OPERATIONS["sleep"](target)
            elif state == "failed":
                os.kill(D.vm_pid(target), 9)
                wait_until(lambda t=target: D.status(t) == "failed", 10, "it is failed")
            got = status_of(*ASK[row["operation"]](target))
            check(got == row[state], f"{row['operation']} of one that is {state}: {got}, "
                                     f"the table says {row[state]}")
            drop_extra(None)
    for row in CODE["answers"]:
        if row["operation"] not in ASK or row["pausing"] == "waits":
            continue
        target = fork(source)
        fault("sleep.memory:hang=60")
        done = Background(lambda t=target: OPERATIONS["sleep"](t))
        wait_until(lambda t=target: doing(t, "sleep", "memory"), 20, "it is pausing")
        got = status_of(*ASK[row["operation"]](target))
        check(got == row["pausing"], f"{row['operation']} of one that is pausing: {got}")
        fault()
        D.api("DELETE", f"/sandboxes/{target}") if row["operation"] != "delete" else None
        done.join(20)
    check_sound(D)


def test_page():
    """docs/lifecycle.md says what the code says"""
    done = subprocess.run([ROOT / "tools/lifecycle-table", "--check", program("dormd"),
                           ROOT / "docs/lifecycle.md"], text=True, capture_output=True, check=False)
    check(done.returncode == 0, done.stdout + done.stderr)


def test_nothing_is_left():
    fault()
    delete_all(D)
    check_sound(D)
    D.__exit__(None)


main(globals())
