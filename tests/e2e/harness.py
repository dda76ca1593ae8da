# SPDX-License-Identifier: Apache-2.0
"""What every end-to-end test begins with.

    from harness import check, main, skip, Dormouse

    def test_sleep_and_wake():
        with Dormouse() as d:
            d.dorm("template", "build", "t1")
            ...
            check(answer == 42, f"the answer was {answer}")

    main(globals())

main() runs the test_ functions in the order of the file and prints one line for each, as
tools/run-tests wants them. `python3 tests/e2e/test_x.py NAME...` runs only those (PYTHONPATH is not
needed then: this file lies beside it; DORM_BUILD names the build, default build/).
"""
import json
import os
import pathlib
import shutil
import signal
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
    found = sorted(p for p in BUILD.rglob(name) if p.is_file())
    if not found:
        raise FileNotFoundError(f"{BUILD} holds no {name}: is it built?")
    return str(found[0])


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


class Dormouse:
    """a dormd of its own with an empty store, gone without a trace when the block is left

    Attributes: root (the store), env (for programs that are to find this dormd), log (its output).
    """

    def __init__(self, *dormd_args, env=None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="dorm-e2e."))
        self.root = self.dir / "store"
        self.log = self.dir / "dormd.log"
        self.args = list(dormd_args)
        self.socket = self.dir / "dormd.sock"
        self.env = dict(os.environ, DORM_ROOT=str(self.root), DORM_SOCKET=str(self.socket),
                        DORM_CACHE=str(CACHE), **(env or {}))
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
            self.daemon = subprocess.Popen([program("dormd"), *self.args], env=self.env,
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: self.daemon.poll() is not None or self.socket.exists(), 30,
                   "dormd made its socket")
        if self.daemon.poll() is not None:
            raise AssertionError(f"dormd ended with status {self.daemon.returncode}: "
                                 + self.log.read_text(errors="replace")[-2000:])

    def kill(self):
        """kill -9 of dormd; everything else lives on"""
        self.daemon.kill()
        self.daemon.wait(10)

    def stop(self):
        """delete every sandbox, then end dormd in good order"""
        if not self.daemon or self.daemon.poll() is not None:
            return
        try:
            for sandbox in self.json("ps", check_status=False) or []:
                self.dorm("rm", sandbox["sandboxID"], check_status=False)
        except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as e:
            print(f"cleaning up: {e}")
        self.daemon.send_signal(signal.SIGTERM)
        try:
            self.daemon.wait(20)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait(10)
            raise AssertionError("dormd did not end within 20 s of SIGTERM") from None

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
        sys.stdout.flush()
    sys.exit(1 if failed else 0)
