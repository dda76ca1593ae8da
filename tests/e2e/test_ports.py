# SPDX-License-Identifier: Apache-2.0
# timeout: 400
"""Ports of sandboxes: the proxy, host names, upgrades, raw connections; and what clients may not do."""
import http.client
import json
import os
import random
import socket
import subprocess
import threading
import time

from harness import ApiError, Dormouse, UnixConnection, check, main, program, wait_until



def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


TCP, KEY = free_port(), "e2b_0123456789abcdef0123456789abcdef01234567"
D = Dormouse("--listen", f"127.0.0.1:{TCP}", "--api-key", "env:TEST_KEY", env={"TEST_KEY": KEY}).__enter__()
S = {}
WEB = 8080


def sandbox():
    """one for all tests, with the server of tests/guest/web.c in it"""
    if "id" not in S:
        D.build_template("base", 256)
        S["id"] = D.create("base")
        D.upload(S["id"], program("web"), "/tmp/web")
        start_web(S["id"], WEB)
    return S["id"]


def start_web(name, port, address="127.0.0.1"):
    D.exec(name, "sh", "-c", f"setsid /tmp/web {port} {address} </dev/null >/dev/null 2>&1 &")
    wait_until(lambda: any(p["port"] == port for p in D.api("GET", f"/sandboxes/{name}/ports")), 20,
               f"somebody listens on {port}")


def headers(port=WEB, name=None):
    return {"E2b-Sandbox-Id": name or sandbox(), "E2b-Sandbox-Port": str(port)}


def ask(method, path, body=None, port=WEB, name=None, timeout_s=30, **more):
    """one request to a port; returns status, headers, body"""
    c = UnixConnection(D.socket, timeout_s)
    try:
        c.request(method, path, body, {**headers(port, name), **more},
                  encode_chunked=more.get("Transfer-Encoding") == "chunked")
        r = c.getresponse()
        return r.status, r.headers, r.read()
    finally:
        c.close()


def raw(text, timeout_s=30):
    s = socket.socket(socket.AF_UNIX)
    s.connect(str(D.socket))  # waits while too many wait to be accepted
    s.settimeout(timeout_s)
    s.sendall(text.encode())
    return s


def read_until(s, what):
    data = b""
    while what not in data:
        part = s.recv(65536)
        if not part:
            raise AssertionError(f"the end instead of {what}: {data[:300]}")
        data += part
    return data


def read_all(s):
    data = b""
    while True:
        part = s.recv(65536)
        if not part:
            return data
        data += part


def request_text(path, *more, method="GET", port=WEB):
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{k}: {v}" for k, v in headers(port).items()]
    return "\r\n".join([*lines, *more]) + "\r\n\r\n"


def expect_502(reply, word):
    status, _, body = reply
    value = json.loads(body)
    check(status == 502 and value["code"] == 502 and word in value["message"], f"{status} {body}")
    return value


def test_list():
    name = sandbox()
    start_web(name, 8081, "0.0.0.0")
    start_web(name, 8082, "::1")
    ports = {p["port"]: p for p in D.json("ports", name)}
    check(ports[WEB]["address"] == "127.0.0.1" and ports[WEB]["family"] == "ipv4", f"{ports}")
    check(ports[8081]["address"] == "0.0.0.0" and ports[8082]["address"] == "::1", f"{ports}")
    check(ports[WEB]["process"] == "web" and ports[WEB]["uid"] == 0, f"{ports}")
    check(str(ports[WEB]["pid"]) in D.exec(name, "pidof", "web").split(), f"{ports}")
    check("8082" in D.dorm("ports", name).stdout, "the table")
    for port in (8081, 8082):
        check(ask("GET", "/hello", port=port)[2] == b"hello world\n", f"port {port}")


def test_bodies():
    check(ask("GET", "/hello")[2] == b"hello world\n", "Content-Length")
    status, head, body = ask("HEAD", "/hello")
    check((status, head["Content-Length"], body) == (200, "12", b""), f"HEAD: {head}")
    status, head, body = ask("GET", "/chunked")
    check(body == b"one two" and head.get_all("Set-Cookie") == ["a=1", "b=2"], f"{head} {body}")
    check(ask("GET", "/close")[2] == b"until the end", "until the end")
    check(ask("GET", "/interim")[2] == b"late", "after an interim response")
    check(ask("GET", "/nothing")[0] == 404, "the server's own 404")


def test_requests_as_sent():
    target = "/head/a%2Fb%20c?x=%41&y=1+2&&z"
    text = ask("GET", target, Connection="close, X-Mine", **{"X-Mine": "1", "X-Yours": "2"})[2].decode()
    lines = text.split("\r\n")
    check(lines[0] == f"GET {target} HTTP/1.1", f"{lines[0]}")
    check("X-Yours: 2" in lines and "X-Mine" not in text.replace("X-Mine: 1", "X-Mine"), text)
    check("Connection: close" in lines and "Host: localhost" in lines, text)
    check("X-Forwarded-Proto: http" in lines and "X-Forwarded-Host: localhost" in lines, text)
    for word in ("E2b-", "e2b-", "X-API-KEY"):
        check(word not in text, f"{word} in {text}")


def test_uploads():
    data = random.Random(1).randbytes(3 << 20)
    total = 0
    for b in data[:100000]:
        total = (total * 31 + b) & 0xffffffff
    check(ask("POST", "/count", data[:100000])[2].decode() == f"100000 {total}", "Content-Length")
    parts = [data[i:i + 4097] for i in range(0, 100000, 4097)]
    parts[-1] = data[sum(map(len, parts[:-1])):100000]
    got = ask("POST", "/count", iter(parts), **{"Transfer-Encoding": "chunked"})[2].decode()
    check(got == f"100000 {total}", f"chunked: {got}")
    check(ask("POST", "/count", data)[2].split()[0] == str(len(data)).encode(), "3 MiB")
    status, _, body = ask("POST", "/early", data, timeout_s=90)
    check((status, body) == (413, b"large"), f"an answer before the body was read: {status} {body}")


def test_download():
    c = UnixConnection(D.socket, 120)
    c.request("GET", "/big/64", headers=headers())
    r = c.getresponse()
    begin, n = time.monotonic(), 0
    while part := r.read(1 << 20):
        n += len(part)
    took = time.monotonic() - begin
    check(n == 64 << 20, f"{n} bytes")
    print(f"# 64 MiB from a port: {64 / took:.0f} MiB/s")
    c.close()


def test_keep_alive():
    c = UnixConnection(D.socket, 30)
    for _ in range(20):
        c.request("GET", "/hello", headers=headers())
        check(c.getresponse().read() == b"hello world\n", "hello")
        check(c.sock is not None, "the connection was closed")
    c.request("GET", "/healthz")  # the control API on the same connection
    check(c.getresponse().status in (200, 204), "healthz")
    c.close()


def test_events_flow():
    s = raw(request_text("/events"))
    begin = time.monotonic()
    read_until(s, b"data: 0\n\n")
    first = time.monotonic() - begin
    read_until(s, b"data: 3\n\n")
    check(first < 0.6 < time.monotonic() - begin < 5, f"the first after {first:.2f} s")
    before = connections()
    s.close()  # the server in the guest is told, too
    wait_until(lambda: connections() < before, 5, "the connection in the guest is closed")


def connections():
    """of web to its clients"""
    return int(D.exec(sandbox(), "sh", "-c", "pidof web | wc -w"))


def test_host_names():
    name = sandbox()
    for host in (f"{WEB}-{name}.localhost:3000", f"{WEB}-{name.upper()}.example.com"):
        s = raw(f"GET /head HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        text = read_all(s).decode()
        check("200 OK" in text and f"\r\nHost: {host}\r\n" in text, text)
    s = raw(f"GET /hello HTTP/1.1\r\nHost: {WEB}-{name}.x\r\nE2b-Sandbox-Id: other\r\n"
            "E2b-Sandbox-Port: 1\r\nConnection: close\r\n\r\n")
    check(b"hello world" in read_all(s), "the name decides")
    s = raw(f"GET /health HTTP/1.1\r\nHost: 49983-{name}.x\r\nConnection: close\r\n\r\n")
    check(b" 204 " in read_all(s), "the agent by its name")


def test_refused():
    value = expect_502(ask("GET", "/", port=9), "The sandbox is running but port is not open")
    check(value["port"] == 9 and value["sandboxId"] == sandbox(), f"{value}")
    expect_502(ask("GET", "/", name="i" + "0" * 20), "The sandbox was not found")
    for port in ("0", "65536", "x"):
        check(ask("GET", "/", port=port)[0] == 400, f"port {port}")
    s = raw("GET / HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: x\r\nConnection: close\r\n\r\n")
    check(b" 400 " in read_all(s), "one of two headers")
    expect_502(ask("GET", "/bad"), "no good")
    expect_502(ask("GET", "/reset"), "closed")
    try:
        ask("GET", "/cut")
        raise AssertionError("a body that was cut off came as whole")
    except http.client.IncompleteRead as e:
        check(e.partial == b"half", f"{e.partial}")
    text = read_all(raw_upgrade(49983)).decode()
    check(" 403 " in text, text)
    text = read_all(raw_upgrade(9)).decode()
    check(" 502 " in text and "not open" in text, text)
    try:
        D.api("GET", f"/sandboxes/{sandbox()}/ports/{WEB}")
        raise AssertionError("no upgrade was asked for")
    except ApiError as e:
        check(e.status == 426, f"{e}")


def raw_upgrade(port):
    s = raw(f"GET /sandboxes/{sandbox()}/ports/{port} HTTP/1.1\r\nHost: localhost\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
    time.sleep(0.3)
    if port in (9, 49983):
        s.shutdown(socket.SHUT_WR)
    return s


def test_upgrade():
    s = raw(request_text("/upgrade", "Connection: Upgrade", "Upgrade: shout") + "early ")
    head = read_until(s, b"READY\n")
    check(b" 101 " in head and b"shout" in head and b"X-Web: yes" in head, f"{head}")
    s.sendall(b"hello\n")
    check(read_until(s, b"HELLO\n").endswith(b"EARLY HELLO\n"), "it shouts")
    data = os.urandom(1 << 20).lower()
    sender = threading.Thread(target=s.sendall, args=(data,))
    sender.start()
    got = b""
    while len(got) < len(data):
        got += s.recv(65536)
    sender.join()
    check(got == data.upper(), "a megabyte both ways at once")
    s.shutdown(socket.SHUT_WR)
    check(read_all(s) == b"BYE\n", "half-closed")
    s.close()


def test_raw():
    s = raw_upgrade(WEB)
    check(b" 101 " in read_until(s, b"\r\n\r\n"), "101")
    s.sendall(b"GET /hello HTTP/1.0\r\n\r\n")
    check(read_all(s).endswith(b"hello world\n"), "raw bytes")


def tcp(text):
    s = socket.create_connection(("127.0.0.1", TCP), 30)
    s.sendall(text.encode())
    return s


def test_tcp():
    name = sandbox()
    host = f"{WEB}-{name}.localhost:{TCP}"
    s = tcp(f"GET /head HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: 10.1.2.3\r\nX-Api-Key: {KEY}\r\n"
            "Connection: close\r\n\r\n")
    text = read_all(s).decode()
    check("\r\nX-Forwarded-For: 10.1.2.3, 127.0.0.1\r\n" in text and KEY not in text, text)
    s = tcp(request_text("/events"))
    begin = time.monotonic()
    read_until(s, b"data: 0\n\n")
    check(time.monotonic() - begin < 0.6, "events flow over TCP, too")
    s.close()
    head = f"GET /sandboxes/{name}/ports/{WEB} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    s = tcp(head + "\r\n")
    check(b" 401 " in read_until(s, b"\r\n\r\n"), "a raw connection needs the key")
    s = tcp(head + f"X-Api-Key: {KEY}\r\n\r\n")
    check(b" 101 " in read_until(s, b"\r\n\r\n"), "with the key")
    s.sendall(b"GET /reset HTTP/1.0\r\n\r\n")
    try:
        check(False, f"an end instead of a reset: {read_all(s)}")
    except ConnectionResetError:
        pass


def test_port_forward():
    name = sandbox()
    a, b = free_port(), free_port()
    forward = subprocess.Popen([program("dorm"), "port-forward", name, f"{a}:{WEB}",
                                f"127.0.0.1:{b}:9"], env=D.env, stderr=subprocess.PIPE, text=True)
    try:
        line = forward.stderr.readline()
        check(str(a) in line and str(WEB) in line, f"{line!r}")
        sockets = [socket.create_connection(("127.0.0.1", a), 20) for _ in range(50)]
        for s in sockets:
            s.sendall(b"GET /hello HTTP/1.0\r\n\r\n")
        for s in sockets:
            check(read_all(s).endswith(b"hello world\n"), "through the forward")
            s.close()
        with socket.create_connection(("127.0.0.1", b), 20) as s:
            check(s.recv(10) == b"", "closed: nobody listens there")
        with socket.create_connection(("127.0.0.1", a), 60) as s:
            s.sendall(b"GET /big/16 HTTP/1.0\r\n\r\n")
            check(len(read_all(s)) > 16 << 20, "16 MiB")
    finally:
        forward.terminate()
        forward.wait(10)
    done = D.dorm("port-forward", "--stdio", name, WEB, stdin="GET /hello HTTP/1.0\r\n\r\n")
    check(done.stdout.endswith("hello world\n"), f"--stdio: {done}")
    done = D.dorm("port-forward", "--stdio", name, 9, stdin="", check_status=False)
    check(done.returncode == 1 and "not open" in done.stderr, f"{done}")
    for bad in ("0", "65536", "1:2:3:4", "x:80", "80:", "0.0.0.999:1:2"):
        done = D.dorm("port-forward", name, bad, check_status=False)
        check(done.returncode == 2, f"{bad}: {done}")


def test_private_traffic():
    made = D.api("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 600, "network":
                 {"allowPublicTraffic": False, "maskRequestHost": "inner:${PORT}"}})
    name, token = made["sandboxID"], made["trafficAccessToken"]
    D.upload(name, program("web"), "/tmp/web")
    start_web(name, WEB)
    check(ask("GET", "/hello", name=name)[0] == 403, "without the token")
    check(ask("GET", "/hello", name=name, **{"E2b-Traffic-Access-Token": "x" * len(token)})[0] == 403, "a bad one")
    status, _, body = ask("GET", "/head", name=name, **{"e2b-traffic-access-token": token})
    check(status == 200 and b"\r\nHost: inner:8080\r\n" in body and token.encode() not in body, f"{body}")
    check(ask("GET", "/health", port=49983, name=name)[0] == 204, "the agent has its own token")
    D.api("POST", f"/sandboxes/{name}/pause", {})
    woken = D.api("POST", f"/sandboxes/{name}/connect", {})
    check(woken["trafficAccessToken"] == token, "kept while asleep")
    fork = D.api("POST", f"/sandboxes/{name}/fork", {})[0]["sandbox"]
    check(fork["trafficAccessToken"] not in ("", token), "a fork has one of its own")
    check(ask("GET", "/hello", name=fork["sandboxID"], **{"e2b-traffic-access-token": token})[0] == 403,
          "another's")
    got = ask("GET", "/hello", name=fork["sandboxID"],
              **{"e2b-traffic-access-token": fork["trafficAccessToken"]})
    check(got[0] == 200, f"its own: {got}")
    for s in (name, fork["sandboxID"]):
        D.api("DELETE", f"/sandboxes/{s}")


def test_many_streams():
    """200 at once that last, and the sandbox and dormd answer others meanwhile"""
    open_ = []
    try:
        for _ in range(200):
            open_.append(raw(request_text("/events")))
        for s in open_:
            read_until(s, b"data: 0\n\n")
        check(ask("GET", "/hello")[2] == b"hello world\n", "one more")
        begin = time.monotonic()
        D.api("GET", "/v2/sandboxes")
        check(time.monotonic() - begin < 2, "the control API")
        check(D.exec(sandbox(), "echo", "x") == "x", "a command")
        more = [raw(request_text("/events")) for _ in range(40)]
        open_ += more
        refused = sum(b" 429 " in s.recv(4096) for s in more)
        check(refused > 5, f"{refused} of 40 above the limit of 224 were told 429")
    finally:
        for s in open_:
            s.close()
    wait_until(lambda: ask("GET", "/hello")[0] == 200, 10, "room again")


def rss_kb(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(next(line for line in f if line.startswith("VmRSS")).split()[1])


def test_idle_connections():
    """1,000 that say nothing, or half of a head: others are served, memory stays bounded"""
    before = rss_kb(D.daemon.pid)
    idle = [raw("") for _ in range(500)]
    idle += [raw("GET / HTTP/1.1\r\nHost: x\r\nX: ") for _ in range(500)]
    time.sleep(1)
    begin = time.monotonic()
    check(ask("GET", "/hello")[2] == b"hello world\n", "the proxy")
    D.api("GET", "/v2/sandboxes")
    check(time.monotonic() - begin < 2, f"{time.monotonic() - begin:.1f} s")
    grown = rss_kb(D.daemon.pid) - before
    print(f"# 1000 idle connections: {grown} kB")
    check(grown < 200000, f"{grown} kB for 1000 connections")
    idle += [raw("GET /healthz HTTP/1.1\r\nHo") for _ in range(1500)]  # more than there may be
    begin = time.monotonic()
    D.api("GET", "/v2/sandboxes")
    check(ask("GET", "/hello")[0] == 200, "the proxy, above the limit")
    check(time.monotonic() - begin < 3, f"{time.monotonic() - begin:.1f} s above the limit")
    for s in idle:
        s.close()


def test_full():
    """when every connection is busy, the next is told so, and there is room again afterwards"""
    busy = []

    def more(n):
        for _ in range(n):
            busy.append(raw("POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"))

    def told():
        try:
            D.api("GET", "/healthz")
        except ApiError as e:
            return e.status == 429
        return False

    more(2000)
    end = time.monotonic() + 20
    while not told():  # those that were still busy with their heads when it was full had to go
        check(time.monotonic() < end, f"429 with {len(busy)} connections")
        more(16)
    for s in busy[:500]:
        s.close()
    wait_until(lambda: not told(), 10, "room again")
    for s in busy[500:]:
        s.close()
    check(ask("GET", "/hello")[0] == 200, "the proxy")


def test_slow_and_greedy_clients():
    """heads that trickle end; heads and bodies that are too large are refused; nobody else waits"""
    slow = raw("GET / HTTP/1.1\r\nHost: x\r\n")
    stop = time.monotonic() + 45
    begin = time.monotonic()
    never_reads = raw(request_text("/big/64"))
    check(b" 413 " in read_until(raw("POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000"
                                     "\r\n\r\n" + "x" * 2000000), b"\r\n\r\n"), "a huge body")
    big = raw("GET / HTTP/1.1\r\nHost: x\r\nX: " + "x" * 60000)
    try:
        big.sendall(b"y" * 100000 + b"\r\n\r\n")
        text = big.recv(4096)
    except OSError:
        text = b" 431 "  # closed while we were still talking
    check(text == b"" or b" 431 " in text or b" 413 " in text, f"a huge head: {text[:100]}")
    ended = None
    while not ended and time.monotonic() < stop:
        try:
            slow.sendall(b"X-A: b\r\n")
            slow.settimeout(1)
            if slow.recv(100) == b"":
                ended = time.monotonic() - begin
        except TimeoutError:
            D.api("GET", "/healthz")
        except OSError:
            ended = time.monotonic() - begin
    check(ended and 25 < ended < 40, f"a head that trickles ended after {ended} s")
    never_reads.close()
    check(ask("GET", "/hello")[0] == 200, "others")


def test_sleep_in_the_middle():
    """of a download, a stream of events, an upgrade and a raw connection"""
    name = sandbox()
    download = raw(request_text("/big/500"))
    events = raw(request_text("/events"))
    upgraded = raw(request_text("/upgrade", "Connection: Upgrade", "Upgrade: shout"))
    over_tcp = tcp(request_text("/upgrade", "Connection: Upgrade", "Upgrade: shout"))
    read_until(over_tcp, b"READY\n")
    silent = raw(request_text("/silent", "Connection: close"))
    read_until(events, b"data: 0\n\n")
    read_until(upgraded, b"READY\n")
    forward = raw_upgrade(WEB)
    read_until(forward, b"\r\n\r\n")
    download.recv(65536)
    D.api("POST", f"/sandboxes/{name}/pause", {})
    asleep = time.monotonic()
    try:
        check(False, f"over TCP an end instead of a reset: {read_all(over_tcp)}")
    except ConnectionResetError:
        pass
    for what, s in {"events": events, "upgrade": upgraded, "raw": forward, "silent": silent,
                    "download": download}.items():
        try:
            text = read_all(s)
        except ConnectionResetError:
            text = b""
        check(time.monotonic() - asleep < 1.5, f"{what}: {time.monotonic() - asleep:.1f} s")
        check(not text.endswith(b"0\r\n\r\n"), f"{what} looks complete")
        if what == "silent":
            check(b" 502 " in text and b"not found" in text, f"{text}")
        s.close()
    expect_502(ask("GET", "/hello"), "The sandbox was not found")
    D.api("POST", f"/sandboxes/{name}/connect", {})
    check(ask("GET", "/hello")[2] == b"hello world\n", "a new request after the wake")
    # the server itself, two more from test_list, and the one that never reads or writes
    wait_until(lambda: connections() <= 4, 10, "what was open is closed in the guest, too")


def test_leave():
    D.__exit__(None)


main(globals())
