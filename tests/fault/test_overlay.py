#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Woken forks on the memory of their base, and what else goes on there at the same time.

test_pages.py has the cases that all modes share; here are those that only overlay mode has: a base
that others run from, load, or have only a part of; generations; the choice between modes.
"""
import time

from rig import PAGES, Pager, check, image, main, wait_until

BUSY = dict(threads=3, owned=25, write=30, seed=11, chaos=True)
FORK = ":99:12"


def fork_of(base, own=FORK, **options):
    return image(content=base.content + own, parent=base, **options)


def overlay(p, name, img, **options):
    c = p.begin(name, img, mode="overlay", private=True, **{**BUSY, **options})
    return c


def finish(clients):
    """all of them compare every page, at the same time"""
    for c in clients:
        c.send("compare")
    for c in clients:
        answer = c.line()
        check(answer.get("wrong") == 0, f"wrong pages: {answer}")
    for c in clients:
        check(c.close() == 0, "vm-client failed")


def memory_of(p, image_id):
    found = [i for i in p.stats()["images"] if i["image_id"] == image_id]
    check(len(found) == 1, f"memories of {image_id}: {found}")
    return found[0]


def test_one_memory():
    """ten forks and their template run on one memory, which loads each of its frames once"""
    with Pager() as p:
        base = image(codec="zstd", content="51:25:50")
        a = p.client("template", base, mode="shared", **BUSY)
        forks = [overlay(p, f"f{i}", fork_of(base, f":{100 * i + 99}:{5 + i}"), regions=1 + 7 * i)
                 for i in range(10)]
        for c in forks:
            c.wait_attached()
        a.touch("uniform 3000")
        finish([a, *forks])
        images = p.stats()["images"]
        check(len(images) == 1, f"one memory for all: {images}")
        check(images[0]["bytes_read"] <= PAGES * 4096, f"frames were loaded again: {images}")


def test_base_that_loads():
    """the base's memory is being loaded by another session, in either order, while forks run"""
    for first in ("fork", "template"):
        with Pager() as p:
            base = image(codec="zstd", content="52:20:50")
            names = {"fork": lambda: overlay(p, "fork", fork_of(base)),
                     "template": lambda: p.begin("template", base, mode="shared", load="full",
                                                 **BUSY)}
            clients = [names[first](), names[{"fork": "template", "template": "fork"}[first]]()]
            for c in clients:
                c.wait_attached()
            for c in clients:
                c.send("touch zipf 4000")
            for c in clients:
                check(c.line().get("wrong") == 0, "wrong pages")
            p.wait_loaded("template")
            finish(clients)


def test_base_that_goes_away():
    """those who ran from the base itself end, and with them its directory; its memory stays"""
    with Pager("--linger", "0") as p:
        base = image(content="53:25:50", fresh=True)
        img = fork_of(base, fresh=True)
        a = p.client("template", base, mode="shared", **BUSY)
        c = overlay(p, "fork", img).wait_attached()
        a.touch("uniform 2000")
        check(a.close() == 0, "vm-client failed")
        base.remove()
        c.touch("uniform 2000")
        late = overlay(p, "late", img).wait_attached()
        finish([c, late])


def test_base_with_missing_layers():
    """what a fork's directory lacks of its base nobody needs but those who run from the base itself;
    and the layers that both have go by different numbers"""
    with Pager() as p:
        first = image(content="54:20:50:99:116", codec="lz4")  # one layer
        base = image(content="154:20:50:99:116", parent=first, all_pages=True)  # all but 16 MiB new
        img = image(content="154:20:50:199:116", parent=base, codec="zstd")  # those 16 MiB new
        names = [{x.name for x in i.layers()} for i in (first, base, img)]
        check([len(n) for n in names] == [1, 2, 2] and names[0] < names[1] and
              not names[0] & names[2] and names[1] & names[2], f"{names}")
        c = overlay(p, "fork", img).wait_attached()
        a = p.client("base", base, mode="shared", **BUSY)
        late = overlay(p, "late", img).wait_attached()
        for x in (c, a, late):
            x.touch("uniform 3000")
        check(len(p.stats()["images"]) == 2, f"{p.stats()['images']}")
        finish([c, a, late])


def test_generations():
    """fork, sleep, wake, sleep: the base stays the template's, and each one is right"""
    with Pager() as p:
        base = image(content="55:25:50", codec="zstd")
        parent, clients = base, []
        for generation in range(5):
            img = image(content=f"55:25:50:{100 * generation + 99}:{10 + generation}",
                        parent=parent, alone=generation > 0)
            clients.append(overlay(p, f"g{generation}", img).wait_attached())
            parent = img
        check(len(p.stats()["images"]) == 1, f"one base for all: {p.stats()['images']}")
        for c in clients:
            c.touch("uniform 1500")
        finish(clients)


def test_sealed_generations():
    with Pager() as p:
        base = image(content="56:25:50", codec="zstd", sealed=True)
        one = fork_of(base, ":99:12", sealed=True)
        two = image(content="56:25:50:199:15", parent=one, alone=True, sealed=True)
        finish([overlay(p, "one", one).wait_attached(), overlay(p, "two", two).wait_attached()])


def test_dropped_pages():
    """a VM that drops pages without an event for it sees zeros or the image's, never the base's"""
    with Pager() as p:
        base = image(content="57:25:50")
        c = overlay(p, "c", fork_of(base), remove=10, owned=60).wait_attached()
        for _ in range(3):
            c.touch("uniform 4000")
        finish([c])


def test_removed_pages():
    """with events for it, what was given back is zeros for ever, the base's pages too; and mappings
    that change make the pager ask again"""
    with Pager() as p:
        base = image(content="62:25:50", codec="lz4")
        a = p.client("base", base, mode="shared", load="full")
        c = [overlay(p, f"c{i}", fork_of(base), remove=10, owned=60, regions=5, seed=i,
                     load=("demand", "full")[i % 2], remove_events=True).wait_attached()
             for i in range(4)]
        for _ in range(3):
            for x in c:
                x.send("touch uniform 3000")
            for x in c:
                check(x.line().get("wrong") == 0, "wrong pages")
        stats = p.wait_loaded("c1")
        check(not stats["full"], "without the pager, what it drops would be the base's again")
        finish([a, *c])


def test_full_forks():
    """complete, while others fault on the same base; then neither the pager nor the files"""
    with Pager() as p:
        base = image(content="58:25:50", codec="zstd")
        full = overlay(p, "full", fork_of(base), load="full").wait_attached()
        other = overlay(p, "other", fork_of(base, ":199:30")).wait_attached()
        full.send("touch zipf 4000")
        other.touch("uniform 4000")
        check(full.line().get("wrong") == 0, "wrong pages")
        check(p.wait_loaded("full").get("full"), "it is full")
        other.touch("uniform 1000")
        check(other.close() == 0, "vm-client failed")
        p.kill()
        full.touch("shuffled 4000")
        finish([full])
        p.start()


def test_evicted_base():
    """the base's pages come and go under its forks, in a quarter of the memory that it needs"""
    with Pager() as p:
        limit = PAGES * 4096 // 4
        reply = p.call("config", memory_limit=limit)
        check(reply.get("memory_limit") == limit, f"{reply}")
        base = image(content="63:15:50", codec="lz4")
        clients = [overlay(p, f"c{i}", fork_of(base, f":{100 * i + 99}:{10 + i}"), seed=i,
                           keep_checking=True) for i in range(4)]
        clients.append(p.begin("base", base, mode="shared", keep_checking=True, **BUSY))
        for c in clients:
            c.wait_attached()
        for _ in range(2):
            for c in clients:
                c.send("touch uniform 3000")
            for c in clients:
                check(c.line().get("wrong") == 0, "wrong pages")
        images = p.stats()["images"]
        check(len(images) == 1 and images[0]["pages_evicted"] > PAGES, f"{images}")
        finish(clients)


def test_wrong_memory():
    """a VM that maps something else than it was given is killed, rather than served for ever"""
    with Pager() as p:
        base = image(content="64:0:50")
        w = overlay(p, "witness", fork_of(base)).wait_attached()
        c = overlay(p, "wrong", fork_of(base), wrong_memory=True, chaos=None).wait_attached()
        c.send("compare")
        wait_until(lambda: p.session("wrong")["state"] == "failed", 20, "it has failed")
        check("not a mapping" in p.session("wrong")["failure"], f"{p.session('wrong')}")
        c.kill()
        finish([w])


def test_killed_pager():
    """a new pager goes on with forks and their base, whichever was there first"""
    with Pager() as p:
        base = image(content="65:20:50", codec="zstd", pages=4 * PAGES)
        clients = [overlay(p, f"c{i}", fork_of(base, f":{100 * i + 99}:{10 + i}", pages=4 * PAGES),
                           seed=i, seconds=4, rate=1500, threads=2, load="demand",
                           keep_checking=True, timeout=60) for i in range(5)]
        clients.append(p.begin("base", base, mode="shared", seed=9, seconds=4, rate=1500, threads=2,
                               keep_checking=True, timeout=60))
        for c in clients:
            c.wait_attached()
        for c in clients:
            c.send("touch")
        for _ in range(6):
            time.sleep(0.5)
            p.kill()
            p.start()
        for c in clients:
            answer = c.line()
            check(answer.get("wrong") == 0, f"wrong pages: {answer}"[:300])
        late = overlay(p, "late", fork_of(base, pages=4 * PAGES)).wait_attached()
        sessions = {s["session"]: s for s in p.stats()["sessions"]}
        for i in range(5):
            check(sessions[f"c{i}"]["mode"] == "overlay", f"{sessions}")
        check(len(p.stats()["images"]) == 1, f"one memory: {p.stats()['images']}")
        finish([*clients, late])


def test_choice():
    """auto: overlay for one that is private and mostly its base's, and the reason otherwise"""
    with Pager() as p:
        base = image(content="59:25:50")
        img = fork_of(base)

        def mode_of(name, which, **options):
            c = p.client(name, which, **options)
            stats = p.session(name)
            check(c.close() == 0, "vm-client failed")
            p.wait_sessions(0)
            return stats["mode"], stats["why"]

        mode, why = mode_of("private", img, mode="auto", private=True)
        check(mode == "overlay" and "stored pages" in why, f"{mode}: {why}")
        mode, why = mode_of("public", img, mode="auto")
        check(mode == "shared" and "others" in why, f"{mode}: {why}")
        mode, why = mode_of("other", image(content="60:25:50:99:95", parent=image(
            content="60:25:50")), mode="auto", private=True)
        check(mode == "shared" and "base" in why, f"{mode}: {why}")
        reply = p.call("open", session="x", zero=True, n_pages=16, mode="overlay")
        check(not reply["ok"] and "base" in reply["message"], f"{reply}")


def test_events():
    """a warm base: some events for each 2 MiB, not one for each page"""
    with Pager() as p:
        base = image(content="61:0:50")
        p.client("template", base, mode="shared", load="full")
        p.wait_loaded("template")
        c = p.client("fork", fork_of(base, ":99:1"), mode="overlay", private=True)
        start = time.monotonic()
        c.compare()
        took = time.monotonic() - start
        stats = p.session("fork")
        check(stats["faults_stored"] <= PAGES // 16 * 2 // 100 + 100, f"{stats}")
        # each own page, of one frame in a hundred, splits a run
        check(stats["faults_continued"] <= PAGES // 8, f"{stats}")
        check(stats["pages_continued"] >= PAGES * 9 // 10, f"{stats}")
        print(f"        {stats['faults']} events for {PAGES} pages in {took * 1e3:.0f} ms")


main(globals())
