# SPDX-License-Identifier: Apache-2.0
# timeout: 400
"""Requests to a sandbox that sleeps: with autoResume they wake it, once, and wait; without, it is not found."""
import base64
import concurrent.futures
import datetime
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import time
import urllib.parse

from harness import ApiError, Dormouse, UnixConnection, check, main, program, wait_until

D = Dormouse().__enter__()
WEB = 8080
RESUME = {"enabled": True}


def request(method, path, body=None, timeout_s=90, **headers):
    """status, headers, body of a request to dormd"""
    c = UnixConnection(D.socket, timeout_s)
    try:
        c.request(method, path, body, headers)
        r = c.getresponse()
        return r.status, r.headers, r.read()
    finally:
        c.close()


def hello(sandbox, **more):
    return request("GET", "/hello", **{"E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": str(WEB)}, **more)


def listing(access):
    """a call of the agent's API"""
    return request("POST", "/process.Process/List", "{}", **{"Content-Type": "application/json"}, **access)


def wakes(sandbox):
    return D.log.read_text().count(f"sandbox={sandbox} woken by a request")


def await_wakes(sandbox, n):
    """requests are let in before what is done for them is counted and logged"""
    wait_until(lambda: wakes(sandbox) >= n, 20, f"woken {n} times")
    check(wakes(sandbox) == n, f"woken {wakes(sandbox)} times")


def start(sandbox):
    D.upload(sandbox, program("web"), "/usr/bin/web")
    D.exec(sandbox, "sh", "-c", f"setsid web {WEB} </dev/null >/dev/null 2>&1 &")
    wait_until(lambda: any(p["port"] == WEB for p in D.api("GET", f"/sandboxes/{sandbox}/ports")), 20,
               "the server listens")


def made(**options):
    """one with a server in it"""
    sandbox = D.create("disk", **options)
    start(sandbox)
    return sandbox


def pause(sandbox, **body):
    D.api("POST", f"/sandboxes/{sandbox}/pause", body)


def delete(*sandboxes):
    for sandbox in sandboxes:
        D.api("DELETE", f"/sandboxes/{sandbox}")


def hook(sandbox, when, text):
    name = f"/etc/dorm/hooks/{when}.d/10-test"
    D.exec(sandbox, "sh", "-c", f"mkdir -p $(dirname {name}); cat >{name}; chmod 755 {name}",
           stdin=f"#!/bin/sh\n{text}\n")


def left_s(sandbox):
    end = datetime.datetime.fromisoformat(D.api("GET", f"/sandboxes/{sandbox}")["endAt"].replace("Z", "+00:00"))
    return end.timestamp() - time.time()


def many(n, call):
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        return [f.result() for f in [pool.submit(call, i) for i in range(n)]]


def test_once():
    """50 at once, half of them to the agent: one wake, and all succeed"""
    D.dorm("template", "build", "--base", "busybox", "--memory", "128M", "--disk", "256M", "--no-working-set",
           "disk", timeout_s=300)
    sandbox = made(autoResume=RESUME, timeout=1000)
    access = D.access(sandbox)
    check(D.api("GET", f"/sandboxes/{sandbox}")["lifecycle"] == {"onTimeout": "kill", "autoResume": True}, "told")
    D.api("POST", f"/sandboxes/{sandbox}/timeout", {"timeout": 500})
    pause(sandbox)
    t0 = time.monotonic()
    replies = many(50, lambda i: listing(access) if i % 2 else hello(sandbox))
    took = time.monotonic() - t0
    for i, (status, _, body) in enumerate(replies):
        check(status == 200 and (b"hello world\n" == body or i % 2), f"{i}: {status} {body}")
    await_wakes(sandbox, 1)
    counted = request("GET", "/metrics")[2].decode()
    check(re.search(r'^dormouse_operations_total\{operation="wake",result="ok"\} 1$', counted, re.M), "it is counted")
    check(450 < left_s(sandbox) <= 501, f"{left_s(sandbox)} s are left")
    print(f"  50 requests answered after {took:.2f} s, with one wake")
    delete(sandbox)


def test_kinds():
    """an upgrade, a raw connection, a signed URL, a host name, bodies"""
    sandbox = made(autoResume=RESUME)
    token = D.access(sandbox)["X-Access-Token"]

    def raw(text):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(60)
        s.connect(str(D.socket))
        s.sendall(text.encode())
        return s

    def until(s, what):
        data = b""
        while what not in data:
            part = s.recv(65536)
            check(part, f"the end instead of {what}: {data[:300]}")
            data += part

    pause(sandbox)
    with raw(f"GET /upgrade HTTP/1.1\r\nHost: {WEB}-{sandbox}.x\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n"
             "early ") as s:
        until(s, b"EARLY ")
        s.sendall(b"late")
        until(s, b"LATE")
    pause(sandbox)
    with raw(f"GET /sandboxes/{sandbox}/ports/{WEB} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
             "Upgrade: tcp\r\n\r\nGET /hello HTTP/1.0\r\n\r\n") as s:
        until(s, b" 101 ")
        until(s, b"hello world\n")
    pause(sandbox)
    digest = hashlib.sha256(f"/etc/hostname:read::{token}".encode()).digest()
    query = urllib.parse.urlencode({"path": "/etc/hostname",
                                    "signature": "v1_" + base64.b64encode(digest).decode().rstrip("=")})
    status, _, body = request("GET", f"/files?{query}")
    check(status == 200 and body.decode().strip() == sandbox, f"{status} {body}")
    pause(sandbox)
    data = os.urandom(3 << 20)
    status, _, body = request("POST", "/count", data, **{"E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": str(WEB)})
    check(status == 200 and str(len(data)).encode() in body, f"{status} {body}")
    await_wakes(sandbox, 4)
    delete(sandbox)


def expect_not_found(reply, sandbox):
    status, _, body = reply
    value = json.loads(body)
    check(status == 502 and value["code"] == 502 and value["message"] == "The sandbox was not found"
          and value["sandboxId"] == sandbox, f"{status} {body}")


def test_who_is_not_woken():
    plain, booted = made(), made(autoResume=RESUME)
    access = {name: D.access(name) for name in (plain, booted)}
    pause(plain)
    pause(booted, memory=False)
    for name in (plain, booted):
        expect_not_found(hello(name), name)
        expect_not_found(listing(access[name]), name)
        check(D.status(name) == "asleep", "it sleeps on")
    check(D.api("GET", f"/sandboxes/{plain}")["lifecycle"]["autoResume"] is False, "told")
    D.api("POST", f"/v2/sandboxes/{booted}/connect", {})
    pause(booted)  # with its memory: requests wake it
    check(request("GET", "/health", **access[booted])[0] == 502, "a look whether it runs wakes nobody")
    check(D.status(booted) == "asleep" and wakes(booted) == 0, "it sleeps on")
    check(listing(access[booted])[0] == 200 and request("GET", "/health", **access[booted])[0] == 204, "then it runs")
    delete(plain, booted)


def test_private_traffic():
    sandbox = D.create("disk", autoResume=RESUME, network={"allowPublicTraffic": False})
    start(sandbox)
    access = D.access(sandbox)
    token = D.api("POST", f"/v2/sandboxes/{sandbox}/connect", {})["trafficAccessToken"]
    pause(sandbox)
    check(hello(sandbox)[0] == 403 and hello(sandbox, **{"E2b-Traffic-Access-Token": "no"})[0] == 403, "a port")
    check(listing({**access, "X-Access-Token": "no"})[0] == 401, "the agent")
    check(D.status(sandbox) == "asleep" and wakes(sandbox) == 0, "strangers do not wake it")
    check(hello(sandbox, **{"E2b-Traffic-Access-Token": token})[0] == 200, "with the token")
    pause(sandbox)
    check(listing(access)[0] == 200, "with the other token")
    delete(sandbox)


def test_slow():
    """a wake of seconds, and one that falls asleep when the request comes: they wait"""
    sandbox = made(autoResume=RESUME)
    hook(sandbox, "after-wake", "sleep 3")
    pause(sandbox)
    t0 = time.monotonic()
    check([r[0] for r in many(10, lambda i: hello(sandbox))] == [200] * 10, "all wait")
    check(time.monotonic() - t0 > 3, "they waited")
    await_wakes(sandbox, 1)
    hook(sandbox, "before-sleep", "sleep 2")
    hook(sandbox, "after-wake", "true")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(pause, sandbox)
        wait_until(lambda: D.status(sandbox) == "pausing", 20, "it begins to fall asleep")
        reply = hello(sandbox)
        asked.result()
    check(reply[0] == 200 and D.status(sandbox) == "running", f"{reply} {D.status(sandbox)}")
    await_wakes(sandbox, 2)
    delete(sandbox)


def test_failing():
    """a wake that fails is told to all who wait, and not tried for each; then it works again"""
    sandbox = made(autoResume=RESUME)
    at = D.root / "sandboxes" / sandbox
    pause(sandbox)
    memory = next(at.glob("memory-*"))
    shutil.move(memory / "device", at / "device")
    t0 = time.monotonic()
    replies = many(20, lambda i: hello(sandbox))
    took = time.monotonic() - t0
    for status, _, body in replies:
        check(500 <= status <= 504 and json.loads(body)["code"] == status, f"{status} {body}")
        check("device" in json.loads(body)["message"], f"the reason: {body}")
    tried = D.log.read_text().count(f"sandbox={sandbox} could not be woken")
    check(tried <= 1 + took / 2 and D.status(sandbox) == "asleep", f"tried {tried} times in {took:.1f} s")
    shutil.move(at / "device", memory / "device")
    wait_until(lambda: hello(sandbox)[0] == 200, 20, "it wakes when it can")
    delete(sandbox)


def test_damaged():
    """a layer with a flipped bit: an answer in time, and a sandbox that says why or sleeps"""
    sandbox = made(autoResume=RESUME)
    D.exec(sandbox, "sh", "-c", "dd if=/dev/urandom of=/dev/shm/x bs=1M count=8 2>/dev/null")
    pause(sandbox)
    layers = next((D.root / "sandboxes" / sandbox).glob("memory-*")) / "layers"
    own = max((p for p in layers.iterdir() if p.stat().st_nlink == 1), key=lambda p: p.stat().st_size)
    data = bytearray(own.read_bytes())
    for i in range(4096, len(data) - 4096, 512):
        data[i] ^= 1
    own.chmod(0o644)
    own.write_bytes(data)
    t0 = time.monotonic()
    status, head, body = hello(sandbox)
    print(f"  {status} after {time.monotonic() - t0:.1f} s: {json.loads(body)['message'][:100]}")
    check(500 <= status <= 504 and time.monotonic() - t0 < 60, f"{status} {body}")
    check(status not in (503, 504) or head["Retry-After"], f"{head}")
    check(D.status(sandbox) in ("asleep", "failed"), D.status(sandbox))
    delete(sandbox)


def test_again():
    """one whose time is up sleeps, is woken by a request, and sleeps again when its time is up again"""
    sandbox = D.create("disk", autoResume=RESUME, autoPause=True)
    start(sandbox)
    D.api("POST", f"/sandboxes/{sandbox}/timeout", {"timeout": 2})
    for i in range(2):
        wait_until(lambda: D.status(sandbox) == "asleep", 60, "its time is up")
        check(hello(sandbox)[0] == 200, "woken")
        wait_until(lambda n=i + 1: wakes(sandbox) >= n, 20, f"woken {i + 1} times")
    delete(sandbox)


def test_restart():
    """what is to be woken by requests still is with another dormd"""
    sandbox = made(autoResume=RESUME, timeout=700)
    pause(sandbox)
    D.kill()
    D.start()
    check(hello(sandbox)[0] == 200 and 650 < left_s(sandbox) < 3600, f"{left_s(sandbox)}")
    delete(sandbox)


def test_dormd_ends():
    """while requests wait for a wake: they are told, if there is time for that, and it does not wait for them"""

    def ask():
        try:
            return hello(sandbox)
        except (http.client.HTTPException, OSError):
            return None  # its connection was closed before the answer was out

    sandbox = made(autoResume=RESUME)
    hook(sandbox, "after-wake", "while [ ! -e /home/user/go ]; do sleep 0.1; done")
    hook(sandbox, "before-sleep", "rm -f /home/user/go")
    D.exec(sandbox, "sh", "-c", "echo 4 >/etc/dorm/hooks/timeout")
    pause(sandbox)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(4)]
        wait_until(lambda: D.status(sandbox) == "waking", 30, "it wakes")
        D.daemon.send_signal(signal.SIGTERM)
        for reply in (f.result() for f in asked):
            check(not reply or (reply[0] == 503 and reply[1]["Retry-After"] and b"ending" in reply[2]), f"{reply}")
    D.daemon.wait(40)  # less than anybody waits for a wake
    D.start()
    wait_until(lambda: D.status(sandbox) in ("asleep", "running"), 30, "settled")
    delete(sandbox)


main(globals())
