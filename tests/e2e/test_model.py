# SPDX-License-Identifier: Apache-2.0
# timeout: 900
"""Random operations on up to 20 sandboxes, with kill -9 of dormd, pager, QEMU and guest, a full disk
and a clock that jumps: after each, what is there equals the model, and in the end nothing is left.

    python3 tests/e2e/test_model.py            DORM_MODEL_OPS=5000 DORM_MODEL_SEED=7 python3 ...

Every sandbox holds a pattern in its memory (tests/guest/pattern.c): its hash says which changes it
went through, its counter that it never went back. The seed is printed; the same seed asks for the
same operations, though a kill may meet them elsewhere. dormd runs with a clock that can be moved
(shift-clock.c), on a store in a file system of its own.
"""
import http.client
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time

from connect import Box, Broken, output_of
from crash import Background, check_sound, is_alive, pager, pagers, vms
from harness import ApiError, Dormouse, check, main, program, skip, wait_until

OPS = int(os.environ.get("DORM_MODEL_OPS", "220"))
SEED = int(os.environ.get("DORM_MODEL_SEED", str(int(time.time()))))
MAX_SANDBOXES = 20
STORE_MB = 1200
LONG_S, SHORT_S = 1000000, 1000
LOST = (OSError, http.client.HTTPException, Broken)


class Sandbox:
    """what is known of one: its state, the hash of its memory, and the least its counter can be"""

    def __init__(self, name, state, hash_, count, end, auto_pause, tag):
        self.name, self.state, self.hash, self.count = name, state, hash_, count
        self.end, self.auto_pause, self.tag = end, auto_pause, tag

    def __repr__(self):
        return f"{self.name}:{self.state}"


class Model:
    def __init__(self, d, rng, place):
        self.d, self.rng, self.place = d, rng, place
        self.sandboxes, self.snapshots = {}, {}  # by id; a snapshot's hash and counter
        self.gone = []
        self.offset = 0
        self.done = []  # the last operations, for whoever reads a failure
        self.counts = {}

    # ---- looking --------------------------------------------------------------------------------

    def now(self):
        return time.time() + self.offset

    def in_state(self, *states):
        return [s for s in self.sandboxes.values() if s.state in states]

    def pick(self, *states):
        found = sorted(self.in_state(*states), key=lambda s: s.tag)
        return self.rng.choice(found) if found else None

    def ask(self, sandbox, words):
        """what the pattern's holder says"""
        stream, _ = Box(self.d, sandbox.name, "root").start(f"/tmp/pattern {words}", 60)
        text, end = output_of(stream)
        stream.close()
        check(end is not None, f"{sandbox}: `{words}` has no end: {text!r} {stream.error}")
        return text.strip()

    def verify(self, sandbox, any_of=None):
        """its memory is right, and its counter has gone on; @any_of: hashes that it may have"""
        text = self.ask(sandbox, "check")
        seen = re.fullmatch(r"ok pages=\d+ bad=0 hash=(\w+) count=(\d+)", text)
        check(seen, f"{sandbox} has wrong memory: {text}")
        check(seen[1] in (any_of or [sandbox.hash]), f"{sandbox} has {seen[1]}, not {sandbox.hash}")
        check(int(seen[2]) >= sandbox.count, f"{sandbox} went back to {seen[2]} from {sandbox.count}")
        sandbox.hash, sandbox.count = seen[1], int(seen[2])

    def states(self):
        return {s["sandboxID"]: s["status"] for s in self.d.sandboxes()}

    def compare(self):
        """does the host have what the model has?"""
        def same():
            real = self.states()
            return real == {s.name: s.state for s in self.sandboxes.values()} or None
        try:
            wait_until(same, 10, "equal")
        except AssertionError:
            real, mine = self.states(), {s.name: s.state for s in self.sandboxes.values()}
            differ = {i: (real.get(i), mine.get(i)) for i in real.keys() | mine.keys()
                      if real.get(i) != mine.get(i)}
            raise AssertionError(f"host and model differ: {differ}") from None
        real = {s["snapshotID"] for s in self.d.api("GET", "/snapshots?limit=1000")}
        check(real - self.built == set(self.snapshots),
              f"snapshots: {real - self.built} instead of {set(self.snapshots)}")

    # ---- what clients do --------------------------------------------------------------------------

    def add(self, name, source_hash, count, end, auto_pause):
        self.sandboxes[name] = Sandbox(name, "running", source_hash, count, end, auto_pause,
                                       len(self.done) * 100 + len(self.sandboxes))

    def expect(self, status, method, path, body=None):
        try:
            self.d.api(method, path, body)
        except ApiError as e:
            check(e.status == status and e.body.get("code") == status, f"{method} {path}: {e} {e.body}")
            return
        raise AssertionError(f"{method} {path} worked, instead of {status}")

    def create(self):
        if len(self.sandboxes) >= MAX_SANDBOXES:
            return self.delete()
        source = self.rng.choice(sorted(self.snapshots, key=lambda i: self.snapshots[i][2]))
        hash_, count, _ = self.snapshots[source]
        short, auto_pause = self.rng.random() < 0.3, self.rng.random() < 0.5
        timeout = SHORT_S if short else LONG_S
        name = self.d.create(source, timeout=timeout, autoPause=auto_pause)
        self.add(name, hash_, count, self.now() + timeout, auto_pause)
        return name

    def sleep(self, s):
        self.d.api("POST", f"/sandboxes/{s.name}/pause", {})
        s.state = "asleep"

    def wake(self, s):
        self.connect(s)
        s.state = "running"

    def connect(self, s):
        """wakes it, if it sleeps, and can only give it more time"""
        self.d.api("POST", f"/v2/sandboxes/{s.name}/connect", {"timeout": SHORT_S})
        s.end = max(s.end, self.now() + SHORT_S)

    def fork(self, s):
        count = self.rng.randint(1, 3)
        if len(self.sandboxes) + count > MAX_SANDBOXES:
            return
        for f in self.d.api("POST", f"/sandboxes/{s.name}/fork", {"count": count, "timeout": LONG_S}):
            check("sandbox" in f, f"a fork of {s}: {f}")
            self.add(f["sandbox"]["sandboxID"], s.hash, s.count, self.now() + LONG_S, s.auto_pause)

    def snapshot(self, s):
        if len(self.snapshots) >= 6:
            return self.forget_snapshot()
        made = self.d.api("POST", f"/sandboxes/{s.name}/snapshots", {})["snapshotID"]
        self.snapshots[made] = (s.hash, s.count, len(self.done))

    def forget_snapshot(self):
        if len(self.snapshots) > 1:
            victim = self.rng.choice(sorted(self.snapshots, key=lambda i: self.snapshots[i][2]))
            self.d.api("DELETE", f"/templates/{victim}")
            del self.snapshots[victim]

    def delete(self, s=None):
        s = s or self.pick("running", "asleep", "failed")
        if s:
            self.d.api("DELETE", f"/sandboxes/{s.name}")
            del self.sandboxes[s.name]
            self.gone.append(s.name)

    def mutate(self, s):
        text = self.ask(s, f"mutate {self.rng.randint(1, 1 << 40)} {self.rng.randint(1, 60)}")
        check(" hash=" in text, f"{s}: {text}")
        s.hash = text.rpartition("hash=")[2]

    def wrong_state(self):
        """what cannot be done is refused, with the right status, and changes nothing"""
        if (s := self.pick("asleep")):
            self.expect(409, "POST", f"/sandboxes/{s.name}/pause", {})
        if (s := self.pick("failed")):
            self.expect(409, "POST", f"/sandboxes/{s.name}/pause", {})
        if (s := self.pick("running")):
            self.connect(s)
        if self.gone:
            name = self.rng.choice(self.gone)
            for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/fork")):
                self.expect(404, method, f"/sandboxes/{name}{path}", {} if method == "POST" else None)
        self.expect(400, "POST", "/v2/sandboxes", {"templateID": 5})

    def set_timeout(self, s):
        timeout = self.rng.choice([SHORT_S, LONG_S])
        self.d.api("POST", f"/sandboxes/{s.name}/timeout", {"timeout": timeout})
        s.end = self.now() + timeout

    # ---- what goes wrong -------------------------------------------------------------------------

    def interrupted(self, what, s):
        """one operation with a kill in the middle: afterwards it has happened, or not"""
        forks = self.rng.randint(1, 3)
        before = s.state
        operation, allowed = {
            "create": (lambda: self.d.create(min(self.snapshots)), {before}),
            "sleep": (lambda: self.d.api("POST", f"/sandboxes/{s.name}/pause", {}), {before, "asleep"}),
            "wake": (lambda: self.connect(s), {before, "running"}),
            "fork": (lambda: self.d.api("POST", f"/sandboxes/{s.name}/fork", {"count": forks}), {before}),
            "snapshot": (lambda: self.d.api("POST", f"/sandboxes/{s.name}/snapshots", {}), {before}),
            "delete": (lambda: self.d.api("DELETE", f"/sandboxes/{s.name}"), {before, None}),
        }[what]
        victim = self.rng.choice(["dormd", "dormd", "pager"])
        under_way = Background(operation)
        time.sleep(self.rng.random() * 0.25)
        self.kill_dormd() if victim == "dormd" else self.kill_pager()
        under_way.join(90)
        check(not under_way.is_alive(), f"a {what} hangs after the {victim} was killed")
        self.settle(s, allowed)
        self.drop_unknown()
        if s.name in self.sandboxes and s.state == "running":
            self.verify(s)

    def settle(self, s, allowed):
        state = wait_until(lambda: [self.states().get(s.name)] if self.states().get(s.name) in allowed
                           else None, 30, f"{s} is one of {allowed}: {self.states().get(s.name)}")[0]
        if state is None:
            del self.sandboxes[s.name]
            self.gone.append(s.name)
        s.state = state

    def drop_unknown(self):
        """whose answer was lost: whole sandboxes and snapshots that nobody knows of"""
        for name, state in self.states().items():
            if name not in self.sandboxes:
                check(state in ("running", "asleep"), f"{name}, of a lost answer, is {state}")
                self.d.api("DELETE", f"/sandboxes/{name}")
        for snapshot in self.d.api("GET", "/snapshots?limit=1000"):
            if snapshot["snapshotID"] not in self.snapshots.keys() | self.built:
                self.d.api("DELETE", f"/templates/{snapshot['snapshotID']}")

    def kill_dormd(self):
        self.d.kill()
        self.d.start()

    def kill_pager(self):
        for pid in pagers(self.d):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len([p for p in pagers(self.d) if is_alive(p)]) == 1, 20, "another pager")

    def kill_qemu(self, s):
        os.kill(self.d.vm_pid(s.name), signal.SIGKILL)
        self.settle(s, {"failed"})

    def crash_guest(self, s):
        """its kernel panics, and with it the agent"""
        try:
            stream, _ = Box(self.d, s.name, "root").start("echo c > /proc/sysrq-trigger", 5)
            output_of(stream)
        except (*LOST, ApiError, TypeError):
            pass
        real = wait_until(lambda: self.states().get(s.name), 10, "it is still known")
        if real == "failed":
            s.state = real
        else:  # a kernel that stands still: nothing tells but its silence; it can be deleted
            self.delete(s)

    def full_disk(self, s):
        """no room at all: what has to be written fails, and everything is as it was"""
        ballast = self.place / "ballast"
        with open(ballast, "wb", buffering=0) as f:
            try:
                while f.write(bytes(1 << 16)):
                    pass
            except OSError:
                pass
        try:
            for method, path in (("POST", "pause"), ("POST", "fork"), ("POST", "snapshots")):
                self.expect(507, method, f"/sandboxes/{s.name}/{path}", {})
            check(self.states().get(s.name) == "running", f"{s} on a full disk: {self.states()}")
            self.verify(s)
        finally:
            ballast.unlink()

    def jump(self, seconds):
        self.offset += seconds
        (self.place / "clock").write_text(str(self.offset))
        self.expire()

    def expire(self):
        """whose time is up is gone, or sleeps; one that slept is gone unless it was to sleep"""
        for s in list(self.sandboxes.values()):
            if s.end > self.now() or s.state == "failed":
                continue
            if s.auto_pause:
                self.settle(s, {"asleep"})
            else:
                self.settle(s, {None})

    # ---- all of it ---------------------------------------------------------------------------------

    def step(self):
        rng = self.rng
        what = rng.choices(
            ["create", "sleep", "wake", "fork", "snapshot", "delete", "mutate", "verify", "wrong",
             "timeout", "restart", "pager", "interrupted", "qemu", "panic", "disk", "clock"],
            [14, 14, 14, 7, 5, 8, 12, 8, 3, 3, 2, 2, 6, 2, 0.7, 1, 1.5])[0]
        states = {"sleep": ["running"], "wake": ["asleep"], "mutate": ["running"], "verify": ["running"],
                  "qemu": ["running"], "panic": ["running"], "disk": ["running"],
                  "interrupted": ["running", "asleep"], "timeout": ["running", "asleep"],
                  "fork": ["running", "asleep"], "snapshot": ["running", "asleep"]}.get(what)
        s = self.pick(*states) if states else None
        if states and not s:
            what = "create"
        if what == "interrupted":
            what += "-" + rng.choice(["create", "fork", "snapshot", "delete",
                                      "sleep" if s.state == "running" else "wake"])
        self.done.append(f"{what} {s or ''}")
        self.counts[what] = self.counts.get(what, 0) + 1
        if what.startswith("interrupted"):
            return self.interrupted(what.partition("-")[2], s)
        return {
            "create": self.create, "sleep": lambda: self.sleep(s), "wake": lambda: self.wake(s),
            "fork": lambda: self.fork(s), "snapshot": lambda: self.snapshot(s), "delete": self.delete,
            "mutate": lambda: self.mutate(s), "verify": lambda: self.verify(s),
            "wrong": self.wrong_state, "timeout": lambda: self.set_timeout(s),
            "restart": self.kill_dormd, "pager": self.kill_pager, "qemu": lambda: self.kill_qemu(s),
            "panic": lambda: self.crash_guest(s), "disk": lambda: self.full_disk(s),
            "clock": lambda: self.jump(rng.choice([-300, 400, 2 * SHORT_S])),
        }[what]()

    def begin(self):
        self.d.build_template("base", 128)
        self.built = {s["snapshotID"] for s in self.d.api("GET", "/snapshots?limit=1000")}
        first = self.d.create("base", timeout=LONG_S)
        self.d.hold_pattern(first, 2)
        hash_ = re.search(r"hash=(\w+)", self.ask(Sandbox(first, "running", "", 0, 0, False, 0), "check"))[1]
        self.add(first, hash_, 0, self.now() + LONG_S, False)
        self.snapshot(self.sandboxes[first])

    def everything(self):
        """all of it, not only the states"""
        # the layers of one that has just fallen asleep may be merged for a moment
        wait_until(lambda: not list((self.d.root / "tmp").iterdir()), 30, "tmp/ is empty")
        check_sound(self.d)
        for s in self.in_state("running"):
            self.verify(s)

    def end(self):
        """everything can be deleted, whatever happened to it, and nothing is left"""
        for s in list(self.sandboxes.values()):
            start = time.monotonic()
            self.delete(s)
            check(time.monotonic() - start < 5, f"deleting {s} took {time.monotonic() - start:.1f} s")
        for snapshot in self.snapshots:
            self.d.api("DELETE", f"/templates/{snapshot}")
        self.snapshots = {}
        self.compare()
        check_sound(self.d)
        wait_until(lambda: not vms(self.d), 10, f"no VM is left: {vms(self.d)}")
        check(not leftover_cgroups(self.d), f"{leftover_cgroups(self.d)}")
        sizes = [p for p in (self.d.root / "sandboxes").iterdir()]
        check(not sizes, f"{sizes}")
        check(len(open_files(self.d.daemon.pid)) < 100, f"{open_files(self.d.daemon.pid)}")
        memfds = [f for f in open_files(pager(self.d)) if "memfd:" in f]
        check(len(memfds) <= 20, f"the pager keeps {memfds}")


def open_files(pid):
    found = []
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(fd))
        except OSError:
            pass
    return found


def leftover_cgroups(d):
    """of sandboxes of this store"""
    names = {p.name for p in (d.root / "sandboxes").iterdir()}
    done = subprocess.run(["find", "/sys/fs/cgroup", "-type", "d", "-path", "*dormouse*", "-name", "i????????????????????"],
                          capture_output=True, text=True, check=False)
    mine = {line.strip() for line in (d.dir / "ids").read_text().splitlines()} if (d.dir / "ids").exists() else set()
    return [line for line in done.stdout.split() if pathlib.Path(line).name in mine - names]


def test_model():
    d = Dormouse()
    place = d.dir / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={STORE_MB}m", "tmpfs", place], check=False).returncode:
        shutil.rmtree(d.dir)
        skip("a file system cannot be mounted here")
    (place / "clock").write_text("0")
    d.root, d.run, d.log = place / "store", place / "run", d.dir / "dormd.log"
    d.socket = d.run / "dormd.sock"
    d.env.update(DORM_SOCKET=str(d.socket), LD_PRELOAD=program("libshift-clock.so"),
                 DORM_SHIFT_CLOCK=str(place / "clock"))
    print(f"seed {SEED}, {OPS} operations", flush=True)
    model = Model(d, random.Random(SEED), place)
    try:
        with d:
            model.begin()
            for i in range(OPS):
                try:
                    model.step()
                    model.compare()
                    with open(d.dir / "ids", "a") as f:
                        f.writelines(f"{s}\n" for s in model.sandboxes)
                    if i % 20 == 19:
                        model.everything()
                except Exception as e:
                    raise AssertionError(f"seed {SEED}, operation {i + 1} ({model.done[-1]}): "
                                         f"{type(e).__name__}: {e}; before: {model.done[-6:-1]}") from e
            model.everything()
            model.end()
            print("  " + ", ".join(f"{n} {what}" for what, n in sorted(model.counts.items())), flush=True)
    finally:
        subprocess.run(["umount", "-l", place], check=False)


main(globals())
