#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The main job on a real guest, from beginning to end: boot once, sleep, wake, fork.

    make demo        or        python3 tests/bench/demo.py --build-dir build [--forks 20]

Every number on the last screen was measured in this run. Boots, wakes and forks are timed by dormd
from the request to the agent's first answer, QEMU's own restore from the start of its process to the
same answer. What a wake does after that, the repair (identity, clock, random numbers, thaw), has a
figure of its own.
Writes build/bench/demo.json (the form is in docs/architecture.md, "Benchmarks").
"""
import argparse
import os
import pathlib
import signal
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "tests" / "bench" / "lib")]

from rows import Rows

CREATES = 10

MEMORY_MB = 1024
PATTERN_MB = 512
FIRST_WAKES = 5
T0 = time.monotonic()


def step(text):
    print(f"[{time.monotonic() - T0:6.1f} s] {text}", flush=True)


def mib(n):
    return f"{n / (1 << 20):.1f} MiB"


def percentile(values, p):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(p / 100 * len(ordered)))]


def answer_ms(wake):
    """of a wake's time, the part up to the agent's first answer"""
    return wake["totalMs"] - wake["phases"]["repair"]


class Demo:
    def __init__(self, d, forks):
        self.d = d
        self.n_forks = forks
        self.rows = Rows()

    # ---- the pieces

    def check(self, sandbox):
        """every page of the pattern; returns how far it has counted"""
        return self.d.check_pattern(sandbox)

    def userfaults(self, sandbox):
        return self.d.api("GET", f"/sandboxes/{sandbox}/memory")["pager"]

    def create(self, template):
        return self.d.api("POST", "/v2/sandboxes", {"templateID": template, "timeout": 3600})

    def sleep(self, sandbox):
        return self.d.api("POST", f"/sandboxes/{sandbox}/pause?details=1", {})

    def wake(self, sandbox):
        return self.d.api("POST", f"/v2/sandboxes/{sandbox}/connect", {})["wake"]

    # ---- the story

    def build_template(self):
        step(f"building a template: a Linux guest with {MEMORY_MB} MiB boots once")
        log = self.d.build_template("demo", MEMORY_MB, say=lambda t: step("    " + t))
        boot = next(float(t.split()[2]) for t in log if t.startswith("booted in"))
        self.rows.add("cold_boot_ms", boot, "ms", None, None, "the pager is asked for memory",
                      "the agent's first answer")
        self.boot_ms = boot

    def fill(self):
        sandbox = self.create("demo")["sandboxID"]
        step(f"sandbox {sandbox}: filling {PATTERN_MB} MiB with a checkable pattern, and counting")
        self.d.hold_pattern(sandbox, PATTERN_MB)
        count = self.check(sandbox)
        step(f"    every page is right; it has counted to {count}")
        return sandbox

    def sleep_and_wake(self, sandbox):
        """each sleep makes a new image, of which nothing is resident: so each wake is a first one"""
        saved = self.sleep(sandbox)
        self.rows.add("sleep_ms", saved["totalMs"], "ms", None, None, "pause request",
                      "snapshot durable on disk")
        step(f"asleep in {saved['totalMs']:.0f} ms: {saved['pagesStored']} changed pages, "
             f"{mib(saved['bytesStored'])} stored; its memory is free again")
        wakes, faults = [], []
        for i in range(FIRST_WAKES):
            if i:
                self.sleep(sandbox)
            wakes.append(self.wake(sandbox))
            stats = self.userfaults(sandbox)
            faults.append(stats["faults"])
            step(f"awake in {answer_ms(wakes[-1]):.0f} ms, repaired after "
                 f"{wakes[-1]['totalMs']:.0f} ms; nothing of it was in memory: {faults[-1]} "
                 f"userfaults brought {mib(stats['pages_inserted'] * 4096)}")
        first = [answer_ms(w) for w in wakes]
        self.rows.add("first_wake_ms", first, "ms", None, None, "connect request",
                      "the agent's first answer")
        self.rows.add("first_wake_repaired_ms", [w["totalMs"] for w in wakes], "ms", None, None,
                      "connect request", "the agent has repaired the guest")
        self.rows.add("userfaults_first_wake", faults, "faults", None, None, "VMM started",
                      "the agent has repaired the guest")
        self.wake_vs_boot(statistics.median(first))
        count = self.check(sandbox)
        step(f"    every page is right; it has counted on to {count}")

    def wake_vs_boot(self, first):
        ratio = self.boot_ms / first
        self.rows.add("wake_vs_boot", ratio, "x", ">= 10", lambda v: v >= 10, "cold_boot_ms",
                      "first_wake_ms")

    def warm(self, snapshot):
        """the same snapshot again and again: the first one loads it, the others find it"""
        times, faults = [], []
        for i in range(6):
            made = self.create(snapshot)
            sandbox = made["sandboxID"]
            stats = self.userfaults(sandbox)
            if i:
                times.append(answer_ms(made["wake"]))
                faults.append(stats["faults"])
            self.d.api("DELETE", f"/sandboxes/{sandbox}")
        self.rows.add("warm_wake_ms", times, "ms", None, None, "create request",
                      "the agent's first answer")
        step(f"the same snapshot woken {len(times)} more times, now resident: "
             f"{statistics.median(times):.0f} ms, {statistics.median(faults):.0f} userfaults")

    def creates(self):
        """from the template, with a VM that is kept ready and without one, in turns"""
        from creates import one_after_the_other
        one_after_the_other(self.d, self.rows, "demo", CREATES)
        step(f"creating {CREATES} sandboxes from the template with a VM that is kept ready, and "
             f"{CREATES} without: {self.rows.value('create_warm_ms'):.0f} and "
             f"{self.rows.value('create_cold_ms'):.0f} ms until they are repaired")

    def fork(self, sandbox):
        step(f"forking the running sandbox {self.n_forks} times at once")
        t = time.monotonic()
        made = self.d.api("POST", f"/sandboxes/{sandbox}/fork",
                          {"count": self.n_forks, "timeout": 3600}, timeout_s=300)
        wall = (time.monotonic() - t) * 1e3
        bad = [m["error"]["message"] for m in made if "error" in m]
        if bad:
            raise SystemExit(f"{len(bad)} forks failed: {bad[0]}")
        forks = [m["sandbox"]["sandboxID"] for m in made]
        times = [answer_ms(m["sandbox"]["wake"]) for m in made]
        start, end = "one fork begins (several at a time)", "that fork's first answer"
        self.rows.add("fork_wall_ms_each", wall / len(forks), "ms", None, None,
                      "fork request, divided by the number of forks", "all of them are repaired")
        self.rows.add("fork_p50_ms", percentile(times, 50), "ms", None, None, start, end)
        self.rows.add("fork_p95_ms", percentile(times, 95), "ms", None, None, start, end)
        step(f"    {len(forks)} forks in {wall:.0f} ms, source snapshotted in between: "
             f"{wall / len(forks):.0f} ms each")
        faults = [self.userfaults(f)["faults"] for f in forks]
        resident = [self.userfaults(f)["faults_resident"] for f in forks]
        self.userfaults_of_forks(faults, resident)
        return forks

    def userfaults_of_forks(self, faults, resident):
        last = faults[len(faults) // 2:]
        self.rows.add("userfaults_second_fork", last, "faults", "0", lambda v: v == 0, "VMM started",
                      "the agent has repaired that fork (second half of the forks)")
        step(f"    userfaults per fork, in order: {' '.join(map(str, faults))}")

    def use_forks(self, forks):
        def work(i_fork):
            i, fork = i_fork
            name = self.d.exec(fork, "hostname")
            if name != fork:
                raise SystemExit(f"fork {fork} thinks it is {name}")
            self.d.exec(fork, "/tmp/pattern", "mutate", str(1000 + i), "200")
            return self.check(fork)

        with ThreadPoolExecutor(2) as pool:
            counts = list(pool.map(work, enumerate(forks)))
        step(f"    each knows its own name, changed 200 pages of its own, has all {PATTERN_MB} MiB "
             "right,")
        step(f"    and counts on by itself: {min(counts)} to {max(counts)}")
        memory = [self.d.api("GET", f"/sandboxes/{f}/memory") for f in forks]
        own = [m["ownBytes"] for m in memory]
        private = [m["vmmPrivateBytes"] for m in memory]
        shared = [m["sharedBytes"] for m in memory]
        self.rows.add("fork_private_bytes", private, "bytes", None, None, "-",
                      "after a command and a check of all its memory")
        self.rows.add("fork_own_guest_bytes", own, "bytes", None, None, "-", "the same")
        self.rows.add("fork_shared_bytes", shared, "bytes", None, None, "-", "the same")
        step(f"    memory of one fork: {mib(statistics.median(shared))} shared with the others, "
             f"{mib(statistics.median(own))} of its guest its own "
             f"({mib(statistics.median(private))} with the VMM)")

    def delete_sources(self, sandbox, snapshot, forks):
        self.d.api("DELETE", f"/sandboxes/{sandbox}")
        self.d.api("DELETE", f"/templates/{snapshot}")
        self.check(forks[0])
        step("deleted the source sandbox and the source snapshot; the forks run on, and are right")

    def generations(self, fork):
        for generation in (2, 3):
            self.d.exec(fork, "/tmp/pattern", "mutate", str(generation), "500")
            saved = self.sleep(fork)
            wake = self.wake(fork)
            self.check(fork)
            step(f"generation {generation}: slept ({mib(saved['bytesStored'])}), woke in "
                 f"{answer_ms(wake):.0f} ms, every page is right")

    def idle(self, fork):
        self.sleep(fork)
        self.wake(fork)
        time.sleep(5)
        stored = self.sleep(fork)["bytesStored"]
        self.rows.add("fork_stored_bytes", stored, "bytes", "< 4 MiB", lambda v: v < 4 << 20,
                      "woken, then five idle seconds", "asleep again: size of the new layer")
        step(f"a fork that idled for five seconds stores {mib(stored)}")

    def against_qemu(self, sandbox):
        from qemu_restore import save_with_qemu, restore_with_qemu
        step("QEMU's own way, same guest: migration to a file, and restore from it")
        self.d.daemon.send_signal(signal.SIGKILL)  # it holds the control socket; the VM lives on
        self.d.daemon.wait(10)
        state = self.d.dir / "qemu-state"
        command = save_with_qemu(self.d.root / "sandboxes" / sandbox, state)
        times = [restore_with_qemu(command, state, self.d.dir, MEMORY_MB) for _ in range(3)]
        state.unlink()
        self.d.start()
        self.rows.add("qemu_restore_ms", times, "ms", None, None, "QEMU process started",
                      "the agent's first answer")
        first = self.rows.value("first_wake_ms")
        self.rows.add("wake_vs_qemu", [t / first for t in times], "x", ">= 10", lambda v: v >= 10,
                      "qemu_restore_ms", "first_wake_ms")
        step(f"    QEMU takes {statistics.median(times):.0f} ms; and the next dormd, after kill -9 "
             "of the last one,")
        states = {s["sandboxID"]: s["status"] for s in
                  self.d.api("GET", "/v2/sandboxes?state=running,paused")}
        step(f"    adopted {sum(v == 'running' for v in states.values())} running sandboxes")

    def run(self):
        self.build_template()
        sandbox = self.fill()
        self.sleep_and_wake(sandbox)
        snapshot = self.d.api("POST", f"/sandboxes/{sandbox}/snapshots", {})["snapshotID"]
        self.warm(snapshot)
        self.creates()
        forks = self.fork(sandbox)
        self.use_forks(forks)
        self.delete_sources(sandbox, snapshot, forks)
        self.generations(forks[1])
        self.idle(forks[2])
        self.against_qemu(forks[3 % len(forks)])
        for f in forks:
            self.d.api("DELETE", f"/sandboxes/{f}")

    def screen(self):
        v = self.rows.value
        print(f"""
  Dormouse, measured in this run on a guest with {PATTERN_MB} of {MEMORY_MB} MiB in use;
  boots, wakes, forks and restores to the first answer of the agent in the guest
  ----------------------------------------------------------------------------
  cold boot                          {v('cold_boot_ms'):8.0f} ms
  sleep, everything changed          {v('sleep_ms'):8.0f} ms
  first wake, nothing resident       {v('first_wake_ms'):8.0f} ms   {v('userfaults_first_wake'):.0f} userfaults
  warm wake, image resident          {v('warm_wake_ms'):8.0f} ms
  create with a VM kept ready        {v('create_warm_ms'):8.0f} ms   without {v('create_cold_ms'):.0f} ms, both with the repair
  one of {self.n_forks} forks at once            {v('fork_p50_ms'):8.0f} ms   p95 {v('fork_p95_ms'):.0f} ms, {v('userfaults_second_fork'):.0f} userfaults
  all of them, each                  {v('fork_wall_ms_each'):8.0f} ms
  the same guest restored by QEMU    {v('qemu_restore_ms'):8.0f} ms
  ----------------------------------------------------------------------------
  a wake against a boot              {v('wake_vs_boot'):8.1f} x    (goal: 10)
  a wake against QEMU's restore      {v('wake_vs_qemu'):8.1f} x    (goal: 10)
  a fork shares {mib(v('fork_shared_bytes'))} and owns {mib(v('fork_own_guest_bytes'))}; an idle one stores {mib(v('fork_stored_bytes'))}
""")
        missed = [r["metric"] for r in self.rows.rows if r["ok"] is False]
        print("  every goal was reached" if not missed else f"  MISSED: {', '.join(missed)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build-dir", default="build")
    parser.add_argument("--forks", type=int, default=20)
    args = parser.parse_args()
    build = pathlib.Path(args.build_dir).resolve()
    os.environ["DORM_BUILD"] = str(build)
    from harness import Dormouse
    with Dormouse() as d:
        demo = Demo(d, args.forks)
        demo.run()
        demo.rows.write(build / "bench" / "demo.json")
        demo.screen()
    print(f"  {time.monotonic() - T0:.0f} s in all; figures in {build / 'bench' / 'demo.json'}")


if __name__ == "__main__":
    main()
