#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the pager under load from 8 clients: no wrong page, no lost session, short stalls.

A few kills here; `make bench-pager` does a hundred, and has the figures. By hand:
DORM_BUILD=build python3 tests/fault/test_kill_pager.py; KILLS=100 for more.
"""
import os

from kill_pager import kill_pager, percentile
from rig import check, main

KILLS = int(os.environ.get("KILLS", "8"))


def run(mode, kills):
    done = kill_pager(kills, mode, pages=16384)
    check(done["wrong"] == 0, f"{done['wrong']} wrong pages: {done}")
    check(done["lost"] == 0, f"{done['lost']} lost sessions: {done}")
    stalls = done["stalls_ns"]
    print(f"  {len(stalls)} stalls: p50 {percentile(stalls, 0.5) / 1e6:.1f} ms, "
          f"p99 {percentile(stalls, 0.99) / 1e6:.1f} ms, longest {max(stalls) / 1e6:.1f} ms; "
          f"a new pager in {percentile(done['takeover_ns'], 0.5) / 1e6:.1f} ms")
    # a bound for a sanitized pager on a busy machine; the benchmark has the real one
    check(percentile(stalls, 0.99) < 2e9, f"stalls of seconds: {sorted(stalls)[-5:]}")


def test_shared():
    run("shared", KILLS)


def test_copy():
    run("copy", KILLS)


def test_overlay():
    run("overlay", KILLS)


def test_both():
    run(None, KILLS)


main(globals())
