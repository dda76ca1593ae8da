#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The way into a sandbox: commands and files through the whole stack, against the bare channel.

    make bench-agent        or        python3 tests/bench/agent.py --build-dir build [--quick]

The bare channel is a guest that only moves bytes (raw_channel.py), on the same QEMU, kernel and
device. The whole stack is a client of dormd's HTTP API, dormd, HTTP/2 over the channel, the agent in
the guest. Of a command's time the guest's own part is what the agent says in its end event: from
the request's arrival to the end of the program. Writes build/bench/agent.json (docs/architecture.md,
"Benchmarks").
"""
import argparse
import hashlib
import json
import os
import pathlib
import struct
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests" / d) for d in ("bench/lib", "e2e")]

from rows import Rows, at_least, below, show  # noqa: E402

GOALS = {
    "command_overhead_p50_ms": below(1),
    "file_download_ratio": at_least(0.5),
    "file_upload_ratio": at_least(0.5),
}
START = {"process": {"cmd": "/bin/true"}, "stdin": False}


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Bench:
    def __init__(self, quick):
        self.rows = Rows()
        self.n = 100 if quick else 500
        self.file_bytes = (128 if quick else 1024) << 20
        self.rounds = 1 if quick else 3

    def add(self, metric, values, unit, start, end):
        self.rows.add(metric, values, unit, *GOALS.get(metric, (None, None)), start, end)
        show(self.rows.rows[-1])

    def raw(self, channel):
        """one round of the bare channel: bytes per second down and up"""
        n = self.file_bytes // 2
        return channel.download(n), channel.upload(n)


class Caller:
    """one connection to dormd that stays open, as a client's pool keeps it"""

    def __init__(self, box):
        from harness import UnixConnection
        self.box = box
        self.connection = UnixConnection(box.d.socket, 60)

    def health(self):
        start = time.perf_counter()
        self.connection.request("GET", "/health", headers=self.box.headers)
        reply = self.connection.getresponse()
        reply.read()
        return time.perf_counter() - start

    def true(self):
        """seconds for the whole, and those that the guest says were its own"""
        text = json.dumps(START).encode()
        start = time.perf_counter()
        self.connection.request(
            "POST", "/process.Process/Start", struct.pack(">BI", 0, len(text)) + text,
            {**self.box.headers, "Content-Type": "application/connect+json"})
        data = self.connection.getresponse().read()
        took = time.perf_counter() - start
        while data:
            length = struct.unpack(">I", data[1:5])[0]
            end = json.loads(data[5:5 + length]).get("event", {}).get("end")
            if end:
                assert end.get("exitCode", 0) == 0, end
                return took, int(end["durationNs"]) / 1e9
            data = data[5 + length:]
        raise AssertionError("the command has no end")


def latency(b, box, channel):
    caller = Caller(box)
    for _ in range(20):  # the guest's code is translated, the connections are there
        caller.true()
        caller.health()
        channel.ping()
    pings = [channel.ping() * 1e6 for _ in range(b.n)]
    healths = [caller.health() * 1e3 for _ in range(b.n)]
    commands = [caller.true() for _ in range(b.n)]
    b.add("channel_ping_p50_us", percentile(pings, .5), "us", "a byte to the bare guest", "one back")
    b.add("channel_ping_p99_us", percentile(pings, .99), "us", "a byte to the bare guest", "one back")
    b.add("health_p50_ms", percentile(healths, .5), "ms", "GET /health of the agent", "204")
    b.add("health_p99_ms", percentile(healths, .99), "ms", "GET /health of the agent", "204")
    b.add("command_p50_ms", percentile([t * 1e3 for t, _ in commands], .5), "ms",
          "the client asks for `true`", "it has the end event")
    b.add("command_guest_p50_ms", percentile([g * 1e3 for _, g in commands], .5), "ms",
          "the agent has the request", "it tells of the end")
    b.add("command_overhead_p50_ms", percentile([(t - g) * 1e3 for t, g in commands], .5), "ms",
          "the client asks for `true`", "end event, less the guest's own part")
    b.add("command_overhead_p99_ms", percentile([(t - g) * 1e3 for t, g in commands], .99), "ms",
          "the client asks for `true`", "end event, less the guest's own part")


def upload(box, data, n):
    """bytes per second"""
    def body():
        for _ in range(n // len(data)):
            yield data
    start = time.perf_counter()
    status, text = box.fetch("POST", "/files?path=/tmp/big", body(),
                             {"Content-Type": "application/octet-stream"}, 600)
    assert status == 200, text
    return n / (time.perf_counter() - start)


def download(box, n):
    """bytes per second, and a digest"""
    connection, reply = box.request("GET", "/files?path=/tmp/big", timeout_s=600)
    assert reply.status == 200, reply.read()
    buffer, got = bytearray(1 << 20), 0
    digest = hashlib.sha256()
    start = time.perf_counter()
    spent = 0.0
    while count := reply.readinto(buffer):
        got += count
        pause = time.perf_counter()  # the client's own work is not the way's
        digest.update(memoryview(buffer)[:count])
        spent += time.perf_counter() - pause
    took = time.perf_counter() - start - spent
    connection.close()
    assert got == n, f"{got} bytes of {n}"
    return n / took, digest.hexdigest()


def files(b, box, channel):
    data = os.urandom(1 << 20)
    want = hashlib.sha256()
    for _ in range(b.file_bytes // len(data)):
        want.update(data)
    downs, ups, raw_downs, raw_ups = [], [], [], []
    for _ in range(b.rounds):
        raw_down, raw_up = b.raw(channel)
        up = upload(box, data, b.file_bytes)
        down, digest = download(box, b.file_bytes)
        assert digest == want.hexdigest(), "the file has changed on its way"
        for values, value in ((downs, down), (ups, up), (raw_downs, raw_down), (raw_ups, raw_up)):
            values.append(value)
    mb = b.file_bytes >> 20
    b.add("channel_download_mb_s", [v / 1e6 for v in raw_downs], "MB/s", "the bare guest writes",
          f"{mb // 2} MiB are here")
    b.add("channel_upload_mb_s", [v / 1e6 for v in raw_ups], "MB/s", f"{mb // 2} MiB are written",
          "the bare guest has read them")
    b.add("file_download_mb_s", [v / 1e6 for v in downs], "MB/s", f"GET /files of {mb} MiB",
          "the last byte")
    b.add("file_upload_mb_s", [v / 1e6 for v in ups], "MB/s", f"POST /files of {mb} MiB", "200")
    b.add("file_download_ratio", [d / r for d, r in zip(downs, raw_downs)], "", "as above",
          "against the bare channel in the same round")
    b.add("file_upload_ratio", [u / r for u, r in zip(ups, raw_ups)], "", "as above",
          "against the bare channel in the same round")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build-dir", default="build")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    args = parser.parse_args()
    build = pathlib.Path(args.build_dir).resolve()
    os.environ["DORM_BUILD"] = str(build)
    from connect import Box
    from harness import CACHE, Dormouse, program
    from raw_channel import RawChannel
    b = Bench(args.quick)
    with Dormouse() as d:
        d.build_template("base", 3 * (b.file_bytes >> 20) + 512)  # two such files, in tmpfs
        box = Box(d, d.create("base"), user="root")
        manifest = json.loads((d.root / "templates" / "base" / "manifest.json").read_text())
        channel = RawChannel(CACHE, program("raw-port"), manifest["vmm"]["tsc_khz"])
        try:
            latency(b, box, channel)
            files(b, box, channel)
        finally:
            channel.close()
    b.rows.write(build / "bench" / "agent.json")
    b.rows.table()
    print(f"  figures in {build / 'bench' / 'agent.json'}")


if __name__ == "__main__":
    main()
