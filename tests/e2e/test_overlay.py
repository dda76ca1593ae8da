# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""Sandboxes that slept run on the memory of the template that they come from (overlay mode): over
generations, forks, compactions, and when the template and its memory are gone. In each of them a
process checks its own memory; page for page it is compared by test_page_exact.py."""
import threading

from crash import check_sound, delete_all, kill_and_wait, pager, pagers
from harness import Dormouse, check, main, wait_until

D = Dormouse("--compact-layers", "2").__enter__()


def memory(sandbox):
    return D.api("GET", f"/sandboxes/{sandbox}")["memory"]


def images():
    """memories that somebody runs on, and how many do"""
    stats = D.api("GET", "/pager")["stats"]
    return {i["image_id"]: i["sessions"] for i in stats["images"] if i["sessions"]}


def wake(sandbox, mode="overlay", **options):
    D.dorm("wake", *(x for k, v in options.items() for x in (f"--{k}", v)), sandbox)
    got = memory(sandbox)
    check(got["mode"] == mode, f"{sandbox}: {got}")
    return got


def holding(template="base", mb=8):
    sandbox = D.create(template)
    D.hold_pattern(sandbox, mb)
    return sandbox


def new_pager():
    """one without any memory"""
    kill_and_wait(pager(D))
    wait_until(lambda: len(pagers(D)) == 1, 10, "a new pager")


def test_template():
    D.build_template("base", 160)


def test_generations():
    """the base stays the template's through sleeps and compactions; pages that only were looked at
    are not stored again"""
    sandbox = holding()
    check(memory(sandbox)["mode"] == "shared", f"{memory(sandbox)}")
    count = 0
    for _ in range(6):
        D.exec(sandbox, "sh", "-c", "head -c 2000000 /dev/urandom >/tmp/noise; sync")
        D.dorm("sleep", sandbox)
        wait_until(lambda: not list((D.root / "tmp").iterdir()), 20, "it is compacted")
        wake(sandbox)
        now = D.check_pattern(sandbox)
        check(now >= count, f"it counts on: {count}, {now}")
        count = now
    check("compacted layers=" in D.log.read_text(), "there were compactions")
    D.exec(sandbox, "sh", "-c", "cat /tmp/noise >/dev/null")
    D.dorm("sleep", sandbox)
    stats = D.api("GET", f"/sandboxes/{sandbox}/memory")
    print(f"        {stats['stored']}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_together():
    """all on one memory, woken at the same time"""
    sandboxes = [holding(mb=4 + i) for i in range(6)]
    for s in sandboxes:
        D.dorm("sleep", s)
    threads = [threading.Thread(target=D.dorm, args=("wake", s)) for s in sandboxes]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for s in sandboxes:
        check(memory(s)["mode"] == "overlay", f"{memory(s)}")
    check(list(images().values()) == [6], f"one memory: {images()}")
    for s in sandboxes:
        D.check_pattern(s)
    delete_all(D)
    check_sound(D)


def test_forks_of_a_woken_one():
    sandbox = holding()
    D.dorm("sleep", sandbox)
    wake(sandbox)
    forks = D.dorm("fork", "-n", "3", sandbox).stdout.split()
    check(len(forks) == 3, f"{forks}")
    D.check_pattern(sandbox)
    for f in forks:
        D.check_pattern(f)
        D.dorm("sleep", f)
    D.api("DELETE", f"/sandboxes/{sandbox}")
    for f in forks:
        wake(f)
        D.check_pattern(f)
    check(list(images().values()) == [3], f"one memory: {images()}")
    delete_all(D)
    check_sound(D)


def test_template_and_memory_gone():
    """what a sandbox has of its template in its own directory is enough"""
    D.build_template("gone", 128)
    sandboxes = [holding("gone") for _ in range(2)]
    for s in sandboxes:
        D.dorm("sleep", s)
    D.dorm("template", "rm", "gone")
    new_pager()
    for s in sandboxes:
        wake(s)
        D.check_pattern(s)
    check(list(images().values()) == [2], f"one memory: {images()}")
    D.api("DELETE", f"/sandboxes/{sandboxes[0]}")
    for _ in range(4):
        D.exec(sandboxes[1], "sh", "-c", "head -c 1000000 /dev/urandom >/tmp/noise")
        D.dorm("sleep", sandboxes[1])
        wait_until(lambda: not list((D.root / "tmp").iterdir()), 20, "it is compacted")
        D.dorm("wake", sandboxes[1])
        D.check_pattern(sandboxes[1])
    print(f"        alone, compacted: {memory(sandboxes[1])['mode']}: {memory(sandboxes[1])['why']}")
    delete_all(D)
    check_sound(D)


def test_full():
    """loaded to the end, it needs neither its pager nor its files"""
    sandbox, other = holding(), holding()
    for s in (sandbox, other):
        D.dorm("sleep", s)
    wake(sandbox, wait="full")
    check(memory(sandbox)["full"], f"{memory(sandbox)}")
    wake(other)
    D.check_pattern(sandbox)
    D.check_pattern(other)
    D.api("DELETE", f"/sandboxes/{other}")
    kill_and_wait(pager(D))
    D.check_pattern(sandbox)
    wait_until(lambda: len(pagers(D)) == 1, 10, "a new pager")
    D.dorm("sleep", sandbox)
    wake(sandbox)
    D.check_pattern(sandbox)
    delete_all(D)


def test_as_asked():
    sandbox = holding()
    for mode in ("shared", "overlay", "eager", "overlay"):
        D.dorm("sleep", sandbox)
        D.dorm("wake", "--mode", mode, sandbox)
        check(memory(sandbox)["mode"] == mode, f"{memory(sandbox)}")
        D.check_pattern(sandbox)
    delete_all(D)


def test_nothing_is_left():
    delete_all(D)
    check_sound(D)
    D.__exit__(None)


main(globals())
