#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Who may do what: API keys, their scopes and limits, TLS, the unix socket's users, and clients that
hold connections without using them (docs/security.md, "Access")."""
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import warnings

from harness import ApiError, CACHE, Dormouse, check, main, program, skip, wait_until

STATIC = "e2b_" + "5" * 40


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


PORT = free_port()
D = Dormouse("--listen", f"127.0.0.1:{PORT}", "--api-key", "env:TEST_API_KEY",
             env={"TEST_API_KEY": STATIC})


def call(key, method, path, body=None, port=None, headers=None, context=None, timeout_s=60):
    """one request over TCP: (status, JSON or None, headers)"""
    port = port or PORT
    c = (http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout_s, context=context)
         if context else http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s))
    try:
        c.request(method, path, None if body is None else json.dumps(body),
                  {**({"X-API-KEY": key} if key else {}), **(headers or {})})
        reply = c.getresponse()
        text = reply.read()
        return reply.status, json.loads(text) if text else None, reply.headers
    finally:
        c.close()


def expect(status, key, method, path, body=None, **more):
    """the same, which has to end with this status; returns the JSON"""
    got, value, _ = call(key, method, path, body, **more)
    check(got == status, f"{method} {path}: {got} instead of {status}: {value}")
    if got >= 400:
        check(value["code"] == got, f"status {got}, but the body says {value}")
    return value


def make_key(name, **fields):
    """over the unix socket; (secret, id)"""
    made = D.api("POST", "/keys", {"name": name, **fields})
    return made["key"], made["id"]


def new_sandbox(key, **fields):
    return expect(201, key, "POST", "/v2/sandboxes",
                  {"templateID": "base", "timeout": 600, **fields})["sandboxID"]


def ids(key, path="/v2/sandboxes?state=running,paused"):
    return {s["sandboxID"] for s in expect(200, key, "GET", path)}


def test_0_begin():
    D.__enter__()
    D.build_template("base", 128)


def test_keys_live():
    expect(401, None, "GET", "/v2/sandboxes")
    expect(401, "e2b_" + "0" * 40, "GET", "/v2/sandboxes")
    expect(401, STATIC[:-1], "GET", "/v2/sandboxes")
    expect(401, "", "GET", "/no/such/thing")  # nor what there is
    expect(200, None, "GET", "/healthz")
    expect(200, STATIC, "GET", "/v2/sandboxes")
    made = expect(201, STATIC, "POST", "/keys", {"name": "first", "expires": 3600})
    check(re.fullmatch("e2b_[0-9a-f]{40}", made["key"]), f"{made['key']} is not what SDKs want")
    check(made["scope"] == "use" and made["expiresAt"], made)
    key = made["key"]
    expect(200, key, "GET", "/v2/sandboxes")
    expect(200, None, "GET", "/v2/sandboxes", headers={"Authorization": f"Bearer {key}"})
    listed = D.api("GET", "/keys")
    check([k["id"] for k in listed] == [made["id"]] and key not in json.dumps(listed), listed)
    check(listed[0]["lastUsedAt"], listed)
    file = D.root / "keys.json"
    check(file.stat().st_mode & 0o777 == 0o600, oct(file.stat().st_mode))
    check(key[4:] not in file.read_text(), "the secret is in the file")
    D.kill()
    D.start()
    expect(200, key, "GET", "/v2/sandboxes")
    # a new secret; the old one holds for its grace, and no longer
    second = D.api("POST", f"/keys/{made['id']}/rotate", {"grace": 1})
    expect(200, second["key"], "GET", "/v2/sandboxes")
    wait_until(lambda: call(key, "GET", "/v2/sandboxes")[0] == 401, 20, "the old secret has ended")
    expect(200, second["key"], "GET", "/v2/sandboxes")
    third = D.api("POST", f"/keys/{made['id']}/rotate", {"grace": 600})
    expect(200, second["key"], "GET", "/v2/sandboxes")
    D.api("DELETE", f"/keys/{made['id']}")
    for secret in (key, second["key"], third["key"]):
        expect(401, secret, "GET", "/v2/sandboxes")
    short, _ = make_key("short", expires=1)
    wait_until(lambda: call(short, "GET", "/v2/sandboxes")[0] == 401, 20, "a key expires")
    for bad in ({}, {"name": "A b"}, {"name": "a", "scope": "root"}, {"name": "a", "rate": -1},
                {"name": "a", "maxSandboxes": "x"}):
        expect(400, STATIC, "POST", "/keys", bad)
    expect(404, STATIC, "DELETE", "/keys/kaaaaaaaaaaaaaaaaaaaa")
    expect(404, STATIC, "POST", "/keys/kaaaaaaaaaaaaaaaaaaaa/rotate")


def test_scopes():
    read, _ = make_key("reader", scope="read")
    use, _ = make_key("user", scope="use")
    admin, _ = make_key("admin", scope="admin")
    sandbox = new_sandbox(admin)
    body = {"templateID": "base"}
    for method, path, given in (("POST", "/v2/sandboxes", body), ("POST", "/sandboxes", body),
                                ("DELETE", f"/sandboxes/{sandbox}", None),
                                ("POST", f"/sandboxes/{sandbox}/pause", {}),
                                ("POST", f"/sandboxes/{sandbox}/connect", {}),
                                ("POST", f"/sandboxes/{sandbox}/fork", {}),
                                ("POST", f"/sandboxes/{sandbox}/snapshots", {}),
                                ("POST", f"/sandboxes/{sandbox}/timeout", {"timeout": 9}),
                                ("PUT", f"/sandboxes/{sandbox}/network", {}),
                                ("GET", f"/sandboxes/{sandbox}/ports/22", None),
                                ("DELETE", "/templates/base", None)):
        said = expect(403, read, method, path, given)
        check("scope use" in said["message"], said)
    for key in (read, use):
        for method, path in (("POST", "/v3/templates"), ("POST", "/store/check"), ("GET", "/keys"),
                             ("POST", "/keys"), ("POST", "/pager/upgrade"),
                             ("POST", "/templates/base/warm"), ("GET", "/snapshots/x/export")):
            said = expect(403, key, method, path, {} if method == "POST" else None)
            check("scope admin" in said["message"], said)
    # a reader sees that it is there, and nothing that would let him in
    seen = expect(200, read, "GET", f"/sandboxes/{sandbox}")
    check("envdAccessToken" not in seen, seen)
    check(expect(200, admin, "GET", f"/sandboxes/{sandbox}")["envdAccessToken"], "no token")
    check(sandbox in ids(read), "the reader's list lacks it")
    expect(200, read, "GET", "/pager")
    expect(403, use, "GET", "/pager")  # it tells of everybody's
    expect(403, use, "GET", "/snapshots/tree")
    expect(200, use, "GET", "/templates")
    expect(204, admin, "DELETE", f"/sandboxes/{sandbox}")


def test_owners():
    a, a_id = make_key("tenant-a")
    b, _ = make_key("tenant-b")
    mine, other = new_sandbox(a), D.create("base")
    check(ids(a) == {mine} and ids(b) == set(), f"{ids(a)} {ids(b)}")
    check({mine, other} <= ids(STATIC), "the administrator sees all")
    check(D.api("GET", f"/sandboxes/{mine}")["owner"] == a_id, "whose it is")
    check("owner" not in D.api("GET", f"/sandboxes/{other}"), "the unix socket's")
    for target in (mine, other):
        for method, path, given in (("GET", "", None), ("DELETE", "", None), ("POST", "/pause", {}),
                                    ("POST", "/connect", {}), ("POST", "/fork", {}),
                                    ("POST", "/timeout", {"timeout": 1}), ("GET", "/memory", None),
                                    ("POST", "/snapshots", {}), ("GET", "/ports", None),
                                    ("GET", "/network", None), ("GET", "/metrics", None),
                                    ("GET", "/ports/1", None)):
            said = expect(404, b, method, f"/sandboxes/{target}{path}", given)
            none = expect(404, b, method, f"/sandboxes/iaaaaaaaaaaaaaaaaaaaa{path}", given)
            check(said["message"].replace(target, "X")
                  == none["message"].replace("iaaaaaaaaaaaaaaaaaaaa", "X"), f"{said} {none}")
    fork = expect(201, a, "POST", f"/sandboxes/{mine}/fork", {})[0]["sandbox"]["sandboxID"]
    check(ids(a) == {mine, fork}, ids(a))
    theirs = expect(201, STATIC, "POST", f"/sandboxes/{mine}/fork", {})[0]["sandbox"]["sandboxID"]
    expect(404, a, "GET", f"/sandboxes/{theirs}")
    # the owner survives a sleep and another dormd
    expect(204, a, "POST", f"/sandboxes/{mine}/pause", {})
    D.kill()
    D.start()
    check(ids(a) == {mine, fork}, ids(a))
    expect(404, b, "POST", f"/sandboxes/{mine}/connect", {})
    # snapshots: of who made them
    snapshot = expect(201, a, "POST", f"/sandboxes/{mine}/snapshots", {"name": "of-a"})["snapshotID"]
    for name in (snapshot, "of-a"):
        expect(404, b, "GET", f"/snapshots/{name}")
        expect(404, b, "POST", "/v2/sandboxes", {"templateID": name})
        expect(404, b, "DELETE", f"/templates/{name}")
        expect(200, a, "GET", f"/snapshots/{name}")
    for key, there in ((a, True), (b, False), (STATIC, True)):
        for path in ("/snapshots", "/templates"):
            listed = {s["snapshotID"] for s in expect(200, key, "GET", path)}
            check((snapshot in listed) == there, f"{path}: {listed}")
    expect(403, a, "DELETE", "/templates/base")
    taken = expect(403, a, "POST", f"/sandboxes/{mine}/snapshots", {"name": "base"})
    check("taken" in taken["message"], taken)
    expect(204, a, "DELETE", f"/templates/{snapshot}")
    expect(404, STATIC, "GET", f"/snapshots/{snapshot}")
    for sandbox in (mine, fork):
        expect(204, a, "DELETE", f"/sandboxes/{sandbox}")
    expect(204, STATIC, "DELETE", f"/sandboxes/{theirs}")
    D.api("DELETE", f"/sandboxes/{other}")


def at_once(jobs):
    """run them together; their results in order"""
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        return [f.result() for f in [pool.submit(*job) for job in jobs]]


def test_limits():
    body = {"templateID": "base", "timeout": 600}
    two, _ = make_key("two", maxSandboxes=2)
    answers = at_once([(call, two, "POST", "/v2/sandboxes", body)] * 20)
    made = [value["sandboxID"] for status, value, _ in answers if status == 201]
    refused = [(status, value, headers) for status, value, headers in answers if status != 201]
    check(len(made) == 2 and ids(two) == set(made), f"{[a[0] for a in answers]}")
    for status, value, headers in refused:
        check(status == 429 and "2 sandboxes" in value["message"], f"{status} {value}")
        check(int(headers["Retry-After"]) > 0, dict(headers))
    expect(429, two, "POST", f"/sandboxes/{made[0]}/fork", {"count": 1})
    # one that sleeps leaves its place to another, and has to wait for one itself
    expect(204, two, "POST", f"/sandboxes/{made[0]}/pause", {})
    forks = expect(201, two, "POST", f"/sandboxes/{made[0]}/fork", {"count": 3})
    fork = [f["sandbox"]["sandboxID"] for f in forks if "sandbox" in f]
    check(len(fork) == 1 and all(f["error"]["code"] == 429 for f in forks if "error" in f), forks)
    expect(429, two, "POST", f"/sandboxes/{made[0]}/connect", {})
    check(D.status(made[0]) == "asleep", D.status(made[0]))
    expect(204, two, "DELETE", f"/sandboxes/{fork[0]}")
    answers = at_once([(call, two, "POST", "/v2/sandboxes", body)] * 6
                      + [(call, two, "POST", f"/sandboxes/{made[0]}/connect", {})])
    check(sum(status == 201 for status, _, _ in answers) == 1, [a[0] for a in answers])
    D.kill()
    D.start()  # another dormd counts what it has adopted
    expect(429, two, "POST", "/v2/sandboxes", body)
    for sandbox in ids(two):
        expect(204, two, "DELETE", f"/sandboxes/{sandbox}")
    # memory: of 300 MiB, two guests of 128
    small, _ = make_key("small", maxMemoryMB=300)
    answers = at_once([(call, small, "POST", "/v2/sandboxes", body)] * 4)
    check(sorted(a[0] for a in answers) == [201, 201, 429, 429], [a[0] for a in answers])
    check(any("300.0 MiB" in a[1]["message"] for a in answers if a[0] == 429), answers)
    for sandbox in ids(small):
        expect(204, small, "DELETE", f"/sandboxes/{sandbox}")


def test_rate():
    five, _ = make_key("five", scope="read", rate=5)
    start = time.monotonic()
    answers = at_once([(call, five, "GET", "/v2/sandboxes")] * 40)
    took = time.monotonic() - start
    good = sum(status == 200 for status, _, _ in answers)
    check(5 <= good <= 5 + 5 * took + 1, f"{good} of 40 in {took:.2f} s")
    refused = [a for a in answers if a[0] != 200]
    check(refused and all(s == 429 and h["Retry-After"] and "5 requests per second" in v["message"]
                          for s, v, h in refused), refused[:3])
    expect(200, STATIC, "GET", "/v2/sandboxes")  # others are not concerned
    wait_until(lambda: call(five, "GET", "/v2/sandboxes")[0] == 200, 20, "it may ask again")


def test_command_line():
    made = D.dorm("key", "create", "ci", "--max-sandboxes", 3, "--max-memory", "2G", "--rate", "50/s",
                  "--expires", "30d")
    secret = made.stdout.strip()
    check(re.fullmatch("e2b_[0-9a-f]{40}", secret), f"only the secret belongs there: {made.stdout}")
    check("only time" in made.stderr, made.stderr)
    listed = [k for k in D.json("key", "ls") if k["name"] == "ci"]
    check(listed[0]["maxSandboxes"] == 3 and listed[0]["maxMemoryMB"] == 2048
          and listed[0]["rate"] == 50, listed)
    table = D.dorm("key", "ls").stdout
    check(listed[0]["id"] in table and secret not in table, table)
    second = D.dorm("key", "rotate", "--grace", "1h", listed[0]["id"])
    check("valid until" in second.stderr, second.stderr)
    for key in (secret, second.stdout.strip()):
        expect(200, key, "GET", "/v2/sandboxes")
    # dorm itself over TCP
    remote = {k: v for k, v in D.env.items() if k != "DORM_SOCKET"}
    remote |= {"DORM_HOST": f"http://127.0.0.1:{PORT}", "DORM_API_KEY": second.stdout.strip()}

    def dorm(*args, **env):
        return subprocess.run([program("dorm"), *args], env=remote | env, text=True, timeout=120,
                              capture_output=True, check=False)
    ran = dorm("run", "base")
    check(ran.returncode == 0, ran.stderr)
    sandbox = ran.stdout.strip()
    ran = dorm("exec", "-u", "root", sandbox, "--", "sh", "-c", "echo here; env")
    check(ran.returncode == 0 and "here" in ran.stdout and "e2b_" not in ran.stdout, ran)
    check(sandbox in dorm("ps").stdout, "dorm ps does not show it")
    check(dorm("rm", sandbox).returncode == 0, "dorm rm")
    ran = dorm("key", "ls")
    check(ran.returncode == 1 and "scope admin" in ran.stderr, ran.stderr)
    ran = dorm("ps", DORM_API_KEY="")
    check(ran.returncode == 1 and "X-API-KEY" in ran.stderr, ran.stderr)
    D.dorm("key", "revoke", listed[0]["id"])
    ran = dorm("ps")
    check(ran.returncode == 1 and "revoked" in ran.stderr, ran.stderr)
    check(D.dorm("key", "revoke", listed[0]["id"], check_status=False).returncode == 1, "twice")
    for bad in (["--rate", "x"], ["--scope", "root"], ["--max-sandboxes", "0"]):
        check(D.dorm("key", "create", "n", *bad, check_status=False).returncode, bad)


@contextlib.contextmanager
def daemon(*args, env=None, ready=True):
    """a dormd without sandboxes, on a store of its own"""
    d = Dormouse(*args, env=env)
    try:
        if ready:
            d.start()
        yield d
    finally:
        d.__exit__(None)


def test_damaged_keys():
    port = free_port()
    with daemon("--listen", f"127.0.0.1:{port}") as d:
        key = d.api("POST", "/keys", {"name": "a"})["key"]
        expect(200, key, "GET", "/v2/sandboxes", port=port)
        file = d.root / "keys.json"
        good = file.read_text()
        for text, mode in ((good[:100], 0o600), (good, 0o644), ("", 0o600)):
            d.kill()
            file.write_text(text)
            file.chmod(mode)
            d.start()
            said = expect(503, key, "GET", "/v2/sandboxes", port=port)
            check("keys.json" in said["message"], said)
            expect(503, None, "GET", "/v2/sandboxes", port=port)
            expect(200, None, "GET", "/healthz", port=port)
            check(d.api("GET", "/v2/sandboxes") == [], "the unix socket works")
            try:
                d.api("POST", "/keys", {"name": "b"})
                raise AssertionError("a key was made over a file that may be restored")
            except ApiError as e:
                check(e.status == 503, e)
            check("cannot be used" in d.log.read_text(), "the log says nothing")
            check(file.read_text() == text, "the damaged file was changed")
        d.kill()
        file.write_text(good)
        file.chmod(0o600)
        d.start()
        expect(200, key, "GET", "/v2/sandboxes", port=port)


def refuses(*args, env=None):
    """dormd does not start with these; returns what it says"""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="dorm-e2e."))
    try:
        ran = subprocess.run([program("dormd"), "--root", directory / "store", "--run-dir",
                              directory / "run", "--guest-cache", CACHE, *map(str, args)],
                             env=dict(os.environ, **(env or {})), text=True, capture_output=True,
                             timeout=60, check=False)
        check(ran.returncode in (1, 2), f"{args}: status {ran.returncode}")
        return ran.stderr
    finally:
        shutil.rmtree(directory)


def certificate(directory, name="cert", days=30):
    """a self-signed one for 127.0.0.1: (certificate, key)"""
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert, "-days",
                    str(days), "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"],
                   check=True, capture_output=True, timeout=60)
    key.chmod(0o600)
    return cert, key


def test_refuses_public():
    port, env = free_port(), {"K": STATIC}
    for address in (f"0.0.0.0:{port}", f"[::]:{port}"):
        said = refuses("--listen", address)
        check("no API keys" in said and "dorm key create" in said, said)
        said = refuses("--listen", address, "--api-key", "env:K", env=env)
        check("in the clear" in said and "--tls-cert" in said, said)
        check("no API keys" in refuses("--listen", address, "--allow-plain"), "keys are needed")
    # one loopback address does not make the other public one better
    said = refuses("--listen", f"127.0.0.1:{free_port()}", "--listen", f"0.0.0.0:{port}",
                   "--api-key", "env:K", env=env)
    check("in the clear" in said, said)
    check("go together" in refuses("--tls-cert", "/x"), "a certificate without a key")
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        cert, key = certificate(directory)
        _, other = certificate(directory, "other")
        check("does not belong" in refuses("--tls-cert", cert, "--tls-key", other), "a wrong key")
        check("certificate" in refuses("--tls-cert", key, "--tls-key", key), "no certificate")
        key.chmod(0o644)
        check("owner alone" in refuses("--tls-cert", cert, "--tls-key", key), "a key for everybody")
    with daemon("--listen", f"0.0.0.0:{port}", "--allow-plain", "--api-key", "env:K", env=env) as d:
        expect(401, None, "GET", "/v2/sandboxes", port=port)
        expect(200, STATIC, "GET", "/v2/sandboxes", port=port)
        check("without TLS" in d.log.read_text(), "it does not warn")


def test_tls():
    port, second = free_port(), free_port()
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        cert, key = certificate(directory)
        context = ssl.create_default_context(cafile=cert)
        with daemon("--listen", f"0.0.0.0:{port}", "--listen", f"127.0.0.1:{second}", "--tls-cert",
                    cert, "--tls-key", key, "--api-key", "env:K", env={"K": STATIC}) as d:
            def serial():
                with socket.create_connection(("127.0.0.1", port), 30) as s, \
                        ssl._create_unverified_context().wrap_socket(s) as t:
                    check(t.version() in ("TLSv1.2", "TLSv1.3"), t.version())
                    return t.getpeercert(True)
            for p in (port, second):
                expect(401, None, "GET", "/v2/sandboxes", port=p, context=context)
                expect(200, STATIC, "GET", "/v2/sandboxes", port=p, context=context)
                with contextlib.suppress(OSError, http.client.HTTPException):
                    status, _, _ = call(STATIC, "GET", "/v2/sandboxes", port=p, timeout_s=10)
                    raise AssertionError(f"plain HTTP was answered: {status}")
            # a body that is refused half-way is told why, through TLS too
            c = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
            c.putrequest("POST", "/snapshots/import")
            c.putheader("X-API-KEY", STATIC)
            c.putheader("Content-Length", str(1 << 30))
            c.endheaders()
            c.send(b"x" * 65536)
            check(c.getresponse().status == 400, "an import of nonsense")
            c.close()
            env = dict(d.env, DORM_HOST=f"https://127.0.0.1:{port}", DORM_API_KEY=STATIC)
            ran = subprocess.run([program("dorm"), "ps"], env=env, text=True, capture_output=True,
                                 timeout=60, check=False)
            check(ran.returncode == 1 and "not trusted" in ran.stderr, ran.stderr)
            env["DORM_CA"] = str(cert)
            ran = subprocess.run([program("dorm"), "ps"], env=env, text=True, capture_output=True,
                                 timeout=60, check=False)
            check(ran.returncode == 0, ran.stderr)
            # another certificate; one that is no good leaves it
            before = serial()
            new, new_key = certificate(directory, "new")
            new.rename(cert)
            d.daemon.send_signal(1)
            wait_until(lambda: "stays as it was" in d.log.read_text(), 30, "the key does not fit")
            check(serial() == before, "half of a pair is in use")
            new_key.rename(key)
            d.daemon.send_signal(1)
            wait_until(lambda: serial() != before, 30, "the new certificate is in use")
            # TLS 1.1 is gone, and who says nothing cannot keep others out
            old = ssl._create_unverified_context()
            old = ssl._create_unverified_context()
            with warnings.catch_warnings(action="ignore"):
                old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
            old.set_ciphers("ALL:@SECLEVEL=0")
            with socket.create_connection(("127.0.0.1", port), 30) as s:
                try:
                    old.wrap_socket(s)
                    raise AssertionError("TLS 1.1 was spoken")
                except OSError:
                    pass
            mute = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(50)]
            context = ssl.create_default_context(cafile=cert)
            expect(200, STATIC, "GET", "/v2/sandboxes", port=port, context=context)
            for s in mute:
                s.close()


def as_user(user, *command, env, groups="--clear-groups"):
    return subprocess.run(["setpriv", "--reuid", str(user), "--regid", str(user), *groups.split(),
                           *map(str, command)], env=env, text=True, capture_output=True, timeout=60,
                          check=False)


def test_unix_peers():
    if os.geteuid() != 0:
        skip("becoming another user needs root")
    directory = pathlib.Path(tempfile.mkdtemp(prefix="dorm-e2e."))
    try:
        directory.chmod(0o755)
        dorm = directory / "dorm"
        shutil.copy(program("dorm"), dorm)  # the build may lie where only root gets
        dorm.chmod(0o755)
        path = directory / "api.sock"
        env = dict(os.environ, DORM_SOCKET=str(path))

        def try_as(user, groups="--clear-groups"):
            return as_user(user, dorm, "ps", env=env, groups=groups)

        def serve(*args):
            d = Dormouse("--socket", path, *args)
            d.socket = path
            return d
        with serve() as d:
            check(path.stat().st_mode & 0o777 == 0o600, oct(path.stat().st_mode))
            ran = try_as(65534)
            check(ran.returncode == 1 and "Permission denied" in ran.stderr, ran)
            path.chmod(0o666)  # whatever the file says
            ran = try_as(65534)
            check(ran.returncode == 1 and "may not use dormd's socket" in ran.stderr, ran)
            check("refused uid=65534" in d.log.read_text(), d.log.read_text())
            check(try_as(0).returncode == 0, "root is let in")
        with serve("--socket-group", "4711") as d:
            stat = path.stat()
            check(stat.st_gid == 4711 and stat.st_mode & 0o777 == 0o660, oct(stat.st_mode))
            check(try_as(65534).returncode == 1, "nobody is not in the group")
            ran = try_as(4712, "--groups 4711")
            check(ran.returncode == 0, ran)
            check(try_as(4711).returncode == 0, "his primary group")
        with serve("--socket-group", "4711", "--socket-mode", "0666") as d:
            check(path.stat().st_mode & 0o777 == 0o666, oct(path.stat().st_mode))
            ran = try_as(65534)
            check(ran.returncode == 1 and "may not use dormd's socket" in ran.stderr, ran)
        check("there is no group" in refuses("--socket-group", "no-such-group-here"), "its name")
        check("octal" in refuses("--socket-mode", "999"), "a mode")
    finally:
        shutil.rmtree(directory)


def over_tls(port, context, text):
    t = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 60),
                            server_hostname="127.0.0.1")
    t.sendall(text.encode())
    return t


def read_to(s, end):
    got = b""
    while end not in got:
        part = s.recv(65536)
        if not part:
            break
        got += part
    return got


def test_tls_into_sandbox():
    """what goes around the HTTP server: commands, a raw connection with much data both ways"""
    sandbox = D.create("base")
    D.upload(sandbox, program("web"), "/tmp/web")
    D.exec(sandbox, "sh", "-c", "setsid /tmp/web 8080 127.0.0.1 </dev/null >/dev/null 2>&1 &")
    wait_until(lambda: any(p["port"] == 8080 for p in D.api("GET", f"/sandboxes/{sandbox}/ports")),
               30, "the server in the guest listens")
    args = D.args
    with tempfile.TemporaryDirectory() as directory:
        cert, key = certificate(pathlib.Path(directory))
        context = ssl.create_default_context(cafile=cert)
        D.kill()
        D.args = [*args, "--tls-cert", cert, "--tls-key", key]
        try:
            D.start()
            env = dict(D.env, DORM_HOST=f"https://127.0.0.1:{PORT}", DORM_API_KEY=STATIC,
                       DORM_CA=str(cert))
            data = os.urandom(3 << 20)
            ran = subprocess.run([program("dorm"), "exec", "-i", sandbox, "--", "cat"], env=env,
                                 input=data, capture_output=True, timeout=120, check=False)
            check(ran.returncode == 0 and ran.stdout == data, f"{ran.returncode} {ran.stderr}")
            ran = subprocess.run([program("dorm"), "cp", __file__, f"{sandbox}:/tmp/x"], env=env,
                                 capture_output=True, text=True, timeout=120, check=False)
            check(ran.returncode == 0, ran.stderr)
            with over_tls(PORT, context,
                          f"GET /sandboxes/{sandbox}/ports/8080 HTTP/1.1\r\nHost: x\r\nX-API-KEY: "
                          f"{STATIC}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n") as t:
                check(b" 101 " in read_to(t, b"\r\n\r\n"), "an upgrade")
                t.sendall(b"GET /big/4 HTTP/1.0\r\n\r\n")
                body = read_to(t, b"no such end").partition(b"\r\n\r\n")[2]
                check(len(body) > 4 << 20, f"{len(body)} bytes of 4 MiB and its chunks")
            with over_tls(PORT, context,
                          f"GET /upgrade HTTP/1.1\r\nHost: 8080-{sandbox}.x\r\nConnection: Upgrade"
                          "\r\nUpgrade: shout\r\n\r\n") as t:
                check(read_to(t, b"READY\n"), "another upgrade")
                t.sendall(b"hello\n")
                check(b"HELLO" in read_to(t, b"HELLO\n"), "it shouts")
                D.daemon.send_signal(15)  # with the tunnel open
                check(D.daemon.wait(20) == 0, "dormd did not end in good order")
        finally:
            D.kill()
            D.args = args
            D.start()
    D.api("DELETE", f"/sandboxes/{sandbox}")


LORIS = """
import random, resource, select, socket, sys, time
port, trickling, idle = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
alive, poll = {}, select.poll()
def connect(kind):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex(("127.0.0.1", port))
    alive[s.fileno()] = (s, kind)
    poll.register(s, select.POLLIN | select.POLLHUP)
for i in range(trickling + idle):
    connect("trickle" if i < trickling else "idle")
    if i % 50 == 49:
        time.sleep(0.05)
for s, kind in list(alive.values()):
    try:
        kind == "trickle" and s.send(b"GET /v2/sandboxes HTTP/1.1\\r\\nHost: x\\r\\n")
    except OSError:
        pass
print("ready", flush=True)
while True:
    begin = time.monotonic()
    for s, kind in list(alive.values()):
        if kind == "trickle":
            try:
                s.send(random.choice([b"X-A: b\\r\\n", b"X", b"-Y: "]))
            except OSError:
                pass
    for fd, _ in poll.poll(0):
        s, kind = alive.pop(fd)
        poll.unregister(fd)
        s.close()
        connect(kind)
    time.sleep(max(0, 1 - (time.monotonic() - begin)))
"""


def count_of(pid):
    """(resident KiB, descriptors, threads) of a process"""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return (int(re.search(r"VmRSS:\s+(\d+)", status)[1]), len(os.listdir(f"/proc/{pid}/fd")),
            int(re.search(r"Threads:\s+(\d+)", status)[1]))


def test_slow_loris():
    """1,000 heads that trickle and 1,000 connections that say nothing, from the address of the
    client whose requests go on meanwhile"""
    key, _ = make_key("works")
    sandbox = new_sandbox(key)
    env = dict(D.env, DORM_HOST=f"http://127.0.0.1:{PORT}", DORM_API_KEY=key)

    def execute():
        ran = subprocess.run([program("dorm"), "exec", "-u", "root", sandbox, "--", "true"],
                             env=env, capture_output=True, text=True, timeout=120, check=False)
        check(ran.returncode == 0, f"exec: {ran.stderr}")
    jobs = {"healthz": lambda: expect(200, None, "GET", "/healthz"),
            "list": lambda: expect(200, key, "GET", "/v2/sandboxes"), "exec": execute}

    def measure(n):
        """median and worst of each, in ms; any failure is raised"""
        took = {name: [] for name in jobs}
        for _ in range(n):
            for name, job in jobs.items():
                begin = time.monotonic()
                job()
                took[name].append(1000 * (time.monotonic() - begin))
        return {name: (sorted(t)[n // 2], max(t)) for name, t in took.items()}
    measure(3)
    before, at_rest = measure(20), count_of(D.daemon.pid)
    loris = subprocess.Popen(["python3", "-c", LORIS, str(PORT), "1000", "1000"],
                             stdout=subprocess.PIPE, text=True)
    try:
        check(loris.stdout.readline() == "ready\n", "the connections cannot be made")
        during, attacked = measure(40), count_of(D.daemon.pid)
        check(loris.poll() is None, "the attack ended too early")
    finally:
        loris.kill()
        loris.wait(30)
        loris.stdout.close()
    for name in jobs:
        print(f"# {name}: median {before[name][0]:.1f} -> {during[name][0]:.1f} ms, "
              f"worst {before[name][1]:.1f} -> {during[name][1]:.1f} ms")
        check(during[name][0] < 5 * before[name][0] + 100, f"{name}: {before} {during}")
    print(f"# dormd: {at_rest} -> {attacked} KiB, descriptors, threads")
    check(attacked[0] - at_rest[0] < 100 << 10, f"memory: {at_rest} {attacked}")
    check(600 < attacked[1] - at_rest[1] < 1200, f"descriptors: {at_rest} {attacked}")
    wait_until(lambda: count_of(D.daemon.pid)[1] <= at_rest[1] + 5, 60, "they are closed again")
    expect(204, key, "DELETE", f"/sandboxes/{sandbox}")


if __name__ == "__main__":
    main(globals())
