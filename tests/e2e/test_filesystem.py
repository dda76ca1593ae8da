# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""filesystem.Filesystem and metrics of real guests: all calls, watches, across sleep and wake."""
import http.client
import json
import queue
import socket
import struct
import threading
import time
import urllib.parse

from harness import ApiError, Dormouse, UnixConnection, check, main

D = Dormouse().__enter__()
SERVICE = "/filesystem.Filesystem/"


def headers(sandbox, user=None, **more):
    h = {**D.access(sandbox), "Connect-Protocol-Version": "1"}
    if user:
        h["Authorization"] = {"root": "Basic cm9vdDo=", "user": "Basic dXNlcjo="}[user]
    h.update(more)
    return h


def call(sandbox, method, message, user=None):
    """one unary call, as the SDK makes it; returns (status, answer)"""
    connection = UnixConnection(D.socket, 120)
    try:
        connection.request("POST", SERVICE + method, json.dumps(message),
                           headers(sandbox, user, **{"Content-Type": "application/json"}))
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def good(sandbox, method, message, user=None):
    status, answer = call(sandbox, method, message, user)
    check(status == 200, f"{method} {message}: {status} {answer}")
    return answer


def bad(sandbox, method, message, status, code, word):
    got, answer = call(sandbox, method, message)
    check((got, answer.get("code")) == (status, code) and word in answer["message"],
          f"{method} {message}: {got} {answer}, wanted {status} {code} {word!r}")


class Watch:
    """a WatchDir stream, read by a thread

    `events` gets each message; then None, and `error` says how it ended: the error of the last
    envelope, or the exception that broke it. `ended` is when.
    """

    def __init__(self, sandbox, path, **options):
        self.events, self.error, self.ended = queue.Queue(), None, None
        self.connection = UnixConnection(D.socket, 120)
        text = json.dumps({"path": path, **options}).encode()
        self.connection.request("POST", SERVICE + "WatchDir", struct.pack(">BI", 0, len(text)) + text,
                                headers(sandbox, **{"Content-Type": "application/connect+json",
                                                    "Keepalive-Ping-Interval": "50"}))
        self.socket = self.connection.sock
        self.reply = self.connection.getresponse()
        check(self.reply.status == 200, f"WatchDir: {self.reply.status}")
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def exactly(self, n):
        data = b""
        while len(data) < n:
            more = self.reply.read(n - len(data))
            if not more:
                raise ConnectionError("the stream ended without its last message")
            data += more
        return data

    def read(self):
        try:
            while True:
                flags, n = struct.unpack(">BI", self.exactly(5))
                message = json.loads(self.exactly(n))
                if flags == 2:
                    self.error = message.get("error")
                    break
                self.events.put(message)
        except (OSError, http.client.HTTPException, ValueError) as e:
            self.error = e
        self.ended = time.monotonic()
        self.events.put(None)

    def next(self, timeout_s=30):
        return self.events.get(timeout=timeout_s)

    def until(self, kind, name, timeout_s=30):
        """events up to this one, as text"""
        seen, end = [], time.monotonic() + timeout_s
        while f"{kind} {name}" not in seen:
            try:
                m = self.events.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {kind} {name} in {seen}") from None
            check(m is not None, f"the watch ended: {self.error}; after {seen}")
            e = m.get("filesystem")
            if e:
                seen.append(e["type"].removeprefix("EVENT_TYPE_") + " " + e["name"])
        return seen

    def close(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which a close() would not
        except OSError:
            pass  # the other side was faster
        self.thread.join(30)
        self.connection.close()


def test_template():
    D.build_template("base", 128)


def test_entries():
    s = D.create("base")
    entry = good(s, "MakeDir", {"path": "a/b"})["entry"]
    check((entry["path"], entry["type"], entry["owner"], entry["permissions"]) ==
          ("/home/user/a/b", "FILE_TYPE_DIRECTORY", "user", "drwxr-xr-x"), f"{entry}")
    entry = good(s, "MakeDir", {"path": "~/r"}, user="root")["entry"]
    check((entry["path"], entry["owner"], entry["group"]) == ("/root/r", "root", "root"), f"{entry}")
    bad(s, "MakeDir", {"path": "a"}, 409, "already_exists", "already exists")
    D.exec(s, "sh", "-c", "cd /home/user/a && printf abc >f && chmod 640 f && ln -s f link && "
                          "mkfifo pipe && ln -s gone broken")
    entry = good(s, "Stat", {"path": "a/f"})["entry"]
    check((int(entry["size"]), entry["mode"], entry["owner"]) == (3, 0o640, "root"), f"{entry}")
    check(abs(time.time() - time.mktime(time.strptime(entry["modifiedTime"][:19],
                                                       "%Y-%m-%dT%H:%M:%S")) + time.timezone) < 120,
          f"{entry['modifiedTime']}")
    entry = good(s, "Stat", {"path": "a/link"})["entry"]
    check((entry["type"], entry["symlinkTarget"], entry["permissions"]) ==
          ("FILE_TYPE_FILE", "/home/user/a/f", "Lrwxrwxrwx"), f"{entry}")
    entries = good(s, "ListDir", {"path": "a"})["entries"]
    check([(e["name"], e["type"].removeprefix("FILE_TYPE_")) for e in entries] ==
          [("b", "DIRECTORY"), ("broken", "UNSPECIFIED"), ("f", "FILE"), ("link", "FILE"),
           ("pipe", "UNSPECIFIED")], f"{entries}")
    bad(s, "Stat", {"path": "nothing"}, 404, "not_found", "file not found")
    bad(s, "ListDir", {"path": "a/f"}, 400, "invalid_argument", "not a directory")
    D.api("DELETE", f"/sandboxes/{s}")


def test_move_and_remove():
    s = D.create("base")
    D.exec(s, "sh", "-c", "mkdir -p /home/user/t/x; echo 1 >/home/user/t/x/f; echo keep >/tmp/keep; "
                          "ln -s /tmp /home/user/t/link")
    # /tmp or /dev/shm is another file system, and directories of the template may be another layer's
    entry = good(s, "Move", {"source": "t", "destination": "/dev/shm/new/t"})["entry"]
    check(entry["path"] == "/dev/shm/new/t", f"{entry}")
    check(D.exec(s, "cat", "/dev/shm/new/t/x/f") == "1", "moved")
    good(s, "Move", {"source": "/dev/shm/new/t", "destination": "back"})
    bad(s, "Move", {"source": "none", "destination": "y"}, 404, "not_found", "source file not found")
    good(s, "Remove", {"path": "back"})
    good(s, "Remove", {"path": "back"})
    check(D.exec(s, "cat", "/tmp/keep") == "keep", "not through the link")
    bad(s, "Remove", {"path": "/proc"}, 400, "failed_precondition", "mount point")
    # a directory of the template: overlayfs does not rename those
    good(s, "Move", {"source": "/home/user", "destination": "/var/new/home"})
    check(not has(s, "/home/user") and D.exec(s, "stat", "-c", "%U", "/var/new/home") == "user", "moved")
    D.api("DELETE", f"/sandboxes/{s}")


def has(sandbox, path):
    return call(sandbox, "Stat", {"path": path})[0] == 200


def test_large_tree():
    s = D.create("base")
    D.exec(s, "sh", "-c", "mkdir /tmp/t; cd /tmp/t; for d in $(seq 20); do mkdir $d; "
                          "(cd $d; seq 500 | xargs touch); done")
    entries = good(s, "ListDir", {"path": "/tmp/t", "depth": 2})["entries"]
    check(len(entries) == 20 + 20 * 500, f"{len(entries)} entries")
    done = threading.Thread(target=good, args=(s, "Remove", {"path": "/tmp/t"}))
    begin = time.monotonic()
    done.start()
    worst = 0
    while done.is_alive():
        at = time.monotonic()
        good(s, "Stat", {"path": "/"})
        worst = max(worst, time.monotonic() - at)
    done.join()
    print(f"10,000 files removed in {time.monotonic() - begin:.2f} s; meanwhile a Stat took at most "
          f"{worst * 1e3:.0f} ms")
    check(worst < 2, f"{worst} s")
    D.api("DELETE", f"/sandboxes/{s}")


def test_watch():
    s = D.create("base")
    w = Watch(s, "/tmp", recursive=True, includeEntry=True)
    check(w.next() == {"start": {}}, "start is first")
    D.exec(s, "sh", "-c", "cd /tmp; mkdir -p n/a; echo 1 >n/a/f; mv n/a/f n/a/g; rm n/a/g")
    seen = w.until("REMOVE", "n/a/g")
    for want in ("CREATE n", "CREATE n/a", "CREATE n/a/f", "RENAME n/a/f", "CREATE n/a/g"):
        check(seen.count(want) == 1, f"{want} in {seen}")
    check(seen.index("CREATE n") < seen.index("CREATE n/a") < seen.index("CREATE n/a/f")
          < seen.index("RENAME n/a/f") < seen.index("CREATE n/a/g"), f"{seen}")
    w.close()
    for path, code in (("/none", "not_found"), ("/etc/passwd", "invalid_argument")):
        w = Watch(s, path)
        check(w.next() is None and w.error["code"] == code, f"{path}: {w.error}")
        w.close()
    D.api("DELETE", f"/sandboxes/{s}")


def drain(sandbox, watcher, wanted, timeout_s=30):
    seen, end = [], time.monotonic() + timeout_s
    while wanted not in seen:
        check(time.monotonic() < end, f"no {wanted} in {seen}")
        seen += [e["type"].removeprefix("EVENT_TYPE_") + " " + e["name"] for e in
                 good(sandbox, "GetWatcherEvents", {"watcherId": watcher})["events"]]
    return seen


def test_watch_and_sleep():
    """the stream fails cleanly within a second and a new one works; a polled watcher lives on"""
    s = D.create("base")
    watcher = good(s, "CreateWatcher", {"path": "/tmp", "recursive": True})["watcherId"]
    w = Watch(s, "/tmp")
    check(w.next() == {"start": {}}, "start is first")
    D.exec(s, "mkdir", "/tmp/before")
    w.until("CREATE", "before")
    begin = time.monotonic()
    D.dorm("sleep", s)
    check(w.next(5) is None, "the stream ends")
    check(w.error, "it does not end as if all were well")
    print(f"the stream ended {w.ended - begin:.2f} s after `dorm sleep` was begun: {w.error!r}")
    check(w.ended - begin < 1 + 1, f"{w.ended - begin} s")  # starting `dorm` is in it
    w.close()
    D.dorm("wake", s)
    w = Watch(s, "/tmp")
    check(w.next() == {"start": {}}, "start is first")
    D.exec(s, "mkdir", "/tmp/after")
    w.until("CREATE", "after")
    w.close()
    check(drain(s, watcher, "CREATE after") == ["CREATE before", "CREATE after"], "polled")
    fork = D.json("fork", s)[0]["sandbox"]["sandboxID"]
    D.exec(fork, "mkdir", "/tmp/forked")
    check(drain(fork, watcher, "CREATE forked") == ["CREATE forked"], "polled in the fork")
    good(s, "RemoveWatcher", {"watcherId": watcher})
    bad(s, "GetWatcherEvents", {"watcherId": watcher}, 404, "not_found", watcher)
    for x in (s, fork):
        D.api("DELETE", f"/sandboxes/{x}")


def metrics(sandbox, **query):
    text = urllib.parse.urlencode(query)
    return D.api("GET", f"/sandboxes/{sandbox}/metrics" + ("?" + text if text else ""))


def test_metrics():
    s = D.create("base")
    begin = int(time.time())
    first = metrics(s)
    check(len(first) == 1, f"{first}")
    m = first[0]
    check(m["memTotal"] > 64 << 20 and 0 < m["memUsed"] < m["memTotal"] and m["cpuCount"] == 1 and
          0 <= m["cpuUsedPct"] <= 100 and m["diskTotal"] > 0 and m["memCache"] >= 0, f"{m}")
    check(abs(m["timestampUnix"] - begin) <= 5 and m["timestamp"].endswith("Z"), f"{m}")
    check(len(metrics(s)) <= 2, "at most one a second")
    time.sleep(1.1)
    both = metrics(s, start=begin, end=int(time.time()))
    check(len(both) >= 2 and both == sorted(both, key=lambda v: v["timestamp"]), f"{both}")
    check(metrics(s, start=0, end=begin - 100) == [], "before it was")
    check(len(D.json("metrics", s)) >= 2, "dorm metrics --json")
    table = D.dorm("metrics", s).stdout
    check("MEMORY" in table and "%" in table and "MiB of" in table, table)
    D.dorm("sleep", s)
    kept = metrics(s)
    check(len(kept) >= 2 and D.status(s) == "asleep", "its history, without waking it")
    for path, status in ((f"{s}/metrics?start=x", 400), (f"{s}/metrics?start=9&end=3", 400),
                         ("inone/metrics", 404)):
        try:
            D.api("GET", "/sandboxes/" + path)
            raise AssertionError(f"{path} succeeded")
        except ApiError as e:
            check(e.status == status and e.body["code"] == status, f"{path}: {e.status} {e.body}")
    D.api("DELETE", f"/sandboxes/{s}")
    other = D.create("base")
    D.dorm("sleep", other)
    check(metrics(other) == [], "asleep, and nobody ever asked")
    D.api("DELETE", f"/sandboxes/{other}")


def test_agent_costs():
    """the agent of a guest that was used: under 4 MiB, and idle without wake-ups"""
    s = D.create("base")
    for _ in range(10):
        good(s, "ListDir", {"path": "/", "depth": 2})
    watcher = good(s, "CreateWatcher", {"path": "/tmp", "recursive": True})["watcherId"]
    # one command that looks twice: it is the only one that runs
    text = D.exec(s, "sh", "-c", "look() { grep -E '^(VmRSS|voluntary)' /proc/1/status; }; sleep 2; "
                                 "look; sleep 3; look")
    rows = [line.split() for line in text.splitlines()]
    resident = [int(r[1]) for r in rows if r[0] == "VmRSS:"]
    # nothing is read while `sleep` runs; grep's output of the first look wakes it once or twice
    switches = [int(r[1]) for r in rows if r[0].startswith("voluntary")]
    print(f"agent: {resident[-1]} KiB, {switches[1] - switches[0]} wake-ups in 3 s (the two that "
          "forward the first look among them)")
    check(max(resident) < 4096, f"{resident} KiB")
    check(switches[1] - switches[0] <= 4, f"{switches}")
    good(s, "RemoveWatcher", {"watcherId": watcher})
    D.api("DELETE", f"/sandboxes/{s}")


def test_leave():
    D.__exit__(None)


main(globals())
