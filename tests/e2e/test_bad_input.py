# SPDX-License-Identifier: Apache-2.0
# timeout: 400
"""Bad input gets a clear error, and nothing is lost: ids, sizes, full disks, damaged files, dead and
silent guests."""
import atexit
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from harness import ApiError, Dormouse, Skip, check, main, wait_until

# A QEMU that dies while it wakes a guest, after as many seconds as a file says.
WRAPPER = """#!/bin/sh
case "$*" in *-incoming*) [ -e {flag} ] && {{ (sleep $(cat {flag}); kill -9 $$) & }} ;; esac
exec {qemu} "$@"
"""

WORK = pathlib.Path(tempfile.mkdtemp(prefix="dorm-bad."))
atexit.register(shutil.rmtree, WORK, ignore_errors=True)
FLAG = WORK / "die"
QEMU = WORK / "qemu"
QEMU.write_text(WRAPPER.format(flag=FLAG, qemu=os.environ.get("DORM_QEMU")
                               or shutil.which("qemu-system-x86_64")))
QEMU.chmod(0o755)
# The wrapper reads a flag in a directory of its own, which a jailed one could not.
D = Dormouse("--answer-timeout", "5", "--jail", "off", env={"DORM_QEMU": str(QEMU)}).__enter__()


def error(method, path, body=None):
    try:
        D.api(method, path, body)
    except ApiError as e:
        check(e.body.get("code") == e.status and e.body.get("message"), f"{method} {path}: {e.body}")
        return e
    raise AssertionError(f"{method} {path} succeeded")


def expect(status, *words, call):
    e = error(*call)
    check(e.status == status, f"{call}: {e.status} {e.body}, wanted {status}")
    text = e.body["message"] + " " + e.body.get("hint", "")
    for word in words:
        check(word in text, f"{call}: no {word!r} in {text!r}")


def test_template():
    D.build_template("base", 128)


def test_unknown_things():
    for method, path in (("GET", "/sandboxes/nope"), ("DELETE", "/sandboxes/nope"),
                         ("POST", "/sandboxes/nope/pause"), ("POST", "/v2/sandboxes/nope/connect"),
                         ("POST", "/sandboxes/nope/fork"), ("POST", "/sandboxes/nope/snapshots"),
                         ("GET", "/sandboxes/nope/memory"), ("GET", "/snapshots/nope"),
                         ("POST", "/snapshots/nope/verify"), ("DELETE", "/templates/nope")):
        expect(404, "nope", call=(method, path, {} if method == "POST" else None))
    expect(404, "nope", call=("POST", "/v2/sandboxes", {"templateID": "nope"}))
    expect(404, "/nowhere", call=("GET", "/nowhere"))
    expect(405, "PATCH", call=("PATCH", "/healthz"))
    done = D.dorm("exec", "nope", "--", "true", check_status=False)
    check(done.returncode == 125 and "nope" in done.stderr + done.stdout, f"{done}")


def test_wrong_fields():
    expect(400, "templateID", call=("POST", "/v2/sandboxes", {}))
    expect(400, "templateID", call=("POST", "/v2/sandboxes", {"templateID": 7}))
    expect(400, "timeout", call=("POST", "/v2/sandboxes", {"templateID": "base", "timeout": "x"}))
    expect(400, "metadata", call=("POST", "/v2/sandboxes", {"templateID": "base", "metadata": {"a": 1}}))
    expect(404, "../etc", call=("POST", "/v2/sandboxes", {"templateID": "../etc/passwd"}))
    sandbox = D.create("base")
    for count in (0, -1, 1001, "2"):
        expect(400, "count", call=("POST", f"/sandboxes/{sandbox}/fork", {"count": count}))
    expect(400, "name", call=("POST", f"/sandboxes/{sandbox}/snapshots", {"name": "../x"}))
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_memory_sizes():
    for size in (0, 1, 1 << 21):
        expect(400, "memoryMB", str(size), call=("POST", "/v3/templates", {"name": "x", "memoryMB": size}))
    expect(400, "memoryMB", call=("POST", "/v3/templates", {"name": "x", "memoryMB": -5}))
    expect(400, "cpuCount", call=("POST", "/v3/templates", {"name": "x", "cpuCount": 0}))
    expect(400, "name", call=("POST", "/v3/templates", {"name": "a/b"}))
    for size in ("0", "99999G"):
        done = D.dorm("template", "build", "x", "--memory", size, check_status=False)
        check(done.returncode in (1, 2) and done.stderr, f"{done}")


def test_rubbish_on_the_socket():
    import json
    import socket
    for text in (b"\0" * 1000, b"GET", b"POST /v2/sandboxes HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
                 b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20000):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(1)
        s.connect(str(D.socket))
        try:
            s.sendall(text)
            s.recv(1000)
        except OSError:
            pass
        s.close()
    e = error("POST", "/v2/sandboxes", "not an object")
    check(e.status == 400 and "object" in e.body["message"], f"{e.body}")
    check(json.dumps(D.api("GET", "/healthz")), "it is alive")


def test_full_disk_during_sleep():
    """the sandbox goes on running, nothing half-written remains; with room again it sleeps"""
    mount = WORK / "full"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", mount], check=False).returncode:
        raise Skip("cannot mount a tmpfs here")
    d = Dormouse()
    shutil.rmtree(d.dir)
    d.dir = mount
    d.root, d.run, d.log = mount / "store", mount / "run", mount / "log"
    d.socket = d.run / "dormd.sock"
    d.env["DORM_SOCKET"] = str(d.socket)
    try:
        d.start()
        d.build_template("base", 128)
        sandbox = d.create("base")
        d.hold_pattern(sandbox, 36)
        before = sorted(p.relative_to(d.root) for p in d.root.rglob("*"))
        ballast = mount / "ballast"
        with open(ballast, "wb") as f:
            try:
                while True:
                    f.write(bytes(1 << 20))
                    f.flush()
            except OSError:
                pass
        os.truncate(ballast, max(0, ballast.stat().st_size - (8 << 20)))
        try:
            d.api("POST", f"/sandboxes/{sandbox}/pause", {})
            raise AssertionError("it slept on a full disk")
        except ApiError as e:
            check(e.status == 507 and "No space" in e.body["message"], f"{e.status} {e.body}")
            check(e.body.get("hint"), "a hint what to do")
        check(d.status(sandbox) == "running", "it goes on running")
        d.check_pattern(sandbox)
        after = sorted(p.relative_to(d.root) for p in d.root.rglob("*"))
        check(before == after, f"left behind: {set(after) ^ set(before)}")
        ballast.unlink()
        d.dorm("sleep", sandbox)
        d.dorm("wake", sandbox)
        d.check_pattern(sandbox)
        d.stop()
    finally:
        subprocess.run(["umount", "-l", mount], check=False)


def damage(path, offset, flip=0xFF):
    path.chmod(0o644)
    with open(path, "r+b") as f:
        f.seek(offset)
        byte = f.read(1)[0]
        f.seek(offset)
        f.write(bytes([byte ^ flip]))
    path.chmod(0o444)


def copy_of_template(name):
    """a snapshot with files of its own (not links), to be damaged"""
    sandbox = D.create("base")
    D.exec(sandbox, "sh", "-c", "head -c 3000000 /dev/urandom > /tmp/x")
    snapshot = D.api("POST", f"/sandboxes/{sandbox}/snapshots", {"name": name})["snapshotID"]
    D.api("DELETE", f"/sandboxes/{sandbox}")
    home = D.root / "snapshots" / snapshot
    for path in [p for p in home.rglob("*") if p.is_file()]:
        copy = path.with_suffix(".copy")
        shutil.copy2(path, copy)
        copy.rename(path)
    return snapshot, home


def refuses(snapshot, *words):
    """no guest comes from it, the error says where the damage is, and nothing stays"""
    e = error("POST", "/v2/sandboxes", {"templateID": snapshot})
    text = e.body["message"]
    check(e.status >= 500, f"{e.status} {e.body}")
    for word in words:
        check(word in text, f"no {word!r} in {text!r}")
    check(D.sandboxes() == [], f"{D.sandboxes()}")
    done = D.dorm("snapshot", "verify", snapshot, check_status=False)
    check(done.returncode == 1 and words[0] in done.stderr, f"verify: {done}")


def test_corrupt_layer():
    snapshot, home = copy_of_template("damaged")
    # Every frame of the small, new layer: whichever one the guest touches first is found.
    layer = min((home / "layers").iterdir(), key=lambda p: p.stat().st_size)
    for offset in range(4096, layer.stat().st_size - 4096, 2048):
        damage(layer, offset)
    refuses(snapshot, layer.name, "frame", "offset")
    D.dorm("snapshot", "rm", snapshot)
    good = D.create("base")
    check(D.exec(good, "echo", "well") == "well", "the others are not affected")
    D.api("DELETE", f"/sandboxes/{good}")


def test_truncated_and_foreign_files():
    for name, spoil in (
            ("short-layer", lambda h: os.truncate(max((h / "layers").iterdir(),
                                                      key=lambda p: p.stat().st_size), 100000)),
            ("short-map", lambda h: os.truncate(h / "map", (h / "map").stat().st_size - 3)),
            ("foreign-map", lambda h: ((h / "map").unlink(), (h / "map").write_bytes(b"x" * 4096))),
            ("no-device", lambda h: (h / "device").unlink()),
            ("bad-manifest", lambda h: ((h / "manifest.json").unlink(),
                                        (h / "manifest.json").write_text("{}")))):
        snapshot, home = copy_of_template(name)
        spoil(home)
        e = error("POST", "/v2/sandboxes", {"templateID": snapshot})
        check(e.status >= 400 and len(e.body["message"]) > 20, f"{name}: {e.status} {e.body}")
        check(D.sandboxes() == [], f"{name}: {D.sandboxes()}")
        done = D.dorm("snapshot", "verify", snapshot, check_status=False)
        check(done.returncode == 1 and done.stderr, f"{name}: {done}")
        D.dorm("template", "rm", name)


def test_rubbish_device_state():
    snapshot, home = copy_of_template("bad-device")
    manifest = home / "device"
    size = manifest.stat().st_size
    manifest.unlink()
    manifest.write_bytes(os.urandom(size))
    e = error("POST", "/v2/sandboxes", {"templateID": snapshot})
    check(e.status >= 500 and "device" in e.body["message"], f"{e.status} {e.body}")
    check(D.sandboxes() == [], f"{D.sandboxes()}")
    D.dorm("template", "rm", "bad-device")


def test_newer_version():
    snapshot, home = copy_of_template("newer")
    text = (home / "manifest.json").read_text()
    (home / "manifest.json").unlink()
    (home / "manifest.json").write_text(re.sub(r'"major": ?\d+', '"major":99', text))
    e = error("POST", "/v2/sandboxes", {"templateID": snapshot})
    check("newer" in e.body["message"], f"{e.body}")
    D.dorm("template", "rm", "newer")


def wake_dying(sandbox, after_s):
    """wake with a QEMU that is killed so long after its start; the error, or None when it woke first"""
    FLAG.write_text(str(after_s))
    try:
        D.api("POST", f"/v2/sandboxes/{sandbox}/connect", {})
        return None
    except ApiError as e:
        return e
    finally:
        FLAG.unlink()


def test_qemu_dies_during_load():
    """at whatever instant of a wake: the error says how it died, and the sandbox sleeps on"""
    sandbox = D.create("base")
    D.dorm("sleep", sandbox)
    n = 0
    # Each time it comes a little further, until it is awake before it dies.
    while e := wake_dying(sandbox, n * 0.01):
        check(e.status >= 500 and "signal 9" in e.body["message"], f"{n}0 ms: {e.status} {e.body}")
        check(D.status(sandbox) == "asleep", f"{n}0 ms: it sleeps on")
        if n == 0:
            D.dorm("wake", sandbox)
            check(D.exec(sandbox, "echo", "here") == "here", "and can be woken")
            D.dorm("sleep", sandbox)
        n += 1
        check(n < 500, "it never wakes")
    check(n > 0, "it died before it was awake at least once")
    wait_until(lambda: D.status(sandbox) == "failed", 10, "its VM's death is noticed")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_guest_that_never_answers():
    """its kernel crashed: it can be put to sleep (the snapshot says so), not woken, and deleted"""
    sandbox = D.create("base")
    D.dorm("exec", "-u", "root", "--timeout", "2", sandbox, "--", "sh", "-c",
           "echo 0 > /proc/sys/kernel/panic; echo 1 > /proc/sys/kernel/sysrq; "
           "echo c > /proc/sysrq-trigger", check_status=False)
    D.dorm("sleep", sandbox)
    memory = max((D.root / "sandboxes" / sandbox).glob("memory-*"))
    check('"prepared":false' in (memory / "manifest.json").read_text().replace(" ", ""),
          "the snapshot says that the guest did not prepare")
    e = error("POST", f"/v2/sandboxes/{sandbox}/connect", {})
    check(e.status == 504 and "did not answer" in e.body["message"], f"{e.status} {e.body}")
    check(D.status(sandbox) == "asleep", "it sleeps on")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_nothing_is_left():
    check(list((D.root / "sandboxes").iterdir()) == [], "sandboxes/")
    check(list((D.root / "tmp").iterdir()) == [], "tmp/")
    D.__exit__(None)


main(globals())
