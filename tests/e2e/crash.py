# SPDX-License-Identifier: Apache-2.0
"""What the crash tests share: whose processes and files are there, and whose should be."""
import json
import os
import pathlib
import re
import signal
import threading

from harness import ApiError, check, wait_until


def read(path):
    try:
        return pathlib.Path(path).read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def pids():
    return [int(e.name) for e in pathlib.Path("/proc").iterdir() if e.name.isdigit()]


def is_alive(pid):
    """neither gone nor a zombie that its new parent has not collected yet"""
    return re.search(r"^State:\s+[^ZX]", read(f"/proc/{pid}/status"), re.M) is not None


def vms(d):
    """processes that work in the store, also in a part of it that was removed"""
    found = set()
    for pid in pids():
        try:
            cwd = os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            continue  # gone, or a zombie
        if cwd.startswith(f"{d.root}/"):
            found.add(pid)
    return found


def pagers(d):
    return [pid for pid in pids()
            if "dorm-pager" in read(f"/proc/{pid}/comm") and str(d.run) in read(f"/proc/{pid}/cmdline")
            and is_alive(pid)]


def pager(d):
    """the one pager of this dormd"""
    found = pagers(d)
    check(len(found) == 1, f"pagers: {found}")
    return found[0]


def kill_and_wait(pid, sig=signal.SIGKILL):
    os.kill(pid, sig)
    wait_until(lambda: not is_alive(pid), 10, f"process {pid} is gone")


def record(d, sandbox):
    return json.loads((d.root / "sandboxes" / sandbox / "sandbox.json").read_text())


def failure(d, sandbox, timeout_s=10):
    """wait until it has failed; returns why"""
    wait_until(lambda: d.status(sandbox) == "failed", timeout_s, f"{sandbox} is failed")
    return d.api("GET", f"/sandboxes/{sandbox}")["failure"]


def check_sound(d):
    """what a store must look like when no operation is under way; returns {sandbox: status}"""
    status = {s["sandboxID"]: s["status"] for s in d.sandboxes()}
    check(set(status.values()) <= {"running", "asleep", "failed"}, f"{status}")
    on_disk = {p.name for p in (d.root / "sandboxes").iterdir()}
    check(on_disk == set(status), f"sandboxes/ has {on_disk}, the API {status}")
    left = [p.name for p in (d.root / "tmp").iterdir()]
    check(not left, f"tmp/ has {left}")
    owned = {d.vm_pid(s) for s, state in status.items() if state == "running"}
    check(vms(d) == owned, f"VMs {vms(d)}, of which sandboxes own {owned}")
    for s in status:
        home = d.root / "sandboxes" / s
        memory = [p.name for p in home.glob("memory-*")]
        check(memory == [f"memory-{record(d, s)['generation']}"], f"{s} has {memory}")
        check(not list(home.glob("*.new.*")), f"{s}: {list(home.iterdir())}")
    return status


class Background(threading.Thread):
    """an operation that may be cut short: result is what it returned, or None; error why not"""

    def __init__(self, operation):
        super().__init__(daemon=True)
        self.operation, self.result, self.error = operation, None, None
        self.start()

    def run(self):
        try:
            self.result = self.operation()
        except (ApiError, OSError, AssertionError, ValueError) as e:
            self.error = e
        except Exception as e:  # http.client has many of its own for a connection that broke
            self.error = e


def delete_all(d, keep=()):
    for s in d.sandboxes():
        if s["sandboxID"] not in keep:
            d.api("DELETE", f"/sandboxes/{s['sandboxID']}")
