# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""A VMM in its jail: what it is, what it lacks, and that a program in QEMU's place reaches nothing."""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile

from crash import Background, check_sound, delete_all, is_alive, kill_and_wait, pager, read, record
from harness import Dormouse, check, main, program, skip, wait_until

D = Dormouse("--jail", "on", "--cpu-limit", "150", "--io-limit", "200M").__enter__()
WALLS = ["root", "user", "pids", "namespaces", "filter"]

# What a program gets that is no more jailed than QEMU was before there were jails: root on the host,
# in an empty network namespace. So the probe tells the difference.
UNJAILED = {"read-shadow", "list-store", "read-other-record", "read-other-memory", "read-own-record",
            "list-run", "list-etc", "list-sandboxes",
            "list-programs", "write-root", "write-tmp", "write-store", "write-run",
            "dormd-socket", "pager-socket", "other-qmp-socket", "listening-session", "see-processes",
            "signal-dormd", "signal-anybody", "read-dormd-memory", "trace-dormd", "mount", "become-other",
            "make-device", "chroot", "capabilities", "inet-socket", "netlink-socket"}


def status_of(pid):
    return dict(line.split(":\t", 1) for line in read(f"/proc/{pid}/status").splitlines())


def groups_of(pid):
    """its cgroups of ours: {controller: directory}"""
    mounts = {}
    for line in read("/proc/mounts").splitlines():
        _, place, kind, options = line.split()[:4]
        if kind == "cgroup":
            mounts.update(dict.fromkeys(options.split(","), place))
        elif kind == "cgroup2":
            mounts[""] = place
    found = {}
    for line in read(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            if path.startswith("/dormouse/") and name in mounts:
                found[name] = pathlib.Path(mounts[name] + path)
    return found


def all_groups(sandbox):
    return [p for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", *map(str, pathlib.Path(
        "/sys/fs/cgroup").glob("*"))) for p in pathlib.Path(top).glob(f"dormouse/*/{sandbox}")]


def check_jailed(pid):
    """every wall of a process, as the kernel tells it"""
    s = status_of(pid)
    uids, gids = set(s["Uid"].split()), set(s["Gid"].split())
    check(len(uids) == 1 and int(min(uids)) >= 0x70000000, f"users {uids}")
    check(gids == uids and not s["Groups"].strip(), f"groups {gids}, {s['Groups']!r}")
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        check(int(s[name], 16) == 0, f"{name} {s[name]}")
    check(s["NoNewPrivs"].strip() == "1", "no_new_privs")
    check(s["Seccomp"].strip() == "2" and int(s["Seccomp_filters"]) >= 2, "ours, and QEMU's own filter")
    check(s["NSpid"].split() == [str(pid), "1"], f"the first process of a namespace: {s['NSpid']}")
    for name in ("mnt", "pid", "net", "ipc", "uts", "cgroup"):
        check(os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"), f"{name} namespace")
    limits = read(f"/proc/{pid}/limits")
    check(re.search(r"Max core file size +0 +0 ", limits), limits)
    check(re.search(r"Max file size +\d+ +\d+ ", limits), limits)
    check(int(read(f"/proc/{pid}/oom_score_adj")) == 500, "it goes before dormd")
    return int(min(uids))


def visible(pid):
    """mounts in its file system: {place: options}"""
    return {line.split()[4]: line.split()[5].split(",")
            for line in read(f"/proc/{pid}/mountinfo").splitlines()}


def test_template():
    D.build_template("base", 128)


def test_walls():
    a, b = D.create("base"), D.create("base")
    users = {check_jailed(D.vm_pid(s)) for s in (a, b)}
    check(len(users) == 2, f"both are user {users}")
    check({record(D, s)["uid"] for s in (a, b)} == users, "as recorded")
    mounts = visible(D.vm_pid(a))
    for place, options in mounts.items():
        check({"ro", "nosuid"} <= set(options), f"{place} {options}")
        check(place == "/" or a in place or place.startswith(("/usr/", "/etc/ld.so.cache", str(
            pathlib.Path(program("dormd")).parent))), f"it sees {place}")
    check(not any(b in place for place in mounts), f"it sees the other one's: {mounts}")
    groups = groups_of(D.vm_pid(a))
    delete_all(D)
    wait_until(lambda: not any(g.exists() for g in groups.values()), 5, "its cgroups are gone")


def test_limits():
    checks = {c["name"]: c for c in D.api("GET", "/doctor")["checks"]}
    if checks["jail-limits"]["status"] != "ok":
        skip(f"no cgroups: {checks['jail-limits']['found']}")
    sandbox = D.create("base")
    groups = groups_of(D.vm_pid(sandbox))

    def value(v1, v2):
        return next(g / name for c, g in groups.items() for name in (v1, v2) if (g / name).exists()).read_text()

    want = (128 + 256) << 20
    check(int(value("memory.limit_in_bytes", "memory.max")) == want, f"memory: {groups}")
    check(value("cpu.cfs_quota_us", "cpu.max").split()[0] == "150000", "one processor and a half")
    check(int(value("pids.max", "pids.max")) == 1024, "threads")
    if "io" in checks["jail-limits"]["found"] and not read("/proc/mounts").count(f" {D.root} "):
        check(str(200 << 20) in value("blkio.throttle.write_bps_device", "io.max"), "bytes a second")
    check(str(D.vm_pid(sandbox)) in value("cgroup.procs", "cgroup.procs").split(), "it is in there")
    delete_all(D)


def test_doctor():
    checks = {c["name"]: c for c in D.api("GET", "/doctor")["checks"]}
    for name in WALLS:
        check(checks[f"jail-{name}"]["status"] == "ok", f"{checks[f'jail-{name}']}")
    asked = {c["name"]: c for c in json.loads(subprocess.run(
        [program("dormd"), "--doctor"], check=True, capture_output=True, timeout=60).stdout)["checks"]}
    check(all(asked[f"jail-{name}"]["status"] == "ok" for name in WALLS), "also without a dormd")


def test_life_in_jail():
    """sleep, wake as another user, fork, snapshot, and all of it again after dormd was killed"""
    a = D.create("base")
    D.exec(a, "sh", "-c", "echo dreams > /tmp/file")
    before = check_jailed(D.vm_pid(a))
    D.dorm("sleep", a)
    check(not all_groups(a), "a sleeper has no cgroup")
    D.dorm("wake", a)
    check(check_jailed(D.vm_pid(a)) != before, "another user after each wake")
    made = D.api("POST", f"/sandboxes/{a}/fork", {"count": 3})
    check(all("sandbox" in m for m in made), f"{made}")
    forks = [m["sandbox"]["sandboxID"] for m in made]
    D.api("POST", f"/sandboxes/{a}/snapshots", {})
    D.kill()
    D.start()
    users = {check_jailed(D.vm_pid(s)) for s in (a, *forks)}
    check(len(users) == 4, f"four sandboxes, users {users}")
    late = D.create("base")
    check(check_jailed(D.vm_pid(late)) not in users, "what was adopted is not given away again")
    for s in (a, *forks):
        check(D.exec(s, "cat", "/tmp/file") == "dreams", f"{s} after the adoption")
    kill_and_wait(pager(D))
    for s in (a, *forks):
        check(D.exec(s, "cat", "/tmp/file") == "dreams", f"{s} with another pager")
    check_sound(D)
    delete_all(D)


def test_disk():
    """what a VM writes is its user's; what is in a snapshot is the store's"""
    D.dorm("template", "build", "--base", "busybox", "--memory", "256M", "--no-working-set", "--disk", "256M",
           "disk", timeout_s=300)
    s = D.create("disk")
    D.exec(s, "sh", "-c", "head -c 300000 /dev/urandom >/home/user/f; sync")
    digest = D.exec(s, "md5sum", "/home/user/f")
    user, home = check_jailed(D.vm_pid(s)), D.root / "sandboxes" / s

    def owners():
        return [(home / "disks" / name).stat() for name in record(D, s)["disk"]["layers"]]

    check([o.st_uid for o in owners()] == [user], "the file that it writes")
    check((home / "disks").stat().st_uid == os.geteuid(), "the folder is not its own")
    most = int(re.search(r"Max file size +(\d+) ", read(f"/proc/{D.vm_pid(s)}/limits"))[1])
    check(most == (256 + 32 + 256) << 20, f"the largest file that it may write has {most} bytes")
    write = [p for p, options in visible(D.vm_pid(s)).items() if "rw" in options]
    check(write == [str(home / "disks")], f"it can write {write}")
    D.api("POST", f"/sandboxes/{s}/snapshots", {})
    D.exec(s, "sh", "-c", "head -c 300000 /dev/urandom >/home/user/g; sync")
    kept, top = owners()
    check(kept.st_uid == os.geteuid() and kept.st_mode & 0o777 == 0o444, f"the snapshot's: {kept}")
    check(top.st_uid == user, "the new one is its own again")
    D.dorm("sleep", s)
    D.dorm("wake", s)
    check(D.exec(s, "md5sum", "/home/user/f") == digest, "its disk")
    delete_all(D)


def test_orphan():
    """a VM that nobody has is ended, wherever it says that it works, and its cgroup removed"""
    s = D.create("base")
    pid = D.vm_pid(s)
    D.kill()
    (D.root / "sandboxes" / s / "sandbox.json").unlink()
    check(is_alive(pid), "nobody has ended it yet")
    D.start()
    wait_until(lambda: not is_alive(pid), 10, "the orphan is gone")
    wait_until(lambda: not all_groups(s), 10, "and its cgroup")
    check_sound(D)


def aim(probe, other, session, port):
    """a copy of the probe that knows what to try things on"""
    disk = os.stat(D.root).st_dev
    targets = {"store": D.root, "run": D.run, "other": other, "dormd": D.daemon.pid, "session": session,
               "abstract": "dorm-test-jail", "port": port,
               "address": read(f"/proc/{D.daemon.pid}/maps").split("-")[0],
               "disk_device": f"/dev/{os.path.basename(os.path.realpath(f'/sys/dev/block/{os.major(disk)}:{os.minor(disk)}'))}"}
    text = "\nTARGETS\n" + "".join(f"{key}={value}\n" for key, value in targets.items())
    with open(probe, "ab") as f:
        f.write(text.encode())


def run_probe(jail):
    """start dormd with the probe for a QEMU; returns {name: did it reach that?}"""
    other = D.create("base")
    with tempfile.TemporaryDirectory(prefix="dorm-probe.") as place, socket.socket() as tcp, \
            socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_UNIX) as session:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        abstract.bind("\0dorm-test-jail")
        abstract.listen()
        session.bind(str(D.run / "vm-other.sock"))  # as a session's is while its VM starts
        session.listen()
        probe = pathlib.Path(shutil.copy(program("jail-probe"), place))
        args, D.env["DORM_QEMU"] = D.args, str(probe)
        D.args = ["--jail", jail]
        try:
            D.kill()
            D.start()
            aim(probe, other, D.run / "vm-other.sock", tcp.getsockname()[1])
            create = Background(lambda: D.create("base"))

            def finished():
                logs = [(p, read(p)) for p in (D.root / "sandboxes").glob("*/vmm.log")]
                return next(((p, text) for p, text in logs if "probe end" in text), None)

            log, text = wait_until(finished, 12, "the probe has tried everything")
            for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
                if str(probe) in read(f"/proc/{pid}/cmdline").split()[:1]:
                    os.kill(pid, signal.SIGKILL)
            create.join(30)
            check(create.error, "the probe is no QEMU")
        finally:
            D.args = args
            del D.env["DORM_QEMU"]
            D.kill()
            (D.run / "vm-other.sock").unlink(missing_ok=True)
            D.start()
    check(D.exec(other, "hostname") == other, "nothing happened to the other sandbox")
    delete_all(D)
    return {name: answer == "yes" for name, answer in re.findall(r"^probe (\S+) (yes|no)", text, re.M)}


def test_probe_in_jail():
    reached = run_probe("on")
    check(len(reached) >= 45, f"the probe tried {len(reached)} things")
    check(UNJAILED <= set(reached), f"it did not try {UNJAILED - set(reached)}")
    check(not any(reached.values()), f"it reached {[name for name, yes in reached.items() if yes]}")


def test_probe_without_jail():
    """the same program outside: so the test above can fail"""
    reached = {name for name, yes in run_probe("off").items() if yes}
    check(UNJAILED <= reached, f"without a jail it did not reach {UNJAILED - reached}")
    check("write-image-memory" not in reached, "that is the pager's alone in any case")


def without_sys_admin(*args):
    return ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", program("dormd"), "--root", D.root, "--run-dir",
            D.run, *args]


def test_host_that_lacks_something():
    """no namespaces can be made: auto takes what is left and says so, on refuses"""
    if not shutil.which("setpriv"):
        skip("no setpriv")
    D.kill()
    try:
        done = subprocess.run(without_sys_admin("--jail", "on"), text=True, capture_output=True, timeout=30,
                              env=D.env, check=False)
        check(done.returncode == 1 and 'lack the wall "root"' in done.stderr, f"{done}")
        daemon = subprocess.Popen(without_sys_admin("--jail", "auto"), env=D.env, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        try:
            wait_until(D.answers, 30, "it starts")
            checks = {c["name"]: c for c in D.api("GET", "/doctor")["checks"]}
            check(checks["jail-root"]["status"] == "warn" and checks["jail-root"]["remedy"], f"{checks['jail-root']}")
            check(checks["jail-filter"]["status"] == "ok", f"{checks['jail-filter']}")
            s = D.create("base")
            mine = status_of(D.vm_pid(s))
            check(mine["NoNewPrivs"].strip() == "1" and int(mine["Seccomp_filters"]) >= 2, f"{mine}")
            delete_all(D)
        finally:
            daemon.terminate()
            daemon.wait(20)
    finally:
        D.start()
    check_sound(D)


def test_nothing_is_left():
    check_sound(D)
    tag = f"{os.stat(D.root).st_dev:x}-{os.stat(D.root).st_ino:x}"
    D.__exit__(None)
    left = [p for p in pathlib.Path("/sys/fs/cgroup").glob(f"**/dormouse/{tag}")]
    check(not left, f"cgroups: {left}")


main(globals())
