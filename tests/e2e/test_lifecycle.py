# SPDX-License-Identifier: Apache-2.0
# timeout: 400
"""The life of sandboxes through the public API and the command line, on real guests."""
import json
import re
import subprocess
import time

from harness import ApiError, Dormouse, check, main, program

D = Dormouse().__enter__()


def expect_error(status, word, method, path, body=None):
    try:
        D.api(method, path, body)
    except ApiError as e:
        check(e.status == status and e.body.get("code") == status,
              f"{method} {path}: status {e.status}, code {e.body.get('code')}, wanted {status}")
        check(word in e.body["message"], f"{method} {path}: no {word!r} in {e.body['message']!r}")
        return
    raise AssertionError(f"{method} {path} succeeded")


def test_template():
    lines = D.build_template("base", 256, startCmd="sleep 1000 & echo started; wait",
                             readyCmd="grep -q started /tmp/start-command.log")
    check(any(t.startswith("booted in") for t in lines), f"no boot in {lines}")
    listed = D.json("template", "ls")
    check([t["names"] for t in listed] == [["base"]], f"{listed}")
    check(listed[0]["memoryMB"] == 256 and listed[0]["storedBytes"] > 1 << 20, f"{listed}")


def test_exec():
    sandbox = D.create("base", envVars={"COLOUR": "blue"}, metadata={"owner": "me"})
    check(D.exec(sandbox, "hostname") == sandbox, "its name")
    check(D.exec(sandbox, "sh", "-c", "echo $COLOUR $E2B_SANDBOX_ID") == f"blue {sandbox}", "its env")
    done = D.dorm("exec", sandbox, "--", "sh", "-c", "id -un; echo oops >&2; exit 7",
                  check_status=False)
    check((done.returncode, done.stdout, done.stderr) == (7, "user\n", "oops\n"), f"{done}")
    done = D.dorm("exec", sandbox, "--", "no-such-program", check_status=False)
    check(done.returncode in (126, 127), f"{done}")
    check(D.exec(sandbox, "sh", "-c", "wc -c", stdin="x" * 300000) == "300000", "standard input")
    big = D.exec(sandbox, "sh", "-c", "seq 200000 | md5sum; seq 200000")
    check(big.splitlines()[-1] == "200000" and len(big.splitlines()) == 200001, "a lot of output")
    D.api("DELETE", f"/sandboxes/{sandbox}")
    expect_error(404, "no sandbox", "GET", f"/sandboxes/{sandbox}")


def test_workload_goes_on():
    sandbox = D.create("base")
    check("sleep 1000" in D.exec(sandbox, "ps"), "the start command runs in every sandbox")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_list_and_filter():
    a, b = D.create("base", metadata={"k": "v w"}), D.create("base")
    ids = [s["sandboxID"] for s in D.sandboxes()]
    check(ids == [b, a], f"newest first: {ids}")
    found = D.api("GET", "/v2/sandboxes?metadata=k%3Dv%252520w")
    check([s["sandboxID"] for s in found] == [a], f"by metadata: {found}")
    D.api("POST", f"/sandboxes/{a}/pause", {})
    states = {s["sandboxID"]: (s["state"], s["status"]) for s in D.sandboxes()}
    check(states == {a: ("paused", "asleep"), b: ("running", "running")}, f"{states}")
    check([s["sandboxID"] for s in D.api("GET", "/v2/sandboxes?state=paused")] == [a], "by state")
    for s in (a, b):
        D.api("DELETE", f"/sandboxes/{s}")
    check(D.sandboxes() == [], "all gone")


def test_sleep_and_wake():
    sandbox = D.create("base")
    D.hold_pattern(sandbox, 64)
    before = D.check_pattern(sandbox)
    D.exec(sandbox, "sh", "-c", "echo kept > /home/user/file")
    pid = D.vm_pid(sandbox)
    D.dorm("sleep", sandbox)
    check(D.status(sandbox) == "asleep", "asleep")
    try:
        open(f"/proc/{pid}/stat").close()
        raise AssertionError("its VM is still there")
    except FileNotFoundError:
        pass
    expect_error(409, "asleep", "POST", f"/sandboxes/{sandbox}/pause", {})
    time.sleep(2)
    woken = D.json("wake", sandbox)
    after = D.check_pattern(sandbox)
    check(before <= after < before + 15, f"it stood still while asleep: {before} to {after}")
    check(D.exec(sandbox, "cat", "/home/user/file") == "kept", "its files")
    guest = float(D.exec(sandbox, "date", "+%s"))
    check(abs(guest - time.time()) < 3, f"its clock is {guest - time.time():.1f} s off")
    check(json.dumps(woken).count("totalMs"), f"the time of a wake is told: {woken}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_sleep_under_a_command():
    """its stream ends, with a message that says why; the command goes on after the wake"""
    sandbox = D.create("base")
    command = subprocess.Popen([program("dorm"), "exec", sandbox, "--", "sh", "-c",
                                "echo begin; sleep 2; echo end > /tmp/end"], env=D.env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    check(command.stdout.readline() == "begin\n", "it began")
    D.dorm("sleep", sandbox)
    _, errors = command.communicate(timeout=20)
    check(command.returncode == 125 and "put to sleep" in errors, f"{command.returncode} {errors}")
    D.dorm("wake", sandbox)
    end = D.exec(sandbox, "sh", "-c", "until cat /tmp/end 2>/dev/null; do sleep 0.2; done")
    check(end == "end", f"it went on: {end}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_fork():
    source = D.create("base")
    D.hold_pattern(source, 32)
    made = D.api("POST", f"/sandboxes/{source}/fork", {"count": 4, "timeout": 600})
    forks = [m["sandbox"]["sandboxID"] for m in made]
    check(len(set(forks)) == 4, f"{made}")
    check(D.status(source) == "running", "the source goes on")
    randoms = [D.exec(f, "sh", "-c", "head -c 16 /dev/urandom | md5sum") for f in forks]
    uuids = [D.exec(f, "cat", "/proc/sys/kernel/random/uuid") for f in forks]
    check(len(set(randoms)) == 4 and len(set(uuids)) == 4, f"forks share secrets: {randoms} {uuids}")
    hashes = []
    for i, f in enumerate(forks):
        check(D.exec(f, "hostname") == f, "a fork's own name")
        hashes.append(re.search("hash=[0-9a-f]+", D.exec(f, "/tmp/pattern", "mutate", str(i + 1),
                                                       "300")).group())
    check(len(set(hashes)) == 4, "each changes on its own")
    D.api("DELETE", f"/sandboxes/{source}")
    for f, h in zip(forks, hashes):
        text = D.exec(f, "/tmp/pattern", "check")
        check(" bad=0 " in text and h in text, f"{f}: {text}, wanted {h}")
        D.api("DELETE", f"/sandboxes/{f}")


def test_fork_of_a_sleeper():
    source = D.create("base")
    D.exec(source, "sh", "-c", "echo 42 > /tmp/answer")
    D.dorm("sleep", source)
    fork = D.api("POST", f"/sandboxes/{source}/fork", {})[0]["sandbox"]["sandboxID"]
    check(D.status(source) == "asleep", "it sleeps on")
    D.api("DELETE", f"/sandboxes/{source}")
    check(D.exec(fork, "cat", "/tmp/answer") == "42", "its copy remembers")
    D.api("DELETE", f"/sandboxes/{fork}")


def test_second_fork_takes_no_userfaults():
    """what one has brought into memory, the next ones find there"""
    sandbox = D.create("base")
    D.hold_pattern(sandbox, 64)
    snapshot = D.api("POST", f"/sandboxes/{sandbox}/snapshots", {})["snapshotID"]
    D.api("DELETE", f"/sandboxes/{sandbox}")
    faults = []
    for _ in range(3):
        fork = D.create(snapshot)
        D.check_pattern(fork)
        memory = D.api("GET", f"/sandboxes/{fork}/memory")
        faults.append(memory["pager"])
        check(memory["ownBytes"] < 12 << 20, f"a fork owns only what it wrote: {memory}")
        check(memory["sharedBytes"] > 64 << 20, f"and shares the rest: {memory}")
    check(faults[0]["faults_stored"] > 100, f"the first one loads: {faults[0]}")
    for f in faults[1:]:
        # Same guest, same work: all it needs is resident. A timer may lead one of them down a path
        # that no earlier one took, so a handful of frames may be new; none may be served twice.
        # (A fault for what is there can only be one that was raised while its frame was loading, or
        # one for a page that is stored once with others: it is copied from the first of them.)
        check(f["faults_resident"] <= f["faults_stored"] + min(16, f["pages_inserted"]),
              f"userfaults for resident memory: {f}")
        check(f["faults_stored"] <= 16, f"userfaults although the first one brought it: {f}")
    image = faults[0]["image_id"]
    check(all(f["image_id"] == image for f in faults), "they share one image")
    for s in D.sandboxes():
        D.api("DELETE", f"/sandboxes/{s['sandboxID']}")
    D.dorm("snapshot", "rm", snapshot)


def test_idle_sleep_is_small_and_independent():
    """a fork that slept five idle seconds stores little, and restores when all else is deleted"""
    first = D.create("base")
    D.hold_pattern(first, 64)
    snapshot = D.api("POST", f"/sandboxes/{first}/snapshots", {})["snapshotID"]
    fork = D.create(snapshot)
    D.dorm("sleep", fork)
    D.dorm("wake", fork)
    time.sleep(5)
    saved = D.api("POST", f"/sandboxes/{fork}/pause?details=1", {})
    check(saved["bytesStored"] < 4 << 20, f"an idle fork stored {saved['bytesStored']} bytes")
    D.api("DELETE", f"/sandboxes/{first}")
    D.api("DELETE", f"/templates/{snapshot}")
    keep = D.json("template", "ls")[0]["templateID"]
    moved = D.root / "snapshots" / keep
    hidden = D.root / "hidden"
    moved.rename(hidden)  # as good as deleted: nothing can open it
    try:
        D.dorm("wake", fork)
        D.check_pattern(fork)
    finally:
        hidden.rename(moved)
    D.api("DELETE", f"/sandboxes/{fork}")


def test_snapshot_with_a_name_is_a_template():
    sandbox = D.create("base")
    D.exec(sandbox, "sh", "-c", "echo v1 > /tmp/version")
    made = D.json("snapshot", "create", sandbox, "--name", "mine")
    check(made["names"] == ["mine"], f"{made}")
    copy = D.create("mine")
    check(D.exec(copy, "cat", "/tmp/version") == "v1", "made from the snapshot")
    shown = D.json("snapshot", "inspect", made["snapshotID"])
    check(len(shown["layers"]) == 2 and shown["prepared"], f"{shown}")
    D.dorm("snapshot", "verify", "mine")
    D.dorm("template", "rm", "mine")
    expect_error(404, "mine", "POST", "/v2/sandboxes", {"templateID": "mine"})
    check(D.exec(copy, "cat", "/tmp/version") == "v1", "it does not mind")
    for s in (sandbox, copy):
        D.api("DELETE", f"/sandboxes/{s}")


def test_time_is_up():
    short, pausing = D.create("base", timeout=3), D.create("base", timeout=3, autoPause=True)
    D.api("POST", f"/sandboxes/{short}/timeout", {"timeout": 1})
    end = time.monotonic() + 20
    while time.monotonic() < end and (len(D.sandboxes()) > 1 or D.status(pausing) != "asleep"):
        time.sleep(0.2)
    check([(s["sandboxID"], s["status"]) for s in D.sandboxes()] == [(pausing, "asleep")],
          f"{D.sandboxes()}")
    D.dorm("wake", pausing)
    D.api("DELETE", f"/sandboxes/{pausing}")


def test_nothing_is_left():
    check(list((D.root / "sandboxes").iterdir()) == [], "sandboxes/")
    check(list((D.root / "tmp").iterdir()) == [], "tmp/")
    D.__exit__(None)


main(globals())
