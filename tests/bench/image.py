#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The snapshot store in figures, each against a raw loop or a peer in the same run.

    make bench-image        or        python3 tests/bench/image.py --build-dir build [--quick]

The work is done by small C programs (tests/bench/bench-*.c), which print one JSON object per figure;
this script adds the goals, a real guest (what its memory takes on disk, against one zstd stream) and
the model test (random operations on a store, with crashes). It needs about 3 GiB of disk below
--work (default: beside the build) and some minutes. --quick: less data, fewer operations.
Writes build/bench/image.json (the form is in docs/architecture.md, "Benchmarks").
"""
import argparse
import http.client
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "tests" / "bench" / "lib")]

from rows import Rows, at_least, at_most, below, show  # noqa: E402

MEMORY_MB = 512


# What the figures of the C programs must reach; the others are there to be read.
GOALS = {
    **{f"varint_{way}_ns_{mix}": at_most(3) for way in ("encode", "decode")
       for mix in ("small", "lengths_1_to_5", "full_64_bit")},
    **{f"map_bytes_per_dirty_page{guest}": at_most(2)
       for guest in ("", "_40_percent_zero", "_closed_frames")},
    **{f"map_encode_decode_ms{guest}": at_most(20)
       for guest in ("", "_40_percent_zero", "_closed_frames", "_working_set_first")},
    "layer_aes_gcm_open": at_least(2),
    "layer_aes_gcm_seal": at_least(2),
    "layer_cold_verified_ratio": at_least(0.8),
    "layer_xxh3_share": below(5),
    "layer_commit_ratio": at_least(0.7),
    "store_list_ms": below(100),
    "store_index_rebuild_ms": below(5000),
    "clone_128_mib_ms": below(10),
    "clone_8_gib_ms": below(10),
    "clone_8_gib_to_128_mib": at_most(2),
}


def run_program(rows, build, name, *args):
    """one C program: every line that is a JSON object is a figure"""
    print(f"-- {name} {' '.join(args)}", flush=True)
    done = subprocess.run([build / "tests" / "bench" / name, *args], stdout=subprocess.PIPE,
                          text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} ended with status {done.returncode}")
    for line in done.stdout.splitlines():
        row = json.loads(line)
        rows.take(row, *GOALS.get(row["metric"], (None, None)))
        show(rows.rows[-1])


def extents(reader):
    """the data of a raw memory stream (docs/format-transfer.md)"""
    while True:
        offset, length = struct.unpack("<QQ", reader.read(16))
        if not length:
            return
        yield offset, reader.read(length)


def used_memory(d, snapshot, out):
    """the pages of a snapshot that are not zero, one after the other; returns how many bytes"""
    from harness import UnixConnection
    connection = UnixConnection(d.socket, 300)
    connection.request("GET", f"/snapshots/{snapshot}/export?format=raw")
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"raw export: {answer.status} {answer.read()[:300]}")
    total = 0
    for _, data in extents(answer):
        out.write(data)
        total += len(data)
    connection.close()
    return total


def guest(rows, work):
    """a base guest as it comes from `dorm template build`, against one zstd -3 stream of its memory"""
    from harness import Dormouse
    print("-- a freshly prepared base guest", flush=True)
    with Dormouse() as d:
        d.build_template("base", MEMORY_MB)
        snapshot = next(s for s in d.api("GET", "/snapshots") if "base" in s["names"])["snapshotID"]
        about = d.api("GET", f"/snapshots/{snapshot}")
        stored = sum(layer["bytes"] for layer in about["layers"]) + about["stats"]["map_bytes"]
        raw = pathlib.Path(work) / "used-memory"
        with raw.open("wb") as out:
            used = used_memory(d, snapshot, out)
    stream = int(subprocess.run(["sh", "-c", 'zstd -3 -q -c "$1" | wc -c', "sh", raw],
                                stdout=subprocess.PIPE, check=True).stdout)
    raw.unlink()
    start, end = f"a template of {MEMORY_MB} MiB was built", "its layers and its map"
    rows.add("base_guest_used_bytes", used, "bytes", None, None, start, "pages that are not zero")
    rows.add("base_guest_stored_bytes", stored, "bytes", None, None, start, end)
    rows.add("base_guest_zstd_3_bytes", stream, "bytes", None, None, start,
             "the same pages as one stream through zstd -3")
    rows.add("base_guest_stored_vs_zstd_3", stored / stream, "x", *at_most(1.2), start,
             "base_guest_stored_bytes / base_guest_zstd_3_bytes")
    for row in rows.rows[-4:]:
        show(row)


def model(rows, build, operations):
    """random operations on a store against a model, with crashes; prints its seed"""
    print(f"-- {operations} random operations against a model", flush=True)
    done = subprocess.run([build / "src" / "image" / "test-image-model"], text=True, check=False,
                          env=dict(os.environ, DORM_MODEL_OPS=str(operations)),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        print(done.stdout)
    rows.add("model_operations", operations, "operations", None, None, "an empty store",
             "snapshot, fork, delete, compact, crash and check in random order, with open forks")
    rows.add("model_differences", 1 if done.returncode else 0, "runs", *at_most(0),
             "an empty store", "store and model compared after every check")
    for row in rows.rows[-2:]:
        show(row)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build-dir", default="build")
    parser.add_argument("--work", help="a directory on the disk that is to be measured")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    build = pathlib.Path(args.build_dir).resolve()
    os.environ["DORM_BUILD"] = str(build)
    work = tempfile.mkdtemp(prefix="bench-image.", dir=args.work or build)
    rows = Rows()
    try:
        run_program(rows, build, "bench-map")
        run_program(rows, build, "bench-layer", "--dir", work,
                    *(["--size", "256"] if args.quick else []))
        run_program(rows, build, "bench-store", work)
        guest(rows, work)
        model(rows, build, 1000 if args.quick else 10000)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    rows.write(build / "bench" / "image.json")
    rows.table()
    print(f"  figures in {build / 'bench' / 'image.json'}")


if __name__ == "__main__":
    main()
