# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""Who may bring up a sandbox: the others wait in the order of their coming, not for ever, and not too
many; nobody is lost."""
import json
import re

from crash import Background, check_sound, delete_all
from harness import ApiError, Dormouse, UnixConnection, check, main, wait_until

D = Dormouse("--max-sandboxes", "3", "--queue", "3", "--queue-timeout", "120").__enter__()
BODY = {"templateID": "base", "timeout": 3600}


def restart(*args):
    D.stop()
    D.args = list(args)
    D.start()


def metric(name):
    connection = UnixConnection(D.socket, 30)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)[1])


def await_waiting(n):
    wait_until(lambda: metric("dormouse_admission_waiting") == n, 30, f"{n} wait")


def refusal(method, path, body):
    """an answer that is to be a 503 for want of room: its body"""
    connection = UnixConnection(D.socket, 60)
    try:
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        value = json.loads(reply.read())
    finally:
        connection.close()
    check(reply.status == 503 and value["code"] == 503, f"{reply.status} {value}")
    check(value["error_code"] == "sandbox_capacity_unavailable", f"{value}")
    check(int(reply.getheader("Retry-After")) > 0, f"{reply.getheaders()}")
    return value


def works(sandbox):
    check(D.exec(sandbox, "hostname") == sandbox, f"{sandbox} works")


def test_template():
    D.build_template("base", 128)


def test_waits_in_order():
    running, waiting = [D.create("base") for _ in range(3)], []
    for i in range(3):
        waiting.append(Background(lambda: D.create("base")))
        await_waiting(i + 1)
    refused = refusal("POST", "/v2/sandboxes", BODY)
    check("others wait" in refused["message"], f"{refused}")
    try:
        D.api("GET", "/readyz")
        raise AssertionError("ready with a full queue")
    except ApiError as e:
        check(e.status == 503, f"{e}")
    for i, next_one in enumerate(waiting):
        check(not any(w.result for w in waiting[i:]), "they wait")
        D.api("DELETE", f"/sandboxes/{running.pop(0)}")
        next_one.join(60)
        check(next_one.result, f"{next_one.error}")
        running.append(next_one.result)
        await_waiting(2 - i)
    for s in running:
        works(s)
    check(D.api("GET", "/readyz")["status"] == "ready", "there is room in the queue")


def test_sleep_makes_room():
    first, *_ = [s["sandboxID"] for s in D.sandboxes()]
    waiting = Background(lambda: D.create("base"))
    await_waiting(1)
    D.dorm("sleep", first)
    waiting.join(60)
    check(waiting.result, f"{waiting.error}")
    wake = Background(lambda: D.api("POST", f"/v2/sandboxes/{first}/connect", {}))
    await_waiting(1)
    check(D.status(first) == "asleep", "it is not touched while it waits")
    D.api("DELETE", f"/sandboxes/{waiting.result}")
    wake.join(60)
    check(wake.result, f"{wake.error}")
    works(first)


def test_request_waits_for_room():
    """one that is woken by a request waits like one that is woken by its client"""
    D.api("DELETE", f"/sandboxes/{D.sandboxes()[0]['sandboxID']}")
    sleeper = D.create("base", autoResume={"enabled": True})
    D.dorm("sleep", sleeper)
    other = D.create("base")  # in its place
    waiting = Background(lambda: D.exec(sleeper, "hostname"))
    await_waiting(1)
    check(D.status(sleeper) == "asleep" and not waiting.result, "it waits")
    D.api("DELETE", f"/sandboxes/{other}")
    waiting.join(60)
    check(waiting.result == sleeper, f"{waiting.result} {waiting.error}")


def test_delete_while_it_waits():
    asleep = D.sandboxes()[0]["sandboxID"]
    D.dorm("sleep", asleep)
    other = D.create("base")
    wake = Background(lambda: D.api("POST", f"/v2/sandboxes/{asleep}/connect", {}))
    await_waiting(1)
    D.api("DELETE", f"/sandboxes/{asleep}")
    D.api("DELETE", f"/sandboxes/{other}")
    wake.join(60)
    check(isinstance(wake.error, ApiError) and wake.error.status == 404, f"{wake.error} {wake.result}")


def test_client_that_hangs_up():
    last = D.create("base")
    connection = UnixConnection(D.socket, 30)
    connection.request("POST", "/v2/sandboxes", json.dumps(BODY), {"Content-Type": "application/json"})
    await_waiting(1)
    connection.close()
    await_waiting(0)
    check(metric('dormouse_admission_total{result="abandoned"}') == 1, "it was counted")
    D.api("DELETE", f"/sandboxes/{last}")
    wait_until(lambda: len(D.sandboxes()) == 2, 10, "nothing was made for it")


def test_refused_when_nothing_ends():
    delete_all(D)
    restart("--max-sandboxes", "3", "--queue-timeout", "1")
    source = D.create("base")
    D.create("base")
    D.kill()  # what is adopted counts like what was made
    D.start()
    D.create("base")
    refused = refusal("POST", "/v2/sandboxes", BODY)
    check("3 of at most 3" in refused["message"], f"{refused}")
    check(not [s for s in D.sandboxes() if s["status"] != "running"], f"{D.sandboxes()}")
    forks = D.api("POST", f"/sandboxes/{source}/fork", {"count": 5})
    check(all(f["error"]["code"] == 503 for f in forks), f"{forks}")
    delete_all(D)
    check_sound(D)


def test_burst():
    """thirty at once, three at a time: each gets its turn"""
    restart("--max-sandboxes", "3", "--queue-timeout", "240")

    def one():
        sandbox = D.create("base")
        name = D.exec(sandbox, "hostname")
        running = len([s for s in D.sandboxes() if s["status"] == "running"])
        D.api("DELETE", f"/sandboxes/{sandbox}")
        return name == sandbox and running <= 3

    clients = [Background(one) for _ in range(30)]
    for c in clients:
        c.join(240)
    bad = [str(c.error) for c in clients if not c.result]
    check(not bad, f"{len(bad)} of 30: {bad[:3]}")
    check_sound(D)


def test_memory():
    restart("--memory-reserve", "100T")
    refused = refusal("POST", "/v2/sandboxes", BODY)
    check("there is no memory for another sandbox of base" in refused["message"], f"{refused}")
    check("100.0 TiB are the reserve" in refused["message"], f"{refused}")
    restart()
    source = D.create("base")
    D.dorm("sleep", source)
    forks = D.api("POST", f"/sandboxes/{source}/fork", {"count": 10, "timeout": 3600})
    check(not [f for f in forks if "error" in f], f"{forks}")
    for f in forks:
        works(f["sandbox"]["sandboxID"])
    delete_all(D)
    check_sound(D)


main(globals())
