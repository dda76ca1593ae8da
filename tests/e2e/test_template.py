# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""Templates from a Debian base, recipes, directories, archives and OCI layouts: built, and run.

The Debian base is made once for all tests of a tree (.cache/guest); that takes a minute, and needs
the archives that the host's apt uses. Without them those cases are skipped.
"""
import hashlib
import http.client
import io
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import time

from harness import Dormouse, check, main, skip, wait_until

KEY = "e2b_" + "5" * 40
PORT = 41000 + os.getpid() % 20000
D = Dormouse("--listen", f"127.0.0.1:{PORT}", "--api-key", "env:DORM_TEST_API_KEY",
             env={"DORM_TEST_API_KEY": KEY})
WORK = pathlib.Path(tempfile.mkdtemp(prefix="dorm-e2e-template."))
BUSYBOX = "/bin/busybox"
DEBIAN = {}  # whether it could be made


def build(name, *options, timeout_s=400):
    """dorm template build; returns the lines of its log; fails with what it said"""
    done = D.dorm("template", "build", *options, name, timeout_s=timeout_s)
    return done.stderr


def build_fails(name, *options, timeout_s=200):
    """the same for one that must fail; returns what it said, after a look for remains"""
    done = D.dorm("template", "build", *options, name, check_status=False, timeout_s=timeout_s)
    check(done.returncode == 1, f"building {name} did not fail: {done.returncode} {done.stderr}")
    nothing_left(name)
    return done.stderr


def nothing_left(name):
    check(not list((D.root / "tmp").iterdir()), f"left in tmp: {list((D.root / 'tmp').iterdir())}")
    check(not (D.root / "templates" / name).is_symlink(), f"the name {name} is there")
    check(not D.sandboxes(), f"sandboxes are left: {D.sandboxes()}")
    mounts = pathlib.Path("/proc/self/mounts").read_text()
    check(str(D.root) not in mounts, f"something is mounted: {mounts}")


def recipe(name, **members):
    """write a recipe beside its files; returns its path"""
    path = WORK / name / "recipe.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(members))
    return path


def need_debian():
    if DEBIAN.get("why"):
        skip(DEBIAN["why"])


def sandbox_of(template, script, user="root"):
    """run a script in a fresh sandbox; returns what it printed"""
    sandbox = D.create(template)
    try:
        return D.dorm("exec", "-u", user, sandbox, "--", "sh", "-c", script).stdout.strip()
    finally:
        D.api("DELETE", f"/sandboxes/{sandbox}")


def disk_digest(template):
    disk = D.root / "templates" / template / "disks" / "root"
    return hashlib.sha256(disk.read_bytes()).hexdigest()


def small_tree(path):
    """a root file system with a shell and nothing else"""
    (path / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, path / "bin" / "busybox")
    for name in ("sh", "ls", "id", "cat", "stat", "sleep", "tail", "env", "wc"):
        (path / "bin" / name).symlink_to("busybox")
    (path / "srv").mkdir()
    (path / "srv" / "note").write_text("from outside\n")
    return path


def test_debian_base():
    D.__enter__()
    done = D.dorm("template", "build", "--base", "debian", "deb", check_status=False,
                  timeout_s=600)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1]
        DEBIAN["why"] = f"no Debian base here: {why}"
        if "apt" in done.stderr or "Debian" in done.stderr:
            need_debian()
        raise AssertionError(done.stderr)
    out = sandbox_of("deb", """set -e
        id -un; id -u; pwd
        python3 -c 'print(6*7)'; python -c 'import json, ssl, http.client; print("python")'
        git --version; curl --version | head -1; tput -T xterm cols; setfattr --version
        ps -o comm= -p 1; ip -br link show lo; getent hosts $(hostname) >/dev/null
        sudo -n id -u; cat /etc/machine-id | wc -c; ls -A /var/lib/apt/lists | wc -l""", "user")
    lines = out.splitlines()
    check(lines[:5] == ["user", "1000", "/home/user", "42", "python"], f"{lines}")
    check(lines[-3:] == ["0", "33", "0"], f"sudo, a machine-id of its own, apt's lists: {lines}")


def test_debian_git_daemon():
    need_debian()
    out = sandbox_of("deb", """set -e
        cd /tmp; export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a
        export GIT_COMMITTER_EMAIL=a@b
        git init -q --bare srv/a.git; git init -q w; cd w; echo hello >f; git add f; git commit -qm x
        git push -q /tmp/srv/a.git HEAD:refs/heads/main; cd ..
        git daemon --base-path=/tmp/srv --export-all --reuseaddr --detach
        for i in 1 2 3 4 5 6 7 8 9; do
            git clone -q -b main git://127.0.0.1/a.git got 2>/dev/null && break; sleep 1
        done
        cat got/f""", "user")
    check(out == "hello", f"{out}")


def test_recipe():
    need_debian()
    where = WORK / "app"
    where.mkdir()
    (where / "site").mkdir()
    (where / "site" / "index.html").write_text("made by a recipe\n")
    (where / "tool.sh").write_text("#!/bin/sh\necho tool\n")
    path = recipe(
        "app", base="debian", packages=["tree"], env={"COLOUR": "blue green"}, workdir="/srv/app",
        files=[{"path": "/etc/motd", "text": "hi\n", "mode": "0600"},
               {"path": "/usr/local/bin/tool", "from": "tool.sh", "mode": "0755"},
               {"path": "/srv/app/site", "from": "site", "owner": "user"}],
        commands=["tree --version", "id -u >/srv/root; echo $COLOUR >/srv/colour; test ! -e /work",
                  {"run": "id -un >/home/user/who; echo ~ >>/home/user/who", "user": "user"}],
        start="cd site && exec python3 -m http.server 8000",
        ready={"port": 8000}, readyTimeout=60, memoryMB=384, cpuCount=1)
    said = build("app", "-f", path)
    for word in ("installing 1 packages", "command 3 of 3 (user)", "listens on port 8000"):
        check(word in said, f"no {word!r} in {said}")
    out = sandbox_of("app", """
        curl -s http://127.0.0.1:8000/; stat -c '%a %U' /etc/motd /usr/local/bin/tool \\
            /srv/app/site/index.html; cat /srv/root /srv/colour /home/user/who; tool
        echo "$COLOUR"; ps -o user= -C python3""")
    wanted = ["made by a recipe", "600 root", "755 root", "644 user", "0", "blue green", "user",
              "/home/user", "tool", "blue green", "user"]
    check(out.splitlines() == wanted, f"{out.splitlines()}")
    manifest = json.loads((D.root / "templates" / "app" / "manifest.json").read_text())
    start = manifest["defaults"].pop("start")
    check(manifest["defaults"] == {"env": {"COLOUR": "blue green"}, "workdir": "/srv/app"},
          f"{manifest['defaults']}")
    check(start["command"].endswith("http.server 8000") and start["user"] == "user", f"{start}")
    check(manifest["memory"]["bytes"] == 384 << 20, f"{manifest['memory']}")


def test_defaults_survive_sleep():
    """the environment of a template, below what the sandbox was given, after a sleep too"""
    path = recipe("small", base="busybox", env={"A": "1", "B": "2"})
    build("small", "-f", path)
    sandbox = D.create("small", envVars={"B": "3"})
    try:
        check(D.exec(sandbox, "sh", "-c", "echo $A$B") == "13", "the environment")
        D.api("POST", f"/sandboxes/{sandbox}/pause", {})
        D.api("POST", f"/v2/sandboxes/{sandbox}/connect", {})
        check(D.exec(sandbox, "sh", "-c", "echo $A$B") == "13", "the environment after a sleep")
    finally:
        D.api("DELETE", f"/sandboxes/{sandbox}")


def test_reproducible():
    path = recipe("twice", base="busybox", commands=["date >/dev/null; touch /srv/a; echo x >/srv/b"],
                  files=[{"path": "/srv/c", "text": "c"}])
    digests = []
    for name in ("twice1", "twice2"):
        build(name, "-f", path, "--no-working-set")
        digests.append(disk_digest(name))
        time.sleep(1.1)  # times are in seconds
    check(digests[0] == digests[1], f"two builds of one recipe differ: {digests}")


def test_from_directory():
    tree = small_tree(WORK / "tree")
    said = build("fromdir", "--from-dir", tree, "--no-working-set")
    check('adding the user "user"' in said and "no /bin/bash" in said, said)
    out = sandbox_of("fromdir", "cat /srv/note; id; ls -ld /tmp /home/user; cat /etc/hostname", "user")
    check(out.startswith("from outside\nuid=1000(user)") and "drwxrwxrwt" in out, out)


def add(archive, name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(data))


def test_from_archive():
    path = WORK / "root.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        archive.add(WORK / "tree", "/", recursive=True)
        add(archive, "/srv/absolute", b"inside\n")
        add(archive, "srv/out", type=tarfile.SYMTYPE, linkname="/../../etc")
        add(archive, "dev/sda", type=tarfile.BLKTYPE, devmajor=8, mode=0o666)
        add(archive, "srv/suid", b"#!/bin/sh\n", mode=0o4755, uid=1000, gid=1000)
    said = build("fromtar", "-f", recipe("tar", base={"tar": "../root.tar.xz"}), "--no-working-set")
    check("1 devices, fifos or sockets were left out (the first: /dev/sda)" in said, said)
    out = sandbox_of("fromtar", "cat /srv/absolute; stat -c '%a %u' /srv/suid; test ! -e /dev/sda")
    check(out.startswith("inside\n4755 1000"), out)


def test_hostile_archives():
    outside = WORK / "outside"
    outside.mkdir()
    cases = {
        "up": (lambda a: add(a, "a/../../outside/x", b"x"), "leads upwards"),
        "hardlink": (lambda a: add(a, "x", type=tarfile.LNKTYPE, linkname=str(outside / "secret")),
                     "hard link"),
        "empty": (lambda a: None, "is empty"),
        "no shell": (lambda a: add(a, "etc/x", b"x"), "no /bin/sh"),
    }
    (outside / "secret").write_text("secret")
    for name, (fill, word) in cases.items():
        path = WORK / f"{name}.tar"
        with tarfile.open(path, "w") as archive:
            fill(archive)
        said = build_fails("bad", "--from-tar", path)
        check(word in said, f"{name}: no {word!r} in {said}")
    # through a link that leads out of the tree: it leads elsewhere in the tree, or nowhere
    for name, target in (("inside", "/srv"), ("nowhere", str(outside))):
        path = WORK / f"{name}.tar"
        with tarfile.open(path, "w") as archive:
            archive.add(WORK / "tree", "/", recursive=True)
            add(archive, "way", type=tarfile.SYMTYPE, linkname=target)
            add(archive, "way/x", b"x")
        if name == "inside":
            build("through", "--from-tar", path, "--no-working-set")
            check(sandbox_of("through", "cat /srv/x") == "x", "written through the link")
        else:
            said = build_fails("bad", "--from-tar", path)
            check('"/way/x": No such file' in said, said)
    check([p.name for p in outside.iterdir()] == ["secret"], f"written outside: {outside}")
    noise = WORK / "noise"
    noise.write_bytes(os.urandom(100000))
    said = build_fails("bad", "--from-tar", noise)
    check("cannot be read as a tar archive" in said, said)


def umoci(*args):
    if not shutil.which("umoci"):
        skip("umoci is not installed")
    subprocess.run(["umoci", *map(str, args)], check=True, capture_output=True, timeout=60)


def test_from_oci_layout():
    layout, bundle = WORK / "layout", WORK / "bundle"
    umoci("init", "--layout", layout)
    umoci("new", "--image", f"{layout}:one")
    umoci("unpack", "--image", f"{layout}:one", bundle)
    shutil.copytree(WORK / "tree", bundle / "rootfs", symlinks=True, dirs_exist_ok=True)
    (bundle / "rootfs" / "etc").mkdir(exist_ok=True)
    (bundle / "rootfs" / "etc" / "passwd").write_text(
        "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/srv:/bin/sh\n")
    umoci("repack", "--image", f"{layout}:one", bundle)
    umoci("config", "--image", f"{layout}:one", "--config.env", "COLOUR=red", "--config.workingdir",
          "/srv", "--config.user", "app", "--config.entrypoint", "/bin/sh", "--config.cmd", "-c",
          "--config.cmd", "echo it\\'s $COLOUR in $PWD; sleep 1000")
    said = build("fromoci", "--from-oci", f"{layout}:one", "--ready-cmd",
                 "cat /tmp/start-command.log; cat /tmp/start-command.log | { read a; test \"$a\"; }")
    check("unpacking the image's layers" in said and "uid 1001" in said, said)
    out = sandbox_of("fromoci", "cat /tmp/start-command.log; echo $COLOUR; id user")
    check(out.splitlines()[0].endswith("s red in /srv"), out)
    check(out.splitlines()[1] == "red" and "uid=1001(user)" in out, out)
    manifest = json.loads((D.root / "templates" / "fromoci" / "manifest.json").read_text())
    check(manifest["defaults"]["user"] == "app" and manifest["defaults"]["workdir"] == "/srv",
          f"{manifest['defaults']}")
    sandbox = D.create("fromoci")
    try:
        out = D.dorm("exec", sandbox, "--", "sh", "-c", "id -un; pwd; echo $COLOUR").stdout
        check(out.split() == ["app", "/srv", "red"], f"the defaults: {out}")
    finally:
        D.api("DELETE", f"/sandboxes/{sandbox}")
    said = build_fails("bad", "--from-oci", f"{layout}:two")
    check('no image with the tag "two"' in said, said)


def test_bad_recipes():
    for members, word in (({"bse": "debian"}, 'no member "bse"'),
                          ({"base": "suse"}, "recipe: base: "),
                          ({"files": [{"path": "x", "text": ""}]}, "files[0].path"),
                          ({"commands": [{"run": "x", "user": "a b"}]}, "commands[0].user"),
                          ({"ready": {"port": 70000}}, "ready.port"),
                          ({"memoryMB": 1 << 22}, "memoryMB")):
        said = build_fails("bad", "-f", recipe("bad", **members))
        check(word in said, f"no {word!r} in {said}")
    path = recipe("bad")
    path.write_text("{\n  \"base\": ,\n}")
    said = build_fails("bad", "-f", path)
    check("line 2" in said, said)
    said = build_fails("bad", "-f", recipe("bad", base="busybox",
                                            files=[{"path": "/a", "from": "../secret"}]))
    check("files[0].from" in said and "upwards" in said, said)
    (WORK / "bad" / "link").symlink_to("/etc/shadow")
    said = build_fails("bad", "-f", recipe("bad", base="busybox",
                                            files=[{"path": "/a", "from": "link"}]))
    check("recipe: file" in said, said)


def test_no_files_of_the_host_over_tcp():
    """who has the key of the API is not therefore root on its host"""
    def post(path, body):
        c = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
        c.request("POST", path, json.dumps(body), {"X-API-KEY": KEY})
        reply = c.getresponse()
        text = reply.read()
        c.close()
        return reply.status, json.loads(text)

    for recipe_body in ({"base": {"dir": "/etc"}}, {"base": {"tar": "/x.tar"}},
                        {"base": {"oci": "/x"}}, {"files": [{"path": "/a", "from": "shadow"}]}):
        status, made = post("/v3/templates", {"name": "tcp", "memoryMB": 256})
        check(status == 202, f"{status} {made}")
        status, answer = post(f"/v2/templates/{made['templateID']}/builds/{made['buildID']}",
                              {"recipe": recipe_body, "contextDir": "/etc"})
        check(status == 403 and "unix socket" in answer["message"], f"{status} {answer}")
    nothing_left("tcp")


def test_failing_command():
    path = recipe("bad", base="busybox", commands=["true", "echo the reason >&2; exit 7", "false"])
    said = build_fails("bad", "-f", path)
    check("command 2 of 3 failed: echo the reason >&2; exit 7: exit code 7: the reason" in said, said)


def test_not_ready():
    path = recipe("bad", base="busybox", start="echo about to fail; sleep 1; exit 3",
                  ready={"port": 81})
    said = build_fails("bad", "-f", path)
    check("exit code 3" in said and "about to fail" in said, said)
    path = recipe("bad", base="busybox", start="echo still busy; sleep 1000", ready={"port": 81},
                  readyTimeout=3)
    said = build_fails("bad", "-f", path)
    check("nothing listens on port 81 after 3 s" in said and "still busy" in said, said)



def running(text):
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if text in (entry / "cmdline").read_bytes().decode(errors="replace"):
                found.append(entry.name)
        except OSError:
            pass
    return found


def test_killed_in_the_middle():
    mark = f"sleep {100000 + os.getpid()}"
    made = D.api("POST", "/v3/templates", {"name": "gone", "memoryMB": 256})
    D.api("POST", f"/v2/templates/{made['templateID']}/builds/{made['buildID']}",
          {"recipe": {"base": "busybox", "commands": [f"{mark}; true"]}})
    wait_until(lambda: running(mark), 60, "the command runs")
    check(list((D.root / "tmp").iterdir()), "a build without a directory")
    D.kill()
    wait_until(lambda: not running(mark), 10, "the command ended with dormd")
    D.start()
    nothing_left("gone")


def test_ended_in_the_middle():
    mark = f"sleep {200000 + os.getpid()}"
    made = D.api("POST", "/v3/templates", {"name": "gone", "memoryMB": 256})
    D.api("POST", f"/v2/templates/{made['templateID']}/builds/{made['buildID']}",
          {"recipe": {"base": "busybox", "commands": [f"{mark}; true"]}})
    wait_until(lambda: running(mark), 60, "the command runs")
    t0 = time.monotonic()
    D.stop()
    check(time.monotonic() - t0 < 10, "ending dormd waited for the build")
    check(not running(mark), "the command goes on without dormd")
    D.start()
    nothing_left("gone")


def test_leave():
    shutil.rmtree(WORK, ignore_errors=True)
    D.__exit__(None)


main(globals())
