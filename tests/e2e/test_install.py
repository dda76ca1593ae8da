# SPDX-License-Identifier: Apache-2.0
"""The package and the installed tree: does what is installed work, from where it is installed, and
do sandboxes outlive an upgrade?

Nothing of the build is used but to make the package: `harness.program` is pointed at the tree.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess

import harness
from harness import BUILD, ROOT, Dormouse, check, main, program, skip, wait_until

D = Dormouse("--jail", "on")
TREE = D.dir / "root"    # where the package was installed
NEWER = D.dir / "newer"  # the same with another version, elsewhere
VERSION = subprocess.run([program("dormd"), "--version"], text=True, capture_output=True,
                         check=True).stdout.split()[1]
NEXT = VERSION[:-1] + ("9" if VERSION[-1] != "9" else "8")


def use(tree):
    """have the harness run what is installed below tree"""
    view = D.dir / f"view-{tree.name}" / "bin"
    view.mkdir(parents=True, exist_ok=True)
    for path in (tree / "usr/bin/dorm", tree / "usr/sbin/dormd"):
        if not (view / path.name).exists():
            (view / path.name).symlink_to(path)
    harness.BUILD = view.parent


def dpkg(*args):
    """dpkg on TREE; its scripts run there, with busybox for a shell"""
    done = subprocess.run(["dpkg", f"--root={TREE}", "--force-depends", "--force-confold", *args],
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=dict(os.environ, LC_ALL="C"), timeout=60, check=False)
    check(done.returncode == 0, f"dpkg {args}: {done.stdout}")
    return done.stdout


def make_root():
    """as much of a Debian as dpkg needs"""
    busybox = shutil.which("busybox")
    if not busybox or not shutil.which("dpkg-shlibdeps") or os.geteuid():
        skip("needs root, busybox and dpkg-dev")
    for name in ("bin", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dormouse", "tmp"):
        (TREE / name).mkdir(parents=True)
    (TREE / "var/lib/dpkg/status").touch()
    shutil.copy(busybox, TREE / "bin/busybox")
    for name in ("sh", "rm"):
        (TREE / "bin" / name).symlink_to("busybox")


def test_package_installs():
    make_root()
    made = subprocess.run([ROOT / "tools/make-deb", "--build", BUILD, "--out", D.dir], text=True,
                          capture_output=True, timeout=120, check=False)
    check(made.returncode == 0, f"{made.stdout} {made.stderr}")
    package = pathlib.Path(made.stdout.strip())
    said = dpkg("--install", str(package))
    check("start the daemon" in said, f"without systemd it says what to do: {said}")
    state = dpkg("--status", "dormouse")
    for words in ("install ok installed", f"Version: {VERSION}-1", "libmicrohttpd12",
                  "qemu-system-x86", "/etc/dormouse/dormd.conf"):
        check(words in state, f"{words} is not in {state}")
    for name in ("usr/sbin/dormd", "usr/bin/dorm", "usr/bin/dorm-pager",
                 "usr/libexec/dormouse/dorm-pager", "usr/libexec/dormouse/dorm-agent",
                 "usr/libexec/dormouse/dorm-net", "usr/libexec/dormouse/dorm-jail",
                 "usr/libexec/dormouse/libdorm-vmm.so",
                 "usr/lib/systemd/system/dormd.service", "etc/dormouse/dormd.conf",
                 "usr/share/man/man8/dormd.8.gz", "usr/share/man/man1/dorm.1.gz",
                 "usr/share/bash-completion/completions/dorm"):
        check((TREE / name).exists(), f"{name} is missing")
    said = dpkg("--install", str(package))  # again: as an upgrade
    check("restart dormd" in said and "pager upgrade" in said, f"{said}")
    unit = (TREE / "usr/lib/systemd/system/dormd.service").read_text()
    check("ExecStart=/usr/sbin/dormd\n" in unit, f"{unit}")


def test_package_is_clean():
    if not shutil.which("lintian"):
        skip("no lintian")
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning",
                           next(D.dir.glob("*.deb"))], text=True, capture_output=True,
                          timeout=120, check=False)
    check(done.returncode == 0, f"{done.stdout}")


def test_installed_example_is_the_default():
    conf = TREE / "etc/dormouse/dormd.conf"
    said = subprocess.run([TREE / "usr/sbin/dormd", "--describe", "conf"], text=True,
                          capture_output=True, check=True).stdout
    check(conf.read_text() == said, "the installed file is what this dormd describes")
    shown = subprocess.run([TREE / "usr/sbin/dormd", "--config", conf, "--print-config"],
                           text=True, capture_output=True, check=True).stdout
    check(all(line.startswith("#") or line.endswith("# default") for line in shown.splitlines()),
          f"it changes nothing: {shown}")


def exe(pid):
    return os.readlink(f"/proc/{pid}/exe")


def pager_pid():
    return D.json("pager")["pid"]


def user_of(pid):
    return int(pathlib.Path(f"/proc/{pid}/status").read_text().split("\nUid:")[1].split()[0])


def test_installed_doctor_knows_jails():
    asked = subprocess.run([TREE / "usr/sbin/dormd", "--doctor"], text=True, capture_output=True,
                           timeout=60, check=True).stdout
    jails = {c["name"]: c for c in json.loads(asked)["checks"] if c["name"].startswith("jail-")}
    check(jails["jail-root"]["status"] == jails["jail-user"]["status"] == "ok", f"{jails}")


def test_installed_service_works():
    use(TREE)
    D.start()
    check(exe(D.daemon.pid) == str(TREE / "usr/sbin/dormd"), exe(D.daemon.pid))
    check(exe(pager_pid()) == str(TREE / "usr/libexec/dormouse/dorm-pager"), exe(pager_pid()))
    D.build_template("base", 128)
    sandbox = D.create("base")
    check(user_of(D.vm_pid(sandbox)) >= 0x70000000, "its VM is in a jail, with a user of its own")
    D.exec(sandbox, "sh", "-c", "echo kept >/tmp/note")
    D.dorm("sleep", sandbox)
    D.dorm("wake", sandbox)
    check(D.exec(sandbox, "cat", "/tmp/note") == "kept", "it is as it was")
    D.dorm("rm", sandbox)


def make_newer():
    """the next version, installed elsewhere: the same programs but for its number"""
    shutil.copytree(TREE / "usr", NEWER / "usr", symlinks=True)
    dormd = NEWER / "usr/sbin/dormd"
    data = dormd.read_bytes()
    check(f"{VERSION}\0".encode() in data, f"dormd holds no text {VERSION}")
    dormd.write_bytes(data.replace(f"{VERSION}\0".encode(), f"{NEXT}\0".encode()))


def counter(sandbox):
    return int(D.exec(sandbox, "cat", "/tmp/count"))


def test_upgrade_without_stopping_sandboxes():
    """as docs/operator-guide.md says: install, restart dormd, `dorm pager upgrade`"""
    sandbox, sleeper = D.create("base"), D.create("base")
    D.dorm("sleep", sleeper)
    D.exec(sandbox, "sh", "-c", "setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i >/tmp/count.new; "
                                "mv /tmp/count.new /tmp/count; sleep 0.1; done' </dev/null "
                                ">/dev/null 2>&1 & until [ -s /tmp/count ]; do sleep 0.1; done")
    vm, old_pager, before = D.vm_pid(sandbox), pager_pid(), counter(sandbox)
    make_newer()
    D.daemon.send_signal(signal.SIGTERM)
    check(D.daemon.wait(30) == 0, "ended in good order")
    use(NEWER)
    D.start()
    check(D.api("GET", "/healthz")["version"] == NEXT, "the new one answers")
    check(D.vm_pid(sandbox) == vm and D.status(sandbox) == "running", "adopted")
    check(pager_pid() == old_pager, "the pager is still the old one")
    D.dorm("pager", "upgrade")
    check(exe(pager_pid()) == str(NEWER / "usr/libexec/dormouse/dorm-pager"), exe(pager_pid()))
    wait_until(lambda: not os.path.exists(f"/proc/{old_pager}") or
               "Z" in pathlib.Path(f"/proc/{old_pager}/stat").read_text().rpartition(")")[2].split()[0],
               20, "the old pager is gone")
    shutil.move(TREE / "usr", D.dir / "old-usr")  # nothing needs the old one any more
    wait_until(lambda: counter(sandbox) > before, 30, "the guest counts on")
    D.dorm("sleep", sandbox)
    D.dorm("wake", sandbox, sleeper)
    check(counter(sandbox) > before and D.exec(sleeper, "echo", "too") == "too", "all are there")
    shutil.move(D.dir / "old-usr", TREE / "usr")
    D.dorm("rm", sandbox, sleeper)


def test_purge_leaves_nothing():
    (TREE / "var/lib/dormouse/x").touch()
    dpkg("--remove", "dormouse")
    check((TREE / "etc/dormouse/dormd.conf").exists() and (TREE / "var/lib/dormouse/x").exists(),
          "what an administrator wrote, and sandboxes, stay")
    said = dpkg("--purge", "dormouse")
    check("removing all sandboxes" in said, said)
    left = [str(p) for p in TREE.rglob("*dorm*")]
    check(not left, f"{left}")


def test_nothing_is_left():
    D.__exit__(None)


main(globals())
