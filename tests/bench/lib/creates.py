# SPDX-License-Identifier: Apache-2.0
"""How long creates and forks take, from a client's point of view: what tests/bench/host.py puts into
its table.

Each function takes a Dormouse (tests/e2e/harness.py) and a Rows, and leaves no sandbox behind. The
wall-clock figures end when the agent in the guest has answered a GET /health that was sent after the
create had returned; the others are dormd's own, and end with the agent's repair.

    PYTHONPATH=tests/e2e:tests/bench/lib python3 tests/bench/lib/creates.py     runs all of them
"""
import re
import time
from concurrent.futures import ThreadPoolExecutor

from harness import Dormouse, UnixConnection, check, wait_until
from rows import Rows, at_least, below


def request(d, method, path, body=None, headers=None, timeout_s=120):
    """status and body of one request on a connection of its own"""
    connection = UnixConnection(d.socket, timeout_s)
    try:
        connection.request(method, path, body, headers or {})
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def metric(d, name):
    text = request(d, "GET", "/metrics")[1]
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)[1])


def ask_agent(d, made):
    """the agent's own answer, by way of dormd's proxy"""
    headers = {"E2b-Sandbox-Id": made["sandboxID"], "E2b-Sandbox-Port": "49983"}
    if made.get("envdAccessToken"):
        headers["X-Access-Token"] = made["envdAccessToken"]
    status, text = request(d, "GET", "/health", headers=headers)
    check(status in (200, 204), f"the agent of {made['sandboxID']}: {status} {text}")


def create_and_ask(d, template, **fields):
    """the create's answer, and milliseconds from its request to the agent's answer"""
    t0 = time.monotonic()
    made = d.api("POST", "/v2/sandboxes", {"templateID": template, "timeout": 3600, **fields})
    ask_agent(d, made)
    return made, (time.monotonic() - t0) * 1e3


def delete(d, made):
    d.api("DELETE", f"/sandboxes/{made['sandboxID']}")


def delete_all(d, made):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda m: delete(d, m), made))


def keep(d, template, n):
    d.api("POST", f"/templates/{template}/warm", {"vms": n})


def await_ready(d, n=1):
    wait_until(lambda: metric(d, 'dormouse_warm_vms{state="ready"}') >= n
               and metric(d, 'dormouse_warm_vms{state="making"}') == 0, 60, f"{n} VMs are ready")


def one_after_the_other(d, rows, template, n=20):
    """creates with a VM that is kept ready, and without one, in turns, so that both meet the same
    load"""
    walls, totals = {True: [], False: []}, {True: [], False: []}
    keep(d, template, 1)
    for _ in range(n):
        for warm in (True, False):
            await_ready(d)
            # a create that says how its memory is served brings up a VM of its own
            made, ms = create_and_ask(d, template, **({} if warm else {"pagerMode": "shared"}))
            check(made["wake"]["warm"] is warm, f"{made['wake']}")
            walls[warm].append(ms)
            totals[warm].append(made["wake"]["totalMs"])
            delete(d, made)
    keep(d, template, 0)
    for warm, name, goal in ((True, "create_warm", below(30)), (False, "create_cold", below(200))):
        rows.add(f"{name}_ms", totals[warm], "ms", *goal, "create request",
                 "the agent has answered and repaired the guest (dormd's clock)")
        rows.add(f"{name}_wall_ms", walls[warm], "ms", *goal, "create request",
                 "the agent's answer to GET /health (client's clock)")


def at_once(d, rows, template, n=50):
    """n clients create at the same moment"""
    t0 = time.monotonic()
    with ThreadPoolExecutor(n) as pool:
        made = list(pool.map(lambda _: create_and_ask(d, template), range(n)))
    wall = (time.monotonic() - t0) * 1e3
    rows.add("creates_at_once_ok", len({m["sandboxID"] for m, _ in made}), "sandboxes", *at_least(n),
             f"{n} creates at once", "all agents have answered")
    rows.add("creates_at_once_ms_each", wall / n, "ms", None, None, "the same", "the same, divided")
    rows.add("creates_at_once_slowest_ms", max(ms for _, ms in made), "ms", None, None,
             "create request", "the agent's answer to GET /health")
    delete_all(d, [m for m, _ in made])


def forks(d, rows, template, n=100):
    """n copies of one sleeping sandbox"""
    source, _ = create_and_ask(d, template)
    d.api("POST", f"/sandboxes/{source['sandboxID']}/pause", {})
    t0 = time.monotonic()
    made = d.api("POST", f"/sandboxes/{source['sandboxID']}/fork", {"count": n, "timeout": 3600},
                 timeout_s=600)
    forked_ms = (time.monotonic() - t0) * 1e3
    good = [m["sandbox"] for m in made if "sandbox" in m]
    errors = [m["error"]["message"] for m in made if "error" in m]
    check(not errors, f"{len(errors)} forks failed: {errors[:2]}")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda m: ask_agent(d, m), good))
    rows.add("forks_ok", len(good), "sandboxes", *at_least(n), f"fork of a sleeping sandbox, {n} times",
             "all agents have answered")
    rows.add("forks_ms_each", forked_ms / n, "ms", None, None, "fork request",
             "all of them are repaired, divided")
    for phase in ("image", "vmm", "load", "answer", "repair"):
        rows.add(f"forks_{phase}_ms", [m["wake"]["phases"][phase] for m in good], "ms", None, None,
                 "of one fork, several at a time", phase)
    delete_all(d, good + [source])


def kept_memory(d, rows, template, n=4):
    """what a VM takes that is kept ready: the process, by the kernel's counters"""
    keep(d, template, n)
    await_ready(d, n)
    listed = {s["sandboxID"] for s in d.sandboxes()}
    own, rss = [], []
    for home in (d.root / "sandboxes").iterdir():
        if home.name not in listed:
            with open(f"/proc/{d.vm_pid(home.name)}/smaps_rollup", encoding="ascii") as f:
                text = f.read()
            kib = {k: int(v) for k, v in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
            own.append((kib["Private_Clean"] + kib["Private_Dirty"]) << 10)
            rss.append(kib["Rss"] << 10)
    keep(d, template, 0)
    rows.add("kept_private_bytes", own, "bytes", None, None, "-", "one VM that is kept ready")
    rows.add("kept_rss_bytes", rss, "bytes", None, None, "-", "the same")


def all_of_them(d, rows, template):
    one_after_the_other(d, rows, template)
    kept_memory(d, rows, template)
    at_once(d, rows, template)
    forks(d, rows, template)


if __name__ == "__main__":
    from rows import show

    with Dormouse("--warm-vms", "2") as dormouse:
        dormouse.build_template("base", 128)
        table = Rows()
        all_of_them(dormouse, table, "base")
        for row in table.rows:
            show(row)
