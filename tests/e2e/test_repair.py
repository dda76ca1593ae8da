# SPDX-License-Identifier: Apache-2.0
# timeout: 400
"""What a guest is told before it sleeps and after it woke, forked or failed to sleep: names, tokens,
clock, random numbers, connections, hooks, page cache."""
import base64
import ctypes
import hashlib
import json
import shutil
import subprocess
import time
import urllib.parse

from harness import CACHE, ApiError, Dormouse, UnixConnection, check, main, program, wait_until

MEMORY_MB = 192
HOOKS = "/etc/dorm/hooks"
FILE_MB = 160  # what the test of the page cache reads

D = Dormouse().__enter__()


def make(template="r", **fields):
    if not any(t["templateID"] and "r" in t.get("names", []) for t in D.api("GET", "/templates")):
        D.build_template("r", MEMORY_MB)
    sandbox = D.create(template, **fields)
    D.upload(sandbox, program("probe"), "/tmp/probe")
    return sandbox


def fork(sandbox, count=1):
    return D.api("POST", f"/sandboxes/{sandbox}/fork", {"count": count, "timeout": 3600})


def pause(sandbox):
    return D.api("POST", f"/sandboxes/{sandbox}/pause?details=1", {})


def connect(sandbox):
    return D.api("POST", f"/v2/sandboxes/{sandbox}/connect", {})


def delete(*sandboxes):
    for sandbox in sandboxes:
        D.api("DELETE", f"/sandboxes/{sandbox}")


def token_of(sandbox):
    return D.api("GET", f"/sandboxes/{sandbox}").get("envdAccessToken")


def request(method, path, headers=None, body=None):
    """one request as a client makes it; returns status and text"""
    connection = UnixConnection(D.socket, 60)
    try:
        connection.request(method, path, body, headers or {})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def list_status(sandbox, token):
    headers = {"E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": "49983",
               "Content-Type": "application/json"}
    if token is not None:
        headers["X-Access-Token"] = token
    return request("POST", "/process.Process/List", headers, "{}")[0]


def manifest(sandbox):
    """of a sleeping sandbox's memory"""
    found = sorted((D.root / "sandboxes" / sandbox).glob("memory-*/manifest.json"))
    check(len(found) == 1, f"one memory, not {found}")
    return json.loads(found[0].read_text())


def step(steps, name):
    found = [s for s in steps if s["name"] == name]
    check(len(found) == 1, f"one step {name} in {steps}")
    return found[0]


def put_hook(sandbox, name, script):
    path = f"{HOOKS}/{name}"
    D.exec(sandbox, "sh", "-c", f"mkdir -p {path.rpartition('/')[0]} && cat >{path} && chmod 755 {path}",
           stdin=f"#!/bin/sh\n{script}\n")


def start_clock(sandbox):
    """a workload that can be seen to run: /tmp/alive has another content all the time"""
    D.exec(sandbox, "sh", "-c", "setsid sh -c 'while :; do /tmp/probe time >/tmp/alive.new; "
                                "mv /tmp/alive.new /tmp/alive; done' </dev/null >/dev/null 2>&1 & "
                                "until [ -s /tmp/alive ]; do sleep 0.1; done")


# ---- names

def identity(sandbox):
    """what the sandbox is called, wherever a program may look"""
    text = D.exec(sandbox, "sh", "-c",
                  "hostname; cat /etc/hostname /etc/machine-id; tail -n 1 /etc/hosts; "
                  "cat /run/dorm/sandbox-id; echo; cat /run/e2b/.E2B_SANDBOX_ID; echo; "
                  "cat /run/e2b/.E2B_TEMPLATE_ID; echo; echo $E2B_SANDBOX $E2B_SANDBOX_ID "
                  "$E2B_TEMPLATE_ID; cat /proc/sys/kernel/random/uuid; "
                  "head -c 32 /dev/urandom | hexdump -e '32/1 \"%02x\"'; echo")
    lines = text.splitlines()
    check(len(lines) == 10, f"answers of {sandbox}: {lines}")
    return lines


def check_identity(sandbox, template):
    lines = identity(sandbox)
    machine = lines[2]
    want = [sandbox, sandbox, machine, f"127.0.1.1 {sandbox}", sandbox, sandbox, template,
            f"true {sandbox} {template}"]
    check(lines[:8] == want, f"{sandbox} says {lines[:8]}, not {want}")
    check(len(machine) == 32 and int(machine, 16), f"machine-id {machine}")
    return {"machine-id": machine, "uuid": lines[8], "urandom": lines[9]}


def test_forks_are_others():
    """names, random numbers; what a fork's fork says; and a wake, which is still the same"""
    source = make()
    forks = [f["sandbox"]["sandboxID"] for f in fork(source, 3)]
    seen = [check_identity(s, "r") for s in (source, *forks)]
    for key in ("machine-id", "uuid", "urandom"):
        values = [s[key] for s in seen]
        check(len(set(values)) == len(values), f"{key} is not its own: {values}")
    pause(forks[0])
    second = fork(forks[0])[0]["sandbox"]["sandboxID"]  # of one that sleeps
    check_identity(second, "r")
    connect(forks[0])
    again = check_identity(forks[0], "r")
    check(again["machine-id"] == seen[1]["machine-id"], "a wake changed the machine-id")
    check(again["uuid"] != seen[1]["uuid"], "a wake gave the same random numbers")
    delete(source, second, *forks)


def check_clock(sandbox):
    before = time.time_ns()
    guest = int(D.exec(sandbox, "/tmp/probe", "time"))
    after = time.time_ns()
    off_ms = max(before - guest, guest - after, 0) / 1e6
    check(off_ms < 100, f"the clock of {sandbox} is off by {off_ms:.0f} ms")
    return off_ms


def test_clock():
    source = make()
    pause(source)
    time.sleep(2)  # what it would be late by
    forks = [f["sandbox"]["sandboxID"] for f in fork(source, 2)]
    connect(source)
    worst = max(check_clock(s) for s in (source, *forks))
    print(f"    off by at most {worst:.1f} ms")
    delete(source, *forks)


# ---- tokens

def test_tokens():
    """each sandbox is opened by its own token and by nothing else"""
    made = D.api("POST", "/v2/sandboxes", {"templateID": "r", "timeout": 3600})
    source = made["sandboxID"]
    check(made["envdAccessToken"] == token_of(source), "create and look tell different tokens")
    forks = [f["sandbox"] for f in fork(source, 2)]
    snapshot = D.api("POST", f"/sandboxes/{source}/snapshots", {})["snapshotID"]
    child = D.api("POST", "/v2/sandboxes", {"templateID": snapshot, "timeout": 3600})
    tokens = {s["sandboxID"]: s["envdAccessToken"] for s in (made, child, *forks)}
    check(len(set(tokens.values())) == 4, "tokens are shared")
    for sandbox in tokens:
        for owner, token in tokens.items():
            want = 200 if owner == sandbox else 401
            got = list_status(sandbox, token)
            check(got == want, f"{owner}'s token at {sandbox}: {got}")
        for wrong in (None, "", "x", tokens[sandbox][:-1]):
            check(list_status(sandbox, wrong) == 401, f"{wrong} opens {sandbox}")
    record = D.root / "sandboxes" / source / "sandbox.json"
    check(record.stat().st_mode & 0o777 == 0o600, "others can read the token on disk")
    pause(source)
    check(token_of(source) == tokens[source], "it is told while it sleeps, too")
    woken = connect(source)
    check(woken["envdAccessToken"] == tokens[source], "a wake changed the token")
    D.kill()
    D.start()
    check(token_of(source) == tokens[source], "a restart changed the token")
    wait_until(lambda: list_status(source, tokens[source]) == 200, 20, "the token opens it")
    check(list_status(source, None) == 401, "after a restart it is open")
    check(D.exec(source, "echo", "hello") == "hello", "dorm exec")
    listed = D.api("GET", "/v2/sandboxes")
    check(all("envdAccessToken" not in s for s in listed), "a list tells tokens")
    delete(*tokens)


def test_first_version():
    """clients of the first version ask for a token, or do without one"""
    plain = D.api("POST", "/sandboxes", {"templateID": "r", "timeout": 3600})
    check("envdAccessToken" not in plain, "a token that nobody asked for")
    check(list_status(plain["sandboxID"], None) == 200, "it is not open")
    child = fork(plain["sandboxID"])[0]["sandbox"]
    check(list_status(child["sandboxID"], None) == 200, "its fork is not open")
    secure = D.api("POST", "/sandboxes", {"templateID": "r", "timeout": 3600, "secure": True})
    check(list_status(secure["sandboxID"], None) == 401, "secure, but open")
    check(list_status(secure["sandboxID"], secure["envdAccessToken"]) == 200, "its own token")
    delete(plain["sandboxID"], child["sandboxID"], secure["sandboxID"])


def test_unsupported():
    """what is known and not done is refused by name, and nothing is made"""
    before = len(D.sandboxes())
    for field, value in (("mcp", {"x": {"y": 1}}),
                         ("volumeMounts", [{"name": "v", "path": "/v"}]),
                         ("iam", {"tokens": {"t": {"a": "b"}}})):
        try:
            D.create("r", **{field: value})
        except ApiError as e:
            check(e.status == 400 and field in str(e), f"{field}: {e}")
        else:
            raise AssertionError(f"{field} was accepted")
    check(len(D.sandboxes()) == before, "a refused create left something")
    sandbox = D.create("r", autoResume={"enabled": False}, network={}, volumeMounts=[],
                       allow_internet_access=True, somethingNew={"a": 1})
    info = D.api("GET", f"/sandboxes/{sandbox}")
    check(info["domain"] is None and info["envdVersion"] == "0.6.13", f"{info}")
    delete(sandbox)


def sign(token, path, operation="read", user="", expiration=None):
    text = f"{path}:{operation}:{user}:{token}" + (f":{expiration}" if expiration else "")
    digest = hashlib.sha256(text.encode()).digest()
    return "v1_" + base64.b64encode(digest).decode().rstrip("=")


def test_signed_urls():
    """a URL without a sandbox in it goes to the one whose token signed it"""
    sandboxes = [D.create("r") for _ in range(3)]
    path = "/etc/hostname"
    for sandbox in sandboxes:
        query = urllib.parse.urlencode({"path": path, "signature": sign(token_of(sandbox), path)})
        status, text = request("GET", f"/files?{query}")
        # the agent answers: whether it serves files is not what is tested here
        check(status in (200, 404), f"{status} {text}")
        check(status == 404 or text.decode().strip() == sandbox, f"another's file: {text}")
    for query in ({"path": path, "signature": sign("guess", path)},
                  {"path": "/etc/passwd", "signature": sign(token_of(sandboxes[0]), path)},
                  {"path": path, "signature": ""}):
        status, text = request("GET", "/files?" + urllib.parse.urlencode(query))
        check(status == 401 and json.loads(text)["code"] == 401, f"{query}: {status} {text}")
    query = urllib.parse.urlencode({"path": path, "signature": sign(token_of(sandboxes[0]), path)})
    status, text = request("POST", f"/files?{query}", {}, b"x")  # signed for reading
    check(status == 401, f"a signature for reading writes: {status} {text}")
    delete(*sandboxes)


# ---- what was under way

def test_no_stale_bytes():
    """a command whose output was on its way is nobody else's business"""
    source = make()
    D.exec(source, "sh", "-c", "setsid sh -c 'while :; do echo stale; done' >/tmp/out 2>&1 &")
    for _ in range(3):
        child = fork(source)[0]["sandbox"]["sandboxID"]
        check(D.exec(child, "echo", "mine") == "mine", "the first bytes of a fork")
        delete(child)
    check(D.exec(source, "echo", "mine") == "mine", "the source's own")
    delete(source)


def start_connection(sandbox, name, *addresses):
    D.exec(sandbox, "sh", "-c", f"setsid /tmp/probe connection {' '.join(addresses)} "
                                f"</dev/null >/tmp/{name} 2>&1 & "
                                f"until grep -q connected /tmp/{name}; do sleep 0.1; done")


def test_connections():
    """those to the outside end with a wake, those inside go on; a sandbox that goes on keeps all"""
    source = make()
    D.exec(source, "sh", "-c", "ip addr add 10.9.9.1/32 dev lo; ip addr add 10.9.9.2/32 dev lo; "
                               "ip addr add fd09::1/128 dev lo; ip addr add fd09::2/128 dev lo")
    start_connection(source, "out4", "10.9.9.1", "10.9.9.2")
    start_connection(source, "out6", "fd09::1", "fd09::2")
    start_connection(source, "in4", "127.0.0.1", "127.0.0.1")
    start_connection(source, "in6", "::1", "::1")
    start_connection(source, "same", "10.9.9.1", "10.9.9.1")
    child = fork(source)[0]["sandbox"]["sandboxID"]

    def state(sandbox):
        return {name: D.exec(sandbox, "tail", "-n", "1", f"/tmp/{name}")
                for name in ("out4", "out6", "in4", "in6", "same")}

    def is_after(sandbox):
        # either end's being ended tells the other one
        errors = ("ended: Software caused connection abort", "ended: Connection reset by peer")
        seen = state(sandbox)
        return (seen.pop("out4") in errors and seen.pop("out6") in errors
                and set(seen.values()) == {"connected"})

    wait_until(lambda: is_after(child), 10, f"a fork's connections: {state(child)}")
    check(set(state(source).values()) == {"connected"}, f"the source lost some: {state(source)}")
    pause(source)
    connect(source)
    wait_until(lambda: is_after(source), 10, f"a woken one's: {state(source)}")
    delete(source, child)


# ---- hooks

def test_hooks():
    """before the sleep while the workload runs, after the wake before it does"""
    source = make()
    start_clock(source)
    put_hook(source, "before-sleep.d/10-note", "echo going; cp /tmp/alive /tmp/alive.before")
    put_hook(source, "after-wake.d/10-note",
             "echo $DORM_KIND $DORM_OLD_SANDBOX_ID $DORM_SANDBOX_ID $DORM_TEMPLATE_ID >/tmp/wake\n"
             "hostname >/tmp/wake.name; /tmp/probe time >/tmp/wake.time\n"
             "cp /tmp/alive /tmp/alive.wake; sleep 0.3; cp /tmp/alive /tmp/alive.wake2\n"
             "(setsid sleep 1000 &)")
    put_hook(source, "after-wake.d/20-skipped", "touch /tmp/never")
    D.exec(source, "chmod", "666", f"{HOOKS}/after-wake.d/20-skipped")

    def read(sandbox, name):
        return D.exec(sandbox, "cat", f"/tmp/{name}")

    pause(source)
    steps = manifest(source)["prepare"]
    check(step(steps, "before-sleep.d/10-note")["output"] == "going\n", f"{steps}")
    connect(source)
    check(read(source, "wake") == f"wake {source} {source} r", read(source, "wake"))
    check(read(source, "alive.wake") == read(source, "alive.wake2"),
          "the workload ran while its hooks did")
    check(abs(int(read(source, "wake.time")) - time.time_ns()) < 60e9,
          "a hook saw the clock of before")
    repaired = D.json("inspect", source)["repair"]
    check(step(repaired, "after-wake.d/10-note")["ok"], f"{repaired}")
    check(step(repaired, "after-wake.d/20-skipped")["skipped"], f"{repaired}")
    check(step(repaired, "hooks")["ms"] >= 300, f"{repaired}")
    last = read(source, "alive")
    wait_until(lambda: read(source, "alive") != last, 10, "the workload goes on")
    left = D.exec(source, "sh", "-c", "pgrep -f 'sleep 1000' | wc -l")
    check(left == "0", f"a hook left {left} processes")
    child = fork(source)[0]["sandbox"]["sandboxID"]
    check(read(child, "wake") == f"fork {source} {child} r", read(child, "wake"))
    check(read(child, "wake.name") == child, "a hook saw the old name")
    wait_until(lambda: read(source, "wake") == f"resume {source} {source} r", 10,
               f"the source was told that it goes on: {read(source, 'wake')}")
    delete(source, child)


def test_hook_fails():
    """what could not be repaired is handed to nobody"""
    source = make()
    put_hook(source, "after-wake.d/10-picky",
             "[ $DORM_KIND != fork ] || { echo no copies please; exit 1; }")
    before = len(D.sandboxes())
    answer = fork(source, 2)
    for each in answer:
        check("no copies please" in each["error"]["message"], f"{answer}")
    check(len(D.sandboxes()) == before, "a fork that failed is still there")
    check(D.exec(source, "echo", "hello") == "hello", "the source goes on")
    D.exec(source, "sh", "-c", f"echo 1 >{HOOKS}/timeout")
    put_hook(source, "after-wake.d/10-picky", "[ $DORM_KIND = resume ] || sleep 1000")
    start = time.monotonic()
    answer = fork(source)
    check("its time limit passed" in answer[0]["error"]["message"], f"{answer}")
    check(time.monotonic() - start < 10, "a hook that hangs held it up")
    pause(source)
    try:
        connect(source)
        raise AssertionError("it was woken without a repair")
    except ApiError as e:
        check(e.status == 500 and "10-picky" in str(e), f"{e}")
    check(D.status(source) == "asleep", f"it is {D.status(source)}")
    delete(source)


def test_before_sleep_fails():
    """... keeps nobody from sleeping"""
    source = make()
    put_hook(source, "before-sleep.d/10-fails", "echo cannot flush >&2; exit 7")
    pause(source)
    steps = manifest(source)["prepare"]
    failed = step(steps, "before-sleep.d/10-fails")
    check(failed["error"] == "exit status 7" and failed["output"] == "cannot flush\n", f"{failed}")
    check(not step(steps, "hooks")["ok"] and step(steps, "freeze")["ok"], f"{steps}")
    connect(source)
    check(D.exec(source, "echo", "hello") == "hello", "it wakes as ever")
    delete(source)


# ---- prepare

def test_report():
    """the steps of a prepare are in the snapshot, with their durations"""
    source = make()
    snapshot = D.api("POST", f"/sandboxes/{source}/snapshots", {})["snapshotID"]
    shown = D.json("snapshot", "inspect", snapshot)
    check(shown["prepared"] is True, f"{shown}")
    for name in ("hooks", "freeze", "connections", "sync", "trim", "drop_caches"):
        s = step(shown["prepare"], name)
        check(s["ok"] and 0 <= s["ms"] < 5000, f"{s}")
    text = D.dorm("snapshot", "inspect", snapshot).stdout
    check("drop_caches" in text, text)
    delete(source)


def test_no_answer():
    """a guest that does not answer is snapshotted all the same, and the snapshot says so"""
    source = make()
    D.exec(source, "sh", "-c", "setsid sh -c 'sleep 1; exec /tmp/probe hog 25' </dev/null "
                               ">/dev/null 2>&1 &")
    time.sleep(2)
    pause(source)
    m = manifest(source)
    check(m["prepared"] is False, f"{m['prepared']} {m['prepare']}")
    check(not step(m["prepare"], "answer")["ok"], f"{m['prepare']}")
    delete(source)


def test_snapshot_fails():
    """a sandbox that could not be snapshotted runs on, repaired"""
    source = make()
    put_hook(source, "after-wake.d/10-note", "echo $DORM_KIND >/tmp/kind")
    start_clock(source)
    in_the_way = D.root / "sandboxes" / source / "memory-1"
    in_the_way.write_text("a file where a directory is to go")
    try:
        pause(source)
        raise AssertionError("it fell asleep")
    except ApiError as e:
        check("memory-1" in str(e), f"{e}")
    in_the_way.unlink(missing_ok=True)
    check(D.status(source) == "running", f"it is {D.status(source)}")
    check(D.exec(source, "cat", "/tmp/kind") == "resume", "its hooks were told")
    last = D.exec(source, "cat", "/tmp/alive")
    wait_until(lambda: D.exec(source, "cat", "/tmp/alive") != last, 10, "its workload goes on")
    pause(source)
    connect(source)
    check(D.exec(source, "cat", "/tmp/kind") == "wake", "and sleeps when it can")
    delete(source)


class Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


def seal(path):
    """what a guest cache knows a file by"""
    lib = ctypes.CDLL("libxxhash.so.0")
    lib.XXH3_128bits.restype = Hash128
    lib.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    data = path.read_bytes()
    h = lib.XXH3_128bits(data, len(data))
    return f"{h.high:016x}{h.low:016x} {len(data)} {path.name}\n"


def enlarge_root(cache):
    """a guest cache whose root file system holds /large: FILE_MB that nothing can compress"""
    shutil.copytree(CACHE, cache, ignore=shutil.ignore_patterns("unpacked", "lock"))
    for rootfs in cache.glob("rootfs-*"):
        image, tree = rootfs / "root.erofs", cache / "tree"
        subprocess.run(["fsck.erofs", f"--extract={tree}", image], check=True,
                       stdout=subprocess.DEVNULL)
        with open("/dev/urandom", "rb") as random:
            (tree / "large").write_bytes(random.read(FILE_MB << 20))
        image.unlink()
        subprocess.run(["mkfs.erofs", "--quiet", image, tree], check=True,
                       stdout=subprocess.DEVNULL)
        (rootfs / "seal").write_text(seal(image))
        shutil.rmtree(tree)


def cached_mb(d, sandbox):
    text = d.exec(sandbox, "cat", "/proc/meminfo")
    values = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()}
    return (values["Cached"] + values["Buffers"]) / 1024


def test_page_cache():
    """what a guest has read from its files is not in its snapshot, nor in its memory after a wake"""
    make_sure = make()
    delete(make_sure)  # the cache is there
    cache = D.dir / "large-guest"
    enlarge_root(cache)
    with Dormouse("--guest-cache", cache) as d:
        d.build_template("large", 512)
        sandbox = d.create("large")
        small = d.api("POST", f"/sandboxes/{sandbox}/pause?details=1", {})["bytesStored"]
        d.api("POST", f"/v2/sandboxes/{sandbox}/connect", {})
        d.exec(sandbox, "dd", "if=/large", "of=/dev/null", "bs=1M")
        before = cached_mb(d, sandbox)
        check(before > FILE_MB, f"it has read {FILE_MB} MiB and caches {before:.0f}")
        slept = d.api("POST", f"/sandboxes/{sandbox}/pause?details=1", {})
        d.api("POST", f"/v2/sandboxes/{sandbox}/connect", {})
        after = cached_mb(d, sandbox)
        print(f"    page cache: {before:.0f} MiB before, {after:.1f} MiB after the wake; the sleep "
              f"stored {slept['bytesStored'] >> 10} KiB (an idle one {small >> 10} KiB), "
              f"prepare took {slept['phases']['prepare']:.0f} ms")
        check(after < FILE_MB / 10, f"{after:.0f} MiB are still cached")
        check(slept["bytesStored"] < (FILE_MB << 20) / 10,
              f"the snapshot has {slept['bytesStored'] >> 20} MiB")
    shutil.rmtree(cache, ignore_errors=True)


def test_leave():
    D.__exit__(None)


main(globals())
