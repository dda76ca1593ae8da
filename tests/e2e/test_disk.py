# SPDX-License-Identifier: Apache-2.0
# timeout: 900
"""The writable disk of a sandbox through its whole life: sleeps, forks, transfers, crashes, limits."""
import hashlib
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time

from harness import ApiError, Dormouse, check, main, program, skip, wait_until

D = Dormouse().__enter__()
MIB = 1 << 20
LAYERS_LIMIT = 12  # image/disk-merge.h


def build(dormouse, name, *options):
    dormouse.dorm("template", "build", "--base", "busybox", "--memory", "256M", "--no-working-set", *options, name,
                  timeout_s=300)


def snapshot(dormouse, sandbox):
    return dormouse.api("POST", f"/sandboxes/{sandbox}/snapshots", {})["snapshotID"]


def memory_dir(dormouse, sandbox):
    """the directory that it sleeps in"""
    record = json.loads((dormouse.root / "sandboxes" / sandbox / "sandbox.json").read_text())
    return dormouse.root / "sandboxes" / sandbox / f"memory-{record['generation']}"


def chain(directory):
    """files of the writable disk of a snapshot directory, from the lowest"""
    disks = {d["name"]: d for d in json.loads((directory / "manifest.json").read_text())["disks"]}
    head = [d for d in disks.values() if not d["read_only"]]
    check(len(head) == 1, f"one disk that is written: {disks}")
    files, at = [], head[0]
    while at:
        files.insert(0, directory / "disks" / at["name"])
        at = disks.get(at.get("backing"))
    return files


def copy_chain(find, place):
    """copies of the files of a disk, from the lowest; in a store that is compacted meanwhile"""
    for _ in range(5):
        try:
            files = chain(find())
            modes = {path.stat().st_mode & 0o777 for path in files}
            copies = [pathlib.Path(shutil.copy(path, place)) for path in files]
        except FileNotFoundError:
            continue
        check(modes == {0o444}, f"immutable files of {find()} have the modes {modes}")
        return copies
    raise AssertionError(f"{find()} changes all the time")


def fsck(find):
    """the file system of a snapshot's disk, on a copy: its journal played back, then no complaint"""
    with tempfile.TemporaryDirectory(prefix="dorm-fsck.") as place:
        copies = copy_chain(find, place)
        for path in copies:
            subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True)
        raw = f"{place}/raw"
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", copies[-1], raw],
                       check=True)
        subprocess.run(["e2fsck", "-E", "journal_only", "-y", raw], capture_output=True,
                       check=False)
        done = subprocess.run(["e2fsck", "-fn", raw], capture_output=True, text=True, check=False)
        check(done.returncode == 0, f"e2fsck of {find()}: {done.stdout}{done.stderr}")


def write_file(dormouse, sandbox, name, kib):
    """a file of noise; returns its digest"""
    dormouse.exec(sandbox, "sh", "-c", f"dd if=/dev/urandom of={name} bs=1k count={kib} 2>&1")
    return dormouse.exec(sandbox, "sha256sum", name).split()[0]


def check_files(dormouse, sandbox, digests):
    """every file, read from the disk and not from the page cache"""
    dormouse.exec(sandbox, "sh", "-c", "sync; echo 3 >/proc/sys/vm/drop_caches")
    for name, digest in digests.items():
        now = dormouse.exec(sandbox, "sha256sum", name).split()[0]
        check(now == digest, f"{name} of {sandbox} is {now}, was {digest}")


def used(directory):
    return sum(p.stat().st_blocks * 512 for p in directory.iterdir())


def test_template():
    build(D, "plain")
    build(D, "disk", "--disk", "1G")
    sandbox = D.create("disk")
    check(D.api("GET", f"/sandboxes/{sandbox}")["diskSizeMB"] == 1024, "its size is told")
    mounts = D.exec(sandbox, "cat", "/proc/mounts")
    check("overlay / overlay" in mounts, f"{mounts}")
    blocks = int(D.exec(sandbox, "sh", "-c", "df -k / | tail -1").split()[1])
    check(900 * 1024 < blocks < 1024 * 1024, f"the root has {blocks} KiB")
    disk = D.api("GET", f"/sandboxes/{sandbox}/memory")["disk"]
    check(disk["sizeBytes"] == 1024 * MIB and disk["layers"] == 3, f"{disk}")
    check(disk["ownBytes"] < MIB < disk["sharedBytes"], f"a fresh one shares all: {disk}")
    D.api("DELETE", f"/sandboxes/{sandbox}")
    plain = D.create("plain")
    check(D.api("GET", f"/sandboxes/{plain}/memory")["disk"] is None, "no disk, none told")
    D.api("DELETE", f"/sandboxes/{plain}")
    try:
        D.api("POST", "/v3/templates", {"name": "bad", "memoryMB": 256, "diskSizeMB": 3})
        raise AssertionError("a disk of 3 MiB was accepted")
    except ApiError as e:
        check(e.status == 400 and "diskSizeMB" in str(e), f"{e}")


def test_five_generations():
    sandbox, digests = D.create("disk"), {}
    for generation in range(5):
        name = f"/home/user/f{generation}"
        digests[name] = write_file(D, sandbox, name, 700 * (generation + 1))
        digests["/home/user/over"] = write_file(D, sandbox, "/home/user/over", 512)
        D.dorm("sleep", sandbox)
        check(not (D.root / "sandboxes" / sandbox / "disks").exists(), "nothing is left of the VM")
        fsck(lambda: memory_dir(D, sandbox))
        D.dorm("wake", sandbox)
        check_files(D, sandbox, digests)
    D.dorm("sleep", sandbox)
    D.dorm("snapshot", "ls")
    D.api("DELETE", f"/sandboxes/{sandbox}")


WRITER = r"""
i=0
while [ ! -e /home/user/stop ]; do
  i=$((i + 1)); f=/home/user/w/$i
  head -c $((i % 9000 + 1)) /dev/urandom > $f.tmp
  echo "$(sha256sum < $f.tmp | cut -c1-64)" > $f.sum; mv $f.tmp $f
  [ $i -gt 40 ] && rm -f /home/user/w/$((i - 40)) /home/user/w/$((i - 40)).sum
done
"""

# A file that has its name was complete before; its digest is that of the file beside it.
CHECKER = r"""
n=0; for f in /home/user/w/*.sum; do b=${f%.sum}; [ -f $b ] || continue
  [ "$(sha256sum < $b | cut -c1-64)" = "$(cat $f)" ] || { echo bad $b; exit 1; }; n=$((n + 1))
done; echo good $n
"""


def test_fork_while_writing():
    source = D.create("disk")
    D.exec(source, "sh", "-c", "mkdir /home/user/w; cat > /home/user/writer", stdin=WRITER)
    D.exec(source, "sh", "-c", "setsid sh /home/user/writer </dev/null >/dev/null 2>&1 &")
    time.sleep(1)
    made = D.api("POST", f"/sandboxes/{source}/fork", {"count": 3, "timeout": 600})
    forks = [m["sandbox"]["sandboxID"] for m in made]
    for i, fork in enumerate([source, *forks]):
        D.exec(fork, "sh", "-c", f"echo {i} > /home/user/mine; touch /home/user/only-{i}; sync")
    for i, fork in enumerate([source, *forks]):
        seen = D.exec(fork, "sh", "-c", "cat /home/user/mine; cd /home/user; echo only-*").split()
        check(seen == [str(i), f"only-{i}"], f"fork {i} sees {seen}")
    point = snapshot(D, source)  # while it writes
    D.api("DELETE", f"/sandboxes/{source}")
    fsck(lambda: D.root / "snapshots" / point)
    for fork in forks:
        D.dorm("sleep", fork)
        fsck(lambda name=fork: memory_dir(D, name))
        D.dorm("wake", fork)
        D.exec(fork, "sh", "-c", "touch /home/user/stop; "
                                 "while ps | grep -q '[u]ser/writer'; do sleep 0.1; done; sync; "
                                 "echo 3 >/proc/sys/vm/drop_caches")
        seen = D.exec(fork, "sh", "-c", CHECKER).split()
        check(seen[0] == "good" and int(seen[1]) > 5, f"{fork}: {seen}")
        D.api("DELETE", f"/sandboxes/{fork}")
    made = D.create(point)
    check(D.exec(made, "cat", "/home/user/mine") == "0", "a sandbox from the snapshot")
    D.api("DELETE", f"/sandboxes/{made}")
    D.api("DELETE", f"/templates/{point}")


def test_verify_and_transfer():
    sandbox = D.create("disk")
    digests = {"/home/user/f": write_file(D, sandbox, "/home/user/f", 5000)}
    point = snapshot(D, sandbox)
    D.dorm("snapshot", "verify", point)
    check(D.dorm("store", "check", "--data").returncode == 0, "the store is well")
    with tempfile.TemporaryDirectory(prefix="dorm-export.") as place:
        D.dorm("snapshot", "export", "-o", f"{place}/file", point)
        with Dormouse() as other:
            other.dorm("snapshot", "import", f"{place}/file")
            imported = other.json("snapshot", "ls")[0]["snapshotID"]
            other.dorm("snapshot", "verify", imported)
            there = other.create(imported)
            check_files(other, there, digests)
            write_file(other, there, "/home/user/g", 10)
            other.dorm("sleep", there)
            fsck(lambda: memory_dir(other, there))
    top = chain(D.root / "snapshots" / point)[-1]
    other_name = top.with_name("copy")  # not through the link: others have the file too
    shutil.copy(top, other_name)
    with open(other_name, "r+b") as f:
        f.seek(top.stat().st_size // 2)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 1]))
    os.rename(other_name, top)
    done = D.dorm("snapshot", "verify", point, check_status=False)
    check(done.returncode != 0 and f"disks/{top.name}: checksum" in done.stderr, f"{done}")
    D.api("DELETE", f"/templates/{point}")
    check_files(D, sandbox, digests)
    D.api("DELETE", f"/sandboxes/{sandbox}")


def layers_of(sandbox):
    return D.api("GET", f"/sandboxes/{sandbox}/memory")["disk"]["layers"]


def test_chain_is_bounded_running():
    """20 snapshots of one that runs: its chain is merged under it"""
    sandbox, digests, points = D.create("disk"), {}, []
    for i in range(20):
        digests[f"/home/user/f{i % 7}"] = write_file(D, sandbox, f"/home/user/f{i % 7}", 100)
        points.append((snapshot(D, sandbox), dict(digests)))
        check(layers_of(sandbox) <= LAYERS_LIMIT + 1, f"{layers_of(sandbox)} layers")
        check(len(chain(D.root / "snapshots" / points[-1][0])) <= LAYERS_LIMIT, "of the snapshot")
    check("disk layers=" in D.log.read_text(), "something was merged")
    check("its disk keeps" not in D.log.read_text(), "and QEMU took it")
    check_files(D, sandbox, digests)
    D.dorm("sleep", sandbox)
    fsck(lambda: memory_dir(D, sandbox))
    D.dorm("wake", sandbox)
    check_files(D, sandbox, digests)
    for point, was in (points[3], points[13], points[19]):
        fsck(lambda name=point: D.root / "snapshots" / name)
        made = D.create(point)
        check_files(D, made, was)
        D.api("DELETE", f"/sandboxes/{made}")
    for point, _ in points:
        D.api("DELETE", f"/templates/{point}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_chain_is_bounded_asleep():
    """25 sleeps, each woken at once, so that the background has no time; then it has"""
    sandbox, digests = D.create("disk"), {}
    for i in range(25):
        digests[f"/home/user/f{i % 7}"] = write_file(D, sandbox, f"/home/user/f{i % 7}", 100)
        D.dorm("sleep", sandbox)
        D.dorm("wake", sandbox)
        check(layers_of(sandbox) <= LAYERS_LIMIT + 1, f"{layers_of(sandbox)} layers")
    check_files(D, sandbox, digests)
    D.dorm("sleep", sandbox)
    wait_until(lambda: len(chain(memory_dir(D, sandbox))) <= 8, 60, "merged in the background")
    fsck(lambda: memory_dir(D, sandbox))
    point = snapshot(D, sandbox)
    D.dorm("wake", sandbox)
    check_files(D, sandbox, digests)
    D.api("DELETE", f"/sandboxes/{sandbox}")
    before = len(chain(D.root / "snapshots" / point))
    D.dorm("snapshot", "compact", point)
    after = len(chain(D.root / "snapshots" / point))
    check(after <= min(before, 3), f"compact: {before} layers, then {after}")
    fsck(lambda: D.root / "snapshots" / point)
    made = D.create(point)
    check_files(D, made, digests)
    D.api("DELETE", f"/sandboxes/{made}")
    D.api("DELETE", f"/templates/{point}")


def test_trim():
    """what is deleted in the guest is free on the host, and small when it sleeps"""
    sandbox = D.create("disk")
    disks = D.root / "sandboxes" / sandbox / "disks"
    D.exec(sandbox, "sh", "-c", "dd if=/dev/urandom of=/home/user/big bs=1M count=800; sync",
           timeout_s=300)
    full = used(disks)
    check(full > 800 * MIB, f"{full} bytes are used")
    D.exec(sandbox, "sh", "-c", "rm /home/user/big; sync")
    wait_until(lambda: used(disks) < 60 * MIB, 30, f"the space comes back: {used(disks)}")
    D.dorm("sleep", sandbox)
    top = used(memory_dir(D, sandbox) / "disks")
    check(top < 60 * MIB, f"the disks of the sleep take {top} bytes")
    print(f"  800 MiB written: {full / MIB:.0f} MiB on the host, deleted: {top / MIB:.1f} MiB")
    fsck(lambda: memory_dir(D, sandbox))
    D.api("DELETE", f"/sandboxes/{sandbox}")


def interrupted(path, body, delay_s):
    """a request to dormd, which is killed that long after it was sent"""
    def ask():
        try:
            D.api("POST", path, body)
        except (OSError, ApiError, ValueError, json.JSONDecodeError):
            pass
        except Exception:  # the connection breaks in many ways
            pass
    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(delay_s)
    D.kill()
    thread.join(20)
    D.start()


def test_kill_dormd():
    """in the middle of a sleep and of a snapshot: the old state or the new one, and every file"""
    sandbox, digests, seen = D.create("disk"), {}, []
    for i in range(16):
        digests[f"/home/user/k{i % 5}"] = write_file(D, sandbox, f"/home/user/k{i % 5}", 300)
        verb = "pause" if i % 2 else "snapshots"
        interrupted(f"/sandboxes/{sandbox}/{verb}", {}, 0.03 * i + 0.002)
        wait_until(lambda: D.status(sandbox) in ("running", "asleep", "failed"), 30, "settled")
        seen.append(D.status(sandbox))
        check(seen[-1] != "failed", f"{D.api('GET', f'/sandboxes/{sandbox}')}")
        if seen[-1] == "asleep":
            fsck(lambda: memory_dir(D, sandbox))
            D.dorm("wake", sandbox)
        wait_until(lambda: D.dorm("exec", sandbox, "--", "true", check_status=False).returncode == 0,
                   30, "it answers")
        check_files(D, sandbox, digests)
        names = json.loads((D.root / "sandboxes" / sandbox / "sandbox.json").read_text())["disk"]
        files = sorted(p.name for p in (D.root / "sandboxes" / sandbox / "disks").iterdir())
        check(sorted(names["layers"]) == files, f"{names} and {files}")
    print(f"  killed 16 times: {seen.count('running')} running, {seen.count('asleep')} asleep")
    D.dorm("sleep", sandbox)
    fsck(lambda: memory_dir(D, sandbox))
    for point in D.json("snapshot", "ls"):
        D.dorm("snapshot", "verify", point["snapshotID"])
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_host_crash():
    """everything dies at once: the sandbox has failed, its disk is as it was, the sleeping one wakes"""
    with Dormouse() as other:
        other.dorm("template", "build", "--base", "busybox", "--memory", "256M", "--disk", "256M", "disk",
                   timeout_s=300)  # with a working set, which is recorded by restoring it
        awake, asleep = other.create("disk"), other.create("disk")
        digests = {"/home/user/f": write_file(other, asleep, "/home/user/f", 300)}
        other.dorm("sleep", asleep)
        digest = write_file(other, awake, "/home/user/f", 300)
        other.exec(awake, "sync")
        vm = other.vm_pid(awake)
        other.kill()
        os.kill(vm, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{vm}/exe"), 20, "the VM is gone")
        other.start()
        check(other.status(awake) == "failed", other.status(awake))
        place = other.root / "sandboxes" / awake
        top = place / "disks" / json.loads((place / "sandbox.json").read_text())["disk"]["layers"][-1]
        with tempfile.TemporaryDirectory(prefix="dorm-fsck.") as copies:
            for path in (*chain(place / "memory-0"), top):
                shutil.copy(path, copies)
            raw, out = f"{copies}/raw", f"{copies}/f"
            subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw",
                            f"{copies}/{top.name}", raw], check=True)
            subprocess.run(["e2fsck", "-E", "journal_only", "-y", raw], capture_output=True,
                           check=False)
            subprocess.run(["debugfs", "-R", f"dump data/home/user/f {out}", raw],
                           capture_output=True, check=True)
            found = hashlib.sha256(pathlib.Path(out).read_bytes()).hexdigest()
            check(found == digest, "what was synced is on the disk of the failed one")
        other.dorm("wake", asleep)
        check_files(other, asleep, digests)


def test_host_is_full():
    """a guest whose write does not fit stands still, and goes on when there is space"""
    other = Dormouse()
    other.root.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=260m", "none", other.root],
                      capture_output=True, check=False).returncode:
        shutil.rmtree(other.dir)
        skip("a file system cannot be mounted here")
    try:
        with other:
            build(other, "disk", "--disk", "1G")
            sandbox = other.create("disk")
            digest = write_file(other, sandbox, "/home/user/f", 1000)
            other.exec(sandbox, "sync")
            free = os.statvfs(other.root)
            ballast = other.root / "tmp" / "ballast"
            with open(ballast, "wb") as f:
                os.posix_fallocate(f.fileno(), 0, free.f_bavail * free.f_frsize - MIB)
            try:
                other.dorm("sleep", sandbox)
                raise AssertionError("it slept on a full disk")
            except AssertionError as e:
                check("No space left" in str(e), f"what is said: {e}")
            check(other.status(sandbox) == "running", "and runs on")
            command = subprocess.Popen(
                ["timeout", "60", program("dorm"), "exec", sandbox, "--", "sh", "-c",
                 "dd if=/dev/urandom of=/home/user/g bs=1M count=12 && sync && echo done"],
                env=other.env, stdout=subprocess.PIPE, text=True)
            wait_until(lambda: other.api("GET", f"/sandboxes/{sandbox}").get("diskFull"), 30,
                       "dormd says that it stands still")
            refused = other.dorm("sleep", sandbox, check_status=False)
            check("host's disk is full" in refused.stderr, f"{refused}")
            check(other.status(sandbox) == "running", "still")
            ballast.unlink()
            out, _ = command.communicate(timeout=60)
            check("done" in out, f"the guest's own write went on: {out!r}")
            check(not other.api("GET", f"/sandboxes/{sandbox}").get("diskFull"), "no more")
            check_files(other, sandbox, {"/home/user/f": digest})
            other.dorm("sleep", sandbox)
            fsck(lambda: memory_dir(other, sandbox))
            other.stop()
            subprocess.run(["umount", "-l", other.root], check=True)
    finally:
        subprocess.run(["umount", "-l", other.root], capture_output=True, check=False)


def test_times():
    """what a disk costs: printed, and bounded loosely"""
    took = {}
    for template in ("plain", "disk"):
        sandbox = D.create(template)
        rows = {"sleep": [], "wake": [], "fork": []}
        for i in range(7):
            D.exec(sandbox, "sh", "-c", f"head -c 200000 /dev/urandom >/home/user/t{i}")
            t0 = time.monotonic()
            D.api("POST", f"/sandboxes/{sandbox}/pause", {})
            t1 = time.monotonic()
            D.api("POST", f"/sandboxes/{sandbox}/connect", {"timeout": 600})
            t2 = time.monotonic()
            made = D.api("POST", f"/sandboxes/{sandbox}/fork", {"count": 1, "timeout": 600})
            t3 = time.monotonic()
            D.api("DELETE", f"/sandboxes/{made[0]['sandbox']['sandboxID']}")
            for name, t in (("sleep", t1 - t0), ("wake", t2 - t1), ("fork", t3 - t2)):
                rows[name].append(t * 1000)
        took[template] = {name: statistics.median(t) for name, t in rows.items()}
        D.api("DELETE", f"/sandboxes/{sandbox}")
    for name in ("sleep", "wake", "fork"):
        plain, disk = took["plain"][name], took["disk"][name]
        print(f"  {name}: {plain:.0f} ms without a disk, {disk:.0f} ms with one")
        check(disk < 3 * plain + 200, f"{name}: {plain:.0f} ms and {disk:.0f} ms")


main(globals())
