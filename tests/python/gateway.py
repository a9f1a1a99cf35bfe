#!/usr/bin/env python3
"""A devbox gateway in another language, written from docs/protocol.md alone (the sections are named in the code).

It serves one environment from a JSON file, `{"environment": "dev", "services": [...]}` with services as in section 8, whose ports'
`target` (`host:port`) is what it dials. The file is looked at several times a second. It is here to show that the page is enough,
and to test devbox against a gateway that shares no code with it. Python 3.9 or later, with nothing but its standard library.

    gateway.py --listen 127.0.0.1:8080 --catalog catalog.json --token-file token
"""

import argparse
import asyncio
import base64
import collections
import errno
import hashlib
import hmac
import json
import os
import re
import signal
import socket
import struct
import sys
import time

# Section 2: frames.
HELLO, PING, PONG, GOAWAY = 0x01, 0x02, 0x03, 0x04
OPEN, ACCEPT, REFUSE, DATA, FIN, RESET, CREDIT = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16
OPTIONAL = 0x80
AT_LEAST = {HELLO: 20, PING: 8, PONG: 8, GOAWAY: 2, OPEN: 1, REFUSE: 2, RESET: 2, CREDIT: 4}
MAX_TARGET, MAX_PAYLOAD = 1024, 2048

# What our HELLO offers (section 3).
WINDOW, MAX_FRAME, MAX_STREAMS, MAX_UNANSWERED = 256 * 1024, 64 * 1024, 4096, 256

MAX_CREDIT = 2**31 - 1
MAX_MESSAGE, MAX_HEAD = 4 * 1024 * 1024, 16 * 1024
HEARTBEAT_S, HEAD_S, DIAL_S, CLOSE_S, LOOK_S = 10, 10, 10, 5, 0.1


class Violation(Exception):
    """The client broke the protocol (section 6)."""


class Refused(Exception):
    """A request that gets no tunnel, with the status, or a stream with the code of its REFUSE; and the message, if any."""


class WebSocket:
    """The server's side of RFC 6455, as far as section 1 needs it."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.close_sent = False

    def accept(self, key):
        digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        self.writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: devbox-tunnel.1\r\nSec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )

    def write(self, opcode, payload):
        """Writes one unmasked message; a client that asks for answers and reads none is given up."""
        if self.close_sent:
            return
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, length)
        elif length < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 126, length)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 127, length)
        self.writer.write(head + payload)
        if self.writer.transport.get_write_buffer_size() > MAX_MESSAGE:
            raise Violation("answers are asked for and not read")

    def close(self, code=1000):
        if not self.close_sent:
            self.write(0x8, struct.pack("!H", code))
            self.close_sent = True

    async def discard(self):
        """Closing with bytes unread would reset the connection, and what we said last might be lost with it."""
        end = time.monotonic() + CLOSE_S
        while time.monotonic() < end:
            if not await asyncio.wait_for(self.reader.read(65536), CLOSE_S):
                break

    async def payloads(self):
        """Yields the payloads of the binary messages, until the client's Close or the end."""
        binary, size = False, 0
        while True:
            first, second = await self.reader.readexactly(2)
            final, opcode, length = first & 0x80, first & 0x0F, second & 0x7F
            if first & 0x70 or not second & 0x80:
                raise Violation("a WebSocket frame that is not masked, or of an extension")
            if length == 126:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
            if opcode < 0x8:
                size = length + (size if opcode == 0x0 else 0)
            if size > MAX_MESSAGE or (opcode >= 0x8 and (length > 125 or not final)):
                raise Violation("a WebSocket message that is too long")
            mask = await self.reader.readexactly(4)
            data = unmasked(await self.reader.readexactly(length), mask)
            if opcode == 0x8:
                self.close()
                return
            if opcode == 0x9:
                self.write(0xA, data)
            elif opcode in (0x0, 0x1, 0x2):
                binary = opcode == 0x2 or (opcode == 0x0 and binary)
                # Where a message begins and ends means nothing, so a part of one may be used at once.
                if binary and data and not self.close_sent:
                    yield data


def unmasked(data, mask):
    count = len(data)
    key = (mask * (count // 4 + 1))[:count]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(count, "big")


class Stream:
    """A stream that the client has opened (sections 4 and 5)."""

    def __init__(self, link, number, credit):
        self.link, self.number = link, number
        self.credit = credit  # what we may still send
        self.granted = WINDOW  # what the client may still send
        self.used = 0  # what we have used since the last grant
        self.inbox = collections.deque()
        self.answered = self.finished = self.sent_fin = False
        self.arrived, self.may_send = asyncio.Event(), asyncio.Event()
        self.task = None

    def accept(self):
        self.answered = True
        self.link.send(ACCEPT, self.number)

    def give_up(self, refusal, reset, message):
        """REFUSE when there was no answer yet, and RESET afterwards."""
        if self.link.streams.pop(self.number, None) is None:
            return
        if self.answered:
            self.link.send(RESET, self.number, struct.pack("!H", reset))
        else:
            self.link.send(REFUSE, self.number, struct.pack("!H", refusal) + message.encode()[:1024])

    def take(self, data, fin):
        """DATA or FIN has come."""
        if self.finished or len(data) > self.granted:
            raise Violation("data after FIN, or more than was granted")
        self.granted -= len(data)
        self.finished = fin
        if data:
            self.inbox.append(data)
        self.arrived.set()

    def add_credit(self, more):
        self.credit += more
        if self.credit > MAX_CREDIT:
            raise Violation("too much credit")
        self.may_send.set()

    async def read(self):
        """What the client has sent, or b"" at its FIN."""
        while not self.inbox:
            if self.finished:
                return b""
            self.arrived.clear()
            await self.arrived.wait()
        return self.inbox.popleft()

    def grant(self, count):
        """These bytes have been used; half a window of them is granted anew."""
        self.used += count
        if self.used >= WINDOW // 2 and not self.finished:
            self.granted += self.used
            self.link.send(CREDIT, self.number, struct.pack("!I", self.used))
            self.used = 0

    async def write(self, data):
        while data:
            while not self.credit:
                self.may_send.clear()
                await self.may_send.wait()
            part = data[: min(self.credit, self.link.max_frame)]
            data = data[len(part) :]
            self.credit -= len(part)
            await self.link.send_in_turn(DATA, self.number, part)

    async def finish(self):
        self.sent_fin = True
        await self.link.send_in_turn(FIN, self.number, b"")


class Link:
    """One client's connection, which owns its streams."""

    def __init__(self, gateway, websocket):
        self.gateway, self.websocket = gateway, websocket
        self.buffer, self.skip = bytearray(), 0
        self.streams, self.highest = {}, 0
        self.helloed = self.refusing = False
        self.window = self.max_frame = self.pings = 0
        self.drain_ping, self.heard = None, time.monotonic()
        self.turn = asyncio.Lock()  # it is fair: streams take turns, a frame each
        self.catalog_stream = None

    def send(self, kind, stream, payload=b""):
        self.websocket.write(0x2, struct.pack("!B", kind) + len(payload).to_bytes(3, "big") + struct.pack("!I", stream) + payload)

    async def send_in_turn(self, kind, stream, payload):
        async with self.turn:
            self.send(kind, stream, payload)
            await self.websocket.writer.drain()

    def ping(self):
        self.pings += 1
        self.send(PING, 0, struct.pack("!Q", self.pings))

    async def run(self):
        heartbeat = asyncio.ensure_future(self.heartbeat())
        try:
            self.send(HELLO, 0, struct.pack("!HHIIII", 1, 0, WINDOW, MAX_FRAME, MAX_STREAMS, MAX_UNANSWERED))
            self.ping()
            async for payload in self.websocket.payloads():
                self.heard = time.monotonic()
                self.receive(payload)
        except Violation as violation:
            print(f"violation: {violation}", file=sys.stderr, flush=True)
            if self.websocket.writer.transport.get_write_buffer_size() < MAX_MESSAGE:
                self.go_away(3, str(violation))
                self.websocket.close(1002)
                await self.websocket.discard()
        except (asyncio.IncompleteReadError, asyncio.TimeoutError, OSError):
            pass  # lost
        finally:
            heartbeat.cancel()
            for stream in list(self.streams.values()):
                stream.task.cancel()

    async def heartbeat(self):
        """Section 3: a PING every interval, and the end when nothing came in two."""
        try:
            while time.monotonic() - self.heard < 2 * HEARTBEAT_S:
                await asyncio.sleep(HEARTBEAT_S)
                self.ping()
        except Violation:
            pass  # it reads nothing either
        self.websocket.writer.transport.abort()

    def go_away(self, code, message):
        self.send(GOAWAY, 0, struct.pack("!H", code) + message.encode())

    def drain(self, message):
        """Section 3: GOAWAY long before the end, and what was opened before the client can have read it is still served."""
        self.go_away(1, message)
        self.ping()
        self.drain_ping = self.pings
        asyncio.get_running_loop().call_later(self.gateway.drain_s, self.close)

    def close_when_idle(self):
        if self.refusing and not self.streams.keys() - {self.catalog_stream}:
            self.close()

    def close(self):
        self.websocket.close()
        asyncio.get_running_loop().call_later(CLOSE_S, self.websocket.writer.transport.abort)

    def receive(self, payload):
        buffer, at = self.buffer, 0
        buffer += payload
        while True:
            skipped = min(self.skip, len(buffer) - at)
            at, self.skip = at + skipped, self.skip - skipped
            if self.skip or len(buffer) - at < 8:
                break
            kind, length = buffer[at], int.from_bytes(buffer[at + 1 : at + 4], "big")
            (stream,) = struct.unpack_from("!I", buffer, at + 4)
            if kind >= OPTIONAL:
                at, self.skip = at + 8, length
                continue
            limit = MAX_FRAME if kind in (DATA, FIN) else MAX_TARGET if kind == OPEN else MAX_PAYLOAD
            if not AT_LEAST.get(kind, 0) <= length <= limit:
                raise Violation(f"a frame of kind {kind:02x} with {length} bytes")
            if len(buffer) - at < 8 + length:
                break
            self.frame(kind, stream, bytes(buffer[at + 8 : at + 8 + length]))
            at += 8 + length
        del buffer[:at]

    def frame(self, kind, number, payload):
        if (kind == HELLO) == self.helloed and kind != PING or (kind < OPEN) != (number == 0):
            raise Violation(f"a frame of kind {kind:02x} out of place")
        if kind == HELLO:
            version, _, self.window, self.max_frame, _, _ = struct.unpack_from("!HHIIII", payload)
            if version != 1 or self.window > MAX_CREDIT or not self.max_frame:
                raise Violation("a HELLO of another version, or without room")
            self.helloed = True
        elif kind == PING:
            self.send(PONG, 0, payload[:8])
        elif kind == PONG:
            (token,) = struct.unpack_from("!Q", payload)
            # Only the latest PING needs an answer, so a later one's answers the drain's too.
            if self.drain_ping is not None and self.drain_ping <= token <= self.pings:
                self.refusing = True
                self.close_when_idle()
        elif kind == GOAWAY:
            pass  # we open nothing; the client closes when it is done
        elif kind == OPEN:
            self.opened(number, payload)
        elif kind in (DATA, FIN, RESET, CREDIT):
            if number > self.highest or number % 2 == 0:
                raise Violation("a frame for a stream that was never opened")
            stream = self.streams.get(number)
            if stream is None:
                return  # it crossed with the stream's end
            if kind == CREDIT:
                stream.add_credit(struct.unpack_from("!I", payload)[0])
            elif kind == RESET:
                del self.streams[number]
                stream.task.cancel()
            else:
                stream.take(payload, kind == FIN)
        else:
            raise Violation(f"a frame of kind {kind:02x}, which clients do not send or nobody knows")

    def opened(self, number, target):
        if number % 2 == 0 or number <= self.highest:
            raise Violation("OPEN out of order")
        self.highest = number
        unanswered = sum(not stream.answered for stream in self.streams.values())
        stream = self.streams[number] = Stream(self, number, self.window)
        if self.refusing:
            stream.give_up(7, 4, "this gateway is leaving")
        elif len(self.streams) > MAX_STREAMS or unanswered >= MAX_UNANSWERED:
            stream.give_up(6, 4, "too many streams")
        else:
            stream.task = asyncio.ensure_future(self.serve(stream, target))

    async def serve(self, stream, target):
        try:
            if target == b"catalog":
                self.catalog_stream = stream.number
                await self.publish(stream)
            else:
                await self.connect(stream, target)
        except Refused as refused:
            stream.give_up(refused.args[0], 5, refused.args[1])
        except OSError as error:
            reset = isinstance(error, ConnectionError)
            stream.give_up(8, 2 if reset else 5, str(error))
        except Violation:
            self.websocket.writer.transport.abort()
        finally:
            self.streams.pop(stream.number, None)
            self.close_when_idle()

    async def connect(self, stream, target):
        host, port = self.gateway.dials(target)
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), DIAL_S)
        except asyncio.TimeoutError:
            raise Refused(3, f"{host}:{port} does not answer") from None
        except socket.gaierror as error:
            raise Refused(2, f"{host}: {error.strerror}") from None
        except OSError as error:
            unreachable = error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
            code = 1 if isinstance(error, ConnectionRefusedError) else 2 if unreachable else 8
            raise Refused(code, f"{host}:{port}: {os.strerror(error.errno or 0)}") from None
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = []
        try:
            stream.accept()
            ways = [asyncio.ensure_future(way) for way in (to_socket(stream, writer), to_client(reader, stream))]
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
            for way in done:
                way.result()
            writer.close()
        finally:
            for way in ways:
                way.cancel()
            if not (stream.finished and stream.sent_fin):
                # Whoever reads the socket must see a reset and never an end of file (section 1).
                abort(writer)

    async def publish(self, stream):
        """Section 8: the snapshot, then whatever differs from what the client has, once it has read the former message."""
        stream.accept()
        known, health = None, "live"
        while True:
            changed, catalog = self.gateway.changed, self.gateway.catalog
            if known is None:
                await send_message(stream, "snapshot", {"environment": self.gateway.environment, "services": list(catalog.values())})
            elif known != catalog:
                upserted = [service for name, service in catalog.items() if known.get(name) != service]
                await send_message(stream, "changed", {"upserted": upserted, "removed": list(known.keys() - catalog.keys())})
            known = catalog
            if health != self.gateway.health:
                health = self.gateway.health
                await send_message(stream, "health", health)
            await changed.wait()


def message(kind, body):
    text = json.dumps({kind: body}).encode()
    return b"\x01" + len(text).to_bytes(3, "big") + text


async def send_message(stream, kind, body):
    await stream.write(message(kind, body))


async def to_socket(stream, writer):
    while data := await stream.read():
        writer.write(data)
        await writer.drain()
        stream.grant(len(data))
    writer.write_eof()


async def to_client(reader, stream):
    while data := await reader.read(MAX_FRAME):
        await stream.write(data)
    await stream.finish()


def abort(writer):
    try:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass  # it is closed already
    writer.transport.abort()


class Gateway:
    """The environment that is served, and the clients' sessions."""

    link = Link

    def __init__(self, path, token, drain_s):
        self.path, self.token, self.drain_s = path, token, drain_s
        self.seen, self.health, self.changed = None, "live", asyncio.Event()
        self.environment, self.catalog = self.load()
        self.sessions = {}

    def load(self):
        about = os.stat(self.path)
        self.seen = (about.st_mtime_ns, about.st_ino, about.st_size)
        with open(self.path, encoding="utf-8") as file:
            catalog = json.load(file)
        return catalog["environment"], {service["id"]: service for service in catalog["services"]}

    async def watch(self):
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                about = os.stat(self.path)
                if self.seen == (about.st_mtime_ns, about.st_ino, about.st_size):
                    continue
                _, self.catalog = self.load()
                self.health = "live"
            except (OSError, ValueError, LookupError, TypeError) as error:
                self.health = {"stale": {"reason": f"{self.path}: {error}"}}
            self.changed.set()
            self.changed = asyncio.Event()

    def dials(self, target):
        """Where a target leads by the catalog of the moment."""
        label = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
        match = re.fullmatch(f"tcp/({label})/({label})(?:/({label}))?/([1-9][0-9]{{0,4}})", target.decode("ascii", "replace"))
        if match is None:
            raise Refused(4, "no target of this gateway")
        namespace, name, member, port = match.groups()
        service = self.catalog.get(".".join(part for part in (member, name, namespace) if part))
        if service is not None and "alias_of" in service:
            service = self.catalog.get(service["alias_of"])
        for candidate in (service or {}).get("ports", []):
            if candidate["port"] == int(port):
                host, _, number = candidate["target"].rpartition(":")
                return host.strip("[]"), int(number)
        raise Refused(5, "not in the catalog")

    def admit(self, method, path, headers):
        """Section 1: the session and its generation, if this request may have a tunnel."""
        match = re.fullmatch(r".*/kube/devbox/tunnel/client/([A-Za-z0-9\-._~]{1,128})", path.partition("?")[0])
        if match is None:
            raise Refused("404 Not Found", None)
        offered = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
        tokens = [word.strip().lower() for word in headers.get("connection", "").split(",")]
        asked = method == "GET" and headers.get("upgrade", "").lower() == "websocket" and "upgrade" in tokens
        if not asked or "devbox-tunnel.1" not in offered or headers.get("sec-websocket-version") != "13":
            raise Refused("426 Upgrade Required", "this is a devbox gateway, which wants a WebSocket of devbox-tunnel.1")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self.token.encode()):
            raise Refused("401 Unauthorized", "the token is missing or wrong")
        environment = headers.get("devbox-environment", self.environment)
        if environment != self.environment:
            raise Refused("404 Not Found", f"there is no environment {environment}, only {self.environment}")
        generation = headers.get("devbox-generation", "0")
        if not re.fullmatch("[0-9]{1,20}", generation) or int(generation) >= 2**64 or not headers.get("sec-websocket-key"):
            raise Refused("400 Bad Request", "a header is missing or cannot be read")
        if int(generation) < self.sessions.get(match[1], (0, None))[0]:
            raise Refused("409 Conflict", "a newer connection of this session is up")
        return match[1], int(generation)

    async def client(self, reader, writer):
        session = link = None
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_S)
            if len(head) > MAX_HEAD:
                raise Refused("431 Request Header Fields Too Large", "the head of this request is too large")
            request, *lines = head.decode("latin-1").rstrip().split("\r\n")
            method, path, _ = request.split(" ")
            headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            session, generation = self.admit(method, path, headers)
            websocket = WebSocket(reader, writer)
            websocket.accept(headers["sec-websocket-key"])
            link = self.link(self, websocket)
            _, former = self.sessions.get(session, (0, None))
            self.sessions[session] = (generation, link)
            if former is not None:
                former.go_away(2, "a newer connection of this session is up")
                former.close()
            await link.run()
        except Refused as refused:
            status, message = refused.args
            body = (message or "not here") + "\n"
            told = f"Devbox-Message: {message}\r\n" if message else ""
            writer.write(
                f"HTTP/1.1 {status}\r\n{told}Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
                f"Connection: close\r\n\r\n{body}".encode("ascii", "replace")
            )
        except (asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, OSError):
            pass  # no request
        finally:
            if link is not None and self.sessions.get(session, (0, None))[1] is link:
                del self.sessions[session]
            writer.close()


async def main():
    parser = argparse.ArgumentParser(description="a devbox gateway in Python")
    parser.add_argument("--listen", required=True, help="HOST:PORT")
    parser.add_argument("--catalog", required=True, help="the JSON file with the environment and its services")
    parser.add_argument("--token-file", required=True, help="the file with the token that clients must show")
    parser.add_argument("--drain", type=float, default=30, help="seconds that open streams have after SIGTERM")
    options = parser.parse_args()
    with open(options.token_file, encoding="ascii") as file:
        gateway = Gateway(options.catalog, file.read().strip(), options.drain)
    host, _, port = options.listen.rpartition(":")
    clients = set()

    async def client(reader, writer):
        clients.add(asyncio.current_task())
        asyncio.current_task().add_done_callback(clients.discard)
        await gateway.client(reader, writer)

    server = await asyncio.start_server(client, host.strip("[]"), int(port), limit=MAX_FRAME, backlog=1024)
    watch = asyncio.ensure_future(gateway.watch())
    print(f"listening on {options.listen}", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()
    for _, link in list(gateway.sessions.values()):
        link.drain("the gateway is stopping")
    if clients:
        await asyncio.wait(clients, timeout=options.drain + CLOSE_S)
    watch.cancel()


if __name__ == "__main__":
    asyncio.run(main())
