# SPDX-License-Identifier: Apache-2.0
"""A sandbox's own API (processes, files), as a client of E2B's protocol speaks it.

    box = Box(d, sandbox)
    stream = box.stream("/process.Process/Start", {"process": {"cmd": "/bin/cat"}})
    pid = stream.next()["event"]["start"]["pid"]
    box.call("/process.Process/SendInput", {...})

An error of a unary call raises ApiError; one that ends a stream is in stream.error, and a stream
whose connection breaks off raises Broken.
"""
import base64
import http.client
import json
import struct

from harness import ApiError, UnixConnection


class Broken(Exception):
    """the connection ended in the middle of a stream"""


def basic(user):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:".encode()).decode()}


class Stream:
    """a server stream: next() gives its messages, then None"""

    def __init__(self, connection, reply):
        self.connection, self.reply = connection, reply
        self.error = None
        self.ended = False

    def read(self, n):
        try:
            data = self.reply.read(n)
        except (http.client.HTTPException, OSError) as e:
            raise Broken(str(e)) from None
        if len(data) < n:
            raise Broken(f"{len(data)} bytes where {n} were to come")
        return data

    def next(self):
        if self.ended:
            return None
        flags, length = struct.unpack(">BI", self.read(5))
        message = json.loads(self.read(length))
        if flags & 2:
            self.ended = True
            self.error = message.get("error")
            return None
        return message

    def __iter__(self):
        while (message := self.next()) is not None:
            yield message

    def close(self):
        self.connection.close()


class Box:
    def __init__(self, d, sandbox, user=None):
        self.d, self.sandbox = d, sandbox
        self.headers = d.access(sandbox)
        if user:
            self.headers.update(basic(user))

    def request(self, method, path, body=None, headers=None, timeout_s=60, port=None):
        """returns the connection and the reply, whose body has not been read"""
        connection = UnixConnection(self.d.socket, timeout_s)
        own = {"E2b-Sandbox-Port": str(port)} if port else {}
        connection.request(method, path, body, {**self.headers, **own, **(headers or {})})
        return connection, connection.getresponse()

    def fetch(self, method, path, body=None, headers=None, timeout_s=60, port=None):
        """returns status and body"""
        connection, reply = self.request(method, path, body, headers, timeout_s, port)
        try:
            return reply.status, reply.read()
        finally:
            connection.close()

    def call(self, path, message, timeout_s=60):
        """one unary call"""
        status, body = self.fetch("POST", path, json.dumps(message),
                                  {"Content-Type": "application/json"}, timeout_s)
        value = json.loads(body)
        if status != 200:
            raise ApiError(status, value)
        return value

    def stream(self, path, message, timeout_s=60, headers=None):
        text = json.dumps(message).encode()
        connection, reply = self.request(
            "POST", path, struct.pack(">BI", 0, len(text)) + text,
            {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1",
             **(headers or {})}, timeout_s)
        if reply.status != 200:
            value = json.loads(reply.read())
            connection.close()
            raise ApiError(reply.status, value)
        return Stream(connection, reply)

    def start(self, script, timeout_s=60, **more):
        """sh -c script: returns the stream and the pid"""
        stream = self.stream("/process.Process/Start",
                             {"process": {"cmd": "/bin/sh", "args": ["-c", script]}, **more},
                             timeout_s)
        return stream, stream.next()["event"]["start"]["pid"]

    def connect(self, pid, timeout_s=60):
        """join the output of a process"""
        stream = self.stream("/process.Process/Connect", {"process": {"pid": pid}}, timeout_s)
        message = stream.next()
        if message is None:
            raise ApiError(200, stream.error)
        return stream


def output_of(stream):
    """what a process still has to say, and its end event"""
    data, end = b"", None
    for message in stream:
        event = message["event"]
        for text in event.get("data", {}).values():
            data += base64.b64decode(text)
        end = event.get("end", end)
    return data.decode(errors="replace"), end
