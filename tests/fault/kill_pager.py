# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the pager under load, again and again; used by test_kill_pager.py and make bench-pager.

Clients touch memory at a steady rate, so that there is always something missing; the pager is killed
at random moments and started again with the same arguments on the same directories, as a supervisor
does. A client must never see a wrong page, nor end, nor wait for long: the stall of a kill is the
longest touch of a client that overlaps it.
"""
import random
import time

from rig import Pager, check, image

PAGES = 65536  # 256 MiB each: there must be something left to fault for to the last kill


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def stalls_of(touched, kills):
    """for each client and kill, the longest touch that was under way then or began soon after"""
    stalls = []
    for answer in touched:
        spans = answer["latency"]["stalls"]
        for kill in kills:
            stalls.append(max((ns for start, ns in spans
                               if start < kill + 200_000_000 and start + ns > kill), default=0))
    return stalls


def image_of(i, mode, pages):
    """each of them for two clients; in overlay mode a fork of the same for all, with pages of its own"""
    codec = ("none", "zstd")[i % 2]
    if mode != "overlay":
        return image(pages, f"{20 + i}:20:50", codec=codec)
    return image(pages, f"20:20:50:{90 + i}:12", codec=codec, parent=image(pages, "20:20:50", codec="none"))


def client_options(i, mode, seconds):
    """the memory of every second one is its own image; copy mode gives pages back, and so has
    something to fault for as long as it likes"""
    mode = mode or ("shared", "copy")[i % 2]
    give_back = {"owned": 50, "write": 20, "remove": 15} if mode == "copy" else {"owned": 10,
                                                                               "write": 30}
    if mode == "overlay":
        give_back["private"] = True
    return dict(mode=mode, threads=2, seed=i, seconds=seconds, rate=1500, trace="uniform",
                keep_checking=True, timeout=int(seconds + 30), regions=1 + i % 4, **give_back)


def answer_of(client, command=None):
    """what it answers; of one that ended or waits for ever, why"""
    try:
        return client.ask(command) if command else client.line()
    except (AssertionError, BrokenPipeError) as e:
        return {"error": str(e)}


def kill_pager(kills, mode=None, n_clients=8, pages=PAGES, pause=(0.05, 0.4)):
    """returns {"kills", "wrong", "lost", "stalls_ns": [...], "takeover_ns": [...]}"""
    dice = random.Random(kills)
    images = [image_of(i, mode, pages) for i in range(n_clients // 2)]
    seconds = kills * (sum(pause) / 2 + 0.15) + 1
    with Pager() as p:
        clients = [p.begin(f"c{i}", images[i // 2], **client_options(i, mode, seconds))
                   for i in range(n_clients)]
        for c in clients:
            c.wait_attached()
            c.send("touch")
        moments, starts = [], []
        for _ in range(kills):
            time.sleep(dice.uniform(*pause))
            moments.append(time.monotonic_ns())
            p.kill()
            p.start()
            starts.append(time.monotonic_ns() - moments[-1])
        touched = [answer_of(c) for c in clients]
        compared = [answer_of(c, "compare") for c in clients]
        known = {s["session"]: s["state"] for s in p.stats()["sessions"]}
        served = [known.get(f"c{i}") == "serving" for i in range(n_clients)]
        for c in clients:
            c.close()
        p.wait_sessions(0)
    whole = [a for a in touched if "wrong" in a]
    lost = sum(1 for t, c, s in zip(touched, compared, served)
               if not ("wrong" in t and "wrong" in c and s))
    check(whole, f"every client was lost: {touched}")
    return {"kills": kills, "wrong": sum(a.get("wrong", 0) for a in touched + compared),
            "lost": lost, "stalls_ns": stalls_of(whole, moments), "takeover_ns": starts,
            "touches": sum(a["touches"] for a in whole)}
