#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every page of every kind of session is exactly what the image says, however it got there.

Four modes times: cold with six traces, warm, prefetched, fully loaded, sealed, zstd, lz4, many
sessions at once, one after the other until nothing is left to read. Writes, pages that are given
back and mappings that change go on at the same time.
"""
import shutil

from rig import PAGES, WORK, Pager, check, image, main

MODES = ("shared", "copy", "overlay", "eager")
TRACES = ("uniform", "sequential", "zipf:1.1", "strided:37", "backward:1", "recorded")
BUSY = dict(threads=3, owned=25, write=30, seed=11)


def busy(mode):
    """what a client does besides reading; only memory of its own can be given back for good"""
    return dict(BUSY, chaos=True, **({"remove": 8} if mode == "copy" else {}))


def recorded():
    """a trace as a recorder would write it: bursts, and a pause between them"""
    path = WORK / "trace"
    if not path.exists():
        lines = ["# microseconds gfn"]
        for i in range(3000):
            lines.append(f"{i // 300 * 2000 + i % 300} {(i * i * 31 + i // 7) % 8192}")
        path.write_text("\n".join(lines) + "\n")
    return f"recorded:{path}"


def parents_image(mode, **options):
    """what to restore: in overlay mode a fork, with some pages of its own"""
    base = image(**options)
    if mode != "overlay":
        return base
    return image(**dict(options, content=base.content + ":99:12"), parent=base)


def open_args(mode):
    return dict(mode=mode, **({"private": True} if mode == "overlay" else {}))


def cold(mode):
    with Pager("--linger", "0") as p:
        for i, trace in enumerate(TRACES):
            regions = (1, 2, 3, 8, 63, 64)[i]
            c = p.client(f"c{i}", parents_image(mode), regions=regions, **open_args(mode),
                         **busy(mode), **({"page_size_kib": True} if i % 2 else {}))
            check(c.attached["mode"] == mode, f"{c.attached}")
            check(c.attached["regions"] == regions, f"{c.attached}")
            c.touch(f"{recorded() if trace == 'recorded' else trace} 3000")
            c.compare()
            check(c.close() == 0, "vm-client failed")
            p.wait_sessions(0)


def warm(mode):
    with Pager() as p:
        for i in range(3):
            c = p.client(f"c{i}", parents_image(mode, codec="lz4"), **open_args(mode), **busy(mode))
            c.touch("shuffled 6000")
            c.compare()
            stats = p.session(f"c{i}")
            if i and mode == "shared":
                check(stats["faults"] == 0, f"a warm image had events: {stats}")
            # what only the page cache has is not kept in copy mode, nor is a fork's own page
            if i and mode in ("shared", "eager"):
                check(stats["bytes_read"] == 0, f"a warm image was read: {stats}")
            check(c.close() == 0, "vm-client failed")


def prefetch(mode):
    """while the working set comes, a third of all pages; eager mode loads the rest too"""
    with Pager() as p:
        img = parents_image(mode, codec="zstd", working_set=3)
        c = p.client("c", img, load="working-set", **open_args(mode), **busy(mode))
        check(c.attached["reply"]["working_set_pages"] == -(-PAGES // 48) * 16, f"{c.attached}")
        c.touch("zipf 6000")
        load = p.wait_loaded("c")["load"]
        check(load["pages_total"] >= PAGES // 4 and load["pages_done"] == load["pages_total"],
              f"{load}")
        c.compare()
        check(c.close() == 0, "vm-client failed")


def full(mode):
    """loaded to the end while the guest runs; then the files are not needed, nor is the pager"""
    with Pager() as p:
        img = parents_image(mode)
        away = WORK / f"away-{mode}"
        shutil.copytree(img.path, away)
        img.path = away
        c = p.client("c", img, load="full", **open_args(mode), **busy(mode))
        c.touch("zipf 4000")
        stats = p.wait_loaded("c")
        check(stats["full"], f"loaded, and still not full: {stats}")
        before = stats["bytes_read"]
        shutil.rmtree(away)
        c.touch("shuffled 3000")
        c.compare()
        check(p.session("c")["bytes_read"] == before, "read again after it was full")
        check(c.close() == 0, "vm-client failed")


def full_without_pager(mode):
    """a session that is full goes on when the pager is killed for good"""
    with Pager() as p:
        c = p.client("c", parents_image(mode), load="full", **open_args(mode))
        check(p.wait_loaded("c")["full"], f"loaded, and still not full: {p.session('c')}")
        p.kill()
        c.compare()
        p.start()


def sealed(mode):
    for codec in ("none", "zstd"):
        with Pager() as p:
            c = p.client("c", parents_image(mode, codec=codec, sealed=True), **open_args(mode),
                         **busy(mode))
            c.touch("uniform 5000")
            c.compare()
            check(c.close() == 0, "vm-client failed")


def zstd(mode):
    for order in ("sequential", "backward"):
        with Pager("--threads", "1") as p:
            c = p.client("c", parents_image(mode, codec="zstd", order=order), regions=5,
                         **open_args(mode), **busy(mode))
            c.touch("strided:16 6000")
            c.compare()
            check(c.close() == 0, "vm-client failed")


def many(mode):
    """twelve at once, on two images, in orders of their own; each checks everything"""
    with Pager() as p:
        images = [parents_image(mode, codec="zstd"), parents_image(mode, content="8:10:30")]
        clients = [p.begin(f"c{i}", images[i % 2], regions=1 + i * 5, **open_args(mode),
                           **dict(busy(mode), seed=i // 2)) for i in range(12)]
        for c in clients:
            c.wait_attached()
        for c in clients:
            c.send("touch uniform 2500")
        for c in clients:
            answer = c.line()
            check(answer.get("wrong") == 0, f"wrong pages: {answer}")
        for c in clients:
            c.send("compare")
        for c in clients:
            answer = c.line()
            check(answer.get("wrong") == 0, f"wrong pages: {answer}")
            check(c.close() == 0, "vm-client failed")
        p.wait_sessions(0)


def evicted(mode):
    """four images in a quarter of the memory that they need: each page comes, goes and comes back"""
    with Pager() as p:
        limit = 8192 * 4096
        reply = p.call("config", memory_limit=limit)
        check(reply.get("memory_limit") == limit, f"{reply}")
        images = [image(content=f"{40 + i}:10:50", codec=("none", "zstd")[i % 2]) for i in range(4)]
        clients = [p.begin(f"c{i}", images[i], **open_args(mode), **busy(mode), keep_checking=True)
                   for i in range(4)]
        for c in clients:
            c.wait_attached()
        for c in clients:
            c.send("touch uniform 12000")
        for c in clients:
            answer = c.line()
            check(answer.get("wrong") == 0, f"wrong pages: {answer}")
        for c in clients:
            c.compare()
        resident = sum(i["resident_pages"] for i in p.stats()["images"])
        check(mode != "shared" or resident * 4096 <= 1.25 * limit,
              f"{resident} pages are resident, the limit is {limit // 4096}")
        for c in clients:
            check(c.close() == 0, "vm-client failed")


CASES = (cold, warm, prefetch, full, full_without_pager, sealed, zstd, many, evicted)


def bind(case, mode):
    return lambda: case(mode)


for _mode in MODES:
    for _case in CASES:
        if (_mode, _case) not in (("overlay", evicted), ("eager", evicted)):
            globals()[f"test_{_mode}_{_case.__name__}"] = bind(_case, _mode)


def test_auto_without_userfaultfd():
    """switched off for new sessions: everything is loaded before, and no event is ever raised"""
    with Pager() as p:
        reply = p.call("config", userfaultfd=False)
        check(reply["ok"], f"{reply}")
        c = p.client("c", image(codec="zstd"), mode="auto", threads=2, owned=20, write=30)
        check(c.attached["mode"] == "eager", f"{c.attached}")
        c.touch("uniform 3000")
        c.compare()
        check(p.session("c")["faults"] == 0, "it had events")
        p.call("config", userfaultfd=True)
        again = p.client("again", image(), mode="auto")
        check(again.attached["mode"] != "eager", f"{again.attached}")
        again.compare()
        for x in (c, again):
            check(x.close() == 0, "vm-client failed")

main(globals())
