#!/usr/bin/env python3
"""A runtime in plain Python: answers each ping with a pong of the same value.

It speaks the native runtime protocol (see orchestrator-proto/PROTOCOL.md) with nothing but
the standard library: frames with a length before them, and numbers and texts as postcard
writes them. It shows how little that needs; `pong.py` does the same with the package beside it,
which also connects again, and loses nothing.
"""

import os
import socket
import struct

# The number of each kind of frame.
HELLO, WELCOME, REFUSED, DECLARE, MESSAGE, GRANT = range(6)
OUTPUT, INPUT = 0, 1
PROTOCOL = 2

# The channels that we choose for our types.
PINGS, PONGS = 0, 1
# How many pings the daemon may send ahead of what we have granted.
WINDOW = 64


def varint(number):
    """Seven bits in each byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def text(value):
    """A byte string or a text: its length, then its bytes."""
    data = value.encode() if isinstance(value, str) else value
    return varint(len(data)) + data


def struct_schema(**fields):
    """The canonical form of a struct: 21, how many fields, then each name and type."""
    kinds = {"bool": 0, "u8": 1, "u16": 2, "u32": 3, "u64": 4, "f32": 11, "f64": 12, "String": 14}
    out = bytes([21]) + varint(len(fields))
    for name, kind in fields.items():
        out += text(name) + bytes([kinds[kind]])
    return out


class Reader:
    """Takes postcard values from the front of a frame's body."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def bytes(self, count):
        if self.at + count > len(self.data):
            raise ValueError("the frame ends in the middle")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self):
        number = shift = 0
        while True:
            byte = self.bytes(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7

    def text(self):
        return self.bytes(self.varint())


class Connection:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.input = self.socket.makefile("rb")

    def send(self, kind, *parts):
        body = varint(kind) + b"".join(parts)
        self.socket.sendall(struct.pack("<I", len(body)) + body)

    def receive(self):
        """The next frame's kind and a reader for the rest of it; none at the end."""
        prefix = self.input.read(4)
        if len(prefix) < 4:
            return None
        (length,) = struct.unpack("<I", prefix)
        body = Reader(self.input.read(length))
        return body.varint(), body

    def declare(self, channel, direction, name, schema, window=0):
        no_hash = b"\0"  # The daemon computes it from the schema.
        self.send(
            DECLARE,
            varint(channel),
            varint(direction),
            text(name),
            text(schema),
            no_hash,
            varint(window),
        )


def main():
    connection = Connection(os.environ["ORCHESTRATOR_IPC_SOCKET"])
    connection.send(HELLO, b"ORCR", varint(PROTOCOL), text("wire_pong.py"))
    schema = struct_schema(value="u32")
    connection.declare(PINGS, INPUT, "examples.ping.v1", schema, WINDOW)
    connection.declare(PONGS, OUTPUT, "examples.pong.v1", schema)

    received = 0
    limit = None  # How many pongs we may send in total; none until the daemon sets a limit.
    waiting = []  # Pings that have no pong yet; no more than the window.
    while frame := connection.receive():
        kind, body = frame
        if kind == REFUSED:
            code, sentence = body.varint(), body.text().decode()
            raise SystemExit(f"the daemon refused ({code}): {sentence}")
        if kind == GRANT and body.varint() == PONGS:
            limit = body.varint()
        if kind == MESSAGE and body.varint() == PINGS:
            value = Reader(body.text()).varint()
            print(f"received ping {value}", flush=True)
            waiting.append(value)
            received += 1
        while waiting and (limit is None or received - len(waiting) < limit):
            value = waiting.pop(0)
            connection.send(MESSAGE, varint(PONGS), text(varint(value)))
            print(f"sent pong {value}", flush=True)
            answered = received - len(waiting)
            if answered % (WINDOW // 2) == 0:
                connection.send(GRANT, varint(PINGS), varint(answered + WINDOW))


if __name__ == "__main__":
    main()
