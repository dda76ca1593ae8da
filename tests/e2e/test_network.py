# SPDX-License-Identifier: Apache-2.0
# timeout: 400
"""The network of sandboxes: who may talk to whom, over sleep, forks and the deaths of its processes.

Whom guests talk to is this host itself, at the address that it reaches the world from: an address
that needs a rule of its own.
"""
import json
import os
import pathlib
import shutil
import signal
import socket
import socketserver
import threading
import time

from harness import ApiError, Dormouse, check, children_of, main, program, skip, wait_until

D = None
SECOND = 1.5  # of a guest that shares its processor with others: one second, and some


def host_address(family, target):
    """the address from which this host reaches the world; None when it does not"""
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        try:
            s.connect((target, 53))
            return s.getsockname()[0]
        except OSError:
            return None


HOST = host_address(socket.AF_INET, "198.41.0.4")
HOST6 = host_address(socket.AF_INET6, "2001:503:ba3e::2:30")


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        if isinstance(self.request, tuple):
            data, sock = self.request
            sock.sendto(data.upper(), self.client_address)
            return
        try:
            while data := self.request.recv(4096):
                self.server.heard += 1
                self.request.sendall(data.upper())
        except OSError:
            pass


class TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    heard = 0


class Tcp6Server(TcpServer):
    address_family = socket.AF_INET6


class UdpServer(socketserver.ThreadingUDPServer):
    daemon_threads = True


def serve(kind, address):
    """an echo server in capitals; returns it, with its port"""
    server = kind((address, 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, server.server_address[1]


TCP, UDP = (serve(kind, HOST) for kind in (TcpServer, UdpServer)) if HOST else ((None, 0),) * 2
LOCAL = serve(TcpServer, "127.0.0.1")


def network(*allow, deny=(), **more):
    return {"network": {"allowOut": list(allow), "denyOut": list(deny)}, **more}


def create(*allow, **more):
    sandbox = D.create("base", **network(*allow, **more))
    D.upload(sandbox, program("talk"), "/tmp/talk")
    return sandbox


def talk(sandbox, *words):
    """(did it work, what was said, seconds)"""
    text = D.exec(sandbox, "/tmp/talk", *words, check_status=False)
    said, _, ms = text.removesuffix(" ms").rpartition(" ")
    return said.startswith("ok "), said, int(ms) / 1000


def expect_answer(sandbox, kind, address, port):
    ok, said, _ = talk(sandbox, kind, address, port)
    check(ok and said == "ok HELLO", f"{kind} {address} {port}: {said}")


def expect_refusal(sandbox, kind, address, port):
    ok, said, seconds = talk(sandbox, kind, address, port)
    check(not ok and said != "no answer", f"{kind} {address} {port}: {said}")
    check(seconds < 1, f"{kind} {address} {port} was refused only after {seconds} s")


def process_of(sandbox, name):
    """a process by name, of the sandbox's dorm-net and what it started; None without"""
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().split(b"\0")[0].endswith(
                    b"/dorm-net") and has_socket(entry, sandbox):
                if name == "dorm-net":
                    return int(entry.name)
                return next((pid for pid, command in children_of(int(entry.name))
                             if "passt" in command), None)
        except OSError:
            pass
    return None


def has_socket(entry, sandbox):
    path = str(D.root / "sandboxes" / sandbox / "netctl.sock")
    inodes = {line.split()[6] for line in pathlib.Path("/proc/net/unix").read_text().splitlines()
              if line.endswith(path)}
    return any(os.readlink(fd).removeprefix("socket:[").removesuffix("]") in inodes
               for fd in (entry / "fd").iterdir())


def is_gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_template():
    global D
    if not shutil.which("passt"):
        skip("passt is not installed")
    if not HOST:
        skip("this host has no address of its own")
    D = Dormouse().__enter__()
    D.build_template("base", 256)


def test_none_by_default():
    sandbox = D.create("base", allow_internet_access=True)  # as E2B's clients send it unasked
    D.upload(sandbox, program("talk"), "/tmp/talk")
    check(process_of(sandbox, "dorm-net") is None, "there is a dorm-net")
    check("eth0" not in D.exec(sandbox, "ifconfig"), "its interface is up")
    ok, said, seconds = talk(sandbox, "tcp", HOST, TCP[1])
    check(not ok and "unreachable" in said and seconds < 1, f"{said} after {seconds} s")
    check(D.api("GET", f"/sandboxes/{sandbox}")["allowInternetAccess"] is False, "it says it has one")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_vm_has_no_network():
    sandbox = create()
    namespace = os.readlink(f"/proc/{D.vm_pid(sandbox)}/ns/net")
    if os.geteuid() != 0:
        skip("without root QEMU shares the host's network namespace")
    check(namespace != os.readlink("/proc/self/ns/net"), "QEMU is in the host's network")
    lines = pathlib.Path(f"/proc/{D.vm_pid(sandbox)}/net/dev").read_text().splitlines()[2:]
    check([line.split(":")[0].strip() for line in lines] == ["lo"], f"it has {lines}")
    check(lines[0].split()[1] == "0", "its loopback was used")
    net = process_of(sandbox, "dorm-net")
    check(os.readlink(f"/proc/{net}/ns/net") != os.readlink("/proc/self/ns/net"),
          "dorm-net is in the host's network")
    status = pathlib.Path(f"/proc/{net}/status").read_text()
    check("\nUid:\t65534" in status and "\nNoNewPrivs:\t1" in status, f"it is {status}")
    D.api("DELETE", f"/sandboxes/{sandbox}")
    wait_until(lambda: is_gone(net), 5, "dorm-net goes with its sandbox")


def test_rules():
    sandbox = create(f"{HOST}:{TCP[1]}", f"{HOST}:{UDP[1]}")
    expect_answer(sandbox, "tcp", HOST, TCP[1])
    expect_answer(sandbox, "udp", HOST, UDP[1])
    expect_refusal(sandbox, "tcp", HOST, UDP[1] if UDP[1] != TCP[1] else 1)  # allowed, nobody there
    expect_refusal(sandbox, "tcp", HOST, 1)
    expect_refusal(sandbox, "udp", HOST, 1)
    expect_refusal(sandbox, "tcp", "169.254.169.254", 80)
    expect_refusal(sandbox, "tcp", "192.168.1.1", 80)
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_same_port_of_two_guests():
    """Whoever comes second cannot get the answers that are for the first."""
    a, b = create(f"{HOST}:{UDP[1]}"), create(f"{HOST}:{UDP[1]}")
    for sandbox, works in ((a, True), (b, False), (a, True)):
        ok, said, _ = talk(sandbox, "udp", HOST, UDP[1], 40123)
        check(ok == works, f"{said}, but {'an answer' if works else 'no answer'} was expected")
    expect_answer(b, "udp", HOST, UDP[1])  # from another port
    for sandbox in (a, b):
        D.api("DELETE", f"/sandboxes/{sandbox}")


def test_loopback_of_the_host():
    sandbox = create("127.0.0.1", "10.0.2.0/24", "0.0.0.0/0")
    expect_refusal(sandbox, "tcp", "10.0.2.2", LOCAL[1])  # what passt would take for it
    D.exec(sandbox, "sh", "-c", "ip route add 127.9.9.9 via 10.0.2.2; "
                                "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet",
           check_status=False)
    before = LOCAL[0].heard
    for address in ("127.0.0.1", "127.9.9.9", "10.0.2.2", "10.0.2.15"):
        ok, said, _ = talk(sandbox, "tcp", address, LOCAL[1])
        check(not ok, f"{address}: {said}")
    check(LOCAL[0].heard == before, "somebody came through")
    expect_refusal(sandbox, "tcp", HOST, TCP[1])  # 0.0.0.0/0 does not name the host
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_ipv6():
    if not HOST6:
        skip("this host has no IPv6")
    server, port = serve(Tcp6Server, HOST6)
    sandbox = create(f"[{HOST6}]:{port}")
    expect_answer(sandbox, "tcp", HOST6, port)
    expect_refusal(sandbox, "tcp", HOST6, 1)
    server.shutdown()
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_names():
    """The resolver answers, whatever it knows."""
    sandbox = create()
    text = D.exec(sandbox, "sh", "-c", "nslookup example.com 2>&1", check_status=False)
    check("10.0.2.3:53" in text and "timed out" not in text, f"nslookup: {text}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_change_while_it_runs():
    sandbox = D.create("base")
    D.upload(sandbox, program("talk"), "/tmp/talk")
    D.api("PUT", f"/sandboxes/{sandbox}/network", {"allowOut": [f"{HOST}:{TCP[1]}"]})
    expect_answer(sandbox, "tcp", HOST, TCP[1])
    D.exec(sandbox, "sh", "-c", f"/tmp/talk hold {HOST} {TCP[1]} >/tmp/held 2>&1 &")
    wait_for_tick()
    D.dorm("network", "--network", sandbox)
    wait_until(lambda: D.exec(sandbox, "cat", "/tmp/held"), SECOND, "the connection is refused now")
    check("reset" in D.exec(sandbox, "cat", "/tmp/held"), "with a reset")
    expect_refusal(sandbox, "tcp", HOST, TCP[1])
    shown = D.json("network", sandbox)
    check(shown["network"] == {"allowOut": [], "denyOut": []}, f"{shown}")
    D.dorm("network", "--off", sandbox)
    check(process_of(sandbox, "dorm-net") is None, "there is a dorm-net still")
    ok, said, _ = talk(sandbox, "tcp", HOST, TCP[1])
    check(not ok and "unreachable" in said, said)
    D.api("DELETE", f"/sandboxes/{sandbox}")


def wait_for_tick():
    heard = TCP[0].heard
    wait_until(lambda: TCP[0].heard > heard + 1, 10, "a connection that is alive")


def test_fork():
    source = create(f"{HOST}:{TCP[1]}", deny=["9.9.9.9"])
    expect_answer(source, "tcp", HOST, TCP[1])
    forks = [f["sandbox"]["sandboxID"]
             for f in D.api("POST", f"/sandboxes/{source}/fork", {"count": 2})]
    for sandbox in (*forks, source):
        check("10.0.2.15" in D.exec(sandbox, "ifconfig", "eth0"), "another address")
    told = {}
    threads = [threading.Thread(target=lambda s=s: told.update({s: talk(s, "tcp", HOST, TCP[1])}))
               for s in (*forks, source)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    check(len(told) == 3 and all(ok for ok, _, _ in told.values()), f"{told}")
    info = D.api("GET", f"/sandboxes/{forks[0]}")
    check(info["network"] == {"allowOut": [f"{HOST}:{TCP[1]}"], "denyOut": ["9.9.9.9"]}, f"{info}")
    alone = D.api("POST", f"/sandboxes/{source}/fork", {"allow_internet_access": False})
    alone = alone[0]["sandbox"]["sandboxID"]
    check("eth0" not in D.exec(alone, "ifconfig"), "a fork without a network has an interface")
    for sandbox in (*forks, source, alone):
        D.api("DELETE", f"/sandboxes/{sandbox}")


def test_sleep_in_a_connection():
    sandbox = create(f"{HOST}:{TCP[1]}")
    D.exec(sandbox, "sh", "-c", f"/tmp/talk hold {HOST} {TCP[1]} >/tmp/held 2>&1 &")
    D.exec(sandbox, "sh", "-c", f"mkfifo /tmp/q; (nc {HOST} {TCP[1]} <>/tmp/q; echo end >/tmp/read)"
                                " >/dev/null 2>&1 &")  # one that only listens
    wait_for_tick()
    net, passt = process_of(sandbox, "dorm-net"), process_of(sandbox, "passt")
    D.api("POST", f"/sandboxes/{sandbox}/pause", {})
    wait_until(lambda: is_gone(net) and is_gone(passt), 5, "its processes end when it sleeps")
    D.api("POST", f"/sandboxes/{sandbox}/connect", {})
    text = wait_until(lambda: D.exec(sandbox, "cat", "/tmp/held"), SECOND, "the socket has an error")
    check("no answer" not in text, f"it ended with {text!r}")
    wait_until(lambda: D.exec(sandbox, "cat", "/tmp/read", check_status=False), SECOND,
               "the socket that only listens has an error")
    expect_answer(sandbox, "tcp", HOST, TCP[1])
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_deaths():
    sandbox = create(f"{HOST}:{TCP[1]}")
    for name in ("dorm-net", "passt"):
        D.exec(sandbox, "sh", "-c", f"/tmp/talk hold {HOST} {TCP[1]} >/tmp/held 2>&1 &")
        wait_for_tick()
        before = process_of(sandbox, "dorm-net"), process_of(sandbox, "passt")
        os.kill(before[name == "passt"], signal.SIGKILL)
        wait_until(lambda: is_gone(before[0]) and is_gone(before[1]), 5, "both of them are gone")
        wait_until(lambda: process_of(sandbox, "passt"), 10, "there is another dorm-net")
        wait_until(lambda: talk(sandbox, "tcp", HOST, TCP[1])[0], 5, "the network works again")
        text = wait_until(lambda: D.exec(sandbox, "cat", "/tmp/held"), SECOND, "its socket's error")
        check("no answer" not in text, f"the old connection ended with {text!r}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_restart_of_dormd():
    sandbox = create(f"{HOST}:{TCP[1]}")
    D.exec(sandbox, "sh", "-c", f"/tmp/talk hold {HOST} {TCP[1]} >/tmp/held 2>&1 &")
    wait_for_tick()
    net = process_of(sandbox, "dorm-net")
    D.kill()
    wait_for_tick()  # it needs no dormd
    D.start()
    check(process_of(sandbox, "dorm-net") == net, "the old one was not adopted")
    wait_for_tick()
    check(D.exec(sandbox, "cat", "/tmp/held") == "", "the connection broke")
    os.kill(net, signal.SIGKILL)  # and it is watched
    wait_until(lambda: process_of(sandbox, "passt"), 10, "there is another dorm-net")
    # one that is not through with its beginning ends with its dormd
    wait_until(lambda: talk(sandbox, "tcp", HOST, TCP[1])[0], 5, "the network works again")
    net = process_of(sandbox, "dorm-net")
    D.kill()
    os.kill(net, signal.SIGKILL)  # while nobody looks
    D.start()
    expect_answer(sandbox, "tcp", HOST, TCP[1])
    D.api("DELETE", f"/sandboxes/{sandbox}")


def expect_400(word, method, path, body):
    try:
        D.api(method, path, body)
    except ApiError as e:
        check(e.status == 400 and word in str(e), f"{e}")
        return
    raise AssertionError(f"{body} was accepted")


def test_bad_input():
    sandbox = create()
    path = f"/sandboxes/{sandbox}/network"
    for entry, word in (("example.com", "names of hosts"), ("1.2.3.4/24", "prefix"), ("x", "rule")):
        expect_400(word, "PUT", path, {"allowOut": [entry]})
        expect_400(word, "POST", "/sandboxes", {"templateID": "base", **network(entry)})
    expect_400("array", "PUT", path, {"denyOut": "1.2.3.4"})
    expect_400("at most", "PUT", path, {"denyOut": ["1.2.3.4"] * 257})
    expect_400("not supported", "PUT", path, {"egressProxy": {"address": "1.2.3.4:1"}})
    check(D.api("GET", path)["network"] == {"allowOut": [], "denyOut": []}, "it was changed")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_no_passt():
    D.kill()
    D.env["DORM_PASST"] = "/no/such/passt"
    D.start()
    try:
        D.create("base", **network())
    except ApiError as e:
        check("passt" in str(e) and e.body.get("hint"), f"{json.dumps(e.body)}")
    else:
        raise AssertionError("a sandbox without passt has a network")
    sandbox = D.create("base")
    check(D.exec(sandbox, "echo", "fine") == "fine", "others do not mind")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def guarded(f):
    def run():
        if D is None:
            skip("the template was not built")
        f()
    return run


for _name in [n for n in globals() if n.startswith("test_") and n != "test_template"]:
    globals()[_name] = guarded(globals()[_name])

if __name__ == "__main__":
    main(globals())
