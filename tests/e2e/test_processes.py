# SPDX-License-Identifier: Apache-2.0
# timeout: 500
"""Programs in real guests as clients see them: terminals, several clients, signals, many streams,
sleep and wake in the middle."""
import base64
import fcntl
import http.client
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import threading
import time

from harness import Dormouse, UnixConnection, check, main, program, wait_until

D = Dormouse().__enter__()
CONNECT = {"Connect-Protocol-Version": "1"}


def call(sandbox, method, **message):
    """a unary RPC; returns (status, answer)"""
    connection = UnixConnection(D.socket, 60)
    try:
        connection.request("POST", f"/process.Process/{method}", json.dumps(message),
                           {**CONNECT, **D.access(sandbox), "Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


class Stream:
    """Start or Connect; events come by next(), output is collected"""

    def __init__(self, sandbox, method, message, user="root", **further):
        self.output, self.end, self.error, self.pid = b"", None, None, None
        self.connection = UnixConnection(D.socket, 120)
        body = json.dumps(message).encode()
        self.connection.request(
            "POST", f"/process.Process/{method}", struct.pack(">BI", 0, len(body)) + body,
            {**CONNECT, **D.access(sandbox), "Content-Type": "application/connect+json",
             "Authorization": "Basic " + base64.b64encode(f"{user}:".encode()).decode(), **further})
        self.reply = self.connection.getresponse()
        check(self.reply.status == 200, f"{method}: status {self.reply.status}")

    def read(self, size):
        data = b""
        while len(data) < size:
            piece = self.reply.read(size - len(data))
            if not piece:
                raise ConnectionError("the stream broke off")
            data += piece
        return data

    def next(self):
        """one envelope; False after the last"""
        flags, size = struct.unpack(">BI", self.read(5))
        message = json.loads(self.read(size))
        if flags == 2:
            self.error = message.get("error")
            self.connection.close()
            return False
        event = message["event"]
        if "start" in event:
            self.pid = event["start"]["pid"]
        for text in event.get("data", {}).values():
            self.output += base64.b64decode(text)
        self.end = event.get("end", self.end)
        return True

    def started(self):
        check(self.next() and self.pid, f"no start: {self.error}")
        return self

    def until(self, text):
        while text not in self.output:
            if not self.next():
                raise AssertionError(f"no {text!r} in {self.output[-300:]!r}: {self.error}")
        return self

    def finish(self):
        while self.next():
            pass
        return self

    def close(self):
        self.reply.close()
        self.connection.close()


def shell(sandbox, script, **message):
    return Stream(sandbox, "Start", {"process": {"cmd": "/bin/sh", "args": ["-c", script]},
                                     **message}).started()


def follow(sandbox, pid):
    return Stream(sandbox, "Connect", {"process": {"pid": pid}}).started()


def type_in(sandbox, pid, kind, data):
    status, answer = call(sandbox, "SendInput", process={"pid": pid},
                          input={kind: base64.b64encode(data).decode()})
    check(status == 200, f"SendInput: {answer}")


def agent_kb(sandbox):
    return int(D.exec(sandbox, "sh", "-c", "grep VmRSS /proc/1/status").split()[1])


def test_template():
    D.build_template("base", 256)


def test_terminal():
    sandbox = D.create("base")
    s = shell(sandbox, "trap 'stty size' WINCH; tty; stty size; while :; do read x; echo =$x=; done",
              pty={"size": {"cols": 91, "rows": 37}})
    s.until(b"37 91\r\n")
    check(b"/dev/pts/" in s.output, f"{s.output}")
    status, answer = call(sandbox, "Update", process={"pid": s.pid},
                          pty={"size": {"cols": 132, "rows": 50}})
    check(status == 200, f"{answer}")
    type_in(sandbox, s.pid, "pty", b"hello\r")
    s.until(b"50 132\r\n").until(b"=hello=\r\n")
    status, answer = call(sandbox, "CloseStdin", process={"pid": s.pid})
    check((status, answer["code"]) == (400, "failed_precondition"), f"{answer}")
    type_in(sandbox, s.pid, "pty", b"\x03")
    s.finish()
    want = {"exitCode": -1, "exited": False, "status": "signal: interrupt", "error": "signal: interrupt"}
    check({k: s.end.get(k) for k in want} == want, f"{s.end}")
    as_user = Stream(sandbox, "Start", {"process": {"cmd": "sh", "args": ["-c", "ls -l $(tty)"]},
                                        "pty": {}}, user="user").finish()
    check(re.match(rb"crw--w---- +1 user +(tty|5) ", as_user.output), f"{as_user.output}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_second_client():
    sandbox = D.create("base")
    first = shell(sandbox, "echo one; read x; echo two; read x; exit 3").until(b"one\n")
    second = follow(sandbox, first.pid)
    type_in(sandbox, first.pid, "stdin", b"\n")
    first.until(b"two\n")
    second.until(b"two\n")
    check(b"one" not in second.output, "the future only")
    first.close()
    type_in(sandbox, first.pid, "stdin", b"\n")
    second.finish()
    check(second.end["exitCode"] == 3, f"{second.end}")
    late = follow(sandbox, first.pid).finish()
    check(late.end["exitCode"] == 3 and not late.output, f"{late.end} {late.output}")
    none = Stream(sandbox, "Connect", {"process": {"pid": 99999}}).finish()
    check(none.error == {"code": "not_found", "message": "process with pid 99999 not found"},
          f"{none.error}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_kill_group():
    sandbox = D.create("base")
    script = ("(trap '' TERM; echo child; setsid sh -c 'trap \"\" TERM; echo grandchild; "
              "exec sleep 4321' & while :; do sleep 4322; done) & wait")
    s = shell(sandbox, script).until(b"grandchild\n").until(b"child\n")
    cells = "ls -d /sys/fs/cgroup/workload/p* | wc -l"
    running = "ps | grep -c ' sleep 432[12]$'"
    both = D.exec(sandbox, "sh", "-c", "ps")
    check(len(re.findall(r" sleep 432[12]$", both, re.M)) == 2, f"both sleep: {both}")
    check(D.exec(sandbox, "sh", "-c", cells) == "2", "a cgroup for it, one for the question")
    check(call(sandbox, "SendSignal", process={"pid": s.pid}, signal="SIGNAL_SIGTERM")[0] == 200, "TERM")
    s.finish()
    check(s.end["status"] == "signal: terminated", f"{s.end}")
    time.sleep(0.5)
    check(int(D.exec(sandbox, "sh", "-c", running + " || :")) >= 1, "what ignores SIGTERM lives on")
    check(call(sandbox, "SendSignal", process={"pid": s.pid}, signal="SIGNAL_SIGKILL")[0] == 200, "KILL")
    wait_until(lambda: D.exec(sandbox, "sh", "-c", running + " || :") == "0", 10, "all of it is gone")
    check(D.exec(sandbox, "sh", "-c", cells) == "1", "the cgroup is gone, too")
    zombies = D.exec(sandbox, "sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l")
    check(zombies == "0", f"{zombies} zombies")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_deadline():
    sandbox = D.create("base")
    begin = time.monotonic()
    s = Stream(sandbox, "Start", {"process": {"cmd": "sleep", "args": ["4444"]}},
               **{"Connect-Timeout-Ms": "1500", "Keepalive-Ping-Interval": "1"}).finish()
    took = time.monotonic() - begin
    check(s.error["code"] == "deadline_exceeded" and 1.4 < took < 10, f"{s.error} after {took}")
    check(D.exec(sandbox, "sh", "-c", "pidof sleep || :") == "", "it was killed")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_system_process():
    sandbox = D.create("base")
    script = "cat /proc/self/cgroup /proc/self/oom_score_adj"
    s = shell(sandbox, script, tag="_system").finish()
    check(s.output == b"0::/\n0\n", f"{s.output}")
    s = shell(sandbox, script).finish()
    check(re.fullmatch(rb"0::/workload/p\d+\n100\n", s.output), f"{s.output}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_200_streams():
    sandbox = D.create("base")
    streams, failed = [None] * 200, []

    def run(i):
        try:
            s = shell(sandbox, f"read x; yes | head -c 300000; echo {i}; exit {i % 100}")
            streams[i] = s
            gate.wait(120)
            with few:  # a sandbox takes 256 requests at once, and 200 are the streams
                type_in(sandbox, s.pid, "stdin", b"\n")
            s.finish()
            check(len(s.output) == 300000 + len(f"{i}\n") and s.output.endswith(f"\n{i}\n".encode()),
                  f"{len(s.output)} bytes, end {s.output[-20:]!r}")
            check(s.end["exitCode"] == i % 100, f"{s.end}")
        except Exception as e:
            failed.append(f"stream {i}: {type(e).__name__} {e}")
            gate.abort()

    gate, few = threading.Barrier(200), threading.Semaphore(20)
    threads = [threading.Thread(target=run, args=(i,)) for i in range(200)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(200)
    check(not failed, failed[:3])
    wait_until(lambda: agent_kb(sandbox) < 40960, 20, "the agent is small again")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_flood():
    """`yes` into a client that hardly reads: the agent's memory stays"""
    sandbox = D.create("base")
    before = agent_kb(sandbox)
    check(before < 4096, f"the idle agent has {before} KiB")
    slow = shell(sandbox, "yes")
    sizes = []
    for _ in range(8):
        for _ in range(5):
            slow.next()
        time.sleep(0.4)
        sizes.append(agent_kb(sandbox))
    check(max(sizes) < before + 2048, f"{before} KiB before, then {sizes}")
    slow.close()
    check(call(sandbox, "SendSignal", process={"pid": slow.pid}, signal=9)[0] == 200, "it is killed")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_idle():
    sandbox = D.create("base")
    silent = shell(sandbox, "sleep 3000")
    text = D.exec(sandbox, "sh", "-c", "for i in 1 2; do grep ^vol /proc/1/status; sleep 4; done")
    first, second = (int(line.split()[1]) for line in text.splitlines())
    check(second - first <= 1, f"{second - first} wake-ups in 4 s")  # one: our own line of output
    silent.close()
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_sleep_and_attach():
    """programs go on after a wake, and Connect finds them; their old streams break at once"""
    sandbox = D.create("base")
    counter = shell(sandbox, "i=0; while :; do i=$((i+1)); echo n=$i; sleep 0.1; done").until(b"n=3\n")
    terminal = shell(sandbox, "while read x; do echo =$x=; done", pty={})
    many = [int(D.dorm("exec", "-d", "-u", "root", sandbox, "--", "sleep", "5000").stdout)
            for _ in range(20)]
    D.dorm("sleep", sandbox)
    for s in (counter, terminal):
        begin = time.monotonic()
        try:
            s.finish()
            raise AssertionError("a stream survived the sleep")
        except (OSError, http.client.HTTPException) as e:
            check(time.monotonic() - begin < 5, f"{e} after {time.monotonic() - begin} s")
    time.sleep(1)
    D.dorm("wake", sandbox)
    again = follow(sandbox, counter.pid).until(b"\nn=")
    count = int(again.output.split(b"n=")[-1].split(b"\n")[0] or b"0")
    check(3 <= count < 100, f"it went on at {count}")
    shown = follow(sandbox, terminal.pid)
    type_in(sandbox, terminal.pid, "pty", b"after\r")
    shown.until(b"=after=\r\n")
    listed = {p["pid"] for p in D.json("ps", sandbox)}
    check(listed == {counter.pid, terminal.pid, *many}, f"{listed}")
    fork = D.api("POST", f"/sandboxes/{sandbox}/fork", {})
    fork = (fork[0] if isinstance(fork, list) else fork)["sandbox"]["sandboxID"]
    follow(fork, counter.pid).until(b"n=").close()
    for s in (again, shown):
        s.close()
    for each in (sandbox, fork):
        check(D.dorm("kill", each, counter.pid, *many).returncode == 0, "kill")
        D.api("DELETE", f"/sandboxes/{each}")


def read_tty(fd, pattern, timeout_s=30):
    """from our end of a terminal, until the pattern has come; returns its match"""
    seen, end = b"", time.monotonic() + timeout_s
    while not re.search(pattern, seen):
        check(time.monotonic() < end, f"no {pattern!r} in {seen!r}")
        if select.select([fd], [], [], 0.1)[0]:
            seen += os.read(fd, 65536)
    return re.search(pattern, seen)


def test_command_line():
    sandbox = D.create("base")
    pid = int(D.dorm("exec", "-d", "--tag", "web", "--cwd", "/tmp", sandbox, "--", "sh", "-c",
                     "trap 'echo bye; exit 7' USR1; while :; do sleep 0.1; done").stdout)
    check([(p["pid"], p["tag"]) for p in D.json("ps", sandbox)] == [(pid, "web")], "ps")
    check(re.search(rf"{pid} +web +/tmp +sh -c", D.dorm("ps", sandbox).stdout), "the table")
    following = subprocess.Popen([program("dorm"), "attach", sandbox, "web"], env=D.env, text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(1)
    D.exec(sandbox, "kill", "-USR1", str(pid))
    out, err = following.communicate(timeout=30)
    check((following.returncode, out) == (7, "bye\n"), f"{following.returncode} {out} {err}")
    done = D.dorm("attach", sandbox, str(pid), check_status=False)
    check(done.returncode == 7, f"late: {done}")
    done = D.dorm("exec", "-t", sandbox, "--", "stty", "size")
    check(done.stdout == "24 80\n", f"{done}")

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    before = termios.tcgetattr(slave)
    command = subprocess.Popen([program("dorm"), "exec", "-t", sandbox, "--", "sh"], env=D.env,
                               stdin=slave, stdout=slave, stderr=slave)
    os.write(master, b"stty size\n")
    read_tty(master, b"33 77")
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 88, 0, 0))
    command.send_signal(28)  # SIGWINCH
    time.sleep(0.5)
    os.write(master, b"stty size\n")
    read_tty(master, b"44 88")
    os.write(master, b"echo pid=$$=\n")
    pid = int(read_tty(master, rb"pid=(\d+)=").group(1))
    os.write(master, b"\x1d")
    check(command.wait(20) == 0, "Ctrl-] leaves")
    check(termios.tcgetattr(slave) == before, "the terminal is as before")
    back = subprocess.Popen([program("dorm"), "attach", sandbox, str(pid)], env=D.env, stdin=slave,
                            stdout=slave, stderr=slave)
    time.sleep(1)
    os.write(master, b"exit 9\n")
    check(back.wait(20) == 9, "attached again")
    check(termios.tcgetattr(slave) == before, "the terminal is as before")
    D.api("DELETE", f"/sandboxes/{sandbox}")


main(globals())
