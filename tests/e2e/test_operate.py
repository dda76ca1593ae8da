# SPDX-License-Identifier: Apache-2.0
"""What an operator does: configure, start, drain, restart; and what dormd says when it is wrong."""
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

from harness import (BUILD, ROOT, ApiError, Dormouse, UnixConnection, check, main, program, skip,
                     wait_until)

D = Dormouse()


def dormd(*args, env=None):
    """one run of dormd that is to end by itself"""
    return subprocess.run([program("dormd"), *map(str, args)], text=True, capture_output=True,
                          env={**os.environ, "DORM_CONFIG": "/dev/null", **(env or {})},
                          timeout=60, check=False)


def values_of(done):
    """{name: (value, origin)} of --print-config"""
    check(done.returncode == 0, f"{done}")
    found = {}
    for line in done.stdout.splitlines():
        if not line.startswith("#"):
            setting, _, origin = line.partition(" # ")
            name, _, value = setting.partition(" = ")
            found[name] = (value.strip(), origin)
    return found


class ConfigFile:
    """a dormd.conf that is gone when the block is left"""

    def __init__(self, text):
        self.text = text

    def __enter__(self):
        with tempfile.NamedTemporaryFile("w", prefix="dorm-conf.", delete=False) as f:
            f.write(self.text)
        self.path = f.name
        return f.name

    def __exit__(self, *_):
        os.unlink(self.path)


def test_the_later_counts_more():
    with ConfigFile("# ours\ncodec = lz4   # fast\n\nmemory-limit = 1G\nqueue = 7\n"
                    "no-prefetch = on\n") as path:
        got = values_of(dormd("--config", path, "--queue", "9", "--no-prefetch=off",
                              "--print-config", env={"DORM_MEMORY_LIMIT": "2G"}))
        check(got["codec"] == ("lz4", f"{path}:2"), f"{got['codec']}")
        check(got["memory-limit"] == ("2G", "DORM_MEMORY_LIMIT"), f"{got['memory-limit']}")
        check(got["queue"] == ("9", "--queue"), f"{got['queue']}")
        check(got["no-prefetch"] == ("off", "--no-prefetch"), f"{got['no-prefetch']}")
        check(got["template-level"] == ("9", "default"), f"{got['template-level']}")
        check(got["socket"][0] == "/run/dormouse/dormd.sock", f"{got['socket']}")
        done = dormd("--check-config", env={"DORM_CONFIG": path})
        check(done.returncode == 0 and path in done.stdout, f"{done}")


def test_errors_say_where():
    for text, line, words in (
            ("codec = zstd\n\ncodex = lz4\n", 3, "no setting 'codex'"),
            ("# x\nmemory-limit = 3\n", 2, "at least 16M"),
            ("reflink = maybe\n", 1, "auto, always or never"),
            ("queue = 1\nqueue = 2\n", 2, "set in line 1"),
            ("offer-network\n", 1, "NAME = VALUE")):
        with ConfigFile(text) as path:
            for how in ("--check-config", "--print-config"):
                done = dormd("--config", path, how)
                check(done.returncode == 2 and f"{path}:{line}: " in done.stderr and
                      words in done.stderr, f"{text!r}: {done}")
    done = dormd("--config", "/nonexistent/dormd.conf")
    check(done.returncode == 2 and "/nonexistent/dormd.conf" in done.stderr, f"{done}")
    done = dormd("--answer-timeout", "0", "--check-config")
    check(done.returncode == 2 and "--answer-timeout: '0'" in done.stderr, f"{done}")
    done = dormd("--check-config", env={"DORM_PAGER_MODE": "copy"})
    check(done.returncode == 2 and "DORM_PAGER_MODE: 'copy'" in done.stderr, f"{done}")
    for words, *args in (("go together", "--tls-cert", "/x"), ("100000", "--vm-users", "1000:10")):
        done = dormd("--check-config", *args)
        check(done.returncode == 2 and words in done.stderr, f"{args}: {done}")
    done = dormd("--nonsense")
    check(done.returncode == 2 and "--help" in done.stderr, f"{done}")


def page_text(path):
    """a manual page as plain lines; groff must have nothing to complain about"""
    if not shutil.which("groff"):
        skip("no groff")
    done = subprocess.run(["groff", "-man", "-ww", "-Tascii", "-P-cbou", path], text=True,
                          capture_output=True, check=False)
    check(done.returncode == 0 and not done.stderr, f"{path}: {done.stderr}")
    return done.stdout


def commands():
    """what `dorm help` lists"""
    done = subprocess.run([program("dorm"), "help"], text=True, capture_output=True, check=True)
    listed = done.stdout.split("COMMAND [ARGUMENT...]\n", 1)[1].split("\n`dorm COMMAND", 1)[0]
    return [line[2:20].strip() for line in listed.splitlines() if line.startswith("  ")]


def test_manual_pages():
    page = re.sub(r"\s+", " ", re.sub(r"[][]", "", page_text(ROOT / "docs/dorm.1")))
    for command in commands():
        check(f" dorm {command} " in page, f"dorm(1) says nothing of `dorm {command}`")
    page_text(ROOT / "docs/dorm-pager.1")
    words = dormd("--describe", "words").stdout.split("\n")
    options = [line.split()[0] for line in words if line]
    pages = {name: page_text(BUILD / "docs" / name) for name in ("dormd.8", "dormd.conf.5")}
    for option in options:
        check(re.search(rf"^ +{option}\b", pages["dormd.8"], re.M), f"dormd(8) has no {option}")
    for option in options[:options.index("--config")]:
        check(re.search(rf"^ +{option[2:]} = ", pages["dormd.conf.5"], re.M),
              f"dormd.conf(5) has no {option}")


def test_guide_has_every_setting():
    guide = (ROOT / "docs/operator-guide.md").read_text()
    table = guide.split("<!-- settings -->\n", 1)[1].split("\n\n", 1)[0]
    check(table.strip() == dormd("--describe", "markdown").stdout.strip(),
          "docs/operator-guide.md is old: run tools/update-guide")


def completed(*words):
    """what bash offers for a command line whose last word is being typed"""
    script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
              '"_${1##*/}"; printf "%s\\n" "${COMPREPLY[@]}"')
    name = words[0]
    done = subprocess.run(["bash", "-c", script, "bash", ROOT / f"docs/completion/{name}.bash",
                           program(name), *words[1:]], env=D.env, text=True, capture_output=True,
                          timeout=60, check=False)
    check(done.returncode == 0 and not done.stderr, f"{words}: {done}")
    return done.stdout.split()


def test_completion_without_a_daemon():
    check({c.split()[0] for c in commands()} | {"help"} == set(completed("dorm", "")), "all commands")
    check(completed("dorm", "dra") == ["drain"], f"{completed('dorm', 'dra')}")
    check(completed("dorm", "pager", "") == ["upgrade"], f"{completed('dorm', 'pager', '')}")
    check(completed("dorm", "sleep", "") == [], "no daemon, nothing to offer, no complaint")
    for command in commands():
        done = subprocess.run([program("dorm"), *command.split(), "--help"], text=True,
                              capture_output=True, check=True)
        listed = set(re.findall(r"^  (?:-\w, |    )(--[\w-]+)", done.stdout, re.M))
        offered = set(completed("dorm", *command.split(), "--"))
        check(listed == offered and "--help" in listed, f"{command}: {listed ^ offered}")
    check(completed("dormd", "--pager-m") == ["--pager-mode"], "an option of dormd")
    check(completed("dormd", "--reflink", "a") == ["auto", "always"], "its values")
    check(completed("dormd", "--root", "") == [], "a directory: the shell's business")


def shell(name, script, *args):
    """run a script in a shell that may not be there, with this build's programs on the path"""
    if not shutil.which(name):
        skip(f"no {name}")
    done = subprocess.run([name, "-c", script, *args], text=True, capture_output=True, timeout=60,
                          cwd=ROOT / "docs/completion", check=False,
                          env=D.env | {"PATH": f"{BUILD / 'bin'}:{os.environ['PATH']}"})
    check(done.returncode == 0 and not done.stderr, f"{done}")
    return done.stdout.splitlines()


def test_completion_in_fish():
    source = "source dorm.fish; source dormd.fish; complete -C "
    check(shell("fish", source + '"dorm dra"')[0].split("\t")[0] == "drain", "a command")
    check(shell("fish", source + '"dormd --pager-m"')[0].startswith("--pager-mode"), "an option")
    check(shell("fish", source + '"dormd --compact "') == ["auto", "off"], "its values")


def test_completion_in_zsh():
    # what the completion system gives a function, and takes from it
    frame = ("_describe() { print -l -- ${(P)2} }; _files() { print files }; compadd() { print -l -- "
             "${@:#--} }; service=$1; words=($@); CURRENT=$#; source ./dorm.zsh")
    check(shell("zsh", frame, "zsh", "dorm", "dra")[0].startswith("drain:Take no new work"),
          "a command, and what it is")
    check(shell("zsh", frame, "zsh", "dormd", "--compact", "") == ["auto", "off"], "values")
    check(shell("zsh", frame, "zsh", "dormd", "--root", "") == ["files"], "a directory")


def test_second_dormd_is_refused():
    D.start()
    D.build_template("base", 128)
    done = dormd("--root", D.root, "--run-dir", D.run)
    check(done.returncode == 1 and str(D.daemon.pid) in done.stderr and str(D.root) in done.stderr,
          f"{done}")
    check(D.answers(), "the first one still answers")


def test_completion_of_what_there_is():
    running, sleeper = D.create("base"), D.create("base")
    D.dorm("sleep", sleeper)
    for words, expected in ((("run", ""), {"base"}), (("template", "rm", "b"), {"base"}),
                            (("exec", ""), {running, sleeper}), (("sleep", ""), {running}),
                            (("wake", ""), {sleeper}), (("wake", sleeper[:-1]), {sleeper}),
                            (("rm", running, ""), {running, sleeper}), (("exec", running, ""), set()),
                            (("cp", ""), {f"{running}:", f"{sleeper}:"}),
                            (("wake", "--mode", ""), set())):
        offered = set(completed("dorm", *words))
        if words == ("run", ""):
            check(offered >= expected, f"{words}: {offered}")
        else:
            check(offered == expected, f"{words}: {offered}")
    D.dorm("rm", running, sleeper)


def refused(method, path, body=None):
    """the answer to what a drained host must refuse: its status, and when to try again"""
    connection = UnixConnection(D.socket, 60)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        reply = connection.getresponse()
        reply.read()
        return reply.status, reply.headers.get("Retry-After")
    finally:
        connection.close()


def test_drain():
    running = [D.create("base") for _ in range(3)]
    sleeper = D.create("base")
    D.api("POST", f"/sandboxes/{sleeper}/pause")
    D.dorm("drain")
    check([D.status(s) for s in running] == ["running"] * 3, "they run on")
    check(D.exec(running[0], "echo", "here") == "here", "and are of use")
    for method, path, body in (("POST", "/v2/sandboxes", '{"templateID":"base"}'),
                               ("POST", f"/sandboxes/{sleeper}/connect", '{"timeout":60}'),
                               ("POST", f"/sandboxes/{running[0]}/fork", '{"count":1}'),
                               ("GET", "/readyz", None)):
        status, retry = refused(method, path, body)
        check(status == 503 and int(retry) >= 1, f"{method} {path}: {status}, Retry-After {retry}")
    status, _ = refused("POST", f"/sandboxes/{running[0]}/connect", '{"timeout":60}')
    check(status in (200, 201), f"one that runs can be connected to: {status}")
    names = [c["name"] for c in D.json("doctor", check_status=False)["checks"]]
    check("drain" in names, f"doctor shows {names}")
    done = D.json("drain", "--sleep")
    check(done["slept"] == 3 and done["failed"] == 0, f"{done}")
    check([D.status(s) for s in [*running, sleeper]] == ["asleep"] * 4, "all are asleep")
    host = D.json("info")
    check(host["draining"] and host["operations"] == 0 and host["sandboxes"]["asleep"] == 4, f"{host}")
    D.dorm("undrain")
    check(D.api("GET", "/readyz")["status"] == "ready", "takes work")
    D.dorm("wake", *running)
    check(D.exec(running[2], "echo", "back") == "back", "nothing was lost")
    D.dorm("rm", *running, sleeper)


def test_drain_waits_for_what_is_under_way():
    """creates that were let in end well; later ones are refused; nothing is between"""
    results = []

    def create():
        try:
            results.append(D.create("base"))
        except ApiError as e:
            results.append(e.status)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for t in threads:
        t.start()
    wait_until(lambda: results or D.api("GET", "/host")["operations"], 60, "some are under way")
    D.dorm("drain")
    check(D.api("GET", "/host")["operations"] == 0, "nothing is under way")
    made = [s for s in D.sandboxes() if s["state"] == "running"]
    for t in threads:
        t.join(60)
    check(sorted(r for r in results if isinstance(r, str)) ==
          sorted(s["sandboxID"] for s in made) and len(results) == 4, f"{results}, {made}")
    check(set(r for r in results if not isinstance(r, str)) <= {503}, f"{results}")
    D.kill()
    D.start()
    check(not D.api("GET", "/host")["draining"], "a dormd that starts takes work")
    D.dorm("rm", *[r for r in results if isinstance(r, str)])


def test_drain_gives_up_in_time():
    """a build is work, too: longer than the time given, and waited for by the next"""
    made = D.api("POST", "/v3/templates", {"name": "other", "memoryMB": 128})
    build = f"builds/{made['buildID']}"
    D.api("POST", f"/v2/templates/{made['templateID']}/{build}", {})
    done = D.dorm("drain", "--timeout", "1", check_status=False)
    check(done.returncode == 1 and "1 operations are still under way" in done.stderr, f"{done}")
    check(D.json("info")["draining"], "it stays drained")
    D.dorm("drain")
    status = D.api("GET", f"/templates/{made['templateID']}/{build}/status")["status"]
    check(status == "ready", f"the build is {status}")
    D.dorm("undrain")
    D.dorm("template", "rm", "other")


class Manager:
    """what a service manager is to dormd: a socket that it tells how it is"""

    def __init__(self, directory):
        self.path = str(directory / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(60)

    def told(self):
        return self.socket.recv(4096).decode().splitlines()


def test_service_manager():
    """READY=1 when it serves, not before; WATCHDOG=1; STOPPING=1; SIGTERM leaves sandboxes"""
    sandbox = D.create("base")
    vm = D.vm_pid(sandbox)
    D.daemon.send_signal(signal.SIGTERM)
    check(D.daemon.wait(30) == 0, "ended in good order")
    manager = Manager(D.dir)
    D.env |= {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "200000"}
    started = threading.Thread(target=D.start)
    started.start()
    told = manager.told()
    check(told[0] == "READY=1", f"{told}")
    check(D.api("GET", "/readyz")["status"] == "ready", "it serves when it says so")
    started.join()
    check(manager.told() == ["WATCHDOG=1"], "it is alive")
    young = D.create("base")
    environment = pathlib.Path(f"/proc/{D.vm_pid(young)}/environ").read_bytes()
    check(b"LD_PRELOAD" in environment and b"NOTIFY_SOCKET" not in environment,
          "nobody else speaks for it")
    check(D.vm_pid(sandbox) == vm and D.exec(sandbox, "echo", "on") == "on", "adopted")
    D.daemon.send_signal(signal.SIGTERM)
    while told[0] != "STOPPING=1":
        told = manager.told()
    check(D.daemon.wait(30) == 0, "ended in good order")
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC"):
        del D.env[name]
    D.start()
    D.dorm("rm", sandbox, young)


def test_restart_loses_no_connection():
    """the manager's socket: who comes while dormd is away waits, and is answered by the next"""
    D.daemon.send_signal(signal.SIGTERM)
    D.daemon.wait(30)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(D.dir / "handed.sock"))
        listening.listen(64)

        def start():
            # as sd_listen_fds(3): the socket is descriptor 3, and LISTEN_PID is who is meant
            return subprocess.Popen(
                ["sh", "-c", 'export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<&"$FD"; exec "$@"', "sh",
                 program("dormd"), "--root", D.root, "--run-dir", D.run],
                env=dict(D.env, FD=str(listening.fileno())), pass_fds=[listening.fileno()],
                stdin=subprocess.DEVNULL, stdout=open(D.log, "ab"), stderr=subprocess.STDOUT)

        answers = []

        def ask():
            connection = UnixConnection(D.dir / "handed.sock", 60)
            connection.request("GET", "/healthz")
            answers.append(connection.getresponse().status)
            connection.close()

        for _ in range(2):
            client = threading.Thread(target=ask)
            client.start()  # before there is anybody
            daemon = start()
            client.join(60)
            daemon.send_signal(signal.SIGTERM)
            check(daemon.wait(30) == 0, "ended in good order")
        check(answers == [200, 200], f"{answers}")
        check((D.dir / "handed.sock").exists(), "the socket is not dormd's to remove")
    D.start()


def test_nothing_is_left():
    D.__exit__(None)


main(globals())
