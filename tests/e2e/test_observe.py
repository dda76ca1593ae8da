# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""What an operator sees: events, request ids in the log, metrics, traces, consoles, usage."""
import http.client
import json
import os
import re
import signal
import threading

from harness import ROOT, Dormouse, UnixConnection, check, main, wait_until

D = Dormouse(env={"DORM_LOG": "debug"}).__enter__()


class Events:
    """GET /events, read by a thread of its own: what came is in .all, comments and ids too"""

    def __init__(self, path="/events", headers=None):
        self.connection = UnixConnection(D.socket, 120)
        self.connection.request("GET", path, headers=headers or {})
        self.reply = self.connection.getresponse()
        check(self.reply.status == 200, f"GET {path}: {self.reply.status}")
        self.all, self.comments, self.ended = [], 0, False
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        fields = {}
        try:
            for line in self.reply:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if line == b"\n" and "data" in fields:
                    self.all.append({**json.loads(fields["data"]), "sse": dict(fields)})
                if line == b"\n":
                    fields = {}
                elif not name:
                    self.comments += 1
                else:
                    fields[name] = value
            self.ended = True
        except (OSError, http.client.HTTPException, ValueError):
            pass

    def close(self):
        """hang up: shutdown wakes the thread, which a close would not"""
        try:
            self.connection.sock.shutdown(2)
        except (OSError, AttributeError):
            pass
        self.thread.join(10)

    def states(self, sandbox):
        return [e["state"] for e in self.all
                if e.get("sandboxID") == sandbox and e["type"] == "sandbox.state"]

    def types(self, sandbox):
        return [e["type"] for e in self.all if e.get("sandboxID") == sandbox]


def request(method, path, body=None, headers=None):
    """the whole answer: status, headers, body"""
    connection = UnixConnection(D.socket, 60)
    connection.request(method, path, json.dumps(body) if body is not None else None, headers or {})
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    return reply.status, reply.headers, text


def test_template():
    events = Events()
    D.build_template("base", 128)
    ready = wait_until(lambda: [e for e in events.all if e["type"] == "template.ready"], 10,
                       "an event says that the template is ready")
    check(ready[0]["name"] == "base" and ready[0]["templateID"].startswith("s"), f"{ready}")
    events.close()


def test_events_of_a_life():
    """created, asleep, awake, forked, killed from outside, deleted: in this order, with reasons"""
    events = Events()
    sandbox = D.create("base")
    D.api("POST", f"/sandboxes/{sandbox}/pause", {})
    D.api("POST", f"/v2/sandboxes/{sandbox}/connect", {})
    snapshot = D.api("POST", f"/sandboxes/{sandbox}/snapshots", {"name": "snap"})["snapshotID"]
    fork = D.api("POST", f"/sandboxes/{sandbox}/fork", {})[0]["sandbox"]["sandboxID"]
    os.kill(D.vm_pid(sandbox), signal.SIGKILL)
    wait_until(lambda: D.status(sandbox) == "failed", 30, "it has failed")
    D.api("DELETE", f"/sandboxes/{sandbox}")
    D.api("DELETE", f"/templates/{snapshot}")
    wait_until(lambda: any(e["type"] == "snapshot.deleted" for e in events.all), 10, "the last event")
    wanted = ["creating", "running", "pausing", "asleep", "waking", "running", "pausing", "running",
              "pausing", "running", "failed", "deleting"]
    check(events.states(sandbox) == wanted, f"{events.states(sandbox)}")
    check(events.states(fork) == ["creating", "running"], f"{events.states(fork)}")
    failed = [e for e in events.all if e.get("state") == "failed"]
    check("signal 9" in failed[0]["reason"], f"{failed}")
    check(events.types(sandbox)[-1] == "sandbox.deleted", f"{events.types(sandbox)}")
    forked = [e for e in events.all if e["type"] == "sandbox.forked"]
    check([(e["sandboxID"], e["count"], e["made"]) for e in forked] == [(sandbox, 1, 1)], f"{forked}")
    made = [e for e in events.all if e["type"] == "snapshot.created"]
    check(made[0]["snapshotID"] == snapshot and made[0]["name"] == "snap", f"{made}")
    numbers = [e["id"] for e in events.all]
    check(numbers == list(range(numbers[0], numbers[0] + len(numbers))), f"gaps in {numbers}")
    check(all(e["sse"] == {"id": str(e["id"]), "event": e["type"], "data": e["sse"]["data"]}
              for e in events.all), "its fields as a server-sent event")
    check(all(e.get("request") for e in events.all if e.get("state") == "pausing"), "who asked")
    events.close()
    D.api("DELETE", f"/sandboxes/{fork}")


def test_events_again():
    """a watcher that was away goes on where it was, and one can choose"""
    first = Events()
    a, b = D.create("base"), D.create("base")
    wait_until(lambda: first.states(b) == ["creating", "running"], 10, "both were seen")
    first.close()
    D.api("DELETE", f"/sandboxes/{a}")
    seen = [e["id"] for e in first.all][:2]
    again = Events(headers={"Last-Event-ID": str(seen[-1])})
    wait_until(lambda: "sandbox.deleted" in again.types(a), 10, "what came meanwhile")
    check(again.all[0]["id"] == seen[-1] + 1, f"{again.all[0]} after {seen}")
    again.close()
    of_b = Events(f"/sandboxes/{b}/events?after=0&follow=false")
    of_b.thread.join(10)
    check(of_b.ended and of_b.types(b) == ["sandbox.state"] * 2 == [e["type"] for e in of_b.all],
          f"{of_b.all}")
    old = Events("/events?after=1&follow=false&type=lost")
    old.thread.join(10)
    check([(e["type"], e["restarted"]) for e in old.all] == [("lost", True)], f"{old.all}")
    D.api("DELETE", f"/sandboxes/{b}")
    lines = D.dorm("events", "--json", "--sandbox", b).stdout.splitlines()
    check([json.loads(t)["type"] for t in lines] == ["sandbox.state"] * 3 + ["sandbox.deleted"],
          f"{lines}")
    text = D.dorm("events", "--type", "sandbox.state").stdout
    check(re.search(rf"Z sandbox.state +{b}  .*state=running  previous=creating", text), text)
    for query in ("after=x", "follow=perhaps", "sandboxID=..", "format=xml"):
        status, _, body = request("GET", f"/events?{query}")
        check(status == 400 and query.split("=")[0] in body, f"{query}: {status} {body}")


def test_slow_watcher():
    """one that does not read holds up nobody"""
    slow = UnixConnection(D.socket, 60)
    slow.request("GET", "/events?after=0")
    fast = Events()
    sandboxes = [D.create("base") for _ in range(2)]
    for sandbox in sandboxes:
        D.api("DELETE", f"/sandboxes/{sandbox}")
    wait_until(lambda: "sandbox.deleted" in fast.types(sandboxes[-1]), 10, "the other one sees all")
    slow.close()
    fast.close()


def metrics():
    """GET /metrics, taken apart by the rules of the format: {family: {labels: number}}"""
    status, headers, text = request("GET", "/metrics")
    check(status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4"),
          f"{status} {headers}")
    families, types, helped = {}, {}, set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            check(name not in helped and len(line.split(" ", 3)) == 4, f"HELP twice or empty: {line}")
            helped.add(name)
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            check(name in helped and name not in types, f"TYPE twice or without HELP: {line}")
            check(kind in ("counter", "gauge", "histogram"), line)
            check((kind == "counter") == name.endswith("_total"), f"its name: {line}")
            types[name], current = kind, name
            families[name] = {}
            continue
        match = re.fullmatch(r'([a-z_:]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)', line)
        check(match, f"not a sample: {line!r}")
        name, labels, number = match[1], match[2] or "", float(match[3])
        family = name
        if types.get(current) == "histogram":
            family = re.sub("_(bucket|sum|count)$", "", name)
            labels = f"{name[len(family) + 1:]},{labels}"
        check(family == current, f"a sample of {family} among those of {current}")
        check(labels not in families[family], f"twice: {line}")
        families[family][labels] = number
    for name, samples in families.items():
        if types[name] == "histogram":
            check_histogram(name, samples)
    return families


def check_histogram(name, samples):
    rows = {}
    for labels, number in samples.items():
        kind, _, rest = labels.partition(",")
        others, _, le = rest.rpartition("le=") if kind == "bucket" else (rest, "", "")
        rows.setdefault(others.rstrip(","), {}).setdefault(kind, []).append((le.strip('"'), number))
    for row in rows.values():
        bounds = [float(le) for le, _ in row["bucket"]]
        counts = [n for _, n in row["bucket"]]
        check(bounds == sorted(bounds) and bounds[-1] == float("inf"), f"{name}: bounds {bounds}")
        check(counts == sorted(counts) and counts[-1] == row["count"][0][1], f"{name}: {row}")


def test_metrics():
    """they can be read, and they move with what happens"""
    def wakes(m):
        return m["dormouse_operation_seconds"]['count,operation="wake"']

    before = metrics()
    sandbox = D.create("base")
    D.api("POST", f"/sandboxes/{sandbox}/pause", {})
    check(metrics()["dormouse_sandboxes"]['state="asleep"'] == 1, "one is asleep")
    D.api("POST", f"/v2/sandboxes/{sandbox}/connect", {})
    D.api("POST", f"/sandboxes/{sandbox}/fork", {"count": 2})
    for each in D.sandboxes():
        D.api("DELETE", f"/sandboxes/{each['sandboxID']}")
    request("POST", f"/sandboxes/{sandbox}/pause", {})
    after = metrics()
    check(wakes(after) == wakes(before) + 1, "a wake was counted")
    for what, n in (("create", 1), ("wake", 1), ("fork", 2), ("fork_point", 1), ("sleep", 1), ("delete", 3)):
        key = f'operation="{what}",result="ok"'
        moved = after["dormouse_operations_total"][key] - before["dormouse_operations_total"][key]
        check(moved == n, f"{what}: {moved}")
    failed = 'operation="sleep",result="failed"'
    check(after["dormouse_operations_total"][failed]
          == before["dormouse_operations_total"][failed] + 1, "the sleep that failed")
    check(after["dormouse_http_errors_total"]['code="404"'] >= 1, "an error was counted")
    route = 'method="POST",route="/sandboxes/{}/fork",status="201"'
    check(after["dormouse_http_requests_total"][route] >= 1, f"{after['dormouse_http_requests_total']}")
    check(after["dormouse_bringup_seconds"]['count,phase="repair"'] >= 4, "phases")
    check(after["dormouse_pager_up"][""] == 1, "the pager answered")
    wait_until(lambda: "dormouse_store_bytes" in metrics(), 30, "the store's size is known")
    check(metrics()["dormouse_store_bytes"]['kind="private"'] > 1 << 20, "the template's bytes")
    check(1 << 20 < after["process_resident_memory_bytes"][""] < 64 << 20, "dormd's own memory")


def check_nested(events):
    """the spans of each lane lie in one another or apart; children take no longer than their span"""
    for lane in {e["tid"] for e in events}:
        stack = []
        for e in sorted((e for e in events if e["tid"] == lane), key=lambda e: (e["ts"], -e["dur"])):
            check(e["ph"] == "X" and e["dur"] >= 0 and e["ts"] >= 0, f"{e}")
            while stack and stack[-1][1] <= e["ts"] + 0.5:
                stack.pop()
            check(not stack or e["ts"] + e["dur"] <= stack[-1][1] + 0.5,
                  f"{e['name']} reaches out of {stack[-1][0] if stack else None}")
            stack.append((e["name"], e["ts"] + e["dur"]))


def test_trace():
    """where the time of a wake and of forks went"""
    sandbox = D.create("base")
    D.api("POST", f"/sandboxes/{sandbox}/pause", {})
    path = D.dir / "wake.json"
    D.dorm("wake", "--trace", path, sandbox)
    events = json.loads(path.read_text())["traceEvents"]
    check_nested(events)
    spans = {e["name"]: e for e in events}
    wanted = ["queue", "check", "session", "VMM start", "load", "resume", "answer", "repair"]
    order = [e["name"] for e in sorted(events, key=lambda e: e["ts"]) if e["name"] in wanted]
    check(order == wanted, f"{order}")
    inside = sum(spans[name]["dur"] for name in wanted)
    check(inside <= spans["wake"]["dur"] <= max(2 * inside, inside + 100000),
          f"{inside} of {spans['wake']['dur']} us are accounted for")
    check({"identity", "clock", "random"} <= spans.keys(), f"the steps of the repair: {list(spans)}")
    path = D.dir / "fork.json"
    D.dorm("fork", "-n", 2, "--trace", path, sandbox)
    events = json.loads(path.read_text())["traceEvents"]
    check_nested(events)
    check([e["tid"] for e in events if e["name"] == "fork"] == [1, 2], "a lane for each copy")
    check("trace" not in D.api("POST", f"/v2/sandboxes/{sandbox}/connect", {}), "only when asked for")
    made = D.api("POST", "/v2/sandboxes?trace=1", {"templateID": "base"})
    check({"create", "link", "repair"} <= {e["name"] for e in made["trace"]["traceEvents"]}, f"{made}")
    done = D.dorm("wake", "--trace", "/nowhere/x", sandbox, check_status=False)
    check(done.returncode == 1, f"{done}")
    for each in D.sandboxes():
        D.api("DELETE", f"/sandboxes/{each['sandboxID']}")


def test_top():
    """what a sandbox that works uses, and one that sleeps"""
    busy, asleep = D.create("base"), D.create("base")
    D.api("POST", f"/sandboxes/{asleep}/pause", {})
    D.exec(busy, "sh", "-c", "while :; do :; done </dev/null >/dev/null 2>&1 & echo")
    look = D.json("top", "--once")
    rows = {s["sandboxID"]: s for s in look["sandboxes"]}
    check(rows.keys() == {busy, asleep}, f"{rows}")
    check(rows[busy]["cpuPct"] > 10, f"{rows[busy]}")
    check(1 << 20 < rows[busy]["ownBytes"] < 256 << 20 and rows[busy]["sharedBytes"] > 1 << 20,
          f"{rows[busy]}")
    check(rows[busy]["notLoadedBytes"] < rows[busy]["memoryBytes"] == 128 << 20, f"{rows[busy]}")
    check(rows[busy]["faults"] >= 0 and rows[busy]["status"] == "running", f"{rows[busy]}")
    check(rows[asleep]["status"] == "asleep" and "cpuNs" not in rows[asleep], f"{rows[asleep]}")
    host = look["host"]
    check(host["memoryTotalBytes"] > host["memoryAvailableBytes"] > 0 and host["dormdRssBytes"] > 1 << 20
          and host["pager"]["residentBytes"] > 1 << 20, f"{host}")
    text = D.dorm("top", "--once").stdout
    check(text.startswith("2 sandboxes ") and busy in text and asleep in text, text)
    for sandbox in (busy, asleep):
        D.api("DELETE", f"/sandboxes/{sandbox}")


def test_logs():
    """the console of a guest that runs, sleeps, was woken, and whose VM is dead"""
    def console(sandbox):
        return [e["message"] for e in D.api("GET", f"/v2/sandboxes/{sandbox}/logs")["logs"]
                if e["fields"]["source"] == "console"]

    sandbox = D.create("base")
    D.exec(sandbox, "sh", "-c", "echo first words >/dev/ttyS0")
    wait_until(lambda: "first words" in console(sandbox), 10, "what was written")
    D.exec(sandbox, "sh", "-c", "printf 'sec\\033ond\\377\\n' >/dev/ttyS0")
    D.api("POST", f"/sandboxes/{sandbox}/pause", {})
    check(console(sandbox)[-2:] == ["first words", "sec\x1bond\ufffd"], f"{console(sandbox)[-3:]}")
    D.api("POST", f"/v2/sandboxes/{sandbox}/connect", {})
    D.exec(sandbox, "sh", "-c", "echo third >/dev/ttyS0")
    wait_until(lambda: console(sandbox)[-1] == "third", 10, "what was written after it woke")
    os.kill(D.vm_pid(sandbox), signal.SIGKILL)
    wait_until(lambda: D.status(sandbox) == "failed", 30, "it has failed")
    check(console(sandbox)[-3:] == ["first words", "sec\x1bond\ufffd", "third"], "of a dead VM")
    both = D.api("GET", f"/sandboxes/{sandbox}/logs?limit=3")
    check(len(both["logs"]) == len(both["logEntries"]) == 3, f"{both}")
    last = both["logEntries"][-1]
    check(last["level"] == "error" and last["message"].startswith("sandbox.state failed: its VM ended")
          and last["message"] == both["logs"][-1]["line"], f"{both}")
    text = D.dorm("logs", sandbox).stdout
    check("third\n" in text and "-- sandbox.state failed" in text and "\x1b" not in text, text)
    D.api("DELETE", f"/sandboxes/{sandbox}")
    check(request("GET", f"/sandboxes/{sandbox}/logs")[0] == 404, "of one that is gone")


def test_docs():
    """docs/observability.md has every metric and every event, and no other"""
    text = (ROOT / "docs" / "observability.md").read_text()
    sandbox = D.create("base")
    wait_until(lambda: "dormouse_store_bytes" in metrics(), 30, "the store's size is known")
    written = set(re.findall(r"^\| `((?:dormouse|process)_[a-z_]+)` \|", text, re.M))
    served = set(metrics())
    # only where the kernel has it
    served.add("dormouse_pager_pressure_some_ratio")
    check(written == served, f"not served: {written - served}; not written: {served - written}")
    types = set(re.findall(r"^\| `([a-z]+\.[a-z]+)` \|", text, re.M))
    said = set()
    for path in (ROOT / "src").rglob("*.c"):
        if not path.name.startswith("test-"):
            said |= set(re.findall(r'(?:events_add(?:_owned)?|sandbox_event)\([^;]*?"([a-z]+\.[a-z]+)"',
                                   path.read_text()))
    check(types == said, f"not said: {types - said}; not written: {said - types}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def watch_all():
    """as many watchers as are let in, and how the next was refused"""
    watchers, refused = [], None
    while len(watchers) < 100 and not refused:
        connection = UnixConnection(D.socket, 60)
        connection.request("GET", "/events")
        reply = connection.getresponse()
        watchers.append(connection)
        if reply.status != 200:
            refused = reply.status, reply.headers["Retry-After"]
    for each in watchers:
        each.close()
    return len(watchers) - 1, refused


def test_too_many_watchers():
    def none():
        return metrics()["dormouse_event_watchers"][""] == 0

    wait_until(none, 60, "earlier ones have gone")
    let_in = watch_all()
    check(let_in == (64, (503, "10")), f"{let_in}")
    wait_until(none, 60, "these have gone")


def log_lines(word):
    return [t for t in D.log.read_text(errors="replace").splitlines() if word in t]


def test_request_ids():
    """a client's own id comes back, and is in the log and in events; a strange one is replaced"""
    status, headers, body = request("POST", "/v2/sandboxes", {"templateID": "base"},
                                    {"X-Request-Id": "my-request.1"})
    sandbox = json.loads(body)["sandboxID"]
    check((status, headers["X-Request-Id"]) == (201, "my-request.1"), f"{status} {headers}")
    line = wait_until(lambda: log_lines("request=my-request.1 method=POST"), 10, "the access log")[0]
    check(re.search(r"path=/v2/sandboxes status=201 ms=[0-9.]+ key=- received=\d+$", line), line)
    made = D.json_lines = [json.loads(t) for t in D.dorm("events", "--json").stdout.splitlines()]
    made = [e for e in made if e.get("sandboxID") == sandbox]
    check([e["request"] for e in made] == ["my-request.1"] * 2, f"{made}")
    for strange in ("a b", "x" * 65, 'a"b', ""):
        status, headers, _ = request("GET", f"/sandboxes/{sandbox}",
                                     headers={"X-Request-Id": strange})
        own = headers["X-Request-Id"]
        check(status == 200 and re.fullmatch(r"r[a-z0-9]{20}", own), f"{strange!r}: {own}")
    status, headers, _ = request("GET", "/nowhere?signature=secret")
    check(status == 404 and headers["X-Request-Id"], f"{status}: {headers}")
    lost = wait_until(lambda: log_lines(f"request={headers['X-Request-Id']}"), 10, "its line")
    check("path=/nowhere status=404" in lost[0] and "secret" not in lost[0], f"{lost}")
    token = json.loads(body)["envdAccessToken"]
    D.exec(sandbox, "true")
    wait_until(lambda: log_lines(f"sandbox={sandbox} port=49983 method=POST"), 10, "the proxy's line")
    D.api("DELETE", f"/sandboxes/{sandbox}")
    check(token not in D.log.read_text(), "a sandbox's token is in the log")


def test_stop():
    """watchers end in good order when dormd does, and go on with the next one"""
    events = Events()
    sandbox = D.create("base")
    wait_until(lambda: events.states(sandbox)[-1:] == ["running"], 10, "it runs")
    D.daemon.send_signal(signal.SIGTERM)
    D.daemon.wait(20)
    events.thread.join(10)
    check(events.ended and events.all[-1]["type"] == "host.stopping", f"{events.all[-1:]}")
    D.env["DORM_LOG_FORMAT"] = "json"
    D.start()
    again = Events(headers={"Last-Event-ID": str(events.all[-1]["id"])})
    wait_until(lambda: any(e["type"] == "host.started" for e in again.all), 10, "the next dormd's")
    check(again.all[0]["type"] == "lost" and again.all[0]["restarted"], f"{again.all}")
    check(again.all[-1]["sandboxes"] == 1, f"{again.all}")
    again.close()
    D.api("DELETE", f"/sandboxes/{sandbox}", timeout_s=60)
    lines = [json.loads(t) for t in log_lines('{"time"')]
    check(any(t.get("request") and t["message"].startswith("method=DELETE") for t in lines),
          f"{lines[-5:]}")


main(globals())
