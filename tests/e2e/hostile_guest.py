# SPDX-License-Identifier: Apache-2.0
"""The guest's end of the channel (docs/format-channel.md), played by somebody who means harm.

A Guest listens where a VM's agent socket was, agrees on a session like an agent, answers the
repair, and from then on does what its behaviour says. Only frames are read; a request is known by
its number, not by its headers.
"""
import os
import random
import socket
import struct
import threading
import time

HELLO, REPLY, DATA = 0xD1, 0xD2, 0xD3
H2_DATA, H2_HEADERS, H2_RST, H2_SETTINGS, H2_PUSH, H2_PING, H2_GOAWAY, H2_WINDOW, H2_CONT = (
    0, 1, 3, 4, 5, 6, 7, 8, 9)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM, END_HEADERS, ACK = 1, 4, 1
OK = b"\x88"  # :status 200, from the static table


class Gone(Exception):
    """the host has closed the connection"""


def channel_frame(kind, payload):
    return struct.pack("<BH", kind, len(payload)) + payload + b"\x5a"


def h2(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    """a header of any size, without indexing"""
    def text(b):
        if len(b) < 127:
            return bytes([len(b)]) + b
        n, out = len(b) - 127, bytearray([127])
        while n >= 128:
            out.append(n % 128 + 128)
            n //= 128
        return bytes(out) + bytes([n]) + b
    return b"\x00" + text(name) + text(value)


class Session:
    """one connection, after the handshake"""

    def __init__(self, sock, seed):
        self.sock = sock
        self.random = random.Random(seed)
        self.raw = b""     # not yet framed
        self.bytes = b""   # HTTP/2, not yet framed
        self.requests = []  # streams that the host has opened

    def send_raw(self, data):
        try:
            self.sock.sendall(data)
        except OSError:
            raise Gone from None

    def send(self, data):
        for i in range(0, len(data), 16384):
            self.send_raw(channel_frame(DATA, data[i:i + 16384]))

    def receive(self, timeout_s=None):
        """some more from the host; False when nothing came in time"""
        self.sock.settimeout(timeout_s)
        try:
            data = self.sock.recv(65536)
        except TimeoutError:
            return False
        except OSError:
            raise Gone from None
        finally:
            self.sock.settimeout(None)
        if not data:
            raise Gone
        self.raw += data
        while len(self.raw) >= 4:
            if self.raw[0] == 0:
                self.raw = self.raw.lstrip(b"\0")
                continue
            length = self.raw[1] | self.raw[2] << 8
            if len(self.raw) < length + 4:
                break
            if self.raw[0] == DATA:
                self.bytes += self.raw[3:3 + length]
            self.raw = self.raw[length + 4:]
        self.take_h2()
        return True

    def take_h2(self):
        if self.bytes.startswith(PREFACE):
            self.bytes = self.bytes[len(PREFACE):]
        while len(self.bytes) >= 9 and not PREFACE.startswith(self.bytes[:9]):
            length = int.from_bytes(self.bytes[:3], "big")
            if len(self.bytes) < 9 + length:
                return
            kind, flags = self.bytes[3], self.bytes[4]
            stream = int.from_bytes(self.bytes[5:9], "big")
            self.bytes = self.bytes[9 + length:]
            if kind == H2_HEADERS:
                self.requests.append(stream)
            elif kind == H2_SETTINGS and not flags & ACK:
                self.send(h2(H2_SETTINGS, ACK, 0))
            elif kind == H2_PING and not flags & ACK:
                self.send(h2(H2_PING, ACK, 0, bytes(8)))

    def next_request(self, timeout_s=60):
        end = time.monotonic() + timeout_s
        while not self.requests:
            if time.monotonic() > end:
                raise Gone
            self.receive(0.2)
        return self.requests.pop(0)

    def answer(self, stream, body, headers=b""):
        self.send(h2(H2_HEADERS, END_HEADERS, stream, OK + headers)
                  + h2(H2_DATA, END_STREAM, stream, body))


# --- behaviours: what comes after a repair that went well ------------------------------------------

def stall(s):
    """takes every request and says nothing"""
    while True:
        s.receive()


def deaf(s):
    """never reads again"""
    while True:
        time.sleep(0.2)
        s.send(h2(H2_PING, 0, 0, bytes(8)))


def noise(s):
    """bytes that are no frames"""
    while True:
        s.send_raw(s.random.randbytes(65536))


def h2_noise(s):
    """good frames of the channel, full of rubbish"""
    while True:
        s.send(s.random.randbytes(s.random.randrange(1, 16384)))


def mutated(s):
    """HTTP/2 frames of every kind, on any stream, with any length"""
    while True:
        kind, flags = s.random.randrange(12), s.random.randrange(256)
        stream = s.random.choice([0, 1, 2, 3, 5, 7, 2**31 - 1])
        s.send(h2(kind, flags, stream, s.random.randbytes(s.random.randrange(64))))
        s.receive(0.001)


def zeros(s):
    """padding for ever"""
    while True:
        s.send_raw(bytes(1 << 20))


def headers_without_end(s):
    """one answer's head that goes on and on"""
    stream = s.next_request()
    s.send(h2(H2_HEADERS, 0, stream, OK))
    while True:
        s.send(h2(H2_CONT, 0, stream, literal(b"x-" + os.urandom(4).hex().encode(), b"v" * 16000)))


def many_headers(s):
    """an answer with thousands of headers, and one of a megabyte"""
    while True:
        stream = s.next_request()
        s.send(h2(H2_HEADERS, 0, stream, OK))
        for i in range(2000):
            s.send(h2(H2_CONT, 0, stream, literal(b"x-%d" % i, b"v" * 100)))
        s.send(h2(H2_CONT, END_HEADERS, stream, literal(b"x-last", b"v" * 16000)))
        s.send(h2(H2_DATA, END_STREAM, stream, b'{"ok": true}'))


def odd_headers(s):
    """statuses, names and values that no server sends"""
    odd = [b"\x08\x03999", b"\x08\x00", b"\x08\x011", b"\x08\x0520000", b"",
           OK + literal(b"transfer-encoding", b"chunked"), OK + literal(b"connection", b"close"),
           OK + literal(b"x\r\ny", b"z"), OK + literal(b"a", b"b\r\nset-cookie: c\r\n\r\nbody"),
           OK + literal(b"content-length", b"99999999999999999999"),
           OK + literal(b"content-length", b"-1"), OK + literal(b":status", b"200"),
           OK + literal(b"X-Upper", b"v"), OK + literal(b"", b"v"), OK + literal(b"x", b"\0\0"),
           b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
    while True:
        stream = s.next_request()
        s.send(h2(H2_HEADERS, END_HEADERS, stream, s.random.choice(odd)))
        s.send(h2(H2_DATA, END_STREAM, stream, b'{"ok": true}'))


def flood_body(s):
    """more of a body than any window allows"""
    stream = s.next_request()
    s.send(h2(H2_HEADERS, END_HEADERS, stream, OK))
    while True:
        s.send(h2(H2_DATA, 0, stream, bytes(16384)))


def endless_json(s):
    """an answer that stays within its windows and never ends"""
    stream = s.next_request()
    s.send(h2(H2_HEADERS, END_HEADERS, stream, OK))
    sent = 0
    while True:
        if sent < 200_000:
            s.send(h2(H2_DATA, 0, stream, b"[" * 1000))
            sent += 1000
            s.receive(0.0001)
        else:
            s.receive()
            sent = 0


def settings_flood(s):
    while True:
        s.send(h2(H2_SETTINGS, 0, 0, struct.pack(">HI", 3, 0) * 100) * 10)


def ping_flood(s):
    """each asks for an answer; nothing is read"""
    while True:
        s.send(h2(H2_PING, 0, 0, bytes(8)) * 900)


def reset_flood(s):
    while True:
        stream = s.next_request()
        s.send(h2(H2_RST, 0, stream, struct.pack(">I", 11)))


def no_windows(s):
    """lets nothing of a request's body through"""
    s.send(h2(H2_SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
    while True:
        s.receive()


def huge_windows(s):
    for _ in range(10):
        s.send(h2(H2_WINDOW, 0, 0, struct.pack(">I", 2**31 - 1)))
    while True:
        s.receive()


def goodbye(s):
    """says that it goes, and stays"""
    s.send(h2(H2_GOAWAY, 0, 0, struct.pack(">II", 0, 0)))
    while True:
        s.receive()


def push(s):
    s.send(h2(H2_PUSH, END_HEADERS, 1, struct.pack(">I", 2) + OK))
    while True:
        s.receive()


def flicker(s):
    """hangs up at once"""
    time.sleep(0.05)
    raise Gone


BEHAVIOURS = [stall, deaf, noise, h2_noise, mutated, zeros, headers_without_end, many_headers,
              odd_headers, flood_body, endless_json, settings_flood, ping_flood, reset_flood,
              no_windows, huge_windows, goodbye, push, flicker]


class Guest:
    """plays the agent at a path; `seen` counts sessions, `error` holds what went wrong here"""

    def __init__(self, path, behaviour, seed):
        self.behaviour, self.seed = behaviour, seed
        self.seen, self.error, self.ending = 0, None, False
        self.open = None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(8)
        self.thread = threading.Thread(target=self.main, daemon=True)
        self.thread.start()

    def main(self):
        while not self.ending:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.open = sock
            try:
                self.serve(sock)
            except Gone:
                pass
            except Exception as e:  # a mistake of the test's, to be reported by it
                self.error = e
            finally:
                sock.close()

    def serve(self, sock):
        sock.settimeout(20)
        data = b""
        while b"DORMCHAN" not in data or len(data) < data.index(b"DORMCHAN") + 26:
            try:
                more = sock.recv(65536)
            except OSError:
                raise Gone from None
            if not more:
                raise Gone
            data += more
        at = data.index(b"DORMCHAN")
        sock.settimeout(None)
        session = Session(sock, self.seed)
        session.send_raw(channel_frame(REPLY, data[at:at + 25]))
        session.raw = data[at + 26:]
        session.send(h2(H2_SETTINGS, 0, 0))
        session.answer(session.next_request(), b'{"ok":true}')
        self.seen += 1
        self.behaviour(session)

    def close(self):
        self.ending = True
        for sock in (self.listener, self.open):
            if sock:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self.listener.close()
        self.thread.join(10)
