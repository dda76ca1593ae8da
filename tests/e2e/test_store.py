# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""The snapshot store through the HTTP API, on real guests."""
import ctypes
import hashlib
import json
import os
import pathlib
import re
import secrets
import select
import shutil
import statistics
import struct
import subprocess
import threading
import time

from harness import ApiError, Dormouse, UnixConnection, check, main, wait_until

MEMORY_MB = 192
CHUNK = 1 << 16

D = Dormouse("--compact-layers", "4").__enter__()
E = Dormouse().__enter__()  # another host, whose store is empty
KEPT = {}  # what one test leaves for the next: snapshot, sandbox


# ---- requests that are not plain JSON

def open_stream(d, method, path, body=None, headers=None, timeout_s=120):
    """send a request; returns connection and response, whose body is still to be read"""
    connection = UnixConnection(d.socket, timeout_s)
    try:
        connection.request(method, path, body, headers or {},
                           encode_chunked=hasattr(body, "__next__"))
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before it was sent: the answer says why
    return connection, connection.getresponse()


def job(d, path, body=None):
    """a request that is answered by a stream of lines; returns them, the result last"""
    connection, reply = open_stream(d, "POST", path, json.dumps(body or {}),
                                    {"Content-Type": "application/json"})
    text = reply.read().decode()
    connection.close()
    if reply.status >= 300:
        raise ApiError(reply.status, json.loads(text))
    lines = [json.loads(line) for line in text.splitlines()]
    check(lines and "ok" in lines[-1], f"{path}: it ends with {lines[-1:]}")
    return lines


def result(d, path, body=None):
    last = job(d, path, body)[-1]
    check(last["ok"], f"{path}: {last}")
    return last


def export(d, snapshot, query=""):
    """the stream as bytes: small enough here"""
    connection, reply = open_stream(d, "GET", f"/snapshots/{snapshot}/export{query}")
    data = reply.read()
    connection.close()
    if reply.status >= 300:
        raise ApiError(reply.status, json.loads(data))
    length = reply.getheader("Content-Length")
    check(length is None or int(length) == len(data), f"{length} announced, {len(data)} came")
    return data


def import_(d, data, query="", kind="snapshot"):
    """chunked, as `dorm` sends what it reads from a pipe"""
    slices = (data[i:i + CHUNK] for i in range(0, len(data), CHUNK))
    connection, reply = open_stream(d, "POST", f"/snapshots/import{query}", slices,
                                    {"Content-Type": f"application/x-dormouse-{kind}",
                                     "Transfer-Encoding": "chunked"})
    text = reply.read().decode()
    connection.close()
    if reply.status >= 300:
        raise ApiError(reply.status, json.loads(text))
    return json.loads(text)


def expect(status, word, function, *args):
    try:
        value = function(*args)
    except ApiError as e:
        check(e.status == status and word in e.body["message"],
              f"wanted {status} and {word!r}, got {e}")
        return
    raise AssertionError(f"it succeeded: {value}")


# ---- what the tests look at

def find(nodes, key, value):
    for node in nodes:
        if node.get(key) == value:
            return node
        found = find(node.get("children", []), key, value)
        if found:
            return found
    return None


def tree(d, path="/snapshots/tree"):
    return d.api("GET", path)["roots"]


def children(node, key):
    return sorted(c[key] for c in node["children"] if key in c)


def disk_usage(path):
    return int(subprocess.run(["du", "-s", "--block-size=1", path], check=True, text=True,
                              capture_output=True).stdout.split()[0])


def memory_dir(d, sandbox):
    record = json.loads((d.root / "sandboxes" / sandbox / "sandbox.json").read_text())
    return d.root / "sandboxes" / sandbox / f"memory-{record['generation']}"


def layers(d, sandbox):
    return sorted(p.name for p in (memory_dir(d, sandbox) / "layers").iterdir())


def fill(d, sandbox, mb):
    """that many megabytes of guest memory that do not compress"""
    d.exec(sandbox, "sh", "-c", f"dd if=/dev/urandom of=/tmp/random bs=1M count={mb} 2>/dev/null")


def sleep(d, sandbox):
    return d.api("POST", f"/sandboxes/{sandbox}/pause?details=1", {})


def wake(d, sandbox):
    begin = time.monotonic()
    d.api("POST", f"/sandboxes/{sandbox}/connect", {"timeout": 3600})
    return time.monotonic() - begin


def snapshot(d, sandbox, **fields):
    return d.api("POST", f"/sandboxes/{sandbox}/snapshots", fields)["snapshotID"]


def delete_all(d):
    for s in d.sandboxes():
        d.api("DELETE", f"/sandboxes/{s['sandboxID']}")


def memory_of(extents):
    """a flat memory from extents, as its digest and size; what is not in them is zero"""
    pages, at = {}, 0
    while True:
        offset, length = struct.unpack_from("<QQ", extents, at)
        at += 16
        if not length:
            check(at == len(extents), f"{len(extents) - at} bytes after the end")
            break
        check(offset % 4096 == 0 and length % 4096 == 0, f"extent {offset}+{length}")
        for i in range(0, length, 4096):
            pages[(offset + i) // 4096] = extents[at + i:at + i + 4096]
        at += length
    digest = hashlib.sha256()
    zero = bytes(4096)
    for n in range(offset // 4096):
        digest.update(pages.get(n, zero))
    return digest.hexdigest(), offset


def restart(d, *args):
    """the daemon alone, as if it had crashed; sleepers sleep on"""
    d.kill()
    d.args = list(args)
    d.start()


# ---- one host

def test_tree():
    D.build_template("base", MEMORY_MB)
    source = D.create("base")
    D.hold_pattern(source, 48)
    made = snapshot(D, source)
    heirs = [D.create(made), D.create(made)]
    fork = D.api("POST", f"/sandboxes/{heirs[0]}/fork", {})[0]["sandbox"]["sandboxID"]
    sleep(D, heirs[1])
    roots = tree(D)
    check(len(roots) == 1 and roots[0]["names"] == ["base"], f"one root: {roots}")
    base = roots[0]
    check(children(base, "sandboxID") == [source], f"the source under its template: {base}")
    check(children(base, "snapshotID") == [made], f"and its snapshot: {base}")
    node = find(roots, "snapshotID", made)
    check(children(node, "sandboxID") == sorted([*heirs, fork]), f"its heirs and their fork: {node}")
    check(node["ownBytes"] > 0 and node["sharedBytes"] > 0 and not node["deleted"], f"{node}")
    check(find(roots, "sandboxID", heirs[1])["state"] == "asleep", "states are told")
    check(tree(D, f"/snapshots/{made}/tree") == roots, "the tree that it is in")
    second = snapshot(D, heirs[1])
    D.api("DELETE", f"/templates/{made}")
    gone = find(tree(D), "snapshotID", made)
    check(gone["deleted"] and children(gone, "snapshotID") == [second], f"deleted: {gone}")
    check(children(gone, "sandboxID") == sorted([*heirs, fork]), f"its heirs stay: {gone}")
    delete_all(D)
    D.api("DELETE", f"/templates/{second}")


def test_input():
    expect(400, "data", job, D, "/store/check", {"data": 5})
    expect(400, "force", job, D, "/snapshots/base/compact", {"force": "yes"})
    expect(404, "nope", job, D, "/snapshots/nope/compact")
    expect(404, "nope", export, D, "nope")
    expect(400, "format", export, D, "base", "?format=tar")
    expect(400, "skip", export, D, "base", "?skip=../../etc/passwd")
    expect(400, "skip", export, D, "base", "?format=raw&skip=" + "0" * 32)
    expect(400, "name", import_, D, b"x", "?name=..%2Fx")
    expect(400, "parent", import_, D, b"x", "?parent=base")
    expect(400, "Content-Type", import_, D, b"x", "", "extents")
    expect(404, "nope", tree, D, "/snapshots/nope/tree")
    last = job(D, "/store/rewrap")[-1]
    check(not last["ok"] and last["error"]["code"] == 409 and "key" in last["error"]["message"],
          f"{last}")


def test_df():
    sandbox = D.create("base")
    D.hold_pattern(sandbox, 32)
    made = snapshot(D, sandbox)
    D.api("DELETE", f"/sandboxes/{sandbox}")
    usage = D.api("GET", "/store/usage")
    total = usage["total"]
    check(total["total"] == disk_usage(D.root), f"{total} and du: {disk_usage(D.root)}")
    check(total["total"] == sum(total[k] for k in ("snapshots", "sandboxes", "temporary", "other")),
          f"the parts and the sum: {total}")
    entries = {e["id"]: e for e in usage["entries"]}
    check(entries[made]["kind"] == "snapshot" and entries[made]["layers"] == 2, f"{entries}")
    before = disk_usage(D.root / "snapshots")
    D.api("DELETE", f"/templates/{made}")
    freed = before - disk_usage(D.root / "snapshots")
    check(freed == entries[made]["own"], f"{freed} freed, {entries[made]} said")


def test_compact():
    """merged layers hold the same memory"""
    sandbox = D.create("base")
    D.hold_pattern(sandbox, 32)
    restart(D, "--compact", "off")
    for _ in range(3):
        sleep(D, sandbox)
        wake(D, sandbox)
    made = snapshot(D, sandbox)
    D.api("DELETE", f"/sandboxes/{sandbox}")
    image = memory_of(export(D, made, "?format=raw"))
    before = D.api("GET", f"/snapshots/{made}")
    check(before["compaction"]["ownLayers"] > 1, f"{before['compaction']}")
    lines = job(D, f"/snapshots/{made}/compact")
    check(lines[-1]["ok"] and lines[-1]["compacted"], f"{lines}")
    check(lines[-1]["layersAfter"] < lines[-1]["layersBefore"], f"{lines}")
    after = D.api("GET", f"/snapshots/{made}")
    check(len(after["layers"]) == lines[-1]["layersAfter"], f"{after['layers']}")
    check(after["writeAmplification"] > 1, f"{after['writeAmplification']}")
    check(memory_of(export(D, made, "?format=raw")) == image, "the same memory")
    heir = D.create(made)
    D.check_pattern(heir)
    # its links make every layer a shared one, and rewriting those would free nothing
    check(result(D, f"/snapshots/{made}/compact")["compacted"] is False, "shared layers")
    D.check_pattern(heir)
    check(job(D, f"/snapshots/{made}/verify")[-1]["ok"], "it can be verified")
    check(result(D, f"/snapshots/{made}/compact", {"force": False})["compacted"] is False, "not due")
    delete_all(D)
    D.api("DELETE", f"/templates/{made}")
    restart(D, "--compact-layers", "4")


def test_base():
    """a sandbox keeps the map of the image that it shares memory with, whatever becomes of that"""
    origin = D.create("base")
    D.hold_pattern(origin, 8)
    check(not (memory_dir(D, origin) / "base").exists(), "a template has no base")
    point = snapshot(D, origin)
    template = D.api("GET", f"/sandboxes/{origin}/memory")["stored"]["imageID"]
    forked = D.create(point)
    for sandbox in origin, forked:
        sleep(D, sandbox)
        manifest = json.loads((memory_dir(D, sandbox) / "manifest.json").read_text())
        check(manifest["base"] == {"image_id": template}, f"{manifest.get('base')}")
        digest = hashlib.sha256((memory_dir(D, sandbox) / "base").read_bytes()).hexdigest()
        check(digest[:32] == template, "the map of the template")
    D.api("DELETE", f"/sandboxes/{origin}")
    D.api("DELETE", f"/templates/{point}")
    wake(D, forked)
    D.check_pattern(forked)
    sleep(D, forked)  # handed down
    made = snapshot(D, forked)
    base = D.api("GET", f"/snapshots/{made}")["base"]
    check(base["imageID"] == template and base["missingLayers"] == 0, f"{base}")
    check(base["sharedPages"] > base["ownPages"] > 0, f"{base}")
    (memory_dir(D, forked) / "base").unlink()
    wake(D, forked)
    D.check_pattern(forked)
    delete_all(D)
    D.api("DELETE", f"/templates/{made}")


def test_cycles():
    """a sandbox that sleeps often keeps few layers, and its memory"""
    sandbox = D.create("base")
    D.hold_pattern(sandbox, 32)
    count = 0
    for i in range(12):
        D.exec(sandbox, "sh", "-c", f"head -c 300000 /dev/urandom > /tmp/random-{i % 4}")
        sleep(D, sandbox)
        if i % 3 == 2:
            wait_until(lambda: len(layers(D, sandbox)) <= 6, 20, "its layers are merged")
        wake(D, sandbox)
        now = D.check_pattern(sandbox)
        check(now >= count, f"it counts on: {count}, {now}")
        count = now
    check("compacted layers=" in D.log.read_text(), "compactions are logged")
    sleep(D, sandbox)
    wait_until(lambda: not list((D.root / "tmp").iterdir()), 20, "nothing is left in tmp/")
    names = [p.name for p in (D.root / "sandboxes" / sandbox).glob("memory-*")]
    check(len(names) == 1, f"one memory: {names}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_wake_during_compaction():
    """whoever wakes a sandbox does not wait for its layers being merged"""
    restart(D, "--compact-layers", "1")
    sandbox = D.create("base")
    sleep(D, sandbox)
    wake(D, sandbox)
    fill(D, sandbox, 96)
    calm, busy, interrupted = [], [], 0
    for i in range(6):
        D.exec(sandbox, "sh", "-c", "dd if=/dev/urandom of=/tmp/random bs=1M count=8 seek=$((RANDOM"
               f" % 80)) conv=notrunc 2>/dev/null; echo {i} > /tmp/n")
        done = D.log.read_text().count("compacted layers=")
        sleep(D, sandbox)
        if i % 2:
            wait_until(lambda: D.log.read_text().count("compacted layers=") > done
                       and not list((D.root / "tmp").iterdir()), 30, "it is compacted")
        else:
            end = time.monotonic() + 1
            while not list((D.root / "tmp").iterdir()) and time.monotonic() < end:
                time.sleep(0.001)
            interrupted += bool(list((D.root / "tmp").iterdir()))
        (calm if i % 2 else busy).append(wake(D, sandbox))
        check(D.exec(sandbox, "cat", "/tmp/n") == str(i), "its latest state")
    check(interrupted > 0, "no wake came during a compaction")
    check(statistics.median(busy) < 2 * statistics.median(calm) + 0.2,
          f"wakes during compaction: {busy}, without: {calm}")
    check("could not be merged" not in D.log.read_text(), "interrupting is not an error")
    D.api("DELETE", f"/sandboxes/{sandbox}")
    restart(D, "--compact-layers", "4")


def test_crash_during_compaction():
    """the record says which memory counts; what was being written is gone"""
    restart(D, "--compact-layers", "1")
    sandbox = D.create("base")
    fill(D, sandbox, 64)
    sleep(D, sandbox)
    wake(D, sandbox)
    for i in range(2):
        D.exec(sandbox, "sh", "-c", f"echo {i} > /tmp/n; dd if=/tmp/random of=/tmp/again bs=1M "
                                    "count=16 2>/dev/null")
        sleep(D, sandbox)
        end = time.monotonic() + 2
        while not list((D.root / "tmp").iterdir()) and time.monotonic() < end:
            time.sleep(0.001)
        restart(D, "--compact-layers", "1")
        check(not list((D.root / "tmp").iterdir()), "tmp/ is emptied")
        names = [p.name for p in (D.root / "sandboxes" / sandbox).glob("memory-*")]
        check(len(names) == 1, f"one memory: {names}")
        wake(D, sandbox)
        check(D.exec(sandbox, "cat", "/tmp/n") == str(i), "its latest state")
        D.exec(sandbox, "cmp", "-n", "16777216", "/tmp/random", "/tmp/again")
    D.api("DELETE", f"/sandboxes/{sandbox}")
    restart(D, "--compact-layers", "4")


def delete_during_compaction():
    """Return: was the compaction still going on?"""
    sandbox = D.create("base")
    for i in range(3):
        fill(D, sandbox, 48)
        sleep(D, sandbox)
        wake(D, sandbox)
    made = snapshot(D, sandbox)
    D.api("DELETE", f"/sandboxes/{sandbox}")
    connection, reply = open_stream(D, "POST", f"/snapshots/{made}/compact", "{}")
    wait_until(lambda: list((D.root / "tmp").iterdir()), 5, "it has begun")
    begin = time.monotonic()
    D.api("DELETE", f"/templates/{made}")
    took = time.monotonic() - begin
    last = json.loads(reply.read().decode().splitlines()[-1])
    connection.close()
    check(last["ok"] or last["error"]["code"] == 409, f"{last}")
    check(took < 2, f"deleting took {took:.1f} s")
    check(made not in [s["snapshotID"] for s in D.api("GET", "/snapshots")], "it is gone")
    return not last["ok"]


def test_delete_during_compaction():
    """whoever deletes a snapshot does not wait for its layers being merged"""
    restart(D, "--compact", "off")
    # on a busy machine it may be done before the request to delete comes
    check(any(delete_during_compaction() for _ in range(4)), "a compaction was broken off")
    restart(D, "--compact-layers", "4")


def test_replayed_memory():
    """an older memory directory of the same sandbox is not what it fell asleep with"""
    sandbox = D.create("base")
    sleep(D, sandbox)
    kept = D.dir / "kept"
    shutil.copytree(memory_dir(D, sandbox), kept)
    wake(D, sandbox)
    D.exec(sandbox, "sh", "-c", "echo later > /tmp/later")
    sleep(D, sandbox)
    time.sleep(0.2)
    now = memory_dir(D, sandbox)
    shutil.rmtree(now)
    shutil.copytree(kept, now)
    expect(409, "was replaced", wake, D, sandbox)
    check(D.status(sandbox) == "failed", f"it is {D.status(sandbox)}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_check_and_repair():
    sandbox = D.create("base")
    fill(D, sandbox, 8)
    made = snapshot(D, sandbox)
    D.api("DELETE", f"/sandboxes/{sandbox}")
    check(result(D, "/store/check", {"data": True})["findings"] == 0, "sound")
    inspected = D.api("GET", f"/snapshots/{made}")
    own = [x["id"] for x in inspected["layers"] if not x["shared"]]
    path = D.root / "snapshots" / made / "layers" / own[-1]
    path.chmod(0o644)
    with open(path, "r+b") as f:
        f.seek(path.stat().st_size // 2)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 1]))
    lines = job(D, "/store/check", {"data": True})
    found = [line["finding"] for line in lines if "finding" in line]
    check(len(found) == 1 and found[0]["kind"] == "damaged" and made in found[0]["path"], f"{found}")
    check(own[-1] in found[0]["why"] and lines[-1]["findings"] == 1, f"it is named: {lines}")
    lines = job(D, "/store/repair", {"data": True})
    found = [line["finding"] for line in lines if "finding" in line]
    check(found and found[0]["lost"] and lines[-1]["lost"] == 1, f"lost: {lines}")
    check(found[0]["done"], f"what was done: {found}")
    check((D.root / "snapshots" / made).exists(), "what was committed is never removed")
    D.api("DELETE", f"/templates/{made}")
    check(result(D, "/store/check", {"data": True})["findings"] == 0, "sound again")


# ---- from host to host

def test_export_import():
    sandbox = D.create("base")
    D.hold_pattern(sandbox, 48)
    made = KEPT["snapshot"] = snapshot(D, sandbox)
    D.api("DELETE", f"/sandboxes/{sandbox}")
    stream = export(D, made)
    answer = import_(E, stream, "?name=moved")
    check(answer["snapshotID"] == made and answer["layersReceived"] == 2, f"{answer}")
    check(answer["bytesReceived"] == len(stream), f"{answer}, {len(stream)} were sent")
    check(E.api("GET", "/snapshots")[0]["names"] == ["moved"], "under its name")
    expect(409, made, import_, E, stream)
    there = E.create("moved")
    E.check_pattern(there)
    E.api("DELETE", f"/sandboxes/{there}")


def test_resume_after_a_cut():
    made = KEPT["snapshot"]
    E.api("DELETE", f"/templates/{made}")
    check(E.api("GET", "/layers")["layers"] == [], "nothing is there")
    stream = export(D, made)
    expect(400, "", import_, E, stream[:len(stream) - 100])
    connection = UnixConnection(E.socket, 20)  # and one whose client dies
    connection.putrequest("POST", "/snapshots/import")
    connection.putheader("Content-Length", str(len(stream)))
    connection.endheaders(stream[:len(stream) // 2])
    connection.close()
    have = E.api("GET", "/layers")["layers"]
    check(have and set(have) <= set(D.api("GET", "/layers")["layers"]), f"they were kept: {have}")
    rest = export(D, made, "?skip=" + ",".join(have))
    check(len(rest) < len(stream) // 2, f"{len(rest)} of {len(stream)} are left")
    answer = import_(E, rest)
    check(answer["layersPresent"] == len(have), f"{answer}")
    there = E.create(made)
    E.check_pattern(there)
    E.api("DELETE", f"/sandboxes/{there}")
    E.api("DELETE", f"/templates/{made}")
    wait_until(lambda: not E.api("GET", "/snapshots"), 5, "it is gone")


def test_hostile_stream():
    made = KEPT["snapshot"]
    begin = time.monotonic()
    expect(400, "", import_, E, os.urandom(1 << 20))
    expect(400, "", import_, E, bytes(256 << 20))
    check(time.monotonic() - begin < 20, "it is refused at once")
    stream = bytearray(export(D, made))
    stream[len(stream) // 2] ^= 1
    expect(400, "", import_, E, bytes(stream))
    check(E.api("GET", "/snapshots") == [], "nothing came of it")
    # skipped, but not here
    ids = D.api("GET", "/layers")["layers"]
    other = Dormouse()
    with other:
        expect(409, "layer", import_, other, export(D, made, "?skip=" + ",".join(ids)))


def test_raw():
    made = KEPT["snapshot"]
    extents = export(D, made, "?format=raw")
    digest, size = memory_of(extents)
    check(size == MEMORY_MB << 20, f"{size} bytes of memory")
    for bad in ("x", "-4096", "4095", size + 1, 1 << 43):
        expect(400, "bytes", import_, E, extents, f"?format=raw&bytes={bad}", "extents")
    expect(400, f"announced were {size * 2}", import_, E, extents,
           f"?format=raw&bytes={size * 2}", "extents")
    expect(400, "bytes", import_, E, b"", f"?bytes={size}")
    known = import_(E, extents, f"?format=raw&bytes={size}", "extents")
    check(memory_of(export(E, known["snapshotID"], "?format=raw")) == (digest, size), "known size")
    E.api("DELETE", f"/templates/{known['snapshotID']}")
    answer = import_(E, extents, "?format=raw&name=raw", "extents")
    check(answer["pagesStored"] > 1000, f"{answer}")
    check(answer["pagesStored"] == known["pagesStored"], f"{answer}, {known}")
    again = export(E, "raw", "?format=raw")
    check(memory_of(again) == (digest, size), "the same memory")
    page = os.urandom(4096)
    diff = struct.pack("<QQ", 40960, 4096) + page + struct.pack("<QQ", size, 0)
    answer = import_(E, diff, "?format=raw&parent=raw&name=changed", "extents")
    check(answer["pagesStored"] == 1, f"{answer}")
    check(page in export(E, "changed", "?format=raw"), "its page")
    check(memory_of(export(E, "raw", "?format=raw")) == (digest, size), "the parent is as it was")
    expect(400, "", import_, E, diff[:-20], "?format=raw", "extents")
    D.api("DELETE", f"/templates/{made}")


# ---- sealed

def holds(root, marker):
    """files below root with this text in them"""
    return [str(p) for p in pathlib.Path(root).rglob("*")
            if p.is_file() and marker in p.read_bytes()]


def put_marker(d, sandbox):
    marker = secrets.token_hex(24)
    d.exec(sandbox, "sh", "-c", "cat > /tmp/marker", stdin=(marker + "\n") * 4000)
    return marker.encode()


def device_files(d, sandbox):
    """put it to sleep; how files of the name device came into tmp: "create" or "rename", in order"""
    create, rename, onlydir = 0x100, 0x80, 0x1000000
    libc = ctypes.CDLL(None, use_errno=True)
    inotify = libc.inotify_init1(os.O_CLOEXEC)
    check(inotify >= 0, "inotify")
    seen, top = [], os.fsencode(d.root / "tmp")
    check(libc.inotify_add_watch(inotify, top, create | onlydir) == 1, "a watch on tmp/")

    def look():
        while select.select([inotify, done], [], [])[0] != [done]:
            data, at = os.read(inotify, 65536), 0
            while at < len(data):
                watch, mask, _, length = struct.unpack_from("iIII", data, at)
                name = data[at + 16:at + 16 + length].rstrip(b"\0")
                at += 16 + length
                if watch == 1:  # a new directory in tmp/; a file is refused
                    libc.inotify_add_watch(inotify, top + b"/" + name, create | rename | onlydir)
                elif name == b"device":
                    seen.append("create" if mask & create else "rename")
    done, end = os.pipe()
    thread = threading.Thread(target=look)
    thread.start()
    try:
        sleep(d, sandbox)
    finally:
        os.close(end)
        thread.join()
        os.close(done)
        os.close(inotify)
    return seen


def test_plaintext_can_be_found():
    """what the next test does not find is there to be found without a key"""
    restart(D, "--codec", "none")
    sandbox = D.create("base")
    marker = put_marker(D, sandbox)
    check("create" in device_files(D, sandbox), "the VMM makes the device state's file")
    check(holds(D.root / "sandboxes", marker), "the marker is in the guest's stored memory")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_sealed():
    keys = [D.dir / f"key-{i}" for i in range(2)]
    for path in keys:
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32) + "\n")
    first, second = (("--seal-key", f"file:{path}") for path in keys)
    none = ("--codec", "none")
    with Dormouse(*first, *none) as s:
        s.build_template("base", 128)
        sandbox = s.create("base")
        s.hold_pattern(sandbox, 16)
        marker = put_marker(s, sandbox)
        events = device_files(s, sandbox)
        check(events and "create" not in events, f"the plain device state had a file: {events}")
        wake(s, sandbox)
        s.check_pattern(sandbox)
        fork = s.api("POST", f"/sandboxes/{sandbox}/fork", {})[0]["sandbox"]["sandboxID"]
        s.check_pattern(fork)
        made = snapshot(s, sandbox)
        sleep(s, sandbox)
        s.api("DELETE", f"/sandboxes/{fork}")
        check(holds(s.root, marker) == [], f"plaintext: {holds(s.root, marker)}")
        check(all(x["sealed"] for x in s.api("GET", "/snapshots")), "listed as sealed")
        check(job(s, f"/snapshots/{made}/verify")[-1]["ok"], "verified")

        restart(s, *second, *none)
        expect(403, "key", wake, s, sandbox)
        check(s.status(sandbox) == "asleep", "it sleeps on")
        check(len(s.api("GET", "/snapshots")) == 2, "they are listed all the same")

        restart(s, *second, *first, *none)
        done = result(s, "/store/rewrap")
        check(done["rewrapped"] == 3 and not done["failed"], f"{done}")
        check(result(s, "/store/rewrap")["current"] == 3, "nothing is left to do")

        restart(s, *first, *none)
        expect(403, "key", wake, s, sandbox)

        restart(s, *second, *none)
        wake(s, sandbox)
        s.check_pattern(sandbox)
        check(job(s, f"/snapshots/{made}/verify")[-1]["ok"], "verified under the new key")
        check(result(s, "/store/check", {"data": True})["findings"] == 0, "sound")

        restart(s, *none)
        expect(403, "key", s.create, "base")
        restart(s, *second, *none)


def test_seal_key_sources():
    def refused(word, *args, env=None):
        d = Dormouse(*args, env=env)
        try:
            d.start()
        except AssertionError as e:
            check("status 1" in str(e) and re.search(word, str(e)), f"{args}: {e}")
        else:
            d.stop()
            raise AssertionError(f"{args}: it started")
        finally:
            shutil.rmtree(d.dir, ignore_errors=True)
    key = D.dir / "shared-key"
    key.write_text("0" * 64)
    key.chmod(0o644)
    refused("shared-key", "--seal-key", f"file:{key}")
    refused("NO_SUCH_KEY", "--seal-key", "env:NO_SUCH_KEY")
    refused("no-such-file", "--seal-key", "file:/no-such-file")
    with Dormouse("--seal-key", "env:DORM_KEY", env={"DORM_KEY": secrets.token_hex(32)}) as d:
        environ = pathlib.Path(f"/proc/{d.daemon.pid}/environ").read_bytes()
        check(d.env["DORM_KEY"].encode() not in environ, "the key is still in its environment")


def test_nothing_is_left():
    for d in (D, E):
        delete_all(d)
        # a rebuilt index leaves the old one there until the next start
        wait_until(lambda: not list((d.root / "tmp").glob("[!x]*")), 10, "tmp/ is empty")
        check(list((d.root / "sandboxes").iterdir()) == [], "sandboxes/")
        d.__exit__(None)


main(globals())
