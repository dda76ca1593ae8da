# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""VMs that are kept ready: a create takes one, each goes to one client, none is of an old template or
of a dead process, and none is left when nobody wants it any more."""
import os
import re
import shutil
import signal

from crash import Background, check_sound, delete_all, kill_and_wait, pager, vms
from harness import ApiError, Dormouse, UnixConnection, check, main, skip, wait_until

D = Dormouse("--warm-vms", "2").__enter__()


def metric(name):
    connection = UnixConnection(D.socket, 30)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)[1])


def ready():
    return metric('dormouse_warm_vms{state="ready"}')


def await_ready(n=1):
    wait_until(lambda: ready() >= n, 60, f"{n} VMs are ready")


def create(template="base", **fields):
    return D.api("POST", "/v2/sandboxes", {"templateID": template, "timeout": 3600, **fields})


def kept():
    """the processes that belong to no sandbox of a client"""
    return vms(D) - {D.vm_pid(s["sandboxID"]) for s in D.sandboxes() if s["status"] == "running"}


def await_none():
    wait_until(lambda: not vms(D) and not any((D.root / "sandboxes").iterdir())
               and not any((D.root / "tmp").iterdir()), 30, "none is kept")


def works(sandbox):
    check(D.exec(sandbox, "hostname") == sandbox, f"{sandbox} works")


def marked(mark):
    """a sandbox that says so, snapshotted as template marked"""
    sandbox = D.create("base")
    D.exec(sandbox, "sh", "-c", f"echo {mark} >/tmp/mark")
    D.api("POST", f"/sandboxes/{sandbox}/snapshots", {"name": "marked"})
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_template():
    D.build_template("base", 128)
    check(not vms(D), "nothing is kept of a template that nobody used")


def test_create_takes_one():
    first = create()
    check(first["wake"]["warm"] is False, f"{first['wake']}")
    await_ready()
    made = create(metadata={"for": "me"}, envVars={"COLOUR": "green"})
    sandbox = made["sandboxID"]
    check(made["wake"]["warm"] is True, f"{made['wake']}")
    works(sandbox)
    works(first["sandboxID"])
    info = D.api("GET", f"/sandboxes/{sandbox}")
    check(info["metadata"] == {"for": "me"} and info["templateID"] == "base", f"{info}")
    check(D.exec(sandbox, "sh", "-c", "echo $COLOUR") == "green", "its environment")
    listed = [s["sandboxID"] for s in D.sandboxes()]
    check(listed == [sandbox, first["sandboxID"]], f"in the order of creation, and no others: {listed}")
    draw = ("sh", "-c", "head -c 16 /dev/urandom | base64")
    check(D.exec(sandbox, *draw) != D.exec(first["sandboxID"], *draw), "random numbers differ")
    D.dorm("sleep", sandbox)
    D.dorm("wake", sandbox)
    works(sandbox)
    check(create(wait="full")["wake"]["warm"] is False, "its memory was decided on before")
    delete_all(D)


def test_nobody_sees_them():
    mine = create()["sandboxID"]
    await_ready()
    check([s["sandboxID"] for s in D.api("GET", "/sandboxes/usage")["sandboxes"]] == [mine], "dorm top")
    check(sum(D.api("GET", "/host")["sandboxes"].values()) == 1, f"{D.api('GET', '/host')}")
    check([s["sandboxID"] for s in D.sandboxes()] == [mine], "the list")
    D.api("DELETE", f"/sandboxes/{mine}")


def test_one_client_each():
    D.api("POST", "/templates/base/warm", {"vms": 2})
    await_ready(2)
    hits = metric('dormouse_warm_creates_total{result="hit"}')
    made = [Background(create) for _ in range(6)]
    for c in made:
        c.join(120)
        check(c.result, f"{c.error}")
    ids = [c.result["sandboxID"] for c in made]
    check(len(set(ids)) == 6 and len({D.vm_pid(s) for s in ids}) == 6, f"{ids}")
    for s in ids:
        works(s)
    check(metric('dormouse_warm_creates_total{result="hit"}') >= hits + 1, "some were ready")
    D.api("POST", "/templates/base/warm", {"vms": 0})
    create()  # which says that it is in use
    delete_all(D)


def test_never_of_an_old_template():
    marked("old")
    D.create("marked")
    await_ready(2)
    wait_until(lambda: create("marked")["wake"]["warm"], 60, "one of marked is ready")
    marked("new")
    for _ in range(3):
        sandbox = create("marked")["sandboxID"]
        check(D.exec(sandbox, "cat", "/tmp/mark") == "new", "the template that the name leads to")
    delete_all(D)
    D.dorm("template", "rm", "marked")
    try:
        D.create("marked")
        raise AssertionError("a template that was deleted")
    except ApiError as e:
        check(e.status == 404, f"{e}")


def test_vm_killed():
    create()
    await_ready()
    for pid in kept():
        kill_and_wait(pid)
    works(create()["sandboxID"])
    await_ready()
    wait_until(lambda: len(kept()) == len(list((D.root / "sandboxes").iterdir())) - len(D.sandboxes()),
               30, "a directory for each VM")
    works(create()["sandboxID"])
    delete_all(D)


def test_vm_killed_when_taken():
    """the one that is handed out dies at that moment: the client gets another"""
    for _ in range(3):
        await_ready()
        victims = kept()
        made = Background(create)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        made.join(60)
        # it may have died as the client's own, a moment after it was made
        sandbox = made.result["sandboxID"] if made.result else None
        check(sandbox, f"{made.error}")
        wait_until(lambda s=sandbox: D.status(s) in ("running", "failed"), 10, "it is settled")
        works(create()["sandboxID"])
        delete_all(D)


def test_pager_killed():
    create()
    await_ready()
    kill_and_wait(pager(D))
    works(create()["sandboxID"])
    await_ready()
    works(create()["sandboxID"])
    delete_all(D)


def test_dormd_killed():
    create()
    await_ready()
    old = kept()
    D.kill()
    D.start()
    check(not old & vms(D), "the VMs that were kept have ended")
    check(not [p for p in (D.root / "tmp").iterdir()], "and left nothing")
    works(create()["sandboxID"])
    await_ready()
    check(create()["wake"]["warm"] is True, "others took their place")
    delete_all(D)


def test_network():
    if not shutil.which(os.environ.get("DORM_PASST", "passt")):
        skip("passt is not installed")
    create()
    await_ready()
    made = create(network={"allowOut": ["127.0.0.1/32"], "denyOut": ["0.0.0.0/0"]})
    check(made["wake"]["warm"] is True, f"{made['wake']}")
    check("eth0" in D.exec(made["sandboxID"], "ip", "-4", "address"), "it has an interface")
    delete_all(D)


def test_given_back_when_idle():
    D.stop()
    D.args = ["--warm-vms", "2", "--warm-idle", "1"]
    D.start()
    create()
    wait_until(lambda: metric('dormouse_warm_vms_total{result="made"}') >= 1, 60, "one is made")
    delete_all(D)
    await_none()
    check_sound(D)
    D.api("POST", "/templates/base/warm", {"vms": 2})
    await_ready(2)
    check(create()["wake"]["warm"] is True, "one that was asked for")
    D.dorm("template", "warm", "--vms", 0, "base")
    delete_all(D)
    await_none()
    check_sound(D)
    try:
        D.api("POST", "/templates/base/warm", {"vms": 60})
        raise AssertionError("more than all")
    except ApiError as e:
        check(e.status == 400, f"{e}")


def test_none_while_drained():
    D.api("POST", "/templates/base/warm", {"vms": 1})
    await_ready()
    D.dorm("drain")
    await_none()
    D.dorm("undrain")
    await_ready()
    check(create()["wake"]["warm"] is True, "one that was made since")
    D.dorm("template", "warm", "--vms", 0, "base")
    delete_all(D)
    await_none()
    check_sound(D)


def test_ends_with_dormd():
    D.api("POST", "/templates/base/warm", {"vms": 1})
    await_ready()
    D.stop()
    check(not vms(D), "a dormd that ends in good order leaves none")
    D.start()
    check_sound(D)


main(globals())
