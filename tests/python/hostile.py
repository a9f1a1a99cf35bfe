#!/usr/bin/env python3
"""Peers that mean harm, one per subcommand, each bounded in time and number. Python 3.9 or later and its standard library.

Each prints the line `ready` once its attack is under way, and at its end one JSON object about what it has seen. Those that play
a gateway are built on gateway.py, in the same folder.
"""

import argparse
import asyncio
import json
import os
import resource
import socket
import struct
import sys
import threading
import time

import gateway
from gateway import ACCEPT, CREDIT, HELLO, OPEN, PING, REFUSE

PING_BYTES = 125


def ready():
    print("ready", flush=True)


def address_of(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def request(options, token, session):
    host, port = options.address
    return (
        f"GET /kube/devbox/tunnel/client/{session} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: devbox-tunnel.1\r\n"
        f"Authorization: Bearer {token}\r\nDevbox-Environment: {options.environment}\r\n\r\n"
    ).encode()


def masked(opcode, payload):
    """A client's WebSocket frame. Its mask is zero, which changes nothing and is a mask all the same."""
    length = len(payload)
    size = bytes([0x80 | length]) if length < 126 else struct.pack("!BH", 0x80 | 126, length)
    return bytes([0x80 | opcode]) + size + bytes(4) + payload


def frame(kind, stream, payload):
    return masked(0x2, struct.pack("!B", kind) + len(payload).to_bytes(3, "big") + struct.pack("!I", stream) + payload)


def connect(options, session):
    """A tunnel with the right token, as a blocking socket that holds little unread."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(20)
    sock.connect(options.address)
    sock.sendall(request(options, options.token, session))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1) or sys.exit("no answer")
    if not head.startswith(b"HTTP/1.1 101 "):
        sys.exit(head.decode("latin-1"))
    return sock


def trickle(options):
    """Holds sockets whose request comes a byte at a time and never ends; one that is closed is opened again."""
    seen = {"connects": 0, "closed": 0, "failed": 0}

    async def one(number):
        source = f"127.88.{number % options.addresses // 250}.{number % options.addresses % 250 + 1}"
        while True:
            try:
                host, port = options.address
                reader, writer = await asyncio.open_connection(host, port, local_addr=(source, 0))
                seen["connects"] += 1
                writer.write(b"GET /kube/devbox/tunnel/client/s HTTP/1.1\r\nX-Slow: ")
                while not reader.at_eof():
                    writer.write(b"x")
                    await writer.drain()
                    try:
                        await asyncio.wait_for(reader.read(1024), 0.5)
                    except asyncio.TimeoutError:
                        pass
                seen["closed"] += 1
                writer.close()
            except OSError:
                seen["failed"] += 1
            await asyncio.sleep(0.1)

    async def run():
        tasks = [asyncio.ensure_future(one(number)) for number in range(options.count)]
        # A listener whose queue is full leaves the rest waiting.
        end = time.monotonic() + 2
        while seen["connects"] + seen["failed"] < options.count and time.monotonic() < end:
            await asyncio.sleep(0.05)
        ready()
        await asyncio.sleep(options.seconds)
        for task in tasks:
            task.cancel()

    asyncio.run(run())
    return seen


def pings(options):
    """Sends WebSocket Pings as fast as they are taken, and reads no answer."""
    sock = connect(options, "pinger")
    many = masked(0x9, bytes(PING_BYTES)) * 512
    ready()
    sent, end = 0, time.monotonic() + options.seconds
    try:
        while time.monotonic() < end:
            sock.settimeout(max(0.1, end - time.monotonic()))
            sent += sock.send(many)
    except OSError:
        pass  # it has had enough of us, or takes no more
    return {"sent_bytes": sent}


def guess(options):
    """Asks with wrong tokens, again and again on many connections at a time."""
    statuses, lock = {}, threading.Lock()
    end = time.monotonic() + options.seconds

    def one(number):
        guesses = 0
        while time.monotonic() < end:
            guesses += 1
            status = "failed"
            try:
                with socket.create_connection(options.address, timeout=5, source_address=("127.88.0.1", 0)) as sock:
                    sock.sendall(request(options, f"guess-{number}-{guesses}", f"guesser-{number}"))
                    status = sock.recv(64).split(b" ")[1].decode()
            except (OSError, IndexError):
                pass
            with lock:
                statuses[status] = statuses.get(status, 0) + 1

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(options.count)]
    for thread in threads:
        thread.start()
    ready()
    for thread in threads:
        thread.join()
    return statuses


def streams(options):
    """Opens streams to a target that never stops sending, lets each send a window, and reads none of it."""
    sock = connect(options, f"hoarder-{os.getpid()}")
    # Without a window at first, only answers come while the streams are opened.
    sock.sendall(frame(HELLO, 0, struct.pack("!HHIIII", 1, 0, 0, 65536, 4096, 256)))
    buffer, opened, answers, accepted, refused = bytearray(), 0, 0, [], 0
    end = time.monotonic() + 60
    while answers < options.count and time.monotonic() < end:
        while opened < options.count and opened - answers < 100:
            sock.sendall(frame(OPEN, 2 * opened + 1, options.target.encode()))
            opened += 1
        buffer += sock.recv(65536) or sys.exit("the gateway has closed the link")
        while len(buffer) >= 2:
            # The server's frames are not masked, and at this stage each is short.
            length, at = buffer[1] & 0x7F, 2
            if length == 126 and len(buffer) >= 4:
                length, at = struct.unpack_from("!H", buffer, 2)[0], 4
            if length == 126 or len(buffer) < at + length:
                break
            body = bytes(buffer[at : at + length]) if buffer[0] & 0x0F == 0x2 else b""
            del buffer[: at + length]
            while body:
                size = int.from_bytes(body[1:4], "big")
                (number,) = struct.unpack_from("!I", body, 4)
                if body[0] == ACCEPT:
                    accepted.append(number)
                refused += body[0] == REFUSE
                answers += body[0] in (ACCEPT, REFUSE)
                body = body[8 + size :]
    grants = b"".join(frame(CREDIT, number, struct.pack("!I", 262144)) for number in accepted)
    sock.sendall(grants)
    ready()
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        # Alive, but deaf.
        time.sleep(min(5, max(0.0, end - time.monotonic())))
        try:
            sock.sendall(frame(PING, 0, struct.pack("!Q", 1)))
        except OSError:
            break
    return {"accepted": len(accepted), "refused": refused}


def stalled(options):
    """Connects to a service as its user would, asks for everything, and reads nothing."""
    sockets, failed = [], 0
    for _ in range(options.count):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(5)
        try:
            sock.connect(options.address)
            sockets.append(sock)
        except OSError:
            failed += 1
    ready()
    time.sleep(options.seconds)
    return {"connected": len(sockets), "failed": failed}


def fountain(options):
    """No harm in itself: a service that never stops sending, with little in flight at each of its connections."""

    async def pour(_, writer):
        block = bytes(65536)
        try:
            while True:
                writer.write(block)
                await writer.drain()
        except OSError:
            pass

    async def run():
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        listener.bind(options.address)
        await asyncio.start_server(pour, sock=listener, backlog=4096)
        ready()
        await asyncio.sleep(options.seconds)

    asyncio.run(run())
    return {}


class PingingLink(gateway.Link):
    """Serves a catalog, then sends WebSocket Pings as fast as they are taken, and reads nothing more."""

    async def publish(self, stream):
        stream.accept()
        await gateway.send_message(stream, "snapshot", catalog_of(self, 1))
        await asyncio.sleep(self.gateway.patience)
        writer = self.websocket.writer
        writer.transport.pause_reading()
        many = bytes([0x89, PING_BYTES]) + bytes(PING_BYTES)
        while True:
            writer.write(many * 512)
            await writer.drain()


class FlappingLink(gateway.Link):
    """Adds and removes all services as fast as credit allows."""

    async def publish(self, stream):
        stream.accept()
        whole = catalog_of(self, self.gateway.services)
        await gateway.send_message(stream, "snapshot", whole)
        await asyncio.sleep(self.gateway.patience)
        names = [service["id"] for service in whole["services"]]
        changes = [{"upserted": [], "removed": names}, {"upserted": whole["services"], "removed": []}]
        changes = [gateway.message("changed", change) for change in changes]
        if not self.gateway.pause:
            changes = [b"".join(changes) * 16]
        while True:
            for change in changes:
                await stream.write(change)
                await asyncio.sleep(self.gateway.pause)


def catalog_of(link, count):
    services = [{"id": f"s{number}.demo", "ports": [{"port": 7950, "protocol": "tcp"}]} for number in range(count)]
    return {"environment": link.gateway.environment, "services": services}


def play_gateway(options, link):
    """A gateway for one environment that treats its clients as `link` does, once it was `patience` seconds good."""

    async def run():
        with open(options.catalog, "w", encoding="ascii") as file:
            json.dump({"environment": options.environment, "services": []}, file)
        evil = gateway.Gateway(options.catalog, options.token, 0)
        evil.link, evil.services, evil.patience, evil.pause = link, options.count, options.patience, options.pause
        host, port = options.address
        await asyncio.start_server(evil.client, host, port, limit=gateway.MAX_FRAME)
        ready()
        await asyncio.sleep(options.seconds)

    asyncio.run(run())
    return {}


def main():
    parser = argparse.ArgumentParser(description="peers that mean harm to devbox")
    parser.add_argument("attack", choices=["trickle", "pings", "guess", "streams", "stalled", "fountain", "pinging", "flapping"])
    parser.add_argument("address", type=address_of, help="HOST:PORT to attack, or to listen on")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--count", type=int, default=1, help="of sockets, streams, threads or services")
    parser.add_argument("--addresses", type=int, default=1, help="how many addresses a trickle comes from")
    parser.add_argument("--patience", type=float, default=0, help="seconds before a gateway turns bad")
    parser.add_argument("--pause", type=float, default=0, help="seconds between the changes of a catalog")
    parser.add_argument("--token", default="")
    parser.add_argument("--environment", default="")
    parser.add_argument("--target", default="", help="of the streams")
    parser.add_argument("--catalog", default="", help="a file for a gateway's catalog")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.attack in ("pinging", "flapping"):
        seen = play_gateway(options, PingingLink if options.attack == "pinging" else FlappingLink)
    else:
        seen = globals()[options.attack](options)
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
