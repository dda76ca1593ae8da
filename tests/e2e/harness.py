# SPDX-License-Identifier: Apache-2.0
"""What every end-to-end test begins with.

    from harness import check, main, skip, Dormouse

    def test_sleep_and_wake():
        with Dormouse() as d:
            d.build_template("t1", 128)
            ...
            check(answer == 42, f"the answer was {answer}")

    main(globals())

main() runs the test_ functions in the order of the file and prints one line for each, as
tools/run-tests wants them. `python3 tests/e2e/test_x.py NAME...` runs only those (PYTHONPATH is not
needed then: this file lies beside it; DORM_BUILD names the build, default build/).
"""
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("DORM_BUILD", ROOT / "build")).resolve()
# What guests boot from is made once for all tests of a tree.
CACHE = pathlib.Path(os.environ.get("DORM_TEST_CACHE", ROOT / ".cache" / "guest")).resolve()


class Skip(Exception):
    """this test cannot run here; the text says why"""


def skip(why):
    raise Skip(why)


def check(condition, what):
    """like assert, but never compiled out, and it must say what was seen"""
    if not condition:
        raise AssertionError(what)


def program(name):
    """the path of a program or library of this build"""
    for path in (BUILD / "bin" / name, *sorted(BUILD.rglob(name))):
        if path.is_file():
            return str(path)
    raise FileNotFoundError(f"{BUILD} holds no {name}: is it built?")


def wait_until(condition, timeout_s, what):
    """poll until condition() is true; returns its value"""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"after {timeout_s} s still not: {what}")
        time.sleep(0.02)


def children_of(pid):
    """processes whose parent is pid: [(pid, command line)]"""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                if int(stat.rpartition(")")[2].split()[1]) == pid:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    found.append((int(entry.name), command.decode(errors="replace").strip()))
            except OSError:
                pass
    return found


class ApiError(Exception):
    """an answer that is not a success: status, message, hint"""

    def __init__(self, status, body):
        self.status = status
        self.body = body if isinstance(body, dict) else {}
        super().__init__(f"{status}: {self.body.get('message', body)}")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout_s):
        super().__init__("localhost", timeout=timeout_s)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Dormouse:
    """a dormd of its own with an empty store, gone without a trace when the block is left

    Attributes: root (the store), env (for programs that are to find this dormd), log (its output).
    """

    def __init__(self, *dormd_args, env=None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="dorm-e2e."))
        self.root = self.dir / "store"
        self.log = self.dir / "dormd.log"
        self.args = list(dormd_args)
        self.run = self.dir / "run"
        self.socket = self.run / "dormd.sock"
        self.env = dict(os.environ, DORM_SOCKET=str(self.socket), DORM_CONFIG="/dev/null",
                        **(env or {}))
        self.daemon = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        try:
            self.stop()
        finally:
            if kind is not None and kind is not Skip and self.log.exists():
                print("--- the end of dormd's log")
                print("\n".join(self.log.read_text(errors="replace").splitlines()[-40:]))
            shutil.rmtree(self.dir, ignore_errors=True)

    def start(self):
        """start dormd and wait until it answers"""
        with open(self.log, "ab") as log:
            self.daemon = subprocess.Popen(
                [program("dormd"), "--root", self.root, "--run-dir", self.run, "--guest-cache",
                 CACHE, *([] if "--warm-vms" in self.args else ["--warm-vms", "0"]), *self.args],
                env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: self.daemon.poll() is not None or self.answers(), 60, "dormd answers")
        if self.daemon.poll() is not None:
            raise AssertionError(f"dormd ended with status {self.daemon.returncode}: "
                                 + self.log.read_text(errors="replace")[-2000:])

    def answers(self):
        try:
            return self.api("GET", "/healthz", timeout_s=5)
        except (OSError, http.client.HTTPException):
            return None

    def kill(self):
        """kill -9 of dormd; everything else lives on"""
        self.daemon.kill()
        self.daemon.wait(10)

    def stop(self):
        """delete every sandbox, then end dormd in good order"""
        if not self.daemon:
            return
        if self.daemon.poll() is not None:
            self.start()  # only a dormd ends what it has left behind
        for sandbox in self.sandboxes():
            self.api("DELETE", f"/sandboxes/{sandbox['sandboxID']}")
        self.daemon.send_signal(signal.SIGTERM)
        try:
            self.daemon.wait(20)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait(10)
            raise AssertionError("dormd did not end within 20 s of SIGTERM") from None
        finally:
            self.daemon = None

    def api(self, method, path, body=None, timeout_s=180):
        """one request to dormd; returns the JSON of its answer, raises ApiError otherwise"""
        connection = UnixConnection(self.socket, timeout_s)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None,
                               {"Content-Type": "application/json"} if body is not None else {})
            reply = connection.getresponse()
            text = reply.read().decode()
        finally:
            connection.close()
        value = json.loads(text) if text.strip() else None
        if reply.status >= 300:
            raise ApiError(reply.status, value)
        return value

    def sandboxes(self):
        """all of them, failed ones too"""
        return self.api("GET", "/v2/sandboxes?state=running,paused,failed&limit=1000")

    def status(self, sandbox):
        return self.api("GET", f"/sandboxes/{sandbox}")["status"]

    def access(self, sandbox, port=49983):
        """the headers of a request into a sandbox: which one, which port, its access token"""
        token = self.api("GET", f"/sandboxes/{sandbox}").get("envdAccessToken")
        return {"E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": str(port),
                **({"X-Access-Token": token} if token else {})}

    def create(self, template, **fields):
        return self.api("POST", "/v2/sandboxes",
                        {"templateID": template, "timeout": 3600, **fields})["sandboxID"]

    def exec(self, sandbox, *command, stdin=None, check_status=True, timeout_s=180):
        """run a command in a sandbox as root; returns what it printed"""
        return self.dorm("exec", "-u", "root", *(["-i"] if stdin is not None else []), sandbox, "--",
                         *command, stdin=stdin, check_status=check_status,
                         timeout_s=timeout_s).stdout.strip()

    def upload(self, sandbox, path, name):
        """copy a program of this host into a sandbox"""
        subprocess.run([program("dorm"), "exec", "-i", "-u", "root", sandbox, "--", "sh", "-c",
                        f"cat >{name} && chmod 755 {name}"], env=self.env, check=True,
                       stdin=open(path, "rb"), timeout=120)

    def build_template(self, name, memory_mb, say=lambda line: None, **commands):
        """build a template; returns the lines of its log"""
        made = self.api("POST", "/v3/templates", {"name": name, "memoryMB": memory_mb})
        path = f"builds/{made['buildID']}"
        self.api("POST", f"/v2/templates/{made['templateID']}/{path}", commands)
        lines, end = [], time.monotonic() + 600
        while time.monotonic() < end:
            status = self.api("GET", f"/templates/{made['templateID']}/{path}/status"
                                     f"?logsOffset={len(lines)}")
            for line in status["logs"]:
                say(line)
            lines += status["logs"]
            if status["status"] == "ready":
                return lines
            if status["status"] == "error":
                raise AssertionError(f"template {name}: {status['reason']['message']}")
            time.sleep(0.1)
        raise AssertionError(f"template {name} is still not built: {lines}")

    def hold_pattern(self, sandbox, mb):
        """start tests/guest/pattern.c in a sandbox and wait until its memory is filled"""
        self.upload(sandbox, program("pattern"), "/tmp/pattern")
        self.exec(sandbox, "sh", "-c",
                  f"setsid /tmp/pattern hold {mb} </dev/null >/tmp/pattern.log 2>&1 & "
                  "until /tmp/pattern count 2>/dev/null; do sleep 0.2; done")

    def check_pattern(self, sandbox):
        """every page of it: fails when one is wrong; returns how far it has counted"""
        text = self.exec(sandbox, "/tmp/pattern", "check")
        check(" bad=0 " in text, f"sandbox {sandbox} has wrong memory: {text}")
        return int(text.rpartition("count=")[2])

    def vm_pid(self, sandbox):
        """the process of a sandbox's VM"""
        record = json.loads((self.root / "sandboxes" / sandbox / "sandbox.json").read_text())
        return record["vm"]["pid"]

    def dorm(self, *args, check_status=True, timeout_s=180, stdin=None):
        """run the command line; returns its CompletedProcess (text)"""
        done = subprocess.run([program("dorm"), *map(str, args)], env=self.env, text=True,
                              capture_output=True, timeout=timeout_s, input=stdin,
                              stdin=subprocess.DEVNULL if stdin is None else None, check=False)
        if check_status and done.returncode:
            raise AssertionError(f"dorm {' '.join(map(str, args))}: status {done.returncode}: "
                                 f"{done.stderr.strip() or done.stdout.strip()}")
        return done

    def json(self, *args, check_status=True, timeout_s=180):
        """run the command line with --json; returns the value"""
        done = self.dorm(*args, "--json", check_status=check_status, timeout_s=timeout_s)
        return json.loads(done.stdout) if done.stdout.strip() else None


def main(namespace):
    """run the test_ functions of a file; see the head of this one"""
    tests = {name.removeprefix("test_"): f for name, f in namespace.items()
             if name.startswith("test_") and callable(f)}
    wanted = sys.argv[1:] or list(tests)
    failed = False
    for name in wanted:
        try:
            tests[name]()
            print(f"ok {name}")
        except Skip as e:
            print(f"skip {name}: {e}")
        except Exception as e:  # whatever it is, the next test still runs
            traceback.print_exc(file=sys.stdout)
            print(f"not ok {name}: {type(e).__name__}: {' '.join(str(e).split())[:400]}")
            failed = True
            revive_all(namespace)
        sys.stdout.flush()
    failed |= not leave_all(namespace, failed)
    sys.exit(1 if failed else 0)


def revive_all(namespace):
    """a case that failed may have left a dormd dead: the next one is not to fail for that"""
    for value in namespace.values():
        if isinstance(value, Dormouse) and value.daemon and value.daemon.poll() is not None:
            try:
                value.start()
            except Exception:  # then the next case says so
                traceback.print_exc(file=sys.stdout)


def leave_all(namespace, failed):
    """the dormds of a whole file, when its last case did not come to it; returns success"""
    for value in namespace.values():
        if isinstance(value, Dormouse) and value.daemon:
            try:
                value.__exit__(AssertionError if failed else None)
            except Exception as e:  # then the runner finds what is left
                print(f"not ok leave: {type(e).__name__}: {' '.join(str(e).split())[:400]}")
                return False
    return True
