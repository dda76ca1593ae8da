# SPDX-License-Identifier: Apache-2.0
"""What dormd and its pager cost while all sandboxes are idle.

    from at_rest import at_rest
    ...
    cost = at_rest(dormouse, settle_s=30, seconds=30)

dormouse is a started Dormouse (tests/e2e/harness.py) with idle sandboxes. Nothing is asked of dormd
while it is measured, but for the scrapes at the end.
"""
import os
import pathlib
import time

from harness import UnixConnection

TICK = os.sysconf("SC_CLK_TCK")


def status(pid, field):
    """a field of /proc/PID/status in bytes, or as a number"""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            words = value.split()
            return int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    raise KeyError(field)


def cpu_s(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def wakeups(pid):
    """voluntary switches of all its threads so far"""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
        except OSError:  # a thread that has just ended
            pass
    return total


def scrape_ms(dormouse):
    """one GET /metrics on a connection of its own, from connecting to the last byte"""
    begin = time.monotonic()
    connection = UnixConnection(dormouse.socket, 60)
    connection.request("GET", "/metrics")
    n = len(connection.getresponse().read())
    connection.close()
    return (time.monotonic() - begin) * 1000, n


def at_rest(dormouse, settle_s, seconds):
    """wait settle_s, then watch for seconds; see the keys"""
    pids = {"dormd": dormouse.daemon.pid, "pager": dormouse.api("GET", "/pager")["pid"]}
    time.sleep(settle_s)  # the load of what was done before, not a condition
    before = {name: (cpu_s(pid), wakeups(pid)) for name, pid in pids.items()}
    begin = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begin
    cost = {}
    for name, pid in pids.items():
        cpu, wakes = before[name]
        cost[f"{name}_rss_bytes"] = status(pid, "VmRSS")
        cost[f"{name}_anon_bytes"] = status(pid, "RssAnon")
        cost[f"{name}_threads"] = status(pid, "Threads")
        cost[f"{name}_cpu_pct"] = 100 * (cpu_s(pid) - cpu) / took
        cost[f"{name}_wakeups_per_s"] = (wakeups(pid) - wakes) / took
    scrapes = [scrape_ms(dormouse) for _ in range(9)]
    cost["scrape_ms_median"] = sorted(ms for ms, _ in scrapes)[4]
    cost["scrape_bytes"] = scrapes[0][1]
    return cost
