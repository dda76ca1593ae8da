# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""A guest whose agent means harm (hostile_guest.py): dormd stays small, and others do not notice."""
import os
import statistics
import subprocess
import time

from crash import delete_all
from harness import ApiError, Dormouse, check, main, program, wait_until
from hostile_guest import BEHAVIOURS, Guest

SEED = int(os.environ.get("DORM_SEED", "5"))
PLAY_S = float(os.environ.get("DORM_HOSTILE_SECONDS", "2"))
MEMORY_MB = 16  # that dormd may grow by
D = Dormouse("--answer-timeout", "5").__enter__()


def memory_mb():
    status = open(f"/proc/{D.daemon.pid}/status").read()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def descriptors():
    return len(os.listdir(f"/proc/{D.daemon.pid}/fd"))


def round_trip(sandbox):
    start = time.monotonic()
    check(D.exec(sandbox, "echo", "well", timeout_s=30) == "well", "the other one's command")
    return time.monotonic() - start


def replace(sandbox, behaviour):
    """from now on that plays the guest: its socket is taken while no dormd runs"""
    path = next((D.root / "sandboxes" / sandbox).rglob("agent.sock"))
    D.kill()
    path.rename(path.with_name("agent.real"))
    guest = Guest(path, behaviour, SEED)
    D.start()
    return guest, path


def ask(sandbox):
    """requests of several kinds, each left to its fate"""
    commands = [["exec", sandbox, "--", "true"], ["exec", "-i", sandbox, "--", "cat"],
                ["exec", sandbox, "--", "sleep", "1"]]
    return [subprocess.Popen([program("dorm"), *c], env=D.env, stdin=subprocess.PIPE,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for c in commands]


def feed(processes):
    """as much input as they take without waiting"""
    for p in processes:
        os.set_blocking(p.stdin.fileno(), False)
        try:
            while p.stdin.write(bytes(65536)):
                p.stdin.flush()
        except (BlockingIOError, BrokenPipeError):
            pass


def end(processes):
    for p in processes:
        p.kill()
        p.wait(10)
        try:
            p.stdin.close()
        except OSError:
            pass


def play(behaviour):
    victim, neighbour = D.create("base"), D.create("base")
    usual = statistics.median(round_trip(neighbour) for _ in range(5))
    guest, path = replace(victim, behaviour)
    clients = []
    try:
        wait_until(lambda: guest.seen or guest.error, 30, f"{behaviour.__name__} has a session")
        base_mb, base_fds = memory_mb(), descriptors()
        times, end_at = [], time.monotonic() + PLAY_S
        clients = ask(victim)
        while time.monotonic() < end_at:
            feed(clients)
            times.append(round_trip(neighbour))
            check(memory_mb() < base_mb + MEMORY_MB,
                  f"{behaviour.__name__}: dormd grew from {base_mb:.0f} to {memory_mb():.0f} MB")
            check(descriptors() < base_fds + 40,
                  f"{behaviour.__name__}: dormd has {descriptors()} descriptors, had {base_fds}")
        worst = statistics.median(times)
        check(worst < 5 * usual + 0.5,
              f"{behaviour.__name__}: a command of another sandbox took {worst:.2f} s, "
              f"usually {usual:.2f}")
        check(guest.error is None, f"{behaviour.__name__}: {guest.error!r}")
        end(clients)
        clients = []
        start = time.monotonic()
        D.api("DELETE", f"/sandboxes/{victim}", timeout_s=60)
        check(time.monotonic() - start < 20, "it was deleted in good time")
    finally:
        end(clients)
        guest.close()
    round_trip(neighbour)
    D.api("DELETE", f"/sandboxes/{neighbour}")
    wait_until(lambda: descriptors() <= base_fds, 20, f"{behaviour.__name__}: its descriptors")


def test_template():
    D.build_template("base", 96)


def make_case(behaviour):
    return lambda: play(behaviour)


for b in BEHAVIOURS:
    globals()[f"test_{b.__name__}"] = make_case(b)


def test_sleep_of_a_silent_guest():
    """it cannot prepare; it sleeps all the same, or says why not, and can be deleted"""
    victim = D.create("base")
    guest, path = replace(victim, BEHAVIOURS[0])
    try:
        wait_until(lambda: guest.seen, 30, "a session")
        try:
            D.api("POST", f"/sandboxes/{victim}/pause", {}, timeout_s=120)
        except ApiError as e:
            check(e.status >= 400 and e.body.get("message"), f"a reason: {e.body}")
        D.api("DELETE", f"/sandboxes/{victim}")
    finally:
        guest.close()


def test_end():
    delete_all(D)
    D.__exit__(None, None, None)


main(globals())
