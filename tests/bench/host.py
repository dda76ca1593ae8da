#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The host: creates with and without a warm VM, bursts, 110 sandboxes at rest, restarts of dormd.

    make bench-host        or        python3 tests/bench/host.py --build-dir build [--quick]

A create is timed at the client: from the request to the agent's first answer to a request of that
client (`GET /health` through the proxy). At rest means running guests that nobody asks for anything.
Writes build/bench/host.json (docs/architecture.md, "Benchmarks").
"""
import argparse
import json
import os
import pathlib
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests" / d) for d in ("bench/lib", "e2e")]

from rows import Rows, at_least, below, show  # noqa: E402

GOALS = {
    "create_warm_p50_ms": below(30),
    "create_cold_p50_ms": below(200),
    "burst_of_creates_that_answer": at_least(50),
    "forks_of_a_sleeper_that_answer": at_least(100),
    "sandboxes_at_rest": at_least(110),
    "dormd_rss_mib": below(20),
    "pager_beyond_resident_mib": below(16),
    "idle_cpu_percent": below(1),
    "metrics_scrape_p50_ms": below(10),
    "restart_stall_max_s": below(1),
}
MIB = 1 << 20


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Bench:
    def __init__(self, quick):
        self.rows = Rows()
        self.creates = 15 if quick else 40
        self.burst = 50
        self.forks = 100
        self.rest = 30 if quick else 110
        self.rest_s = 10 if quick else 30
        self.restarts = 5 if quick else 50

    def add(self, metric, values, unit, start, end, goal=True):
        self.rows.add(metric, values, unit, *(GOALS.get(metric, (None, None)) if goal else (None, None)),
                      start, end)
        show(self.rows.rows[-1])


class Client:
    """one connection that stays open, as a client's pool keeps it"""

    def __init__(self, d):
        from harness import UnixConnection
        self.connection = UnixConnection(d.socket, 120)

    def ask(self, method, path, body=None, headers=None):
        self.connection.request(method, path, json.dumps(body) if body is not None else None,
                                {"Content-Type": "application/json", **(headers or {})})
        reply = self.connection.getresponse()
        return reply.status, reply.read()

    def create(self, template):
        """seconds to the first answer of the agent; what the API said"""
        start = time.perf_counter()
        status, text = self.ask("POST", "/v2/sandboxes", {"templateID": template, "timeout": 3600})
        if status != 201:
            raise RuntimeError(f"{status}: {text.decode()}")
        made = json.loads(text)
        self.health(made["sandboxID"])
        return time.perf_counter() - start, made

    def health(self, sandbox):
        status, text = self.ask("GET", "/health", headers={"E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": "49983"})
        if status >= 300:
            raise RuntimeError(f"{sandbox}: {status}: {text.decode()}")


def creates(b, d, metric, pause_s):
    """one after the other, each deleted; @pause_s: for a pool to fill again"""
    client, times = Client(d), []
    for i in range(b.creates + 3):
        took, made = client.create("base")
        d.api("DELETE", f"/sandboxes/{made['sandboxID']}")
        if i >= 3:  # until then the page cache and the pool are getting ready
            times.append(took * 1e3)
        time.sleep(pause_s)
    b.add(f"{metric}_p50_ms", percentile(times, .5), "ms", "POST /v2/sandboxes", "the agent's GET /health")
    b.add(f"{metric}_p95_ms", percentile(times, .95), "ms", "POST /v2/sandboxes", "the agent's GET /health")


def burst(b, d):
    """all at once"""
    def one(_):
        try:
            return Client(d).create("base")
        except (OSError, RuntimeError) as e:
            print(f"   a create failed: {e}")
            return None
    start = time.perf_counter()
    with ThreadPoolExecutor(b.burst) as pool:
        made = [m for m in pool.map(one, range(b.burst)) if m]
    took = time.perf_counter() - start
    b.add("burst_of_creates_that_answer", len(made), "sandboxes", f"{b.burst} creates at once", "the agent of each")
    b.add("burst_of_creates_s", took, "s", f"{b.burst} creates at once", "the last agent's answer")
    for _, m in made:
        d.api("DELETE", f"/sandboxes/{m['sandboxID']}")


def forks(b, d):
    source = d.create("base")
    d.exec(source, "sh", "-c", "echo here > /tmp/file")
    d.api("POST", f"/sandboxes/{source}/pause", {})
    start = time.perf_counter()
    made = d.api("POST", f"/sandboxes/{source}/fork", {"count": b.forks, "timeout": 3600}, timeout_s=600)
    took = time.perf_counter() - start
    names = [f["sandbox"]["sandboxID"] for f in made if "sandbox" in f]
    for f in made:
        if "sandbox" not in f:
            print(f"   a fork failed: {f}")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda s: d.exec(s, "cat", "/tmp/file", check_status=False) == "here", names))
    b.add("forks_of_a_sleeper_that_answer", sum(answers), "sandboxes", f"one fork of {b.forks}", "`cat` in each")
    b.add("forks_of_a_sleeper_s", took, "s", f"one fork of {b.forks}", "the API's answer")
    for s in names + [source]:
        d.api("DELETE", f"/sandboxes/{s}")


def memory_kib(pid, field="VmRSS"):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0


def cpu_s(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def at_rest(b, d):
    from crash import pager
    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(lambda _: d.create("base"), range(b.rest)))
    time.sleep(5)  # what a create leaves behind is tidied up
    daemon, server = d.daemon.pid, pager(d)
    before, start = cpu_s(daemon) + cpu_s(server), time.monotonic()
    time.sleep(b.rest_s)
    used = cpu_s(daemon) + cpu_s(server) - before
    b.add("sandboxes_at_rest", len(d.sandboxes()), "", "-", "-", goal=b.rest >= 110)
    b.add("dormd_rss_mib", memory_kib(daemon) / 1024, "MiB", f"{b.rest} running", "-")
    # memfds are the images' resident memory; the rest is the pager's own
    b.add("pager_beyond_resident_mib", (memory_kib(server, "RssAnon") + memory_kib(server, "RssFile")) / 1024,
          "MiB", f"{b.rest} running", "-")
    b.add("idle_cpu_percent", 100 * used / (time.monotonic() - start), "%", f"{b.rest_s} s, dormd and pager",
          "of one processor")
    client, times = Client(d), []
    for _ in range(20):
        t0 = time.perf_counter()
        status, _ = client.ask("GET", "/metrics")
        assert status == 200
        times.append((time.perf_counter() - t0) * 1e3)
    b.add("metrics_scrape_p50_ms", percentile(times, .5), "ms", "GET /metrics", "its last byte")
    for s in names:
        d.api("DELETE", f"/sandboxes/{s}")


def restarts(b, d):
    """kill -9 of dormd under load; how long the API does not answer"""
    names = [d.create("base") for _ in range(3)]
    for s in names:
        d.hold_pattern(s, 2)
    stop = threading.Event()

    def load(s):
        while not stop.is_set():
            try:
                d.dorm("exec", "-u", "root", s, "--", "true", check_status=False, timeout_s=30)
            except Exception:  # it is being restarted
                time.sleep(0.01)
    threads = [threading.Thread(target=load, args=(s,), daemon=True) for s in names]
    for t in threads:
        t.start()
    stalls, counts = [], {s: 0 for s in names}
    for _ in range(b.restarts):
        time.sleep(0.2)
        d.kill()
        start = time.perf_counter()
        d.start()
        stalls.append(time.perf_counter() - start)
    stop.set()
    for t in threads:
        t.join(60)
    for s in names:
        count = d.check_pattern(s)  # every page, and the counter that nobody stopped
        assert count > counts[s], s
        d.api("DELETE", f"/sandboxes/{s}")
    b.add("restart_stall_p50_s", percentile(stalls, .5), "s", "kill -9 of dormd", "the next one answers")
    b.add("restart_stall_max_s", max(stalls), "s", "kill -9 of dormd", "the next one answers")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build-dir", default="build")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    args = parser.parse_args()
    build = pathlib.Path(args.build_dir).resolve()
    os.environ["DORM_BUILD"] = str(build)
    from harness import Dormouse
    b = Bench(args.quick)
    with Dormouse("--warm-vms", "0") as d:
        d.build_template("base", 128)
        creates(b, d, "create_cold", 0)
        burst(b, d)
        forks(b, d)
        at_rest(b, d)
        restarts(b, d)
    with Dormouse("--warm-vms", "2") as d:
        d.build_template("base", 128)
        creates(b, d, "create_warm", 0.5)
    b.rows.write(build / "bench" / "host.json")
    b.rows.table()
    print(f"  figures in {build / 'bench' / 'host.json'}")


if __name__ == "__main__":
    main()
