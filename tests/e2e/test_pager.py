# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""What dormd makes of the pager: modes, loading in the background, working sets, figures; and its
death and upgrade, after which every sandbox must go on. What the installed dorm-pager cannot do
yet is skipped, with the reason."""
import os
import signal
import subprocess
import time

from crash import Background, check_sound, delete_all, kill_and_wait, pager, pagers, read
from harness import ApiError, Dormouse, UnixConnection, check, main, program, skip, wait_until

D = Dormouse().__enter__()
HELP = subprocess.run([program("dorm-pager"), "--help"], capture_output=True, text=True).stdout


def status():
    return D.api("GET", "/pager")


def memory(sandbox):
    return D.api("GET", f"/sandboxes/{sandbox}").get("memory")


def needs_take_back():
    if not status()["takesBack"]:
        skip("this dorm-pager cannot take sessions back")


def create(**members):
    return D.api("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 3600, **members})


def refused(method, path, body):
    try:
        D.api(method, path, body)
    except ApiError as e:
        return e
    raise AssertionError(f"{method} {path} {body} succeeded")


def works(sandbox):
    check(D.exec(sandbox, "hostname") == sandbox, f"{sandbox} works")


def test_template():
    D.build_template("base", 128)


def test_status():
    sandbox = D.create("base")
    s = status()
    check(s["pid"] == pager(D), f"{s['pid']}")
    check(sandbox in [x["session"] for x in s["stats"]["sessions"]], f"{s['stats']}")
    check(s["mode"] == "auto", f"{s['mode']}")
    text = D.dorm("pager").stdout
    check(sandbox in text and f"pid {s['pid']}" in text, text)
    m = memory(sandbox)
    check(m["mode"] in ("shared", "overlay", "eager"), f"{m}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_metrics():
    sandbox = D.create("base")
    connection = UnixConnection(D.socket, 30)
    connection.request("GET", "/metrics")
    out = connection.getresponse().read().decode()
    connection.close()
    lines = out.splitlines()
    check('dormouse_sandboxes{state="running"} 1' in lines, out)
    check(all(line.startswith("#") or len(line.split()) >= 2 for line in lines if line), out)
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_bad_words():
    for body, word in (({"wait": "forever"}, "wait"), ({"pagerMode": "best"}, "pagerMode"),
                       ({"pagerMode": "copy"}, "own memory")):
        e = refused("POST", "/v2/sandboxes", {"templateID": "base", **body})
        check(e.status == 400 and word in e.body["message"], f"{body}: {e.body}")
    check(not D.sandboxes(), "and nothing was made")


def test_modes():
    """what is asked for is done or refused, never something else"""
    for mode in ("shared", "eager", "overlay"):
        try:
            sandbox = create(pagerMode=mode)["sandboxID"]
        except ApiError as e:
            check(e.status in (409, 501) and mode in e.body["message"], f"{mode}: {e.body}")
            continue
        got = memory(sandbox)
        check(got["mode"] == mode, f"{mode}: {got}")
        works(sandbox)
        D.api("DELETE", f"/sandboxes/{sandbox}")
    delete_all(D)
    check_sound(D)


def test_wait():
    sandbox = create(wait="full")
    if not (sandbox.get("memory") or {}).get("load"):
        D.api("DELETE", f"/sandboxes/{sandbox['sandboxID']}")
        skip("this dorm-pager loads nothing in the background")
    got = memory(sandbox["sandboxID"])
    check(got["load"]["state"] == "done" or got["full"], f"{got}")
    works(sandbox["sandboxID"])
    D.dorm("sleep", sandbox["sandboxID"])
    D.dorm("wake", "--wait", "full", sandbox["sandboxID"])
    got = memory(sandbox["sandboxID"])
    check(got["load"]["state"] == "done" or got["full"], f"after a wake: {got}")
    works(sandbox["sandboxID"])
    delete_all(D)


def lives_on(sandbox):
    """it works without the pager that it had, and sleeps and wakes like any other"""
    time.sleep(0.5)
    check(D.status(sandbox) == "running", f"{D.status(sandbox)}")
    works(sandbox)
    D.check_pattern(sandbox)
    D.dorm("sleep", sandbox)
    D.dorm("wake", sandbox)
    works(sandbox)
    D.check_pattern(sandbox)


def test_full_survives_the_pager():
    """one whose memory is complete needs no pager, nor a pager that takes it back"""
    sandbox = create(wait="full")["sandboxID"]
    got = memory(sandbox)
    if not got or not got["full"]:
        D.api("DELETE", f"/sandboxes/{sandbox}")
        skip("this dorm-pager leaves no session alone")
    D.hold_pattern(sandbox, 8)
    kill_and_wait(pager(D))
    wait_until(lambda: len(pagers(D)) == 1, 10, "a new pager")
    lives_on(sandbox)
    delete_all(D)
    check_sound(D)


def test_eager_survives_the_pager():
    try:
        sandbox = create(pagerMode="eager")["sandboxID"]
    except ApiError as e:
        skip(f"this dorm-pager has no eager mode: {e}")
    D.hold_pattern(sandbox, 8)
    kill_and_wait(pager(D))
    wait_until(lambda: len(pagers(D)) == 1, 10, "a new pager")
    lives_on(sandbox)
    delete_all(D)
    check_sound(D)


def started_at(pid):
    """clock ticks after boot"""
    return int(read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19])


def test_new_pager_at_once():
    """from the death of one to the start of the next"""
    took = []
    for _ in range(5):
        old, t0 = pager(D), time.monotonic()
        os.kill(old, signal.SIGKILL)
        wait_until(lambda o=old: [p for p in pagers(D) if p != o], 5, "a new pager")
        took.append(time.monotonic() - t0)
        wait_until(lambda: len(pagers(D)) == 1, 5, "only that one")
    print(f"        a new pager after {', '.join(f'{t * 1e3:.0f}' for t in took)} ms "
          "(polled every 20 ms)")
    check(min(took) < 0.2, f"{took}")


def test_killed_and_taken_back():
    needs_take_back()
    sandboxes = [D.create("base") for _ in range(3)]
    for s in sandboxes:
        D.hold_pattern(s, 8)
    processes = [D.vm_pid(s) for s in sandboxes]
    for i in range(5):
        kill_and_wait(pager(D))
        wait_until(lambda: len(pagers(D)) == 1, 10, "a new pager")
        for s in sandboxes:
            works(s)
            D.check_pattern(s)
        check([D.vm_pid(s) for s in sandboxes] == processes, f"round {i}: the same VMs")
    D.dorm("sleep", sandboxes[0])
    D.dorm("wake", sandboxes[0])
    D.check_pattern(sandboxes[0])
    delete_all(D)
    check_sound(D)


def test_killed_while_no_dormd_runs():
    needs_take_back()
    sandbox = D.create("base")
    D.hold_pattern(sandbox, 8)
    process, old = D.vm_pid(sandbox), pager(D)
    os.kill(D.daemon.pid, signal.SIGKILL)
    D.daemon.wait()
    kill_and_wait(old)
    D.start()
    check(D.status(sandbox) == "running" and D.vm_pid(sandbox) == process, D.status(sandbox))
    D.check_pattern(sandbox)
    delete_all(D)
    check_sound(D)


def test_killed_under_operations():
    """whatever is under way ends in a defined state, and in time"""
    needs_take_back()
    for delay_s in (0.0, 0.02, 0.05, 0.1):
        a, b = D.create("base"), D.create("base")
        D.dorm("sleep", b)
        work = [Background(lambda s=a: D.dorm("sleep", s)),
                Background(lambda s=b: D.dorm("wake", s)),
                Background(lambda: D.create("base"))]
        time.sleep(delay_s)
        for pid in pagers(D):
            os.kill(pid, signal.SIGKILL)
        for w in work:
            w.join(60)
            check(not w.is_alive(), "an operation hangs")
        for s, states in ((a, ("asleep", "running")), (b, ("asleep", "running"))):
            wait_until(lambda x=s, y=states: D.status(x) in y, 30, f"{s} is in one of {states}")
            if D.status(s) == "asleep":
                D.dorm("wake", s)
            works(s)
        delete_all(D)
        check_sound(D)


def test_upgrade():
    if "--takeover" not in HELP:
        e = refused("POST", "/pager/upgrade", {})
        check(e.status == 501, f"{e.body}")
        works(D.create("base"))
        delete_all(D)
        skip("this dorm-pager has no --takeover (its refusal is right)")
    sandbox = D.create("base")
    D.hold_pattern(sandbox, 8)
    process, old = D.vm_pid(sandbox), pager(D)
    print("        " + D.dorm("pager", "upgrade").stdout.strip())
    check(pager(D) != old, "another pager")
    check(D.vm_pid(sandbox) == process, "the same VM")
    D.check_pattern(sandbox)
    delete_all(D)
    check_sound(D)


def test_working_set():
    listed = [t for t in D.api("GET", "/templates") if "base" in t["names"]][0]
    if not listed["workingSetBytes"]:
        skip("this dorm-pager records no working set")
    check(0 < listed["workingSetBytes"] < (128 << 20), f"{listed}")
    D.dorm("template", "build", "--base", "busybox", "--memory", "128M", "--no-working-set", "plain")
    listed = [t for t in D.api("GET", "/templates") if "plain" in t["names"]][0]
    check(listed["workingSetBytes"] == 0, f"{listed}")
    D.dorm("template", "rm", "plain")
    check_sound(D)


def test_warm():
    r = D.dorm("template", "warm", "--full", "base", check_status=False)
    if r.returncode and "cannot load an image ahead" in r.stderr:
        skip("this dorm-pager cannot load an image ahead")
    check(r.returncode == 0 and "is warm" in r.stdout, f"{r}")
    images = status()["stats"]["images"]
    check(any(i["resident_pages"] > 0 for i in images), f"{images}")
    sandbox = D.create("base")
    works(sandbox)
    delete_all(D)


def test_no_userfaultfd():
    if "--no-userfaultfd" not in HELP:
        skip("this dorm-pager has no --no-userfaultfd")
    with Dormouse("--no-userfaultfd") as d:
        d.build_template("base", 128)
        sandbox = d.create("base")
        got = d.api("GET", f"/sandboxes/{sandbox}")["memory"]
        check(got["mode"] == "eager", f"{got}")
        check(d.exec(sandbox, "hostname") == sandbox, "works")


def test_nothing_is_left():
    delete_all(D)
    check_sound(D)
    D.__exit__(None)


main(globals())
